//! Results of every kind go in; nothing of them is lost, and nothing from elsewhere is in the page.

use super::*;

fn run(peer: &str, scenario: &str, parameters: Value, figures: Value) -> Value {
    let environment =
        json!({"cpu": "A <CPU>", "cpus": 2, "kernel": "6.18", "commit": "abc", "command": "relay & more"});
    json!({"scenario": scenario, "peer": peer, "valid": true, "parameters": parameters, "figures": figures,
        "environment": environment})
}

fn relay(peer: &str, per_cpu: u64) -> Value {
    let latency = json!({"count": 9, "p50": 85.5, "p90": 120.0, "p99": 480.0, "p999": 900.0, "max": 2_000.0});
    let figures = json!({"delivered_per_cpu_second": per_cpu, "latency_us": latency});
    run(peer, "relay", json!({"pairs": 50, "window": 16}), figures)
}

fn comparison() -> Value {
    json!({"scenario": "relay", "peer": "nats", "figure": "delivered_per_cpu_second",
        "ratio": {"min": 1.9, "median": 2.3, "max": 2.6}, "share_of_raw": {"min": 0.7, "median": 0.75, "max": 0.8},
        "iris": [relay("iris", 2_000_000), relay("iris", 2_300_000), relay("iris", 2_200_000)],
        "nats": [relay("nats", 1_000_000), relay("nats", 990_000), relay("nats", 1_100_000)]})
}

fn saturate() -> Value {
    let step =
        |rate: u64, p99: u64| json!({"rate": rate, "delivered_per_second": rate, "p99_us": p99, "is_sustained": true});
    let used = json!({"cpu": {"percent": 84.0, "band": "in band"}, "nic": {"percent": null, "band": null},
        "memory": {"percent": 12.0, "band": "stranded"}});
    run(
        "iris",
        "saturate",
        json!({"pairs": 100, "objective_ms": 10}),
        json!({
        "sustained_per_second": 30_000, "p99_us_at_70_percent": 700, "bound_by": "cpu", "advice": "more cores",
        "utilisation": used, "steps": [step(20_000, 500), step(10_000, 300), step(30_000, 9_000)]}),
    )
}

fn idle(connections: u64) -> Value {
    run("iris", "idle", json!({"connections": connections}), json!({"rss_bytes_per_connection": 300}))
}

fn results(values: &[Value]) -> Results {
    let mut results = Results::default();
    let text: String = values.iter().map(|value| format!("{value}\n")).collect();
    results.read(&text).expect("results");
    results
}

#[test]
fn comparisons_bring_their_median_runs() {
    let results = results(&[comparison()]);
    let [comparison] = &results.comparisons[..] else { panic!("{results:?}") };
    assert_eq!(
        (comparison.what.as_str(), comparison.peer.as_str(), comparison.rounds),
        ("relay, 50 pairs × 16", "nats", 3)
    );
    let figures: Vec<_> = results.runs.iter().map(|run| (run.peer(), run.headline().1)).collect();
    assert_eq!(figures, [("iris", Some(2_200_000.0)), ("nats", Some(1_000_000.0))]);
}

#[test]
fn figures_of_capacity_bring_their_results() {
    let measured = json!({"schema": "iris-measured/1", "results": [idle(500), idle(2_000)]});
    assert_eq!(results(&[measured, json!([saturate()])]).runs.len(), 3);
}

#[test]
fn something_else_is_refused_by_its_place() {
    for (text, words) in [("{\"scenario\": 1}", "value 1"), ("{} {", "value 1"), ("[1]", "value 1")] {
        let error = Results::default().read(text).expect_err(text).to_string();
        assert!(error.contains(words), "{error}");
    }
    let broken = json!({"ratio": {}, "peer": "nats"});
    assert!(Results::default().read(&broken.to_string()).is_err());
}

#[test]
fn the_table_has_a_line_for_each() {
    let results = results(&[comparison(), idle(500)]);
    let table = table(&results).join("\n");
    for words in
        ["2.30", "relay, 50 pairs × 16", "idle, 500 connections", "2,200,000", "delivered per cpu second", "480"]
    {
        assert!(table.contains(words), "{words}:\n{table}");
    }
    let summary = summary(&results);
    assert_eq!(
        (summary["comparisons"][0]["ratio"]["median"].as_f64(), summary["runs"][2]["value"].as_f64()),
        (Some(2.3), Some(300.0))
    );
}

#[test]
fn the_page_has_every_plot_and_nothing_from_elsewhere() {
    let page = sections::page("A <title>", &results(&[comparison(), saturate(), idle(500), idle(2_000)]));
    for words in [
        "A &lt;title&gt;",
        "A &lt;CPU&gt;",
        "relay &amp; more",
        "Against others",
        "2.3×",
        "0.75×",
        "Latency",
        "Until it breaks",
        "30k sustained",
        "What is used",
        "in band",
        "more cores",
        "Memory against connections",
        "300 B each",
        "Every run",
    ] {
        assert!(page.contains(words), "{words}");
    }
    for foreign in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "NaN", "inf\""] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<svg").count(), 7);
}

#[test]
fn one_result_is_enough_for_a_page() {
    for value in [idle(1), saturate(), relay("raw", 1), run("iris", "mixed", json!({}), json!({}))] {
        let page = sections::page("t", &results(&[value]));
        assert!(page.contains("Every run") && !page.contains("NaN"));
    }
}

#[test]
fn comparisons_with_raw_are_shares_of_the_limit() {
    let mut against_raw = comparison();
    against_raw["peer"] = json!("raw");
    against_raw["ratio"]["median"] = json!(0.55);
    let page = sections::page("t", &results(&[against_raw]));
    assert!(page.contains("marks the limit") && page.contains("0.55×") && !page.contains("peer is better"));
}
