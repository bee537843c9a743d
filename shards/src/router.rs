//! The sender's side of one session: S of `docs/delivery.md`, which decides the path of every message.
//!
//! Owns, per pair (this sender, one recipient): the path, the messages without a first confirmation in sending order,
//! and what was stored but not delivered. In: SENDs and what cores and edges answer. Out: messages to cores and edges,
//! CONFIRM and REFUSED to the client, in order per pair (rule 6).

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;

use crate::edge::Edge;
use crate::event::{Action, Level};
use crate::frame::Code;
use crate::id::{Body, Grant, Key, MessageId, NodeId, PairId, ReturnAddress, Sequence, Slot, UserId, check_user};
use crate::identity::Identity;
use crate::mutant::{self, Mutant};
use crate::peer::{Message, Peer, Refusal, ToCore, ToEdge};
use crate::slot::slot_of;

/// Up to this many pairs a linear search beats a map.
const SEARCHED: usize = 8;
/// Messages that travel together at most.
const DIRECT_RUN: usize = 64;

/// What became of a message, as far as its sender may hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Confirmed(Level),
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not sent: the pair is switching or holding.
    Held,
    /// On its way, on the pair's path.
    Out,
    /// Was on its way, and was not taken.
    Bounced,
    /// A repeat of one that is in the queue already: it gets the same answer.
    Twin,
    /// Answered; the client hears of it when everything before it is answered.
    Answered(Answer),
}

/// A message without a first confirmation.
#[derive(Debug)]
struct Sent {
    sequence: Sequence,
    id: MessageId,
    sent_at: u64,
    body: Body,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// The inbox of this core; any reachable one while nothing is outstanding.
    Inbox(Option<NodeId>),
    /// Straight to the recipient's edge.
    Direct(Grant),
}

/// One recipient of this session.
#[derive(Debug)]
struct Pair {
    id: PairId,
    recipient: UserId,
    slot: Slot,
    path: Path,
    /// In order of sending.
    queue: VecDeque<Sent>,
    /// How many of the queue are `Out`.
    outstanding: u32,
    /// How many of the queue are `Twin`.
    twins: u32,
    /// A SEND of the queue has a lower id than one before it: a repeat, of something refused or of one under way.
    is_unordered: bool,
    /// The node to which they were sent, whatever the path has become since.
    out_at: Option<NodeId>,
    /// A bounce stopped the pair: nothing is sent until nothing is outstanding (rule 3).
    switching: bool,
    /// The link to a core is being made: nothing is sent until it is there, or not to be had.
    waiting: bool,
    /// A grant was given: nothing is sent until nothing is outstanding (rule 4).
    granted: Option<Grant>,
    /// The newest message that was stored and not delivered.
    undelivered: Option<MessageId>,
}

/// The pairs of one session.
#[derive(Debug, Default)]
pub struct Router {
    pairs: Vec<Pair>,
    by_name: Option<Box<HashMap<UserId, u16, RandomState>>>,
    /// The pair of the last SEND.
    recent: u16,
    /// Where the search for a pair to forget begins.
    hand: u16,
}

impl Router {
    /// Takes a SEND. The caller has checked id, body and window; the recipient is checked here, because the pair of the
    /// last SEND is nearly always the one.
    pub fn on_send(
        &mut self,
        edge: &mut Edge<'_>,
        me: &mut Identity,
        recipient: &[u8],
        (sequence, id, body): (Sequence, MessageId, &[u8]),
    ) {
        let index = match self.pair_for(edge, recipient) {
            Ok(index) => index,
            Err(refusal) => return me.refuse(edge, sequence, refusal),
        };
        let pair = &mut self.pairs[index];
        me.window.take(edge, body.len());
        if pair.queue.is_empty() && pair.out_at.is_none() {
            // Never without the mutant: a pair that has sent nothing has earned nothing.
            let shared = mutant::shared(&me.user, &pair.recipient);
            let shared = shared.filter(|grant| edge.is_reachable(grant.login.at.node));
            pair.path = shared.map_or(pair.path, Path::Direct);
        }
        let state = if pair.has_open(id) { State::Twin } else { State::Held };
        pair.queue.push_back(Sent { sequence, id, sent_at: edge.now.wall_ms(), body: Body::from(body), state });
        if state == State::Twin {
            pair.twins += 1;
            return;
        }
        if mutant::is(Mutant::TwoCoresAtOnce) && matches!(pair.path, Path::Inbox(_)) {
            let up: Vec<_> = edge.reachable(pair.slot).collect();
            pair.path = Path::Inbox(up.get(sequence.0 as usize % up.len().max(1)).copied());
        }
        if !pair.switching && pair.granted.is_none() && !pair.is_held() {
            pair.transmit(edge, me, pair.queue.len() - 1);
            pair.settle(edge, me);
        }
    }

