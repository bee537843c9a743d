//! One node with two executors in memory: what the shell does between the machines, without sockets and disk.

use iris_shards::core_node::CoreNode;
use iris_shards::edge_node::{EdgeConfig, EdgeNode};
use iris_shards::event::{Action, CoreEvent, EdgeEvent};
use iris_shards::frame::{ClientFrame, Hello, Ranges, VERSION};
use iris_shards::id::{ExecutorId, MessageId, NodeId, Sequence, SessionId};
use iris_shards::limits::{CoreLimits, EdgeLimits};
use iris_shards::peer::{Peer, ToCore, ToEdge};
use iris_shards::placement::Placement;
use iris_shards::shard::CoreConfig;
use iris_shards::slot::slot_of;
use iris_shards::storage::{Place, Reach, StorageEvent, StorageRequest};
use iris_shards::time::Now;
use std::collections::VecDeque;
use std::sync::Arc;

const NODE: NodeId = NodeId(0);
pub const EXECUTORS: u16 = 2;
const BODY: [u8; 64] = [7; 64];

enum Parcel {
    Edge(ToEdge),
    Core(ToCore),
}

struct Half {
    edge: EdgeNode,
    core: CoreNode,
    /// Appends that the disk has not confirmed.
    appended: usize,
    places: u64,
}

/// A user who is logged in.
#[derive(Clone, Copy)]
pub struct Client {
    pub executor: usize,
    pub session: SessionId,
    sent: u64,
    acknowledged: u64,
}

/// The node.
pub struct Cluster {
    halves: Vec<Half>,
    queue: VecDeque<(usize, Parcel)>,
    actions: Vec<Action>,
    pub clients: Vec<Client>,
    free: Vec<SessionId>,
    now_us: u64,
    ids: u64,
    /// Confirmations that clients heard since the start, of either level.
    pub confirmed: u64,
    /// Answers to LOOKUP.
    pub answered: u64,
}

impl Cluster {
    pub fn new() -> Self {
        let placement = Arc::new(Placement::everywhere(vec![NODE]));
        let mut cluster = Cluster {
            halves: (0..EXECUTORS).map(|index| Half::new(ExecutorId(index), &placement)).collect(),
            queue: VecDeque::new(),
            actions: Vec::new(),
            clients: Vec::new(),
            free: Vec::new(),
            now_us: 1_700_000_000_000_000,
            ids: 0,
            confirmed: 0,
            answered: 0,
        };
        for executor in 0..cluster.halves.len() {
            cluster.core_handles(executor, CoreEvent::Recovered);
        }
        cluster.settle();
        cluster
    }

    pub fn now(&self) -> Now {
        Now { mono_ms: self.now_us / 1_000, wall_us: self.now_us }
    }

    /// Messages that went straight to the recipient's edge, since the start.
    pub fn direct(&self) -> u64 {
        self.halves.iter().map(|half| half.edge.counts().direct).sum()
    }

    /// A user logs in at the home executor.
    pub fn login(&mut self, name: &str) -> usize {
        let executor = home(name);
        let session = self.free.pop().unwrap_or(SessionId(self.clients.len() as u32));
        self.edge_handles(executor, EdgeEvent::Opened(session));
        let (user, token, agent) = (name.as_bytes(), &b""[..], "bench");
        let hello = Hello { version_min: VERSION, version_max: VERSION, capabilities: 0, user, token, agent };
        self.edge_handles(executor, EdgeEvent::Frame(session, ClientFrame::Hello(hello)));
        self.clients.push(Client { executor, session, sent: 0, acknowledged: 0 });
        self.clients.len() - 1
    }

    /// The last who came goes.
    pub fn leave(&mut self) {
        let Some(Client { executor, session, .. }) = self.clients.pop() else { return };
        self.edge_handles(executor, EdgeEvent::Gone(session));
        self.free.push(session);
    }

    pub fn frame(&mut self, client: usize, frame: ClientFrame<'_>) {
        let Client { executor, session, .. } = self.clients[client];
        self.edge_handles(executor, EdgeEvent::Frame(session, frame));
    }

    pub fn send(&mut self, client: usize, recipient: &str) {
        self.ids += 1;
        let id = MessageId::v7(self.now_us / 1_000, self.ids.into());
        let sender = &mut self.clients[client];
        sender.sent += 1;
        let sequence = Sequence(sender.sent);
        self.frame(client, ClientFrame::Send { sequence, id, recipient: recipient.as_bytes(), body: &BODY });
    }

