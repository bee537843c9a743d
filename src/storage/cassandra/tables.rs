//! The tables without a node: all users, and everything of one of them, for `iris storage copy`.
//!
//! What is written has the writer 0, which no node has, and times that follow from the ids of the messages: whoever
//! copies the same messages again writes the same rows, even if the first one's writes arrive after that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iris_shards::id::{Body, Key, UserId};
use iris_shards::storage::Entry;
use scylla::statement::prepared::PreparedStatement;

use super::fault::StorageFault;
use super::job::{Group, Row, Slice, Step};
use super::options::CassandraOptions;
use super::place::{At, at_of, bucket_of, bucket_of_ms};
use super::session::{Connected, Prepare, key_of};
use crate::storage::copy::{Inbox, Missing};

/// Nodes have other numbers.
const WRITER: i32 = 0;
/// Of one batch.
const STEPS_MAX: usize = 128;
const BYTES_MAX: usize = 128 << 10;
/// Messages per slice; bodies end it earlier.
const SLICE_MESSAGES_MAX: usize = 256;
/// A statement is tried so often, at growing distances, before the cluster counts as away: half a minute in all.
const ATTEMPTS_MAX: u32 = 8;
const RETRY_MS: u64 = 200;

type Result<T> = std::result::Result<T, StorageFault>;

/// See the module.
pub struct Tables {
    connected: Connected,
    inbox_days: PreparedStatement,
    taken_days: PreparedStatement,
    taken: PreparedStatement,
}

/// The partitions of one user.
#[derive(Debug, Default, Clone)]
pub struct Days {
    inbox: BTreeSet<i32>,
    taken: BTreeSet<i32>,
}

/// What was found of one user.
#[derive(Debug, Default)]
pub struct Held {
    /// Messages and taken keys.
    pub inbox: Inbox,
    /// All rows that are not below a floor.
    rows: Vec<Row>,
    /// Below this nothing of the own writer is found.
    floor: At,
    has_floor: bool,
}

impl Tables {
    /// Connects, and checks the tables.
    pub async fn open(options: &CassandraOptions) -> Result<Self> {
        let connected = Connected::new(options).await?;
        let prepare = Prepare { session: connected.session(), keyspace: &options.keyspace };
        let reads = options.consistency.of_reads();
        Ok(Tables {
            inbox_days: prepare.one("SELECT DISTINCT user, bucket FROM {}.inbox", reads).await?,
            taken_days: prepare.one("SELECT DISTINCT user, bucket FROM {}.taken", reads).await?,
            taken: prepare
                .one("SELECT id, sender, taken_at FROM {}.taken WHERE user = ? AND bucket = ?", reads)
                .await?,
            connected,
        })
    }

    /// Everybody of whom anything is there, and where.
    pub async fn users(&self) -> Result<BTreeMap<UserId, Days>> {
        let mut users: BTreeMap<UserId, Days> = BTreeMap::new();
        for (user, bucket) in self.partitions(&self.inbox_days).await? {
            users.entry(user).or_default().inbox.insert(bucket);
        }
        for (user, bucket) in self.partitions(&self.taken_days).await? {
            users.entry(user).or_default().taken.insert(bucket);
        }
        Ok(users)
    }

    async fn partitions(&self, statement: &PreparedStatement) -> Result<Vec<(UserId, i32)>> {
        let rows: Vec<(String, i32)> = patiently(|| self.connected.select(statement, &())).await?;
        let partition = |(user, bucket): (String, i32)| match UserId::parse(user.as_bytes()) {
            Ok(user) => Ok((user, bucket)),
            Err(_) => Err(StorageFault::Answer(format!("{user:?} is not a user"))),
        };
        rows.into_iter().map(partition).collect()
    }

    /// What is there of a user in these partitions.
    pub async fn inbox(&self, user: &UserId, days: &Days) -> Result<Held> {
        let mut held = Held::default();
        for &bucket in &days.taken {
            for (key, taken_at) in patiently(|| self.taken(user, bucket)).await? {
                held.inbox.take(key, taken_at);
            }
        }
        for (writer, floor, last) in patiently(|| self.connected.user(user)).await? {
            if writer == WRITER {
                (held.floor, held.has_floor) = (floor, true);
            }
            for &bucket in days.inbox.range(bucket_of(floor + 1)..=last.max(bucket_of(floor + 1))) {
                held.rows.extend(patiently(|| self.connected.rows(user, (bucket, writer, floor))).await?);
            }
        }
        held.rows.iter().for_each(|row| held.inbox.put(row.key.clone()));
        Ok(held)
    }

