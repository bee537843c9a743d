//! Static discovery: the configuration lists the nodes, and the list never changes.

use super::view::{Known, NodeState};
use crate::config::ListedNode;
use iris_shards::id::NodeId;

/// The listed nodes, and this one if it is not listed: an edge, or a node that is alone.
#[must_use]
pub fn known(listed: &[ListedNode], own: &Known) -> Vec<Known> {
    let mut known: Vec<Known> = listed.iter().map(|node| of_entry(node, own.num_shards)).collect();
    if known.iter().all(|node| node.name != own.name) {
        known.push(own.clone());
    }
    known
}

fn of_entry(node: &ListedNode, num_shards: u32) -> Known {
    Known {
        node: NodeId::of_name(&node.name),
        name: node.name.clone(),
        address: node.address.clone(),
        region: node.region.clone(),
        zone: node.zone.clone(),
        is_edge: node.role.is_edge(),
        is_core: node.role.is_core(),
        shards: node.shards.clone().filter(|_| node.role.is_core()),
        num_shards,
        state: NodeState::Alive,
    }
}
