//! `login`: a storm of logins. A number of them at a time: connect, HELLO, WELCOME, drop, and again.

use super::course::{Course, Settled};
use crate::body::HEAD_BYTES;
use crate::cli::{CourseArgs, LoginArgs};
use crate::ledger::Harvest;
use crate::load::{Board, Body, Busy, Crew, Outcome, Phase, connect_later, own_source};
use crate::peer::Peer;
use crate::report::{Fields, Headline, Report};
use crate::wire::{Incoming, Spoken, Wire};
use anyhow::{Result, anyhow, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// Logins per second of the server's CPU.
const HEADLINE: Headline = Headline { name: "logins_per_cpu_second", is_more_better: true };
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Names of users that one place uses in turn.
const NAMES: u64 = 64;

/// Runs it once.
pub fn run(args: &LoginArgs) -> Result<Report> {
    let server = args.target.open()?;
    let threads = args.target.threads()?;
    let board = Arc::new(Board::new(threads));
    let prefix = args.target.prefix();
    let body = |thread: usize| -> Result<Body> {
        let places = (args.concurrency as usize / threads).max(1);
        let names = format!("{prefix}l{thread}-");
        let (peer, token) = (args.target.peer(), args.target.token.clone());
        let storm = Storm::new(Goal { server: server.address(), thread, peer, names, token }, places)?;
        let board = board.clone();
        Ok(Box::new(move || storm.run(&board, thread)))
    };
    let bodies = (0..threads).map(body).collect::<Result<Vec<_>>>()?;
    let crew = Crew::of(board.clone(), bodies, 0, &args.target.cpus()?.generator)?;
    let course = CourseArgs { seconds: args.seconds, warm_up_ms: args.warm_up_ms, settle_ms: 0 };
    let settled = Settled { is_delivered: false, is_confirmed: false };
    let measured = Course::begin(&server, &course)?.run(crew, settled)?;

    let mut figures = measured.rates(measured.delivered, [HEADLINE.name, "logins_per_second"]);
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    figures.put_group("latency_us", measured.crew.harvest.delivery.clone().fields());
    let mut parameters = Fields::default();
    parameters.put("concurrency", args.concurrency);
    parameters.put("executors", args.target.executors);
    parameters.put("generator_threads", threads);
    Ok(Report {
        scenario: "login",
        peer: args.target.peer().name(),
        parameters,
        figures,
        headline: HEADLINE,
        generator: measured.crew.fields(),
        is_saturated: measured.crew.is_saturated(),
        faults: measured.crew.harvest.faults,
        status,
    })
}

/// Where to log in, and as whom.
struct Goal {
    server: SocketAddr,
    thread: usize,
    peer: Peer,
    names: String,
    token: String,
}

/// One login under way.
struct Attempt {
    stream: TcpStream,
    wire: Spoken,
    started_ns: u64,
    heard: Vec<u8>,
    is_hello_said: bool,
}

/// One thread's logins.
struct Storm {
    goal: Goal,
    epoll: OwnedFd,
    attempts: Vec<Option<Attempt>>,
    begun: u64,
    harvest: Harvest,
    busy: Busy,
}

impl Storm {
    fn new(goal: Goal, places: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let attempts = (0..places).map(|_| None).collect();
        Ok(Self { goal, epoll, attempts, begun: 0, harvest: Harvest::default(), busy: Busy::default() })
    }

    fn run(mut self, board: &Board, thread: usize) -> Outcome {
        let mut events = Vec::with_capacity(self.attempts.len());
        let mut phase = Phase::Login;
        while phase != Phase::Done {
            let before = std::mem::replace(&mut phase, board.phase());
            if before != phase {
                self.on_phase(before, phase, board)?;
            }
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&IDLE))?;
            for event in &events {
                let event: epoll::Event = *event;
                if let Err(error) = self.on_ready(event.data.u64() as usize, phase, board) {
                    self.harvest.faults.disconnected += 1;
                    self.harvest.faults.explain(|| format!("a login failed: {error:#}"));
                    board.fail();
                    board.publish(thread, 0, &self.harvest);
                    return Ok((self.harvest, self.busy));
                }
            }
            board.publish(thread, 0, &self.harvest);
        }
        Ok((self.harvest, self.busy))
    }

    fn on_phase(&mut self, before: Phase, phase: Phase, board: &Board) -> Result<()> {
        if before == Phase::Login {
            (0..self.attempts.len()).try_for_each(|place| self.begin(place, board))?;
        }
        if phase == Phase::Measure {
            self.harvest.delivery.clear();
        }
        self.busy.on_phase(before, phase, board);
        Ok(())
    }

    fn begin(&mut self, place: usize, board: &Board) -> Result<()> {
        let started_ns = board.now_ns();
        let stream = connect_later(self.goal.server, own_source(self.goal.server, self.goal.thread, self.begun))?;
        self.begun += 1;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(place as u64), flags)?;
        let (wire, heard) = (self.goal.peer.wire(HEAD_BYTES, false), Vec::new());
        self.attempts[place] = Some(Attempt { stream, wire, started_ns, heard, is_hello_said: false });
        Ok(())
    }

    fn on_ready(&mut self, place: usize, phase: Phase, board: &Board) -> Result<()> {
        let Some(attempt) = &mut self.attempts[place] else { return Ok(()) };
        if !attempt.is_hello_said {
            let name = format!("{}{place}-{}", self.goal.names, self.begun % NAMES);
            return attempt.say_hello(&name, &self.goal.token);
        }
        if !attempt.is_welcome()? {
            return Ok(());
        }
        self.harvest.delivery.note(board.now_ns() - attempt.started_ns);
        self.harvest.delivered += 1;
        self.attempts[place] = None;
        if phase < Phase::Settle { self.begin(place, board) } else { Ok(()) }
    }
}

impl Attempt {
    fn say_hello(&mut self, user: &str, token: &str) -> Result<()> {
        let mut hello = Vec::with_capacity(128);
        self.wire.login(user, token.as_bytes(), &mut hello);
        match self.stream.write(&hello) {
            Ok(taken) => ensure!(taken == hello.len(), "HELLO does not fit into an empty socket"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
            Err(error) => bail!("cannot say HELLO: {error}"),
        }
        self.is_hello_said = true;
        Ok(())
    }

    /// Reads. True: WELCOME was there.
    fn is_welcome(&mut self) -> Result<bool> {
        let mut buffer = [0; 1_024];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(received) => self.heard.extend_from_slice(&buffer[..received]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => bail!("cannot read WELCOME: {error}"),
        }
        let mut heard = None;
        let note = |incoming: Incoming<'_>| {
            let is_welcome = matches!(incoming, Incoming::Welcome { .. });
            heard.get_or_insert(if is_welcome { Ok(true) } else { Err(anyhow!("{incoming:?} instead of WELCOME")) });
        };
        let used = self.wire.decode(&self.heard, 0, note).map_err(anyhow::Error::msg)?;
        self.heard.drain(..used);
        let mut answer = Vec::new();
        self.wire.acknowledge(&mut answer);
        self.stream.write_all(&answer)?;
        heard.unwrap_or(Ok(false))
    }
}
