//! The embedded storage engine: one append log per executor (log-structured storage; Rosenblum and Ousterhout, 1992).
//!
//! Owns segments, batches and what was trimmed; requests and completions of the disk go in, disk actions and answers come
//! out. An append is told only in the handler of its sync. Segments are removed oldest first, when nothing live is in
//! them, so a tombstone outlives what it kills. Files are `src/storage/`'s; the format is [`crate::record`]'s.

mod bounds;
mod event;
mod place;
mod reading;
mod recovery;
mod rewriting;
mod segment;
mod staging;

use std::collections::VecDeque;

pub use self::bounds::{BadLogConfig, LogConfig};
use self::event::RELOCATING;
pub use self::event::{Damage, LogAction, LogEvent, ReadToken};
use self::place::{SEGMENTS_MAX, unpack};
use self::reading::{Reading, Wanted};
pub use self::recovery::{Recovered, Recovery, to_record};
use self::rewriting::GivingUp;
use self::segment::{Segment, Segments};
use self::staging::Staging;
use crate::id::{Key, UserId};
use crate::record::{COMMIT_BYTES, Position, record_bytes};
use crate::storage::{Place, Record, StorageEvent, StorageRequest};

/// A marker is written when nothing was appended for this long, in ms.
const IDLE_MS: u64 = 1_000;
/// A failed `Prepare` is tried again after this time, in ms.
const PREPARE_RETRY_MS: u64 = 1_000;
/// Segments above what the used bytes need: more are merged by rewriting.
const SEGMENTS_SPARE: u64 = 16;

/// The machine.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    segments: Segments,
    staging: Staging,
    reading: Reading,
    giving_up: Option<GivingUp>,
    /// The last of `segments` takes appends.
    is_open: bool,
    /// Prepared segments that have no records yet.
    spares: u32,
    preparing: Preparing,
    /// Appends that wait for a segment.
    waiting: VecDeque<Waiting>,
    is_full: bool,
    /// Failed appends of which the core does not know yet.
    unheard: usize,
    is_removing: bool,
    is_closing: bool,
    synced_ms: u64,
}

/// An append that waits for a segment.
#[derive(Debug)]
struct Waiting {
    record: Record,
    /// The core did not know of a failure before it.
    is_behind_failure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preparing {
    No,
    Asked,
    Failed { retry_ms: u64 },
}

/// What can be done with an append now.
enum Room {
    Here,
    NextSegment,
    Wait,
    Full,
}

impl Log {
    /// A log over what was recovered. Refuses bounds that do not fit together.
    pub fn new(config: LogConfig, recovered: Recovered) -> Result<Self, BadLogConfig> {
        config.check()?;
        let mut log = Log {
            config,
            segments: recovered.segments,
            staging: Staging::default(),
            reading: Reading::default(),
            giving_up: None,
            is_open: false,
            spares: 0,
            preparing: Preparing::No,
            waiting: VecDeque::new(),
            is_full: false,
            unheard: 0,
            is_removing: false,
            is_closing: false,
            synced_ms: 0,
        };
        log.staging.start_at(log.end());
        Ok(log)
    }

    /// Takes an event; appends what is to be done.
    pub fn handle(&mut self, now_ms: u64, event: LogEvent<'_>, out: &mut Vec<LogAction>) {
        match event {
            LogEvent::Request(StorageRequest::Append(record)) => self.on_append(now_ms, record, out),
            LogEvent::Request(StorageRequest::Read { user, key, place }) => self.on_read(user, key, place, out),
            LogEvent::Request(StorageRequest::Trim { place }) => self.on_trim(now_ms, place),
            LogEvent::Request(StorageRequest::Heard { count }) => self.unheard -= count,
            // Everything was told by the recovery.
            LogEvent::Request(StorageRequest::Load { user, .. }) => {
                out.push(LogAction::Tell(StorageEvent::Loaded { user }));
            }
            LogEvent::TurnEnded => self.on_turn_ended(now_ms, out),
            LogEvent::Prepared { segment } => self.on_prepared(now_ms, segment, out),
            LogEvent::PrepareFailed { .. } => self.on_prepare_failed(now_ms, out),
            LogEvent::Written => {}
            LogEvent::Synced => self.on_synced(now_ms, out),
            LogEvent::ReadDone { token, bytes } => self.on_read_done(now_ms, token, Some(bytes), out),
            LogEvent::ReadFailed { token } => self.on_read_done(now_ms, token, None, out),
            LogEvent::Removed { .. } => self.on_removed(now_ms, out),
            LogEvent::Tick => self.on_tick(now_ms, out),
            LogEvent::Close => {
                self.is_closing = true;
                self.on_turn_ended(now_ms, out);
            }
        }
    }

