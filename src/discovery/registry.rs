//! Discovery by a registry that fleets run already, Consul or etcd: cores write themselves in, everybody follows.
//!
//! A registration lives as long as it is kept alive; one that ends without a word is `gone` for `claim_ms`. A shard map in
//! the same store, if there is one, says what each core keeps. With the service away the last known cluster goes on.

use super::consul::Consul;
use super::etcd::Etcd;
use super::publish::{Publisher, unix_ms};
use super::view::{Known, NodeState};
use super::{Command, locked};
use crate::config::{Config, Discovery, parse_shards, shards_text};
use iris_shards::id::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep, sleep_until};

/// A registration is kept alive for so long, and kept again in a third of that time.
pub const LEASE: Duration = Duration::from_secs(6);
/// One question, but those that wait for a change.
pub const REQUEST: Duration = Duration::from_secs(2);
/// After a failure, with up to as much again by chance, so that a fleet does not ask at once.
const RETRY: Duration = Duration::from_millis(500);
/// Far enough away for a clock that is not wound up.
const LONG: Duration = Duration::from_secs(86_400);
const SEEN_MAX: usize = 16;

/// Why the service did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// No answer.
    #[error("{service} does not answer: {cause}")]
    Unreachable {
        /// `consul` or `etcd`.
        service: &'static str,
        /// What the client says.
        cause: String,
    },
    /// An answer that is a refusal.
    #[error("{service} refuses ({status}): {text}")]
    Refused {
        /// `consul` or `etcd`.
        service: &'static str,
        /// Of HTTP.
        status: u16,
        /// What it says.
        text: String,
    },
    /// Something else.
    #[error("{service} answers something unexpected: {text}")]
    Unexpected {
        /// `consul` or `etcd`.
        service: &'static str,
        /// What was wrong.
        text: String,
    },
}

/// What a core tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `node.name`.
    pub name: String,
    /// Where its links are dialled.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// Where within the region.
    pub zone: String,
    /// `core` or `both`.
    pub role: String,
    /// The shards that it names, or `Auto`.
    pub shards: String,
    /// How many shards it thinks there are.
    pub num_shards: u32,
    /// It said that it will go.
    #[serde(default)]
    pub leaving: bool,
}

/// Which core keeps which shards, written by `iris shards publish`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedMap {
    /// Has to be the cluster's.
    pub num_shards: u32,
    /// Such as `0-499,700`, by the name of the core.
    pub nodes: BTreeMap<String, String>,
}

/// Everything that the service knows at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Cores, and whether their registration is alive.
    pub cores: Vec<(Entry, bool)>,
    /// The map as it is written.
    pub map: Option<String>,
}

/// One of the services.
#[derive(Debug, Clone)]
pub enum Service {
    /// By a TTL check and blocking queries.
    Consul(Arc<Consul>),
    /// By a lease and a watch, through its JSON gateway.
    Etcd(Arc<Etcd>),
}

impl Service {
    /// As configured; `None` for other ways of discovery.
    pub fn new(config: &Config) -> Option<Service> {
        let (cluster, claim) = (&config.cluster.name, Duration::from_millis(config.cluster.claim_ms));
        match &config.cluster.discovery {
            Discovery::Consul { address, token } => {
                Some(Service::Consul(Arc::new(Consul::new(address, token, cluster, claim))))
            }
            Discovery::Etcd { address } => Some(Service::Etcd(Arc::new(Etcd::new(address, cluster)))),
            _ => None,
        }
    }

    async fn register(&self, own: &Entry) -> Result<(), Away> {
        match self {
            Service::Consul(consul) => consul.register(own).await,
            Service::Etcd(etcd) => etcd.register(own).await,
        }
    }

    /// False: the service does not know this node (any more).
    async fn keep(&self, own: &Entry) -> Result<bool, Away> {
        match self {
            Service::Consul(consul) => consul.keep(own).await,
            Service::Etcd(etcd) => etcd.keep().await,
        }
    }

    async fn leave(&self, own: &Entry) -> Result<(), Away> {
        match self {
            Service::Consul(consul) => consul.leave(own).await,
            Service::Etcd(etcd) => etcd.leave().await,
        }
    }

    async fn watch(self, seen: Sender<Result<Seen, Away>>) {
        match self {
            Service::Consul(consul) => consul.watch(seen).await,
            Service::Etcd(etcd) => etcd.watch(seen).await,
        }
    }

