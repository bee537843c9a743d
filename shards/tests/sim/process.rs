//! The processes: executors with their machines and queues, what a turn of the loop does, start, crash and recovery.

use std::collections::VecDeque;
use std::sync::Arc;

use iris_shards::core_node::{CoreConfig, CoreNode};
use iris_shards::edge_node::{EdgeConfig, EdgeNode};
use iris_shards::event::{Action, CoreEvent, EdgeEvent};
use iris_shards::id::{ExecutorId, MessageId, NodeId, SessionId};
use iris_shards::peer::{ToCore, ToCores, ToEdge};
use iris_shards::storage::{Reach, Record, StorageEvent};
use iris_shards::time::Now;

use crate::engine::{Engine, Medium};
use crate::ledger::ConnectionIx;
use crate::plan::Plan;
use crate::shared::{COPIES, Common};
use crate::world::World;

/// Messages between the halves of an executor in one turn, in thousands of which an endless exchange is told.
const LOCAL_MAX: u32 = 100;

/// Which half of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Edge,
    Core,
}

/// What travels between executors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parcel {
    Core(ToCore),
    Cores(ToCores),
    Edge(ToEdge),
}

/// In the queue from another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    Parcel(Parcel),
    LinkUp(u32),
    LinkDown,
    /// From another node: it is about to stop.
    Leaving,
    /// From this node: who keeps what.
    View(usize),
}

/// One executor of a living process.
pub struct Executor {
    pub edge: EdgeNode,
    pub core: CoreNode,
    pub engine: Engine,
    /// Its other half's messages, handled in the same turn.
    pub local: VecDeque<Parcel>,
    /// From the other executors of this node.
    pub mesh: Vec<VecDeque<Parcel>>,
    /// From other nodes; what was sent over a lost link is gone.
    pub arrivals: Vec<VecDeque<Arrival>>,
    /// The link to each node that this executor was told of. 0: none.
    pub view: Vec<u32>,
    pub sessions: Vec<Option<ConnectionIx>>,
    /// The connections that it serves, with a session or without.
    pub connections: Vec<ConnectionIx>,
    pub stalled: u32,
    edge_deadline: Option<u64>,
    core_deadline: Option<u64>,
    ticks: (u64, u32),
}

/// One node, alive or not.
pub struct Process {
    pub ix: usize,
    pub skew_us: i64,
    pub is_frozen: bool,
    pub crash_on_flush: bool,
    /// How often it was started.
    starts: u64,
    /// What it knows of who keeps what.
    pub view: usize,
    pub executors: Vec<Executor>,
    /// The disks of a dead process.
    media: Vec<Medium>,
    /// The monotonic clock when the world began, in ms.
    mono_ms: u64,
    slow_us: u64,
    is_full: bool,
}

/// Where the next event of an executor comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Mesh(usize),
    Link(usize),
    Connection(ConnectionIx),
    Disk,
    Tick(Half),
}

impl Process {
    pub fn new(ix: usize, plan: &Plan, common: &Common) -> Self {
        let medium = || match plan.is_shared {
            true => Medium::Shared(common.clone()),
            false => Medium::new(plan.real_log, plan.seed as u32),
        };
        Process {
            ix,
            skew_us: plan.nodes[ix].skew_us,
            is_frozen: false,
            crash_on_flush: false,
            starts: 0,
            view: 0,
            executors: Vec::new(),
            media: (0..plan.nodes[ix].executors).map(|_| medium()).collect(),
            mono_ms: 10_000 * (ix as u64 + 1),
            slow_us: 0,
            is_full: false,
        }
    }

    pub fn is_up(&self) -> bool {
        !self.executors.is_empty()
    }

    pub fn now(&self, now_us: u64, wall_us: u64) -> Now {
        Now { mono_ms: self.mono_ms + now_us / 1_000, wall_us }
    }

    /// When an executor waits for time or its disk.
    pub fn next_us(&self) -> Option<u64> {
        if self.is_frozen {
            return None;
        }
        let deadlines = self.executors.iter().flat_map(|e| [e.edge_deadline, e.core_deadline].into_iter().flatten());
        let deadlines = deadlines.map(|at| at.saturating_sub(self.mono_ms) * 1_000);
        deadlines.chain(self.executors.iter().filter_map(|e| e.engine.next_at())).min()
    }

    pub fn set_slow(&mut self, slow_us: u64) {
        self.slow_us = slow_us;
        self.executors.iter_mut().for_each(|executor| executor.engine.set_slow(slow_us));
    }

