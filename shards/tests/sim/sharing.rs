//! Plans in which all cores share one store: the same clusters, moves and faults, and a store that is slow or away instead
//! of disks that are lost or full.

use crate::moving::MOVING;
use crate::plan::{Op, Plan};

/// Seeds from here on are plans of this file.
pub const SHARING: u64 = 1 << 33;

impl Plan {
    /// Every other seed moves shards.
    pub fn sharing(seed: u64) -> Plan {
        let base = seed - SHARING;
        let mut plan = Plan::of(if base.is_multiple_of(2) { base / 2 } else { MOVING + base / 2 });
        plan.is_shared = true;
        plan.real_log = false;
        plan.is_convergent = false;
        for (_, op) in &mut plan.ops {
            if let Op::Wipe(node) = *op {
                *op = Op::Crash(node);
            }
        }
        plan
    }
}
