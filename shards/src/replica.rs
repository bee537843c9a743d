//! How far the other replicas of this node's slots are in step with it (delivery rules 8 and 14).
//!
//! A leaf: it takes what a link and [`crate::peer::FromReplica`] tell, and answers what may be relied on.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ExecutorId, NodeId, Slot};

/// How far this executor is in step with the core of one other node.
#[derive(Debug, Default)]
pub struct InStep {
    up: bool,
    complete: bool,
    offers: BTreeSet<ExecutorId>,
    digests: BTreeMap<Slot, u64>,
    offered: bool,
    wanted: BTreeSet<Slot>,
    compared: BTreeSet<ExecutorId>,
    is_compared: bool,
    /// A copy of these found no room here: they are wanted again.
    behind: BTreeSet<Slot>,
    /// The same at the other side.
    short: BTreeSet<Slot>,
}

impl InStep {
    /// The link is up, for the first time or again: nothing is known about the other side.
    pub fn on_link_up(&mut self) {
        *self = InStep { up: true, ..InStep::default() };
    }

    /// The link is lost. What was not in step by then stays so.
    pub fn on_link_down(&mut self) {
        self.up = false;
    }

    /// The digest of one slot of the other side.
    pub fn on_digest(&mut self, slot: Slot, digest: u64) {
        self.digests.insert(slot, digest);
    }

    /// One executor of the other side has offered everything. Returns the digests when it was the last one.
    pub fn on_offered(&mut self, executor: ExecutorId, executors: u16, complete: bool) -> Option<BTreeMap<Slot, u64>> {
        self.complete = complete && (self.offers.is_empty() || self.complete);
        self.offers.insert(executor);
        if !self.up || self.offers.len() < usize::from(executors) {
            return None;
        }
        self.offered = true;
        Some(std::mem::take(&mut self.digests))
    }

    /// One executor of the other side has asked for what it lacks. True when it was the last one.
    pub fn on_compared(&mut self, executor: ExecutorId, executors: u16) -> bool {
        self.compared.insert(executor);
        self.is_compared = self.up && self.compared.len() >= usize::from(executors);
        self.is_compared
    }

    /// Whether the other side has asked for what it lacked when the link came up.
    pub fn has_compared(&self) -> bool {
        self.is_compared
    }

    /// The content of this slot was asked for.
    pub fn want(&mut self, slot: Slot) {
        self.behind.remove(&slot);
        self.wanted.insert(slot);
    }

    /// A copy found no room here. True if this is news.
    pub fn fall_behind(&mut self, slot: Slot) -> bool {
        self.up && self.behind.insert(slot)
    }

    /// What is to be asked for again, now that there is room. Not while it is being sent: what was lost of it would be
    /// missed.
    pub fn to_want_again(&self) -> Vec<Slot> {
        self.behind.iter().copied().filter(|slot| self.offered && !self.wanted.contains(slot)).collect()
    }

    /// The other side had no room for something of this slot (`true`), or asks for all of it (`false`).
    pub fn set_short(&mut self, slot: Slot, is_short: bool) {
        if is_short {
            self.short.insert(slot);
        } else {
            self.short.remove(&slot);
        }
    }

    /// Whether the other side gets everything of this slot that this side appends, and says when it is on disk.
    pub fn keeps(&self, slot: Slot) -> bool {
        self.up && self.is_synced(slot) && !self.short.contains(&slot)
    }

    /// The content of this slot has arrived.
    pub fn on_done(&mut self, slot: Slot) {
        self.wanted.remove(&slot);
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether the other side's log carries its mark, as far as it has said so.
    pub fn is_complete(&self) -> bool {
        self.offered && self.complete
    }

    /// Whether this side has everything that the other had of this slot when the link came up; while it is down: had
    /// it when the link was lost.
    pub fn is_synced(&self, slot: Slot) -> bool {
        self.offered && !self.wanted.contains(&slot) && !self.behind.contains(&slot)
    }

    /// The same for all slots.
    pub fn is_all_synced(&self) -> bool {
        self.offered && self.wanted.is_empty() && self.behind.is_empty()
    }
}

/// The other replicas of this node's slots, by node.
pub type Peers = BTreeMap<NodeId, InStep>;
