//! What an executor does for the links that it owns: dialling, trying again, pings, and giving up.
//!
//! A core of the placement is dialled again for as long as it was wanted once; an edge only when it is wanted anew.

use iris_shards::id::NodeId;
use iris_shards::link::{LinkFrame, LinkName};
use iris_shards::slot::stable_hash;
use serde::{Deserialize, Serialize};

use super::{Happening, Links};
use crate::sockets::Sockets;

/// Between two looks at the links, in ms.
const LOOK_MS: u64 = 100;
/// A handshake is over within this time, in ms.
const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Pings within `silent_ms`.
const PINGS: u64 = 3;
/// The first wait before dialling again, in ms.
const RETRY_MS_MIN: u64 = 50;
/// How long an unknown address is waited for before it is asked for again, in ms.
const ASK_AGAIN_MS: u64 = 1_000;

/// What travelled to and from one node since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounts {
    /// Messages between the machines.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages between the machines.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// How often the link came up.
    pub ups: u64,
    /// How often it was lost.
    pub downs: u64,
}

impl LinkCounts {
    /// One was sent.
    pub fn on_sent(&mut self, bytes: usize) {
        self.sent += 1;
        self.sent_bytes += bytes as u64;
    }

    /// One has come.
    pub fn on_received(&mut self, bytes: usize) {
        self.received += 1;
        self.received_bytes += bytes as u64;
    }
}

/// What an executor knows about the link to one node.
#[derive(Debug, Default)]
pub struct Care {
    /// Whether somebody here needs it.
    pub is_wanted: bool,
    /// A core that may know the address.
    pub via: Option<NodeId>,
    /// The connection that is up.
    pub wire: Option<usize>,
    /// The dial under way: its number, and its connection once there is one.
    pub dial: Option<(u64, Option<usize>)>,
    /// Number of the last dial.
    pub attempt: u64,
    /// The last link that was up.
    pub last: Option<LinkName>,
    /// Not dialled before this moment, in monotonic ms.
    pub retry_at_ms: u64,
    /// The wait before the last dial, in ms.
    pub backoff_ms: u64,
    /// Whether the machines know that it cannot be had.
    pub is_told: bool,
    /// Why it is not there.
    pub trouble: String,
    /// What travelled.
    pub counts: LinkCounts,
}

impl Links {
    /// A link to this node is wanted; `via` may know its address.
    pub fn want(&mut self, node: NodeId, via: Option<NodeId>, now_ms: u64) {
        let care = self.cares.entry(node).or_default();
        care.is_wanted = true;
        care.via = via.or(care.via);
        self.dial_if_wanted(node, now_ms);
    }

    /// Dials, unless there is a link or a dial, or it is too early.
    pub(super) fn dial_if_wanted(&mut self, node: NodeId, now_ms: u64) {
        let Some(care) = self.cares.get(&node) else { return };
        let is_due =
            self.is_open && care.is_wanted && care.wire.is_none() && care.dial.is_none() && care.retry_at_ms <= now_ms;
        if !is_due {
            return;
        }
        match self.address_of(node) {
            Some(address) => self.dial(node, address, now_ms),
            None => self.ask_address(node, now_ms),
        }
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
        let known = self.view.nodes.get(&node).map(|known| &known.address);
        let learned = || self.learned.get(&node).map(|introduction| &introduction.address);
        known.or_else(learned).filter(|address| !address.is_empty()).cloned()
    }

    fn ask_address(&mut self, node: NodeId, now_ms: u64) {
        let Some(care) = self.cares.get_mut(&node) else { return };
        care.retry_at_ms = now_ms + ASK_AGAIN_MS;
        match care.via.take() {
            Some(via) => self.happened.push(Happening::Ask { via, about: node }),
            None => self.on_dial_failed(node, "nobody knows its address".into(), now_ms),
        }
    }

    fn dial(&mut self, node: NodeId, address: String, now_ms: u64) {
        let Some(care) = self.cares.get_mut(&node) else { return };
        care.attempt += 1;
        care.dial = Some((care.attempt, None));
        if !self.dialer.dial(node, care.attempt, address) {
            care.dial = None;
            care.retry_at_ms = now_ms + RETRY_MS_MIN;
        }
    }

