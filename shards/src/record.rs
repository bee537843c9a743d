//! The records of the embedded log: how they are written, and a decoder that takes any bytes without a panic.
//!
//! The format, version 1. A segment file is a row of records, each at a multiple of 8 bytes; after the last there are
//! zeros or the file ends. Numbers are little endian, message ids are their 16 bytes in network order.
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | CRC32C of (salt u32, segment u32, offset u32, bytes 4–19): binds the header to its place and its log |
//! | 4–7 | CRC32C of the payload |
//! | 8–11 | bytes of the payload, without the padding |
//! | 12 | kind: 1 entry, 2 tombstone, 3 complete, 4 commit |
//! | 13 | bytes of the user id (0 without one) |
//! | 14 | bytes of the sender's id (0 without one) |
//! | 15 | zero |
//! | 16–19 | slot of the user (0 without one) |
//! | 20– | the payload, then zeros up to a multiple of 8 |
//!
//! Payloads. Entry: id, sent_at u64, user, sender, body. Tombstone: id, taken_at u64, user, sender. Complete: num_shards
//! u32, shard u32, then up to eight node ids u32 (of old it was eight zeros, which names no shard). Commit: segment u32, offset u32, zero u32: everything before this position was flushed when the batch that
//! starts with this record was written.
//!
//! The salt is chosen once per data directory. A sender does not know it, so that no body can hold bytes that a search
//! behind damage would take for a record.

use crate::id::{Key, MessageId, NodeId, Slot, USER_BYTES_MAX};
use crate::placement::REPLICAS_MAX;
use crate::slot::slot_of;
use crate::storage::{Entry, Mark, Record};

/// Records start at multiples of this.
pub const ALIGN_BYTES: usize = 8;
/// What is in front of a payload.
pub const HEADER_BYTES: usize = 20;
/// No record is shorter, padding included.
pub const RECORD_BYTES_MIN: usize = 32;
/// A commit marker, padding included.
pub const COMMIT_BYTES: usize = 32;

const ENTRY: u8 = 1;
const TOMBSTONE: u8 = 2;
const COMPLETE: u8 = 3;
const COMMIT: u8 = 4;
/// Id and time.
const FIXED_BYTES: usize = 24;

/// Where a record is, as far as its checksum is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Of the data directory.
    pub salt: u32,
    /// The number of the segment.
    pub segment: u32,
    /// The offset in the segment, in bytes; a multiple of 8.
    pub offset: u32,
}

/// A position in a log. Orders by segment, then by offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The number of the segment.
    pub segment: u32,
    /// The offset in it, in bytes.
    pub offset: u32,
}

/// What a record says. Names and body are borrowed and not checked further than their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// A message.
    Entry {
        /// The recipient.
        user: &'a [u8],
        /// The sender.
        sender: &'a [u8],
        /// The message.
        id: MessageId,
        /// In ms since the Unix epoch.
        sent_at: u64,
        /// The body.
        body: &'a [u8],
    },
    /// A message that was taken.
    Tombstone {
        /// The recipient.
        user: &'a [u8],
        /// The sender.
        sender: &'a [u8],
        /// The message.
        id: MessageId,
        /// In ms since the Unix epoch.
        taken_at: u64,
    },
    /// The mark of a shard.
    Complete(MarkBytes<'a>),
    /// The start of a batch: what was flushed before it.
    Commit(Position),
}

/// A [`Mark`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkBytes<'a>(&'a [u8]);

impl MarkBytes<'_> {
    /// What it says.
    pub fn to_mark(self) -> Mark {
        let replicas = self.0[8..].chunks_exact(4).map(|node| NodeId(u32_at(node, 0))).collect();
        Mark { num_shards: u32_at(self.0, 0), shard: u32_at(self.0, 4), replicas }
    }
}

/// A valid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// What it says.
    pub content: Content<'a>,
    /// The slot of its user.
    pub slot: Slot,
    /// Its bytes with padding: the next record is this much further.
    pub bytes: usize,
}

