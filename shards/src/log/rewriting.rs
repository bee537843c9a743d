//! Gives up the oldest segment: reads it in slices and offers what nobody trimmed to the core, which appends it again.
//!
//! A pass ends when every offered record was trimmed, which the core does when the copy is flushed: so a segment is
//! removed only after that. A pass that makes no progress is started again; trimmed records are not offered twice.

use std::collections::VecDeque;

use super::segment::Segment;
use super::{Damage, LogAction, LogConfig, RELOCATING};
use crate::id::{Key, UserId};
use crate::log::place::pack;
use crate::log::recovery::to_record;
use crate::record::{At, COMMIT_BYTES, Invalid, decode, next_valid};
use crate::storage::{Record, StorageEvent};

/// Bytes per slice: a few hundred records, so that one slice is one turn's work.
const SLICE_BYTES: u32 = 64 << 10;
/// A pass without progress is started again after this time, in ms.
const STALL_MS: u64 = 5_000;

/// The segment that is being given up.
#[derive(Debug)]
pub(crate) struct GivingUp {
    pub segment: u32,
    /// Everything before this was offered.
    offset: u32,
    /// Bytes of the next slice.
    slice: u32,
    /// Offered in this pass and not trimmed.
    waiting: u32,
    is_reading: bool,
    progress_ms: u64,
    offered: VecDeque<(UserId, Key)>,
}

impl GivingUp {
    pub fn start(segment: u32, now_ms: u64) -> Self {
        GivingUp {
            segment,
            offset: 0,
            slice: SLICE_BYTES,
            waiting: 0,
            is_reading: false,
            progress_ms: now_ms,
            offered: VecDeque::new(),
        }
    }

    /// Whether this append is a copy of a record that was offered.
    pub fn is_copy(&mut self, record: &Record) -> bool {
        let Record::Entry(entry) = record else { return false };
        let found = self.offered.iter().position(|(user, key)| *user == entry.user && *key == entry.key);
        if let Some(found) = found {
            self.offered.drain(..=found);
        }
        found.is_some()
    }

    pub fn on_trim(&mut self, offset: u32, now_ms: u64) {
        if offset < self.offset {
            self.waiting = self.waiting.saturating_sub(1);
            self.progress_ms = now_ms;
        }
    }

    /// Whether nothing of the segment is needed.
    pub fn is_done(&self, segment: &Segment) -> bool {
        self.waiting == 0 && !self.is_reading && self.offset >= segment.used
    }

    /// Asks for the next slice when the last one is settled.
    pub fn go_on(&mut self, now_ms: u64, segment: &Segment, out: &mut Vec<LogAction>) {
        if self.waiting > 0 && now_ms >= self.progress_ms + STALL_MS {
            *self = GivingUp::start(self.segment, now_ms);
        }
        if self.is_reading || self.waiting > 0 || self.offset >= segment.used {
            return;
        }
        self.is_reading = true;
        self.offered.clear();
        let bytes = self.slice.min(segment.used - self.offset);
        out.push(LogAction::Read { segment: self.segment, offset: self.offset, bytes, token: RELOCATING });
    }

    /// A slice could not be read: the pass stalls and is started again.
    pub fn on_failed(&mut self, now_ms: u64) {
        *self = GivingUp::start(self.segment, now_ms);
    }

    /// Offers the records of a slice.
    pub fn on_slice(&mut self, now_ms: u64, bytes: &[u8], scene: (&LogConfig, &Segment), out: &mut Vec<LogAction>) {
        let (config, segment) = scene;
        self.is_reading = false;
        self.progress_ms = now_ms;
        self.slice = SLICE_BYTES;
        let base = self.offset;
        let mut here = 0;
        while here < bytes.len() {
            let offset = base + here as u32;
            let at = At { salt: config.salt, segment: self.segment, offset };
            match decode(&bytes[here..], at) {
                Ok(decoded) => {
                    here += decoded.bytes;
                    let place = pack(self.segment, offset, decoded.bytes as u32);
                    let wanted = (!segment.is_trimmed(offset)).then(|| to_record(&decoded.content)).flatten();
                    if let Some(record) = wanted {
                        self.offer(record, place, out);
                    }
                }
                Err(Invalid::Short(whole)) if offset + (bytes.len() - here) as u32 != segment.used => {
                    if here == 0 {
                        self.slice = whole as u32;
                    }
                    break;
                }
                Err(reason) => {
                    let next = resume(bytes, here, reason, at);
                    out.push(damage(at, next - here));
                    here = next;
                }
            }
        }
        self.offset = base + here as u32;
    }

    fn offer(&mut self, record: Record, place: crate::storage::Place, out: &mut Vec<LogAction>) {
        if let Record::Entry(entry) = &record {
            self.offered.push_back((entry.user.clone(), entry.key.clone()));
        }
        self.waiting += 1;
        out.push(LogAction::Tell(StorageEvent::Relocate { record, place }));
    }
}

/// Where to go on in a slice behind what is no record. Near its end the search leaves bytes for the next slice.
fn resume(bytes: &[u8], here: usize, reason: Invalid, at: At) -> usize {
    if let Invalid::Payload(whole) = reason {
        return here + whole;
    }
    let base = at.offset - here as u32;
    let searched = At { offset: base, ..at };
    let found = next_valid_at(bytes, here + 8, searched);
    found.unwrap_or(bytes.len().max(here + COMMIT_BYTES))
}

fn next_valid_at(bytes: &[u8], from: usize, base: At) -> Option<usize> {
    let mut here = from;
    while here < bytes.len() {
        let at = At { offset: base.offset + here as u32, ..base };
        match decode(&bytes[here..], at) {
            Ok(_) | Err(Invalid::Payload(_)) => return Some(here),
            Err(Invalid::Short(whole)) if whole > crate::record::HEADER_BYTES => return Some(here),
            Err(_) => here += crate::record::ALIGN_BYTES,
        }
    }
    let _ = next_valid;
    None
}

fn damage(at: At, bytes: usize) -> LogAction {
    LogAction::Report(Damage::Unreadable { segment: at.segment, offset: at.offset, bytes: bytes as u32 })
}
