//! How a [`Place`] names a record of the log: segment, offset, and about how many bytes it has.
//!
//! 28 bits of segment number, 24 bits of offset in units of 8 bytes (so a segment has at most 128 MiB), 12 bits of size.
//! The size is rounded up to eight significant bits, exact below 2 KiB: one disk read gets the record without an index,
//! and live bytes add up to exactly zero because they are counted in the rounded size.

use crate::record::ALIGN_BYTES;
use crate::storage::Place;

/// Segment numbers are below this.
pub(crate) const SEGMENTS_MAX: u32 = 1 << 28;
/// Segments are no larger, in bytes.
pub(crate) const SEGMENT_BYTES_LIMIT: u32 = 128 << 20;

const UNIT: u32 = ALIGN_BYTES as u32;
const EXACT: u32 = 128;

/// A place, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub segment: u32,
    pub offset: u32,
    /// At least the bytes of the record.
    pub bytes: u32,
}

pub(crate) fn pack(segment: u32, offset: u32, bytes: u32) -> Place {
    debug_assert!(segment < SEGMENTS_MAX && offset < SEGMENT_BYTES_LIMIT && offset.is_multiple_of(UNIT));
    Place(u64::from(segment) << 36 | u64::from(offset / UNIT) << 12 | u64::from(size_code(bytes / UNIT)))
}

pub(crate) fn unpack(place: Place) -> Spot {
    Spot {
        segment: (place.0 >> 36) as u32,
        offset: (place.0 >> 12 & 0xff_ffff) as u32 * UNIT,
        bytes: size_of_code((place.0 & 0xfff) as u32) * UNIT,
    }
}

fn size_code(units: u32) -> u32 {
    if units < EXACT {
        return units;
    }
    let shift = 24 - units.leading_zeros();
    let rounded = units.div_ceil(1 << shift);
    // 256 carries into the exponent, as it should.
    (shift * EXACT) + rounded
}

fn size_of_code(code: u32) -> u32 {
    if code < EXACT {
        return code;
    }
    let shift = code / EXACT - 1;
    (code % EXACT + EXACT) << shift.min(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_what_they_name() {
        for units in (4..5_000).chain([1 << 20, (1 << 21) - 1, (1 << 21) + 80]) {
            let spot = unpack(pack(SEGMENTS_MAX - 1, SEGMENT_BYTES_LIMIT - 8, units * 8));
            assert_eq!((spot.segment, spot.offset), (SEGMENTS_MAX - 1, SEGMENT_BYTES_LIMIT - 8));
            assert!(spot.bytes >= units * 8 && spot.bytes <= units * 8 + units / 16, "{units}: {}", spot.bytes);
            assert!(units >= 256 || spot.bytes == units * 8);
        }
    }
}
