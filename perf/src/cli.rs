//! The command line: flags as written, and what follows from them (which server, which CPUs, how many threads).

mod flags;

pub use flags::{
    ChurnArgs, CourseArgs, DrainArgs, FanInArgs, IdleArgs, LoginArgs, MixedArgs, RefillArgs, RelayArgs, SaturateArgs,
    SlowArgs, StoredArgs,
};

use crate::measured::cpus::{self, Cpus};
use crate::measured::{Fleet, Launch, Server};
use crate::peer::Peer;
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Load generator and measurements for Iris and its peers. It is a checker too: exit code 3 says that a message was
/// lost, repeated, out of order or not confirmed.
#[derive(Debug, Parser)]
#[command(version, name = "iris-perf")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A scenario, once.
    #[command(flatten)]
    Scenario(Scenario),
    /// A checked load on all nodes of a cluster, whatever happens to them meanwhile: many users, some of whom come and go,
    /// reconnect anywhere and repeat what has no answer. Nothing that was confirmed may be lost, or come out of order.
    Soak(crate::soak::Plan),
    /// A scenario against Iris and a peer in turn (A B A B …): the ratio of their figures, with its spread.
    Compare(CompareArgs),
    /// What one CPU and one byte of this machine carry, for `iris plan --measured`.
    Capacity(crate::capacity::CapacityArgs),
    /// A table of results, and a page with plots.
    Report(crate::page::ReportArgs),
    /// The `raw` peer itself.
    #[command(hide = true)]
    RawRelay {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Holds idle connections, as a process of its own (files per process are limited).
    #[command(hide = true)]
    Hold(HoldArgs),
}

/// A scenario and its flags.
#[derive(Debug, Clone, Subcommand)]
pub enum Scenario {
    /// Pairs of users who answer each other.
    Relay(RelayArgs),
    /// Logged-in connections that say nothing: memory and CPU of each.
    Idle(IdleArgs),
    /// Messages to users who are away: each is on disk before it is confirmed.
    Stored(StoredArgs),
    /// A user comes back to many messages, while a pair talks.
    Drain(DrainArgs),
    /// One inbox, filled and drained again and again: whether its first page comes later and later.
    Refill(RefillArgs),
    /// Connect, log in, drop, again and again.
    Login(LoginArgs),
    /// Many users write to one.
    FanIn(FanInArgs),
    /// Users come and go, and get what waited for them, while pairs talk.
    Churn(ChurnArgs),
    /// A share of the clients reads one byte a second: what the others notice.
    Slow(SlowArgs),
    /// A day in miniature: most users idle, some talking, some away.
    Mixed(MixedArgs),
    /// More and more load, until the latency objective breaks: how much it carries, and what it is bound by.
    Saturate(SaturateArgs),
}

impl Scenario {
    /// The flags that all have.
    pub fn target(&mut self) -> &mut TargetArgs {
        match self {
            Self::Relay(args) => &mut args.target,
            Self::Idle(args) => &mut args.target,
            Self::Stored(args) => &mut args.target,
            Self::Drain(args) => &mut args.target,
            Self::Refill(args) => &mut args.target,
            Self::Login(args) => &mut args.target,
            Self::FanIn(args) => &mut args.target,
            Self::Churn(args) => &mut args.target,
            Self::Slow(args) => &mut args.target,
            Self::Mixed(args) => &mut args.target,
            Self::Saturate(args) => &mut args.target,
        }
    }

    /// Its name in results, and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relay(_) => "relay",
            Self::Idle(_) => "idle",
            Self::Stored(_) => "stored",
            Self::Drain(_) => "drain",
            Self::Refill(_) => "refill",
            Self::Login(_) => "login",
            Self::FanIn(_) => "fan-in",
            Self::Churn(_) => "churn",
            Self::Slow(_) => "slow",
            Self::Mixed(_) => "mixed",
            Self::Saturate(_) => "saturate",
        }
    }
}

