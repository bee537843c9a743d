//! Where a row is: (writer, time) packed into a [`Place`], and the clock that gives out the times.
//!
//! Each node writes rows of its own under its number, at times that only grow, also over restarts; so nobody has to
//! agree with anybody on an order, and "everything of this writer up to here is dead" is one number.

use iris_shards::storage::Place;

/// Times count in 64ths of a millisecond from here: 2020-01-01, in ms since the Unix epoch.
const EPOCH_MS: u64 = 1_577_836_800_000;
const TICKS_PER_MS: u64 = 64;
/// A place has 48 bits for the time, enough for 139 years, and 16 for the writer.
const AT_BITS: u32 = 48;
const AT_MASK: u64 = (1 << AT_BITS) - 1;

/// A time in the order of one writer.
pub type At = i64;

/// How far ahead times are kept for a writer: a minute. So far a restart may set its times ahead of the clock.
pub const KEPT: At = 60_000 * TICKS_PER_MS as At;

/// The time that begins a millisecond.
pub fn at_of(wall_ms: u64) -> At {
    (wall_ms.saturating_sub(EPOCH_MS) * TICKS_PER_MS) as At
}

/// The writing time of a row, in µs since the Unix epoch: a row and what deletes it have the same, and then the deletion
/// wins, whatever the clocks say.
pub fn written_us(at: At) -> i64 {
    (EPOCH_MS * 1_000) as i64 + at * 1_000 / TICKS_PER_MS as i64
}

/// Days since 1970: the bucket of a row.
pub fn bucket_of(at: At) -> i32 {
    bucket_of_ms(EPOCH_MS + at.max(0) as u64 / TICKS_PER_MS)
}

/// Days since 1970: the bucket of a message's id.
pub fn bucket_of_ms(wall_ms: u64) -> i32 {
    (wall_ms / DAY_MS) as i32
}

/// The last time in a bucket.
pub fn end_of(bucket: i32) -> At {
    at_of((bucket as u64 + 1) * DAY_MS) - 1
}

/// A bucket is a day.
pub const DAY_MS: u64 = 86_400_000;

/// The writers that were seen, by the number that places have for them.
#[derive(Debug)]
pub struct Writers(Vec<i32>);

impl Writers {
    /// The own writer is number 0.
    pub fn new(own: i32) -> Self {
        Writers(vec![own])
    }

    /// The own writer.
    pub fn own(&self) -> i32 {
        self.0[0]
    }

    /// The place of a row. `None` after 65,536 writers: nodes that ever wrote for users of this executor.
    pub fn place(&mut self, writer: i32, at: At) -> Option<Place> {
        let known = self.0.iter().position(|&known| known == writer);
        let number = known.unwrap_or_else(|| {
            self.0.push(writer);
            self.0.len() - 1
        });
        (number < 1 << 16).then_some(Place((number as u64) << AT_BITS | at as u64 & AT_MASK))
    }

    /// The row of a place.
    pub fn row(&self, place: Place) -> (i32, At) {
        (self.0[(place.0 >> AT_BITS) as usize], (place.0 & AT_MASK) as At)
    }
}

/// Gives out times, each later than all before.
#[derive(Debug, Default)]
pub struct Clock {
    last: At,
}

impl Clock {
    /// Nothing earlier than this is given out any more.
    pub fn start_behind(&mut self, at: At) {
        self.last = self.last.max(at);
    }

    /// The last time that was given out.
    pub fn last(&self) -> At {
        self.last
    }

    /// The next time.
    pub fn next(&mut self, wall_ms: u64) -> At {
        self.last = at_of(wall_ms).max(self.last + 1);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_writer_and_time() {
        let mut writers = Writers::new(7);
        let at = at_of(1_800_000_000_123);
        let (own, other) = (writers.place(7, at).unwrap(), writers.place(-9, at + 1).unwrap());
        assert_eq!((writers.row(own), writers.row(other)), ((7, at), (-9, at + 1)));
    }

    #[test]
    fn times_only_grow() {
        let mut clock = Clock::default();
        let first = clock.next(1_800_000_000_000);
        assert_eq!(clock.next(1_800_000_000_000), first + 1);
        assert_eq!(clock.next(1_700_000_000_000), first + 2, "a clock that was set back");
        clock.start_behind(first + 1_000);
        assert_eq!(clock.next(1_800_000_000_001), first + 1_001);
    }

    #[test]
    fn buckets_are_days() {
        let at = at_of(1_800_000_000_000);
        let bucket = bucket_of(at);
        assert_eq!(bucket, (1_800_000_000_000_u64 / DAY_MS) as i32);
        assert!(bucket_of(end_of(bucket)) == bucket && bucket_of(end_of(bucket) + 1) == bucket + 1);
        assert_eq!(written_us(at), 1_800_000_000_000_000);
    }
}
