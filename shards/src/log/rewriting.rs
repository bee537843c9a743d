//! Gives up the oldest segment: reads it in slices and offers what nobody trimmed to the core, which appends it again.
//!
//! A pass ends when every offered record was trimmed, which the core does when the copy is flushed: so a segment is
//! removed only after that. A pass that makes no progress is started again; trimmed records are not offered twice.

//! Gives up the oldest segment: reads it in slices and offers what nobody trimmed to the core, which appends it again.
//!
//! A pass ends when every offered record was trimmed, which the core does when the copy is flushed: so a segment is
//! removed only after that. A pass that makes no progress is started again; trimmed records are not offered twice.

use super::place::pack;
use super::recovery::to_record;
use super::segment::Segment;
use super::{Damage, LogAction, RELOCATING};
use crate::id::{Key, UserId};
use crate::record::{ALIGN_BYTES, At, HEADER_BYTES, Invalid, decode, next_header};
use crate::storage::{Place, Record, StorageEvent};

/// Bytes per slice: a few hundred records, so that one slice is one turn's work.
const SLICE_BYTES: u32 = 64 << 10;
/// A pass without progress is started again after this time, in ms.
const STALL_MS: u64 = 5_000;

/// The segment that is being given up.
#[derive(Debug)]
pub(crate) struct GivingUp {
    pub segment: u32,
    salt: u32,
    /// Everything before this was offered.
    offset: u32,
    /// Bytes of the next slice.
    slice: u32,
    /// Offered in this pass and not trimmed.
    waiting: u32,
    is_reading: bool,
    has_failed: bool,
    progress_ms: u64,
    offered: Vec<(UserId, Key)>,
}

impl GivingUp {
    pub fn start(segment: u32, salt: u32, now_ms: u64) -> Self {
        GivingUp {
            segment,
            salt,
            offset: 0,
            slice: SLICE_BYTES,
            waiting: 0,
            is_reading: false,
            has_failed: false,
            progress_ms: now_ms,
            offered: Vec::new(),
        }
    }

    /// Whether this append is a copy of a record that was offered.
    pub fn is_copy(&self, record: &Record) -> bool {
        let Record::Entry(entry) = record else { return false };
        self.offered.iter().any(|(user, key)| *user == entry.user && *key == entry.key)
    }

    pub fn on_trim(&mut self, offset: u32, now_ms: u64) {
        if offset < self.offset {
            self.waiting = self.waiting.saturating_sub(1);
            self.progress_ms = now_ms;
        }
    }

    /// Whether nothing of the segment is needed.
    pub fn is_done(&self, segment: &Segment) -> bool {
        !self.is_waiting() && self.offset >= segment.used
    }

    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    fn is_waiting(&self) -> bool {
        self.waiting > 0 || self.is_reading || self.has_failed
    }

    /// Asks for the next slice when the last one is settled.
    pub fn go_on(&mut self, now_ms: u64, segment: &Segment, out: &mut Vec<LogAction>) {
        if !self.is_reading && self.is_waiting() && now_ms >= self.progress_ms + STALL_MS {
            *self = GivingUp::start(self.segment, self.salt, now_ms);
        }
        if self.is_waiting() || self.offset >= segment.used {
            return;
        }
        self.is_reading = true;
        self.offered.clear();
        let bytes = self.slice_bytes(segment);
        out.push(LogAction::Read { segment: self.segment, offset: self.offset, bytes, token: RELOCATING });
    }

    fn slice_bytes(&self, segment: &Segment) -> u32 {
        self.slice.min(segment.used - self.offset)
    }

    /// A slice could not be read: the segment stays, and is tried again later.
    pub fn on_failed(&mut self, now_ms: u64, segment: &Segment, out: &mut Vec<LogAction>) {
        out.push(self.damage(self.offset, self.slice_bytes(segment)));
        self.is_reading = false;
        self.has_failed = true;
        self.progress_ms = now_ms;
    }

    /// Offers the records of a slice.
    pub fn on_slice(&mut self, now_ms: u64, bytes: &[u8], segment: &Segment, out: &mut Vec<LogAction>) {
        if bytes.len() < self.slice_bytes(segment) as usize {
            return self.on_failed(now_ms, segment, out);
        }
        self.is_reading = false;
        self.progress_ms = now_ms;
        self.slice = SLICE_BYTES;
        let base = self.offset;
        let is_last = base + bytes.len() as u32 >= segment.used;
        let mut here = 0;
        while here < bytes.len() {
            let at = At { salt: self.salt, segment: self.segment, offset: base + here as u32 };
            match decode(&bytes[here..], at) {
                Ok(decoded) => {
                    here += decoded.bytes;
                    let wanted = (!segment.is_trimmed(at.offset)).then(|| to_record(&decoded.content)).flatten();
                    if let Some(record) = wanted {
                        self.offer(record, pack(self.segment, at.offset, decoded.bytes as u32), out);
                    }
                }
                Err(Invalid::Short(whole)) if !is_last => {
                    // The next slice starts with this record and holds all of it.
                    self.slice = SLICE_BYTES.max(whole as u32);
                    break;
                }
                Err(reason) => {
                    let next = resume(bytes, here, reason, At { offset: base, ..at });
                    out.push(self.damage(at.offset, (next - here) as u32));
                    here = next;
                }
            }
        }
        self.offset = base + here as u32;
    }

    fn offer(&mut self, record: Record, place: Place, out: &mut Vec<LogAction>) {
        if let Record::Entry(entry) = &record {
            self.offered.push((entry.user.clone(), entry.key.clone()));
        }
        self.waiting += 1;
        out.push(LogAction::Tell(StorageEvent::Relocate { record, place }));
    }

    fn damage(&self, offset: u32, bytes: u32) -> LogAction {
        LogAction::Report(Damage::Unreadable { segment: self.segment, offset, bytes })
    }
}

/// Where to go on behind what is no record. The last bytes of a slice are too few for a header: the next slice starts
/// with them.
fn resume(bytes: &[u8], here: usize, reason: Invalid, base: At) -> usize {
    if let Invalid::Payload(whole) = reason {
        return here + whole;
    }
    let end = bytes.len().saturating_sub(HEADER_BYTES).next_multiple_of(ALIGN_BYTES);
    next_header(bytes, here + ALIGN_BYTES, base).unwrap_or(end.max(here + ALIGN_BYTES))
}
