//! The links of one executor: TCP connections to other nodes, each carrying everything between two nodes in order.
//!
//! A node has one link to each other node, owned by the executor `node % executors` at either end; the other executors
//! reach it over the mesh. In: dials, accepted sockets, bytes, messages for other nodes. Out: [`Happening`]s.
//! Invariant: what was sent over a link that was lost since never travels on a later one (delivery rule 16).
//! The format, and which of two crossing links stays, are `iris_shards::link`'s; `docs/peer-protocol.md` tells both.

mod care;
mod dialer;
mod handshake;
mod wire;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use iris_shards::frame::Decoded;
use iris_shards::id::NodeId;
use iris_shards::link::{self, HANDSHAKE_FRAME_BYTES_MAX, Introduction, LinkFrame, Parcel, Party};
use iris_shards::peer::Peer;

use crate::discovery::View;
use crate::sockets::{ConnectionKey, Sockets};
use care::Care;
use wire::{Read, Stage, Wire};

pub use care::LinkCounts;
pub use dialer::{Dialer, Dialled};
pub use handshake::Own;

/// Reads of one link per turn; the rest waits for the next turn, behind the others.
const READS_PER_TURN: usize = 8;
/// Learned addresses of nodes that discovery does not tell. More: forgotten, and asked for again.
const LEARNED_MAX: usize = 16_384;

/// Another node with a link, as every executor of this node knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// What it said of itself.
    pub party: Party,
    /// The number of the link: messages for an earlier one are dropped.
    pub generation: u32,
}

/// What comes of a turn.
#[derive(Debug)]
pub enum Happening {
    /// A link is up.
    Up(Arc<Neighbour>),
    /// A link is lost with everything on it, or cannot be had.
    Down(NodeId),
    /// A node says that it is to stop.
    Leaving(NodeId),
    /// A message from another node.
    Arrived(NodeId, Parcel),
    /// An accepted connection that belongs to the executor that owns the links to this node, with everything it has sent.
    Elsewhere(NodeId, OwnedFd, Vec<u8>),
    /// That node may know the address of the other one.
    Ask {
        /// Whom to ask.
        via: NodeId,
        /// About whom.
        about: NodeId,
    },
    /// A node asks for the address of another one.
    Asked {
        /// Who.
        by: NodeId,
        /// About whom.
        about: NodeId,
    },
    /// A node tells the address of another one.
    Introduced(Introduction),
}

/// What the links of an executor are given.
#[derive(Debug, Clone)]
pub struct LinkParts {
    /// What they say and obey.
    pub own: Arc<Own>,
    /// Makes their connections.
    pub dialer: Dialer,
    /// Who is there.
    pub view: Arc<View>,
}

/// See the module.
#[derive(Debug)]
pub struct Links {
    own: Arc<Own>,
    /// This executor, and how many there are.
    seat: (usize, usize),
    dialer: Dialer,
    view: Arc<View>,
    learned: HashMap<NodeId, Introduction, RandomState>,
    /// The nodes with a link, as this executor was told.
    neighbours: HashMap<NodeId, Arc<Neighbour>, RandomState>,
    wires: HashMap<usize, Wire, RandomState>,
    /// The nodes whose link is this executor's.
    cares: HashMap<NodeId, Care, RandomState>,
    dirty: Vec<usize>,
    unread: Vec<(ConnectionKey, bool)>,
    happened: Vec<Happening>,
    generations: u32,
    look_ms: u64,
    is_open: bool,
}

impl Links {
    /// No links. `seat`: this executor, and how many there are.
    pub fn new(parts: LinkParts, seat: (usize, usize)) -> Self {
        Links {
            own: parts.own,
            seat,
            dialer: parts.dialer,
            view: parts.view,
            learned: HashMap::default(),
            neighbours: HashMap::default(),
            wires: HashMap::default(),
            cares: HashMap::default(),
            dirty: Vec::new(),
            unread: Vec::new(),
            happened: Vec::new(),
            generations: 0,
            look_ms: 0,
            is_open: false,
        }
    }

    /// The executor that owns the link to this node.
    pub fn owner(&self, node: NodeId) -> usize {
        node.0 as usize % self.seat.1
    }

    /// The number of the link to this node, as far as this executor knows.
    pub fn generation(&self, node: NodeId) -> Option<u32> {
        self.neighbours.get(&node).map(|neighbour| neighbour.generation)
    }

    /// A node with a link, as far as this executor knows.
    pub fn neighbour(&self, node: NodeId) -> Option<&Arc<Neighbour>> {
        self.neighbours.get(&node)
    }

    /// This executor was told that a link is up.
    pub fn note_up(&mut self, neighbour: Arc<Neighbour>) {
        self.neighbours.insert(neighbour.party.node, neighbour);
    }

    /// This executor was told that a link is lost.
    pub fn note_down(&mut self, node: NodeId) {
        self.neighbours.remove(&node);
    }

    /// From now on this executor dials.
    pub fn open(&mut self, now_ms: u64) {
        self.is_open = true;
        self.look_ms = now_ms;
    }

