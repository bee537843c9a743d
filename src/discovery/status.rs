//! What `iris status` shows of discovery.

use super::view::{Known, NodeState, View};
use crate::config::shards_text;
use serde::{Deserialize, Serialize};

/// Discovery at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// `static`, `gossip`, `dns`, `consul` or `etcd`.
    pub kind: String,
    /// The number of the view, from 1.
    pub view: u64,
    /// Everybody, this node included, in the order of their names.
    pub nodes: Vec<NodeStatus>,
    /// Shards that have fewer cores than `cluster.copies`.
    pub uncovered: Vec<UncoveredStatus>,
    /// What does not fit together.
    pub faults: Vec<String>,
    /// Since when the service behind it (gossip: all other nodes; dns: the name server) does not answer, or refuses, in ms
    /// since the Unix epoch. What was known is kept meanwhile.
    pub away_since_unix_ms: Option<u64>,
    /// What it says instead.
    pub away_reason: Option<String>,
    /// Gossip: datagrams that came from elsewhere (another secret, cluster or version), or were broken.
    pub datagrams_refused: u64,
}

/// A node as this one knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `node.name`.
    pub name: String,
    /// Where its links are dialled.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// Where within the region.
    pub zone: String,
    /// `edge`, `core`, `both`.
    pub role: String,
    /// The shards that it names, such as `0-499`; `Auto`: those that fall to it. Empty for an edge.
    pub shards: String,
    /// `alive`, `leaving`, `gone` (its shards wait for it).
    pub state: String,
}

/// Shards with too few cores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoveredStatus {
    /// Such as `500-999`.
    pub shards: String,
    /// How many cores each has.
    pub cores: u8,
    /// How many it should have.
    pub copies: u8,
}

impl DiscoveryStatus {
    pub(super) fn show(&mut self, view: &View) {
        self.view = view.number;
        self.nodes = view.nodes.values().map(node).collect();
        self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self.uncovered = uncovered(view);
        self.faults.clone_from(&view.faults);
    }
}

pub(super) fn uncovered(view: &View) -> Vec<UncoveredStatus> {
    let copies = view.placement.copies();
    let of = |shards: &std::ops::RangeInclusive<u32>| shards_text(std::slice::from_ref(shards));
    view.uncovered.iter().map(|u| UncoveredStatus { shards: of(&u.shards), cores: u.cores, copies }).collect()
}

fn node(known: &Known) -> NodeStatus {
    let role = match (known.is_edge, known.is_core) {
        (true, true) => "both",
        (false, true) => "core",
        (true, false) => "edge",
        (false, false) => "",
    };
    let shards = match &known.shards {
        _ if !known.is_core => String::new(),
        Some(ranges) => shards_text(ranges),
        None => "Auto".to_owned(),
    };
    let state = match known.state {
        NodeState::Alive => "alive",
        NodeState::Leaving => "leaving",
        NodeState::Gone => "gone",
    };
    NodeStatus {
        name: known.name.clone(),
        address: known.address.clone(),
        region: known.region.clone(),
        zone: known.zone.clone(),
        role: role.to_owned(),
        shards,
        state: state.to_owned(),
    }
}
