//! One thread of the generator. Edge-triggered epoll: a connection is read until a read comes back short, then written
//! once.

use super::board::{Board, Phase};
use super::busy::Busy;
use super::connection::Connection;
use crate::body::HEAD_BYTES;
use crate::ledger::{Harvest, Ledger};
use crate::wire::{Incoming, Wire};
use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::sync::Arc;

const EVENTS_MAX: usize = 1_024;
const SCRATCH_BYTES: usize = 256 << 10;
/// How late a thread notices a new phase when nothing else happens.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

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
        Ok(Self {
            board,
            thread,
            users,
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

    /// Runs until the board says that it is over.
    pub fn run(mut self) -> Result<(Harvest, Busy)> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.phase != Phase::Done {
            let phase = self.board.phase();
            if phase != self.phase {
                self.on_phase(phase);
            }
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&IDLE)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let event: epoll::Event = *event;
                self.on_ready(event.data.u64() as usize);
            }
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
        }
        if phase == Phase::Measure {
            self.harvest.delivery.clear();
            self.harvest.confirmation.clear();
        }
        self.busy.on_phase(before, phase, &self.board);
        if phase >= Phase::Settle {
            self.users.iter_mut().for_each(|user| user.ledger.stop());
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
    }

    #[inline]
    fn on_bytes(&mut self, at: usize, received: usize, now_ns: u64) -> Result<(), String> {
        let is_talking = self.is_talking();
        let body_bytes = self.body.len() as u64;
        let User { connection, wire, ledger, .. } = &mut self.users[at];
        let (harvest, ready) = (&mut self.harvest, &mut self.ready);
        let mut closed = None;
        let decoded = connection.feed(&self.scratch[..received], |bytes| {
            wire.decode(bytes, now_ns, |incoming| match incoming {
                Incoming::Message(body) => ledger.on_message(body, now_ns, is_talking, harvest),
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
