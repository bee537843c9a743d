//! The loop of one executor: gather events, let the machines handle them, perform their actions, write, sleep.
//!
//! Owns the two halves of this executor, its connections, its end of the mesh and its storage engine. It decides
//! nothing: every rule is in `iris_shards`, and the one `match` in `perform` is all that its actions mean.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use hdrhistogram::Histogram;
use iris_shards::core_node::CoreNode;
use iris_shards::edge_node::EdgeNode;
use iris_shards::event::{Action, CoreEvent, EdgeEvent, Level};
use iris_shards::frame::{self, Deliver, ServerFrame};
use iris_shards::id::{NodeId, Sequence, SessionId};
use iris_shards::peer::{Peer, PresenceState};
use iris_shards::storage::StorageEvent;
use iris_shards::time::Now;
use socket2::Socket;

use crate::admin::{ExecutorStatus, LinkStatus};
use crate::connections::{Connections, Reading};
use crate::discovery::View;
use crate::links::{Dialled, Happening, LinkParts, Links};
use crate::mesh::Endpoint;
use crate::runtime::Seat;
use crate::sockets::{ConnectionKey, ListenerId, Sleep, SocketEvent, SocketSettings, Sockets};
use crate::storage::{Engine, StorageSeat};

mod clients;
mod linking;
mod report;

pub use linking::LinkItem;
pub use report::{Names, histogram, percentiles};

/// Items from other executors that are handled per turn.
const MESH_BUDGET: usize = 2_048;
/// How long a turn handles sockets; the rest waits for the next, behind storage and mesh.
const SOCKETS_SHARE: Duration = Duration::from_millis(1);
/// Events between two looks at the clock.
const LOOK_EVERY: usize = 16;
/// How often an engine with work under way is asked at least, in ms.
const ENGINE_TICK_MS: u64 = 1_000;

/// What travels between executors.
#[derive(Debug)]
pub enum MeshItem {
    /// Between the machines, from that node.
    Peer(NodeId, Peer),
    /// To the executor that owns the link to this node; dropped if the link has another number by then.
    Outgoing(NodeId, u32, Peer),
    /// About links.
    Link(Box<LinkItem>),
    /// A connection on its way to the home executor of its user, with everything it has sent so far.
    Connection(Box<(OwnedFd, Vec<u8>)>),
}

/// From the main thread.
#[derive(Debug)]
pub enum Control {
    /// Tell what you are doing.
    Status(Sender<(ExecutorStatus, Vec<LinkStatus>)>),
    /// Every executor has recovered: let clients and other nodes in.
    Open,
    /// Who is there, and who keeps what.
    View(Arc<View>),
    /// A dial has ended.
    Dialled {
        /// Which node was dialled.
        node: NodeId,
        /// The number of the dial.
        attempt: u64,
        /// The connected socket, or why there is none.
        outcome: Dialled,
    },
    /// Accept no more, and ask the clients to leave within this many ms.
    Drain(u32),
    /// Close what is left, flush, and end.
    Stop,
}

/// What an executor is given.
pub struct Parts {
    /// The machines.
    pub edge: EdgeNode,
    /// The machines.
    pub core: CoreNode,
    /// What WELCOME says.
    pub names: Arc<Names>,
    /// Its end of the mesh.
    pub mesh: Endpoint<MeshItem>,
    /// Where clients connect.
    pub listeners: Vec<Socket>,
    /// Where other nodes connect.
    pub link_listeners: Vec<Socket>,
    /// What its links say and obey.
    pub links: LinkParts,
    /// Of its storage engine; an edge has none.
    pub storage: Option<StorageSeat>,
    /// From the main thread.
    pub control: Receiver<Control>,
    /// Connections of the node.
    pub connections: Arc<AtomicUsize>,
}

/// See the module.
pub struct Executor {
    seat: Seat,
    names: Arc<Names>,
    edge: EdgeNode,
    core: CoreNode,
    sockets: Sockets,
    connections: Connections,
    mesh: Endpoint<MeshItem>,
    engine: Engine,
    links: Links,
    listeners: Vec<Socket>,
    link_listeners: Vec<Socket>,
    /// The listeners of links, once they are open.
    link_doors: Vec<ListenerId>,
    control: Receiver<Control>,
    actions: Vec<Action>,
    /// Connections that are read in the next turn, and whether an end is among it: they had more than their share of
    /// this one, or are to be written first.
    unread: VecDeque<(ConnectionKey, bool)>,
    /// What happened to sockets and did not fit into the last turn.
    ready: VecDeque<SocketEvent>,
    started: Instant,
    now: Now,
    node_connections: Arc<AtomicUsize>,
    stopping: bool,
    turns: Histogram<u64>,
    counts: report::Counts,
    /// Kept for their memory.
    scratch: Vec<u8>,
    spare: Vec<Action>,
    arrived: Vec<MeshItem>,
    broken: Vec<SessionId>,
    happened: Vec<Happening>,
}

