//! Placement: which nodes keep the users of a slot, in the order in which edges prefer them.
//!
//! Slot → shard is the [`Ring`]; shard → nodes is what [`place`] makes of the nodes' wishes and claims, by rendezvous
//! hashing (Thaler and Ravishankar 1998). Both are functions of their arguments alone: nodes that know the same
//! candidates place alike. Who is a candidate is discovery's business.

use crate::id::{NodeId, Slot};
use crate::ring::Ring;
use crate::slot::stable_hash;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Nodes that keep one shard at most.
pub const REPLICAS_MAX: usize = 8;

/// Who keeps what. Compiled once per process and change, shared by its executors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    ring: Arc<Ring>,
    copies: u8,
    shards: Box<[Replicas]>,
    /// Ascending.
    cores: Box<[NodeId]>,
}

/// The nodes of a shard, in place, so that a slot's are two looks into arrays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Replicas {
    count: u8,
    nodes: [NodeId; REPLICAS_MAX],
}

impl Replicas {
    fn new(nodes: &[NodeId]) -> Self {
        assert!(nodes.len() <= REPLICAS_MAX, "{} nodes for one shard", nodes.len());
        let mut replicas = Replicas { count: nodes.len() as u8, nodes: [NodeId(0); REPLICAS_MAX] };
        replicas.nodes[..nodes.len()].copy_from_slice(nodes);
        replicas
    }

    #[inline]
    fn as_slice(&self) -> &[NodeId] {
        &self.nodes[..usize::from(self.count)]
    }
}

impl Placement {
    /// One shard on these nodes, preferred in this order; as many copies as nodes. Panics if there is none, or more than
    /// [`REPLICAS_MAX`].
    pub fn everywhere(replicas: Vec<NodeId>) -> Self {
        assert!(!replicas.is_empty(), "a slot without a node");
        let copies = replicas.len() as u8;
        Placement::new(Arc::new(Ring::new(1)), copies, vec![replicas])
    }

    /// These nodes for each shard, preferred in this order. A shard may have fewer than `copies`, even none, or more.
    /// Panics unless there is a list for each shard of the ring, of [`REPLICAS_MAX`] nodes at most.
    pub fn new(ring: Arc<Ring>, copies: u8, replicas: Vec<Vec<NodeId>>) -> Self {
        assert_eq!(replicas.len(), ring.num_shards() as usize, "a list for each shard");
        let shards = replicas.iter().map(|nodes| Replicas::new(nodes)).collect();
        let cores: BTreeSet<NodeId> = replicas.into_iter().flatten().collect();
        Placement { ring, copies, shards, cores: cores.into_iter().collect() }
    }

    /// Nodes that keep nothing now and may still have what they kept before. Whoever keeps a shard waits for them as for
    /// its other replicas (delivery rule 18); a node that is not named at all has been given up by its operator.
    pub fn with_cores(mut self, more: &[NodeId]) -> Self {
        let cores: BTreeSet<NodeId> = self.cores.iter().chain(more).copied().collect();
        self.cores = cores.into_iter().collect();
        self
    }

    /// Every core, ascending: those that keep a shard and those of [`Placement::with_cores`].
    #[inline]
    pub fn cores(&self) -> &[NodeId] {
        &self.cores
    }

    /// The nodes that keep a slot, the preferred one first. Empty if nobody does.
    #[inline]
    pub fn replicas(&self, slot: Slot) -> &[NodeId] {
        self.of_shard(self.ring.shard(slot))
    }

    /// The nodes that keep a shard, the preferred one first. Empty if nobody does. Panics if there is no such shard.
    #[inline]
    pub fn of_shard(&self, shard: u32) -> &[NodeId] {
        self.shards[shard as usize].as_slice()
    }

    /// Whether the node keeps the slot.
    #[inline]
    pub fn serves(&self, node: NodeId, slot: Slot) -> bool {
        self.replicas(slot).contains(&node)
    }

    /// The other nodes that share a shard with this one, in the order of shards and preference. Empty for a node that
    /// keeps none.
    pub fn peers(&self, node: NodeId) -> Vec<NodeId> {
        let (mut seen, mut peers) = (BTreeSet::from([node]), Vec::new());
        for nodes in self.shards.iter().map(Replicas::as_slice).filter(|nodes| nodes.contains(&node)) {
            peers.extend(nodes.iter().copied().filter(|&other| seen.insert(other)));
        }
        peers
    }

    /// Slot → shard.
    #[inline]
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// How many nodes a shard should have.
    #[inline]
    pub fn copies(&self) -> u8 {
        self.copies
    }
}

/// A node that can keep shards. Ids are distinct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// [`stable_hash`] of its zone's name. A zone is a part of its region: the same name elsewhere is another zone.
    pub zone: u64,
    /// [`stable_hash`] of its region's name.
    pub region: u64,
    /// The shards that it keeps, whoever else does; shards that there are not are left out. `None`: the shards that
    /// fall to it.
    pub shards: Option<Vec<RangeInclusive<u32>>>,
}

