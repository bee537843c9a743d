//! Frames that a client sends: decoded by the server, encoded by client programs in Rust (perf, tests).
//! User ids stay raw bytes here: one bad id is CLOSE, another REFUSED, and only the session machine knows which.

use super::payload::{Reader, Writer, decode_token, length8, length32};
use super::{Decoded, Envelope, FrameError, HEADER_BYTES, Ranges, decode_envelope};
use crate::id::{MessageId, Sequence};

const HELLO: u8 = 0x01;
const SEND: u8 = 0x02;
const ACK: u8 = 0x03;
const LOOKUP: u8 = 0x04;
const WATCH: u8 = 0x05;
const UNWATCH: u8 = 0x06;
const PING: u8 = 0x07;
pub(super) const CLOSE: u8 = 0x08;

const MAGIC: [u8; 4] = *b"IRIS";

/// A frame from a client (`docs/protocol.md`, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// HELLO: the first frame of a connection.
    Hello(Hello<'a>),
    /// SEND: a message.
    Send {
        /// Number on this connection: 1, 2, 3, …
        sequence: Sequence,
        /// Name of the message for ever; any 16 bytes here.
        id: MessageId,
        /// The recipient's user id, at most 255 bytes, not validated.
        recipient: &'a [u8],
        /// What is sent; may be empty.
        body: &'a [u8],
    },
    /// ACK: sequences of DELIVER that the application has taken.
    Ack {
        /// The sequences.
        ranges: Ranges<'a>,
    },
    /// LOOKUP: asks for a user's presence once.
    Lookup {
        /// Comes back in PRESENCE.
        request: u32,
        /// A user id, at most 255 bytes, not validated.
        user: &'a [u8],
    },
    /// WATCH: asks for a user's presence and its changes.
    Watch {
        /// Comes back in every PRESENCE.
        request: u32,
        /// A user id, at most 255 bytes, not validated.
        user: &'a [u8],
    },
    /// UNWATCH: ends a WATCH.
    Unwatch {
        /// A user id, at most 255 bytes, not validated.
        user: &'a [u8],
    },
    /// PING: asks for a PONG.
    Ping {
        /// Comes back in PONG.
        token: u64,
    },
    /// CLOSE: the client ends.
    Close {
        /// A number of [`super::Code`], or one that this version does not know.
        code: u16,
        /// Milliseconds; of no meaning from a client.
        wait_ms: u32,
        /// For people.
        reason: &'a str,
    },
}

/// HELLO: who connects, and what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version that the client speaks.
    pub version_min: u8,
    /// Highest protocol version that the client speaks; not compared with the lowest.
    pub version_max: u8,
    /// Bits of [`super::CAPABILITY_PRESENCE`] and later ones.
    pub capabilities: u64,
    /// A user id, at most 255 bytes, not validated.
    pub user: &'a [u8],
    /// Proof of who the user is, at most 65,535 bytes; [`super::TOKEN_BYTES_MAX`] is not checked.
    pub token: &'a [u8],
    /// Name of the client program, for people; at most 255 bytes.
    pub agent: &'a str,
}

/// Decodes the first frame of `input`; `frame_bytes_max` bounds its length field (type and payload, bytes).
///
/// Errors: see [`FrameError`]; none can be recovered from, since the next frame's start is not trusted any more.
#[inline]
pub fn decode_client(input: &[u8], frame_bytes_max: usize) -> Result<Decoded<ClientFrame<'_>>, FrameError> {
    match decode_envelope(input, frame_bytes_max)? {
        Decoded::NeedMore { wanted } => Ok(Decoded::NeedMore { wanted }),
        Decoded::Frame { frame: Envelope { kind: SEND, payload }, used } => {
            Ok(Decoded::Frame { frame: decode_send(payload)?, used })
        }
        Decoded::Frame { frame, used } => Ok(Decoded::Frame { frame: decode_other(&frame)?, used }),
    }
}

#[inline]
fn decode_send(payload: &[u8]) -> Result<ClientFrame<'_>, FrameError> {
    let mut reader = Reader::new("SEND", payload);
    Ok(ClientFrame::Send {
        sequence: Sequence(reader.u64("sequence")?),
        id: MessageId::from_bytes(reader.array("id")?),
        recipient: reader.bytes8("recipient")?,
        body: reader.rest(),
    })
}

