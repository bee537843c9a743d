//! The configuration as written: what RON files may say, field by field.
//!
//! Each group exists twice: whole, as the compiled-in default has to be, and as a part, as any other file may be.
//! Bounds and combinations are not judged here but in `used`.

use super::secret::{Secret, Token};
use serde::Deserialize;

/// Declares a group (all fields present) and its part (any may be absent); `with` lays a part over the whole.
macro_rules! group {
    ($name:literal $whole:ident $part:ident { $($field:ident: $type:ty,)* } { $($inner:ident: $inner_whole:ident $inner_part:ident,)* }) => {
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields, rename = $name)]
        pub struct $whole { $(pub $field: $type,)* $(pub $inner: $inner_whole,)* }

        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename = $name, default)]
        pub struct $part { $(pub $field: Option<$type>,)* $(pub $inner: $inner_part,)* }

        impl $whole {
            pub fn with(self, part: $part) -> Self {
                Self {
                    $($field: part.$field.unwrap_or(self.$field),)*
                    $($inner: self.$inner.with(part.$inner),)*
                }
            }
        }
    };
}

group!("configuration" Written WrittenPart {} {
    cluster: Cluster ClusterPart,
    node: Node NodePart,
});

group!("cluster" Cluster ClusterPart {
    name: String,
    discovery: Discovery,
    num_shards: u64,
    copies: u64,
    copies_min: u64,
    spread: Spread,
    nodes: Vec<ListedNode>,
    seeds: Vec<String>,
    secret: Secret,
    claim_ms: u64,
} {
    dns: Dns DnsPart,
    consul: Consul ConsulPart,
    etcd: Etcd EtcdPart,
    limits: Limits LimitsPart,
});

/// A node of `cluster.nodes`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename = "node")]
pub struct ListedNode {
    pub name: String,
    pub address: String,
    #[serde(default = "both")]
    pub role: Role,
    /// None: what the default configuration has in `node.region`.
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub zone: String,
    #[serde(default = "auto")]
    pub shards: Shards,
}

fn both() -> Role {
    Role::Both
}

fn auto() -> Shards {
    Shards::Auto(Auto::Auto)
}

group!("dns" Dns DnsPart {
    core: String,
    server: Address,
} {});

group!("consul" Consul ConsulPart {
    address: String,
    token: Token,
} {
    tls: Tls TlsPart,
});

group!("etcd" Etcd EtcdPart {
    address: String,
    user: String,
    password: Token,
} {
    tls: Tls TlsPart,
});

group!("tls" Tls TlsPart {
    ca: Path,
    identity: Path,
} {});

group!("limits" Limits LimitsPart {
    body_bytes_max: u64,
    id_ahead_ms_max: u64,
    id_age_ms_max: u64,
    inbox_messages_max: u64,
    inbox_bytes_max: u64,
    inbox_age_ms_max: u64,
    tombstone_keep_ms: u64,
    lease_ms: u64,
    refresh_ms: u64,
} {});

group!("node" Node NodePart {
    name: String,
    region: String,
    zone: String,
    role: Role,
    shards: Shards,
    listen: Vec<String>,
    transports: Vec<Transport>,
    insecure: bool,
    data: Path,
    admin: Path,
    executors: Number,
    cpus: Numbers,
    storage: Storage,
    segment_bytes: u64,
    mesh_bytes_max: u64,
    backlog: u64,
    out_bytes_max: Number,
    connections_max: Number,
    drain_ms: u64,
    log: String,
    log_format: LogFormat,
} {
    link: Link LinkPart,
    gossip: Gossip GossipPart,
    cassandra: Cassandra CassandraPart,
    edge: Edge EdgePart,
    core: Core CorePart,
});

group!("link" Link LinkPart {
    listen: Address,
    advertise: Address,
    silent_ms: u64,
    idle_ms: u64,
    out_bytes_max: u64,
    retry_ms_max: u64,
    links_max: u64,
} {});

group!("gossip" Gossip GossipPart {
    listen: Address,
    advertise: Address,
} {});

group!("cassandra" Cassandra CassandraPart {
    hosts: Vec<String>,
    keyspace: String,
    data_centre: String,
    consistency: Consistency,
    user: String,
    password: Token,
    encrypted: bool,
    threads: u64,
    writes_max: u64,
    away_ms: u64,
} {
    tls: Tls TlsPart,
});

group!("edge" Edge EdgePart {
    hello_ms_max: u64,
    silent_ms_max: u64,
    window_messages: u64,
    window_bytes: u64,
    delivery_messages_max: u64,
    delivery_bytes_max: u64,
    delivery_ms_max: u64,
    pairs_max: u64,
    watches_max: u64,
    outstanding_bytes_max: u64,
    retry_ms: u64,
} {});

group!("core" Core CorePart {
    page_messages: u64,
    page_bytes: u64,
    log_delay_ms: u64,
    unlogged_bytes_max: u64,
    unflushed_bytes_max: u64,
    tombstones_max: u64,
    grant_pause_ms: u64,
    watchers_max: u64,
    absent_users_max: u64,
    read_again_ms: u64,
    retry_ms: u64,
} {});

/// The word `Auto`, where Iris may choose.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Auto {
    Auto,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected Auto or a number")]
pub enum Number {
    Auto(Auto),
    Is(u64),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected Auto or a list of numbers such as [0, 1]")]
pub enum Numbers {
    Auto(Auto),
    Are(Vec<u64>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected Auto or a path in quotes")]
pub enum Path {
    Auto(Auto),
    Is(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected Auto or an address in quotes")]
pub enum Address {
    Auto(Auto),
    Is(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected Auto, a number, or numbers and ranges in quotes such as \"0-9,20\"")]
pub enum Shards {
    Auto(Auto),
    Is(u64),
    Are(String),
}

/// Declares a choice by its words, of which `today` are supported and `later` are only known by name.
macro_rules! choice {
    ($field:literal $name:ident today { $($today:ident $today_word:literal,)* } later { $($later:ident $later_word:literal,)* }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(rename = $field)]
        pub enum $name {
            $(#[serde(rename = $today_word)] $today,)*
            $(#[serde(rename = $later_word)] $later,)*
        }

        impl $name {
            pub const TODAY: &[&str] = &[$($today_word),*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$today => $today_word,)* $(Self::$later => $later_word,)* }
            }

            pub fn is_supported(self) -> bool {
                Self::TODAY.contains(&self.word())
            }
        }
    };
}

choice!("discovery" Discovery today {
    Static "static", Gossip "gossip", Dns "dns", Consul "consul", Etcd "etcd",
} later {});
choice!("spread" Spread today { Node "node", Zone "zone", Region "region", } later {});
choice!("role" Role today { Edge "edge", Core "core", Both "both", } later {});
choice!("transport" Transport today { Tcp "tcp", } later {
    Tls "tls", WebSocket "websocket", Quic "quic",
});
choice!("storage" Storage today { Log "log", Cassandra "cassandra", Scylla "scylla", } later {});
/// How many copies have to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename = "consistency", rename_all = "snake_case")]
pub enum Consistency {
    LocalQuorum,
    Quorum,
    EachQuorum,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename = "log format")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    #[serde(rename = "text")]
    Text,
    /// A JSON object in each line.
    #[serde(rename = "json")]
    Json,
}
