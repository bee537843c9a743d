//! The storage threads: each runs a tokio loop of its own and performs the jobs of some executors.
//!
//! A job that fails is tried again until it succeeds, at growing distances: an answer that did not come says nothing
//! about what happened, and every statement may be repeated.

use std::sync::Arc;
use std::time::Duration;

use iris_shards::id::{Key, UserId};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::fault::StorageFault;
use super::job::{Answer, Asking, Found, Job, Row};
use super::options::CassandraOptions;
use super::place::{At, KEPT, bucket_of};
use super::session::{Connected, copies};

/// Jobs that wait for a thread. An executor keeps what does not fit.
const JOBS_MAX: usize = 1_024;
/// How long a node that starts waits for the cluster.
const FIRST_MS_MAX: u64 = 5_000;
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 2_000;
/// How often a job that does not get on is told to the log: once in so many attempts.
const WARN_EVERY: u32 = 16;

/// Starts the threads. They end when nobody can send jobs any more.
pub fn start(options: &CassandraOptions) -> Result<Vec<Sender<Asking>>, StorageFault> {
    (0..options.threads.max(1)).map(|number| start_one(number, options.clone())).collect()
}

/// [`copies`] for a node that starts; blocks. What may pass is told when it has not passed within a while.
pub fn first_copies(options: &CassandraOptions) -> Result<u8, StorageFault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let within = Duration::from_millis(FIRST_MS_MAX);
    let silent = || StorageFault::Silent { hosts: options.hosts.join(", "), ms: FIRST_MS_MAX };
    runtime.block_on(async { tokio::time::timeout(within, copies(options)).await.unwrap_or_else(|_| Err(silent())) })
}

fn start_one(number: u16, options: CassandraOptions) -> Result<Sender<Asking>, StorageFault> {
    let (sender, jobs) = mpsc::channel(JOBS_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("iris-storage-{number}"));
    thread.spawn(move || runtime.block_on(run(options, jobs)))?;
    Ok(sender)
}

async fn run(options: CassandraOptions, mut jobs: Receiver<Asking>) {
    let Some(session) = connect(&options, &jobs).await.map(Arc::new) else { return };
    while let Some(asking) = jobs.recv().await {
        tokio::spawn(perform(session.clone(), asking));
    }
}

/// Tries until it works, or nobody waits any more. Also what an operator has to do may be done meanwhile.
async fn connect(options: &CassandraOptions, jobs: &Receiver<Asking>) -> Option<Connected> {
    let mut retry = Retry::new("connect");
    while !jobs.is_closed() {
        match Connected::new(options).await {
            Ok(connected) => return Some(connected),
            Err(fault) => retry.wait(&fault).await,
        }
    }
    None
}

async fn perform(session: Arc<Connected>, asking: Asking) {
    let mut retry = Retry::new(asking.job.name());
    loop {
        match attempt(&session, &asking).await {
            Ok(told) => return answer(&asking, told).await,
            Err(_) if asking.asked.answers.is_closed() => return,
            Err(fault) => retry.wait(&fault).await,
        }
    }
}

async fn attempt(session: &Connected, asking: &Asking) -> Result<Answer, StorageFault> {
    let writer = asking.asked.writer;
    Ok(match &asking.job {
        Job::Open { executor, now } => {
            let behind = session.until(writer).await?;
            let until = behind.max(*now) + KEPT;
            session.reserve(writer, *executor, until).await?;
            Answer::Opened { behind, until }
        }
        Job::Reserve { executor, until } => {
            session.reserve(writer, *executor, *until).await?;
            Answer::Reserved { until: *until }
        }
        Job::Write(group) => {
            session.write(group, writer).await?;
            Answer::Written
        }
        Job::Read(slice) => {
            let found = session.read(slice).await?;
            Answer::Read { slice: slice.clone(), found }
        }
        Job::Load { user, wanted } => {
            let found = if wanted.entries { Some(load(session, user, asking).await?) } else { None };
            // Behind the rows: what is not among them because another core has just taken it is found here.
            let taken = session.taken_of(user, &wanted.keys).await?;
            Answer::Loaded { user: user.clone(), found, taken }
        }
    })
}

/// A failure on the way begins anew: rows that were found twice are the same rows.
async fn load(session: &Connected, user: &UserId, asking: &Asking) -> Result<Found, StorageFault> {
    let mut found = Found::default();
    for (writer, floor, last) in session.user(user).await? {
        found.floors.push((writer, floor));
        for bucket in first_bucket(floor, last, session.keep_days())..=last {
            let (rows, outdone) = sift(&mut found, session.rows(user, (bucket, writer, floor)).await?);
            if !rows.is_empty() || !outdone.is_empty() {
                answer(asking, Answer::Rows { user: user.clone(), rows, outdone }).await;
            }
        }
    }
    Ok(found)
}

/// Which rows count as far as is known, and which do not. Of the rows of one key that two cores have written it is the
/// youngest: whoever finds several agrees on it, and the core that has the message now is most likely to know it.
fn sift(found: &mut Found, rows: Vec<Row>) -> (Vec<Row>, Vec<(i32, At, Key)>) {
    let (mut kept, mut outdone) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let is = (row.at, row.writer);
        match found.newest.get(&row.key).copied() {
            Some(known) if known > is => outdone.push((row.writer, row.at, row.key)),
            known => {
                let other = known.filter(|known| *known != is);
                outdone.extend(other.map(|(at, writer)| (writer, at, row.key.clone())));
                found.newest.insert(row.key.clone(), is);
                kept.push(row);
            }
        }
    }
    (kept, outdone)
}

/// Nothing is kept for longer, so nothing older is looked for.
fn first_bucket(floor: At, last: i32, keep_days: i32) -> i32 {
    bucket_of(floor + 1).max(last - keep_days)
}

async fn answer(asking: &Asking, told: Answer) {
    // Nobody listens when the executor has ended.
    let _ = asking.asked.answers.send((asking.number, told)).await;
    asking.asked.bell.ring();
}

impl Job {
    fn name(&self) -> &'static str {
        match self {
            Job::Open { .. } => "open",
            Job::Reserve { .. } => "reserve times",
            Job::Write(_) => "write",
            Job::Read(_) => "read",
            Job::Load { .. } => "find what is stored",
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

#[cfg(test)]
mod tests {
    use super::*;
    use iris_shards::id::MessageId;

    fn row(n: u64, writer: i32, at: At) -> Row {
        let key = Key { id: MessageId::v7(n, 1), sender: UserId::parse(b"alice").unwrap() };
        Row { writer, at, key, sent_at: n, body_bytes: 1 }
    }

    #[test]
    fn the_youngest_row_of_a_key_counts_whoever_finds_it_first() {
        let rows = [row(1, 1, 10), row(2, 1, 11), row(1, 2, 20), row(2, 2, 9), row(1, 2, 20)];
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]] {
            let mut found = Found::default();
            let mut alive = std::collections::BTreeSet::new();
            for at in order {
                let (kept, outdone) = sift(&mut found, vec![rows[at].clone()]);
                alive.extend(kept.into_iter().map(|row| (row.writer, row.at)));
                alive.retain(|is| outdone.iter().all(|(writer, at, _)| *is != (*writer, *at)));
            }
            assert_eq!(alive.into_iter().collect::<Vec<_>>(), [(1, 11), (2, 20)]);
        }
    }
}
