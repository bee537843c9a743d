//! Tells views: to the node, to `iris status`, and what is wrong with them to the log.
//!
//! A warning is repeated when it changes, not while it lasts; it waits a moment, because a node that joins sees the others
//! one by one.

use super::locked;
use super::status::{DiscoveryStatus, UncoveredStatus, uncovered};
use super::view::{Known, View, Viewer};
use crate::clock::unix_ms;
use crate::config::Cluster;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long a view has to last before its faults are warned of.
const WARN_AFTER: Duration = Duration::from_secs(2);
/// Ranges of shards in one line.
const RANGES_SHOWN_MAX: usize = 8;

/// When the first reminder comes that the service is away; the next ones after twice the time.
const REMIND_AFTER_MS: u64 = 60_000;

/// Who is told of views.
pub type OnView = Box<dyn Fn(Arc<View>) + Send>;

/// Where the ways of discovery put what they know.
pub struct Publisher {
    viewer: Viewer,
    on_view: OnView,
    status: Arc<Mutex<DiscoveryStatus>>,
    /// When the last view is to be warned of.
    warn_at: Option<Instant>,
    warned_uncovered: Vec<UncoveredStatus>,
    warned_faults: Vec<String>,
    remind_after_ms: u64,
}

impl Publisher {
    /// Compiles the ring.
    pub fn new(cluster: &Cluster, on_view: OnView) -> Self {
        let status = DiscoveryStatus { kind: cluster.discovery.word().to_owned(), ..DiscoveryStatus::default() };
        Publisher {
            viewer: Viewer::new(cluster),
            on_view,
            status: Arc::new(Mutex::new(status)),
            warn_at: None,
            warned_uncovered: Vec::new(),
            warned_faults: Vec::new(),
            remind_after_ms: REMIND_AFTER_MS,
        }
    }

    /// What `iris status` reads.
    pub fn status(&self) -> Arc<Mutex<DiscoveryStatus>> {
        self.status.clone()
    }

    /// Tells the view of these nodes, if it is a new one.
    pub fn publish(&mut self, known: Vec<Known>, faults: Vec<String>) {
        let Some(view) = self.viewer.view(known, faults) else { return };
        locked(&self.status).show(&view);
        tracing::debug!(view = view.number, nodes = view.nodes.len(), "discovery");
        (self.on_view)(view);
        self.warn_at = Some(Instant::now() + WARN_AFTER);
    }

    /// When [`Publisher::warn`] is due.
    pub fn warn_at(&self) -> Option<Instant> {
        self.warn_at
    }

    /// Warns of what is wrong with the last view, unless that was said before.
    pub fn warn(&mut self) {
        self.warn_at = None;
        let Some(view) = self.viewer.last() else { return };
        for fault in view.faults.iter().filter(|fault| !self.warned_faults.contains(fault)) {
            tracing::warn!("discovery: {fault}");
        }
        self.warned_faults.clone_from(&view.faults);
        let uncovered = uncovered(view);
        if uncovered != self.warned_uncovered {
            say(&uncovered);
            self.warned_uncovered = uncovered;
        }
    }

    /// The service behind discovery does not answer, or does again.
    pub fn away(&mut self, reason: Option<String>) {
        let mut status = locked(&self.status);
        let away_ms = status.away_since_unix_ms.map(|since| unix_ms().saturating_sub(since));
        match (away_ms, &reason) {
            (None, Some(reason)) => {
                status.away_since_unix_ms = Some(unix_ms());
                tracing::warn!("discovery: {reason}; what was known is kept");
            }
            (Some(away_ms), Some(reason)) if away_ms >= self.remind_after_ms => {
                self.remind_after_ms *= 2;
                tracing::warn!("discovery: since {} s: {reason}", away_ms / 1_000);
            }
            (Some(away_ms), None) => {
                (status.away_since_unix_ms, self.remind_after_ms) = (None, REMIND_AFTER_MS);
                tracing::info!("discovery: the service is back after {} s", away_ms / 1_000);
            }
            _ => {}
        }
        status.away_reason = reason;
    }

    /// Gossip: another datagram from elsewhere. Returns how many there were.
    pub fn refuse_datagram(&mut self) -> u64 {
        let mut status = locked(&self.status);
        status.datagrams_refused += 1;
        status.datagrams_refused
    }
}

fn say(uncovered: &[UncoveredStatus]) {
    if uncovered.is_empty() {
        return tracing::info!("discovery: every shard has its cores");
    }
    let range = |u: &UncoveredStatus| format!("{} ({} of {})", u.shards, u.cores, u.copies);
    let shown: Vec<String> = uncovered.iter().take(RANGES_SHOWN_MAX).map(range).collect();
    let more = uncovered.len().saturating_sub(RANGES_SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
    let shown = shown.join(", ");
    if uncovered.iter().any(|u| u.cores == 0) {
        tracing::error!("discovery: shards without a core, whose users are refused, or with too few: {shown}{more}");
    } else {
        tracing::warn!("discovery: shards with fewer cores than cluster.copies: {shown}{more}");
    }
}
