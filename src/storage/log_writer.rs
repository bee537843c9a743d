//! A log that is driven by blocking calls, for whoever writes one while no node has it.
//!
//! What was appended is on disk after [`LogWriter::finish`], and in parts after each [`LogWriter::turn_ended`].

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use iris_shards::log::{Log, LogAction, LogConfig, LogEvent, Recovered, Recovery};
use iris_shards::storage::{Record, StorageEvent, StorageRequest};

use super::StorageError;
use super::segment::{self, failed, path_of};

/// Why a record was not written.
pub(super) enum WriteError {
    Storage(StorageError),
    /// The disk is.
    Full,
}

impl From<StorageError> for WriteError {
    fn from(error: StorageError) -> Self {
        WriteError::Storage(error)
    }
}

/// See the module.
pub(super) struct LogWriter {
    dir: PathBuf,
    config: LogConfig,
    log: Log,
    file: Option<(u32, File)>,
    is_closed: bool,
}

impl LogWriter {
    /// Of a log without records.
    pub fn new(dir: PathBuf, config: &LogConfig) -> Result<Self, StorageError> {
        let empty = Recovery::<&[u8]>::new(config, Vec::new()).finish();
        LogWriter::behind(dir, config, empty)
    }

    /// Behind what was recovered.
    pub fn behind(dir: PathBuf, config: &LogConfig, recovered: Recovered) -> Result<Self, StorageError> {
        let log = Log::new(config.clone(), recovered)?;
        Ok(LogWriter { dir, config: config.clone(), log, file: None, is_closed: false })
    }

    pub fn append(&mut self, record: Record) -> Result<(), WriteError> {
        self.handle(LogEvent::Request(StorageRequest::Append(record)))
    }

    /// Writes and syncs what was appended.
    pub fn turn_ended(&mut self) -> Result<(), WriteError> {
        self.handle(LogEvent::TurnEnded)
    }

    pub fn finish(mut self) -> Result<(), WriteError> {
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

    /// Segments are neither read nor removed: that is left to the node that will have the log.
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
