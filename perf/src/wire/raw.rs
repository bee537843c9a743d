//! No protocol: frames of one fixed size, exactly a body each, for the `raw` relay. Gated, the receiving end answers
//! each turn with one frame that acknowledges everything up to a number; otherwise nothing is acknowledged.

use super::{Incoming, Level, Wire};
use crate::body::{ACKNOWLEDGEMENT, HEAD_BYTES, Head};

/// One connection.
#[derive(Debug)]
pub struct Raw {
    frame_bytes: usize,
    is_gated: bool,
    taken: u64,
    acknowledged: u64,
    confirmed: u64,
}

impl Raw {
    /// Frames of `frame_bytes`, at least [`HEAD_BYTES`].
    pub fn new(frame_bytes: usize, is_gated: bool) -> Self {
        assert!(frame_bytes >= HEAD_BYTES, "a raw frame holds at least the head");
        Self { frame_bytes, is_gated, taken: 0, acknowledged: 0, confirmed: 0 }
    }

    #[inline]
    fn is_acknowledgement(&self, frame: &[u8]) -> Option<u64> {
        if !self.is_gated {
            return None;
        }
        Head::read(frame).filter(|head| head.kind == ACKNOWLEDGEMENT).map(|head| head.number)
    }
}

impl Wire for Raw {
    fn confirms(&self) -> bool {
        self.is_gated
    }

    fn logs_in(&self) -> bool {
        false
    }

    fn login(&mut self, _user: &str, _token: &[u8], _out: &mut Vec<u8>) {}

    #[inline]
    fn send(&mut self, _recipient: &[u8], body: &[u8], _now_ns: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(body);
    }

    #[inline]
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if self.is_gated && self.taken > self.acknowledged {
            let start = out.len();
            out.resize(start + self.frame_bytes, 0);
            let head = Head { number: self.taken, sent_ns: 0, origin: 0, kind: ACKNOWLEDGEMENT };
            head.write(&mut out[start..]);
            self.acknowledged = self.taken;
        }
    }

    #[inline]
    fn decode(&mut self, input: &[u8], _now_ns: u64, mut on: impl FnMut(Incoming<'_>)) -> Result<usize, String> {
        let frames = input.chunks_exact(self.frame_bytes);
        let used = input.len() - frames.remainder().len();
        for frame in frames {
            let Some(last) = self.is_acknowledgement(frame) else {
                self.taken += 1;
                on(Incoming::Message(frame));
                continue;
            };
            let first = self.confirmed + 1;
            self.confirmed = last;
            on(Incoming::Confirmed { first, last, level: Level::Delivered });
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gated_frames_are_acknowledged_by_number() {
        let (mut a, mut b) = (Raw::new(32, true), Raw::new(32, true));
        let mut out = Vec::new();
        a.send(b"", &[0; 32], 0, &mut out);
        a.send(b"", &[0; 32], 0, &mut out);
        let mut messages = 0;
        assert_eq!(b.decode(&out[..63], 0, |_| messages += 1), Ok(32));
        assert_eq!(b.decode(&out[32..], 0, |_| messages += 1), Ok(32));
        out.clear();
        b.acknowledge(&mut out);
        b.acknowledge(&mut out);
        let mut heard = Vec::new();
        a.decode(&out, 0, |incoming| heard.push(format!("{incoming:?}"))).expect("whole frames");
        assert_eq!((messages, out.len()), (2, 32));
        assert_eq!(heard, ["Confirmed { first: 1, last: 2, level: Delivered }"]);
    }
}
