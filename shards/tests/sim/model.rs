//! A fast model of a storage engine: what a crash keeps, when a flush returns, which segments are given up.
//!
//! In: requests of a core. Out: storage events when their time has come. A crash keeps what was flushed and any prefix
//! of the rest; a trimmed record comes back at a recovery until its segment is gone, as in a real log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use iris_shards::id::MessageId;
use iris_shards::storage::{Place, Record, StorageEvent, StorageRequest};

use crate::rng::Rng;

/// Records per segment.
const SEGMENT: u64 = 24;

/// A record on disk.
#[derive(Debug, Clone)]
pub struct Kept {
    pub record: Record,
    pub trimmed: bool,
}

/// What outlives the process.
#[derive(Debug, Default)]
pub struct Platter {
    pub kept: BTreeMap<u64, Kept>,
    next: u64,
}

/// The engine of one executor.
#[derive(Debug)]
pub struct Model {
    pub platter: Platter,
    pending: VecDeque<(Record, bool)>,
    flushing: usize,
    flushed_at: Option<u64>,
    reads: Vec<(u64, StorageEvent)>,
    told: VecDeque<StorageEvent>,
    full: bool,
    /// Failed appends of which the core does not know.
    unheard: usize,
    trims: u32,
    /// Segments that were asked to be given up: asked once.
    asked: BTreeSet<u64>,
    flush_us: (u64, u64),
    pub slow_us: u64,
}

impl Model {
    pub fn new(platter: Platter, flush_us: (u64, u64)) -> Self {
        Model {
            platter,
            pending: VecDeque::new(),
            flushing: 0,
            flushed_at: None,
            reads: Vec::new(),
            told: VecDeque::new(),
            full: false,
            unheard: 0,
            trims: 0,
            asked: BTreeSet::new(),
            flush_us,
            slow_us: 0,
        }
    }

    /// The process has died.
    pub fn crash(mut self, rng: &mut Rng) -> Platter {
        let torn = rng.index(self.pending.len() + 1);
        for (record, failed) in self.pending.drain(..torn) {
            if !failed {
                self.platter.keep(record);
            }
        }
        self.platter
    }

    /// What a recovery finds. What was trimmed before is found again.
    pub fn recover(&mut self) -> Vec<StorageEvent> {
        self.platter.kept.values_mut().for_each(|kept| kept.trimmed = false);
        self.platter.kept.iter().map(|(&place, kept)| recovered(&kept.record, Place(place))).collect()
    }

    /// Performs a request. Returns the record that was given up by a trim, for the checkers.
    pub fn request(&mut self, request: StorageRequest, now_us: u64, rng: &mut Rng) -> Option<Record> {
        match request {
            StorageRequest::Append(record) => {
                // Until a failure was heard nothing behind it is kept: a younger entry must not be there without an older.
                let failed = match record {
                    Record::Entry(_) => self.full || self.unheard > 0,
                    Record::Complete(_) => self.unheard > 0,
                    Record::Tombstone { .. } => false,
                };
                self.unheard += usize::from(failed);
                self.pending.push_back((record, failed));
                None
            }
            StorageRequest::Read { place, .. } => {
                let kept = self.platter.kept.get(&place.0).expect("a place that the engine gave");
                let Record::Entry(entry) = &kept.record else { panic!("only entries are read") };
                let entry = entry.clone();
                let (user, key) = (entry.user, entry.key);
                let event = StorageEvent::Read { user, key, sent_at: entry.sent_at, body: entry.body };
                self.reads.push((now_us + rng.range(self.flush_us.0, self.flush_us.1) / 4, event));
                None
            }
            StorageRequest::Trim { place } => self.trim(place, rng),
            StorageRequest::Heard { count } => {
                self.unheard -= count;
                None
            }
            StorageRequest::Load { .. } => unreachable!("of a disk of its own a core knows everything"),
        }
    }

    fn trim(&mut self, place: Place, rng: &mut Rng) -> Option<Record> {
        // A record may be trimmed again when a question about it was under way: the core answers each with a trim.
        let kept = self.platter.kept.get_mut(&place.0).filter(|kept| !kept.trimmed)?;
        kept.trimmed = true;
        let record = kept.record.clone();
        self.trims += 1;
        if self.trims.is_multiple_of(16) {
            self.platter.collect();
            if rng.permille(500) {
                self.relocate();
            }
        }
        Some(record)
    }

