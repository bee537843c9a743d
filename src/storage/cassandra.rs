//! The engine for Cassandra and ScyllaDB, as one executor drives it: requests in, events out, the cluster behind threads.
//!
//! It holds no messages: what is told `Flushed` has reached the consistency level, in the order of the appends. An
//! append that the cluster does not answer is tried again until it does; meanwhile the core is told `Away`, and refuses.
//! `docs/storage-engines.md` says why the tables are as they are.

mod fault;
mod inbox;
mod inboxes;
mod job;
mod options;
mod order;
mod place;
pub mod schema;
mod session;
pub mod tables;
mod thread;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use iris_shards::id::{Body, Key, NodeId, UserId};
use iris_shards::storage::{Entry, Place, Record, StorageEvent, StorageRequest};
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

pub use self::fault::StorageFault;
pub use self::options::{CassandraOptions, Level, TlsFiles};
pub use self::place::DAY_MS;
pub use self::session::{connect, copies};
pub use self::thread::first_copies;

use self::inboxes::Inboxes;
use self::job::{Answer, Asked, Asking, Job, Row, Slice, Wanted};
use self::place::{At, KEPT, at_of};
use super::fatal;
use crate::admin::LogStatus;
use crate::bell::Bell;
use crate::clock::unix_ms;
use crate::executor::{histogram, percentiles};

/// Answers that wait for an executor; the storage thread waits for room.
const ANSWERS_MAX: usize = 1_024;
/// Of what a core never has to name.
const NOWHERE: Place = Place(0);
/// How often floors are written that nothing else carries.
const FLOORS_MS: u64 = 1_000;
/// How long a closing engine waits for a cluster that is away. What it gives up was never told.
const CLOSE_MS_MAX: u64 = 5_000;

/// The threads that speak to one cluster.
pub struct CassandraThreads {
    jobs: Vec<Sender<Asking>>,
    options: CassandraOptions,
}

impl CassandraThreads {
    /// Starts them. Connecting comes with the first engine.
    pub fn start(options: &CassandraOptions) -> Result<Self, StorageFault> {
        Ok(CassandraThreads { jobs: thread::start(options)?, options: options.clone() })
    }

    /// What one executor needs to open its engine. Moves to its thread.
    pub fn seat(&self, executor: u16, node: NodeId) -> CassandraSeat {
        let jobs = self.jobs[usize::from(executor) % self.jobs.len()].clone();
        CassandraSeat { jobs, options: self.options.clone(), executor, node }
    }
}

/// See [`CassandraThreads::seat`].
pub struct CassandraSeat {
    jobs: Sender<Asking>,
    options: CassandraOptions,
    executor: u16,
    node: NodeId,
}

/// The engine of one executor.
pub struct CassandraEngine {
    seat: CassandraSeat,
    asked: Arc<Asked>,
    answers: Receiver<(u64, Answer)>,
    inboxes: Inboxes,
    /// Requests from before the cluster was reached.
    early: Vec<StorageRequest>,
    /// Jobs that found no room at the thread.
    held: VecDeque<(u64, Job)>,
    /// Reads asked for in this turn.
    wanted: BTreeMap<(UserId, i32, i32), Vec<(At, Key)>>,
    slices: VecDeque<Slice>,
    reads_under_way: usize,
    events: Vec<StorageEvent>,
    /// Whether it was told that there is nothing to recover.
    has_recovered: bool,
    reserved_until: At,
    is_reserving: bool,
    /// In ms since the Unix epoch.
    away_since: Option<u64>,
    now_ms: u64,
    floors_ms: u64,
    closing_since_ms: Option<u64>,
    /// Jobs that were not answered, by their numbers, the oldest first.
    begun: BTreeMap<u64, Instant>,
    next_number: u64,
    write_us: Histogram<u64>,
}

impl CassandraEngine {
    /// Connects in the background; requests wait until that is done. The bell rings for everything that completes.
    pub fn open(seat: CassandraSeat, bell: &Bell) -> Self {
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let writer = seat.node.0 as i32;
        let mut engine = CassandraEngine {
            asked: Arc::new(Asked { answers: sender, bell: bell.clone(), writer }),
            answers,
            inboxes: Inboxes::new(writer, seat.options.writes_max),
            early: Vec::new(),
            held: VecDeque::new(),
            wanted: BTreeMap::new(),
            slices: VecDeque::new(),
            reads_under_way: 0,
            events: Vec::new(),
            has_recovered: false,
            reserved_until: 0,
            is_reserving: false,
            away_since: None,
            now_ms: 0,
            floors_ms: 0,
            closing_since_ms: None,
            begun: BTreeMap::new(),
            next_number: 0,
            write_us: histogram(),
            seat,
        };
        engine.send(Job::Open { executor: engine.seat.executor, now: at_of(unix_ms()) });
        bell.ring();
        engine
    }

