//! How busy a generator thread was while it measured: what tells whether the generator was what was measured.

use super::board::{Board, Phase};

/// CPU and wall time of a thread, ns.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// Time on a CPU.
    pub cpu_ns: u64,
    /// Time that passed.
    pub wall_ns: u64,
    /// Time in which it could have run and had no CPU.
    pub waited_ns: u64,
}

impl Busy {
    /// The calling thread's, since it started.
    fn now(board: &Board) -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = schedstat.split_whitespace().nth(1).and_then(|field| field.parse().ok());
        let cpu_ns = cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64;
        Self { cpu_ns, wall_ns: board.now_ns(), waited_ns: waited.unwrap_or(0) }
    }

    /// To be called at each change of phase: holds the start's values while the thread measures, and the difference
    /// behind it.
    pub fn on_phase(&mut self, before: Phase, phase: Phase, board: &Board) {
        if phase == Phase::Measure {
            *self = Self::now(board);
        }
        if before == Phase::Measure {
            let now = Self::now(board);
            self.cpu_ns = now.cpu_ns - self.cpu_ns;
            self.wall_ns = now.wall_ns - self.wall_ns;
            self.waited_ns = now.waited_ns.saturating_sub(self.waited_ns);
        }
    }
}
