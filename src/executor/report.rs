//! What an executor says: the names and limits of WELCOME, and its status.

use std::collections::BTreeMap;

use hdrhistogram::Histogram as Hdr;
use iris_shards::frame::{VERSION, Welcome};
use iris_shards::id::NodeId;

use super::Executor;
use crate::admin::{ExecutorStatus, Histogram, IdleStatus, LinkStatus, Messages, Paths, Shards};
use crate::config::Config;

/// What every executor of a node tells its clients.
#[derive(Debug, Clone)]
pub struct Names {
    /// This node, in addresses.
    pub node_id: NodeId,
    /// This node, for people.
    pub node: String,
    /// Where it is.
    pub region: String,
    /// The largest frame, in bytes.
    pub frame_bytes_max: u32,
    /// Bytes that wait for one client.
    pub out_bytes_max: usize,
    /// Connections of the node.
    pub connections_max: usize,
    window_messages: u32,
    window_bytes: u32,
    body_bytes_max: u32,
    silent_ms_max: u32,
}

impl Names {
    /// From the configuration; `connections_max` is what this machine allows.
    pub fn new(config: &Config, connections_max: usize) -> Self {
        Names {
            node_id: NodeId::of_name(&config.name),
            node: config.name.clone(),
            region: config.region.clone(),
            frame_bytes_max: config.frame_bytes_max(),
            out_bytes_max: config.out_bytes_max,
            connections_max,
            window_messages: config.edge.window_messages,
            window_bytes: config.edge.window_bytes,
            body_bytes_max: config.edge.body_bytes_max,
            silent_ms_max: config.edge.silent_ms_max as u32,
        }
    }

    /// WELCOME.
    pub fn welcome(&self, capabilities: u64, clock: u64) -> Welcome<'_> {
        Welcome {
            version: VERSION,
            capabilities,
            region: &self.region,
            node: &self.node,
            window_messages: self.window_messages,
            window_bytes: self.window_bytes,
            body_bytes_max: self.body_bytes_max,
            frame_bytes_max: self.frame_bytes_max,
            silent_ms_max: self.silent_ms_max,
            clock,
        }
    }
}

/// Counters of the shell, never reset.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that could not be accepted.
    pub accept_failed: u64,
    /// Connections given to the home executor of their user.
    pub handed_over: u64,
    /// Connections refused because there were too many.
    pub connections_max: u64,
    /// Clients for whom too many bytes waited.
    pub out_bytes_max: u64,
    /// SENDs refused.
    pub refused: u64,
}

impl Executor {
    /// The links that this executor owns.
    pub(super) fn links_status(&self) -> Vec<LinkStatus> {
        let all = self.links.status().into_iter();
        all.map(|(node, up, counts, trouble)| {
            let (name, region) = self.links.name_of(node);
            LinkStatus { name, region, up, trouble, counts }
        })
        .collect()
    }

    /// What this executor is doing.
    pub(super) fn status(&mut self) -> ExecutorStatus {
        let sockets = self.sockets.counters();
        let (edge, core) = (self.edge.counts(), self.core.counts());
        let ((sums, _), shards) = (self.core.sums(), self.core.kept_shards());
        let mut log = self.engine.status();
        (log.unflushed, log.unflushed_bytes) = (self.core.waiting().0.0 as u64, self.core.waiting().0.1);
        let limits = [
            ("accept", self.counts.accept_failed),
            ("connections_max", self.counts.connections_max),
            ("out_bytes_max", self.counts.out_bytes_max),
            ("inbox_full", core.inbox_full),
            ("disk_full", core.disk_full),
            ("busy", core.busy),
            ("unavailable", core.unavailable),
            ("inbox_age_ms_max", core.expired),
            ("tombstones_max", core.tombstones_full),
            ("damaged", core.damaged),
            ("misbehaved", edge.misbehaved),
        ];
        let reached = limits.into_iter().filter(|(_, times)| *times > 0);
        ExecutorStatus {
            id: self.seat.executor as u16,
            cpu: self.seat.cpu,
            connections: self.sockets.connections() as u64,
            sessions: self.edge.sessions() as u64,
            messages: Messages {
                direct: edge.direct,
                inbox_online: core.appended.saturating_sub(core.stored),
                stored: core.stored,
                drained: core.drained,
                bounced: edge.bounced,
                refused: self.counts.refused,
            },
            paths: Paths {
                direct: edge.direct,
                inbox: edge.inbox,
                earned: edge.earned,
                left_stored: edge.left_stored,
                left_bounced: edge.left_bounced,
                left_link: edge.left_link,
                unlinked: edge.unlinked,
            },
            inboxes: sums.inboxes,
            inbox_messages: sums.messages,
            log,
            turn_us: percentiles(&self.turns),
            shards: Shards { kept: shards.kept, in_step: shards.in_step },
            has_handed_over: self.core.has_left(),
            idle: IdleStatus {
                sleeps: sockets.sleeps,
                spins: sockets.spins,
                futile_spins: sockets.futile_spins,
                spun_us: sockets.spun.as_micros() as u64,
            },
            mesh_backlog: self.mesh.outbound.backlog_total() as u64,
            limits_reached: reached.map(|(name, times)| (name.to_owned(), times)).collect::<BTreeMap<_, _>>(),
        }
    }
}

/// An empty histogram of µs, up to a minute, with two digits.
pub fn histogram() -> Hdr<u64> {
    Hdr::new_with_bounds(1, 60_000_000, 2).expect("the bounds are constants")
}

/// The three figures of a histogram of µs.
pub fn percentiles(histogram: &Hdr<u64>) -> Histogram {
    Histogram { p50: histogram.value_at_quantile(0.5), p99: histogram.value_at_quantile(0.99), max: histogram.max() }
}
