//! `iris shards publish`: writes the shard map to Consul or etcd, for a cluster whose nodes follow it there.

use super::roster;
use super::show::counted;
use crate::cli::{Exit, Failure, print, printable};
use crate::config::{Config, Flags, shards_text, united};
use crate::discovery::registry::{Away, PublishedMap, Service};
use crate::shard_map::{Layout, ShardMap};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
From then on each core keeps what the map gives it, whatever its own configuration says, and a core that the map does not
name keeps nothing. Cores named without shards= get what the others leave. What would move: iris shards --to-nodes.

  iris shards publish --config iris.ron --nodes @cores.txt     a line per core: NAME [region=R] [zone=Z] [shards=0-499]
  iris shards publish --config iris.ron --nodes a,b,c --dry-run
  iris shards publish --config iris.ron --nodes @cores.txt --if-version 4711

The map is removed, and cores keep again what they say themselves, by: consul kv delete iris-shards/NAME, or
etcdctl del iris/NAME/shards.
";

/// Write which cores keep which shards to the registry (Consul or etcd) of a cluster.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Publish {
    /// The cluster's configuration, with discovery: consul or etcd.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The cores: NAME,NAME,… or @FILE.
    #[arg(long, value_name = "NAMES")]
    nodes: String,
    /// Only if the map that is there has this version; 0: only if there is none.
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    /// Print the map, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Publish {
    pub fn run(self) -> Result<(), Failure> {
        let config = Config::load(Some(&self.config), &Flags::default())?;
        let service = Service::new(&config).map_err(|error| Failure::new(Exit::Usage, error))?;
        let service = service.ok_or_else(|| {
            let word = config.cluster.discovery.word();
            Failure::new(Exit::Usage, format!("cluster.discovery is {word}; a shard map is for consul and etcd"))
        })?;
        let map = self.map(&config)?;
        let text = serde_json::to_string(&map).map_err(|error| Failure::new(Exit::Failed, error))?;
        if self.dry_run {
            return Ok(print(&text)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let version = runtime.block_on(self.write(&service, &text))?;
        if self.json {
            return Ok(print(&json!({"version": version, "map": map}).to_string())?);
        }
        let (shards, cores) = (counted(map.num_shards.into(), "shard"), counted(map.nodes.len() as u64, "core"));
        Ok(print(&format!("published version {version}: {shards} on {cores}"))?)
    }

    /// The layout as it would be placed, core by core.
    fn map(&self, config: &Config) -> Result<PublishedMap, Failure> {
        let num_shards = config.cluster.num_shards;
        let members = roster::named(&self.nodes, num_shards).map_err(|error| Failure::new(Exit::Usage, error))?;
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        let (copies, spread) = (config.cluster.copies, config.cluster.spread);
        let layout = ShardMap::new(Layout { num_shards, copies, spread, members })?;
        let unowned = layout.summary().unowned.shards;
        if !unowned.is_empty() {
            let text = format!("nobody would keep the shards {unowned}, and their users would be refused");
            return Err(Failure::new(Exit::Usage, text));
        }
        let mut kept: BTreeMap<String, Vec<_>> = names.into_iter().map(|name| (name, Vec::new())).collect();
        for place in layout.shards() {
            for node in place.nodes {
                kept.entry(node).or_default().push(place.shard..=place.shard);
            }
        }
        kept.retain(|_, shards| !shards.is_empty());
        let nodes = kept.into_iter().map(|(name, shards)| (name, shards_text(&united(shards)))).collect();
        Ok(PublishedMap { num_shards, nodes })
    }

    /// The version that was written.
    async fn write(&self, service: &Service, text: &str) -> Result<u64, Failure> {
        let (version, _) = service.map().await?;
        let is_expected = self.if_version.is_none_or(|expected| expected == version);
        if !is_expected || !service.put_map(version, text).await? {
            let (now, _) = service.map().await?;
            let text =
                format!("the shard map has version {now} now: somebody else has written it; nothing was changed");
            return Err(Failure::new(Exit::Refused, text));
        }
        Ok(service.map().await?.0)
    }
}

impl From<Away> for Failure {
    fn from(away: Away) -> Self {
        let exit = match &away {
            Away::Unreachable { .. } => Exit::Unreachable,
            Away::Refused { .. } => Exit::Refused,
            Away::Unexpected { .. } => Exit::Failed,
        };
        Failure::new(exit, printable(&away.to_string()))
    }
}
