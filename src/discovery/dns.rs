//! DNS discovery (RFC 2782): a name server lists the cores; whoever runs it registers them.
//!
//! SRV of `_iris._tcp.CORE` names all cores; a TXT string `shards=0-499` of a target says what it keeps (also `region=`,
//! `zone=`). Where it is missing, and there are at most 256 shards, SRV of `_iris._tcp.shard-N.CORE` says it. Asked again
//! when the shortest TTL is over, between 1 and 60 s. What was known is kept while nobody answers.

use super::publish::Publisher;
use super::view::{Known, NodeState};
use super::{Command, DiscoveryError};
use crate::clock::unix_ms;
use crate::config::{Ranges, parse_shards};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use iris_shards::id::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// With more shards, there are no names for each of them.
pub const NAMED_SHARDS_MAX: u32 = 256;
/// TTLs are kept between these, in seconds.
const TTL_MIN: u32 = 1;
const TTL_MAX: u32 = 60;
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// One question of several in a row; a server that is away costs two of them.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions at a time; the resolver refuses more than 32.
const QUESTIONS_MAX: usize = 16;
/// Far enough away for a clock that is not wound up.
const LONG: Duration = Duration::from_secs(86_400);

/// The names of a cluster's cores.
#[derive(Debug, Clone)]
pub struct Names {
    resolver: TokioResolver,
    core: String,
    num_shards: u32,
    claim_ms: u64,
}

/// What the name server says.
#[derive(Debug, Default)]
struct Answer {
    known: Vec<Known>,
    faults: Vec<String>,
    ttl: Ttl,
}

/// The shortest one so far.
#[derive(Debug, Clone, Copy)]
struct Ttl(u32);

impl Default for Ttl {
    fn default() -> Self {
        Ttl(TTL_MAX)
    }
}

impl Ttl {
    fn shorten(&mut self, seconds: u32) {
        self.0 = self.0.min(seconds).max(TTL_MIN);
    }
}

/// A target of an SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    host: String,
    port: u16,
}

/// What is known of a target's host.
#[derive(Debug, Default)]
struct Host {
    ips: Vec<IpAddr>,
    texts: BTreeMap<String, String>,
    ttl: Ttl,
}

impl Names {
    /// Beneath `core`, at one server or those of the system.
    pub fn new(core: &str, server: Option<SocketAddr>, num_shards: u32, claim_ms: u64) -> Result<Self, DiscoveryError> {
        let failed = |error: NetError| DiscoveryError::NameServers(error.to_string());
        let mut builder = match server {
            Some(server) => TokioResolver::builder_with_config(only(server), TokioRuntimeProvider::default()),
            None => TokioResolver::builder_tokio().map_err(failed)?,
        };
        let options = builder.options_mut();
        // Answers are kept here, as long as their TTL says.
        options.cache_size = 0;
        options.timeout = QUESTION_TIMEOUT;
        options.attempts = 1;
        let resolver = builder.build().map_err(failed)?;
        Ok(Names { resolver, core: core.to_lowercase(), num_shards, claim_ms })
    }

    /// All cores, or why nobody knows.
    async fn ask(self) -> Result<Answer, NetError> {
        let mut answer = Answer::default();
        let list = self.targets(format!("_iris._tcp.{}.", self.core), &mut answer.ttl).await?;
        let mut hosts = self.hosts(&list).await?;
        let is_told = |target: &Target, hosts: &BTreeMap<Target, Host>| {
            hosts.get(target).is_some_and(|host| host.texts.contains_key("shards"))
        };
        let mut named: BTreeMap<Target, Ranges> = BTreeMap::new();
        let is_complete = !list.is_empty() && list.iter().all(|target| is_told(target, &hosts));
        if !is_complete && self.num_shards <= NAMED_SHARDS_MAX {
            named = self.named(&mut answer.ttl).await?;
            let more: BTreeSet<Target> = named.keys().filter(|target| !list.contains(*target)).cloned().collect();
            hosts.extend(self.hosts(&more).await?);
        }
        for (target, host) in &hosts {
            answer.ttl.shorten(host.ttl.0);
            let known = self.known(target, host, named.get(target), &mut answer.faults);
            answer.known.push(known);
        }
        Ok(answer)
    }

