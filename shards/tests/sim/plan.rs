//! What a seed means: the cluster, its limits, and everything that is done to it, as a list that can be shortened.

use iris_shards::limits::{CoreLimits, EdgeLimits};

use crate::moving::{Keepers, MOVING};
use crate::rng::Rng;
use crate::sharing::SHARING;

/// What a run is. Equal plans give equal runs.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub nodes: Vec<NodePlan>,
    /// How many nodes keep a shard, at most.
    pub copies: usize,
    /// Who keeps what, one after the other; the first holds in the beginning, the last in the end.
    pub views: Vec<Keepers>,
    /// Links are made when they are asked for.
    pub is_on_demand: bool,
    /// In the end a user stays away for a while, and every copy has to be where it belongs.
    pub is_convergent: bool,
    pub edge: EdgeLimits,
    pub core: CoreLimits,
    pub users: usize,
    /// Frames in an out-buffer above which the shell says `Overfull`.
    pub out_frames_max: usize,
    /// Client frames travel as bytes, cut anywhere.
    pub as_bytes: bool,
    /// The embedded log on a simulated disk instead of the fast model of an engine.
    pub real_log: bool,
    /// All cores share one store.
    pub is_shared: bool,
    pub pace: Pace,
    /// Scheduler steps before everything is healed.
    pub steps: u64,
    /// What is done at which step, in order.
    pub ops: Vec<(u64, Op)>,
}

/// One process.
#[derive(Debug, Clone)]
pub struct NodePlan {
    pub edge: bool,
    pub core: bool,
    pub executors: u16,
    pub skew_us: i64,
}

/// How the scheduler chooses.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Events per turn of an executor, at most.
    pub burst: u64,
    /// Steps in a thousand that let time pass although there is something to do; 0: everything is prompt.
    pub time_permille: u64,
    pub time_us_max: u64,
    /// Steps in a thousand that are a client's.
    pub client_permille: u64,
    pub flush_us: (u64, u64),
}

/// One thing that is done to the cluster. Those that do not apply do nothing, so that any of them can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Send {
        from: usize,
        to: usize,
        count: u32,
        bytes: usize,
    },
    /// The application takes nothing any more.
    Pause(usize),
    Resume(usize),
    /// The client reads nothing any more.
    Deaf(usize),
    Hear(usize),
    /// The connection is cut; that many thousandths of what is under way still arrive.
    Cut {
        client: usize,
        keep_up: u64,
        keep_down: u64,
    },
    /// The connection is lost, and the server does not notice.
    Vanish(usize),
    /// A second login while the first lives on.
    Move(usize),
    /// The connection is cut when the next frame of this kind is written to it; the frame is lost.
    CutOnFrame(usize, FrameKind),
    /// The link is cut when the next message of this kind is put on it; the message is lost.
    CutOnMessage {
        from: usize,
        to: usize,
        kind: MessageKind,
    },
    Crash(usize),
    Restart(usize),
    /// The process dies when its next flush has returned, before anyone hears of it.
    CrashOnFlush(usize),
    /// Crash and lose the disk, unless that would take the last copy of a message that counts as stored.
    Wipe(usize),
    Sever(usize, usize),
    Mend(usize, usize),
    /// A new link replaces one that was not known to be dead.
    Blink(usize, usize),
    /// Nothing arrives at this executor from that node (or, if the same, from its other executors).
    Stall {
        node: usize,
        executor: usize,
        from: usize,
    },
    Unstall {
        node: usize,
        executor: usize,
        from: usize,
    },
    Freeze(usize),
    Thaw(usize),
    DiskFull(usize),
    DiskRoom(usize),
    SlowDisk(usize, u64),
    ClockStep(usize, i64),
    LoseRefreshes(bool),
    /// Time passes and nobody does anything.
    Sleep(u64),
    Lookup {
        client: usize,
        about: usize,
        watch: bool,
    },
    Drain(usize),
    /// The node learns who keeps what.
    View {
        node: usize,
        view: usize,
    },
    /// The node is about to stop: it says so, and what it has only in memory goes to the disk.
    Leave(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    Confirm,
    Deliver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    Append,
    Direct,
    Stored,
    Delivered,
    Bounce,
    Ack,
    Replica,
}

/// Which faults a run has. Each is on in about half of the seeds, so that rare combinations get room.
struct Flavour {
    cuts: bool,
    moves: bool,
    slow: bool,
    crashes: bool,
    wipes: bool,
    links: bool,
    stalls: bool,
    disk: bool,
    clocks: bool,
    sleeps: bool,
}

