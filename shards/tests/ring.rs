//! Properties of the ring: how even it is, what moves when the number of shards changes, what it costs.

use iris_shards::id::{SLOTS, Slot};
use iris_shards::ring::{Ring, SHARDS_MAX};

/// Slots that are elsewhere on the other ring.
fn moved(one: &Ring, other: &Ring) -> u32 {
    (0..SLOTS).filter(|&slot| one.shard(Slot(slot)) != other.shard(Slot(slot))).count() as u32
}

/// The share of the slots that moves from so many shards to one more, times the new number of shards.
fn moved_by_one_more(num_shards: u32) -> f64 {
    let moved = moved(&Ring::new(num_shards), &Ring::new(num_shards + 1));
    f64::from(moved) * f64::from(num_shards + 1) / f64::from(SLOTS)
}

/// The largest shard over the mean.
fn imbalance(num_shards: u32) -> f64 {
    let largest = Ring::new(num_shards).sizes().into_iter().max().expect("a shard");
    f64::from(largest) * f64::from(num_shards) / f64::from(SLOTS)
}

#[test]
fn one_shard_more_moves_at_most_twice_its_share() {
    for num_shards in (1..=48).chain([99, 100, 400, 999, 1_000, 1_023, 1_271, 4_003, 9_999, 16_019, 20_056]) {
        let share = moved_by_one_more(num_shards);
        assert!(share <= 2.0, "{num_shards} shards and one more: {share:.3}");
    }
    assert!(moved_by_one_more(50_000) <= 2.0);
}

/// With that many shards one is so few slots (16 of a million) that chance shows: a full shard that loses one to the new
/// shard takes another from its neighbour.
#[test]
fn one_shard_more_than_very_many_moves_few_slots() {
    for num_shards in [25_004, 32_768, 50_035, 64_079, 64_080, 65_493, SHARDS_MAX - 1] {
        let share = moved_by_one_more(num_shards);
        assert!(share <= 4.0, "{num_shards} shards and one more: {share:.3}");
    }
}

#[test]
fn twice_the_shards_move_half_of_the_slots() {
    for num_shards in (1..=24).chain([50, 100, 500, 1_000, 5_000, 25_000, SHARDS_MAX / 2]) {
        let share = f64::from(moved(&Ring::new(num_shards), &Ring::new(2 * num_shards))) / f64::from(SLOTS);
        assert!((0.49..=0.53).contains(&share), "twice {num_shards} shards: {share:.4}");
    }
}

#[test]
fn no_shard_has_much_more_than_its_share() {
    for num_shards in (1..=64).chain([953, 1_000, 4_096, 10_000, 50_000, 64_079, 64_080, SHARDS_MAX]) {
        let sizes = Ring::new(num_shards).sizes();
        let largest_allowed = (11 * u64::from(SLOTS)).div_ceil(10 * u64::from(num_shards));
        assert!(sizes.iter().all(|&size| u64::from(size) <= largest_allowed), "{num_shards} shards");
        assert_eq!(sizes.iter().sum::<u32>(), SLOTS, "{num_shards} shards");
        assert_eq!(sizes.len(), num_shards as usize);
    }
    for num_shards in [1_000, 50_000] {
        assert!(imbalance(num_shards) <= 1.15, "{num_shards} shards: {}", imbalance(num_shards));
    }
}

#[test]
fn every_shard_has_slots() {
    for num_shards in [1, 2, 1_000, 50_000, SHARDS_MAX] {
        let smallest = Ring::new(num_shards).sizes().into_iter().min();
        assert!(smallest > Some(0), "{num_shards} shards");
    }
}

#[test]
fn compiling_looks_at_little_more_than_each_slot_once() {
    for (num_shards, points_per_slot) in [(2, 1.01), (1_000, 1.02), (50_000, 1.07), (SHARDS_MAX, 1.1)] {
        let visits = Ring::new(num_shards).visits() as f64 / f64::from(SLOTS);
        assert!((1.0..=points_per_slot).contains(&visits), "{num_shards} shards: {visits:.3}");
    }
}

#[test]
fn one_shard_costs_nothing() {
    let ring = Ring::new(1);
    assert_eq!((ring.visits(), ring.shard(Slot(SLOTS - 1)), ring.sizes()), (0, 0, vec![SLOTS]));
}

#[test]
#[should_panic(expected = "65537 shards")]
fn more_shards_than_fit_are_refused() {
    Ring::new(SHARDS_MAX + 1);
}
