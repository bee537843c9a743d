//! Frames to the edge half of one executor (`docs/peer-protocol.md`, section 5). Each starts with the executor and fields
//! of known size; then come names, then bodies. A run of messages of one pair writes its sender once.

use super::fields::{ADDRESS_BYTES, Block, GRANT_BYTES, HEAD_BYTES, ID_BYTES, LOGIN_BYTES, Reader};
use super::{LinkError, Parcel, RUN_BYTES_MAX, kind};
use crate::frame::{Code, HEADER_BYTES, STATE_OFFLINE, STATE_ONLINE, STATE_UNKNOWN};
use crate::id::{ExecutorId, Grant, Key, Login, MessageId, NodeId, ReturnAddress, Sequence, UserId};
use crate::peer::{Asker, Message, PresenceState, Refusal, ToEdge};
use std::sync::Arc;

/// Length, kind and executor.
const EDGE_HEAD_BYTES: usize = HEAD_BYTES + 2;
/// The same, and the return address that many frames have next.
const ADDRESSED_BYTES: usize = EDGE_HEAD_BYTES + ADDRESS_BYTES;
const DIRECT_HEAD_BYTES: usize = EDGE_HEAD_BYTES + GRANT_BYTES + ADDRESS_BYTES + 2 + 1;
/// Id, time and the body's length, in front of each body of a DIRECT.
const MESSAGE_BYTES: usize = ID_BYTES + 8 + 4;

/// One match of everything there is, so that a new message is not forgotten here.
#[inline]
pub(super) fn encode_edge(executor: ExecutorId, message: &ToEdge, out: &mut Vec<u8>) {
    match message {
        ToEdge::Direct { to, messages, origin } => encode_direct((executor, *to), messages, *origin, out),
        ToEdge::Deliver { to, core, drain, message } => encode_deliver((executor, *to), (*core, *drain), message, out),
        ToEdge::Delivered { to, last, grant } => encode_delivered((executor, *to), *last, grant.as_deref(), out),
        ToEdge::Stored { to, last, newest, copies } => {
            Block::<{ ADDRESSED_BYTES + 8 + ID_BYTES + 1 }>::head(kind::STORED)
                .u16(executor.0)
                .address(*to)
                .u64(last.0)
                .id(*newest)
                .u8(*copies)
                .frame(out, []);
        }
        ToEdge::Bounce { to } => {
            Block::<ADDRESSED_BYTES>::head(kind::BOUNCE).u16(executor.0).address(*to).frame(out, []);
        }
        ToEdge::Refused { to, refusal } => {
            Block::<{ ADDRESSED_BYTES + 2 + 4 }>::head(kind::REFUSED)
                .u16(executor.0)
                .address(*to)
                .u16(refusal.code.number())
                .u32(refusal.wait_ms)
                .frame(out, []);
        }
        ToEdge::Outnumbered { to, core, known } => {
            Block::<{ EDGE_HEAD_BYTES + LOGIN_BYTES + 4 + LOGIN_BYTES }>::head(kind::OUTNUMBERED)
                .u16(executor.0)
                .login(*to)
                .u32(core.0)
                .login(*known)
                .frame(out, []);
        }
        ToEdge::Replaced { to } => {
            Block::<{ EDGE_HEAD_BYTES + LOGIN_BYTES }>::head(kind::REPLACED).u16(executor.0).login(*to).frame(out, []);
        }
        ToEdge::Presence { to, user, state } => encode_presence((executor, *to), user, *state, out),
        ToEdge::LeaseEnded { core } => {
            Block::<{ EDGE_HEAD_BYTES + 4 }>::head(kind::LEASE_ENDED).u16(executor.0).u32(core.0).frame(out, []);
        }
    }
}

#[inline]
fn encode_deliver(
    (executor, to): (ExecutorId, Login),
    (core, drain): (NodeId, u32),
    message: &Message,
    out: &mut Vec<u8>,
) {
    let sender = &message.key.sender;
    Block::<{ EDGE_HEAD_BYTES + LOGIN_BYTES + 4 + 4 + ID_BYTES + 8 + 1 }>::head(kind::DELIVER)
        .u16(executor.0)
        .login(to)
        .u32(core.0)
        .u32(drain)
        .id(message.key.id)
        .u64(message.sent_at)
        .user_bytes(sender)
        .frame(out, [sender.as_bytes(), &message.body]);
}

fn encode_presence((executor, to): (ExecutorId, Asker), user: &UserId, state: PresenceState, out: &mut Vec<u8>) {
    let (state, last_seen) = state_bytes(state);
    Block::<{ EDGE_HEAD_BYTES + LOGIN_BYTES + 4 + 1 + 8 + 1 }>::head(kind::PRESENCE)
        .u16(executor.0)
        .login(to.login)
        .u32(to.request)
        .u8(state)
        .u64(last_seen)
        .user_bytes(user)
        .frame(out, [user.as_bytes()]);
}