    /// A run of messages is on disk.
    pub fn on_stored(
        &mut self,
        edge: &mut Edge<'_>,
        me: &mut Identity,
        (to, last): (ReturnAddress, Sequence),
        (newest, copies): (MessageId, u8),
    ) {
        let Some(pair) = self.pair_mut(to.pair) else { return };
        if !mutant::is(Mutant::StoredCountsAsDelivered) {
            pair.undelivered = pair.undelivered.max(Some(newest));
            edge.counts.left_stored += u64::from(pair.is_direct());
            pair.lose_grant();
        }
        pair.answer((to.sequence, last), Answer::Confirmed(Level::Stored { copies }));
        pair.settle(edge, me);
    }

    /// A run of messages was taken by the recipient; `grant` comes from a core and holds up to its id (rule 4).
    pub fn on_delivered(
        &mut self,
        edge: &mut Edge<'_>,
        me: &mut Identity,
        (to, last): (ReturnAddress, Sequence),
        grant: Option<(MessageId, Grant)>,
    ) {
        let session = me.login.at.session;
        let Some(pair) = self.pair_mut(to.pair) else {
            return edge.out.push(Action::Confirm { session, level: Level::Delivered, run: (to.sequence, last) });
        };
        let unanswered = pair.answer((to.sequence, last), Answer::Confirmed(Level::Delivered));
        if to.sequence < unanswered {
            let run = (to.sequence, Sequence(unanswered.0 - 1));
            edge.out.push(Action::Confirm { session, level: Level::Delivered, run });
        }
        // A core may not know yet that the recipient's edge is lost: from here nobody would tell a second time.
        match grant {
            Some((up_to, grant)) if edge.is_reachable(grant.login.at.node) => pair.on_grant(up_to, grant),
            Some((_, grant)) => {
                edge.counts.unlinked += 1;
                edge.connect(grant.login.at.node, pair.out_at);
            }
            None => {}
        }
        pair.settle(edge, me);
    }

    /// A core did not take a message.
    pub fn on_refused(&mut self, edge: &mut Edge<'_>, me: &mut Identity, to: ReturnAddress, refusal: Refusal) {
        let Some(pair) = self.pair_mut(to.pair) else { return };
        pair.answer((to.sequence, to.sequence), Answer::Refused(refusal));
        pair.settle(edge, me);
    }

    /// The recipient's edge did not take a direct message (rule 3).
    pub fn on_bounce(&mut self, edge: &mut Edge<'_>, me: &mut Identity, to: ReturnAddress) {
        let Some(pair) = self.pair_mut(to.pair) else { return };
        let Ok(at) = pair.position(to.sequence) else { return };
        if pair.queue[at].state != State::Out {
            return;
        }
        pair.queue[at].state = State::Bounced;
        pair.outstanding -= 1;
        edge.counts.left_bounced += u64::from(pair.is_direct());
        pair.become_switching();
        if mutant::is(Mutant::RepeatsWhileOthersAreOutstanding) {
            pair.switching = false;
            pair.transmit(edge, me, at);
        }
        pair.settle(edge, me);
    }

    /// The link to a node is lost: what was on it counts as bounced (rule 3).
    pub fn on_link_down(&mut self, edge: &mut Edge<'_>, me: &mut Identity, node: NodeId) {
        for pair in &mut self.pairs {
            let on_it = match pair.path {
                Path::Inbox(core) => core == Some(node),
                Path::Direct(grant) => grant.login.at.node == node,
            };
            if !on_it && (pair.outstanding == 0 || pair.out_at != Some(node)) {
                if pair.granted.is_some_and(|grant| grant.login.at.node == node) {
                    pair.granted = None;
                    pair.settle(edge, me);
                }
                continue;
            }
            for sent in pair.queue.iter_mut().filter(|sent| sent.state == State::Out) {
                sent.state = State::Bounced;
            }
            pair.outstanding = 0;
            edge.counts.left_link += u64::from(pair.is_direct());
            pair.become_switching();
            pair.settle(edge, me);
        }
    }

