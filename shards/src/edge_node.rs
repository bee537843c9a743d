//! The edge half of one executor: composes sessions and routes events to them, without rules of its own.
//!
//! Owns the seats (one per connection), which cores are reachable, and the timers of its sessions. In: frames, the end
//! of connections, peer messages, links. Out: frames to clients and messages to cores and other edges.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::edge::{Edge, EdgeCounts};
use crate::event::{Action, EdgeEvent, Farewell};
use crate::frame::{CAPABILITY_PRESENCE, ClientFrame, Code, Hello, TOKEN_BYTES_MAX, VERSION};
use crate::id::{ExecutorId, Grant, Location, Login, NodeId, ReturnAddress, SessionId, UserId};
use crate::limits::EdgeLimits;
use crate::mutant::{self, Mutant};
use crate::peer::{Message, Peer, ToCores, ToEdge};
use crate::placement::Placement;
use crate::reach::Reach;
use crate::receiver::bounce_run;
use crate::session::{Session, farewell};
use crate::time::Now;
use crate::wheel::Wheel;

/// Between two looks at a part of the sessions, in ms.
const SWEEP_MS: u64 = 1_000;
/// Looks until every session was looked at once.
const SWEEPS: usize = 30;
/// A session that said nothing for this time, in ms, gives back memory.
const IDLE_MS: u64 = 10_000;

/// What an edge half is told once.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// This node.
    pub node: NodeId,
    /// This executor.
    pub executor: ExecutorId,
    /// Whether this node is a core too: then it is reached without a link.
    pub is_core: bool,
    /// The bounds.
    pub limits: EdgeLimits,
    /// Who keeps what.
    pub placement: Arc<Placement>,
    /// Another one at each start of the process: jitter, hashing and logins depend on it.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Timer {
    /// The oldest direct delivery of a session may be too old.
    Delivery(SessionId),
}

#[derive(Debug)]
enum Seat {
    Free,
    /// Connected; HELLO has to come before this moment, in monotonic ms.
    Opening(u64),
    Taken(Box<Session>),
    /// Told to close; the connection is not gone yet.
    Leaving,
}

/// The edge half of one executor.
#[derive(Debug)]
pub struct EdgeNode {
    config: EdgeConfig,
    seats: Vec<Seat>,
    /// Connections before HELLO with their deadlines, oldest first; outdated ones are skipped.
    opening: VecDeque<(u64, SessionId)>,
    reach: Reach,
    /// Cores whose links are up: their leases are refreshed.
    cores: Vec<NodeId>,
    timers: Wheel<Timer>,
    /// The highest stamp given: stamps of one executor strictly increase, so that a login is never given twice.
    last_stamp: u64,
    outstanding_bytes: u64,
    counts: EdgeCounts,
    sessions: usize,
    draining: bool,
    sweep_ms: u64,
    sweep_at: usize,
    refresh_ms: u64,
}

impl EdgeNode {
    /// An edge half without connections. It reaches its own node, if that is a core.
    pub fn new(config: EdgeConfig) -> Self {
        let reach = Reach::new(config.node, config.is_core);
        EdgeNode {
            config,
            seats: Vec::new(),
            opening: VecDeque::new(),
            reach,
            cores: Vec::new(),
            timers: Wheel::new(),
            last_stamp: 0,
            outstanding_bytes: 0,
            counts: EdgeCounts::default(),
            sessions: 0,
            draining: false,
            sweep_ms: 0,
            sweep_at: 0,
            refresh_ms: 0,
        }
    }

