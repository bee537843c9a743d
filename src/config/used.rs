//! The configuration as used: numbers with their units, addresses, paths, and the limits of the machines.

use iris_shards::frame::RANGES_FRAME_BYTES_MAX;
use iris_shards::id::USER_BYTES_MAX;
use iris_shards::limits::{CoreLimits, EdgeLimits};
use std::net::SocketAddr;
use std::path::PathBuf;

pub use super::written::LogFormat;

/// A checked configuration. `None` stands for `Auto` where the choice depends on the machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is equal on every node.
    pub cluster: Cluster,
    /// How this node is called, 1 to 255 bytes.
    pub name: String,
    /// Where it stands, 1 to 255 bytes.
    pub region: String,
    /// Where clients connect; port 0 is the kernel's choice.
    pub listen: Vec<SocketAddr>,
    /// Whether addresses that others can reach are allowed in plain TCP.
    pub insecure: bool,
    /// Where messages are kept; it need not exist yet.
    pub data: PathBuf,
    /// The admin socket.
    pub admin: PathBuf,
    /// How many executors, 1 to 256.
    pub executors: Option<u16>,
    /// On which CPUs, in turn; never empty.
    pub cpus: Option<Vec<usize>>,
    /// Size of one file of the log.
    pub segment_bytes: u64,
    /// Memory of all rings between executors together.
    pub mesh_bytes_max: u64,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// Bytes that wait to be written to one client.
    pub out_bytes_max: usize,
    /// Connections of all executors together; `None`: what the limit of open files allows.
    pub connections_max: Option<u32>,
    /// How long a stopping node waits for its clients to leave.
    pub drain_ms: u32,
    /// Which log lines are written, as a filter of `tracing`.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Bounds of the edge half.
    pub edge: EdgeLimits,
    /// Bounds of the core half.
    pub core: CoreLimits,
}

/// What is equal on every node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// How the cluster is called, 1 to 64 bytes.
    pub name: String,
    /// Shards that users are spread over.
    pub num_shards: u32,
    /// Nodes that keep a copy of every stored message.
    pub copies: u8,
}

impl Config {
    /// `frame_bytes_max` of WELCOME: the longest SEND, or the longest ACK if that is longer.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        // Type, sequence, id, and the recipient with its length.
        let around_body = 1 + 8 + 16 + 1 + USER_BYTES_MAX as u32;
        (self.edge.body_bytes_max + around_body).max(RANGES_FRAME_BYTES_MAX as u32)
    }

    /// The addresses that other machines can reach.
    pub fn exposed(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listen.iter().copied().filter(|address| !address.ip().is_loopback())
    }
}
