//! What `churn` and `mixed` share: pairs who talk by a schedule, visitors who come and go, and for each visitor one user who
//! writes to it by a schedule, whether it is there or not.

use super::course::Measured;
use super::{Seat, deal, relay};
use crate::cli::{CourseArgs, RelayArgs, TargetArgs};
use crate::ledger::{Behaviour, Duty, Ledger};
use crate::load::{Board, Crew, Pace, User, Visitor, Visits, talkers, visitors};
use crate::measured::Server;
use crate::report::Fields;
use crate::wire::Spoken;
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;

/// Who is there.
pub struct Company<'a> {
    /// The server and how to reach it; its prefix is fixed.
    pub target: &'a TargetArgs,
    /// Bytes of a message.
    pub body: usize,
    /// Pairs, and what they all send.
    pub pairs: (u32, Pace),
    /// Visitors, and what they all are sent.
    pub visitors: (u32, Pace),
    /// How long visitors stay, and are away.
    pub times: (Duration, Duration),
}

impl Company<'_> {
    /// Connects everybody but the visitors, who come later. Threads: those of the pairs, one for those who write to
    /// visitors, one for the visitors.
    pub fn gather(&self, server: &Server) -> Result<Crew> {
        let threads = self.target.threads()?;
        let board = Arc::new(Board::new(threads + 2));
        let pairs = deal(self.pairs(server)?, threads, 2);
        let writers = self.writers(server)?;
        let users = u64::from(self.pairs.0) * 2 + u64::from(self.visitors.0);
        let mut bodies = talkers((&board, 0), pairs, self.body, self.pairs.1)?;
        bodies.extend(talkers((&board, threads), vec![writers], self.body, self.visitors.1)?);
        let visits = Visits {
            server: server.address(),
            token: self.target.token.clone(),
            stay: self.times.0,
            away: self.times.1,
        };
        let (peer, body) = (self.target.peer(), self.body);
        bodies.push(visitors((&board, threads + 1), self.visitors(), visits, move || peer.wire(body, false))?);
        Crew::of(board, bodies, users, &self.target.cpus()?.generator)
    }

    fn pairs(&self, server: &Server) -> Result<Vec<User<Spoken>>> {
        let relay = RelayArgs {
            target: self.target.clone(),
            course: CourseArgs { seconds: 0.0, warm_up_ms: 0, settle_ms: 0 },
            pairs: self.pairs.0,
            window: 1,
            body: self.body,
            gated: false,
            rate: Some(self.pairs.1.per_second),
            idle: 0,
        };
        relay::pairs(&relay, server, self.target.prefix(), || self.target.peer().wire(self.body, false))
    }

    fn first_writer(&self) -> u32 {
        self.pairs.0 * 2
    }

    fn name(&self, visitor: u32) -> String {
        format!("{}v{visitor:05}", self.target.prefix())
    }

    fn writers(&self, server: &Server) -> Result<Vec<User<Spoken>>> {
        let seat = |visitor: u32| {
            let origin = self.first_writer() + visitor;
            let (behaviour, senders) = (Behaviour::Schedule, 0..0);
            let duty = Duty { behaviour, window: 16, messages_max: u64::MAX, origin, senders, level: None };
            let name = format!("{}w{visitor:05}", self.target.prefix());
            let wire = self.target.peer().wire(self.body, false);
            Seat { name: &name, recipient: &self.name(visitor), duty }.take(server, &self.target.token, wire)
        };
        (0..self.visitors.0).map(seat).collect()
    }

    fn visitors(&self) -> Vec<Visitor> {
        let visitor = |visitor: u32| {
            let writer = self.first_writer() + visitor;
            let (behaviour, senders) = (Behaviour::Listen, writer..writer + 1);
            let origin = self.first_writer() + self.visitors.0 + visitor;
            let duty = Duty { behaviour, window: 1, messages_max: 0, origin, senders, level: None };
            Visitor { name: self.name(visitor), ledger: Ledger::new(duty, u64::MAX) }
        };
        (0..self.visitors.0).map(visitor).collect()
    }
}

/// What both report. The latency is that of the pairs; confirmations are everybody's.
pub fn figures(measured: &Measured, headline: &'static str) -> Fields {
    let mut figures = measured.rates(measured.delivered, [headline, "delivered_per_second"]);
    let harvest = measured.crew.harvest.clone();
    figures.put_group("latency_us", harvest.delivery.fields());
    figures.put_group("confirmation_us", harvest.confirmation.fields());
    figures.put_group("login_us", harvest.login.fields());
    figures.put("logins_in_all", harvest.logins);
    figures.put("sent_in_all", harvest.sent);
    figures.put("confirmed_as_stored_in_all", harvest.stored);
    figures.put("held_back", harvest.held_back);
    figures
}
