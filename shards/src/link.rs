//! Peer protocol codec (`docs/peer-protocol.md`, version 1): what two nodes say on their link, to bytes and back.
//! In: a slice with any number of whole or cut frames. Out: owned values, and nothing else is allocated; encoding appends.
//! Decoding never panics and never looks behind the frame's own length; an error names the frame and the field.
//! It does not judge who speaks when, secrets, names or versions: the links of `src/` do, with [`handshake`].

mod claims;
pub mod crossing;
mod fields;
pub mod handshake;
mod kind;
mod to_core;
mod to_edge;

use crate::frame::payload::{Flaw, Writer, decode_token};
use crate::frame::{Decoded, Envelope, decode_envelope};
use crate::id::{BadUser, ExecutorId, Location, NodeId, Slot, USER_BYTES_MAX};
use crate::peer::{Peer, ToCore, ToCores, ToEdge};
use fields::Reader;
pub use handshake::{Accept, Hello, Introduction, LinkName, Party, Proof, Refuse, RefuseCode};
use thiserror::Error;

/// The protocol version that this codec speaks (section 6).
pub const VERSION: u8 = 1;
/// The oldest version that it speaks. There is none before the first.
pub const VERSION_MIN: u8 = 1;
/// The largest `length` of a frame before the link is up: no secret was proven yet (section 2).
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 4_096;
/// The encoder cuts a run (DIRECT, ACK) so that its `length` is at most this, unless it is a single message.
pub const RUN_BYTES_MAX: usize = 65_536;
/// More than the fields and names of any frame with a body have besides it: APPEND has 65 and two names.
const BESIDE_BODY_BYTES_MAX: usize = 128 + 2 * USER_BYTES_MAX;

/// What a frame that names shards (CLAIMS, OFFERED, COMPARED) may have: 16,384 shards with eight replicas each.
pub const SHARDS_BYTES_MAX: usize = 1 << 20;

/// The largest `length` that a link carries between nodes whose clients send bodies of at most that many bytes. Both
/// ends count alike, because the limit is a part of the cluster's hash.
#[must_use]
pub const fn frame_bytes_max(body_bytes_max: u32) -> usize {
    let single = BESIDE_BODY_BYTES_MAX + body_bytes_max as usize;
    if single > SHARDS_BYTES_MAX { single } else { SHARDS_BYTES_MAX }
}

/// A frame of the link (section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFrame {
    /// HELLO: the dialer's first.
    Hello(Box<Hello>),
    /// ACCEPT: the acceptor's answer, with its proof.
    Accept(Box<Accept>),
    /// PROOF: the dialer's.
    Proof(Proof),
    /// REFUSE: there will be no link; the connection is closed behind it.
    Refuse(Refuse),
    /// PING: asks for a PONG.
    Ping {
        /// Comes back in PONG.
        token: u64,
    },
    /// PONG: the answer to PING.
    Pong {
        /// That of the PING.
        token: u64,
    },
    /// WHOIS: asks where a node can be dialled.
    Whois {
        /// Which.
        node: NodeId,
    },
    /// INTRODUCE: the answer to WHOIS.
    Introduce(Introduction),
    /// LEAVING: this node drains; it is not dialled any more.
    Leaving,
    /// What machines say to each other.
    Peer(Parcel),
    /// A frame of a later version that may be skipped.
    Unknown {
        /// Its kind, 0x80 or more.
        kind: u8,
    },
}

/// A [`Peer`] on its link: the link says which node it comes from, and which it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parcel {
    /// To the core half, at the home executor of `slot`.
    Core {
        /// Whose slot.
        slot: Slot,
        /// What.
        message: ToCore,
    },
    /// To the core half of every executor.
    Cores {
        /// What.
        message: ToCores,
    },
    /// To the edge half of one executor.
    Edge {
        /// Which; not checked: the node may have had more executors once.
        executor: ExecutorId,
        /// What.
        message: ToEdge,
    },
}

/// Why bytes are not a frame. Always the other side's fault; the link cannot be read any further and is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The length field is above the limit that the caller gave.
    #[error("frame of {length} bytes, at most {max} are allowed")]
    TooLarge {
        /// The length field: kind and payload, bytes.
        length: u32,
        /// The caller's `frame_bytes_max`.
        max: usize,
    },
    /// The length field is 0, so there is not even a kind.
    #[error("frame without a kind")]
    Empty,
    /// A kind below 0x80 that this version does not know.
    #[error("unknown kind of frame {0:#04x}")]
    UnknownKind(u8),
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
    /// HELLO does not start with `IRIN`: most likely not a node of Iris.
    #[error("HELLO without the magic of Iris nodes")]
    BadMagic,
    /// A number that the field does not have.
    #[error("{frame} has {value} as {field}")]
    BadValue {
        /// The frame's name.
        frame: &'static str,
        /// The field's name.
        field: &'static str,
        /// What was there.
        value: u64,
    },
    /// A text that is not UTF-8, or has control characters.
    #[error("{field} of {frame} is not a text")]
    BadText {
        /// The frame's name.
        frame: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A name that is no user id.
    #[error("{field} of {frame}: {why}")]
    BadUser {
        /// The frame's name.
        frame: &'static str,
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        why: BadUser,
    },
    /// For a session of another node.
    #[error("{frame} is for node {node:?}, this is {own:?}")]
    Misdirected {
        /// The frame's name.
        frame: &'static str,
        /// The node that the session is of.
        node: NodeId,
        /// The node that reads.
        own: NodeId,
    },
}

