//! `iris storage`: the storage of a fleet that runs Cassandra or ScyllaDB.

mod copy;

use clap::{Args, Subcommand};
use std::path::PathBuf;

use super::{Exit, Failure, print};
use crate::config::{Config, Flags, Token};
use crate::storage::cassandra::{CassandraOptions, DAY_MS, StorageFault, connect, schema};

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
    /// The node's configuration, which says how the cluster is reached.
    #[arg(long, value_name = "FILE", required_unless_present = "hosts")]
    config: Option<PathBuf>,
    /// Without one: HOST:PORT of some nodes.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT", conflicts_with = "config")]
    hosts: Vec<String>,
    /// Where the tables are made (iris, unless it is said).
    #[arg(long, conflicts_with = "config")]
    keyspace: Option<String>,
    /// Data centres and the copies that each keeps; the first one is asked.
    #[arg(long, required = true, value_delimiter = ',', value_parser = data_centre, value_name = "NAME=COPIES")]
    data_centres: Vec<(String, u8)>,
    /// For how long messages are kept that nobody takes (30, unless a configuration says it).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    keep_days: Option<u32>,
    /// Name of a role that may create tables; its password is in IRIS_STORAGE_PASSWORD.
    #[arg(long)]
    user: Option<String>,
    /// Taken from the environment only, so that no list of processes shows it.
    #[arg(long, env = "IRIS_STORAGE_PASSWORD", hide = true, hide_env_values = true, default_value = "")]
    password: String,
}

fn data_centre(text: &str) -> Result<(String, u8), String> {
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
            Verb::Init(init) => {
                for line in init.run()? {
                    print(&line)?;
                }
                Ok(())
            }
            Verb::Copy(copy) => copy.run(),
        }
    }
}

impl Init {
    fn run(self) -> Result<Vec<String>, Failure> {
        let mut options = self.options()?;
        options.data_centre = self.data_centres.first().map(|(name, _)| name.clone());
        options.request_ms_max = REQUEST_MS_MAX;
        if let Some(user) = self.user {
            options.login = Some((user, Token::from(self.password.as_str())));
        }
        // What the options have is a day longer than the inbox is kept.
        let keep_days = self.keep_days.unwrap_or((options.keep_ms / DAY_MS).saturating_sub(1).max(1) as u32);
        let init = schema::Init { keyspace: options.keyspace.clone(), replicas: self.data_centres, keep_days };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(async {
            let session = connect(&options).await?;
            schema::check_data_centres(&session, &init.replicas)?;
            let done = schema::init(&session, &init).await?;
            schema::check(&session, &init.keyspace).await?;
            Ok::<_, StorageFault>(done)
        })?;
        Ok(done)
    }

    fn options(&self) -> Result<CassandraOptions, Failure> {
        let Some(file) = &self.config else {
            let keyspace = self.keyspace.as_deref().unwrap_or("iris");
            return Ok(CassandraOptions::new(self.hosts.clone(), keyspace));
        };
        let config = Config::load(Some(file), &Flags::default())?;
        let none = || Failure::new(Exit::Usage, format!("{} has storage: log, which needs no tables", file.display()));
        config.storage.shared().cloned().ok_or_else(none)
    }
}

impl From<StorageFault> for Failure {
    fn from(fault: StorageFault) -> Self {
        let exit = match &fault {
            StorageFault::Connect { .. } => Exit::Unreachable,
            StorageFault::Name { .. } | StorageFault::NoSuchDataCentre { .. } => Exit::Usage,
            StorageFault::Request(_) => Exit::Refused,
            _ => Exit::Failed,
        };
        Failure::new(exit, fault)
    }
}
