//! Copies messages and taken keys between the logs of a data directory and the tables of a Cassandra or ScyllaDB cluster,
//! while no node uses either.
//!
//! A copy is a union in which what was taken on either side is dead on both; so it may end anywhere and be run
//! again, and a second one writes nothing. In memory are keys, never the bodies of more than some users' pages.

mod digest;
mod inbox;
pub mod logs;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use iris_shards::id::UserId;
use iris_shards::storage::{Entry, Record};
use tokio::sync::mpsc::{self, Receiver, Sender};

pub use self::digest::Digest;
pub use self::inbox::{Inbox, Missing};
use self::logs::{Appender, Logs};
use self::users::each_user;
use super::StorageError;
use super::cassandra::StorageFault;
use super::cassandra::tables::{Days, Tables};
use super::data_dir::{DataDir, StorageOptions};
use super::log_writer::WriteError;

/// Records on their way to the logs.
const RECORDS_MAX: usize = 256;

/// Why a copy is not whole. What was copied stays, and another run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The data directory.
    #[error(transparent)]
    Log(#[from] StorageError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] StorageFault),
    /// The disk.
    #[error("no space for the messages in {path}: free some")]
    Full {
        /// The data directory.
        path: PathBuf,
    },
    /// The sides were compared.
    #[error("{user}: {what}: does a node still use one of the two sides?")]
    Differs {
        /// Whose messages.
        user: UserId,
        /// How.
        what: String,
    },
}

/// What a copy has done, or found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Users who have anything on the side that was copied.
    pub users: u64,
    /// Messages that were written.
    pub copied: u64,
    /// Taken keys that were written.
    pub taken: u64,
    /// The messages that are to be on both sides, and are.
    pub same: Digest,
    /// Messages that only the other side has.
    pub only_there: u64,
    /// Places in the logs of which nothing could be read.
    pub damaged: u64,
}

/// What it is doing: the word for it, and how many users of how many are done.
pub type Watch<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Copies what is in the logs of a directory to a cluster, and compares.
pub async fn to_cassandra(from: &StorageOptions, to: Tables, watch: Watch<'_>) -> Result<Summary, CopyError> {
    watch("reading the log", 0, 0);
    let logs = Logs::open(DataDir::open_existing(from)?)?;
    let users = logs.users();
    watch("looking for what is there", 0, 0);
    let sides = Rc::new(Sides { days: to.users().await?, logs, tables: to });
    let copied = each_user("copying", &users, watch, |user| put_user(sides.clone(), user)).await?;
    let Ok(Sides { logs, tables, .. }) = Rc::try_unwrap(sides) else { unreachable!("all users are done") };
    let compared = compare(logs, tables, (users, Direction::ToCassandra), watch).await?;
    Ok(copied.and(compared))
}

/// Copies what is in a cluster to the logs of a directory, which is made if it is new, and compares.
pub async fn to_log(from: Tables, to: &StorageOptions, watch: Watch<'_>) -> Result<Summary, CopyError> {
    watch("reading the log", 0, 0);
    let (logs, appender) = Logs::append_to(DataDir::open(to)?)?;
    watch("looking for what is there", 0, 0);
    let days = from.users().await?;
    let users: Vec<UserId> = days.keys().cloned().collect();
    let sides = Rc::new(Sides { days, logs, tables: from });
    let (records, written) = mpsc::channel(RECORDS_MAX);
    let dir = to.dir.clone();
    let writing = std::thread::spawn(move || append_all(appender, written).map_err(|error| error.of(dir)));
    let copied = each_user("copying", &users, watch, |user| fetch_user(sides.clone(), user, records.clone())).await;
    drop(records);
    // Why nobody takes records any more is the cause of what comes of it.
    writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let copied = copied?;
    let Ok(Sides { tables, .. }) = Rc::try_unwrap(sides) else { unreachable!("all users are done") };
    watch("reading the log", 0, 0);
    let logs = Logs::open(DataDir::open_existing(to)?)?;
    let compared = compare(logs, tables, (users, Direction::ToLog), watch).await?;
    Ok(copied.and(compared))
}

impl Summary {
    pub(self) fn and(self, other: Summary) -> Summary {
        let mut same = self.same;
        same.join(other.same);
        Summary {
            users: self.users.max(other.users),
            copied: self.copied + other.copied,
            taken: self.taken + other.taken,
            same,
            only_there: self.only_there + other.only_there,
            damaged: self.damaged + other.damaged,
        }
    }
}

