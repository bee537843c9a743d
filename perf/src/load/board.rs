//! What the threads of a crew share: the clock, the phase, and a tally of each thread that others may read at any time.

use crate::ledger::Harvest;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What a crew does. Phases only advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Users log in.
    Login,
    /// Users talk; nothing is measured.
    Warm,
    /// Users talk; latencies and the threads' CPU are measured.
    Measure,
    /// Users send nothing new.
    Settle,
    /// Threads end.
    Done,
}

const PHASES: [Phase; 5] = [Phase::Login, Phase::Warm, Phase::Measure, Phase::Settle, Phase::Done];

/// One thread's totals, written by it once per turn. On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Tally {
    ready: AtomicU64,
    sent: AtomicU64,
    delivered: AtomicU64,
    confirmed: AtomicU64,
}

/// The totals of all threads since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Users logged in.
    pub ready: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages confirmed for the first time.
    pub confirmed: u64,
}

/// Shared by the threads of a crew and the main thread.
pub struct Board {
    epoch: Instant,
    phase: AtomicU8,
    has_failed: AtomicBool,
    tallies: Box<[Tally]>,
}

impl Board {
    /// A board for that many threads.
    pub fn new(threads: usize) -> Self {
        let tallies = (0..threads).map(|_| Tally::default()).collect();
        Self { epoch: Instant::now(), phase: AtomicU8::new(0), has_failed: AtomicBool::new(false), tallies }
    }

    /// Nanoseconds since the board was made.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// The present phase.
    #[inline]
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// Starts a phase.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// A connection was lost: the crew cannot go on.
    pub fn fail(&self) {
        self.has_failed.store(true, Relaxed);
    }

    /// Whether the crew cannot go on.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    /// Writes a thread's totals.
    #[inline]
    pub fn publish(&self, thread: usize, ready: u64, harvest: &Harvest) {
        let tally = &self.tallies[thread];
        tally.ready.store(ready, Relaxed);
        tally.sent.store(harvest.sent, Relaxed);
        tally.delivered.store(harvest.delivered, Relaxed);
        tally.confirmed.store(harvest.confirmed, Relaxed);
    }

    /// The totals of all threads.
    pub fn totals(&self) -> Totals {
        let sum = |of: fn(&Tally) -> &AtomicU64| self.tallies.iter().map(|tally| of(tally).load(Relaxed)).sum();
        Totals {
            ready: sum(|tally| &tally.ready),
            sent: sum(|tally| &tally.sent),
            delivered: sum(|tally| &tally.delivered),
            confirmed: sum(|tally| &tally.confirmed),
        }
    }
}