impl From<Flaw> for LinkError {
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

/// Decodes the first frame of `bytes`; `frame_bytes_max` bounds its length field (kind and payload, bytes), and `own` is
/// the node that reads.
///
/// Errors: see [`LinkError`]; none can be recovered from, since the next frame's start is not trusted any more.
#[inline]
pub fn decode(bytes: &[u8], frame_bytes_max: usize, own: NodeId) -> Result<Decoded<LinkFrame>, LinkError> {
    match decode_envelope(bytes, frame_bytes_max)? {
        Decoded::NeedMore { wanted } => Ok(Decoded::NeedMore { wanted }),
        Decoded::Frame { frame: Envelope { kind, payload }, used } => {
            Ok(Decoded::Frame { frame: decode_payload(kind, payload, own)?, used })
        }
    }
}

#[inline]
fn decode_payload(kind: u8, payload: &[u8], own: NodeId) -> Result<LinkFrame, LinkError> {
    let parcel = match kind {
        kind::REGISTER..=kind::COMPARED => to_core::decode_core(kind, payload)?,
        kind::REFRESH..=kind::CLAIMS => to_core::decode_cores(kind, payload)?,
        kind::OUTNUMBERED..=kind::LEASE_ENDED => to_edge::decode_edge(kind, payload, own)?,
        _ => return decode_link(kind, payload),
    };
    Ok(LinkFrame::Peer(parcel))
}

fn decode_link(kind: u8, payload: &[u8]) -> Result<LinkFrame, LinkError> {
    match kind {
        kind::HELLO => Hello::decode(payload).map(|hello| LinkFrame::Hello(Box::new(hello))),
        kind::ACCEPT => Accept::decode(payload).map(|accept| LinkFrame::Accept(Box::new(accept))),
        kind::PROOF => Proof::decode(payload).map(LinkFrame::Proof),
        kind::REFUSE => Refuse::decode(payload).map(LinkFrame::Refuse),
        kind::INTRODUCE => Introduction::decode(payload).map(LinkFrame::Introduce),
        kind::PING => decode_token("PING", payload).map(|token| LinkFrame::Ping { token }),
        kind::PONG => decode_token("PONG", payload).map(|token| LinkFrame::Pong { token }),
        kind::WHOIS => {
            let mut reader = Reader::new("WHOIS", payload);
            let node = reader.node("node")?;
            reader.end().map(|()| LinkFrame::Whois { node })
        }
        kind::LEAVING => Reader::new("LEAVING", payload).end().map(|()| LinkFrame::Leaving),
        kind if kind >= kind::OPTIONAL => Ok(LinkFrame::Unknown { kind }),
        kind => Err(LinkError::UnknownKind(kind)),
    }
}

/// Appends the frame's bytes to `out`; nothing else in `out` changes. A run may become several frames, and none if it
/// is empty. `Unknown` is written without a payload.
///
/// Panics if a text has more than 255 bytes, or a message names two slots: what is wrong must not reach the wire.
#[inline]
pub fn encode(frame: &LinkFrame, out: &mut Vec<u8>) {
    match frame {
        LinkFrame::Peer(Parcel::Core { slot, message }) => to_core::encode_core(*slot, message, out),
        LinkFrame::Peer(Parcel::Cores { message }) => to_core::encode_cores(message, out),
        LinkFrame::Peer(Parcel::Edge { executor, message }) => to_edge::encode_edge(*executor, message, out),
        LinkFrame::Hello(hello) => hello.encode(out),
        LinkFrame::Accept(accept) => accept.encode(out),
        LinkFrame::Proof(proof) => Writer::new(out, kind::PROOF).put(&proof.proof).end(),
        LinkFrame::Refuse(refuse) => refuse.encode(out),
        LinkFrame::Ping { token } => Writer::new(out, kind::PING).u64(*token).end(),
        LinkFrame::Pong { token } => Writer::new(out, kind::PONG).u64(*token).end(),
        LinkFrame::Whois { node } => Writer::new(out, kind::WHOIS).u32(node.0).end(),
        LinkFrame::Introduce(introduction) => introduction.encode(out),
        LinkFrame::Leaving => Writer::new(out, kind::LEAVING).end(),
        LinkFrame::Unknown { kind } => Writer::new(out, *kind).end(),
    }
}

/// [`encode`] for what a machine wants sent; the node that it names is the link's other end.
#[inline]
pub fn encode_peer(peer: &Peer, out: &mut Vec<u8>) {
    match peer {
        Peer::Core { slot, message, .. } => to_core::encode_core(*slot, message, out),
        Peer::Cores { message, .. } => to_core::encode_cores(message, out),
        Peer::Edge { at: Location { executor, .. }, message } => to_edge::encode_edge(*executor, message, out),
    }
}