    /// Bytes of the records that nobody trimmed.
    pub fn live_bytes(&self) -> u64 {
        self.segments.live()
    }

    /// Bytes of all records.
    pub fn used_bytes(&self) -> u64 {
        self.segments.used()
    }

    /// Segments that have records.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether something waits for time to pass: for room, for a retry, or for the marker of a log that went quiet.
    pub fn wants_tick(&self) -> bool {
        self.is_full || !self.waiting.is_empty() || self.giving_up.is_some() || self.staging.is_unmarked()
    }

    /// Whether the disk has no room for entries.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Appends that wait for room or for a segment.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What it is doing, for reports of tests.
    pub fn state(&self) -> String {
        let Log { is_open, spares, preparing, is_removing, giving_up, .. } = self;
        let (segments, used, live) = (self.segments(), self.used_bytes(), self.live_bytes());
        let (waiting, oldest) =
            (self.waiting.len(), self.segments.oldest().map(|(number, s)| (number, s.live_records)));
        format!(
            "{segments} segments, {used} bytes, {live} live, oldest {oldest:?}, {waiting} waiting, open {is_open}, \
             {spares} spare, {preparing:?}, removing {is_removing}, {giving_up:?}"
        )
    }

    fn on_append(&mut self, now_ms: u64, record: Record, out: &mut Vec<LogAction>) {
        let append = Waiting { record, is_behind_failure: self.unheard > 0 };
        let waits = if self.waiting.is_empty() { self.admit(append, out) } else { Some(append) };
        self.waiting.extend(waits);
        self.prepare(now_ms, out);
    }

    /// Stages or fails an append, or gives it back because it has to wait.
    fn admit(&mut self, append: Waiting, out: &mut Vec<LogAction>) -> Option<Waiting> {
        if append.is_behind_failure && self.fails_behind_failures(&append.record) {
            self.fail(out);
            return None;
        }
        match self.room(&append.record) {
            Room::Here => self.stage(&append.record),
            Room::NextSegment => {
                self.enter_spare();
                self.stage(&append.record);
            }
            Room::Wait => return Some(append),
            Room::Full => {
                self.tell_full(true, out);
                self.fail(out);
            }
        }
        None
    }

    fn fail(&mut self, out: &mut Vec<LogAction>) {
        self.unheard += 1;
        self.waiting.iter_mut().for_each(|append| append.is_behind_failure = true);
        self.staging.fail(out);
    }

    /// Whether it may not be on disk when an append before it is not.
    fn fails_behind_failures(&self, record: &Record) -> bool {
        let is_copy = self.giving_up.as_ref().is_some_and(|segment| segment.is_copy(record));
        !matches!(record, Record::Tombstone { .. }) && !is_copy
    }

    fn stage(&mut self, record: &Record) {
        let (bytes, place) = self.staging.append(record, self.end(), &self.config);
        self.segments.grow(bytes);
        self.segments.on_append(place);
    }

    /// Where the next batch or record goes.
    fn end(&self) -> Position {
        let segment = self.segments.next().saturating_sub(1);
        Position { segment, offset: self.segments.at(segment).map_or(0, |last| last.used) }
    }

    fn enter_spare(&mut self) {
        assert!(self.segments.next() < SEGMENTS_MAX, "segment numbers are used up");
        self.spares -= 1;
        self.is_open = true;
        self.segments.push(Segment::default());
    }

    /// Bytes left for appends in the open segment, whose last ones are kept for a marker, and in the spare ones.
    fn left(&self) -> (u32, u32) {
        let end = self.end().offset + COMMIT_BYTES as u32;
        let here = if self.is_open { self.config.segment_bytes.saturating_sub(end) } else { 0 };
        (here, self.spares * self.config.segment_bytes)
    }

