//! Frames to a core half: from edges, from the cores of other replicas, and to every executor (`docs/peer-protocol.md`,
//! section 5). Each starts with its slot and other fields of known size; then come names, then the body.

use super::fields::{ADDRESS_BYTES, Block, HEAD_BYTES, ID_BYTES, LOGIN_BYTES, Reader, user_bytes};
use super::{LinkError, Parcel, RUN_BYTES_MAX, claims, kind};
use crate::frame::HEADER_BYTES;
use crate::frame::payload::length32;
use crate::id::{Key, Login, ReturnAddress, Slot, UserId};
use crate::peer::{Asker, FromReplica, Message, ToCore, ToCores};

/// Length, kind and slot.
const SLOT_HEAD_BYTES: usize = HEAD_BYTES + 4;
/// Where the count of keys stands in an ACK: behind the slot.
const ACK_COUNT_AT: usize = SLOT_HEAD_BYTES;
/// Length of the sender's name and number of ids, besides the name and the ids themselves, in each group of an ACK.
const GROUP_BYTES: usize = 1 + 2;

/// One match of everything there is, so that a new message is not forgotten here.
#[inline]
pub(super) fn encode_core(slot: Slot, message: &ToCore, out: &mut Vec<u8>) {
    match message {
        ToCore::Append { user, message, origin } => encode_append((slot, user), message, *origin, out),
        ToCore::Ack { user, keys } => encode_ack(slot, user, keys, out),
        ToCore::Register { user, login, phase, drain, again } => {
            Block::<{ SLOT_HEAD_BYTES + LOGIN_BYTES + 4 + 5 + 1 + 1 }>::head(kind::REGISTER)
                .u32(slot.0)
                .login(*login)
                .u32(phase.0)
                .u8(drain.is_some().into())
                .u32(drain.unwrap_or(0))
                .u8((*again).into())
                .user_bytes(user)
                .frame(out, [user.as_bytes()]);
        }
        ToCore::Unregister { user, login } => encode_login(kind::UNREGISTER, (slot, user), *login, out),
        ToCore::PhaseGrown { user, login, phase } => {
            Block::<{ SLOT_HEAD_BYTES + LOGIN_BYTES + 4 + 1 }>::head(kind::PHASE_GROWN)
                .u32(slot.0)
                .login(*login)
                .u32(phase.0)
                .user_bytes(user)
                .frame(out, [user.as_bytes()]);
        }
        ToCore::Lookup { user, asker, watch } => {
            Block::<{ SLOT_HEAD_BYTES + LOGIN_BYTES + 4 + 1 + 1 }>::head(kind::LOOKUP)
                .u32(slot.0)
                .login(asker.login)
                .u32(asker.request)
                .u8((*watch).into())
                .user_bytes(user)
                .frame(out, [user.as_bytes()]);
        }
        ToCore::Unwatch { user, login } => encode_login(kind::UNWATCH, (slot, user), *login, out),
        ToCore::Replica(message) => encode_replica(slot, message, out),
    }
}

#[inline]
fn encode_append((slot, user): (Slot, &UserId), message: &Message, origin: ReturnAddress, out: &mut Vec<u8>) {
    let sender = &message.key.sender;
    Block::<{ SLOT_HEAD_BYTES + ADDRESS_BYTES + ID_BYTES + 8 + 1 }>::head(kind::APPEND)
        .u32(slot.0)
        .address(origin)
        .id(message.key.id)
        .u64(message.sent_at)
        .user_bytes(user)
        .frame(out, [user.as_bytes(), &user_bytes(sender), sender.as_bytes(), &message.body]);
}

/// What concerns one session of a user.
fn encode_login(kind: u8, (slot, user): (Slot, &UserId), login: Login, out: &mut Vec<u8>) {
    Block::<{ SLOT_HEAD_BYTES + LOGIN_BYTES + 1 }>::head(kind)
        .u32(slot.0)
        .login(login)
        .user_bytes(user)
        .frame(out, [user.as_bytes()]);
}

