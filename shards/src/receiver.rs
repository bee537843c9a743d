//! The recipient's side of one session: R of `docs/delivery.md`, which takes deliveries or bounces them.
//!
//! Owns the unacknowledged deliveries of the session, its phase, and which core drains the inbox. In: direct messages,
//! entries of the inbox, ACKs. Out: DELIVER to the client; confirmations, bounces and acknowledgements to the others.
//! Never refuses one direct message and takes the next: the phase grows before the first refusal (rule 5).

use std::collections::{BTreeMap, VecDeque};

use crate::edge::Edge;
use crate::event::Action;
use crate::frame::{Code, Ranges};
use crate::id::{Grant, Key, NodeId, Phase, ReturnAddress, Sequence};
use crate::identity::Identity;
use crate::mutant::{self, Mutant};
use crate::peer::{Message, Peer, ToCore, ToEdge};

/// Where a delivery came from, and so who hears of its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The sender's edge.
    Direct(ReturnAddress),
    /// The drain core.
    Inbox,
    /// The client was shown it, then it was bounced or its drain core was lost: it will come back through the inbox.
    Bounced,
    /// Acknowledged, or not remembered any more.
    Done,
}

/// One DELIVER.
#[derive(Debug)]
struct Delivery {
    key: Key,
    source: Source,
    bytes: u32,
    shown_ms: u64,
}

/// Deliveries to a client that takes them slowly, or in a strange order.
#[derive(Debug, Default)]
struct Odd {
    /// Unacknowledged ones before `first`: they cost a map, not a window.
    stragglers: BTreeMap<u64, Delivery>,
    /// The `Bounced` deliveries by key (rule 17): the sequence, or 0 once the client has taken it.
    shown: BTreeMap<Key, u64>,
}

/// The deliveries of one session.
#[derive(Debug, Default)]
pub struct Receiver {
    /// Counts the refusals of this session.
    pub phase: Phase,
    /// The core that sends from the inbox.
    pub drain: Option<NodeId>,
    /// Counts the registrations that asked a core for it: deliveries of an earlier one are ignored (rule 13).
    drain_number: u32,
    /// Deliveries from sequence `first` on; the oldest is not done.
    recent: VecDeque<Delivery>,
    first: u64,
    /// What only odd clients need.
    odd: Option<Box<Odd>>,
    /// Deliveries without an acknowledgement that are direct or bounced.
    direct_messages: u32,
    direct_bytes: u32,
    /// The drain core is asked once the client has acknowledged enough.
    is_behind: bool,
    /// A timer of this session is armed.
    pub timer_armed: bool,
}

impl Receiver {
    /// The receiver of a session that begins.
    pub fn new() -> Self {
        Receiver { first: 1, ..Receiver::default() }
    }

    /// A run of direct messages, whose login is that of this session.
    pub fn on_direct(
        &mut self,
        edge: &mut Edge<'_>,
        me: &Identity,
        (grant, mut messages, mut origin): (Grant, Vec<Message>, ReturnAddress),
    ) {
        let sequence = self.next_sequence();
        messages.retain(|message| {
            let is_new = self.takes_direct(edge, me, grant, (message, origin));
            origin.sequence.0 += 1;
            is_new
        });
        if !messages.is_empty() {
            edge.out.push(Action::Deliver { session: me.login.at.session, sequence, messages });
        }
    }

    /// Whether a direct message is taken, and to be shown; else it was bounced, or the client was shown it already.
    fn takes_direct(
        &mut self,
        edge: &mut Edge<'_>,
        me: &Identity,
        grant: Grant,
        (message, origin): (&Message, ReturnAddress),
    ) -> bool {
        let wrong_phase = grant.phase != self.phase && !mutant::is(Mutant::ReceiverIgnoresPhase);
        if wrong_phase || (mutant::is(Mutant::RefusesDirectWhileDraining) && self.has_inbox_deliveries()) {
            bounce(edge, origin);
            return false;
        }
        if self.on_shown_again(edge, me, &message.key, Source::Direct(origin)) {
            return false;
        }
        let bytes = message.body.len() as u32;
        let full = self.direct_messages >= edge.limits.delivery_messages_max
            || self.direct_bytes.saturating_add(bytes) > edge.limits.delivery_bytes_max;
        if full {
            if !mutant::is(Mutant::RefusesOneFrameWithoutPhase) {
                self.bounce_direct(edge, me);
            }
            bounce(edge, origin);
            return false;
        }
        self.direct_messages += 1;
        self.direct_bytes += bytes;
        self.note(edge, message, Source::Direct(origin));
        true
    }

