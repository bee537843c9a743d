//! One session of one user at its edge: its identity, its windows, and its two sides, [`Router`] and [`Receiver`].
//!
//! In: the frames of the client after HELLO. Out: presence and registration at the cores of the user's slot
//! (rules 10, 11 and 13). A frame that may not be answered ends the session with a code.

use crate::edge::Edge;
use crate::event::{Action, Farewell};
use crate::frame::{ClientFrame, Code, Ranges};
use crate::id::{Login, MessageId, NodeId, Sequence, UserId};
use crate::identity::{Identity, Window};
use crate::peer::{Asker, Peer, PresenceState, Refusal, ToCore};
use crate::placement::Placement;
use crate::receiver::Receiver;
use crate::router::Router;
use crate::slot::slot_of;

/// A question about presence: until it is answered, or until UNWATCH.
#[derive(Debug)]
struct Ask {
    request: u32,
    user: UserId,
    core: Option<NodeId>,
    watch: bool,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub me: Identity,
    /// Its first stamp: answers to this and every later login of the session are for it.
    first_stamp: u64,
    /// Which replicas of the slot were told of this session: bit n is the n-th in order of preference.
    told: u8,
    next_send: u64,
    /// When the client last said something, in monotonic ms.
    pub heard_ms: u64,
    /// What it sends.
    pub router: Router,
    /// What it receives.
    pub receiver: Receiver,
    asks: Vec<Ask>,
}

impl Session {
    /// A session begins: it registers with every reachable replica and drains the first (rule 10).
    pub fn open(edge: &mut Edge<'_>, user: UserId, login: Login) -> Self {
        let slot = slot_of(user.as_bytes());
        let me = Identity { user, slot, login, window: Window::default() };
        let mut session = Session {
            me,
            first_stamp: login.stamp,
            told: 0,
            next_send: 1,
            heard_ms: edge.now.mono_ms,
            router: Router::default(),
            receiver: Receiver::new(),
            asks: Vec::new(),
        };
        session.receiver.drain = edge.reachable(slot).next();
        session.register_everywhere(edge);
        session
    }

    /// Whether this login is, or was, that of this session.
    pub fn was(&self, login: Login) -> bool {
        (login.at, login.boot) == (self.me.login.at, self.me.login.boot)
            && (self.first_stamp..=self.me.login.stamp).contains(&login.stamp)
    }

    /// A frame of the client. An error ends the session.
    pub fn on_frame(&mut self, edge: &mut Edge<'_>, frame: ClientFrame<'_>) -> Result<(), Farewell> {
        self.heard_ms = edge.now.mono_ms;
        match frame {
            ClientFrame::Send { sequence, id, recipient, body } => self.on_send(edge, recipient, (sequence, id, body)),
            ClientFrame::Ack { ranges } => self.on_ack(edge, ranges),
            ClientFrame::Lookup { request, user } => self.on_ask(edge, request, user, false),
            ClientFrame::Watch { request, user } => self.on_ask(edge, request, user, true),
            ClientFrame::Unwatch { user } => self.on_unwatch(edge, user),
            ClientFrame::Ping { token } => {
                edge.out.push(Action::Pong { session: self.me.login.at.session, token });
                Ok(())
            }
            ClientFrame::Close { .. } => Err(farewell(Code::Normal, "")),
            ClientFrame::Hello(_) => Err(farewell(Code::ProtocolError, "a second HELLO")),
        }
    }

    fn on_send(
        &mut self,
        edge: &mut Edge<'_>,
        recipient: &[u8],
        (sequence, id, body): (Sequence, MessageId, &[u8]),
    ) -> Result<(), Farewell> {
        if sequence.0 != self.next_send {
            return Err(farewell(Code::ProtocolError, "the sequence of a SEND is not the next one"));
        }
        self.next_send += 1;
        if !self.me.window.has_room(edge, body.len()) {
            return Err(farewell(Code::WindowExceeded, "more unanswered messages than the window of WELCOME"));
        }
        match refusal(edge, id, body.len()) {
            Some(refusal) => self.me.refuse(edge, sequence, refusal),
            None => self.router.on_send(edge, &mut self.me, recipient, (sequence, id, body)),
        }
        Ok(())
    }

    fn on_ask(&mut self, edge: &mut Edge<'_>, request: u32, user: &[u8], watch: bool) -> Result<(), Farewell> {
        let user = parse_user(user)?;
        if watch {
            self.asks.retain(|ask| !(ask.watch && ask.user == user));
        }
        if self.asks.len() >= edge.limits.watches_max as usize {
            let session = self.me.login.at.session;
            edge.out.push(Action::Presence { session, request, user, state: PresenceState::Unknown });
            return Ok(());
        }
        self.asks.push(Ask { request, user, core: None, watch });
        let at = self.asks.len() - 1;
        self.ask(edge, at);
        Ok(())
    }

