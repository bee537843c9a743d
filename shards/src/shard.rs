//! The inboxes of one executor: what a core does with a message (delivery rules 1, 4, 8, 12 and 15).
//!
//! Owns everything of the core half but the mailboxes themselves: senders, bodies in memory, what waits for the disk,
//! tombstones, and how far the other replicas are. In: appends, acknowledgements, completions of storage. Out:
//! deliveries, confirmations and storage requests. `stored` can arise only in the handler of a completion.

mod attendance;
mod cells;
mod counts;
mod disk;
mod handover;
mod loading;
mod room;
mod run;
mod step;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::event::Action;
use crate::frame::Code;
use crate::id::{ExecutorId, Grant, Key, MessageId, NodeId, ReturnAddress, Slot};
use crate::inbox::{Content, Entry, EntryKey, Inbox};
use crate::limits::CoreLimits;
use crate::mailbox::{Mailbox, MailboxId, Mailboxes, Sums};
use crate::mutant::{self, Mutant};
use crate::names::Senders;
use crate::peer::FromReplica;
use crate::peer::{Message, Peer, Refusal, ToCore, ToEdge};
use crate::placement::Placement;
use crate::storage::{Mark, Place, Reach, Record, StorageRequest};
use crate::tenure::Tenure;
use crate::time::Now;
use crate::tombstone::{Kept, Tombstones};
use crate::wheel::Wheel;
use cells::Cells;
use run::{Run, flush_stored};

pub use counts::{CoreCounts, KeptShards};

/// How many entries are looked at before a grant is not given for lack of knowledge.
const GRANT_LOOKS: usize = 256;

/// What a core half is told once.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This node.
    pub node: NodeId,
    /// This executor.
    pub executor: ExecutorId,
    /// How many executors this node has.
    pub executors: u16,
    /// The bounds.
    pub limits: CoreLimits,
    /// Who keeps what.
    pub placement: Arc<Placement>,
    /// What the storage engine is to the cores of a shard.
    pub reach: Reach,
    /// Makes hashing unpredictable to users.
    pub seed: u64,
}

/// The time, and where to put what is to be done.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time.
    pub now: Now,
    /// What is to be done.
    pub out: &'a mut Vec<Action>,
}

impl Turn<'_> {
    /// Sends something to an edge.
    pub fn to_edge(&mut self, at: crate::id::Location, message: ToEdge) {
        self.out.push(Action::Peer(Peer::Edge { at, message }));
    }
}

/// Who has seen that a message was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// This core.
    This,
    /// Another core of the shard.
    Another,
}

/// An append that the storage engine has not answered.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Entry {
        mailbox: MailboxId,
        key: EntryKey,
        bytes: u32,
        relocates: Option<Place>,
    },
    Tombstone {
        mailbox: MailboxId,
        key: EntryKey,
        relocates: Option<Place>,
    },
    /// Which is in `marks`.
    Complete,
    /// An entry of which it is known that it fails, because an older append has failed.
    Dropped {
        mailbox: MailboxId,
        key: EntryKey,
        bytes: u32,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    /// What it was told once.
    pub config: CoreConfig,
    /// No other core is known: nothing is looked up below.
    is_lone: bool,
    /// By shard; empty as long as nobody else matters.
    tenures: Vec<Option<Box<Tenure>>>,
    /// Nodes whose links are up.
    links: BTreeSet<NodeId>,
    due: step::Due,
    /// What other cores have told before they offer.
    digests: BTreeMap<NodeId, BTreeMap<Slot, u64>>,
    /// The last number of a round.
    rounds: u32,
    /// Marks that are appended and not answered, in order.
    marks: VecDeque<Mark>,
    /// Bytes of bodies that wait for the store to be read.
    waiting_bytes: u64,
    /// Appends that were under way when one failed, and fail too: as long as there are any, so would others.
    doubtful: usize,
    is_recovered: bool,
    is_leaving: bool,
    senders: Senders,
    addresses: Addresses,
    cells: Cells,
    pending: VecDeque<Pending>,
    tombstones: Tombstones,
    /// Tombstones that found no room on the disk.
    unwritten: VecDeque<(MailboxId, EntryKey, Option<Place>)>,
    timers: Wheel<MailboxId>,
    /// When the executors of other edges were last heard, in monotonic ms; `None` once the lease has ended.
    leases: BTreeMap<(NodeId, ExecutorId), Option<u64>>,
    syncs: sync::Syncs,
    unlogged_bytes: u64,
    unflushed_bytes: u64,
    is_full: bool,
    is_away: bool,
    counts: CoreCounts,
    sums: Sums,
    online: usize,
}

