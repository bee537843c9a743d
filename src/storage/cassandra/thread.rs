//! The storage threads: each runs a tokio loop of its own and performs the jobs of some executors.
//!
//! A job that fails is tried again until it succeeds, at growing distances: an answer that did not come says nothing
//! about what happened, and every statement may be repeated.

use std::sync::Arc;
use std::time::Duration;

use iris_shards::id::UserId;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::fault::StorageFault;
use super::job::{Answer, Asked, Asking, Job};
use super::options::CassandraOptions;
use super::place::{At, KEPT, bucket_of};
use super::session::Connected;

/// Jobs that wait for a thread. An executor keeps what does not fit.
const JOBS_MAX: usize = 1_024;
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 2_000;
/// How often a job that does not get on is told to the log: once in so many attempts.
const WARN_EVERY: u32 = 16;

/// Starts the threads. They end when nobody can send jobs any more.
pub fn start(options: &CassandraOptions) -> Result<Vec<Sender<Asking>>, StorageFault> {
    (0..options.threads.max(1)).map(|number| start_one(number, options.clone())).collect()
}

fn start_one(number: u16, options: CassandraOptions) -> Result<Sender<Asking>, StorageFault> {
    let (sender, jobs) = mpsc::channel(JOBS_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("iris-storage-{number}"));
    thread.spawn(move || runtime.block_on(run(options, jobs)))?;
    Ok(sender)
}

/// Waits for the first job before it connects, so that each executor hears why that fails.
async fn run(options: CassandraOptions, mut jobs: Receiver<Asking>) {
    let mut connected: Option<Arc<Connected>> = None;
    while let Some((job, asked)) = jobs.recv().await {
        if connected.is_none() {
            connected = connect(&options, &asked).await.map(Arc::new);
        }
        let Some(session) = connected.clone() else { continue };
        tokio::spawn(perform(session, job, asked));
    }
}

/// Tries until it works, or cannot, which the executor is told.
async fn connect(options: &CassandraOptions, asked: &Asked) -> Option<Connected> {
    let mut retry = Retry::new("connect");
    loop {
        match Connected::new(options).await {
            Ok(connected) => return Some(connected),
            Err(_) if asked.answers.is_closed() => return None,
            Err(fault) if fault.may_pass() => retry.wait(&fault).await,
            Err(fault) => {
                answer(asked, Answer::Refused { why: fault.to_string() }).await;
                return None;
            }
        }
    }
}

async fn perform(session: Arc<Connected>, job: Job, asked: Arc<Asked>) {
    let mut retry = Retry::new(job.name());
    loop {
        match attempt(&session, &job, &asked).await {
            Ok(told) => return answer(&asked, told).await,
            Err(_) if asked.answers.is_closed() => return,
            Err(fault) => retry.wait(&fault).await,
        }
    }
}

async fn attempt(session: &Connected, job: &Job, asked: &Asked) -> Result<Answer, StorageFault> {
    Ok(match job {
        Job::Open { executor, now } => {
            let behind = session.until(asked.writer).await?;
            let until = behind.max(*now) + KEPT;
            session.reserve(asked.writer, *executor, until).await?;
            Answer::Opened { behind, until }
        }
        Job::Reserve { executor, until } => {
            session.reserve(asked.writer, *executor, *until).await?;
            Answer::Reserved { until: *until }
        }
        Job::Write { ticket, group } => {
            session.write(group, asked.writer).await?;
            Answer::Written { ticket: *ticket }
        }
        Job::Read(slice) => {
            let found = session.read(slice).await?;
            Answer::Read { slice: slice.clone(), found }
        }
        Job::Load { user } => load(session, user, asked).await?,
        Job::WasTaken { user, key } => {
            let taken_at = session.was_taken(user, key).await?;
            Answer::WasTaken { user: user.clone(), key: key.clone(), taken_at }
        }
    })
}

/// A failure on the way begins anew: rows that were found twice are the same rows.
async fn load(session: &Connected, user: &UserId, asked: &Asked) -> Result<Answer, StorageFault> {
    let mut floors = Vec::new();
    for (writer, floor, last) in session.user(user).await? {
        floors.push((writer, floor));
        for bucket in first_bucket(floor, last, session.keep_days())..=last {
            let rows = session.rows(user, (bucket, writer, floor)).await?;
            if !rows.is_empty() {
                answer(asked, Answer::Rows { user: user.clone(), rows }).await;
            }
        }
    }
    Ok(Answer::Loaded { user: user.clone(), floors })
}

/// Nothing is kept for longer, so nothing older is looked for.
fn first_bucket(floor: At, last: i32, keep_days: i32) -> i32 {
    bucket_of(floor + 1).max(last - keep_days)
}

async fn answer(asked: &Asked, told: Answer) {
    // Nobody listens when the executor has ended.
    let _ = asked.answers.send(told).await;
    asked.bell.ring();
}

impl Job {
    fn name(&self) -> &'static str {
        match self {
            Job::Open { .. } => "open",
            Job::Reserve { .. } => "reserve times",
            Job::Write { .. } => "write",
            Job::Read(_) => "read",
            Job::Load { .. } => "find what is stored",
            Job::WasTaken { .. } => "find what was taken",
        }
    }
}

/// Growing distances between attempts.
struct Retry {
    what: &'static str,
    attempts: u32,
    wait_ms: u64,
}

impl Retry {
    fn new(what: &'static str) -> Self {
        Retry { what, attempts: 0, wait_ms: RETRY_MS_MIN }
    }

    async fn wait(&mut self, fault: &StorageFault) {
        if self.attempts.is_multiple_of(WARN_EVERY) {
            tracing::warn!(attempts = self.attempts + 1, "the storage cluster does not {}: {fault}", self.what);
        }
        self.attempts += 1;
        tokio::time::sleep(Duration::from_millis(self.wait_ms)).await;
        self.wait_ms = (self.wait_ms * 2).min(RETRY_MS_MAX);
    }
}
