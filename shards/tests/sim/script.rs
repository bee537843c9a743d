//! A hand-written schedule: a small cluster in which nothing happens but what a scenario says.

use iris_shards::limits::{CoreLimits, EdgeLimits};

use crate::ledger::{ClientIx, MessageIx, Told};
use crate::plan::{NodePlan, Op, Pace, Plan};
use crate::world::World;

/// Sends.
pub const A: ClientIx = 0;
/// Receives.
pub const B: ClientIx = 1;
/// Somebody else.
pub const C: ClientIx = 2;

/// A cluster under the hand of a scenario.
pub struct Script {
    pub world: World,
}

/// One node with both roles and one executor; three users; the default limits.
pub fn one_node() -> Plan {
    Plan {
        seed: 7,
        nodes: vec![NodePlan { edge: true, core: true, executors: 1, skew_us: 0 }],
        copies: 1,
        views: vec![vec![vec![0]]],
        is_on_demand: false,
        is_convergent: false,
        edge: EdgeLimits { silent_ms_max: 0, retry_ms: 20, ..EdgeLimits::default() },
        core: CoreLimits { lease_ms: 1_500, retry_ms: 20, grant_pause_ms: 0, ..CoreLimits::default() },
        users: 3,
        out_frames_max: 10_000,
        as_bytes: false,
        real_log: false,
        is_shared: false,
        pace: Pace { burst: 4, time_permille: 0, time_us_max: 0, client_permille: 300, flush_us: (1_000, 1_000) },
        steps: 0,
        ops: Vec::new(),
    }
}

/// Nodes 0..cores keep everything and have no clients; behind them are as many edges.
pub fn cluster(cores: usize, edges: usize) -> Plan {
    let node = |core: bool| NodePlan { edge: !core, core, executors: 1, skew_us: 0 };
    let nodes = (0..cores + edges).map(|ix| node(ix < cores)).collect();
    Plan { nodes, copies: cores, views: vec![vec![(0..cores).collect()]], ..one_node() }
}

impl Script {
    pub fn new(plan: Plan) -> Self {
        let mut world = World::new(plan);
        world.trace = std::env::var("SIM_TRACE").is_ok();
        world.clients.iter_mut().for_each(|client| client.is_out = true);
        let mut script = Script { world };
        script.settle();
        script
    }

    /// This user logs in at this node.
    pub fn login(&mut self, client: ClientIx, node: usize) -> &mut Self {
        self.world.connect_to(client, node);
        self.settle()
    }

    /// Everything that can happen now happens; time stands still.
    pub fn settle(&mut self) -> &mut Self {
        while self.world.broken.is_none() && !self.world.is_idle_step() {}
        self
    }

    /// The same, and time passes.
    pub fn wait(&mut self, ms: u64) -> &mut Self {
        let until = self.world.now_us + ms * 1_000;
        self.world.run_until(until);
        self
    }

    /// Does things, without letting anything happen.
    pub fn now(&mut self, ops: &[Op]) -> &mut Self {
        self.world.apply_all(ops);
        self
    }

    /// Does things and lets everything happen that they cause.
    pub fn then(&mut self, ops: &[Op]) -> &mut Self {
        self.now(ops).settle()
    }

    pub fn send(&mut self, from: ClientIx, to: ClientIx, count: u32) -> &mut Self {
        self.then(&[Op::Send { from, to, count, bytes: 8 }])
    }

    /// B has acknowledged a first message of A, and A's session has earned the direct path.
    pub fn earn_direct(&mut self) -> &mut Self {
        self.send(A, B, 1);
        let before = self.world.ledger.counts.direct;
        self.send(A, B, 1);
        assert!(self.world.ledger.counts.direct > before, "the direct path was not earned");
        self
    }

    pub fn taken(&self) -> usize {
        self.world.ledger.notes.iter().filter(|note| note.taken > 0).count()
    }

    pub fn told(&self, message: MessageIx) -> Told {
        self.world.ledger.notes[message].told
    }

    /// Nothing was broken so far.
    pub fn is_kept(&self) -> &Self {
        assert_eq!(self.world.broken, None);
        self
    }

    /// Everything is healed, comes to rest and was kept.
    pub fn finish(&mut self) {
        self.world.heal();
        self.world.rest();
        self.is_kept();
        let unanswered: usize = self.world.clients.iter().map(|client| client.pending.len()).sum();
        assert_eq!((unanswered, self.taken()), (0, self.world.ledger.notes.len()));
    }
}
