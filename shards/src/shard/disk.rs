//! What goes to the storage engine and what comes back: logging, flushing, relocation, recovery (rules 1, 8 and 15).

use super::{By, Pending, Run, Shard, Turn, flush_stored, tombstone_record};
use crate::event::Action;
use crate::frame::Code;
use crate::id::{Key, ReturnAddress, Slot, UserId};
use crate::inbox::{Content, Entry, EntryKey};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::mutant::{self, Mutant};
use crate::peer::FromReplica;
use crate::peer::{Message, Refusal, ToEdge};
use crate::storage::{self, Place, Record, StorageRequest};
use crate::time::Now;
use crate::tombstone::Kept;

impl Shard {
    /// Logs everything of an inbox that is in memory only, in order of arrival (rule 1).
    pub(super) fn log_all(&mut self, turn: &mut Turn<'_>, at: (MailboxId, &mut Mailbox)) {
        self.log_until(turn, at, u64::MAX);
    }

    /// A timer of this mailbox fires: logs what has waited long enough.
    pub fn on_timer(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox)) {
        let Some(held) = mailbox.held.as_mut() else { return };
        held.timer_armed = false;
        if (self.is_full || self.is_away) && mailbox.presence.drains().is_some() {
            self.arm(turn.now, id, mailbox);
            return;
        }
        self.log_until(turn, (id, mailbox), turn.now.mono_ms);
        self.arm(turn.now, id, mailbox);
        mailbox.settle();
    }

    fn log_until(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), until_ms: u64) {
        if self.doubtful > 0 {
            return self.arm(turn.now, id, mailbox);
        }
        while let Some(held) = mailbox.held.as_mut()
            && let Some(&(due_ms, key)) = held.unlogged.front()
            && due_ms <= until_ms
        {
            let key = match mutant::is(Mutant::YoungerEntryLoggedFirst) {
                true => held.unlogged.pop_back().map_or(key, |(_, youngest)| youngest),
                false => held.unlogged.pop_front().map_or(key, |(_, oldest)| oldest),
            };
            self.log_entry(turn, (id, mailbox), key);
        }
    }

    /// Asks the engine to append one entry, and the replicas to keep it too.
    fn log_entry(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), key: EntryKey) {
        let slot = mailbox.slot;
        let Some(entry) = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key)) else { return };
        let Content::Unlogged(cell) = entry.content() else { return };
        entry.set_content(Content::Logging(cell));
        let bytes = entry.bytes;
        self.unlogged_bytes -= u64::from(bytes);
        self.unflushed_bytes += u64::from(bytes);
        if mutant::is(Mutant::StoredBeforeFlush)
            && let Some(to) = self.origin(entry)
        {
            turn.to_edge(to.login.at, ToEdge::Stored { to, last: to.sequence, newest: key.0, copies: 1 });
        }
        let name = Key { id: key.0, sender: self.senders.name(key.1).clone() };
        let (sent_at, body) = self.cells.at(cell);
        let user = mailbox.user.clone();
        for node in self.offered(slot) {
            let message = Message { key: name.clone(), sent_at, body: body.clone() };
            self.replicate(turn, (node, slot), (id, &user), (key, message));
        }
        let record = Record::Entry(storage::Entry { user, key: name, sent_at, body });
        self.append(turn, mailbox, record, Pending::Entry { mailbox: id, key, bytes, relocates: None });
    }

    pub(super) fn append_tombstone(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        kills: Option<Place>,
    ) {
        let name = Key { id: key.0, sender: self.senders.name(key.1).clone() };
        let record = tombstone_record(mailbox, name, turn.now.wall_ms(), kills);
        self.append(turn, mailbox, record, Pending::Tombstone { mailbox: id, key, relocates: None });
    }

    /// Mailbox and sender stay as long as an append refers to them.
    pub(super) fn append(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox, record: Record, pending: Pending) {
        if let Pending::Entry { key, .. } | Pending::Tombstone { key, .. } | Pending::Dropped { key, .. } = pending {
            mailbox.references += 1;
            self.senders.retain(key.1);
        }
        self.pending.push_back(pending);
        turn.out.push(Action::Storage(StorageRequest::Append(record)));
    }

    /// Appends are on disk.
    pub fn on_flushed(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, places: &[Place]) {
        let mut run = Run::default();
        for &place in places {
            let pending = self.pending.pop_front().expect("the engine answers only what was appended");
            match pending {
                Pending::Entry { mailbox, key, bytes, relocates } => {
                    if relocates.is_none() {
                        self.unflushed_bytes -= u64::from(bytes);
                    }
                    let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                    self.on_entry_flushed(turn, &mut run, (mailbox, at), key, (place, relocates));
                    self.hand_over(turn, (mailbox, at), key);
                    self.answered(at, key);
                }
                Pending::Tombstone { mailbox, key, relocates } => {
                    self.on_tombstone_flushed(turn, (mailbox, key), (place, relocates));
                    let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                    self.answered(at, key);
                }
                Pending::Complete => self.on_mark_flushed(turn, place),
                Pending::Dropped { .. } => unreachable!("what is behind a failed append fails until that was heard"),
            }
        }
        flush_stored(turn, run);
        self.on_answered(turn, places.len());
    }

    fn on_tombstone_flushed(
        &mut self,
        turn: &mut Turn<'_>,
        (mailbox, key): (MailboxId, EntryKey),
        (place, relocates): (Place, Option<Place>),
    ) {
        // It may have been forgotten, and its old place trimmed, while it was being relocated.
        let expected = |kept: &Kept| relocates.is_none_or(|old| *kept == Kept::Moving(old));
        let dead = match self.tombstones.kept_mut(mailbox, key) {
            Some(kept) if expected(kept) => std::mem::replace(kept, Kept::Flushed(place)),
            _ => Kept::Flushed(place),
        };
        if let Some(place) = dead.place() {
            trim(turn, place);
        }
    }

    fn on_entry_flushed(
        &mut self,
        turn: &mut Turn<'_>,
        run: &mut Run,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        (place, relocates): (Place, Option<Place>),
    ) {
        let slot = mailbox.slot;
        let entry = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key));
        match (entry, relocates) {
            (Some(entry), None) if matches!(entry.content(), Content::Logging(_)) => {
                if let Content::Logging(cell) = entry.content() {
                    self.cells.clear(cell);
                }
                entry.set_content(Content::Flushed(place));
                self.counts.stored += 1;
                self.tell_stored(turn, run, (id, slot), entry);
                let asks = entry.take_ask() || self.is_shared();
                let flushed = |user, key| FromReplica::Flushed { user, key, asks };
                self.tell_replicas(turn, mailbox, flushed, key);
            }
            (Some(entry), Some(old)) if entry.content() == Content::Flushed(old) => {
                entry.set_content(Content::Flushed(place));
                trim(turn, old);
            }
            (Some(_), _) => trim(turn, place),
            // Taken meanwhile: the record is dead, and a recovery has to know.
            (None, _) => {
                self.append_tombstone(turn, (id, mailbox), key, Some(place));
                trim(turn, place);
            }
        }
    }

    /// `stored`, if it is true by now and somebody waits for it (rule 8).
    pub(super) fn tell_stored(
        &self,
        turn: &mut Turn<'_>,
        run: &mut Run,
        (id, slot): (MailboxId, Slot),
        entry: &mut Entry,
    ) {
        if entry.is_told() || !matches!(entry.content(), Content::Flushed(_)) {
            return;
        }
        let Some(copies) = self.copies_told(slot, entry.copies) else { return };
        entry.set_told(true);
        for to in self.addresses.of(id, entry.key()) {
            turn.to_edge(to.login.at, ToEdge::Stored { to, last: to.sequence, newest: entry.id, copies });
        }
        let Some(origin) = self.origin(entry) else { return };
        if !run.takes(origin, entry.key(), copies) {
            flush_stored(turn, std::mem::take(run));
            run.takes(origin, entry.key(), copies);
        }
    }

    /// Takes an entry out without a trace in memory, and tells its sender why if it can.
    pub(super) fn drop_entry(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        refusal: Refusal,
    ) {
        let Some((entry, waiting)) = self.give_up((id, mailbox), key) else { return };
        match entry.content() {
            Content::Unlogged(cell) => {
                self.unlogged_bytes -= u64::from(entry.bytes);
                self.cells.clear(cell);
            }
            Content::Logging(cell) => self.cells.clear(cell),
            Content::Flushed(place) => trim(turn, place),
        }
        for to in waiting {
            turn.to_edge(to.login.at, ToEdge::Refused { to, refusal });
        }
        mailbox.settle();
    }

    /// Takes an entry out of memory without a trace. Returns it, and who waits for a first answer.
    pub(super) fn give_up(
        &mut self,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
    ) -> Option<(Entry, Vec<ReturnAddress>)> {
        let entry = mailbox.held.as_mut()?.remove(&mut self.sums, key)?;
        let others = self.addresses.take(id, key);
        let waiting = self.origin(&entry).into_iter().chain(others).filter(|_| !entry.is_told()).collect();
        self.senders.release(key.1);
        self.on_removed(mailbox.slot);
        Some((entry, waiting))
    }

    /// The content of an entry has come from the disk.
    pub fn on_read(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox, message: Message) {
        let Some(sender) = self.senders.find(&message.key.sender) else { return };
        let key = (message.key.id, sender);
        let Some(held) = mailbox.held.as_mut() else { return };
        let waiting = held.sending.iter_mut().find(|(waiting, there)| *waiting == key && there.is_none());
        if let Some((_, there)) = waiting {
            *there = Some(message);
            self.send_ready(turn, mailbox);
        }
    }

    /// The content of an entry is damaged: it is lost here, which the engine has reported with file and offset.
    pub fn on_damaged(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        name: &Key,
        place: Place,
    ) {
        let Some(sender) = self.senders.find(&name.sender) else { return };
        let key = (name.id, sender);
        let held = mailbox.held.as_mut();
        let Some(entry) = held.and_then(|held| held.inbox.entry_mut(key)) else { return };
        if entry.content() != Content::Flushed(place) {
            return;
        }
        self.counts.damaged += 1;
        turn.out.push(Action::Lost { user: mailbox.user.clone(), id: name.id });
        self.drop_entry(turn, (id, mailbox), key, Refusal { code: Code::Internal, wait_ms: 0 });
        self.send_ready(turn, mailbox);
        self.pump(turn, mailbox);
    }

    /// The engine wants to give up a segment: what is needed there is appended again.
    pub fn on_relocate(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, record: Record, place: Place) {
        let (user, name) = match &record {
            Record::Entry(entry) => (&entry.user, &entry.key),
            Record::Tombstone { user, key, .. } => (user, key),
            Record::Complete(mark) => return self.relocate_mark(turn, mark, place),
        };
        let (Some((id, mailbox)), Some(sender)) = (mailboxes.find(user), self.senders.find(&name.sender)) else {
            return trim(turn, place);
        };
        let key = (name.id, sender);
        match record {
            Record::Entry(entry) => self.relocate_entry(turn, (id, mailbox), key, (entry, place)),
            Record::Tombstone { taken_at, .. } => match self.tombstones.kept_mut(id, key) {
                Some(kept) if *kept == Kept::Moving(place) => {}
                Some(kept) if *kept == Kept::Flushed(place) => {
                    *kept = Kept::Moving(place);
                    let record = tombstone_record(mailbox, name.clone(), taken_at, None);
                    let pending = Pending::Tombstone { mailbox: id, key, relocates: Some(place) };
                    self.append(turn, mailbox, record, pending);
                }
                _ => trim(turn, place),
            },
            Record::Complete(_) => {}
        }
    }

    fn relocate_entry(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        (entry, place): (storage::Entry, Place),
    ) {
        let found = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key));
        match found.filter(|found| found.content() == Content::Flushed(place)) {
            Some(found) if found.is_moving() => {}
            Some(found) => {
                found.set_moving(true);
                let bytes = entry.body.len() as u32;
                let pending = Pending::Entry { mailbox: id, key, bytes, relocates: Some(place) };
                self.append(turn, mailbox, Record::Entry(entry), pending);
            }
            None => trim(turn, place),
        }
    }

    /// Recovery has found a record.
    pub fn on_recovered(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        record: Record,
        (body_bytes, place): (u32, Place),
    ) {
        match record {
            Record::Entry(entry) => self.recover_entry(turn, mailboxes, entry, (body_bytes, place)),
            Record::Tombstone { user, key, .. } => self.recover_tombstone(turn, mailboxes, &user, &key, place),
            Record::Complete(mark) => self.recover_mark(turn, mark, place),
        }
    }

    fn recover_entry(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        entry: storage::Entry,
        (bytes, place): (u32, Place),
    ) {
        let sender = self.senders.acquire(&entry.key.sender);
        let (id, mailbox) = mailboxes.open(&entry.user);
        let key = (entry.key.id, sender);
        if self.is_shared() && self.tombstones.contains(id, key) {
            // Stored once more through another core, behind what killed it.
            self.append_tombstone(turn, (id, mailbox), key, Some(place));
            return self.senders.release(sender);
        }
        let held = mailbox.held();
        if held.inbox.entry(key).is_some() {
            self.recover_known(turn, (id, mailbox), key, place);
            return self.senders.release(sender);
        }
        let mut entry = Entry::new(key.0, sender, bytes, Content::Flushed(place));
        entry.set_told(true);
        held.insert(&mut self.sums, entry);
    }

    /// An entry that is here already was found at this place.
    fn recover_known(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        key: EntryKey,
        place: Place,
    ) {
        let slot = mailbox.slot;
        let Some(entry) = mailbox.held.as_mut().and_then(|held| held.inbox.entry_mut(key)) else { return };
        match entry.content() {
            // Its own append is about to be answered.
            Content::Logging(_) => {}
            Content::Flushed(old) => {
                entry.set_content(Content::Flushed(place));
                if !self.is_shared() {
                    trim(turn, old);
                }
            }
            Content::Unlogged(cell) => {
                entry.set_content(Content::Flushed(place));
                self.cells.clear(cell);
                self.unlogged_bytes -= u64::from(entry.bytes);
                let mut run = Run::default();
                self.tell_stored(turn, &mut run, (id, slot), entry);
                flush_stored(turn, run);
                self.ask_others(turn, mailbox, key);
            }
        }
    }

    fn recover_tombstone(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        user: &UserId,
        name: &Key,
        place: Place,
    ) {
        let sender = self.senders.acquire(&name.sender);
        let (id, mailbox) = mailboxes.open(user);
        let key = (name.id, sender);
        if let Some(held) = mailbox.held.as_mut()
            && let Some(entry) = held.remove(&mut self.sums, key)
        {
            self.senders.release(sender);
            if let Content::Flushed(place) = entry.content() {
                trim(turn, place);
            }
            mailbox.settle();
        }
        if self.tombstones.insert(turn.now.mono_ms, id, key, Kept::Flushed(place)) {
            mailbox.references += 1;
        } else {
            let kept = self.tombstones.kept_mut(id, key);
            if let Some(old) = kept.and_then(|kept| std::mem::replace(kept, Kept::Flushed(place)).place()) {
                trim(turn, old);
            }
            self.senders.release(sender);
        }
    }

    /// Forgets tombstones that are too old or too many, at most `budget` of them. Whether there may be more.
    pub fn forget_tombstones(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, budget: usize) -> bool {
        let limits = &self.config.limits;
        let before_ms = match self.may_forget() {
            true => turn.now.mono_ms.saturating_sub(limits.tombstone_keep_ms),
            false => 0,
        };
        let most = limits.tombstones_max;
        for _ in 0..budget {
            let Some(forgotten) = self.tombstones.forget(before_ms, most) else { return false };
            self.counts.tombstones_full += u64::from(self.tombstones.len() >= most);
            if let Some(place) = forgotten.kept.place() {
                trim(turn, place);
            }
            let mailbox = mailboxes.mailbox(forgotten.mailbox).expect("a mailbox with references stays");
            self.answered(mailbox, forgotten.key);
        }
        true
    }

    /// Drops what has waited longer than inboxes keep messages.
    pub fn expire(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox)) {
        let before = turn.now.wall_ms().saturating_sub(self.config.limits.inbox_age_ms_max);
        while let Some(first) = mailbox.held.as_ref().and_then(|held| held.inbox.first())
            && first.id.time_ms() < before
        {
            let key = first.key();
            let told = first.is_told();
            let Some((entry, others)) = self.take(turn, (id, mailbox), key, By::This) else { return };
            self.counts.expired += 1;
            for to in self.origin(&entry).into_iter().chain(others).filter(|_| !told) {
                let refusal = Refusal { code: Code::Expired, wait_ms: 0 };
                turn.to_edge(to.login.at, ToEdge::Refused { to, refusal });
            }
        }
        self.unload((id, mailbox));
        self.read_old(turn, mailbox);
        mailbox.settle();
    }

    /// An append or a tombstone refers to mailbox and sender no more.
    pub(super) fn answered(&mut self, mailbox: &mut Mailbox, key: EntryKey) {
        mailbox.references -= 1;
        self.senders.release(key.1);
    }

    /// Arms the timer of a mailbox for the oldest entry that is in memory only.
    pub(super) fn arm(&mut self, now: Now, id: MailboxId, mailbox: &mut Mailbox) {
        let Some(held) = mailbox.held.as_mut() else { return };
        if held.timer_armed {
            return;
        }
        if let Some(&(due_ms, _)) = held.unlogged.front() {
            let due_ms = if !self.has_room() { now.mono_ms + u64::from(self.config.limits.retry_ms) } else { due_ms };
            held.timer_armed = true;
            self.timers.arm(due_ms, id);
        }
    }

    /// The next mailbox whose timer is due.
    pub fn expired_timer(&mut self, now: Now) -> Option<MailboxId> {
        self.timers.expire(now.mono_ms)
    }

    /// When the next timer is due, in monotonic ms.
    pub fn next_timer_ms(&mut self) -> Option<u64> {
        self.timers.next_ms()
    }
}

/// A record is not needed any more.
fn trim(turn: &mut Turn<'_>, place: Place) {
    turn.out.push(Action::Storage(StorageRequest::Trim { place }));
}