impl WriteError {
    fn of(self, path: PathBuf) -> CopyError {
        match self {
            WriteError::Storage(error) => CopyError::Log(error),
            WriteError::Full => CopyError::Full { path },
        }
    }
}

/// Both, and in which partitions of the tables a user is.
struct Sides {
    logs: Logs,
    tables: Tables,
    days: BTreeMap<UserId, Days>,
}

impl Sides {
    fn days(&self, user: &UserId) -> Days {
        self.days.get(user).cloned().unwrap_or_default()
    }
}

async fn put_user(sides: Rc<Sides>, user: UserId) -> Result<Summary, CopyError> {
    let (from, places) = sides.logs.inbox(&user);
    let held = sides.tables.inbox(&user, &sides.days(&user)).await?;
    let missing = held.inbox.missing_of(&from);
    if !missing.is_empty() {
        sides.tables.put(&user, &held, &missing, |key| sides.logs.entry(*places.get(key)?)).await?;
    }
    Ok(missing.summary())
}

async fn fetch_user(sides: Rc<Sides>, user: UserId, records: Sender<Record>) -> Result<Summary, CopyError> {
    let held = sides.tables.inbox(&user, &sides.days(&user)).await?;
    let missing = sides.logs.inbox(&user).0.missing_of(&held.inbox);
    for (key, &taken_at) in &missing.taken {
        let (user, key) = (user.clone(), key.clone());
        // Nobody takes it when the logs cannot be written, which is told by who writes them.
        drop(records.send(Record::Tombstone { user, key, taken_at, kills: None }).await);
    }
    for slice in held.slices(&user, &missing.entries) {
        for (key, sent_at, body) in sides.tables.read(&slice).await? {
            let entry = Entry { user: user.clone(), key, sent_at, body };
            drop(records.send(Record::Entry(entry)).await);
        }
    }
    Ok(missing.summary())
}

impl Missing {
    fn summary(&self) -> Summary {
        Summary { copied: self.entries.len() as u64, taken: self.taken.len() as u64, ..Summary::default() }
    }
}

fn append_all(mut appender: Appender, mut records: Receiver<Record>) -> Result<(), WriteError> {
    while let Some(record) = records.blocking_recv() {
        appender.append(record)?;
    }
    appender.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToCassandra,
    ToLog,
}

/// Reads both sides again: everything that one has, the other has to have, byte by byte.
async fn compare(
    logs: Logs,
    tables: Tables,
    (users, direction): (Vec<UserId>, Direction),
    watch: Watch<'_>,
) -> Result<Summary, CopyError> {
    let damaged = logs.damaged as u64;
    let sides = Rc::new(Sides { days: tables.users().await?, logs, tables });
    let found = each_user("comparing", &users, watch, |user| compare_user(sides.clone(), user, direction)).await?;
    Ok(Summary { users: users.len() as u64, damaged, ..found })
}

async fn compare_user(sides: Rc<Sides>, user: UserId, direction: Direction) -> Result<Summary, CopyError> {
    let (log, places) = sides.logs.inbox(&user);
    let held = sides.tables.inbox(&user, &sides.days(&user)).await?;
    let (from, to) = match direction {
        Direction::ToCassandra => (&log, &held.inbox),
        Direction::ToLog => (&held.inbox, &log),
    };
    let missing = to.missing_of(from);
    if !missing.is_empty() {
        let Missing { entries, taken, dead } = missing;
        let (entries, taken, dead) = (entries.len(), taken.len(), dead.len());
        let what = format!("{entries} messages and {taken} taken keys were not copied, {dead} messages are not dead");
        return Err(CopyError::Differs { user, what });
    }
    let both: BTreeSet<_> = log.alive().intersection(held.inbox.alive()).cloned().collect();
    let (mut here, mut there) = (Digest::default(), Digest::default());
    for slice in held.slices(&user, &both) {
        for (key, sent_at, body) in sides.tables.read(&slice).await? {
            there.add((&user, &key), sent_at, &body);
        }
    }
    for entry in both.iter().filter_map(|key| sides.logs.entry(*places.get(key)?)) {
        here.add((&user, &entry.key), entry.sent_at, &entry.body);
    }
    if here != there {
        let what = format!(
            "the log has {} messages with the digest {here}, the tables {} with {there}",
            here.messages(),
            there.messages()
        );
        return Err(CopyError::Differs { user, what });
    }
    let only_there = to.alive().difference(from.alive()).count() as u64;
    Ok(Summary { same: here, only_there, ..Summary::default() })
}
