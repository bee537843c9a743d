//! Log lines on standard error: text for people on a terminal, JSON for machines.
//!
//! Standard output stays free for what a command prints.

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging for the whole process; later calls change nothing.
///
/// `filter` is a checked one of the configuration (`node.log`); `IRIS_LOG` wins over it.
pub fn start(filter: &str, format: LogFormat) {
    let from_environment = std::env::var("IRIS_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = from_environment.as_deref().unwrap_or(filter);
    let filter = EnvFilter::builder().parse_lossy(with_drivers(filter));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => is_journal() || !std::io::stderr().is_terminal(),
    };
    let started = if is_json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.compact().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // Only a second call fails, and then the first one's lines go on.
    drop(started);
}

/// What a driver has to say is trouble, unless it is asked for.
fn with_drivers(filter: &str) -> String {
    if filter.contains("scylla") { filter.to_owned() } else { format!("{filter},scylla=warn") }
}

/// Whether systemd reads what we write.
fn is_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}
