//! What a soak does: its flags.

use super::stamp::STAMP_BYTES;
use clap::Args;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

/// Flags of `soak`.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Nodes where clients connect, all of one cluster. Users go to any of them.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', required = true, value_parser = server)]
    pub servers: Vec<SocketAddr>,
    /// How long new messages are sent, s.
    #[arg(long, default_value_t = SECONDS)]
    pub seconds: f64,
    /// Users.
    #[arg(long, default_value_t = USERS, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub users: u32,
    /// To how many others each of them writes.
    #[arg(long, default_value_t = RECIPIENTS, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub recipients: u32,
    /// Messages per second of all of them together. Fewer if the servers' windows do not let more out.
    #[arg(long, default_value_t = RATE)]
    pub rate: f64,
    /// Messages without an answer, of each user.
    #[arg(long, default_value_t = WINDOW)]
    pub window: usize,
    /// Of these so many percent of the users are visitors: they come and go, and what is sent to them meanwhile waits.
    #[arg(long, default_value_t = VISITORS_PERCENT)]
    pub visitors_percent: u32,
    /// How long a visit is in the mean, ms.
    #[arg(long, default_value_t = VISIT_MS)]
    pub stay_ms: u64,
    /// How long a visitor is away in the mean, ms.
    #[arg(long, default_value_t = VISIT_MS)]
    pub away_ms: u64,
    /// A server that is silent for this time is left for another, ms.
    #[arg(long, default_value_t = SILENCE_MS)]
    pub silence_ms: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = BODY_BYTES, value_parser = body_bytes)]
    pub body: usize,
    /// Allow what `copies_min < copies` allows: a message that only a core out of reach had may come behind later ones.
    /// It is counted in any case.
    #[arg(long)]
    pub late_allowed: bool,
    /// Time for the last confirmations, s.
    #[arg(long, default_value_t = SETTLE_SECONDS)]
    pub settle_seconds: f64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Start of all user ids. [default: new for each run]
    #[arg(long, default_value_t = new_prefix(), hide_default_value = true)]
    pub prefix: String,
    /// What users prove themselves with.
    #[arg(long, default_value = "")]
    pub token: String,
    /// Print a line of figures each second too.
    #[arg(long)]
    pub progress: bool,
    /// Print JSON, one line for each result.
    #[arg(long)]
    pub json: bool,
}

const SECONDS: f64 = 10.0;
const USERS: u32 = 1_000;
const RECIPIENTS: u32 = 2;
const RATE: f64 = 25_000.0;
const WINDOW: usize = 64;
const VISITORS_PERCENT: u32 = 20;
const VISIT_MS: u64 = 1_500;
const SILENCE_MS: u64 = 3_000;
const BODY_BYTES: usize = 64;
const SETTLE_SECONDS: f64 = 60.0;

impl Plan {
    /// The defaults of the flags.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            seconds: SECONDS,
            users: USERS,
            recipients: RECIPIENTS,
            rate: RATE,
            window: WINDOW,
            visitors_percent: VISITORS_PERCENT,
            stay_ms: VISIT_MS,
            away_ms: VISIT_MS,
            silence_ms: SILENCE_MS,
            body: BODY_BYTES,
            late_allowed: false,
            settle_seconds: SETTLE_SECONDS,
            threads: 1,
            prefix: new_prefix(),
            token: String::new(),
            progress: false,
            json: false,
        }
    }
}

fn new_prefix() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-", now.as_micros())
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "it has no address".to_owned())
}

fn body_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().map_err(|error| format!("{error}"))?;
    if (STAMP_BYTES..=1 << 20).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("a body has at least {STAMP_BYTES} bytes (number, id and checksum) and at most {}", 1 << 20))
}
