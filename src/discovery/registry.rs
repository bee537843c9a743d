//! Discovery by a registry that fleets run already, Consul or etcd: cores write themselves in, everybody follows.
//!
//! A registration lives as long as it is kept alive; one that ends without a word is `gone` for `claim_ms`. A shard map in
//! the same store, if there is one, says what each core keeps. With the service away the last known cluster goes on.

mod consul;
mod etcd;
mod follower;
mod http;
mod map;

pub use map::PublishedMap;

use super::publish::Publisher;
use super::view::{Known, NodeState};
use super::{Command, DiscoveryError};
use crate::clock::unix_ms;
use crate::config::{Config, Discovery, parse_shards, shards_text};
use crate::random;
use consul::Consul;
use etcd::Etcd;
use follower::Follower;
use iris_shards::id::NodeId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A registration that is not kept alive for so long has ended. It is kept three times as often.
const LEASE: Duration = Duration::from_secs(6);
/// One question, but those that wait for a change.
const REQUEST: Duration = Duration::from_secs(2);
/// After a failure, with up to as much again by chance, so that a fleet does not ask at once.
const RETRY: Duration = Duration::from_millis(500);
/// News are gathered for this time before a placement is made of them.
const GATHER: Duration = Duration::from_millis(50);
/// So long others see that this node leaves, at least: some are far away, and gather what they hear.
const FAREWELL: Duration = Duration::from_millis(500);
/// Far enough away for a clock that is not wound up.
const LONG: Duration = Duration::from_secs(86_400);
const NEWS_MAX: usize = 16;
/// The shards of a core that names none.
const AUTO: &str = "Auto";

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
struct Entry {
    name: String,
    /// Where its links are dialled.
    address: String,
    region: String,
    zone: String,
    /// `core` or `both`.
    role: String,
    /// The shards that it names, or `Auto`.
    shards: String,
    num_shards: u32,
    /// It said that it will go.
    #[serde(default)]
    leaving: bool,
}

