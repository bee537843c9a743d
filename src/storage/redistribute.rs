//! Another number of executors: writes all logs anew, each record to the log of its user's new home.
//!
//! A user's records are all in one old log, and are copied in their order; entries that a later tombstone kills are left
//! out. The new logs have the marks that all old ones had (delivery rule 14).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use iris_shards::id::{Key, UserId};
use iris_shards::log::{LogConfig, Recovery};
use iris_shards::slot::slot_of;
use iris_shards::storage::{Mark, Record, StorageEvent};

use super::StorageError;
use super::data_dir::{Manifest, generation_dir, log_dir, make_logs, write_manifest};
use super::log_writer::{LogWriter, WriteError};
use super::scan;
use super::segment::Mapped;

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
        writers.push(LogWriter::new(log_dir(&generation, executor), config)?);
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
    for mut writer in writers {
        let mut marks = marks.iter().flat_map(Marks::values);
        marks.try_for_each(|mark| writer.append(Record::Complete(mark.clone()))).map_err(no_space)?;
        writer.finish().map_err(no_space)?;
    }
    write_manifest(dir, &new)?;
    Ok(new)
}

/// Copies one log; which shards it has marks of.
fn copy(dir: &Path, config: &LogConfig, writers: &mut [LogWriter]) -> Result<Marks, WriteError> {
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
            writer.turn_ended()?;
        }
    }
    Ok(marks)
}

fn borrow(files: &Files) -> Vec<(u32, &Mapped)> {
    files.iter().map(|(number, file)| (*number, file)).collect()
}

fn home<'a>(record: &Record, writers: &'a mut [LogWriter]) -> &'a mut LogWriter {
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
