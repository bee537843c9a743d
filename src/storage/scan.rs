//! Recovers one log on a thread of its own, and sends what it finds to the log's executor, a batch at a time.

use std::path::Path;

use crossbeam_channel::Sender;
use iris_shards::log::{Damage, Log, LogConfig, Recovered, Recovery};
use iris_shards::storage::StorageEvent;

use super::StorageError;
use super::segment::{self, Mapped, failed, path_of};
use crate::bell::Bell;

/// Events per batch.
const BATCH: usize = 1024;

/// What the scan sends.
pub(super) enum Scanned {
    Events(Vec<StorageEvent>),
    Done(Box<Log>),
}

/// Starts the scan.
pub(super) fn start(dir: &Path, config: &LogConfig, to: Sender<Scanned>, bell: Bell) -> std::io::Result<()> {
    let (dir, config) = (dir.to_owned(), config.clone());
    let scan = move || {
        if let Err(error) = scan(&dir, &config, &to, &bell) {
            super::fatal(&error.to_string());
        }
    };
    std::thread::Builder::new().name("iris-recovery".into()).spawn(scan)?;
    Ok(())
}

fn scan(dir: &Path, config: &LogConfig, to: &Sender<Scanned>, bell: &Bell) -> Result<(), StorageError> {
    let recovered = scan_files(dir, config, &mut |events| {
        let batch = std::mem::replace(events, Vec::with_capacity(BATCH));
        // Fails only when the executor has ended.
        let _ = to.send(Scanned::Events(batch));
        bell.ring();
    })?;
    settle(dir, &recovered)?;
    let log = Box::new(Log::new(config.clone(), recovered)?);
    let _ = to.send(Scanned::Done(log));
    bell.ring();
    Ok(())
}

/// Maps all segments.
pub(super) fn map_all(dir: &Path) -> Result<Vec<(u32, Mapped)>, StorageError> {
    let numbers = segment::list(dir)?;
    numbers.into_iter().map(|number| Ok((number, segment::map(dir, number)?))).collect()
}

fn scan_files(
    dir: &Path,
    config: &LogConfig,
    found: &mut dyn FnMut(&mut Vec<StorageEvent>),
) -> Result<Recovered, StorageError> {
    let mut recovery = Recovery::new(config, map_all(dir)?);
    let mut events = Vec::with_capacity(BATCH);
    let mut damage = Vec::new();
    loop {
        let more = recovery.step(BATCH, &mut events, &mut damage);
        damage.drain(..).for_each(|damage| report(dir, damage));
        if !events.is_empty() {
            found(&mut events);
        }
        if !more {
            return Ok(recovery.finish());
        }
    }
}

/// Does to the files what the recovery wants, in an order in which a crash changes nothing.
pub(super) fn settle(dir: &Path, recovered: &Recovered) -> Result<(), StorageError> {
    for &number in recovered.remove.iter().rev() {
        segment::remove(dir, number).map_err(failed("remove", &path_of(dir, number)))?;
    }
    if let Some((number, bytes)) = recovered.truncate {
        segment::truncate(dir, number, bytes).map_err(failed("truncate", &path_of(dir, number)))?;
    }
    if let Some(number) = recovered.sync {
        segment::sync(dir, number).map_err(failed("sync", &path_of(dir, number)))?;
    }
    Ok(())
}

/// Tells the operator which file is damaged, and where.
pub(super) fn report(dir: &Path, damage: Damage) {
    let (Damage::Unreadable { segment, .. } | Damage::Missing { segment } | Damage::Torn { segment, .. }) = damage;
    let path = path_of(dir, segment);
    match damage {
        Damage::Torn { .. } => tracing::warn!(path = %path.display(), "{damage}"),
        Damage::Unreadable { .. } | Damage::Missing { .. } => tracing::error!(path = %path.display(), "{damage}"),
    }
}
