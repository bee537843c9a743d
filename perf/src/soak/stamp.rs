//! What every body of a soak carries: pair, number, the id that the message was sent under, and a checksum over all
//! of it and the padding. So a changed body, and one body under two ids, are noticed without keeping either.
//! Little-endian; it is read only by the process that wrote it.

use iris_shards::id::MessageId;
use iris_shards::slot::stable_hash;

/// Bytes of the stamp, and so the smallest body.
pub const STAMP_BYTES: usize = 40;
const CHECKED_FROM: usize = 8;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The thread whose pair it is.
    pub thread: u32,
    /// Which of its pairs.
    pub pair: u32,
    /// Numbers the messages of a pair from 1 without gaps.
    pub number: u64,
    /// The id that it is sent under.
    pub id: MessageId,
}

impl Stamp {
    /// Writes a body of this many bytes (at least [`STAMP_BYTES`]).
    pub fn write(&self, body: &mut Vec<u8>, bytes: usize) {
        body.clear();
        body.extend_from_slice(&[0; CHECKED_FROM]);
        body.extend_from_slice(&self.thread.to_le_bytes());
        body.extend_from_slice(&self.pair.to_le_bytes());
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(&self.id.bytes());
        let padding = bytes.saturating_sub(STAMP_BYTES);
        body.extend((0..padding).map(|at| (self.number as u8).wrapping_add(at as u8)));
        let checksum = stable_hash(&body[CHECKED_FROM..]);
        body[..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The stamp of a body that is as it was written.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (checksum, checked) = body.split_first_chunk()?;
        let (thread, rest) = checked.split_first_chunk()?;
        let (pair, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (id, _) = rest.split_first_chunk()?;
        let (thread, pair) = (u32::from_le_bytes(*thread), u32::from_le_bytes(*pair));
        let (number, id) = (u64::from_le_bytes(*number), MessageId::from_bytes(*id));
        (u64::from_le_bytes(*checksum) == stable_hash(checked)).then_some(Self { thread, pair, number, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_and_a_changed_one_does_not() {
        let stamp = Stamp { thread: 1, pair: 7, number: u64::MAX - 3, id: MessageId::v7(5, 9) };
        let mut body = Vec::new();
        for bytes in [0, STAMP_BYTES, 64, 9_000] {
            stamp.write(&mut body, bytes);
            assert_eq!(body.len(), bytes.max(STAMP_BYTES));
            assert_eq!(Stamp::read(&body), Some(stamp));
            for at in [0, 9, 17, 25, 39, body.len() - 1] {
                body[at] ^= 1;
                assert_eq!(Stamp::read(&body), None, "byte {at}");
                body[at] ^= 1;
            }
            assert_eq!(Stamp::read(&body[..STAMP_BYTES - 1]), None);
        }
    }
}
