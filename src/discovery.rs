//! Discovery: who is in the cluster, and so who keeps what.
//!
//! One key of the configuration says how (`static_list`, `gossip`, `dns`, `registry`); all of them end in a [`View`], told to the
//! node whenever it changes. Runs on a thread of its own beside the executors, and decides nothing about links: a node
//! that is known may be out of reach.

mod dns;
mod gossip;
mod publish;
pub mod registry;
mod static_list;
mod status;
mod view;

pub use status::{DiscoveryStatus, NodeStatus, UncoveredStatus};
pub use view::{Known, NodeState, Uncovered, View, Viewer};

use crate::config::{self, Config};
use publish::Publisher;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long [`Discovery::leave`] waits at most.
const LEAVE_PATIENCE: Duration = Duration::from_secs(4);
/// Wishes that wait for the thread.
const COMMANDS_MAX: usize = 16;

/// Why discovery does not start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The address for gossip.
    #[error("cannot listen for gossip on UDP {address}: {error}")]
    Listen {
        /// Of `node.gossip.listen`, or of `node.link.listen` if that is Auto.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The name servers of the system.
    #[error("cannot read the system's name servers (cluster.dns.server: Auto): {0}")]
    NameServers(String),
    /// A registry's certificates.
    #[error("cluster.{service}.tls.{file}: {}: {reason}", .path.display())]
    Certificates {
        /// `consul` or `etcd`.
        service: &'static str,
        /// `ca` or `identity`.
        file: &'static str,
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The client that asks a registry.
    #[error("cannot ask a registry: {0}")]
    Http(String),
    /// The thread, or what it runs on.
    #[error("cannot start discovery: {0}")]
    Thread(#[from] io::Error),
}

/// What a node asks its discovery for.
#[derive(Debug)]
enum Command {
    Drain,
    Leave(crossbeam_channel::Sender<()>),
}

/// What runs on the thread.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Discovery of one node. It ends, without a word to others, when this is dropped.
#[derive(Debug)]
pub struct Discovery {
    commands: Option<mpsc::Sender<Command>>,
    status: Arc<Mutex<DiscoveryStatus>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts discovery as the configuration says. `own` is what others are told about this node ([`Known::own`]).
///
/// `on_view` is called with the first view before this returns, and on the thread of discovery with each that follows.
pub fn start(
    config: &Config,
    own: Known,
    on_view: impl Fn(Arc<View>) + Send + 'static,
) -> Result<Discovery, DiscoveryError> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let mut publisher = Publisher::new(&config.cluster, Box::new(on_view));
    let status = publisher.status();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let running: Running = match &config.cluster.discovery {
        config::Discovery::Static { nodes } => {
            publisher.publish(static_list::known(nodes, &own), Vec::new());
            publisher.warn();
            return Ok(Discovery { commands: None, status, thread: None });
        }
        config::Discovery::Gossip { .. } => {
            let gossip = gossip::Gossip::bind(config, &own)?;
            publisher.publish(vec![own], Vec::new());
            Box::pin(gossip.run(publisher, commands))
        }
        config::Discovery::Dns { core, server } => {
            let names = dns::Names::new(core, *server, config.cluster.num_shards, config.cluster.claim_ms)?;
            let edge = Some(own).filter(|own| !own.is_core);
            publisher.publish(edge.clone().into_iter().collect(), Vec::new());
            Box::pin(dns::run(names, edge, publisher, commands))
        }
        config::Discovery::Consul { .. } | config::Discovery::Etcd { .. } => {
            let service =
                registry::Service::new(config)?.ok_or_else(|| io::Error::other("no registry is configured"))?;
            let turns = registry::Turns::new(own, config.cluster.claim_ms, publisher);
            Box::pin(registry::run(service, turns, commands))
        }
    };
    let thread = std::thread::Builder::new().name("discovery".to_owned()).spawn(move || {
        runtime.block_on(running);
        // A name that is being looked up must not hold the end up.
        runtime.shutdown_background();
    })?;
    Ok(Discovery { commands: Some(sender), status, thread: Some(thread) })
}

impl Discovery {
    /// Tells the others that this node will go: its shards are kept by others too from now on, and by it until it
    /// leaves. Returns at once. Static lists and DNS have nobody to tell.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// Tells the others that this node is gone; returns when some are told, or after four seconds.
    pub fn leave(&self) {
        let (sender, told) = crossbeam_channel::bounded(1);
        self.tell(Command::Leave(sender));
        // A thread that has ended drops its end.
        told.recv_timeout(LEAVE_PATIENCE).ok();
    }

    /// How it is, for `iris status`.
    #[must_use]
    pub fn status(&self) -> DiscoveryStatus {
        locked(&self.status).clone()
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Full or ended: then there is nobody to do it.
            commands.try_send(command).ok();
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What is locked here is whole after every change of it, whoever panicked since.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address by which others reach a socket of this node that is bound to `bound`.
///
/// `0.0.0.0` and `[::]` are no addresses to dial: the one that the kernel would use to reach another node stands for them.
#[must_use]
pub fn reachable(bound: SocketAddr, others: &[SocketAddr]) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // Nothing is sent. The last is an address for documentation (RFC 5737), which stands for the way out.
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 9));
    let ips = others.iter().chain([&elsewhere]).filter(|other| bound.is_ipv6() || other.is_ipv4());
    let found = ips.filter_map(|other| source_of(*other)).find(|ip| !ip.is_unspecified());
    SocketAddr::new(found.unwrap_or(Ipv4Addr::LOCALHOST.into()), bound.port())
}

fn source_of(other: SocketAddr) -> Option<std::net::IpAddr> {
    let any: SocketAddr = if other.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(other).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What the others dial: as configured, or where the links are bound.
#[must_use]
pub fn link_address(config: &Config, bound: Option<SocketAddr>) -> String {
    if let Some(address) = &config.link.advertise {
        return address.clone();
    }
    let others: Vec<SocketAddr> = match &config.cluster.discovery {
        config::Discovery::Gossip { seeds, .. } => seeds.iter().filter_map(|seed| seed.parse().ok()).collect(),
        config::Discovery::Static { nodes } => nodes.iter().filter_map(|node| node.address.parse().ok()).collect(),
        config::Discovery::Dns { server, .. } => server.iter().copied().collect(),
        config::Discovery::Consul { at, .. } | config::Discovery::Etcd { at, .. } => {
            // A name is not looked up for this: the way out will do.
            let host = at.address.host_str().map(|host| host.trim_matches(['[', ']']).parse());
            host.into_iter().flatten().map(|ip| SocketAddr::new(ip, 9)).collect()
        }
    };
    bound.map(|bound| reachable(bound, &others).to_string()).unwrap_or_default()
}