fn encode_replica(slot: Slot, message: &FromReplica, out: &mut Vec<u8>) {
    match message {
        FromReplica::Entry { user, message, flushed } => {
            let sender = &message.key.sender;
            Block::<{ SLOT_HEAD_BYTES + ID_BYTES + 8 + 1 + 1 }>::head(kind::ENTRY)
                .u32(slot.0)
                .id(message.key.id)
                .u64(message.sent_at)
                .u8((*flushed).into())
                .user_bytes(user)
                .frame(out, [user.as_bytes(), &user_bytes(sender), sender.as_bytes(), &message.body]);
        }
        FromReplica::Flushed { user, key, asks } => {
            Block::<{ SLOT_HEAD_BYTES + ID_BYTES + 1 + 1 }>::head(kind::FLUSHED)
                .u32(slot.0)
                .id(key.id)
                .u8((*asks).into())
                .user_bytes(user)
                .frame(out, [user.as_bytes(), &user_bytes(&key.sender), key.sender.as_bytes()]);
        }
        FromReplica::Tombstone { user, key, taken_at } => {
            Block::<{ SLOT_HEAD_BYTES + ID_BYTES + 8 + 1 }>::head(kind::TOMBSTONE)
                .u32(slot.0)
                .id(key.id)
                .u64(*taken_at)
                .user_bytes(user)
                .frame(out, [user.as_bytes(), &user_bytes(&key.sender), key.sender.as_bytes()]);
        }
        FromReplica::Digest { slot: same, digest } => {
            assert_eq!(slot, *same, "slot of a digest");
            Block::<{ SLOT_HEAD_BYTES + 8 }>::head(kind::DIGEST).u32(slot.0).u64(*digest).frame(out, []);
        }
        FromReplica::Want { slot: same } => encode_slot(kind::WANT, slot, *same, out),
        FromReplica::Done { slot: same } => encode_slot(kind::DONE, slot, *same, out),
        FromReplica::NoRoom { slot: same } => encode_slot(kind::NO_ROOM, slot, *same, out),
        FromReplica::Offered { executor, round, shards } => {
            claims::encode_step(kind::OFFERED, slot, (*executor, *round, shards), out);
        }
        FromReplica::Compared { executor, round, shards } => {
            claims::encode_step(kind::COMPARED, slot, (*executor, *round, shards), out);
        }
    }
}

/// The slot is on the wire once.
fn encode_slot(kind: u8, slot: Slot, same: Slot, out: &mut Vec<u8>) {
    assert_eq!(slot, same, "slot of a replica's message");
    Block::<SLOT_HEAD_BYTES>::head(kind).u32(slot.0).frame(out, []);
}

/// As many frames as [`RUN_BYTES_MAX`] asks for, none for no key.
fn encode_ack(slot: Slot, user: &UserId, mut keys: &[Key], out: &mut Vec<u8>) {
    while !keys.is_empty() {
        let start = out.len();
        Block::<{ SLOT_HEAD_BYTES + 2 + 1 }>::head(kind::ACK).u32(slot.0).u16(0).user_bytes(user).append(out);
        out.extend_from_slice(user.as_bytes());
        let mut taken = 0;
        while let Some(count) = encode_group(&keys[taken..], HEADER_BYTES + RUN_BYTES_MAX - (out.len() - start), out) {
            taken += count;
        }
        let length = length32(out.len() - start - HEADER_BYTES);
        out[start..start + HEADER_BYTES].copy_from_slice(&length);
        out[start + ACK_COUNT_AT..start + ACK_COUNT_AT + 2].copy_from_slice(&(taken as u16).to_be_bytes());
        keys = &keys[taken..];
    }
}

/// The ids of one sender, as many as follow each other and fit into `room` bytes. Returns how many; `None` for none.
#[inline]
fn encode_group(keys: &[Key], room: usize, out: &mut Vec<u8>) -> Option<usize> {
    let sender = &keys.first()?.sender;
    let fixed = GROUP_BYTES + sender.as_bytes().len();
    let fitting = room.checked_sub(fixed)? / ID_BYTES;
    let count = keys.iter().take(fitting).take_while(|key| key.sender == *sender).count();
    if count == 0 {
        return None;
    }
    out.reserve(fixed + count * ID_BYTES);
    out.extend_from_slice(&user_bytes(sender));
    out.extend_from_slice(sender.as_bytes());
    out.extend_from_slice(&(count as u16).to_be_bytes());
    keys[..count].iter().for_each(|key| out.extend_from_slice(&key.id.bytes()));
    Some(count)
}