    /// What is left at the end of the last segment is kept for tombstones, and the last of it for copies: so inboxes can
    /// be taken and segments be given up while the disk is full.
    fn room(&self, record: &Record) -> Room {
        let overhead = self.staging.overhead(self.end().segment);
        let need = record_bytes(record) as u32 + overhead;
        let (here, spare) = self.left();
        let (place, left) = if here >= need {
            (Room::Here, here - need + spare)
        } else if self.spares > 0 {
            (Room::NextSegment, spare - need - COMMIT_BYTES as u32)
        } else {
            (Room::Wait, 0)
        };
        let fits = !matches!(place, Room::Wait);
        if fits && left >= self.kept_free(record, left) {
            return place;
        }
        match self.preparing {
            Preparing::Failed { .. } => Room::Full,
            Preparing::No | Preparing::Asked => Room::Wait,
        }
    }

    /// Bytes that this append has to leave. A tombstone has half the bytes of a short entry: with three quarters of a
    /// segment the oldest one can be emptied and given up even so.
    fn kept_free(&self, record: &Record, left: u32) -> u32 {
        let whole = self.config.segment_bytes;
        if left >= whole / 4 * 3 {
            return 0;
        }
        match record {
            Record::Entry(_) if self.giving_up.as_ref().is_some_and(|segment| segment.is_copy(record)) => 0,
            Record::Entry(_) => whole / 4 * 3,
            Record::Tombstone { .. } | Record::Complete(_) => whole / 8,
        }
    }

    fn tell_full(&mut self, is_full: bool, out: &mut Vec<LogAction>) {
        if self.is_full != is_full {
            self.is_full = is_full;
            out.push(LogAction::Tell(StorageEvent::Full(is_full)));
        }
    }

    /// Asks for another segment while there is still room in this one. Two spare ones are made only for a record that
    /// would not leave enough of one.
    fn prepare(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        let may = match self.preparing {
            Preparing::No => true,
            Preparing::Asked => false,
            Preparing::Failed { retry_ms } => now_ms >= retry_ms,
        };
        let is_idle = !self.is_open && self.waiting.is_empty() && !self.is_full;
        let (here, spare) = self.left();
        let is_low = here + spare < self.config.segment_bytes / 8 * 7;
        let is_short = (self.is_full || !self.waiting.is_empty()) && self.spares < 2;
        if may && !is_idle && (is_low || is_short) {
            self.preparing = Preparing::Asked;
            out.push(LogAction::Prepare { segment: self.segments.next() + self.spares });
        }
    }

    fn on_prepared(&mut self, now_ms: u64, segment: u32, out: &mut Vec<LogAction>) {
        // The open segment may have been left for a spare one meanwhile, which moves both by one.
        debug_assert_eq!(segment, self.segments.next() + self.spares);
        self.preparing = Preparing::No;
        self.spares += 1;
        self.tell_full(false, out);
        self.admit_waiting(now_ms, out);
    }

    fn on_prepare_failed(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        self.preparing = Preparing::Failed { retry_ms: now_ms + PREPARE_RETRY_MS };
        self.admit_waiting(now_ms, out);
    }

    fn admit_waiting(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        while let Some(append) = self.waiting.pop_front() {
            if let Some(append) = self.admit(append, out) {
                self.waiting.push_front(append);
                break;
            }
        }
        self.on_turn_ended(now_ms, out);
    }

    fn on_read(&mut self, user: UserId, key: Key, place: Place, out: &mut Vec<LogAction>) {
        let spot = unpack(place);
        match self.segments.at_mut(spot.segment) {
            Some(segment) if spot.offset < segment.used && !segment.missing => {
                segment.reads += 1;
                self.reading.want(Wanted { user, key, place });
            }
            _ => out.push(LogAction::Tell(StorageEvent::Damaged { user, key, place })),
        }
    }

    fn on_trim(&mut self, now_ms: u64, place: Place) {
        let spot = unpack(place);
        if self.segments.trim(spot)
            && let Some(giving_up) = self.giving_up.as_mut().filter(|giving_up| giving_up.segment == spot.segment)
        {
            giving_up.on_trim(spot.offset, now_ms);
        }
    }

    fn on_turn_ended(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        self.prepare(now_ms, out);
        self.staging.commit(self.config.salt, out);
        self.reading.start(&self.config, out);
        self.remove(now_ms, out);
        self.close(out);
    }

    fn on_synced(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        self.synced_ms = now_ms;
        self.staging.on_synced(out);
        // What was staged meanwhile goes with the end of this turn, or with a later one that the shell chooses.
        self.close(out);
    }

