//! What a store that all cores of a shard share makes different: an inbox is read when it is first needed, and again when
//! another core may have put something into it; copies are the store's affair (delivery rule 21).
//!
//! Where a mailbox is not known, messages for it wait in order of arrival and nothing is sent from it. A load is asked for
//! behind everything that was appended here, so what it tells is merged by key.

use std::collections::BTreeSet;

use super::{Run, Shard, Turn, flush_stored, to_core};
use crate::event::Action;
use crate::frame::Code;
use crate::id::{Key, NodeId, ReturnAddress, UserId};
use crate::inbox::{Content, Entry, EntryKey};
use crate::mailbox::{Loading, Mailbox, MailboxId, Mailboxes, Stored};
use crate::mutant::{self, Mutant};
use crate::peer::{FromReplica, Message, Refusal, ToEdge};
use crate::slot::slot_of;
use crate::storage::{Place, Reach, StorageRequest};

/// How far the clocks of two nodes may be apart, in ms (delivery rule 9). An id that is younger than a load by this was not
/// taken before it.
const CLOCKS_MS: u64 = 1_000;

impl Shard {
    /// Whether other cores see what this one appends.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        self.config.reach != Reach::Own
    }

    /// How many copies one flush makes.
    pub(super) fn copies_of_store(&self) -> u8 {
        match self.config.reach {
            Reach::Own => 1,
            Reach::Shared { copies } => copies,
        }
    }

    /// Whether a message can be judged now: everything of the mailbox is known, and whether this key was taken.
    #[inline]
    pub(super) fn can_judge(&self, (id, mailbox): (MailboxId, &Mailbox), key: &Key) -> bool {
        match &mailbox.stored {
            Stored::Known { from_ms: 0 } => true,
            Stored::Known { from_ms } => {
                key.id.time_ms() >= from_ms + CLOCKS_MS
                    || mutant::is(Mutant::TakenIsNotAsked)
                    || self.has_heard_of((id, mailbox), key)
            }
            Stored::Unknown | Stored::Loading(_) => false,
        }
    }

    fn has_heard_of(&self, (id, mailbox): (MailboxId, &Mailbox), key: &Key) -> bool {
        self.senders.find(&key.sender).is_some_and(|sender| {
            let key = (key.id, sender);
            let is_held = mailbox.held.as_ref().is_some_and(|held| held.inbox.entry(key).is_some());
            is_held || self.tombstones.contains(id, key)
        })
    }

    /// A message waits until the store has told what is needed to judge it.
    #[cold]
    pub(super) fn wait(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox, message: Message, origin: ReturnAddress) {
        let bytes = message.body.len() as u64;
        let limits = &self.config.limits;
        let waiting = self.unlogged_bytes + self.unflushed_bytes + self.waiting_bytes;
        let code = if self.is_away {
            self.counts.unavailable += 1;
            Code::Unavailable
        } else if waiting + bytes > limits.unflushed_bytes_max {
            self.counts.busy += 1;
            Code::Busy
        } else {
            self.waiting_bytes += bytes;
            self.loading(mailbox).waiting.push_back((message, origin));
            return self.ask(turn, mailbox);
        };
        let refusal = Refusal { code, wait_ms: limits.retry_ms };
        turn.to_edge(origin.login.at, ToEdge::Refused { to: origin, refusal });
    }

    fn loading<'a>(&self, mailbox: &'a mut Mailbox) -> &'a mut Loading {
        let (is_known, from_ms) = match mailbox.stored {
            Stored::Known { from_ms } => (true, from_ms),
            _ => (false, 0),
        };
        if !matches!(mailbox.stored, Stored::Loading(_)) {
            mailbox.stored = Stored::Loading(Box::new(Loading { is_known, from_ms, ..Loading::default() }));
        }
        match &mut mailbox.stored {
            Stored::Loading(loading) => loading,
            _ => unreachable!("it was just made one"),
        }
    }

    /// Asks the store, unless an answer is under way.
    fn ask(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox) {
        let user = mailbox.user.clone();
        let loading = self.loading(mailbox);
        if loading.is_asked {
            return;
        }
        let entries = !loading.is_known;
        loading.entries = entries;
        (loading.is_asked, loading.is_stale, loading.is_void) = (true, false, false);
        loading.asked = loading.waiting.len();
        if entries {
            loading.from_ms = turn.now.wall_ms();
        }
        let waiting = loading.waiting.iter().filter(|_| !mutant::is(Mutant::TakenIsNotAsked));
        let keys = waiting.map(|(message, _)| message.key.clone()).collect();
        self.counts.loads += 1;
        if let Some(held) = mailbox.held.as_mut().filter(|_| entries) {
            held.inbox.each_mut(Entry::seek);
        }
        turn.out.push(Action::Storage(StorageRequest::Load { user, entries, keys }));
    }

    /// Whatever was known of a mailbox may not be all any more. It is read again at once if somebody waits for it.
    pub(super) fn become_stale(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox) {
        if !self.is_shared() {
            return;
        }
        match &mut mailbox.stored {
            Stored::Loading(loading) => (loading.is_stale, loading.is_known) = (true, false),
            stored => *stored = Stored::Unknown,
        }
        if self.is_needed(mailbox) {
            self.ask(turn, mailbox);
        }
    }

    /// Whether somebody is there who gets what is stored.
    fn is_needed(&self, mailbox: &Mailbox) -> bool {
        mailbox.presence.drains().is_some() && self.serves(mailbox.slot)
    }

    /// A load of an inbox of which something was just given up does not tell what is there.
    pub(super) fn void_load(mailbox: &mut Mailbox) {
        if let Stored::Loading(loading) = &mut mailbox.stored {
            loading.is_void = true;
        }
    }

    /// The store has told what it has of a user. That is everything which a message that was waiting by then can be behind,
    /// also where more was stored since.
    pub fn on_loaded(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox)) {
        let Stored::Loading(loading) = &mut mailbox.stored else { return };
        let from_ms = loading.from_ms;
        let Stored::Loading(mut loading) = std::mem::replace(&mut mailbox.stored, Stored::Known { from_ms }) else {
            return;
        };
        // Where only keys were asked for, more was stored since.
        loading.is_void |= !loading.entries && loading.is_stale;
        if loading.is_void {
            loading.asked = 0;
        } else if loading.entries {
            self.drop_gone(turn, (id, mailbox), Entry::is_sought);
        }
        (loading.is_asked, loading.is_known) = (false, true);
        for (message, origin) in loading.waiting.drain(..std::mem::take(&mut loading.asked)).collect::<Vec<_>>() {
            self.waiting_bytes -= message.body.len() as u64;
            self.take_in(turn, (id, mailbox), message, origin);
        }
        if !loading.is_void {
            self.pump(turn, mailbox);
        }
        if loading.is_stale || loading.is_void {
            loading.is_known = false;
            mailbox.stored = match loading.waiting.is_empty() && !self.is_needed(mailbox) {
                true => Stored::Unknown,
                false => Stored::Loading(loading),
            };
        } else {
            while let Some((message, origin)) = loading.waiting.pop_front() {
                if !self.can_judge((id, mailbox), &message.key) {
                    loading.waiting.push_front((message, origin));
                    mailbox.stored = Stored::Loading(loading);
                    break;
                }
                self.waiting_bytes -= message.body.len() as u64;
                self.take_in(turn, (id, mailbox), message, origin);
            }
        }
        if matches!(mailbox.stored, Stored::Loading(_)) {
            self.ask(turn, mailbox);
        }
        mailbox.settle();
    }

    /// Who waits for the store to be asked has to ask again later, and what it tells meanwhile does not count. Not a bounce:
    /// what comes behind it may be taken.
    pub(super) fn refuse_waiting(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox) {
        let Stored::Loading(loading) = &mut mailbox.stored else { return };
        (loading.asked, loading.is_void) = (0, true);
        let refusal = Refusal { code: Code::Unavailable, wait_ms: self.config.limits.retry_ms };
        for (message, to) in std::mem::take(&mut loading.waiting) {
            self.waiting_bytes -= message.body.len() as u64;
            self.counts.unavailable += 1;
            turn.to_edge(to.login.at, ToEdge::Refused { to, refusal });
        }
    }

    /// The store confirms nothing any more, or again.
    pub fn on_away(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, is_away: bool) {
        self.is_away = is_away;
        if !is_away {
            return self.go_on_with_room(turn);
        }
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id) {
                self.refuse_waiting(turn, mailbox);
            }
        }
    }

    /// Another core has stored something: whoever has the mailbox's session reads it again, before that is called `stored`.
    pub(super) fn on_stored_elsewhere(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        (node, name, asks): (NodeId, Key, bool),
        user: UserId,
    ) {
        let slot = slot_of(user.as_bytes());
        let Some(tenure) = self.tenure(slot) else { return };
        let (bit, takes) = (tenure.bit(node), tenure.takes_from(node, slot));
        if let Some((id, mailbox)) = mailboxes.find(&user) {
            let key = self.senders.find(&name.sender).map(|sender| (name.id, sender));
            if asks && takes && key.is_some_and(|key| self.tombstones.contains(id, key)) {
                let taken_at = turn.now.wall_ms();
                return to_core(turn, node, slot, FromReplica::Tombstone { user, key: name, taken_at });
            }
            let held = mailbox.held.as_mut();
            match key.zip(held).and_then(|(key, held)| held.inbox.entry_mut(key)) {
                Some(entry) => {
                    entry.copies |= bit;
                    let mut run = Run::default();
                    self.tell_stored(turn, &mut run, (id, slot), entry);
                    flush_stored(turn, run);
                }
                None if asks && !mutant::is(Mutant::NoticesIgnored) => self.become_stale(turn, mailbox),
                None => {}
            }
        }
        if asks && takes {
            to_core(turn, node, slot, FromReplica::Flushed { user, key: name, asks: false });
        }
    }

    /// An entry that somebody waits for was stored by another core, perhaps one that has died: whether the others know of it
    /// was not asked by this one.
    pub(super) fn ask_others(&self, turn: &mut Turn<'_>, mailbox: &Mailbox, key: EntryKey) {
        let entry = mailbox.held.as_ref().and_then(|held| held.inbox.entry(key));
        let waits = |entry: &Entry| matches!(entry.content(), Content::Flushed(_)) && !entry.is_told();
        if self.is_shared() && entry.is_some_and(waits) {
            self.tell_replicas(turn, mailbox, |user, key| FromReplica::Flushed { user, key, asks: true }, key);
        }
    }

    /// Other cores have said how they stand to these shards: what they had stored before is read now.
    pub(super) fn read_again(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        let shards: BTreeSet<u32> = std::mem::take(&mut self.due.stale);
        if shards.is_empty() || !self.is_shared() || mutant::is(Mutant::NoticesIgnored) {
            return;
        }
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id).filter(|mailbox| shards.contains(&self.shard_of(mailbox.slot)))
            {
                self.become_stale(turn, mailbox);
            }
        }
    }

    /// What was at this place was taken through another core, or has expired, or is at another place.
    pub fn on_gone(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), name: &Key, place: Place) {
        let Some(sender) = self.senders.find(&name.sender) else { return };
        let key = (name.id, sender);
        let is_it = |entry: &Entry| entry.key() == key && entry.content() == Content::Flushed(place);
        let Some(entry) = mailbox.held.as_ref().and_then(|held| held.inbox.entry(key)) else { return };
        match entry.content() {
            _ if is_it(entry) => {
                self.drop_gone(turn, (id, mailbox), is_it);
                self.become_stale(turn, mailbox);
                mailbox.settle();
            }
            // A load has found it there meanwhile.
            Content::Flushed(place) if entry.is_out() => {
                let (user, key) = (mailbox.user.clone(), name.clone());
                turn.out.push(Action::Storage(StorageRequest::Read { user, key, place }));
            }
            _ => {}
        }
    }

    /// Gives up entries that are not in the store any more. Who waits for one asks again, and hears whether it was taken.
    fn drop_gone(
        &mut self,
        turn: &mut Turn<'_>,
        (id, mailbox): (MailboxId, &mut Mailbox),
        is_gone: impl Fn(&Entry) -> bool,
    ) {
        let Some(held) = mailbox.held.as_mut() else { return };
        let gone: Vec<EntryKey> = held.inbox.iter().filter(|entry| is_gone(entry)).map(Entry::key).collect();
        held.sending.retain(|(waiting, _)| !gone.contains(waiting));
        for key in gone {
            let Some((_, waiting)) = self.give_up((id, mailbox), key) else { continue };
            self.counts.gone += 1;
            for to in waiting {
                turn.to_edge(to.login.at, ToEdge::Bounce { to });
            }
        }
        // What came from the store behind these goes on.
        self.send_ready(turn, mailbox);
    }

    /// What was stored by a core that has died before it could say so is found in the end.
    pub(super) fn read_old(&mut self, turn: &mut Turn<'_>, mailbox: &mut Mailbox) {
        let before_ms = turn.now.wall_ms().saturating_sub(self.config.limits.read_again_ms);
        if matches!(mailbox.stored, Stored::Known { from_ms } if from_ms < before_ms) && self.is_needed(mailbox) {
            self.become_stale(turn, mailbox);
        }
    }

    /// Memory is for those who are there: what is stored of others is read again when it is needed.
    pub(super) fn unload(&mut self, (id, mailbox): (MailboxId, &mut Mailbox)) {
        let is_idle = mailbox.presence.login().is_none() && !matches!(mailbox.stored, Stored::Loading(_));
        if !self.is_shared() || !is_idle {
            return;
        }
        if let Some(held) = &mailbox.held {
            let rests = |entry: &Entry| {
                matches!(entry.content(), Content::Flushed(_)) && (entry.is_told() || self.origin(entry).is_none())
            };
            if held.timer_armed || !held.inbox.iter().all(rests) {
                return;
            }
            let keys: Vec<EntryKey> = held.inbox.iter().map(Entry::key).collect();
            for key in keys {
                self.give_up((id, mailbox), key);
            }
        }
        mailbox.stored = Stored::Unknown;
        mailbox.settle();
    }
}
