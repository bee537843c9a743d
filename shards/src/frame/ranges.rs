//! Sequence numbers as inclusive ranges: read from the wire, written to it, and gathered from single numbers.
//! Invariant of [`Ranges`] and [`RangeSet`]: `first <= last`, ascending, without overlap.
//! Neighbours may touch on the wire and never touch in a set.
//! Splitting into frames of at most 1,024 pairs happens here and nowhere else.

use super::payload::length32;
use super::{FrameError, HEADER_BYTES, RANGES_MAX};
use std::fmt;

/// Bytes of one pair on the wire.
pub(super) const PAIR_BYTES: usize = 16;

/// Ascending inclusive ranges without overlap, borrowed from a frame or from a slice of pairs. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Ranges<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    Wire(&'a [[u8; PAIR_BYTES]]),
    Pairs(&'a [(u64, u64)]),
}

impl<'a> Ranges<'a> {
    /// Takes the bytes up to the end of a frame. Errors: `Truncated` (no pair, or half of one), `TooManyRanges`,
    /// `BadRanges`.
    #[inline]
    pub(super) fn from_wire(frame: &'static str, bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (pairs, half) = bytes.as_chunks::<PAIR_BYTES>();
        if pairs.is_empty() || !half.is_empty() {
            return Err(FrameError::Truncated { frame, field: "ranges" });
        }
        if pairs.len() > RANGES_MAX {
            return Err(FrameError::TooManyRanges);
        }
        let ranges = Self(Source::Wire(pairs));
        if ranges.is_ascending() { Ok(ranges) } else { Err(FrameError::BadRanges) }
    }

    /// Borrows pairs `(first, last)` for encoding, any number of them: encoding splits them into frames of
    /// [`RANGES_MAX`], and writes no frame at all for none. Errors: [`FrameError::BadRanges`].
    #[inline]
    pub fn from_pairs(pairs: &'a [(u64, u64)]) -> Result<Self, FrameError> {
        let ranges = Self(Source::Pairs(pairs));
        if ranges.is_ascending() { Ok(ranges) } else { Err(FrameError::BadRanges) }
    }

    #[inline]
    fn is_ascending(&self) -> bool {
        let mut before = None;
        self.iter().all(|(first, last)| {
            let is_behind = before.is_none_or(|before| before < first);
            before = Some(last);
            is_behind && first <= last
        })
    }

    /// How many pairs.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Wire(pairs) => pairs.len(),
            Source::Pairs(pairs) => pairs.len(),
        }
    }

    /// No pair at all. Never so in a decoded frame.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pairs `(first, last)` in ascending order. A client chooses the numbers: a pair may span all of `u64`, so
    /// check `last` before walking from `first` to it.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> RangesIter<'a> {
        RangesIter(self.0)
    }

    /// Appends the frames that carry these ranges; `head` is the type and what stands in front of the ranges.
    #[inline]
    pub(super) fn encode(&self, head: &[u8], out: &mut Vec<u8>) {
        let mut pairs = self.iter();
        let mut left = self.len();
        while left > 0 {
            let count = left.min(RANGES_MAX);
            let length = head.len() + count * PAIR_BYTES;
            out.reserve(HEADER_BYTES + length);
            out.extend_from_slice(&length32(length));
            out.extend_from_slice(head);
            pairs.by_ref().take(count).for_each(|pair| out.extend_from_slice(&pair_to_wire(pair)));
            left -= count;
        }
    }
}

impl<'a> IntoIterator for Ranges<'a> {
    type Item = (u64, u64);
    type IntoIter = RangesIter<'a>;

    #[inline]
    fn into_iter(self) -> RangesIter<'a> {
        self.iter()
    }
}

impl PartialEq for Ranges<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Ranges<'_> {}

impl fmt::Debug for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over the pairs `(first, last)` of [`Ranges`], ascending.
#[derive(Clone)]
pub struct RangesIter<'a>(Source<'a>);

impl Iterator for RangesIter<'_> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        match &mut self.0 {
            Source::Wire(pairs) => pairs.split_off_first().map(pair_from_wire),
            Source::Pairs(pairs) => pairs.split_off_first().copied(),
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = Ranges(self.0).len();
        (count, Some(count))
    }
}

impl ExactSizeIterator for RangesIter<'_> {}

#[inline]
fn pair_from_wire(pair: &[u8; PAIR_BYTES]) -> (u64, u64) {
    let both = u128::from_be_bytes(*pair);
    ((both >> 64) as u64, both as u64)
}

#[inline]
fn pair_to_wire((first, last): (u64, u64)) -> [u8; PAIR_BYTES] {
    (u128::from(first) << 64 | u128::from(last)).to_be_bytes()
}