    /// An entry of the inbox, from this core, for the registration with this number.
    pub fn on_inbox(&mut self, edge: &mut Edge<'_>, me: &Identity, (core, drain): (NodeId, u32), message: Message) {
        // What is behind it on its way may be of the present registration, and what is before it may be lost.
        if (self.drain, self.drain_number) != (Some(core), drain) {
            return;
        }
        if !self.on_shown_again(edge, me, &message.key, Source::Inbox) {
            if mutant::is(Mutant::TrimmedWhenSent) {
                self.acknowledge_inbox(edge, me, vec![message.key.clone()]);
            }
            let sequence = self.next_sequence();
            self.note(edge, &message, Source::Inbox);
            let messages = vec![message];
            edge.out.push(Action::Deliver { session: me.login.at.session, sequence, messages });
        }
    }

    /// ACK of the client. An error names the code with which to close.
    pub fn on_ack(&mut self, edge: &mut Edge<'_>, me: &Identity, ranges: Ranges<'_>) -> Result<(), Code> {
        let next = self.first + self.recent.len() as u64;
        let mut taken = Taken::default();
        for (first, last) in ranges {
            if first == 0 || last >= next {
                return Err(Code::ProtocolError);
            }
            if first < self.first {
                self.take_stragglers(edge, &mut taken, first, last);
            }
            for sequence in first.max(self.first)..=last {
                self.take(edge, &mut taken, (sequence - self.first) as usize);
            }
            if mutant::is(Mutant::AcknowledgementMeansUpTo) {
                (self.first..last).for_each(|sequence| self.take(edge, &mut taken, (sequence - self.first) as usize));
            }
        }
        while self.recent.front().is_some_and(|delivery| delivery.source == Source::Done) {
            self.recent.pop_front();
            self.first += 1;
        }
        taken.flush(edge);
        if !taken.inbox.is_empty() {
            self.acknowledge_inbox(edge, me, taken.inbox);
        }
        Ok(())
    }

    /// Looks at the time: a direct delivery that waited too long bounces all of them (rule 17). Returns when to look
    /// again, in monotonic ms.
    pub fn on_timer(&mut self, edge: &mut Edge<'_>, me: &Identity) -> Option<u64> {
        let oldest = self.oldest_direct()?;
        let deadline = oldest + edge.limits.delivery_ms_max;
        if deadline > edge.now.mono_ms {
            return Some(deadline);
        }
        self.bounce_direct(edge, me);
        None
    }

    /// The session ends: what is direct and unacknowledged goes back (rule 11).
    pub fn on_end(&mut self, edge: &mut Edge<'_>) {
        if !mutant::is(Mutant::SessionEndDoesNotBounce) {
            for delivery in self.unacknowledged() {
                if let Source::Direct(origin) = delivery.source {
                    bounce(edge, origin);
                }
            }
        }
    }

    /// The drain core is lost, or sends everything anew: nobody waits for its deliveries any more (rule 13), but the
    /// client was shown them.
    pub fn forget_inbox(&mut self) {
        let (mut messages, mut bytes) = (0, 0);
        self.become_bounced(|delivery| {
            let is_inbox = delivery.source == Source::Inbox;
            messages += u32::from(is_inbox);
            bytes += if is_inbox { delivery.bytes } else { 0 };
            is_inbox
        });
        self.direct_messages += messages;
        self.direct_bytes += bytes;
    }

    /// This core is asked to send from the inbox, from its beginning. Returns the number of the registration; none if the
    /// client has a window full of what others sent: with every core that it drains it would have a page more.
    pub fn begin_drain(&mut self, edge: &Edge<'_>) -> Option<u32> {
        self.forget_inbox();
        self.drain_number = self.drain_number.wrapping_add(1);
        self.is_behind = self.direct_messages > edge.limits.delivery_messages_max;
        (!self.is_behind).then_some(self.drain_number)
    }

    /// The core that can be asked now, and could not before.
    pub fn drain_due(&self, edge: &Edge<'_>) -> Option<NodeId> {
        self.drain.filter(|_| self.is_behind && self.direct_messages <= edge.limits.delivery_messages_max)
    }