impl Plan {
    /// One node with both roles.
    pub fn single(seed: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0x51_6e61);
        let node = NodePlan { edge: true, core: true, executors: rng.range(1, 3) as u16, skew_us: 0 };
        Plan::random(seed, rng, vec![node], 1)
    }

    /// Several nodes with mixed roles, `copies` of them keep everything.
    pub fn cluster(seed: u64, copies_max: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0x636c_7573);
        let copies = rng.range(1, copies_max) as usize;
        let cores = copies;
        let edges_only = rng.range(u64::from(cores == 1), 2) as usize;
        let cores_only = rng.permille(300);
        let mut nodes = Vec::new();
        for _ in 0..cores {
            let edge = !cores_only || edges_only == 0;
            nodes.push(NodePlan { edge, core: true, executors: executors(&mut rng), skew_us: 0 });
        }
        for _ in 0..edges_only {
            nodes.push(NodePlan { edge: true, core: false, executors: executors(&mut rng), skew_us: 0 });
        }
        for node in &mut nodes {
            node.skew_us = rng.range(0, 2_000_000) as i64 - 1_000_000;
        }
        Plan::random(seed, rng, nodes, copies)
    }

    pub fn random(seed: u64, mut rng: Rng, nodes: Vec<NodePlan>, copies: usize) -> Plan {
        let (edge, mut core) = limits(&mut rng);
        core.copies_min = if rng.permille(500) { copies as u8 } else { rng.range(1, copies as u64) as u8 };
        let steps = rng.range(300, 4_000);
        let is_prompt = rng.permille(100);
        let pace = Pace {
            burst: rng.pick(&[1, 3, 8, 30]),
            time_permille: if is_prompt { 0 } else { rng.pick(&[2, 10, 40]) },
            time_us_max: rng.pick(&[300, 3_000, 30_000]),
            client_permille: rng.pick(&[150, 300, 500]),
            flush_us: rng.pick(&[(0, 0), (100, 2_000), (1_000, 40_000)]),
        };
        let mut plan = Plan {
            seed,
            views: vec![vec![cores(&nodes).take(copies).collect()]],
            is_on_demand: false,
            is_convergent: false,
            nodes,
            copies,
            edge,
            core,
            users: rng.range(2, 4) as usize,
            out_frames_max: rng.pick(&[4, 20, 500]),
            as_bytes: rng.permille(150),
            real_log: rng.permille(150),
            is_shared: false,
            pace,
            steps,
            ops: Vec::new(),
        };
        plan.ops = operations(&mut rng, &plan);
        plan
    }

    /// Whether a message may be seen after later ones (the operator's choice, `delivery.md`).
    pub fn may_be_late(&self) -> bool {
        usize::from(self.core.copies_min) < self.copies
    }
}

/// The numbers of the nodes that are cores.
pub fn cores(nodes: &[NodePlan]) -> impl Iterator<Item = usize> + '_ {
    nodes.iter().enumerate().filter(|(_, node)| node.core).map(|(ix, _)| ix)
}

fn executors(rng: &mut Rng) -> u16 {
    rng.pick(&[1, 1, 2, 3])
}

fn limits(rng: &mut Rng) -> (EdgeLimits, CoreLimits) {
    let retry_ms = rng.pick(&[20, 100]);
    let lease_ms = rng.pick(&[300, 1_500, 15_000]);
    let edge = EdgeLimits {
        window_messages: rng.pick(&[3, 16, 64]),
        silent_ms_max: 0,
        window_bytes: 65_536,
        body_bytes_max: 16 << 10,
        delivery_messages_max: rng.pick(&[1, 3, 16, 64]),
        delivery_ms_max: rng.pick(&[15, 60, 500]),
        pairs_max: rng.pick(&[1, 2, 8, 1_024]),
        outstanding_bytes_max: rng.pick(&[200, 1 << 20, 1 << 20]),
        refresh_ms: lease_ms / 3,
        retry_ms,
        ..EdgeLimits::default()
    };
    let core = CoreLimits {
        inbox_messages_max: rng.pick(&[6, 1_000, 1_000]),
        page_messages: rng.pick(&[1, 2, 8, 256]),
        log_delay_ms: rng.pick(&[0, 5, 30, 100]),
        unlogged_bytes_max: rng.pick(&[100, 16 << 20]),
        unflushed_bytes_max: rng.pick(&[300, 64 << 20, 64 << 20]),
        tombstone_keep_ms: rng.pick(&[1_000, 120_000]),
        // Long pauses would hide what direct messages can do wrong.
        grant_pause_ms: 0,
        lease_ms,
        retry_ms,
        ..CoreLimits::default()
    };
    (edge, core)
}

