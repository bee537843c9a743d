//! `report`: results as a table for the terminal, JSON for machines, and one HTML page with plots, without anything from
//! elsewhere.

mod chart;
mod draw;
mod input;
mod sections;

use crate::report::{json, line, readable_number};
use anyhow::{Context, Result, ensure};
use clap::Args;
use input::{Comparison, Results, Run};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Files with what the scenarios, `compare` and `capacity` printed with --json, one or many results each.
    #[arg(required = true, value_name = "RESULTS")]
    files: Vec<PathBuf>,
    /// Write a page there.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The page's title.
    #[arg(long, default_value = "Iris, measured")]
    title: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Reads, prints, writes.
pub fn run(args: &ReportArgs) -> Result<()> {
    let mut results = Results::default();
    for file in &args.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        results.read(&text).with_context(|| format!("{} has something else than results", file.display()))?;
    }
    ensure!(!results.is_empty(), "there is no result in {}", args.files[0].display());
    if let Some(file) = &args.html {
        std::fs::write(file, sections::page(&args.title, &results))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        line(&json(&summary(&results)));
    } else {
        table(&results).iter().for_each(|row| line(row));
    }
    Ok(())
}

fn summary(results: &Results) -> Value {
    let run = |run: &Run| {
        let (name, value) = run.headline();
        json!({"scenario": run.scenario(), "peer": run.peer(), "what": run.what(), "figure": name, "value": value,
            "p50_us": run.latency("p50"), "p99_us": run.latency("p99"), "valid": run.is_valid()})
    };
    let comparison = |comparison: &Comparison| {
        let [min, median, max] = comparison.ratio;
        json!({"what": comparison.what, "peer": comparison.peer, "figure": comparison.figure,
            "ratio": {"min": min, "median": median, "max": max}, "rounds": comparison.rounds})
    };
    json!({
        "runs": results.runs.iter().map(run).collect::<Vec<_>>(),
        "comparisons": results.comparisons.iter().map(comparison).collect::<Vec<_>>(),
    })
}

/// Comparisons, then runs.
fn table(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    if !results.comparisons.is_empty() {
        let rows = results.comparisons.iter().map(|comparison| {
            let [min, median, max] = comparison.ratio.map(|ratio| format!("{ratio:.2}"));
            [comparison.what.clone(), comparison.peer.clone(), min, median, max, readable_name(&comparison.figure)]
        });
        lines.extend(columns(["Iris against", "peer", "min", "median", "max", "of"], rows.collect()));
        lines.push(String::new());
    }
    let rows = results.runs.iter().map(|run| {
        let (name, value) = run.headline();
        let latency = |name| run.latency(name).map_or_else(|| "–".to_owned(), readable_number);
        let value = value.map_or_else(|| "–".to_owned(), readable_number);
        let name = format!("{}{}", readable_name(name), if run.is_valid() { "" } else { "  (not valid)" });
        [run.what(), run.peer().to_owned(), value, latency("p50"), latency("p99"), name]
    });
    if !results.runs.is_empty() {
        lines.extend(columns(["run", "peer", "figure", "p50 µs", "p99 µs", "of"], rows.collect()));
    }
    lines
}

fn readable_name(name: &str) -> String {
    name.replace('_', " ")
}

/// The first two and the last columns to the left, numbers to the right.
fn columns(head: [&str; 6], rows: Vec<[String; 6]>) -> Vec<String> {
    let rows: Vec<[String; 6]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let cell = |(at, text): (usize, &String)| match at {
        0 | 1 => format!("{text:<width$}", width = widths[at]),
        5 => text.clone(),
        _ => format!("{text:>width$}", width = widths[at]),
    };
    rows.iter()
        .map(|row| row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests;
