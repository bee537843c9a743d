//! What `iris status` is told: gathered from the executors, the links and discovery when it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Cluster, Lines};
use crate::admin::{ExecutorStatus, LinkStatus, Status, StorageStatus, Totals, Traffic};
use crate::config::Config;
use iris_shards::storage::Reach;

/// Answers what a node is doing.
pub struct StatusSource {
    started: Instant,
    node: String,
    region: String,
    role: &'static str,
    listen: Vec<String>,
    storage: StorageStatus,
    lines: Lines,
    cluster: Arc<Cluster>,
    draining: Arc<AtomicBool>,
}

impl StatusSource {
    /// For this node; `draining` is set when it begins to stop.
    pub fn new(
        config: &Config,
        listen: &[SocketAddr],
        (lines, cluster, reach): (&Lines, &Arc<Cluster>, Reach),
        draining: Arc<AtomicBool>,
    ) -> Self {
        StatusSource {
            started: Instant::now(),
            node: config.name.clone(),
            region: config.region.clone(),
            role: config.role.word(),
            listen: listen.iter().map(ToString::to_string).collect(),
            storage: storage(config, reach),
            lines: lines.clone(),
            cluster: cluster.clone(),
            draining,
        }
    }

    /// At this moment.
    pub fn status(&self) -> Status {
        let (executors, links): (Vec<_>, Vec<_>) = self.lines.ask().into_iter().unzip();
        let mut links: Vec<LinkStatus> = links.into_iter().flatten().collect();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            node: self.node.clone(),
            region: self.region.clone(),
            role: self.role.to_owned(),
            listen: self.listen.clone(),
            draining: self.draining.load(Ordering::Relaxed),
            storage: StorageStatus { away_since_unix_ms: away_since(&executors), ..self.storage.clone() },
            totals: Totals::of(&executors),
            executors,
            discovery: self.cluster.status(),
            regions: self.regions(&links),
            links,
        }
    }

    /// What travelled between this region and each other one, named "from > to".
    fn regions(&self, links: &[LinkStatus]) -> BTreeMap<String, Traffic> {
        let mut regions: BTreeMap<String, Traffic> = BTreeMap::new();
        for link in links {
            let (here, there, counts) = (&self.region, &link.region, link.counts);
            regions.entry(format!("{here} > {there}")).or_default().add(counts.sent, counts.sent_bytes);
            regions.entry(format!("{there} > {here}")).or_default().add(counts.received, counts.received_bytes);
        }
        regions
    }
}

fn storage(config: &Config, reach: Reach) -> StorageStatus {
    let engine = if config.role.is_core() { config.storage.word() } else { "" };
    let copies = match reach {
        Reach::Own => None,
        Reach::Shared { copies } => Some(copies),
    };
    StorageStatus { engine: engine.to_owned(), copies, away_since_unix_ms: None }
}

/// Since when the first of them hears nothing.
fn away_since(executors: &[ExecutorStatus]) -> Option<u64> {
    executors.iter().filter_map(|executor| executor.log.away_since_unix_ms).min()
}
