//! Puts together what each executor is given: its machines, its end of the mesh, its doors and its log.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crossbeam_channel::Receiver;
use iris_shards::core_node::{CoreConfig, CoreNode};
use iris_shards::edge_node::{EdgeConfig, EdgeNode};
use iris_shards::id::ExecutorId;
use iris_shards::storage::Reach;
use socket2::Socket;

use super::stores::Stores;
use super::{Cluster, Lines};
use crate::bell::Bell;
use crate::config::Config;
use crate::executor::{Control, MeshItem, Names, Parts};
use crate::links::{Dialer, LinkParts};
use crate::mesh::{Endpoint, mesh};
use crate::random;

/// What all executors of a node share.
pub struct Assembly<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What WELCOME says.
    pub names: Arc<Names>,
    /// The node among the others.
    pub cluster: &'a Cluster,
    /// The lines to the executors.
    pub lines: &'a Lines,
    /// What wakes them.
    pub bells: &'a [Bell],
}

impl Assembly<'_> {
    /// The parts of each executor, in their order. The first one listens for links.
    pub fn parts(
        &self,
        controls: Vec<Receiver<Control>>,
        (listeners, mut link_listeners): (Vec<Vec<Socket>>, Vec<Socket>),
        stores: &mut Stores,
    ) -> Vec<Option<Parts>> {
        let ends: Vec<Endpoint<MeshItem>> = mesh(self.bells.to_vec(), self.config.mesh_bytes_max as usize);
        let connections = Arc::new(AtomicUsize::new(0));
        let dials = Arc::new(AtomicUsize::new(0));
        let each = ends.into_iter().zip(listeners).zip(stores.take_seats()).zip(controls).enumerate();
        let parts = each.map(|(executor, (((mesh, listeners), storage), control))| {
            let line = self.lines.line(executor);
            let dialer = Dialer::new(dials.clone(), line.control.clone(), line.bell.clone());
            let (own, view) = (self.cluster.own().clone(), self.cluster.first_view().clone());
            let (edge, core) = self.machines(executor, stores.reach());
            Parts {
                edge,
                core,
                names: self.names.clone(),
                mesh,
                listeners,
                link_listeners: std::mem::take(&mut link_listeners),
                links: LinkParts { own, dialer, view },
                storage,
                control,
                connections: connections.clone(),
            }
        });
        parts.map(Some).collect()
    }

    fn machines(&self, executor: usize, reach: Reach) -> (EdgeNode, CoreNode) {
        let (node, executors, seed) = (self.names.node_id, self.bells.len() as u16, random::number());
        let executor = ExecutorId(executor as u16);
        let placement = self.cluster.first_view().placement.clone();
        let (is_core, limits) = (self.config.role.is_core(), self.config.edge.clone());
        let edge = EdgeConfig { node, executor, is_core, limits, placement: placement.clone(), seed };
        let limits = self.config.core.clone();
        let core = CoreConfig { node, executor, executors, limits, placement, reach, seed };
        (EdgeNode::new(edge), CoreNode::new(core))
    }
}
