//! The threads of a generator, from the main thread's side: start, wait for conditions, end, and what they report.

use super::board::{Board, Phase, Totals};
use super::busy::Busy;
use super::pacer::Pace;
use super::worker::{User, Worker};
use crate::ledger::Harvest;
use crate::report::Fields;
use crate::wire::Wire;
use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A thread that came this late to one in a hundred scheduled messages may be what was measured, µs.
const LATE_P99_US_MAX: f64 = 5_000.0;
/// A thread that was on a CPU, or waited for one, for more than this share of the time may be what was measured.
const SATURATED_SHARE: f64 = 0.95;
const POLL: Duration = Duration::from_millis(2);

/// What a thread brings home.
pub type Outcome = Result<(Harvest, Busy)>;
/// What a thread runs.
pub type Body = Box<dyn FnOnce() -> Outcome + Send>;

/// Running threads.
pub struct Crew {
    board: Arc<Board>,
    users: u64,
    threads: Vec<JoinHandle<Outcome>>,
}

/// What a crew did.
#[derive(Default)]
pub struct CrewReport {
    /// All threads' totals and latencies.
    pub harvest: Harvest,
    threads: Vec<Busy>,
}

impl Crew {
    /// One thread for each share of the users, on `cpus` in turn, if there are any.
    pub fn start<W: Wire>(shares: Vec<Vec<User<W>>>, body_bytes: usize, pace: Pace, cpus: &[usize]) -> Result<Self> {
        let board = Arc::new(Board::new(shares.len()));
        let users = shares.iter().map(|share| share.len() as u64).sum();
        let bodies = talkers((&board, 0), shares, body_bytes, pace)?;
        Self::of(board, bodies, users, cpus)
    }

    /// Threads that run anything, by one board. `users`: how many log in before the first phase is over.
    pub fn of(board: Arc<Board>, bodies: Vec<Body>, users: u64, cpus: &[usize]) -> Result<Self> {
        Self { board, users, threads: Vec::new() }.with_threads(bodies, cpus)
    }

    fn with_threads(mut self, bodies: Vec<Body>, cpus: &[usize]) -> Result<Self> {
        for (thread, body) in bodies.into_iter().enumerate() {
            let cpu = cpus.get(thread % cpus.len().max(1)).copied();
            let pinned = move || {
                cpu.map_or(Ok(()), pin)?;
                body()
            };
            self.threads.push(thread::Builder::new().name(format!("load-{thread}")).spawn(pinned)?);
        }
        Ok(self)
    }

    /// Waits until every user is logged in.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let users = self.users;
        if self.wait(limit, |totals| totals.ready >= users) {
            return Ok(());
        }
        bail!("{} of {users} users logged in within {} s", self.totals().ready, limit.as_secs())
    }

    /// Waits until `is_reached`; false if the time is up or the crew has failed.
    pub fn wait(&self, limit: Duration, mut is_reached: impl FnMut(&Totals) -> bool) -> bool {
        let end = Instant::now() + limit;
        while !is_reached(&self.board.totals()) {
            if self.has_failed() || Instant::now() > end {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// Starts a phase.
    pub fn advance(&self, phase: Phase) {
        self.board.advance(phase);
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        self.board.totals()
    }

    /// A connection was lost, or a thread ended.
    pub fn has_failed(&self) -> bool {
        self.board.has_failed() || self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends the threads; connections are closed.
    pub fn finish(self) -> Result<CrewReport> {
        self.board.advance(Phase::Done);
        let mut report = CrewReport::default();
        for handle in self.threads {
            let (harvest, busy) = handle.join().map_err(|_| anyhow!("a generator thread panicked"))??;
            report.harvest.add(harvest);
            report.threads.push(busy);
        }
        Ok(report)
    }
}

/// A body for each share of the users, the threads of `board` from `first` on.
pub fn talkers<W: Wire>(
    (board, first): (&Arc<Board>, usize),
    shares: Vec<Vec<User<W>>>,
    body_bytes: usize,
    pace: Pace,
) -> Result<Vec<Body>> {
    let speakers = |share: &[User<W>]| share.iter().filter(|user| user.ledger.is_scheduled()).count();
    let all: usize = shares.iter().map(|share| speakers(share)).sum();
    let mut bodies: Vec<Body> = Vec::new();
    for (thread, share) in shares.into_iter().enumerate() {
        let pace = pace.share(speakers(&share), all);
        let worker = Worker::new(board.clone(), first + thread, share, body_bytes)?.paced(pace);
        bodies.push(Box::new(move || worker.run()));
    }
    Ok(bodies)
}

impl CrewReport {
    /// Whether a thread had hardly time to sleep, or came late to its schedule: then the generator may be what was
    /// measured.
    pub fn is_saturated(&self) -> bool {
        self.is_late() || self.is_busy()
    }

    fn is_late(&self) -> bool {
        let lateness = self.harvest.lateness.clone().fields();
        lateness.and_then(|fields| fields.number("p99")).is_some_and(|p99| p99 > LATE_P99_US_MAX)
    }

    fn is_busy(&self) -> bool {
        self.threads.iter().any(|busy| share(busy.cpu_ns + busy.waited_ns, busy.wall_ns) > SATURATED_SHARE)
    }

    /// Each thread's share of a CPU, and of time spent waiting for one, while it measured.
    pub fn fields(&self) -> Fields {
        let of_thread = |busy: &Busy| {
            let percent = |ns| share(ns, busy.wall_ns) * 100.0;
            let mut fields = Fields::default();
            fields.put_number("cpu_percent", percent(busy.cpu_ns));
            fields.put_number("waited_for_cpu_percent", percent(busy.waited_ns));
            fields
        };
        let mut fields = Fields::default();
        fields.put_group("threads", self.threads.iter().map(of_thread).collect::<Vec<_>>());
        if let Some(lateness) = self.harvest.lateness.clone().fields() {
            fields.put_group("late_us", lateness);
        }
        fields
    }
}

impl Harvest {
    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.confirmed += other.confirmed;
        self.stored += other.stored;
        self.held_back += other.held_back;
        self.logins += other.logins;
        self.delivery.add(other.delivery);
        self.confirmation.add(other.confirmation);
        self.lateness.add(other.lateness);
        self.login.add(other.login);
        self.faults.add(other.faults);
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("cannot pin a generator thread to CPU {cpu}"))
}