/// What the replicas of a shard should have different, as far as there are such nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Spread {
    /// The node only.
    #[default]
    Node,
    /// The zone.
    Zone,
    /// The region, or else the zone.
    Region,
}

/// How much a shard wants a node: [`stable_hash`] of eight bytes, shard and node, both big endian. The higher the better;
/// of equal ones the lower node id.
#[inline]
pub fn rendezvous(shard: u32, node: NodeId) -> u64 {
    stable_hash(&((u64::from(shard) << 32) | u64::from(node.0)).to_be_bytes())
}

/// The nodes of each shard, preferred in this order.
///
/// First those that claim it, by [`rendezvous`], [`REPLICAS_MAX`] at most. If they are fewer than `copies`, nodes
/// without a claim to anything are added one at a time: always the one whose place differs most from those that the
/// shard has, as `spread` asks, and of several the one that rendezvous prefers. A shard may get too few, or none.
/// The order of the candidates does not matter. Panics unless `copies` is 1 to [`REPLICAS_MAX`].
pub fn place(num_shards: u32, copies: u8, spread: Spread, candidates: &[Candidate]) -> Vec<Vec<NodeId>> {
    assert!((1..=REPLICAS_MAX).contains(&usize::from(copies)), "{copies} copies");
    let mut claims: Vec<Vec<&Candidate>> = vec![Vec::new(); num_shards as usize];
    for candidate in candidates {
        for shard in candidate.shards.iter().flatten().flat_map(|range| clamp(range, num_shards)) {
            claims[shard as usize].push(candidate);
        }
    }
    let free: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.shards.is_none()).collect();
    let of_shard = |(shard, mut chosen): (u32, Vec<&Candidate>)| {
        chosen.sort_unstable_by_key(|candidate| (Reverse(rendezvous(shard, candidate.node)), candidate.node));
        chosen.dedup_by_key(|candidate| candidate.node);
        chosen.truncate(REPLICAS_MAX);
        fill(shard, usize::from(copies), spread, &free, &mut chosen);
        chosen.iter().map(|candidate| candidate.node).collect()
    };
    (0..num_shards).zip(claims).map(of_shard).collect()
}

/// The part of a range that names shards.
fn clamp(range: &RangeInclusive<u32>, num_shards: u32) -> RangeInclusive<u32> {
    *range.start()..=(*range.end()).min(num_shards - 1)
}

/// Adds the best of the free nodes until there are enough or none is left.
fn fill<'a>(shard: u32, copies: usize, spread: Spread, free: &[&'a Candidate], chosen: &mut Vec<&'a Candidate>) {
    if chosen.len() >= copies || free.is_empty() {
        return;
    }
    let mut scored: Vec<(u64, &Candidate)> = free.iter().map(|&c| (rendezvous(shard, c.node), c)).collect();
    while chosen.len() < copies {
        let best = (0..scored.len()).max_by_key(|&at| {
            let (score, candidate) = scored[at];
            (distance(spread, candidate, chosen), score, Reverse(candidate.node))
        });
        let Some(best) = best else { return };
        chosen.push(scored.swap_remove(best).1);
    }
}

/// How different a node's place is from those of the chosen.
fn distance(spread: Spread, candidate: &Candidate, chosen: &[&Candidate]) -> u8 {
    let is_new_region = chosen.iter().all(|other| other.region != candidate.region);
    let is_new_zone = chosen.iter().all(|other| (other.region, other.zone) != (candidate.region, candidate.zone));
    match spread {
        Spread::Node => 0,
        Spread::Zone => u8::from(is_new_zone),
        Spread::Region => u8::from(is_new_region) + u8::from(is_new_zone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shard_is_everywhere() {
        let placement = Placement::everywhere(vec![NodeId(7), NodeId(3)]);
        assert_eq!(placement.replicas(Slot(99)), [NodeId(7), NodeId(3)]);
        assert_eq!((placement.peers(NodeId(3)), placement.peers(NodeId(4))), (vec![NodeId(7)], vec![]));
        assert!(placement.serves(NodeId(7), Slot(0)) && !placement.serves(NodeId(4), Slot(0)));
        assert_eq!(placement.copies(), 2);
    }

    #[test]
    fn peers_share_a_shard() {
        let [a, b, c, d] = [1, 2, 3, 4].map(NodeId);
        let placement = Placement::new(Arc::new(Ring::new(3)), 2, vec![vec![a, b], vec![c, a], vec![d]]);
        assert_eq!(placement.peers(a), [b, c]);
        assert_eq!(placement.peers(c), [a]);
        assert_eq!(placement.peers(d), []);
        let slots = (0..1_000).map(Slot);
        for slot in slots {
            assert_eq!(placement.replicas(slot), placement.of_shard(placement.ring().shard(slot)));
        }
    }
}
