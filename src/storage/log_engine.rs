//! Drives the log machine of one executor: performs its actions, brings it their completions.
//!
//! At most one flush, four reads and one slice are under way, each a glommio task; a completion waits in a queue until
//! the loop, woken by its bell, takes events. The machine is never borrowed across an await.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use glommio::io::ReadResult;
use hdrhistogram::Histogram;
use iris_shards::log::{Log, LogAction, LogEvent, ReadToken};
use iris_shards::storage::{StorageEvent, StorageRequest};

use super::data_dir::LogSeat;
use super::disk_thread::{Answer, Asked, Job};
use super::files::Files;
use super::hold::Hold;
use super::scan::{self, Scanned};
use super::{StorageError, fatal};
use crate::admin::LogStatus;
use crate::bell::Bell;
use crate::executor::{histogram, percentiles};

/// Batches of recovered events in memory.
const SCANNED_MAX: usize = 4;
/// A log has one file being made and one being removed.
const ANSWERS_MAX: usize = 4;
const TICK_MS: u64 = 1_000;

/// The embedded log of one executor.
pub struct LogEngine {
    state: State,
    seat: LogSeat,
    asked: Asked,
    answers: Receiver<Answer>,
    files: Rc<Files>,
    done: Rc<RefCell<VecDeque<Done>>>,
    hold: Hold,
    /// The write that the next sync belongs to.
    write: Option<(u32, u32, Vec<u8>)>,
    actions: Vec<LogAction>,
    events: Vec<StorageEvent>,
    recovered: bool,
    now_ms: u64,
    tick_ms: u64,
    is_closed: bool,
    /// Tasks that have not ended.
    under_way: Rc<Cell<usize>>,
    /// How long flushes took, in µs.
    flush_us: Histogram<u64>,
}

enum State {
    /// Requests wait until everything is recovered.
    Recovering {
        scanned: Receiver<Scanned>,
        waiting: Vec<StorageRequest>,
        is_closing: bool,
    },
    Open(Box<Log>),
}

/// What a task has done.
enum Done {
    /// After this many µs.
    Flushed(u64),
    Read(ReadToken, Option<ReadResult>),
}

impl LogEngine {
    /// Starts the recovery of a log. Call it on the executor; its bell rings for everything that completes.
    pub fn open(seat: LogSeat, bell: &Bell) -> Result<Self, StorageError> {
        let (to, scanned) = bounded(SCANNED_MAX);
        scan::start(&seat.dir, &seat.config, to, bell.clone())
            .map_err(super::segment::failed("start the recovery of", &seat.dir))?;
        let (sender, answers) = bounded(ANSWERS_MAX);
        let asked = Asked { dir: seat.dir.clone(), answers: sender, bell: bell.clone() };
        Ok(LogEngine {
            state: State::Recovering { scanned, waiting: Vec::new(), is_closing: false },
            files: Rc::new(Files::new(seat.dir.clone())),
            seat,
            asked,
            answers,
            done: Rc::default(),
            hold: Hold::default(),
            write: None,
            actions: Vec::new(),
            events: Vec::new(),
            recovered: false,
            now_ms: 0,
            tick_ms: 0,
            is_closed: false,
            under_way: Rc::default(),
            flush_us: histogram(),
        })
    }

    /// See [`super::Engine::request`].
    pub fn request(&mut self, request: StorageRequest) {
        match &mut self.state {
            State::Recovering { waiting, .. } => waiting.push(request),
            State::Open(_) => {
                match request {
                    StorageRequest::Append(_) => self.hold.on_append(),
                    // Begins with the end of the turn.
                    StorageRequest::Read { .. } => self.hold.release(),
                    StorageRequest::Trim { .. } | StorageRequest::Heard { .. } | StorageRequest::Load { .. } => {}
                }
                self.handle(LogEvent::Request(request));
            }
        }
    }

    /// See [`super::Engine::commit`].
    pub fn commit(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if matches!(self.state, State::Recovering { .. }) {
            return;
        }
        if now_ms >= self.tick_ms + TICK_MS {
            self.tick_ms = now_ms;
            self.handle(LogEvent::Tick);
        } else if !self.hold.is_held(Instant::now()) {
            self.handle(LogEvent::TurnEnded);
        }
    }

    /// See [`super::Engine::held_until`].
    pub fn held_until(&self) -> Option<Instant> {
        self.hold.until()
    }

    /// See [`super::Engine::take_events`].
    pub fn take_events(&mut self, events: &mut Vec<StorageEvent>) {
        if let State::Recovering { .. } = self.state {
            self.take_scanned(events);
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.handle(match answer {
                Answer::Prepared { segment } => LogEvent::Prepared { segment },
                Answer::PrepareFailed { segment } => LogEvent::PrepareFailed { segment },
                Answer::Removed { segment } => LogEvent::Removed { segment },
            });
        }
        while let Some(done) = self.next_done() {
            self.on_done(&done);
        }
        events.append(&mut self.events);
    }

    /// See [`super::Engine::take_recovered`].
    pub fn take_recovered(&mut self) -> bool {
        std::mem::take(&mut self.recovered)
    }

    /// See [`super::Engine::close`].
    pub fn close(&mut self) {
        match &mut self.state {
            State::Recovering { is_closing, .. } => *is_closing = true,
            State::Open(_) => {
                self.hold.release();
                self.handle(LogEvent::Close);
            }
        }
    }