impl Executor {
    /// Made on its own thread.
    pub fn new(seat: Seat, parts: Parts) -> Result<Self, String> {
        let mut settings = SocketSettings::default();
        if seat.is_crowded {
            settings.spin = Duration::ZERO;
        }
        let sockets = Sockets::new(settings, seat.pulse.clone()).map_err(|error| error.to_string())?;
        let engine = Engine::open(parts.storage, seat.bell()).map_err(|error| error.to_string())?;
        let links = Links::new(parts.links, (seat.executor, seat.executors));
        let connections = Connections::new(parts.names.frame_bytes_max as usize, parts.names.out_bytes_max);
        Ok(Executor {
            scratch: connections.scratch(),
            connections,
            seat,
            names: parts.names,
            edge: parts.edge,
            core: parts.core,
            sockets,
            mesh: parts.mesh,
            engine,
            links,
            listeners: parts.listeners,
            link_listeners: parts.link_listeners,
            link_doors: Vec::new(),
            control: parts.control,
            actions: Vec::new(),
            unread: VecDeque::new(),
            ready: VecDeque::new(),
            started: Instant::now(),
            now: Now::default(),
            node_connections: parts.connections,
            stopping: false,
            turns: histogram(),
            counts: report::Counts::default(),
            spare: Vec::new(),
            arrived: Vec::new(),
            broken: Vec::new(),
            happened: Vec::new(),
        })
    }

    /// Runs until it was told to stop, and everything is on disk.
    pub async fn run(mut self) -> Result<(), String> {
        let mut socket_events = Vec::new();
        let mut storage_events = Vec::new();
        loop {
            let began = Instant::now();
            self.look_at_clock(began);
            self.turn(&mut socket_events, &mut storage_events).map_err(|error| error.to_string())?;
            self.turns.saturating_record(began.elapsed().as_micros() as u64);
            if self.stopping && self.has_ended() {
                return Ok(());
            }
            self.rest().await.map_err(|error| error.to_string())?;
        }
    }

