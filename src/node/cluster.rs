//! What a node of a cluster has beside one that is alone: a door for links, what it says in HELLO, and discovery.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::bounded;
use iris_shards::id::NodeId;
use iris_shards::link::{self, Hello, VERSION, VERSION_MIN};
use socket2::Socket;

use super::{Lines, NodeError};
use crate::config::Config;
use crate::discovery::{self, Discovery, Known, View};
use crate::links::Own;
use crate::preflight::{self, ListenSettings};

/// Links that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// How long discovery has for its first view.
const FIRST_VIEW_PATIENCE: Duration = Duration::from_secs(30);

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
        let known = Known {
            node: own.hello.node,
            name: config.name.clone(),
            address: own.hello.address.clone(),
            region: config.region.clone(),
            zone: config.zone.clone(),
            is_core: config.role.is_core(),
            shards: config.shards.clone(),
            state: discovery::State::Alive,
        };
        let (sender, first) = bounded(1);
        let lines = lines.clone();
        let discovery = Discovery::start(config, known, move |view| {
            // Only the first is waited for.
            let _ = sender.try_send(view.clone());
            lines.view(&view);
        })?;
        let first = first.recv_timeout(FIRST_VIEW_PATIENCE).map_err(|_| NodeError::NoView)?;
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
    pub fn leave(&self) {
        self.discovery.leave();
    }

    /// What discovery is doing.
    pub fn status(&self) -> discovery::DiscoveryStatus {
        self.discovery.status()
    }
}

fn own(config: &Config, door: &Door, executors: usize) -> Own {
    let boot = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let advertised = config.link.advertise.clone();
    let address = advertised.or_else(|| door.address.map(|address| address.to_string())).unwrap_or_default();
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION,
        cluster: config.cluster.name.clone(),
        cluster_hash: config.cluster.hash(),
        node: NodeId::of_name(&config.name),
        name: config.name.clone(),
        region: config.region.clone(),
        address,
        is_edge: config.role.is_edge(),
        is_core: config.role.is_core(),
        executors: executors as u16,
        // A later start has a higher one.
        boot: boot.as_micros() as u64,
        attempt: 0,
        last: None,
        nonce: [0; 32],
    };
    let frame_bytes_max = link::frame_bytes_max(config.edge.body_bytes_max);
    Own { hello, secret: config.cluster.secret.clone(), limits: config.link.clone(), frame_bytes_max }
}
