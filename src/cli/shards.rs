//! `iris shards`: who keeps which users, how evenly, what nobody keeps, and what another layout would move.

mod publish;
mod roster;
mod show;

use super::{Exit, Failure, print};
use crate::config::{Config, Flags};
use crate::shard_map::moves::Moves;
use crate::shard_map::{Layout, LayoutError, ShardMap};
use clap::{Args, Subcommand};
use iris_shards::id::is_user;
use iris_shards::placement::{REPLICAS_MAX, Spread};
use iris_shards::ring::SHARDS_MAX;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

const EXAMPLES: &str = "\
Without flags it is the map of a laptop. --to-… say what is to be: then what would move is printed as well.

  iris shards --config core.ron                          the cluster of a configuration with a list of nodes
  iris shards --config core.ron --user alice             where alice is kept
  iris shards --config core.ron --to-config new.ron      what moves if all nodes change to new.ron
  iris shards --num-shards 1000 --nodes a,b,c --copies 2 --to-nodes a,b,c,d
  iris shards --num-shards 1000 --nodes @nodes.txt       a line per node: NAME [region=R] [zone=Z] [shards=0-499]
";

/// Which nodes keep which users, by a list, or as a running node knows them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Shards {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The cluster's configuration, with a list of nodes (or --nodes).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print this shard only.
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// Print where this user is kept.
    #[arg(long, value_name = "USER", value_parser = user, conflicts_with = "shard")]
    user: Option<String>,
    /// Print everything, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    now: Now,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write which cores keep which shards to the registry of a cluster.
    Publish(publish::Publish),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Instead of the configuration's")]
struct Now {
    /// Shards.
    #[arg(long, value_name = "N", value_parser = shards)]
    num_shards: Option<u32>,
    /// Nodes that keep a shard.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX as i64))]
    copies: Option<u8>,
    /// What the copies should not share: node, zone or region.
    #[arg(long, value_name = "PLACE", value_parser = spread)]
    spread: Option<Spread>,
    /// The cores: NAME,NAME,… or @FILE.
    #[arg(long, value_name = "NAMES", conflicts_with = "admin")]
    nodes: Option<String>,
    /// The cores that a running node knows, by its admin socket. Where no list names them, the one of the configuration
    /// is asked without it.
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What is to be")]
struct To {
    /// Another configuration.
    #[arg(long, value_name = "FILE")]
    to_config: Option<PathBuf>,
    /// Another number of shards.
    #[arg(long, value_name = "N", value_parser = shards)]
    to_num_shards: Option<u32>,
    /// Another number of nodes for a shard.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX as i64))]
    to_copies: Option<u8>,
    /// Another spread.
    #[arg(long, value_name = "PLACE", value_parser = spread)]
    to_spread: Option<Spread>,
    /// Other cores.
    #[arg(long, value_name = "NAMES")]
    to_nodes: Option<String>,
}

impl Shards {
    pub fn run(mut self) -> Result<(), Failure> {
        if let Some(Verb::Publish(verb)) = self.verb.take() {
            return verb.run();
        }
        let begun = Instant::now();
        let now = self.layout()?;
        let map = ShardMap::new(now.clone())?;
        let compiled = begun.elapsed();
        if let Some(user) = &self.user {
            return self.print(&json!(map.user(user)), || show::user(&map.user(user)));
        }
        if let Some(shard) = self.shard {
            let wrong = || format!("--shard {shard}: shards are numbered 0 to {}", now.num_shards - 1);
            let shard = map.shard(shard).ok_or_else(|| Failure::new(Exit::Usage, wrong()))?;
            return self.print(&json!(shard), || show::shard(&shard));
        }
        let moves = self.target(&now)?.map(|layout| -> Result<_, Failure> {
            let after = ShardMap::new(layout)?;
            Ok((Moves::new(&map, &after)?, after))
        });
        let moves = moves.transpose()?;
        self.print(&as_json(&map, moves.as_ref()), || {
            let mut lines = show::map(&map, compiled);
            if let Some((moves, after)) = &moves {
                lines.extend(show::moves(moves, &map.summary(), &after.summary()));
            }
            lines
        })
    }

    fn print(&self, json: &Value, lines: impl FnOnce() -> Vec<String>) -> Result<(), Failure> {
        if self.json {
            return Ok(print(&json.to_string())?);
        }
        lines().iter().try_for_each(|line| print(line))?;
        Ok(())
    }

    /// What is now.
    fn layout(&self) -> Result<Layout, Failure> {
        let now = &self.now;
        let config = Config::load(self.config.as_deref(), &Flags::default())?;
        let num_shards = now.num_shards.unwrap_or(config.cluster.num_shards);
        let members = match (&now.nodes, &now.admin) {
            (Some(nodes), _) => roster::named(nodes, num_shards),
            (None, Some(socket)) => roster::living(socket, num_shards),
            (None, None) => roster::configured(&config),
        };
        Ok(Layout {
            num_shards,
            copies: now.copies.unwrap_or(config.cluster.copies),
            spread: now.spread.unwrap_or(config.cluster.spread),
            members: members.map_err(|error| Failure::new(Exit::Usage, error))?,
        })
    }

    /// What is to be, if anything is.
    fn target(&self, now: &Layout) -> Result<Option<Layout>, Failure> {
        let To { to_config, to_num_shards, to_copies, to_spread, to_nodes } = &self.to;
        let mut layout = now.clone();
        if let Some(file) = to_config {
            let config = Config::load(Some(file), &Flags::default())?;
            let cluster = &config.cluster;
            (layout.num_shards, layout.copies, layout.spread) = (cluster.num_shards, cluster.copies, cluster.spread);
            if to_nodes.is_none() {
                layout.members = roster::configured(&config).map_err(|error| Failure::new(Exit::Usage, error))?;
            }
        }
        layout.num_shards = to_num_shards.unwrap_or(layout.num_shards);
        layout.copies = to_copies.unwrap_or(layout.copies);
        layout.spread = to_spread.unwrap_or(layout.spread);
        if let Some(nodes) = to_nodes {
            layout.members =
                roster::named(nodes, layout.num_shards).map_err(|error| Failure::new(Exit::Usage, error))?;
        }
        let is_asked = to_config.is_some() || to_nodes.is_some() || layout != *now;
        let is_asked = is_asked || to_num_shards.is_some() || to_copies.is_some() || to_spread.is_some();
        Ok(is_asked.then_some(layout))
    }
}

fn as_json(map: &ShardMap, moves: Option<&(Moves, ShardMap)>) -> Value {
    let mut json = json!({"map": map.summary(), "shards": map.shards().collect::<Vec<_>>()});
    if let Some((moves, after)) = moves {
        json["to"] = json!(after.summary());
        json["moves"] = json!(moves);
    }
    json
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        Failure::new(Exit::Usage, error)
    }
}

fn shards(text: &str) -> Result<u32, String> {
    let number = text.replace(['_', ','], "").parse().ok();
    let number = number.filter(|number| (1..=SHARDS_MAX).contains(number));
    number.ok_or_else(|| format!("a cluster has 1 to {SHARDS_MAX} shards"))
}

fn spread(text: &str) -> Result<Spread, String> {
    match text {
        "node" => Ok(Spread::Node),
        "zone" => Ok(Spread::Zone),
        "region" => Ok(Spread::Region),
        _ => Err("copies are spread over node, zone or region".into()),
    }
}

fn user(text: &str) -> Result<String, String> {
    if is_user(text.as_bytes()) { Ok(text.to_owned()) } else { Err("this is no user id".into()) }
}