    fn look_at_clock(&mut self, at: Instant) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mono_ms = at.duration_since(self.started).as_millis() as u64;
        self.now = Now { mono_ms, wall_us: wall.as_micros() as u64 };
    }

    /// One turn: everything that has happened, and everything that follows from it.
    fn turn(
        &mut self,
        socket_events: &mut Vec<SocketEvent>,
        storage_events: &mut Vec<StorageEvent>,
    ) -> std::io::Result<()> {
        self.sockets.gather(socket_events)?;
        self.take_control()?;
        self.engine.take_events(storage_events);
        for event in storage_events.drain(..) {
            self.core.handle(self.now, CoreEvent::Storage(event), &mut self.actions);
            self.perform_all();
        }
        if self.engine.take_recovered() {
            self.on_recovered();
        }
        self.take_unread_links();
        self.take_unread();
        self.ready.extend(socket_events.drain(..));
        self.take_ready();
        self.take_from_mesh();
        self.tick();
        self.write();
        self.connections.end_turn();
        self.engine.commit(self.now.mono_ms);
        self.mesh.outbound.flush();
        Ok(())
    }

    /// Reads what earlier turns have left, within a share of this one.
    fn take_unread(&mut self) {
        let began = Instant::now();
        for left in (0..self.unread.len()).rev() {
            let Some((key, has_ended)) = self.unread.pop_front() else { return };
            self.on_readable(key, has_ended);
            self.connections.note_read(key);
            if left.is_multiple_of(LOOK_EVERY) && began.elapsed() > SOCKETS_SHARE {
                return;
            }
        }
    }

    /// Handles what happened to sockets, within the share of a turn.
    fn take_ready(&mut self) {
        let began = Instant::now();
        while let Some(event) = self.ready.pop_front() {
            self.on_socket(event);
            if self.ready.len().is_multiple_of(LOOK_EVERY) && began.elapsed() > SOCKETS_SHARE {
                return;
            }
        }
    }

    fn take_control(&mut self) -> std::io::Result<()> {
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::View(view) => self.on_view(view),
                Control::Dialled { node, attempt, outcome } => {
                    self.links.on_dialled(&mut self.sockets, (node, attempt), outcome, self.now.mono_ms);
                    self.take_happened();
                }
                Control::Status(answer) => drop(answer.try_send((self.status(), self.links_status()))),
                Control::Open => self.open()?,
                Control::Drain(within_ms) => {
                    if let Err(error) = self.sockets.stop_listening() {
                        tracing::warn!(%error, "the listeners cannot be closed");
                    }
                    self.edge.handle(self.now, EdgeEvent::Drain { within_ms }, &mut self.actions);
                    self.core.handle(self.now, CoreEvent::Leave, &mut self.actions);
                    self.links.leave();
                    self.perform_all();
                }
                Control::Stop => self.become_stopping(),
            }
        }
        Ok(())
    }

    fn become_stopping(&mut self) {
        self.edge.handle(self.now, EdgeEvent::Stop, &mut self.actions);
        self.perform_all();
        self.stopping = true;
    }

    /// Whether nothing is left to do; closes the engine once everything was appended.
    fn has_ended(&mut self) -> bool {
        let ((pending, _), _, _) = self.core.waiting();
        if pending > 0 || !self.mesh.inbound.is_idle() || self.connections.sessions().next().is_some() {
            return false;
        }
        if !self.engine.is_closed() {
            self.engine.close();
        }
        self.engine.is_closed()
    }

    /// Everything stored is known: with the first view clients and links may come.
    fn on_recovered(&mut self) {
        self.core.handle(self.now, CoreEvent::Recovered, &mut self.actions);
        self.perform_all();
        // Nobody waits for the turns of a recovery.
        self.turns.reset();
        self.seat.ready();
    }

    fn on_socket(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted(door, _) if self.link_doors.contains(&door) => self.on_link_socket(event),
            SocketEvent::Accepted(_, fd) => self.on_accepted(fd),
            SocketEvent::AcceptFailed(_, error) => {
                self.counts.accept_failed += 1;
                tracing::warn!(%error, executor = self.seat.executor, "a client could not be accepted");
            }
            SocketEvent::Readable(key) => match self.connections.reading(key) {
                Reading::Now => self.on_readable(key, false),
                Reading::Next => self.unread.push_back((key, false)),
                Reading::Done => {}
            },
            SocketEvent::Hangup(key) => self.on_readable(key, true),
            SocketEvent::Writable(key) => match self.connections.session(key) {
                Some(session) => self.connections.on_writable(session),
                None => self.on_link_socket(event),
            },
        }
    }

    fn take_from_mesh(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.mesh.inbound.drain(MESH_BUDGET, |_, item| arrived.push(item));
        for item in arrived.drain(..) {
            match item {
                MeshItem::Peer(from, peer) => self.on_peer(from, peer),
                MeshItem::Outgoing(node, generation, peer) => self.links.send(node, generation, &peer),
                MeshItem::Link(item) => {
                    self.on_link_item(*item);
                    self.take_happened();
                }
                MeshItem::Connection(handed) => {
                    let (fd, bytes) = *handed;
                    self.on_handed_over(fd, &bytes);
                }
            }
            self.perform_all();
        }
        self.arrived = arrived;
    }

    /// A message between the machines, at this executor.
    fn on_peer(&mut self, from: NodeId, peer: Peer) {
        match peer {
            Peer::Edge { message, .. } => self.edge.handle(self.now, EdgeEvent::Peer(message), &mut self.actions),
            Peer::Core { message, .. } => {
                self.core.handle(self.now, CoreEvent::Peer(from, message), &mut self.actions);
            }
            Peer::Cores { message, .. } => {
                self.core.handle(self.now, CoreEvent::Cores(from, message), &mut self.actions);
            }
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.edge.next_deadline().is_some_and(|deadline| deadline <= now_ms) {
            self.edge.handle(self.now, EdgeEvent::Tick, &mut self.actions);
            self.perform_all();
        }
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now_ms) {
            self.core.handle(self.now, CoreEvent::Tick, &mut self.actions);
            self.perform_all();
        }
        while let Some(session) = self.connections.take_lingering(now_ms) {
            self.on_ended(session);
        }
        if self.links.next_deadline().is_some_and(|deadline| deadline <= now_ms) {
            self.links.tick(&mut self.sockets, now_ms);
            self.take_happened();
        }
    }

    /// Performs actions, and those that follow from them within this executor.
    fn perform_all(&mut self) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::replace(&mut self.actions, std::mem::take(&mut self.spare));
            for action in actions.drain(..) {
                self.perform(action);
            }
            self.spare = actions;
        }
    }

    /// What an action means.
    fn perform(&mut self, action: Action) {
        match action {
            Action::Peer(peer) => self.send(peer),
            Action::Connect { node, via } => self.want_link(node, via),
            Action::Deliver { session, sequence, messages } => {
                let Some(out) = self.connections.out(session) else { return };
                for (sequence, message) in (sequence.0..).map(Sequence).zip(&messages) {
                    let (id, sent_at, body) = (message.key.id, message.sent_at, &message.body);
                    let sender = message.key.sender.as_str();
                    frame::deliver(out, &Deliver { sequence, id, sent_at, sender, body });
                }
                self.check_overfull(session);
            }
            Action::Confirm { session, level, run: (first, last) } => {
                let Some(out) = self.connections.out(session) else { return };
                let (level, copies) = match level {
                    Level::Stored { copies } => (frame::LEVEL_STORED, copies),
                    Level::Delivered => (frame::LEVEL_DELIVERED, 0),
                };
                frame::confirm(out, level, copies, &[(first.0, last.0)]);
                self.check_overfull(session);
            }
            Action::Refuse { session, sequence, refusal } => {
                self.counts.refused += 1;
                let (code, wait_ms) = (refusal.code.number(), refusal.wait_ms);
                self.frame(session, ServerFrame::Refused { sequence, code, wait_ms, reason: refusal.code.name() });
            }
            Action::Presence { session, request, user, state } => {
                let (state, last_seen) = match state {
                    PresenceState::Offline { last_seen } => (frame::STATE_OFFLINE, last_seen),
                    PresenceState::Online => (frame::STATE_ONLINE, 0),
                    PresenceState::Unknown => (frame::STATE_UNKNOWN, 0),
                };
                self.frame(session, ServerFrame::Presence { request, state, last_seen, user: user.as_str() });
            }
            Action::Pong { session, token } => self.frame(session, ServerFrame::Pong { token }),
            Action::Drain { session, wait_ms } => self.frame(session, ServerFrame::Drain { wait_ms }),
            Action::Welcome { session, capabilities, clock_ms, .. } => self.welcome(session, capabilities, clock_ms),
            Action::Close { session, farewell } => self.close(session, &farewell),
            Action::Storage(request) => self.engine.request(request),
            Action::Lost { user, id } => tracing::error!(%user, %id, "a stored message was lost to a damaged disk"),
        }
    }

    /// To another half: here, at another executor, or at another node.
    fn send(&mut self, peer: Peer) {
        let executors = self.seat.executors as u16;
        let (node, home) = match &peer {
            Peer::Core { node, slot, .. } => (*node, usize::from(slot.home(executors).0)),
            Peer::Edge { at, .. } => (at.node, usize::from(at.executor.0)),
            Peer::Cores { node, .. } => (*node, self.seat.executor),
        };
        if node != self.names.node_id {
            self.send_over_link(node, peer);
        } else if home == self.seat.executor {
            self.on_peer(node, peer);
        } else {
            self.mesh.outbound.push(home, MeshItem::Peer(node, peer));
        }
    }

    fn write(&mut self) {
        let mut broken = std::mem::take(&mut self.broken);
        self.connections.write_dirty(&mut self.sockets, |session| broken.push(session));
        for session in broken.drain(..) {
            self.on_ended(session);
        }
        self.broken = broken;
        self.links.write(&mut self.sockets, self.now.mono_ms);
        self.take_happened();
    }

    /// Sleeps until there is something to do; gives glommio's own work its share.
    async fn rest(&mut self) -> std::io::Result<()> {
        let is_written = !self.connections.has_dirty() && !self.links.has_dirty();
        if !is_written || !self.unread.is_empty() || !self.ready.is_empty() || self.links.has_unread() {
            return self.sockets.give_way().await;
        }
        let (edge, core) = (self.edge.next_deadline(), self.core.next_deadline());
        let deadlines = [edge, core, self.connections.next_lingering_ms(), self.links.next_deadline()];
        // An engine with work under way wants to be asked once per second.
        let engine = self.engine.is_busy().then_some(self.now.mono_ms + ENGINE_TICK_MS);
        let deadline = deadlines.into_iter().flatten().chain(engine).min();
        let sleep = Sleep {
            deadline: deadline
                .map(|ms| self.started + Duration::from_millis(ms))
                .into_iter()
                .chain(self.engine.held_until())
                .min(),
            has_company: self.engine.is_busy(),
        };
        let (mesh, control) = (&self.mesh, &self.control);
        let engine = &self.engine;
        self.sockets.sleep(sleep, || mesh.inbound.is_idle() && control.is_empty() && !engine.has_events()).await?;
        self.sockets.give_way().await
    }
}
