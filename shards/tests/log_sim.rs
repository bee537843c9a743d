//! The log on a disk that crashes: seeded runs against a model that knows what was told.
//!
//! `LOG_SEED=n` replays one seed, `LOG_SEEDS=n` tries so many.
#![allow(clippy::unwrap_used)]

#[path = "sim/disk.rs"]
mod disk;
#[path = "log_sim/world.rs"]
mod world;

use std::hash::Hasher;

use disk::Crash;
use iris_shards::log::{Damage, LogEvent, Recovery};
use iris_shards::storage::StorageRequest;
use world::{SEGMENT_BYTES, World, key};

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    match number("LOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOG_SEEDS").unwrap_or(default),
    }
}

fn each_seed(default: u64, run: impl Fn(u64)) {
    for seed in seeds(default) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = result {
            eprintln!("replay: LOG_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn run_with_crashes(seed: u64, has_trace: bool) -> u64 {
    let mut world = World::new(seed);
    world.has_trace = has_trace;
    for _ in 0..4 {
        let appends = 2 + world.random.below(8);
        for _ in 0..world.random.below(400) {
            world.step(appends);
        }
        let crash = if world.random.one_in(3) { Crash::Process } else { Crash::Power };
        world.crash(crash);
        if world.random.one_in(4) {
            // A crash right after the recovery, before anything is written.
            world.crash(Crash::Power);
        }
    }
    for n in world.messages.keys().copied().collect::<Vec<_>>() {
        if let Some(place) = world.messages[&n].place.filter(|_| !world.messages[&n].is_dead) {
            let (user, key) = key(n);
            world.reads.insert(n, true);
            world.request(StorageRequest::Read { user, key, place });
        }
    }
    world.settle();
    world.trace.finish()
}

#[test]
fn what_was_told_survives_crashes_and_the_dead_stay_dead() {
    each_seed(4_000, |seed| {
        run_with_crashes(seed, false);
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    each_seed(50, |seed| assert_eq!(run_with_crashes(seed, true), run_with_crashes(seed, true)));
}

#[test]
fn flipped_bits_are_never_served() {
    let total = std::cell::Cell::new(0);
    each_seed(1_500, |seed| {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step(8);
        }
        world.settle();
        world.has_flips = true;
        for _ in 0..5 {
            let random = &mut world.random;
            world.disk.flip(&mut || random.next());
        }
        if world.random.one_in(2) {
            total.set(total.get() + world.crash(Crash::Process).len());
        }
        for _ in 0..200 {
            world.step(5);
        }
        world.settle();
    });
    assert!(total.get() > 0 || std::env::var("LOG_SEED").is_ok());
}

#[test]
fn a_flipped_bit_costs_one_record_and_is_reported() {
    each_seed(1_500, |seed| {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step(9);
        }
        world.settle();
        if world.random.one_in(2) {
            // The last batch of the old end is named by the first marker behind the restart.
            world.crash(Crash::Process);
            (0..5).for_each(|_| world.append());
            world.settle();
        }
        world.settle();
        let before = world.messages.values().filter(|m| m.place.is_some() && !m.is_dead).count();
        let random = &mut world.random;
        let Some((segment, offset)) = world.disk.flip(&mut || random.next()) else { return };
        world.has_flips = true;
        let damage = world.crash(Crash::Process);
        let after = world.messages.values().filter(|m| m.place.is_some() && !m.is_dead).count();
        assert!(after + 1 >= before, "{before} messages, after a flip in {segment}, {offset}: {after}; {damage:?}");
        let is_named = damage.iter().any(|damage| match *damage {
            Damage::Unreadable { segment: s, offset: o, bytes } => {
                s == segment && (o..o + bytes).contains(&(offset as u32))
            }
            Damage::Torn { segment: s, offset: o, .. } => s == segment && o <= offset as u32,
            Damage::Missing { .. } => false,
        });
        assert!(after == before || is_named, "a flip at {segment}, {offset} is not reported: {damage:?}");
    });
}

#[test]
fn churn_keeps_the_disk_bounded() {
    each_seed(30, |seed| {
        let mut world = World::new(seed);
        for round in 0..12_000 {
            let live = world.live_bytes();
            world.step(if live > 60_000 { 1 } else { 6 });
            if round % 50 == 0 {
                world.now_ms += 1_000;
                world.handle(LogEvent::Tick);
            }
            while world.untold.len() > 60 {
                world.handle(LogEvent::TurnEnded);
                world.complete();
            }
        }
        // 60 KB and more of live messages are 5 to 8 segments, dead ones as many and two, and slack for what is under way.
        assert!(world.log.segments() <= 30, "{} segments, {} live", world.log.segments(), world.log.live_bytes());
        assert!(world.disk.files_peak <= 40, "{} files", world.disk.files_peak);
    });
}

#[test]
fn a_full_disk_fails_entries_and_recovers() {
    let full = std::cell::Cell::new(0);
    each_seed(300, |seed| {
        let mut world = World::new(seed);
        world.disk.segments_max = 1 + world.random.below(5) as usize;
        for _ in 0..1_500 {
            world.step(8);
        }
        world.settle();
        full.set(full.get() + usize::from(world.told_full));
        world.crash(Crash::Power);
        world.disk.segments_max = usize::MAX;
        world.append();
        world.settle();
        assert!(!world.log.is_full(), "the log stays full");
        let newest = world.messages.values().next_back().unwrap();
        assert!(newest.place.is_some(), "there is room, and an entry fails");
    });
    assert!(full.get() > 100 || std::env::var("LOG_SEED").is_ok(), "{} runs were full", full.get());
}

#[test]
fn many_restarts_do_not_pile_up_segments() {
    let mut world = World::new(1);
    for _ in 0..200 {
        world.append();
        world.settle();
        world.crash(Crash::Process);
    }
    world.append();
    world.settle();
    let needed = 4 * world.log.used_bytes() / u64::from(SEGMENT_BYTES);
    assert!(world.log.segments() as u64 <= 18 + needed, "{} segments", world.log.segments());
}

#[test]
fn a_closed_log_recovers_without_a_cut() {
    each_seed(200, |seed| {
        let mut world = World::new(seed);
        for _ in 0..200 {
            world.step(7);
        }
        world.handle(LogEvent::Close);
        world.settle();
        assert!(world.is_closed);
        assert_eq!(world.crash(Crash::Power), []);
    });
}

#[test]
fn a_record_of_another_message_is_not_served() {
    let mut world = World::new(1);
    world.has_flips = true;
    (0..3).for_each(|_| world.append());
    world.settle();
    let place = world.messages[&1].place.unwrap();
    let (user, key) = key(2);
    world.reads.insert(2, true);
    // `on_told` would take the body of message 1 for that of message 2, and panic.
    world.request(StorageRequest::Read { user, key, place });
    world.settle();
}

#[test]
fn a_missing_segment_is_reported() {
    let mut world = World::new(1);
    while world.log.segments() < 4 {
        world.append();
        world.settle();
    }
    let files: Vec<(u32, Vec<u8>)> = world.disk.files().iter().map(|(n, bytes)| (*n, bytes.to_vec())).collect();
    let kept: Vec<(u32, &[u8])> = files.iter().filter(|(n, _)| *n != 2).map(|(n, b)| (*n, b.as_slice())).collect();
    let mut recovery = Recovery::new(&world.config, kept);
    let (mut events, mut damage) = (Vec::new(), Vec::new());
    while recovery.step(usize::MAX, &mut events, &mut damage) {}
    assert_eq!(damage, [Damage::Missing { segment: 2 }]);
    assert!(!events.is_empty());
}
