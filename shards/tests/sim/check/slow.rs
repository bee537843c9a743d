//! Promise 6: a user that reads slowly costs only itself; its senders hear `stored` in time. Checked where everything is
//! prompt and no fault but a slow reader happens.

use super::{Verdict, ensure};
use crate::ledger::{Ledger, MessageIx};
use crate::plan::{Op, Plan};

/// Ticks come up to this much late, in µs.
const SLACK_US: u64 = 30_000;

/// Whether the promise can be measured in this run.
pub fn applies(plan: &Plan) -> bool {
    let harmless = |op: &Op| {
        matches!(op, Op::Send { .. } | Op::Pause(_) | Op::Resume(_) | Op::Deaf(_) | Op::Hear(_) | Op::Lookup { .. })
    };
    plan.pace.time_permille == 0 && plan.ops.iter().all(|(_, op)| harmless(op))
}

/// A sender has its first confirmation.
pub fn confirmed(ledger: &Ledger, plan: &Plan, message: MessageIx, now_us: u64) -> Verdict {
    let note = &ledger.notes[message];
    let most = (plan.edge.delivery_ms_max + plan.core.log_delay_ms) * 1_000 + 2 * plan.pace.flush_us.1 + SLACK_US;
    let took = now_us - note.sent_us;
    ensure(took <= most, "slow", || {
        format!("message {message} was confirmed after {took} µs, at most {most}: {note:?}")
    })
}
