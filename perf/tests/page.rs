//! `report` as its users run it: results in, a table and a page out, and what is said about files that have none.

use std::fs;
use std::process::{Command, Output};

fn perf(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iris-perf")).args(arguments).output().expect("iris-perf starts")
}

#[test]
fn a_run_becomes_a_table_and_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let [results, page] = ["results.json", "page.html"].map(|name| directory.path().join(name).display().to_string());
    let run = perf(&["relay", "--peer", "raw", "--pairs", "2", "--seconds", "0.3", "--warm-up-ms", "50", "--json"]);
    fs::write(&results, run.stdout).expect("written");
    let report = perf(&["report", &results, "--html", &page, "--title", "Two pairs"]);
    let table = String::from_utf8_lossy(&report.stdout);
    assert!(report.status.success() && report.stderr.is_empty(), "{}", String::from_utf8_lossy(&report.stderr));
    assert!(table.contains("relay, 2 pairs × 1") && table.contains("delivered per cpu second"), "{table}");
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("<h1>Two pairs</h1>") && page.contains("<svg"));
    let json = perf(&["report", &results, "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert!(json["runs"][0]["value"].as_f64() > Some(0.0), "{json}");
}

#[test]
fn files_without_results_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("other.json");
    let name = file.display().to_string();
    for (text, words) in [("{\"a\": 1}", "neither a run"), ("", "no result"), ("{\"a\"", "something else than results")]
    {
        fs::write(&file, text).expect("written");
        let output = perf(&["report", &name]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words) && error.contains("other.json"), "{text}: {error}");
    }
    assert!(String::from_utf8_lossy(&perf(&["report", "/no/such/file"]).stderr).contains("/no/such/file"));
}