    /// Puts a question to a core, or answers that it cannot.
    fn ask(&mut self, edge: &mut Edge<'_>, at: usize) {
        let ask = &self.asks[at];
        let (request, user, watch) = (ask.request, ask.user.clone(), ask.watch);
        let slot = slot_of(user.as_bytes());
        edge.want(slot);
        let ask = &mut self.asks[at];
        ask.core = edge.reachable(slot).next();
        let session = self.me.login.at.session;
        match ask.core {
            Some(node) => {
                let message = ToCore::Lookup { user, asker: Asker { login: self.me.login, request }, watch };
                edge.out.push(Action::Peer(Peer::Core { node, slot, message }));
            }
            None if edge.is_connecting(slot) => {}
            None => {
                edge.out.push(Action::Presence { session, request, user, state: PresenceState::Unknown });
                if !watch {
                    self.asks.swap_remove(at);
                }
            }
        }
    }

    fn on_unwatch(&mut self, edge: &mut Edge<'_>, user: &[u8]) -> Result<(), Farewell> {
        let user = parse_user(user)?;
        if let Some(at) = self.asks.iter().position(|ask| ask.watch && ask.user == user) {
            self.unwatch(edge, at);
            self.asks.swap_remove(at);
        }
        Ok(())
    }

    fn unwatch(&self, edge: &mut Edge<'_>, at: usize) {
        let ask = &self.asks[at];
        if let (Some(node), true) = (ask.core, ask.watch) {
            let slot = slot_of(ask.user.as_bytes());
            let message = ToCore::Unwatch { user: ask.user.clone(), login: self.me.login };
            edge.out.push(Action::Peer(Peer::Core { node, slot, message }));
        }
    }

    /// The answer of a core, or a change.
    pub fn on_presence(&mut self, edge: &mut Edge<'_>, request: u32, user: UserId, state: PresenceState) {
        let Some(at) = self.asks.iter().position(|ask| ask.request == request && ask.user == user) else { return };
        if !self.asks[at].watch {
            self.asks.swap_remove(at);
        }
        edge.out.push(Action::Presence { session: self.me.login.at.session, request, user, state });
    }

    /// A core knows a higher login: stamp again (rule 10). `stamp` is higher than any this executor gave.
    pub fn on_outnumbered(&mut self, edge: &mut Edge<'_>, stamp: u64) {
        self.me.login.stamp = stamp;
        self.register_everywhere(edge);
        self.router.on_new_login(edge, &self.me);
    }

    fn on_ack(&mut self, edge: &mut Edge<'_>, ranges: Ranges<'_>) -> Result<(), Farewell> {
        self.receiver
            .on_ack(edge, &self.me, ranges)
            .map_err(|code| farewell(code, "an ACK names a sequence that was not delivered"))?;
        if let Some(core) = self.receiver.drain_due(edge) {
            self.register(edge, core);
        }
        Ok(())
    }

    /// The lease of this edge has ended at a core.
    pub fn on_lease_ended(&mut self, edge: &mut Edge<'_>, core: NodeId) {
        if edge.placement.replicas(self.me.slot).contains(&core) {
            self.register(edge, core);
        }
    }

    /// A core can be reached again.
    pub fn on_link_up(&mut self, edge: &mut Edge<'_>, core: NodeId) {
        if edge.placement.replicas(self.me.slot).contains(&core) {
            self.choose_drain(edge);
            self.register(edge, core);
        }
        self.router.on_reach(edge, &mut self.me);
        self.ask_again(edge, |ask| ask.core.is_none());
    }

    /// A node is lost.
    pub fn on_link_down(&mut self, edge: &mut Edge<'_>, node: NodeId) {
        self.router.on_link_down(edge, &mut self.me, node);
        if self.receiver.drain == Some(node) {
            self.choose_drain(edge);
            if let Some(core) = self.receiver.drain {
                self.register(edge, core);
            }
        }
        self.router.on_reach(edge, &mut self.me);
        self.ask_again(edge, |ask| ask.core == Some(node) || ask.core.is_none());
    }

    /// A core will stop soon: another one is drained, if there is one.
    pub fn on_leaving(&mut self, edge: &mut Edge<'_>) {
        if self.choose_drain(edge)
            && let Some(core) = self.receiver.drain
        {
            self.register(edge, core);
        }
    }

    /// Who keeps what has changed: the session registers with whoever keeps its user now, and with nobody else.
    pub fn on_placement(&mut self, edge: &mut Edge<'_>, before: &Placement) {
        let slot = self.me.slot;
        let (old, new) = (before.replicas(slot), edge.placement.replicas(slot));
        if old != new {
            // A session that any core was told of is not new to the others either (rule 10).
            let told = self.told != 0;
            self.told = if told { u8::MAX } else { 0 };
            edge.want(slot);
            for &node in old.iter().filter(|&node| !new.contains(node)) {
                if self.receiver.drain == Some(node) {
                    self.receiver.forget_inbox();
                    self.receiver.drain = None;
                }
                self.unregister(edge, node);
            }
            self.choose_drain(edge);
            for node in edge.reachable(slot).collect::<Vec<_>>() {
                if !old.contains(&node) || self.receiver.drain == Some(node) {
                    self.register(edge, node);
                }
            }
        }
        self.router.on_reach(edge, &mut self.me);
        self.move_asks(edge);
    }

