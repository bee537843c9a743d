//! What executors ask of the storage threads, and what they are answered. Every job is answered once, however long the
//! cluster is away; a write that is not answered may or may not have happened, and is tried again until it has.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use iris_shards::id::{Body, Key, UserId};
use tokio::sync::mpsc::Sender;

use super::place::At;
use crate::bell::Bell;

/// One row to be written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The user has rows of the own writer in this bucket.
    Known { bucket: i32 },
    /// Everything of this writer up to here is dead.
    Floor { writer: i32, at: At },
    /// A message.
    Entry { at: At, key: Key, sent_at: u64, body: Body },
    /// A key that was taken, and when, in ms since the Unix epoch.
    Taken { key: Key, taken_at: u64 },
    /// The row of a message that was taken.
    Dead { writer: i32, at: At, key: Key },
    /// All rows of this writer up to here, in the group's bucket.
    DeadUpTo { writer: i32, at: At },
}

/// Rows of one partition, written at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Whose.
    pub user: UserId,
    /// The partition: of the user in a bucket, or the user's own row.
    pub bucket: Option<i32>,
    /// What is written.
    pub steps: Vec<Step>,
}

/// A slice of a partition, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Whose.
    pub user: UserId,
    /// Which partition.
    pub bucket: i32,
    /// Whose rows.
    pub writer: i32,
    /// By time.
    pub wanted: Vec<(At, Key)>,
}

/// What a load is to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether everything alive.
    pub entries: bool,
    /// And which of these keys were taken.
    pub keys: Vec<Key>,
}

/// Everything alive of a user.
#[derive(Debug, Default)]
pub struct Found {
    /// Where the rows of each writer begin.
    pub floors: Vec<(i32, At)>,
    /// The row of each key: time and writer.
    pub newest: HashMap<Key, (At, i32), RandomState>,
}

/// A request.
#[derive(Debug)]
pub enum Job {
    /// Find out behind which time this writer may write, and keep times for it from there or from `now` on.
    Open { executor: u16, now: At },
    /// Keep times up to `until`.
    Reserve { executor: u16, until: At },
    /// Write.
    Write(Group),
    /// Read the messages of one page.
    Read(Slice),
    /// Find what is wanted of a user.
    Load { user: UserId, wanted: Wanted },
}

/// A row without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub writer: i32,
    pub at: At,
    pub key: Key,
    pub sent_at: u64,
    pub body_bytes: u32,
}

/// An answer. All but `Rows` end their job.
#[derive(Debug)]
pub enum Answer {
    /// No later time than `behind` was ever given to this writer; those up to `until` are kept now.
    Opened { behind: At, until: At },
    /// Times up to here are kept.
    Reserved { until: At },
    /// Written, at the consistency level.
    Written,
    /// What was found, and what was not.
    Read { slice: Slice, found: Vec<(At, Key, u64, Body)> },
    /// Some rows of a user, and those that others of the same keys outdo.
    Rows { user: UserId, rows: Vec<Row>, outdone: Vec<(i32, At, Key)> },
    /// The end of a user's rows, if they were wanted, and which keys were taken when.
    Loaded { user: UserId, found: Option<Found>, taken: Vec<(Key, u64)> },
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where answers go, each with the number of its job.
    pub answers: Sender<(u64, Answer)>,
    /// Rung after each.
    pub bell: Bell,
    /// The own writer.
    pub writer: i32,
}

/// A job, its number, and who asks.
#[derive(Debug)]
pub struct Asking {
    /// Unique for the one who asks.
    pub number: u64,
    /// What is to be done.
    pub job: Job,
    /// For whom.
    pub asked: Arc<Asked>,
}
