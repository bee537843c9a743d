//! The ring: slot → shard, by consistent hashing with bounded load (Karger et al. 1997; Mirrokni et al. 2016).
//!
//! A function of the number of shards alone, the same on every node and in every language; vectors are in
//! `docs/placement-vectors.json`. Compiled once per process, then one look into a table. Every shard has a slot, none
//! has more than ceil(1.1 × its share). Which nodes keep a shard is [`crate::placement`].

use crate::id::{SLOTS, Slot};
use crate::slot::stable_hash;
use std::fmt;

/// Shards are numbered below this.
pub const SHARDS_MAX: u32 = 1 << 16;

/// Points of a shard on the ring.
pub const VNODES: u8 = 100;

/// Which shard a slot belongs to.
///
/// The ring is the numbers of 64 bits, clockwise is upwards, and 0 follows the highest.
///
/// 1. A shard has the points v = 0 … 99: [`stable_hash`] of five bytes (the shard's number in four, big endian; v in
///    one), the lowest 16 of its 64 bits replaced by the shard's number. So no two shards share a point.
/// 2. A slot's point is its number × 2^44.
/// 3. A shard has room for `(floor(11 × 2^52 / (10 × shards)) + (shard × 0x9e3779b9 mod 2^32)) / 2^32` slots, rounded
///    down: 1.1 times its share, rounded up for some shards and down for the others. The share of those that round up
///    is the fraction, and a shard that rounds up goes on to with more shards until the whole number changes: a cluster
///    that grows by one shard never takes a slot from all that are full.
/// 4. In the order of their numbers, each slot goes to the shard of the first point at or after its own, clockwise,
///    whose shard has room left.
#[derive(Clone)]
pub struct Ring {
    num_shards: u32,
    /// Empty if there is one shard.
    table: Box<[u16]>,
    visits: u64,
}

impl Ring {
    /// Compiles the ring. Panics unless there are 1 to [`SHARDS_MAX`] shards.
    pub fn new(num_shards: u32) -> Self {
        assert!((1..=SHARDS_MAX).contains(&num_shards), "{num_shards} shards");
        if num_shards == 1 {
            return Ring { num_shards, table: Box::default(), visits: 0 };
        }
        let points = points(num_shards);
        let mut room: Vec<u32> = (0..num_shards).map(|shard| room(shard, num_shards)).collect();
        let (mut next, mut visits) = (0, 0);
        let table = (0..SLOTS).map(|slot| {
            while next < points.len() && points[next] < u64::from(slot) << 44 {
                next += 1;
            }
            let mut at = next;
            loop {
                let shard = points[at % points.len()] as u16;
                visits += 1;
                if let Some(left) = room[usize::from(shard)].checked_sub(1) {
                    room[usize::from(shard)] = left;
                    return shard;
                }
                at += 1;
            }
        });
        let table = table.collect();
        Ring { num_shards, table, visits }
    }

    /// The shard of a slot, below [`Ring::num_shards`].
    #[inline]
    pub fn shard(&self, slot: Slot) -> u32 {
        if self.num_shards == 1 { 0 } else { u32::from(self.table[slot.0 as usize]) }
    }

    /// How many shards there are.
    #[inline]
    pub fn num_shards(&self) -> u32 {
        self.num_shards
    }

    /// How many slots each shard has.
    pub fn sizes(&self) -> Vec<u32> {
        let mut sizes = vec![0; self.num_shards as usize];
        for slot in 0..SLOTS {
            sizes[self.shard(Slot(slot)) as usize] += 1;
        }
        sizes
    }

    /// How many points were looked at to compile it: one for each slot, and one more for each full shard met.
    pub fn visits(&self) -> u64 {
        self.visits
    }
}

/// Rings of the same number of shards are the same.
impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        self.num_shards == other.num_shards
    }
}

impl Eq for Ring {}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({})", self.num_shards)
    }
}

/// The points of all shards, clockwise; a point's low 16 bits are its shard.
fn points(num_shards: u32) -> Vec<u64> {
    let mut points = Vec::with_capacity(num_shards as usize * usize::from(VNODES));
    for shard in 0..num_shards {
        let [a, b, c, d] = shard.to_be_bytes();
        points.extend((0..VNODES).map(|v| stable_hash(&[a, b, c, d, v]) & !0xffff | u64::from(shard)));
    }
    points.sort_unstable();
    points
}

/// How many slots a shard may have.
fn room(shard: u32, num_shards: u32) -> u32 {
    let share = (11 << 52) / (10 * u64::from(num_shards));
    ((share + u64::from(shard.wrapping_mul(0x9e37_79b9))) >> 32) as u32
}
