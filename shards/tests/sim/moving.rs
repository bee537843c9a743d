//! Plans in which the keepers of shards change: several shards over several cores, and views that reach each node at
//! another time, in another order, or only at the end.

use crate::plan::{NodePlan, Op, Plan};
use crate::rng::Rng;

/// Seeds from here on are plans of this file.
pub const MOVING: u64 = 1 << 32;

/// The keepers of each shard, by number of the node.
pub type Keepers = Vec<Vec<usize>>;

impl Plan {
    /// Two to four cores, one to three shards, one to four views.
    pub fn moving(seed: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0x6d6f_7669_6e67);
        let cores = rng.range(2, 4) as usize;
        let copies = rng.range(1, 3.min(cores as u64)) as usize;
        let edges_only = rng.range(0, 2) as usize;
        let both = edges_only == 0 || rng.permille(600);
        let node = |rng: &mut Rng, edge: bool, core: bool| NodePlan {
            edge,
            core,
            executors: rng.pick(&[1, 1, 2, 3]),
            skew_us: skew_us(rng),
        };
        let mut nodes: Vec<NodePlan> = (0..cores).map(|_| node(&mut rng, both, true)).collect();
        nodes.extend((0..edges_only).map(|_| node(&mut rng, true, false)));
        let mut plan = Plan::random(seed, rng.clone(), nodes, copies);
        let mut rng = Rng::new(seed ^ 0x76_6965_7773);
        plan.is_on_demand = rng.permille(700);
        plan.views = views(&mut rng, cores, copies);
        let lengths = || plan.views.iter().flatten().map(Vec::len);
        plan.copies = lengths().max().unwrap_or(1);
        let fewest = lengths().min().unwrap_or(1);
        plan.core.copies_min = if rng.permille(500) { fewest } else { rng.range(1, fewest as u64) as usize } as u8;
        plan.is_convergent = rng.permille(300);
        let mut ops = tell_views(&mut rng, &plan);
        if rng.permille(500) {
            partitions(&mut rng, &plan, &mut ops);
        }
        if rng.permille(400) {
            restarts(&mut rng, &plan, &mut ops);
        }
        plan.ops.extend(ops);
        plan.ops.sort_by_key(|(at, _)| *at);
        plan
    }
}

/// Most clocks are right within a second, some wrong by half a minute.
fn skew_us(rng: &mut Rng) -> i64 {
    let most = if rng.permille(150) { 29_000_000 } else { 1_000_000 };
    rng.range(0, 2 * most) as i64 - most as i64
}

fn views(rng: &mut Rng, cores: usize, copies: usize) -> Vec<Keepers> {
    let shards = rng.pick(&[1, 1, 2, 3]);
    let varies = rng.permille(250);
    // A joiner has nothing in the beginning.
    let first = if rng.permille(300) { copies.max(cores - 1) } else { cores };
    let mut views = vec![(0..shards).map(|_| some(rng, first, copies)).collect::<Keepers>()];
    for _ in 0..rng.pick(&[0, 1, 1, 1, 2, 3, 4]) {
        let mut next = views.last().cloned().unwrap_or_default();
        for keepers in &mut next {
            let copies = if varies { rng.range(1, 3.min(cores as u64)) as usize } else { copies };
            change(rng, cores, copies, keepers);
        }
        views.push(next);
    }
    views
}

fn some(rng: &mut Rng, cores: usize, copies: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..cores).collect();
    (0..copies.min(cores)).map(|_| all.swap_remove(rng.index(all.len()))).collect()
}

fn change(rng: &mut Rng, cores: usize, copies: usize, keepers: &mut Vec<usize>) {
    match rng.below(5) {
        0 => {}
        // All others, as far as there are any.
        1 => {
            let mut all: Vec<usize> = (0..cores).filter(|core| !keepers.contains(core)).collect();
            let more: Vec<usize> = (0..cores).filter(|core| keepers.contains(core)).collect();
            all.extend(more);
            *keepers = all.into_iter().take(copies).collect();
        }
        2 => *keepers = some(rng, cores, copies),
        _ => {
            let others: Vec<usize> = (0..cores).filter(|core| !keepers.contains(core)).collect();
            if !others.is_empty() {
                let at = rng.index(keepers.len());
                keepers[at] = rng.pick(&others);
            }
            keepers.truncate(copies);
        }
    }
}

/// Each view reaches each node at some time, and with it the older ones again, or never.
fn tell_views(rng: &mut Rng, plan: &Plan) -> Vec<(u64, Op)> {
    let mut ops = Vec::new();
    let (lost, spread) = (rng.pick(&[0, 0, 150]), rng.pick(&[1, 30, 200, 1_500]));
    for view in 1..plan.views.len() {
        let told = rng.below(plan.steps);
        for node in 0..plan.nodes.len() {
            if !rng.permille(lost) {
                ops.push((told + rng.below(spread), Op::View { node, view }));
            }
            if rng.permille(100) {
                ops.push((told + rng.below(2 * spread), Op::View { node, view: rng.index(view + 1) }));
            }
        }
    }
    ops
}

/// Half from half, one from all, or one direction only.
fn partitions(rng: &mut Rng, plan: &Plan, ops: &mut Vec<(u64, Op)>) {
    let count = plan.nodes.len();
    for _ in 0..rng.range(1, 3) {
        let at = rng.below(plan.steps);
        let until = at + rng.range(1, plan.steps / 3);
        let one = rng.index(count);
        let side: Vec<bool> = (0..count).map(|_| rng.permille(500)).collect();
        let is_isolated = rng.permille(400);
        if rng.permille(250) {
            let to = rng.index(count);
            for executor in 0..usize::from(plan.nodes[to].executors) {
                let (stall, unstall) =
                    (Op::Stall { node: to, executor, from: one }, Op::Unstall { node: to, executor, from: one });
                ops.extend([(at, stall), (until, unstall)]);
            }
            continue;
        }
        for a in 0..count {
            for b in a + 1..count {
                let apart = if is_isolated { a == one || b == one } else { side[a] != side[b] };
                if apart {
                    ops.extend([(at, Op::Sever(a, b)), (until, Op::Mend(a, b))]);
                }
            }
        }
    }
}

/// A rolling restart: each node says that it leaves, stops a little later, and comes back.
fn restarts(rng: &mut Rng, plan: &Plan, ops: &mut Vec<(u64, Op)>) {
    let mut at = rng.below(plan.steps / 2);
    let (stay, away) = (rng.range(1, 200), rng.range(1, 200));
    for node in 0..plan.nodes.len() {
        ops.extend([(at, Op::Leave(node)), (at + stay, Op::Crash(node)), (at + stay + away, Op::Restart(node))]);
        at += stay + rng.range(1, 2 * away);
    }
}