fn flavour(rng: &mut Rng) -> Flavour {
    let calm = rng.permille(100);
    let mut is = |chance: u64| !calm && rng.permille(chance);
    Flavour {
        cuts: is(600),
        moves: is(500),
        slow: is(500),
        crashes: is(350),
        wipes: is(350),
        links: is(600),
        stalls: is(400),
        disk: is(300),
        clocks: is(200),
        sleeps: is(400),
    }
}

fn operations(rng: &mut Rng, plan: &Plan) -> Vec<(u64, Op)> {
    let flavour = flavour(rng);
    let mut ops = Vec::new();
    for _ in 0..rng.range(4, 40) {
        let at = rng.below(plan.steps);
        let (from, to) = pair(rng, plan.users);
        let count = rng.pick(&[1, 1, 2, 3, 5, 12]);
        let most = plan.edge.outstanding_bytes_max.min(plan.core.unflushed_bytes_max) / 3;
        let bytes = if rng.permille(20) { 9_000 } else { rng.range(0, 60) };
        let bytes = bytes.min(most) as usize;
        ops.push((at, Op::Send { from, to, count, bytes }));
    }
    let faults = rng.range(1, 40);
    for _ in 0..faults {
        let at = rng.below(plan.steps);
        // Most faults end after a while; what is left is healed at the end.
        let until = at + rng.range(1, plan.steps / 3);
        fault(rng, plan, &flavour, (at, until), &mut ops);
    }
    interrupt_syncs(plan, &mut ops);
    ops.sort_by_key(|(at, _)| *at);
    ops
}

/// Some wiped nodes die once more while they get everything back, and are alone when they return.
fn interrupt_syncs(plan: &Plan, ops: &mut Vec<(u64, Op)>) {
    // Its own chance, so that all other seeds mean what they meant before.
    let mut rng = Rng::new(plan.seed ^ 0x73_796e_6373);
    let wiped = ops.iter().filter_map(|(at, op)| match op {
        Op::Wipe(node) if plan.nodes[*node].core && plan.copies > 1 => Some((*at, *node)),
        _ => None,
    });
    for (at, node) in wiped.collect::<Vec<_>>() {
        if rng.permille(500) {
            let (died, back) = (at + rng.range(1, 60), at + rng.range(60, 400));
            ops.extend([(at + 1, Op::Restart(node)), (died, Op::CrashOnFlush(node))]);
            for other in (0..plan.nodes.len()).filter(|&other| other != node && plan.nodes[other].core) {
                ops.extend([(back, Op::Sever(node, other)), (back + 600, Op::Mend(node, other))]);
            }
            ops.push((back, Op::Restart(node)));
        }
    }
}

/// One in three users gets most of the traffic, so that pairs have several messages under way.
fn pair(rng: &mut Rng, users: usize) -> (usize, usize) {
    if rng.permille(600) {
        return (0, 1);
    }
    let from = rng.index(users);
    let to = (from + 1 + rng.index(users - 1)) % users;
    (from, to)
}

fn fault(rng: &mut Rng, plan: &Plan, flavour: &Flavour, span: (u64, u64), ops: &mut Vec<(u64, Op)>) {
    let client = if rng.permille(600) { rng.index(2) } else { rng.index(plan.users) };
    match rng.below(10) {
        0 | 1 if flavour.cuts => ops.push((span.0, cut(rng, client))),
        2 if flavour.moves => {
            let op = rng.pick(&[Op::Move(client), Op::Move(client), Op::Vanish(client)]);
            ops.push((span.0, op));
        }
        3 if flavour.slow => {
            let (from, to) = rng.pick(&[(Op::Pause(client), Op::Resume(client)), (Op::Deaf(client), Op::Hear(client))]);
            ops.extend([(span.0, from), (span.1, to)]);
        }
        4 if flavour.crashes || flavour.wipes => crash(rng, plan, flavour, span, ops),
        5 | 6 if flavour.links && plan.nodes.len() > 1 => link(rng, plan, span, ops),
        7 if flavour.stalls => stall(rng, plan, span, ops),
        8 if flavour.disk => {
            let node = rng.index(plan.nodes.len());
            let slow = Op::SlowDisk(node, rng.pick(&[5_000, 50_000, 400_000]));
            let (from, to) = rng.pick(&[(Op::DiskFull(node), Op::DiskRoom(node)), (slow, Op::SlowDisk(node, 0))]);
            ops.extend([(span.0, from), (span.1, to)]);
        }
        9 => odd(rng, plan, flavour, span, ops),
        _ => {}
    }
}

