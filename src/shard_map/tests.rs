//! Maps and moves of small clusters, counted by hand or by their sums.

use super::moves::Moves;
use super::*;
use std::cmp::Reverse;

fn member(name: &str) -> Member {
    Member { name: name.into(), region: "local".into(), zone: String::new(), shards: None }
}

fn claiming(name: &str, first: u32, last: u32) -> Member {
    Member { shards: Some(vec![first..=last]), ..member(name) }
}

fn map(num_shards: u32, copies: u8, members: Vec<Member>) -> ShardMap {
    ShardMap::new(Layout { num_shards, copies, spread: Spread::Node, members }).expect("nodes that differ")
}

fn moves(before: &ShardMap, after: &ShardMap) -> Moves {
    Moves::new(before, after).expect("nodes that differ")
}

#[test]
fn one_node_keeps_everything() {
    let map = map(16, 1, vec![member("a")]);
    let summary = map.summary();
    let node = &summary.nodes[0];
    assert_eq!((node.shards, node.preferred, node.slots, node.users), (16, 16, u64::from(SLOTS), 1.0));
    assert_eq!(
        (summary.node_largest_over_mean, summary.unowned, summary.underowned),
        (1.0, <_>::default(), <_>::default())
    );
    assert_eq!(summary.balance.histogram.iter().map(|bin| bin.shards).sum::<u32>(), 16);
    assert_eq!(
        map.user("alice"),
        UserPlace { user: "alice".into(), slot: 788_724, shard: 13, nodes: vec!["a".into()] }
    );
}

#[test]
fn what_a_shard_lacks_is_told() {
    let map = map(10, 2, vec![claiming("a", 0, 5), claiming("b", 2, 3)]);
    let Summary { unowned, underowned, .. } = map.summary();
    assert_eq!((unowned.shards.as_str(), unowned.count), ("6-9", 4));
    assert_eq!((underowned.shards.as_str(), underowned.count), ("0-1,4-5", 4));
    assert!((0.3..0.5).contains(&unowned.users), "{unowned:?}");
    let names = |shard| map.shard(shard).map(|place| place.nodes.len());
    assert_eq!([names(0), names(2), names(9), names(10)], [Some(1), Some(2), Some(0), None]);
    assert_eq!(map.shards().map(|place| u64::from(place.slots)).sum::<u64>(), u64::from(SLOTS));
}

#[test]
fn nobody_is_a_layout_too() {
    let summary = map(4, 1, vec![]).summary();
    assert_eq!((summary.unowned.shards.as_str(), summary.node_largest_over_mean), ("0-3", 0.0));
    assert!((summary.unowned.users - 1.0).abs() < 1e-9);
}

#[test]
fn nodes_that_cannot_be_told_apart_are_refused() {
    let new = |one, other| {
        let members = vec![member(one), member(other)];
        ShardMap::new(Layout { num_shards: 1, copies: 1, spread: Spread::Node, members }).map(drop)
    };
    assert_eq!(new("a", "a"), Err(LayoutError::Twice("a".into())));
    let (one, other) = ("core-30139", "core-65266");
    assert_eq!(new(one, other), Err(LayoutError::SameId(one.into(), other.into())));
    let (before, after) = (map(1, 1, vec![member(one)]), map(1, 1, vec![member(other)]));
    assert_eq!(Moves::new(&before, &after), Err(LayoutError::SameId(one.into(), other.into())));
}

#[test]
fn the_same_layout_moves_nothing() {
    let members = || vec![member("a"), member("b"), member("c")];
    assert_eq!(moves(&map(100, 2, members()), &map(100, 2, members())), Moves::default());
}

#[test]
fn a_new_node_takes_its_share_from_all_and_nothing_else_moves() {
    let members = |names: &[&str]| names.iter().map(|name| member(name)).collect::<Vec<_>>();
    let before = map(1_000, 2, members(&["a", "b", "c"]));
    let after = map(1_000, 2, members(&["a", "b", "c", "d"]));
    let moves = moves(&before, &after);
    assert_eq!((moves.resharded_slots, moves.copied), (0, moves.dropped));
    assert_eq!(moves.copied, after.summary().nodes[3].slots);
    assert!((0.45..0.55).contains(&moves.moved_users), "2 copies on 4 nodes: {}", moves.moved_users);
    assert_eq!(moves.pairs.len(), 3);
    assert!(moves.pairs.iter().all(|pair| pair.to.as_deref() == Some("d") && pair.from.is_some()));
    assert_eq!(moves.pairs.iter().map(|pair| pair.slots).sum::<u64>(), moves.copied);
    assert!(moves.pairs.is_sorted_by_key(|pair| Reverse(pair.slots)));
}

#[test]
fn more_shards_on_one_node_move_nothing_but_their_numbers() {
    let moves = moves(&map(16, 1, vec![member("a")]), &map(32, 1, vec![member("a")]));
    assert_eq!((moves.moved_slots, moves.copied, moves.pairs.len()), (0, 0, 0));
    assert!(moves.resharded_slots > u64::from(SLOTS) * 49 / 100);
}

#[test]
fn further_copies_come_from_nobody() {
    let members = || vec![member("a"), member("b")];
    let slots = u64::from(SLOTS);
    let more = moves(&map(8, 1, members()), &map(8, 2, members()));
    assert_eq!((more.moved_slots, more.preferred_slots, more.copied, more.dropped), (slots, 0, slots, 0));
    assert!(more.pairs.iter().all(|pair| pair.from.is_none() && pair.to.is_some()));
    let fewer = moves(&map(8, 2, members()), &map(8, 1, members()));
    assert_eq!((fewer.copied, fewer.dropped), (0, slots));
}