    /// Asks for what still lives in the oldest segment.
    fn relocate(&mut self) {
        let Some(segment) = self.platter.kept.keys().next().map(|place| place / SEGMENT) else { return };
        if (segment + 1) * SEGMENT > self.platter.next || !self.asked.insert(segment) {
            return;
        }
        let range = segment * SEGMENT..(segment + 1) * SEGMENT;
        let live = self.platter.kept.range(range).filter(|(_, kept)| !kept.trimmed);
        let events =
            live.map(|(&place, kept)| StorageEvent::Relocate { record: kept.record.clone(), place: Place(place) });
        self.told.extend(events);
    }

    /// The end of a turn: one flush is under way at a time.
    pub fn flush(&mut self, now_us: u64, rng: &mut Rng) {
        if self.flushed_at.is_none() && !self.pending.is_empty() {
            self.flushing = self.pending.len();
            self.flushed_at = Some(now_us + rng.range(self.flush_us.0, self.flush_us.1) + self.slow_us);
        }
    }

    pub fn set_full(&mut self, full: bool) {
        if self.full != full {
            self.full = full;
            self.told.push_back(StorageEvent::Full(full));
        }
    }

    /// When the next thing can be told.
    pub fn next_at(&self) -> Option<u64> {
        let told = (!self.told.is_empty()).then_some(0);
        let reads = self.reads.iter().map(|(at, _)| *at);
        told.into_iter().chain(self.flushed_at).chain(reads).min()
    }

    /// The next thing to tell, and what has reached the disk with it. Call only when ready.
    pub fn tell(&mut self, now_us: u64, rng: &mut Rng) -> (Option<StorageEvent>, Vec<Record>) {
        if let Some(event) = self.told.pop_front() {
            return (Some(event), Vec::new());
        }
        let due: Vec<usize> = (0..self.reads.len()).filter(|&at| self.reads[at].0 <= now_us).collect();
        if !due.is_empty() {
            let (_, event) = self.reads.swap_remove(rng.pick(&due));
            return (Some(event), Vec::new());
        }
        self.flushed_at = None;
        let mut flushed = Vec::new();
        for (record, failed) in self.pending.drain(..std::mem::take(&mut self.flushing)) {
            if !failed {
                flushed.push(record.clone());
            }
            let place = (!failed).then(|| self.platter.keep(record));
            match (place, self.told.back_mut()) {
                (Some(place), Some(StorageEvent::Flushed { places })) => places.push(place),
                (Some(place), _) => self.told.push_back(StorageEvent::Flushed { places: vec![place] }),
                (None, Some(StorageEvent::Failed { count })) => *count += 1,
                (None, _) => self.told.push_back(StorageEvent::Failed { count: 1 }),
            }
        }
        self.flush(now_us, rng);
        (self.told.pop_front(), flushed)
    }
}

impl Platter {
    fn keep(&mut self, record: Record) -> Place {
        let place = self.next;
        self.next += 1;
        self.kept.insert(place, Kept { record, trimmed: false });
        Place(place)
    }

    /// Gives up segments without a record that is needed: a tombstone is, as long as what it kills can come back.
    fn collect(&mut self) {
        let segments: Vec<u64> = self.kept.keys().map(|place| place / SEGMENT).collect();
        for segment in segments {
            let range = segment * SEGMENT..(segment + 1) * SEGMENT;
            if range.end > self.next {
                continue;
            }
            let is_dead = self.kept.range(range.clone()).all(|(_, kept)| {
                let kills = match &kept.record {
                    Record::Tombstone { kills: Some(place), .. } => {
                        self.kept.contains_key(&place.0) && !range.contains(&place.0)
                    }
                    Record::Complete(_) => true,
                    _ => false,
                };
                kept.trimmed && !kills
            });
            if is_dead {
                self.kept.retain(|place, _| !range.contains(place));
            }
        }
    }

    /// The entries that are not dead.
    pub fn ids(&self) -> Vec<MessageId> {
        let live = self.kept.values().filter(|kept| !kept.trimmed);
        let entries = live.filter_map(|kept| match &kept.record {
            Record::Entry(entry) => Some(entry.key.id),
            _ => None,
        });
        entries.collect()
    }
}

fn recovered(record: &Record, place: Place) -> StorageEvent {
    let mut record = record.clone();
    let mut body_bytes = 0;
    if let Record::Entry(entry) = &mut record {
        body_bytes = entry.body.len() as u32;
        entry.body = Vec::new().into();
    }
    StorageEvent::Recovered { record, body_bytes, place }
}

/// An entry of which only the id matters: what the checkers need of a trim.
pub fn stub(id: MessageId) -> Record {
    let nobody = iris_shards::id::UserId::parse(b"-").expect("a valid name");
    let key = iris_shards::id::Key { id, sender: nobody.clone() };
    Record::Entry(iris_shards::storage::Entry { user: nobody, key, sent_at: 0, body: Vec::new().into() })
}
