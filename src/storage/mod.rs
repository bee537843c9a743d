//! Storage engines, as the executors' loops drive them: requests in, events out, one wake-up per completion.
//!
//! An executor owns one [`Engine`]. It holds no rule about messages; what the embedded log decides is
//! `iris_shards::log`, what its files are is [`data_dir`] and [`segment`].

pub mod cassandra;
pub mod copy;
pub mod data_dir;
mod disk_thread;
mod files;
mod hold;
mod log_engine;
mod log_writer;
mod redistribute;
mod scan;
pub mod segment;

use std::path::PathBuf;

use iris_shards::log::BadLogConfig;
use iris_shards::storage::{StorageEvent, StorageRequest};

use self::cassandra::StorageFault;
pub use self::cassandra::{CassandraEngine, CassandraSeat};
pub use self::data_dir::{DataDir, LogSeat, StorageOptions};
pub use self::log_engine::LogEngine;
use crate::bell::Bell;

/// What one executor needs to open its engine. Moves to its thread.
pub enum StorageSeat {
    /// Of the embedded log.
    Log(LogSeat),
    /// Of a cluster.
    Cassandra(CassandraSeat),
}

/// The storage engine of one executor. They speak the same requests and events, so the loop does not tell them apart.
pub enum Engine {
    /// The embedded log.
    Log(Box<LogEngine>),
    /// A Cassandra or ScyllaDB cluster.
    Cassandra(Box<CassandraEngine>),
    /// Of an edge, whose core half keeps no shard and so asks for nothing.
    Nothing {
        /// Whether it has said that there is nothing to recover.
        has_said: bool,
    },
}

impl Engine {
    /// Opens the engine of this seat; without one nothing is kept.
    pub fn open(seat: Option<StorageSeat>, bell: &Bell) -> Result<Engine, StorageError> {
        match seat {
            Some(StorageSeat::Log(seat)) => Ok(Engine::Log(Box::new(LogEngine::open(seat, bell)?))),
            Some(StorageSeat::Cassandra(seat)) => Ok(Engine::Cassandra(Box::new(CassandraEngine::open(seat, bell)))),
            None => {
                bell.ring();
                Ok(Engine::Nothing { has_said: false })
            }
        }
    }

    /// Takes a request. Answers come with [`Engine::take_events`].
    pub fn request(&mut self, request: StorageRequest) {
        match self {
            Engine::Log(log) => log.request(request),
            Engine::Cassandra(cassandra) => cassandra.request(request),
            Engine::Nothing { .. } => panic!("a node that keeps no shard was asked to store: {request:?}"),
        }
    }

    /// Ends a turn of the loop: what was appended is on its way to the disk, at the latest at
    /// [`Engine::held_until`]. Call it at least once per second, too.
    /// `now_ms` is monotonic.
    pub fn commit(&mut self, now_ms: u64) {
        match self {
            Engine::Log(log) => log.commit(now_ms),
            Engine::Cassandra(cassandra) => cassandra.commit(now_ms),
            Engine::Nothing { .. } => {}
        }
    }

    /// Until when a commit waits for others to join it: a turn has to end then.
    pub fn held_until(&self) -> Option<std::time::Instant> {
        match self {
            Engine::Log(log) => log.held_until(),
            Engine::Cassandra(_) | Engine::Nothing { .. } => None,
        }
    }

    /// Moves the answers to the end of `events`; the bell rings when there may be some. Begin a turn with it.
    pub fn take_events(&mut self, events: &mut Vec<StorageEvent>) {
        match self {
            Engine::Log(log) => log.take_events(events),
            Engine::Cassandra(cassandra) => cassandra.take_events(events),
            Engine::Nothing { .. } => {}
        }
    }

    /// True once, after the last `Recovered` event was taken.
    pub fn take_recovered(&mut self) -> bool {
        match self {
            Engine::Log(log) => log.take_recovered(),
            Engine::Cassandra(cassandra) => cassandra.take_recovered(),
            Engine::Nothing { has_said } => !std::mem::replace(has_said, true),
        }
    }

