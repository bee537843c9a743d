//! Promise 3: order per (sender, recipient) as sent, among what was not refused. A message counts from its first
//! transmission after its last refusal; where that and the order of ids disagree (an older id sent again after a refusal),
//! no order is promised. Late may be what was not on all configured disks when it was called `stored` or a later one shown.

use super::{Verdict, ensure};
use crate::ledger::{Ledger, MessageIx};
use crate::plan::Plan;

/// A client's application takes a message; `late` is what its library says.
pub fn take(ledger: &mut Ledger, plan: &Plan, message: MessageIx, late: bool) -> Verdict {
    let note = &ledger.notes[message];
    let before = ledger.takes.get(&(note.from, note.to)).map_or(&[][..], Vec::as_slice);
    if note.refused > note.position {
        // A copy that was left somewhere: the sender was told that it is not under way.
        return Ok(());
    }
    let overtaken = |&&later: &&MessageIx| {
        let later = &ledger.notes[later];
        later.id > note.id && later.first > note.position && later.position > later.refused && !later.is_doubtful
    };
    let Some(&later) = before.iter().rev().find(overtaken) else { return Ok(()) };
    let excused = plan.may_be_late() && (note.was_scarce || plan.is_shared);
    ledger.counts.late += 1;
    let (note, later_note) = (&ledger.notes[message], &ledger.notes[later]);
    ensure(excused, "order", || {
        format!("message {message} ({note:?}) was taken after message {later} ({later_note:?})")
    })?;
    ensure(late, "order", || format!("message {message} ({note:?}) is late and not marked"))
}