/// Which server is measured, and by what.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// A server that runs already; otherwise one is started in a temporary directory. Several, divided by commas: users
    /// connect to them in turn, so that partners are on different nodes.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Their processes, if they run on this machine, and those of other nodes whose CPU is to be counted.
    #[arg(long, requires = "server", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Iris as a cluster of so many cores, started on this machine. Users connect to them in turn.
    #[arg(long, conflicts_with = "server", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub nodes: u16,
    /// And so many edges beside them; then users connect to these.
    #[arg(long, conflicts_with = "server", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=32))]
    pub edges: u16,
    /// Edges cannot be dialled, so that every message goes through a core.
    #[arg(long, requires = "edges")]
    pub through_core: bool,
    /// Nodes that keep a copy of every stored message, in a cluster that is started.
    #[arg(long, conflicts_with = "server", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub copies: u8,
    /// Nodes that are started store in this Cassandra cluster, where `iris storage init` has made the keyspace iris. Its CPU
    /// is not counted.
    #[arg(long, conflicts_with = "server", value_name = "HOST:PORT", value_delimiter = ',')]
    pub cassandra: Vec<String>,
    /// The binary to start. [default: the one beside iris-perf]
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    pub iris: Option<PathBuf>,
    /// What is measured; for `compare`, what Iris is compared with. [default: iris; for compare: raw]
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Short for --peer raw.
    #[arg(long, conflicts_with = "peer")]
    pub raw: bool,
    /// Executors of the server that is started. [default: the server's own]
    #[arg(long)]
    pub executors: Option<usize>,
    /// Where the data of a server that is started goes. [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The server's admin socket. [default: that of a server that is started]
    #[arg(long, value_name = "SOCKET")]
    pub admin: Option<PathBuf>,
    /// Generator threads. [default: 1, or 2 if there are CPUs for them alone]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Leave it to the kernel which CPU server and generator run on.
    #[arg(long)]
    pub no_pin: bool,
    /// Start of all user ids. [default: new for each run]
    #[arg(long)]
    pub prefix: Option<String>,
    /// What users prove themselves with.
    #[arg(long, default_value = "")]
    pub token: String,
    /// Print JSON, one line for each result.
    #[arg(long)]
    pub json: bool,
}

impl TargetArgs {
    /// What is measured.
    pub fn peer(&self) -> Peer {
        if self.raw { Peer::Raw } else { self.peer.unwrap_or(Peer::Iris) }
    }

    /// Starts the server, or finds the one that runs.
    pub fn open(&self) -> Result<Server> {
        let server = match self.server.as_slice() {
            [] => Server::start(&Launch {
                peer: self.peer(),
                iris: self.iris.clone().map_or_else(iris_beside, Ok)?,
                executors: self.executors,
                data: self.data.clone(),
                cpus: self.cpus()?.server,
                fleet: Fleet {
                    cores: self.nodes,
                    edges: self.edges,
                    is_through_core: self.through_core,
                    copies: self.copies,
                    cassandra: self.cassandra.clone(),
                },
            })?,
            addresses => Server::attach(addresses, &self.pid, self.admin.clone())?,
        };
        self.peer().prepare(server.address())?;
        Ok(server)
    }

    /// Who runs where.
    pub fn cpus(&self) -> Result<Cpus> {
        if self.no_pin || !self.server.is_empty() || self.nodes + self.edges > 1 {
            return Ok(Cpus::unpinned());
        }
        let allowed = cpus::allowed()?;
        let executors = if self.peer() == Peer::Raw { 1 } else { self.executors.unwrap_or(allowed.len()) };
        Ok(Cpus::divide(&allowed, executors))
    }

    /// How many CPUs the server may use.
    pub fn server_cpus(&self) -> Result<usize> {
        let pinned = self.cpus()?.server.len();
        Ok(if pinned > 0 { pinned } else { cpus::allowed()?.len() })
    }

    /// How many generator threads.
    pub fn threads(&self) -> Result<usize> {
        let spare = self.cpus()?.generator.len();
        Ok(self.threads.unwrap_or(spare.clamp(1, 2)).max(1))
    }

    /// The start of this run's user ids.
    pub fn prefix(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.prefix.clone().unwrap_or_else(|| format!("{:x}-", now.as_millis()))
    }
}

fn iris_beside() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("iris-perf has no directory")?.join("iris"))
}

/// Flags of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// How often each is measured.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Do not run `raw` in each round too, of which the figures of `relay` are given as a share.
    #[arg(long, global = true)]
    pub no_limit: bool,
    /// What is compared.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// Flags of `hold`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// The server.
    #[arg(long)]
    pub server: SocketAddr,
    /// Its kind.
    #[arg(long, value_enum, default_value_t = Peer::Iris)]
    pub peer: Peer,
    /// Connections.
    #[arg(long)]
    pub connections: u32,
    /// Start of their users' ids.
    #[arg(long)]
    pub prefix: String,
    /// What users prove themselves with.
    #[arg(long, default_value = "")]
    pub token: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn compare_takes_its_flags_behind_the_scenario() -> Result<()> {
        let line = ["iris-perf", "compare", "relay", "--peer", "raw", "--rounds", "2", "--pairs", "5", "--json"];
        let Command::Compare(mut args) = Cli::try_parse_from(line)?.command else { anyhow::bail!("not compare") };
        let target = args.scenario.target();
        assert_eq!((args.rounds, target.json, target.peer), (2, true, Some(Peer::Raw)));
        Ok(())
    }
}
