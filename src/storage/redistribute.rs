//! Another number of executors: writes all logs anew, each record to the log of its user's new home.
//!
//! A user's records are all in one old log, and are copied in their order; entries that a later tombstone kills are left
//! out. The new logs have the marks that all old ones had (delivery rule 14).

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use iris_shards::id::{Key, UserId};
use iris_shards::log::{Log, LogAction, LogConfig, LogEvent, Recovery};
use iris_shards::slot::slot_of;
use iris_shards::storage::{Mark, Record, StorageEvent, StorageRequest};

use super::StorageError;
use super::data_dir::{Manifest, generation_dir, log_dir, make_logs, write_manifest};
use super::scan;
use super::segment::{self, Mapped, failed, path_of};

/// Events per step.
const BATCH: usize = 1024;

type Files = Vec<(u32, Mapped)>;

/// Where a tombstone is in its log, by what it kills.
type Dead = HashMap<(UserId, Key), usize>;

/// The last mark of each shard, by ring and shard.
type Marks = BTreeMap<(u32, u32), Mark>;

/// Makes the next generation and switches to it. Before the switch the old one is whole, and after it the new one.
pub(super) fn redistribute(
    dir: &Path,
    old: &Manifest,
    config: &LogConfig,
    executors: u16,
) -> Result<Manifest, StorageError> {
    tracing::info!(from = old.executors, to = executors, "writing the logs anew for another number of executors");
    let new = Manifest { generation: old.generation + 1, executors, ..old.clone() };
    make_logs(dir, new.generation, executors)?;
    let generation = generation_dir(dir, new.generation);
    let no_space = |error| match error {
        WriteError::Storage(error) => error,
        WriteError::Full => StorageError::NoSpace { path: dir.to_owned(), from: old.executors, to: executors },
    };
    let mut writers = Vec::new();
    for executor in 0..executors {
        writers.push(Writer::new(log_dir(&generation, executor), config)?);
    }
    let mut marks: Option<Marks> = None;
    for executor in 0..old.executors {
        let from = log_dir(&generation_dir(dir, old.generation), executor);
        let its = copy(&from, config, &mut writers).map_err(no_space)?;
        // A shard is marked if every log says the same of it: its slots are spread over all of them.
        marks = Some(match marks {
            Some(so_far) => so_far.into_iter().filter(|(of, mark)| its.get(of) == Some(mark)).collect(),
            None => its,
        });
    }
    for writer in writers {
        writer.finish(marks.iter().flat_map(Marks::values)).map_err(no_space)?;
    }
    write_manifest(dir, &new)?;
    Ok(new)
}

/// Copies one log; which shards it has marks of.
fn copy(dir: &Path, config: &LogConfig, writers: &mut [Writer]) -> Result<Marks, WriteError> {
    let files = scan::map_all(dir)?;
    let dead = find_dead(&files, config);
    let mut recovery = Recovery::new(config, borrow(&files));
    let (mut events, mut damage, mut at, mut more) = (Vec::new(), Vec::new(), 0, true);
    let mut marks = Marks::new();
    while more {
        more = recovery.step(BATCH, &mut events, &mut damage);
        damage.drain(..).for_each(|damage| scan::report(dir, damage));
        for event in events.drain(..) {
            at += 1;
            let StorageEvent::Recovered { record, place, .. } = event else { continue };
            if let Record::Complete(mark) = record {
                marks.insert((mark.num_shards, mark.shard), mark);
                continue;
            }
            let is_live = is_live(&record, at, &dead);
            if let Some(record) = is_live.then(|| recovery.record(place)).flatten() {
                home(&record, writers).append(record)?;
            }
        }
        for writer in writers.iter_mut() {
            writer.handle(LogEvent::TurnEnded)?;
        }
    }
    Ok(marks)
}

fn borrow(files: &Files) -> Vec<(u32, &Mapped)> {
    files.iter().map(|(number, file)| (*number, file)).collect()
}

fn home<'a>(record: &Record, writers: &'a mut [Writer]) -> &'a mut Writer {
    let executor = match record {
        Record::Entry(entry) => slot_of(entry.user.as_bytes()).home(writers.len() as u16),
        Record::Tombstone { user, .. } => slot_of(user.as_bytes()).home(writers.len() as u16),
        Record::Complete(_) => unreachable!("marks are written to every log"),
    };
    &mut writers[usize::from(executor.0)]
}

