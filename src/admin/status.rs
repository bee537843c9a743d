//! What a node tells about itself: the answer to `{"verb":"status"}`.
//!
//! Counters count from the start of the process. Times are in the unit of the field's name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::discovery::DiscoveryStatus;
use crate::links::LinkCounts;

/// A node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Version of the binary.
    pub version: String,
    /// Since the start of the process.
    pub uptime_ms: u64,
    /// Name of the node.
    pub node: String,
    /// Where it is.
    pub region: String,
    /// edge, core or both.
    pub role: String,
    /// Addresses where clients connect.
    pub listen: Vec<String>,
    /// Whether clients are being asked to leave.
    pub draining: bool,
    /// One by one.
    pub executors: Vec<ExecutorStatus>,
    /// All together.
    pub totals: Totals,
    /// What keeps messages.
    pub storage: StorageStatus,
    /// Who is there, and how that is known.
    pub discovery: DiscoveryStatus,
    /// Links to other nodes, by name.
    pub links: Vec<LinkStatus>,
    /// What travelled over links, by the regions it went from and to ("tokyo > frankfurt").
    pub regions: BTreeMap<String, Traffic>,
}

/// The link to one other node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The other node.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Whether the link is up.
    pub up: bool,
    /// Why it is not, or why it was lost last.
    pub trouble: String,
    /// What travelled since the start.
    pub counts: LinkCounts,
}

/// Messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Messages between the machines, of which a client's message needs several.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    /// More of both.
    pub fn add(&mut self, messages: u64, bytes: u64) {
        self.messages += messages;
        self.bytes += bytes;
    }
}

/// One executor at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecutorStatus {
    /// Its number, from 0.
    pub id: u16,
    /// The CPU it stays on.
    pub cpu: Option<usize>,
    /// Open connections.
    pub connections: u64,
    /// Logged-in users.
    pub sessions: u64,
    /// What became of messages.
    pub messages: Messages,
    /// Which ways its clients' messages took.
    pub paths: Paths,
    /// Inboxes that have messages.
    pub inboxes: u64,
    /// Messages in them.
    pub inbox_messages: u64,
    /// Its log.
    pub log: LogStatus,
    /// How long its turns take, waiting excluded.
    pub turn_us: Histogram,
    /// How it waits for work.
    pub idle: IdleStatus,
    /// Frames for other executors that wait for room in a ring.
    pub mesh_backlog: u64,
    /// Its parts of shards.
    pub shards: Shards,
    /// Whether everything was handed over, or nothing has to be.
    pub has_handed_over: bool,
    /// Limits that were reached, by the name in the configuration, and how often.
    pub limits_reached: BTreeMap<String, u64>,
}

/// The shards that a core of a cluster keeps; none where a node is alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// How many it keeps.
    pub kept: u64,
    /// Of these, the ones whose other replicas are all there and have everything: this core can be lost or stopped
    /// without a message that only it has.
    pub in_step: u64,
}

/// Messages by the path they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// Delivered from edge to edge.
    pub direct: u64,
    /// Delivered through the inbox of a user who was online, without the disk.
    pub inbox_online: u64,
    /// Written to disk.
    pub stored: u64,
    /// Delivered from disk.
    pub drained: u64,
    /// Came back from the recipient's edge.
    pub bounced: u64,
    /// Refused.
    pub refused: u64,
}

/// The ways that the messages of an edge's clients took, and why pairs left the direct one (delivery rules 2 to 4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Messages sent straight to the recipient's edge.
    pub direct: u64,
    /// Messages sent to the inbox of a core.
    pub inbox: u64,
    /// Times that a pair became direct.
    pub earned: u64,
    /// Times that a pair left the direct path because a message of it was stored.
    pub left_stored: u64,
    /// The same because the recipient's edge did not take a message.
    pub left_bounced: u64,
    /// The same because the link to the recipient's edge was lost.
    pub left_link: u64,
    /// Grants that were not used for want of a link to the recipient's edge.
    pub unlinked: u64,
}

impl Paths {
    fn plus(self, other: Self) -> Self {
        Paths {
            direct: self.direct + other.direct,
            inbox: self.inbox + other.inbox,
            earned: self.earned + other.earned,
            left_stored: self.left_stored + other.left_stored,
            left_bounced: self.left_bounced + other.left_bounced,
            left_link: self.left_link + other.left_link,
            unlinked: self.unlinked + other.unlinked,
        }
    }
}

/// The log of one executor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Files.
    pub segments: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Messages and acknowledgements that are not stored yet,
    pub unflushed: u64,
    /// and bytes of their bodies.
    pub unflushed_bytes: u64,
    /// How often the disk was asked.
    pub flushes: u64,
    /// How long that took.
    pub flush_us: Histogram,
    /// Of a cluster that cores share: since when it confirms nothing, in ms since the Unix epoch.
    pub away_since_unix_ms: Option<u64>,
}

/// What keeps messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// log, cassandra or scylla; empty for an edge, which keeps none.
    pub engine: String,
    /// Of a cluster that cores share: how many copies `stored` names.
    pub copies: Option<u8>,
    /// And since when it confirms nothing, in ms since the Unix epoch.
    pub away_since_unix_ms: Option<u64>,
}

/// How an executor waits for work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleStatus {
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Sleeps that it was spared, because something came while it spun.
    pub spins: u64,
    /// Spins in which nothing came.
    pub futile_spins: u64,
    /// Time spent spinning, in µs: looks like work, and is none.
    pub spun_us: u64,
}

/// Percentiles of a duration, in µs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Half are not above.
    pub p50: u64,
    /// 99 of 100 are not above.
    pub p99: u64,
    /// None is above.
    pub max: u64,
}

/// Sums over all executors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Open connections.
    pub connections: u64,
    /// Logged-in users.
    pub sessions: u64,
    /// What became of messages.
    pub messages: Messages,
    /// Which ways clients' messages took.
    pub paths: Paths,
    /// Inboxes that have messages.
    pub inboxes: u64,
    /// Messages in them.
    pub inbox_messages: u64,
    /// Bytes of all logs' files.
    pub log_bytes: u64,
    /// Shards, by the executor that has the fewest in step: every executor has a part of each shard.
    pub shards: Shards,
    /// Limits that were reached, and how often.
    pub limits_reached: BTreeMap<String, u64>,
}

impl Totals {
    /// Sums up.
    #[must_use]
    pub fn of<'a>(executors: impl IntoIterator<Item = &'a ExecutorStatus>) -> Self {
        let (mut totals, mut shards) = (Totals::default(), None);
        for executor in executors {
            shards = shards.into_iter().chain([executor.shards]).min_by_key(|shards| shards.in_step);
            totals.connections += executor.connections;
            totals.sessions += executor.sessions;
            totals.messages = totals.messages.plus(executor.messages);
            totals.paths = totals.paths.plus(executor.paths);
            totals.inboxes += executor.inboxes;
            totals.inbox_messages += executor.inbox_messages;
            totals.log_bytes += executor.log.bytes;
            for (limit, times) in &executor.limits_reached {
                *totals.limits_reached.entry(limit.clone()).or_default() += times;
            }
        }
        totals.shards = shards.unwrap_or_default();
        totals
    }
}

impl Messages {
    fn plus(self, other: Self) -> Self {
        Messages {
            direct: self.direct + other.direct,
            inbox_online: self.inbox_online + other.inbox_online,
            stored: self.stored + other.stored,
            drained: self.drained + other.drained,
            bounced: self.bounced + other.bounced,
            refused: self.refused + other.refused,
        }
    }
}
