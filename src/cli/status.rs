//! `iris status`: asks a running node how it is, over its admin socket.

use super::table::{Align, table};
use super::{Exit, Failure, print, printable, rfc3339};
use crate::admin::{self, AskError, ExecutorStatus, Messages, Paths, Shards};
use crate::config::{Config, Flags};
use crate::discovery::DiscoveryStatus;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Ranges of shards with too few cores, for people.
const RANGES_SHOWN_MAX: usize = 8;

/// Which node is asked.
#[derive(Debug, Args)]
pub struct Asked {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's --data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The admin socket itself.
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    /// Print everything, as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Asked {
    /// Its admin socket.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        match &self.admin {
            Some(path) => Ok(path.clone()),
            None => {
                let flags = Flags { data: self.data.clone(), ..Flags::default() };
                Ok(Config::load(self.config.as_deref(), &flags)?.admin)
            }
        }
    }
}

/// Ask as the user who runs the node. The socket is found as `iris serve` finds it: by configuration, --data, or default.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Status {
    #[command(flatten)]
    asked: Asked,
}

impl Status {
    pub fn run(self) -> Result<(), Failure> {
        let status = admin::ask(&self.asked.path()?).map_err(failure)?;
        if self.asked.json {
            let json = serde_json::to_string(&status).map_err(|error| Failure::new(Exit::Failed, error))?;
            return Ok(print(&json)?);
        }
        head(&status).iter().try_for_each(|line| print(line))?;
        table(COLUMNS.map(|head| (head, Align::Right)), status.executors.iter().map(row))
            .iter()
            .try_for_each(|line| print(line))?;
        discovery(&status.discovery, status.node.as_str()).iter().try_for_each(|line| print(line))?;
        links(&status).iter().try_for_each(|line| print(line))?;
        for (limit, times) in &status.totals.limits_reached {
            print(&format!("limit reached: {limit} ({times} times)"))?;
        }
        Ok(())
    }
}

pub fn failure(error: AskError) -> Failure {
    match error {
        AskError::Unreachable { .. } => {
            let hint = "; is it running, with this configuration? (--config FILE, --data DIR or --admin SOCKET)";
            Failure::new(Exit::Unreachable, format!("{error}{hint}"))
        }
        AskError::Refused(_) => Failure::new(Exit::Refused, error),
        AskError::Unreadable(_) => Failure::new(Exit::Failed, error),
    }
}

fn head(status: &admin::Status) -> Vec<String> {
    let draining = if status.draining { ", draining" } else { "" };
    let uptime = Duration::from_secs(status.uptime_ms / 1_000);
    let totals = &status.totals;
    vec![
        format!(
            "iris {} node {} ({}, {}), process {}, up {uptime:?}{draining}",
            status.version, status.node, status.role, status.region, status.pid
        ),
        format!("listening on {}", status.listen.join(", ")),
        format!("{} connections, {} users online", totals.connections, totals.sessions),
        format!("{} messages in {} inboxes, {}", totals.inbox_messages, totals.inboxes, kept(status)),
        format!("messages: {}", messages(totals.messages)),
        format!("paths: {}", paths(totals.paths)),
        String::new(),
    ]
}

/// By what.
fn kept(status: &admin::Status) -> String {
    let storage = &status.storage;
    let Some(copies) = storage.copies else { return format!("{} in log files", bytes(status.totals.log_bytes)) };
    let away = match storage.away_since_unix_ms {
        Some(since) => {
            format!("; it confirms nothing since {}, and messages for absent users are refused", rfc3339(since))
        }
        None => String::new(),
    };
    format!("of those in use; {} keeps them, with {copies} copies confirmed{away}", storage.engine)
}

/// Who else is in the cluster, and what is wrong with that.
fn discovery(discovery: &DiscoveryStatus, own: &str) -> Vec<String> {
    let DiscoveryStatus { kind, nodes, uncovered, faults, away_since_unix_ms, away_reason, .. } = discovery;
    let others = nodes.iter().filter(|node| node.name != own).count();
    if kind == "static" && others == 0 {
        return Vec::new();
    }
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    nodes.iter().for_each(|node| *states.entry(&node.state).or_default() += 1);
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut lines = vec![String::new(), format!("discovery by {kind}: {}", states.join(", "))];
    if let (Some(since), Some(reason)) = (away_since_unix_ms, away_reason) {
        lines.push(format!("discovery: what was known is kept since {}: {}", rfc3339(*since), printable(reason)));
    }
    lines.extend(faults.iter().map(|fault| format!("discovery: {}", printable(fault))));
    for shards in uncovered.iter().take(RANGES_SHOWN_MAX) {
        lines.push(format!("shards {} have {} of {} cores", shards.shards, shards.cores, shards.copies));
    }
    let more = uncovered.len().saturating_sub(RANGES_SHOWN_MAX);
    lines.extend((more > 0).then(|| format!("and {more} more ranges of shards; --json has all")));
    lines
}

/// What a node of a cluster has beside one that is alone.
fn links(status: &admin::Status) -> Vec<String> {
    if status.links.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new()];
    let Shards { kept, in_step } = status.totals.shards;
    if kept > 0 {
        lines.push(format!("shards: {kept} kept, {in_step} in step with all their replicas"));
    }
    for link in &status.links {
        let state = if link.up { "up".to_owned() } else { format!("down ({})", link.trouble) };
        let (sent, received) = (link.counts.sent, link.counts.received);
        lines.push(format!("link to {} ({}): {state}, {sent} sent, {received} received", link.name, link.region));
    }
    for (regions, traffic) in &status.regions {
        lines.push(format!("traffic {regions}: {} messages, {}", traffic.messages, bytes(traffic.bytes)));
    }
    lines
}

fn messages(messages: Messages) -> String {
    let Messages { direct, inbox_online, stored, drained, bounced, refused } = messages;
    format!(
        "{direct} direct, {inbox_online} through inboxes online, {stored} stored, {drained} drained, {bounced} bounced, \
         {refused} refused"
    )
}

fn paths(paths: Paths) -> String {
    let Paths { direct, inbox, earned, left_stored, left_bounced, left_link, unlinked } = paths;
    format!(
        "{direct} direct, {inbox} to inboxes; {earned} pairs became direct, {left_stored} left for a stored message, \
         {left_bounced} for a bounce, {left_link} for a lost link; {unlinked} grants had no link"
    )
}

const COLUMNS: [&str; 11] = [
    "executor",
    "cpu",
    "connections",
    "users",
    "direct",
    "online",
    "stored",
    "inbox",
    "log",
    "flush p99 µs",
    "turn p99 µs",
];

fn row(executor: &ExecutorStatus) -> [String; COLUMNS.len()] {
    [
        executor.id.to_string(),
        executor.cpu.map_or_else(|| "any".into(), |cpu| cpu.to_string()),
        executor.connections.to_string(),
        executor.sessions.to_string(),
        executor.messages.direct.to_string(),
        executor.messages.inbox_online.to_string(),
        executor.messages.stored.to_string(),
        executor.inbox_messages.to_string(),
        bytes(executor.log.bytes),
        executor.log.flush_us.p99.to_string(),
        executor.turn_us.p99.to_string(),
    ]
}

fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}
