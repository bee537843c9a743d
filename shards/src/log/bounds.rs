//! The bounds of a log, and whether they fit together.

use super::place::SEGMENT_BYTES_LIMIT;
use crate::record::record_bytes_max;

/// The bounds of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The size of a segment file, in bytes: at most 128 MiB, a multiple of 4096, at least four of the largest records.
    pub segment_bytes: u32,
    /// The largest body, in bytes.
    pub body_bytes_max: u32,
    /// A batch is closed when it has this many bytes.
    pub batch_bytes_max: u32,
    /// Neighbouring records are read at once up to this many bytes.
    pub read_bytes_max: u32,
    /// Reads under way, besides one for rewriting.
    pub reads_max: usize,
    /// Chosen at random once per data directory; part of every checksum.
    pub salt: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 16 << 20,
            body_bytes_max: 64 << 10,
            batch_bytes_max: 512 << 10,
            read_bytes_max: 128 << 10,
            reads_max: 4,
            salt: 0,
        }
    }
}

/// Bounds that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLogConfig {
    /// Too large for a [`crate::storage::Place`].
    #[error("segment_bytes is {0}: it has to be a multiple of 4096 and at most {SEGMENT_BYTES_LIMIT}")]
    Segment(u32),
    /// A segment does not hold four records.
    #[error("segment_bytes is {segment_bytes}: with body_bytes_max {body_bytes_max} it has to be at least {least}")]
    Body {
        /// As configured.
        segment_bytes: u32,
        /// As configured.
        body_bytes_max: u32,
        /// The least that fits.
        least: u64,
    },
    /// No read could be under way.
    #[error("reads_max is 0")]
    Reads,
}

impl LogConfig {
    /// Whether the bounds fit together.
    pub fn check(&self) -> Result<(), BadLogConfig> {
        if self.segment_bytes > SEGMENT_BYTES_LIMIT || !self.segment_bytes.is_multiple_of(4096) {
            return Err(BadLogConfig::Segment(self.segment_bytes));
        }
        let least = (4 * record_bytes_max(self.body_bytes_max) as u64).next_multiple_of(4096);
        if u64::from(self.segment_bytes) < least {
            let LogConfig { segment_bytes, body_bytes_max, .. } = *self;
            return Err(BadLogConfig::Body { segment_bytes, body_bytes_max, least });
        }
        if self.reads_max == 0 { Err(BadLogConfig::Reads) } else { Ok(()) }
    }
}
