//! In step with the other replicas: copies of entries, tombstones, and SYNC after a link was away (rules 8 and 14).

use std::collections::BTreeMap;

use super::{Pending, Run, Shard, Turn, flush_stored, tell_others, to_core};
use crate::event::Action;
use crate::id::{ExecutorId, Key, NodeId, Slot, UserId};
use crate::inbox::{Content, Entry, EntryKey};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::mutant::{self, Mutant};
use crate::peer::{Message, Peer, ToCores};
use crate::replica::FromReplica;
use crate::slot::stable_hash;
use crate::storage::{Place, Record, StorageRequest};
use crate::tombstone::Kept;

/// Entries that other replicas asked for and that come from the disk.
#[derive(Debug, Default)]
pub(super) struct Reading {
    entries: BTreeMap<(MailboxId, EntryKey), Vec<(NodeId, Slot)>>,
    /// How many of them each question waits for.
    left: BTreeMap<(NodeId, Slot), usize>,
}

impl Shard {
    /// Every other replica whose link is up.
    pub(super) fn peers_up(&self) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_up()).map(|(&node, _)| node).collect()
    }

    /// How many replicas would have a message on disk before `stored` is told.
    pub(super) fn reachable_copies(&self, slot: Slot) -> u8 {
        1 + self.peers.values().filter(|peer| peer.is_up() && peer.is_synced(slot)).count() as u8
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
    pub fn on_recovered_all(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, complete: bool) {
        if complete || self.peers.is_empty() {
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
        self.reading.left.retain(|&(asker, _), _| asker != node);
        self.reading.entries.retain(|_, askers| {
            askers.retain(|&(asker, _)| asker != node);
            !askers.is_empty()
        });
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
            FromReplica::Want { slot } => self.on_want(turn, mailboxes, node, slot),
            FromReplica::Done { slot } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.on_done(slot);
                    self.become_synced(turn, mailboxes);
                }
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
        let mut left = 0;
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id).filter(|mailbox| mailbox.slot == slot) else { continue };
            let Some(held) = &mailbox.held else { continue };
            for entry in held.inbox.iter() {
                let key = Key { id: entry.id, sender: self.senders.name(entry.sender).clone() };
                let user = mailbox.user.clone();
                match entry.content() {
                    // What is not logged is not replicated either, until it is.
                    Content::Unlogged(_) => {}
                    Content::Logging(cell) => {
                        let (sent_at, body) = self.cells.at(cell);
                        let message = Message { key, sent_at, body };
                        to_core(turn, node, slot, FromReplica::Entry { user, message, flushed: false });
                    }
                    Content::Flushed(place) => {
                        left += 1;
                        self.reading.entries.entry((id, entry.key())).or_default().push((node, slot));
                        turn.out.push(Action::Storage(StorageRequest::Read { user, key, place }));
                    }
                }
            }
        }
        for (id, key) in self.tombstones.iter() {
            let Some(mailbox) = mailboxes.mailbox(id).filter(|mailbox| mailbox.slot == slot) else { continue };
            let key = Key { id: key.0, sender: self.senders.name(key.1).clone() };
            let (user, taken_at) = (mailbox.user.clone(), turn.now.wall_ms());
            to_core(turn, node, slot, FromReplica::Tombstone { user, key, taken_at });
        }
        if left == 0 {
            return to_core(turn, node, slot, FromReplica::Done { slot });
        }
        self.reading.left.insert((node, slot), left);
    }

    /// The content of an entry that replicas asked for has come from the disk.
    pub(super) fn answer_want(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        message: &Message,
    ) {
        let there = mailbox.held.as_ref().is_some_and(|held| held.inbox.entry(key).is_some());
        self.each_asker(turn, (id, key), |turn, node, slot| {
            if there {
                let (user, message) = (mailbox.user.clone(), message.clone());
                to_core(turn, node, slot, FromReplica::Entry { user, message, flushed: true });
            }
        });
    }

    /// The content of an entry that replicas asked for is lost.
    pub(super) fn forget_want(&mut self, turn: &mut Turn<'_>, (id, _): (MailboxId, &mut Mailbox), key: EntryKey) {
        self.each_asker(turn, (id, key), |_, _, _| {});
    }

    fn each_asker(
        &mut self,
        turn: &mut Turn<'_>,
        of: (MailboxId, EntryKey),
        then: impl Fn(&mut Turn<'_>, NodeId, Slot),
    ) {
        for (node, slot) in self.reading.entries.remove(&of).unwrap_or_default() {
            let Some(left) = self.reading.left.get_mut(&(node, slot)) else { continue };
            then(turn, node, slot);
            *left -= 1;
            if *left == 0 {
                self.reading.left.remove(&(node, slot));
                to_core(turn, node, slot, FromReplica::Done { slot });
            }
        }
    }

    /// Something more is synced: perhaps this log is complete now.
    fn become_synced(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        if !self.complete {
            let all = self.peers.values().all(|peer| peer.is_up() && peer.is_all_synced());
            let pending = self.pending.iter().any(|pending| matches!(pending, Pending::Complete { .. }));
            if all && !pending {
                // Behind the synced entries, and it counts when it is flushed.
                self.append_complete(turn, None);
                if mutant::is(Mutant::CompleteBeforeFlush) {
                    self.complete = true;
                }
            }
        }
        self.become_served(turn, mailboxes);
    }

    /// The mark; a copy of it where it is to leave a place.
    pub(super) fn append_complete(&mut self, turn: &mut Turn<'_>, relocates: Option<Place>) {
        self.pending.push_back(Pending::Complete { relocates });
        turn.out.push(Action::Storage(StorageRequest::Append(Record::Complete)));
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
