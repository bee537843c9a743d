//! The real log as a storage engine: its disk actions complete after a while, in any order that a disk may choose.

use std::collections::{BTreeMap, VecDeque};

use iris_shards::id::MessageId;
use iris_shards::log::{Damage, Log, LogAction, LogConfig, LogEvent, Recovery};
use iris_shards::storage::{Place, Record, StorageEvent, StorageRequest};

use crate::disk::{Crash, Disk, OpId};
use crate::rng::Rng;

/// Small, so that segments are filled, given up and removed within a run.
const SEGMENT_BYTES: u32 = 64 << 10;
const BODY_BYTES_MAX: u32 = 12 << 10;
const TICK_US: u64 = 1_000_000;

/// What outlives the process.
pub struct Files {
    disk: Disk,
    config: LogConfig,
    /// The entries that were flushed, or found, and not trimmed.
    live: BTreeMap<Place, MessageId>,
}

/// The engine of one executor.
pub struct Logged {
    pub files: Files,
    log: Log,
    actions: Vec<LogAction>,
    /// Disk actions under way, and when each may complete.
    due: BTreeMap<OpId, u64>,
    told: VecDeque<StorageEvent>,
    /// Appends that were not answered.
    untold: VecDeque<Record>,
    tick_us: u64,
    flush_us: (u64, u64),
    pub slow_us: u64,
}

impl Files {
    pub fn new(salt: u32) -> Self {
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            body_bytes_max: BODY_BYTES_MAX,
            batch_bytes_max: 8 << 10,
            read_bytes_max: 16 << 10,
            salt,
            ..LogConfig::default()
        };
        Files { disk: Disk::new(SEGMENT_BYTES), config, live: BTreeMap::new() }
    }

    pub fn wipe(&mut self) {
        self.disk.wipe();
        self.live.clear();
    }

    pub fn ids(&self) -> Vec<MessageId> {
        self.live.values().copied().collect()
    }

    /// Reads everything; the log that goes on from there, and what it found.
    fn recover(&mut self) -> (Log, Vec<StorageEvent>) {
        let (mut events, mut damage) = (Vec::new(), Vec::new());
        let mut recovery = Recovery::new(&self.config, self.disk.files());
        while recovery.step(events.len() + 7, &mut events, &mut damage) {}
        let recovered = recovery.finish();
        let is_torn = |damage: &Damage| matches!(damage, Damage::Torn { .. });
        assert!(damage.iter().all(is_torn), "{damage:?} on a disk without damage");
        self.disk.settle(&recovered);
        self.live.clear();
        for event in &events {
            if let StorageEvent::Recovered { record: Record::Entry(entry), place, .. } = event {
                self.live.insert(*place, entry.key.id);
            }
        }
        let log = Log::new(self.config.clone(), recovered).expect("the bounds fit together");
        (log, events)
    }
}

impl Logged {
    pub fn new(mut files: Files, flush_us: (u64, u64)) -> Self {
        let (log, _) = files.recover();
        Logged {
            files,
            log,
            actions: Vec::new(),
            due: BTreeMap::new(),
            told: VecDeque::new(),
            untold: VecDeque::new(),
            tick_us: 0,
            flush_us,
            slow_us: 0,
        }
    }

    pub fn crash(mut self, rng: &mut Rng) -> Files {
        let crash = if rng.permille(500) { Crash::Process } else { Crash::Power };
        self.files.disk.crash(crash, &mut || rng.next());
        self.files.recover();
        self.files
    }

    pub fn recover(&mut self) -> Vec<StorageEvent> {
        let (log, events) = self.files.recover();
        self.log = log;
        events
    }

    fn handle(&mut self, now_us: u64, event: LogEvent<'_>, rng: &mut Rng) {
        let mut actions = std::mem::take(&mut self.actions);
        self.log.handle(now_us / 1_000, event, &mut actions);
        for action in actions.drain(..) {
            match self.files.disk.apply(action) {
                Some(LogAction::Tell(event)) => self.told.push_back(event),
                Some(LogAction::Report(damage)) => panic!("{damage:?} on a disk without damage"),
                _ => {}
            }
        }
        self.actions = actions;
        for id in self.files.disk.pending() {
            let delay = rng.range(self.flush_us.0 / 2, self.flush_us.1) + self.slow_us;
            self.due.entry(id).or_insert(now_us + delay);
        }
    }

    pub fn request(&mut self, request: StorageRequest, now_us: u64, rng: &mut Rng) -> Option<Record> {
        let mut trimmed = None;
        match &request {
            StorageRequest::Append(record) => self.untold.push_back(record.clone()),
            StorageRequest::Trim { place } => trimmed = self.files.live.remove(place),
            StorageRequest::Read { .. } | StorageRequest::Heard { .. } | StorageRequest::Load { .. } => {}
        }
        self.handle(now_us, LogEvent::Request(request), rng);
        trimmed.map(crate::model::stub)
    }

    pub fn flush(&mut self, now_us: u64, rng: &mut Rng) {
        self.handle(now_us, LogEvent::TurnEnded, rng);
    }

    pub fn set_full(&mut self, full: bool) {
        self.files.disk.segments_max = if full { self.files.disk.files().len() } else { usize::MAX };
    }

    pub fn next_at(&self) -> Option<u64> {
        let told = (!self.told.is_empty()).then_some(0);
        let tick = (self.log.segments() > 0).then_some(self.tick_us + TICK_US);
        told.into_iter().chain(self.due.values().copied()).chain(tick).min()
    }

    pub fn tell(&mut self, now_us: u64, rng: &mut Rng) -> (Option<StorageEvent>, Vec<Record>) {
        if self.told.is_empty() {
            self.complete(now_us, rng);
        }
        let event = self.told.pop_front();
        let mut flushed = Vec::new();
        match &event {
            Some(StorageEvent::Flushed { places }) => {
                for &place in places {
                    let record = self.untold.pop_front().expect("told more than appended");
                    if let Record::Entry(entry) = &record {
                        self.files.live.insert(place, entry.key.id);
                    }
                    flushed.push(record);
                }
            }
            Some(StorageEvent::Failed { count }) => drop(self.untold.drain(..*count)),
            _ => {}
        }
        (event, flushed)
    }

    /// Time passes for the log, or one disk action completes.
    fn complete(&mut self, now_us: u64, rng: &mut Rng) {
        if self.tick_us + TICK_US <= now_us {
            self.tick_us = now_us;
            return self.handle(now_us, LogEvent::Tick, rng);
        }
        let ready: Vec<OpId> = self.due.iter().filter(|(_, at)| **at <= now_us).map(|(&id, _)| id).collect();
        if ready.is_empty() {
            return;
        }
        let id = rng.pick(&ready);
        self.due.remove(&id);
        let done = self.files.disk.complete(id).expect("what is under way completes");
        self.handle(now_us, done.event(), rng);
    }
}