    pub fn set_full(&mut self, full: bool) {
        self.is_full = full;
        self.executors.iter_mut().for_each(|executor| executor.engine.set_full(full));
    }

    /// The messages on its disks, whether the process lives or not.
    pub fn kept(&self) -> Vec<MessageId> {
        let living = self.executors.iter().flat_map(|executor| executor.engine.ids());
        living.chain(self.media.iter().flat_map(Medium::ids)).collect()
    }
}

impl Executor {
    fn sources(&self, world: &World, now: Now, found: &mut Vec<Source>) {
        let open = |from: usize| self.stalled & (1 << from) == 0;
        let mesh = self.mesh.iter().enumerate().filter(|(_, queue)| !queue.is_empty());
        found.extend(mesh.filter(|_| open(31)).map(|(from, _)| Source::Mesh(from)));
        let links = self.arrivals.iter().enumerate().filter(|(from, queue)| !queue.is_empty() && open(*from));
        found.extend(links.map(|(from, _)| Source::Link(from)));
        let connections = self.connections.iter().filter(|&&ix| world.connections[ix].has_up());
        found.extend(connections.map(|&ix| Source::Connection(ix)));
        if self.engine.is_ready(world.now_us) {
            found.push(Source::Disk);
        }
        if self.edge_deadline.is_some_and(|at| at <= now.mono_ms) {
            found.push(Source::Tick(Half::Edge));
        }
        if self.core_deadline.is_some_and(|at| at <= now.mono_ms) {
            found.push(Source::Tick(Half::Core));
        }
    }

    pub fn free_session(&mut self) -> SessionId {
        let free = self.sessions.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        SessionId(free as u32)
    }
}

impl World {
    /// One turn of some executor of this process. False if none has anything to do.
    pub fn process_acts(&mut self, node: usize) -> bool {
        let count = self.processes[node].executors.len();
        if count == 0 || self.processes[node].is_frozen {
            return false;
        }
        let start = self.rng.index(count);
        (start..start + count).any(|executor| self.turn(node, executor % count))
    }

    /// One turn of the loop: some events, what they cause within the executor, and the end of the turn.
    fn turn(&mut self, node: usize, executor: usize) -> bool {
        let burst = self.rng.range(1, self.plan.pace.burst);
        let is_eager = self.rng.permille(500);
        let mut sources = Vec::with_capacity(16);
        let mut handled = 0;
        while handled < burst && self.broken.is_none() {
            sources.clear();
            let Some(this) = self.processes[node].executors.get(executor) else { return true };
            this.sources(self, self.now(node), &mut sources);
            if sources.is_empty() {
                break;
            }
            let source = self.rng.pick(&sources);
            handled += 1;
            self.take(node, executor, source);
            if is_eager {
                self.take_local(node, executor);
            }
        }
        if handled > 0 && self.processes[node].is_up() {
            self.step += handled - 1;
            self.end_turn(node, executor);
        }
        handled > 0
    }

    fn end_turn(&mut self, node: usize, executor: usize) {
        let now = self.now(node);
        loop {
            self.take_local(node, executor);
            let mut actions = std::mem::take(&mut self.actions);
            self.processes[node].executors[executor].end_turn(now, &mut actions);
            self.perform_all(node, executor, actions);
            let this = self.processes[node].executors.get(executor);
            if this.is_none_or(|this| this.local.is_empty()) || self.broken.is_some() {
                break;
            }
        }
        let Some(this) = self.processes[node].executors.get_mut(executor) else { return };
        this.engine.flush(self.now_us, &mut self.rng);
        this.edge_deadline = this.edge.next_deadline();
        this.core_deadline = this.core.next_deadline();
    }

    fn take_local(&mut self, node: usize, executor: usize) {
        let mut count = 0;
        while self.broken.is_none()
            && let Some(this) = self.processes[node].executors.get_mut(executor)
            && let Some(parcel) = this.local.pop_front()
        {
            self.open(node, executor, node, parcel);
            count += 1;
            self.judge_ticks(count / LOCAL_MAX);
        }
    }