/// As many frames as [`RUN_BYTES_MAX`] asks for, none for no message.
#[inline]
fn encode_direct(to: (ExecutorId, Grant), mut messages: &[Message], mut origin: ReturnAddress, out: &mut Vec<u8>) {
    while let Some(first) = messages.first() {
        let count = encode_run(to, first, (messages, origin), out);
        messages = &messages[count..];
        origin.sequence = Sequence(origin.sequence.0.wrapping_add(count as u64));
    }
}

/// One frame, with as many messages of the run as fit; returns how many.
#[inline]
fn encode_run(
    (executor, to): (ExecutorId, Grant),
    first: &Message,
    (messages, origin): (&[Message], ReturnAddress),
    out: &mut Vec<u8>,
) -> usize {
    let sender = &first.key.sender;
    let mut bytes = DIRECT_HEAD_BYTES + sender.as_bytes().len() + MESSAGE_BYTES + first.body.len();
    let fits = |message: &&Message| {
        let more = bytes + MESSAGE_BYTES + message.body.len();
        let is_next = more <= HEADER_BYTES + RUN_BYTES_MAX && message.key.sender == *sender;
        bytes = if is_next { more } else { bytes };
        is_next
    };
    let count = 1 + messages[1..].iter().take_while(fits).count();
    out.reserve(bytes);
    Block::<DIRECT_HEAD_BYTES>::head(kind::DIRECT)
        .u16(executor.0)
        .grant(to)
        .address(origin)
        .u16(count as u16)
        .user_bytes(sender)
        .length(bytes)
        .append(out);
    out.extend_from_slice(sender.as_bytes());
    for message in &messages[..count] {
        let body = &message.body;
        Block::<MESSAGE_BYTES>::new().id(message.key.id).u64(message.sent_at).u32(body.len() as u32).append(out);
        out.extend_from_slice(body);
    }
    count
}

#[inline]
fn encode_delivered(
    (executor, to): (ExecutorId, ReturnAddress),
    last: Sequence,
    grant: Option<&(MessageId, Grant)>,
    out: &mut Vec<u8>,
) {
    let mut head = Block::<{ ADDRESSED_BYTES + 8 + 1 }>::head(kind::DELIVERED);
    head.u16(executor.0).address(to).u64(last.0).u8(grant.is_some().into());
    match grant {
        Some((newest, grant)) => {
            let mut tail = Block::<{ ID_BYTES + GRANT_BYTES }>::new();
            head.frame(out, [tail.id(*newest).grant(*grant).bytes()]);
        }
        None => head.frame(out, []),
    }
}

/// State and time of a presence, numbered as for clients.
fn state_bytes(state: PresenceState) -> (u8, u64) {
    match state {
        PresenceState::Offline { last_seen } => (STATE_OFFLINE, last_seen),
        PresenceState::Online => (STATE_ONLINE, 0),
        PresenceState::Unknown => (STATE_UNKNOWN, 0),
    }
}

#[inline]
pub(super) fn decode_edge(kind: u8, payload: &[u8], own: NodeId) -> Result<Parcel, LinkError> {
    let (executor, message) = match kind {
        kind::DIRECT => decode_direct(payload, own)?,
        kind::DELIVER => decode_deliver(payload, own)?,
        kind::DELIVERED => decode_delivered(payload, own)?,
        kind::STORED => {
            let (executor, to, mut reader) = open("STORED", payload, own)?;
            let (last, newest) = (Sequence(reader.u64("last")?), reader.id("newest")?);
            let copies = reader.u8("copies")?;
            reader.end()?;
            (executor, ToEdge::Stored { to, last, newest, copies })
        }
        kind::BOUNCE => {
            let (executor, to, reader) = open("BOUNCE", payload, own)?;
            reader.end()?;
            (executor, ToEdge::Bounce { to })
        }
        kind => decode_rare(kind, payload, own)?,
    };
    Ok(Parcel::Edge { executor, message })
}

/// Executor and return address, where many frames start.
#[inline]
fn open<'a>(
    frame: &'static str,
    payload: &'a [u8],
    own: NodeId,
) -> Result<(ExecutorId, ReturnAddress, Reader<'a>), LinkError> {
    let mut reader = Reader::new(frame, payload);
    let (executor, to) = (reader.executor("executor")?, reader.address("to")?);
    reader.own(to.login, own)?;
    Ok((executor, to, reader))
}

