//! One thread of the generator. Edge-triggered epoll: a connection is read until a read comes back short, then written
//! once. In an open loop it also wakes when a message is due.

use super::board::{Board, Phase};
use super::busy::Busy;
use super::connection::Connection;
use super::pacer::{Pace, Pacer};
use crate::body::{HEAD_BYTES, Head};
use crate::ledger::{Harvest, Ledger};
use crate::wire::{Incoming, Wire};
use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

const EVENTS_MAX: usize = 1_024;
const SCRATCH_BYTES: usize = 256 << 10;
/// How late a thread notices a new phase when nothing else happens.
const IDLE_NS: u64 = 5_000_000;
/// The kernel may wake a thread this much late, ns; the least it knows. (The usual 50 µs would be in every latency.)
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// A user: a connection, its protocol and its accounts.
pub struct User<W> {
    /// The connection, with the login written.
    pub connection: Connection,
    /// Its protocol.
    pub wire: W,
    /// Its accounts.
    pub ledger: Ledger,
    /// To whom it writes.
    pub recipient: Box<[u8]>,
}

/// A thread's state.
pub struct Worker<W> {
    board: Arc<Board>,
    thread: usize,
    users: Vec<User<W>>,
    pace: Pace,
    pacer: Option<Pacer>,
    /// The users who send by the schedule.
    speakers: Box<[usize]>,
    /// The index, by its origin, of every user who is told here that its messages arrived.
    credited: HashMap<u32, usize>,
    /// Those whose messages just arrived.
    arrived: Vec<usize>,
    epoll: OwnedFd,
    scratch: Box<[u8]>,
    out: Vec<u8>,
    body: Vec<u8>,
    harvest: Harvest,
    ready: u64,
    phase: Phase,
    busy: Busy,
}

