//! The stable hash of user ids: user → slot, for ever.
//!
//! FNV-1a with 64 bits (draft-eastlake-fnv), its result mixed by the finaliser of MurmurHash3 because FNV's low bits
//! alone are weak for short names, then modulo [`SLOTS`]. Clients never need it; every node and tool must agree on it.

use crate::id::{SLOTS, Slot};

/// The slot of a user.
///
/// The unit tests below have vectors, counted by another program.
#[inline]
pub fn slot_of(user: &[u8]) -> Slot {
    Slot((stable_hash(user) % u64::from(SLOTS)) as u32)
}

/// The 64-bit hash behind [`slot_of`].
#[inline]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_for_ever() {
        let vectors = [
            ("a", 0x82a2_a958_a9be_ce5b, 970_331),
            ("alice", 0x3507_d047_a67c_08f4, 788_724),
            ("tokyo_user", 0x2e27_8d69_b2f8_e0a8, 581_800),
            ("zoë 🦀", 0xeabd_2d8b_c2d5_46c0, 345_792),
        ];
        for (user, hash, slot) in vectors {
            assert_eq!(stable_hash(user.as_bytes()), hash, "{user}");
            assert_eq!(slot_of(user.as_bytes()), Slot(slot), "{user}");
        }
    }

    #[test]
    fn slots_are_spread() {
        let mut low = [0u32; 64];
        for user in 0..64_000 {
            low[(slot_of(format!("user-{user}").as_bytes()).0 % 64) as usize] += 1;
        }
        assert!(low.iter().all(|&n| (850..1150).contains(&n)), "{low:?}");
    }
}
