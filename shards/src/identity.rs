//! Who a session is, and what it has sent without an answer: what its two sides, router and receiver, both need.

use crate::edge::Edge;
use crate::event::Action;
use crate::id::{Login, Sequence, Slot, UserId};
use crate::peer::Refusal;

/// Who a session is.
#[derive(Debug)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// Its slot.
    pub slot: Slot,
    /// Its login; grows if a core knows a higher one.
    pub login: Login,
    /// What it has sent without an answer.
    pub window: Window,
}

impl Identity {
    /// REFUSED for a SEND that was not taken into the window.
    pub fn refuse(&self, edge: &mut Edge<'_>, sequence: Sequence, refusal: Refusal) {
        edge.out.push(Action::Refuse { session: self.login.at.session, sequence, refusal });
    }
}

/// Unanswered messages of a client, and their share of the executor's.
#[derive(Debug, Default)]
pub struct Window {
    messages: u32,
    bytes: u32,
}

impl Window {
    /// One more.
    pub fn take(&mut self, edge: &mut Edge<'_>, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u32;
        *edge.outstanding_bytes += bytes as u64;
    }

    /// One has been answered.
    pub fn release(&mut self, edge: &mut Edge<'_>, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes as u32;
        *edge.outstanding_bytes -= bytes as u64;
    }

    /// Whether one more fits.
    pub fn has_room(&self, edge: &Edge<'_>, bytes: usize) -> bool {
        self.messages < edge.limits.window_messages && self.bytes as usize + bytes <= edge.limits.window_bytes as usize
    }
}
