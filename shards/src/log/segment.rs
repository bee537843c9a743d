//! What the log knows of its segments: an unbroken row of numbers, oldest first, with live bytes and what was trimmed.
//!
//! Segments are removed from the old end only. So a tombstone outlives every copy of the entry that it kills, without a
//! note of which tombstone refers to which segment.

use std::collections::VecDeque;

use super::place::{Spot, unpack};
use crate::record::RECORD_BYTES_MIN;
use crate::storage::Place;

/// A segment that has records.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// The end of its last record, in bytes.
    pub used: u32,
    /// Records that nobody has trimmed.
    pub live_records: u32,
    /// Their bytes, rounded as in their places.
    pub live_bytes: u64,
    /// Disk reads under way or wanted.
    pub reads: u32,
    /// The file is lost; the number is kept so that the row is unbroken.
    pub missing: bool,
    /// A bit per 32 bytes, as no two records start within the same 32. Empty until the first trim.
    trimmed: Vec<u64>,
}

impl Segment {
    /// A segment whose file is lost.
    pub fn missing() -> Self {
        Segment { missing: true, ..Segment::default() }
    }

    /// Counts a record.
    pub fn on_record(&mut self, place: Place) {
        self.live_records += 1;
        self.live_bytes += u64::from(unpack(place).bytes);
    }

    /// Whether the record at this offset was trimmed.
    pub fn is_trimmed(&self, offset: u32) -> bool {
        let bit = offset as usize / RECORD_BYTES_MIN;
        self.trimmed.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Trims a record; `false` if it was trimmed before, or is no record of this segment.
    fn trim(&mut self, spot: Spot) -> bool {
        if spot.offset >= self.used || self.is_trimmed(spot.offset) || self.live_records == 0 {
            return false;
        }
        let bit = spot.offset as usize / RECORD_BYTES_MIN;
        if self.trimmed.len() <= bit / 64 {
            self.trimmed.resize(self.used as usize / RECORD_BYTES_MIN / 64 + 1, 0);
        }
        self.trimmed[bit / 64] |= 1 << (bit % 64);
        self.live_records -= 1;
        self.live_bytes -= u64::from(spot.bytes);
        true
    }
}

/// All segments that have records.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    first: u32,
    row: VecDeque<Segment>,
    used: u64,
    live: u64,
}

impl Segments {
    /// None yet; the first will have this number.
    pub fn starting_at(first: u32) -> Self {
        Segments { first, ..Segments::default() }
    }

    pub fn push(&mut self, segment: Segment) {
        self.used += u64::from(segment.used);
        self.live += segment.live_bytes;
        self.row.push_back(segment);
    }

    /// The number that follows the last one.
    pub fn next(&self) -> u32 {
        self.first + self.row.len() as u32
    }

    pub fn len(&self) -> usize {
        self.row.len()
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn live(&self) -> u64 {
        self.live
    }

    /// Bytes of records that nobody needs.
    pub fn dead(&self) -> u64 {
        self.used.saturating_sub(self.live)
    }

    pub fn oldest(&self) -> Option<(u32, &Segment)> {
        self.row.front().map(|segment| (self.first, segment))
    }

    pub fn at(&self, number: u32) -> Option<&Segment> {
        self.row.get(number.checked_sub(self.first)? as usize)
    }

    pub fn at_mut(&mut self, number: u32) -> Option<&mut Segment> {
        self.row.get_mut(number.checked_sub(self.first)? as usize)
    }

    /// Counts a record that is being appended to the last segment.
    pub fn on_append(&mut self, place: Place) {
        if let Some(last) = self.row.back_mut() {
            last.on_record(place);
            self.live += u64::from(unpack(place).bytes);
        }
    }

    /// Moves the end of the last segment.
    pub fn grow(&mut self, bytes: u32) {
        if let Some(last) = self.row.back_mut() {
            last.used += bytes;
            self.used += u64::from(bytes);
        }
    }

    /// Trims a record; `false` if that changed nothing.
    pub fn trim(&mut self, spot: Spot) -> bool {
        let trimmed = self.at_mut(spot.segment).is_some_and(|segment| segment.trim(spot));
        if trimmed {
            self.live -= u64::from(spot.bytes);
        }
        trimmed
    }

    /// Forgets the oldest segment.
    pub fn pop(&mut self) {
        if let Some(segment) = self.row.pop_front() {
            self.first += 1;
            self.used -= u64::from(segment.used);
            self.live -= segment.live_bytes;
        }
    }
}
