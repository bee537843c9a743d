//! Time as the machines see it: an argument of every event, never read.
//!
//! Timers run on `mono_ms`, which never goes back; ids, logins and `sent_at` use `wall_us`, which operators can step.

/// The two clocks at the moment of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds since some fixed moment of this process.
    pub mono_ms: u64,
    /// Microseconds since the Unix epoch.
    pub wall_us: u64,
}

impl Now {
    /// Milliseconds since the Unix epoch.
    #[inline]
    pub fn wall_ms(self) -> u64 {
        self.wall_us / 1_000
    }
}
