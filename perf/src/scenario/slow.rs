//! `slow`: a share of the clients reads one byte a second. Each round runs pairs by a schedule on a fresh server, without
//! slow readers and with them; the result is the ratio of the pairs' p99. What becomes of the slow readers (they may be
//! disconnected, their messages stored or refused) is told and is no fault.

use super::course::{Course, Settled};
use super::{LOGIN_LIMIT, Seat, deal, relay};
use crate::body::HEAD_BYTES;
use crate::cli::{RelayArgs, SlowArgs};
use crate::compare::Spread;
use crate::ledger::{Behaviour, Duty, Faults, Harvest};
use crate::load::{Board, Busy, Crew, Outcome, Pace, Phase, User, connect, talkers};
use crate::measured::Server;
use crate::report::{Fields, Headline, Report};
use crate::wire::{Incoming, Spoken, Wire};
use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How much longer the pairs' p99 is beside slow readers.
const HEADLINE: Headline = Headline { name: "p99_ratio_median", is_more_better: false };
/// As little as the kernel takes.
const RECEIVE_BUFFER_BYTES: usize = 2_048;
const LOOK: Duration = Duration::from_millis(20);

/// What a run gave.
struct Run {
    p99_us: f64,
    generator: Fields,
    is_saturated: bool,
    faults: Faults,
    /// What became of slow readers and those who write to them.
    beside: Harvest,
}

/// Runs all rounds.
pub fn run(args: &SlowArgs) -> Result<Report> {
    let slow = (f64::from(args.pairs) * 2.0 * args.percent / 100.0).ceil() as u32;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        alone.push(once(args, 0)?);
        beside.push(once(args, slow)?);
    }
    let p99 = |runs: &[Run]| runs.iter().map(|run| run.p99_us).collect::<Vec<f64>>();
    let ratios = beside.iter().zip(&alone).map(|(beside, alone)| beside.p99_us / alone.p99_us.max(0.1)).collect();
    let spread = Spread::of(ratios);
    let mut figures = Fields::default();
    figures.put_number(HEADLINE.name, spread.median);
    figures.put_group("p99_ratio", spread.fields());
    // A single round may have met with something else on the machine, on either side.
    let middle = |runs: &[Run]| Spread::of(p99(runs)).median;
    figures.put_number("p99_ratio_of_medians", middle(&beside) / middle(&alone).max(0.1));
    figures.put("p99_us_without", p99(&alone));
    figures.put("p99_us_beside", p99(&beside));
    let last = &beside.last().context("no round was run")?.beside;
    figures.put("sent_to_slow_readers", last.sent);
    figures.put("of_these_stored", last.stored);
    figures.put("of_these_refused", last.faults.refused);
    figures.put("slow_readers_disconnected", last.faults.disconnected);
    let runs = || alone.iter().chain(&beside);
    let is_saturated = runs().any(|run| run.is_saturated);
    let generator = runs().last().map(|run| run.generator.clone()).unwrap_or_default();
    let mut faults = Faults::default();
    runs().for_each(|run| faults.add(run.faults.clone()));
    let (scenario, peer, parameters) = ("slow", args.target.peer().name(), parameters(args, slow));
    Ok(Report {
        scenario,
        peer,
        parameters,
        figures,
        headline: HEADLINE,
        generator,
        is_saturated,
        faults,
        status: None,
    })
}

fn once(args: &SlowArgs, slow: u32) -> Result<Run> {
    let mut args = args.clone();
    args.target.prefix = Some(args.target.prefix());
    let server = args.target.open()?;
    let beside = if slow > 0 { Some(start_slow(&args, &server, slow)?) } else { None };
    let users = relay::pairs(&relay_args(&args), &server, args.target.prefix(), || wire(&args))?;
    let is_confirmed = wire(&args).confirms();
    let course = Course::begin(&server, &args.course)?.scheduled();
    let shares = deal(users, args.target.threads()?, 2);
    let crew = Crew::start(shares, args.body, Pace::even(args.rate), &args.target.cpus()?.generator)?;
    let measured = course.run(crew, Settled { is_delivered: true, is_confirmed })?;
    let beside = beside.map_or_else(|| Ok(Harvest::default()), |crew| crew.finish().map(|report| report.harvest))?;
    let latency = measured.crew.harvest.delivery.clone().fields().context("nothing was delivered")?;
    Ok(Run {
        p99_us: latency.number("p99").unwrap_or(0.0),
        generator: measured.crew.fields(),
        is_saturated: measured.crew.is_saturated(),
        faults: measured.crew.harvest.faults,
        beside,
    })
}

