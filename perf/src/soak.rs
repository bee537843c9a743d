//! `soak`: a checked load that outlives its servers. Many users write to each other over all edges of a cluster, some of
//! them come and go, and whoever loses its connection goes to another edge and repeats what has no answer. At the end
//! nothing that was confirmed may be missing, nothing may have come out of order or as two messages.
//!
//! Faults are injected by others meanwhile (an operator, the tests), or not at all. All users of a pair are in one
//! thread, so that its books need no locks.

mod account;
mod board;
mod line;
mod plan;
mod stamp;
mod thread;
mod user;

pub use board::Sight;
pub use plan::Plan;

use crate::latency::Latencies;
use crate::ledger::Faults;
use crate::progress::Progress;
use crate::report::{Fields, Headline, Report, json, line};
use account::Counts;
use anyhow::{Context, Result, anyhow, ensure};
use board::{Board, Phase};
use serde_json::Value;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thread::{Harvest, Thread};

/// Between two looks at the board.
const LOOK: Duration = Duration::from_millis(20);
/// Messages checked per second.
const HEADLINE: Headline = Headline { name: "checked_per_second", is_more_better: true };

/// A soak that runs.
pub struct Soak {
    plan: Arc<Plan>,
    board: Arc<Board>,
    threads: Vec<JoinHandle<Result<Harvest>>>,
    started: Instant,
}

/// What came of it.
pub struct Outcome {
    report: Report,
    /// Confirmed, taken, and found right.
    pub checked: u64,
    /// Taken behind a later message of the same sender (neither was refused).
    pub late: u64,
    /// Messages that had no answer when the soak ended.
    pub unanswered: u64,
    /// The longest time in which nothing was confirmed, ms.
    pub gap_ms: u64,
    /// The longest that a single message waited for its first confirmation, ms.
    pub wait_ms: u64,
    /// How long users sent, s.
    pub seconds: f64,
}

impl Soak {
    /// Users come and begin to talk. Threads run in the network namespace of the caller.
    ///
    /// Errors: the plan cannot be, or the machine has no thread or descriptor for it.
    pub fn start(plan: Plan) -> Result<Self> {
        ensure!(!plan.servers.is_empty(), "no servers");
        ensure!(plan.threads > 0 && plan.users as usize >= plan.threads * 2, "each thread needs two users at least");
        let (last, count) = (u64::from(plan.recipients - 1), u64::from(plan.users) / plan.threads as u64);
        let reach = thread::distance(last) + 1;
        ensure!(count >= reach, "{} recipients need {reach} users per thread", plan.recipients);
        let (board, plan) = (Arc::new(Board::new(plan.threads)), Arc::new(plan));
        let start = |number| {
            let thread = Thread::new(Arc::clone(&plan), Arc::clone(&board), number)?;
            Ok(std::thread::Builder::new().name(format!("soak-{number}")).spawn(move || thread.run())?)
        };
        let threads = (0..plan.threads).map(start).collect::<Result<_>>()?;
        Ok(Self { plan, board, threads, started: Instant::now() })
    }

    /// How far it is.
    pub fn sight(&self) -> Sight {
        self.board.sight()
    }

    /// For how long nothing was confirmed now, ms.
    pub fn quiet_ms(&self) -> u64 {
        self.board.gaps_ns().1 / 1_000_000
    }

    /// Sends nothing new, waits until everything is confirmed and taken (at most `settle_seconds`), and judges.
    ///
    /// Errors: a thread failed for a reason of this machine.
    pub fn finish(self) -> Result<Outcome> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.board.advance(Phase::Settle);
        let limit = Instant::now() + Duration::from_secs_f64(self.plan.settle_seconds.clamp(0.0, 86_400.0));
        let is_settled = || self.threads.iter().any(JoinHandle::is_finished) || self.sight().unsettled == 0;
        while Instant::now() < limit && !is_settled() {
            std::thread::sleep(LOOK);
        }
        self.board.advance(Phase::Done);
        let mut harvests = Vec::new();
        for thread in self.threads {
            harvests.push(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(outcome(&self.plan, &self.board, (harvests, seconds)))
    }
}

impl Outcome {
    /// The first broken promise, in words.
    pub fn broken(&self) -> Option<&str> {
        self.report.faults.first.as_deref()
    }