/// Gathers sequence numbers into ranges, for one ACK or CONFIRM per turn. Numbers in order cost a comparison; out of
/// order a binary search and at most a move of all pairs. The caller bounds how many numbers it gathers (its window).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    pairs: Vec<(u64, u64)>,
}

impl RangeSet {
    /// An empty set; nothing is allocated before the first number.
    #[must_use]
    pub const fn new() -> Self {
        Self { pairs: Vec::new() }
    }

    /// Adds a number, in any order; one that is there already changes nothing.
    #[inline]
    pub fn push(&mut self, sequence: u64) {
        match self.pairs.last_mut() {
            Some((_, last)) if *last < sequence => {
                if sequence - *last == 1 {
                    *last = sequence;
                } else {
                    self.pairs.push((sequence, sequence));
                }
            }
            Some(_) => self.insert(sequence),
            None => self.pairs.push((sequence, sequence)),
        }
    }

    /// Adds a number that is not above the largest one.
    #[cold]
    fn insert(&mut self, sequence: u64) {
        let at = self.pairs.partition_point(|&(_, last)| last < sequence);
        let (first, _) = self.pairs[at];
        if first <= sequence {
            return;
        }
        let touches_next = first - sequence == 1;
        let touches_before = at > 0 && sequence - self.pairs[at - 1].1 == 1;
        match (touches_before, touches_next) {
            (true, true) => {
                let (_, last) = self.pairs.remove(at);
                self.pairs[at - 1].1 = last;
            }
            (true, false) => self.pairs[at - 1].1 = sequence,
            (false, true) => self.pairs[at].0 = sequence,
            (false, false) => self.pairs.insert(at, (sequence, sequence)),
        }
    }

    /// No number was added since the last `clear` or `drain`.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pairs `(first, last)`: ascending, without overlap, no two that touch.
    #[must_use]
    #[inline]
    pub fn pairs(&self) -> &[(u64, u64)] {
        &self.pairs
    }

    /// The same as a field for ACK or CONFIRM.
    #[must_use]
    #[inline]
    pub fn ranges(&self) -> Ranges<'_> {
        Ranges(Source::Pairs(&self.pairs))
    }

    /// Forgets all numbers and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.pairs.clear();
    }

    /// Takes all pairs out, ascending, and keeps the memory. What the caller does not walk over is forgotten too.
    #[inline]
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.pairs.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(sequences: &[u64]) -> Vec<(u64, u64)> {
        let mut set = RangeSet::new();
        sequences.iter().for_each(|&sequence| set.push(sequence));
        set.pairs().to_vec()
    }

    #[test]
    fn numbers_in_order_make_one_range() {
        assert_eq!(gathered(&[1, 2, 3, 4]), [(1, 4)]);
        assert_eq!(gathered(&[1, 2, 5, 6, 9]), [(1, 2), (5, 6), (9, 9)]);
    }

    #[test]
    fn numbers_out_of_order_join_their_neighbours() {
        assert_eq!(gathered(&[5, 3, 4]), [(3, 5)]);
        assert_eq!(gathered(&[9, 1, 5]), [(1, 1), (5, 5), (9, 9)]);
        assert_eq!(gathered(&[1, 9, 2]), [(1, 2), (9, 9)]);
        assert_eq!(gathered(&[1, 9, 8]), [(1, 1), (8, 9)]);
        assert_eq!(gathered(&[3, 3, 1, 1, 2, 2]), [(1, 3)]);
    }

    #[test]
    fn the_ends_of_the_number_line_do_not_overflow() {
        assert_eq!(gathered(&[u64::MAX, 0]), [(0, 0), (u64::MAX, u64::MAX)]);
        assert_eq!(gathered(&[u64::MAX - 1, u64::MAX, u64::MAX]), [(u64::MAX - 1, u64::MAX)]);
        assert_eq!(gathered(&[1, 0]), [(0, 1)]);
    }

    #[test]
    fn clearing_and_draining_keep_the_memory() {
        let mut set = RangeSet::new();
        (0..100).for_each(|sequence| set.push(sequence * 2));
        let room = set.pairs.capacity();
        assert_eq!(set.drain().len(), 100);
        assert!(set.is_empty());
        set.push(7);
        set.clear();
        assert_eq!((set.is_empty(), set.pairs.capacity()), (true, room));
    }

    #[test]
    fn pairs_are_judged() {
        assert!(Ranges::from_pairs(&[(1, 1), (2, 3), (5, u64::MAX)]).is_ok());
        for bad in [&[(2, 1)][..], &[(1, 2), (2, 3)], &[(5, 6), (1, 2)], &[(0, u64::MAX), (0, 0)]] {
            assert_eq!(Ranges::from_pairs(bad), Err(FrameError::BadRanges));
        }
    }
}