    /// The shards that the names of shards give to each target.
    async fn named(&self, ttl: &mut Ttl) -> Result<BTreeMap<Target, Ranges>, NetError> {
        let mut named: BTreeMap<Target, Ranges> = BTreeMap::new();
        let shards: Vec<u32> = (0..self.num_shards).collect();
        for some in shards.chunks(QUESTIONS_MAX) {
            let mut asked = JoinSet::new();
            for &shard in some {
                let names = self.clone();
                asked.spawn(async move {
                    let mut ttl = Ttl::default();
                    let name = format!("_iris._tcp.shard-{shard}.{}.", names.core);
                    names.targets(name, &mut ttl).await.map(|targets| (shard, targets, ttl))
                });
            }
            while let Some(Ok(found)) = asked.join_next().await {
                let (shard, targets, shard_ttl) = found?;
                ttl.shorten(shard_ttl.0);
                targets.into_iter().for_each(|target| named.entry(target).or_default().push(shard..=shard));
            }
        }
        named.values_mut().for_each(|shards| *shards = crate::config::united(std::mem::take(shards)));
        Ok(named)
    }

    async fn hosts(&self, targets: &BTreeSet<Target>) -> Result<BTreeMap<Target, Host>, NetError> {
        let mut hosts = BTreeMap::new();
        let targets: Vec<&Target> = targets.iter().collect();
        for some in targets.chunks(QUESTIONS_MAX / 2) {
            let mut asked = JoinSet::new();
            for &target in some {
                let (names, target) = (self.clone(), target.clone());
                asked.spawn(async move { names.host(&target.host).await.map(|host| (target, host)) });
            }
            while let Some(Ok(found)) = asked.join_next().await {
                let (target, host) = found?;
                hosts.insert(target, host);
            }
        }
        Ok(hosts)
    }

    async fn host(&self, name: &str) -> Result<Host, NetError> {
        let mut host = Host::default();
        for kind in [RecordType::TXT, RecordType::A, RecordType::AAAA] {
            for record in self.records(format!("{name}."), kind, &mut host.ttl).await? {
                match record.data {
                    RData::A(ip) => host.ips.push(ip.0.into()),
                    RData::AAAA(ip) => host.ips.push(ip.0.into()),
                    RData::TXT(text) => host.texts.extend(text.txt_data.iter().filter_map(|bytes| pair(bytes))),
                    _ => {}
                }
            }
        }
        host.ips.sort();
        Ok(host)
    }

    async fn targets(&self, name: String, ttl: &mut Ttl) -> Result<BTreeSet<Target>, NetError> {
        let records = self.records(name, RecordType::SRV, ttl).await?;
        let target = |record: Record| match record.data {
            // RFC 2782: a target of "." says that there is no service.
            RData::SRV(srv) if !srv.target.is_root() => {
                let host = srv.target.to_lowercase().to_utf8();
                Some(Target { host: host.trim_end_matches('.').to_owned(), port: srv.port })
            }
            _ => None,
        };
        Ok(records.into_iter().filter_map(target).collect())
    }

