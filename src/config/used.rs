//! The configuration as used: numbers with their units, addresses, paths, and the limits of the machines.

use super::registry::Registry;
use super::secret::{Secret, Token};
use super::shards::Ranges;
use crate::storage::cassandra::CassandraOptions;
use iris_shards::frame::RANGES_FRAME_BYTES_MAX;
use iris_shards::id::USER_BYTES_MAX;
use iris_shards::limits::{CoreLimits, EdgeLimits};
use std::net::SocketAddr;
use std::path::PathBuf;

pub use super::written::LogFormat;
pub use iris_shards::placement::Spread;

/// A checked configuration. `None` stands for `Auto` where the choice depends on the machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is equal on every node.
    pub cluster: Cluster,
    /// How this node is called, 1 to 255 bytes.
    pub name: String,
    /// Where it stands, 1 to 255 bytes.
    pub region: String,
    /// What within the region fails together, up to 255 bytes; empty if that is not known.
    pub zone: String,
    /// What it is.
    pub role: Role,
    /// The shards that this core keeps; `None`: those that fall to it. `None` for an edge.
    pub shards: Option<Ranges>,
    /// Where clients connect; port 0 is the kernel's choice. Empty for a core alone.
    pub listen: Vec<SocketAddr>,
    /// Whether addresses that others can reach are allowed in plain TCP.
    pub insecure: bool,
    /// What keeps messages.
    pub storage: Storage,
    /// Where what is this node's own is kept, its log before all; it need not exist yet. Empty if an edge has no place for
    /// data.
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
    /// Links to other nodes.
    pub link: LinkConfig,
    /// Bounds of the edge half.
    pub edge: EdgeLimits,
    /// Bounds of the core half.
    pub core: CoreLimits,
}

/// What a node does for its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Keeps connections of clients.
    Edge,
    /// Keeps presence and inboxes.
    Core,
    /// Does both.
    Both,
}

impl Role {
    /// Whether clients connect to it.
    #[must_use]
    pub fn is_edge(self) -> bool {
        self != Role::Core
    }

    /// Whether it keeps shards.
    #[must_use]
    pub fn is_core(self) -> bool {
        self != Role::Edge
    }

    /// The word of the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Core => "core",
            Role::Both => "both",
        }
    }
}

/// What keeps messages.
#[derive(Debug, Clone)]
pub enum Storage {
    /// Each core, in files of its own.
    Log,
    /// A Cassandra cluster that all cores share.
    Cassandra(CassandraOptions),
    /// The same of ScyllaDB, which speaks the same protocol.
    Scylla(CassandraOptions),
}

impl Storage {
    /// The word of the configuration.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Storage::Log => "log",
            Storage::Cassandra(_) => "cassandra",
            Storage::Scylla(_) => "scylla",
        }
    }

    /// The cluster that all cores share, if there is one.
    #[must_use]
    pub fn shared(&self) -> Option<&CassandraOptions> {
        match self {
            Storage::Log => None,
            Storage::Cassandra(options) | Storage::Scylla(options) => Some(options),
        }
    }
}

/// Links between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where other nodes dial this one; port 0 is the kernel's choice. `None` for a node that is alone.
    pub listen: Option<SocketAddr>,
    /// What others are told to dial, HOST:PORT; `None`: the address that is listened on.
    pub advertise: Option<String>,
    /// A link that is silent for this time is closed.
    pub silent_ms: u64,
    /// A link that carried nothing for this time, and that no placement asks for, is closed.
    pub idle_ms: u64,
    /// Bytes that wait to be written to one link.
    pub out_bytes_max: usize,
    /// The longest pause between two attempts to dial.
    pub retry_ms_max: u64,
    /// Links of this node.
    pub links_max: usize,
}

/// What is equal on every node of a cluster, and how its nodes find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// How the cluster is called, 1 to 64 bytes.
    pub name: String,
    /// Shards that users are spread over, 1 to 65,536.
    pub num_shards: u32,
    /// Nodes that keep a copy of every stored message, 1 to 8.
    pub copies: u8,
    /// Copies on disk before `stored` is said, 1 to `copies`.
    pub copies_min: u8,
    /// What spreads the copies.
    pub spread: Spread,
    /// How nodes find each other.
    pub discovery: Discovery,
    /// What they prove to each other; empty for a node that is alone.
    pub secret: Secret,
    /// How long a core that is gone without a word keeps its shards.
    pub claim_ms: u64,
    /// See [`Cluster::hash`].
    pub(super) hash: u64,
}

impl Cluster {
    /// A hash of what has to be equal on every node: name, shards, copies, spread and limits. Not of what may change
    /// node by node while the cluster runs: its nodes, seeds, secret.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether there is no other node, and so no link.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        matches!(&self.discovery, Discovery::Static { nodes } if nodes.is_empty())
    }
}

/// How nodes find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The configuration lists them. Without nodes: this one is alone.
    Static {
        /// All cores, and the edges that others may dial. Names differ.
        nodes: Vec<ListedNode>,
    },
    /// They tell each other (SWIM).
    Gossip {
        /// HOST:PORT of nodes to join by.
        seeds: Vec<String>,
        /// The UDP socket; port 0 is the kernel's choice.
        listen: SocketAddr,
        /// What others are told to send to; `None`: the address that is listened on.
        advertise: Option<SocketAddr>,
    },
    /// A name server lists them.
    Dns {
        /// The name beneath which cores are listed, without a final dot.
        core: String,
        /// The name server; `None`: those of the system.
        server: Option<SocketAddr>,
    },
    /// Consul knows them.
    Consul {
        /// An agent or a server.
        at: Registry,
        /// For its access control; empty if it has none.
        token: Token,
    },
    /// etcd knows them.
    Etcd {
        /// A member.
        at: Registry,
        /// Who logs in; empty if nobody needs to.
        user: String,
        /// With this.
        password: Token,
    },
}

impl Discovery {
    /// The word of the configuration.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Discovery::Static { .. } => "static",
            Discovery::Gossip { .. } => "gossip",
            Discovery::Dns { .. } => "dns",
            Discovery::Consul { .. } => "consul",
            Discovery::Etcd { .. } => "etcd",
        }
    }
}

/// A node of `cluster.nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedNode {
    /// 1 to 255 bytes.
    pub name: String,
    /// Where its links are dialled, HOST:PORT.
    pub address: String,
    /// What it is.
    pub role: Role,
    /// 1 to 255 bytes.
    pub region: String,
    /// Up to 255 bytes.
    pub zone: String,
    /// The shards that it keeps; `None`: those that fall to it.
    pub shards: Option<Ranges>,
}

impl Config {
    /// `frame_bytes_max` of WELCOME: the longest SEND, or the longest ACK if that is longer.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        // Type, sequence, id, and the recipient with its length.
        let around_body = 1 + 8 + 16 + 1 + USER_BYTES_MAX as u32;
        (self.edge.body_bytes_max + around_body).max(RANGES_FRAME_BYTES_MAX as u32)
    }

    /// The addresses for clients that other machines can reach.
    pub fn exposed(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listen.iter().copied().filter(|address| !address.ip().is_loopback())
    }
}
