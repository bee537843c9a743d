//! A store that all cores share, as Cassandra is one: what an executor's engine of it does, and what becomes of a write whose
//! answer does not come.
//!
//! Writes of one user follow one another, a few at a time as one; those of different users do not wait for each other. A
//! write may have happened long before it is answered. One whose executor has died has happened, happens at some time, or
//! never. A read sees everything that was answered, and of the rest what it happens to; what was seen once stays.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use iris_shards::id::{Key, MessageId, UserId};
use iris_shards::storage::{Entry, Place, Record, StorageEvent, StorageRequest};

use crate::rng::Rng;

/// Copies that the store keeps.
pub const COPIES: u8 = 3;
/// Writes of a user that are made at once.
const GROUP_MAX: u64 = 4;

/// One write.
#[derive(Debug, Clone)]
struct Write {
    place: Place,
    record: Record,
}

/// What outlives all processes.
#[derive(Debug, Default)]
pub struct Store {
    rows: BTreeMap<UserId, BTreeMap<Place, Entry>>,
    taken: BTreeSet<(UserId, Key)>,
    /// Rows that were deleted: a write of one that comes late changes nothing.
    dead: BTreeSet<Place>,
    places: u64,
    /// Writes of the dead that may still happen.
    orphans: Vec<(UserId, Vec<Write>)>,
}

/// The store, as everybody has it.
pub type Common = Rc<RefCell<Store>>;

impl Store {
    fn apply(&mut self, user: &UserId, writes: &[Write]) {
        for write in writes {
            match &write.record {
                Record::Entry(entry) if !self.dead.contains(&write.place) => {
                    self.rows.entry(user.clone()).or_default().insert(write.place, entry.clone());
                }
                Record::Tombstone { key, kills, .. } => {
                    self.taken.insert((user.clone(), key.clone()));
                    if let Some(place) = kills {
                        self.dead.insert(*place);
                        self.rows.get_mut(user).and_then(|rows| rows.remove(place));
                    }
                }
                Record::Entry(_) | Record::Complete(_) => {}
            }
        }
    }

    /// Somebody reads: what he sees of the writes that nobody answers for has happened.
    fn look(&mut self, user: &UserId, rng: &mut Rng) {
        for (whose, writes) in std::mem::take(&mut self.orphans) {
            if whose == *user && rng.permille(500) {
                self.apply(&whose, &writes);
            } else {
                self.orphans.push((whose, writes));
            }
        }
    }

    pub fn ids(&self) -> Vec<MessageId> {
        self.rows.values().flat_map(BTreeMap::values).map(|entry| entry.key.id).collect()
    }
}

/// What waits for its turn at one user.
#[derive(Debug)]
enum Job {
    Write(u64, Write),
    Load(bool, Vec<Key>),
}

/// What is under way for one user.
#[derive(Debug)]
struct UnderWay {
    due_us: u64,
    jobs: Vec<Job>,
    is_applied: bool,
}

/// The engine of one executor.
#[derive(Debug)]
pub struct Shared {
    common: Common,
    waiting: BTreeMap<UserId, VecDeque<Job>>,
    under_way: BTreeMap<UserId, UnderWay>,
    /// Appends that were not told, in their order, and whether they were answered.
    order: VecDeque<(Write, bool)>,
    first: u64,
    reads: Vec<(u64, UserId, Key, Place)>,
    told: VecDeque<StorageEvent>,
    is_away: bool,
    flush_us: (u64, u64),
    pub slow_us: u64,
}

impl Shared {
    pub fn new(common: Common, flush_us: (u64, u64)) -> Self {
        Shared {
            common,
            waiting: BTreeMap::new(),
            under_way: BTreeMap::new(),
            order: VecDeque::new(),
            first: 0,
            reads: Vec::new(),
            told: VecDeque::new(),
            is_away: false,
            flush_us,
            slow_us: 0,
        }
    }

    /// The process has died.
    pub fn crash(self, rng: &mut Rng) -> Common {
        let mut store = self.common.borrow_mut();
        for (user, under_way) in self.under_way {
            let writes = writes_of(&under_way.jobs);
            match rng.below(3) {
                0 => store.apply(&user, &writes),
                1 => store.orphans.push((user, writes)),
                _ => {}
            }
        }
        drop(store);
        self.common
    }

    pub fn request(&mut self, request: StorageRequest, now_us: u64, rng: &mut Rng) {
        match request {
            StorageRequest::Append(record) => {
                let mut store = self.common.borrow_mut();
                store.places += 1;
                let write = Write { place: Place(store.places), record };
                let append = self.first + self.order.len() as u64;
                self.order.push_back((write.clone(), matches!(write.record, Record::Complete(_))));
                if let Some(user) = user_of(&write.record) {
                    self.waiting.entry(user.clone()).or_default().push_back(Job::Write(append, write));
                }
            }
            StorageRequest::Load { user, entries, keys } => {
                self.waiting.entry(user).or_default().push_back(Job::Load(entries, keys));
            }
            StorageRequest::Read { user, key, place } => {
                self.reads.push((now_us + rng.range(self.flush_us.0, self.flush_us.1) / 4, user, key, place));
            }
            StorageRequest::Trim { .. } => {}
            StorageRequest::Heard { .. } => panic!("nothing was said to have failed"),
        }
    }

