//! `iris drain`: moves a node's clients away, lets its core hand over, and ends it; as SIGTERM does.

use super::status::{Asked, failure};
use super::{Exit, Failure, print, say};
use crate::admin;
use clap::Args;
use serde_json::json;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// Between two looks at how far the node is.
const LOOK: Duration = Duration::from_millis(200);

/// Clients are told to reconnect elsewhere, each after a time of its own; nothing that was confirmed is lost. Returns when
/// the node has ended.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Drain {
    #[command(flatten)]
    asked: Asked,
    /// Clients per second that are asked to leave. Without it: all within half of `node.drain_ms`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Return at once; the node goes on draining.
    #[arg(long)]
    no_wait: bool,
}

impl Drain {
    pub fn run(self) -> Result<(), Failure> {
        let path = self.asked.path()?;
        let draining = admin::drain(&path, self.rate).map_err(failure)?;
        if !self.no_wait {
            wait(&path);
        }
        if self.asked.json {
            let line = json!({"pid": draining.pid, "began": draining.has_begun, "ended": !self.no_wait});
            return Ok(print(&line.to_string())?);
        }
        let what = if self.no_wait { "is draining" } else { "has drained and ended" };
        print(&format!("process {} {what}", draining.pid)).map_err(|error| Failure::new(Exit::Failed, error))
    }
}

/// Until nobody answers any more.
fn wait(path: &Path) {
    let is_watched = std::io::stderr().is_terminal();
    let mut last = None;
    while let Ok(status) = admin::ask(path) {
        if is_watched && last != Some(status.totals.sessions) {
            say(&format!("{} users are still here", status.totals.sessions));
            last = Some(status.totals.sessions);
        }
        std::thread::sleep(LOOK);
    }
}
