//! All logs of a data directory while no node has it: who has which records, and their bodies when they are asked for.
//!
//! In memory are 16 bytes for each record and the names of users; bodies stay in the mapped files. A directory is only
//! read, unless it is opened for appending.

use std::collections::BTreeMap;
use std::path::Path;

use ahash::RandomState;
use hashbrown::HashMap;
use iris_shards::id::{Key, UserId};
use iris_shards::log::{Damage, Recovery};
use iris_shards::record::record_bytes;
use iris_shards::slot::slot_of;
use iris_shards::storage::{Entry, Place, Record, StorageEvent};

use super::Inbox;
use crate::storage::StorageError;
use crate::storage::data_dir::{DataDir, LogSeat};
use crate::storage::log_writer::{LogWriter, WriteError};
use crate::storage::scan::{self, map_all};
use crate::storage::segment::Mapped;

/// Records per step of the scan.
const BATCH: usize = 1_024;
/// Bytes that are appended before they are synced.
const TURN_BYTES: usize = 1 << 20;

/// Where a record is: in which log, and where there.
pub type LogPlace = (u16, Place);

/// See the module.
pub struct Logs {
    /// Its lock.
    _dir: DataDir,
    logs: Vec<Recovery<Mapped>>,
    users: HashMap<UserId, u32, RandomState>,
    /// By user; those of one user in the order of their log.
    records: Vec<Found>,
    /// Places of which nothing could be read.
    pub damaged: usize,
}

struct Found {
    user: u32,
    log: u16,
    place: Place,
}

impl Logs {
    /// Finds out what is there.
    pub fn open(mut dir: DataDir) -> Result<Logs, StorageError> {
        let seats = dir.take_seats();
        let mut logs = Logs::of(dir);
        for (number, seat) in seats.iter().enumerate() {
            let recovery = logs.scan(number as u16, seat)?;
            logs.logs.push(recovery);
        }
        logs.sort();
        Ok(logs)
    }

    /// Finds out what is there, and appends to it.
    pub fn append_to(mut dir: DataDir) -> Result<(Logs, Appender), StorageError> {
        let seats = dir.take_seats();
        let mut logs = Logs::of(dir);
        let mut writers = Vec::new();
        for (number, seat) in seats.iter().enumerate() {
            let recovered = logs.scan(number as u16, seat)?.finish();
            scan::settle(&seat.dir, &recovered)?;
            writers.push(LogWriter::behind(seat.dir.clone(), &seat.config, recovered)?);
            // A log never appends to a segment that was recovered, so these stay as they are.
            logs.logs.push(Recovery::new(&seat.config, map_all(&seat.dir)?));
        }
        logs.sort();
        Ok((logs, Appender { writers, bytes: 0 }))
    }

    fn of(dir: DataDir) -> Logs {
        Logs { _dir: dir, logs: Vec::new(), users: HashMap::default(), records: Vec::new(), damaged: 0 }
    }

    fn scan(&mut self, log: u16, seat: &LogSeat) -> Result<Recovery<Mapped>, StorageError> {
        let mut recovery = Recovery::new(&seat.config, map_all(&seat.dir)?);
        let (mut events, mut damage, mut more) = (Vec::with_capacity(BATCH), Vec::new(), true);
        while more {
            more = recovery.step(BATCH, &mut events, &mut damage);
            damage.drain(..).for_each(|damage| self.on_damage(&seat.dir, damage));
            for event in events.drain(..) {
                if let StorageEvent::Recovered { record, place, .. } = event {
                    self.on_record(&record, (log, place));
                }
            }
        }
        Ok(recovery)
    }

    fn on_damage(&mut self, dir: &Path, damage: Damage) {
        // What is torn was never told to be stored.
        self.damaged += usize::from(!matches!(damage, Damage::Torn { .. }));
        scan::report(dir, damage);
    }

    fn on_record(&mut self, record: &Record, (log, place): LogPlace) {
        let user = match record {
            Record::Entry(entry) => &entry.user,
            Record::Tombstone { user, .. } => user,
            // What is complete is said by the node that has the log.
            Record::Complete(_) => return,
        };
        let next = self.users.len() as u32;
        let user = *self.users.entry_ref(user).or_insert(next);
        self.records.push(Found { user, log, place });
    }

    fn sort(&mut self) {
        self.records.sort_by_key(|found| found.user);
        self.records.shrink_to_fit();
    }

    /// Everybody who has a record.
    pub fn users(&self) -> Vec<UserId> {
        let mut users: Vec<UserId> = self.users.keys().cloned().collect();
        users.sort_unstable();
        users
    }

    /// What is there of a user, and where the messages are.
    pub fn inbox(&self, user: &UserId) -> (Inbox, BTreeMap<Key, LogPlace>) {
        let (mut inbox, mut places) = (Inbox::default(), BTreeMap::new());
        for at in self.found(user).iter().map(|found| (found.log, found.place)) {
            match self.record(at) {
                Some(Record::Entry(entry)) => {
                    places.insert(entry.key.clone(), at);
                    inbox.put(entry.key);
                }
                Some(Record::Tombstone { key, taken_at, .. }) => inbox.take(key, taken_at),
                Some(Record::Complete(_)) | None => {}
            }
        }
        (inbox, places)
    }

    fn found(&self, user: &UserId) -> &[Found] {
        let Some(&number) = self.users.get(user) else { return &[] };
        let start = self.records.partition_point(|found| found.user < number);
        let end = self.records.partition_point(|found| found.user <= number);
        &self.records[start..end]
    }

    /// The message at this place.
    pub fn entry(&self, at: LogPlace) -> Option<Entry> {
        match self.record(at)? {
            Record::Entry(entry) => Some(entry),
            _ => None,
        }
    }

    fn record(&self, (log, place): LogPlace) -> Option<Record> {
        self.logs.get(usize::from(log))?.record(place)
    }
}

/// Appends to the logs of a directory, each record to that of its user's home.
pub struct Appender {
    writers: Vec<LogWriter>,
    bytes: usize,
}

impl Appender {
    /// A record of a user.
    pub(super) fn append(&mut self, record: Record) -> Result<(), WriteError> {
        let user = match &record {
            Record::Entry(entry) => &entry.user,
            Record::Tombstone { user, .. } => user,
            Record::Complete(_) => return Ok(()),
        };
        let home = slot_of(user.as_bytes()).home(self.writers.len() as u16);
        self.bytes += record_bytes(&record);
        self.writers[usize::from(home.0)].append(record)?;
        if self.bytes >= TURN_BYTES {
            self.bytes = 0;
            self.writers.iter_mut().try_for_each(LogWriter::turn_ended)?;
        }
        Ok(())
    }

    /// Everything is on disk.
    pub(super) fn finish(self) -> Result<(), WriteError> {
        self.writers.into_iter().try_for_each(LogWriter::finish)
    }
}