    fn take(&mut self, node: usize, executor: usize, source: Source) {
        let this = &mut self.processes[node].executors[executor];
        match source {
            Source::Mesh(from) => {
                if let Some(parcel) = this.mesh[from].pop_front() {
                    self.open(node, executor, node, parcel);
                }
            }
            Source::Link(from) => match this.arrivals[from].pop_front() {
                Some(Arrival::Parcel(parcel)) => self.open(node, executor, from, parcel),
                Some(Arrival::LinkUp(generation)) => {
                    this.view[from] = generation;
                    self.tell_edge(node, executor, EdgeEvent::LinkUp(NodeId(from as u32)));
                    self.tell_core(node, executor, CoreEvent::LinkUp(NodeId(from as u32)));
                }
                Some(Arrival::LinkDown) => {
                    this.view[from] = 0;
                    self.tell_edge(node, executor, EdgeEvent::LinkDown(NodeId(from as u32)));
                    self.tell_core(node, executor, CoreEvent::LinkDown(NodeId(from as u32)));
                }
                Some(Arrival::Leaving) => self.tell_edge(node, executor, EdgeEvent::Leaving(NodeId(from as u32))),
                Some(Arrival::View(view)) => {
                    let placement = &self.placements[view];
                    let (edge, core) = (Arc::clone(placement), Arc::clone(placement));
                    self.tell_edge(node, executor, EdgeEvent::Placement(edge));
                    self.tell_core(node, executor, CoreEvent::Placement(core));
                }
                None => {}
            },
            Source::Connection(connection) => self.take_up(connection),
            Source::Disk => self.take_disk(node, executor),
            Source::Tick(half) => self.tick(node, executor, half),
        }
    }

    fn tick(&mut self, node: usize, executor: usize, half: Half) {
        let this = &mut self.processes[node].executors[executor];
        this.ticks = if this.ticks.0 == self.now_us { (self.now_us, this.ticks.1 + 1) } else { (self.now_us, 0) };
        let count = this.ticks.1;
        match half {
            Half::Edge => {
                this.edge_deadline = None;
                self.tell_edge(node, executor, EdgeEvent::Tick);
            }
            Half::Core => {
                this.core_deadline = None;
                self.tell_core(node, executor, CoreEvent::Tick);
            }
        }
        self.judge_ticks(count);
    }

    fn take_disk(&mut self, node: usize, executor: usize) {
        let this = &mut self.processes[node].executors[executor];
        let (event, flushed) = this.engine.tell(self.now_us, &mut self.rng);
        let has_flushed = !flushed.is_empty();
        for record in flushed {
            self.on_flushed(node, &record);
        }
        if has_flushed && self.processes[node].crash_on_flush {
            return self.crash(node);
        }
        if let Some(event) = event {
            if let StorageEvent::Recovered { record, .. } = &event {
                self.on_flushed(node, record);
            }
            self.tell_core(node, executor, CoreEvent::Storage(event));
        }
    }

    fn on_flushed(&mut self, node: usize, record: &Record) {
        let Record::Entry(entry) = record else { return };
        if let Some(message) = self.ledger.find(entry.key.id) {
            // What is in the store is there for all.
            let nodes = if self.plan.is_shared { !0 } else { 1 << node };
            self.ledger.notes[message].flushed |= nodes;
        }
    }

    /// A message has reached its executor.
    fn open(&mut self, node: usize, executor: usize, from: usize, parcel: Parcel) {
        self.say(|| format!("{node}.{executor} <- {from}: {parcel:?}"));
        let from = NodeId(from as u32);
        match parcel {
            Parcel::Core(message) => self.tell_core(node, executor, CoreEvent::Peer(from, message)),
            Parcel::Cores(message) => self.tell_core(node, executor, CoreEvent::Cores(from, message)),
            Parcel::Edge(message) => self.tell_edge(node, executor, EdgeEvent::Peer(message)),
        }
    }

    pub fn tell_edge(&mut self, node: usize, executor: usize, event: EdgeEvent<'_>) {
        let now = self.now(node);
        let mut actions = std::mem::take(&mut self.actions);
        self.processes[node].executors[executor].edge.handle(now, event, &mut actions);
        self.perform_all(node, executor, actions);
    }

    pub fn tell_core(&mut self, node: usize, executor: usize, event: CoreEvent) {
        let now = self.now(node);
        let mut actions = std::mem::take(&mut self.actions);
        if matches!(event, CoreEvent::Storage(_)) {
            self.say(|| format!("{node}.{executor} {event:?}"));
        }
        self.processes[node].executors[executor].core.handle(now, event, &mut actions);
        self.perform_all(node, executor, actions);
    }

    pub fn now(&self, node: usize) -> Now {
        self.processes[node].now(self.now_us, self.wall_us(node))
    }