pub(super) fn encode_cores(message: &ToCores, out: &mut Vec<u8>) {
    match message {
        ToCores::Refresh(executor) => {
            Block::<{ HEAD_BYTES + 2 }>::head(kind::REFRESH).u16(executor.0).frame(out, []);
        }
        ToCores::Claims(claims) => claims::encode(claims, out),
    }
}

#[inline]
pub(super) fn decode_core(kind: u8, payload: &[u8]) -> Result<Parcel, LinkError> {
    match kind {
        kind::APPEND => decode_append(payload),
        kind::ACK => decode_ack(payload),
        kind::ENTRY..=kind::COMPARED => decode_replica(kind, payload),
        _ => decode_rare(kind, payload),
    }
}

#[inline]
fn decode_append(payload: &[u8]) -> Result<Parcel, LinkError> {
    let mut reader = Reader::new("APPEND", payload);
    let (slot, origin) = (reader.slot()?, reader.address("origin")?);
    let (id, sent_at) = (reader.id("id")?, reader.u64("sent_at")?);
    let user = reader.user("user")?;
    let message = reader.message(id, sent_at)?;
    Ok(Parcel::Core { slot, message: ToCore::Append { user, message, origin } })
}

fn decode_ack(payload: &[u8]) -> Result<Parcel, LinkError> {
    let mut reader = Reader::new("ACK", payload);
    let (slot, count, user) = (reader.slot()?, reader.u16("keys")?, reader.user("user")?);
    let mut left = usize::from(count);
    if left == 0 {
        return Err(reader.bad("keys", 0));
    }
    if reader.left() < left * ID_BYTES {
        return Err(LinkError::Truncated { frame: "ACK", field: "keys" });
    }
    let mut keys = Vec::with_capacity(left);
    while left > 0 {
        let (sender, ids) = (reader.user("sender")?, reader.u16("ids")?);
        let count = usize::from(ids);
        if count == 0 || count > left {
            return Err(reader.bad("ids", ids.into()));
        }
        for _ in 1..count {
            keys.push(Key { id: reader.id("id")?, sender: sender.clone() });
        }
        keys.push(Key { id: reader.id("id")?, sender });
        left -= count;
    }
    reader.end().map(|()| Parcel::Core { slot, message: ToCore::Ack { user, keys } })
}

fn decode_rare(kind: u8, payload: &[u8]) -> Result<Parcel, LinkError> {
    match kind {
        kind::REGISTER => decode_register(payload),
        kind::LOOKUP => decode_lookup(payload),
        kind::PHASE_GROWN => {
            let mut reader = Reader::new("PHASE_GROWN", payload);
            let (slot, login, phase) = (reader.slot()?, reader.login("login")?, reader.phase("phase")?);
            let user = last_user(reader)?;
            Ok(Parcel::Core { slot, message: ToCore::PhaseGrown { user, login, phase } })
        }
        kind::UNREGISTER => {
            let mut reader = Reader::new("UNREGISTER", payload);
            let (slot, login) = (reader.slot()?, reader.login("login")?);
            let user = last_user(reader)?;
            Ok(Parcel::Core { slot, message: ToCore::Unregister { user, login } })
        }
        kind::UNWATCH => {
            let mut reader = Reader::new("UNWATCH", payload);
            let (slot, login) = (reader.slot()?, reader.login("login")?);
            let user = last_user(reader)?;
            Ok(Parcel::Core { slot, message: ToCore::Unwatch { user, login } })
        }
        kind => Err(LinkError::UnknownKind(kind)),
    }
}

/// The last field of many frames.
fn last_user(mut reader: Reader<'_>) -> Result<UserId, LinkError> {
    let user = reader.user("user")?;
    reader.end().map(|()| user)
}

fn decode_register(payload: &[u8]) -> Result<Parcel, LinkError> {
    let mut reader = Reader::new("REGISTER", payload);
    let (slot, login, phase) = (reader.slot()?, reader.login("login")?, reader.phase("phase")?);
    let (is_draining, number) = (reader.flag("drain")?, reader.u32("drain")?);
    if !is_draining && number != 0 {
        return Err(reader.bad("drain", number.into()));
    }
    let again = reader.flag("again")?;
    let user = last_user(reader)?;
    let drain = is_draining.then_some(number);
    Ok(Parcel::Core { slot, message: ToCore::Register { user, login, phase, drain, again } })
}

