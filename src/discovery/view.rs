//! A view: who is there, as this node knows it, and the placement that follows from it (pure).
//!
//! In: what a way of discovery knows. Out: a numbered view, when it differs from the last one. Nodes that know the same
//! nodes have the same placement. Cores that leave keep their shards until they are gone, but others come in before
//! them; what cannot be (two nodes with one id, another number of shards) is left out and told.

use crate::config::{Cluster, Config, Ranges, Spread};
use iris_shards::id::NodeId;
use iris_shards::placement::{Candidate, Placement, REPLICAS_MAX, place};
use iris_shards::ring::Ring;
use iris_shards::slot::stable_hash;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A node as another one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Follows from the name.
    pub node: NodeId,
    /// 1 to 255 bytes.
    pub name: String,
    /// Where its links are dialled, HOST:PORT; empty if that is not known.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// Where within the region; may be empty.
    pub zone: String,
    /// Whether it keeps connections of clients, as far as that is known.
    pub is_edge: bool,
    /// Whether it keeps shards.
    pub is_core: bool,
    /// The shards that it keeps; `None`: those that fall to it.
    pub shards: Option<Ranges>,
    /// How many shards it thinks there are.
    pub num_shards: u32,
    /// How it is.
    pub state: NodeState,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It is there.
    Alive,
    /// It said that it will go.
    Leaving,
    /// It is gone without a word, and its shards wait for it.
    Gone,
}

impl Known {
    /// This node, as it tells others: dialled at the address.
    #[must_use]
    pub fn own(config: &Config, address: String) -> Self {
        Known {
            node: NodeId::of_name(&config.name),
            name: config.name.clone(),
            address,
            region: config.region.clone(),
            zone: config.zone.clone(),
            is_edge: config.role.is_edge(),
            is_core: config.role.is_core(),
            shards: config.shards.clone().filter(|_| config.role.is_core()),
            num_shards: config.cluster.num_shards,
            state: NodeState::Alive,
        }
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            node: self.node,
            zone: stable_hash(self.zone.as_bytes()),
            region: stable_hash(self.region.as_bytes()),
            shards: self.shards.clone(),
        }
    }
}

/// Neighbouring shards that have too few cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// Which.
    pub shards: RangeInclusive<u32>,
    /// How many cores each of them has; those that are gone do not count.
    pub cores: u8,
}

/// What a node knows of its cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// From 1, in the order in which this process saw them.
    pub number: u64,
    /// Who keeps what.
    pub placement: Arc<Placement>,
    /// Everybody, this node included.
    pub nodes: BTreeMap<NodeId, Known>,
    /// Shards with fewer cores than copies, in order.
    pub uncovered: Vec<Uncovered>,
    /// What does not fit together, for people; sorted.
    pub faults: Vec<String>,
}

/// Makes views. The ring is compiled once.
#[derive(Debug)]
pub struct Viewer {
    ring: Arc<Ring>,
    copies: u8,
    spread: Spread,
    last: Option<Arc<View>>,
}

