//! What the threads of a soak share with whoever watches it: the clock, whether it is time to settle or to end, how far
//! each thread is, and when a message was confirmed last.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What a soak does. Phases only advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Users talk.
    Talk,
    /// Users send nothing new; visitors come to stay.
    Settle,
    /// Threads end.
    Done,
}

const PHASES: [Phase; 3] = [Phase::Talk, Phase::Settle, Phase::Done];

/// One thread's totals, written by it. On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Tally([AtomicU64; 7]);

/// How far a soak is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Users logged in at present.
    pub here: u64,
    /// Messages sent, repeats not counted.
    pub sent: u64,
    /// Confirmed.
    pub confirmed: u64,
    /// Confirmed, taken, and found right.
    pub checked: u64,
    /// Refusals.
    pub refused: u64,
    /// Messages that are not settled; known from when the soak settles.
    pub unsettled: u64,
    /// Promises broken so far.
    pub broken: u64,
}

/// See the module.
pub struct Board {
    epoch: Instant,
    phase: AtomicU8,
    tallies: Box<[Tally]>,
    has_confirmed: AtomicBool,
    confirmed_ns: AtomicU64,
    gap_ns_max: AtomicU64,
}

impl Board {
    /// For so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            epoch: Instant::now(),
            phase: AtomicU8::new(0),
            tallies: (0..threads).map(|_| Tally::default()).collect(),
            has_confirmed: AtomicBool::new(false),
            confirmed_ns: AtomicU64::new(0),
            gap_ns_max: AtomicU64::new(0),
        }
    }

    /// Since the board was made, ns.
    pub fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// Begins a later phase. Behind [`Phase::Talk`] gaps do not count any more.
    pub fn advance(&self, phase: Phase) {
        if self.phase() == Phase::Talk && self.has_confirmed.load(Relaxed) {
            self.on_confirmed(self.now_ns());
        }
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Messages were confirmed now.
    pub fn on_confirmed(&self, now_ns: u64) {
        if self.phase() != Phase::Talk {
            return;
        }
        let before_ns = self.confirmed_ns.fetch_max(now_ns, Relaxed);
        if self.has_confirmed.swap(true, Relaxed) {
            self.gap_ns_max.fetch_max(now_ns.saturating_sub(before_ns), Relaxed);
        }
    }

    /// The longest time in which nothing was confirmed, ns; and how long nothing was confirmed now.
    pub fn gaps_ns(&self) -> (u64, u64) {
        let since_ns = self.now_ns().saturating_sub(self.confirmed_ns.load(Relaxed));
        (self.gap_ns_max.load(Relaxed), since_ns)
    }

    /// What a thread has done.
    pub fn publish(&self, thread: usize, sight: Sight) {
        let Sight { here, sent, confirmed, checked, refused, unsettled, broken } = sight;
        let values = [here, sent, confirmed, checked, refused, unsettled, broken];
        self.tallies[thread].0.iter().zip(values).for_each(|(cell, value)| cell.store(value, Relaxed));
    }

    /// What all threads have done.
    pub fn sight(&self) -> Sight {
        let sum = |at: usize| self.tallies.iter().map(|tally| tally.0[at].load(Relaxed)).sum();
        let [here, sent, confirmed, checked, refused, unsettled, broken] = std::array::from_fn(sum);
        Sight { here, sent, confirmed, checked, refused, unsettled, broken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_count_while_users_talk() {
        let board = Board::new(2);
        board.on_confirmed(5);
        board.on_confirmed(9);
        board.on_confirmed(7);
        assert_eq!(board.gaps_ns().0, 4);
        board.advance(Phase::Settle);
        let gap = board.gaps_ns().0;
        board.on_confirmed(u64::MAX);
        assert_eq!((board.gaps_ns().0, board.phase()), (gap, Phase::Settle));
        board.advance(Phase::Talk);
        assert_eq!(board.phase(), Phase::Settle);
    }
}
