//! One log, its simulated disk, and a model of what was told. The log is right as long as nothing here panics.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash};

use iris_shards::id::{Body, Key, MessageId, UserId};
use iris_shards::log::{Damage, Log, LogAction, LogConfig, LogEvent, Recovery};
use iris_shards::storage::{Entry, Place, Record, StorageEvent, StorageRequest};

use crate::disk::{Crash, Disk};

pub const SEGMENT_BYTES: u32 = 16 << 10;
pub const BODY_BYTES_MAX: u32 = 3_000;

pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What the model knows of one message.
#[derive(Debug, Default, Clone)]
pub struct Message {
    /// Told flushed (or recovered), and where.
    pub place: Option<Place>,
    /// A tombstone was appended.
    is_taken: bool,
    /// That was told flushed (or recovered): it must never be seen again.
    pub is_dead: bool,
    /// It may be lost: its append failed, was never told, or its record was damaged.
    is_optional: bool,
}

/// An append that was not told.
#[derive(Debug, Clone)]
pub enum Untold {
    Entry(u64),
    Copy(u64, Place),
    Tombstone(u64),
}

pub struct World {
    pub random: Random,
    pub config: LogConfig,
    pub disk: Disk,
    pub log: Log,
    pub now_ms: u64,
    pub messages: BTreeMap<u64, Message>,
    pub untold: VecDeque<Untold>,
    tombstones: Vec<Place>,
    next: u64,
    pub reads: BTreeMap<u64, bool>,
    actions: Vec<LogAction>,
    pub trace: DefaultHasher,
    pub has_trace: bool,
    pub has_flips: bool,
    pub is_closed: bool,
    pub told_full: bool,
    /// Failures that were told and not heard, and the entries that were appended meanwhile: all of them have to fail.
    unheard: usize,
    doomed: BTreeSet<u64>,
}

pub fn key(n: u64) -> (UserId, Key) {
    let user = UserId::parse(format!("user-{}", n % 5).as_bytes()).unwrap();
    let sender = UserId::parse(format!("s{}", n % 3).as_bytes()).unwrap();
    (user, Key { id: MessageId::v7(n, 7), sender })
}

pub fn number(key: &Key) -> u64 {
    key.id.time_ms()
}

/// The body is a function of the number, so that what is read can be checked.
pub fn body(n: u64) -> Body {
    let mut random = Random(n);
    let bytes = if random.one_in(20) { random.below(u64::from(BODY_BYTES_MAX)) } else { random.below(200) };
    (0..bytes).map(|_| random.next() as u8).collect::<Vec<u8>>().into()
}

pub fn entry(n: u64) -> Record {
    let (user, key) = key(n);
    Record::Entry(Entry { user, key, sent_at: n, body: body(n) })
}

