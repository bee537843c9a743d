//! Promise 6: a user that reads slowly costs only itself; its senders hear `stored` in time. Checked where everything is
//! prompt and no fault but a slow reader
//! happens, with the model of an engine, whose flush has a known time.

use iris_shards::id::Sequence;

use super::{Verdict, ensure};
use crate::connection::{Answer, Connection};
use crate::plan::{Op, Plan};

/// Ticks come up to this much late, in µs.
const SLACK_US: u64 = 30_000;

/// Whether the promise can be measured in this run.
pub fn applies(plan: &Plan) -> bool {
    let harmless = |op: &Op| {
        matches!(op, Op::Send { .. } | Op::Pause(_) | Op::Resume(_) | Op::Deaf(_) | Op::Hear(_) | Op::Lookup { .. })
    };
    plan.views.len() == 1
        && !plan.is_on_demand
        && plan.pace.time_permille == 0
        && !plan.real_log
        && !plan.is_shared
        && plan.ops.iter().all(|(_, op)| harmless(op))
}

/// CONFIRM for a run of sequences, as an edge wrote it and before it is counted: no first answer is too late.
pub fn confirm(plan: &Plan, connection: &Connection, run: (Sequence, Sequence), now_us: u64) -> Verdict {
    let most = (plan.edge.delivery_ms_max + plan.core.log_delay_ms) * 1_000 + 2 * plan.pace.flush_us.1 + SLACK_US;
    for at in run.0.0 as usize - 1..run.1.0 as usize {
        let Some(&(message, Answer::None)) = connection.sent.get(at) else { continue };
        let took = now_us - connection.read_us[at];
        ensure(took <= most, "slow", || format!("message {message} was confirmed after {took} µs, at most {most}"))?;
    }
    Ok(())
}
