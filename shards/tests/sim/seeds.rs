//! Random runs: how many depends on `SIM_SEEDS`, `SIM_SECONDS` and `SIM_SEED` (see `scripts/sim`).

use std::time::{Duration, Instant};

use crate::moving::MOVING;
use crate::plan::Plan;
use crate::run::{Outcome, keep_panics, run};
use crate::sharing::SHARING;
use crate::shrink::shrink;

/// Seeds of a run without further wishes, of every kind; about 20 s on one core.
const SEEDS: u64 = 10_000;

fn wish(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    keep_panics();
    for seed in 0..60 {
        let (first, second) = (run(Plan::of(seed), None, false), run(Plan::of(seed), None, false));
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
    }
}

#[test]
fn random_seeds() {
    keep_panics();
    let first = wish("SIM_FIRST").unwrap_or(1);
    let seconds = wish("SIM_SECONDS");
    let seeds = wish("SIM_SEEDS").unwrap_or(if seconds.is_some() { u64::MAX } else { SEEDS });
    let stop_at = Instant::now() + Duration::from_secs(seconds.unwrap_or(1 << 30));
    let begun = Instant::now();
    let keep_going = wish("SIM_KEEP_GOING").is_some();
    let (mut steps, mut done, mut failed) = (0, 0, Vec::new());
    let mut totals = Totals::default();
    // Every fourth seed moves shards, and every fourth has a store that all cores share.
    let kind = |n: u64| match n % 4 {
        _ if first >= MOVING => n,
        1 => n + MOVING,
        3 => n + SHARING,
        _ => n,
    };
    for seed in (first..).take(seeds as usize).map(kind) {
        if Instant::now() >= stop_at {
            break;
        }
        let outcome = run(Plan::of(seed), None, false);
        steps += outcome.steps;
        done += 1;
        totals.add(&outcome);
        if let Some(violation) = &outcome.broken {
            failed.push((seed, violation.checker));
            if keep_going {
                println!("seed {seed}: {} {}", violation.checker, violation.what);
                continue;
            }
            explain(seed, &outcome);
            panic!("seed {seed} failed");
        }
    }
    let rate = steps as f64 / begun.elapsed().as_secs_f64();
    println!("{done} seeds, {steps} steps, {rate:.0} steps/s\n{totals:?}");
    assert!(failed.is_empty(), "{} of {done} seeds failed: {failed:?}", failed.len());
}

/// Seeds that broke a promise once, by what was wrong. A change of the plans gives them another meaning; a fixed bug adds
/// one all the same, where no scenario by hand is known.
const BROKEN_ONCE: &[(&str, &[u64])] = &[
    ("a Deliver of an earlier registration was taken", &[117_857]),
    ("a return address was dropped for another", &[19_474, 30_527, 49_393, 8_813, 103_127]),
    ("a SYNC that was cut left a younger entry without an older one", &[139_046, 6_029, 43_676, 358_211]),
    ("a replica passed on what it got out of order", &[110_123]),
    ("what was logged after a link came up overtook the SYNC", &[826_553]),
    ("a core sent while a SYNC was cut, and what it waited for was scarce", &[123_941, 318_377]),
    ("a younger entry stayed when an older one found no room", &[42_630, 101_665]),
    ("the mark was asked for again and again on a full disk", &[2_141, 6_752, 10_436, 14_825]),
    ("a full owner refused what its replica has", &[634_820]),
    ("an entry in memory only was forgotten without a word to the others", &[145_718]),
    ("copies dropped behind a failed entry were not asked for again", &[2_016_245]),
    ("a refused message came from a connection of before", &[2_003_984, 2_032_391]),
    ("a refused message was held by the edge of a connection of before", &[MOVING + 20_164_367]),
    ("an entry came from one executor of a core before another of it had spoken", &[5_981]),
    (
        "a copy on its way to another place was taken for taken when its entry was handed over",
        &[MOVING + 199, MOVING + 227],
    ),
    ("what a leaver flushed after its heir stayed", &[MOVING + 2_615]),
    ("a replica was not asked for what was flushed after it had compared", &[MOVING + 7_112]),
    (
        "two that left counted each other's copies, or those of a wiped heir",
        &[MOVING + 13_014, MOVING + 16_022, MOVING + 17_135, MOVING + 18_361, MOVING + 18_546],
    ),
    ("who has nothing was asked again when there was room, and did not answer", &[MOVING + 1_038_627]),
    ("what was handed over was not asked for by a keeper that became one meanwhile", &[MOVING + 1_045_447]),
    ("no room was forgotten by who had none, and not by the others", &[MOVING + 1_138_205]),
    ("two marks failed with each other for ever", &[MOVING + 1_127_279, MOVING + 1_195_187]),
    ("what was taken was not told to a core of which one executor had not spoken", &[2_020_778]),
    ("what had no room was not asked for again of who offered last", &[MOVING + 3_049_505]),
    ("what was handed over was not asked for where its giver was heard leaving first", &[MOVING + 3_132_173]),
    ("what came behind a copy that had no room was on disk without it", &[MOVING + 20_022_878]),
    (
        "what was handed over was not asked for again when another executor of its giver had changed",
        &[MOVING + 30_016_512, MOVING + 30_046_157, MOVING + 30_054_198],
    ),
    ("as long as anything was appended it failed with what had failed before", &[MOVING + 40_034_383]),
    ("a copy that was dropped with what its sender had sent here too was waited for", &[MOVING + 40_113_899]),
    ("the mark was written before what had no room until then", &[MOVING + 40_116_440, MOVING + 50_026_261]),
    ("a client that acknowledges nothing was shown a page more by each core in turn", &[MOVING + 80_150_286]),
    ("one that joined relied on what another had offered before it was complete", &[MOVING + 90_052_267]),
    (
        "a store that is shared: a load was taken for whole although some of it was given up as it came",
        &[SHARING + 10_255, SHARING + 56_499],
    ),
    ("the same: a message that was taken while the link was cut was waited for", &[SHARING + 6_856, SHARING + 14_707]),
    (
        "the same: rows that were gone counted, or were waited for",
        &[SHARING + 32_530, SHARING + 58_846, SHARING + 10_939],
    ),
    ("the same: a row stored twice was called taken when one of it was gone", &[SHARING + 11_807]),
    ("the same: what was stored before others were in step was not told to them", &[SHARING + 11_029]),
    ("the same: messages that come late kept an inbox from being read", &[SHARING + 8_201, SHARING + 4_023]),
    (
        "the same: what was stored by a core that kept the shard in its own view only was not read",
        &[SHARING + 111_149, SHARING + 154_419],
    ),
    ("not told apart", &[109_453, 130_168, 138_691, 151_792, 354_955, 357_341, 384_031]),
];