    /// Questions to cores that do not keep the user any more are put to those that do.
    fn move_asks(&mut self, edge: &mut Edge<'_>) {
        for at in (0..self.asks.len()).rev() {
            let ask = &self.asks[at];
            let slot = slot_of(ask.user.as_bytes());
            if ask.core.is_some_and(|core| edge.placement.replicas(slot).contains(&core)) {
                continue;
            }
            self.unwatch(edge, at);
            self.ask(edge, at);
        }
    }

    /// The session ends here (rule 11).
    pub fn on_end(&mut self, edge: &mut Edge<'_>) {
        *edge.outstanding_bytes -= self.router.waiting_bytes();
        self.receiver.on_end(edge);
        (0..self.asks.len()).for_each(|at| self.unwatch(edge, at));
        self.asks.clear();
        for node in edge.reachable(self.me.slot).collect::<Vec<_>>() {
            self.unregister(edge, node);
        }
    }

    fn unregister(&self, edge: &mut Edge<'_>, node: NodeId) {
        if edge.is_reachable(node) {
            let message = ToCore::Unregister { user: self.me.user.clone(), login: self.me.login };
            edge.out.push(Action::Peer(Peer::Core { node, slot: self.me.slot, message }));
        }
    }

    /// Gives back memory that an idle session does not need.
    pub fn shrink(&mut self) {
        self.router.shrink();
        self.receiver.shrink();
        self.asks.shrink_to_fit();
    }

    /// R drains the replica that S prefers, so that the core that appends is the one that delivers (rule 2). True if it
    /// is another one now.
    fn choose_drain(&mut self, edge: &mut Edge<'_>) -> bool {
        let before = self.receiver.drain;
        let now = edge.reachable(self.me.slot).next();
        if before == now {
            return false;
        }
        self.receiver.forget_inbox();
        self.receiver.drain = now;
        if let Some(core) = before.filter(|core| edge.is_reachable(*core)) {
            self.register(edge, core);
        }
        true
    }

    fn register_everywhere(&mut self, edge: &mut Edge<'_>) {
        for core in edge.reachable(self.me.slot).collect::<Vec<_>>() {
            self.register(edge, core);
        }
    }

    fn register(&mut self, edge: &mut Edge<'_>, core: NodeId) {
        let (user, login, phase) = (self.me.user.clone(), self.me.login, self.receiver.phase);
        let drains = self.receiver.drain == Some(core);
        let drain = if drains { self.receiver.begin_drain(edge) } else { None };
        let place = edge.placement.replicas(self.me.slot).iter().position(|&replica| replica == core);
        let bit = place.map_or(0, |place| 1 << (place % 8));
        let again = self.told & bit != 0;
        self.told |= bit;
        let message = ToCore::Register { user, login, phase, drain, again };
        edge.out.push(Action::Peer(Peer::Core { node: core, slot: self.me.slot, message }));
    }

    /// Some questions are put again.
    fn ask_again(&mut self, edge: &mut Edge<'_>, which: impl Fn(&Ask) -> bool) {
        for at in (0..self.asks.len()).rev() {
            if which(&self.asks[at]) {
                self.ask(edge, at);
            }
        }
    }
}

/// Why a SEND is refused whoever its recipient is.
fn refusal(edge: &Edge<'_>, id: MessageId, bytes: usize) -> Option<Refusal> {
    let now = edge.now.wall_ms();
    let time = id.time_ms();
    let refused = |code, wait_ms| Some(Refusal { code, wait_ms });
    if !id.is_v7() || time > now + edge.limits.id_ahead_ms_max || time + edge.limits.id_age_ms_max < now {
        return refused(Code::BadId, 0);
    }
    if bytes > edge.limits.body_bytes_max as usize {
        return refused(Code::BodyTooLarge, 0);
    }
    if *edge.outstanding_bytes + bytes as u64 > edge.limits.outstanding_bytes_max {
        return refused(Code::Busy, edge.limits.retry_ms);
    }
    None
}

fn parse_user(user: &[u8]) -> Result<UserId, Farewell> {
    UserId::parse(user).map_err(|_| farewell(Code::ProtocolError, "the user of a presence frame is not valid"))
}

/// A farewell without a wish to wait.
pub fn farewell(code: Code, reason: &'static str) -> Farewell {
    Farewell { code, wait_ms: 0, reason }
}
