//! Where one user is: the highest login seen, and the session that has it (delivery rules 10 and 11).
//!
//! A leaf: it judges logins and returns what has changed; leases and watchers are the core's.

use crate::id::{Grant, Location, Login, Phase};

/// What a registration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is lower than this login, which is known.
    Outnumbered(Login),
    /// The user was absent.
    Arrived,
    /// The same session tells again.
    Again,
    /// It is higher than this login, whose session has to end.
    Replaced(Login),
}

/// The presence of one user.
#[derive(Debug, Default)]
pub struct Presence {
    highest: Option<Login>,
    phase: Phase,
    online: bool,
    /// Whether this core sends from the inbox: the number of the registration that says so.
    drains: Option<u32>,
    /// No grants before this moment, in monotonic ms.
    granted_from_ms: u64,
    /// When the user was last seen to leave, in ms since the Unix epoch; 0 if never.
    pub last_seen: u64,
}

impl Presence {
    /// A session of the user begins, or tells again.
    pub fn on_register(&mut self, login: Login, phase: Phase, drain: Option<u32>) -> Registered {
        let before = self.highest.filter(|_| self.online);
        if let Some(known) = self.highest.filter(|&known| known > login) {
            return Registered::Outnumbered(known);
        }
        (self.highest, self.online, self.drains) = (Some(login), true, drain);
        self.phase = if before == Some(login) { self.phase.max(phase) } else { phase };
        match before {
            None => Registered::Arrived,
            Some(known) if known == login => Registered::Again,
            Some(known) => Registered::Replaced(known),
        }
    }

    /// A session has ended. True if it was the one registered.
    pub fn on_unregister(&mut self, login: Login, wall_ms: u64) -> bool {
        let counts = self.online && self.highest == Some(login);
        if counts {
            self.on_lost(wall_ms);
        }
        counts
    }

    /// The session's lease has ended.
    pub fn on_lost(&mut self, wall_ms: u64) {
        (self.online, self.drains, self.last_seen) = (false, None, wall_ms);
    }

    /// The link to the session's edge was lost: nothing is sent until it registers again, or what was lost with the link
    /// would be overtaken.
    pub fn stop_draining(&mut self) {
        self.drains = None;
    }

    /// The phase of a session has grown: it let direct messages wait, and is not granted before `granted_from_ms`.
    pub fn on_phase(&mut self, login: Login, phase: Phase, granted_from_ms: u64) {
        if self.online && self.highest == Some(login) {
            self.phase = self.phase.max(phase);
            self.granted_from_ms = granted_from_ms;
        }
    }

    /// The session of the user.
    pub fn login(&self) -> Option<Login> {
        self.highest.filter(|_| self.online)
    }

    /// Where that session is.
    pub fn location(&self) -> Option<Location> {
        self.login().map(|login| login.at)
    }

    /// The session of the user, if this core is to send from the inbox, and the number of that registration.
    pub fn drains(&self) -> Option<(Login, u32)> {
        self.login().zip(self.drains)
    }

    /// What lets an edge send straight to that session.
    pub fn grant(&self, now_ms: u64) -> Option<Grant> {
        self.login().filter(|_| now_ms >= self.granted_from_ms).map(|login| Grant { login, phase: self.phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ExecutorId, NodeId, SessionId};

    fn login(stamp: u64) -> Login {
        Login { stamp, at: Location { node: NodeId(0), executor: ExecutorId(0), session: SessionId(0) }, boot: 0 }
    }

    #[test]
    fn the_higher_login_wins_even_after_it_has_ended() {
        let mut presence = Presence::default();
        assert_eq!(presence.on_register(login(5), Phase(0), Some(1)), Registered::Arrived);
        assert_eq!(presence.on_register(login(7), Phase(0), Some(1)), Registered::Replaced(login(5)));
        assert!(!presence.on_unregister(login(5), 1));
        assert!(presence.on_unregister(login(7), 2));
        assert_eq!((presence.login(), presence.last_seen), (None, 2));
        assert_eq!(presence.on_register(login(6), Phase(0), Some(1)), Registered::Outnumbered(login(7)));
    }

    #[test]
    fn a_phase_never_shrinks_within_a_login() {
        let mut presence = Presence::default();
        presence.on_register(login(5), Phase(0), Some(1));
        presence.on_phase(login(5), Phase(3), 0);
        assert_eq!(presence.on_register(login(5), Phase(2), Some(1)), Registered::Again);
        assert_eq!(presence.grant(0).map(|grant| grant.phase), Some(Phase(3)));
        presence.on_register(login(6), Phase(0), Some(1));
        assert_eq!(presence.grant(0).map(|grant| grant.phase), Some(Phase(0)));
    }
}