impl World {
    pub fn new(seed: u64) -> World {
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            body_bytes_max: BODY_BYTES_MAX,
            batch_bytes_max: 4 << 10,
            read_bytes_max: 2 << 10,
            salt: seed as u32,
            ..LogConfig::default()
        };
        let recovered = Recovery::<&[u8]>::new(&config, Vec::new()).finish();
        World {
            random: Random(seed),
            log: Log::new(config.clone(), recovered).unwrap(),
            config,
            disk: Disk::new(SEGMENT_BYTES),
            now_ms: 0,
            messages: BTreeMap::new(),
            untold: VecDeque::new(),
            tombstones: Vec::new(),
            next: 1,
            reads: BTreeMap::new(),
            actions: Vec::new(),
            trace: DefaultHasher::new(),
            has_trace: false,
            has_flips: false,
            is_closed: false,
            told_full: false,
            unheard: 0,
            doomed: BTreeSet::new(),
        }
    }

    pub fn handle(&mut self, event: LogEvent<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.log.handle(self.now_ms, event, &mut actions);
        for action in actions.drain(..) {
            if self.has_trace {
                format!("{action:?}").hash(&mut self.trace);
            }
            match self.disk.apply(action) {
                Some(LogAction::Tell(event)) => self.on_told(event),
                Some(LogAction::Report(damage)) => assert!(self.has_flips, "{damage:?} on a disk without damage"),
                Some(LogAction::Closed) => self.is_closed = true,
                _ => {}
            }
        }
        self.actions = actions;
    }

    pub fn request(&mut self, request: StorageRequest) {
        self.handle(LogEvent::Request(request));
    }

    fn on_told(&mut self, event: StorageEvent) {
        match event {
            StorageEvent::Flushed { places } => places.into_iter().for_each(|place| self.on_flushed(place)),
            StorageEvent::Failed { count } => (0..count).for_each(|_| self.on_failed()),
            StorageEvent::Full(is_full) => self.told_full |= is_full,
            StorageEvent::Read { key, sent_at, body: read, .. } => {
                let n = number(&key);
                assert!(self.reads.remove(&n).is_some(), "{n} was not asked for");
                assert!(sent_at == n && read == body(n), "{n} is served wrong");
            }
            StorageEvent::Damaged { key, .. } => {
                assert!(self.has_flips, "{key:?} is damaged on a disk without damage");
                self.reads.remove(&number(&key));
            }
            StorageEvent::Relocate { record, place } => self.on_relocate(record, place),
            StorageEvent::Recovered { .. } => panic!("recovered twice"),
            other @ (StorageEvent::Away(_) | StorageEvent::Loaded { .. } | StorageEvent::Gone { .. }) => {
                panic!("only shared stores say this: {other:?}")
            }
        }
    }

    fn on_flushed(&mut self, place: Place) {
        match self.untold.pop_front().expect("told more than appended") {
            Untold::Entry(n) => {
                assert!(!self.doomed.contains(&n), "{n} is on disk although one before it failed");
                let message = self.messages.get_mut(&n).unwrap();
                message.is_optional = false;
                message.place = Some(place);
                if message.is_dead {
                    self.trim(place);
                }
            }
            Untold::Copy(n, old) => {
                let message = self.messages.get_mut(&n).unwrap();
                let is_dead = message.is_dead;
                assert_eq!(message.place.replace(place), Some(old));
                self.trim(old);
                if is_dead {
                    self.trim(place);
                }
            }
            Untold::Tombstone(n) => {
                let message = self.messages.get_mut(&n).unwrap();
                message.is_dead = true;
                let entry = message.place;
                self.tombstones.push(place);
                entry.into_iter().for_each(|entry| self.trim(entry));
            }
        }
    }

    fn on_failed(&mut self) {
        self.unheard += 1;
        match self.untold.pop_front().expect("failed more than appended") {
            Untold::Entry(n) => self.messages.get_mut(&n).unwrap().is_optional = true,
            Untold::Copy(..) => {}
            Untold::Tombstone(n) => self.messages.get_mut(&n).unwrap().is_taken = self.untold_tombstone(n),
        }
    }

    fn untold_tombstone(&self, n: u64) -> bool {
        self.untold.iter().any(|untold| matches!(untold, Untold::Tombstone(other) if *other == n))
    }

    fn on_relocate(&mut self, record: Record, place: Place) {
        match record {
            Record::Entry(Entry { key, body: moved, .. }) => {
                let n = number(&key);
                assert!(moved == body(n), "{n} is moved wrong");
                let message = self.messages.get_mut(&n).unwrap();
                let is_moving = self.untold.iter().any(|u| matches!(u, Untold::Copy(other, _) if *other == n));
                if message.place == Some(place) && message.is_taken && !message.is_dead && !is_moving {
                    // The core forgets an entry when it appends the tombstone. A copy behind it would outlive it.
                    (message.place, message.is_optional) = (None, true);
                    self.trim(place);
                } else if message.place == Some(place) && !message.is_dead && !is_moving {
                    self.untold.push_back(Untold::Copy(n, place));
                    self.request(StorageRequest::Append(entry(n)));
                } else if message.place != Some(place) || message.is_dead {
                    self.trim(place);
                }
            }
            // The model forgets a tombstone rather than move it: nothing dead may come back all the same.
            Record::Tombstone { .. } | Record::Complete(_) => self.trim(place),
        }
    }

    fn trim(&mut self, place: Place) {
        self.request(StorageRequest::Trim { place });
        if self.random.one_in(10) {
            self.request(StorageRequest::Trim { place });
        }
    }

    pub fn append(&mut self) {
        let n = self.next;
        self.next += 1;
        self.messages.insert(n, Message { is_optional: true, ..Message::default() });
        self.untold.push_back(Untold::Entry(n));
        if self.unheard > 0 {
            self.doomed.insert(n);
        }
        self.request(StorageRequest::Append(entry(n)));
    }

    /// The core comes to the failures that it was told.
    fn hear(&mut self) {
        let count = std::mem::take(&mut self.unheard);
        self.request(StorageRequest::Heard { count });
    }

    /// Some message that is there, told or (rarely) not.
    fn pick(&mut self, is_told: bool) -> Option<u64> {
        let skip = self.random.below(40) as usize;
        let fits = |m: &Message| !m.is_taken && (m.place.is_some() || !is_told && m.is_optional);
        let mut found = self.messages.iter().filter(|(_, m)| fits(m)).map(|(&n, _)| n);
        found.clone().nth(skip).or_else(|| found.next())
    }

    fn take(&mut self) {
        let is_told = !self.random.one_in(4);
        let Some(n) = self.pick(is_told) else { return };
        let (user, key) = key(n);
        let message = self.messages.get_mut(&n).unwrap();
        message.is_taken = true;
        let kills = message.place;
        self.untold.push_back(Untold::Tombstone(n));
        self.request(StorageRequest::Append(Record::Tombstone { user, key, taken_at: n, kills }));
    }

    fn read(&mut self) {
        let Some(n) = self.pick(true) else { return };
        let place = self.messages[&n].place.unwrap();
        let (user, key) = key(n);
        if self.reads.insert(n, true).is_none() {
            self.request(StorageRequest::Read { user, key, place });
        }
    }

    fn forget_tombstone(&mut self) {
        if !self.tombstones.is_empty() {
            let at = self.random.below(self.tombstones.len() as u64) as usize;
            let place = self.tombstones.swap_remove(at);
            self.trim(place);
        }
    }

    pub fn complete(&mut self) {
        let pending = self.disk.pending();
        if pending.is_empty() {
            return;
        }
        let id = pending[self.random.below(pending.len() as u64) as usize];
        let done = self.disk.complete(id).unwrap();
        self.handle(done.event());
    }

    pub fn step(&mut self, appends: u64) {
        match self.random.below(20) {
            0..3 => self.handle(LogEvent::TurnEnded),
            3..5 if self.unheard > 0 => self.hear(),
            3..9 => self.complete(),
            9..11 => self.read(),
            11..13 => self.forget_tombstone(),
            13 => {
                self.now_ms += self.random.below(1_500);
                self.handle(LogEvent::Tick);
            }
            _ if self.random.below(10) < appends => self.append(),
            _ => self.take(),
        }
    }

    /// Runs until nothing is under way.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.now_ms += 1_000;
            self.handle(LogEvent::Tick);
            while !self.disk.pending().is_empty() {
                self.complete();
            }
            if self.untold.is_empty() && self.reads.is_empty() {
                return;
            }
        }
        panic!("the log does not come to rest: {} untold, {} reads", self.untold.len(), self.reads.len());
    }

    pub fn crash(&mut self, crash: Crash) -> Vec<Damage> {
        let random = &mut self.random;
        self.disk.crash(crash, &mut || random.next());
        self.recover()
    }

    /// Recovers and checks what is found against what was told.
    fn recover(&mut self) -> Vec<Damage> {
        let (mut events, mut damage) = (Vec::new(), Vec::new());
        let files = self.disk.files();
        let mut recovery = Recovery::new(&self.config, files);
        while recovery.step(events.len() + 7, &mut events, &mut damage) {}
        let recovered = recovery.finish();
        self.disk.settle(&recovered);
        self.log = Log::new(self.config.clone(), recovered).unwrap();
        self.unheard = 0;
        if self.has_trace {
            format!("{events:?} {damage:?}").hash(&mut self.trace);
        }
        let unreadable = damage.iter().any(|damage| !matches!(damage, Damage::Torn { .. }));
        assert!(self.has_flips || !unreadable, "{damage:?} on a disk without damage");
        self.check_order(&events);
        let (found, tombs) = self.observe(events);
        self.check(&found, &tombs);
        self.untold.clear();
        self.reads.clear();
        self.tombstones = tombs.into_values().collect();
        damage
    }

    /// What an observer of the recovery ends with: entries, and tombstones.
    fn observe(&mut self, events: Vec<StorageEvent>) -> (BTreeMap<u64, Place>, BTreeMap<u64, Place>) {
        let (mut found, mut tombs) = (BTreeMap::new(), BTreeMap::new());
        let mut trims = Vec::new();
        for event in events {
            let StorageEvent::Recovered { record, place, body_bytes } = event else { panic!("{event:?}") };
            match record {
                Record::Entry(entry) => {
                    let n = number(&entry.key);
                    assert_eq!((body_bytes as usize, entry.sent_at), (body(n).len(), n));
                    if tombs.contains_key(&n) {
                        trims.push(place);
                    } else {
                        trims.extend(found.insert(n, place));
                    }
                }
                Record::Tombstone { key, .. } => {
                    trims.extend(found.remove(&number(&key)));
                    trims.extend(tombs.insert(number(&key), place));
                }
                Record::Complete(_) => panic!("nobody wrote this"),
            }
        }
        trims.into_iter().for_each(|place| self.trim(place));
        (found, tombs)
    }

    fn check(&mut self, found: &BTreeMap<u64, Place>, tombs: &BTreeMap<u64, Place>) {
        for n in found.keys() {
            assert!(self.messages.contains_key(n), "{n} was never appended");
            assert!(self.has_flips || !self.messages[n].is_dead, "{n} is back from the dead");
        }
        for (n, message) in &mut self.messages {
            let is_there = found.contains_key(n);
            let must = !message.is_optional && !message.is_taken && !self.has_flips;
            assert!(is_there || !must, "{n} is lost: {message:?}");
            message.place = found.get(n).copied();
            message.is_dead |= tombs.contains_key(n) || !is_there && message.is_taken;
            message.is_taken = message.is_dead;
            message.is_optional = !is_there;
        }
        // What is neither there nor dead was never written: it is gone for good.
        self.messages.retain(|_, message| message.place.is_some() || message.is_dead);
    }

    /// Of the appends that were not told, a prefix is there.
    fn check_order(&self, events: &[StorageEvent]) {
        let is_there = |n: u64, wants_tombstone: bool| {
            events.iter().any(|event| match event {
                StorageEvent::Recovered { record: Record::Entry(entry), .. } => {
                    !wants_tombstone && number(&entry.key) == n
                }
                StorageEvent::Recovered { record: Record::Tombstone { key, .. }, .. } => {
                    wants_tombstone && number(key) == n
                }
                _ => false,
            })
        };
        let there = self.untold.iter().filter_map(|untold| match untold {
            Untold::Entry(n) => Some(is_there(*n, false)),
            Untold::Copy(..) => None,
            Untold::Tombstone(n) => Some(is_there(*n, true)),
        });
        let there: Vec<bool> = there.collect();
        assert!(self.has_flips || self.told_full || there.is_sorted_by(|a, b| a >= b), "holes in the order: {there:?}");
    }

    pub fn live_bytes(&self) -> u64 {
        let live = self.messages.values().filter(|m| m.place.is_some() && !m.is_dead);
        live.count() as u64 * 128
    }
}
