//! `iris shards` as operators and scripts see it: the map, what is missing in it, and what would move.

mod process;

use process::{Done, run};
use serde_json::Value;
use std::io::Write;

/// A configuration of four cores and an edge, which keeps nothing.
const CLUSTER: &str = r#"(
    cluster: (
        name: "test", num_shards: 16, copies: 2, spread: zone, secret: "0123456789abcdef",
        nodes: [
            (name: "core-1", address: "127.0.0.1:7001", role: core, region: "tokyo", zone: "a"),
            (name: "core-2", address: "127.0.0.1:7002", role: core, region: "tokyo", zone: "b"),
            (name: "core-3", address: "127.0.0.1:7003", role: core, region: "tokyo", zone: "a"),
            (name: "core-4", address: "127.0.0.1:7004", role: core, region: "tokyo", zone: "b", shards: "0-3"),
            (name: "edge-1", address: "127.0.0.1:7005", role: edge),
        ],
    ),
    node: (name: "core-1", role: core, region: "tokyo", zone: "a"),
)"#;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

fn shards(arguments: &[&str]) -> Done {
    let done = run(&[&["shards"], arguments].concat());
    assert_eq!(done.code, Some(0), "{}", done.err);
    done
}

fn json(arguments: &[&str]) -> Value {
    shards(&[arguments, &["--json"]].concat()).json()
}

fn words<'a>(value: &'a Value, field: &str) -> Vec<&'a str> {
    value[field].as_array().expect(field).iter().map(|word| word.as_str().expect("a word")).collect()
}

#[test]
fn a_laptop_keeps_everything() {
    let done = shards(&[]);
    for wanted in ["16 shards on 1 core, 1 copy, spread by node", "100.0%", "every shard has enough nodes"] {
        assert!(done.out.contains(wanted), "{wanted}:\n{}", done.out);
    }
    assert_eq!(shards(&["--user", "alice"]).out, "alice: slot 788724, shard 13, kept by laptop\n");
}

#[test]
fn a_configurations_cores_are_in_the_map() {
    let config = file(CLUSTER);
    let json = json(&["--config", path(&config)]);
    let nodes = json["map"]["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 4, "edges keep nothing");
    assert_eq!((nodes[3]["claims"].as_str(), nodes[3]["shards"].as_u64()), (Some("0-3"), Some(4)));
    let places = json["shards"].as_array().expect("shards");
    assert_eq!(places.len(), 16);
    for place in places {
        let (nodes, shard) = (words(place, "nodes"), place["shard"].as_u64());
        let in_zone_b = nodes.iter().filter(|node| ["core-2", "core-4"].contains(node)).count();
        assert_eq!((nodes.len(), in_zone_b), (2, 1), "{place}");
        assert_eq!(nodes[0] == "core-4", shard < Some(4), "claims come first: {place}");
    }
}

#[test]
fn a_user_is_kept_by_the_nodes_of_its_shard() {
    let config = file(CLUSTER);
    let user = json(&["--config", path(&config), "--user", "alice"]);
    assert_eq!((user["slot"].as_u64(), user["shard"].as_u64()), (Some(788_724), Some(13)));
    let shard = json(&["--config", path(&config), "--shard", "13"]);
    assert_eq!(user["nodes"], shard["nodes"]);
    let line = shards(&["--config", path(&config), "--shard", "13"]).out;
    assert!(
        line.starts_with("shard 13: ") && line.ends_with(&format!("{}\n", words(&shard, "nodes").join(" "))),
        "{line}"
    );
}

#[test]
fn shards_that_nobody_keeps_are_a_warning() {
    let nodes = file("left shards=0-499\nright shards=500-899 # the rest is for later\n");
    let nodes = format!("@{}", path(&nodes));
    let done = shards(&["--num-shards", "1_000", "--copies", "1", "--nodes", &nodes]);
    assert!(done.out.contains("WARNING: 100 shards with no node"), "{}", done.out);
    assert!(done.out.contains("refused with `unavailable`): 900-999"), "{}", done.out);
    let json = json(&["--num-shards", "1000", "--copies", "2", "--nodes", &nodes]);
    assert_eq!(json["map"]["underowned"]["shards"].as_str(), Some("0-899"));
}

#[test]
fn what_would_move_is_told() {
    let few = ["--num-shards", "1000", "--nodes", "a,b,c", "--copies", "2"];
    let grown = [&few[..], &["--to-nodes", "a,b,c,d"]].concat();
    let moves = &json(&grown)["moves"];
    let share = moves["moved_users"].as_f64().expect("a share");
    assert!((0.45..0.55).contains(&share), "{moves}");
    assert_eq!(moves["resharded_slots"].as_u64(), Some(0));
    let text = shards(&grown).out;
    for wanted in ["from 1,000 shards on 3 cores, 2 copies", "to 1,000 shards on 4 cores", "instead of", "d "] {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
    let moves = &json(&[&few[..], &["--to-num-shards", "2000"]].concat())["moves"];
    let share = moves["resharded_slots"].as_f64().expect("slots") / f64::from(1 << 20);
    assert!((0.5..0.53).contains(&share), "{moves}");
}

#[test]
fn another_configuration_is_compared() {
    let (now, then) = (file(CLUSTER), file(&CLUSTER.replace("num_shards: 16", "num_shards: 32")));
    let both = json(&["--config", path(&now), "--to-config", path(&then)]);
    assert_eq!((both["map"]["num_shards"].as_u64(), both["to"]["num_shards"].as_u64()), (Some(16), Some(32)));
    let same = json(&["--config", path(&now), "--to-config", path(&now)]);
    assert_eq!((same["moves"]["moved_slots"].as_u64(), &same["moves"]["pairs"]), (Some(0), &Value::Array(Vec::new())));
}

#[test]
fn mistakes_are_named() {
    let gossip = file(
        "(cluster: (discovery: gossip, secret: \"0123456789abcdef\"), node: (link: (listen: \"127.0.0.1:7001\")))",
    );
    let wrong = file("a\nb shards=16\n");
    for (arguments, wanted) in [
        (&["--config", path(&gossip)][..], "find each other by gossip, and the one here cannot be asked"),
        (&["--nodes", &format!("@{}", path(&wrong))], ":2: `16` is not 7, 0-499 or 0-9,20, with numbers below 16"),
        (&["--nodes", "a,b,a"], "node a is named twice"),
        (&["--nodes", "core-30139,core-65266"], "nodes core-30139 and core-65266 have the same id"),
        (&["--nodes", "@/nowhere"], "/nowhere: "),
        (&["--num-shards", "0"], "a cluster has 1 to 65536 shards"),
        (&["--copies", "9"], "--copies"),
        (&["--shard", "16"], "shards are numbered 0 to 15"),
        (&["--user", ""], "no user id"),
    ] {
        let done = run(&[&["shards"], arguments].concat());
        assert_eq!(done.code, Some(2), "{arguments:?}");
        assert!(done.err.contains(wanted), "{arguments:?}: {}", done.err);
    }
}
