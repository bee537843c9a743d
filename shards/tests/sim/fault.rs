//! What is done to the cluster: every operation of a plan, and how all of it is healed.

use iris_shards::event::{CoreEvent, EdgeEvent};

use crate::connection::{Down, Up};
use crate::ledger::{ClientIx, ConnectionIx};
use crate::plan::Op;
use crate::process::Arrival;
use crate::world::World;

/// The bit of `Executor::stalled` for the mesh of its node.
const MESH: u32 = 31;

impl World {
    /// Does one thing. What does not apply does nothing.
    pub fn apply(&mut self, op: Op) {
        self.say(|| format!("--- {op:?}"));
        match op {
            Op::Send { from, to, count, bytes } => self.submit(from, to, count, bytes),
            Op::Pause(client) => self.clients[client].is_paused = true,
            Op::Resume(client) => self.clients[client].is_paused = false,
            Op::Deaf(client) => self.clients[client].is_deaf = true,
            Op::Hear(client) => self.clients[client].is_deaf = false,
            Op::Cut { client, keep_up, keep_down } => {
                if let Some(connection) = self.connection_of(client) {
                    self.cut_connection(connection, keep_up, keep_down);
                }
            }
            Op::Vanish(client) => self.vanish(client),
            Op::Move(client) => self.relocate(client),
            Op::CutOnFrame(client, kind) => self.armed_frames.push((client, kind)),
            Op::CutOnMessage { from, to, kind } => self.armed_messages.push((from, to, kind)),
            Op::Lookup { client, about, watch } => self.ask(client, about, watch),
            Op::Sleep(ms) => self.now_us += ms * 1_000,
            Op::LoseRefreshes(lost) => self.refreshes_lost = lost,
            op => self.apply_to_node(op),
        }
    }

    fn apply_to_node(&mut self, op: Op) {
        match op {
            Op::Crash(node) => self.crash(node),
            Op::Restart(node) => self.start(node),
            Op::CrashOnFlush(node) => self.processes[node].crash_on_flush = true,
            Op::Wipe(node) => {
                self.crash(node);
                if !self.processes[node].is_up() && self.may_wipe(node) {
                    self.wipe(node);
                }
            }
            Op::Sever(a, b) => {
                self.links.sever(a, b, true);
                self.cut_link(a, b);
            }
            Op::Mend(a, b) => {
                self.links.sever(a, b, false);
                let is_wanted = self.wanted.contains(&(a, b)) || self.wanted.contains(&(b, a));
                if is_wanted || !self.plan.is_on_demand {
                    self.raise_link(a, b);
                }
            }
            Op::Blink(a, b) => {
                self.cut_link(a, b);
                self.raise_link(a, b);
            }
            Op::Stall { node, executor, from } => self.stall(node, executor, from, true),
            Op::Unstall { node, executor, from } => self.stall(node, executor, from, false),
            Op::Freeze(node) => self.processes[node].is_frozen = true,
            Op::Thaw(node) => self.processes[node].is_frozen = false,
            Op::DiskFull(node) => self.processes[node].set_full(true),
            Op::DiskRoom(node) => self.processes[node].set_full(false),
            Op::SlowDisk(node, slow_us) => self.processes[node].set_slow(slow_us),
            Op::ClockStep(node, step_us) => self.processes[node].skew_us += step_us,
            Op::View { node, view } => self.learn(node, view),
            Op::Leave(node) => self.announce_leave(node),
            Op::Drain(node) => {
                for executor in 0..self.processes[node].executors.len() {
                    self.tell_edge(node, executor, EdgeEvent::Drain { within_ms: 50 });
                }
            }
            _ => {}
        }
    }

    /// Everything that was done is undone, and everybody is connected.
    pub fn heal(&mut self) {
        self.say(|| "--- heal".into());
        self.armed_frames.clear();
        self.armed_messages.clear();
        self.refreshes_lost = false;
        self.is_prompt = true;
        self.is_healed = true;
        self.plan.out_frames_max = 100_000;
        for node in 0..self.processes.len() {
            self.learn(node, self.plan.views.len() - 1);
            let process = &mut self.processes[node];
            process.is_frozen = false;
            process.crash_on_flush = false;
            process.executors.iter_mut().for_each(|executor| executor.stalled = 0);
            process.set_full(false);
            process.set_slow(0);
            self.start(node);
        }
        for a in 0..self.processes.len() {
            for b in a + 1..self.processes.len() {
                self.links.sever(a, b, false);
                self.raise_link(a, b);
            }
        }
        for client in &mut self.clients {
            client.is_paused = false;
            client.is_deaf = false;
            client.is_out = false;
        }
        for connection in self.connections.iter_mut().filter(|connection| connection.is_mute) {
            connection.is_mute = false;
        }
        self.end_drains();
    }

    /// A drained node is restarted, as its operator would.
    fn end_drains(&mut self) {
        let drained: Vec<usize> = self
            .plan
            .ops
            .iter()
            .filter_map(|(_, op)| match op {
                Op::Drain(node) | Op::Leave(node) => Some(*node),
                _ => None,
            })
            .collect();
        for node in drained {
            self.crash(node);
            self.start(node);
        }
    }