    /// See [`super::Engine::request`].
    pub fn request(&mut self, request: StorageRequest) {
        match request {
            // Times of rows follow those of this node's last life.
            request if self.reserved_until == 0 => self.early.push(request),
            StorageRequest::Append(record) => self.inboxes.append(record, unix_ms()),
            StorageRequest::Read { user, key, place } => {
                let (writer, bucket, at) = self.inboxes.slice_of(place);
                self.wanted.entry((user, bucket, writer)).or_default().push((at, key));
            }
            StorageRequest::Load { user, entries, keys } => self.inboxes.load(&user, Wanted { entries, keys }),
            // The tombstone has named the row, and what expires goes by itself.
            StorageRequest::Trim { .. } | StorageRequest::Heard { .. } => {}
        }
    }

    /// See [`super::Engine::commit`].
    pub fn commit(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for ((user, bucket, writer), mut wanted) in std::mem::take(&mut self.wanted) {
            wanted.sort_unstable();
            self.slices.push_back(Slice { user, bucket, writer, wanted });
        }
        self.look_whether_away();
        if self.reserved_until == 0 {
            return self.send_held();
        }
        if now_ms >= self.floors_ms + FLOORS_MS || self.closing_since_ms.is_some() {
            self.floors_ms = now_ms;
            self.inboxes.write_floors();
        }
        self.reserve();
        self.send_jobs();
    }

    fn reserve(&mut self) {
        let newest = self.inboxes.clock.last().max(at_of(unix_ms()));
        if !self.is_reserving && newest + KEPT / 2 > self.reserved_until {
            self.is_reserving = true;
            self.send(Job::Reserve { executor: self.seat.executor, until: newest + KEPT });
        }
    }

    fn send_held(&mut self) {
        while let Some((number, job)) = self.held.pop_front() {
            if !self.try_send(number, job) {
                return;
            }
        }
    }

    fn send_jobs(&mut self) {
        self.send_held();
        while self.held.is_empty()
            && self.reads_under_way < self.seat.options.reads_max
            && let Some(slice) = self.slices.pop_front()
        {
            self.reads_under_way += 1;
            self.send(Job::Read(slice));
        }
        // Times that were not kept for this node must not reach the database.
        let may_write = self.inboxes.clock.last() < self.reserved_until;
        while may_write
            && self.held.is_empty()
            && let Some(job) = self.inboxes.next_job(self.next_number)
        {
            self.send(job);
        }
    }

    /// It has the number `next_number`.
    fn send(&mut self, job: Job) {
        let number = self.next_number;
        self.next_number += 1;
        self.begun.insert(number, Instant::now());
        if !self.held.is_empty() {
            return self.held.push_back((number, job));
        }
        self.try_send(number, job);
    }

    /// Whether there was room; else the job is held.
    fn try_send(&mut self, number: u64, job: Job) -> bool {
        match self.seat.jobs.try_send(Asking { number, job, asked: self.asked.clone() }) {
            Ok(()) => true,
            Err(TrySendError::Full(asking)) => {
                self.held.push_front((number, asking.job));
                false
            }
            Err(TrySendError::Closed(_)) => fatal("the storage thread has ended"),
        }
    }

    /// The cluster is away when something is not answered for long, and back when all such is: appends are told in their
    /// order, so one that hangs holds up all.
    fn look_whether_away(&mut self) {
        let oldest = self.begun.first_key_value().map_or(Duration::ZERO, |(_, begun)| begun.elapsed());
        let is_away = oldest.as_millis() as u64 > self.seat.options.away_ms;
        if is_away != self.away_since.is_some() {
            self.away_since = is_away.then(|| unix_ms().saturating_sub(oldest.as_millis() as u64));
            self.events.push(StorageEvent::Away(is_away));
            self.asked.bell.ring();
            match is_away {
                true => tracing::warn!("the storage cluster confirms nothing: messages for absent users are refused"),
                false => tracing::info!("the storage cluster is back"),
            }
        }
    }

    /// See [`super::Engine::take_events`].
    pub fn take_events(&mut self, events: &mut Vec<StorageEvent>) {
        while let Ok((number, answer)) = self.answers.try_recv() {
            self.on_answer(number, answer);
        }
        let places = self.inboxes.take_written();
        if !places.is_empty() {
            self.events.push(StorageEvent::Flushed { places });
        }
        events.append(&mut self.events);
    }

