//! The whole cluster in one thread: processes, links, connections, clients, and the scheduler that picks the next step.
//!
//! Everything that happens comes from the plan and one stream of chance; the hash of all steps names the run.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iris_shards::event::Action;
use iris_shards::id::{NodeId, UserId};
use iris_shards::placement::Placement;
use iris_shards::ring::Ring;

use crate::check::{Verdict, Violation, bounds, converged, drained, login};
use crate::client::Client;
use crate::connection::Connection;
use crate::ledger::{ClientIx, ConnectionIx, Ledger};
use crate::links::Links;
use crate::moving::Keepers;
use crate::plan::{FrameKind, MessageKind, Op, Plan, cores};
use crate::process::Process;
use crate::rng::Rng;
use crate::shared::Common;

/// Midnight of some day, in µs since the Unix epoch.
const EPOCH_US: u64 = 1_700_000_000_000_000;
/// After the faults: what everything has to be done in.
const REST_US_MAX: u64 = 90_000_000;
const REST_STEPS_MAX: u64 = 400_000;

/// The cluster and everything around it.
pub struct World {
    pub plan: Plan,
    pub rng: Rng,
    pub now_us: u64,
    pub step: u64,
    pub hash: u64,
    pub processes: Vec<Process>,
    pub links: Links,
    pub clients: Vec<Client>,
    pub connections: Vec<Connection>,
    pub users: BTreeMap<UserId, ClientIx>,
    pub ledger: Ledger,
    /// Those of the plan's views.
    pub placements: Vec<Arc<Placement>>,
    /// Links that were asked for, and are to be tried.
    pub dials: Vec<(usize, usize)>,
    /// Links that somebody wants whenever they can be had.
    pub wanted: BTreeSet<(usize, usize)>,
    pub actions: Vec<Action>,
    /// Cuts that wait for a frame or message.
    pub armed_frames: Vec<(ClientIx, FrameKind)>,
    pub armed_messages: Vec<(usize, usize, MessageKind)>,
    pub refreshes_lost: bool,
    /// Everything is prompt: time passes only when nothing can be done.
    pub is_prompt: bool,
    /// The faults have stopped: who is taken over by a login of its own that was on its way logs in again.
    pub is_healed: bool,
    pub broken: Option<Violation>,
    pub trace: bool,
    next_op: usize,
}

impl World {
    /// All processes run and all links are up; no client is connected.
    pub fn new(plan: Plan) -> Self {
        let placements = plan.views.iter().map(|keepers| placement(&plan, keepers)).collect();
        let count = plan.nodes.len();
        let common = Common::default();
        let mut world = World {
            rng: Rng::new(plan.seed),
            now_us: 1_000,
            step: 0,
            hash: plan.seed,
            processes: (0..count).map(|ix| Process::new(ix, &plan, &common)).collect(),
            links: Links::new(count),
            clients: Vec::new(),
            connections: Vec::new(),
            users: BTreeMap::new(),
            ledger: Ledger::default(),
            placements,
            dials: Vec::new(),
            wanted: BTreeSet::new(),
            actions: Vec::new(),
            armed_frames: Vec::new(),
            armed_messages: Vec::new(),
            refreshes_lost: false,
            is_prompt: plan.pace.time_permille == 0,
            is_healed: false,
            broken: None,
            trace: false,
            next_op: 0,
            plan,
        };
        for ix in 0..world.plan.users {
            let user = UserId::parse(format!("user-{ix}").as_bytes()).unwrap();
            world.users.insert(user.clone(), ix);
            world.clients.push(Client::new(user));
        }
        (0..count).for_each(|node| world.start(node));
        world
    }

    /// Runs the plan, heals everything and waits for rest. Returns what was broken.
    pub fn run(&mut self) -> Option<Violation> {
        while self.step < self.plan.steps && self.broken.is_none() {
            self.apply_due();
            if !self.advance() {
                match self.plan.ops.get(self.next_op) {
                    Some(&(at, _)) => self.step = self.step.max(at),
                    None => break,
                }
            }
        }
        self.heal();
        if self.plan.is_convergent && self.broken.is_none() {
            let verdict = self.check_convergence();
            self.judge(verdict);
        }
        self.rest();
        if self.broken.is_none() {
            let verdict = self.check_presence();
            self.judge(verdict);
        }
        self.broken.clone()
    }

    fn apply_due(&mut self) {
        while let Some(&(at, op)) = self.plan.ops.get(self.next_op)
            && at <= self.step
        {
            self.next_op += 1;
            self.apply(op);
        }
    }