    /// The end of a turn: whoever can begins.
    pub fn flush(&mut self, now_us: u64, rng: &mut Rng) {
        let idle: Vec<UserId> =
            self.waiting.keys().filter(|user| !self.under_way.contains_key(*user)).cloned().collect();
        for user in idle {
            let Some(waiting) = self.waiting.get_mut(&user) else { continue };
            let most = rng.range(1, GROUP_MAX) as usize;
            let writes = waiting.iter().take(most).take_while(|job| matches!(job, Job::Write(..))).count();
            let jobs: Vec<Job> = waiting.drain(..writes.max(1)).collect();
            if waiting.is_empty() {
                self.waiting.remove(&user);
            }
            let due_us = now_us + rng.range(self.flush_us.0, self.flush_us.1) + self.slow_us;
            let is_applied = rng.permille(300);
            if is_applied {
                self.common.borrow_mut().apply(&user, &writes_of(&jobs));
            }
            self.under_way.insert(user, UnderWay { due_us, jobs, is_applied });
        }
        self.tell_flushed();
    }

    fn tell_flushed(&mut self) {
        let count = self.order.iter().take_while(|(_, is_answered)| *is_answered).count();
        if count > 0 {
            self.first += count as u64;
            let places = self.order.drain(..count).map(|(write, _)| write.place).collect();
            self.told.push_back(StorageEvent::Flushed { places });
        }
    }

    /// The store confirms nothing for a while.
    pub fn set_away(&mut self, is_away: bool) {
        if self.is_away != is_away {
            self.is_away = is_away;
            self.told.push_back(StorageEvent::Away(is_away));
        }
    }

    pub fn next_at(&self) -> Option<u64> {
        let told = (!self.told.is_empty()).then_some(0);
        let reads = self.reads.iter().map(|(at, ..)| *at);
        let answers = reads.chain(self.under_way.values().map(|under_way| under_way.due_us));
        told.into_iter().chain(answers.filter(|_| !self.is_away)).min()
    }

    /// The next thing to tell, and what has reached the store with it. Call only when ready.
    pub fn tell(&mut self, now_us: u64, rng: &mut Rng) -> (Option<StorageEvent>, Vec<Record>) {
        if self.told.is_empty() {
            let reads: Vec<usize> = (0..self.reads.len()).filter(|&at| self.reads[at].0 <= now_us).collect();
            let due = self.under_way.iter().filter(|(_, under_way)| under_way.due_us <= now_us);
            let due: Vec<UserId> = due.map(|(user, _)| user.clone()).collect();
            if !reads.is_empty() && (due.is_empty() || rng.permille(500)) {
                self.answer_read(rng.pick(&reads), rng);
            } else if !due.is_empty() {
                let records = self.answer(&due[rng.index(due.len())], rng);
                self.flush(now_us, rng);
                return (self.told.pop_front(), records);
            }
        }
        (self.told.pop_front(), Vec::new())
    }

    fn answer_read(&mut self, at: usize, rng: &mut Rng) {
        let (_, user, key, place) = self.reads.swap_remove(at);
        let mut store = self.common.borrow_mut();
        store.look(&user, rng);
        let found = store.rows.get(&user).and_then(|rows| rows.get(&place)).cloned();
        self.told.push_back(match found {
            Some(Entry { sent_at, body, .. }) => StorageEvent::Read { user, key, sent_at, body },
            None => StorageEvent::Gone { user, key, place },
        });
    }

    fn answer(&mut self, user: &UserId, rng: &mut Rng) -> Vec<Record> {
        let Some(under_way) = self.under_way.remove(user) else { return Vec::new() };
        let writes = writes_of(&under_way.jobs);
        if !under_way.is_applied {
            self.common.borrow_mut().apply(user, &writes);
        }
        for job in under_way.jobs {
            match job {
                Job::Write(append, _) => self.order[(append - self.first) as usize].1 = true,
                Job::Load(entries, keys) => self.load(user, entries, &keys, rng),
            }
        }
        self.tell_flushed();
        writes.into_iter().map(|write| write.record).collect()
    }

    fn load(&mut self, user: &UserId, entries: bool, keys: &[Key], rng: &mut Rng) {
        let mut store = self.common.borrow_mut();
        store.look(user, rng);
        let mut seen: BTreeMap<Key, Place> = BTreeMap::new();
        for (&place, entry) in store.rows.get(user).into_iter().flatten() {
            seen.entry(entry.key.clone()).or_insert(place);
        }
        let rows = store.rows.get(user).filter(|_| entries).cloned().unwrap_or_default();
        for (place, mut entry) in rows {
            if seen[&entry.key] != place {
                // Stored twice, through two cores.
                store.dead.insert(place);
                store.rows.get_mut(user).and_then(|rows| rows.remove(&place));
                continue;
            }
            let body_bytes = entry.body.len() as u32;
            entry.body = Vec::new().into();
            self.told.push_back(StorageEvent::Recovered { record: Record::Entry(entry), body_bytes, place });
        }
        for key in keys.iter().filter(|key| store.taken.contains(&(user.clone(), (*key).clone()))) {
            let record = Record::Tombstone { user: user.clone(), key: key.clone(), taken_at: 0, kills: None };
            self.told.push_back(StorageEvent::Recovered { record, body_bytes: 0, place: Place(0) });
        }
        self.told.push_back(StorageEvent::Loaded { user: user.clone() });
    }

    pub fn ids(&self) -> Vec<MessageId> {
        self.common.borrow().ids()
    }
}

fn writes_of(jobs: &[Job]) -> Vec<Write> {
    let writes = jobs.iter().filter_map(|job| match job {
        Job::Write(_, write) => Some(write.clone()),
        Job::Load(..) => None,
    });
    writes.collect()
}

fn user_of(record: &Record) -> Option<&UserId> {
    match record {
        Record::Entry(entry) => Some(&entry.user),
        Record::Tombstone { user, .. } => Some(user),
        Record::Complete(_) => None,
    }
}
