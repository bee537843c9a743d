//! Asks a node's admin socket: one line of JSON there, one line back.

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The answer to `{"verb":"status"}`.
pub fn status(socket: &Path) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("cannot reach {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"{\"verb\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).context("the admin socket's answer is not JSON")
}

/// The largest number under a key `turn_us` or `turn_us_max`, wherever it is (several executors, or an object with
/// `max`): the longest turn of an executor's loop.
pub fn turn_us_max(status: &Value) -> Option<f64> {
    match status {
        Value::Object(map) => {
            let of = |(key, value): (&String, &Value)| match key.as_str() {
                "turn_us" | "turn_us_max" => largest(value),
                _ => turn_us_max(value),
            };
            map.iter().filter_map(of).reduce(f64::max)
        }
        Value::Array(items) => items.iter().filter_map(turn_us_max).reduce(f64::max),
        _ => None,
    }
}

/// CPU time in which executors spun before they slept, s since their start: `spun_us` of each. None where nothing tells it.
pub fn spun_seconds(status: &Value) -> Option<f64> {
    let executors = status["executors"].as_array()?;
    executors.iter().map(|executor| executor["idle"]["spun_us"].as_f64()).sum::<Option<f64>>().map(|us| us / 1e6)
}

fn largest(value: &Value) -> Option<f64> {
    match value {
        Value::Array(items) => items.iter().filter_map(largest).reduce(f64::max),
        Value::Object(map) => map.get("max").and_then(Value::as_f64),
        other => other.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_longest_turn_is_found() {
        let status =
            json!({"executors": [{"turn_us": {"p50": 9000, "max": 12}}, {"turn_us": 40}], "turn_us_max": [7, 8]});
        assert_eq!(turn_us_max(&status), Some(40.0));
        assert_eq!(turn_us_max(&json!({"turns": 3})), None);
    }

    #[test]
    fn spins_of_all_executors_are_added() {
        let status = json!({"executors": [{"idle": {"spun_us": 500_000}}, {"idle": {"spun_us": 1_000_000}}]});
        assert_eq!(spun_seconds(&status), Some(1.5));
        assert_eq!(spun_seconds(&json!({"executors": [{"id": 0}]})), None);
    }
}
