//! What moves when one layout takes another's place.
//!
//! A slot that gets another shard costs nothing by itself: what is copied is what a node gets that did not have it.

use super::{LayoutError, ShardMap, users};
use iris_shards::id::{NodeId, SLOTS, Slot};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What moves. Slots count once per copy in `pairs`, `copied` and `dropped`, and once in the others.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Moves {
    /// Slots that get another shard.
    pub resharded_slots: u64,
    /// Slots that some node gets or loses.
    pub moved_slots: u64,
    /// Their share of all users.
    pub moved_users: f64,
    /// Slots that edges look for at another node first.
    pub preferred_slots: u64,
    /// Copies of slots that are made on nodes without them.
    pub copied: u64,
    /// Copies of slots that are not needed any more.
    pub dropped: u64,
    /// Who gets what instead of whom, the most first.
    pub pairs: Vec<Pair>,
}

/// Slots that one node gets and another one need not keep any more.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// Who had them; none for a further copy.
    pub from: Option<String>,
    /// Who has them; none for a copy less.
    pub to: Option<String>,
    /// How many slots.
    pub slots: u64,
    /// The share of all users.
    pub users: f64,
}

type Between = (Option<NodeId>, Option<NodeId>);

impl Moves {
    /// Compares two layouts slot by slot.
    ///
    /// Errors: a node of the one cannot be told apart from one of the other.
    pub fn new(before: &ShardMap, after: &ShardMap) -> Result<Self, LayoutError> {
        for (node, name) in &before.names {
            if let Some(other) = after.names.get(node).filter(|other| *other != name) {
                return Err(LayoutError::SameId(name.clone(), other.clone()));
            }
        }
        let (mut moves, mut pairs) = (Moves::default(), BTreeMap::new());
        for slot in (0..SLOTS).map(Slot) {
            moves.count(slot, before, after, &mut pairs);
        }
        moves.moved_users = users(moves.moved_slots);
        let named = |node| after.names.get(&node).or_else(|| before.names.get(&node)).cloned();
        let name = |node: Option<NodeId>| node.and_then(named);
        let pair = |((from, to), slots)| Pair { from: name(from), to: name(to), slots, users: users(slots) };
        moves.pairs = pairs.into_iter().map(pair).collect();
        moves.pairs.sort_by_key(|pair| Reverse(pair.slots));
        Ok(moves)
    }

    fn count(&mut self, slot: Slot, before: &ShardMap, after: &ShardMap, pairs: &mut BTreeMap<Between, u64>) {
        let (before, after) = (&before.placement, &after.placement);
        self.resharded_slots += u64::from(before.ring().shard(slot) != after.ring().shard(slot));
        let (had, have) = (before.replicas(slot), after.replicas(slot));
        if had == have {
            return;
        }
        self.preferred_slots += u64::from(had.first() != have.first());
        let mut lost = had.iter().copied().filter(|node| !have.contains(node)).fuse();
        let mut gained = have.iter().copied().filter(|node| !had.contains(node)).fuse();
        let mut has_moved = false;
        loop {
            let between = (lost.next(), gained.next());
            if between == (None, None) {
                break;
            }
            has_moved = true;
            self.dropped += u64::from(between.0.is_some());
            self.copied += u64::from(between.1.is_some());
            *pairs.entry(between).or_default() += 1;
        }
        self.moved_slots += u64::from(has_moved);
    }
}
