//! `capacity`: what one CPU and one byte of this machine carry, by the scenarios of this program, for `iris plan --measured`.
//!
//! Every scenario runs against one executor, so that a second of its CPU is a second of one CPU. The JSON file is the whole
//! interface to `iris plan`; the results it was made from are in it.

use crate::cli::{Cli, Command};
use crate::measured::environment;
use crate::progress::Progress;
use crate::report::{Fields, Report, json, line, print_rows, readable_number};
use crate::scenario;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use serde_json::{Value, to_value};
use std::path::PathBuf;

/// What the file calls itself; `iris plan` knows the same.
const SCHEMA: &str = "iris-measured/1";
/// A TCP socket's objects alone are larger: less means that the kernel had free ones left, and says nothing.
const SOCKET_BYTES_MIN: f64 = 2_500.0;
/// The bodies that are measured with, bytes.
const BODY_BYTES: u32 = 64;

/// Flags of `capacity`.
#[derive(Debug, Args)]
pub struct CapacityArgs {
    /// Seconds instead of minutes: fewer connections and messages, rougher figures.
    #[arg(long)]
    quick: bool,
    /// Where the figures go.
    #[arg(long, value_name = "FILE", default_value = "measured.json")]
    out: PathBuf,
    /// The binary to measure. [default: the one beside iris-perf]
    #[arg(long, value_name = "PATH")]
    iris: Option<PathBuf>,
    /// Where the data of the servers goes. [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print the file's content too.
    #[arg(long)]
    json: bool,
}

/// One scenario, and the figure of it that people see while it runs.
struct Step {
    name: &'static str,
    command: String,
    figure: &'static str,
    unit: &'static str,
}

impl CapacityArgs {
    /// Several sizes of `idle`, so that the memory can be drawn. The largest first: the kernel frees sockets late, and what
    /// an earlier run leaves behind would hide what a later one takes.
    fn steps(&self) -> Vec<Step> {
        let (seconds, connections, messages): (_, &[u32], _) =
            if self.quick { (2, &[2_000, 500], 50_000) } else { (8, &[15_000, 5_000, 1_000], 1_000_000) };
        let step = |name, command: String, figure, unit| Step { name, command, figure, unit };
        let mut steps: Vec<Step> = connections
            .iter()
            .map(|count| {
                let command = format!("idle --connections {count} --seconds {seconds}");
                step("idle", command, "/figures/rss_bytes_per_connection", "bytes per connection")
            })
            .collect();
        let per_cpu = "/figures/delivered_per_cpu_second";
        let (relayed, logins) = ("messages per CPU second", "logins per CPU second");
        steps.extend([
            step("relay 500 x 1", format!("relay --pairs 500 --window 1 --seconds {seconds}"), per_cpu, relayed),
            step("relay 50 x 16", format!("relay --pairs 50 --window 16 --seconds {seconds}"), per_cpu, relayed),
            step("login", format!("login --seconds {seconds}"), "/figures/logins_per_cpu_second", logins),
            step(
                "stored",
                format!("stored --senders 50 --window 16 --body {BODY_BYTES} --seconds {seconds}"),
                "/figures/stored_per_cpu_second",
                "messages per CPU second",
            ),
            step(
                "drain",
                format!("drain --messages {messages} --body {BODY_BYTES}"),
                "/figures/drained_per_cpu_second",
                "messages per CPU second",
            ),
        ]);
        steps
    }

    fn run_step(&self, step: &Step) -> Result<Report> {
        let mut line =
            format!("iris-perf {} --executors 1", step.command).split(' ').map(Into::into).collect::<Vec<_>>();
        for (flag, path) in [("--iris", &self.iris), ("--data", &self.data)] {
            if let Some(path) = path {
                line.extend([flag.into(), path.clone().into_os_string()]);
            }
        }
        match Cli::try_parse_from(line)?.command {
            Command::Scenario(scenario) => scenario::run(&scenario),
            _ => bail!("{} is no scenario", step.command),
        }
    }
}

