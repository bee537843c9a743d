//! What the sessions of an edge share while they handle an event: time, bounds, reachable cores, counters, actions.
//!
//! Owned by [`crate::edge_node`], borrowed by everything below it.

use crate::event::Action;
use crate::id::{NodeId, Slot};
use crate::limits::EdgeLimits;
use crate::placement::Placement;
use crate::reach::Reach;
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
    /// Times that a pair became direct.
    pub earned: u64,
    /// Times that a direct pair went back to an inbox because a message of it was stored.
    pub left_stored: u64,
    /// The same because a message of it was not taken by the recipient's edge.
    pub left_bounced: u64,
    /// The same because the link to the recipient's edge was lost.
    pub left_link: u64,
    /// Grants that could not be used for want of a link to the recipient's edge.
    pub unlinked: u64,
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
    /// Which nodes can be reached.
    pub reach: &'a mut Reach,
}

impl Edge<'_> {
    /// The reachable replicas of a slot, the preferred one first and those that will stop soon last.
    pub fn reachable(&self, slot: Slot) -> impl Iterator<Item = NodeId> + '_ {
        let replicas = self.placement.replicas(slot);
        let last = replicas.iter().filter(|&&node| self.reach.is_leaving(node));
        replicas.iter().filter(|&&node| self.reach.is_core_up(node)).chain(last).copied()
    }

    /// Asks for the links to the replicas of a slot that nobody has asked for.
    pub fn want(&mut self, slot: Slot) {
        for &node in self.placement.replicas(slot) {
            self.connect(node, None);
        }
    }

    /// Asks for a link, unless that was done; `via` may know the node.
    pub fn connect(&mut self, node: NodeId, via: Option<NodeId>) {
        if self.reach.want(node, self.now.mono_ms) {
            self.out.push(Action::Connect { node, via });
        }
    }

    /// Whether a replica of a slot may be reachable soon: its link was asked for.
    pub fn is_connecting(&self, slot: Slot) -> bool {
        self.placement.replicas(slot).iter().any(|&node| self.reach.is_connecting(node))
    }

    /// Whether this node can be reached.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        self.reach.is_up(node)
    }
}
