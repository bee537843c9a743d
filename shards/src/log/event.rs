//! What goes into the log and what comes out: events, actions, reports of damage.

use crate::storage::{StorageEvent, StorageRequest};

/// Names a read that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadToken(pub u32);

/// The read of the segment that is being given up.
pub(super) const RELOCATING: ReadToken = ReadToken(u32::MAX);

/// Into the log.
#[derive(Debug)]
pub enum LogEvent<'a> {
    /// Of the core.
    Request(StorageRequest),
    /// The core has no more requests for now: staged appends are written, wanted records are read.
    TurnEnded,
    /// The file of a segment exists, is zeros, and is synced with its directory.
    Prepared {
        /// As in the action.
        segment: u32,
    },
    /// There is no room for it (or no right to make it); nothing of it is left.
    PrepareFailed {
        /// As in the action.
        segment: u32,
    },
    /// All bytes of the last `Write` are in the page cache.
    Written,
    /// The last `Sync` has returned: all that was written before is on disk. A sync that failed is never reported: the
    /// process ends.
    Synced,
    /// A read has completed. Fewer bytes than asked: the file is shorter.
    ReadDone {
        /// As in the action.
        token: ReadToken,
        /// What was read.
        bytes: &'a [u8],
    },
    /// The disk could not read.
    ReadFailed {
        /// As in the action.
        token: ReadToken,
    },
    /// The file is gone, and the directory is synced.
    Removed {
        /// As in the action.
        segment: u32,
    },
    /// Time has passed. Wanted about once a second while the log has segments.
    Tick,
    /// Write what is staged, then a last marker, then say `Closed`.
    Close,
}

/// Out of the log. At most one `Prepare`, one `Write` with its `Sync`, and one `Remove` are under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogAction {
    /// Make the file of this segment: `segment_bytes` zeros, file and directory synced.
    Prepare {
        /// Its number.
        segment: u32,
    },
    /// Write these bytes.
    Write {
        /// Where.
        segment: u32,
        /// Where in it.
        offset: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// Behind the write: fdatasync. A write or sync that fails is never tried again: abort.
    Sync {
        /// The segment of the write.
        segment: u32,
    },
    /// Read.
    Read {
        /// Where.
        segment: u32,
        /// Where in it.
        offset: u32,
        /// How many bytes.
        bytes: u32,
        /// To be named in the answer.
        token: ReadToken,
    },
    /// Remove the file of this segment and sync the directory.
    Remove {
        /// Its number.
        segment: u32,
    },
    /// An answer to the core.
    Tell(StorageEvent),
    /// For the operator.
    Report(Damage),
    /// All is flushed; nothing more will be written.
    Closed,
}

/// What is wrong with the files. Told to the operator with the name of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// These bytes were flushed and are not what was written; what was there is lost.
    #[error("damaged: segment {segment}, offset {offset}, {bytes} bytes are not what was written")]
    Unreadable {
        /// Where.
        segment: u32,
        /// Where in it.
        offset: u32,
        /// How many bytes.
        bytes: u32,
    },
    /// The file of this segment is not there, but older and newer ones are.
    #[error("segment {segment} is missing")]
    Missing {
        /// Which.
        segment: u32,
    },
    /// The end of the last batch, which nobody was told to be flushed, is cut off.
    #[error("the last write did not finish: segment {segment} is cut at offset {offset}, {bytes} bytes dropped")]
    Torn {
        /// Where.
        segment: u32,
        /// The new end.
        offset: u32,
        /// Non-zero bytes that are cut off.
        bytes: u32,
    },
}