#[test]
fn what_was_broken_once_is_kept() {
    keep_panics();
    for &(what, seeds) in BROKEN_ONCE {
        for &seed in seeds {
            let outcome = run(Plan::of(seed), None, false);
            assert!(outcome.broken.is_none(), "seed {seed} ({what}): {:?}", outcome.broken);
        }
    }
}

/// Runs one seed with a trace: `SIM_SEED=… cargo test … replay -- --nocapture`; `SIM_SHRINK=1` makes it small first.
#[test]
fn replay() {
    let Some(seed) = wish("SIM_SEED") else { return };
    keep_panics();
    let mut plan = Plan::of(seed);
    if wish("SIM_SHRINK").is_some()
        && let Some(violation) = run(plan.clone(), None, false).broken
    {
        plan = shrink(&plan, violation.checker, None);
    }
    let outcome = run(plan.clone(), None, true);
    println!("{plan:#?}\n{outcome:?}");
    assert!(outcome.broken.is_none(), "seed {seed}: {:?}", outcome.broken);
}

/// Says what a failing seed broke and how to see it again, as small as it could be made.
fn explain(seed: u64, outcome: &Outcome) {
    let Some(violation) = &outcome.broken else { return };
    println!("seed {seed} broke the promise `{}` at step {}: {}", violation.checker, outcome.steps, violation.what);
    println!(
        "replay: SIM_SEED={seed} cargo test -p iris-shards --features mutants --test sim replay -- --nocapture \
         (SIM_SHRINK=1: made small first)"
    );
    let small = shrink(&Plan::of(seed), violation.checker, None);
    let outcome = run(small.clone(), None, false);
    println!("made small: {:?}", outcome.broken);
    println!(
        "{} nodes, copies {}, copies_min {}, {} users, {} steps",
        small.nodes.len(),
        small.copies,
        small.core.copies_min,
        small.users,
        small.steps
    );
    small.ops.iter().for_each(|(at, op)| println!("  at step {at}: {op:?}"));
}

#[derive(Debug, Default)]
#[allow(dead_code, reason = "printed")]
struct Totals {
    sent: u64,
    taken: u64,
    stored: u64,
    delivered: u64,
    refused: u64,
    direct: u64,
    bounced: u64,
    late: u64,
    repeats: u64,
    crashes: u64,
    wipes: u64,
    link_cuts: u64,
    connection_cuts: u64,
    take_overs: u64,
    unknown_logins: u64,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        let counts = outcome.counts;
        self.sent += counts.sent;
        self.taken += counts.taken;
        self.stored += counts.stored;
        self.delivered += counts.delivered;
        self.refused += counts.refused;
        self.direct += counts.direct;
        self.bounced += counts.bounced;
        self.late += counts.late;
        self.repeats += counts.repeats;
        self.crashes += counts.crashes;
        self.wipes += counts.wipes;
        self.link_cuts += counts.link_cuts;
        self.connection_cuts += counts.connection_cuts;
        self.take_overs += counts.take_overs;
        self.unknown_logins += counts.unknown_logins;
    }
}