impl Shard {
    /// A shard without messages; see [`CoreConfig`].
    pub fn new(config: CoreConfig) -> Self {
        Shard {
            senders: Senders::new(config.seed),
            tombstones: Tombstones::new(config.seed),
            is_lone: step::is_lone(&config.placement, config.node),
            tenures: Vec::new(),
            links: BTreeSet::new(),
            due: step::Due::default(),
            digests: BTreeMap::new(),
            rounds: 0,
            marks: VecDeque::new(),
            doubtful: 0,
            is_recovered: false,
            is_leaving: false,
            addresses: Addresses::default(),
            cells: Cells::default(),
            pending: VecDeque::new(),
            unwritten: VecDeque::new(),
            timers: Wheel::new(),
            leases: BTreeMap::new(),
            syncs: sync::Syncs::default(),
            unlogged_bytes: 0,
            unflushed_bytes: 0,
            is_full: false,
            is_away: false,
            waiting_bytes: 0,
            counts: CoreCounts::default(),
            sums: Sums::default(),
            online: 0,
            config,
        }
    }

    /// Sums over the inboxes, and how many users are there.
    pub fn sums(&self) -> (Sums, usize) {
        (self.sums, self.online)
    }

    /// The counters.
    pub fn counts(&self) -> CoreCounts {
        self.counts
    }

    /// The shards that this executor has a part of.
    pub fn kept_shards(&self) -> KeptShards {
        let kept = self.tenures().filter(|tenure| tenure.serves());
        kept.fold(KeptShards::default(), |sum, tenure| KeptShards {
            kept: sum.kept + 1,
            in_step: sum.in_step + u64::from(tenure.is_replicated()),
        })
    }

    /// Appends that wait for the disk, and their bytes.
    pub fn unflushed(&self) -> (usize, u64) {
        (self.pending.len(), self.unflushed_bytes)
    }

    /// Bytes of bodies that are in memory only.
    pub fn unlogged_bytes(&self) -> u64 {
        self.unlogged_bytes
    }

    /// How many tombstones are remembered.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Whether they are more than may be.
    pub fn has_too_many_tombstones(&self) -> bool {
        self.tombstones.len() > self.config.limits.tombstones_max
    }

    /// A SEND at a core (rule 8).
    pub fn on_append(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        message: Message,
        origin: ReturnAddress,
    ) {
        if mutant::is(Mutant::CoreForwardsWithoutInbox)
            && let Some(to) = mailbox.presence.grant(turn.now.mono_ms)
        {
            return turn.to_edge(to.login.at, ToEdge::Direct { to, messages: vec![message], origin });
        }
        if mutant::is(Mutant::JoiningCoreBounces) && !self.can_send(mailbox.slot) {
            return turn.to_edge(origin.login.at, ToEdge::Bounce { to: origin });
        }
        if !self.serves(mailbox.slot) && !mutant::is(Mutant::LeaverKeepsServing) {
            self.counts.unavailable += 1;
            let refusal = Refusal { code: Code::Unavailable, wait_ms: self.config.limits.retry_ms };
            return turn.to_edge(origin.login.at, ToEdge::Refused { to: origin, refusal });
        }
        if !self.can_judge((id, mailbox), &message.key) {
            return self.wait(turn, mailbox, message, origin);
        }
        self.take_in(turn, (id, mailbox), message, origin);
    }

