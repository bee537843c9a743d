//! What a report is made of: the JSON that scenarios, `compare` and `capacity` print, read without knowing every field.

use anyhow::{Result, bail};
use serde_json::Value;

/// Figures that count most, for results that do not say which; the first that is there.
const HEADLINES: [&str; 9] = [
    "delivered_per_cpu_second",
    "stored_per_cpu_second",
    "logins_per_cpu_second",
    "rss_bytes_per_connection",
    "drained_per_second",
    "sustained_per_second",
    "p99_ratio_median",
    "server_cpu_us_per_user_day",
    "delivered_per_second",
];
/// Parameters that tell runs of one scenario apart, and how they are said.
const PARAMETERS: [(&str, &str); 8] = [
    ("pairs", "pairs"),
    ("senders", "senders"),
    ("users", "users"),
    ("connections", "connections"),
    ("concurrency", "at a time"),
    ("messages", "messages"),
    ("visitors", "visitors"),
    ("rate", "per second"),
];

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Results {
    /// Runs, those of comparisons too.
    pub runs: Vec<Run>,
    /// Ratios.
    pub comparisons: Vec<Comparison>,
}

/// One run of one scenario.
#[derive(Debug, Clone)]
pub struct Run(Value);

/// Iris against a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The scenario with its parameters.
    pub what: String,
    /// The peer.
    pub peer: String,
    /// What was compared.
    pub figure: String,
    /// Least, median, largest; more is better for Iris.
    pub ratio: [f64; 3],
    /// How often.
    pub rounds: usize,
    /// The same against the plain relay, if that was run too.
    pub share_of_raw: Option<[f64; 3]>,
}

impl Results {
    /// Adds the results of a file: JSON values one after the other.
    pub fn read(&mut self, text: &str) -> Result<()> {
        for (at, value) in serde_json::Deserializer::from_str(text).into_iter::<Value>().enumerate() {
            self.add(value?, at + 1)?;
        }
        Ok(())
    }

    fn add(&mut self, value: Value, at: usize) -> Result<()> {
        if let Value::Array(values) = value {
            return values.into_iter().try_for_each(|value| self.add(value, at));
        }
        if let Some(results) = value.get("results").and_then(Value::as_array) {
            return results.iter().try_for_each(|value| self.add(value.clone(), at));
        }
        if value.get("ratio").is_some() {
            return self.add_comparison(&value, at);
        }
        if value["scenario"].is_string() && value["figures"].is_object() {
            self.runs.push(Run(value));
            return Ok(());
        }
        bail!("value {at} is neither a run nor a comparison nor figures of capacity");
    }

    fn add_comparison(&mut self, value: &Value, at: usize) -> Result<()> {
        let (Some(peer), Some(ratio)) = (value["peer"].as_str(), spread(&value["ratio"])) else {
            bail!("value {at} is a comparison without peer or ratio");
        };
        let figure = value["figure"].as_str().unwrap_or("").to_owned();
        let runs = |side: &str| value[side].as_array().map_or(&[][..], Vec::as_slice);
        let Some(first) = runs("iris").first() else { bail!("value {at} is a comparison without runs") };
        self.comparisons.push(Comparison {
            what: Run(first.clone()).what(),
            peer: peer.to_owned(),
            ratio,
            rounds: runs("iris").len(),
            share_of_raw: spread(&value["share_of_raw"]),
            figure: figure.clone(),
        });
        for side in ["iris", peer] {
            self.runs.extend(median(runs(side), &figure).map(|run| Run(run.clone())));
        }
        Ok(())
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.comparisons.is_empty()
    }

    /// Runs of a scenario.
    pub fn of<'a>(&'a self, scenario: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.scenario() == scenario)
    }
}

fn spread(value: &Value) -> Option<[f64; 3]> {
    Some([value["min"].as_f64()?, value["median"].as_f64()?, value["max"].as_f64()?])
}

/// The run in the middle, by a figure.
fn median<'a>(runs: &'a [Value], figure: &str) -> Option<&'a Value> {
    let of = |run: &Value| run["figures"][figure].as_f64().unwrap_or(0.0);
    let mut order: Vec<&Value> = runs.iter().collect();
    order.sort_by(|a, b| of(a).total_cmp(&of(b)));
    order.get(order.len().saturating_sub(1) / 2).copied()
}

impl Run {
    /// The scenario.
    pub fn scenario(&self) -> &str {
        self.0["scenario"].as_str().unwrap_or("")
    }

    /// What was measured.
    pub fn peer(&self) -> &str {
        self.0["peer"].as_str().unwrap_or("")
    }

    /// Whether every promise was kept and the generator was not the limit.
    pub fn is_valid(&self) -> bool {
        self.0["valid"].as_bool().unwrap_or(false)
    }

    /// Anything, by its JSON pointer.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    /// A number, by its JSON pointer.
    pub fn number(&self, pointer: &str) -> Option<f64> {
        self.at(pointer)?.as_f64()
    }

    /// A quantile of the latency, µs.
    pub fn latency(&self, quantile: &str) -> Option<f64> {
        self.number(&format!("/figures/latency_us/{quantile}"))
    }

    /// The figure that counts most.
    pub fn headline(&self) -> (&str, Option<f64>) {
        let named = self.0["headline"].as_str();
        let known = HEADLINES.into_iter().find(|name| self.0["figures"][*name].is_number());
        let name = named.or(known).unwrap_or("");
        (name, self.0["figures"][name].as_f64())
    }

    /// The scenario with what tells it apart: `relay, 50 pairs × 16`.
    pub fn what(&self) -> String {
        let mut text = self.scenario().to_owned();
        for (name, words) in PARAMETERS {
            if let Some(value) = self.number(&format!("/parameters/{name}")) {
                text += &format!(", {} {words}", crate::report::readable_number(value));
            }
        }
        if let Some(window) = self.number("/parameters/window") {
            text += &format!(" × {window}");
        }
        if self.at("/parameters/is_gated").and_then(Value::as_bool) == Some(true) {
            text += ", gated";
        }
        text
    }
}