    /// What can be reached has changed: what has waited for that goes on, or is refused.
    pub fn on_reach(&mut self, edge: &mut Edge<'_>, me: &mut Identity) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.waiting) {
            pair.waiting = false;
            if !mutant::is(Mutant::HeldMessagesOvertaken) {
                pair.settle(edge, me);
            }
        }
    }

    /// The session has stamped again (rule 10): a core that knew a higher login has kept no return address of what is
    /// out, so it is sent once more, to the same core.
    pub fn on_new_login(&mut self, edge: &mut Edge<'_>, me: &Identity) {
        for pair in &self.pairs {
            let Path::Inbox(Some(node)) = pair.path else { continue };
            for sent in pair.queue.iter().filter(|sent| sent.state == State::Out) {
                let key = Key { id: sent.id, sender: me.user.clone() };
                let message = Message { key, sent_at: sent.sent_at, body: sent.body.clone() };
                let origin = ReturnAddress { login: me.login, pair: pair.id, sequence: sent.sequence };
                let message = ToCore::Append { user: pair.recipient.clone(), message, origin };
                edge.out.push(Action::Peer(Peer::Core { node, slot: pair.slot, message }));
            }
        }
    }

    /// Bytes of the bodies that wait for a first confirmation; the session is over.
    pub fn waiting_bytes(&self) -> u64 {
        self.pairs.iter().flat_map(|pair| &pair.queue).map(|sent| sent.body.len() as u64).sum()
    }

    /// Gives back memory that an idle session does not need.
    pub fn shrink(&mut self) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.queue.is_empty()) {
            pair.queue = VecDeque::new();
        }
        self.pairs.shrink_to_fit();
    }

    /// The pair of this recipient, opened if need be.
    fn pair_for(&mut self, edge: &Edge<'_>, recipient: &[u8]) -> Result<usize, Refusal> {
        let recent = usize::from(self.recent);
        if self.pairs.get(recent).is_some_and(|pair| pair.recipient.as_bytes() == recipient) {
            return Ok(recent);
        }
        let bad = Refusal { code: Code::BadRecipient, wait_ms: 0 };
        let busy = Refusal { code: Code::TooManyRecipients, wait_ms: edge.limits.retry_ms };
        let recipient = check_user(recipient).map_err(|_| bad)?;
        let known = match &self.by_name {
            Some(by_name) => by_name.get(recipient).map(|&index| usize::from(index)),
            None => self.pairs.iter().position(|pair| pair.recipient.as_str() == recipient),
        };
        let index = match known {
            Some(index) => index,
            None => self.open(edge, recipient).ok_or(busy)?,
        };
        self.recent = index as u16;
        Ok(index)
    }

    fn open(&mut self, edge: &Edge<'_>, recipient: &str) -> Option<usize> {
        let recipient = UserId::parse(recipient.as_bytes()).ok()?;
        let slot = slot_of(recipient.as_bytes());
        let index = if self.pairs.len() < edge.limits.pairs_max as usize {
            self.pairs.push(Pair::new(PairId(self.pairs.len() as u32), recipient.clone(), slot));
            self.pairs.len() - 1
        } else {
            let index = self.forgettable()?;
            let id = self.pairs[index].id.0.checked_add(1 << 16)?;
            let before = std::mem::replace(&mut self.pairs[index], Pair::new(PairId(id), recipient.clone(), slot));
            if let Some(by_name) = &mut self.by_name {
                by_name.remove(&before.recipient);
            }
            index
        };
        match &mut self.by_name {
            Some(by_name) => {
                by_name.insert(recipient, index as u16);
            }
            None if self.pairs.len() > SEARCHED => {
                let mut by_name = HashMap::with_hasher(RandomState::with_seeds(edge.seed, 5, 6, 7));
                by_name.extend(self.pairs.iter().enumerate().map(|(at, pair)| (pair.recipient.clone(), at as u16)));
                self.by_name = Some(Box::new(by_name));
            }
            None => {}
        }
        Some(index)
    }

    /// A pair with nothing unanswered; it starts on the inbox path again, which is always safe.
    fn forgettable(&mut self) -> Option<usize> {
        let count = self.pairs.len();
        let start = usize::from(self.hand);
        let index = (start..start + count).map(|at| at % count).find(|&at| self.pairs[at].queue.is_empty())?;
        self.hand = ((index + 1) % count) as u16;
        Some(index)
    }

    /// The pair with this id, unless it was forgotten: the lower half is its index, the upper half counts its users.
    fn pair_mut(&mut self, id: PairId) -> Option<&mut Pair> {
        self.pairs.get_mut((id.0 & 0xffff) as usize).filter(|pair| pair.id == id)
    }
}

