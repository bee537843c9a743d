//! Promise 4: nothing grows without a bound. What a client is sent without an acknowledgement, how its deliveries are
//! numbered, which codes a client that keeps the rules may hear, and that no timer is busy.

use iris_shards::frame::Code;
use iris_shards::id::Sequence;

use super::{Verdict, ensure};
use crate::connection::Connection;
use crate::plan::Plan;

/// Ticks of one executor at one moment before its timer counts as busy.
pub const TICKS_MAX: u32 = 1_000;

/// DELIVER, already counted in. A page counts twice: what one core has sent may still be out when another drains.
pub fn deliver(plan: &Plan, connection: &Connection, sequence: Sequence) -> Verdict {
    let count = connection.delivered.len() as u64;
    ensure(sequence.0 == count, "bounds", || format!("DELIVER {sequence:?} is the {count}th of its connection"))?;
    let most = u64::from(plan.edge.delivery_messages_max) + 2 * u64::from(plan.core.page_messages);
    let unacknowledged = connection.unacknowledged.len() as u64;
    ensure(unacknowledged <= most, "bounds", || {
        format!(
            "user {} was sent {unacknowledged} messages without an acknowledgement, at most {most}",
            connection.client
        )
    })
}

/// CLOSE by a server: the clients of the simulation give no reason for most codes.
pub fn close(connection: &Connection, code: Code) -> Verdict {
    let fair = matches!(
        code,
        Code::Normal | Code::TakenOver | Code::SlowReader | Code::Unavailable | Code::Draining | Code::HelloTimeout
    );
    ensure(fair, "bounds", || format!("user {} was closed with {code:?}", connection.client))
}

/// Ticks of one executor at the same moment.
pub fn ticks(count: u32) -> Verdict {
    ensure(count < TICKS_MAX, "bounds", || format!("{count} ticks at one moment: the deadline does not move"))
}
