//! `iris check`: says what is wrong with a configuration file.

use super::{Exit, Failure, print};
use crate::config::{Config, ConfigError, Fault, Flags, Place};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Reads a configuration as `iris serve` would, and starts nothing.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct Check {
    /// The file (RON).
    file: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let result = Config::load(Some(&self.file), &Flags::default());
        if self.json {
            print(&as_json(&result).to_string())?;
            return result.map(drop).map_err(|_| Failure::new(Exit::Usage, ""));
        }
        let config = result?;
        print(&format!("{} is good: {}", self.file.display(), summary(&config)))?;
        Ok(())
    }
}

fn summary(config: &Config) -> String {
    let mut parts = vec![format!("node {}", config.name)];
    if config.role.is_edge() {
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        parts[0].push_str(&format!(" listens on {}", listen.join(", ")));
    }
    if let Some(link) = config.link.listen {
        let (role, cluster) = (config.role.word(), &config.cluster);
        parts.push(format!("{role} in {} ({}), links on {link}", cluster.name, cluster.discovery.word()));
    }
    match config.storage.shared() {
        _ if !config.role.is_core() => {}
        None => parts.push(format!("data in {}", config.data.display())),
        Some(options) => {
            let (engine, hosts) = (config.storage.word(), options.hosts.join(", "));
            parts.push(format!("messages in keyspace {} of {engine} at {hosts}", options.keyspace));
        }
    }
    parts.join(", ")
}

fn as_json(result: &Result<Config, ConfigError>) -> Value {
    match result {
        Ok(_) => json!({"ok": true, "faults": []}),
        Err(error) => json!({"ok": false, "faults": error.faults.iter().map(fault).collect::<Vec<_>>()}),
    }
}

fn fault(fault: &Fault) -> Value {
    let (file, line, column) = match &fault.place {
        Place::File { file, line, column } => (Some(file), Some(line), Some(column)),
        Place::WholeFile(file) => (Some(file), None, None),
        Place::Flag(_) | Place::Default => (None, None, None),
    };
    let problem = fault.problem.to_string();
    json!({"file": file, "line": line, "column": column, "field": fault.field, "problem": problem})
}