/// Why there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// The header is zeros: nothing was written here, or it was lost.
    Empty,
    /// The bytes end before the record. With that many it can be decoded.
    Short(usize),
    /// The header is not one that was written here.
    Header,
    /// The header is right and the payload is not; the next record is that many bytes further.
    Payload(usize),
}

/// The bytes of a record with padding.
pub fn record_bytes(record: &Record) -> usize {
    let payload = match record {
        Record::Entry(entry) => FIXED_BYTES + names_bytes(entry) + entry.body.len(),
        Record::Tombstone { user, key, .. } => FIXED_BYTES + user.as_bytes().len() + key.sender.as_bytes().len(),
        Record::Complete(mark) => 8 + 4 * mark.replicas.len(),
    };
    padded(HEADER_BYTES + payload)
}

/// The bytes of the largest record with a body of that size.
pub fn record_bytes_max(body_bytes_max: u32) -> usize {
    padded(HEADER_BYTES + FIXED_BYTES + 2 * USER_BYTES_MAX + body_bytes_max as usize)
}

/// Appends a record.
pub fn encode(record: &Record, at: At, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    match record {
        Record::Entry(entry) => {
            put_key(&entry.key, entry.sent_at, out);
            put_names(entry.user.as_bytes(), entry.key.sender.as_bytes(), out);
            out.extend_from_slice(&entry.body);
            let head = Head::named(ENTRY, entry.user.as_bytes(), entry.key.sender.as_bytes());
            seal(head, at, &mut out[start..]);
        }
        Record::Tombstone { user, key, taken_at, .. } => {
            put_key(key, *taken_at, out);
            put_names(user.as_bytes(), key.sender.as_bytes(), out);
            let head = Head::named(TOMBSTONE, user.as_bytes(), key.sender.as_bytes());
            seal(head, at, &mut out[start..]);
        }
        Record::Complete(mark) => {
            let numbers = [mark.num_shards, mark.shard].into_iter().chain(mark.replicas.iter().map(|node| node.0));
            numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
            seal(Head::unnamed(COMPLETE), at, &mut out[start..]);
        }
    }
    out.resize(start + padded(out.len() - start), 0);
}

/// Writes a commit marker into exactly [`COMMIT_BYTES`] bytes.
pub fn encode_commit(flushed: Position, at: At, out: &mut [u8]) {
    assert_eq!(out.len(), COMMIT_BYTES);
    out[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&flushed.segment.to_le_bytes());
    out[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&flushed.offset.to_le_bytes());
    out[HEADER_BYTES + 8..].fill(0);
    seal(Head::unnamed(COMMIT), at, out);
}

/// Reads the record at the start of `bytes`.
pub fn decode(bytes: &[u8], at: At) -> Result<Decoded<'_>, Invalid> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        let zeros = bytes.iter().all(|&byte| byte == 0);
        return Err(if zeros { Invalid::Empty } else { Invalid::Short(HEADER_BYTES) });
    };
    if header == &[0; HEADER_BYTES] {
        return Err(Invalid::Empty);
    }
    let head = Head { kind: header[12], user: header[13], sender: header[14], slot: u32_at(header, 16) };
    if !(ENTRY..=COMMIT).contains(&head.kind) || header[15] != 0 || u32_at(header, 0) != header_crc(header, at) {
        return Err(Invalid::Header);
    }
    let payload_bytes = u32_at(header, 8) as usize;
    let whole = padded(HEADER_BYTES + payload_bytes);
    if bytes.len() < HEADER_BYTES + payload_bytes {
        return Err(Invalid::Short(whole));
    }
    let payload = &bytes[HEADER_BYTES..HEADER_BYTES + payload_bytes];
    if crc32c::crc32c(payload) != u32_at(header, 4) {
        return Err(Invalid::Payload(whole));
    }
    let content = content(&head, payload).ok_or(Invalid::Payload(whole))?;
    Ok(Decoded { content, slot: Slot(head.slot), bytes: whole })
}

