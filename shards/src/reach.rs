//! Which nodes an edge can reach, and which links it has asked for.
//!
//! A leaf: sorted by node, so that a look costs little with hundreds of links. A link is asked for at the first need of
//! it; what needs it waits as long as it is being made ([`crate::edge::Edge`]).

use crate::id::NodeId;

/// How far a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    /// Up, and the node will stop soon: the last choice.
    Leaving,
    /// Asked for.
    Connecting,
    /// Not to be had; worth asking again from this moment on, in monotonic ms.
    Down(u64),
}

/// The links of one edge.
#[derive(Debug)]
pub struct Reach {
    own: NodeId,
    is_core: bool,
    links: Vec<(NodeId, Link)>,
}

impl Reach {
    /// No links; the node itself is reached without one.
    pub fn new(own: NodeId, is_core: bool) -> Self {
        Reach { own, is_core, links: Vec::new() }
    }

    fn link(&self, node: NodeId) -> Option<Link> {
        let at = self.links.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        Some(self.links[at].1)
    }

    fn set(&mut self, node: NodeId, link: Link) {
        match self.links.binary_search_by_key(&node, |(node, _)| *node) {
            Ok(at) => self.links[at].1 = link,
            Err(at) => self.links.insert(at, (node, link)),
        }
    }

    /// The link is up.
    pub fn on_link_up(&mut self, node: NodeId) {
        self.set(node, Link::Up);
    }

    /// The link is lost or not to be had; asking again before `again_ms` is useless.
    pub fn on_link_down(&mut self, node: NodeId, again_ms: u64) {
        self.set(node, Link::Down(again_ms));
    }

    /// The node will stop soon.
    pub fn on_leaving(&mut self, node: NodeId) {
        if self.link(node) == Some(Link::Up) {
            self.set(node, Link::Leaving);
        }
    }

    /// Whether something sent to this node's edges arrives.
    #[inline]
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.own || matches!(self.link(node), Some(Link::Up | Link::Leaving))
    }

    /// The same for its core, which will not stop soon.
    #[inline]
    pub fn is_core_up(&self, node: NodeId) -> bool {
        if node == self.own { self.is_core } else { self.link(node) == Some(Link::Up) }
    }

    /// Whether it is up and will stop soon.
    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.link(node) == Some(Link::Leaving)
    }

    /// Whether the link was asked for, and it is not known whether it is to be had.
    pub fn is_connecting(&self, node: NodeId) -> bool {
        self.link(node) == Some(Link::Connecting)
    }

    /// The link is needed. True if it is to be asked for.
    pub fn want(&mut self, node: NodeId, now_ms: u64) -> bool {
        let is_new = match self.link(node) {
            _ if node == self.own => false,
            None => true,
            Some(Link::Down(again_ms)) => again_ms <= now_ms,
            Some(Link::Up | Link::Leaving | Link::Connecting) => false,
        };
        if is_new {
            self.set(node, Link::Connecting);
        }
        is_new
    }

    /// The nodes that are reached over a link.
    pub fn up(&self) -> impl Iterator<Item = NodeId> + '_ {
        let is_up = |link: &Link| matches!(link, Link::Up | Link::Leaving);
        self.links.iter().filter(move |(_, link)| is_up(link)).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_asked_for_once_and_again_after_a_while() {
        let [own, a, b] = [1, 2, 3].map(NodeId);
        let mut reach = Reach::new(own, false);
        assert!(reach.is_up(own) && !reach.is_core_up(own) && !reach.want(own, 0));
        assert!(reach.want(b, 0) && !reach.want(b, 0) && reach.is_connecting(b));
        reach.on_link_down(b, 100);
        assert!(!reach.want(b, 99) && reach.want(b, 100));
        reach.on_link_up(a);
        reach.on_link_up(b);
        reach.on_leaving(b);
        assert!(reach.is_up(b) && !reach.is_core_up(b) && reach.up().eq([a, b]));
    }
}