    /// The node learns who keeps what, each of its executors when it comes to it.
    fn learn(&mut self, node: usize, view: usize) {
        if self.plan.views.len() == 1 {
            return;
        }
        self.processes[node].view = view;
        for executor in &mut self.processes[node].executors {
            executor.arrivals[node].push_back(Arrival::View(view));
        }
    }

    /// The node is about to stop, and says so to everybody.
    fn announce_leave(&mut self, node: usize) {
        for executor in 0..self.processes[node].executors.len() {
            self.tell_core(node, executor, CoreEvent::Leave);
        }
        for executor in 0..self.processes[node].executors.len() {
            self.tell_edge(node, executor, EdgeEvent::Drain { within_ms: 50 });
        }
        for other in (0..self.processes.len()).filter(|&other| other != node) {
            if self.links.generation(node, other).is_some() {
                let executors = self.processes[other].executors.iter_mut();
                executors.for_each(|executor| executor.arrivals[node].push_back(Arrival::Leaving));
            }
        }
    }

    /// A machine asks for a link.
    pub fn on_wanted(&mut self, from: usize, to: usize) {
        if self.plan.nodes[to].core {
            self.wanted.insert((from, to));
        }
        if self.links.generation(from, to).is_none() && !self.dials.contains(&(from, to)) {
            self.dials.push((from, to));
        }
    }

    /// One of the links that were asked for comes up, or its asker is told that it does not.
    pub fn dial(&mut self) {
        let at = self.rng.index(self.dials.len());
        let (from, to) = self.dials.swap_remove(at);
        self.raise_link(from, to);
        if self.links.generation(from, to).is_none() {
            let executors = self.processes[from].executors.iter_mut();
            executors.for_each(|executor| executor.arrivals[to].push_back(Arrival::LinkDown));
        }
    }

    fn stall(&mut self, node: usize, executor: usize, from: usize, stalled: bool) {
        let bit = if node == from { 1 << MESH } else { 1 << from };
        let Some(this) = self.processes[node].executors.get_mut(executor) else { return };
        if stalled {
            this.stalled |= bit;
        } else {
            this.stalled &= !bit;
        }
    }

    /// The link is lost with everything on it; both sides hear of it when they come to it.
    pub fn cut_link(&mut self, a: usize, b: usize) {
        if a == b || !self.links.cut(a, b) {
            return;
        }
        self.ledger.counts.link_cuts += 1;
        for (here, there) in [(a, b), (b, a)] {
            for executor in &mut self.processes[here].executors {
                executor.arrivals[there].retain(|arrival| !matches!(arrival, Arrival::Parcel(_)));
                executor.arrivals[there].push_back(Arrival::LinkDown);
            }
        }
    }

    pub fn raise_link(&mut self, a: usize, b: usize) {
        if a == b || !self.processes[a].is_up() || !self.processes[b].is_up() {
            return;
        }
        let Some(generation) = self.links.raise(a, b) else { return };
        for (here, there) in [(a, b), (b, a)] {
            for executor in &mut self.processes[here].executors {
                executor.arrivals[there].push_back(Arrival::LinkUp(generation));
            }
        }
    }

    /// That many thousandths of what is under way still arrive.
    pub fn cut_connection(&mut self, connection: ConnectionIx, keep_up: u64, keep_down: u64) {
        let this = &self.connections[connection];
        let keep = |len: usize, permille: u64| (len as u64 * permille / 1_000) as usize;
        let (up, down) = (keep(this.up.len(), keep_up), keep(this.down.len(), keep_down));
        self.cut_connection_at(connection, up, down);
    }

    pub fn cut_connection_at(&mut self, connection: ConnectionIx, keep_up: usize, keep_down: usize) {
        self.ledger.counts.connection_cuts += 1;
        self.connections[connection].cut(keep_up, keep_down);
    }

    /// The client is gone, and its server notices only much later.
    fn vanish(&mut self, client: ClientIx) {
        let Some(connection) = self.connection_of(client) else { return };
        let this = &mut self.connections[connection];
        if !this.is_ended {
            let keep = self.rng.index(this.up.len() + 1);
            this.up.truncate(keep);
            this.up.push_back(Up::End);
            this.is_mute = true;
        }
        this.down.clear();
        this.down.push_back(Down::End);
    }

    /// The client logs in again while its first connection lives on.
    fn relocate(&mut self, client: ClientIx) {
        let up = |node: &usize| self.plan.nodes[*node].edge && self.processes[*node].is_up();
        let edges: Vec<usize> = (0..self.processes.len()).filter(up).collect();
        let is_there = self.connection_of(client).is_some_and(|connection| self.connections[connection].is_welcomed);
        if !edges.is_empty() && is_there {
            let node = self.rng.pick(&edges);
            self.connect_to(client, node);
        }
    }

    /// Whether every message that counts as stored has a copy on the disk of another node.
    fn may_wipe(&self, node: usize) -> bool {
        let others = self.processes.iter().filter(|process| process.ix != node);
        let kept: Vec<_> = others.flat_map(|process| process.kept()).collect();
        let needed = self.ledger.notes.iter().filter(|note| note.claimed > 0 && note.taken == 0);
        needed.into_iter().all(|note| kept.contains(&note.id))
    }
}