    /// See [`super::Engine::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// See [`super::Engine::is_busy`].
    pub fn is_busy(&self) -> bool {
        self.under_way.get() > 0 || self.log().is_none_or(Log::wants_tick)
    }

    /// See [`super::Engine::has_events`].
    pub fn has_events(&self) -> bool {
        let scanned = matches!(&self.state, State::Recovering { scanned, .. } if !scanned.is_empty());
        scanned || !self.events.is_empty() || !self.answers.is_empty() || !self.done.borrow().is_empty()
    }

    /// See [`super::Engine::status`].
    pub fn status(&self) -> LogStatus {
        let Some(log) = self.log() else { return LogStatus::default() };
        LogStatus {
            segments: log.segments() as u64,
            bytes: log.used_bytes(),
            live_bytes: log.live_bytes(),
            unflushed: 0,
            unflushed_bytes: 0,
            flushes: self.flush_us.len(),
            flush_us: percentiles(&self.flush_us),
            away_since_unix_ms: None,
        }
    }

    /// The directory of its segments.
    pub fn dir(&self) -> &PathBuf {
        &self.seat.dir
    }

    /// The machine, for the counters; `None` while it recovers.
    pub fn log(&self) -> Option<&Log> {
        match &self.state {
            State::Recovering { .. } => None,
            State::Open(log) => Some(log),
        }
    }

    /// One batch per turn, so that a large recovery does not hold up the executor.
    fn take_scanned(&mut self, events: &mut Vec<StorageEvent>) {
        let State::Recovering { scanned, .. } = &self.state else { return };
        match scanned.try_recv() {
            Ok(Scanned::Events(mut batch)) => {
                events.append(&mut batch);
                // There may be another one already, whose ring was this turn's.
                self.asked.bell.ring();
            }
            Ok(Scanned::Done(log)) => self.become_open(log),
            Err(_) => {}
        }
    }

    fn become_open(&mut self, log: Box<Log>) {
        self.recovered = true;
        let before = std::mem::replace(&mut self.state, State::Open(log));
        let State::Recovering { waiting, is_closing, .. } = before else { return };
        waiting.into_iter().for_each(|request| self.request(request));
        if is_closing {
            self.close();
        }
    }

    fn next_done(&self) -> Option<Done> {
        self.done.borrow_mut().pop_front()
    }

    fn on_done(&mut self, done: &Done) {
        match done {
            Done::Flushed(us) => {
                self.flush_us.saturating_record(*us);
                self.hold.on_flushed(*us, Instant::now());
                self.handle(LogEvent::Written);
                self.handle(LogEvent::Synced);
            }
            Done::Read(token, Some(bytes)) => self.handle(LogEvent::ReadDone { token: *token, bytes }),
            Done::Read(token, None) => self.handle(LogEvent::ReadFailed { token: *token }),
        }
    }

    fn handle(&mut self, event: LogEvent<'_>) {
        let State::Open(log) = &mut self.state else { return };
        let mut actions = std::mem::take(&mut self.actions);
        log.handle(self.now_ms, event, &mut actions);
        actions.drain(..).for_each(|action| self.perform(action));
        self.actions = actions;
    }

    fn perform(&mut self, action: LogAction) {
        match action {
            LogAction::Tell(event) => self.events.push(event),
            LogAction::Write { segment, offset, bytes } => self.write = Some((segment, offset, bytes)),
            LogAction::Sync { .. } => {
                self.hold.on_flush();
                self.flush();
            }
            LogAction::Read { segment, offset, bytes, token } => self.read((segment, offset, bytes), token),
            LogAction::Prepare { segment } => {
                let bytes = u64::from(self.seat.config.segment_bytes);
                self.ask(Job::Prepare { segment, bytes, asked: self.asked.clone() });
            }
            LogAction::Remove { segment } => {
                self.files.close(segment);
                self.ask(Job::Remove { segment, asked: self.asked.clone() });
            }
            LogAction::Report(damage) => scan::report(&self.seat.dir, damage),
            LogAction::Closed => self.is_closed = true,
        }
    }

    fn flush(&mut self) {
        let Some((segment, offset, bytes)) = self.write.take() else { return };
        let files = self.files.clone();
        self.spawn(async move {
            let began = Instant::now();
            files.flush(segment, offset, bytes).await;
            Done::Flushed(began.elapsed().as_micros() as u64)
        });
    }

    fn read(&self, (segment, offset, bytes): (u32, u32, u32), token: ReadToken) {
        let files = self.files.clone();
        self.spawn(async move { Done::Read(token, files.read(segment, offset, bytes).await) });
    }

    fn spawn(&self, work: impl Future<Output = Done> + 'static) {
        let (done, bell) = (self.done.clone(), self.asked.bell.clone());
        let under_way = self.under_way.clone();
        under_way.set(under_way.get() + 1);
        glommio::spawn_local(async move {
            let result = work.await;
            done.borrow_mut().push_back(result);
            under_way.set(under_way.get() - 1);
            bell.ring();
        })
        .detach();
    }

    fn ask(&self, job: Job) {
        if self.seat.jobs.try_send(job).is_err() {
            fatal("the disk thread has ended, or does not get on");
        }
    }
}
