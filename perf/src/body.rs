//! The head of every message body that the generator sends: what the receiving end needs to check order and to
//! measure latency. Little-endian; it never leaves this process. The rest of a body is padding.

/// Bytes of the head, and so the smallest body.
pub const HEAD_BYTES: usize = 24;
/// `kind` of a message.
pub const DATA: u32 = 0;
/// `kind` of an acknowledgement, where a peer (`raw`) has no frame of its own for it.
pub const ACKNOWLEDGEMENT: u32 = 1;

/// The head of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Numbers a sender's messages from 1 without gaps.
    pub number: u64,
    /// When it was sent, in ns of the board's clock.
    pub sent_ns: u64,
    /// The sender's index in this run.
    pub origin: u32,
    /// [`DATA`] or [`ACKNOWLEDGEMENT`].
    pub kind: u32,
}

impl Head {
    /// Overwrites the first [`HEAD_BYTES`] of `body`. Panics if it is shorter.
    #[inline]
    pub fn write(&self, body: &mut [u8]) {
        let (number, sent, origin, kind) = (self.number, self.sent_ns, self.origin, self.kind);
        body[..8].copy_from_slice(&number.to_le_bytes());
        body[8..16].copy_from_slice(&sent.to_le_bytes());
        body[16..20].copy_from_slice(&origin.to_le_bytes());
        body[20..24].copy_from_slice(&kind.to_le_bytes());
    }

    /// The head of `body`; `None` if it is too short to be one of ours.
    #[inline]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (number, rest) = body.split_first_chunk()?;
        let (sent_ns, rest) = rest.split_first_chunk()?;
        let (origin, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            sent_ns: u64::from_le_bytes(*sent_ns),
            origin: u32::from_le_bytes(*origin),
            kind: u32::from_le_bytes(*kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back() {
        let head = Head { number: 7, sent_ns: u64::MAX, origin: 9, kind: ACKNOWLEDGEMENT };
        let mut body = [0xff; HEAD_BYTES + 1];
        head.write(&mut body);
        assert_eq!(Head::read(&body), Some(head));
        assert_eq!(Head::read(&body[..HEAD_BYTES - 1]), None);
    }
}
