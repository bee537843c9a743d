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
    SettlesWithoutTheFormer,
    JoinerServesBeforeSync,
    LeaverDropsBeforeFlushed,
    LeaverKeepsServing,
    GrantsAlthoughViewsDisagree,
    CopiesCountedByOldPlace,
    CountsWhileUnsettled,
    AnswersWhatItDoesNotKeep,
    HeldMessagesOvertaken,
    OldRoundsCount,
    ServesWithoutLoading,
    NoticesIgnored,
    StoredBeforeOthersHeard,
    TakenIsNotAsked,
    RegistersWithoutLoading,
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::Mutant;
    use crate::id::{Grant, UserId};

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
        /// The location cache of [`Mutant::LocationCacheShared`], by sender and recipient.
        static GRANTS: RefCell<BTreeMap<(UserId, UserId), Grant>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Breaks this rule, or none, for the machines of the calling thread.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.with(|active| active.set(mutant));
        GRANTS.with_borrow_mut(BTreeMap::clear);
    }

    /// A session of the sender has earned this.
    pub fn share(sender: &UserId, recipient: &UserId, grant: Grant) {
        if is(Mutant::LocationCacheShared) {
            GRANTS.with_borrow_mut(|grants| grants.insert((sender.clone(), recipient.clone()), grant));
        }
    }

    /// What some session of the sender has earned.
    pub fn shared(sender: &UserId, recipient: &UserId) -> Option<Grant> {
        let of = || (sender.clone(), recipient.clone());
        is(Mutant::LocationCacheShared).then(|| GRANTS.with_borrow(|grants| grants.get(&of()).copied())).flatten()
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

    /// Nothing, in this build.
    #[inline(always)]
    pub const fn share(_: &crate::id::UserId, _: &crate::id::UserId, _: crate::id::Grant) {}

    /// Nothing, in this build.
    #[inline(always)]
    pub const fn shared(_: &crate::id::UserId, _: &crate::id::UserId) -> Option<crate::id::Grant> {
        None
    }
}

#[cfg(feature = "mutants")]
pub use switch::activate;
pub use switch::{is, share, shared};