/// Measures and writes the file. True: no promise was broken.
pub fn run(args: &CapacityArgs) -> Result<bool> {
    let steps = args.steps();
    let mut results = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let report = args.run_step(step).with_context(|| format!("{} failed", step.command))?;
        if let Some(fault) = &report.faults.first {
            eprintln!("iris-perf: {}: a promise was broken: {fault}; nothing is written", step.command);
            return Ok(false);
        }
        let result = to_value(report.fields())?;
        let figure = result.pointer(step.figure).and_then(Value::as_f64).unwrap_or(0.0);
        let figure = format!("{:>12} {}", readable_number(figure), step.unit);
        Progress::new().keep(&format!("{}/{}  {:<16} {figure}", at + 1, steps.len(), step.name));
        results.push(result);
    }
    let measured = measured(&results)?;
    let text = json(&measured);
    std::fs::write(&args.out, format!("{text}\n")).with_context(|| format!("--out {}", args.out.display()))?;
    if args.json {
        line(&text);
    } else {
        say(&measured, &args.out);
    }
    Ok(true)
}

/// The figures for `iris plan`, from the results of all steps.
fn measured(results: &[Value]) -> Result<Fields> {
    let first = |scenario: &str| results.iter().find(|result| result["scenario"] == scenario);
    let number = |scenario: &str, path: &str| {
        let value = first(scenario).and_then(|result| result.pointer(path)?.as_f64());
        value.with_context(|| format!("{scenario} has no figure {path}"))
    };
    let relay = |window: u64| {
        let is_it = |result: &&Value| result["scenario"] == "relay" && result["parameters"]["window"] == window;
        let found =
            results.iter().find(is_it).and_then(|result| result["figures"]["delivered_per_cpu_second"].as_f64());
        found.with_context(|| format!("relay with {window} in flight has no figure"))
    };
    let connections = number("idle", "/parameters/connections")?.max(1.0);
    let both_ends = number("idle", "/figures/kernel_bytes_per_connection_both_ends").ok();
    let kernel_bytes = both_ends.map(|bytes| (bytes / 2.0).round()).filter(|bytes| *bytes >= SOCKET_BYTES_MIN);
    let mut connection = Fields::default();
    connection.put_number("resident_bytes", number("idle", "/figures/rss_bytes_per_connection")?);
    connection.put("kernel_bytes", kernel_bytes);
    connection.put("cpus", number("idle", "/figures/idle_cpu_percent")? / 100.0 / connections);
    let mut work = Fields::default();
    work.put_number("messages", relay(1)?);
    work.put_number("messages_16_in_flight", relay(16)?);
    work.put_number("logins", number("login", "/figures/logins_per_cpu_second")?);
    work.put_number("stored", number("stored", "/figures/stored_per_cpu_second")?);
    work.put_number("drained", number("drain", "/figures/drained_per_cpu_second")?);

    let mut fields = Fields::default();
    fields.put("schema", SCHEMA);
    fields.put("node_bytes", number("drain", "/figures/memory_empty/rss")?);
    fields.put_group("connection", connection);
    fields.put_group("per_cpu_second", work);
    fields.put_group("stored", stored(first("stored"), first("drain"))?);
    fields.put_group("environment", environment::fields());
    fields.put("results", results);
    Ok(fields)
}

/// What one message that waits costs: of disk by what the log calls needed, of memory after a restart (nothing else is
/// there then).
fn stored(stored: Option<&Value>, drain: Option<&Value>) -> Result<Fields> {
    let (stored, drain) = stored.zip(drain).context("stored or drain was not run")?;
    let number = |result: &Value, path: &str| {
        result.pointer(path).and_then(Value::as_f64).with_context(|| format!("{} has no {path}", result["scenario"]))
    };
    let executors = stored["status"]["executors"].as_array().context("the server has no admin socket to ask")?;
    let live: f64 = executors.iter().filter_map(|executor| executor["log"]["live_bytes"].as_f64()).sum();
    let grown =
        number(drain, "/figures/memory_before_drain/anonymous")? - number(drain, "/figures/memory_empty/anonymous")?;
    let mut fields = Fields::default();
    fields.put_number("disk_bytes", live / number(stored, "/figures/sent_in_all")?.max(1.0));
    fields.put_number("memory_bytes", (grown / number(drain, "/parameters/messages")?.max(1.0)).max(1.0));
    fields.put("body_bytes", BODY_BYTES);
    fields.put("per_second", stored["figures"]["stored_per_second"].as_f64());
    Ok(fields)
}

