//! The scenarios, one file each, and what they share: seats for users, and the course of a closed loop.

mod churn;
mod company;
mod course;
mod drain;
mod fan_in;
mod footprint;
pub mod idle;
mod login;
mod mixed;
mod refill;
pub mod relay;
mod saturate;
mod slow;
mod stored;

use crate::cli::{Scenario, TargetArgs};
use crate::ledger::{Duty, Ledger};
use crate::load::{Connection, User};
use crate::measured::{Server, admin};
use crate::report::{Fields, Report};
use crate::wire::Wire;
use anyhow::Result;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Users log in within this time, or the run is given up.
pub const LOGIN_LIMIT: Duration = Duration::from_secs(30);

/// Runs a scenario once.
pub fn run(scenario: &Scenario) -> Result<Report> {
    let mut named = scenario.clone();
    named.target().peer().plays(scenario.name())?;
    match scenario {
        Scenario::Relay(args) => relay::run(args),
        Scenario::Idle(args) => idle::run(args),
        Scenario::Stored(args) => stored::run(args),
        Scenario::Drain(args) => drain::run(args),
        Scenario::Refill(args) => refill::run(args),
        Scenario::Login(args) => login::run(args),
        Scenario::FanIn(args) => fan_in::run(args),
        Scenario::Churn(args) => churn::run(args),
        Scenario::Slow(args) => slow::run(args),
        Scenario::Mixed(args) => mixed::run(args),
        Scenario::Saturate(args) => saturate::run(args),
    }
}

/// A user to be.
struct Seat<'a> {
    name: &'a str,
    recipient: &'a str,
    duty: Duty,
}

impl Seat<'_> {
    /// Connects and says hello.
    fn take<W: Wire>(self, server: &Server, token: &str, mut wire: W) -> Result<User<W>> {
        let mut hello = Vec::new();
        wire.login(self.name, token.as_bytes(), &mut hello);
        let connection = Connection::open(server.address_of(self.duty.origin), &hello)?;
        let room = if wire.confirms() { 16 } else { u64::MAX };
        let room = if wire.logs_in() { room } else { u64::MAX };
        let ledger = Ledger::new(self.duty, room);
        Ok(User { connection, wire, ledger, recipient: self.recipient.as_bytes().into() })
    }
}

/// Deals users out to threads, `together` neighbours to the same one.
fn deal<T>(users: Vec<T>, threads: usize, together: usize) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, user) in users.into_iter().enumerate() {
        shares[at / together % threads].push(user);
    }
    shares
}

/// What the server's admin socket says, if it has one; the longest turn goes to the figures.
fn ask_status(target: &TargetArgs, server: &Server, figures: &mut Fields) -> Result<Option<Value>> {
    let named: Option<PathBuf> = target.admin.clone();
    let Some(socket) = named.or_else(|| server.admin()) else { return Ok(None) };
    let status = admin::status(&socket)?;
    if let Some(turn_us) = admin::turn_us_max(&status) {
        figures.put_number("server_turn_us_max", turn_us);
    }
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_stay_together() {
        assert_eq!(deal(vec![0, 1, 2, 3, 4, 5], 2, 2), [vec![0, 1, 4, 5], vec![2, 3]]);
        assert_eq!(deal(vec![0, 1, 2], 2, 1), [vec![0, 2], vec![1]]);
    }
}
