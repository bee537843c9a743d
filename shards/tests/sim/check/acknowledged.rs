//! Promise 1: no acknowledged message is lost. `stored(n)` is claimed only when n nodes have had it on disk, `delivered`
//! only after the recipient's application took it. That what is claimed arrives in the end is `drained`'s.

use super::{Verdict, ensure};
use crate::ledger::{Ledger, MessageIx};
use crate::plan::Plan;

/// A core claims `stored(copies)`.
pub fn stored(ledger: &mut Ledger, plan: &Plan, message: MessageIx, copies: u8) -> Verdict {
    let note = &mut ledger.notes[message];
    note.claimed = note.claimed.max(copies);
    note.was_scarce |= usize::from(copies) < plan.copies;
    let nodes = note.flushed.count_ones();
    let note = &*note;
    ensure(u32::from(copies) <= nodes, "acknowledged", || {
        format!("stored({copies}) of message {message} ({note:?}) while {nodes} nodes have flushed it")
    })?;
    ensure(copies >= plan.core.copies_min, "acknowledged", || {
        format!("stored({copies}) of message {message} is below copies_min {}", plan.core.copies_min)
    })
}

/// A core or an edge claims `delivered`.
pub fn delivered(ledger: &Ledger, message: MessageIx) -> Verdict {
    let note = &ledger.notes[message];
    ensure(note.taken > 0, "acknowledged", || format!("delivered of message {message} that nobody took: {note:?}"))
}

/// A core gives up a record of an entry on disk; `elsewhere` says whether this log holds it a second time.
pub fn trimmed(ledger: &Ledger, plan: &Plan, message: MessageIx, (elsewhere, now_us): (bool, u64)) -> Verdict {
    let note = &ledger.notes[message];
    let expired = now_us.saturating_sub(note.sent_us) >= plan.core.inbox_age_ms_max.saturating_mul(1_000);
    ensure(note.taken > 0 || elsewhere || expired, "acknowledged", || {
        format!("the record of message {message} was given up before it was taken: {note:?}")
    })
}
