//! Between this executor and other nodes: what its links tell, and what its machines want of them.
//!
//! Each link has one owner; what concerns it travels there over the mesh, in order with the messages.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use iris_shards::event::{CoreEvent, EdgeEvent};
use iris_shards::id::{Location, NodeId, SessionId};
use iris_shards::link::{Introduction, LinkFrame, Parcel, Party};
use iris_shards::peer::Peer;

use super::{Executor, MeshItem};
use crate::discovery::View;
use crate::links::{Happening, Neighbour};
use crate::sockets::{ConnectionKey, SocketEvent};

/// What travels between executors about links.
#[derive(Debug)]
pub enum LinkItem {
    /// A link is up.
    Up(Arc<Neighbour>),
    /// A link is lost, or cannot be had.
    Down(NodeId),
    /// A node is to stop.
    Leaving(NodeId),
    /// To the owner: somebody needs a link; the other node may know the address.
    Want(NodeId, Option<NodeId>),
    /// To the owner: a connection that begins with that node's HELLO.
    Accepted(OwnedFd, Vec<u8>),
    /// To the owner of the link to the first node: ask it for the address of the second.
    Ask(NodeId, NodeId),
    /// To the owner of the link to the first node: tell it the address of the second.
    Tell(NodeId, Introduction),
    /// To the owner: an address.
    Introduced(Introduction),
}

impl Executor {
    /// Everything stored is known at every executor: lets clients and other nodes in.
    pub(super) fn open(&mut self) -> std::io::Result<()> {
        for listener in self.link_listeners.drain(..) {
            self.link_doors.push(self.sockets.listen(listener)?);
        }
        for listener in self.listeners.drain(..) {
            self.sockets.listen(listener)?;
        }
        self.links.open(self.now.mono_ms);
        Ok(())
    }

    /// Who is there, and who keeps what, has changed.
    pub(super) fn on_view(&mut self, view: Arc<View>) {
        let placement = view.placement.clone();
        self.links.on_view(view);
        self.edge.handle(self.now, EdgeEvent::Placement(placement.clone()), &mut self.actions);
        self.core.handle(self.now, CoreEvent::Placement(placement), &mut self.actions);
        self.perform_all();
    }

    /// Something happened to a socket that is no client's.
    pub(super) fn on_link_socket(&mut self, event: SocketEvent) {
        let now_ms = self.now.mono_ms;
        match event {
            SocketEvent::Readable(key) => self.read_link((key, false)),
            SocketEvent::Hangup(key) => self.read_link((key, true)),
            SocketEvent::Writable(key) => self.links.on_writable(key),
            SocketEvent::Accepted(_, fd) => self.links.on_accepted(&mut self.sockets, fd, now_ms),
            SocketEvent::AcceptFailed(_, error) => tracing::warn!(%error, "a link could not be accepted"),
        }
        self.take_happened();
    }

    fn read_link(&mut self, ready: (ConnectionKey, bool)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.links.on_readable(&mut self.sockets, ready, &mut scratch, self.now.mono_ms);
        self.scratch = scratch;
    }

    /// Goes on with links that had more to read than their share of a turn.
    pub(super) fn take_unread_links(&mut self) {
        if self.links.has_unread() {
            let mut scratch = std::mem::take(&mut self.scratch);
            self.links.take_unread(&mut self.sockets, &mut scratch, self.now.mono_ms);
            self.scratch = scratch;
            self.take_happened();
        }
    }

    /// Performs what the links of this executor have to tell.
    pub(super) fn take_happened(&mut self) {
        let mut happened = std::mem::take(&mut self.happened);
        self.links.take_happened(&mut happened);
        for happening in happened.drain(..) {
            match happening {
                Happening::Arrived(from, peer) => self.on_arrived(from, peer),
                Happening::Up(neighbour) => self.tell_all(|| LinkItem::Up(neighbour.clone())),
                Happening::Down(node) => self.tell_all(|| LinkItem::Down(node)),
                Happening::Leaving(node) => self.tell_all(|| LinkItem::Leaving(node)),
                Happening::Elsewhere(node, fd, bytes) => self.tell_owner(node, LinkItem::Accepted(fd, bytes)),
                Happening::Ask { via, about } => self.tell_owner(via, LinkItem::Ask(via, about)),
                Happening::Asked { by, about } => self.on_asked(by, about),
                Happening::Introduced(introduction) => {
                    self.tell_owner(introduction.node, LinkItem::Introduced(introduction));
                }
            }
        }
        self.happened = happened;
    }

