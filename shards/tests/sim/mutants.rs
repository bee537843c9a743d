//! The table of mutants: every broken rule, the checker that catches it, and the seed with which it does.
//!
//! A seed that catches a mutant may stop doing so when the machines change; the test then looks for another one nearby
//! and prints the table as it should be. It fails if none is found, or if the same seed fails without the mutant.

use iris_shards::mutant::Mutant;

use crate::moving::MOVING;
use crate::plan::Plan;
use crate::run::{keep_panics, run};
use crate::sharing::SHARING;

/// Seeds that are tried for one mutant.
const SEEDS_MAX: u64 = 20_000;

/// Mutant and the seed that catches it. Those that no client notices are in [`crate::named_shared`].
const TABLE: &[(Mutant, u64)] = &[
    (Mutant::ReceiverIgnoresLogin, 396),
    (Mutant::ReceiverIgnoresPhase, 9),
    (Mutant::RefusesOneFrameWithoutPhase, 81),
    (Mutant::RefusesDirectWhileDraining, 3244),
    (Mutant::DirectWheneverLocationIsKnown, 1),
    (Mutant::StoredCountsAsDelivered, 4),
    (Mutant::LocationCacheShared, 3391),
    (Mutant::RepeatsWhileOthersAreOutstanding, 18),
    (Mutant::ConfirmsOutOfOrder, 1),
    (Mutant::TwoCoresAtOnce, 8),
    (Mutant::CoreForwardsWithoutInbox, 1),
    (Mutant::JoiningCoreBounces, 17),
    (Mutant::WipedCoreServesBeforeSync, MOVING + 651),
    (Mutant::CompleteBeforeFlush, 1706),
    (Mutant::InboxOrderedByEdgeClock, 461),
    (Mutant::StoredBelowCopiesMin, 8),
    (Mutant::StoredBeforeFlush, 1),
    (Mutant::TrimmedWhenSent, 1),
    (Mutant::YoungerEntryLoggedFirst, 1896),
    (Mutant::AcknowledgementMeansUpTo, 68),
    (Mutant::ClientRemembersHighestOnly, 1),
    (Mutant::ClientRemembersNothing, 1),
    (Mutant::ClientRemembersSendWindow, 1),
    (Mutant::NoTombstones, 62),
    (Mutant::SessionEndDoesNotBounce, 3),
    (Mutant::OlderSessionOverwritesReturn, 3354),
    (Mutant::SettlesWithoutTheFormer, MOVING + 83),
    (Mutant::JoinerServesBeforeSync, MOVING + 83),
    (Mutant::LeaverDropsBeforeFlushed, MOVING + 3),
    (Mutant::LeaverKeepsServing, MOVING + 25),
    (Mutant::GrantsAlthoughViewsDisagree, MOVING + 17_226),
    (Mutant::CopiesCountedByOldPlace, MOVING + 188),
    (Mutant::CountsWhileUnsettled, MOVING + 246),
    (Mutant::AnswersWhatItDoesNotKeep, MOVING + 616),
    (Mutant::HeldMessagesOvertaken, MOVING + 24),
    (Mutant::OldRoundsCount, MOVING + 127),
    (Mutant::NoticesIgnored, SHARING + 11),
    (Mutant::StoredBeforeOthersHeard, SHARING + 9_021),
    (Mutant::RegistersWithoutLoading, SHARING + 8),
];

/// The first seed from here on that catches the mutant, with the checker and the step.
fn hunt(mutant: Mutant, from: u64, most: u64) -> Option<(u64, &'static str, u64)> {
    (from..from + most).find_map(|seed| {
        let outcome = run(Plan::of(seed), Some(mutant), false);
        // A panic of a machine is no checker's merit.
        let caught = outcome.broken.filter(|violation| violation.checker != "panic")?;
        let is_clean = run(Plan::of(seed), None, false).broken.is_none();
        is_clean.then_some((seed, caught.checker, outcome.steps))
    })
}

#[test]
fn every_broken_rule_is_caught() {
    keep_panics();
    let most = std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS_MAX);
    let mut missed = Vec::new();
    let only = std::env::var("SIM_MUTANT").ok();
    let chosen = |mutant: &Mutant| only.as_ref().is_none_or(|only| format!("{mutant:?}") == *only);
    for &(mutant, listed) in TABLE.iter().filter(|(mutant, _)| chosen(mutant)) {
        match hunt(mutant, listed, most) {
            Some((seed, checker, step)) => {
                let note = if seed == listed { "" } else { "   <- not the listed one" };
                println!("    (Mutant::{mutant:?}, {seed}), // {checker}, step {step}{note}");
            }
            None => {
                println!("    (Mutant::{mutant:?}, {listed}), // NOT CAUGHT in {most} seeds");
                missed.push(mutant);
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
