//! Holds a commit until those who wait for the last one have answered: group commit with larger groups.
//!
//! Without it senders with one message in flight each fall into two halves: while one half is synced the other is staged, and
//! starts at once when the first is done. Every commit costs a write, a sync and some wake-ups, whatever it carries, so half of
//! them are waste. It waits as long as they keep coming, and never for more than 1 ms: what is stored is later by so much
//! at most.

use std::time::{Duration, Instant};

/// A commit waits for this share of the time that the last flush took: clients hear, and answer.
const SHARE: u32 = 2;
/// And for so long behind the last who came.
const GAP: Duration = Duration::from_micros(100);
/// And for no longer than this.
const HOLD_MAX: Duration = Duration::from_millis(1);

/// When the next commit may start.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// Appends that no commit has taken yet.
    staged: u32,
    /// Appends of the commit that is under way.
    under_way: u32,
    /// Appends that are there once everybody who heard of the last commit has sent again.
    expected: u32,
    /// Appends that were there when it was last asked.
    seen: u32,
    until: Option<Instant>,
    /// It waits no longer than this.
    latest: Option<Instant>,
}

impl Hold {
    pub(super) fn on_append(&mut self) {
        self.staged += 1;
    }

    /// A commit takes everything that is staged.
    pub(super) fn on_flush(&mut self) {
        (self.under_way, self.staged) = (self.staged, 0);
        self.release();
    }

    /// The commit is on disk, after this many µs.
    pub(super) fn on_flushed(&mut self, us: u64, now: Instant) {
        self.expected = self.under_way + self.staged;
        self.seen = self.staged;
        self.until = Some(now + (Duration::from_micros(us) / SHARE).min(HOLD_MAX));
        self.latest = Some(now + HOLD_MAX);
    }

    /// Nothing is waited for.
    pub(super) fn release(&mut self) {
        (self.until, self.latest) = (None, None);
    }

    /// Whether the next commit is to wait still.
    pub(super) fn is_held(&mut self, now: Instant) -> bool {
        if self.staged > self.seen {
            self.seen = self.staged;
            self.until = self.until.max(Some(now + GAP)).min(self.latest);
        }
        self.until().is_some_and(|until| now < until)
    }

    /// Until when, unless nothing is there to wait, or everybody.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.filter(|_| self.staged > 0 && self.staged < self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(staged: u32, under_way: u32, again: u32) -> (Hold, Instant) {
        let (mut hold, now) = (Hold::default(), Instant::now());
        (0..under_way).for_each(|_| hold.on_append());
        hold.on_flush();
        (0..staged).for_each(|_| hold.on_append());
        hold.on_flushed(400, now);
        (0..again).for_each(|_| hold.on_append());
        (hold, now)
    }

    #[test]
    fn two_halves_become_one() {
        let (mut hold, now) = after(25, 25, 24);
        assert!(hold.is_held(now));
        hold.on_append();
        assert!(!hold.is_held(now), "everybody is there");
        hold.on_flush();
        hold.on_flushed(400, now);
        assert_eq!((hold.expected, hold.until()), (50, None), "nothing is staged");
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let (mut hold, now) = after(1, 25, 0);
        let at = |us| now + Duration::from_micros(us);
        assert!(hold.is_held(at(199)) && !hold.is_held(at(200)));
        for us in (150..1_000).step_by(50) {
            hold.on_append();
            assert!(hold.is_held(at(us)), "they keep coming");
        }
        hold.on_append();
        assert!(!hold.is_held(at(1_000)));
    }

    #[test]
    fn one_alone_never_waits() {
        let (mut hold, now) = after(0, 1, 1);
        assert!(!hold.is_held(now));
        assert_eq!(Hold::default().until(), None);
    }

    #[test]
    fn a_read_is_not_held_up() {
        let (mut hold, now) = after(1, 1, 0);
        assert!(hold.is_held(now));
        hold.release();
        assert!(!hold.is_held(now));
    }
}