fn cut(rng: &mut Rng, client: usize) -> Op {
    match rng.below(5) {
        0 => Op::CutOnFrame(client, FrameKind::Deliver),
        1 | 2 => Op::CutOnFrame(client, FrameKind::Confirm),
        _ => Op::Cut { client, keep_up: rng.pick(&[0, 500, 1_000]), keep_down: rng.pick(&[0, 0, 500, 1_000]) },
    }
}

fn crash(rng: &mut Rng, plan: &Plan, flavour: &Flavour, span: (u64, u64), ops: &mut Vec<(u64, Op)>) {
    let node = rng.index(plan.nodes.len());
    let op = match rng.below(4) {
        0 if flavour.wipes => Op::Wipe(node),
        1 => Op::CrashOnFlush(node),
        _ => Op::Crash(node),
    };
    ops.extend([(span.0, op), (span.1, Op::Restart(node))]);
}

const KINDS: [MessageKind; 9] = [
    MessageKind::Append,
    MessageKind::Direct,
    MessageKind::Stored,
    MessageKind::Stored,
    MessageKind::Delivered,
    MessageKind::Delivered,
    MessageKind::Bounce,
    MessageKind::Ack,
    MessageKind::Replica,
];

fn link(rng: &mut Rng, plan: &Plan, span: (u64, u64), ops: &mut Vec<(u64, Op)>) {
    let (a, b) = pair(rng, plan.nodes.len());
    let (from, to) = if rng.permille(500) { (a, b) } else { (b, a) };
    match rng.below(3) {
        0 => ops.push((span.0, Op::Blink(a, b))),
        1 => ops.extend([(span.0, Op::Sever(a, b)), (span.1, Op::Mend(a, b))]),
        _ => ops.extend([(span.0, Op::CutOnMessage { from, to, kind: rng.pick(&KINDS) }), (span.1, Op::Mend(a, b))]),
    }
}

fn stall(rng: &mut Rng, plan: &Plan, span: (u64, u64), ops: &mut Vec<(u64, Op)>) {
    let node = rng.index(plan.nodes.len());
    if rng.permille(250) {
        ops.extend([(span.0, Op::Freeze(node)), (span.1, Op::Thaw(node))]);
        return;
    }
    let executor = rng.index(usize::from(plan.nodes[node].executors));
    let from = rng.index(plan.nodes.len());
    ops.extend([(span.0, Op::Stall { node, executor, from }), (span.1, Op::Unstall { node, executor, from })]);
}

fn odd(rng: &mut Rng, plan: &Plan, flavour: &Flavour, span: (u64, u64), ops: &mut Vec<(u64, Op)>) {
    match rng.below(5) {
        0 if flavour.clocks => {
            let step = rng.range(0, 4_000_000) as i64 - 2_000_000;
            ops.push((span.0, Op::ClockStep(rng.index(plan.nodes.len()), step)));
        }
        1 if flavour.sleeps => ops.push((span.0, Op::Sleep(rng.pick(&[5, 50, 500, 3_000])))),
        2 if flavour.stalls => ops.extend([(span.0, Op::LoseRefreshes(true)), (span.1, Op::LoseRefreshes(false))]),
        3 if flavour.moves => ops.push((span.0, Op::Drain(rng.index(plan.nodes.len())))),
        _ => {
            let (client, about) = pair(rng, plan.users);
            ops.push((span.0, Op::Lookup { client, about, watch: rng.permille(300) }));
        }
    }
}

impl Plan {
    /// The plan of a seed: a third are single nodes, a third edges with one core, a third have up to three replicas; in
    /// those from [`MOVING`] on shards move, in those from [`SHARING`] on the cores share a store.
    pub fn of(seed: u64) -> Plan {
        match seed % 3 {
            _ if seed >= SHARING => Plan::sharing(seed),
            _ if seed >= MOVING => Plan::moving(seed),
            0 => Plan::single(seed),
            1 => Plan::cluster(seed, 1),
            _ => Plan::cluster(seed, 3),
        }
    }
}