/// What comes from the service.
enum News {
    /// Cores, and whether their registrations are alive.
    Cores(Result<Vec<(Entry, bool)>, Away>),
    /// The shard map as it is written, if there is one.
    Map(Result<Option<String>, Away>),
    /// Whether this node is registered.
    Own(Result<(), Away>),
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
    ///
    /// Errors: certificates that cannot be used.
    pub fn new(config: &Config) -> Result<Option<Service>, DiscoveryError> {
        let (cluster, claim) = (&config.cluster.name, Duration::from_millis(config.cluster.claim_ms));
        Ok(match &config.cluster.discovery {
            Discovery::Consul { at, token } => Some(Service::Consul(Arc::new(Consul::new(at, token, cluster, claim)?))),
            Discovery::Etcd { at, user, password } => {
                Some(Service::Etcd(Arc::new(Etcd::new(at, (user, password), cluster)?)))
            }
            _ => None,
        })
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

    /// Tells what is there and what changes, until nobody listens.
    async fn watch(self, news: mpsc::Sender<News>) {
        match self {
            Service::Consul(consul) => consul.watch(&news).await,
            Service::Etcd(etcd) => etcd.watch(&news).await,
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

/// By chance, up to so much.
fn chance(most: Duration) -> Duration {
    Duration::from_millis(random::number() % (most.as_millis() as u64).max(1))
}

/// A pause after a failure.
async fn pause() {
    sleep(RETRY + chance(RETRY)).await;
}

/// Follows the service, and keeps this node in it if it is a core, until the node leaves or drops its end of `commands`.
pub(super) async fn run(service: Service, mut turns: Turns, commands: mpsc::Receiver<Command>) {
    let (told, news) = mpsc::channel(NEWS_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(service.clone().watch(told.clone()));
    if turns.is_core {
        tasks.spawn(keep(service.clone(), turns.entry.subscribe(), told));
    }
    let left = turns.run(news, commands).await;
    tasks.shutdown().await;
    let Some(left) = left else { return };
    let own = turns.entry.borrow().clone();
    if turns.is_core
        && let Err(away) = leave(&service, own).await
    {
        tracing::warn!("discovery: this node leaves without a word: {away}");
    }
    // Nobody waits any more: then it took too long.
    left.send(()).ok();
}

/// Says that this node leaves before it is not there any more: who only sees the latter waits for it.
async fn leave(service: &Service, own: Entry) -> Result<(), Away> {
    let own = Entry { leaving: true, ..own };
    service.register(&own).await?;
    sleep(FAREWELL).await;
    service.leave(&own).await
}

/// What is made of the news.
pub(super) struct Turns {
    follower: Follower,
    publisher: Publisher,
    is_core: bool,
    /// What is registered.
    entry: watch::Sender<Entry>,
    /// When what was gathered is told.
    publish_at: Option<Instant>,
}

impl Turns {
    /// Tells the first view: nobody else is known yet.
    pub fn new(own: Known, claim_ms: u64, publisher: Publisher) -> Self {
        let (entry, is_core) = (watch::Sender::new(entry_of(&own)), own.is_core);
        let follower = Follower::new(own, claim_ms);
        let mut turns = Turns { follower, publisher, is_core, entry, publish_at: None };
        turns.publish();
        turns
    }

    /// Until the node leaves, and then who waits for that, or drops its end.
    async fn run(
        &mut self,
        mut news: mpsc::Receiver<News>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Option<crossbeam_channel::Sender<()>> {
        loop {
            tokio::select! {
                Some(news) = news.recv() => self.on_news(news),
                () = sleep_until(self.next()) => self.on_time(),
                command = commands.recv() => match command {
                    Some(Command::Drain) => self.drain(),
                    Some(Command::Leave(told)) => return Some(told),
                    None => return None,
                },
            }
        }
    }

    fn next(&self) -> Instant {
        let now = Instant::now();
        let changes = self.follower.next_ms().map(|at| now + Duration::from_millis(at.saturating_sub(unix_ms()) + 1));
        let due = [self.publish_at, self.publisher.warn_at(), changes];
        due.into_iter().flatten().fold(now + LONG, Instant::min)
    }

    fn on_news(&mut self, news: News) {
        let is_of_others = !matches!(news, News::Own(_));
        self.follower.on_news(unix_ms(), news);
        self.publisher.away(self.follower.trouble());
        if is_of_others {
            self.publish_at.get_or_insert(Instant::now() + GATHER);
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.publisher.warn_at().is_some_and(|at| at <= now) {
            self.publisher.warn();
        }
        let is_due = self.publish_at.is_some_and(|at| at <= now);
        if is_due || self.follower.next_ms().is_some_and(|at| at <= unix_ms()) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.publish_at = None;
        let (known, faults) = self.follower.known(unix_ms());
        self.publisher.publish(known, faults);
    }

    fn drain(&mut self) {
        self.follower.drain();
        self.publish();
        self.entry.send_modify(|entry| entry.leaving = true);
    }
}

/// Keeps the registration of this node alive, and writes it anew when the service has lost it or it has changed.
async fn keep(service: Service, mut entries: watch::Receiver<Entry>, news: mpsc::Sender<News>) {
    let mut registered = None;
    loop {
        let own = entries.borrow_and_update().clone();
        let kept = match registered.as_ref() == Some(&own) {
            true => service.keep(&own).await,
            false => service.register(&own).await.map(|()| true),
        };
        // Lost: registered in the next turn.
        let is_known = matches!(kept, Ok(true));
        registered = is_known.then_some(own);
        let has_failed = kept.is_err();
        if news.send(News::Own(kept.map(drop))).await.is_err() {
            return;
        }
        if has_failed {
            pause().await;
        } else if is_known {
            // Woken by a change; nobody changes it any more when the node ends, and then this is ended too.
            timeout(LEASE / 3, entries.changed()).await.ok();
        }
    }
}

fn entry_of(known: &Known) -> Entry {
    Entry {
        name: known.name.clone(),
        address: known.address.clone(),
        region: known.region.clone(),
        zone: known.zone.clone(),
        role: if known.is_edge { "both" } else { "core" }.to_owned(),
        shards: known.shards.as_deref().map_or(AUTO.to_owned(), shards_text),
        num_shards: known.num_shards,
        leaving: known.state == NodeState::Leaving,
    }
}

fn known_of(entry: Entry) -> Known {
    Known {
        node: NodeId::of_name(&entry.name),
        is_edge: entry.role == "both",
        is_core: true,
        // What names no shards keeps none: taking it for Auto would give it some.
        shards: (entry.shards != AUTO).then(|| parse_shards(&entry.shards, entry.num_shards).unwrap_or_default()),
        num_shards: entry.num_shards,
        state: if entry.leaving { NodeState::Leaving } else { NodeState::Alive },
        name: entry.name,
        address: entry.address,
        region: entry.region,
        zone: entry.zone,
    }
}