    async fn taken(&self, user: &UserId, bucket: i32) -> Result<Vec<(Key, u64)>> {
        let rows: Vec<(Vec<u8>, String, i64)> = self.connected.select(&self.taken, &(user.as_str(), bucket)).await?;
        rows.into_iter().map(|(id, sender, at)| Ok((key_of(&id, &sender)?, at as u64))).collect()
    }

    /// Writes what is missing. First what was taken: nothing that is dead is alive on the way.
    pub async fn put(
        &self,
        user: &UserId,
        held: &Held,
        missing: &Missing,
        entry: impl Fn(&Key) -> Option<Entry>,
    ) -> Result<()> {
        let mut groups = Groups { tables: self, user, bucket: None, steps: Vec::new(), bytes: 0 };
        for (key, &taken_at) in &missing.taken {
            let bucket = bucket_of_ms(key.id.time_ms());
            groups.step(Some(bucket), Step::Taken { key: key.clone(), taken_at }).await?;
        }
        for row in held.rows.iter().filter(|row| missing.dead.contains(&row.key)) {
            let step = Step::Dead { writer: row.writer, at: row.at, key: row.key.clone() };
            groups.step(Some(bucket_of(row.at)), step).await?;
        }
        let times = held.times(&missing.entries);
        for step in held.begin(&times) {
            groups.step(None, step).await?;
        }
        for (key, at) in times {
            let Some(Entry { key, sent_at, body, .. }) = entry(key) else { continue };
            groups.step(Some(bucket_of(at)), Step::Entry { at, key, sent_at, body }).await?;
        }
        groups.write().await
    }

    /// The messages of a slice.
    pub async fn read(&self, slice: &Slice) -> Result<Vec<(Key, u64, Body)>> {
        let found = patiently(|| self.connected.read(slice)).await?;
        let wanted = |at: At, key: &Key| slice.wanted.iter().any(|(t, k)| (*t, k) == (at, key));
        let found = found.into_iter().filter(|(at, key, ..)| wanted(*at, key));
        Ok(found.map(|(_, key, sent_at, body)| (key, sent_at, body)).collect())
    }
}

impl Held {
    /// When new rows are said to be written: each at its message's time, later than the one before it, where nothing is.
    fn times<'a>(&self, entries: &'a BTreeSet<Key>) -> Vec<(&'a Key, At)> {
        let used: BTreeSet<At> = self.rows.iter().filter(|row| row.writer == WRITER).map(|row| row.at).collect();
        let mut last = self.floor;
        let time = |key: &'a Key| {
            let mut at = at_of(key.id.time_ms()).max(last + 1);
            while used.contains(&at) {
                at += 1;
            }
            last = at;
            (key, at)
        };
        entries.iter().map(time).collect()
    }

    /// Where rows are to be looked for, before there are any.
    fn begin(&self, times: &[(&Key, At)]) -> Vec<Step> {
        let (Some(&(_, first)), Some(&(_, last))) = (times.first(), times.last()) else { return Vec::new() };
        let mut steps = vec![Step::Known { bucket: bucket_of(last) }];
        if !self.has_floor {
            steps.push(Step::Floor { writer: WRITER, at: first - 1 });
        }
        steps
    }

    /// These messages, in parts that have room in memory: one row of each.
    pub fn slices(&self, user: &UserId, keys: &BTreeSet<Key>) -> Vec<Slice> {
        let mut rows: BTreeMap<&Key, &Row> = BTreeMap::new();
        rows.extend(self.rows.iter().filter(|row| keys.contains(&row.key)).map(|row| (&row.key, row)));
        let mut rows: Vec<&Row> = rows.into_values().collect();
        rows.sort_by_key(|row| (row.writer, row.at));
        let mut slices: Vec<Slice> = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let (bucket, wanted) = (bucket_of(row.at), (row.at, row.key.clone()));
            bytes += row.body_bytes as usize;
            match slices.last_mut() {
                Some(last)
                    if (last.writer, last.bucket) == (row.writer, bucket)
                        && last.wanted.len() < SLICE_MESSAGES_MAX
                        && bytes < BYTES_MAX =>
                {
                    last.wanted.push(wanted);
                }
                _ => {
                    bytes = row.body_bytes as usize;
                    slices.push(Slice { user: user.clone(), bucket, writer: row.writer, wanted: vec![wanted] });
                }
            }
        }
        slices
    }
}

