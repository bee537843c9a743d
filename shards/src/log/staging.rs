//! Group commit: appends become bytes of a batch, one batch at a time is written and synced, and then told.
//!
//! Owns the encoded bytes that are not on disk and the appends that were not told. A batch starts with a commit marker
//! which is filled in when the batch is written: it names the end of what was flushed before it.

use std::collections::VecDeque;

use super::place::pack;
use super::{LogAction, LogConfig};
use crate::record::{At, COMMIT_BYTES, Position, encode, encode_commit};
use crate::storage::{Place, Record, StorageEvent};

/// Stands for an append that never reaches the disk.
const FAILED: Place = Place(u64::MAX);
/// Batches start with this capacity, in bytes.
const BATCH_BYTES_MIN: usize = 4 << 10;

#[derive(Debug)]
struct Batch {
    start: Position,
    bytes: Vec<u8>,
    appends: usize,
}

#[derive(Debug)]
struct InFlight {
    end: Position,
    appends: usize,
}

/// What is not flushed yet.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    closed: VecDeque<Batch>,
    open: Option<Batch>,
    in_flight: Option<InFlight>,
    /// Every append that was not told, in order.
    untold: VecDeque<Place>,
    flushed: Position,
    /// The last batch had appends and no later marker names it.
    unmarked: bool,
    /// The bytes of the last batch: the next one will have about as many.
    last_bytes: usize,
}

impl Staging {
    /// Everything before this is on disk.
    pub fn start_at(&mut self, flushed: Position) {
        self.flushed = flushed;
    }

    /// Bytes that the next append costs besides its own.
    pub fn overhead(&self, segment: u32) -> u32 {
        let continues = self.open.as_ref().is_some_and(|batch| batch.start.segment == segment);
        if continues { 0 } else { COMMIT_BYTES as u32 }
    }

    /// Encodes a record at the end of its segment, `end`; the bytes of the segment that this takes, and its place.
    pub fn append(&mut self, record: &Record, end: Position, config: &LogConfig) -> (u32, Place) {
        let overhead = self.overhead(end.segment);
        let batch = self.batch_at(end);
        let before = batch.bytes.len();
        let offset = end.offset + overhead;
        encode(record, At { salt: config.salt, segment: end.segment, offset }, &mut batch.bytes);
        let bytes = (batch.bytes.len() - before) as u32;
        batch.appends += 1;
        let is_large = batch.bytes.len() >= config.batch_bytes_max as usize;
        let place = pack(end.segment, offset, bytes);
        self.untold.push_back(place);
        if is_large {
            self.close_batch();
        }
        (overhead + bytes, place)
    }

    /// Stages a marker alone.
    pub fn mark(&mut self, end: Position) -> u32 {
        let overhead = self.overhead(end.segment);
        self.batch_at(end);
        overhead
    }

    fn batch_at(&mut self, end: Position) -> &mut Batch {
        if self.overhead(end.segment) > 0 {
            self.close_batch();
        }
        let capacity = self.last_bytes.max(BATCH_BYTES_MIN);
        self.open.get_or_insert_with(|| {
            let mut bytes = Vec::with_capacity(capacity);
            bytes.resize(COMMIT_BYTES, 0);
            Batch { start: end, bytes, appends: 0 }
        })
    }

    fn close_batch(&mut self) {
        self.closed.extend(self.open.take());
    }

    /// Drops an append, in its turn.
    pub fn fail(&mut self, out: &mut Vec<LogAction>) {
        self.untold.push_back(FAILED);
        self.tell_failed(out);
    }

    /// Writes the next batch, unless one is under way.
    pub fn commit(&mut self, salt: u32, out: &mut Vec<LogAction>) {
        if self.in_flight.is_some() {
            return;
        }
        let Some(mut batch) = self.closed.pop_front().or_else(|| self.open.take()) else { return };
        let Position { segment, offset } = batch.start;
        encode_commit(self.flushed, At { salt, segment, offset }, &mut batch.bytes[..COMMIT_BYTES]);
        let end = Position { segment, offset: offset + batch.bytes.len() as u32 };
        self.in_flight = Some(InFlight { end, appends: batch.appends });
        self.last_bytes = batch.bytes.len();
        out.push(LogAction::Write { segment, offset, bytes: batch.bytes });
        out.push(LogAction::Sync { segment });
    }

    /// The batch under way is on disk: tells its appends.
    pub fn on_synced(&mut self, out: &mut Vec<LogAction>) {
        let Some(batch) = self.in_flight.take() else { return };
        self.flushed = batch.end;
        self.unmarked = batch.appends > 0;
        self.tell_flushed(batch.appends, out);
        self.tell_failed(out);
    }

    fn tell_flushed(&mut self, appends: usize, out: &mut Vec<LogAction>) {
        let mut left = appends;
        while left > 0 {
            self.tell_failed(out);
            let run = self.untold.iter().take(left).take_while(|&&place| place != FAILED).count();
            assert!(run > 0, "the log lost count of its appends");
            let places = self.untold.drain(..run).collect();
            out.push(LogAction::Tell(StorageEvent::Flushed { places }));
            left -= run;
        }
    }

    /// Tells the failures that nothing unflushed precedes.
    fn tell_failed(&mut self, out: &mut Vec<LogAction>) {
        let count = self.untold.iter().take_while(|&&place| place == FAILED).count();
        if count > 0 {
            self.untold.drain(..count);
            out.push(LogAction::Tell(StorageEvent::Failed { count }));
        }
    }

    /// Nothing is staged and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.open.is_none() && self.closed.is_empty()
    }

    /// What was flushed last is not named by a marker.
    pub fn is_unmarked(&self) -> bool {
        self.unmarked
    }

    /// Whether a batch of this segment is not flushed.
    pub fn has(&self, segment: u32) -> bool {
        let in_flight = self.in_flight.as_ref().map(|batch| batch.end.segment);
        let staged = self.closed.front().or(self.open.as_ref()).map(|batch| batch.start.segment);
        in_flight.or(staged).is_some_and(|first| first <= segment)
    }
}