impl Pair {
    fn new(id: PairId, recipient: UserId, slot: Slot) -> Self {
        Pair {
            id,
            recipient,
            slot,
            path: Path::Inbox(None),
            queue: VecDeque::new(),
            outstanding: 0,
            twins: 0,
            is_unordered: false,
            out_at: None,
            switching: false,
            waiting: false,
            granted: None,
            undelivered: None,
        }
    }

    /// Whether this message is in the queue already: an inbox remembers one sequence of it, and would answer only that.
    /// A queue in which ids increase need not be searched.
    fn has_open(&mut self, id: MessageId) -> bool {
        let last = self.queue.back().map(|last| last.id);
        self.is_unordered = last.is_some_and(|last| self.is_unordered || id <= last);
        self.is_unordered && self.queue.iter().any(|sent| sent.id == id)
    }

    fn position(&self, sequence: Sequence) -> Result<usize, usize> {
        match self.queue.front() {
            Some(front) if front.sequence == sequence => Ok(0),
            _ => self.queue.binary_search_by(|sent| sent.sequence.cmp(&sequence)),
        }
    }

    /// Sends one message of the queue on the pair's path.
    fn transmit(&mut self, edge: &mut Edge<'_>, me: &mut Identity, at: usize) {
        let sent = &mut self.queue[at];
        let key = Key { id: sent.id, sender: me.user.clone() };
        let message = Message { key, sent_at: sent.sent_at, body: sent.body.clone() };
        let origin = ReturnAddress { login: me.login, pair: self.id, sequence: sent.sequence };
        if let Path::Direct(grant) = self.path {
            edge.counts.direct += 1;
            self.out_at = Some(grant.login.at.node);
            send_direct(edge, grant, message, origin);
        } else {
            let Some(node) = self.core(edge) else {
                if edge.is_connecting(self.slot) {
                    self.waiting = true;
                    return;
                }
                let refusal = Refusal { code: Code::Unavailable, wait_ms: edge.limits.retry_ms };
                self.queue[at].state = State::Answered(Answer::Refused(refusal));
                return;
            };
            let user = self.recipient.clone();
            edge.counts.inbox += 1;
            self.out_at = Some(node);
            let message = ToCore::Append { user, message, origin };
            edge.out.push(Action::Peer(Peer::Core { node, slot: self.slot, message }));
        }
        self.queue[at].state = State::Out;
        self.outstanding += 1;
    }

    /// The core of the inbox path: chosen anew only while nothing is outstanding (rule 2).
    fn core(&mut self, edge: &mut Edge<'_>) -> Option<NodeId> {
        if let Path::Inbox(Some(core)) = self.path
            && (self.outstanding > 0 || mutant::is(Mutant::TwoCoresAtOnce))
        {
            return Some(core);
        }
        let core = edge.reachable(self.slot).next();
        if core != edge.placement.replicas(self.slot).first().copied() {
            edge.want(self.slot);
        }
        self.path = Path::Inbox(core);
        core
    }

    /// Whether something before the last SEND waits for a link.
    fn is_held(&self) -> bool {
        self.waiting
    }

    /// Notes what became of a run of messages. Returns the first that had no confirmation before; those below it had.
    fn answer(&mut self, (first, last): (Sequence, Sequence), answer: Answer) -> Sequence {
        let at = self.position(first).unwrap_or_else(|at| at);
        let behind = Sequence(last.0 + 1);
        let unanswered = self.queue.get(at).map_or(behind, |sent| sent.sequence.min(behind));
        for sent in self.queue.range_mut(at..).take_while(|sent| sent.sequence <= last) {
            match sent.state {
                State::Out => self.outstanding -= 1,
                State::Answered(Answer::Confirmed(Level::Delivered) | Answer::Refused(_)) => continue,
                State::Held | State::Bounced | State::Twin | State::Answered(Answer::Confirmed(_)) => {}
            }
            sent.state = State::Answered(answer);
        }
        unanswered
    }

    /// Repeats of a message that is answered now have the same answer.
    #[cold]
    fn answer_twins(&mut self, id: MessageId, answer: Answer) {
        for twin in self.queue.iter_mut().filter(|sent| sent.id == id && sent.state == State::Twin) {
            twin.state = State::Answered(answer);
            self.twins -= 1;
        }
    }

    fn on_grant(&mut self, up_to: MessageId, grant: Grant) {
        if self.undelivered.is_some_and(|newest| newest <= up_to) {
            self.undelivered = None;
        }
        if matches!(self.path, Path::Inbox(_)) && !self.switching {
            self.granted = Some(grant);
            if mutant::is(Mutant::DirectWheneverLocationIsKnown) {
                self.path = Path::Direct(grant);
                self.granted = None;
            }
        }
    }

