//! Message ids that strictly increase: UUIDv7 by the server's clock (`docs/protocol.md`, section 4).

use iris_shards::id::MessageId;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// 74 bits follow the time; the highest stays free, so that counting upwards from a random start has room.
const START_MASK: u128 = (1 << 73) - 1;

/// Makes the ids of one user.
#[derive(Debug)]
pub struct Ids {
    clock_ms: u64,
    told_at: Instant,
    last_ms: u64,
    rest: u128,
}

impl Ids {
    /// With the server's clock as WELCOME has just told it.
    pub fn new(clock_ms: u64) -> Self {
        Ids { clock_ms, told_at: Instant::now(), last_ms: 0, rest: 0 }
    }

    /// The server told its clock again.
    pub fn on_clock(&mut self, clock_ms: u64) {
        (self.clock_ms, self.told_at) = (clock_ms, Instant::now());
    }

    /// The next id.
    pub fn next(&mut self) -> MessageId {
        let elapsed = u64::try_from(self.told_at.elapsed().as_millis()).unwrap_or(0);
        let now_ms = self.clock_ms + elapsed;
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            self.rest = (u128::from(random()) << 64 | u128::from(random())) & START_MASK;
        } else {
            self.rest += 1;
        }
        MessageId::v7(self.last_ms, self.rest)
    }
}

/// 64 bits that nobody else has, from the seeds of hash maps. Not for secrets.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Half to all of a time, so that clients do not come back all at once.
pub fn jittered(time: Duration) -> Duration {
    time / 2 + time.mul_f64((random() % 1_024) as f64 / 2_048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_even_if_the_clock_goes_back() {
        let mut ids = Ids::new(1_000_000);
        let mut last = ids.next();
        for step in 0..1_000 {
            if step == 500 {
                ids.on_clock(5);
            }
            let next = ids.next();
            assert!(next > last && next.is_v7());
            last = next;
        }
        assert!(last.time_ms() >= 1_000_000);
    }
}
