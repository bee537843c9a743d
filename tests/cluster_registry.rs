//! Clusters that Consul or etcd know, under a checked load: the service is killed, restarted and loses its data, and a core
//! flaps. No client is dropped, no message lost, and edges follow within five seconds of the service's return.

mod engines;
mod fleet;
mod process;

use engines::registry::{Due, PUBLISHER, Registry};
use fleet::drill::Drill;
use fleet::ground::Ground;
use fleet::{Cluster, Discovery, Member, Plan, knows};
use process::{Done, run};
use serde_json::Value;
use std::time::Duration;

/// Edges have followed within this time.
const FOLLOWS: Duration = Duration::from_secs(5);
/// Messages per second: the two services are tested side by side, and binaries of the check are less optimised.
const RATE: f64 = 1_500.0;
const USERS: u32 = 400;
const EDGES: [&str; 2] = ["edge-a", "edge-b"];

fn plan(registry: &Registry) -> Plan {
    Plan { discovery: Discovery::By(registry.fields()), ..Plan::proof() }
}

/// Every edge has this in its status.
fn edges(cluster: &Cluster, what: &str, wanted: impl Fn(&Value) -> bool) {
    EDGES.iter().for_each(|edge| drop(cluster.until(edge, what, &wanted)));
}

fn is_away(status: &Value) -> bool {
    status["discovery"]["away_since_unix_ms"].is_u64()
}

/// The service is back: how long edges take to know this core, which they did not know before.
fn follow(registry: &mut Registry, cluster: &Cluster, core: &str) {
    registry.start();
    let due = Due::now();
    edges(cluster, &format!("follows and knows {core}"), |status| !is_away(status) && knows(status, core));
    due.within(FOLLOWS, &format!("edges know {core} by a service that is back"));
}

fn services_come_and_go_and_cores_flap(name: &'static str, kind: &'static str) {
    let Some(mut registry) = Registry::up(kind, name) else { return };
    let cluster = Cluster::start(plan(&registry), Ground::loopback());
    let mut drill = Drill::start(name, cluster, |plan| {
        (plan.rate, plan.users, plan.late_allowed) = (RATE, USERS, true);
        // Whoever reconnects was dropped.
        (plan.visitors_percent, plan.silence_ms) = (0, 30_000);
    });
    drill.fault(&format!("{kind} is killed"), |cluster| {
        registry.engine.kill();
        edges(cluster, "tells that it is away", is_away);
        let text = cluster.status_text("edge-a");
        let wanted = [" by {kind}: 3 alive", "what was known is kept since 2", "{kind} does not answer"];
        wanted.iter().for_each(|wanted| assert!(text.contains(&wanted.replace("{kind}", kind)), "{text}"));
    });
    drill.fault("a core begins meanwhile", |cluster| {
        cluster.add(Member::core("core-c"));
        cluster.run("core-c");
    });
    drill.fault(&format!("{kind} is back"), |cluster| follow(&mut registry, cluster, "core-c"));
    drill.fault(&format!("{kind} is killed and has lost its data, and a core begins meanwhile"), |cluster| {
        registry.engine.kill();
        registry.engine.wipe();
        cluster.add(Member::core("core-d"));
        cluster.run("core-d");
        follow(&mut registry, cluster, "core-d");
        cluster.until_linked();
    });
    for turn in 1..=3 {
        drill.fault(&format!("core-b flaps, {turn}"), |cluster| {
            cluster.kill("core-b");
            cluster.run("core-b");
        });
    }
    for core in ["core-c", "core-d"] {
        drill.fault(&format!("{core} leaves for good"), |cluster| {
            cluster.until_linked();
            cluster.remove(core);
            edges(cluster, &format!("has forgotten {core}"), |status| {
                let nodes = status["discovery"]["nodes"].as_array().expect("a list");
                nodes.iter().all(|node| node["name"] != core)
            });
        });
    }
    let (_, outcome) = drill.finish();
    let figures: Value = serde_json::from_str(&outcome.json()).expect("JSON");
    assert_eq!(figures["figures"]["reconnects"], 0, "clients were dropped: {figures}");
}

#[test]
fn consul_comes_and_goes_and_cores_flap() {
    services_come_and_go_and_cores_flap("by-consul", "consul");
}

#[test]
fn etcd_comes_and_goes_and_cores_flap() {
    services_come_and_go_and_cores_flap("by-etcd", "etcd");
}

