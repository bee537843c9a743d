//! The checkers: one file per promise of the design's section 2. Each looks at what crosses the wall and at the ledger,
//! never into a machine.

pub mod acknowledged;
pub mod bounds;
pub mod confirmed;
pub mod converged;
pub mod drained;
pub mod login;
pub mod once;
pub mod order;
pub mod slow;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The checker that saw it.
    pub checker: &'static str,
    pub what: String,
}

/// What a checker says.
pub type Verdict = Result<(), Violation>;

/// `Ok` if the promise is kept.
pub fn ensure(kept: bool, checker: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if kept { Ok(()) } else { Err(Violation { checker, what: what() }) }
}
