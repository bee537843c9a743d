//! `iris serve`: runs a node until it is told to stop.

use super::{Exit, Failure, print};
use crate::config::{Config, Flags};
use crate::service::Service;
use crate::{logging, node};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Flags win over the file, the file over the default (conf/laptop.ron: 127.0.0.1:8085, data in the user's state
/// directory).
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Serve {
    /// A configuration file (RON).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An address for clients; may be repeated. Port 0 lets the kernel choose.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
    /// Where messages are kept.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many threads serve.
    #[arg(long, value_name = "N")]
    executors: Option<u64>,
    /// Say that the node is ready as a line of JSON.
    #[arg(long)]
    json: bool,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let flags = Flags { listen: self.listen, data: self.data, executors: self.executors };
        let config = Arc::new(Config::load(self.config.as_deref(), &flags)?);
        logging::start(&config.log, config.log_format);
        for address in config.exposed() {
            tracing::warn!(
                "insecure: whoever reaches {address} can read and write as anybody (node.insecure allows it; plain TCP, \
                 no authentication)"
            );
        }
        let is_json = self.json;
        let service = Service::start(move |listen| announce(is_json, listen))?;
        node::serve(&config, &service).map_err(|error| Failure::new(Exit::Failed, error))?;
        tracing::info!("stopped");
        Ok(())
    }
}

fn announce(is_json: bool, listen: &[SocketAddr]) {
    let pid = std::process::id();
    let line = if is_json {
        // By hand, so that the fields come in the order in which they are documented; nothing in them needs quoting.
        let listen: Vec<_> = listen.iter().map(|at| format!(r#"{{"transport":"tcp","address":"{at}"}}"#)).collect();
        format!(r#"{{"event":"ready","pid":{pid},"listen":[{}]}}"#, listen.join(","))
    } else {
        let listen: Vec<_> = listen.iter().map(ToString::to_string).collect();
        format!("iris {} is ready on {} (process {pid})", env!("CARGO_PKG_VERSION"), listen.join(", "))
    };
    if let Err(error) = print(&line) {
        tracing::warn!(%error, "standard output takes nothing");
    }
}