impl Viewer {
    /// For a cluster with this configuration.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        let ring = Arc::new(Ring::new(cluster.num_shards));
        Viewer { ring, copies: cluster.copies, spread: cluster.spread, last: None }
    }

    /// The view of these nodes, unless it is the last one. `faults`: what was wrong before they came here.
    pub fn view(&mut self, known: Vec<Known>, mut faults: Vec<String>) -> Option<Arc<View>> {
        let nodes = distinct(known, &mut faults);
        let cores = self.cores(&nodes, &mut faults);
        faults.sort();
        faults.dedup();
        let last = self.last.as_ref();
        if last.is_some_and(|last| last.nodes == nodes && last.faults == faults) {
            return None;
        }
        let placement = match last {
            Some(last) if last.nodes == nodes => last.placement.clone(),
            _ => {
                // One that keeps nothing any more may still have what it kept: it is waited for (delivery rule 18).
                let named: Vec<NodeId> = cores.iter().map(|core| core.node).collect();
                let placement = Placement::new(self.ring.clone(), self.copies, self.replicas(&cores));
                Arc::new(placement.with_cores(&named))
            }
        };
        let uncovered = uncovered(&placement, &nodes);
        let number = last.map_or(0, |last| last.number) + 1;
        let view = Arc::new(View { number, placement, nodes, uncovered, faults });
        self.last = Some(view.clone());
        Some(view)
    }

    /// The last view.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<View>> {
        self.last.as_ref()
    }

    /// The cores that can keep shards.
    fn cores<'a>(&self, nodes: &'a BTreeMap<NodeId, Known>, faults: &mut Vec<String>) -> Vec<&'a Known> {
        let ours = self.ring.num_shards();
        for node in nodes.values().filter(|node| node.num_shards != ours) {
            let (name, theirs) = (&node.name, node.num_shards);
            faults
                .push(format!("node {name} has cluster.num_shards {theirs}, this one {ours}; its shards do not count"));
        }
        nodes.values().filter(|node| node.is_core && node.num_shards == ours).collect()
    }

    /// Those that stay, and behind them those that leave, where they were.
    fn replicas(&self, cores: &[&Known]) -> Vec<Vec<NodeId>> {
        let is_leaving = |core: &Known| core.state == NodeState::Leaving;
        let placed = |candidates: Vec<Candidate>| place(self.ring.num_shards(), self.copies, self.spread, &candidates);
        let staying = cores.iter().filter(|core| !is_leaving(core)).map(|core| core.candidate()).collect();
        let mut replicas = placed(staying);
        let leaving: Vec<NodeId> = cores.iter().filter(|core| is_leaving(core)).map(|core| core.node).collect();
        if leaving.is_empty() {
            return replicas;
        }
        let before = placed(cores.iter().map(|core| core.candidate()).collect());
        for (shard, before) in replicas.iter_mut().zip(before) {
            shard.extend(before.into_iter().filter(|node| leaving.contains(node)));
            shard.truncate(REPLICAS_MAX);
        }
        replicas
    }
}

/// One node for each id: of several, the one whose name comes first.
fn distinct(mut known: Vec<Known>, faults: &mut Vec<String>) -> BTreeMap<NodeId, Known> {
    known.sort_by(|a, b| a.name.cmp(&b.name));
    let mut nodes: BTreeMap<NodeId, Known> = BTreeMap::new();
    for node in known {
        let first = nodes.entry(node.node).or_insert_with(|| node.clone());
        if first.name != node.name {
            let (one, other) = (&first.name, &node.name);
            faults.push(format!("nodes {one} and {other} have the same id; {other} is left out, give it another name"));
        }
    }
    nodes
}

