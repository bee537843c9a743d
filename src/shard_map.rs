//! The map of a cluster as people look at it: which nodes keep which shards, how evenly, and what is missing.
//!
//! In: a [`Layout`], which is what a configuration or a discovery says. Out: figures. Ring and placement decide, in
//! [`iris_shards::placement`]; here is only counted. Bytes are not known here: a slot is a millionth of the users.

pub mod moves;

use crate::config::{ListedNode, Ranges, shards_text};
use iris_shards::id::{NodeId, SLOTS};
use iris_shards::placement::{Candidate, Placement, Spread, place};
use iris_shards::ring::Ring;
use iris_shards::slot::{slot_of, stable_hash};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// How wide a column of the histogram is, as a share of the mean.
const BIN_WIDTH: f64 = 0.05;

/// A node that keeps shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, which makes its id.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Where in the region.
    pub zone: String,
    /// The shards that it claims; `None`: those that fall to it.
    pub shards: Option<Ranges>,
}

impl Member {
    /// The id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId::of_name(&self.name)
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            node: self.id(),
            zone: stable_hash(self.zone.as_bytes()),
            region: stable_hash(self.region.as_bytes()),
            shards: self.shards.clone(),
        }
    }
}

impl From<&ListedNode> for Member {
    fn from(node: &ListedNode) -> Self {
        let ListedNode { name, region, zone, shards, .. } = node.clone();
        Member { name, region, zone, shards }
    }
}

/// What decides who keeps what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// 1 to 65,536.
    pub num_shards: u32,
    /// 1 to 8.
    pub copies: u8,
    /// What the copies should not share.
    pub spread: Spread,
    /// The cores.
    pub members: Vec<Member>,
}

/// Two nodes that would be taken for one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// The same node twice.
    #[error("node {0} is named twice")]
    Twice(String),
    /// Different names.
    #[error("nodes {0} and {1} have the same id; one of them needs another name")]
    SameId(String, String),
}

/// A layout, compiled.
#[derive(Debug)]
pub struct ShardMap {
    layout: Layout,
    placement: Placement,
    /// Slots of each shard.
    sizes: Vec<u32>,
    names: BTreeMap<NodeId, String>,
}

impl ShardMap {
    /// Compiles a layout. Panics if its numbers are out of bounds.
    ///
    /// Errors: its nodes cannot be told apart.
    pub fn new(layout: Layout) -> Result<Self, LayoutError> {
        let mut names = BTreeMap::new();
        for member in &layout.members {
            match names.insert(member.id(), member.name.clone()) {
                Some(other) if other == member.name => return Err(LayoutError::Twice(other)),
                Some(other) => return Err(LayoutError::SameId(other, member.name.clone())),
                None => {}
            }
        }
        let candidates: Vec<Candidate> = layout.members.iter().map(Member::candidate).collect();
        let ring = Arc::new(Ring::new(layout.num_shards));
        let sizes = ring.sizes();
        let nodes = place(layout.num_shards, layout.copies, layout.spread, &candidates);
        let placement = Placement::new(ring, layout.copies, nodes);
        Ok(ShardMap { layout, placement, sizes, names })
    }