    /// The name and the region of a node, as far as they are known.
    pub fn name_of(&self, node: NodeId) -> (String, String) {
        let known = self.view.nodes.get(&node).map(|known| (&known.name, &known.region));
        let neighbour = self.neighbours.get(&node).map(|neighbour| (&neighbour.party.name, &neighbour.party.region));
        let learned = self.learned.get(&node).map(|learned| (&learned.name, &learned.region));
        let (name, region) =
            known.or(neighbour).or(learned).map(|(name, region)| (name.clone(), region.clone())).unzip();
        (name.unwrap_or_else(|| node.0.to_string()), region.unwrap_or_default())
    }

    /// Who is there has changed.
    pub fn on_view(&mut self, view: Arc<View>) {
        self.view = view;
        self.look_ms = 0;
    }

    /// What has happened since the last call.
    pub fn take_happened(&mut self, happened: &mut Vec<Happening>) {
        std::mem::swap(&mut self.happened, happened);
    }

    /// When [`Links::tick`] is wanted, in monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        (!self.wires.is_empty() || self.cares.values().any(|care| care.is_wanted)).then_some(self.look_ms)
    }

    /// Whether a socket is one of a link.
    fn has(&self, key: ConnectionKey) -> bool {
        self.wires.get(&key.index()).is_some_and(|wire| wire.key == key)
    }

    /// Whether something has gathered and is not written.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether something waits to be read.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Sends a message over the link with this number; dropped if there is another one, or none.
    pub fn send(&mut self, node: NodeId, generation: u32, peer: &Peer) {
        let Some(index) = self.index_of(node, Some(generation)) else { return };
        let Some(wire) = self.wires.get_mut(&index) else { return };
        let before = wire.out().len();
        link::encode_peer(peer, wire.out());
        let bytes = wire.out().len() - before;
        wire.is_used = true;
        self.cares.entry(node).or_default().counts.on_sent(bytes);
        self.mark_dirty(index);
    }

    /// Sends a frame that is no message between machines.
    pub fn send_frame(&mut self, node: NodeId, frame: &LinkFrame) {
        let Some(index) = self.index_of(node, None) else { return };
        self.frame(index, frame);
    }

    fn frame(&mut self, index: usize, frame: &LinkFrame) {
        if let Some(wire) = self.wires.get_mut(&index) {
            link::encode(frame, wire.out());
            self.mark_dirty(index);
        }
    }

    fn index_of(&self, node: NodeId, generation: Option<u32>) -> Option<usize> {
        let index = self.cares.get(&node)?.wire?;
        let its = self.wires.get(&index)?.generation();
        (its.is_some() && (generation.is_none() || its == generation)).then_some(index)
    }

    fn mark_dirty(&mut self, index: usize) {
        if let Some(wire) = self.wires.get_mut(&index)
            && !std::mem::replace(&mut wire.is_dirty, true)
        {
            self.dirty.push(index);
        }
    }

    /// Someone connected to this node's link address.
    pub fn on_accepted(&mut self, sockets: &mut Sockets, fd: OwnedFd, now_ms: u64) {
        if self.wires.len() >= self.own.limits.links_max {
            tracing::warn!(links_max = self.own.limits.links_max, "a link is refused: there are too many");
            return;
        }
        match sockets.adopt_once(fd) {
            Ok(key) => drop(self.wires.insert(key.index(), Wire::new(key, Stage::Greeting, now_ms))),
            Err(error) => tracing::warn!(%error, "a link cannot be watched"),
        }
    }

    /// A connection accepted by another executor, with what it has sent.
    pub fn on_handed_over(&mut self, sockets: &mut Sockets, (fd, bytes): (OwnedFd, Vec<u8>), now_ms: u64) {
        match sockets.adopt(fd) {
            Ok(key) => {
                let mut wire = Wire::new(key, Stage::Greeting, now_ms);
                wire.input = bytes;
                self.wires.insert(key.index(), wire);
                self.take_frames(sockets, key.index(), now_ms);
            }
            Err(error) => tracing::warn!(%error, "a link cannot be watched"),
        }
    }

    /// There is something to read. One that has ended is read to its end: no event tells it again.
    pub fn on_readable(
        &mut self,
        sockets: &mut Sockets,
        (key, has_ended): (ConnectionKey, bool),
        scratch: &mut [u8],
        now_ms: u64,
    ) {
        let index = key.index();
        for _ in 0..READS_PER_TURN {
            let Some(wire) = self.wires.get_mut(&index).filter(|wire| wire.key == key) else { return };
            let read = wire.fill(sockets, scratch);
            wire.heard_ms = now_ms;
            let is_worth_decoding = wire.input.len() >= wire.wanted;
            if is_worth_decoding {
                self.take_frames(sockets, index, now_ms);
            }
            match read {
                Read::Bytes => {}
                Read::Drained if has_ended => {}
                Read::Ended => return self.lose(sockets, index, "the other side has ended it", now_ms),
                Read::Drained | Read::Nothing => return self.watch_greeting(sockets, index, now_ms),
            }
        }
        self.unread.push((key, has_ended));
    }

    /// Goes on with what was left unread.
    pub fn take_unread(&mut self, sockets: &mut Sockets, scratch: &mut [u8], now_ms: u64) {
        for unread in std::mem::take(&mut self.unread) {
            self.on_readable(sockets, unread, scratch, now_ms);
        }
    }

    /// Before HELLO a connection is watched for one event at a time, so that it can be handed over.
    fn watch_greeting(&mut self, sockets: &mut Sockets, index: usize, now_ms: u64) {
        let Some(wire) = self.wires.get(&index) else { return };
        if matches!(wire.stage, Stage::Greeting) && sockets.watch_once(wire.key).is_err() {
            self.lose(sockets, index, "it cannot be watched", now_ms);
        }
    }

    /// There is room to write again.
    pub fn on_writable(&mut self, key: ConnectionKey) {
        if self.has(key) {
            self.mark_dirty(key.index());
        }
    }

    /// Writes what has gathered, each link once.
    pub fn write(&mut self, sockets: &mut Sockets, now_ms: u64) {
        for index in std::mem::take(&mut self.dirty) {
            let Some(wire) = self.wires.get_mut(&index) else { continue };
            wire.is_dirty = false;
            if std::mem::take(&mut wire.is_used) {
                wire.used_ms = now_ms;
            }
            let written = wire.write(sockets, now_ms);
            let waiting = wire.waiting();
            if let Err(error) = written {
                self.lose(sockets, index, &error.to_string(), now_ms);
            } else if waiting > self.own.limits.out_bytes_max {
                self.lose(sockets, index, "more than link.out_bytes_max waits for it", now_ms);
            }
        }
    }

    /// Decodes what has come, frame by frame.
    fn take_frames(&mut self, sockets: &mut Sockets, index: usize, now_ms: u64) {
        let mut used = 0;
        while let Some(length) = self.take_frame(sockets, (index, used), now_ms) {
            used += length;
        }
    }

    /// Takes the frame behind so many bytes, and tells its length; `None` if nothing is left to decode, or the link is gone.
    fn take_frame(&mut self, sockets: &mut Sockets, (index, used): (usize, usize), now_ms: u64) -> Option<usize> {
        let wire = self.wires.get_mut(&index)?;
        let is_up = wire.generation().is_some();
        let bytes_max = if is_up { self.own.frame_bytes_max } else { HANDSHAKE_FRAME_BYTES_MAX };
        match link::decode(&wire.input[used..], bytes_max, self.own.hello.party.node) {
            Ok(Decoded::Frame { frame, used: length }) => {
                match wire.stage {
                    Stage::Up(_) => self.on_frame(index, frame, length, now_ms),
                    Stage::Closing => {}
                    _ => self.on_greeting(sockets, index, frame, now_ms),
                }
                return Some(length);
            }
            Ok(Decoded::NeedMore { wanted }) => {
                wire.wanted = wanted;
                wire.consume(used);
            }
            Err(error) => self.lose(sockets, index, &error.to_string(), now_ms),
        }
        None
    }

    /// The connection goes to the executor that owns the links to this node, with everything that has come, HELLO first.
    fn hand_over(&mut self, sockets: &mut Sockets, index: usize, node: NodeId, now_ms: u64) {
        let Some(wire) = self.wires.remove(&index) else { return };
        match sockets.release(wire.key) {
            Ok(fd) => self.happened.push(Happening::Elsewhere(node, fd, wire.input)),
            Err(error) => {
                self.wires.insert(index, wire);
                self.lose(sockets, index, &error.to_string(), now_ms);
            }
        }
    }

    /// A frame on a link that is up.
    fn on_frame(&mut self, index: usize, frame: LinkFrame, bytes: usize, now_ms: u64) {
        let Some(wire) = self.wires.get_mut(&index) else { return };
        let Some(node) = wire.node else { return };
        match frame {
            LinkFrame::Peer(parcel) => {
                wire.used_ms = now_ms;
                if let Some(care) = self.cares.get_mut(&node) {
                    care.counts.on_received(bytes);
                }
                self.happened.push(Happening::Arrived(node, parcel));
            }
            LinkFrame::Ping { token } => self.frame(index, &LinkFrame::Pong { token }),
            LinkFrame::Leaving => self.happened.push(Happening::Leaving(node)),
            LinkFrame::Whois { node: about } => self.happened.push(Happening::Asked { by: node, about }),
            LinkFrame::Introduce(introduction) => self.happened.push(Happening::Introduced(introduction)),
            // Nothing else has a meaning here; a later version may know better.
            _ => {}
        }
    }

    /// An address that discovery does not tell.
    pub fn on_introduced(&mut self, introduction: Introduction, now_ms: u64) {
        if self.learned.len() >= LEARNED_MAX {
            self.learned.clear();
        }
        let node = introduction.node;
        self.learned.insert(node, introduction);
        self.dial_if_wanted(node, now_ms);
    }
}