#[inline]
fn decode_direct(payload: &[u8], own: NodeId) -> Result<(ExecutorId, ToEdge), LinkError> {
    let mut reader = Reader::new("DIRECT", payload);
    let (executor, to, origin) = (reader.executor("executor")?, reader.grant("to")?, reader.address("origin")?);
    reader.own(to.login, own)?;
    let (count, sender) = (reader.u16("messages")?, reader.user("sender")?);
    if count == 0 {
        return Err(reader.bad("messages", 0));
    }
    if reader.left() < usize::from(count) * MESSAGE_BYTES {
        return Err(LinkError::Truncated { frame: "DIRECT", field: "messages" });
    }
    let mut messages = Vec::with_capacity(count.into());
    for _ in 1..count {
        let (id, sent_at, body) = decode_message(&mut reader)?;
        messages.push(Message { key: Key { id, sender: sender.clone() }, sent_at, body: Arc::from(body) });
    }
    let (id, sent_at, body) = decode_message(&mut reader)?;
    messages.push(Message { key: Key { id, sender }, sent_at, body: Arc::from(body) });
    reader.end().map(|()| (executor, ToEdge::Direct { to, messages, origin }))
}

#[inline]
fn decode_message<'a>(reader: &mut Reader<'a>) -> Result<(MessageId, u64, &'a [u8]), LinkError> {
    let (id, sent_at, bytes) = (reader.id("id")?, reader.u64("sent_at")?, reader.u32("body")?);
    Ok((id, sent_at, reader.bytes(bytes as usize, "body")?))
}

#[inline]
fn decode_deliver(payload: &[u8], own: NodeId) -> Result<(ExecutorId, ToEdge), LinkError> {
    let mut reader = Reader::new("DELIVER", payload);
    let (executor, to) = (reader.executor("executor")?, reader.login("to")?);
    reader.own(to, own)?;
    let (core, drain) = (reader.node("core")?, reader.u32("drain")?);
    let (id, sent_at) = (reader.id("id")?, reader.u64("sent_at")?);
    let message = reader.message(id, sent_at)?;
    Ok((executor, ToEdge::Deliver { to, core, drain, message }))
}

#[inline]
fn decode_delivered(payload: &[u8], own: NodeId) -> Result<(ExecutorId, ToEdge), LinkError> {
    let (executor, to, mut reader) = open("DELIVERED", payload, own)?;
    let last = Sequence(reader.u64("last")?);
    let grant = match reader.flag("grant")? {
        true => Some(Box::new((reader.id("newest")?, reader.grant("grant")?))),
        false => None,
    };
    reader.end().map(|()| (executor, ToEdge::Delivered { to, last, grant }))
}

fn decode_rare(kind: u8, payload: &[u8], own: NodeId) -> Result<(ExecutorId, ToEdge), LinkError> {
    match kind {
        kind::OUTNUMBERED => {
            let mut reader = Reader::new("OUTNUMBERED", payload);
            let (executor, to) = (reader.executor("executor")?, reader.login("to")?);
            reader.own(to, own)?;
            let (core, known) = (reader.node("core")?, reader.login("known")?);
            reader.end().map(|()| (executor, ToEdge::Outnumbered { to, core, known }))
        }
        kind::REPLACED => {
            let mut reader = Reader::new("REPLACED", payload);
            let (executor, to) = (reader.executor("executor")?, reader.login("to")?);
            reader.own(to, own)?;
            reader.end().map(|()| (executor, ToEdge::Replaced { to }))
        }
        kind::REFUSED => {
            let (executor, to, mut reader) = open("REFUSED", payload, own)?;
            let (number, wait_ms) = (reader.u16("code")?, reader.u32("wait_ms")?);
            let code = Code::from_number(number).ok_or_else(|| reader.bad("code", number.into()))?;
            reader.end().map(|()| (executor, ToEdge::Refused { to, refusal: Refusal { code, wait_ms } }))
        }
        kind::PRESENCE => decode_presence(payload, own),
        kind::LEASE_ENDED => {
            let mut reader = Reader::new("LEASE_ENDED", payload);
            let (executor, core) = (reader.executor("executor")?, reader.node("core")?);
            reader.end().map(|()| (executor, ToEdge::LeaseEnded { core }))
        }
        kind => Err(LinkError::UnknownKind(kind)),
    }
}

fn decode_presence(payload: &[u8], own: NodeId) -> Result<(ExecutorId, ToEdge), LinkError> {
    let mut reader = Reader::new("PRESENCE", payload);
    let (executor, login) = (reader.executor("executor")?, reader.login("to")?);
    reader.own(login, own)?;
    let to = Asker { login, request: reader.u32("request")? };
    let state = match (reader.u8("state")?, reader.u64("last_seen")?) {
        (STATE_OFFLINE, last_seen) => PresenceState::Offline { last_seen },
        (STATE_ONLINE, 0) => PresenceState::Online,
        (STATE_UNKNOWN, 0) => PresenceState::Unknown,
        (STATE_ONLINE | STATE_UNKNOWN, last_seen) => return Err(reader.bad("last_seen", last_seen)),
        (state, _) => return Err(reader.bad("state", state.into())),
    };
    let user = reader.user("user")?;
    reader.end().map(|()| (executor, ToEdge::Presence { to, user, state }))
}
