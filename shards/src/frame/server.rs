//! Frames that a server sends: encoded by the server, decoded by client programs in Rust (perf, tests).
//! DELIVER and CONFIRM are the hot ones: each grows the out-buffer as seldom as it can.

use super::client::{CLOSE, decode_close};
use super::payload::{Reader, Writer, decode_token, length8, length32};
use super::{Decoded, Envelope, FrameError, HEADER_BYTES, Ranges, decode_envelope};
use crate::id::{MessageId, Sequence};

const WELCOME: u8 = 0x81;
const DELIVER: u8 = 0x82;
const CONFIRM: u8 = 0x83;
const REFUSED: u8 = 0x84;
const PRESENCE: u8 = 0x85;
const PONG: u8 = 0x86;
const DRAIN: u8 = 0x87;

/// A frame from a server (`docs/protocol.md`, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// WELCOME: the answer to HELLO.
    Welcome(Welcome<'a>),
    /// DELIVER: a message.
    Deliver(Deliver<'a>),
    /// CONFIRM: what became of sent messages.
    Confirm {
        /// [`super::LEVEL_STORED`] or [`super::LEVEL_DELIVERED`]; not checked.
        level: u8,
        /// Nodes that have the messages on disk; 0 for delivered.
        copies: u8,
        /// Sequences of SEND.
        ranges: Ranges<'a>,
    },
    /// REFUSED: a message that was not taken.
    Refused {
        /// The sequence of its SEND.
        sequence: Sequence,
        /// A number of [`super::Code`], or one that this version does not know.
        code: u16,
        /// Milliseconds after which it may be sent again; 0: useless.
        wait_ms: u32,
        /// For people.
        reason: &'a str,
    },
    /// PRESENCE: where a user is, or a change of it.
    Presence {
        /// That of the LOOKUP or WATCH.
        request: u32,
        /// One of the `STATE_` constants; not checked.
        state: u8,
        /// Milliseconds since the Unix epoch; 0: never seen, or online now.
        last_seen: u64,
        /// The user id, at most 255 bytes.
        user: &'a str,
    },
    /// PONG: the answer to PING.
    Pong {
        /// That of the PING.
        token: u64,
    },
    /// DRAIN: asks the client to reconnect.
    Drain {
        /// Milliseconds to wait before.
        wait_ms: u32,
    },
    /// CLOSE: the server ends the connection.
    Close {
        /// A number of [`super::Code`], or one that this version does not know.
        code: u16,
        /// Milliseconds before which the client should not reconnect; 0: no wish.
        wait_ms: u32,
        /// For people.
        reason: &'a str,
    },
    /// A type that this version does not know; clients ignore it (section 2).
    Unknown {
        /// The type byte.
        kind: u8,
        /// Everything behind it.
        payload: &'a [u8],
    },
}

/// WELCOME: what the server grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The protocol version of this connection.
    pub version: u8,
    /// Capability bits that both sides know.
    pub capabilities: u64,
    /// Region of the node, at most 255 bytes.
    pub region: &'a str,
    /// Name of the node, at most 255 bytes.
    pub node: &'a str,
    /// Messages that may be unanswered.
    pub window_messages: u32,
    /// Bytes of bodies that may be unanswered.
    pub window_bytes: u32,
    /// Largest body, bytes.
    pub body_bytes_max: u32,
    /// Largest length field of a frame to the server, bytes.
    pub frame_bytes_max: u32,
    /// Milliseconds of silence after which the server closes; 0: never.
    pub silent_ms_max: u32,
    /// The server's clock, milliseconds since the Unix epoch.
    pub clock: u64,
}

/// DELIVER: a message for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// Number on this connection: 1, 2, 3, …
    pub sequence: Sequence,
    /// Name of the message, given by the sender.
    pub id: MessageId,
    /// When the sender's node took it, milliseconds since the Unix epoch.
    pub sent_at: u64,
    /// The sender's user id, at most 255 bytes.
    pub sender: &'a str,
    /// What was sent; may be empty.
    pub body: &'a [u8],
}

/// Decodes the first frame of `input`; `frame_bytes_max` bounds its length field (type and payload, bytes).
///
/// Errors: see [`FrameError`]; never `UnknownType`.
#[inline]
pub fn decode_server(input: &[u8], frame_bytes_max: usize) -> Result<Decoded<ServerFrame<'_>>, FrameError> {
    match decode_envelope(input, frame_bytes_max)? {
        Decoded::NeedMore { wanted } => Ok(Decoded::NeedMore { wanted }),
        Decoded::Frame { frame: Envelope { kind: DELIVER, payload }, used } => {
            let frame = decode_deliver(payload).map(ServerFrame::Deliver)?;
            Ok(Decoded::Frame { frame, used })
        }
        Decoded::Frame { frame, used } => Ok(Decoded::Frame { frame: decode_other(&frame)?, used }),
    }
}

