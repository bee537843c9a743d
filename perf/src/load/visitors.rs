//! Users who come and go: each logs in, takes what has waited for it, stays, leaves, and comes again. One thread has them
//! all; their accounts go on from visit to visit, so that a message lost or repeated in between is found.
//!
//! A visitor leaves in good order: everything taken is acknowledged, then the write side is shut, then it reads to the end.
//! What it reads after that is not taken, and so must come again.

use super::board::{Board, Phase};
use super::busy::Busy;
use super::connection::Connection;
use super::crew::{Body, Outcome};
use crate::ledger::{Harvest, Ledger};
use crate::wire::{Incoming, Wire};
use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
const SCRATCH_BYTES: usize = 256 << 10;
/// A server that does not close its side within this time is not waited for, ns.
const LEAVE_NS_MAX: u64 = 2_000_000_000;
const EVENTS_MAX: usize = 256;

/// How visitors come and go.
#[derive(Debug, Clone)]
pub struct Visits {
    /// The server.
    pub server: SocketAddr,
    /// What they prove themselves with.
    pub token: String,
    /// How long a visit is.
    pub stay: Duration,
    /// How long they are away.
    pub away: Duration,
}

/// One of them.
pub struct Visitor {
    /// Its user id.
    pub name: String,
    /// Its accounts.
    pub ledger: Ledger,
}

/// Where a visitor is.
enum Place<W> {
    Away { until_ns: u64 },
    Arriving { line: Line<W>, since_ns: u64 },
    Here { line: Line<W>, until_ns: u64 },
    Leaving { line: Line<W>, until_ns: u64 },
}

struct Line<W> {
    connection: Connection,
    wire: W,
}

struct Visiting<W, F> {
    board: Arc<Board>,
    thread: usize,
    visits: Visits,
    wire: F,
    visitors: Vec<(Visitor, Place<W>)>,
    epoll: OwnedFd,
    scratch: Box<[u8]>,
    harvest: Harvest,
    phase: Phase,
    busy: Busy,
}