    fn is_direct(&self) -> bool {
        matches!(self.path, Path::Direct(_))
    }

    /// `stored` ends grant and hold; what was held goes on through the same inbox.
    fn lose_grant(&mut self) {
        self.granted = None;
        if self.is_direct() {
            self.become_switching();
        }
    }

    fn become_switching(&mut self) {
        self.granted = None;
        self.path = Path::Inbox(None);
        self.switching = true;
    }

    /// Tells the client what is answered in order, and sends what may be sent now.
    fn settle(&mut self, edge: &mut Edge<'_>, me: &mut Identity) {
        loop {
            self.tell(edge, me);
            if self.outstanding == 0 {
                self.switching = false;
                if let Some(grant) = self.granted.take()
                    && (self.undelivered.is_none() || mutant::is(Mutant::StoredCountsAsDelivered))
                {
                    edge.counts.earned += u64::from(!self.is_direct());
                    self.path = Path::Direct(grant);
                    mutant::share(&me.user, &self.recipient, grant);
                }
            }
            if self.switching || self.granted.is_some() || !self.release(edge, me) {
                return;
            }
        }
    }

    /// Sends everything that is held or bounced, in order. Whether the client has to hear of something at once.
    fn release(&mut self, edge: &mut Edge<'_>, me: &mut Identity) -> bool {
        // What was held is behind everything that is out, except right after a switch.
        let unsent = |sent: &Sent| matches!(sent.state, State::Held | State::Bounced);
        let looks_deeper = self.outstanding == 0 || self.twins > 0;
        let has_unsent = self.queue.back().is_some_and(unsent) || (looks_deeper && self.queue.iter().any(unsent));
        if !has_unsent {
            return false;
        }
        for at in 0..self.queue.len() {
            if unsent(&self.queue[at]) {
                self.transmit(edge, me, at);
            }
        }
        matches!(self.queue.front(), Some(Sent { state: State::Answered(_), .. }))
    }

    /// CONFIRM and REFUSED for the answered head of the queue (rule 6).
    fn tell(&mut self, edge: &mut Edge<'_>, me: &mut Identity) {
        let session = me.login.at.session;
        let mut run: Option<(Level, Sequence, Sequence)> = None;
        let flush = |edge: &mut Edge<'_>, run: &mut Option<(Level, Sequence, Sequence)>| {
            if let Some((level, first, last)) = run.take() {
                edge.out.push(Action::Confirm { session, level, run: (first, last) });
            }
        };
        let mut at = 0;
        while let Some(sent) = self.queue.get(at) {
            let State::Answered(answer) = sent.state else {
                if mutant::is(Mutant::ConfirmsOutOfOrder) {
                    at += 1;
                    continue;
                }
                break;
            };
            let taken = if at == 0 { self.queue.pop_front() } else { self.queue.remove(at) };
            let Some(sent) = taken else { break };
            me.window.release(edge, sent.body.len());
            if self.twins > 0 {
                self.answer_twins(sent.id, answer);
            }
            match (answer, &mut run) {
                (Answer::Confirmed(level), Some((same, _, last)))
                    if *same == level && last.0 + 1 == sent.sequence.0 =>
                {
                    *last = sent.sequence;
                }
                (Answer::Confirmed(level), _) => {
                    flush(edge, &mut run);
                    run = Some((level, sent.sequence, sent.sequence));
                }
                (Answer::Refused(refusal), _) => {
                    flush(edge, &mut run);
                    edge.out.push(Action::Refuse { session, sequence: sent.sequence, refusal });
                }
            }
        }
        flush(edge, &mut run);
    }
}

/// Appends to the run of the last action if that is of the same pair: what a client pipelines travels together.
fn send_direct(edge: &mut Edge<'_>, to: Grant, message: Message, origin: ReturnAddress) {
    if let Some(Action::Peer(Peer::Edge { message: ToEdge::Direct { to: same, messages, origin: first }, .. })) =
        edge.out.last_mut()
        && (*same, first.login, first.pair) == (to, origin.login, origin.pair)
        && first.sequence.0 + messages.len() as u64 == origin.sequence.0
        && messages.len() < DIRECT_RUN
    {
        return messages.push(message);
    }
    let message = ToEdge::Direct { to, messages: vec![message], origin };
    edge.out.push(Action::Peer(Peer::Edge { at: to.login.at, message }));
}