#[inline]
fn decode_deliver(payload: &[u8]) -> Result<Deliver<'_>, FrameError> {
    let mut reader = Reader::new("DELIVER", payload);
    Ok(Deliver {
        sequence: Sequence(reader.u64("sequence")?),
        id: MessageId::from_bytes(reader.array("id")?),
        sent_at: reader.u64("sent_at")?,
        sender: reader.str8("sender")?,
        body: reader.rest(),
    })
}

fn decode_other<'a>(envelope: &Envelope<'a>) -> Result<ServerFrame<'a>, FrameError> {
    let payload = envelope.payload;
    match envelope.kind {
        WELCOME => decode_welcome(payload).map(ServerFrame::Welcome),
        CONFIRM => {
            let mut reader = Reader::new("CONFIRM", payload);
            let (level, copies) = (reader.u8("level")?, reader.u8("copies")?);
            reader.ranges().map(|ranges| ServerFrame::Confirm { level, copies, ranges })
        }
        REFUSED => decode_refused(payload),
        PRESENCE => decode_presence(payload),
        PONG => decode_token("PONG", payload).map(|token| ServerFrame::Pong { token }),
        DRAIN => {
            let mut reader = Reader::new("DRAIN", payload);
            let wait_ms = reader.u32("wait_ms")?;
            reader.end().map(|()| ServerFrame::Drain { wait_ms })
        }
        CLOSE => {
            let (code, wait_ms, reason) = decode_close(payload)?;
            Ok(ServerFrame::Close { code, wait_ms, reason })
        }
        kind => Ok(ServerFrame::Unknown { kind, payload }),
    }
}

/// Bytes behind `clock` are ignored: they are a later version's.
fn decode_welcome(payload: &[u8]) -> Result<Welcome<'_>, FrameError> {
    let mut reader = Reader::new("WELCOME", payload);
    Ok(Welcome {
        version: reader.u8("version")?,
        capabilities: reader.u64("capabilities")?,
        region: reader.str8("region")?,
        node: reader.str8("node")?,
        window_messages: reader.u32("window_messages")?,
        window_bytes: reader.u32("window_bytes")?,
        body_bytes_max: reader.u32("body_bytes_max")?,
        frame_bytes_max: reader.u32("frame_bytes_max")?,
        silent_ms_max: reader.u32("silent_ms_max")?,
        clock: reader.u64("clock")?,
    })
}

fn decode_refused(payload: &[u8]) -> Result<ServerFrame<'_>, FrameError> {
    let mut reader = Reader::new("REFUSED", payload);
    Ok(ServerFrame::Refused {
        sequence: Sequence(reader.u64("sequence")?),
        code: reader.u16("code")?,
        wait_ms: reader.u32("wait_ms")?,
        reason: reader.rest_text("reason")?,
    })
}

fn decode_presence(payload: &[u8]) -> Result<ServerFrame<'_>, FrameError> {
    let mut reader = Reader::new("PRESENCE", payload);
    let frame = ServerFrame::Presence {
        request: reader.u32("request")?,
        state: reader.u8("state")?,
        last_seen: reader.u64("last_seen")?,
        user: reader.str8("user")?,
    };
    reader.end().map(|()| frame)
}

impl ServerFrame<'_> {
    /// Appends the frame's bytes to `out`; nothing else in `out` changes. CONFIRM becomes a frame for each 1,024
    /// ranges, and none for no range.
    ///
    /// Panics if a user id, `region` or `node` has more than 255 bytes, or the frame more than `u32::MAX`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Deliver(ref message) => deliver(out, message),
            Self::Confirm { level, copies, ranges } => ranges.encode(&[CONFIRM, level, copies], out),
            Self::Welcome(welcome) => welcome.encode(out),
            Self::Refused { sequence, code, wait_ms, reason } => {
                Writer::new(out, REFUSED).u64(sequence.0).u16(code).u32(wait_ms).put(reason.as_bytes()).end();
            }
            Self::Presence { request, state, last_seen, user } => {
                Writer::new(out, PRESENCE).u32(request).u8(state).u64(last_seen).str8(user).end();
            }
            Self::Pong { token } => Writer::new(out, PONG).u64(token).end(),
            Self::Drain { wait_ms } => Writer::new(out, DRAIN).u32(wait_ms).end(),
            Self::Close { code, wait_ms, reason } => {
                Writer::new(out, CLOSE).u16(code).u32(wait_ms).put(reason.as_bytes()).end();
            }
            Self::Unknown { kind, payload } => Writer::new(out, kind).put(payload).end(),
        }
    }
}

