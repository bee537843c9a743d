//! `stored`: users who send to users who are away. Every message must be confirmed as stored, that is on disk.

use super::course::{Course, Settled};
use super::{Seat, deal};
use crate::cli::StoredArgs;
use crate::ledger::{Behaviour, Duty};
use crate::load::{Crew, Pace, User};
use crate::measured::Server;
use crate::report::{Fields, Headline, Report};
use crate::wire::{Level, Wire};
use anyhow::Result;

/// Stored messages per second of the server's CPU.
const HEADLINE: Headline = Headline { name: "stored_per_cpu_second", is_more_better: true };

/// Runs it once.
pub fn run(args: &StoredArgs) -> Result<Report> {
    let server = args.target.open()?;
    let course = Course::begin(&server, &args.course)?;
    let users = senders(args, &server, u64::MAX, || args.target.peer().wire(args.body, false))?;
    let shares = deal(users, args.target.threads()?, 1);
    let crew = Crew::start(shares, args.body, Pace::default(), &args.target.cpus()?.generator)?;
    let settled = Settled { is_delivered: false, is_confirmed: true };
    let measured = course.run(crew, settled)?;

    let mut figures = measured.rates(measured.confirmed, [HEADLINE.name, "stored_per_second"]);
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    let harvest = measured.crew.harvest.clone();
    figures.put_group("latency_us", harvest.confirmation.fields());
    figures.put("sent_in_all", harvest.sent);
    Ok(Report {
        scenario: "stored",
        peer: args.target.peer().name(),
        parameters: parameters(args, &server)?,
        figures,
        headline: HEADLINE,
        generator: measured.crew.fields(),
        is_saturated: measured.crew.is_saturated(),
        faults: harvest.faults,
        status,
    })
}

/// Connects the senders, each with at most `messages_max` messages to send.
pub fn senders<W: Wire>(
    args: &StoredArgs,
    server: &Server,
    messages_max: u64,
    wire: impl Fn() -> W,
) -> Result<Vec<User<W>>> {
    let prefix = args.target.prefix();
    let recipients = if args.recipients == 0 { args.senders } else { args.recipients };
    let seat = |index: u32| {
        let (name, recipient) = (format!("{prefix}s{index:04}"), away(&prefix, index % recipients));
        let (behaviour, level) = (Behaviour::Continue, Some(Level::Stored));
        let duty = Duty { behaviour, window: args.window, messages_max, origin: index, senders: 0..0, level };
        Seat { name: &name, recipient: &recipient, duty }.take(server, &args.target.token, wire())
    };
    (0..args.senders).map(seat).collect()
}

/// The id of a user who is away.
pub fn away(prefix: &str, index: u32) -> String {
    format!("{prefix}away{index:04}")
}

fn parameters(args: &StoredArgs, server: &Server) -> Result<Fields> {
    let mut fields = Fields::default();
    fields.put("senders", args.senders);
    fields.put("recipients", if args.recipients == 0 { args.senders } else { args.recipients });
    fields.put("window", args.window);
    fields.put("body_bytes", args.body);
    fields.put("executors", args.target.executors);
    fields.put("generator_threads", args.target.threads()?);
    match args.target.cassandra.as_slice() {
        [] => fields.put("filesystem", server.filesystem()),
        _ => fields.put("storage", "cassandra"),
    }
    Ok(fields)
}
