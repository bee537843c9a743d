//! Why the cluster cannot be used, and what to change.

use crate::tls::BadCertificates;
use scylla::errors::{ExecutionError, NewSessionError, PrepareError};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum StorageFault {
    /// No node answers, or none lets us in.
    #[error("cannot connect to the cluster at {hosts}: {cause}")]
    Connect {
        /// As configured.
        hosts: String,
        /// What the driver says.
        cause: Box<NewSessionError>,
    },
    /// Certificates that cannot be used.
    #[error("node.cassandra.{0}")]
    Tls(#[from] BadCertificates),
    /// Nothing comes.
    #[error("the cluster at {hosts} has not answered for {ms} ms")]
    Silent {
        /// As configured.
        hosts: String,
        /// How long.
        ms: u64,
    },
    /// A statement failed.
    #[error("the cluster refused a statement: {0}")]
    Request(#[from] Box<ExecutionError>),
    /// A statement is not understood.
    #[error("the cluster does not know a statement: {0}")]
    Prepare(#[from] Box<PrepareError>),
    /// The answer is not what was asked for.
    #[error("the cluster answered something unexpected: {0}")]
    Answer(String),
    /// Not initialised.
    #[error("keyspace {keyspace} has no tables of Iris: run `iris storage init`, or correct the keyspace")]
    NoTables {
        /// Which.
        keyspace: String,
    },
    /// Which data centre is not said, or not one of them.
    #[error("keyspace {keyspace} is kept in {}: name one of them as node.cassandra.data_centre", known.join(", "))]
    DataCentre {
        /// Which.
        keyspace: String,
        /// Those that keep it.
        known: Vec<String>,
    },
    /// No node is there.
    #[error("no node of the cluster is in data centre {name}: they are in {}", known.join(", "))]
    NoSuchDataCentre {
        /// As given.
        name: String,
        /// Those of the nodes.
        known: Vec<String>,
    },
    /// Written by another version.
    #[error("the tables in keyspace {keyspace} have format {found}, this version knows {}", super::schema::FORMAT)]
    Format {
        /// Which.
        keyspace: String,
        /// Theirs.
        found: i32,
    },
    /// Not a name of a keyspace.
    #[error("{name} is not a name that Cassandra takes: letters, digits and underscores, at most 48")]
    Name {
        /// As given.
        name: String,
    },
    /// The system gives no thread.
    #[error("cannot start a storage thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StorageFault {
    /// Whether it may go away by itself.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            StorageFault::Connect { .. }
                | StorageFault::Silent { .. }
                | StorageFault::Request(_)
                | StorageFault::Prepare(_)
                | StorageFault::Answer(_)
        )
    }
}
