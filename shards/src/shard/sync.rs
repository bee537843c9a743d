//! In step with the other replicas: copies of entries, tombstones, and SYNC after a link was away (rules 8 and 14).

use std::collections::{BTreeMap, VecDeque};

use super::{Pending, Run, Shard, Turn, flush_stored, tell_others, to_core};
use crate::event::Action;
use crate::id::{ExecutorId, Key, NodeId, Slot, UserId};
use crate::inbox::{Content, Entry, EntryKey};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::mutant::{self, Mutant};
use crate::peer::FromReplica;
use crate::peer::{Message, Peer, ToCores};
use crate::replica::InStep;
use crate::slot::{slot_of, stable_hash};
use crate::storage::{Mark, Place, Record, StorageRequest};
use crate::tombstone::Kept;

/// SYNCs that this side answers: what goes to another replica for one slot, in order, as far as it is not sent.
///
/// Entries of an inbox travel in the order of their ids and before those that are logged meanwhile, also before it is
/// known what the other side lacks: a SYNC that is cut leaves no younger entry without the older ones of its inbox.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    queues: BTreeMap<(NodeId, Slot), Queue>,
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
    fn on_link_down(&mut self, node: NodeId) {
        self.queues.retain(|&(asker, _), _| asker != node);
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
    /// Every other replica whose link is up.
    pub(super) fn peers_up(&self) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_up()).map(|(&node, _)| node).collect()
    }

    /// How many replicas would have a message on disk before `stored` is told.
    pub(super) fn reachable_copies(&self, slot: Slot) -> u8 {
        1 + self.peers.values().filter(|peer| peer.keeps(slot)).count() as u8
    }

    /// Whether tombstones may be forgotten for their age: no replica is away that could bring the entry back.
    pub(super) fn may_forget(&self) -> bool {
        self.peers.values().all(|peer| peer.is_up() && peer.is_all_synced())
    }

    /// Tells every replica that is up about one entry.
    pub(super) fn tell_replicas(
        &self,
        turn: &mut Turn<'_>,
        mailbox: &Mailbox,
        what: impl Fn(UserId, Key) -> FromReplica,
        key: EntryKey,
    ) {
        for node in self.peers_up() {
            let name = Key { id: key.0, sender: self.senders.name(key.1).clone() };
            to_core(turn, node, mailbox.slot, what(mailbox.user.clone(), name));
        }
    }

    /// Recovery is over. With one replica every log is complete.
    pub fn on_recovered_all(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        if self.complete || self.peers.is_empty() {
            self.complete = true;
            self.pump_all(turn, mailboxes);
        }
    }

    /// The link to another node is up.
    pub fn on_link_up(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.on_link_up();
        for (slot, digest) in self.digests(mailboxes) {
            to_core(turn, node, slot, FromReplica::Digest { slot, digest });
        }
        let (executor, executors, complete) = (self.config.executor, self.config.executors, self.complete);
        let message = ToCores::Offered { executor, executors, complete };
        turn.out.push(Action::Peer(Peer::Cores { node, message }));
    }

    /// The link to another node is lost.
    pub fn on_link_down(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId) {
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
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.on_link_down();
        self.syncs.on_link_down(node);
        self.become_served(turn, mailboxes);
    }

    /// Another core has told all its digests: what differs is asked for.
    pub fn on_offered(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        node: NodeId,
        (executor, executors, complete): (ExecutorId, u16, bool),
    ) {
        let mine = self.digests(mailboxes);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(theirs) = peer.on_offered(executor, executors, complete) else { return };
        for (slot, digest) in theirs {
            if mine.get(&slot) != Some(&digest) {
                peer.want(slot);
                to_core(turn, node, slot, FromReplica::Want { slot });
            }
        }
        let (executor, executors) = (self.config.executor, self.config.executors);
        let message = ToCores::Compared { executor, executors };
        turn.out.push(Action::Peer(Peer::Cores { node, message }));
        if mutant::is(Mutant::CompleteBeforeFlush) && !self.complete {
            self.append_complete(turn, None);
        }
        self.become_synced(turn, mailboxes);
    }

    /// From the core of another replica.
    pub fn on_replica(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId, message: FromReplica) {
        match message {
            FromReplica::Entry { user, message, flushed } => {
                self.on_copy(turn, mailboxes.open(&user), node, (message, flushed));
            }
            FromReplica::Flushed { user, key } => {
                if let Some(at) = mailboxes.find(&user) {
                    self.on_copy_flushed(turn, at, node, &key);
                }
            }
            FromReplica::Tombstone { user, key, taken_at } => {
                self.on_copy_taken(turn, mailboxes.open(&user), &key, taken_at);
            }
            FromReplica::Digest { slot, digest } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.on_digest(slot, digest);
                }
            }
            FromReplica::Offered { .. } | FromReplica::Compared { .. } => {}
            FromReplica::Want { slot } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.set_short(slot, false);
                }
                self.on_want(turn, mailboxes, node, slot);
            }
            FromReplica::NoRoom { slot } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.set_short(slot, true);
                    self.become_served(turn, mailboxes);
                }
            }
            FromReplica::Done { slot } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.on_done(slot);
                    self.want_again(turn);
                    self.become_synced(turn, mailboxes);
                }
            }
        }
    }

    /// A copy found no room on this disk: nothing is sent from its slot until all of it was asked for again.
    pub(super) fn fall_behind(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        for (&node, peer) in &mut self.peers {
            if peer.fall_behind(slot) {
                to_core(turn, node, slot, FromReplica::NoRoom { slot });
            }
        }
    }

    /// There may be room now for what had none.
    pub(super) fn want_again(&mut self, turn: &mut Turn<'_>) {
        if self.full {
            return;
        }
        for (&node, peer) in &mut self.peers {
            for slot in peer.to_want_again() {
                peer.want(slot);
                to_core(turn, node, slot, FromReplica::Want { slot });
            }
        }
    }

    /// A copy of an entry: kept like one of our own, without a return address.
    fn on_copy(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        node: NodeId,
        (message, flushed): (Message, bool),
    ) {
        let sender = self.senders.acquire(&message.key.sender);
        let key = (message.key.id, sender);
        let bit = if flushed { self.bit(node) } else { 0 };
        if self.tombstones.contains(id, key) {
            let (user, key, taken_at) = (mailbox.user.clone(), message.key, turn.now.wall_ms());
            to_core(turn, node, mailbox.slot, FromReplica::Tombstone { user, key, taken_at });
            return self.senders.release(sender);
        }
        let slot = mailbox.slot;
        if let Some(entry) = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key)) {
            entry.copies |= bit;
            let mut run = Run::default();
            self.tell_stored(turn, &mut run, (id, slot), entry);
            flush_stored(turn, run);
            let content = entry.content();
            if matches!(content, Content::Flushed(_)) {
                let (user, key) = (mailbox.user.clone(), message.key);
                to_core(turn, node, slot, FromReplica::Flushed { user, key });
            }
            self.senders.release(sender);
            // The other side waits for this copy, and has to hear when it is taken.
            if matches!(content, Content::Unlogged(_)) {
                self.log_all(turn, (id, mailbox));
            }
            return;
        }
        let mut entry = Entry::new(key.0, sender, message.body.len() as u32, Content::Unlogged(0));
        entry.copies = bit;
        self.insert(turn, (id, mailbox), message, entry);
        self.log_all(turn, (id, mailbox));
    }

    fn on_copy_flushed(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        node: NodeId,
        name: &Key,
    ) {
        let (bit, slot) = (self.bit(node), mailbox.slot);
        let Some(sender) = self.senders.find(&name.sender) else { return };
        let held = mailbox.held.as_mut();
        let Some(entry) = held.and_then(|held| held.inbox.entry_mut((name.id, sender))) else { return };
        entry.copies |= bit;
        let mut run = Run::default();
        self.tell_stored(turn, &mut run, (id, slot), entry);
        flush_stored(turn, run);
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
        if let Some((entry, others)) = self.take(turn, (id, mailbox), key) {
            tell_others(turn, others);
            let mut run = Run::default();
            if let Some(origin) = self.origin(&entry) {
                run.takes(origin, key, 0);
            }
            self.flush_delivered(turn, mailbox, run);
            self.send_ready(turn, mailbox);
            self.pump(turn, mailbox);
            mailbox.settle();
        } else if !mutant::is(Mutant::NoTombstones) && self.tombstones.insert(turn.now.mono_ms, id, key, Kept::Memory) {
            // Never seen here: another replica may still bring it, so the tombstone is kept on disk too.
            mailbox.references += 1;
            self.senders.retain(sender);
            let name = Key { id: key.0, sender: name.sender.clone() };
            let record = super::tombstone_record(mailbox, name, taken_at, None);
            self.append(turn, mailbox, record, Pending::Tombstone { mailbox: id, key, relocates: None });
            self.tell_replicas(turn, mailbox, |user, key| FromReplica::Tombstone { user, key, taken_at }, key);
        }
        self.senders.release(sender);
    }

    /// Another replica lacks something of this slot: it gets everything.
    fn on_want(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId, slot: Slot) {
        let mut entries = VecDeque::new();
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id).filter(|mailbox| mailbox.slot == slot) else { continue };
            for entry in mailbox.held.iter().flat_map(|held| held.inbox.iter()) {
                let (user, key) = (mailbox.user.clone(), entry.key());
                let name = Key { id: entry.id, sender: self.senders.name(entry.sender).clone() };
                let message = match entry.content() {
                    // What is not logged is not replicated either, until it is.
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
                entries.push_back(Queued { mailbox: id, user, key, message });
            }
        }
        for (id, key) in self.tombstones.iter() {
            let Some(mailbox) = mailboxes.mailbox(id).filter(|mailbox| mailbox.slot == slot) else { continue };
            let key = Key { id: key.0, sender: self.senders.name(key.1).clone() };
            let (user, taken_at) = (mailbox.user.clone(), turn.now.wall_ms());
            to_core(turn, node, slot, FromReplica::Tombstone { user, key, taken_at });
        }
        self.syncs.queues.insert((node, slot), Queue { entries, is_wanted: true });
        self.go_on_syncing(turn, mailboxes, slot);
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
        if !self.peers.get(&node).is_some_and(InStep::has_compared) {
            self.syncs.queues.entry((node, slot)).or_default();
        }
        match self.syncs.queues.get_mut(&(node, slot)) {
            Some(queue) => queue.entries.push_back(Queued { mailbox: id, user, key, message: Some(message) }),
            None => to_core(turn, node, slot, FromReplica::Entry { user, message, flushed: false }),
        }
    }

    /// Another core has asked for all that it lacks: what waited for that goes out.
    pub fn on_compared(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        node: NodeId,
        (executor, executors): (ExecutorId, u16),
    ) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.on_compared(executor, executors) {
            let slots: Vec<Slot> = self.syncs.queues.keys().filter(|(its, _)| *its == node).map(|of| of.1).collect();
            slots.into_iter().for_each(|slot| self.go_on_syncing(turn, mailboxes, slot));
        }
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
        let mut done = Vec::new();
        for (&(node, its), queue) in self.syncs.queues.iter_mut().filter(|((_, its), _)| *its == slot) {
            if !queue.is_wanted && !self.peers.get(&node).is_some_and(InStep::has_compared) {
                continue;
            }
            send_head(turn, (node, its), &mut queue.entries, mailboxes);
            if queue.entries.is_empty() {
                if queue.is_wanted {
                    to_core(turn, node, its, FromReplica::Done { slot });
                }
                done.push((node, its));
            }
        }
        done.iter().for_each(|of| drop(self.syncs.queues.remove(of)));
    }

    /// Something more is synced: perhaps this log is complete now.
    pub(super) fn become_synced(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        if !self.complete {
            let all = self.peers.values().all(|peer| peer.is_up() && peer.is_all_synced());
            let pending = self.pending.iter().any(|pending| matches!(pending, Pending::Complete { .. }));
            if all && !pending && !self.full {
                // Behind the synced entries, and it counts when it is flushed.
                self.append_complete(turn, None);
            }
        }
        self.become_served(turn, mailboxes);
    }

    /// The mark; a copy of it where it is to leave a place.
    pub(super) fn append_complete(&mut self, turn: &mut Turn<'_>, relocates: Option<Place>) {
        self.pending.push_back(Pending::Complete { relocates });
        turn.out.push(Action::Storage(StorageRequest::Append(Record::Complete(Mark::default()))));
    }

    /// The mark is on disk.
    pub(super) fn become_complete(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        if !self.complete {
            self.complete = true;
            self.pump_all(turn, mailboxes);
        }
    }

    /// Which replicas count has changed: what waits for them is looked at again.
    fn become_served(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        let mut run = Run::default();
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let slot = mailbox.slot;
            if let Some(held) = mailbox.held.as_mut() {
                held.inbox.each_mut(|entry| self.tell_stored(turn, &mut run, (id, slot), entry));
            }
        }
        flush_stored(turn, run);
        self.pump_all(turn, mailboxes);
    }

    fn pump_all(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id) {
                self.pump(turn, mailbox);
            }
        }
    }

    /// What this executor has, by slot: entries that were logged, and tombstones.
    fn digests(&self, mailboxes: &mut Mailboxes) -> BTreeMap<Slot, u64> {
        let mut digests = BTreeMap::new();
        let mut add = |mailbox: &Mailbox, key: EntryKey, kind: u8| {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&key.0.bytes());
            for name in [self.senders.name(key.1), &mailbox.user] {
                bytes.push(name.as_bytes().len() as u8);
                bytes.extend_from_slice(name.as_bytes());
            }
            *digests.entry(mailbox.slot).or_insert(0) ^= stable_hash(&bytes);
        };
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let Some(held) = &mailbox.held else { continue };
            for entry in held.inbox.iter().filter(|entry| !matches!(entry.content(), Content::Unlogged(_))) {
                add(mailbox, entry.key(), 1);
            }
        }
        for (id, key) in self.tombstones.iter() {
            if let Some(mailbox) = mailboxes.mailbox(id) {
                add(mailbox, key, 2);
            }
        }
        digests
    }

    /// The bit of another replica in [`Entry::copies`].
    fn bit(&self, node: NodeId) -> u8 {
        self.peers.keys().position(|&peer| peer == node).map_or(0, |bit| 1 << bit)
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
