//! The command line: one file per verb, and what they share: how they end, and what they write.
//!
//! Results go to standard output, everything else to standard error. Nothing that came over the network reaches a
//! terminal with control characters in it.

mod chat;
mod check;
mod drain;
mod listen;
mod plan;
// The one of iris-perf, which this crate has for its tests only.
#[path = "../perf/src/progress.rs"]
#[allow(dead_code, reason = "iris-perf leaves lines above, too")]
mod progress;
mod send;
mod serve;
mod shards;
mod status;
mod storage;
mod table;

use crate::client::ClientError;
use crate::config::ConfigError;
use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 the command line or the configuration is wrong · 3 the server refused · \
4 no server can be reached, or it was lost · 5 not within --timeout · 130 interrupted";

/// A year: clocks can be asked for that much later without an overflow.
const LONGEST_SECONDS: f64 = 31_536_000.0;

/// Carries 1:1 messages between users.
#[derive(Debug, Parser)]
#[command(name = "iris", version, after_help = EXIT_CODES)]
struct Iris {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node.
    Serve(serve::Serve),
    /// Talk to other users in the terminal.
    Chat(chat::Chat),
    /// Send one message, and say what became of it.
    Send(send::Send),
    /// Print the messages of a user, a line each.
    Listen(listen::Listen),
    /// Ask a running node how it is.
    Status(status::Status),
    /// Move a node's clients away and end it.
    Drain(drain::Drain),
    /// Say what is wrong with a configuration file, or nothing.
    Check(check::Check),
    /// Say which nodes a number of daily users needs, and what they cost.
    Plan(plan::Plan),
    /// The storage of a fleet that runs Cassandra or ScyllaDB.
    Storage(storage::Storage),
    /// Say which nodes keep which users, how evenly, and what would move.
    Shards(shards::Shards),
}

/// Which node to connect to.
#[derive(Debug, Args)]
struct Server {
    /// HOST:PORT of a node.
    #[arg(long, env = "IRIS_SERVER", default_value = "127.0.0.1:8085", value_name = "HOST:PORT")]
    server: String,
}

/// How a command ends; the numbers are documented and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Unreachable = 4,
    TimedOut = 5,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// For people: what is wrong, and what to change. Nothing if all was said already.
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl ToString) -> Self {
        Failure { exit, message: message.to_string() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(Exit::Usage, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::new(Exit::Failed, error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (exit, hint) = match &error {
            ClientError::Unreachable { .. } => {
                (Exit::Unreachable, "; is it running? (iris serve, or --server HOST:PORT)")
            }
            ClientError::Lost(_) => (Exit::Unreachable, ""),
            ClientError::Closed { .. } | ClientError::TooLarge { .. } => (Exit::Refused, ""),
            ClientError::BadUser { .. } => (Exit::Usage, ""),
        };
        Failure::new(exit, format!("{error}{hint}"))
    }
}

/// Runs the command that the arguments ask for.
pub fn main() -> ExitCode {
    let result = match Iris::parse().verb {
        Verb::Serve(verb) => verb.run(),
        Verb::Chat(verb) => verb.run(),
        Verb::Send(verb) => verb.run(),
        Verb::Listen(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Drain(verb) => verb.run(),
        Verb::Check(verb) => verb.run(),
        Verb::Plan(verb) => verb.run(),
        Verb::Storage(verb) => verb.run(),
        Verb::Shards(verb) => verb.run(),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    for line in failure.message.lines() {
        say(&format!("error: {line}"));
    }
    ExitCode::from(failure.exit as u8)
}

/// A time given in seconds.
fn seconds(seconds: f64) -> Result<Duration, Failure> {
    let bad = |_| Failure::new(Exit::Usage, format!("--timeout {seconds} is no time; write seconds, such as 2.5"));
    Duration::try_from_secs_f64(seconds.min(LONGEST_SECONDS)).map_err(bad)
}

/// A line on standard output, at once. A reader who has enough ends the command without a complaint.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    if let Err(error) = &written
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
    written
}

/// A line on standard error. Nothing can be done if nobody takes it.
fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Text from elsewhere, on one line and without control characters: a message must not steer the terminal.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A body for people: its text, or how long it is.
fn printable_body(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) => printable(text),
        Err(_) => format!("({} bytes that are no text)", body.len()),
    }
}

/// A moment as RFC 3339 has it, in UTC.
fn rfc3339(unix_ms: u64) -> String {
    let (day, second) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let (year, month, day) = date(day);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", unix_ms % 1_000)
}

/// Year, month and day of a day since the Unix epoch; years are taken to begin in March, so that leap days come last.
fn date(unix_day: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = unix_day + 719_468;
    let day = days % DAYS_OF_400_YEARS;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (carry, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (days / DAYS_OF_400_YEARS * 400 + year + carry, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Iris::command().debug_assert();
    }

    #[test]
    fn moments_are_written_as_rfc_3339_has_them() {
        for (unix_ms, wanted) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(unix_ms), wanted);
        }
    }

    #[test]
    fn messages_do_not_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc é"), "a\\u{1b}[2Jb\\nc é");
    }
}