    /// There is no link, and this is why.
    pub(super) fn on_dial_failed(&mut self, node: NodeId, cause: String, now_ms: u64) {
        let retry_ms_max = self.own.limits.retry_ms_max;
        let is_core = self.is_core(node);
        let Some(care) = self.cares.get_mut(&node) else { return };
        care.dial = None;
        care.backoff_ms = (care.backoff_ms * 2).clamp(RETRY_MS_MIN, retry_ms_max);
        let boot = self.own.hello.party.boot;
        let seed = [boot.to_be_bytes(), (u64::from(node.0) << 32 | care.attempt).to_be_bytes()].concat();
        care.retry_at_ms = now_ms + care.backoff_ms / 2 + stable_hash(&seed) % (care.backoff_ms / 2 + 1);
        if care.trouble != cause {
            let name = self.view.nodes.get(&node).map_or("", |known| known.name.as_str());
            tracing::warn!(node = node.0, name, cause, "no link to another node");
            care.trouble = cause;
        }
        care.is_wanted &= is_core;
        if !std::mem::replace(&mut care.is_told, true) && care.wire.is_none() {
            self.happened.push(Happening::Down(node));
        }
    }

    fn is_core(&self, node: NodeId) -> bool {
        self.view.nodes.get(&node).is_some_and(|known| known.is_core)
    }

    /// A connection has ended, or is to end.
    pub(super) fn lose(&mut self, sockets: &mut Sockets, index: usize, cause: &str, now_ms: u64) {
        let Some(wire) = self.wires.remove(&index) else { return };
        sockets.close(wire.key);
        let Some(node) = wire.node else { return };
        let is_up = wire.generation().is_some();
        let is_core = self.is_core(node);
        let Some(care) = self.cares.get_mut(&node) else { return };
        if is_up && care.wire == Some(index) {
            care.wire = None;
            care.is_wanted &= is_core;
            care.counts.downs += 1;
            care.trouble = cause.to_owned();
            care.is_told = true;
            care.backoff_ms = 0;
            care.retry_at_ms = now_ms;
            tracing::info!(node = node.0, cause, "a link is lost");
            self.happened.push(Happening::Down(node));
            self.dial_if_wanted(node, now_ms);
        } else if care.dial.is_some_and(|(_, its)| its == Some(index)) {
            self.on_dial_failed(node, cause.to_owned(), now_ms);
        }
    }

    /// Looks at every link: who is silent, who is idle, who is to be dialled again.
    pub fn tick(&mut self, sockets: &mut Sockets, now_ms: u64) {
        if now_ms < self.look_ms {
            return;
        }
        self.look_ms = now_ms + LOOK_MS;
        let limits = &self.own.limits;
        let (silent_ms, idle_ms) = (limits.silent_ms, limits.idle_ms);
        let mut ended = Vec::new();
        let mut silent = Vec::new();
        for (&index, wire) in &self.wires {
            let is_up = wire.generation().is_some();
            let is_edge = wire.node.is_some_and(|node| !self.is_core(node) && !self.own.hello.party.is_core);
            if is_up && now_ms.saturating_sub(wire.heard_ms) > silent_ms {
                ended.push((index, "nothing was heard for link.silent_ms"));
            } else if !is_up && now_ms.saturating_sub(wire.began_ms) > HANDSHAKE_MS_MAX {
                ended.push((index, "the handshake took too long"));
            } else if is_up && is_edge && now_ms.saturating_sub(wire.used_ms) > idle_ms {
                ended.push((index, "it was idle for link.idle_ms"));
            } else if is_up && now_ms.saturating_sub(wire.sent_ms) >= silent_ms / PINGS {
                silent.push(index);
            }
        }
        ended.into_iter().for_each(|(index, cause)| self.lose(sockets, index, cause, now_ms));
        silent.into_iter().for_each(|index| self.frame(index, &LinkFrame::Ping { token: now_ms }));
        self.dial_those_due(now_ms);
    }

    fn dial_those_due(&mut self, now_ms: u64) {
        let due: Vec<NodeId> = self.cares.iter().filter(|(_, care)| care.is_wanted).map(|(&node, _)| node).collect();
        due.into_iter().for_each(|node| self.dial_if_wanted(node, now_ms));
    }

    /// What an operator sees of the links of this executor.
    pub fn status(&self) -> Vec<(NodeId, bool, LinkCounts, String)> {
        let all = self.cares.iter();
        all.map(|(&node, care)| (node, care.wire.is_some(), care.counts, care.trouble.clone())).collect()
    }

    /// Tells every node with a link of this executor that this one is to stop.
    pub fn leave(&mut self) {
        let up: Vec<usize> = self.cares.values().filter_map(|care| care.wire).collect();
        up.into_iter().for_each(|index| self.frame(index, &LinkFrame::Leaving));
    }
}