fn decode_lookup(payload: &[u8]) -> Result<Parcel, LinkError> {
    let mut reader = Reader::new("LOOKUP", payload);
    let slot = reader.slot()?;
    let asker = Asker { login: reader.login("login")?, request: reader.u32("request")? };
    let watch = reader.flag("watch")?;
    let user = last_user(reader)?;
    Ok(Parcel::Core { slot, message: ToCore::Lookup { user, asker, watch } })
}

fn decode_replica(kind: u8, payload: &[u8]) -> Result<Parcel, LinkError> {
    let (slot, message) = match kind {
        kind::ENTRY => decode_entry(payload)?,
        kind::FLUSHED => {
            let mut reader = Reader::new("FLUSHED", payload);
            let (slot, id, asks) = (reader.slot()?, reader.id("id")?, reader.flag("asks")?);
            let (user, sender) = last_names(reader)?;
            (slot, FromReplica::Flushed { user, key: Key { id, sender }, asks })
        }
        kind::TOMBSTONE => {
            let mut reader = Reader::new("TOMBSTONE", payload);
            let (slot, id, taken_at) = (reader.slot()?, reader.id("id")?, reader.u64("taken_at")?);
            let (user, sender) = last_names(reader)?;
            (slot, FromReplica::Tombstone { user, key: Key { id, sender }, taken_at })
        }
        kind::DIGEST => {
            let mut reader = Reader::new("DIGEST", payload);
            let (slot, digest) = (reader.slot()?, reader.u64("digest")?);
            reader.end()?;
            (slot, FromReplica::Digest { slot, digest })
        }
        kind::WANT => decode_slot("WANT", payload).map(|slot| (slot, FromReplica::Want { slot }))?,
        kind::DONE => decode_slot("DONE", payload).map(|slot| (slot, FromReplica::Done { slot }))?,
        kind::NO_ROOM => decode_slot("NO_ROOM", payload).map(|slot| (slot, FromReplica::NoRoom { slot }))?,
        kind::OFFERED => {
            let (slot, (executor, round, shards)) = claims::decode_step("OFFERED", payload)?;
            (slot, FromReplica::Offered { executor, round, shards })
        }
        kind::COMPARED => {
            let (slot, (executor, round, shards)) = claims::decode_step("COMPARED", payload)?;
            (slot, FromReplica::Compared { executor, round, shards })
        }
        kind => return Err(LinkError::UnknownKind(kind)),
    };
    Ok(Parcel::Core { slot, message: ToCore::Replica(message) })
}

fn decode_entry(payload: &[u8]) -> Result<(Slot, FromReplica), LinkError> {
    let mut reader = Reader::new("ENTRY", payload);
    let (slot, id, sent_at) = (reader.slot()?, reader.id("id")?, reader.u64("sent_at")?);
    let flushed = reader.flag("flushed")?;
    let user = reader.user("user")?;
    let message = reader.message(id, sent_at)?;
    Ok((slot, FromReplica::Entry { user, message, flushed }))
}

/// The last fields of frames about an entry: recipient and sender.
fn last_names(mut reader: Reader<'_>) -> Result<(UserId, UserId), LinkError> {
    let names = (reader.user("user")?, reader.user("sender")?);
    reader.end().map(|()| names)
}

fn decode_slot(frame: &'static str, payload: &[u8]) -> Result<Slot, LinkError> {
    let mut reader = Reader::new(frame, payload);
    let slot = reader.slot()?;
    reader.end().map(|()| slot)
}

pub(super) fn decode_cores(kind: u8, payload: &[u8]) -> Result<Parcel, LinkError> {
    let message = match kind {
        kind::REFRESH => {
            let mut reader = Reader::new("REFRESH", payload);
            let executor = reader.executor("executor")?;
            reader.end().map(|()| ToCores::Refresh(executor))?
        }
        kind::CLAIMS => claims::decode(payload).map(|claims| ToCores::Claims(Box::new(claims)))?,
        kind => return Err(LinkError::UnknownKind(kind)),
    };
    Ok(Parcel::Cores { message })
}