impl Welcome<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out, WELCOME)
            .u8(self.version)
            .u64(self.capabilities)
            .str8(self.region)
            .str8(self.node)
            .u32(self.window_messages)
            .u32(self.window_bytes)
            .u32(self.body_bytes_max)
            .u32(self.frame_bytes_max)
            .u32(self.silent_ms_max)
            .u64(self.clock)
            .end();
    }
}

/// Length, type, sequence, id, time and the sender's length: gathered on the stack, so that `out` grows three times.
const DELIVER_HEAD_BYTES: usize = HEADER_BYTES + 1 + 8 + 16 + 8 + 1;

/// Appends DELIVER. Panics if the sender has more than 255 bytes, or the frame more than `u32::MAX`.
#[inline]
pub fn deliver(out: &mut Vec<u8>, message: &Deliver<'_>) {
    let sender = message.sender.as_bytes();
    let bytes = DELIVER_HEAD_BYTES + sender.len() + message.body.len();
    let mut head = [0; DELIVER_HEAD_BYTES];
    head[..4].copy_from_slice(&length32(bytes - HEADER_BYTES));
    head[4] = DELIVER;
    head[5..13].copy_from_slice(&message.sequence.0.to_be_bytes());
    head[13..29].copy_from_slice(&message.id.bytes());
    head[29..37].copy_from_slice(&message.sent_at.to_be_bytes());
    head[37] = length8(sender);
    out.reserve(bytes);
    out.extend_from_slice(&head);
    out.extend_from_slice(sender);
    out.extend_from_slice(message.body);
}

/// Appends CONFIRM for `pairs` `(first, last)` of SEND's sequences, ascending and without overlap: a frame for each
/// 1,024, none for no pair. `level` is one of the `LEVEL_` constants, `copies` counts nodes (0 for delivered).
///
/// Panics if the pairs are not so: a wrong confirmation would lose messages.
#[inline]
pub fn confirm(out: &mut Vec<u8>, level: u8, copies: u8, pairs: &[(u64, u64)]) {
    let ranges = Ranges::from_pairs(pairs);
    assert!(ranges.is_ok(), "ranges to confirm are not ascending");
    ranges.iter().for_each(|ranges| ranges.encode(&[CONFIRM, level, copies], out));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_frames_can_be_skipped() {
        let input = [0, 0, 0, 2, 0x99, 7, 0, 0, 0, 1];
        let frame = ServerFrame::Unknown { kind: 0x99, payload: &[7] };
        assert_eq!(decode_server(&input, 16), Ok(Decoded::Frame { frame, used: 6 }));
        let mut out = Vec::new();
        frame.encode(&mut out);
        assert_eq!(out, input[..6]);
    }

    #[test]
    fn encoding_appends_and_splits() {
        let pairs: Vec<(u64, u64)> = (0..1_025).map(|n| (n * 2, n * 2)).collect();
        let mut out = vec![9];
        confirm(&mut out, super::super::LEVEL_STORED, 2, &pairs);
        let first = HEADER_BYTES + super::super::RANGES_FRAME_BYTES_MAX;
        assert_eq!(out.len(), 1 + first + HEADER_BYTES + 3 + 16);
        assert_eq!(out[1 + first..][..7], [0, 0, 0, 19, CONFIRM, 1, 2]);
        confirm(&mut out, 1, 2, &[]);
        assert_eq!(out.len(), 1 + first + HEADER_BYTES + 3 + 16);
    }

    #[test]
    fn errors_name_frame_and_field() {
        let decode = |kind, payload| decode_other(&Envelope { kind, payload });
        let truncated = |frame, field| Err(FrameError::Truncated { frame, field });
        assert_eq!(decode(WELCOME, &[1]), truncated("WELCOME", "capabilities"));
        assert_eq!(decode(CONFIRM, &[1, 2]), truncated("CONFIRM", "ranges"));
        assert_eq!(decode(REFUSED, &[0; 9]), truncated("REFUSED", "code"));
        assert_eq!(decode(DRAIN, &[0; 5]), Err(FrameError::TrailingBytes { frame: "DRAIN", count: 1 }));
        let mut presence = [0; 16];
        presence[13..].copy_from_slice(&[2, 0xc3, 0x28]);
        assert_eq!(decode(PRESENCE, &presence), Err(FrameError::NotUtf8 { field: "user" }));
    }

    #[test]
    #[should_panic(expected = "str8 of 256 bytes")]
    fn an_overlong_sender_does_not_reach_the_wire() {
        let sender = "a".repeat(256);
        let id = MessageId::from_bytes([0; 16]);
        deliver(&mut Vec::new(), &Deliver { sequence: Sequence(1), id, sent_at: 0, sender: &sender, body: &[] });
    }
}
