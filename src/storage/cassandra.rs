//! The engine for Cassandra and ScyllaDB, as one executor drives it: requests in, events out, the cluster behind threads.
//!
//! It holds no messages: what is told `Flushed` has reached the consistency level, in the order of the appends. An
//! append that the cluster does not answer is tried again until it does; meanwhile the core is told `Full`, and refuses.
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
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use iris_shards::id::{Body, Key, NodeId, UserId};
use iris_shards::storage::{Entry, Record, StorageEvent, StorageRequest};
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

pub use self::fault::StorageFault;
pub use self::options::{CassandraOptions, Level};
pub use self::session::connect;

use self::inboxes::Inboxes;
use self::job::{Answer, Asked, Asking, Job, Row, Slice};
use self::place::{At, KEPT, at_of};
use super::fatal;
use crate::admin::LogStatus;
use crate::bell::Bell;
use crate::executor::{histogram, percentiles};

/// Answers that wait for an executor; the storage thread waits for room.
const ANSWERS_MAX: usize = 1_024;
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
    answers: Receiver<Answer>,
    inboxes: Inboxes,
    /// Requests from before the cluster was reached.
    early: Vec<StorageRequest>,
    /// Jobs that found no room at the thread.
    held: VecDeque<Job>,
    /// Reads asked for in this turn.
    wanted: BTreeMap<(UserId, i32, i32), Vec<(At, Key)>>,
    slices: VecDeque<Slice>,
    reads_under_way: usize,
    lookups_under_way: usize,
    events: Vec<StorageEvent>,
    loaded: Vec<UserId>,
    taken: Vec<(UserId, Key, Option<u64>)>,
    /// Whether the cluster was reached once, and that was not told yet.
    is_opened: bool,
    reserved_until: At,
    is_reserving: bool,
    is_away: bool,
    now_ms: u64,
    floors_ms: u64,
    closing_since_ms: Option<u64>,
    begun: BTreeMap<u64, Instant>,
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
            lookups_under_way: 0,
            events: Vec::new(),
            loaded: Vec::new(),
            taken: Vec::new(),
            is_opened: false,
            reserved_until: 0,
            is_reserving: false,
            is_away: false,
            now_ms: 0,
            floors_ms: 0,
            closing_since_ms: None,
            begun: BTreeMap::new(),
            write_us: histogram(),
            seat,
        };
        engine.send(Job::Open { executor: engine.seat.executor, now: at_of(wall_ms()) });
        engine
    }

    /// See [`super::Engine::request`].
    pub fn request(&mut self, request: StorageRequest) {
        match request {
            // Times of rows follow those of this node's last life.
            request if self.reserved_until == 0 => self.early.push(request),
            StorageRequest::Append(record) => self.inboxes.append(record, wall_ms()),
            StorageRequest::Read { user, key, place } => {
                let (writer, bucket, at) = self.inboxes.slice_of(place);
                self.wanted.entry((user, bucket, writer)).or_default().push((at, key));
            }
            StorageRequest::Load { user, keys } => {
                keys.iter().for_each(|key| self.was_taken(&user, key));
                self.load(&user);
            }
            // The tombstone has named the row, and what expires goes by itself.
            StorageRequest::Trim { .. } | StorageRequest::Heard { .. } => {}
        }
    }

    /// Wants everything that is stored of a user: `Recovered` events, then [`CassandraEngine::take_loaded`]. What is
    /// appended for the user meanwhile is written behind that.
    pub fn load(&mut self, user: &UserId) {
        self.lookups_under_way += 1;
        self.inboxes.load(user);
    }

    /// Users of whom everything was told.
    pub fn take_loaded(&mut self) -> Vec<UserId> {
        std::mem::take(&mut self.loaded)
    }

    /// Wants to know whether this key was taken, from the database: [`CassandraEngine::take_taken`].
    pub fn was_taken(&mut self, user: &UserId, key: &Key) {
        self.lookups_under_way += 1;
        self.send(Job::WasTaken { user: user.clone(), key: key.clone() });
    }

    /// Keys that were asked for, and when they were taken.
    pub fn take_taken(&mut self) -> Vec<(UserId, Key, Option<u64>)> {
        std::mem::take(&mut self.taken)
    }

    /// See [`super::Engine::commit`].
    pub fn commit(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for ((user, bucket, writer), mut wanted) in std::mem::take(&mut self.wanted) {
            wanted.sort_unstable();
            self.slices.push_back(Slice { user, bucket, writer, wanted });
        }
        if self.reserved_until == 0 {
            return;
        }
        if now_ms >= self.floors_ms + FLOORS_MS || self.closing_since_ms.is_some() {
            self.floors_ms = now_ms;
            self.inboxes.write_floors();
        }
        self.reserve();
        self.send_jobs();
        self.look_whether_away();
    }

    fn reserve(&mut self) {
        let newest = self.inboxes.clock.last().max(at_of(wall_ms()));
        if !self.is_reserving && newest + KEPT / 2 > self.reserved_until {
            self.is_reserving = true;
            self.send(Job::Reserve { executor: self.seat.executor, until: newest + KEPT });
        }
    }

    fn send_jobs(&mut self) {
        while let Some(job) = self.held.pop_front() {
            if !self.try_send(job) {
                return;
            }
        }
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
            && let Some(job) = self.inboxes.next_job(self.now_ms)
        {
            if let Job::Write { ticket, .. } = &job {
                self.begun.insert(*ticket, Instant::now());
            }
            self.send(job);
        }
    }

    fn send(&mut self, job: Job) {
        if !self.held.is_empty() {
            return self.held.push_back(job);
        }
        self.try_send(job);
    }

    /// Whether there was room; else the job is held.
    fn try_send(&mut self, job: Job) -> bool {
        match self.seat.jobs.try_send((job, self.asked.clone())) {
            Ok(()) => true,
            Err(TrySendError::Full((job, _))) => {
                self.held.push_front(job);
                false
            }
            Err(TrySendError::Closed(_)) => fatal("the storage thread has ended"),
        }
    }

    /// The cluster is away when a write is not confirmed for long, and back when all such are.
    fn look_whether_away(&mut self) {
        let oldest_ms = self.inboxes.under_way().1.map_or(0, |since_ms| self.now_ms.saturating_sub(since_ms));
        let is_away = oldest_ms > self.seat.options.away_ms;
        if is_away != self.is_away {
            self.is_away = is_away;
            self.events.push(StorageEvent::Full(is_away));
            self.asked.bell.ring();
            match is_away {
                true => tracing::warn!("the storage cluster confirms nothing: messages for absent users are refused"),
                false => tracing::info!("the storage cluster is back"),
            }
        }
    }

    /// See [`super::Engine::take_events`].
    pub fn take_events(&mut self, events: &mut Vec<StorageEvent>) {
        while let Ok(answer) = self.answers.try_recv() {
            self.on_answer(answer);
        }
        let places = self.inboxes.take_written();
        if !places.is_empty() {
            self.events.push(StorageEvent::Flushed { places });
        }
        events.append(&mut self.events);
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Opened { behind, until } => {
                self.inboxes.clock.start_behind(behind);
                self.reserved_until = until;
                self.is_opened = true;
                std::mem::take(&mut self.early).into_iter().for_each(|request| self.request(request));
            }
            Answer::Refused { why } => fatal(&why),
            Answer::Reserved { until } => (self.reserved_until, self.is_reserving) = (until, false),
            Answer::Written { ticket } => {
                if let Some(begun) = self.begun.remove(&ticket) {
                    self.write_us.saturating_record(begun.elapsed().as_micros() as u64);
                }
                self.inboxes.written(ticket);
            }
            Answer::Read { slice, found } => self.on_read(slice, found),
            Answer::Rows { user, rows } => self.on_rows(&user, rows),
            Answer::Loaded { user, floors } => {
                self.lookups_under_way -= 1;
                self.inboxes.loaded(&user, &floors);
                self.loaded.push(user);
            }
            Answer::WasTaken { user, key, taken_at } => {
                self.lookups_under_way -= 1;
                self.taken.push((user, key, taken_at));
            }
        }
    }

    /// What is not there was taken or has expired elsewhere, which today's vocabulary calls damaged.
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
                    self.events.push(StorageEvent::Damaged { user, key: wanted.1, place });
                }
            }
        }
    }

    fn on_rows(&mut self, user: &UserId, rows: Vec<Row>) {
        let places = self.inboxes.found(user, &rows);
        for (row, place) in rows.into_iter().zip(places) {
            let entry = Entry { user: user.clone(), key: row.key, sent_at: row.sent_at, body: Body::from([]) };
            let record = Record::Entry(entry);
            self.events.push(StorageEvent::Recovered { record, body_bytes: row.body_bytes, place });
        }
    }

    /// See [`super::Engine::take_recovered`]. Nothing is read at the start: inboxes are loaded when they are needed.
    pub fn take_recovered(&mut self) -> bool {
        std::mem::take(&mut self.is_opened)
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
        has_nothing || (self.is_away && self.now_ms > since_ms + CLOSE_MS_MAX)
    }

    /// See [`super::Engine::is_busy`].
    pub fn is_busy(&self) -> bool {
        self.reserved_until == 0 || self.inboxes.is_writing() || !self.held.is_empty() || !self.slices.is_empty()
    }

    /// See [`super::Engine::has_events`].
    pub fn has_events(&self) -> bool {
        !self.answers.is_empty() || !self.events.is_empty() || self.is_opened
    }

    /// See [`super::Engine::status`].
    pub fn status(&self) -> LogStatus {
        LogStatus { flushes: self.write_us.len(), flush_us: percentiles(&self.write_us), ..LogStatus::default() }
    }

    /// Whether nothing is confirmed at the moment.
    pub fn is_away(&self) -> bool {
        self.is_away
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