    /// The records of a name, none if there is no such name.
    async fn records(&self, name: String, kind: RecordType, ttl: &mut Ttl) -> Result<Vec<Record>, NetError> {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => {
                lookup.answers().iter().for_each(|record| ttl.shorten(record.ttl));
                Ok(lookup.answers().to_vec())
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                none.negative_ttl.into_iter().for_each(|seconds| ttl.shorten(seconds));
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn known(&self, target: &Target, host: &Host, named: Option<&Ranges>, faults: &mut Vec<String>) -> Known {
        let name = self.name_of(&target.host);
        let said = |key: &str| host.texts.get(key).cloned().unwrap_or_default();
        let shards = match host.texts.get("shards") {
            None => named.cloned(),
            Some(text) => Some(parse_shards(text, self.num_shards).unwrap_or_else(|| {
                let wanted = format!("numbers and ranges below cluster.num_shards ({})", self.num_shards);
                faults
                    .push(format!("the TXT record of {} says shards={text}: not {wanted}; it keeps none", target.host));
                Ranges::new()
            })),
        };
        if host.ips.is_empty() {
            faults.push(format!("{} has no address (A or AAAA)", target.host));
        }
        let address = host.ips.first().map(|&ip| SocketAddr::new(ip, target.port).to_string());
        Known {
            node: NodeId::of_name(&name),
            name,
            address: address.unwrap_or_default(),
            region: said("region"),
            zone: said("zone"),
            is_edge: false,
            is_core: true,
            shards,
            num_shards: self.num_shards,
            state: NodeState::Alive,
        }
    }

    /// `core-a` of `core-a.core.iris.internal`; a host elsewhere keeps its whole name. It has to be `node.name` there.
    fn name_of(&self, host: &str) -> String {
        let inside = host.strip_suffix(&self.core).and_then(|host| host.strip_suffix('.'));
        inside.filter(|name| !name.is_empty()).unwrap_or(host).to_owned()
    }
}

/// UDP, and TCP for long answers.
fn only(server: SocketAddr) -> ResolverConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    config.connections.iter_mut().for_each(|connection| connection.port = server.port());
    ResolverConfig::from_name_servers(vec![config])
}

/// KEY=VALUE, as RFC 6763 (section 6) has it; control characters would steer terminals.
fn pair(bytes: &[u8]) -> Option<(String, String)> {
    let (key, value) = std::str::from_utf8(bytes).ok()?.split_once('=')?;
    let is_plain = !value.chars().any(char::is_control);
    is_plain.then(|| (key.trim().to_lowercase(), value.trim().to_owned()))
}

/// Asks until the node leaves or drops its end of `commands`. `edge` is this node, if no name server lists it.
pub async fn run(names: Names, edge: Option<Known>, mut publisher: Publisher, mut commands: mpsc::Receiver<Command>) {
    let mut asking = Box::pin(names.clone().ask());
    let mut ask_at = Instant::now();
    let mut known = Kept { edge, cores: Vec::new(), empty_since_ms: None };
    loop {
        let warn_at = publisher.warn_at().unwrap_or_else(|| Instant::now() + LONG);
        tokio::select! {
            answer = async { sleep_until(ask_at).await; asking.as_mut().await } => {
                asking = Box::pin(names.clone().ask());
                ask_at = Instant::now() + known.take(&names, answer, &mut publisher);
            }
            () = sleep_until(warn_at) => publisher.warn(),
            command = commands.recv() => match command {
                // Whoever registers cores has to do it.
                Some(Command::Drain) => {}
                Some(Command::Leave(told)) => {
                    told.send(()).ok();
                    return;
                }
                None => return,
            },
        }
    }
}

/// What was last known.
struct Kept {
    edge: Option<Known>,
    cores: Vec<Known>,
    /// Since when the name server lists nobody.
    empty_since_ms: Option<u64>,
}

impl Kept {
    /// Returns when to ask again.
    fn take(&mut self, names: &Names, answer: Result<Answer, NetError>, publisher: &mut Publisher) -> Duration {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                publisher.away(Some(format!("no name server answers for {}: {error}", names.core)));
                return RETRY;
            }
        };
        let again = Duration::from_secs(answer.ttl.0.into());
        if answer.known.is_empty() && !self.cores.is_empty() {
            // Whoever empties a zone by mistake shall have time to notice.
            let since_ms = *self.empty_since_ms.get_or_insert_with(unix_ms);
            if unix_ms().saturating_sub(since_ms) < names.claim_ms {
                publisher.away(Some(format!("the name server lists no cores of {} any more", names.core)));
                return again;
            }
        } else {
            self.empty_since_ms = None;
        }
        publisher.away(None);
        self.cores = answer.known;
        let known = self.cores.iter().chain(&self.edge).cloned().collect();
        publisher.publish(known, answer.faults);
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_txt_records() {
        assert_eq!(pair(b"Shards = 0-499 "), Some(("shards".to_owned(), "0-499".to_owned())));
        assert_eq!((pair(b"shards"), pair(b"region=\x1b[2J"), pair(b"zone=\xff")), (None, None, None));
    }

    #[test]
    fn names_of_nodes_are_what_stands_before_the_domain() {
        let names = Names::new("Core.Iris.internal", "127.0.0.1:53".parse().ok(), 4, 1_000).expect("a resolver");
        assert_eq!(names.name_of("core-a.core.iris.internal"), "core-a");
        assert_eq!(names.name_of("a.tokyo.core.iris.internal"), "a.tokyo");
        assert_eq!(names.name_of("core.iris.internal"), "core.iris.internal");
        assert_eq!(names.name_of("xcore.iris.internal"), "xcore.iris.internal");
        assert_eq!(names.name_of("host.elsewhere"), "host.elsewhere");
    }

    #[test]
    fn times_to_live_are_bounded() {
        let mut ttl = Ttl::default();
        ttl.shorten(3_600);
        assert_eq!(ttl.0, 60);
        ttl.shorten(7);
        ttl.shorten(0);
        assert_eq!(ttl.0, 1);
    }
}
