//! Faults under a checked load: the load runs from the first fault to the last, each fault is followed by a wait until
//! messages flow again, and at the end everything that was confirmed has to be there, once and in order.

use std::time::{Duration, Instant};

use iris_perf::soak::{Outcome, Plan, Soak};

use super::Cluster;
use super::ground::Ground;

/// Messages flow again when this part of the rate is reached for [`FLOW`].
const FLOW_SHARE: f64 = 0.5;
const FLOW: Duration = Duration::from_millis(500);
/// Between two faults.
const DWELL: Duration = Duration::from_millis(1_500);
/// A fault that is shorter may be over before anybody has noticed.
const NOTICED: Duration = Duration::from_secs(2);
/// The longest that messages may not flow behind a fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// See the module.
pub struct Drill {
    pub cluster: Cluster,
    name: &'static str,
    soak: Option<Soak>,
    rate: f64,
    faults: Vec<(String, u128)>,
}

/// Messages per second; IRIS_SOAK_RATE is another. Binaries of the check are less optimised, and not alone.
pub fn rate() -> f64 {
    let usual = if cfg!(debug_assertions) { 8_000.0 } else { 22_000.0 };
    std::env::var("IRIS_SOAK_RATE").map_or(usual, |rate| rate.parse().expect("IRIS_SOAK_RATE is a number"))
}

impl Drill {
    /// Users come to all doors of a cluster, and messages flow.
    pub fn start(name: &'static str, cluster: Cluster, change: impl FnOnce(&mut Plan)) -> Drill {
        let mut plan = Plan::new(cluster.doors());
        plan.rate = rate();
        change(&mut plan);
        let rate = plan.rate;
        let soak = cluster.ground().among_clients(|| Soak::start(plan).expect("a soak"));
        let mut drill = Drill { cluster, name, soak: Some(soak), rate, faults: Vec::new() };
        drill.until_flowing("the start");
        drill
    }

    fn soak(&self) -> &Soak {
        self.soak.as_ref().expect("it runs")
    }

    /// Does something to the cluster, and waits until messages flow again.
    pub fn fault(&mut self, what: &str, inject: impl FnOnce(&mut Cluster)) {
        let before = self.soak().sight();
        eprintln!("{}: {what}", self.name);
        inject(&mut self.cluster);
        let took = self.until_flowing(what);
        // What a fault does may come only when somebody has noticed it.
        std::thread::sleep(DWELL);
        self.until_flowing(what);
        let after = self.soak().sight();
        eprintln!(
            "{}: {what}: messages flow after {took} ms; {} checked, {} refused meanwhile",
            self.name,
            after.checked - before.checked,
            after.refused - before.refused
        );
        self.faults.push((what.to_owned(), took));
    }

    /// Something that lasts: messages have to flow while it does (unless it is too short for that), and behind it.
    pub fn lasting(
        &mut self,
        (what, time): (&str, Duration),
        on: impl FnOnce(&mut Cluster),
        off: impl FnOnce(&mut Cluster),
    ) {
        if time < NOTICED {
            return self.fault(&format!("{what} for {time:?}"), |cluster| {
                on(cluster);
                std::thread::sleep(time);
                off(cluster);
            });
        }
        let start = Instant::now();
        self.fault(&format!("{what} for {time:?}"), on);
        std::thread::sleep(time.saturating_sub(start.elapsed()));
        self.fault(&format!("behind: {what} for {time:?}"), off);
    }

    /// How long that took, ms.
    fn until_flowing(&mut self, behind: &str) -> u128 {
        let start = Instant::now();
        let enough = (self.rate * FLOW_SHARE * FLOW.as_secs_f64()) as u64;
        loop {
            let before = self.soak().sight();
            std::thread::sleep(FLOW);
            let sight = self.soak().sight();
            if sight.broken > 0 {
                self.end();
            }
            if sight.checked - before.checked >= enough {
                return (start.elapsed().saturating_sub(FLOW)).as_millis();
            }
            if start.elapsed() > PATIENCE {
                eprintln!("{}: messages do not flow behind {behind}: {sight:?}", self.name);
                self.end();
            }
        }
    }

    /// Judges.
    fn judge(&mut self) -> Outcome {
        let outcome = self.soak.take().expect("it runs").finish().expect("threads that end");
        println!("{} {}", self.name, outcome.json());
        self.keep(&outcome);
        outcome
    }

    fn end(&mut self) -> ! {
        let outcome = self.judge();
        panic!("{}: {}", self.name, outcome.broken().unwrap_or("messages did not flow"));
    }

    /// The end: a promise that was broken is a panic.
    pub fn finish(mut self) -> (Cluster, Outcome) {
        let outcome = self.judge();
        if let Some(broken) = outcome.broken() {
            panic!("{}: {broken}", self.name);
        }
        eprintln!(
            "{}: {} messages checked in {:.0} s, {} faults, nothing confirmed for {} ms at most, longest wait {} ms, {} late",
            self.name,
            outcome.checked,
            outcome.seconds,
            self.faults.len(),
            outcome.gap_ms,
            outcome.wait_ms,
            outcome.late
        );
        let Drill { cluster, .. } = self;
        (cluster, outcome)
    }

    /// Figures for whoever wants to quote them.
    fn keep(&self, outcome: &Outcome) {
        let faults: Vec<_> = self.faults.iter().map(|(what, took)| format!("{what}: {took} ms")).collect();
        let text =
            format!("{}\nfaults, and how long until messages flowed again:\n{}\n", outcome.json(), faults.join("\n"));
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        drop(std::fs::write(folder.join(format!("drill-{}.txt", self.name)), text));
    }
}

/// A ground where links can be cut. None where that is impossible, and the test says so.
pub fn cuttable(test: &str) -> Option<Ground> {
    let ground = Ground::best();
    if ground.namespaces().is_none() {
        eprintln!("SKIPPED: {test} needs root, `ip netns` and nftables");
        return None;
    }
    Some(ground)
}