/// The body of a thread of `board` with all visitors.
pub fn visitors<W: Wire>(
    (board, thread): (&Arc<Board>, usize),
    visitors: Vec<Visitor>,
    visits: Visits,
    wire: impl Fn() -> W + Send + 'static,
) -> Result<Body> {
    let round_ns = (visits.stay + visits.away).as_nanos() as u64;
    let each_ns = round_ns / visitors.len().max(1) as u64;
    let at_door = |(at, visitor): (usize, Visitor)| (visitor, Place::Away { until_ns: at as u64 * each_ns });
    let visiting = Visiting {
        board: board.clone(),
        thread,
        visits,
        wire,
        visitors: visitors.into_iter().enumerate().map(at_door).collect(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        scratch: vec![0; SCRATCH_BYTES].into(),
        harvest: Harvest::default(),
        phase: Phase::Login,
        busy: Busy::default(),
    };
    Ok(Box::new(move || visiting.run()))
}

impl<W: Wire, F: Fn() -> W> Visiting<W, F> {
    fn run(mut self) -> Outcome {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.phase != Phase::Done {
            self.on_phase();
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&TURN)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let event: epoll::Event = *event;
                let at = event.data.u64() as usize;
                if let Err(why) = self.on_ready(at) {
                    self.on_lost(at, &why);
                }
            }
            if self.phase > Phase::Login {
                self.on_time()?;
            }
            self.board.publish(self.thread, 0, &self.harvest);
        }
        // Messages that waited for a visitor say nothing about the server's speed.
        self.harvest.delivery.clear();
        Ok((self.harvest, self.busy))
    }

    fn on_phase(&mut self) {
        let before = std::mem::replace(&mut self.phase, self.board.phase());
        if before == self.phase {
            return;
        }
        if before == Phase::Login {
            let now_ns = self.board.now_ns();
            for (_, place) in &mut self.visitors {
                if let Place::Away { until_ns } = place {
                    *until_ns += now_ns;
                }
            }
        }
        if self.phase == Phase::Measure {
            self.harvest.login.clear();
        }
        self.busy.on_phase(before, self.phase, &self.board);
    }

    /// Those whose time is up come or go. When the run settles all come, and stay.
    fn on_time(&mut self) -> Result<()> {
        let (now_ns, is_settling) = (self.board.now_ns(), self.phase >= Phase::Settle);
        for at in 0..self.visitors.len() {
            match &mut self.visitors[at].1 {
                Place::Away { until_ns } if is_settling || *until_ns <= now_ns => self.arrive(at, now_ns)?,
                Place::Here { until_ns, line }
                    if !is_settling && *until_ns <= now_ns && line.connection.is_flushed() =>
                {
                    self.leave(at, now_ns);
                }
                Place::Leaving { until_ns, .. } if *until_ns <= now_ns => self.go(at, now_ns),
                _ => {}
            }
        }
        Ok(())
    }

    fn arrive(&mut self, at: usize, now_ns: u64) -> Result<()> {
        let (mut wire, mut hello) = ((self.wire)(), Vec::new());
        wire.login(&self.visitors[at].0.name, self.visits.token.as_bytes(), &mut hello);
        let connection = Connection::open(self.visits.server, &hello)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &connection, epoll::EventData::new_u64(at as u64), flags)?;
        self.visitors[at].1 = Place::Arriving { line: Line { connection, wire }, since_ns: now_ns };
        Ok(())
    }

    fn leave(&mut self, at: usize, now_ns: u64) {
        let place = &mut self.visitors[at].1;
        if let Place::Here { line, .. } = std::mem::replace(place, Place::Away { until_ns: now_ns }) {
            line.connection.shut();
            *place = Place::Leaving { line, until_ns: now_ns + LEAVE_NS_MAX };
        }
    }

    fn go(&mut self, at: usize, now_ns: u64) {
        self.visitors[at].1 = Place::Away { until_ns: now_ns + self.visits.away.as_nanos() as u64 };
    }

    /// Reads until a read comes back short, then acknowledges.
    fn on_ready(&mut self, at: usize) -> Result<(), String> {
        loop {
            let (_, place) = &mut self.visitors[at];
            let (Place::Arriving { line, .. } | Place::Here { line, .. } | Place::Leaving { line, .. }) = place else {
                return Ok(());
            };
            let received = line.connection.receive(&mut self.scratch);
            let is_leaving = matches!(place, Place::Leaving { .. });
            let now_ns = self.board.now_ns();
            match received {
                Ok(Some(0)) | Err(_) if is_leaving => {
                    self.go(at, now_ns);
                    return Ok(());
                }
                Ok(Some(0)) => return Err("the server closed the connection".to_owned()),
                Ok(Some(received)) if !is_leaving => self.on_bytes(at, received, now_ns)?,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        let place = &mut self.visitors[at].1;
        if let Place::Arriving { line, .. } | Place::Here { line, .. } = place {
            let mut out = Vec::new();
            line.wire.acknowledge(&mut out);
            line.connection.send(&out).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn on_bytes(&mut self, at: usize, received: usize, now_ns: u64) -> Result<(), String> {
        let (visitor, place) = &mut self.visitors[at];
        let (Place::Arriving { line, .. } | Place::Here { line, .. }) = &mut *place else { return Ok(()) };
        let (Line { connection, wire }, ledger, harvest) = (line, &mut visitor.ledger, &mut self.harvest);
        let (mut is_welcome, mut closed) = (false, None);
        connection.feed(&self.scratch[..received], |bytes| {
            wire.decode(bytes, now_ns, |incoming| match incoming {
                Incoming::Message(body) => ledger.on_message(body, now_ns, false, harvest),
                Incoming::Welcome { .. } => is_welcome = true,
                Incoming::Closed(reason) => closed = Some(reason),
                Incoming::Confirmed { .. } | Incoming::Refused { .. } => {}
            })
        })?;
        if is_welcome {
            self.on_welcome(at, now_ns);
        }
        closed.map_or(Ok(()), Err)
    }

    fn on_welcome(&mut self, at: usize, now_ns: u64) {
        let until_ns = now_ns + self.visits.stay.as_nanos() as u64;
        let place = &mut self.visitors[at].1;
        if let Place::Arriving { line, since_ns } = std::mem::replace(place, Place::Away { until_ns }) {
            // When the run settles all come at once, which no day does.
            if self.phase < Phase::Settle {
                self.harvest.login.note(now_ns - since_ns);
            }
            self.harvest.logins += 1;
            *place = Place::Here { line, until_ns };
        }
    }

    #[cold]
    fn on_lost(&mut self, at: usize, why: &str) {
        let name = &self.visitors[at].0.name;
        self.harvest.faults.disconnected += 1;
        self.harvest.faults.explain(|| format!("the visitor {name}: {why}"));
        self.board.fail();
        self.go(at, u64::MAX / 2);
    }
}