    /// Figures of the whole.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let nodes = self.nodes();
        let mean = nodes.iter().map(|node| node.slots).sum::<u64>() as f64 / nodes.len().max(1) as f64;
        let largest = nodes.iter().map(|node| node.slots).max().unwrap_or(0);
        Summary {
            num_shards: self.layout.num_shards,
            copies: self.layout.copies,
            spread: word(self.layout.spread),
            node_largest_over_mean: if mean > 0.0 { largest as f64 / mean } else { 0.0 },
            nodes,
            balance: self.balance(),
            unowned: self.lacking(|owners| owners == 0),
            underowned: self.lacking(|owners| owners > 0 && owners < usize::from(self.layout.copies)),
        }
    }

    /// Each node's part, in the order of the layout.
    fn nodes(&self) -> Vec<NodeShare> {
        let mut shares: BTreeMap<NodeId, (u32, u32, u64)> = BTreeMap::new();
        for (shard, &slots) in (0..).zip(&self.sizes) {
            for (at, &node) in self.placement.of_shard(shard).iter().enumerate() {
                let (kept, preferred, of_slots) = shares.entry(node).or_default();
                *kept += 1;
                *preferred += u32::from(at == 0);
                *of_slots += u64::from(slots);
            }
        }
        let share = |member: &Member| {
            let (shards, preferred, slots) = shares.get(&member.id()).copied().unwrap_or_default();
            NodeShare {
                name: member.name.clone(),
                id: member.id().0,
                region: member.region.clone(),
                zone: member.zone.clone(),
                claims: member.shards.as_deref().map(shards_text),
                shards,
                preferred,
                slots,
                users: users(slots),
            }
        };
        self.layout.members.iter().map(share).collect()
    }

    fn balance(&self) -> Balance {
        let mean = f64::from(SLOTS) / f64::from(self.layout.num_shards);
        let mut bins: BTreeMap<u32, u32> = BTreeMap::new();
        for &size in &self.sizes {
            *bins.entry((f64::from(size) / mean / BIN_WIDTH) as u32).or_default() += 1;
        }
        let (first, last) = (bins.keys().next().copied(), bins.keys().last().copied());
        let bin = |at: u32| Bin { from: f64::from(at) * BIN_WIDTH, shards: bins.get(&at).copied().unwrap_or(0) };
        let largest = self.sizes.iter().copied().max().unwrap_or(0);
        Balance {
            mean_slots: mean,
            smallest_slots: self.sizes.iter().copied().min().unwrap_or(0),
            largest_slots: largest,
            largest_over_mean: f64::from(largest) / mean,
            histogram: first.zip(last).map_or(Vec::new(), |(first, last)| (first..=last).map(bin).collect()),
        }
    }

    /// The shards whose number of owners is as bad as that.
    fn lacking(&self, is_bad: impl Fn(usize) -> bool) -> Lacking {
        let mut ranges: Ranges = Vec::new();
        let mut lacking = Lacking::default();
        for (shard, &slots) in (0..).zip(&self.sizes) {
            if !is_bad(self.placement.of_shard(shard).len()) {
                continue;
            }
            lacking.count += 1;
            lacking.users += users(u64::from(slots));
            match ranges.last_mut() {
                Some(last) if last.end() + 1 == shard => *last = *last.start()..=shard,
                _ => ranges.push(shard..=shard),
            }
        }
        lacking.shards = shards_text(&ranges);
        lacking
    }

    /// Every shard with its nodes.
    pub fn shards(&self) -> impl Iterator<Item = ShardPlace> + '_ {
        (0..self.layout.num_shards).filter_map(|shard| self.shard(shard))
    }

    /// A shard with its nodes, if there is such a shard.
    #[must_use]
    pub fn shard(&self, shard: u32) -> Option<ShardPlace> {
        let &slots = self.sizes.get(shard as usize)?;
        let nodes = self.placement.of_shard(shard).iter().map(|&node| self.name(node)).collect();
        Some(ShardPlace { shard, slots, users: users(u64::from(slots)), nodes })
    }

    /// Where a user is kept.
    #[must_use]
    pub fn user(&self, user: &str) -> UserPlace {
        let slot = slot_of(user.as_bytes());
        let nodes = self.placement.replicas(slot).iter().map(|&node| self.name(node)).collect();
        UserPlace { user: user.to_owned(), slot: slot.0, shard: self.placement.ring().shard(slot), nodes }
    }

    fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_default()
    }
}

/// The share of all users that belongs to so many slots.
#[must_use]
pub fn users(slots: u64) -> f64 {
    slots as f64 / f64::from(SLOTS)
}

/// The word of the configuration.
#[must_use]
pub fn word(spread: Spread) -> &'static str {
    match spread {
        Spread::Node => "node",
        Spread::Zone => "zone",
        Spread::Region => "region",
    }
}

/// Figures of a layout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Shards.
    pub num_shards: u32,
    /// Nodes that a shard should have.
    pub copies: u8,
    /// What the copies should not share.
    pub spread: &'static str,
    /// Each node's part.
    pub nodes: Vec<NodeShare>,
    /// The slots of the node with the most over the mean of all nodes; 0 if nobody keeps anything.
    pub node_largest_over_mean: f64,
    /// How even the shards are.
    pub balance: Balance,
    /// Shards that nobody keeps: their users are refused with `unavailable`.
    pub unowned: Lacking,
    /// Shards with fewer nodes than `copies`.
    pub underowned: Lacking,
}

/// What a node keeps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeShare {
    /// The node.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Where it stands.
    pub region: String,
    /// Where in the region.
    pub zone: String,
    /// The shards that it names; none if it takes what falls to it.
    pub claims: Option<String>,
    /// Shards that it keeps.
    pub shards: u32,
    /// Those for which edges prefer it.
    pub preferred: u32,
    /// Slots that it keeps.
    pub slots: u64,
    /// The share of all users that it keeps.
    pub users: f64,
}

/// How even the shards are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Balance {
    /// Slots of a shard on average.
    pub mean_slots: f64,
    /// Of the smallest shard.
    pub smallest_slots: u32,
    /// Of the largest shard.
    pub largest_slots: u32,
    /// The largest over the mean.
    pub largest_over_mean: f64,
    /// Shards by their size.
    pub histogram: Vec<Bin>,
}

/// A column of the histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Size over the mean, from this up to the next column's.
    pub from: f64,
    /// How many shards.
    pub shards: u32,
}

/// Shards that have too few nodes.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Lacking {
    /// Which, as in a configuration.
    pub shards: String,
    /// How many.
    pub count: u32,
    /// The share of all users.
    pub users: f64,
}

/// A shard and its nodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShardPlace {
    /// The shard.
    pub shard: u32,
    /// Its slots.
    pub slots: u32,
    /// The share of all users.
    pub users: f64,
    /// Who keeps it, the preferred node first.
    pub nodes: Vec<String>,
}

/// Where a user is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserPlace {
    /// The user.
    pub user: String,
    /// The slot.
    pub slot: u32,
    /// The shard.
    pub shard: u32,
    /// Who keeps it, the preferred node first.
    pub nodes: Vec<String>,
}

#[cfg(test)]
mod tests;