    /// Gives back memory that an idle session does not need.
    pub fn shrink(&mut self) {
        if self.recent.is_empty() {
            self.recent = VecDeque::new();
        }
        if self.odd.as_ref().is_some_and(|odd| odd.stragglers.is_empty() && odd.shown.is_empty()) {
            self.odd = None;
        }
    }

    /// Whether a timer has to be armed: something direct is unacknowledged.
    pub fn is_timer_needed(&self) -> bool {
        self.direct_messages > 0 && !self.timer_armed
    }

    /// The sequence of the next delivery.
    fn next_sequence(&self) -> Sequence {
        Sequence(self.first + self.recent.len() as u64)
    }

    /// Remembers a message that the client is shown now.
    fn note(&mut self, edge: &Edge<'_>, message: &Message, source: Source) {
        let span_max = 4 * edge.limits.delivery_messages_max as usize;
        if self.recent.len() >= span_max {
            self.put_straggler_aside();
        }
        let bytes = message.body.len() as u32;
        self.recent.push_back(Delivery { key: message.key.clone(), source, bytes, shown_ms: edge.now.mono_ms });
    }

    fn put_straggler_aside(&mut self) {
        let Some(oldest) = self.recent.pop_front() else { return };
        if oldest.source != Source::Done {
            self.odd.get_or_insert_default().stragglers.insert(self.first, oldest);
        }
        self.first += 1;
        while self.recent.front().is_some_and(|delivery| delivery.source == Source::Done) {
            self.recent.pop_front();
            self.first += 1;
        }
    }

    /// A message comes back that the client was shown already (rule 17): it is not shown again. True if so.
    fn on_shown_again(&mut self, edge: &mut Edge<'_>, me: &Identity, key: &Key, source: Source) -> bool {
        let Some(sequence) = self.odd.as_mut().and_then(|odd| odd.shown.remove(key)) else { return false };
        if sequence == 0 {
            match source {
                Source::Direct(origin) => Taken { run: Some((origin, origin.sequence)), inbox: Vec::new() }.flush(edge),
                _ => self.acknowledge_inbox(edge, me, vec![key.clone()]),
            }
            return true;
        }
        let Some(delivery) = self.delivery_mut(sequence) else { return false };
        let bytes = delivery.bytes;
        (delivery.source, delivery.shown_ms) = (source, edge.now.mono_ms);
        if source == Source::Inbox {
            self.direct_messages -= 1;
            self.direct_bytes -= bytes;
        }
        true
    }

    /// The client has taken the delivery at this place of `recent`.
    fn take(&mut self, edge: &mut Edge<'_>, taken: &mut Taken, at: usize) {
        let delivery = &mut self.recent[at];
        let source = std::mem::replace(&mut delivery.source, Source::Done);
        match source {
            Source::Direct(origin) => {
                self.direct_messages -= 1;
                self.direct_bytes -= delivery.bytes;
                taken.direct(edge, origin);
            }
            Source::Inbox => taken.inbox.push(delivery.key.clone()),
            Source::Bounced => {
                self.direct_messages -= 1;
                self.direct_bytes -= delivery.bytes;
                let key = delivery.key.clone();
                let odd = self.odd.get_or_insert_default();
                odd.shown.insert(key, 0);
                odd.bound_shown(2 * edge.limits.delivery_messages_max as usize);
            }
            Source::Done => {}
        }
    }

    /// The same for those before `recent`.
    #[cold]
    fn take_stragglers(&mut self, edge: &mut Edge<'_>, taken: &mut Taken, first: u64, last: u64) {
        let Some(odd) = &mut self.odd else { return };
        let sequences: Vec<u64> = odd.stragglers.range(first..=last.min(self.first - 1)).map(|(&s, _)| s).collect();
        for sequence in sequences {
            let straggler = self.odd.as_mut().and_then(|odd| odd.stragglers.remove(&sequence));
            let Some(delivery) = straggler else { continue };
            self.recent.push_front(delivery);
            self.take(edge, taken, 0);
            self.recent.pop_front();
        }
    }