    fn perform_all(&mut self, node: usize, executor: usize, mut actions: Vec<Action>) {
        self.note((node * 4 + executor) as u64, actions.len() as u64);
        for action in actions.drain(..) {
            if self.processes[node].is_up() {
                self.perform(node, executor, action);
            }
        }
        self.actions = actions;
    }

    /// Starts a dead process: recovery first, then its links.
    pub fn start(&mut self, node: usize) {
        if self.processes[node].is_up() {
            return;
        }
        self.processes[node].starts += 1;
        let media = std::mem::take(&mut self.processes[node].media);
        let count = media.len();
        for (executor, medium) in media.into_iter().enumerate() {
            let this = self.new_executor(node, executor, count, medium);
            self.processes[node].executors.push(this);
        }
        for executor in 0..count {
            let found = self.processes[node].executors[executor].engine.recover();
            for event in found {
                self.tell_core(node, executor, CoreEvent::Storage(event));
            }
            self.tell_core(node, executor, CoreEvent::Recovered);
            let full = self.processes[node].is_full;
            self.processes[node].executors[executor].engine.set_full(full);
            self.end_turn(node, executor);
        }
        for other in 0..self.processes.len() {
            let is_wanted = self.wanted.contains(&(node, other)) || self.wanted.contains(&(other, node));
            if is_wanted || !self.plan.is_on_demand || self.is_healed {
                self.raise_link(node, other);
            }
        }
    }

    fn new_executor(&self, node: usize, executor: usize, executors: usize, medium: Medium) -> Executor {
        let (id, placement) = (ExecutorId(executor as u16), Arc::clone(&self.placements[self.processes[node].view]));
        let edge = EdgeConfig {
            node: NodeId(node as u32),
            executor: id,
            is_core: self.plan.nodes[node].core,
            limits: self.plan.edge.clone(),
            placement: Arc::clone(&placement),
            seed: (self.processes[node].starts << 8) | node as u64,
        };
        let core = CoreConfig {
            node: NodeId(node as u32),
            executor: id,
            executors: executors as u16,
            limits: self.plan.core.clone(),
            placement,
            reach: match self.plan.is_shared {
                true => Reach::Shared { copies: COPIES },
                false => Reach::Own,
            },
            seed: node as u64,
        };
        let mut engine = Engine::new(medium, self.plan.pace.flush_us);
        engine.set_slow(self.processes[node].slow_us);
        Executor {
            edge: EdgeNode::new(edge),
            core: CoreNode::new(core),
            engine,
            local: VecDeque::new(),
            mesh: vec![VecDeque::new(); executors],
            arrivals: vec![VecDeque::new(); self.plan.nodes.len()],
            view: vec![0; self.plan.nodes.len()],
            sessions: Vec::new(),
            connections: Vec::new(),
            stalled: 0,
            edge_deadline: None,
            core_deadline: None,
            ticks: (0, 0),
        }
    }

    /// The process dies: sessions, queues and what was not flushed are lost, but for a prefix.
    pub fn crash(&mut self, node: usize) {
        if !self.processes[node].is_up() {
            return;
        }
        self.say(|| format!("{node} crashes"));
        self.ledger.counts.crashes += 1;
        self.processes[node].crash_on_flush = false;
        for executor in std::mem::take(&mut self.processes[node].executors) {
            for connection in executor.connections {
                let keep = self.rng.index(self.connections[connection].down.len() + 1);
                self.connections[connection].cut(0, keep);
                self.connections[connection].is_served = false;
                self.connections[connection].held.clear();
            }
            let medium = executor.engine.crash(&mut self.rng);
            self.processes[node].media.push(medium);
        }
        for id in self.processes[node].kept() {
            if let Some(message) = self.ledger.find(id) {
                self.ledger.notes[message].flushed |= 1 << node;
            }
        }
        self.dials.retain(|&(from, _)| from != node);
        self.wanted.retain(|&(from, _)| from != node);
        for other in 0..self.processes.len() {
            self.cut_link(node, other);
        }
    }

    /// A dead process loses its disk.
    pub fn wipe(&mut self, node: usize) {
        self.ledger.counts.wipes += 1;
        self.processes[node].media.iter_mut().for_each(Medium::wipe);
    }
}

impl Executor {
    fn end_turn(&mut self, now: Now, out: &mut Vec<Action>) {
        let _ = (now, &out);
    }
}