    fn on_read_done(&mut self, now_ms: u64, token: ReadToken, bytes: Option<&[u8]>, out: &mut Vec<LogAction>) {
        if token == RELOCATING {
            self.on_slice(now_ms, bytes, out);
        } else if let Some(run) = self.reading.on_done(token) {
            if let Some(segment) = self.segments.at_mut(run.segment) {
                segment.reads -= run.wanted.len() as u32;
            }
            run.answer(bytes, self.config.salt, out);
        }
        self.on_turn_ended(now_ms, out);
    }

    fn on_slice(&mut self, now_ms: u64, bytes: Option<&[u8]>, out: &mut Vec<LogAction>) {
        let Some(giving_up) = &mut self.giving_up else { return };
        let Some(segment) = self.segments.at(giving_up.segment) else { return };
        match bytes {
            Some(bytes) => giving_up.on_slice(now_ms, bytes, segment, out),
            None => giving_up.on_failed(now_ms, segment, out),
        }
    }

    /// Removes the oldest segment, or works at getting it empty.
    fn remove(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        while !self.is_removing && !self.is_closing {
            let Some((number, oldest)) = self.segments.oldest() else { return };
            let is_written = self.is_open && number + 1 == self.segments.next() || self.staging.has(number);
            if is_written || oldest.reads > 0 {
                return;
            }
            let is_done = self.giving_up.as_ref().is_some_and(|giving_up| giving_up.is_done(oldest));
            if oldest.missing {
                self.segments.pop();
            } else if is_done || oldest.live_records == 0 && !self.is_slicing() {
                self.giving_up = None;
                self.is_removing = true;
                out.push(LogAction::Remove { segment: number });
            } else {
                return self.give_up(now_ms, out);
            }
        }
    }

    fn is_slicing(&self) -> bool {
        self.giving_up.as_ref().is_some_and(GivingUp::is_reading)
    }

    fn give_up(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        let Some((number, oldest)) = self.segments.oldest() else { return };
        if self.giving_up.is_none() && self.is_worth_it(oldest) {
            self.giving_up = Some(GivingUp::start(number, self.config.salt, now_ms));
        }
        if let Some(giving_up) = &mut self.giving_up {
            giving_up.go_on(now_ms, oldest, out);
        }
    }

    /// Whether to rewrite the oldest segment: much is dead, or there are many small segments; and its copies have room.
    fn is_worth_it(&self, oldest: &Segment) -> bool {
        let whole = u64::from(self.config.segment_bytes);
        let dead = self.segments.dead();
        let segments_max = SEGMENTS_SPARE + 4 * self.segments.used() / whole;
        let is_wasteful = dead > self.segments.live() + 2 * whole || self.segments.len() as u64 > segments_max;
        let is_failing = matches!(self.preparing, Preparing::Failed { .. });
        let (here, spare) = self.left();
        let has_room = u64::from(here) + u64::from(spare) > oldest.live_bytes + whole / 16;
        (is_wasteful && !is_failing) || (is_failing && dead > whole / 2 && has_room)
    }

    fn on_removed(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        self.is_removing = false;
        self.segments.pop();
        if let Preparing::Failed { retry_ms } = &mut self.preparing {
            *retry_ms = now_ms;
        }
        self.on_turn_ended(now_ms, out);
    }

    fn on_tick(&mut self, now_ms: u64, out: &mut Vec<LogAction>) {
        if now_ms >= self.synced_ms + IDLE_MS {
            self.mark();
        }
        self.on_turn_ended(now_ms, out);
    }

    /// Names the last batch as flushed, so that damage in it is told from a torn write.
    fn mark(&mut self) {
        if self.staging.is_idle() && self.staging.is_unmarked() {
            let bytes = self.staging.mark(self.end());
            self.segments.grow(bytes);
            assert!(self.end().offset <= self.config.segment_bytes, "no room was kept for the marker");
        }
    }

    fn close(&mut self, out: &mut Vec<LogAction>) {
        if !self.is_closing || !self.waiting.is_empty() || !self.staging.is_idle() {
            return;
        }
        self.mark();
        self.staging.commit(self.config.salt, out);
        if self.staging.is_idle() {
            self.is_closing = false;
            out.push(LogAction::Closed);
        }
    }
}
