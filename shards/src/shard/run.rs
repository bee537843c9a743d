//! Confirmations for one pair that follow each other, told with one message.

use super::Turn;
use crate::id::{ReturnAddress, Sequence};
use crate::inbox::EntryKey;
use crate::peer::ToEdge;

/// A run of confirmations for one pair.
#[derive(Debug, Default)]
pub(super) struct Run(pub(super) Option<(ReturnAddress, Sequence, EntryKey, u8)>);

impl Run {
    /// Whether this message continues the run.
    pub(super) fn takes(&mut self, origin: ReturnAddress, key: EntryKey, copies: u8) -> bool {
        let Some((to, last, newest, same)) = &mut self.0 else {
            self.0 = Some((origin, origin.sequence, key, copies));
            return true;
        };
        let continues = (to.login, to.pair, last.0 + 1) == (origin.login, origin.pair, origin.sequence.0);
        if continues && *same == copies {
            (*last, *newest) = (origin.sequence, key.max(*newest));
        }
        continues && *same == copies
    }
}

/// STORED for a run.
pub(super) fn flush_stored(turn: &mut Turn<'_>, run: Run) {
    if let Some((to, last, newest, copies)) = run.0 {
        turn.to_edge(to.login.at, ToEdge::Stored { to, last, newest: newest.0, copies });
    }
}