    /// A client takes the next messages that it was shown.
    pub fn acknowledge(&mut self, client: usize, count: u64) {
        let first = self.clients[client].acknowledged + 1;
        self.clients[client].acknowledged += count;
        let pairs = [(first, first + count - 1)];
        let ranges = Ranges::from_pairs(&pairs).expect("one range");
        self.frame(client, ClientFrame::Ack { ranges });
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_us += ms * 1_000;
        for executor in 0..self.halves.len() {
            self.edge_handles(executor, EdgeEvent::Tick);
            self.core_handles(executor, CoreEvent::Tick);
        }
        self.settle();
    }

    /// Until nothing is under way. The disk confirms once everybody else is done.
    pub fn settle(&mut self) {
        loop {
            while !self.queue.is_empty() {
                self.hand_out();
            }
            let Some(executor) = self.halves.iter().position(|half| half.appended > 0) else { return };
            let half = &mut self.halves[executor];
            let first = half.places;
            half.places += std::mem::take(&mut half.appended) as u64;
            let places = (first..half.places).map(|place| Place(place * 256)).collect();
            self.core_handles(executor, CoreEvent::Storage(StorageEvent::Flushed { places }));
        }
    }

    /// Hands out what is under way now; what comes of it waits.
    pub fn hand_out(&mut self) {
        for _ in 0..self.queue.len() {
            match self.queue.pop_front() {
                Some((executor, Parcel::Edge(message))) => self.edge_handles(executor, EdgeEvent::Peer(message)),
                Some((executor, Parcel::Core(message))) => self.core_handles(executor, CoreEvent::Peer(NODE, message)),
                None => {}
            }
        }
    }

    fn edge_handles(&mut self, executor: usize, event: EdgeEvent<'_>) {
        let (now, mut actions) = (self.now(), std::mem::take(&mut self.actions));
        self.halves[executor].edge.handle(now, event, &mut actions);
        self.perform(executor, &mut actions);
        self.actions = actions;
    }

    fn core_handles(&mut self, executor: usize, event: CoreEvent) {
        let (now, mut actions) = (self.now(), std::mem::take(&mut self.actions));
        self.halves[executor].core.handle(now, event, &mut actions);
        self.perform(executor, &mut actions);
        self.actions = actions;
    }

    fn perform(&mut self, executor: usize, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Peer(Peer::Edge { at, message }) => {
                    self.queue.push_back((at.executor.0 as usize, Parcel::Edge(message)));
                }
                Action::Peer(Peer::Core { slot, message, .. }) => {
                    self.queue.push_back((slot.home(EXECUTORS).0 as usize, Parcel::Core(message)));
                }
                Action::Confirm { run, .. } => self.confirmed += run.1.0 - run.0.0 + 1,
                Action::Presence { .. } => self.answered += 1,
                Action::Storage(StorageRequest::Append(_)) => self.halves[executor].appended += 1,
                Action::Refuse { .. } | Action::Close { .. } => panic!("{action:?}"),
                _ => {}
            }
        }
    }
}

impl Half {
    fn new(executor: ExecutorId, placement: &Arc<Placement>) -> Self {
        let seed = 1 + u64::from(executor.0);
        let edge = EdgeConfig {
            node: NODE,
            executor,
            is_core: true,
            limits: EdgeLimits::default(),
            placement: Arc::clone(placement),
            seed,
        };
        let core = CoreConfig {
            node: NODE,
            executor,
            executors: EXECUTORS,
            limits: CoreLimits::default(),
            placement: Arc::clone(placement),
            reach: Reach::Own,
            seed,
        };
        Half { edge: EdgeNode::new(edge), core: CoreNode::new(core), appended: 0, places: 0 }
    }
}

/// The executor of a user.
pub fn home(name: &str) -> usize {
    slot_of(name.as_bytes()).home(EXECUTORS).0 as usize
}

/// The first name of this kind whose home is that executor.
pub fn name_at(kind: &str, executor: usize) -> String {
    let mut names = (0..).map(|number| format!("{kind}-{number:06}"));
    names.find(|name| home(name) == executor).expect("every executor has users")
}
