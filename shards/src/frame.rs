//! Client protocol codec (`docs/protocol.md`, version 1): frames to bytes and back.
//! In: a slice with any number of whole or cut frames. Out: frames that borrow from it; encoding appends to a `Vec`.
//! Decoding allocates nothing, never panics and never looks behind the frame's own length.
//! It does not judge order, windows, user ids, tokens, versions or message ids: the session machine does.
//! Node-to-node frames are in `peer`.

mod client;
mod code;
pub(crate) mod payload;
mod ranges;
mod server;

use payload::Flaw;
use thiserror::Error;

pub use client::{ClientFrame, Hello, acknowledge, decode_client};
pub use code::Code;
pub use ranges::{RangeSet, Ranges, RangesIter};
pub use server::{Deliver, ServerFrame, Welcome, confirm, decode_server, deliver};

/// The protocol version that this codec speaks (section 3).
pub const VERSION: u8 = 1;
/// Bytes of the length field in front of every frame (section 2).
pub const HEADER_BYTES: usize = 4;
/// `frame_bytes_max` before WELCOME: the largest `length`, type included (section 2).
pub const FRAME_BYTES_MAX_BEFORE_WELCOME: usize = 4_096;
/// The largest number of pairs in one ACK or CONFIRM (section 2).
pub const RANGES_MAX: usize = 1_024;
/// `length` of an ACK or CONFIRM with [`RANGES_MAX`] pairs, the larger of the two: no smaller `frame_bytes_max` may be
/// configured, or clients would have to cut their acknowledgements finer than section 2 says.
pub const RANGES_FRAME_BYTES_MAX: usize = 1 + 2 + RANGES_MAX * ranges::PAIR_BYTES;
/// Bytes that the token of HELLO may have (section 3). Checked by the session machine, not by the decoder.
pub const TOKEN_BYTES_MAX: usize = 3_000;
/// Capability bit 0: LOOKUP, WATCH, UNWATCH and PRESENCE (section 3).
pub const CAPABILITY_PRESENCE: u64 = 1;
/// CONFIRM `level`: that many copies have the message on disk (section 4).
pub const LEVEL_STORED: u8 = 1;
/// CONFIRM `level`: the recipient's client acknowledged the message (section 4).
pub const LEVEL_DELIVERED: u8 = 2;
/// PRESENCE `state`: the user has no session (section 6).
pub const STATE_OFFLINE: u8 = 0;
/// PRESENCE `state`: the user has a session (section 6).
pub const STATE_ONLINE: u8 = 1;
/// PRESENCE `state`: the user's node cannot be reached, or a limit was hit (section 6).
pub const STATE_UNKNOWN: u8 = 2;

/// What a decoder found at the start of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<F> {
    /// A whole frame.
    Frame {
        /// The frame; it borrows from the input.
        frame: F,
        /// Bytes of the input that it took, length field included: 5 or more. The next frame starts there.
        used: usize,
    },
    /// The input ends within the frame. Nothing of it was judged except its length.
    NeedMore {
        /// Bytes that the input must have before it is worth trying again, always more than it has: the whole frame,
        /// or [`HEADER_BYTES`] while the length is unknown.
        wanted: usize,
    },
}

/// Why bytes are not a frame. Always the other side's fault; the connection cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length field is above the limit that the caller gave.
    #[error("frame of {length} bytes, at most {max} are allowed")]
    TooLarge {
        /// The length field: type and payload, bytes.
        length: u32,
        /// The caller's `frame_bytes_max`.
        max: usize,
    },
    /// The length field is 0, so there is not even a type.
    #[error("frame without a type")]
    Empty,
    /// A type that no client sends. (A server's unknown frame is [`ServerFrame::Unknown`], since clients ignore it.)
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// The frame ends within a field.
    #[error("{frame} ends within {field}")]
    Truncated {
        /// The frame's name.
        frame: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// Bytes behind the last field of a frame that has no room for them.
    #[error("{frame} has {count} bytes behind its last field")]
    TrailingBytes {
        /// The frame's name.
        frame: &'static str,
        /// How many bytes.
        count: usize,
    },
    /// HELLO does not start with `IRIS`: most likely another protocol's client.
    #[error("HELLO without the magic of Iris")]
    BadMagic,
    /// A range with `first > last`, or one that does not lie behind the range before it.
    #[error("ranges are not ascending")]
    BadRanges,
    /// More than [`RANGES_MAX`] pairs.
    #[error("more than {RANGES_MAX} ranges in a frame")]
    TooManyRanges,
    /// A text field that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field's name.
        field: &'static str,
    },
}

impl FrameError {
    /// The code for CLOSE that answers this error (section 2).
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::FrameTooLarge,
            _ => Code::ProtocolError,
        }
    }
}

impl From<Flaw> for FrameError {
    #[inline]
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::TooLarge { length, max } => Self::TooLarge { length, max },
            Flaw::Empty => Self::Empty,
            Flaw::Truncated { frame, field } => Self::Truncated { frame, field },
            Flaw::TrailingBytes { frame, count } => Self::TrailingBytes { frame, count },
        }
    }
}

/// Type and payload of the frame at the start of the input.
pub(crate) struct Envelope<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

/// Cuts the first frame off, of a client or of a node. Errors: [`Flaw::TooLarge`] as soon as the length is known,
/// [`Flaw::Empty`].
#[inline]
pub(crate) fn decode_envelope(input: &[u8], frame_bytes_max: usize) -> Result<Decoded<Envelope<'_>>, Flaw> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::NeedMore { wanted: HEADER_BYTES });
    };
    let length = u32::from_be_bytes(*header);
    let bytes = length as usize;
    if bytes > frame_bytes_max {
        return Err(Flaw::TooLarge { length, max: frame_bytes_max });
    }
    if bytes == 0 {
        return Err(Flaw::Empty);
    }
    let used = HEADER_BYTES.saturating_add(bytes);
    match rest.get(..bytes).and_then(<[u8]>::split_first) {
        Some((&kind, payload)) => Ok(Decoded::Frame { frame: Envelope { kind, payload }, used }),
        None => Ok(Decoded::NeedMore { wanted: used }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_judged_before_the_frame_is_there() {
        let input = [0, 0, 0x10, 1];
        let too_large = FrameError::TooLarge { length: 4_097, max: 4_096 };
        assert_eq!(decode_client(&input, 4_096), Err(too_large));
        assert_eq!(too_large.code(), Code::FrameTooLarge);
        assert_eq!(decode_client(&input, 4_097), Ok(Decoded::NeedMore { wanted: 4_101 }));
        assert_eq!(decode_client(&[0; 4], 4_096), Err(FrameError::Empty));
        assert_eq!(decode_server(&[0; 4], 4_096), Err(FrameError::Empty));
    }

    #[test]
    fn a_short_header_wants_the_header() {
        for bytes in 0..HEADER_BYTES {
            let input = &[0xff; HEADER_BYTES][..bytes];
            assert_eq!(decode_client(input, 1), Ok(Decoded::NeedMore { wanted: HEADER_BYTES }));
        }
    }

    #[test]
    fn every_error_but_the_size_is_a_protocol_error() {
        for error in [FrameError::Empty, FrameError::UnknownType(9), FrameError::BadMagic, FrameError::BadRanges] {
            assert_eq!(error.code(), Code::ProtocolError);
        }
        assert_eq!(FrameError::UnknownType(9).to_string(), "unknown frame type 0x09");
    }
}
