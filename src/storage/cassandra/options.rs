//! How to reach the cluster, and the bounds of what is asked of it at once.

use super::place::DAY_MS;
use crate::config::Token;
use scylla::statement::Consistency;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the operator chooses.
#[derive(Debug, Clone)]
pub struct CassandraOptions {
    /// `host:port` of some nodes; the rest is found through them.
    pub hosts: Vec<String>,
    /// Where the tables are.
    pub keyspace: String,
    /// Whose nodes are asked; `None`: there is one only.
    pub data_centre: Option<String>,
    /// Of reads and writes; `stored` is said when it was reached.
    pub consistency: Level,
    /// Name and password.
    pub login: Option<(String, Token)>,
    /// How TLS is spoken; `None`: it is not.
    pub tls: Option<TlsFiles>,
    /// Threads that speak to the cluster.
    pub threads: u16,
    /// Writes under way per executor, each of one partition.
    pub writes_max: usize,
    /// Reads under way per executor, each of one partition.
    pub reads_max: usize,
    /// How long one attempt may take, in ms.
    pub request_ms_max: u64,
    /// A write that is not confirmed for so long means that the cluster is away, in ms.
    pub away_ms: u64,
    /// How long the database keeps what nobody takes, in ms: longer than the inbox does, which drops it properly.
    pub keep_ms: u64,
    /// How long a taken key is remembered, in ms.
    pub taken_ms: u64,
}

impl CassandraOptions {
    /// The defaults, for these hosts.
    pub fn new(hosts: Vec<String>, keyspace: &str) -> Self {
        CassandraOptions {
            hosts,
            keyspace: keyspace.to_owned(),
            data_centre: None,
            consistency: Level::LocalQuorum,
            login: None,
            tls: None,
            threads: 1,
            writes_max: 128,
            reads_max: 32,
            request_ms_max: 2_000,
            away_ms: 3_000,
            keep_ms: 31 * DAY_MS,
            taken_ms: 8 * DAY_MS,
        }
    }
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Of those that are trusted; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// With this node's certificate and key; `None`: it shows none.
    pub identity: Option<PathBuf>,
}

/// How many replicas have to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Most of this data centre.
    LocalQuorum,
    /// Most of all data centres together.
    Quorum,
    /// Most of every data centre. Only for writes; reads then ask for a local quorum.
    EachQuorum,
}

impl Level {
    pub(super) fn of_writes(self) -> Consistency {
        match self {
            Level::LocalQuorum => Consistency::LocalQuorum,
            Level::Quorum => Consistency::Quorum,
            Level::EachQuorum => Consistency::EachQuorum,
        }
    }

    /// Together with the writes' level at least one replica has seen both.
    pub(super) fn of_reads(self) -> Consistency {
        match self {
            Level::LocalQuorum | Level::EachQuorum => Consistency::LocalQuorum,
            Level::Quorum => Consistency::Quorum,
        }
    }

    /// How many replicas have a write that was confirmed, at least, when data centres keep so many copies: what `stored`
    /// may say.
    pub(super) fn copies(self, replicas: &BTreeMap<String, u8>, data_centre: &str) -> u8 {
        let most_of = |copies: u8| copies / 2 + 1;
        match self {
            Level::LocalQuorum => replicas.get(data_centre).map_or(1, |&copies| most_of(copies)),
            Level::Quorum => most_of(replicas.values().sum()),
            Level::EachQuorum => replicas.values().map(|&copies| most_of(copies)).sum(),
        }
    }
}
