//! `iris storage`: the storage of a fleet that runs Cassandra or ScyllaDB.

mod copy;

use clap::{Args, Subcommand};

use super::{Exit, Failure, print};
use crate::config::Token;
use crate::storage::cassandra::{CassandraOptions, StorageFault, connect, schema};

/// Making tables is slow, and done once.
const REQUEST_MS_MAX: u64 = 60_000;

/// See the module.
#[derive(Debug, Args)]
pub struct Storage {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the keyspace and the tables that are missing, and say what was done.
    Init(Init),
    /// Copy messages from a node's log to a cluster, or back.
    Copy(copy::Copy),
}

#[derive(Debug, Args)]
struct Init {
    /// HOST:PORT of some nodes.
    #[arg(long, required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    hosts: Vec<String>,
    /// Where the tables are made.
    #[arg(long, default_value = "iris")]
    keyspace: String,
    /// Data centres and the copies that each keeps; the first one is asked.
    #[arg(long, required = true, value_delimiter = ',', value_parser = data_center, value_name = "NAME=COPIES")]
    data_centers: Vec<(String, u8)>,
    /// For how long messages are kept that nobody takes.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    keep_days: u32,
    /// Name of a role that may create tables; its password is in IRIS_STORAGE_PASSWORD.
    #[arg(long)]
    user: Option<String>,
    /// Taken from the environment only, so that no list of processes shows it.
    #[arg(long, env = "IRIS_STORAGE_PASSWORD", hide = true, hide_env_values = true, default_value = "")]
    password: Token,
}

fn data_center(text: &str) -> Result<(String, u8), String> {
    let copies = |text: &str| text.parse().ok().filter(|copies| (1..=16).contains(copies));
    let (name, copies) = text.split_once('=').and_then(|(name, text)| Some((name, copies(text)?))).unwrap_or(("", 0));
    if name.is_empty() {
        return Err("write NAME=COPIES, such as eu-west=3, with 1 to 16 copies".to_owned());
    }
    Ok((name.to_owned(), copies))
}

impl Storage {
    /// Runs the verb.
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Init(init) => init.print(),
            Verb::Copy(copy) => copy.run(),
        }
    }
}

impl Init {
    fn print(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for line in runtime.block_on(self.run())? {
            print(&line)?;
        }
        Ok(())
    }

    async fn run(self) -> Result<Vec<String>, StorageFault> {
        let asked = self.data_centers.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let mut options = CassandraOptions::new(self.hosts, &self.keyspace);
        options.data_centre = Some(asked);
        options.request_ms_max = REQUEST_MS_MAX;
        options.login = self.user.map(|user| (user, self.password));
        let session = connect(&options).await?;
        let init = schema::Init { keyspace: self.keyspace, replicas: self.data_centers, keep_days: self.keep_days };
        let done = schema::init(&session, &init).await?;
        schema::check(&session, &init.keyspace).await?;
        Ok(done)
    }
}

impl From<StorageFault> for Failure {
    fn from(fault: StorageFault) -> Self {
        let exit = match &fault {
            StorageFault::Connect { .. } => Exit::Unreachable,
            StorageFault::Name { .. } => Exit::Usage,
            StorageFault::Request(_) => Exit::Refused,
            _ => Exit::Failed,
        };
        Failure::new(exit, fault)
    }
}
