//! `relay`: pairs of users. Each starts with a window of messages in flight and answers every message that it receives
//! with one; acknowledgement and answer go out in one write. Gated, each sends when an own message is confirmed; with a rate,
//! when its schedule says so.

use super::course::{Course, Settled};
use super::{Seat, deal, idle};
use crate::cli::RelayArgs;
use crate::ledger::{Behaviour, Duty};
use crate::load::{Crew, Pace, User};
use crate::measured::Server;
use crate::report::{Fields, Headline, Report};
use crate::wire::Wire;
use anyhow::{Result, ensure};

/// Delivered messages per second of the server's CPU.
const HEADLINE: Headline = Headline { name: "delivered_per_cpu_second", is_more_better: true };

/// Runs it once.
pub fn run(args: &RelayArgs) -> Result<Report> {
    let server = args.target.open()?;
    run_on(&server, args)
}

/// Runs it once on a server that is up.
pub fn run_on(server: &Server, args: &RelayArgs) -> Result<Report> {
    let peer = args.target.peer();
    let wire = || peer.wire(args.body, args.gated);
    let is_confirmed = wire().confirms();
    ensure!(is_confirmed || !args.gated, "{} confirms nothing, so that --gated users would wait for ever", peer.name());
    let _idle = idle::hold_all(&args.target, args.idle, server)?;
    let course = Course::begin(server, &args.course)?;
    let course = if args.rate.is_some() { course.scheduled() } else { course };
    let users = pairs(args, server, args.target.prefix(), wire)?;
    let shares = deal(users, args.target.threads()?, 2);
    let crew = Crew::start(shares, args.body, pace(args), &args.target.cpus()?.generator)?;
    let measured = course.run(crew, Settled { is_delivered: true, is_confirmed })?;

    let mut figures = measured.rates(measured.delivered, [HEADLINE.name, "delivered_per_second"]);
    let status = super::ask_status(&args.target, server, &mut figures)?;
    let harvest = measured.crew.harvest.clone();
    figures.put_group("latency_us", harvest.delivery.fields());
    figures.put_group("confirmation_us", harvest.confirmation.fields());
    figures.put("sent_in_all", harvest.sent);
    figures.put("confirmed_as_stored_in_all", harvest.stored);
    figures.put("held_back", harvest.held_back);
    Ok(Report {
        scenario: "relay",
        peer: peer.name(),
        parameters: parameters(args)?,
        figures,
        headline: HEADLINE,
        generator: measured.crew.fields(),
        is_saturated: measured.crew.is_saturated(),
        faults: harvest.faults,
        status,
    })
}

/// Connects the pairs, partners one after the other (so the raw relay pairs them).
pub fn pairs<W: Wire>(args: &RelayArgs, server: &Server, prefix: String, wire: impl Fn() -> W) -> Result<Vec<User<W>>> {
    let name = |index: u32| format!("{prefix}p{:04}{}", index / 2, if index.is_multiple_of(2) { 'a' } else { 'b' });
    let behaviour = match (args.rate, args.gated) {
        (Some(_), _) => Behaviour::Schedule,
        (None, true) => Behaviour::Continue,
        (None, false) => Behaviour::Answer,
    };
    let seat = |index: u32| {
        let partner = index ^ 1;
        let senders = partner..partner + 1;
        let duty = Duty { behaviour, window: args.window, messages_max: u64::MAX, origin: index, senders, level: None };
        Seat { name: &name(index), recipient: &name(partner), duty }.take(server, &args.target.token, wire())
    };
    (0..args.pairs * 2).map(seat).collect()
}

fn pace(args: &RelayArgs) -> Pace {
    args.rate.map_or_else(Pace::default, Pace::even)
}

fn parameters(args: &RelayArgs) -> Result<Fields> {
    let mut fields = Fields::default();
    fields.put("pairs", args.pairs);
    fields.put("window", args.window);
    fields.put("body_bytes", args.body);
    fields.put("is_gated", args.gated);
    fields.put("rate", args.rate);
    fields.put("idle_connections", args.idle);
    fields.put("executors", args.target.executors);
    fields.put("generator_threads", args.target.threads()?);
    fields.put("server_cpus", args.target.cpus()?.server);
    Ok(fields)
}
