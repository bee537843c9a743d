//! One run of one plan, with or without a broken rule; a panic of a machine is a broken promise too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use iris_shards::mutant::{self, Mutant};

use crate::check::Violation;
use crate::ledger::Counts;
use crate::plan::Plan;
use crate::world::World;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub broken: Option<Violation>,
    pub hash: u64,
    pub steps: u64,
    pub counts: Counts,
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs a plan to its end.
pub fn run(plan: Plan, broken_rule: Option<Mutant>, trace: bool) -> Outcome {
    mutant::activate(broken_rule);
    let mut world = World::new(plan);
    world.trace = trace;
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    mutant::activate(None);
    let broken = result.unwrap_or_else(|_| {
        let what = LAST_PANIC.lock().map(|text| text.clone()).unwrap_or_default();
        Some(Violation { checker: "panic", what })
    });
    Outcome { broken, hash: world.hash, steps: world.step, counts: world.ledger.counts }
}

/// Panics of machines are kept, not printed.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let is_ours = info
            .location()
            .is_some_and(|at| at.file().contains("tests/sim/seeds") || at.file().contains("tests/sim/mutants"));
        if is_ours {
            eprintln!("{info}");
        } else if let Ok(mut last) = LAST_PANIC.lock() {
            *last = info.to_string();
        }
    }));
}
