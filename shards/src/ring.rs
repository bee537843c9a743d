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
/// The ring is the numbers of 64 bits; clockwise is upwards, and 0 follows the highest.
///
/// 1. A shard has the points v = 0 … 99: [`stable_hash`] of five bytes (the shard's number in four, big endian; v in
///    one), the lowest 16 of its 64 bits replaced by the shard's number. So no two shards share a point.
/// 2. A slot's point is its number × 2^44. Its own shard is that of the first point at or after it, clockwise.
/// 3. A shard has room for `(floor(11 × 2^52 / (10 × shards)) + (shard × 0x9e3779b9 mod 2^32)) / 2^32` slots, rounded
///    down. That is 1.1 times its share, rounded up for as many shards as the fraction says and down for the others.
/// 4. In the order of their numbers, each slot goes to its own shard if that has room left.
/// 5. In the same order, each slot that was left over goes to the shard of the next point, clockwise, that has room.
///
/// Were all shares rounded up, a cluster whose share falls to the next whole number would take a slot from every full
/// shard at once: with the 64,080th shard over 2% of the users would move. Were slots not asked in two rounds, those of full shards
/// would push others out of theirs.
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
        let (mut table, mut visits) = (Box::default(), 0);
        if num_shards > 1 {
            (table, visits) = compile(num_shards);
        }
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

    /// How many points were looked at to compile it: one for each slot, and one for each step past a full shard.
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

/// The shard of each slot, and how many points were looked at.
fn compile(num_shards: u32) -> (Box<[u16]>, u64) {
    let points = points(num_shards);
    let shard_at = |at: usize| points[at % points.len()] as u16;
    let mut room: Vec<u32> = (0..num_shards).map(|shard| room(shard, num_shards)).collect();
    assert!(room.iter().sum::<u32>() >= SLOTS, "room for every slot");
    let mut has_taken = |shard: u16| {
        let left = &mut room[usize::from(shard)];
        let has_room = *left > 0;
        *left -= u32::from(has_room);
        has_room
    };
    let mut table = vec![0; SLOTS as usize].into_boxed_slice();
    let (mut left_over, mut next) = (Vec::new(), 0);
    for (slot, shard) in table.iter_mut().enumerate() {
        while points.get(next).is_some_and(|&point| point < (slot as u64) << 44) {
            next += 1;
        }
        *shard = shard_at(next);
        if !has_taken(*shard) {
            left_over.push((slot, next));
        }
    }
    let mut visits = u64::from(SLOTS);
    for (slot, own) in left_over {
        let taken = (own + 1..).map(shard_at).inspect(|_| visits += 1).find(|&shard| has_taken(shard));
        table[slot] = taken.unwrap_or_default();
    }
    (table, visits)
}

/// How many slots a shard may have.
fn room(shard: u32, num_shards: u32) -> u32 {
    let share = (11 << 52) / (10 * u64::from(num_shards));
    ((share + u64::from(shard.wrapping_mul(0x9e37_79b9))) >> 32) as u32
}
