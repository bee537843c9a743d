//! Properties of placement: where replicas may be, who is preferred, and how little moves when a node comes or goes.

use iris_shards::id::{NodeId, SLOTS, Slot};
use iris_shards::placement::{Candidate, Placement, REPLICAS_MAX, Spread, place, rendezvous};
use iris_shards::ring::Ring;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

const SHARDS: u32 = 24;

fn free(node: u32, region: u64, zone: u64) -> Candidate {
    Candidate { node: NodeId(node), zone, region, shards: None }
}

fn claims() -> impl Strategy<Value = Option<Vec<RangeInclusive<u32>>>> {
    let range = (0..SHARDS + 4, 0..12u32).prop_map(|(first, more)| first..=first + more);
    prop_oneof![2 => Just(None), 1 => vec(range, 0..3).prop_map(Some)]
}

/// Up to a dozen nodes in three regions of three zones; some claim shards, even some that there are not.
fn nodes() -> impl Strategy<Value = Vec<Candidate>> {
    btree_map(any::<u32>(), (0..3u64, 0..3u64, claims()), 0..12).prop_map(|nodes| {
        let candidate = |(node, (region, zone, shards))| Candidate { node: NodeId(node), zone, region, shards };
        nodes.into_iter().map(candidate).collect()
    })
}

fn spread() -> impl Strategy<Value = Spread> {
    prop_oneof![Just(Spread::Node), Just(Spread::Zone), Just(Spread::Region)]
}

fn does_claim(candidate: &Candidate, shard: u32) -> bool {
    candidate.shards.iter().flatten().any(|range| range.contains(&shard))
}

fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

/// How many different regions, and zones of regions, there are.
fn places<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> (usize, usize) {
    let zones: BTreeSet<(u64, u64)> = candidates.map(|candidate| (candidate.region, candidate.zone)).collect();
    (zones.iter().map(|(region, _)| region).collect::<BTreeSet<_>>().len(), zones.len())
}