    /// One step of the scheduler. False if there is nothing to do, now or later.
    pub fn advance(&mut self) -> bool {
        self.step += 1;
        if !self.is_prompt && self.rng.permille(self.plan.pace.time_permille) {
            self.now_us += self.rng.below(self.plan.pace.time_us_max);
            return true;
        }
        if self.rng.permille(self.plan.pace.client_permille) {
            if self.any_client() || self.any_executor() {
                return true;
            }
        } else if self.any_executor() || self.any_client() {
            return true;
        }
        self.skip_time()
    }

    fn any_client(&mut self) -> bool {
        let count = self.clients.len();
        let start = self.rng.index(count);
        (start..start + count).any(|ix| self.client_acts(ix % count))
    }

    fn any_executor(&mut self) -> bool {
        if !self.dials.is_empty() && (self.is_prompt || self.rng.permille(200)) {
            self.dial();
            return true;
        }
        if self.any_turn() {
            return true;
        }
        let dials = !self.dials.is_empty();
        if dials {
            self.dial();
        }
        dials
    }

    fn any_turn(&mut self) -> bool {
        let count = self.processes.len();
        let start = self.rng.index(count);
        (start..start + count).any(|ix| self.process_acts(ix % count))
    }

    /// Nothing can be done now: time jumps to the next thing that somebody waits for.
    pub fn skip_time(&mut self) -> bool {
        let Some(next) = self.next_us() else { return false };
        self.note(0x7469, next);
        self.now_us = self.now_us.max(next);
        if !self.is_prompt && self.rng.permille(300) {
            self.now_us += self.rng.below(5_000);
        }
        true
    }

    /// When something happens by itself next. Never what could happen now: that is done first.
    pub fn next_us(&self) -> Option<u64> {
        let executors = self.processes.iter().filter_map(|process| process.next_us());
        let clients = self.clients.iter().filter(|client| !client.is_out);
        let clients = clients.flat_map(|client| {
            let connects = client.connection.is_none().then_some(client.away_until_us);
            let retries = client.refused.iter().map(|(due, _)| *due);
            connects.into_iter().chain(retries)
        });
        executors.chain(clients).filter(|&at| at > self.now_us).min()
    }

    /// Runs until nothing happens any more or everything has arrived, then checks.
    pub fn rest(&mut self) {
        let (steps, until) = (self.step + REST_STEPS_MAX, self.now_us + REST_US_MAX);
        while self.broken.is_none() {
            if self.is_idle_step() {
                let verdict = self.is_arrived();
                if verdict.is_ok() && self.is_settled() {
                    return;
                }
                if !self.skip_time() || self.now_us > until {
                    let verdict = verdict.and_then(|()| self.check_sessions());
                    let stuck = Violation { checker: "drained", what: "sessions or connections do not settle".into() };
                    self.judge(verdict.and(Err(stuck)));
                }
            }
            if self.step > steps {
                let verdict = self.is_arrived();
                let busy = Violation { checker: "drained", what: "the cluster does not come to rest".into() };
                self.judge(verdict.and(Err(busy)));
            }
        }
    }

    /// One step; true if there was nothing to do.
    pub fn is_idle_step(&mut self) -> bool {
        self.step += 1;
        !(self.any_executor() || self.any_client())
    }

    fn is_arrived(&self) -> Verdict {
        drained::at_rest(&self.ledger, &self.clients)
    }

    fn is_settled(&self) -> bool {
        let welcomed = |ix: ConnectionIx| self.connections[ix].is_welcomed;
        let rests = |client: &Client| client.refused.is_empty() && client.connection.is_some_and(welcomed);
        self.clients.iter().all(rests) && self.check_sessions().is_ok()
    }

    /// A user is away: what it has not taken is on the disk of everybody who keeps its shard, and of nobody else.
    fn check_convergence(&mut self) -> Verdict {
        let away = self.rng.index(self.clients.len());
        self.clients[away].is_out = true;
        if let Some(connection) = self.clients[away].connection {
            self.cut_connection(connection, 1_000, 0);
            self.clients[away].disconnect(0);
        }
        let others = (away + 1) % self.clients.len();
        self.submit(others, away, 2, 8);
        self.run_until(self.now_us + 4_000_000);
        let slot = iris_shards::slot::slot_of(self.clients[away].user.as_bytes());
        let keepers = self.placements.last().map_or(&[][..], |placement| placement.replicas(slot)).to_vec();
        let kept = self.processes.iter().map(|process| (NodeId(process.ix as u32), process.kept())).collect::<Vec<_>>();
        let verdict = converged::everywhere(&self.ledger, away, &keepers, &kept);
        self.clients[away].is_out = false;
        self.broken.clone().map_or(verdict, Err)
    }

