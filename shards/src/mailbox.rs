//! What a core keeps of one user: presence, watchers, and while there are messages the inbox with what is on its way.
//!
//! Owns no rule: [`crate::shard`] has them. An absent user without messages costs about 100 bytes.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::id::{ReturnAddress, Slot, UserId};
use crate::inbox::{Entry, EntryKey, Inbox};
use crate::mutant::{self, Mutant};
use crate::peer::{Asker, Message};
use crate::presence::Presence;
use crate::slot::slot_of;
use crate::storage::Reach;

/// A mailbox of this executor. Numbers are used again once nothing refers to the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MailboxId(pub u32);

/// Sums over the inboxes of an executor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Inboxes with messages.
    pub inboxes: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// The messages of one user.
#[derive(Debug, Default)]
pub struct Held {
    /// The entries.
    pub inbox: Inbox,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Entries that are in memory only, in order of arrival, with the monotonic ms at which they are logged. Those that
    /// were taken or logged before are skipped.
    pub unlogged: VecDeque<(u64, EntryKey)>,
    /// Entries that are out and wait for the disk, or for one before them, in the order in which they are sent.
    pub sending: VecDeque<(EntryKey, Option<Message>)>,
    /// Entries that are out: how many,
    pub out_messages: u32,
    /// and bytes of their bodies.
    pub out_bytes: u64,
    /// A timer for `unlogged` is armed.
    pub timer_armed: bool,
}

/// Whether everything that is stored of a user is in [`Held`].
#[derive(Debug)]
pub enum Stored {
    /// Something may be missing. Nobody needs it.
    Unknown,
    /// The store was asked.
    Loading(Box<Loading>),
    /// All of it is.
    Known {
        /// When the store was asked, in ms since the Unix epoch. 0: it never was, for nobody else stores anything.
        from_ms: u64,
    },
}

/// What waits until the store has told what it has of a user.
#[derive(Debug, Default)]
pub struct Loading {
    /// Messages in order of arrival, with where their confirmations go.
    pub waiting: VecDeque<(Message, ReturnAddress)>,
    /// An answer is under way.
    pub is_asked: bool,
    /// The entries were asked for.
    pub entries: bool,
    /// Everything stored is here: it is asked only whether something was taken.
    pub is_known: bool,
    /// Whether so many of them were taken was asked too.
    pub asked: usize,
    /// When the entries were asked for, in ms since the Unix epoch.
    pub from_ms: u64,
    /// More may have been stored since.
    pub is_stale: bool,
    /// The answer does not make the mailbox known: some of it was given up as it came, because others keep the mailbox.
    pub is_void: bool,
}

/// One user of this executor's core.
#[derive(Debug)]
pub struct Mailbox {
    /// Who.
    pub user: UserId,
    /// Its slot.
    pub slot: Slot,
    /// Where the user is.
    pub presence: Presence,
    /// Who wants to know; most users are not watched.
    pub watchers: Option<Box<Vec<Asker>>>,
    /// Whether the messages are all here.
    pub stored: Stored,
    /// The messages, while there are any.
    pub held: Option<Box<Held>>,
    /// Tombstones and pending appends that refer to this mailbox.
    pub references: u32,
}

impl Held {
    /// Puts an entry into the inbox.
    pub fn insert(&mut self, sums: &mut Sums, entry: Entry) {
        let bytes = u64::from(entry.bytes);
        sums.inboxes += u64::from(self.inbox.is_empty());
        sums.messages += 1;
        (self.bytes, sums.bytes) = (self.bytes + bytes, sums.bytes + bytes);
        self.inbox.insert(entry);
    }

    /// Takes an entry out of the inbox.
    pub fn remove(&mut self, sums: &mut Sums, key: EntryKey) -> Option<Entry> {
        let entry = self.inbox.remove(key)?;
        let bytes = u64::from(entry.bytes);
        sums.inboxes -= u64::from(self.inbox.is_empty());
        sums.messages -= 1;
        (self.bytes, sums.bytes) = (self.bytes - bytes, sums.bytes - bytes);
        if entry.is_out() {
            self.out_messages -= 1;
            self.out_bytes -= bytes;
        }
        Some(entry)
    }
}