    /// Takes a message into an inbox that is known.
    fn take_in(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        message: Message,
        origin: ReturnAddress,
    ) {
        let sender = self.senders.acquire(&message.key.sender);
        let epoch = self.senders.on_login(sender, origin.login);
        let key = (message.key.id, sender);
        if self.tombstones.contains(id, key) {
            self.counts.repeated += 1;
            let grant = self.grant(turn.now, mailbox, key, origin);
            turn.to_edge(origin.login.at, ToEdge::Delivered { to: origin, last: origin.sequence, grant });
            return self.senders.release(sender);
        }
        if let Some(entry) = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key)) {
            self.counts.repeated += 1;
            let before = self.senders.login_of(sender, entry.epoch);
            self.addresses.add((id, entry), before, (epoch, origin));
            let slot = mailbox.slot;
            let mut run = Run::default();
            self.tell_stored(turn, &mut run, (id, slot), entry);
            flush_stored(turn, run);
            self.ask_others(turn, mailbox, key);
            return self.senders.release(sender);
        }
        if let Some(refusal) = self.refusal(mailbox, message.body.len() as u64) {
            turn.to_edge(origin.login.at, ToEdge::Refused { to: origin, refusal });
            return self.senders.release(sender);
        }
        let mut entry = Entry::new(key.0, sender, message.body.len() as u32, Content::Unlogged(0));
        (entry.epoch, entry.sequence, entry.pair) = (epoch, origin.sequence, origin.pair);
        self.insert(turn, (id, mailbox), message, entry);
    }

    /// Puts a new entry into the inbox: sent at once to a present recipient, logged at once for an absent one (rule 1).
    fn insert(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        message: Message,
        mut entry: Entry,
    ) {
        let key = entry.key();
        let bytes = u64::from(entry.bytes);
        let sent_at = message.sent_at;
        entry.set_content(Content::Unlogged(self.cells.put(sent_at, message.body)));
        self.counts.appended += 1;
        self.unlogged_bytes += bytes;
        let log_delay_ms = self.config.limits.log_delay_ms;
        // A message that comes back from a slow recipient's edge has waited already.
        let is_fresh = turn.now.wall_ms().saturating_sub(sent_at) < log_delay_ms;
        let present =
            is_fresh && !self.is_leaving && mailbox.presence.drains().is_some() && self.can_send(mailbox.slot);
        let held = mailbox.held();
        held.insert(&mut self.sums, entry);
        held.unlogged.push_back((turn.now.mono_ms + log_delay_ms, key));
        self.pump(turn, mailbox);
        if present {
            self.arm(turn.now, id, mailbox);
        }
        if !present || self.unlogged_bytes > self.config.limits.unlogged_bytes_max {
            self.log_all(turn, (id, mailbox));
        }
    }

    /// Why a new message is not taken.
    fn refusal(&mut self, mailbox: &Mailbox, bytes: u64) -> Option<Refusal> {
        let limits = &self.config.limits;
        let (messages, held) = mailbox.held.as_ref().map_or((0, 0), |held| (held.inbox.len(), held.bytes));
        let code = if messages >= limits.inbox_messages_max as usize || held + bytes > limits.inbox_bytes_max {
            self.counts.inbox_full += 1;
            Code::InboxFull
        } else if !self.has_room() && (mailbox.presence.drains().is_none() || !self.can_send(mailbox.slot)) {
            let (count, code) = match self.is_away {
                true => (&mut self.counts.unavailable, Code::Unavailable),
                false => (&mut self.counts.disk_full, Code::DiskFull),
            };
            *count += 1;
            code
        } else if self.unlogged_bytes + self.unflushed_bytes + bytes > limits.unflushed_bytes_max {
            self.counts.busy += 1;
            Code::Busy
        } else if self.reachable_copies(mailbox.slot) < limits.copies_min && !mutant::is(Mutant::StoredBelowCopiesMin) {
            self.counts.unavailable += 1;
            Code::Unavailable
        } else {
            return None;
        };
        Some(Refusal { code, wait_ms: limits.retry_ms })
    }

    /// The recipient's client has taken these.
    pub fn on_ack(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), keys: &[Key]) {
        let mut run = Run::default();
        for key in keys {
            let Some(sender) = self.senders.find(&key.sender) else { continue };
            let key = (key.id, sender);
            let Some((entry, others)) = self.take(turn, (id, mailbox), key, By::This) else { continue };
            self.counts.taken += 1;
            tell_others(turn, others);
            if let Some(origin) = self.origin(&entry)
                && !run.takes(origin, key, 0)
            {
                self.flush_delivered(turn, mailbox, std::mem::take(&mut run));
                run.takes(origin, key, 0);
            }
        }
        self.flush_delivered(turn, mailbox, run);
        self.pump(turn, mailbox);
        mailbox.settle();
    }

    fn flush_delivered(&mut self, turn: &mut Turn<'_>, mailbox: &Mailbox, run: Run) {
        if let Some((to, last, newest, _)) = run.0 {
            let grant = self.grant(turn.now, mailbox, newest, to);
            turn.to_edge(to.login.at, ToEdge::Delivered { to, last, grant });
        }
    }

    /// Makes an entry a tombstone, here and at the replicas that have it. Returns it, and its further return addresses.
    fn take(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        by: By,
    ) -> Option<(Entry, Vec<ReturnAddress>)> {
        let held = mailbox.held.as_mut()?;
        let entry = held.remove(&mut self.sums, key)?;
        self.on_removed(mailbox.slot);
        let remembers = !mutant::is(Mutant::NoTombstones);
        match entry.content() {
            Content::Unlogged(cell) => {
                self.cells.clear(cell);
                self.unlogged_bytes -= u64::from(entry.bytes);
            }
            Content::Logging(cell) => self.cells.clear(cell),
            Content::Flushed(place) => {
                // Of a store that is shared, the core that has seen it taken writes that.
                if remembers && (by == By::This || !self.is_shared()) {
                    self.append_tombstone(turn, (id, mailbox), key, Some(place));
                }
                turn.out.push(Action::Storage(StorageRequest::Trim { place }));
            }
        }
        if remembers && self.tombstones.insert(turn.now.mono_ms, id, key, Kept::Memory) {
            mailbox.references += 1;
        } else {
            self.senders.release(key.1);
        }
        if !matches!(entry.content(), Content::Unlogged(_)) {
            let taken_at = turn.now.wall_ms();
            self.tell_replicas(turn, mailbox, |user, key| FromReplica::Tombstone { user, key, taken_at }, key);
        }
        Some((entry, self.addresses.take(id, key)))
    }

    /// Sends what the page allows to the recipient's session, the lowest entry that is not out first (rule 12).
    fn pump(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox) {
        let Some((login, drain)) = mailbox.presence.drains() else { return };
        if !self.can_send(mailbox.slot) || !mailbox.is_known() {
            return;
        }
        let limits = &self.config.limits;
        let Some(held) = mailbox.held.as_mut() else { return };
        while held.out_messages < limits.page_messages && held.out_bytes < u64::from(limits.page_bytes) {
            let Some(entry) = next_to_send(&mut held.inbox, &self.cells) else { return };
            let key = entry.key();
            held.out_messages += 1;
            held.out_bytes += u64::from(entry.bytes);
            self.counts.drained += 1;
            let name = Key { id: key.0, sender: self.senders.name(key.1).clone() };
            let message = match entry.content() {
                Content::Unlogged(cell) | Content::Logging(cell) => {
                    let (sent_at, body) = self.cells.at(cell);
                    Some(Message { key: name, sent_at, body })
                }
                Content::Flushed(place) => {
                    let user = mailbox.user.clone();
                    turn.out.push(Action::Storage(StorageRequest::Read { user, key: name, place }));
                    None
                }
            };
            match message {
                Some(message) if held.sending.is_empty() => {
                    turn.to_edge(login.at, ToEdge::Deliver { to: login, core: self.config.node, drain, message });
                }
                message => held.sending.push_back((key, message)),
            }
        }
    }

    /// Sends the head of `sending` as far as it has come from the disk.
    fn send_ready(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox) {
        let Some((login, drain)) = mailbox.presence.drains() else { return };
        let Some(held) = mailbox.held.as_mut() else { return };
        while let Some((key, message)) = held.sending.front_mut() {
            let there = held.inbox.entry(*key).is_some_and(|entry| entry.is_out());
            match (there, message.take()) {
                (true, Some(message)) => {
                    turn.to_edge(login.at, ToEdge::Deliver { to: login, core: self.config.node, drain, message });
                }
                (true, None) => return,
                (false, _) => {}
            }
            held.sending.pop_front();
        }
    }

    /// Nothing is out any more: the session it was sent to is not there, or begins anew.
    fn recall(&mut self, mailbox: &mut Mailbox) {
        if let Some(held) = mailbox.held.as_mut() {
            held.inbox.recall();
            held.sending.clear();
            (held.out_messages, held.out_bytes) = (0, 0);
        }
    }

    /// A grant for this sender, if nothing older of it is here or can be elsewhere, and nothing of a session or
    /// pair before (a refused message that is sent again has a lower id than what those have stored; rule 4).
    fn grant(
        &self,
        now: Now,
        mailbox: &Mailbox,
        (id, sender): EntryKey,
        to: ReturnAddress,
    ) -> Option<Box<(MessageId, Grant)>> {
        let grant = mailbox.presence.grant(now.mono_ms)?;
        if !mutant::is(Mutant::DirectWheneverLocationIsKnown) {
            let in_step =
                self.is_lone || self.tenure(mailbox.slot).is_some_and(|tenure| tenure.is_in_step(mailbox.slot));
            let ours =
                |entry: &Entry| entry.pair == to.pair && self.senders.login_of(sender, entry.epoch) == Some(to.login);
            let other = mailbox.held.as_ref().is_some_and(|held| held.inbox.has_other(sender, id, GRANT_LOOKS, ours));
            if other || !in_step || !mailbox.is_known() {
                return None;
            }
        }
        Some(Box::new((id, grant)))
    }

    /// Where confirmations of this entry go, if anybody waits for them.
    fn origin(&self, entry: &Entry) -> Option<ReturnAddress> {
        let login = self.senders.login_of(entry.sender, entry.epoch)?;
        Some(ReturnAddress { login, pair: entry.pair, sequence: entry.sequence })
    }

    /// Whether this core may send from the inboxes of a slot (rule 14).
    fn can_send(&self, slot: Slot) -> bool {
        let copies_min = self.config.limits.copies_min;
        (self.is_lone && self.is_recovered)
            || mutant::is(Mutant::WipedCoreServesBeforeSync)
            || self.tenure(slot).is_some_and(|tenure| tenure.can_send(slot, copies_min))
    }

    /// How many replicas would have a message on disk before `stored` is told.
    fn reachable_copies(&self, slot: Slot) -> u8 {
        match self.tenure(slot) {
            _ if self.is_lone => 1,
            Some(tenure) => tenure.counted(slot, self.config.limits.copies_min).map_or(0, |bits| 1 + ones(bits)),
            None => 0,
        }
    }

    /// How many copies `stored` may name, if these replicas and this one have it on disk, or know of it where the store is
    /// shared; `None`: not yet (rules 8 and 21).
    fn copies_told(&self, slot: Slot, copies: u8) -> Option<u8> {
        let copies_min = self.config.limits.copies_min;
        if mutant::is(Mutant::StoredBelowCopiesMin) {
            return Some(1 + ones(copies));
        }
        let told = match self.tenure(slot) {
            _ if self.is_lone => 1,
            Some(tenure) => {
                let unheard = |counted: &u8| counted & !copies != 0 && !mutant::is(Mutant::StoredBeforeOthersHeard);
                let counted = tenure.counted(slot, copies_min).filter(|counted| !unheard(counted))?;
                // Who is not settled does not know what the others have.
                1 + if tenure.is_settled() { ones(copies | counted) } else { 0 }
            }
            None => return None,
        };
        let is_enough = told >= copies_min;
        is_enough.then(|| if self.is_shared() { self.copies_of_store() } else { told })
    }

    /// Every shard is looked at again.
    fn look_at_all(&mut self) {
        (0..self.tenures.len() as u32).for_each(|shard| self.due.shard(shard));
    }

    fn pump_all(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id) {
                self.pump(turn, mailbox);
            }
        }
    }
}

