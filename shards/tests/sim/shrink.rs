//! A failing plan is made small: operations are left out, messages become fewer, as long as the same checker complains.

use iris_shards::mutant::Mutant;

use crate::plan::{Op, Plan};
use crate::run::run;

/// Runs that shrinking may cost.
const RUNS_MAX: u32 = 600;

struct Shrinker {
    best: Plan,
    checker: &'static str,
    broken_rule: Option<Mutant>,
    runs: u32,
}

/// The smallest plan found that breaks the same promise.
pub fn shrink(plan: &Plan, checker: &'static str, broken_rule: Option<Mutant>) -> Plan {
    let mut shrinker = Shrinker { best: plan.clone(), checker, broken_rule, runs: 0 };
    shrinker.cut_tail();
    shrinker.leave_out();
    shrinker.send_less();
    shrinker.simplify();
    shrinker.leave_out();
    shrinker.best
}

impl Shrinker {
    fn accepts(&mut self, plan: Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let broken = run(plan.clone(), self.broken_rule, false).broken;
        let same = broken.is_some_and(|violation| violation.checker == self.checker);
        if same {
            self.best = plan;
        }
        same
    }

    fn cut_tail(&mut self) {
        let mut steps = self.best.steps / 2;
        while steps > 8 {
            let mut plan = self.best.clone();
            plan.steps = steps;
            plan.ops.retain(|(at, _)| *at < steps);
            if !self.accepts(plan) {
                break;
            }
            steps /= 2;
        }
    }

    /// Leaves out runs of operations, long ones first.
    fn leave_out(&mut self) {
        let mut size = self.best.ops.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.best.ops.len() {
                let mut plan = self.best.clone();
                plan.ops.drain(at..(at + size).min(plan.ops.len()));
                if !self.accepts(plan) {
                    at += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    fn send_less(&mut self) {
        for at in 0..self.best.ops.len() {
            for fewer in [1, 2, 3] {
                let mut plan = self.best.clone();
                let Op::Send { count, bytes, .. } = &mut plan.ops[at].1 else { break };
                if *count <= fewer {
                    break;
                }
                (*count, *bytes) = (fewer, 4);
                if self.accepts(plan) {
                    break;
                }
            }
        }
    }

    fn simplify(&mut self) {
        let edits: [fn(&mut Plan); 6] = [
            |plan| plan.as_bytes = false,
            |plan| plan.nodes.iter_mut().for_each(|node| node.executors = 1),
            |plan| plan.nodes.iter_mut().for_each(|node| node.skew_us = 0),
            |plan| plan.pace.burst = 1,
            |plan| plan.users = 2.max(plan.users - 1),
            |plan| plan.pace.flush_us = (0, 0),
        ];
        for edit in edits {
            let mut plan = self.best.clone();
            edit(&mut plan);
            let fits = plan.ops.iter().all(|(_, op)| fits(&plan, op));
            if fits {
                self.accepts(plan);
            }
        }
    }
}

/// Whether an operation names only users and executors that are there.
fn fits(plan: &Plan, op: &Op) -> bool {
    match *op {
        Op::Send { from, to, .. } => from.max(to) < plan.users,
        Op::Lookup { client, about, .. } => client.max(about) < plan.users,
        Op::Pause(client) | Op::Resume(client) | Op::Deaf(client) | Op::Hear(client) => client < plan.users,
        Op::Vanish(client) | Op::Move(client) | Op::CutOnFrame(client, _) => client < plan.users,
        Op::Cut { client, .. } => client < plan.users,
        _ => true,
    }
}
