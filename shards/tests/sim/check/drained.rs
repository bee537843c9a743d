//! Promise 1 again, and liveness: after the faults have stopped, everything that was not given up is confirmed and taken.

use super::{Verdict, ensure};
use crate::client::Client;
use crate::ledger::Ledger;

/// At rest, all clients connected and taking: nothing is left.
pub fn at_rest(ledger: &Ledger, clients: &[Client]) -> Verdict {
    for (message, note) in ledger.notes.iter().enumerate() {
        let arrived = note.taken > 0 || (note.abandoned && note.claimed == 0);
        ensure(arrived, if note.claimed > 0 { "acknowledged" } else { "drained" }, || {
            format!("message {message} never arrived: {note:?}")
        })?;
    }
    for (ix, client) in clients.iter().enumerate() {
        ensure(client.pending.is_empty(), "drained", || {
            format!(
                "user {ix} has {} unanswered messages for ever, the first is {}",
                client.pending.len(),
                client.pending[0]
            )
        })?;
    }
    Ok(())
}