/// Everything but SEND, which is kept apart so that it can be inlined into the server's loop.
fn decode_other<'a>(envelope: &Envelope<'a>) -> Result<ClientFrame<'a>, FrameError> {
    let payload = envelope.payload;
    match envelope.kind {
        HELLO => decode_hello(payload).map(ClientFrame::Hello),
        ACK => Reader::new("ACK", payload).ranges().map(|ranges| ClientFrame::Ack { ranges }),
        LOOKUP => decode_asking("LOOKUP", payload).map(|(request, user)| ClientFrame::Lookup { request, user }),
        WATCH => decode_asking("WATCH", payload).map(|(request, user)| ClientFrame::Watch { request, user }),
        UNWATCH => {
            let mut reader = Reader::new("UNWATCH", payload);
            let user = reader.bytes8("user")?;
            reader.end().map(|()| ClientFrame::Unwatch { user })
        }
        PING => decode_token("PING", payload).map(|token| ClientFrame::Ping { token }),
        CLOSE => {
            let (code, wait_ms, reason) = decode_close(payload)?;
            Ok(ClientFrame::Close { code, wait_ms, reason })
        }
        kind => Err(FrameError::UnknownType(kind)),
    }
}

/// Bytes behind `agent` are ignored: they are a later version's.
fn decode_hello(payload: &[u8]) -> Result<Hello<'_>, FrameError> {
    let mut reader = Reader::new("HELLO", payload);
    if reader.array("magic")? != MAGIC {
        return Err(FrameError::BadMagic);
    }
    Ok(Hello {
        version_min: reader.u8("version_min")?,
        version_max: reader.u8("version_max")?,
        capabilities: reader.u64("capabilities")?,
        user: reader.bytes8("user")?,
        token: reader.bytes16("token")?,
        agent: reader.str8("agent")?,
    })
}

fn decode_asking<'a>(frame: &'static str, payload: &'a [u8]) -> Result<(u32, &'a [u8]), FrameError> {
    let mut reader = Reader::new(frame, payload);
    let request = reader.u32("request")?;
    let user = reader.bytes8("user")?;
    reader.end().map(|()| (request, user))
}

/// `code`, `wait_ms` and `reason` of CLOSE, which both sides send.
pub(super) fn decode_close(payload: &[u8]) -> Result<(u16, u32, &str), FrameError> {
    let mut reader = Reader::new("CLOSE", payload);
    Ok((reader.u16("code")?, reader.u32("wait_ms")?, reader.rest_text("reason")?))
}

impl ClientFrame<'_> {
    /// Appends the frame's bytes to `out`; nothing else in `out` changes. ACK becomes a frame for each 1,024 ranges,
    /// and none for no range. The other side's `frame_bytes_max` is not checked.
    ///
    /// Panics if a user id or `agent` has more than 255 bytes, `token` more than 65,535, or the frame more than
    /// `u32::MAX`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Send { sequence, id, recipient, body } => encode_send(out, (sequence, id), recipient, body),
            Self::Ack { ranges } => ranges.encode(&[ACK], out),
            Self::Hello(hello) => hello.encode(out),
            Self::Lookup { request, user } => Writer::new(out, LOOKUP).u32(request).bytes8(user).end(),
            Self::Watch { request, user } => Writer::new(out, WATCH).u32(request).bytes8(user).end(),
            Self::Unwatch { user } => Writer::new(out, UNWATCH).bytes8(user).end(),
            Self::Ping { token } => Writer::new(out, PING).u64(token).end(),
            Self::Close { code, wait_ms, reason } => {
                Writer::new(out, CLOSE).u16(code).u32(wait_ms).put(reason.as_bytes()).end();
            }
        }
    }
}

impl Hello<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out, HELLO)
            .put(&MAGIC)
            .u8(self.version_min)
            .u8(self.version_max)
            .u64(self.capabilities)
            .bytes8(self.user)
            .bytes16(self.token)
            .str8(self.agent)
            .end();
    }
}

/// Length, type, sequence, id and the recipient's length: gathered on the stack, so that `out` grows three times.
const SEND_HEAD_BYTES: usize = HEADER_BYTES + 1 + 8 + 16 + 1;