proptest! {
    #[test]
    fn a_shard_has_its_claimants_or_else_enough(nodes in nodes(), copies in 1..=8u8, spread in spread()) {
        let frees = nodes.iter().filter(|node| node.shards.is_none()).count();
        for (shard, replicas) in (0..).zip(place(SHARDS, copies, spread, &nodes)) {
            let claimants = nodes.iter().filter(|node| does_claim(node, shard)).map(|node| node.node);
            let claimants: BTreeSet<NodeId> = claimants.collect();
            let wanted = claimants.len().max(usize::from(copies).min(claimants.len() + frees));
            prop_assert_eq!(replicas.len(), wanted.min(REPLICAS_MAX));
            prop_assert_eq!(set(&replicas).len(), replicas.len(), "different nodes");
            let (first, rest) = replicas.split_at(claimants.len().min(REPLICAS_MAX));
            prop_assert!(set(first).is_subset(&claimants) && set(rest).is_disjoint(&claimants));
            prop_assert!(first.is_sorted_by_key(|&node| u64::MAX - rendezvous(shard, node)));
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter(nodes in nodes(), copies in 1..=4u8, spread in spread(), turn in 0..12usize) {
        let placed = place(SHARDS, copies, spread, &nodes);
        let mut turned = nodes;
        let turn = turn % turned.len().max(1);
        turned.rotate_left(turn);
        turned.reverse();
        prop_assert_eq!(place(SHARDS, copies, spread, &turned), placed);
    }

    #[test]
    fn replicas_are_in_as_many_places_as_there_are(nodes in nodes(), copies in 1..=5u8, spread in spread()) {
        let nodes: Vec<Candidate> = nodes.into_iter().map(|node| Candidate { shards: None, ..node }).collect();
        let by_id: BTreeMap<NodeId, &Candidate> = nodes.iter().map(|node| (node.node, node)).collect();
        let (regions, zones) = places(nodes.iter());
        for replicas in place(SHARDS, copies, spread, &nodes) {
            let (in_regions, in_zones) = places(replicas.iter().map(|node| by_id[node]));
            match spread {
                Spread::Node => {}
                Spread::Zone => prop_assert_eq!(in_zones, zones.min(replicas.len())),
                Spread::Region => prop_assert_eq!(in_regions, regions.min(replicas.len())),
            }
        }
    }

    /// The newcomer takes the place of one node at most, and the others keep their order unless places matter.
    #[test]
    fn a_new_node_moves_only_what_it_takes(nodes in nodes(), new in any::<u32>(), place_of in (0..3u64, 0..3u64),
                                           copies in 1..=4u8, spread in spread()) {
        let new = free(new, place_of.0, place_of.1);
        prop_assume!(nodes.iter().all(|node| node.node != new.node));
        let before = place(SHARDS, copies, spread, &nodes);
        let grown: Vec<Candidate> = nodes.into_iter().chain([new.clone()]).collect();
        for (before, after) in before.iter().zip(place(SHARDS, copies, spread, &grown)) {
            if !after.contains(&new.node) {
                prop_assert_eq!(&after, before);
                continue;
            }
            prop_assert!(set(before).difference(&set(&after)).count() <= 1);
            let others: Vec<NodeId> = after.into_iter().filter(|&node| node != new.node).collect();
            prop_assert!(spread != Spread::Node || before.starts_with(&others));
        }
    }
}

#[test]
fn nodes_get_even_shares() {
    const NODES: u32 = 20;
    let mut shares = BTreeMap::new();
    let nodes: Vec<Candidate> = (1..=NODES).map(|node| free(node, 0, 0)).collect();
    for replicas in place(10_000, 2, Spread::Node, &nodes) {
        for (at, node) in replicas.into_iter().enumerate() {
            *shares.entry((at, node)).or_insert(0) += 1;
        }
    }
    assert_eq!(shares.len(), 2 * NODES as usize, "every node is first and second somewhere");
    assert!(shares.values().all(|share| (420..=580).contains(share)), "{shares:?}");
}

#[test]
fn the_same_zone_of_another_region_is_another_zone() {
    let nodes = [free(1, 10, 1), free(2, 20, 1), free(3, 10, 1)];
    for replicas in place(100, 2, Spread::Zone, &nodes) {
        assert!(replicas.contains(&NodeId(2)), "{replicas:?}");
    }
}

#[test]
fn regions_come_first_and_then_zones() {
    let nodes = [free(1, 1, 1), free(2, 1, 1), free(3, 1, 2), free(4, 2, 1), free(5, 2, 1)];
    for replicas in place(100, 3, Spread::Region, &nodes) {
        let regions: BTreeSet<bool> = replicas[..2].iter().map(|node| node.0 >= 4).collect();
        assert_eq!(regions.len(), 2, "{replicas:?}");
        assert!(replicas.contains(&NodeId(3)), "the only second zone: {replicas:?}");
    }
}

#[test]
fn two_nodes_that_claim_halves_share_nothing() {
    let claim = |node, shards| Candidate { shards: Some(vec![shards]), ..free(node, 0, 0) };
    let nodes = [claim(1, 0..=499), claim(2, 500..=u32::MAX)];
    let ring = Arc::new(Ring::new(1_000));
    let placement = Placement::new(ring, 1, place(1_000, 1, Spread::Node, &nodes));
    assert_eq!((placement.peers(NodeId(1)), placement.peers(NodeId(2))), (vec![], vec![]));
    let of_the_first = (0..SLOTS).filter(|&slot| placement.serves(NodeId(1), Slot(slot))).count();
    let of_the_second = (0..SLOTS).filter(|&slot| placement.serves(NodeId(2), Slot(slot))).count();
    assert_eq!(of_the_first + of_the_second, SLOTS as usize);
    assert!(of_the_first.abs_diff(of_the_second) < SLOTS as usize / 50);
}

#[test]
fn nobody_keeps_what_nobody_claims() {
    let claim = Candidate { shards: Some(vec![0..=0]), ..free(1, 0, 0) };
    let placement = Placement::new(Arc::new(Ring::new(2)), 2, place(2, 2, Spread::Node, &[claim]));
    assert_eq!((placement.of_shard(0), placement.of_shard(1)), (&[NodeId(1)][..], &[][..]));
    assert_eq!((placement.peers(NodeId(1)), placement.peers(NodeId(2))), (vec![], vec![]));
}