/// Steps of one partition, until it is another one or enough.
struct Groups<'a> {
    tables: &'a Tables,
    user: &'a UserId,
    bucket: Option<i32>,
    steps: Vec<Step>,
    bytes: usize,
}

impl Groups<'_> {
    async fn step(&mut self, bucket: Option<i32>, step: Step) -> Result<()> {
        if bucket != self.bucket || self.steps.len() >= STEPS_MAX || self.bytes >= BYTES_MAX {
            self.write().await?;
        }
        self.bucket = bucket;
        self.bytes += if let Step::Entry { body, .. } = &step { body.len() } else { 0 };
        self.steps.push(step);
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        self.bytes = 0;
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return Ok(());
        }
        let group = Group { user: self.user.clone(), bucket: self.bucket, steps };
        patiently(|| self.tables.connected.write(&group, WRITER)).await
    }
}

/// Tries again for a while: every statement may be repeated.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let mut wait_ms = RETRY_MS;
    for _ in 1..ATTEMPTS_MAX {
        match attempt().await {
            Err(fault) if fault.may_pass() => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
            result => return result,
        }
        wait_ms *= 2;
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    use super::super::place::DAY_MS;
    use super::*;
    use iris_shards::id::MessageId;

    const NOON_MS: u64 = 1_800_014_400_000;

    fn user() -> UserId {
        UserId::parse(b"bob").unwrap()
    }

    fn key(time_ms: u64, n: u128) -> Key {
        Key { id: MessageId::v7(time_ms, n), sender: UserId::parse(b"alice").unwrap() }
    }

    fn row(key: &Key, at: At, body_bytes: u32) -> Row {
        Row { writer: WRITER, at, key: key.clone(), sent_at: 0, body_bytes }
    }

    #[test]
    fn times_are_those_of_the_ids_and_never_the_same() {
        let keys: BTreeSet<Key> = (0..3).map(|n| key(NOON_MS, n)).chain([key(NOON_MS + 5, 0)]).collect();
        let noon = at_of(NOON_MS);
        let times = |held: &Held| held.times(&keys).into_iter().map(|(_, at)| at - noon).collect::<Vec<_>>();
        let mut held = Held::default();
        assert_eq!(times(&held), [0, 1, 2, 320]);
        held.rows = vec![row(&key(NOON_MS, 9), noon + 1, 0)];
        assert_eq!(times(&held), [0, 2, 3, 320], "a row is there already");
        held.floor = noon + 400;
        assert_eq!(times(&held), [401, 402, 403, 404], "nothing is found below the floor");
    }

    #[test]
    fn the_first_row_says_where_rows_begin() {
        let keys = BTreeSet::from([key(NOON_MS, 0), key(NOON_MS + DAY_MS, 0)]);
        let mut held = Held::default();
        let day = (NOON_MS / DAY_MS) as i32;
        let known = Step::Known { bucket: day + 1 };
        let floor = Step::Floor { writer: WRITER, at: at_of(NOON_MS) - 1 };
        assert_eq!(held.begin(&held.times(&keys)), [known.clone(), floor]);
        held.has_floor = true;
        assert_eq!(held.begin(&held.times(&keys)), [known]);
        assert!(held.begin(&[]).is_empty());
    }

    #[test]
    fn slices_are_of_one_partition_and_have_room_in_memory() {
        let keys: Vec<Key> = (0..6).map(|n| key(NOON_MS + n / 5 * DAY_MS, n.into())).collect();
        let rows = keys.iter().enumerate().map(|(n, key)| row(key, at_of(key.id.time_ms()) + n as At, 60 << 10));
        let held = Held { rows: rows.collect(), ..Held::default() };
        let wanted: BTreeSet<Key> = keys[1..].iter().cloned().collect();
        let slices = held.slices(&user(), &wanted);
        assert_eq!(slices.iter().map(|slice| slice.wanted.len()).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(slices.iter().flat_map(|slice| &slice.wanted).map(|(_, key)| key).eq(&keys[1..]));
    }

    #[test]
    fn a_message_that_has_two_rows_is_read_once() {
        let one = key(NOON_MS, 1);
        let held = Held { rows: vec![row(&one, 5, 1), row(&one, 9, 1)], ..Held::default() };
        assert_eq!(held.slices(&user(), &BTreeSet::from([one])).len(), 1);
    }
}