fn say(measured: &Fields, out: &std::path::Path) {
    for (name, group) in [
        ("connection", "one idle connection"),
        ("per_cpu_second", "one second of a CPU"),
        ("stored", "one stored message"),
    ] {
        line(group);
        measured.group(name).into_iter().for_each(print_rows);
    }
    line(&format!("written to {}; now: iris plan --dau 5_000_000_000 --measured {0}", out.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn results() -> Vec<Value> {
        let relay = |window: u64, rate: u64| json!({"scenario": "relay", "parameters": {"window": window}, "figures": {"delivered_per_cpu_second": rate}});
        vec![
            json!({"scenario": "idle", "parameters": {"connections": 1_000}, "figures": {
                "rss_bytes_per_connection": 300.5, "kernel_bytes_per_connection_both_ends": 9_001, "idle_cpu_percent": 0.5}}),
            json!({"scenario": "idle", "parameters": {"connections": 5}, "figures": {"rss_bytes_per_connection": 9_000}}),
            relay(1, 150_000),
            relay(16, 2_000_000),
            json!({"scenario": "login", "figures": {"logins_per_cpu_second": 20_000}}),
            json!({"scenario": "stored", "figures": {
                "stored_per_cpu_second": 400_000, "stored_per_second": 90_000, "sent_in_all": 1_000},
                "status": {"executors": [{"log": {"live_bytes": 160_000}}]}}),
            json!({"scenario": "drain", "parameters": {"messages": 1_000}, "figures": {"drained_per_cpu_second": 700_000,
                "memory_empty": {"rss": 9_000_000, "anonymous": 1_000_000},
                "memory_before_drain": {"anonymous": 1_056_000}}}),
        ]
    }

    #[test]
    fn figures_come_from_their_scenarios() -> Result<()> {
        let measured = to_value(measured(&results())?)?;
        assert_eq!(measured["connection"], json!({"resident_bytes": 300.5, "kernel_bytes": 4_501.0, "cpus": 5e-6}));
        assert_eq!(measured["per_cpu_second"]["messages"], 150_000.0);
        assert_eq!(measured["stored"]["disk_bytes"], 160.0);
        assert_eq!(measured["stored"]["memory_bytes"], 56.0);
        assert_eq!((&measured["schema"], &measured["node_bytes"]), (&json!(SCHEMA), &json!(9_000_000.0)));
        assert!(measured["environment"]["kernel"].is_string() && measured["results"].as_array().is_some());
        Ok(())
    }

    /// `iris plan` is tested against the same file.
    #[test]
    fn fields_are_those_of_the_example() -> Result<()> {
        let example: Value = serde_json::from_str(include_str!("../tests/measured.json"))?;
        let measured = to_value(measured(&results())?)?;
        let names = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        assert_eq!(names(&measured), names(&example));
        for group in ["connection", "per_cpu_second", "stored"] {
            assert_eq!(names(&measured[group]), names(&example[group]), "{group}");
        }
        Ok(())
    }

    #[test]
    fn what_could_not_be_measured_is_named_or_null() {
        let mut without_root = results();
        without_root[0]["figures"]["kernel_bytes_per_connection_both_ends"] = Value::Null;
        let measured = measured(&without_root).and_then(|fields| Ok(to_value(fields)?)).expect("the rest is there");
        assert!(measured["connection"]["kernel_bytes"].is_null());
        let mut reused = results();
        reused[0]["figures"]["kernel_bytes_per_connection_both_ends"] = json!(2_200);
        let measured = super::measured(&reused).and_then(|fields| Ok(to_value(fields)?)).expect("the rest is there");
        assert!(measured["connection"]["kernel_bytes"].is_null(), "less than a socket's objects");
        let mut without_logins = results();
        without_logins.remove(4);
        let error = super::measured(&without_logins).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("login has no figure"), "{error}");
    }

    #[test]
    fn every_step_is_a_scenario() -> Result<()> {
        for quick in [true, false] {
            let args = CapacityArgs { quick, out: PathBuf::new(), iris: None, data: None, json: false };
            for step in args.steps() {
                let line = format!("iris-perf {} --executors 1", step.command);
                assert!(matches!(Cli::try_parse_from(line.split(' '))?.command, Command::Scenario(_)), "{line}");
            }
        }
        Ok(())
    }
}