/// A node that could not listen for a while, and then finds that what it missed is forgotten.
#[test]
fn a_watch_that_was_compacted_away_begins_anew() {
    let Some(registry) = Registry::up("etcd", "a compacted watch") else { return };
    let members = vec![Member::core("core-a"), Member::edge("edge-a")];
    let cluster = "num_shards: 16, copies: 1".to_owned();
    let mut cluster = Cluster::start(Plan { members, cluster, ..plan(&registry) }, Ground::loopback());
    cluster.freeze("edge-a", true);
    // More than the buffers between the two have room for, in bytes and in events, so that the server has to remember where
    // the edge is.
    let value = "x".repeat(64 << 10);
    let junk = |count: usize| {
        let key = format!("iris/{}/junk", engines::registry::CLUSTER);
        (0..count).for_each(|_| assert_eq!(registry.put(&key, &value).0, 200));
    };
    junk(600);
    cluster.add(Member::core("core-b"));
    cluster.run("core-b");
    cluster.until("core-a", "knows core-b", |status| knows(status, "core-b"));
    // Of these it may send at most 128.
    junk(200);
    registry.compact();
    cluster.freeze("edge-a", false);
    cluster.until("edge-a", "knows core-b", |status| knows(status, "core-b"));
    let log = cluster.log("edge-a");
    assert!(log.contains("what etcd has is read anew: the watch was compacted away"), "{log}");
}

fn publish(registry: &Registry, cluster: &Cluster, (token, arguments): (&str, &[&str])) -> Done {
    let file = cluster.directory().join("publish.ron");
    let text = format!(
        "(cluster: ({}, secret: \"{}\", num_shards: 16, copies: 1), node: (role: edge, link: (listen: \"127.0.0.1:1\")))",
        registry.fields_with(token),
        fleet::SECRET
    );
    std::fs::write(&file, text).expect("written");
    run(&[&["shards", "publish", "--config", file.to_str().expect("UTF-8")], arguments].concat())
}

fn maps_are_published(kind: &'static str) {
    let Some(registry) = Registry::up(kind, "iris shards publish") else { return };
    let members = vec![Member::core("core-a"), Member::core("core-b"), Member::edge("edge-a")];
    let fields = "num_shards: 16, copies: 1".to_owned();
    let cluster = Cluster::start(Plan { members, cluster: fields, ..plan(&registry) }, Ground::loopback());
    let list = cluster.directory().join("cores");
    std::fs::write(&list, "core-a shards=0-3 # few\ncore-b\n").expect("written");
    let list = format!("@{}", list.display());
    let publish = |token: &str, arguments: &[&str]| publish(&registry, &cluster, (token, arguments));
    let map = r#"{"num_shards":16,"nodes":{"core-a":"0-3","core-b":"4-15"}}"#;
    assert_eq!(publish(PUBLISHER, &["--nodes", &list, "--dry-run"]).out.trim(), map);
    let done = publish(PUBLISHER, &["--nodes", &list, "--if-version", "0", "--json"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let version = done.json()["version"].to_string();
    let shards = |status: &Value, name: &str| {
        let nodes = status["discovery"]["nodes"].as_array().expect("a list");
        nodes.iter().find(|node| node["name"] == name).map_or(Value::Null, |node| node["shards"].clone())
    };
    for node in ["edge-a", "core-a", "core-b"] {
        cluster
            .until(node, "follows", |status| shards(status, "core-a") == "0-3" && shards(status, "core-b") == "4-15");
    }
    let stale = publish(PUBLISHER, &["--nodes", "core-b", "--if-version", "0"]);
    assert_eq!(stale.code, Some(3), "{}", stale.out);
    assert!(stale.err.contains(&format!("the shard map has version {version} now: somebody else")), "{}", stale.err);
    let done = publish(PUBLISHER, &["--nodes", "core-b", "--if-version", &version]);
    assert!(done.out.ends_with(": 16 shards on 1 core\n"), "{}{}", done.out, done.err);
    cluster.until("edge-a", "follows", |status| shards(status, "core-a") == "" && shards(status, "core-b") == "0-15");
    let few = cluster.directory().join("few");
    std::fs::write(&few, "core-a shards=0-3").expect("written");
    let holes = publish(PUBLISHER, &["--nodes", &format!("@{}", few.display())]);
    let wanted = "error: nobody would keep the shards 4-15, and their users would be refused\n";
    assert_eq!((holes.code, holes.err.as_str()), (Some(2), wanted));
    if kind == "consul" {
        let done = publish(engines::registry::NODES, &["--nodes", "core-b"]);
        assert!(done.code == Some(3) && done.err.contains("consul refuses (403)"), "{}{}", done.out, done.err);
    }
}

#[test]
fn maps_are_published_to_consul() {
    maps_are_published("consul");
}

#[test]
fn maps_are_published_to_etcd() {
    maps_are_published("etcd");
}