    /// Writes what is left. The bell rings until [`Engine::is_closed`].
    pub fn close(&mut self) {
        match self {
            Engine::Log(log) => log.close(),
            Engine::Cassandra(cassandra) => cassandra.close(),
            Engine::Nothing { .. } => {}
        }
    }

    /// Whether tasks of this executor are under way, or the engine waits for time to pass.
    pub fn is_busy(&self) -> bool {
        match self {
            Engine::Log(log) => log.is_busy(),
            Engine::Cassandra(cassandra) => cassandra.is_busy(),
            Engine::Nothing { .. } => false,
        }
    }

    /// Whether [`Engine::take_events`] has something to do.
    pub fn has_events(&self) -> bool {
        match self {
            Engine::Log(log) => log.has_events(),
            Engine::Cassandra(cassandra) => cassandra.has_events(),
            Engine::Nothing { .. } => false,
        }
    }

    /// What it tells about itself.
    pub fn status(&self) -> crate::admin::LogStatus {
        match self {
            Engine::Log(log) => log.status(),
            Engine::Cassandra(cassandra) => cassandra.status(),
            Engine::Nothing { .. } => crate::admin::LogStatus::default(),
        }
    }

    /// Whether everything is on disk after [`Engine::close`].
    pub fn is_closed(&self) -> bool {
        match self {
            Engine::Log(log) => log.is_closed(),
            Engine::Cassandra(cassandra) => cassandra.is_closed(),
            Engine::Nothing { .. } => true,
        }
    }
}

/// Why the data directory cannot be used, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An operation on a file failed.
    #[error("cannot {what} {path}: {cause}{}", advice(cause, path))]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Another process has it.
    #[error("{path} is used by another process: stop it, or choose another data directory")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Not a manifest.
    #[error("{path} is not a manifest of Iris: {cause}; choose another data directory, or move it away to start empty")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// There are logs, and nothing says how to read them.
    #[error(
        "{path} is missing, and without it the messages beside it cannot be read: bring it back, or move them away"
    )]
    NoManifest {
        /// The manifest.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("{path} has no messages of Iris: name the data directory of a node that kept its messages in a log")]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// Written by another version.
    #[error("{path} has format {found}, this version reads {known}: run the version that wrote it")]
    Format {
        /// The manifest.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What is known here.
        known: u32,
    },
    /// The bounds do not fit together, or not what is stored already.
    #[error("the log cannot be used with this configuration: {0}")]
    Config(#[from] BadLogConfig),
    /// The cluster that all cores share.
    #[error(transparent)]
    Shared(#[from] StorageFault),
    /// No room to write the log anew for another number of executors.
    #[error("no space in {path} to change the number of executors from {from} to {to}: free some, or keep {from}")]
    NoSpace {
        /// The data directory.
        path: PathBuf,
        /// As stored.
        from: u16,
        /// As wanted.
        to: u16,
    },
}

fn advice(cause: &std::io::Error, path: &std::path::Path) -> String {
    use std::io::ErrorKind;
    match cause.kind() {
        ErrorKind::PermissionDenied => {
            format!("; give the user that runs Iris the right to read and write {}", path.display())
        }
        ErrorKind::ReadOnlyFilesystem => "; the file system is mounted read-only".to_owned(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space".to_owned(),
        ErrorKind::NotADirectory => "; a part of the path is a file".to_owned(),
        _ => String::new(),
    }
}

/// Ends the process: what is on disk is known only after a recovery. A failed write or sync is never tried again, as the
/// kernel may have dropped the pages and call the next sync a success.
pub fn fatal(reason: &str) -> ! {
    tracing::error!("{reason}; Iris ends and recovers from disk at its next start");
    // The log's output may be buffered elsewhere; this is the last chance.
    eprintln!("iris: fatal: {reason}");
    std::process::abort()
}