    /// Handles one event; appends what is to be done to `out`.
    pub fn handle(&mut self, now: Now, event: EdgeEvent<'_>, out: &mut Vec<Action>) {
        match event {
            EdgeEvent::Frame(session, frame) => self.on_frame(now, session, frame, out),
            EdgeEvent::Peer(message) => self.on_peer(now, message, out),
            EdgeEvent::Opened(session) => self.on_opened(now, session),
            EdgeEvent::Gone(session) => self.on_gone(now, session, out),
            EdgeEvent::Garbage(session, code) => {
                self.close(now, session, farewell(code, "what was sent is no frame of the protocol"), out);
            }
            EdgeEvent::Overfull(session) => {
                self.close(now, session, farewell(Code::SlowReader, "too many bytes wait for this client"), out);
            }
            EdgeEvent::LinkUp(node) => self.on_link(now, node, true, out),
            EdgeEvent::LinkDown(node) => self.on_link(now, node, false, out),
            EdgeEvent::Leaving(node) => self.on_leaving(now, node, out),
            EdgeEvent::Placement(placement) => self.on_placement(now, placement, out),
            EdgeEvent::Drain { within_ms } => self.on_drain(within_ms, out),
            EdgeEvent::Stop => self.on_stop(now, out),
            EdgeEvent::Tick => self.on_tick(now, out),
        }
    }

    /// When the next `Tick` is wanted, in monotonic ms; `None`: not before another event.
    pub fn next_deadline(&mut self) -> Option<u64> {
        let hello = self.opening.front().map(|&(deadline, _)| deadline);
        let sweep = (self.sessions > 0).then_some(self.sweep_ms);
        let refresh = (self.sessions > 0 && !self.cores.is_empty()).then_some(self.refresh_ms);
        [self.timers.next_ms(), hello, sweep, refresh].into_iter().flatten().min()
    }

    /// The counters.
    pub fn counts(&self) -> EdgeCounts {
        self.counts
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// Bytes of bodies that wait for a first confirmation.
    pub fn outstanding_bytes(&self) -> u64 {
        self.outstanding_bytes
    }

    fn split<'a>(&'a mut self, now: Now, out: &'a mut Vec<Action>) -> (&'a mut [Seat], &'a mut Wheel<Timer>, Edge<'a>) {
        let edge = Edge {
            now,
            limits: &self.config.limits,
            placement: &self.config.placement,
            seed: self.config.seed,
            outstanding_bytes: &mut self.outstanding_bytes,
            counts: &mut self.counts,
            out,
            reach: &mut self.reach,
        };
        (&mut self.seats, &mut self.timers, edge)
    }

    fn on_opened(&mut self, now: Now, session: SessionId) {
        let index = session.0 as usize;
        if self.seats.len() <= index {
            self.seats.resize_with(index + 1, || Seat::Free);
        }
        assert!(matches!(self.seats[index], Seat::Free), "the seat of a new connection is free");
        let deadline = now.mono_ms + self.config.limits.hello_ms_max;
        self.seats[index] = Seat::Opening(deadline);
        self.opening.push_back((deadline, session));
    }

    fn on_frame(&mut self, now: Now, session: SessionId, frame: ClientFrame<'_>, out: &mut Vec<Action>) {
        let (seats, _, mut edge) = self.split(now, out);
        let bad = match seats.get_mut(session.0 as usize) {
            Some(Seat::Taken(taken)) => taken.on_frame(&mut edge, frame).err(),
            Some(Seat::Opening(_)) => match frame {
                ClientFrame::Hello(hello) => self.on_hello(now, session, &hello, out).err(),
                _ => Some(farewell(Code::ProtocolError, "the first frame is not HELLO")),
            },
            Some(Seat::Leaving | Seat::Free) | None => None,
        };
        if let Some(farewell) = bad {
            self.close(now, session, farewell, out);
        }
    }