impl Mailbox {
    /// The messages; made if need be.
    pub fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_default()
    }

    /// Whether everything that is stored is here.
    #[inline]
    pub fn is_known(&self) -> bool {
        match &self.stored {
            Stored::Known { .. } => true,
            Stored::Loading(loading) => loading.is_known,
            Stored::Unknown => false,
        }
    }

    /// Gives the memory for messages back if there are none.
    pub fn settle(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.inbox.is_empty() && !held.timer_armed) {
            self.held = None;
        }
    }

    /// Watchers for whom this does not hold are told no more.
    pub fn keep_watchers(&mut self, keep: impl FnMut(&Asker) -> bool) {
        if let Some(watchers) = &mut self.watchers {
            watchers.retain(keep);
            if watchers.is_empty() {
                self.watchers = None;
            }
        }
    }

    /// Whether nothing but `last_seen` would be lost with this mailbox.
    pub fn is_forgettable(&self) -> bool {
        let is_loading = matches!(self.stored, Stored::Loading(_));
        let is_idle = self.presence.login().is_none() && self.watchers.is_none() && !is_loading;
        is_idle && self.held.is_none() && self.references == 0
    }
}

/// The mailboxes of one executor, by name and by number.
#[derive(Debug)]
pub struct Mailboxes {
    /// Numbers only: the names are in the mailboxes.
    by_name: HashTable<MailboxId>,
    hashing: RandomState,
    reach: Reach,
    list: Vec<Option<Box<Mailbox>>>,
    free: Vec<MailboxId>,
}

impl Mailboxes {
    /// No mailboxes; `seed` makes the hashing unpredictable to users.
    pub fn new(seed: u64, reach: Reach) -> Self {
        let hashing = RandomState::with_seeds(seed, 21, 22, 23);
        Mailboxes { by_name: HashTable::new(), hashing, reach, list: Vec::new(), free: Vec::new() }
    }

    /// The mailbox of this user, if there is one.
    pub fn find(&mut self, user: &UserId) -> Option<(MailboxId, &mut Mailbox)> {
        let id = self.number(user)?;
        self.list[id.0 as usize].as_deref_mut().map(|mailbox| (id, mailbox))
    }

    /// The mailbox of this user; made if need be.
    pub fn open(&mut self, user: &UserId) -> (MailboxId, &mut Mailbox) {
        let id = match self.number(user) {
            Some(id) => id,
            None => self.make(user),
        };
        (id, self.list[id.0 as usize].as_deref_mut().expect("a named mailbox is there"))
    }

    fn number(&self, user: &UserId) -> Option<MailboxId> {
        let list = &self.list;
        let is_it = |id: &MailboxId| list[id.0 as usize].as_ref().is_some_and(|mailbox| mailbox.user == *user);
        self.by_name.find(self.hashing.hash_one(user), is_it).copied()
    }

    fn make(&mut self, user: &UserId) -> MailboxId {
        let mailbox = Some(Box::new(Mailbox {
            user: user.clone(),
            slot: slot_of(user.as_bytes()),
            presence: Presence::default(),
            watchers: None,
            stored: match self.reach {
                Reach::Shared { .. } if !mutant::is(Mutant::ServesWithoutLoading) => Stored::Unknown,
                _ => Stored::Known { from_ms: 0 },
            },
            held: None,
            references: 0,
        }));
        let id = match self.free.pop() {
            Some(id) => {
                self.list[id.0 as usize] = mailbox;
                id
            }
            None => {
                self.list.push(mailbox);
                MailboxId((self.list.len() - 1) as u32)
            }
        };
        let (list, hashing) = (&self.list, &self.hashing);
        let hash_of =
            |id: &MailboxId| list[id.0 as usize].as_ref().map_or(0, |mailbox| hashing.hash_one(&mailbox.user));
        self.by_name.insert_unique(hashing.hash_one(user), id, hash_of);
        id
    }

    /// The mailbox with this number.
    pub fn mailbox(&mut self, id: MailboxId) -> Option<&mut Mailbox> {
        self.list.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// Forgets a mailbox that nothing refers to.
    pub fn forget(&mut self, id: MailboxId) {
        if let Some(mailbox) = self.list[id.0 as usize].take() {
            assert_eq!(mailbox.references, 0, "a mailbox with references stays");
            if let Ok(found) = self.by_name.find_entry(self.hashing.hash_one(&mailbox.user), |&found| found == id) {
                found.remove();
            }
            self.free.push(id);
        }
    }

    /// All numbers that may be in use.
    pub fn numbers(&self) -> impl Iterator<Item = MailboxId> + use<> {
        (0..self.list.len() as u32).map(MailboxId)
    }

    /// How many mailboxes there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}
