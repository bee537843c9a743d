//! `iris storage copy`: moves what is stored between a node's log and a cluster of Cassandra or ScyllaDB.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::super::progress::Progress;
use super::super::{Exit, Failure, print, say};
use crate::config::{Config, Flags};
use crate::cpus::{CpuWish, Layout};
use crate::storage::cassandra::tables::Tables;
use crate::storage::cassandra::{CassandraOptions, StorageFault};
use crate::storage::copy::{CopyError, Summary, to_cassandra, to_log};
use crate::storage::{StorageError, StorageOptions};

/// Reading every user of a large cluster takes its time.
const REQUEST_MS_MAX: u64 = 20_000;
/// Between two looks of the progress bar.
const SHOW: Duration = Duration::from_millis(100);

/// Copies messages and what was taken. No node may use either side meanwhile. It may be ended at any time and run again:
/// it goes on where it was, and what is there already is not written twice. At the end both sides are read and compared.
#[derive(Debug, Args)]
#[command(after_help = super::super::EXIT_CODES)]
pub struct Copy {
    /// log:DIR or cassandra.
    #[arg(long, value_parser = side, value_name = "SIDE")]
    from: Side,
    /// cassandra or log:DIR; a directory that is not there is made.
    #[arg(long, value_parser = side, value_name = "SIDE")]
    to: Side,
    /// The configuration that the nodes use: it says where the cluster is, and how many executors a new log is for.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Executors that a log is made for.
    #[arg(long, value_name = "N")]
    executors: Option<u64>,
}

/// Where messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Log(PathBuf),
    Cassandra,
}

fn side(text: &str) -> Result<Side, String> {
    match (text.strip_prefix("log:"), text) {
        (Some(dir), _) if !dir.is_empty() => Ok(Side::Log(dir.into())),
        (None, "cassandra" | "scylla") => Ok(Side::Cassandra),
        _ => Err("write log:DIR, cassandra or scylla".to_owned()),
    }
}

impl Copy {
    pub fn run(self) -> Result<(), Failure> {
        let flags = Flags { listen: Vec::new(), data: None, executors: self.executors };
        let config = Config::load(self.config.as_deref(), &flags)?;
        let (dir, is_from_log) = match (self.from, self.to) {
            (Side::Log(dir), Side::Cassandra) => (dir, true),
            (Side::Cassandra, Side::Log(dir)) => (dir, false),
            _ => return Err(Failure::new(Exit::Usage, "one of --from and --to is log:DIR, the other one cassandra")),
        };
        let (log, cassandra) = (log_options(&config, dir)?, cassandra_options(&config)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let summary = runtime.block_on(copied(&cassandra, &log, is_from_log))?;
        report(&summary)?;
        Ok(())
    }
}

async fn copied(cassandra: &CassandraOptions, log: &StorageOptions, is_from_log: bool) -> Result<Summary, CopyError> {
    let tables = Tables::open(cassandra).await?;
    let (mut progress, mut shown) = (Progress::new(), Instant::now());
    let mut watch = |what: &str, done: u64, all: u64| {
        if all == 0 {
            progress.show(what);
        } else if done == all || shown.elapsed() >= SHOW {
            shown = Instant::now();
            progress.bar(&format!("{what}, {done} of {all} users"), done as f64 / all as f64);
        }
    };
    match is_from_log {
        true => to_cassandra(log, tables, &mut watch).await,
        false => to_log(tables, log, &mut watch).await,
    }
}

fn report(summary: &Summary) -> Result<(), Failure> {
    let Summary { users, copied, taken, same, only_there, damaged } = summary;
    print(&format!("copied {copied} messages and {taken} taken keys of {users} users"))?;
    print(&format!("both sides have the same {} messages, digest {same}", same.messages()))?;
    if *only_there > 0 {
        print(&format!("{only_there} more messages are only where it was copied to"))?;
    }
    if *damaged > 0 {
        say(&format!("warning: {damaged} places in the logs could not be read: see `iris serve`, which names them"));
    }
    Ok(())
}

/// As a node with this configuration would open it.
fn log_options(config: &Config, dir: PathBuf) -> Result<StorageOptions, Failure> {
    let wish = CpuWish { executors: config.executors.map(usize::from), cpus: config.cpus.clone() };
    let layout = Layout::of_process(&wish).map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(StorageOptions::of(config, dir, layout.executors as u16))
}

fn cassandra_options(config: &Config) -> Result<CassandraOptions, Failure> {
    let Some(options) = config.storage.shared() else {
        let why = "the configuration has `storage: log`: name one with --config that says where the cluster is";
        return Err(Failure::new(Exit::Usage, why));
    };
    Ok(CassandraOptions { request_ms_max: REQUEST_MS_MAX, ..options.clone() })
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Cluster(fault) if matches!(fault, StorageFault::Connect { .. } | StorageFault::Request(_)) => {
                Failure::new(Exit::Unreachable, format!("{fault}\nrun the same command again: it goes on where it was"))
            }
            CopyError::Cluster(fault) => fault.into(),
            CopyError::Log(error @ StorageError::NoLog { .. }) => Failure::new(Exit::Usage, error),
            CopyError::Log(_) | CopyError::Full { .. } | CopyError::Differs { .. } => Failure::new(Exit::Failed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read() {
        assert_eq!(side("log:/var/lib/iris"), Ok(Side::Log("/var/lib/iris".into())));
        assert_eq!((side("cassandra"), side("scylla")), (Ok(Side::Cassandra), Ok(Side::Cassandra)));
        for wrong in ["", "log", "log:", "/var/lib/iris", "etcd", "cassandra:x"] {
            assert!(side(wrong).is_err(), "{wrong}");
        }
    }
}