    fn on_hello(
        &mut self,
        now: Now,
        session: SessionId,
        hello: &Hello<'_>,
        out: &mut Vec<Action>,
    ) -> Result<(), Farewell> {
        let retry_ms = self.config.limits.retry_ms;
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            return Err(farewell(Code::Version, "this server speaks version 1"));
        }
        let user = UserId::parse(hello.user).map_err(|_| farewell(Code::BadUser, "the user id is not valid"))?;
        if hello.token.len() > TOKEN_BYTES_MAX {
            return Err(farewell(Code::Unauthorized, "the token is longer than 3000 bytes"));
        }
        if self.draining {
            return Err(Farewell { code: Code::Draining, wait_ms: retry_ms, reason: "this node is stopping" });
        }
        let stamp = self.next_stamp(now, 0);
        let at = Location { node: self.config.node, executor: self.config.executor, session };
        let boot = (self.config.seed >> 32 ^ self.config.seed) as u32;
        let capabilities = hello.capabilities & CAPABILITY_PRESENCE;
        let (seats, _, mut edge) = self.split(now, out);
        let slot = crate::slot::slot_of(user.as_bytes());
        edge.want(slot);
        if edge.reachable(slot).next().is_none() && !edge.is_connecting(slot) {
            let reason = "the nodes that keep this user cannot be reached";
            return Err(Farewell { code: Code::Unavailable, wait_ms: retry_ms, reason });
        }
        edge.counts.logins += 1;
        edge.out.push(Action::Welcome { session, user: user.clone(), capabilities, clock_ms: now.wall_ms() });
        let taken = Session::open(&mut edge, user, Login { stamp, at, boot });
        seats[session.0 as usize] = Seat::Taken(Box::new(taken));
        if self.sessions == 0 {
            self.sweep_ms = now.mono_ms + SWEEP_MS;
        }
        self.sessions += 1;
        Ok(())
    }

    fn on_gone(&mut self, now: Now, session: SessionId, out: &mut Vec<Action>) {
        self.end(now, session, out);
        if let Some(seat) = self.seats.get_mut(session.0 as usize) {
            *seat = Seat::Free;
        }
    }

    /// Ends a session or an opening connection from this side.
    fn close(&mut self, now: Now, session: SessionId, farewell: Farewell, out: &mut Vec<Action>) {
        match farewell.code {
            Code::TakenOver => self.counts.taken_over += 1,
            Code::ProtocolError | Code::FrameTooLarge | Code::WindowExceeded | Code::SlowReader => {
                self.counts.misbehaved += 1;
            }
            _ => {}
        }
        self.end(now, session, out);
        if let Some(seat @ (Seat::Opening(_) | Seat::Taken(_))) = self.seats.get_mut(session.0 as usize) {
            *seat = Seat::Leaving;
            out.push(Action::Close { session, farewell });
        }
    }

    /// The session's last words to everybody else.
    fn end(&mut self, now: Now, session: SessionId, out: &mut Vec<Action>) {
        let (seats, _, mut edge) = self.split(now, out);
        if let Some(Seat::Taken(taken)) = seats.get_mut(session.0 as usize) {
            taken.on_end(&mut edge);
            seats[session.0 as usize] = Seat::Opening(0);
            self.sessions -= 1;
        }
    }

    fn on_peer(&mut self, now: Now, message: ToEdge, out: &mut Vec<Action>) {
        match message {
            ToEdge::Direct { to, messages, origin } => self.on_direct(now, (to, messages, origin), out),
            ToEdge::Delivered { to, last, grant } => {
                if let Some((edge, session)) = self.session(now, to.login, out).as_mut() {
                    session.router.on_delivered(edge, &mut session.me, (to, last), grant.map(|grant| *grant));
                }
            }
            ToEdge::Stored { to, last, newest, copies } => {
                if let Some((edge, session)) = self.session(now, to.login, out).as_mut() {
                    session.router.on_stored(edge, &mut session.me, (to, last), (newest, copies));
                }
            }
            ToEdge::Bounce { to } => {
                if let Some((edge, session)) = self.session(now, to.login, out).as_mut() {
                    session.router.on_bounce(edge, &mut session.me, to);
                }
            }
            ToEdge::Refused { to, refusal } => {
                if let Some((edge, session)) = self.session(now, to.login, out).as_mut() {
                    session.router.on_refused(edge, &mut session.me, to, refusal);
                }
            }
            ToEdge::Deliver { to, core, drain, message } => {
                if let Some((edge, session)) = self.session(now, to, out).as_mut() {
                    session.receiver.on_inbox(edge, &session.me, (core, drain), message);
                }
            }
            ToEdge::Presence { to, user, state } => {
                if let Some((edge, session)) = self.session(now, to.login, out).as_mut() {
                    session.on_presence(edge, to.request, user, state);
                }
            }
            ToEdge::Outnumbered { to, known, .. } => self.on_outnumbered(now, to, known, out),
            ToEdge::Replaced { to } => {
                if self.session(now, to, out).is_some_and(|(_, session)| session.me.login == to) {
                    let farewell = farewell(Code::TakenOver, "the user logged in again elsewhere");
                    self.close(now, to.at.session, farewell, out);
                }
            }
            ToEdge::LeaseEnded { core } => {
                self.each_session(now, out, |edge, session| session.on_lease_ended(edge, core));
            }
        }
    }

    fn on_direct(&mut self, now: Now, direct: (Grant, Vec<Message>, ReturnAddress), out: &mut Vec<Action>) {
        let (seats, timers, mut edge) = self.split(now, out);
        let (grant, messages, origin) = &direct;
        let seat = seats.get_mut(grant.login.at.session.0 as usize);
        let session = match seat {
            Some(Seat::Taken(session))
                if session.me.login == grant.login || mutant::is(Mutant::ReceiverIgnoresLogin) =>
            {
                session
            }
            _ => return bounce_run(&mut edge, *origin, messages.len()),
        };
        session.receiver.on_direct(&mut edge, &session.me, direct);
        if session.receiver.is_timer_needed() {
            session.receiver.timer_armed = true;
            timers.arm(now.mono_ms + edge.limits.delivery_ms_max, Timer::Delivery(session.me.login.at.session));
        }
    }

    fn on_outnumbered(&mut self, now: Now, to: Login, known: Login, out: &mut Vec<Action>) {
        // It may be about a stamp that another core has outnumbered meanwhile: what this core knows counts all the same, or
        // the present stamp is taken there for that of a session that was replaced.
        if self.session(now, to, out).is_none_or(|(_, session)| known < session.me.login) {
            return;
        }
        let stamp = self.next_stamp(now, known.stamp + 1);
        if let Some((mut edge, session)) = self.session(now, to, out) {
            session.on_outnumbered(&mut edge, stamp);
        }
    }

    fn on_link(&mut self, now: Now, node: NodeId, up: bool, out: &mut Vec<Action>) {
        if up {
            self.reach.on_link_up(node);
            self.refresh_ms = now.mono_ms;
        } else {
            self.reach.on_link_down(node, now.mono_ms + u64::from(self.config.limits.retry_ms));
        }
        self.count_cores();
        self.each_session(now, out, |edge, session| match up {
            true => session.on_link_up(edge, node),
            false => session.on_link_down(edge, node),
        });
    }

    fn on_leaving(&mut self, now: Now, node: NodeId, out: &mut Vec<Action>) {
        self.reach.on_leaving(node);
        self.each_session(now, out, |edge, session| session.on_leaving(edge));
    }

    fn on_placement(&mut self, now: Now, placement: Arc<Placement>, out: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.config.placement, placement);
        self.count_cores();
        self.refresh_ms = now.mono_ms;
        self.each_session(now, out, |edge, session| session.on_placement(edge, &before));
    }

    fn count_cores(&mut self) {
        let cores = self.config.placement.cores();
        self.cores = self.reach.up().filter(|node| cores.binary_search(node).is_ok()).collect();
    }

    fn on_drain(&mut self, within_ms: u32, out: &mut Vec<Action>) {
        self.draining = true;
        for (index, _) in self.seats.iter().enumerate().filter(|(_, seat)| matches!(seat, Seat::Taken(_))) {
            let seed = self.config.seed ^ index as u64;
            let jitter = crate::slot::stable_hash(&seed.to_be_bytes()) % (u64::from(within_ms) + 1);
            out.push(Action::Drain { session: SessionId(index as u32), wait_ms: jitter as u32 });
        }
    }

    fn on_stop(&mut self, now: Now, out: &mut Vec<Action>) {
        self.draining = true;
        for index in 0..self.seats.len() {
            let wait_ms = self.config.limits.retry_ms;
            let farewell = Farewell { code: Code::Draining, wait_ms, reason: "this node has stopped" };
            self.close(now, SessionId(index as u32), farewell, out);
        }
    }

    fn on_tick(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some(&(deadline, session)) = self.opening.front() {
            // The seat may have been taken, or given to a younger connection with a deadline of its own.
            let waits = matches!(self.seats[session.0 as usize], Seat::Opening(its) if its == deadline);
            if waits && deadline > now.mono_ms {
                break;
            }
            self.opening.pop_front();
            if waits {
                self.close(now, session, farewell(Code::HelloTimeout, "no HELLO came in time"), out);
            }
        }
        while let Some(Timer::Delivery(session)) = self.timers.expire(now.mono_ms) {
            let (seats, timers, mut edge) = self.split(now, out);
            let Some(Seat::Taken(taken)) = seats.get_mut(session.0 as usize) else { continue };
            match taken.receiver.on_timer(&mut edge, &taken.me) {
                Some(again) => timers.arm(again, Timer::Delivery(session)),
                None => taken.receiver.timer_armed = false,
            }
        }
        if self.sessions > 0 && now.mono_ms >= self.sweep_ms {
            self.sweep_ms = now.mono_ms + SWEEP_MS;
            self.sweep(now, out);
        }
        if self.sessions > 0 && !self.cores.is_empty() && now.mono_ms >= self.refresh_ms {
            self.refresh_ms = now.mono_ms + self.config.limits.refresh_ms;
            let message = || ToCores::Refresh(self.config.executor);
            out.extend(self.cores.iter().map(|&node| Action::Peer(Peer::Cores { node, message: message() })));
        }
    }

    /// Looks at a part of the sessions: who has been silent for too long, who does not need its memory.
    fn sweep(&mut self, now: Now, out: &mut Vec<Action>) {
        let silent_ms_max = self.config.limits.silent_ms_max;
        for _ in 0..self.seats.len().div_ceil(SWEEPS) {
            self.sweep_at = (self.sweep_at + 1) % self.seats.len();
            let Seat::Taken(session) = &mut self.seats[self.sweep_at] else { continue };
            let silent_ms = now.mono_ms - session.heard_ms.min(now.mono_ms);
            if silent_ms > IDLE_MS {
                session.shrink();
            }
            if silent_ms_max > 0 && silent_ms > silent_ms_max {
                let session = session.me.login.at.session;
                self.close(now, session, farewell(Code::Silent, "nothing was heard for too long"), out);
            }
        }
    }

    fn each_session(&mut self, now: Now, out: &mut Vec<Action>, mut then: impl FnMut(&mut Edge<'_>, &mut Session)) {
        let (seats, _, mut edge) = self.split(now, out);
        for seat in seats {
            if let Seat::Taken(session) = seat {
                then(&mut edge, session);
            }
        }
    }

    /// The session that has, or had, this login.
    fn session<'a>(
        &'a mut self,
        now: Now,
        login: Login,
        out: &'a mut Vec<Action>,
    ) -> Option<(Edge<'a>, &'a mut Session)> {
        let (seats, _, edge) = self.split(now, out);
        match seats.get_mut(login.at.session.0 as usize) {
            Some(Seat::Taken(session)) if session.was(login) => Some((edge, session)),
            _ => None,
        }
    }

    fn next_stamp(&mut self, now: Now, at_least: u64) -> u64 {
        self.last_stamp = now.wall_us.max(at_least).max(self.last_stamp + 1);
        self.last_stamp
    }
}
