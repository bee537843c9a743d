//! In step with the other replicas: copies of entries, tombstones, and SYNC after a link was away (rules 8 and 14).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{By, Pending, Run, Shard, Turn, flush_stored, tell_others, to_core};
use crate::event::Action;
use crate::id::{ExecutorId, Key, NodeId, Slot, UserId};
use crate::inbox::{Content, Entry, EntryKey};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::mutant::{self, Mutant};
use crate::peer::FromReplica;
use crate::peer::Message;
use crate::replica::InStep;
use crate::slot::slot_of;
use crate::storage::StorageRequest;
use crate::tenure::Tenure;
use crate::tombstone::Kept;

/// SYNCs that this side answers: what goes to another replica for one slot, in order, as far as it is not sent.
///
/// Entries of an inbox travel in the order of their ids and before those that are logged meanwhile, also before it is
/// known what the other side lacks: a SYNC that is cut leaves no younger entry without the older ones of its inbox.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    queues: BTreeMap<(NodeId, Slot), Queue>,
    /// Slots that were asked for by executors that may ask for more: all are answered at once.
    asked: BTreeSet<(NodeId, Slot)>,
}

/// What waits to be sent to another replica for one slot.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Queued>,
    /// It was asked for; else it waits for the other side to say what it lacks.
    is_wanted: bool,
}

/// An entry in the queue of a SYNC.
#[derive(Debug)]
struct Queued {
    mailbox: MailboxId,
    user: UserId,
    key: EntryKey,
    /// None while the disk is asked for it.
    message: Option<Message>,
}

impl Syncs {
    pub(super) fn on_link_down(&mut self, node: NodeId) {
        self.queues.retain(|&(asker, _), _| asker != node);
        self.asked.retain(|&(asker, _)| asker != node);
    }

    /// The slot is offered anew, or nothing of it is to be sent any more. Whether it was asked for.
    pub(super) fn forget(&mut self, node: NodeId, slot: Slot) -> bool {
        let is_wanted = self.queues.remove(&(node, slot)).is_some_and(|queue| queue.is_wanted);
        self.asked.remove(&(node, slot)) || is_wanted
    }

    /// Whether nothing waits to be sent to this node.
    pub(super) fn is_sent(&self, node: NodeId) -> bool {
        self.queues.range((node, Slot(0))..=(node, Slot(u32::MAX))).next().is_none()
    }

    /// The queues of a slot.
    fn of_slot(&mut self, slot: Slot) -> impl Iterator<Item = &mut VecDeque<Queued>> {
        self.queues.iter_mut().filter(move |((_, its), _)| *its == slot).map(|(_, queue)| &mut queue.entries)
    }

    /// An entry has come from the disk; `None`: it is lost, and so it is out of the queues.
    fn fill(&mut self, slot: Slot, of: (MailboxId, EntryKey), message: Option<&Message>) {
        for queue in self.of_slot(slot) {
            let is_it = |queued: &Queued| (queued.mailbox, queued.key) == of && queued.message.is_none();
            let Some(at) = queue.iter().position(is_it) else { continue };
            match message {
                Some(message) => queue[at].message = Some(message.clone()),
                None => drop(queue.remove(at)),
            }
        }
    }
}

impl Shard {
    /// Who gets what is appended to a slot. Who had no room for some of it gets nothing until it wants all.
    pub(super) fn offered(&self, slot: Slot) -> Vec<NodeId> {
        let keep_copies = (!self.is_shared()).then(|| self.tenure(slot)).flatten();
        let peers = keep_copies.into_iter().flat_map(|tenure| tenure.peers());
        peers.filter(|(_, peer)| peer.is_offered(slot) && !peer.is_short(slot)).map(|(node, _)| node).collect()
    }

    /// Whether tombstones may be forgotten for their age: no replica is away that could bring the entry back.
    pub(super) fn may_forget(&self) -> bool {
        self.is_lone || self.tenures().all(|tenure| tenure.may_forget())
    }