fn wire(args: &SlowArgs) -> Spoken {
    args.target.peer().wire(args.body, false)
}

fn relay_args(args: &SlowArgs) -> RelayArgs {
    let (target, course) = (args.target.clone(), args.course.clone());
    let (pairs, body, rate) = (args.pairs, args.body, Some(args.rate));
    RelayArgs { target, course, pairs, window: 1, body, gated: false, rate, idle: 0 }
}

/// Slow readers, who are there when this returns, and those who write to them.
fn start_slow(args: &SlowArgs, server: &Server, slow: u32) -> Result<Crew> {
    let board = Arc::new(Board::new(2));
    let readers = (0..slow).map(|index| read_slowly(args, server, index)).collect::<Result<Vec<_>>>()?;
    let writers = (0..slow).map(|index| writer(args, server, index)).collect::<Result<Vec<_>>>()?;
    let pace = Pace::even(args.slow_rate * f64::from(slow));
    let mut bodies = talkers((&board, 0), vec![writers], args.body, pace)?;
    let reading = board.clone();
    bodies.push(Box::new(move || trickle(readers, &reading)));
    let crew = Crew::of(board, bodies, slow.into(), &args.target.cpus()?.generator)?;
    crew.wait_ready(LOGIN_LIMIT)?;
    crew.advance(Phase::Warm);
    Ok(crew)
}

fn name(args: &SlowArgs, index: u32) -> String {
    format!("{}slow{index:04}", args.target.prefix())
}

fn writer(args: &SlowArgs, server: &Server, index: u32) -> Result<User<Spoken>> {
    let (behaviour, senders) = (Behaviour::Schedule, 0..0);
    let duty = Duty { behaviour, window: 1, messages_max: u64::MAX, origin: index, senders, level: None };
    let (name, recipient) = (format!("{}to{index:04}", args.target.prefix()), name(args, index));
    Seat { name: &name, recipient: &recipient, duty }.take(server, &args.target.token, wire(args))
}

/// Logs in as anybody does, and then has hardly any room for what comes.
fn read_slowly(args: &SlowArgs, server: &Server, index: u32) -> Result<TcpStream> {
    let mut stream = connect(server.address(), None)?;
    socket2::SockRef::from(&stream).set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    stream.set_read_timeout(Some(LOGIN_LIMIT))?;
    let (mut wire, mut out) = (args.target.peer().wire(HEAD_BYTES, false), Vec::new());
    wire.login(&name(args, index), args.target.token.as_bytes(), &mut out);
    let (mut heard, mut buffer, mut is_welcome) = (Vec::new(), [0; 1_024], false);
    while !is_welcome {
        stream.write_all(&out)?;
        out.clear();
        let received = stream.read(&mut buffer)?;
        ensure!(received > 0, "the server closed the connection of a reader before it was slow");
        heard.extend_from_slice(&buffer[..received]);
        let note = |incoming: Incoming<'_>| is_welcome |= matches!(incoming, Incoming::Welcome { .. });
        let used = wire.decode(&heard, 0, note).map_err(anyhow::Error::msg)?;
        heard.drain(..used);
        wire.acknowledge(&mut out);
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// One byte of each a second, until the run ends.
fn trickle(mut readers: Vec<TcpStream>, board: &Board) -> Outcome {
    let mut harvest = Harvest::default();
    let mut last_ns = board.now_ns();
    while board.phase() != Phase::Done {
        thread::sleep(LOOK);
        let now_ns = board.now_ns();
        if now_ns - last_ns < 1_000_000_000 {
            continue;
        }
        last_ns = now_ns;
        readers.retain_mut(|reader| match reader.read(&mut [0]) {
            Ok(1) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            _ => {
                harvest.faults.disconnected += 1;
                false
            }
        });
    }
    Ok((harvest, Busy::default()))
}

fn parameters(args: &SlowArgs, slow: u32) -> Fields {
    let mut fields = Fields::default();
    fields.put("pairs", args.pairs);
    fields.put("rate", args.rate);
    fields.put("slow_readers", slow);
    fields.put("slow_rate", args.slow_rate);
    fields.put("rounds", args.rounds);
    fields.put("body_bytes", args.body);
    fields.put("executors", args.target.executors);
    fields
}
