//! The program as its users run it: against `raw`, and against a fake server that keeps or breaks its promises.

mod fake;

use fake::Fault;
use serde_json::Value;
use std::process::{Command, Output};

fn perf(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iris-perf"));
    command.args(arguments.split_whitespace()).arg("--json").output().expect("iris-perf starts")
}

fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs a scenario that must end well against a fake server.
fn good(scenario: &str) -> Value {
    let address = fake::start(Fault::None);
    let output = perf(&format!("{scenario} --server {address} --pid {}", std::process::id()));
    let result = result(&output);
    assert_eq!(output.status.code(), Some(0), "{result}");
    assert!(result["faults"]["first"].is_null(), "{result}");
    result
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn raw_relays() {
    let output = perf("relay --raw --pairs 5 --window 4 --seconds 0.5 --warm-up-ms 50");
    let result = result(&output);
    assert_eq!(output.status.code(), Some(0), "{result}");
    let figures = &result["figures"];
    assert!(number(&figures["delivered_per_cpu_second"]) > 1_000.0, "{result}");
    assert!(number(&figures["latency_us"]["p99"]) >= number(&figures["latency_us"]["p50"]), "{result}");
    assert!(figures["confirmation_us"].is_null(), "{result}");
    assert!(result["environment"]["kernel"].is_string() && result["generator"]["threads"][0]["cpu_percent"].is_f64());
}

#[test]
fn raw_relays_gated_with_large_bodies_and_two_threads() {
    let output = perf("relay --raw --gated --pairs 3 --window 4 --body 9000 --threads 2 --seconds 0.5 --warm-up-ms 50");
    let result = result(&output);
    assert_eq!(output.status.code(), Some(0), "{result}");
    assert!(number(&result["figures"]["confirmation_us"]["count"]) > 10.0, "{result}");
}

#[test]
fn relay_is_confirmed_end_to_end() {
    for flags in ["", "--gated"] {
        let result = good(&format!("relay {flags} --pairs 4 --window 3 --seconds 0.5 --warm-up-ms 50"));
        assert!(number(&result["figures"]["delivered_per_second"]) > 10.0, "{result}");
        assert!(number(&result["figures"]["confirmation_us"]["count"]) > 10.0, "{result}");
    }
}

#[test]
fn broken_promises_are_noticed() {
    let expected = [
        (Fault::Lose, "skipped"),
        (Fault::Repeat, "repeated"),
        (Fault::Swap, "skipped"),
        (Fault::Misroute, "misrouted"),
        (Fault::Forget, "misconfirmed"),
        (Fault::Refuse, "refused"),
        (Fault::Hang, "disconnected"),
    ];
    for (fault, name) in expected {
        let address = fake::start(fault);
        let output = perf(&format!(
            "relay --pairs 1 --window 4 --seconds 0.3 --warm-up-ms 50 --settle-ms 300 --server {address}"
        ));
        let result = result(&output);
        assert_eq!(output.status.code(), Some(3), "{fault:?}: {result}");
        assert!(number(&result["faults"][name]) >= 1.0, "{fault:?}: {result}");
        assert_eq!(result["valid"], false);
    }
}

#[test]
fn stored_counts_only_what_is_on_disk() {
    let result = good("stored --senders 5 --recipients 2 --window 8 --seconds 0.5 --warm-up-ms 50");
    assert!(number(&result["figures"]["stored_per_second"]) > 10.0, "{result}");

    let output = perf(&format!("stored --seconds 0.3 --warm-up-ms 50 --server {}", fake::start(Fault::Pretend)));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(number(&result_of(&output, "misconfirmed")), 1.0);
}

fn result_of(output: &Output, fault: &str) -> Value {
    result(output)["faults"][fault].clone()
}

#[test]
fn drain_takes_everything_once() {
    let result = good("drain --fill --messages 3000 --senders 3 --window 16");
    assert_eq!(number(&result["figures"]["drained"]), 3_000.0, "{result}");
    assert!(number(&result["figures"]["pair_beside_us"]["count"]) > 1.0, "{result}");
}

#[test]
fn an_inbox_is_refilled() {
    let result = good("refill --messages 300 --rounds 3 --senders 3 --window 16");
    assert!(number(&result["figures"]["first_page_ratio"]) > 0.0, "{result}");
}

#[test]
fn idle_connections_are_held() {
    let result = good("idle --connections 200 --seconds 0.2");
    assert!(number(&result["figures"]["rss_bytes_per_connection"]) > 0.0, "{result}");
}

#[test]
fn logins_are_counted() {
    let result = good("login --concurrency 8 --seconds 0.5 --warm-up-ms 50");
    assert!(number(&result["figures"]["logins_per_second"]) > 10.0, "{result}");
}

#[test]
fn an_open_loop_keeps_its_rate() {
    for server in ["--raw".to_owned(), format!("--server {} --pid {}", fake::start(Fault::None), std::process::id())] {
        let output = perf(&format!("relay --rate 400 --pairs 4 --seconds 1 --warm-up-ms 50 {server}"));
        let result = result(&output);
        assert_eq!(output.status.code(), Some(0), "{result}");
        let delivered = number(&result["figures"]["delivered_per_second"]);
        assert!((300.0..500.0).contains(&delivered), "{result}");
        assert!(number(&result["generator"]["late_us"]["count"]) > 300.0, "{result}");
        assert!(number(&result["figures"]["machine"]["loopback_bytes_per_second"]) > 0.0, "{result}");
    }
}

#[test]
fn many_write_to_one() {
    let result = good("fan-in --senders 20 --window 3 --seconds 0.5 --warm-up-ms 50");
    assert!(number(&result["figures"]["delivered_per_second"]) > 10.0, "{result}");
    assert_eq!(number(&result["figures"]["connections"]), 21.0, "{result}");
}

#[test]
fn visitors_get_what_waited() {
    let flags = "--pairs 2 --rate 200 --visitors 4 --visitor-rate 100 --stay-ms 60 --away-ms 80";
    let result = good(&format!("churn --seconds 1 --warm-up-ms 50 {flags}"));
    let figures = &result["figures"];
    assert!(number(&figures["logins_in_all"]) >= 8.0 && number(&figures["login_us"]["count"]) >= 4.0, "{result}");
    assert!(number(&figures["confirmed_as_stored_in_all"]) > 5.0, "{result}");
}

#[test]
fn slow_readers_are_compared_with_none() {
    let result = good("slow --pairs 5 --rate 300 --percent 20 --slow-rate 50 --rounds 2 --seconds 0.5 --warm-up-ms 50");
    assert!(
        number(&result["figures"]["p99_ratio"]["max"]) >= number(&result["figures"]["p99_ratio_median"]),
        "{result}"
    );
    assert!(number(&result["figures"]["sent_to_slow_readers"]) > 10.0, "{result}");
    assert_eq!(number(&result["parameters"]["slow_readers"]), 2.0);
}

#[test]
fn a_day_in_miniature() {
    let result = good("mixed --users 60 --day-seconds 2 --messages-per-day 60");
    assert!(number(&result["figures"]["server_cpu_us_per_user_day"]) > 0.0, "{result}");
    assert_eq!(number(&result["parameters"]["idle"]), 51.0, "{result}");
}

#[test]
fn load_rises_until_it_is_enough() {
    let flags = "--pairs 4 --from 100 --to 300 --objective-ms 200 --seconds 0.5 --warm-up-ms 50";
    let result = good(&format!("saturate {flags}"));
    let figures = &result["figures"];
    assert_eq!(number(&figures["sustained_per_second"]), 300.0, "{result}");
    assert!(figures["steps"].as_array().is_some_and(|steps| steps.len() >= 5), "{result}");
    assert!(figures["utilisation"]["cpu"]["band"].is_string() && figures["bound_by"].is_string(), "{result}");
}

/// A fault of the server that a client cures is none; everything else is noticed.
#[test]
fn a_soak_notices_what_repeating_does_not_cure() {
    let cured = [
        (Fault::None, "/figures/late", 0),
        (Fault::Repeat, "/figures/repeats_dropped", 1),
        (Fault::Refuse, "/figures/refused_by_code/busy", 1),
        (Fault::Hang, "/figures/reconnects", 1),
    ];
    let noticed = [
        (Fault::Lose, "/faults/missing", 1),
        (Fault::Swap, "/faults/skipped", 1),
        (Fault::Misroute, "/faults/misrouted", 1),
        (Fault::Forget, "/figures/unanswered", 1),
    ];
    let all = cured.iter().map(|fault| (fault, 0)).chain(noticed.iter().map(|fault| (fault, 3)));
    for ((fault, figure, least), code) in all {
        let address = fake::start(*fault);
        let users = "--users 10 --recipients 1 --rate 400 --visitors-percent 0 --seconds 1 --settle-seconds 1";
        let output = perf(&format!("soak {users} --servers {address}"));
        let result = result(&output);
        assert_eq!(output.status.code(), Some(code), "{fault:?}: {result}");
        assert!(result.pointer(figure).and_then(Value::as_u64) >= Some(*least), "{fault:?}: {figure}: {result}");
        assert!(number(&result["figures"]["checked"]) > 200.0, "{fault:?}: {result}");
    }
}

#[test]
fn visitors_of_a_soak_get_what_waited() {
    let (first, flags) = (fake::start(Fault::None), "--visitors-percent 50 --stay-ms 100 --away-ms 100 --threads 2");
    let output = perf(&format!("soak --users 20 --rate 1000 --seconds 1.5 {flags} --servers {first}"));
    let result = result(&output);
    assert_eq!(output.status.code(), Some(0), "{result}");
    let figures = &result["figures"];
    assert!(number(&figures["reconnects"]) > 20.0 && number(&figures["stored_by_copies"]["1"]) > 20.0, "{result}");
    assert!(number(&figures["longest_wait_ms"]) > 0.0, "{result}");
}

/// Each peer that is installed here, in each scenario that it has; the others say that they were skipped.
#[test]
fn peers_are_driven_by_the_same_loops() {
    let (address, pid) = (fake::start(Fault::None), std::process::id());
    let scenarios = [
        ("nats", "relay --pairs 2 --warm-up-ms 50 --no-limit"),
        ("nats", "fan-in --senders 3 --warm-up-ms 50"),
        ("nats", "login --concurrency 4 --warm-up-ms 50"),
        ("jetstream-always", "stored --senders 3 --window 2 --warm-up-ms 50"),
        ("mosquitto-qos0", "relay --pairs 2 --window 3 --warm-up-ms 50 --no-limit"),
        ("mosquitto-qos1", "relay --pairs 2 --gated --warm-up-ms 50 --no-limit"),
        ("ejabberd", "relay --pairs 2 --warm-up-ms 50 --no-limit"),
        ("redis-streams", "stored --senders 3 --window 2 --warm-up-ms 50"),
    ];
    for (peer, scenario) in scenarios {
        let ours = format!("--server {address} --pid {pid}");
        let output = perf(&format!("compare {scenario} --seconds 0.3 --rounds 1 --peer {peer} {ours}"));
        let result = result(&output);
        assert_eq!(output.status.code(), Some(0), "{peer}: {result}");
        let is_skipped = result["skipped"].as_str().is_some_and(|why| why.contains("not installed"));
        assert!(is_skipped || number(&result["ratio"]["median"]) > 0.0, "{peer}: {result}");
    }
}

#[test]
fn compare_prints_the_ratio_with_its_spread() {
    let (address, pid) = (fake::start(Fault::None), std::process::id());
    let flags = "--pairs 2 --seconds 0.3 --warm-up-ms 50 --rounds 2 --peer raw";
    let output = perf(&format!("compare relay --server {address} --pid {pid} {flags}"));
    let result = result(&output);
    assert_eq!(output.status.code(), Some(0), "{result}");
    let ratio = &result["ratio"];
    assert!(number(&ratio["min"]) <= number(&ratio["median"]) && number(&ratio["median"]) <= number(&ratio["max"]));
    assert!(result["iris"][1]["figures"].is_object() && result["raw"][1]["figures"].is_object(), "{result}");
}

#[test]
fn mistakes_are_explained() {
    for (arguments, words) in [
        ("stored --raw", "raw has no scenario stored"),
        ("relay --gated --peer nats --server 127.0.0.1:1", "confirms nothing"),
        ("relay --iris /nowhere/iris", "does not exist"),
        ("relay --body 3", "at least 24"),
        ("idle --server 127.0.0.1:1", "give --pid"),
    ] {
        let output = perf(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{arguments}: {text}");
    }
}
