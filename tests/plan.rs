//! `iris plan` as operators and scripts see it: the seed's numbers, measured ones, and what is said about mistakes.

mod process;

use process::run;
use serde_json::Value;
use std::io::Write;

const MEASURED: &str = r#"{"schema": "iris-measured/1", "node_bytes": 9e6,
    "connection": {"resident_bytes": 300, "kernel_bytes": null, "cpus": 2e-7},
    "per_cpu_second": {"messages": 150000, "logins": 20000, "stored": 300000, "drained": 600000},
    "stored": {"disk_bytes": 150, "memory_bytes": 56, "body_bytes": 64}, "results": [{"more": 1}]}"#;

fn measured(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn plan(arguments: &[&str]) -> Value {
    let done = run(&[&["plan", "--json"], arguments].concat());
    assert_eq!(done.code, Some(0), "{}", done.err);
    done.json()
}

#[test]
fn the_seeds_three_scales() {
    for (dau, expected) in [
        ("1_000_000", [100_000, 2, 10, 20, 1]),
        ("100,000,000", [10_000_000, 100, 1_000, 2_000, 2]),
        ("5B", [500_000_000, 5_000, 50_000, 100_000, 100]),
    ] {
        let plan = plan(&["--dau", dau]);
        let names = ["concurrent_users", "edge_nodes", "core_shards", "core_nodes", "regions"];
        assert_eq!(names.map(|name| plan[name].as_u64()), expected.map(Some), "{dau}");
        assert_eq!(plan["code_changes"], "NONE");
    }
    let cost = &plan(&["--dau", "5_000_000_000"])["cost_per_month"];
    assert_eq!([&cost["edge"], &cost["core"], &cost["per_user"]], [150_000.0, 3_000_000.0, 0.00063]);
}

#[test]
fn the_seeds_figures_are_printed_beside_ours() {
    let done = run(&["plan", "--seed-figures"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    for words in ["$150,000", "$3,000,000", "~$3.15M", "$0.00063", "$50,000", "50,000", "600K", "contradicts itself"] {
        assert!(done.out.contains(words), "{words}:\n{}", done.out);
    }
    let json = plan(&["--seed-figures"]);
    let figures = json["figures"].as_array().expect("figures");
    assert!(figures.len() > 40 && json["corrections"].as_array().is_some_and(|list| list.len() >= 5));
}

#[test]
fn measured_figures_say_what_binds_and_what_is_stranded() {
    let file = measured(MEASURED);
    let path = file.path().to_str().expect("UTF-8");
    let done = run(&["plan", "--dau", "5_000_000_000", "--measured", path]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    for words in
        ["by measured figures", "memory binds", "stranded:", "taken for granted", "not in the cost", "needs root"]
    {
        assert!(done.out.contains(words), "{words}:\n{}", done.out);
    }
    let json = plan(&["--dau", "5B", "--measured", path, "--edge-machine", "memory-gb=512", "--may-fail", "2"]);
    assert_eq!((&json["layers"][0]["binds"], &json["layers"][0]["may_fail"]), (&Value::from("cpu"), &Value::from(2)));
}

/// The file is what `iris-perf capacity` writes: its own tests compare it with that.
#[test]
fn files_of_iris_perf_are_understood() {
    let plan = plan(&["--dau", "5B", "--measured", "perf/tests/measured.json"]);
    assert_eq!((&plan["figures"], &plan["dau"]), (&Value::from("measured"), &Value::from(5_000_000_000_u64)));
    assert!(plan["edge_nodes"].as_u64().is_some_and(|edges| (100..5_000).contains(&edges)), "{plan}");
}

#[test]
fn mistakes_name_what_to_change() {
    let (old, broken) = (measured(&MEASURED.replace("measured/1", "measured/0")), measured("{"));
    let [old, broken] = [&old, &broken].map(|file| file.path().to_str().expect("UTF-8"));
    for (arguments, words) in [
        (&[][..], "--dau"),
        (&["--dau", "lots"], "'lots' for '--dau"),
        (&["--dau", "0"], "--dau is 0"),
        (&["--dau", "5B", "--concurrent-ratio", "1.5"], "'1.5' for '--concurrent-ratio"),
        (&["--dau", "5B", "--edge-machine", "ram=4"], "`ram` is none of"),
        (&["--dau", "5B", "--replicas", "0"], "--replicas is 0"),
        (&["--dau", "5B", "--may-fail", "50"], "--may-fail 50 leaves no edge"),
        (&["--dau", "5B", "--measured", "/no/such/file"], "/no/such/file: cannot be read"),
        (&["--dau", "5B", "--measured", old], "iris-measured/0"),
        (&["--dau", "5B", "--measured", broken], "iris-perf capacity"),
        (&["--dau", "5B", "--measured", old, "--users-per-shard", "1"], "cannot be used with"),
    ] {
        let done = run(&[&["plan"], arguments].concat());
        assert_eq!((done.code, done.out.as_str()), (Some(2), ""), "{arguments:?}: {}", done.err);
        assert!(done.err.contains(words), "{arguments:?}: {}", done.err);
    }
}