#[inline]
fn encode_send(out: &mut Vec<u8>, (sequence, id): (Sequence, MessageId), recipient: &[u8], body: &[u8]) {
    let bytes = SEND_HEAD_BYTES + recipient.len() + body.len();
    let mut head = [0; SEND_HEAD_BYTES];
    head[..4].copy_from_slice(&length32(bytes - HEADER_BYTES));
    head[4] = SEND;
    head[5..13].copy_from_slice(&sequence.0.to_be_bytes());
    head[13..29].copy_from_slice(&id.bytes());
    head[29] = length8(recipient);
    out.reserve(bytes);
    out.extend_from_slice(&head);
    out.extend_from_slice(recipient);
    out.extend_from_slice(body);
}

/// Appends ACK for `pairs` `(first, last)`, ascending and without overlap: a frame for each 1,024, none for no pair.
///
/// Panics if the pairs are not so: a wrong acknowledgement would lose messages.
#[inline]
pub fn acknowledge(out: &mut Vec<u8>, pairs: &[(u64, u64)]) {
    let ranges = Ranges::from_pairs(pairs);
    assert!(ranges.is_ok(), "ranges to acknowledge are not ascending");
    ranges.iter().for_each(|ranges| ranges.encode(&[ACK], out));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: u8, payload: &[u8]) -> Result<Decoded<ClientFrame<'_>>, FrameError> {
        decode_other(&Envelope { kind, payload }).map(|frame| Decoded::Frame { frame, used: 0 })
    }

    #[test]
    fn user_ids_are_left_to_the_machine() {
        let frame = ClientFrame::Unwatch { user: &[0xff] };
        assert_eq!(decode(UNWATCH, &[1, 0xff]), Ok(Decoded::Frame { frame, used: 0 }));
        let frame = ClientFrame::Unwatch { user: &[] };
        assert_eq!(decode(UNWATCH, &[0]), Ok(Decoded::Frame { frame, used: 0 }));
    }

    #[test]
    fn errors_name_frame_and_field() {
        let truncated = |frame, field| Err(FrameError::Truncated { frame, field });
        assert_eq!(decode(PING, &[0; 7]), truncated("PING", "token"));
        assert_eq!(decode(PING, &[0; 9]), Err(FrameError::TrailingBytes { frame: "PING", count: 1 }));
        assert_eq!(decode(LOOKUP, &[0, 0, 0, 1, 2, b'a']), truncated("LOOKUP", "user"));
        assert_eq!(decode(HELLO, b"IRI"), truncated("HELLO", "magic"));
        assert_eq!(decode(HELLO, b"HTTP/1.1"), Err(FrameError::BadMagic));
        assert_eq!(decode(CLOSE, &[0, 1, 0, 0, 0, 0, 0xc0]), Err(FrameError::NotUtf8 { field: "reason" }));
        assert_eq!(decode(0x81, &[]), Err(FrameError::UnknownType(0x81)));
        assert_eq!(decode(ACK, &[]), truncated("ACK", "ranges"));
        assert_eq!(decode(ACK, &[0; 17]), truncated("ACK", "ranges"));
        let recipient = FrameError::Truncated { frame: "SEND", field: "recipient" };
        assert_eq!(decode_send(&[0; 24]), Err(recipient));
    }

    #[test]
    fn a_frame_has_at_most_1024_ranges() {
        let pairs: Vec<(u64, u64)> = (0..2_500).map(|n| (n * 3, n * 3 + 1)).collect();
        let mut out = Vec::new();
        acknowledge(&mut out, &pairs);
        assert_eq!(out.len(), 3 * (HEADER_BYTES + 1) + 2_500 * 16);
        let mut seen = Vec::new();
        let mut rest = &out[..];
        while let Ok(Decoded::Frame { frame: ClientFrame::Ack { ranges }, used }) = decode_client(rest, 16_385) {
            seen.extend(ranges);
            rest = &rest[used..];
        }
        assert_eq!((rest.is_empty(), seen), (true, pairs));
        assert_eq!(decode(ACK, &out[5..5 + 1_025 * 16]), Err(FrameError::TooManyRanges));
    }

    #[test]
    #[should_panic(expected = "not ascending")]
    fn wrong_acknowledgements_do_not_reach_the_wire() {
        acknowledge(&mut Vec::new(), &[(2, 1)]);
    }
}
