//! `fan-in`: many users write to one. Each has a window in flight, and sends the next message when one of its own is
//! confirmed; where a peer confirms nothing, when it arrived, which the generator tells it without the server's help.

use super::course::{Course, Settled};
use super::{Seat, deal};
use crate::cli::FanInArgs;
use crate::ledger::{Behaviour, Duty};
use crate::load::{Crew, Pace, User};
use crate::measured::Server;
use crate::report::{Fields, Headline, Report};
use crate::wire::{Spoken, Wire};
use anyhow::Result;

/// Delivered messages per second of the server's CPU.
const HEADLINE: Headline = Headline { name: "delivered_per_cpu_second", is_more_better: true };

/// Runs it once.
pub fn run(args: &FanInArgs) -> Result<Report> {
    let server = args.target.open()?;
    let peer = args.target.peer();
    let is_confirmed = peer.wire(args.body, false).confirms();
    let course = Course::begin(&server, &args.course)?;
    // Senders who are told here that messages arrived share a thread with the one that receives them.
    let threads = if is_confirmed { args.target.threads()? } else { 1 };
    let shares = deal(users(args, &server, is_confirmed)?, threads, 1);
    let crew = Crew::start(shares, args.body, Pace::default(), &args.target.cpus()?.generator)?;
    let measured = course.run(crew, Settled { is_delivered: true, is_confirmed })?;

    let mut figures = measured.rates(measured.delivered, [HEADLINE.name, "delivered_per_second"]);
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    let harvest = measured.crew.harvest.clone();
    figures.put_group("latency_us", harvest.delivery.fields());
    figures.put_group("confirmation_us", harvest.confirmation.fields());
    figures.put("sent_in_all", harvest.sent);
    figures.put("confirmed_as_stored_in_all", harvest.stored);
    Ok(Report {
        scenario: "fan-in",
        peer: peer.name(),
        parameters: parameters(args, threads),
        figures,
        headline: HEADLINE,
        generator: measured.crew.fields(),
        is_saturated: measured.crew.is_saturated(),
        faults: harvest.faults,
        status,
    })
}

/// The one, and all who write to it.
fn users(args: &FanInArgs, server: &Server, is_confirmed: bool) -> Result<Vec<User<Spoken>>> {
    let (prefix, senders) = (args.target.prefix(), args.senders);
    let one = format!("{prefix}one");
    let behaviour = if is_confirmed { Behaviour::Continue } else { Behaviour::Credit };
    let seat = |index: u32| {
        let is_one = index == senders;
        let name = if is_one { one.clone() } else { format!("{prefix}f{index:05}") };
        let duty = Duty {
            behaviour: if is_one { Behaviour::Listen } else { behaviour },
            window: args.window,
            messages_max: u64::MAX,
            origin: index,
            senders: if is_one { 0..senders } else { 0..0 },
            level: None,
        };
        let wire = args.target.peer().wire(args.body, false);
        Seat { name: &name, recipient: &one, duty }.take(server, &args.target.token, wire)
    };
    (0..=senders).rev().map(seat).collect()
}

fn parameters(args: &FanInArgs, threads: usize) -> Fields {
    let mut fields = Fields::default();
    fields.put("senders", args.senders);
    fields.put("window", args.window);
    fields.put("body_bytes", args.body);
    fields.put("executors", args.target.executors);
    fields.put("generator_threads", threads);
    fields
}
