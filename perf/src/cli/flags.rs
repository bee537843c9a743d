//! The flags of each scenario.

use super::TargetArgs;
use crate::body::HEAD_BYTES;
use clap::Args;
use std::time::Duration;

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
    /// An open loop: messages per second of all users together, by a schedule fixed in advance; latency counts from when
    /// a message was due. [default: a closed loop by --window]
    #[arg(long, conflicts_with = "gated", value_parser = rate)]
    pub rate: Option<f64>,
    /// Connections beside them that say nothing.
    #[arg(long, default_value_t = 0)]
    pub idle: u32,
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
    #[command(flatten)]
    pub crowd: CrowdArgs,
    /// Drop the page cache before (needs root).
    #[arg(long)]
    pub drop_caches: bool,
    /// The drain may take this long, s.
    #[arg(long, default_value_t = 300)]
    pub limit_seconds: u64,
}

/// Those who fill the inbox that is drained.
#[derive(Debug, Clone, Copy, Args)]
pub struct CrowdArgs {
    /// Users who send the messages.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub senders: u32,
    /// Messages in flight of each of them.
    #[arg(long, default_value_t = 64)]
    pub window: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

/// Flags of `refill`.
#[derive(Debug, Clone, Args)]
pub struct RefillArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Messages of each round.
    #[arg(long, default_value_t = 10_000)]
    pub messages: u64,
    /// How often the inbox is filled and drained.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,
    /// Messages of the first page.
    #[arg(long, default_value_t = 64)]
    pub page: u64,
    #[command(flatten)]
    pub crowd: CrowdArgs,
    /// A drain may take this long, s.
    #[arg(long, default_value_t = 60)]
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

/// Flags of `fan-in`.
#[derive(Debug, Clone, Args)]
pub struct FanInArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub course: CourseArgs,
    /// Users who write to the one.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub senders: u32,
    /// Messages in flight of each of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub window: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

/// Flags of `churn`.
#[derive(Debug, Clone, Args)]
pub struct ChurnArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub course: CourseArgs,
    /// Pairs who talk all the time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pairs: u32,
    /// Messages per second of all pairs together.
    #[arg(long, default_value_t = 2_000.0, value_parser = rate)]
    pub rate: f64,
    /// Users who come and go; as many write to them.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub visitors: u32,
    /// Messages per second to all of them together.
    #[arg(long, default_value_t = 500.0, value_parser = rate)]
    pub visitor_rate: f64,
    /// How long a visit is, ms.
    #[arg(long, default_value_t = 500)]
    pub stay_ms: u64,
    /// How long a visitor is away, ms.
    #[arg(long, default_value_t = 500)]
    pub away_ms: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

/// Flags of `slow`.
#[derive(Debug, Clone, Args)]
pub struct SlowArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub course: CourseArgs,
    /// Pairs of users who read as they should.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pairs: u32,
    /// Messages per second of all of them together.
    #[arg(long, default_value_t = 2_000.0, value_parser = rate)]
    pub rate: f64,
    /// Slow readers beside them, in percent of them.
    #[arg(long, default_value_t = 1.0, value_parser = rate)]
    pub percent: f64,
    /// Messages per second to each slow reader.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    pub slow_rate: f64,
    /// Rounds, each a run without slow readers and one with them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

/// Flags of `mixed`.
#[derive(Debug, Clone, Args)]
pub struct MixedArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Users in all.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    pub users: u32,
    /// Of these so many percent talk, in pairs.
    #[arg(long, default_value_t = 10)]
    pub talking_percent: u32,
    /// And so many are away most of the day, and get what waited for them when they come.
    #[arg(long, default_value_t = 5)]
    pub away_percent: u32,
    /// The length of a day, s. It begins in its quietest hour.
    #[arg(long, default_value_t = 60.0, value_parser = rate)]
    pub day_seconds: f64,
    /// Messages that a talking user sends in a day, and that one who is away is sent.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    pub messages_per_day: f64,
    /// How often one who is away comes in a day.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub visits_per_day: u32,
    /// Time for the last confirmations, ms.
    #[arg(long, default_value_t = 15_000)]
    pub settle_ms: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

/// Flags of `saturate`.
#[derive(Debug, Clone, Args)]
pub struct SaturateArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Measured time of each step, s.
    #[arg(long, default_value_t = 3.0, value_parser = rate)]
    pub seconds: f64,
    /// Pairs of users.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pairs: u32,
    /// Messages per second of the first step.
    #[arg(long, default_value_t = 2_000.0, value_parser = rate)]
    pub from: f64,
    /// No more than this is tried.
    #[arg(long, default_value_t = 1e8, value_parser = rate)]
    pub to: f64,
    /// Time before each step is measured, ms: pairs earn their direct path.
    #[arg(long, default_value_t = 1_200)]
    pub warm_up_ms: u64,
    /// The p99 that a sustained load keeps, ms.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    pub objective_ms: f64,
    /// What the network card carries each way, Gbit/s; without it nothing is said of its share.
    #[arg(long, value_parser = rate)]
    pub nic_gbit: Option<f64>,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = body_bytes)]
    pub body: usize,
}

fn body_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (HEAD_BYTES..=16 << 20).contains(&bytes) => Ok(bytes),
        _ => Err(format!("bytes, at least {HEAD_BYTES}: the head with number and time")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate < 1e9 => Ok(rate),
        _ => Err("a number above 0".to_owned()),
    }
}