    /// A message from another node: here, or at another executor.
    fn on_arrived(&mut self, from: NodeId, parcel: Parcel) {
        let (node, executors) = (self.names.node_id, self.seat.executors);
        let (home, peer) = match parcel {
            Parcel::Core { slot, message } => {
                (usize::from(slot.home(executors as u16).0), Peer::Core { node, slot, message })
            }
            Parcel::Edge { executor, message } => {
                let at = Location { node, executor, session: SessionId(0) };
                (usize::from(executor.0), Peer::Edge { at, message })
            }
            Parcel::Cores { message } => {
                for executor in (0..executors).filter(|&executor| executor != self.seat.executor) {
                    let peer = Peer::Cores { node, message: message.clone() };
                    self.mesh.outbound.push(executor, MeshItem::Peer(from, peer));
                }
                (self.seat.executor, Peer::Cores { node, message })
            }
        };
        // One that is for a session of an earlier process, which had more executors, is answered here as well as anywhere.
        if home == self.seat.executor || home >= executors {
            self.on_peer(from, peer);
            self.perform_all();
        } else {
            self.mesh.outbound.push(home, MeshItem::Peer(from, peer));
        }
    }

    /// A message for another node.
    pub(super) fn send_over_link(&mut self, node: NodeId, peer: Peer) {
        // Without a link it is lost, and the machines know or will hear.
        let Some(generation) = self.links.generation(node) else { return };
        let owner = self.links.owner(node);
        if owner == self.seat.executor {
            self.links.send(node, generation, &peer);
        } else {
            self.mesh.outbound.push(owner, MeshItem::Outgoing(node, generation, peer));
        }
    }

    /// A machine wants a link.
    pub(super) fn want_link(&mut self, node: NodeId, via: Option<NodeId>) {
        self.tell_owner(node, LinkItem::Want(node, via));
    }

    fn tell_owner(&mut self, node: NodeId, item: LinkItem) {
        let owner = self.links.owner(node);
        if owner == self.seat.executor {
            self.on_link_item(item);
        } else {
            self.mesh.outbound.push(owner, MeshItem::Link(Box::new(item)));
        }
    }

    fn tell_all(&mut self, item: impl Fn() -> LinkItem) {
        for executor in (0..self.seat.executors).filter(|&executor| executor != self.seat.executor) {
            self.mesh.outbound.push(executor, MeshItem::Link(Box::new(item())));
        }
        self.on_link_item(item());
    }

    /// From another executor, or this one.
    pub(super) fn on_link_item(&mut self, item: LinkItem) {
        let now_ms = self.now.mono_ms;
        match item {
            LinkItem::Up(neighbour) => {
                let node = neighbour.party.node;
                self.links.note_up(neighbour);
                self.edge.handle(self.now, EdgeEvent::LinkUp(node), &mut self.actions);
                self.core.handle(self.now, CoreEvent::LinkUp(node), &mut self.actions);
                self.perform_all();
            }
            LinkItem::Down(node) => {
                self.links.note_down(node);
                self.edge.handle(self.now, EdgeEvent::LinkDown(node), &mut self.actions);
                self.core.handle(self.now, CoreEvent::LinkDown(node), &mut self.actions);
                self.perform_all();
            }
            LinkItem::Leaving(node) => {
                self.edge.handle(self.now, EdgeEvent::Leaving(node), &mut self.actions);
                self.perform_all();
            }
            LinkItem::Want(node, via) => self.links.want(node, via, now_ms),
            LinkItem::Accepted(fd, bytes) => self.links.on_handed_over(&mut self.sockets, (fd, bytes), now_ms),
            LinkItem::Ask(via, about) => self.links.send_frame(via, &LinkFrame::Whois { node: about }),
            LinkItem::Tell(node, introduction) => self.links.send_frame(node, &LinkFrame::Introduce(introduction)),
            LinkItem::Introduced(introduction) => self.links.on_introduced(introduction, now_ms),
        }
    }

    /// A node wants to know where another one is.
    fn on_asked(&mut self, by: NodeId, about: NodeId) {
        let Some(neighbour) = self.links.neighbour(about) else { return };
        let Party { name, region, address, .. } = neighbour.party.clone();
        let introduction = Introduction { node: about, name, region, address };
        self.tell_owner(by, LinkItem::Tell(by, introduction));
    }
}