impl<W: Wire> Worker<W> {
    /// Registers the users' connections.
    pub fn new(board: Arc<Board>, thread: usize, users: Vec<User<W>>, body_bytes: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (at, user) in users.iter().enumerate() {
            let flags =
                epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&epoll, &user.connection, epoll::EventData::new_u64(at as u64), flags)?;
        }
        let ready = users.iter().filter(|user| !user.wire.logs_in()).count() as u64;
        let speakers = (0..users.len()).filter(|&at| users[at].ledger.is_scheduled()).collect();
        let credited = users.iter().enumerate().filter(|(_, user)| user.ledger.is_credited());
        let credited = credited.map(|(at, user)| (user.ledger.origin(), at)).collect();
        Ok(Self {
            board,
            thread,
            users,
            pace: Pace::default(),
            pacer: None,
            speakers,
            credited,
            arrived: Vec::new(),
            epoll,
            scratch: vec![0; SCRATCH_BYTES].into(),
            out: Vec::with_capacity(SCRATCH_BYTES),
            body: vec![b'.'; body_bytes.max(HEAD_BYTES)],
            harvest: Harvest::default(),
            ready,
            phase: Phase::Login,
            busy: Busy::default(),
        })
    }

    /// The rate of those who send by a schedule.
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Runs until the board says that it is over.
    pub fn run(mut self) -> Result<(Harvest, Busy)> {
        rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS))?;
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.phase != Phase::Done {
            let phase = self.board.phase();
            if phase != self.phase {
                self.on_phase(phase);
            }
            events.clear();
            let idle = self.idle();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&idle)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let event: epoll::Event = *event;
                self.on_ready(event.data.u64() as usize);
            }
            self.on_schedule();
            self.board.publish(self.thread, self.ready, &self.harvest);
        }
        Ok((self.harvest, self.busy))
    }

    fn on_phase(&mut self, phase: Phase) {
        let before = self.phase;
        self.phase = phase;
        if before < Phase::Warm && self.is_talking() {
            self.users.iter_mut().for_each(|user| user.ledger.begin());
            let now_ns = self.board.now_ns();
            (0..self.users.len()).for_each(|at| self.speak(at, now_ns));
            self.pacer = Pacer::new(self.pace, self.speakers.len(), now_ns);
        }
        if phase == Phase::Measure {
            self.harvest.delivery.clear();
            self.harvest.confirmation.clear();
            self.harvest.lateness.clear();
        }
        self.busy.on_phase(before, phase, &self.board);
        if phase >= Phase::Settle {
            self.pacer = None;
            self.harvest.held_back += self.users.iter_mut().map(|user| user.ledger.stop()).sum::<u64>();
        }
    }

    /// How long it may sleep.
    #[inline]
    fn idle(&self) -> Timespec {
        let due_ns = self.pacer.as_ref().map_or(u64::MAX, Pacer::due_ns);
        let idle_ns = if due_ns == u64::MAX { IDLE_NS } else { due_ns.saturating_sub(self.board.now_ns()) };
        Timespec { tv_sec: 0, tv_nsec: idle_ns.min(IDLE_NS) as i64 }
    }

    /// Everybody whose time has come owes a message; each speaks once, whatever it owes.
    #[inline]
    fn on_schedule(&mut self) {
        let Some(pacer) = &mut self.pacer else { return };
        let now_ns = self.board.now_ns();
        let (mut first, mut turns) = (0, 0);
        while pacer.due_ns() <= now_ns {
            let (turn, due_ns) = pacer.next();
            self.users[self.speakers[turn]].ledger.on_due(due_ns);
            self.harvest.lateness.note(now_ns - due_ns);
            if turns == 0 {
                first = turn;
            }
            turns += 1;
        }
        for turn in first..first + turns.min(self.speakers.len()) {
            self.speak(self.speakers[turn % self.speakers.len()], now_ns);
        }
    }

    fn is_talking(&self) -> bool {
        matches!(self.phase, Phase::Warm | Phase::Measure)
    }

    #[inline]
    fn on_ready(&mut self, at: usize) {
        let mut heard_ns = None;
        loop {
            let received = match self.users[at].connection.receive(&mut self.scratch) {
                Ok(Some(0)) => return self.on_lost(at, "the server closed the connection"),
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(error) => return self.on_lost(at, &error.to_string()),
            };
            let now_ns = self.board.now_ns();
            heard_ns = Some(now_ns);
            if let Err(why) = self.on_bytes(at, received, now_ns) {
                return self.on_lost(at, &why);
            }
            if received < self.scratch.len() {
                break;
            }
        }
        let now_ns = heard_ns.unwrap_or_else(|| self.board.now_ns());
        self.speak(at, now_ns);
        self.credit(now_ns);
    }

    /// Those whose messages arrived here send the next.
    #[inline]
    fn credit(&mut self, now_ns: u64) {
        if self.arrived.is_empty() {
            return;
        }
        let arrived = std::mem::take(&mut self.arrived);
        if self.is_talking() {
            arrived.iter().for_each(|&at| self.users[at].ledger.on_credit());
            arrived.iter().for_each(|&at| self.speak(at, now_ns));
        }
        self.arrived = arrived;
        self.arrived.clear();
    }

    #[inline]
    fn on_bytes(&mut self, at: usize, received: usize, now_ns: u64) -> Result<(), String> {
        let is_talking = self.is_talking();
        let body_bytes = self.body.len() as u64;
        let User { connection, wire, ledger, .. } = &mut self.users[at];
        let (harvest, ready) = (&mut self.harvest, &mut self.ready);
        let (credited, arrived) = (&self.credited, &mut self.arrived);
        let mut closed = None;
        let decoded = connection.feed(&self.scratch[..received], |bytes| {
            wire.decode(bytes, now_ns, |incoming| match incoming {
                Incoming::Message(body) => {
                    ledger.on_message(body, now_ns, is_talking, harvest);
                    if !credited.is_empty() {
                        arrived.extend(Head::read(body).and_then(|head| credited.get(&head.origin)));
                    }
                }
                Incoming::Confirmed { first, last, level } => {
                    ledger.on_confirmed((first, last), level, now_ns, harvest);
                }
                Incoming::Welcome { window_messages, window_bytes } => {
                    *ready += 1;
                    ledger.grant(window_messages, window_bytes, body_bytes);
                }
                Incoming::Refused { number, reason } => ledger.on_refused(number, &reason, harvest),
                Incoming::Closed(reason) => closed = Some(reason),
            })
        });
        decoded?;
        closed.map_or(Ok(()), Err)
    }

    /// Acknowledges what was taken and sends what is owed, in one write.
    #[inline]
    fn speak(&mut self, at: usize, now_ns: u64) {
        let User { connection, wire, ledger, recipient } = &mut self.users[at];
        self.out.clear();
        wire.acknowledge(&mut self.out);
        if self.phase < Phase::Settle {
            while let Some(head) = ledger.next(now_ns) {
                head.write(&mut self.body);
                wire.send(recipient, &self.body, now_ns, &mut self.out);
                self.harvest.sent += 1;
            }
        }
        if let Err(error) = connection.send(&self.out) {
            self.on_lost(at, &error.to_string());
        }
    }

    #[cold]
    fn on_lost(&mut self, at: usize, why: &str) {
        let _gone = epoll::delete(&self.epoll, &self.users[at].connection);
        self.harvest.faults.disconnected += 1;
        let recipient = String::from_utf8_lossy(&self.users[at].recipient).into_owned();
        self.harvest.faults.explain(|| format!("the user who writes to {recipient:?}: {why}"));
        self.board.fail();
    }
}