/// Searches behind damage: the index, at or behind `from`, of the next right header, whatever its payload. `base` is
/// where `bytes` start.
pub fn next_header(bytes: &[u8], from: usize, base: At) -> Option<usize> {
    let mut here = padded(from);
    while here + HEADER_BYTES <= bytes.len() {
        let rest = &bytes[here..];
        // Both checksums of a written record are not zero, and most of what is searched is zeros.
        if rest[..8] != [0; 8] {
            let at = At { offset: base.offset + here as u32, ..base };
            match decode(rest, at) {
                Err(Invalid::Empty | Invalid::Header) => {}
                Ok(_) | Err(Invalid::Short(_) | Invalid::Payload(_)) => return Some(here),
            }
        }
        here += ALIGN_BYTES;
    }
    None
}

/// What the first twenty bytes say besides lengths and checksums.
struct Head {
    kind: u8,
    user: u8,
    sender: u8,
    slot: u32,
}

impl Head {
    fn named(kind: u8, user: &[u8], sender: &[u8]) -> Head {
        Head { kind, user: user.len() as u8, sender: sender.len() as u8, slot: slot_of(user).0 }
    }

    fn unnamed(kind: u8) -> Head {
        Head { kind, user: 0, sender: 0, slot: 0 }
    }
}

fn names_bytes(entry: &Entry) -> usize {
    entry.user.as_bytes().len() + entry.key.sender.as_bytes().len()
}

fn put_key(key: &Key, time: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.id.bytes());
    out.extend_from_slice(&time.to_le_bytes());
}

fn put_names(user: &[u8], sender: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(user);
    out.extend_from_slice(sender);
}

/// Fills in the header of a record whose payload is in place.
fn seal(head: Head, at: At, record: &mut [u8]) {
    let payload_bytes = (record.len() - HEADER_BYTES) as u32;
    let crc = crc32c::crc32c(&record[HEADER_BYTES..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    record[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
    record[12..16].copy_from_slice(&[head.kind, head.user, head.sender, 0]);
    record[16..20].copy_from_slice(&head.slot.to_le_bytes());
    if let Some(header) = record.first_chunk_mut::<HEADER_BYTES>() {
        let crc = header_crc(header, at);
        header[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn header_crc(header: &[u8; HEADER_BYTES], at: At) -> u32 {
    let mut covered = [0; 28];
    covered[..4].copy_from_slice(&at.salt.to_le_bytes());
    covered[4..8].copy_from_slice(&at.segment.to_le_bytes());
    covered[8..12].copy_from_slice(&at.offset.to_le_bytes());
    covered[12..].copy_from_slice(&header[4..]);
    crc32c::crc32c(&covered)
}

fn content<'a>(head: &Head, payload: &'a [u8]) -> Option<Content<'a>> {
    match head.kind {
        COMPLETE => {
            let nodes = payload.len().checked_sub(8)?;
            let is_whole = nodes.is_multiple_of(4) && nodes / 4 <= REPLICAS_MAX;
            return is_whole.then_some(Content::Complete(MarkBytes(payload)));
        }
        COMMIT if payload.len() == COMMIT_BYTES - HEADER_BYTES => {
            return Some(Content::Commit(Position { segment: u32_at(payload, 0), offset: u32_at(payload, 4) }));
        }
        ENTRY | TOMBSTONE => {}
        _ => return None,
    }
    let (id, rest) = payload.split_first_chunk::<16>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let (user, rest) = rest.split_at_checked(usize::from(head.user))?;
    let (sender, body) = rest.split_at_checked(usize::from(head.sender))?;
    let (id, time) = (MessageId::from_bytes(*id), u64::from_le_bytes(*time));
    match head.kind {
        ENTRY => Some(Content::Entry { user, sender, id, sent_at: time, body }),
        _ if body.is_empty() => Some(Content::Tombstone { user, sender, id, taken_at: time }),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN_BYTES)
}
