//! Placement: which nodes keep the users of a slot, in the order in which edges prefer them.
//!
//! One node keeps everything, or every slot has the same replicas. The ring of shards and the map from shards to
//! nodes come with the cluster and fill the same question.

use crate::id::{NodeId, Slot};

/// Who keeps what. Compiled once per process, shared by its executors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    replicas: Vec<NodeId>,
}

impl Placement {
    /// Every slot on these nodes, preferred in this order. Panics if there is none.
    pub fn everywhere(replicas: Vec<NodeId>) -> Self {
        assert!(!replicas.is_empty(), "a slot without a node");
        Placement { replicas }
    }

    /// The other nodes that share a slot with this one, in order of preference. Empty for a node that keeps none.
    pub fn peers(&self, node: NodeId) -> Vec<NodeId> {
        if !self.replicas.contains(&node) {
            return Vec::new();
        }
        self.replicas.iter().copied().filter(|&other| other != node).collect()
    }

    /// The nodes that keep a slot, the preferred one first. Never empty.
    #[inline]
    pub fn replicas(&self, _slot: Slot) -> &[NodeId] {
        &self.replicas
    }
}