    /// Tells everybody who keeps the slot, or hands it over, about one entry.
    pub(super) fn tell_replicas(
        &self,
        turn: &mut Turn<'_>,
        mailbox: &Mailbox,
        what: impl Fn(UserId, Key) -> FromReplica,
        key: EntryKey,
    ) {
        let Some(tenure) = self.tenure(mailbox.slot) else { return };
        let replicas = tenure.serves().then_some(tenure.replicas());
        for (node, _) in tenure.peers().filter(|(_, peer)| peer.hears(mailbox.slot, replicas)) {
            let name = Key { id: key.0, sender: self.senders.name(key.1).clone() };
            to_core(turn, node, mailbox.slot, what(mailbox.user.clone(), name));
        }
    }

    /// From the core of another replica.
    pub fn on_replica(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId, message: FromReplica) {
        match message {
            FromReplica::Entry { user, message, flushed } => {
                self.on_copy(turn, mailboxes, &user, (node, message, flushed));
            }
            FromReplica::Flushed { user, key, asks } if self.is_shared() => {
                self.on_stored_elsewhere(turn, mailboxes, (node, key, asks), user);
            }
            FromReplica::Flushed { user, key, asks } => {
                if let Some(at) = mailboxes.find(&user) {
                    self.on_copy_flushed(turn, at, node, (&key, asks));
                }
            }
            FromReplica::Tombstone { user, key, taken_at } => {
                let keeps = self.serves(slot_of(user.as_bytes())) && !self.is_shared();
                if keeps || mailboxes.find(&user).is_some() {
                    self.on_copy_taken(turn, mailboxes.open(&user), &key, taken_at);
                }
            }
            FromReplica::Digest { slot, digest } => self.on_digest(node, slot, digest),
            FromReplica::Offered { executor, round, shards } => {
                self.on_offered(turn, mailboxes, (node, executor), (round, &shards));
            }
            FromReplica::Compared { executor, round, shards } => {
                self.on_compared(turn, mailboxes, (node, executor), (round, &shards));
            }
            FromReplica::Want { slot } => self.on_want(turn, mailboxes, node, slot),
            FromReplica::NoRoom { slot } => self.on_no_room(turn, node, slot),
            FromReplica::Done { slot } => {
                let shard = self.shard_of(slot);
                if self.peer_of(node, slot).is_some_and(|peer| peer.on_done(slot)) {
                    self.due.shard(shard);
                }
                self.want_again(turn, shard);
            }
        }
    }

    fn peer_of(&mut self, node: NodeId, slot: Slot) -> Option<&mut InStep> {
        let shard = self.shard_of(slot);
        self.tenures.get_mut(shard as usize)?.as_deref_mut()?.peer_mut(node)
    }

    /// A copy found no room on the other side's disk, which drops what is on its way behind it. Nothing more is sent of the
    /// slot until all of it is wanted, so that the other side knows where that begins.
    fn on_no_room(&mut self, turn: &mut Turn<'_>, node: NodeId, slot: Slot) {
        if let Some(peer) = self.peer_of(node, slot) {
            peer.set_short(slot, true);
            self.due.shard(self.shard_of(slot));
        }
        if self.syncs.forget(node, slot) {
            to_core(turn, node, slot, FromReplica::Done { slot });
        }
        to_core(turn, node, slot, FromReplica::Done { slot });
    }

    /// A copy found no room on this disk: nothing is sent from its slot until all of it was asked for again.
    pub(super) fn fall_behind(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        let shard = self.shard_of(slot);
        let tenure = self.tenures.get_mut(shard as usize).and_then(Option::as_deref_mut);
        let Some(tenure) = tenure.filter(|tenure| tenure.serves()) else { return };
        for (node, peer) in tenure.peers_mut() {
            if peer.fall_behind(slot) {
                to_core(turn, node, slot, FromReplica::NoRoom { slot });
            }
        }
    }

    /// There may be room now for what had none.
    pub(super) fn want_again(&mut self, turn: &mut Turn<'_>, shard: u32) {
        let has_room = self.has_room();
        let tenure = self.tenures.get_mut(shard as usize).and_then(Option::as_deref_mut);
        let Some(tenure) = tenure.filter(|_| has_room) else { return };
        for (node, peer) in tenure.peers_mut() {
            for slot in peer.to_want_again() {
                if peer.want(slot) {
                    to_core(turn, node, slot, FromReplica::Want { slot });
                }
            }
        }
    }

