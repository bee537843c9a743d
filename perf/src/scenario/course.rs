//! The course of a closed loop: log in, warm up, measure, settle. CPU of the server and the threads' tallies are read
//! at the same two moments, so that the ratio of their differences is right whatever the noise around them.

use crate::cli::CourseArgs;
use crate::ledger::Faults;
use crate::load::{Crew, CrewReport, Phase, Totals};
use crate::measured::process::Usage;
use crate::progress::Progress;
use crate::report::Fields;
use anyhow::Result;
use std::thread;
use std::time::{Duration, Instant};

/// When a run is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Everything sent is delivered.
    pub is_delivered: bool,
    /// Everything sent is confirmed.
    pub is_confirmed: bool,
}

impl Settled {
    fn is_reached(self, totals: &Totals) -> bool {
        (!self.is_delivered || totals.delivered >= totals.sent)
            && (!self.is_confirmed || totals.confirmed >= totals.sent)
    }

    /// Messages that should have been delivered or confirmed and were not.
    fn missing(self, totals: &Totals) -> u64 {
        let undelivered = if self.is_delivered { totals.sent.saturating_sub(totals.delivered) } else { 0 };
        let unconfirmed = if self.is_confirmed { totals.sent.saturating_sub(totals.confirmed) } else { 0 };
        undelivered.max(unconfirmed)
    }
}

/// What was measured.
pub struct Measured {
    /// How long.
    pub wall: Duration,
    /// What the server used in that time, if it is on this machine.
    pub usage: Option<Usage>,
    /// Messages delivered in that time.
    pub delivered: u64,
    /// Messages confirmed in that time.
    pub confirmed: u64,
    /// The whole run.
    pub crew: CrewReport,
}

/// Runs a crew through its course. `pid` is the server's.
pub fn run(crew: Crew, pid: Option<u32>, course: &CourseArgs, settled: Settled) -> Result<Measured> {
    let mut progress = Progress::new();
    progress.show("logging in");
    if let Err(error) = crew.wait_ready(super::LOGIN_LIMIT) {
        let faults = crew.finish()?.harvest.faults;
        return Err(faults.first.map_or(error, anyhow::Error::msg));
    }
    let users = crew.totals().ready;
    crew.advance(Phase::Warm);
    progress.show("warming up");
    crew.wait(super::LOGIN_LIMIT, |totals| totals.delivered.max(totals.confirmed) >= users);
    thread::sleep(Duration::from_millis(course.warm_up_ms));

    crew.advance(Phase::Measure);
    let (start, usage_before, before) = (Instant::now(), read_usage(pid)?, crew.totals());
    while start.elapsed() < course.duration() && !crew.has_failed() {
        let left = course.duration().saturating_sub(start.elapsed());
        progress.show(&format!("measuring, {} s left", left.as_secs()));
        thread::sleep(left.min(Duration::from_millis(200)));
    }
    let (wall, usage_after, after) = (start.elapsed(), read_usage(pid)?, crew.totals());

    crew.advance(Phase::Settle);
    progress.show("waiting for the last confirmations");
    thread::sleep(Duration::from_millis(20));
    crew.wait(Duration::from_millis(course.settle_ms), |totals| settled.is_reached(totals));
    let mut report = crew.finish()?;
    judge(&mut report, settled);
    Ok(Measured {
        wall,
        usage: usage_after.zip(usage_before).map(|(after, before)| after.since(before)),
        delivered: after.delivered - before.delivered,
        confirmed: after.confirmed - before.confirmed,
        crew: report,
    })
}

fn read_usage(pid: Option<u32>) -> Result<Option<Usage>> {
    pid.map(Usage::of).transpose()
}

/// Counts what is missing at the end.
pub fn judge(report: &mut CrewReport, settled: Settled) {
    let harvest = &mut report.harvest;
    let (sent, delivered, confirmed) = (harvest.sent, harvest.delivered, harvest.confirmed);
    let missing = settled.missing(&Totals { ready: 0, sent, delivered, confirmed });
    if missing > 0 {
        let faults: &mut Faults = &mut harvest.faults;
        faults.missing = missing;
        faults.explain(|| format!("of {sent} messages sent {delivered} were delivered and {confirmed} confirmed"));
    }
}

impl Measured {
    /// Rates of `count` messages: per second of wall time, and of the server's CPU under `per_cpu`.
    pub fn rates(&self, count: u64, [per_cpu, per_wall]: [&'static str; 2]) -> Fields {
        let mut fields = Fields::default();
        if let Some(usage) = &self.usage {
            fields.put_number(per_cpu, (count as f64 / usage.cpu_seconds()).round());
        }
        fields.put_number(per_wall, (count as f64 / self.wall.as_secs_f64()).round());
        fields.put_number("wall_seconds", self.wall.as_secs_f64());
        if let Some(usage) = &self.usage {
            fields.extend(usage.fields());
        }
        fields
    }
}