    fn check_sessions(&self) -> Verdict {
        (0..self.clients.len())
            .try_for_each(|ix| login::one_session(ix, self.clients[ix].connection, &self.connections))
    }

    /// Everybody asks for everybody, before and after one user has left.
    fn check_presence(&mut self) -> Verdict {
        let lease_us = self.plan.core.lease_ms * 1_000;
        self.run_until(self.now_us + lease_us);
        self.check_lookups(None)?;
        let leaving = self.rng.index(self.clients.len());
        self.clients[leaving].is_out = true;
        if let Some(connection) = self.clients[leaving].connection {
            self.cut_connection(connection, 1_000, 0);
        }
        self.run_until(self.now_us + 3 * lease_us);
        self.check_lookups(Some(leaving))
    }

    fn check_lookups(&mut self, absent: Option<ClientIx>) -> Verdict {
        let present: Vec<ClientIx> = (0..self.clients.len()).filter(|ix| Some(*ix) != absent).collect();
        for &ix in &present {
            self.clients[ix].seen.clear();
            (0..self.clients.len()).for_each(|about| self.ask(ix, about, false));
        }
        let until = self.now_us + 500_000;
        self.run_until(until);
        self.broken.clone().map_or(Ok(()), Err)?;
        for &ix in &present {
            for about in 0..self.clients.len() {
                login::presence(about, Some(about) != absent, self.clients[ix].seen.get(&about).copied())?;
            }
        }
        Ok(())
    }

    /// Runs everything that can be done until then.
    pub fn run_until(&mut self, until_us: u64) {
        while self.broken.is_none() {
            if !self.is_idle_step() {
                continue;
            }
            match self.next_us() {
                Some(next) if next <= until_us => self.now_us = self.now_us.max(next),
                _ => break,
            }
        }
        self.now_us = self.now_us.max(until_us);
    }

    /// Keeps the first broken promise.
    pub fn judge(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict
            && self.broken.is_none()
        {
            self.say(|| format!("BROKEN {}: {}", violation.checker, violation.what));
            self.broken = Some(violation);
        }
    }

    /// A tick at the same moment as the one before: not often.
    pub fn judge_ticks(&mut self, count: u32) {
        self.judge(bounds::ticks(count));
    }

    pub fn wall_us(&self, node: usize) -> u64 {
        (EPOCH_US + self.now_us).saturating_add_signed(self.processes[node].skew_us)
    }

    /// The time of clients, in ms since the Unix epoch.
    pub fn true_ms(&self) -> u64 {
        (EPOCH_US + self.now_us) / 1_000
    }

    /// Puts something that happened into the hash of the run.
    pub fn note(&mut self, what: u64, which: u64) {
        self.hash = (self.hash ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ which;
        self.hash = self.hash.rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>6} {:>10}µs {}", self.step, self.now_us, shorten(&what()));
        }
    }

    pub fn connection_of(&self, client: ClientIx) -> Option<ConnectionIx> {
        self.clients[client].connection
    }

    pub fn apply_all(&mut self, ops: &[Op]) {
        ops.iter().for_each(|&op| self.apply(op));
    }
}

thread_local! {
    /// A ring takes longer to compile than a run.
    static RINGS: RefCell<BTreeMap<u32, Arc<Ring>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Every core may have something, whether it keeps a shard in this view or not.
fn placement(plan: &Plan, keepers: &Keepers) -> Arc<Placement> {
    let shards = keepers.len() as u32;
    let ring =
        RINGS.with_borrow_mut(|rings| rings.entry(shards).or_insert_with(|| Arc::new(Ring::new(shards))).clone());
    let node = |&ix: &usize| NodeId(ix as u32);
    let replicas = keepers.iter().map(|nodes| nodes.iter().map(node).collect()).collect();
    let cores: Vec<NodeId> = match plan.views.len() {
        1 => Vec::new(),
        _ => cores(&plan.nodes).map(|ix| node(&ix)).collect(),
    };
    Arc::new(Placement::new(ring, plan.copies as u8, replicas).with_cores(&cores))
}

/// Leaves out what a reader of a trace does not miss: the bodies, and most of the names of ids.
fn shorten(line: &str) -> String {
    let mut out = line.replace("018bcfe5-", "").replace("-7000-8000-000000", "…");
    while let Some(at) = out.find(", body: [") {
        let end = out[at..].find(']').map_or(out.len(), |end| at + end + 1);
        out.replace_range(at..end, "");
    }
    out
}
