//! A hashed timing wheel (Varghese and Lauck, 1987, scheme 6): timers that are armed often and fire coarsely.
//!
//! Owns tokens, not callbacks. Nothing is cancelled: whoever gets a token back checks whether it still means anything.
//! A timer fires at or after its deadline, at most one tick late.

/// Milliseconds per tick.
const TICK_MS: u64 = 8;
/// Ticks per turn of the wheel; later deadlines wait for more turns.
const TICKS: usize = 512;

/// A wheel of tokens.
#[derive(Debug)]
pub struct Wheel<T> {
    ticks: Vec<Vec<(u64, T)>>,
    /// Every tick before this one has fired.
    next_tick: u64,
    len: usize,
    /// No armed deadline is before this (a lower bound, made exact when asked for).
    earliest: u64,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel.
    pub fn new() -> Self {
        Wheel { ticks: Vec::new(), next_tick: 0, len: 0, earliest: u64::MAX }
    }

    /// Fires `token` at `deadline_ms`, or with the next [`Wheel::expire`] if that is past.
    pub fn arm(&mut self, deadline_ms: u64, token: T) {
        if self.ticks.is_empty() {
            self.ticks.resize_with(TICKS, Vec::new);
        }
        let tick = deadline_ms.div_ceil(TICK_MS).max(self.next_tick);
        self.ticks[tick as usize % TICKS].push((tick, token));
        self.len += 1;
        self.earliest = self.earliest.min(tick * TICK_MS);
    }

    /// Hands over one due token at a time; call until `None`.
    pub fn expire(&mut self, now_ms: u64) -> Option<T> {
        let now_tick = now_ms / TICK_MS;
        if self.len == 0 {
            self.next_tick = self.next_tick.max(now_tick);
            return None;
        }
        while self.next_tick <= now_tick {
            let due = self.next_tick;
            let list = &mut self.ticks[due as usize % TICKS];
            if let Some(at) = list.iter().position(|&(tick, _)| tick <= due) {
                self.len -= 1;
                return Some(list.swap_remove(at).1);
            }
            // A long sleep skips whole turns: every list has been looked at once by then.
            let behind = now_tick - self.next_tick;
            self.next_tick += if behind > 2 * TICKS as u64 { behind - TICKS as u64 } else { 1 };
        }
        self.earliest = self.earliest.max(self.next_tick * TICK_MS);
        None
    }

    /// The earliest moment at which something may be due, in ms; `None` if nothing is armed.
    pub fn next_ms(&mut self) -> Option<u64> {
        if self.len == 0 {
            self.earliest = u64::MAX;
            return None;
        }
        let first = (self.earliest / TICK_MS).max(self.next_tick);
        let found = (first..first + TICKS as u64)
            .find(|&tick| self.ticks[tick as usize % TICKS].iter().any(|&(at, _)| at <= tick));
        self.earliest = found.unwrap_or(first + TICKS as u64) * TICK_MS;
        Some(self.earliest)
    }
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        let mut tokens: Vec<u32> = std::iter::from_fn(|| wheel.expire(now)).collect();
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn fires_at_or_after_the_deadline_and_once() {
        let mut wheel = Wheel::new();
        wheel.arm(100, 1);
        wheel.arm(5_000, 2);
        wheel.arm(60_000, 3);
        assert_eq!(wheel.next_ms(), Some(104));
        assert_eq!(fired(&mut wheel, 99), []);
        assert_eq!(fired(&mut wheel, 104), [1]);
        assert_eq!(fired(&mut wheel, 4_999), []);
        assert_eq!(fired(&mut wheel, 5_008), [2]);
        assert_eq!(fired(&mut wheel, 59_000), []);
        assert_eq!(fired(&mut wheel, 1_000_000), [3]);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn a_past_deadline_fires_next() {
        let mut wheel = Wheel::new();
        assert_eq!(fired(&mut wheel, 10_000), []);
        wheel.arm(3, 7);
        assert_eq!(fired(&mut wheel, 10_008), [7]);
    }

    #[test]
    fn nothing_is_late_by_more_than_a_tick_whatever_the_steps() {
        let mut wheel = Wheel::new();
        let mut armed: Vec<(u64, u32)> = Vec::new();
        let (mut now, mut state) = (0u64, 1u64);
        for token in 0..20_000u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let deadline = now + (state >> 33) % 20_000;
            wheel.arm(deadline, token);
            armed.push((deadline, token));
            now += (state >> 20) % 40;
            let mut got = fired(&mut wheel, now);
            let mut late: Vec<u32> = armed.iter().filter(|a| a.0 + TICK_MS <= now).map(|a| a.1).collect();
            late.retain(|token| !got.contains(token));
            assert!(late.is_empty());
            armed.retain(|&(deadline, token)| {
                let here = got.iter().position(|&t| t == token).map(|at| got.swap_remove(at));
                assert!(here.is_none() || deadline <= now);
                here.is_none()
            });
            assert!(got.is_empty());
        }
    }
}
