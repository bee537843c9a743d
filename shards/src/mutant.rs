//! Switches that break one delivery rule each, so that the simulator can show that its checkers catch it.
//!
//! Without the feature `mutants`, [`is`] is the constant `false` and every switch disappears from the build.

/// One broken rule, as listed in `docs/delivery.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Mutant {
    ReceiverIgnoresLogin,
    ReceiverIgnoresPhase,
    RefusesOneFrameWithoutPhase,
    RefusesDirectWhileDraining,
    DirectWheneverLocationIsKnown,
    StoredCountsAsDelivered,
    LocationCacheShared,
    RepeatsWhileOthersAreOutstanding,
    ConfirmsOutOfOrder,
    TwoCoresAtOnce,
    CoreForwardsWithoutInbox,
    JoiningCoreBounces,
    WipedCoreServesBeforeSync,
    CompleteBeforeFlush,
    InboxOrderedByEdgeClock,
    StoredBelowCopiesMin,
    StoredBeforeFlush,
    TrimmedWhenSent,
    YoungerEntryLoggedFirst,
    AcknowledgementMeansUpTo,
    ClientRemembersHighestOnly,
    ClientRemembersNothing,
    ClientRemembersSendWindow,
    NoTombstones,
    SessionEndDoesNotBounce,
    OlderSessionOverwritesReturn,
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Breaks this rule, or none, for the machines of the calling thread.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.with(|active| active.set(mutant));
    }

    /// Whether this rule is broken.
    pub fn is(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }
}

#[cfg(not(feature = "mutants"))]
mod switch {
    /// Whether this rule is broken: never, in this build.
    #[inline(always)]
    pub const fn is(_: super::Mutant) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
pub use switch::activate;
pub use switch::is;
