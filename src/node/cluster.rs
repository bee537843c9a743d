//! What a node of a cluster has beside one that is alone: a door for links, what it says in HELLO, and discovery.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::unbounded;
use iris_shards::id::NodeId;
use iris_shards::link::{self, Hello, Party, VERSION, VERSION_MIN};
use socket2::Socket;

use super::{Lines, NodeError};
use crate::config::{self, Config};
use crate::discovery::{self, Discovery, DiscoveryStatus, Known, View};
use crate::links::Own;
use crate::preflight::{self, ListenSettings};

/// Links that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// How long a node looks for others before it serves without them: a core that was away must not be first to serve what
/// others kept meanwhile.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);

/// Where other nodes connect.
#[derive(Debug, Default)]
pub struct Door {
    /// The address with its port.
    pub address: Option<SocketAddr>,
    /// The socket that listens there.
    pub listeners: Vec<Socket>,
}

impl Door {
    /// Listens; a node that is alone has no door.
    pub fn open(config: &Config) -> Result<Door, NodeError> {
        let Some(address) = config.link.listen else { return Ok(Door::default()) };
        let settings = ListenSettings { backlog: BACKLOG, ..ListenSettings::default() };
        let (address, listeners) = preflight::listen(address, 1, settings)?;
        Ok(Door { address: Some(address), listeners })
    }
}

/// This node among the others.
pub struct Cluster {
    discovery: Discovery,
    first: Arc<View>,
    own: Arc<Own>,
}

impl Cluster {
    /// Tells the others that this node is there, and learns who is. Every change is told to the executors.
    pub fn join(config: &Config, door: &Door, lines: &Lines, executors: usize) -> Result<Cluster, NodeError> {
        let own = Arc::new(own(config, door, executors));
        let known = Known::own(config, own.hello.party.address.clone());
        let (sender, views) = unbounded();
        let lines = lines.clone();
        let discovery = discovery::start(config, known, move |view| {
            // Nobody listens any more once the node has started.
            drop(sender.send(view.clone()));
            lines.view(&view);
        })?;
        let mut first: Arc<View> = views.recv().map_err(|_| NodeError::NoView)?;
        let deadline = Instant::now() + JOIN_PATIENCE;
        while awaits_others(config)
            && first.nodes.len() < 2
            && let Ok(view) = views.recv_deadline(deadline)
        {
            first = view;
        }
        Ok(Cluster { discovery, first, own })
    }

    /// Who was there when this node started.
    pub fn first_view(&self) -> &Arc<View> {
        &self.first
    }

    /// What this node's links say.
    pub fn own(&self) -> &Arc<Own> {
        &self.own
    }

    /// Tells the others that this node is to stop.
    pub fn drain(&self) {
        self.discovery.drain();
    }

    /// Tells the others that this node is gone.
    pub fn leave(&self) {
        self.discovery.leave();
    }

    /// What discovery is doing.
    pub fn status(&self) -> DiscoveryStatus {
        self.discovery.status()
    }
}

/// Whether others are found only after a while.
fn awaits_others(config: &Config) -> bool {
    match &config.cluster.discovery {
        config::Discovery::Static { .. } => false,
        config::Discovery::Gossip { seeds, .. } => !seeds.is_empty(),
        config::Discovery::Dns { .. } | config::Discovery::Consul { .. } | config::Discovery::Etcd { .. } => true,
    }
}

fn own(config: &Config, door: &Door, executors: usize) -> Own {
    let boot = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let party = Party {
        node: NodeId::of_name(&config.name),
        name: config.name.clone(),
        region: config.region.clone(),
        address: discovery::link_address(config, door.address),
        is_edge: config.role.is_edge(),
        is_core: config.role.is_core(),
        executors: executors as u16,
        // A later start has a higher one.
        boot: boot.as_micros() as u64,
    };
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION,
        cluster: config.cluster.name.clone(),
        cluster_hash: config.cluster.hash(),
        party,
        attempt: 0,
        last: None,
        nonce: [0; 32],
    };
    let frame_bytes_max = link::frame_bytes_max(config.edge.body_bytes_max);
    Own { hello, secret: config.cluster.secret.clone(), limits: config.link.clone(), frame_bytes_max }
}
