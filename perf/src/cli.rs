//! The command line: flags as written, and what follows from them (which server, which CPUs, how many threads).

use crate::body::HEAD_BYTES;
use crate::measured::cpus::{self, Cpus};
use crate::measured::{Launch, Server};
use crate::peer::Peer;
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// A scenario against Iris and a peer in turn (A B A B …): the ratio of their figures, with its spread.
    Compare(CompareArgs),
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
    /// Connect, log in, drop, again and again.
    Login(LoginArgs),
}

impl Scenario {
    /// The flags that all have.
    pub fn target(&mut self) -> &mut TargetArgs {
        match self {
            Self::Relay(args) => &mut args.target,
            Self::Idle(args) => &mut args.target,
            Self::Stored(args) => &mut args.target,
            Self::Drain(args) => &mut args.target,
            Self::Login(args) => &mut args.target,
        }
    }
}

/// Which server is measured, and by what.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// A server that runs already; otherwise one is started in a temporary directory.
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Its process, if it runs on this machine.
    #[arg(long, requires = "server")]
    pub pid: Option<u32>,
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
        let server = match &self.server {
            Some(address) => Server::attach(address, self.pid)?,
            None => Server::start(&Launch {
                peer: self.peer(),
                iris: self.iris.clone().map_or_else(iris_beside, Ok)?,
                executors: self.executors,
                data: self.data.clone(),
                cpus: self.cpus()?.server,
            })?,
        };
        self.peer().prepare(server.address)?;
        Ok(server)
    }

    /// Who runs where.
    pub fn cpus(&self) -> Result<Cpus> {
        if self.no_pin || self.server.is_some() {
            return Ok(Cpus::unpinned());
        }
        let allowed = cpus::allowed()?;
        let executors = if self.peer() == Peer::Raw { 1 } else { self.executors.unwrap_or(allowed.len()) };
        Ok(Cpus::divide(&allowed, executors))
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

/// How long a closed loop runs.
#[derive(Debug, Clone, Args)]
pub struct CourseArgs {
    /// Measured time, s.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Time before it, once everybody has been heard, ms: pairs earn their direct path.
    #[arg(long, default_value_t = 1_500)]
    pub warm_up_ms: u64,
    /// Time for the last confirmations, ms.
    #[arg(long, default_value_t = 15_000)]
    pub settle_ms: u64,
}

impl CourseArgs {
    /// The measured time.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 86_400.0))
    }
}

/// Flags of `relay`.
#[derive(Debug, Clone, Args)]
pub struct RelayArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub course: CourseArgs,
    /// Pairs of users.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pairs: u32,
    /// Messages in flight of each user.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub window: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
    /// Each user sends when an own message is confirmed, not when it receives one.
    #[arg(long)]
    pub gated: bool,
}

/// Flags of `idle`.
#[derive(Debug, Clone, Args)]
pub struct IdleArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Connections.
    #[arg(long, default_value_t = 15_000)]
    pub connections: u32,
    /// Time in which the idle server's CPU is measured, s.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

/// Flags of `stored`.
#[derive(Debug, Clone, Args)]
pub struct StoredArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub course: CourseArgs,
    /// Users who send.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub senders: u32,
    /// Users who are away; 0: one for each sender.
    #[arg(long, default_value_t = 0)]
    pub recipients: u32,
    /// Messages in flight of each sender.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub window: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

/// Flags of `drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Messages that wait.
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: u64,
    /// Put them there first (always so for a server that is started here).
    #[arg(long)]
    pub fill: bool,
    /// Users who sent them.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub senders: u32,
    /// Messages in flight of each of them.
    #[arg(long, default_value_t = 64)]
    pub window: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
    /// Drop the page cache before (needs root).
    #[arg(long)]
    pub drop_caches: bool,
    /// The drain may take this long, s.
    #[arg(long, default_value_t = 300)]
    pub limit_seconds: u64,
}

/// Flags of `login`.
#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Logins at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// Measured time, s.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Time before it, ms.
    #[arg(long, default_value_t = 1_000)]
    pub warm_up_ms: u64,
}

/// Flags of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// How often each is measured.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
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
    /// Connections.
    #[arg(long)]
    pub connections: u32,
    /// Start of their users' ids.
    #[arg(long)]
    pub prefix: String,
    /// What users prove themselves with.
    #[arg(long, default_value = "")]
    pub token: String,
    /// The address to connect from.
    #[arg(long)]
    pub source: Option<SocketAddr>,
}

fn body_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (HEAD_BYTES..=16 << 20).contains(&bytes) => Ok(bytes),
        _ => Err(format!("bytes, at least {HEAD_BYTES}: the head with number and time")),
    }
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