    /// A copy of an entry: kept like one of our own, without a return address. Not from a node that does not agree on
    /// who keeps the slot: it will offer again when it does. Nor with a gap before it: it comes again behind what fills it.
    fn on_copy(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        user: &UserId,
        (node, message, flushed): (NodeId, Message, bool),
    ) {
        let slot = slot_of(user.as_bytes());
        let takes = |tenure: &&Tenure| tenure.takes_copy(node, slot);
        let Some(tenure) = self.tenure(slot).filter(takes) else {
            if mutant::is(Mutant::AnswersWhatItDoesNotKeep) {
                let (user, key) = (user.clone(), message.key);
                to_core(turn, node, slot, FromReplica::Flushed { user, key, asks: false });
            }
            return;
        };
        let bit = if flushed { tenure.bit(node) } else { 0 };
        let (id, mailbox) = mailboxes.open(user);
        let sender = self.senders.acquire(&message.key.sender);
        let key = (message.key.id, sender);
        if self.tombstones.contains(id, key) {
            let (user, key, taken_at) = (mailbox.user.clone(), message.key, turn.now.wall_ms());
            to_core(turn, node, slot, FromReplica::Tombstone { user, key, taken_at });
            return self.senders.release(sender);
        }
        let Some(entry) = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key)) else {
            if self.doubtful > 0 {
                self.senders.release(sender);
                return self.fall_behind(turn, slot);
            }
            let mut entry = Entry::new(key.0, sender, message.body.len() as u32, Content::Unlogged(0));
            entry.copies = bit;
            entry.set_copied();
            self.insert(turn, (id, mailbox), message, entry);
            return self.log_all(turn, (id, mailbox));
        };
        entry.copies |= bit;
        entry.set_copied();
        let mut run = Run::default();
        self.tell_stored(turn, &mut run, (id, slot), entry);
        flush_stored(turn, run);
        let content = entry.content();
        if matches!(content, Content::Flushed(_)) {
            let (user, key) = (mailbox.user.clone(), message.key);
            to_core(turn, node, slot, FromReplica::Flushed { user, key, asks: false });
        }
        self.senders.release(sender);
        // The other side waits for this copy, and has to hear when it is taken.
        if matches!(content, Content::Unlogged(_)) {
            self.log_all(turn, (id, mailbox));
        }
    }

    fn on_copy_flushed(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        node: NodeId,
        (name, asks): (&Key, bool),
    ) {
        let slot = mailbox.slot;
        let Some(tenure) = self.tenure(slot) else { return };
        let (mut bit, takes) = (tenure.bit(node), tenure.takes_from(node, slot));
        if !tenure.serves() && !tenure.is_heir(node, slot) {
            // It hands over what it has, as this node does, perhaps to this node.
            bit = 0;
        }
        let Some(sender) = self.senders.find(&name.sender) else { return };
        let key = (name.id, sender);
        if asks && takes && self.tombstones.contains(id, key) {
            let (user, key, taken_at) = (mailbox.user.clone(), name.clone(), turn.now.wall_ms());
            to_core(turn, node, slot, FromReplica::Tombstone { user, key, taken_at });
        }
        let held = mailbox.held.as_mut();
        let Some(entry) = held.and_then(|held| held.inbox.entry_mut(key)) else { return };
        entry.copies |= bit;
        let mut run = Run::default();
        self.tell_stored(turn, &mut run, (id, slot), entry);
        flush_stored(turn, run);
        if asks && takes && matches!(entry.content(), Content::Flushed(_)) {
            let (user, key) = (mailbox.user.clone(), name.clone());
            to_core(turn, node, slot, FromReplica::Flushed { user, key, asks: false });
        }
        self.hand_over(turn, (id, mailbox), key);
    }

    /// A replica says that an entry was taken: whoever waits here hears `delivered` (rule 12).
    fn on_copy_taken(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        name: &Key,
        taken_at: u64,
    ) {
        let sender = self.senders.acquire(&name.sender);
        let key = (name.id, sender);
        if let Some((entry, others)) = self.take(turn, (id, mailbox), key, By::Another) {
            tell_others(turn, others);
            let mut run = Run::default();
            if let Some(origin) = self.origin(&entry) {
                run.takes(origin, key, 0);
            }
            self.flush_delivered(turn, mailbox, run);
            self.send_ready(turn, mailbox);
            self.pump(turn, mailbox);
            mailbox.settle();
        } else if self.serves(mailbox.slot)
            && !mutant::is(Mutant::NoTombstones)
            && self.tombstones.insert(turn.now.mono_ms, id, key, Kept::Memory)
        {
            // Never seen here: another replica may still bring it, so the tombstone is kept on disk too.
            mailbox.references += 1;
            self.senders.retain(sender);
            if self.is_shared() {
                return self.senders.release(sender);
            }
            let name = Key { id: key.0, sender: name.sender.clone() };
            let record = super::tombstone_record(mailbox, name, taken_at, None);
            self.append(turn, mailbox, record, Pending::Tombstone { mailbox: id, key, relocates: None });
            // Not while older ones are forgotten for it: replicas that remember fewer than they tell each other would
            // never come to an end.
            if !self.has_too_many_tombstones() {
                self.tell_replicas(turn, mailbox, |user, key| FromReplica::Tombstone { user, key, taken_at }, key);
            }
        }
        self.senders.release(sender);
    }

    /// Another replica lacks something of this slot: it gets everything, once it has said what else it lacks.
    fn on_want(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId, slot: Slot) {
        if self.tenure(slot).is_none() {
            // Nothing was offered but that there is nothing.
            return to_core(turn, node, slot, FromReplica::Done { slot });
        }
        let Some(peer) = self.peer_of(node, slot).filter(|peer| peer.is_offered(slot)) else { return };
        peer.set_short(slot, false);
        let is_last = peer.has_compared(slot);
        self.syncs.asked.insert((node, slot));
        if is_last {
            self.answer_wants(turn, mailboxes, node);
        }
    }

    fn answer_wants(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId) {
        let asked = std::mem::take(&mut self.syncs.asked);
        let (slots, others) = asked.into_iter().partition::<BTreeSet<_>, _>(|(its, _)| *its == node);
        self.syncs.asked = others;
        let slots: BTreeSet<Slot> = slots.into_iter().map(|(_, slot)| slot).collect();
        if slots.is_empty() {
            return;
        }
        for &slot in &slots {
            self.syncs.queues.insert((node, slot), Queue { entries: VecDeque::new(), is_wanted: true });
        }
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id).filter(|mailbox| slots.contains(&mailbox.slot)) {
                let entries = self.queue_inbox(turn, (id, mailbox));
                self.syncs.queues.entry((node, mailbox.slot)).or_default().entries.extend(entries);
            }
        }
        for (id, key) in self.tombstones.iter() {
            let mailbox = mailboxes.mailbox(id).filter(|mailbox| slots.contains(&mailbox.slot));
            let Some(mailbox) = mailbox else { continue };
            let key = Key { id: key.0, sender: self.senders.name(key.1).clone() };
            let (user, taken_at) = (mailbox.user.clone(), turn.now.wall_ms());
            to_core(turn, node, mailbox.slot, FromReplica::Tombstone { user, key, taken_at });
        }
        slots.into_iter().for_each(|slot| self.go_on_syncing(turn, mailboxes, slot));
    }

    /// Everything of an inbox that is logged: what is not is not replicated either, until it is.
    fn queue_inbox(&self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &Mailbox)) -> Vec<Queued> {
        let mut entries = Vec::new();
        for entry in mailbox.held.iter().flat_map(|held| held.inbox.iter()) {
            let (user, key) = (mailbox.user.clone(), entry.key());
            let name = Key { id: entry.id, sender: self.senders.name(entry.sender).clone() };
            let message = match entry.content() {
                Content::Unlogged(_) => continue,
                Content::Logging(cell) => {
                    let (sent_at, body) = self.cells.at(cell);
                    Some(Message { key: name, sent_at, body })
                }
                Content::Flushed(place) => {
                    let request = StorageRequest::Read { user: user.clone(), key: name, place };
                    turn.out.push(Action::Storage(request));
                    None
                }
            };
            entries.push(Queued { mailbox: id, user, key, message });
        }
        entries
    }

    /// A copy of an entry for another replica: behind the SYNC of its slot, if there is one.
    pub(super) fn replicate(
        &mut self,
        turn: &mut Turn<'_>,
        (node, slot): (NodeId, Slot),
        (id, user): (MailboxId, &UserId),
        (key, message): (EntryKey, Message),
    ) {
        let user = user.clone();
        if !self.has_compared(node, slot) {
            self.syncs.queues.entry((node, slot)).or_default();
        }
        match self.syncs.queues.get_mut(&(node, slot)) {
            Some(queue) => queue.entries.push_back(Queued { mailbox: id, user, key, message: Some(message) }),
            None => to_core(turn, node, slot, FromReplica::Entry { user, message, flushed: false }),
        }
    }

    fn has_compared(&self, node: NodeId, slot: Slot) -> bool {
        self.tenure(slot).and_then(|tenure| tenure.peer(node)).is_some_and(|peer| peer.has_compared(slot))
    }

    /// An executor of another core has asked for all that it lacks: what waited for that goes out.
    fn on_compared(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        (node, from): (NodeId, ExecutorId),
        (round, shards): (u32, &[u32]),
    ) {
        let mut compared = BTreeSet::new();
        for &shard in shards {
            let tenure = self.tenures.get_mut(shard as usize).and_then(Option::as_deref_mut);
            let Some(peer) = tenure.and_then(|tenure| tenure.peer_mut(node)) else { continue };
            if peer.on_compared(from, round) {
                compared.insert(shard);
            }
        }
        for &shard in &compared {
            if self.open_tenure(shard).has_told_heirs() {
                self.due.shard(shard);
            }
        }
        self.answer_wants(turn, mailboxes, node);
        self.ask_for_copies(turn, mailboxes, node, &compared);
        let slots: Vec<Slot> = self.syncs.queues.keys().filter(|(its, _)| *its == node).map(|of| of.1).collect();
        slots.into_iter().for_each(|slot| self.go_on_syncing(turn, mailboxes, slot));
    }

    /// The content of an entry has come from the disk, or is lost.
    pub fn on_content(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        (user, name): (&UserId, &Key),
        message: Option<&Message>,
    ) {
        if self.syncs.queues.is_empty() {
            return;
        }
        let slot = slot_of(user.as_bytes());
        if let (Some((id, _)), Some(sender)) = (mailboxes.find(user), self.senders.find(&name.sender)) {
            self.syncs.fill(slot, (id, (name.id, sender)), message);
        }
        // Also where it was taken and forgotten meanwhile: what is behind it goes on.
        self.go_on_syncing(turn, mailboxes, slot);
    }

    /// Sends the head of each SYNC of a slot as far as it has come from the disk.
    fn go_on_syncing(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, slot: Slot) {
        let its = self.syncs.queues.keys().filter(|(_, its)| *its == slot).copied().collect::<Vec<_>>();
        for of in its {
            let compared = self.has_compared(of.0, slot);
            let Some(queue) = self.syncs.queues.get_mut(&of).filter(|queue| queue.is_wanted || compared) else {
                continue;
            };
            send_head(turn, of, &mut queue.entries, mailboxes);
            if queue.entries.is_empty() {
                if queue.is_wanted {
                    to_core(turn, of.0, slot, FromReplica::Done { slot });
                }
                self.syncs.queues.remove(&of);
            }
        }
    }
}

/// Sends the head of a queue as far as it has come from the disk.
fn send_head(
    turn: &mut Turn<'_>,
    (node, slot): (NodeId, Slot),
    entries: &mut VecDeque<Queued>,
    mailboxes: &mut Mailboxes,
) {
    while let Some(queued) = entries.front_mut() {
        let held = mailboxes.mailbox(queued.mailbox).and_then(|mailbox| mailbox.held.as_ref());
        let content = held.and_then(|held| held.inbox.entry(queued.key)).map(Entry::content);
        match (content, queued.message.take()) {
            (Some(content), Some(message)) => {
                let (user, flushed) = (queued.user.clone(), matches!(content, Content::Flushed(_)));
                to_core(turn, node, slot, FromReplica::Entry { user, message, flushed });
            }
            (Some(_), None) => return,
            // Taken or dropped meanwhile.
            (None, _) => {}
        }
        entries.pop_front();
    }
}
