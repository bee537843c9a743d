//! `iris-perf`: load generator, measurements and checker for Iris and its peers.
//!
//! Reading order: `body` and `ledger` (what a message carries, what is checked), `wire` (protocols), `load` (threads
//! and their loop), `measured` (the server and the machine), `scenario` (what is run), `compare`, `report`,
//! `capacity`, `page` (results as a table and as HTML). `soak` stands beside them: a checked load that outlives its
//! servers, also for the tests of the repository.
#![forbid(unsafe_code)]

mod body;
mod capacity;
mod cli;
mod compare;
mod latency;
mod ledger;
mod load;
mod measured;
mod page;
mod peer;
mod progress;
mod report;
mod scenario;
pub mod soak;
mod wire;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// A promise was broken: a message was lost, repeated, out of order or not confirmed.
const EXIT_BROKEN: u8 = 3;

/// Does what this process was asked on its command line.
pub fn main() -> ExitCode {
    match run(cli::Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_BROKEN),
        Err(error) => {
            eprintln!("iris-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True: no promise was broken.
fn run(command: cli::Command) -> Result<bool> {
    match command {
        cli::Command::Scenario(mut scenario) => {
            let as_json = scenario.target().json;
            let report = scenario::run(&scenario)?;
            report.print(as_json);
            Ok(report.faults.is_empty())
        }
        cli::Command::Soak(args) => soak::run(&args),
        cli::Command::Compare(args) => compare::run(&args),
        cli::Command::Capacity(args) => capacity::run(&args),
        cli::Command::Report(args) => page::run(&args).map(|()| true),
        cli::Command::RawRelay { listen } => peer::raw::run(listen).map(|()| true),
        cli::Command::Hold(args) => scenario::idle::hold(&args).map(|()| true),
    }
}