    fn on_answer(&mut self, number: u64, answer: Answer) {
        if let Answer::Rows { user, rows, outdone } = answer {
            return self.on_rows(&user, rows, outdone);
        }
        let Some(begun) = self.begun.remove(&number) else { return };
        match answer {
            Answer::Opened { behind, until } => {
                self.inboxes.clock.start_behind(behind);
                self.reserved_until = until;
                std::mem::take(&mut self.early).into_iter().for_each(|request| self.request(request));
            }
            Answer::Reserved { until } => (self.reserved_until, self.is_reserving) = (until, false),
            Answer::Written => {
                self.write_us.saturating_record(begun.elapsed().as_micros() as u64);
                self.inboxes.done(number);
            }
            Answer::Read { slice, found } => self.on_read(slice, found),
            Answer::Loaded { user, found, taken } => {
                if let Some(found) = found {
                    self.inboxes.loaded(&user, &found);
                }
                self.inboxes.done(number);
                self.events.extend(taken.into_iter().map(|(key, taken_at)| tombstone(user.clone(), key, taken_at)));
                self.events.push(StorageEvent::Loaded { user });
            }
            Answer::Rows { .. } => {}
        }
    }

    /// What is not there was taken or has expired elsewhere.
    fn on_read(&mut self, slice: Slice, found: Vec<(At, Key, u64, Body)>) {
        self.reads_under_way -= 1;
        let mut found = found.into_iter().peekable();
        for wanted in slice.wanted {
            let user = slice.user.clone();
            while found.next_if(|(at, key, ..)| (at, key) < (&wanted.0, &wanted.1)).is_some() {}
            match found.next_if(|(at, key, ..)| (*at, key) == (wanted.0, &wanted.1)) {
                Some((_, key, sent_at, body)) => self.events.push(StorageEvent::Read { user, key, sent_at, body }),
                None => {
                    let place = self.inboxes.place_of(slice.writer, &wanted);
                    self.inboxes.gone(&user, place);
                    self.events.push(StorageEvent::Gone { user, key: wanted.1, place });
                }
            }
        }
    }

    fn on_rows(&mut self, user: &UserId, rows: Vec<Row>, outdone: Vec<(i32, At, Key)>) {
        let places = self.inboxes.found(user, &rows);
        for (row, place) in rows.into_iter().zip(places) {
            let entry = Entry { user: user.clone(), key: row.key, sent_at: row.sent_at, body: Body::from([]) };
            let record = Record::Entry(entry);
            self.events.push(StorageEvent::Recovered { record, body_bytes: row.body_bytes, place });
        }
        outdone.into_iter().for_each(|row| self.inboxes.outdone(user, row));
    }

    /// See [`super::Engine::take_recovered`]. Nothing is read at the start: inboxes are loaded when they are needed.
    pub fn take_recovered(&mut self) -> bool {
        !std::mem::replace(&mut self.has_recovered, true)
    }

    /// See [`super::Engine::close`].
    pub fn close(&mut self) {
        self.closing_since_ms.get_or_insert(self.now_ms);
        self.asked.bell.ring();
    }

    /// See [`super::Engine::is_closed`].
    pub fn is_closed(&self) -> bool {
        let Some(since_ms) = self.closing_since_ms else { return false };
        let has_nothing =
            self.early.is_empty() && self.inboxes.untold() == 0 && !self.inboxes.is_writing() && self.held.is_empty();
        has_nothing || (self.away_since.is_some() && self.now_ms > since_ms + CLOSE_MS_MAX)
    }

    /// See [`super::Engine::is_busy`].
    pub fn is_busy(&self) -> bool {
        !self.begun.is_empty() || self.inboxes.is_writing() || !self.slices.is_empty()
    }

    /// See [`super::Engine::has_events`].
    pub fn has_events(&self) -> bool {
        !self.answers.is_empty() || !self.events.is_empty() || !self.has_recovered
    }

    /// See [`super::Engine::status`].
    pub fn status(&self) -> LogStatus {
        LogStatus {
            flushes: self.write_us.len(),
            flush_us: percentiles(&self.write_us),
            away_since_unix_ms: self.away_since,
            ..LogStatus::default()
        }
    }
}

fn tombstone(user: UserId, key: Key, taken_at: u64) -> StorageEvent {
    let record = Record::Tombstone { user, key, taken_at, kills: None };
    StorageEvent::Recovered { record, body_bytes: 0, place: NOWHERE }
}
