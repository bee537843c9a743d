//! Replicas agree again once the faults have stopped: what a user has not taken is with everybody who keeps its shard, and
//! with nobody else, so that nothing is left where nobody looks for it.

use iris_shards::id::{MessageId, NodeId};

use super::{Verdict, ensure};
use crate::ledger::{ClientIx, Ledger};

/// The user has been away for a while and nothing has happened: `kept` is what each node has on its disks.
pub fn everywhere(ledger: &Ledger, user: ClientIx, keepers: &[NodeId], kept: &[(NodeId, Vec<MessageId>)]) -> Verdict {
    let waiting = ledger.notes.iter().enumerate().filter(|(_, note)| note.to == user && note.taken == 0);
    for (message, note) in waiting.filter(|(_, note)| note.claimed > 0) {
        for (node, ids) in kept {
            let (has, keeps) = (ids.contains(&note.id), keepers.contains(node));
            ensure(has == keeps, "converged", || {
                format!("message {message}: {node:?} has it: {has}, keeps its shard: {keeps} ({note:?})")
            })?;
        }
    }
    Ok(())
}
