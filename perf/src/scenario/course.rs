//! The course of a run: log in, warm up, measure, settle. CPU of the server and the threads' tallies are read
//! at the same two moments, so that the ratio of their differences is right whatever the noise around them.

use super::footprint::Footprint;
use crate::cli::CourseArgs;
use crate::ledger::Faults;
use crate::load::{Crew, CrewReport, Phase, Totals};
use crate::measured::machine::Machine;
use crate::measured::process::Usage;
use crate::measured::{Server, admin};
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
    /// CPU time of `usage` in which the server only spun, s, if it says so.
    pub spun_seconds: Option<f64>,
    /// Messages delivered in that time.
    pub delivered: u64,
    /// Messages confirmed in that time.
    pub confirmed: u64,
    /// The machine in that time, all processes.
    pub machine: Fields,
    /// Memory of its connections.
    pub footprint: Fields,
    /// The whole run.
    pub crew: CrewReport,
}

/// A run on a server that nobody is connected to yet.
pub struct Course<'a> {
    server: &'a Server,
    args: &'a CourseArgs,
    before: Footprint,
    heard_limit: Duration,
}

impl<'a> Course<'a> {
    /// To be called before the users connect.
    pub fn begin(server: &'a Server, args: &'a CourseArgs) -> Result<Self> {
        Ok(Self { server, args, before: Footprint::of(server)?, heard_limit: super::LOGIN_LIMIT })
    }

    /// Runs a crew through it.
    pub fn run(self, crew: Crew, settled: Settled) -> Result<Measured> {
        let users = match self.warm_up(&crew) {
            Ok(users) => users,
            Err(error) => {
                let faults = crew.finish()?.harvest.faults;
                return Err(faults.first.map_or(error, anyhow::Error::msg));
            }
        };
        let mut measured = self.measure(&crew)?;
        if users > 0 {
            measured.footprint = self.before.growth(self.server, users)?;
        }
        measured.crew = settle(crew, self.args, settled)?;
        Ok(measured)
    }

    /// Users who send by a schedule are not waited for until each has been heard.
    pub fn scheduled(mut self) -> Self {
        self.heard_limit = Duration::ZERO;
        self
    }

    /// Returns how many users there are, when all have logged in and every one has been heard.
    fn warm_up(&self, crew: &Crew) -> Result<u64> {
        let mut progress = Progress::new();
        progress.show("logging in");
        crew.wait_ready(super::LOGIN_LIMIT)?;
        let users = crew.totals().ready;
        crew.advance(Phase::Warm);
        progress.show("warming up");
        crew.wait(self.heard_limit, |totals| totals.delivered.max(totals.confirmed) >= users);
        thread::sleep(Duration::from_millis(self.args.warm_up_ms));
        Ok(users)
    }

    fn measure(&self, crew: &Crew) -> Result<Measured> {
        let mut progress = Progress::new();
        let (server, disk, duration) = (self.server, self.server.disk(), self.args.duration());
        crew.advance(Phase::Measure);
        let (machine, spun_before) = (Machine::now(disk), self.spun_seconds());
        let (start, usage_before, before) = (Instant::now(), read_usage(server)?, crew.totals());
        while start.elapsed() < duration && !crew.has_failed() {
            let left = duration.saturating_sub(start.elapsed());
            let done = 1.0 - left.as_secs_f64() / duration.as_secs_f64();
            progress.bar(&format!("measuring, {} s left", left.as_secs()), done);
            thread::sleep(left.min(Duration::from_millis(200)));
        }
        let (wall, usage_after, after) = (start.elapsed(), read_usage(server)?, crew.totals());
        let machine = Machine::now(disk).since(&machine, wall);
        Ok(Measured {
            wall,
            spun_seconds: self.spun_seconds().zip(spun_before).map(|(after, before)| after - before),
            usage: usage_after.zip(usage_before).map(|(after, before)| after.since(before)),
            delivered: after.delivered - before.delivered,
            confirmed: after.confirmed - before.confirmed,
            machine,
            footprint: Fields::default(),
            crew: CrewReport::default(),
        })
    }
}

impl Course<'_> {
    fn spun_seconds(&self) -> Option<f64> {
        admin::spun_seconds(&admin::status(&self.server.admin()?).ok()?)
    }
}

fn settle(crew: Crew, course: &CourseArgs, settled: Settled) -> Result<CrewReport> {
    let mut progress = Progress::new();
    crew.advance(Phase::Settle);
    progress.show("waiting for the last confirmations");
    thread::sleep(Duration::from_millis(20));
    crew.wait(Duration::from_millis(course.settle_ms), |totals| settled.is_reached(totals));
    let mut report = crew.finish()?;
    judge(&mut report, settled);
    Ok(report)
}

/// Of all nodes together; none if they run elsewhere.
fn read_usage(server: &Server) -> Result<Option<Usage>> {
    if server.pids.is_empty() { Ok(None) } else { server.usage().map(Some) }
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
            fields.put("server_spun_seconds", self.spun_seconds);
        }
        fields.extend(self.footprint.clone());
        fields.put_group("machine", self.machine.clone());
        fields
    }
}
