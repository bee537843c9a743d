//! `refill`: one inbox is filled and drained again and again. The result: how much later its first page comes at the
//! end than at the beginning. A queue in a store that keeps what was deleted gets slower with every round.

use super::{LOGIN_LIMIT, drain};
use crate::cli::{DrainArgs, RefillArgs};
use crate::ledger::Faults;
use crate::measured::Server;
use crate::progress::Progress;
use crate::report::{Fields, Headline, Report};
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// The median of the last rounds, in terms of the first round.
const HEADLINE: Headline = Headline { name: "first_page_ratio", is_more_better: false };
/// Rounds at the end that count.
const LAST: usize = 5;
/// How often it is looked at what has arrived.
const LOOK: Duration = Duration::from_micros(100);
/// Between the last acknowledgement and the next round.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs it once.
pub fn run(args: &RefillArgs) -> Result<Report> {
    let mut rounds_of = drain_args(args);
    rounds_of.target.prefix = Some(args.target.prefix());
    let server = args.target.open()?;
    let (mut faults, mut progress) = (Faults::default(), Progress::new());
    let (mut pages_us, mut drains_us) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        progress.bar(&format!("round {} of {}", round + 1, args.rounds), f64::from(round) / f64::from(args.rounds));
        faults.add(drain::fill(&rounds_of, &server, &mut Fields::default())?);
        let drained = drain_once(args, &rounds_of, &server)?;
        pages_us.push(drained.page_us);
        drains_us.push(drained.all_us);
        faults.add(drained.faults);
    }
    let mut figures = Fields::default();
    let (first, last) = (pages_us[0], median(&pages_us[pages_us.len().saturating_sub(LAST)..]));
    figures.put_number(HEADLINE.name, last / first);
    figures.put_number("first_page_us_first", first);
    figures.put_number("first_page_us_last", last);
    figures.put_number("first_page_us_max", pages_us.iter().copied().fold(0.0, f64::max));
    figures.put_number("drain_us_first", drains_us[0]);
    figures.put_number("drain_us_last", median(&drains_us[drains_us.len().saturating_sub(LAST)..]));
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    let (scenario, peer, parameters) = ("refill", args.target.peer().name(), parameters(args, &server));
    let (generator, is_saturated) = (Fields::default(), false);
    Ok(Report { scenario, peer, parameters, figures, headline: HEADLINE, generator, is_saturated, faults, status })
}

struct Drained {
    page_us: f64,
    all_us: f64,
    faults: Faults,
}

/// The user logs in, and takes everything.
fn drain_once(args: &RefillArgs, rounds_of: &DrainArgs, server: &Server) -> Result<Drained> {
    let (start, limit) = (Instant::now(), Duration::from_secs(args.limit_seconds));
    let crew = drain::come_back(rounds_of, server)?;
    let until = |count: u64| {
        while crew.totals().delivered < count && !crew.has_failed() && start.elapsed() < limit {
            thread::sleep(LOOK);
        }
        start.elapsed().as_secs_f64() * 1e6
    };
    let page_us = until(args.page.min(rounds_of.messages));
    let all_us = until(rounds_of.messages);
    thread::sleep(PAUSE);
    crew.wait_ready(LOGIN_LIMIT)?;
    let harvest = crew.finish()?.harvest;
    ensure!(harvest.delivered > 0, "nothing came within {} s", args.limit_seconds);
    let mut faults = harvest.faults;
    if harvest.delivered != rounds_of.messages {
        faults.missing += rounds_of.messages.abs_diff(harvest.delivered);
        faults.explain(|| format!("of {} messages {} came", rounds_of.messages, harvest.delivered));
    }
    Ok(Drained { page_us, all_us, faults })
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Each round is a drain.
fn drain_args(args: &RefillArgs) -> DrainArgs {
    DrainArgs {
        target: args.target.clone(),
        messages: args.messages.next_multiple_of(u64::from(args.crowd.senders)),
        fill: true,
        crowd: args.crowd,
        drop_caches: false,
        limit_seconds: args.limit_seconds,
    }
}

fn parameters(args: &RefillArgs, server: &Server) -> Fields {
    let mut fields = Fields::default();
    fields.put("messages", args.messages);
    fields.put("rounds", args.rounds);
    fields.put("senders", args.crowd.senders);
    fields.put("page", args.page);
    fields.put("body_bytes", args.crowd.body);
    fields.put("executors", args.target.executors);
    fields.put("filesystem", server.filesystem());
    fields
}
