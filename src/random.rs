//! Numbers by chance: seeds, salts, and pauses that a fleet shall not have in common. Nothing that has to stay secret.

use std::hash::{BuildHasher, RandomState};

/// Another one with each call: seeded by the system, as every `HashMap` is.
#[must_use]
pub fn number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
