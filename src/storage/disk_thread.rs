//! The thread that makes and removes segment files for all logs: work that would make an executor wait.
//!
//! Jobs come in through one channel; each answer goes to the log that asked, whose bell is rung then.

use std::path::PathBuf;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::segment;
use crate::bell::Bell;

/// A log has at most one job of each kind under way.
const JOBS_MAX: usize = 1 << 12;

/// What is to be done.
pub(super) enum Job {
    Prepare { segment: u32, bytes: u64, asked: Asked },
    Remove { segment: u32, asked: Asked },
}

/// Who asks.
#[derive(Clone)]
pub(super) struct Asked {
    pub dir: PathBuf,
    pub answers: Sender<Answer>,
    pub bell: Bell,
}

/// What came of it.
pub(super) enum Answer {
    Prepared { segment: u32 },
    PrepareFailed { segment: u32 },
    Removed { segment: u32 },
}

/// Starts the thread; it ends when nobody can send jobs any more.
pub(super) fn start() -> std::io::Result<Sender<Job>> {
    let (sender, jobs) = bounded(JOBS_MAX);
    std::thread::Builder::new().name("iris-disk".into()).spawn(move || run(&jobs))?;
    Ok(sender)
}

fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        let (answer, asked) = match job {
            Job::Prepare { segment, bytes, asked } => (prepare(segment, bytes, &asked), asked),
            Job::Remove { segment, asked } => (remove(segment, &asked), asked),
        };
        // Nobody listens when the executor has ended.
        let _ = asked.answers.send(answer);
        asked.bell.ring();
    }
}

fn prepare(segment: u32, bytes: u64, asked: &Asked) -> Answer {
    match segment::prepare(&asked.dir, segment, bytes) {
        Ok(()) => Answer::Prepared { segment },
        Err(cause) => {
            let path = segment::path_of(&asked.dir, segment);
            tracing::warn!(path = %path.display(), %cause, "no room for another segment; trying again every second");
            Answer::PrepareFailed { segment }
        }
    }
}

fn remove(segment: u32, asked: &Asked) -> Answer {
    if let Err(cause) = segment::remove(&asked.dir, segment) {
        let path = segment::path_of(&asked.dir, segment);
        // A tombstone in the next segment may go only when this is gone for good.
        super::fatal(&format!("cannot remove {}: {cause}", path.display()));
    }
    Answer::Removed { segment }
}
