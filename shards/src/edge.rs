//! What the sessions of an edge share while they handle an event: time, bounds, reachable cores, counters, actions.
//!
//! Owned by [`crate::edge_node`], borrowed by everything below it.

use crate::event::Action;
use crate::id::{NodeId, Slot};
use crate::limits::EdgeLimits;
use crate::placement::Placement;
use crate::time::Now;

/// Counters of the edge half, never reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EdgeCounts {
    /// Messages sent straight to the recipient's edge.
    pub direct: u64,
    /// Messages sent to an inbox.
    pub inbox: u64,
    /// Direct messages that were not taken here.
    pub bounced: u64,
    /// Sessions opened.
    pub logins: u64,
    /// Sessions ended because the user logged in again.
    pub taken_over: u64,
    /// Connections closed because a client did what it may not.
    pub misbehaved: u64,
}

/// What sessions see of the edge while they handle an event.
#[derive(Debug)]
pub struct Edge<'a> {
    /// The time.
    pub now: Now,
    /// The bounds.
    pub limits: &'a EdgeLimits,
    /// Who keeps what.
    pub placement: &'a Placement,
    /// Makes hashing unpredictable.
    pub seed: u64,
    /// Bytes of bodies that wait for a first confirmation, of all sessions.
    pub outstanding_bytes: &'a mut u64,
    /// The counters.
    pub counts: &'a mut EdgeCounts,
    /// What is to be done.
    pub out: &'a mut Vec<Action>,
    /// The cores that can be reached.
    pub up: &'a [NodeId],
}

impl<'a> Edge<'a> {
    /// The reachable replicas of a slot, the preferred one first.
    pub fn reachable(&self, slot: Slot) -> impl Iterator<Item = NodeId> + use<'a> {
        let up = self.up;
        self.placement.replicas(slot).iter().copied().filter(move |node| up.contains(node))
    }

    /// Whether this node can be reached.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        self.up.contains(&node)
    }
}
