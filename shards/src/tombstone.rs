//! Tombstones: what was taken is remembered for a while, so that a repeat does not make a second message (rule 15).
//!
//! Owns (mailbox, key) and where the record of the tombstone is, if there is one. Bounded by age and count.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashMap;

use crate::inbox::EntryKey;
use crate::mailbox::MailboxId;
use crate::storage::Place;

/// Where the record of a tombstone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In memory only: the entry was never on disk, or the record is not flushed yet.
    Memory,
    /// On disk.
    Flushed(Place),
    /// On disk at this place, and a copy is on its way to the disk.
    Moving(Place),
}

impl Kept {
    /// Where it is on disk.
    pub fn place(self) -> Option<Place> {
        match self {
            Kept::Memory => None,
            Kept::Flushed(place) | Kept::Moving(place) => Some(place),
        }
    }
}

/// A tombstone that is not remembered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Whose.
    pub mailbox: MailboxId,
    /// Which.
    pub key: EntryKey,
    /// Where its record is.
    pub kept: Kept,
}

/// The tombstones of one executor.
#[derive(Debug)]
pub struct Tombstones {
    kept: HashMap<(MailboxId, EntryKey), Kept, RandomState>,
    /// By the time of taking, in monotonic ms.
    order: VecDeque<(u64, MailboxId, EntryKey)>,
}

impl Tombstones {
    /// No tombstones; `seed` makes the hashing unpredictable to users.
    pub fn new(seed: u64) -> Self {
        let state = RandomState::with_seeds(seed, 11, 12, 13);
        Tombstones { kept: HashMap::with_hasher(state), order: VecDeque::new() }
    }

    /// Remembers that an entry was taken. False if that was known.
    pub fn insert(&mut self, now_ms: u64, mailbox: MailboxId, key: EntryKey, kept: Kept) -> bool {
        if self.kept.contains_key(&(mailbox, key)) {
            return false;
        }
        self.kept.insert((mailbox, key), kept);
        self.order.push_back((now_ms, mailbox, key));
        true
    }

    /// Whether this entry was taken.
    pub fn contains(&self, mailbox: MailboxId, key: EntryKey) -> bool {
        !self.kept.is_empty() && self.kept.contains_key(&(mailbox, key))
    }

    /// Where the record of this tombstone is.
    pub fn kept_mut(&mut self, mailbox: MailboxId, key: EntryKey) -> Option<&mut Kept> {
        self.kept.get_mut(&(mailbox, key))
    }

    /// Takes out the oldest tombstone that was taken before `before_ms`, or while there are more than `most`.
    pub fn forget(&mut self, before_ms: u64, most: usize) -> Option<Forgotten> {
        let &(taken_ms, mailbox, key) = self.order.front()?;
        if taken_ms >= before_ms && self.order.len() <= most {
            return None;
        }
        self.order.pop_front();
        let kept = self.kept.remove(&(mailbox, key)).unwrap_or(Kept::Memory);
        if self.order.is_empty() {
            (self.kept, self.order) = (HashMap::with_hasher(self.kept.hasher().clone()), VecDeque::new());
        }
        Some(Forgotten { mailbox, key, kept })
    }

    /// When the oldest was taken, in monotonic ms.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.order.front().map(|&(taken_ms, ..)| taken_ms)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (MailboxId, EntryKey)> {
        self.order.iter().map(|&(_, mailbox, key)| (mailbox, key))
    }
}
