//! The schedule of an open loop: when which user's turn is, fixed before the first message. Users take turns, so that
//! each sends evenly; the rate is constant, or follows the hours of a day.

use std::f64::consts::TAU;

const NS: f64 = 1e9;
/// At its busiest hour a day has this much more than its mean, and at its quietest this much less.
const SWING: f64 = 0.8;

/// How much is sent.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Messages per second in the mean, of all users of a schedule together; 0: there is none.
    pub per_second: f64,
    /// The length of a day, s, which begins in its quietest hour; 0: the rate is constant.
    pub day_seconds: f64,
}

impl Pace {
    /// A constant rate.
    pub fn even(per_second: f64) -> Self {
        Self { per_second, day_seconds: 0.0 }
    }

    /// What `speakers` of `all` send.
    pub fn share(self, speakers: usize, all: usize) -> Self {
        Self { per_second: self.per_second * speakers as f64 / all.max(1) as f64, ..self }
    }

    /// The rate at a time of the day, as a multiple of its mean.
    fn weight(self, elapsed_ns: f64) -> f64 {
        if self.day_seconds <= 0.0 {
            return 1.0;
        }
        1.0 - SWING * (TAU * elapsed_ns / NS / self.day_seconds).cos()
    }
}

/// One thread's schedule.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    start_ns: u64,
    elapsed_ns: f64,
    turn: usize,
    speakers: usize,
}

impl Pacer {
    /// Turns of `speakers` users from `start_ns` on; none if nobody sends by a schedule.
    pub fn new(pace: Pace, speakers: usize, start_ns: u64) -> Option<Self> {
        (speakers > 0 && pace.per_second > 0.0).then_some(Self { pace, start_ns, elapsed_ns: 0.0, turn: 0, speakers })
    }

    /// When the next turn is.
    #[inline]
    pub fn due_ns(&self) -> u64 {
        self.start_ns + self.elapsed_ns as u64
    }

    /// Takes the next turn: who, and since when.
    #[inline]
    pub fn next(&mut self) -> (usize, u64) {
        let turn = (self.turn, self.due_ns());
        self.turn = (self.turn + 1) % self.speakers;
        self.elapsed_ns += NS / (self.pace.per_second * self.pace.weight(self.elapsed_ns));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns_at_an_even_rate() {
        let mut pacer = Pacer::new(Pace::even(1e6), 2, 500).expect("somebody speaks");
        assert_eq!([pacer.next(), pacer.next(), pacer.next()], [(0, 500), (1, 1_500), (0, 2_500)]);
        assert!(Pacer::new(Pace::default(), 2, 0).is_none() && Pacer::new(Pace::even(1.0), 0, 0).is_none());
    }

    #[test]
    fn a_day_has_its_mean_and_its_hours() {
        let pace = Pace { per_second: 1_000.0, day_seconds: 10.0 };
        let mut pacer = Pacer::new(pace, 1, 0).expect("somebody speaks");
        let times: Vec<u64> =
            std::iter::from_fn(|| Some(pacer.next().1)).take_while(|ns| *ns < 10_000_000_000).collect();
        assert!((9_900..10_100).contains(&times.len()), "{}", times.len());
        let in_second = |second: u64| times.iter().filter(|ns| **ns / 1_000_000_000 == second).count();
        assert!(in_second(0) < 350 && in_second(5) > 1_600, "{} {}", in_second(0), in_second(5));
    }

    #[test]
    fn threads_share_the_rate() {
        assert_eq!(Pace::even(90.0).share(1, 3), Pace::even(30.0));
    }
}