    /// The map, and its version for [`Service::put_map`]; version 0: there is none.
    pub async fn map(&self) -> Result<(u64, Option<String>), Away> {
        match self {
            Service::Consul(consul) => consul.map().await,
            Service::Etcd(etcd) => etcd.map().await,
        }
    }

    /// Writes the map if it still has this version (check-and-set). Whether it had.
    pub async fn put_map(&self, version: u64, map: &str) -> Result<bool, Away> {
        match self {
            Service::Consul(consul) => consul.put_map(version, map).await,
            Service::Etcd(etcd) => etcd.put_map(version, map).await,
        }
    }
}

/// A pause after a failure.
pub async fn pause() {
    use std::hash::{BuildHasher, RandomState};
    let chance = RandomState::new().hash_one(0u8) % RETRY.as_millis() as u64;
    sleep(RETRY + Duration::from_millis(chance)).await;
}

/// Follows the service, and keeps this node in it if it is a core, until the node leaves or drops its end of `commands`.
pub(super) async fn run(
    service: Service,
    own: Known,
    claim_ms: u64,
    publisher: Publisher,
    mut commands: Receiver<Command>,
) {
    let (sender, mut seen) = mpsc::channel(SEEN_MAX);
    let watching = tokio::spawn(service.clone().watch(sender));
    let mut follower = Follower { kept: BTreeMap::new(), map: None, claim_ms, own, publisher };
    let entry = Arc::new(Mutex::new(entry_of(&follower.own)));
    let keeping = follower.own.is_core.then(|| tokio::spawn(keep(service.clone(), entry.clone())));
    let told = loop {
        let warn_at = follower.publisher.warn_at().unwrap_or_else(|| Instant::now() + LONG);
        tokio::select! {
            Some(seen) = seen.recv() => follower.on_seen(seen),
            () = sleep(follower.until_next_end()) => follower.publish(),
            () = sleep_until(warn_at) => follower.publisher.warn(),
            command = commands.recv() => match command {
                Some(Command::Drain) => drain(&service, &mut follower, &entry).await,
                Some(Command::Leave(told)) => break Some(told),
                None => break None,
            },
        }
    };
    watching.abort();
    if let Some(keeping) = keeping {
        keeping.abort();
        let _ = keeping.await;
        if let (Some(_), Err(away)) = (&told, service.leave(&entry_of(&follower.own)).await) {
            tracing::warn!("discovery: this node leaves without a word: {away}");
        }
    }
    // Nobody listens when the node did not wait.
    told.map(|told| told.send(()).ok());
}

async fn drain(service: &Service, follower: &mut Follower, entry: &Mutex<Entry>) {
    locked(entry).leaving = true;
    follower.own.state = NodeState::Leaving;
    follower.publish();
    if !follower.own.is_core {
        return;
    }
    if let Err(away) = service.register(&entry_of(&follower.own)).await {
        tracing::warn!("discovery: the others are not told that this node will go: {away}");
    }
}

/// Keeps the registration of this node alive, and writes it anew when the service has lost it.
async fn keep(service: Service, entry: Arc<Mutex<Entry>>) {
    let mut is_known = false;
    loop {
        let own = locked(&entry).clone();
        let kept = match is_known {
            true => service.keep(&own).await,
            false => service.register(&own).await.map(|()| true),
        };
        match kept {
            Ok(kept) => is_known = kept,
            // The watch tells that the service is away; what it refuses is not told there.
            Err(away) => {
                tracing::debug!("discovery: this node is not registered: {away}");
                if let Away::Refused { .. } = away {
                    tracing::warn!("discovery: this node cannot register: {away}");
                }
                pause().await;
                continue;
            }
        }
        if is_known {
            sleep(LEASE / 3).await;
        }
    }
}

/// What is known of the others.
struct Follower {
    /// By name; `since` when it has been gone.
    kept: BTreeMap<String, (Known, Option<u64>)>,
    map: Option<String>,
    claim_ms: u64,
    own: Known,
    publisher: Publisher,
}

impl Follower {
    fn on_seen(&mut self, seen: Result<Seen, Away>) {
        match seen {
            Err(away) => self.publisher.away(Some(away.to_string())),
            Ok(seen) => {
                self.publisher.away(None);
                self.map = seen.map;
                self.take(seen.cores);
                self.publish();
            }
        }
    }