    /// Everything, as one line of JSON.
    pub fn json(&self) -> String {
        json(&self.report.fields())
    }
}

/// Runs it as a command. True: no promise was broken.
pub fn run(plan: &Plan) -> Result<bool> {
    let soak = Soak::start(plan.clone()).context("the soak cannot start")?;
    let mut progress = Progress::new();
    let duration = Duration::from_secs_f64(plan.seconds.clamp(0.1, 31_536_000.0));
    let mut told = soak.sight();
    for second in 1.. {
        let end = Duration::from_secs(second).min(duration);
        std::thread::sleep(end.saturating_sub(soak.started.elapsed()));
        let sight = soak.sight();
        let rate = sight.checked - told.checked;
        told = sight;
        progress.show(&format!("{} users, {rate} checked per second, {} refusals", sight.here, sight.refused));
        if plan.progress {
            tell(second, &soak, rate);
        }
        if end >= duration {
            break;
        }
    }
    progress.show("waiting for the last confirmations");
    let outcome = soak.finish()?;
    drop(progress);
    outcome.report.print(plan.json);
    Ok(outcome.report.faults.is_empty())
}

fn tell(second: u64, soak: &Soak, rate: u64) {
    let sight = soak.sight();
    let mut fields = Fields::default();
    fields.put("second", second);
    fields.put("users_here", sight.here);
    fields.put("checked_per_second", rate);
    fields.put("checked", sight.checked);
    fields.put("refusals", sight.refused);
    fields.put("quiet_ms", soak.quiet_ms());
    fields.put("broken", sight.broken > 0);
    line(&json(&fields));
}

fn outcome(plan: &Plan, board: &Board, (harvests, seconds): (Vec<Harvest>, f64)) -> Outcome {
    let (mut counts, mut faults) = (Counts::default(), Faults::default());
    let (mut confirmation, mut reconnects, mut unanswered) = (Latencies::default(), 0, 0);
    let mut wait_ns_max = 0;
    for harvest in harvests {
        counts.add(harvest.account.counts);
        faults.add(harvest.account.faults);
        confirmation.add(harvest.account.confirmation);
        wait_ns_max = harvest.account.wait_ns_max.max(wait_ns_max);
        reconnects += harvest.reconnects;
        unanswered += harvest.unanswered;
    }
    if unanswered > 0 {
        faults.missing += unanswered;
        faults.explain(|| format!("{unanswered} messages had no answer at the end"));
    }
    let gap_ns = board.gaps_ns().0;
    let mut figures = Fields::default();
    figures.put_number(HEADLINE.name, counts.checked as f64 / seconds);
    figures.put_number("seconds", seconds);
    figures.extend(counted(&counts));
    figures.put("unanswered", unanswered);
    figures.put("reconnects", reconnects);
    figures.put_number("longest_unavailability_ms", gap_ns as f64 / 1e6);
    figures.put_number("longest_wait_ms", wait_ns_max as f64 / 1e6);
    figures.put_group("confirmation_us", confirmation.fields());
    let (gap_ms, wait_ms) = (gap_ns / 1_000_000, wait_ns_max / 1_000_000);
    let (checked, late) = (counts.checked, counts.late);
    let report = Report {
        scenario: "soak",
        peer: "iris",
        parameters: parameters(plan),
        figures,
        headline: HEADLINE,
        generator: Fields::default(),
        is_saturated: false,
        faults,
        status: None::<Value>,
    };
    Outcome { report, checked, late, unanswered, gap_ms, wait_ms, seconds }
}

fn counted(counts: &Counts) -> Fields {
    let mut fields = Fields::default();
    fields.put("checked", counts.checked);
    fields.put("sent", counts.sent);
    fields.put("sent_again", counts.resent);
    fields.put("confirmed", counts.confirmed);
    fields.put("taken", counts.taken);
    fields.put("repeats_dropped", counts.repeats);
    fields.put("late", counts.late);
    fields.put("stored_by_copies", &counts.stored);
    fields.put("refused_by_code", &counts.refused);
    fields.put("closed_by_code", &counts.closed);
    fields
}

fn parameters(plan: &Plan) -> Fields {
    let mut fields = Fields::default();
    fields.put("servers", plan.servers.len());
    fields.put("users", plan.users);
    fields.put("recipients", plan.recipients);
    fields.put("rate", plan.rate);
    fields.put("window", plan.window);
    fields.put("visitors_percent", plan.visitors_percent);
    fields.put("stay_ms", plan.stay_ms);
    fields.put("away_ms", plan.away_ms);
    fields.put("body_bytes", plan.body);
    fields.put("late_allowed", plan.late_allowed);
    fields
}