    /// A refusal: the phase grows, and everything that is direct and unacknowledged goes back once, in order (rule 17).
    fn bounce_direct(&mut self, edge: &mut Edge<'_>, me: &Identity) {
        self.phase.0 += 1;
        for node in edge.reachable(me.slot).collect::<Vec<_>>() {
            let message = ToCore::PhaseGrown { user: me.user.clone(), login: me.login, phase: self.phase };
            edge.out.push(Action::Peer(Peer::Core { node, slot: me.slot, message }));
        }
        self.become_bounced(|delivery| match delivery.source {
            Source::Direct(origin) => {
                bounce(edge, origin);
                true
            }
            _ => false,
        });
    }

    /// Deliveries that their source will send again, in order: the client is not shown them again.
    fn become_bounced(&mut self, mut which: impl FnMut(&Delivery) -> bool) {
        let mut again: Vec<(Key, u64)> = Vec::new();
        let odd = self.odd.as_mut().into_iter().flat_map(|odd| odd.stragglers.iter_mut());
        for (sequence, delivery) in odd.map(|(&s, d)| (s, d)).chain((self.first..).zip(&mut self.recent)) {
            if which(delivery) {
                delivery.source = Source::Bounced;
                again.push((delivery.key.clone(), sequence));
            }
        }
        if !again.is_empty() {
            self.odd.get_or_insert_default().shown.extend(again);
        }
    }

    fn unacknowledged(&self) -> impl Iterator<Item = &Delivery> {
        self.odd.iter().flat_map(|odd| odd.stragglers.values()).chain(&self.recent)
    }

    /// When the oldest direct delivery was shown, in monotonic ms.
    fn oldest_direct(&self) -> Option<u64> {
        if self.direct_messages == 0 {
            return None;
        }
        self.unacknowledged()
            .find(|delivery| matches!(delivery.source, Source::Direct(_)))
            .map(|oldest| oldest.shown_ms)
    }

    fn has_inbox_deliveries(&self) -> bool {
        self.recent.iter().any(|delivery| delivery.source == Source::Inbox)
    }

    fn delivery_mut(&mut self, sequence: u64) -> Option<&mut Delivery> {
        match sequence.checked_sub(self.first) {
            Some(at) => self.recent.get_mut(at as usize),
            None => self.odd.as_mut()?.stragglers.get_mut(&sequence),
        }
    }

    fn acknowledge_inbox(&self, edge: &mut Edge<'_>, me: &Identity, keys: Vec<Key>) {
        let Some(node) = self.drain else { return };
        let message = ToCore::Ack { user: me.user.clone(), keys };
        edge.out.push(Action::Peer(Peer::Core { node, slot: me.slot, message }));
    }
}

impl Odd {
    /// Taken messages whose second coming never comes are forgotten, the lowest ids first: the library drops repeats.
    fn bound_shown(&mut self, most: usize) {
        while self.shown.len() > most {
            match self.shown.iter().find(|(_, sequence)| **sequence == 0).map(|(key, _)| key.clone()) {
                Some(key) => self.shown.remove(&key),
                None => return,
            };
        }
    }
}

/// What one ACK took: runs of direct messages and keys of the inbox.
#[derive(Default)]
struct Taken {
    run: Option<(ReturnAddress, Sequence)>,
    inbox: Vec<Key>,
}

impl Taken {
    fn direct(&mut self, edge: &mut Edge<'_>, origin: ReturnAddress) {
        if let Some((to, last)) = &mut self.run
            && (to.login, to.pair, last.0 + 1) == (origin.login, origin.pair, origin.sequence.0)
        {
            *last = origin.sequence;
            return;
        }
        self.flush(edge);
        self.run = Some((origin, origin.sequence));
    }

    fn flush(&mut self, edge: &mut Edge<'_>) {
        if let Some((to, last)) = self.run.take() {
            let message = ToEdge::Delivered { to, last, grant: None };
            edge.out.push(Action::Peer(Peer::Edge { at: to.login.at, message }));
        }
    }
}

/// A run of direct messages goes back to its sender's edge.
pub fn bounce_run(edge: &mut Edge<'_>, mut origin: ReturnAddress, messages: usize) {
    for _ in 0..messages {
        bounce(edge, origin);
        origin.sequence.0 += 1;
    }
}

/// A direct message goes back to its sender's edge.
fn bounce(edge: &mut Edge<'_>, origin: ReturnAddress) {
    edge.counts.bounced += 1;
    edge.out.push(Action::Peer(Peer::Edge { at: origin.login.at, message: ToEdge::Bounce { to: origin } }));
}
