//! One thread of a soak: its users, all of whose recipients are here too, an epoll, and a rate.

use super::account::Account;
use super::board::{Board, Phase, Sight};
use super::plan::Plan;
use super::user::{Correspondent, Desk, User};
use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::ops::Range;
use std::sync::Arc;

const EVENTS_MAX: usize = 1_024;
const SCRATCH_BYTES: usize = 256 << 10;
/// Between two looks at what is due.
const TICK_NS: u64 = 1_000_000;
/// Between two looks at every user.
const ROUND_NS: u64 = 20_000_000;
/// Messages that one user sends at a time.
const BURST: usize = 4;
/// What is due and cannot be sent is forgotten behind this time, s.
const BACKLOG_SECONDS: f64 = 0.05;
/// When a run settles, those who are away come within this time.
const COME_NS: u64 = 1_000_000_000;

/// What a thread brings home.
pub struct Harvest {
    /// Its books.
    pub account: Account,
    /// Connections lost or left.
    pub reconnects: u64,
    /// Messages that were never answered.
    pub unanswered: u64,
}

/// See the module.
pub struct Thread {
    plan: Arc<Plan>,
    board: Arc<Board>,
    number: usize,
    users: Vec<User>,
    account: Account,
    epoll: OwnedFd,
    scratch: Vec<u8>,
    body: Vec<u8>,
    phase: Phase,
    turn: usize,
    /// Messages that are due.
    due: f64,
    ticked_ns: u64,
    looked_ns: u64,
}

impl Thread {
    /// With its share of the users.
    pub fn new(plan: Arc<Plan>, board: Arc<Board>, number: usize) -> Result<Self> {
        let users = users(&plan, share(plan.users, plan.threads, number));
        let pair = |user: &User| {
            let from = user.name().to_owned();
            user.correspondents().iter().map(|to| (from.clone(), to.number)).collect::<Vec<_>>()
        };
        let account = Account::new(number as u32, users.iter().flat_map(pair));
        Ok(Self {
            plan,
            board,
            number,
            users,
            account,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            scratch: vec![0; SCRATCH_BYTES],
            body: Vec::new(),
            phase: Phase::Talk,
            turn: 0,
            due: 0.0,
            ticked_ns: 0,
            looked_ns: 0,
        })
    }

    /// Runs until the board says that it is over.
    pub fn run(mut self) -> Result<Harvest> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.phase = self.board.phase();
            if self.phase == Phase::Done {
                break;
            }
            self.on_time()?;
            self.speak();
            events.clear();
            let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS as i64 };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&tick)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let event: epoll::Event = *event;
                self.on_ready(event.data.u64() as usize);
            }
        }
        let unanswered = self.account.finish(self.plan.late_allowed);
        let reconnects = self.users.iter().map(|user| user.reconnects).sum();
        Ok(Harvest { account: self.account, reconnects, unanswered })
    }

    fn on_ready(&mut self, at: usize) {
        let (user, mut desk) = self.lend(at);
        let now_ns = desk.now_ns;
        if user.on_ready(&mut desk) > 0 {
            self.board.on_confirmed(now_ns);
        }
    }

    /// A user, and what it works with.
    fn lend(&mut self, at: usize) -> (&mut User, Desk<'_>) {
        let desk = Desk {
            plan: &self.plan,
            account: &mut self.account,
            now_ns: self.board.now_ns(),
            is_settling: self.phase != Phase::Talk,
            scratch: &mut self.scratch,
            body: &mut self.body,
        };
        (&mut self.users[at], desk)
    }

    /// Looks at every user now and then.
    fn on_time(&mut self) -> Result<()> {
        let now_ns = self.board.now_ns();
        if now_ns < self.looked_ns + ROUND_NS {
            return Ok(());
        }
        self.looked_ns = now_ns;
        for at in 0..self.users.len() {
            let (user, mut desk) = self.lend(at);
            if desk.is_settling {
                user.come(desk.now_ns + COME_NS);
            }
            if user.on_time(&mut desk) {
                self.register(at)?;
            }
        }
        self.publish();
        Ok(())
    }

    fn register(&self, at: usize) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let Some(line) = self.users[at].line() else { return Ok(()) };
        Ok(epoll::add(&self.epoll, line, epoll::EventData::new_u64(at as u64), flags)?)
    }

    /// Users take turns with what is due.
    fn speak(&mut self) {
        let now_ns = self.board.now_ns();
        let elapsed = now_ns.saturating_sub(std::mem::replace(&mut self.ticked_ns, now_ns));
        if self.phase != Phase::Talk {
            return;
        }
        let rate = self.plan.rate / self.plan.threads as f64;
        self.due = (self.due + elapsed as f64 / 1e9 * rate).min(rate * BACKLOG_SECONDS + BURST as f64);
        for _ in 0..self.users.len() {
            if self.due < 1.0 {
                return;
            }
            self.turn = (self.turn + 1) % self.users.len();
            let count = BURST.min(self.due as usize);
            let (user, mut desk) = self.lend(self.turn);
            self.due -= user.speak(count, &mut desk) as f64;
        }
    }

    fn publish(&self) {
        let counts = &self.account.counts;
        let faults = &self.account.faults;
        let sight = Sight {
            here: self.users.iter().filter(|user| user.is_here()).count() as u64,
            sent: counts.sent,
            confirmed: counts.confirmed,
            checked: counts.checked,
            refused: counts.refused.values().sum(),
            unsettled: if self.phase == Phase::Talk { u64::MAX / 1_000 } else { self.account.unsettled() },
            broken: u64::from(!faults.is_empty()),
        };
        self.board.publish(self.number, sight);
    }
}

/// Which of the users a thread has.
fn share(users: u32, threads: usize, number: usize) -> Range<u32> {
    let bound = |number: usize| (u64::from(users) * number as u64 / threads as u64) as u32;
    bound(number)..bound(number + 1)
}

/// From a user to its correspondents: all different.
pub fn distance(turn: u64) -> u64 {
    1 + turn * (turn + 5)
}

/// Each writes to others of the same range: its neighbour, who starts at another server, and some farther away.
fn users(plan: &Plan, range: Range<u32>) -> Vec<User> {
    let count = range.end - range.start;
    let user = |at: u32| {
        let name = |at: u32| format!("{}{}", plan.prefix, range.start + at);
        let correspondents = (0..plan.recipients).map(|turn| {
            let number = (at + distance(turn.into()) as u32) % count;
            Correspondent { pair: at * plan.recipients + turn, number, name: name(number) }
        });
        let server = (range.start + at) as usize % plan.servers.len();
        // Spread over the servers, whatever their number.
        let is_visitor = (at / plan.servers.len() as u32 * 37) % 100 < plan.visitors_percent;
        User::new((at, name(at)), correspondents.collect(), (server, is_visitor))
    };
    (0..count).map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_belongs_to_one_thread() {
        let shares: Vec<_> = (0..3).map(|number| share(10, 3, number)).collect();
        assert_eq!(shares, [0..3, 3..6, 6..10]);
    }
}
