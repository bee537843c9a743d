//! What becomes of entries when the disk has no room for them, and what goes on when it has (delivery rules 8 and 14).
//!
//! No younger entry is on disk without an older one of its sender, whatever fails: from a failure on everything under way
//! fails with it, goes back in order or is dropped, and nothing else is appended until all of it is answered.

use super::{Pending, Shard, Turn};
use crate::event::Action;
use crate::frame::Code;
use crate::inbox::{Content, EntryKey};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::peer::Refusal;
use crate::storage::StorageRequest;
use crate::tombstone::Kept;

impl Shard {
    /// Appends were dropped: the disk is full.
    pub fn on_failed(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, count: usize) {
        turn.out.push(Action::Storage(StorageRequest::Heard { count }));
        // The youngest first: each goes in front of what waits, so that no younger entry is logged before an older one.
        let failed: Vec<Pending> = self.pending.drain(..count).rev().collect();
        self.fail_pending(turn, mailboxes);
        for pending in failed {
            match pending {
                Pending::Entry { mailbox, key, bytes, relocates } => {
                    let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                    if relocates.is_none() {
                        self.unflushed_bytes -= u64::from(bytes);
                        self.on_entry_failed(turn, (mailbox, at), key);
                    } else if let Some(entry) = at.held.as_mut().and_then(|held| held.inbox.entry_mut(key)) {
                        entry.set_moving(false);
                        self.hand_over(turn, (mailbox, at), key);
                    }
                    self.answered(at, key);
                }
                Pending::Tombstone { mailbox, key, relocates: None } => {
                    let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                    at.references += 1;
                    self.senders.retain(key.1);
                    self.unwritten.push_back((mailbox, key, None));
                    self.answered(at, key);
                }
                Pending::Tombstone { mailbox, key, relocates: Some(place) } => {
                    if let Some(kept) = self.tombstones.kept_mut(mailbox, key) {
                        *kept = Kept::Flushed(place);
                    }
                    let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                    self.answered(at, key);
                }
                // Something before it is missing, or there was no room: once that is over, it is appended again.
                Pending::Complete => self.on_mark_failed(),
                Pending::Dropped { mailbox, key, bytes } => {
                    self.unflushed_bytes -= u64::from(bytes);
                    let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                    self.answered(at, key);
                }
            }
        }
        self.go_on_with_room(turn);
    }

    /// An append has failed: so will the entries that are under way behind it.
    fn fail_pending(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        self.doubtful = self.pending.len();
        for at in (0..self.pending.len()).rev() {
            if let Pending::Entry { mailbox, key, bytes, relocates: None } = self.pending[at] {
                self.pending[at] = Pending::Dropped { mailbox, key, bytes };
                let at = mailboxes.mailbox(mailbox).expect("a mailbox with references stays");
                self.on_entry_failed(turn, (mailbox, at), key);
            }
        }
    }

    /// So many appends are on disk.
    pub(super) fn on_answered(&mut self, turn: &mut Turn<'_>, count: usize) {
        if self.doubtful > 0 {
            self.doubtful = self.doubtful.saturating_sub(count);
            self.go_on_with_room(turn);
        }
    }

    /// Whether what is appended now does not fail for what is known. Else it would, and what comes behind it until that is
    /// heard, and so on for as long as anything comes.
    pub(super) fn has_room(&self) -> bool {
        !self.is_full && !self.is_away && self.doubtful == 0
    }

    /// There may be room now for what failed.
    pub(super) fn go_on_with_room(&mut self, turn: &mut Turn<'_>) {
        if !self.has_room() {
            return;
        }
        (0..self.tenures.len() as u32).for_each(|shard| self.want_again(turn, shard));
        self.look_at_all();
    }

    /// A present recipient still gets it from memory; for an absent one it is refused, and was never there. A copy is
    /// given up: another replica has it, and waits no more for this one.
    fn on_entry_failed(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), key: EntryKey) {
        let present = mailbox.presence.drains().is_some();
        let retry_ms = self.config.limits.retry_ms;
        let Some(held) = mailbox.held.as_mut() else { return };
        let Some(entry) = held.inbox.entry_mut(key) else { return };
        let Content::Logging(cell) = entry.content() else { return };
        entry.set_content(Content::Unlogged(cell));
        self.unlogged_bytes += u64::from(entry.bytes);
        let is_sole = self.is_lone || self.tenure(mailbox.slot).is_some_and(|tenure| tenure.replicas().len() == 1);
        if present && (is_sole || self.origin(entry).is_some()) {
            held.unlogged.push_front((turn.now.mono_ms + u64::from(retry_ms), key));
            return self.arm(turn.now, id, mailbox);
        }
        self.drop_failed(turn, (id, mailbox), key);
        self.drop_younger(turn, (id, mailbox), key);
    }

    /// An entry for which there is no room: refused to who sent it here, and left to the replica that sent a copy.
    fn drop_failed(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), key: EntryKey) {
        let slot = mailbox.slot;
        let Some(entry) = mailbox.held.as_ref().and_then(|held| held.inbox.entry(key)) else { return };
        if self.origin(entry).is_none() || entry.is_copied() {
            self.fall_behind(turn, slot);
        }
        self.counts.disk_full += 1;
        let refusal = Refusal { code: Code::DiskFull, wait_ms: self.config.limits.retry_ms };
        self.drop_entry(turn, (id, mailbox), key, refusal);
    }

    /// What came from the same sender behind a dropped entry goes too, or it would be seen before that comes again.
    fn drop_younger(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), dropped: EntryKey) {
        let held = mailbox.held.iter();
        let keys = held.flat_map(|held| &held.unlogged).map(|&(_, key)| key);
        let younger: Vec<EntryKey> = keys.filter(|key| key.1 == dropped.1).collect();
        for key in younger {
            self.drop_failed(turn, (id, mailbox), key);
        }
    }

    /// The disk is full, or has room again.
    pub fn on_full(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, full: bool) {
        self.is_full = full;
        if full {
            return;
        }
        while let Some((id, key, kills)) = self.unwritten.pop_front() {
            let mailbox = mailboxes.mailbox(id).expect("a mailbox with references stays");
            self.append_tombstone(turn, (id, mailbox), key, kills);
            self.answered(mailbox, key);
        }
        self.go_on_with_room(turn);
    }
}