fn ones(bits: u8) -> u8 {
    bits.count_ones() as u8
}

/// The next entry of an inbox to be sent (rule 9).
fn next_to_send<'a>(inbox: &'a mut Inbox, cells: &Cells) -> Option<&'a mut Entry> {
    if mutant::is(Mutant::InboxOrderedByEdgeClock) {
        let sent_at = |entry: &Entry| match entry.content() {
            Content::Unlogged(cell) | Content::Logging(cell) => cells.at(cell).0,
            Content::Flushed(_) => 0,
        };
        let earliest = inbox.iter().filter(|entry| !entry.is_out()).min_by_key(|entry| sent_at(entry))?.key();
        return inbox.send(earliest);
    }
    inbox.send_next()
}

/// DELIVERED for further return addresses: those sessions have earned nothing by it.
fn tell_others(turn: &mut Turn<'_>, others: Vec<ReturnAddress>) {
    for to in others {
        turn.to_edge(to.login.at, ToEdge::Delivered { to, last: to.sequence, grant: None });
    }
}

/// To the core of another node.
fn to_core(turn: &mut Turn<'_>, node: NodeId, slot: Slot, message: FromReplica) {
    turn.out.push(Action::Peer(Peer::Core { node, slot, message: ToCore::Replica(message) }));
}

/// The record of a tombstone.
fn tombstone_record(mailbox: &Mailbox, key: Key, taken_at: u64, kills: Option<Place>) -> Record {
    Record::Tombstone { user: mailbox.user.clone(), key, taken_at, kills }
}