    /// Who is missing without having said that it leaves is gone for a while, and what it claims is kept for it.
    fn take(&mut self, cores: Vec<(Entry, bool)>) {
        let now = unix_ms();
        let mut before = std::mem::take(&mut self.kept);
        for (entry, is_alive) in cores {
            let gone_since = before.remove(&entry.name).and_then(|(_, since)| since);
            let since = (!is_alive).then(|| gone_since.unwrap_or(now));
            let mut known = known_of(&entry);
            if !is_alive {
                known.state = NodeState::Gone;
            }
            self.kept.insert(entry.name, (known, since));
        }
        for (name, (mut known, since)) in before {
            if known.state != NodeState::Leaving && since.is_none_or(|since| since + self.claim_ms > now) {
                known.state = NodeState::Gone;
                self.kept.insert(name, (known, Some(since.unwrap_or(now))));
            }
        }
    }

    fn publish(&mut self) {
        let now = unix_ms();
        let mut faults = Vec::new();
        let map = self.map.as_deref().and_then(|text| self.read_map(text, &mut faults));
        // Consul lists them for longer than they are waited for.
        let awaited = self.kept.values().filter(|(_, since)| since.is_none_or(|since| since + self.claim_ms > now));
        let others = awaited.map(|(known, _)| known).filter(|known| known.name != self.own.name);
        let mut nodes: Vec<Known> = others.cloned().chain([self.own.clone()]).collect();
        if let Some(map) = map {
            let cores = nodes.iter_mut().filter(|node| node.is_core);
            cores.for_each(|core| core.shards = Some(map.get(&core.name).cloned().unwrap_or_default()));
        }
        self.publisher.publish(nodes, faults);
    }

    /// What does not fit is told, and not followed.
    fn read_map(&self, text: &str, faults: &mut Vec<String>) -> Option<BTreeMap<String, crate::config::Ranges>> {
        match check_map(text, self.own.num_shards) {
            Ok(map) => Some(map),
            Err(fault) => {
                faults.push(fault);
                None
            }
        }
    }

    /// When the first of those that are gone is forgotten.
    fn until_next_end(&self) -> Duration {
        let ends = self.kept.values().filter_map(|(_, since)| Some((*since)? + self.claim_ms));
        ends.filter(|&end| end >= unix_ms())
            .min()
            .map_or(LONG, |end| Duration::from_millis(end.saturating_sub(unix_ms()) + 1))
    }
}

/// A published map: the shards of each core. Each shard has to be somebody's.
pub fn check_map(text: &str, num_shards: u32) -> Result<BTreeMap<String, crate::config::Ranges>, String> {
    let map: PublishedMap = serde_json::from_str(text).map_err(|cause| format!("the shard map is not one: {cause}"))?;
    if map.num_shards != num_shards {
        let theirs = map.num_shards;
        return Err(format!(
            "the shard map is for {theirs} shards, cluster.num_shards is {num_shards}; it is not used"
        ));
    }
    let mut found = BTreeMap::new();
    for (name, shards) in map.nodes {
        let ranges = parse_shards(&shards, num_shards).ok_or_else(|| {
            format!("the shard map gives {name} the shards `{shards}`, which are none of 0 to {}", num_shards - 1)
        })?;
        found.insert(name, ranges);
    }
    Ok(found)
}

fn entry_of(known: &Known) -> Entry {
    Entry {
        name: known.name.clone(),
        address: known.address.clone(),
        region: known.region.clone(),
        zone: known.zone.clone(),
        role: if known.is_edge { "both" } else { "core" }.to_owned(),
        shards: known.shards.as_deref().map_or("Auto".to_owned(), shards_text),
        num_shards: known.num_shards,
        leaving: known.state == NodeState::Leaving,
    }
}

fn known_of(entry: &Entry) -> Known {
    Known {
        node: NodeId::of_name(&entry.name),
        name: entry.name.clone(),
        address: entry.address.clone(),
        region: entry.region.clone(),
        zone: entry.zone.clone(),
        is_edge: entry.role == "both",
        is_core: true,
        shards: parse_shards(&entry.shards, entry.num_shards),
        num_shards: entry.num_shards,
        state: if entry.leaving { NodeState::Leaving } else { NodeState::Alive },
    }
}