fn uncovered(placement: &Placement, nodes: &BTreeMap<NodeId, Known>) -> Vec<Uncovered> {
    let is_there = |node: &&NodeId| nodes.get(node).is_some_and(|known| known.state != NodeState::Gone);
    let mut found: Vec<Uncovered> = Vec::new();
    for shard in 0..placement.ring().num_shards() {
        let cores = placement.of_shard(shard).iter().filter(is_there).count() as u8;
        if cores >= placement.copies() {
            continue;
        }
        match found.last_mut() {
            Some(last) if *last.shards.end() + 1 == shard && last.cores == cores => {
                last.shards = *last.shards.start()..=shard;
            }
            _ => found.push(Uncovered { shards: shard..=shard, cores }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Discovery, parse_shards};

    const SHARDS: u32 = 100;

    fn viewer(copies: u8) -> Viewer {
        Viewer { ring: Arc::new(Ring::new(SHARDS)), copies, spread: Spread::Node, last: None }
    }

    fn core(name: &str, shards: Option<&str>) -> Known {
        Known {
            node: NodeId::of_name(name),
            name: name.to_owned(),
            address: format!("{name}:1"),
            region: "r".to_owned(),
            zone: String::new(),
            is_edge: false,
            is_core: true,
            shards: shards.map(|text| parse_shards(text, SHARDS).expect("shards")),
            num_shards: SHARDS,
            state: NodeState::Alive,
        }
    }

    fn with(mut known: Known, state: NodeState) -> Known {
        known.state = state;
        known
    }

    #[test]
    fn a_node_that_is_alone_keeps_everything() {
        let view = viewer(1).view(vec![core("a", None)], Vec::new()).expect("the first");
        assert_eq!((view.number, view.uncovered.len(), view.faults.len()), (1, 0, 0));
        assert!((0..SHARDS).all(|shard| view.placement.of_shard(shard) == [NodeId::of_name("a")]));
    }

    #[test]
    fn claims_are_kept_and_what_nobody_claims_is_told() {
        let mut viewer = viewer(2);
        let known = vec![core("a", Some("0-59")), core("b", Some("40-89")), core("c", Some("50"))];
        let view = viewer.view(known.clone(), Vec::new()).expect("the first");
        assert_eq!(view.placement.of_shard(50).len(), 3);
        let told: Vec<_> = view.uncovered.iter().map(|u| (u.shards.clone(), u.cores)).collect();
        assert_eq!(told, [(0..=39, 1), (60..=89, 1), (90..=99, 0)]);
        assert_eq!(viewer.view(known, Vec::new()), None);
    }

    #[test]
    fn a_core_that_is_gone_keeps_its_claims_but_does_not_cover_them() {
        let mut viewer = viewer(1);
        let gone = with(core("a", Some("0-99")), NodeState::Gone);
        let view = viewer.view(vec![gone, core("b", None)], Vec::new()).expect("the first");
        assert_eq!(view.placement.of_shard(7), [NodeId::of_name("a")]);
        assert_eq!(view.uncovered, [Uncovered { shards: 0..=99, cores: 0 }]);
        let view = viewer.view(vec![core("b", None)], Vec::new()).expect("another");
        assert_eq!((view.number, view.placement.of_shard(7)), (2, &[NodeId::of_name("b")][..]));
    }

    #[test]
    fn a_core_that_leaves_comes_last_and_others_come_before_it_goes() {
        let mut viewer = viewer(2);
        let names = ["a", "b", "c", "d"];
        let before = viewer.view(names.map(|name| core(name, None)).to_vec(), Vec::new()).expect("the first");
        let mut known = names.map(|name| core(name, None));
        known[0].state = NodeState::Leaving;
        let during = viewer.view(known.to_vec(), Vec::new()).expect("another");
        let after = viewer.view(known[1..].to_vec(), Vec::new()).expect("another");
        let leaving = NodeId::of_name("a");
        for shard in 0..SHARDS {
            let mut wanted = after.placement.of_shard(shard).to_vec();
            assert_eq!(wanted.len(), 2);
            if before.placement.of_shard(shard).contains(&leaving) {
                wanted.push(leaving);
            }
            assert_eq!(during.placement.of_shard(shard), wanted, "shard {shard}");
        }
        assert_eq!(during.uncovered, []);
    }

    #[test]
    fn what_cannot_be_is_left_out_and_named() {
        let mut other = core("c", None);
        other.num_shards = 7;
        // Two names with one id, found by counting.
        let known = vec![core("core-65266", None), core("core-30139", None), other];
        let view = viewer(1).view(known, vec!["z".to_owned()]).expect("the first");
        let faults: Vec<&str> = view.faults.iter().map(String::as_str).collect();
        assert_eq!(
            faults,
            [
                "node c has cluster.num_shards 7, this one 100; its shards do not count",
                "nodes core-30139 and core-65266 have the same id; core-65266 is left out, give it another name",
                "z",
            ]
        );
        assert_eq!(view.nodes[&NodeId::of_name("core-30139")].name, "core-30139");
        assert!((0..SHARDS).all(|shard| view.placement.of_shard(shard) == [NodeId::of_name("core-30139")]));
    }

    #[test]
    fn fifty_thousand_shards_are_placed_in_no_time() {
        let config = Config::load(None, &crate::config::Flags { data: Some("x".into()), ..Default::default() });
        let mut cluster = config.expect("the default").cluster;
        assert_eq!(cluster.discovery, Discovery::Static { nodes: Vec::new() });
        (cluster.num_shards, cluster.copies) = (50_000, 2);
        let mut viewer = Viewer::new(&cluster);
        let cores = (0..100).map(|n| Known { num_shards: 50_000, ..core(&format!("core-{n}"), None) });
        let view = viewer.view(cores.collect(), Vec::new()).expect("the first");
        assert_eq!(view.uncovered, []);
    }
}
