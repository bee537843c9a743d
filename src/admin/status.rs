//! What a node tells about itself: the answer to `{"verb":"status"}`.
//!
//! Counters count from the start of the process. Times are in the unit of the field's name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// Addresses where clients connect.
    pub listen: Vec<String>,
    /// Whether clients are being asked to leave.
    pub draining: bool,
    /// One by one.
    pub executors: Vec<ExecutorStatus>,
    /// All together.
    pub totals: Totals,
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
    /// Limits that were reached, by the name in the configuration, and how often.
    pub limits_reached: BTreeMap<String, u64>,
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

/// The log of one executor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Files.
    pub segments: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Bytes that wait for the disk.
    pub unflushed_bytes: u64,
    /// How often the disk was asked.
    pub flushes: u64,
    /// How long that took.
    pub flush_us: Histogram,
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
    /// Inboxes that have messages.
    pub inboxes: u64,
    /// Messages in them.
    pub inbox_messages: u64,
    /// Bytes of all logs' files.
    pub log_bytes: u64,
    /// Limits that were reached, and how often.
    pub limits_reached: BTreeMap<String, u64>,
}

impl Totals {
    /// Sums up.
    #[must_use]
    pub fn of(executors: &[ExecutorStatus]) -> Self {
        let mut totals = Totals::default();
        for executor in executors {
            totals.connections += executor.connections;
            totals.sessions += executor.sessions;
            totals.messages = totals.messages.plus(executor.messages);
            totals.inboxes += executor.inboxes;
            totals.inbox_messages += executor.inbox_messages;
            totals.log_bytes += executor.log.bytes;
            for (limit, times) in &executor.limits_reached {
                *totals.limits_reached.entry(limit.clone()).or_default() += times;
            }
        }
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
