//! What a core asks of its storage engine, and what the engine answers.
//!
//! A core appends records and names them by (user, key); the engine answers with an opaque [`Place`] once a record is
//! flushed, and the inbox keeps it so that the engine needs no index of its own. Flushes are told in the order of the
//! appends: record n of [`StorageEvent::Flushed`] is the n-th append that was not told yet.
//! The embedded engine is [`crate::log`]; Cassandra speaks the same vocabulary. What a core has to know of an engine is its
//! [`Reach`]: of one that each core has for itself everything is told at the start, of one that all cores share what is
//! asked for.

use crate::id::{Body, Key, NodeId, UserId};

/// Which cores see what a core appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Only itself. Replicas keep copies of their own, and tell each other (delivery rules 8 and 14).
    #[default]
    Own,
    /// All cores: what is flushed by one can be loaded by each. The store keeps this many copies itself.
    Shared {
        /// What `stored` names.
        copies: u8,
    },
}

/// Where an engine keeps a flushed record. Opaque to the core; the embedded log packs segment and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub u64);

/// A message of an inbox, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The recipient.
    pub user: UserId,
    /// Sender and id.
    pub key: Key,
    /// When the sender's edge took it, in ms since the Unix epoch.
    pub sent_at: u64,
    /// The body.
    pub body: Body,
}

/// What is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A message of an inbox.
    Entry(Entry),
    /// A message that was taken (or has expired): its entry is dead.
    Tombstone {
        /// The recipient.
        user: UserId,
        /// Sender and id.
        key: Key,
        /// When it was taken, in ms since the Unix epoch.
        taken_at: u64,
        /// The flushed entry it kills, if this engine holds it: the engine keeps the tombstone at least as long as
        /// that entry can be found by a recovery.
        kills: Option<Place>,
    },
    /// The mark of a shard (delivery rules 14 and 18).
    Complete(Mark),
}

/// What a log says of one shard; a later mark of the shard replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// The ring that numbers the shard. 0: written before marks were of one shard, and says nothing.
    pub num_shards: u32,
    /// The shard.
    pub shard: u32,
    /// Ascending. With this node among them: everything that these had of the shard is in this log, before this record.
    /// Without it: the shard was given to these, and what is left here of it is theirs.
    pub replicas: Vec<NodeId>,
}

/// A request of the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageRequest {
    /// Append a record. Answered by `Flushed` or `Failed`, in the order of the appends.
    Append(Record),
    /// Read a flushed entry. Answered by `Read`, `Damaged` or `Gone`, in any order.
    Read {
        /// The recipient.
        user: UserId,
        /// Sender and id.
        key: Key,
        /// Where it is.
        place: Place,
    },
    /// The record at this place is not needed any more. Not answered.
    Trim {
        /// Where it is.
        place: Place,
    },
    /// Tell everything that is stored of a user, as [`StorageEvent::Recovered`] entries, and which of these keys were taken, as
    /// `Recovered` tombstones; then `Loaded`. What was appended for the user before is seen. Shared stores only.
    Load {
        /// The recipient.
        user: UserId,
        /// Whether the entries are wanted too.
        entries: bool,
        /// Keys that may have been taken.
        keys: Vec<Key>,
    },
    /// The core knows that this many more appends have failed. Not answered.
    Heard {
        /// As in `Failed`.
        count: usize,
    },
}

/// An answer of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageEvent {
    /// The next `places.len()` appends are on disk (fdatasync returned), at these places.
    Flushed {
        /// In the order of the appends.
        places: Vec<Place>,
    },
    /// The next `count` appends were dropped and never reach the disk: it is full. From a failed append until its failure
    /// was [`StorageRequest::Heard`], entries and the mark fail too: no younger entry is on disk without an older one,
    /// and no mark that what it counts on is missing. (Tombstones do not, nor what is moved on the engine's own wish.)
    Failed {
        /// How many appends.
        count: usize,
    },
    /// The disk has no room for entries (`true`) or has room again (`false`). Tombstones have room reserved.
    Full(bool),
    /// The store confirms nothing for the time being (`true`), or again (`false`). What was appended is told in the end.
    Away(bool),
    /// Everything that was asked for by the oldest `Load` of this user that is not answered yet has been told.
    Loaded {
        /// The recipient.
        user: UserId,
    },
    /// What was at this place was taken or has expired, and another core has seen to that. Shared stores only.
    Gone {
        /// The recipient.
        user: UserId,
        /// Sender and id.
        key: Key,
        /// Where it was.
        place: Place,
    },
    /// A read has completed.
    Read {
        /// The recipient.
        user: UserId,
        /// Sender and id.
        key: Key,
        /// When the sender's edge took it, in ms since the Unix epoch.
        sent_at: u64,
        /// The body.
        body: Body,
    },
    /// What is at this place is not the record that was written there. It was reported with file and offset.
    Damaged {
        /// The recipient.
        user: UserId,
        /// Sender and id.
        key: Key,
        /// Where it was.
        place: Place,
    },
    /// Found while recovering, in log order, before anything else is told, or by a `Load`. A later record of the same (user,
    /// key) replaces an earlier one.
    Recovered {
        /// What was found; an entry's body is empty here and `body_bytes` tells its size.
        record: Record,
        /// The size of the body, in bytes.
        body_bytes: u32,
        /// Where it is.
        place: Place,
    },
    /// The engine wants to give up the segment in which this record is. If the core still needs the record at exactly
    /// this place, it appends it again and trims the old place when that is flushed; else it trims it at once.
    Relocate {
        /// What is there, with its body.
        record: Record,
        /// Where it is now.
        place: Place,
    },
}
