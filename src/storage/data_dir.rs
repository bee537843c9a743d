//! The data directory: its lock, its manifest, and the logs of one generation.
//!
//! The manifest says which generation of logs counts and for how many executors it was made. Another number of executors
//! writes the next generation beside it and switches by renaming the manifest, so that kill -9 leaves one of them whole;
//! generations that the manifest does not name are removed.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crossbeam_channel::Sender;
use iris_shards::log::LogConfig;
use serde::{Deserialize, Serialize};

use super::disk_thread::{self, Job};
use super::segment::{self, failed, sync_dir};
use super::{StorageError, redistribute};
use crate::config::Config;
use crate::random;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// What the operator chooses.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// Bounds of the log; its salt is ignored, the manifest has it.
    pub log: LogConfig,
    /// Executors, each with a log of its own.
    pub executors: u16,
}

impl StorageOptions {
    /// As a configuration has them, in this directory.
    pub fn of(config: &Config, dir: PathBuf, executors: u16) -> Self {
        let log = LogConfig {
            segment_bytes: config.segment_bytes as u32,
            body_bytes_max: config.edge.body_bytes_max,
            ..LogConfig::default()
        };
        StorageOptions { dir, log, executors }
    }
}

/// What the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: u32,
    pub generation: u32,
    pub executors: u16,
    /// Part of every checksum.
    pub salt: u32,
    /// The largest that was ever configured: segments have to hold such records.
    pub body_bytes_max: u32,
}

/// An open data directory. Keeps the lock; logs that were taken out of it go on without it only until the process ends.
pub struct DataDir {
    _lock: File,
    seats: Vec<LogSeat>,
}

/// What one executor needs to open its log. Moves to its thread.
pub struct LogSeat {
    pub(super) dir: PathBuf,
    pub(super) config: LogConfig,
    pub(super) jobs: Sender<Job>,
}

impl DataDir {
    /// Locks the directory, makes it if it is new, and writes its logs anew if the number of executors has changed.
    /// Blocks: call it before the executors start.
    pub fn open(options: &StorageOptions) -> Result<DataDir, StorageError> {
        options.log.check()?;
        let dir = &options.dir;
        std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let lock = lock(dir)?;
        let mut manifest = match read_manifest(dir)? {
            Some(manifest) => manifest,
            None if has_segments(dir)? => return Err(StorageError::NoManifest { path: dir.join("manifest.json") }),
            None => first_manifest(options)?,
        };
        manifest = raise_body_bytes(dir, manifest, options)?;
        remove_strangers(dir, manifest.generation)?;
        let mut config = LogConfig { salt: manifest.salt, ..options.log.clone() };
        config.body_bytes_max = manifest.body_bytes_max;
        config.check()?;
        if manifest.executors != options.executors {
            manifest = redistribute::redistribute(dir, &manifest, &config, options.executors)?;
            remove_strangers(dir, manifest.generation)?;
        }
        let jobs = disk_thread::start().map_err(failed("start the disk thread of", dir))?;
        let generation = generation_dir(dir, manifest.generation);
        let seat =
            |executor| LogSeat { dir: log_dir(&generation, executor), config: config.clone(), jobs: jobs.clone() };
        Ok(DataDir { _lock: lock, seats: (0..manifest.executors).map(seat).collect() })
    }

    /// Opens what is there, for as many executors as it was made for. Nothing is made.
    pub fn open_existing(options: &StorageOptions) -> Result<DataDir, StorageError> {
        let dir = &options.dir;
        let found = if dir.is_dir() { read_manifest(dir)? } else { None };
        let Some(manifest) = found else { return Err(StorageError::NoLog { path: dir.clone() }) };
        DataDir::open(&StorageOptions { executors: manifest.executors, ..options.clone() })
    }

    /// One seat per executor, in their order; once.
    pub fn take_seats(&mut self) -> Vec<LogSeat> {
        std::mem::take(&mut self.seats)
    }
}

pub(super) fn generation_dir(dir: &Path, generation: u32) -> PathBuf {
    dir.join(format!("generation-{generation}"))
}

pub(super) fn log_dir(generation: &Path, executor: u16) -> PathBuf {
    generation.join(format!("log-{executor}"))
}

/// Makes the empty logs of a generation, durably.
pub(super) fn make_logs(dir: &Path, generation: u32, executors: u16) -> Result<(), StorageError> {
    let generation = generation_dir(dir, generation);
    for executor in 0..executors {
        let log = log_dir(&generation, executor);
        std::fs::create_dir_all(&log).map_err(failed("create", &log))?;
    }
    sync_dir(&generation).and_then(|()| sync_dir(dir)).map_err(failed("sync", &generation))
}

/// Replaces the manifest at once, durably.
pub(super) fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), StorageError> {
    let (path, draft) = (dir.join("manifest.json"), dir.join("manifest.json.new"));
    let text = serde_json::to_string(manifest).map_err(|cause| StorageError::Manifest { path: path.clone(), cause })?;
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        sync_dir(dir)
    };
    write().map_err(failed("write", &path))
}

fn lock(dir: &Path) -> Result<File, StorageError> {
    let path = dir.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Locked { path }),
        Err(TryLockError::Error(cause)) => Err(failed("lock", &path)(cause)),
    }
}

fn read_manifest(dir: &Path) -> Result<Option<Manifest>, StorageError> {
    let path = dir.join("manifest.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("read", &path)(cause)),
    };
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let bad = |cause| StorageError::Manifest { path: path.clone(), cause };
    let found = serde_json::from_str::<Version>(&text).map_err(bad)?.format;
    if found != FORMAT {
        return Err(StorageError::Format { path, found, known: FORMAT });
    }
    serde_json::from_str(&text).map(Some).map_err(bad)
}

/// Whether messages are there without a manifest; a first start that was interrupted leaves empty logs only.
fn has_segments(dir: &Path) -> Result<bool, StorageError> {
    let is_generation =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("generation-"));
    for generation in folders(dir)?.iter().filter(is_generation) {
        for log in folders(generation)? {
            if !segment::list(&log)?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let entries = std::fs::read_dir(dir).map_err(failed("read the directory", dir))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect())
}

fn first_manifest(options: &StorageOptions) -> Result<Manifest, StorageError> {
    let manifest = Manifest {
        format: FORMAT,
        generation: 1,
        executors: options.executors,
        salt: random::number() as u32,
        body_bytes_max: options.log.body_bytes_max,
    };
    make_logs(&options.dir, manifest.generation, manifest.executors)?;
    write_manifest(&options.dir, &manifest)?;
    Ok(manifest)
}

fn raise_body_bytes(dir: &Path, mut manifest: Manifest, options: &StorageOptions) -> Result<Manifest, StorageError> {
    if options.log.body_bytes_max > manifest.body_bytes_max {
        manifest.body_bytes_max = options.log.body_bytes_max;
        write_manifest(dir, &manifest)?;
    }
    Ok(manifest)
}

/// Removes generations that do not count: an unfinished next one, or the last one.
fn remove_strangers(dir: &Path, generation: u32) -> Result<(), StorageError> {
    let kept = generation_dir(dir, generation);
    for file in std::fs::read_dir(dir).map_err(failed("read the directory", dir))? {
        let path = file.map_err(failed("read the directory", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("generation-") && path != kept {
            std::fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}
