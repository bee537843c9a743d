//! Who is there: registrations, their ends, leases, and those who want to know (delivery rules 10 to 12).

use super::{Shard, Turn};
use crate::id::{ExecutorId, Location, Login, NodeId, Phase};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::mutant::{self, Mutant};
use crate::peer::{Asker, PresenceState, ToEdge};
use crate::presence::Registered;

impl Shard {
    /// A session begins, or tells again.
    pub fn on_register(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        login: Login,
        (phase, drain, again): (Phase, Option<u32>, bool),
    ) {
        if login.at.node != self.config.node {
            self.on_refresh(turn, login.at.node, login.at.executor);
        }
        match mailbox.presence.on_register(login, phase, drain) {
            Registered::Outnumbered(_) if again => return turn.to_edge(login.at, ToEdge::Replaced { to: login }),
            Registered::Outnumbered(known) => {
                let core = self.config.node;
                return turn.to_edge(login.at, ToEdge::Outnumbered { to: login, core, known });
            }
            Registered::Replaced(old) => turn.to_edge(old.at, ToEdge::Replaced { to: old }),
            Registered::Arrived => {
                self.online += 1;
                tell_watchers(turn, mailbox, PresenceState::Online);
            }
            Registered::Again => {}
        }
        self.recall(mailbox);
        self.log_all(turn, (id, mailbox));
        if mailbox.presence.drains().is_some() && !mutant::is(Mutant::RegistersWithoutLoading) {
            self.become_stale(turn, mailbox);
        }
        self.pump(turn, mailbox);
    }

    /// A session has ended.
    pub fn on_unregister(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), login: Login) {
        if mailbox.presence.on_unregister(login, turn.now.wall_ms()) {
            self.on_absent(turn, (id, mailbox));
        }
    }

    /// The user is not there any more: what was only in memory goes to the disk (rule 1).
    fn on_absent(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox)) {
        self.online -= 1;
        self.recall(mailbox);
        self.log_all(turn, (id, mailbox));
        mailbox.settle();
        // The session may be registered with those who keep the slot now.
        if self.serves(mailbox.slot) {
            tell_watchers(turn, mailbox, state_of(mailbox));
        }
    }

    /// LOOKUP or WATCH.
    pub fn on_lookup(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox, asker: Asker, watch: bool) {
        let mut state = if self.serves(mailbox.slot) { state_of(mailbox) } else { PresenceState::Unknown };
        if watch {
            mailbox.keep_watchers(|known| known.login != asker.login);
            let watchers = mailbox.watchers.get_or_insert_default();
            if watchers.len() < self.config.limits.watchers_max {
                watchers.push(asker);
            } else {
                state = PresenceState::Unknown;
            }
        }
        let user = mailbox.user.clone();
        turn.to_edge(asker.login.at, ToEdge::Presence { to: asker, user, state });
    }

    /// An edge executor is alive. If its lease had ended, its sessions have to register again.
    pub fn on_refresh(&mut self, turn: &mut Turn<'_>, node: NodeId, executor: ExecutorId) {
        if self.leases.insert((node, executor), Some(turn.now.mono_ms)) == Some(None) {
            let at = Location { node, executor, session: crate::id::SessionId(0) };
            turn.to_edge(at, ToEdge::LeaseEnded { core: self.config.node });
        }
    }

    /// The link to a node is lost: its sessions are sent nothing until they register again.
    pub(super) fn on_edge_lost(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId) {
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id) {
                mailbox.keep_watchers(|asker| asker.login.at.node != node);
                if mailbox.presence.location().is_some_and(|at| at.node == node) {
                    mailbox.presence.stop_draining();
                    self.recall(mailbox);
                    self.log_all(turn, (id, mailbox));
                }
            }
        }
    }

    /// Ends the presences of edges that were not heard for too long.
    pub fn end_leases(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        let before = turn.now.mono_ms.saturating_sub(self.config.limits.lease_ms);
        let silent = self.leases.iter_mut().filter(|(_, heard)| heard.is_some_and(|heard_ms| heard_ms < before));
        let ended: Vec<_> = silent.map(|(&at, heard)| (at, heard.take())).map(|(at, _)| at).collect();
        if ended.is_empty() {
            return;
        }
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            if mailbox.presence.location().is_some_and(|at| ended.contains(&(at.node, at.executor))) {
                mailbox.presence.on_lost(turn.now.wall_ms());
                self.on_absent(turn, (id, mailbox));
            }
        }
    }

    /// Whether edges of other nodes have leases here.
    pub fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }
}

fn state_of(mailbox: &Mailbox) -> PresenceState {
    match mailbox.presence.login() {
        Some(_) => PresenceState::Online,
        None => PresenceState::Offline { last_seen: mailbox.presence.last_seen },
    }
}

fn tell_watchers(turn: &mut Turn<'_>, mailbox: &Mailbox, state: PresenceState) {
    for &to in mailbox.watchers.iter().flat_map(|watchers| watchers.iter()) {
        turn.to_edge(to.login.at, ToEdge::Presence { to, user: mailbox.user.clone(), state });
    }
}