fn find_dead(files: &Files, config: &LogConfig) -> Dead {
    let mut recovery = Recovery::new(config, borrow(files));
    let (mut events, mut damage, mut at, mut more) = (Vec::new(), Vec::new(), 0, true);
    let mut dead = Dead::new();
    while more {
        more = recovery.step(BATCH, &mut events, &mut damage);
        for event in events.drain(..) {
            at += 1;
            if let StorageEvent::Recovered { record: Record::Tombstone { user, key, .. }, .. } = event {
                dead.insert((user, key), at);
            }
        }
    }
    dead
}

fn is_live(record: &Record, at: usize, dead: &Dead) -> bool {
    match record {
        Record::Entry(entry) => dead.get(&(entry.user.clone(), entry.key.clone())).is_none_or(|&killed| killed < at),
        Record::Tombstone { .. } | Record::Complete(_) => true,
    }
}

enum WriteError {
    Storage(StorageError),
    Full,
}

impl From<StorageError> for WriteError {
    fn from(error: StorageError) -> Self {
        WriteError::Storage(error)
    }
}

/// A log that is driven by blocking calls.
struct Writer {
    dir: PathBuf,
    config: LogConfig,
    log: Log,
    file: Option<(u32, File)>,
    is_closed: bool,
}

impl Writer {
    fn new(dir: PathBuf, config: &LogConfig) -> Result<Self, StorageError> {
        let empty = Recovery::<&[u8]>::new(config, Vec::new()).finish();
        let log = Log::new(config.clone(), empty)?;
        Ok(Writer { dir, config: config.clone(), log, file: None, is_closed: false })
    }

    fn append(&mut self, record: Record) -> Result<(), WriteError> {
        self.handle(LogEvent::Request(StorageRequest::Append(record)))
    }

    fn finish<'a>(mut self, marks: impl Iterator<Item = &'a Mark>) -> Result<(), WriteError> {
        for mark in marks {
            self.append(Record::Complete(mark.clone()))?;
        }
        self.handle(LogEvent::Close)?;
        assert!(self.is_closed, "a blocking log does not close");
        Ok(segment::sync_dir(&self.dir).map_err(failed("sync", &self.dir))?)
    }

    /// Handles an event and everything that follows from it.
    fn handle(&mut self, event: LogEvent<'_>) -> Result<(), WriteError> {
        let mut actions = Vec::new();
        self.log.handle(0, event, &mut actions);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                if let Some(event) = self.perform(action)? {
                    self.log.handle(0, event, &mut actions);
                }
            }
        }
        Ok(())
    }

    fn perform(&mut self, action: LogAction) -> Result<Option<LogEvent<'static>>, WriteError> {
        Ok(match action {
            LogAction::Prepare { segment } => {
                match segment::prepare(&self.dir, segment, u64::from(self.config.segment_bytes)) {
                    Ok(()) => Some(LogEvent::Prepared { segment }),
                    Err(cause) if is_full(&cause) => return Err(WriteError::Full),
                    Err(cause) => return Err(failed("create", &path_of(&self.dir, segment))(cause).into()),
                }
            }
            LogAction::Write { segment, offset, bytes } => {
                let path = path_of(&self.dir, segment);
                self.write(segment, offset, &bytes).map_err(failed("write", &path))?;
                Some(LogEvent::Written)
            }
            LogAction::Sync { segment } => {
                if let Some((_, file)) = &self.file {
                    file.sync_data().map_err(failed("sync", &path_of(&self.dir, segment)))?;
                }
                Some(LogEvent::Synced)
            }
            LogAction::Closed => {
                self.is_closed = true;
                None
            }
            LogAction::Tell(StorageEvent::Failed { .. }) => return Err(WriteError::Full),
            LogAction::Tell(_) | LogAction::Report(_) | LogAction::Read { .. } | LogAction::Remove { .. } => None,
        })
    }

    fn write(&mut self, segment: u32, offset: u32, bytes: &[u8]) -> std::io::Result<()> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != segment) {
            let file = OpenOptions::new().write(true).open(path_of(&self.dir, segment))?;
            self.file = Some((segment, file));
        }
        match &self.file {
            Some((_, file)) => file.write_all_at(bytes, u64::from(offset)),
            None => Ok(()),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
