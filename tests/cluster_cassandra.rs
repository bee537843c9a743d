//! Nodes whose messages are in a Cassandra cluster of three nodes: they die under a checked load, and what one core has
//! stored is found by another.

mod engines;
mod fleet;
mod process;
mod wire;

use engines::cassandra::Cassandra;
use fleet::drill::Drill;
use fleet::ground::Ground;
use fleet::{Cluster, Member, Plan, has_link};
use iris_shards::frame::{Code, LEVEL_STORED};
use process::run;
use std::sync::{RwLock, RwLockReadGuard};
use wire::{Heard, Wire};

/// Messages per second: three JVMs share the machine.
const RATE: f64 = 400.0;
const USERS: u32 = 200;
/// A machine that others use is slow, and that is not what is tested.
const AWAY_MS: u64 = 10_000;
/// With a replication factor of three most are two.
const COPIES: u8 = 2;

/// Who writes stops nodes that others use.
static NODES: RwLock<()> = RwLock::new(());

fn shared(test: &str) -> Option<(&'static Cassandra, RwLockReadGuard<'static, ()>)> {
    let running = NODES.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    Some((Cassandra::shared(test)?, running))
}

/// The fields of `node` for a keyspace of the test's own.
fn fields(cassandra: &Cassandra, keyspace: &str) -> String {
    let hosts = cassandra.hosts();
    format!("storage: cassandra, cassandra: (hosts: {hosts:?}, keyspace: \"{keyspace}\", away_ms: {AWAY_MS}),")
}

/// Of this run: a cluster that stays has those of others.
fn keyspace(name: &str) -> String {
    format!("iris_{name}_{}", std::process::id())
}

/// What an operator does first.
fn init(cassandra: &Cassandra, keyspace: &str) {
    let (hosts, copies) = (cassandra.hosts().join(","), format!("{}=3", cassandra.data_centre()));
    let done = run(&["storage", "init", "--hosts", &hosts, "--keyspace", keyspace, "--data-centres", &copies]);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
}

fn plan(cassandra: &Cassandra, keyspace: &str, members: Vec<Member>) -> Plan {
    Plan { node: fields(cassandra, keyspace), members, ..Plan::proof() }
}

fn drill(name: &'static str, cluster: Cluster, late_allowed: bool) -> Drill {
    Drill::start(name, cluster, |plan| {
        (plan.rate, plan.users, plan.late_allowed) = (RATE, USERS, late_allowed);
    })
}

#[test]
fn one_node_dies_and_loses_nothing() {
    let Some((cassandra, _running)) = shared("one node on Cassandra") else { return };
    let keyspace = &keyspace("one");
    let mut plan = plan(cassandra, keyspace, vec![Member::new("laptop", "both")]);
    plan.cluster = "num_shards: 16, copies: 1".to_owned();
    let refused = Cluster::prepare(plan.clone(), Ground::loopback()).refused("laptop");
    assert!(refused.err.contains("has no tables of Iris: run `iris storage init`"), "{}", refused.err);
    init(cassandra, keyspace);
    let mut drill = drill("one-on-cassandra", Cluster::start(plan, Ground::loopback()), false);
    for _ in 0..3 {
        drill.fault("kill -9 of the node, back at once", |cluster| {
            cluster.kill("laptop");
            cluster.run("laptop");
        });
    }
    drill.fault("the node is restarted", |cluster| {
        assert!(cluster.stop("laptop").is_some_and(|status| status.success()), "{}", cluster.log("laptop"));
        cluster.run("laptop");
    });
    let (cluster, _) = drill.finish();
    let text = cluster.status_text("laptop");
    assert!(text.contains("of those in use; cassandra keeps them, with 2 copies confirmed"), "{text}");
}

#[test]
fn what_one_core_stored_is_found_by_another() {
    let Some((cassandra, _running)) = shared("two cores on Cassandra") else { return };
    let keyspace = &keyspace("found");
    init(cassandra, keyspace);
    let mut cluster = Cluster::start(plan(cassandra, keyspace, Plan::proof().members), Ground::loopback());
    let door = |cluster: &Cluster, edge: &str| cluster.client_address(edge).to_string();
    let users: Vec<String> = (0..40).map(|n| format!("bob-{n}")).collect();
    let mut alice = Wire::login(&door(&cluster, "edge-a"), "alice");
    for (sequence, user) in (1..).zip(&users) {
        alice.send(sequence, user, user.as_bytes());
        assert_eq!(copies(&mut alice), COPIES);
    }
    cluster.kill("core-a");
    for user in &users[..20] {
        assert_eq!(Wire::login(&door(&cluster, "edge-b"), user).letter().text(), *user);
    }
    // Those were not acknowledged; and then nobody has anything in memory.
    cluster.kill("core-b");
    cluster.run("core-a");
    until_served(&cluster, "core-a");
    for user in &users {
        let mut bob = Wire::login(&door(&cluster, "edge-b"), user);
        let letter = bob.letter();
        assert_eq!(letter.text(), *user);
        bob.acknowledge(letter.sequence, letter.sequence);
        bob.settle();
    }
    cluster.until("core-a", "has stored every acknowledgement", |status| {
        let mut executors = status["executors"].as_array().expect("a list").iter();
        executors.all(|executor| executor["inbox_messages"] == 0 && executor["log"]["unflushed"] == 0)
    });
    cluster.kill("core-a");
    cluster.run("core-b");
    until_served(&cluster, "core-b");
    for (sequence, user) in (41..).zip(&users) {
        let mut bob = Wire::login(&door(&cluster, "edge-b"), user);
        alice.send(sequence, user, b"the next");
        assert_eq!(bob.letter().text(), "the next", "{user} has acknowledged what came before");
    }
}

/// Both edges have a link to this core.
fn until_served(cluster: &Cluster, core: &str) {
    ["edge-a", "edge-b"].iter().for_each(|edge| until_link(cluster, edge, core));
}

fn until_link(cluster: &Cluster, edge: &str, core: &str) {
    cluster.until(edge, &format!("has a link to {core}"), |status| has_link(status, core));
}

/// How many copies the next confirmation names.
fn copies(wire: &mut Wire) -> u8 {
    wire.until(|heard| match heard {
        Heard::Confirm { level: LEVEL_STORED, copies, .. } => Some(*copies),
        Heard::Refused { code, .. } => panic!("refused: {code:?}"),
        _ => None,
    })
}

#[test]
fn cores_die_and_come_back() {
    let Some((cassandra, _running)) = shared("cores on Cassandra that die") else { return };
    let keyspace = &keyspace("dying");
    init(cassandra, keyspace);
    let plan = plan(cassandra, keyspace, Plan::proof().members).by_gossip();
    let mut drill = drill("dying-on-cassandra", Cluster::start(plan, Ground::loopback()), true);
    for core in ["core-a", "core-b", "core-a"] {
        drill.fault(&format!("kill -9 of {core}"), |cluster| cluster.kill(core));
        drill.fault(&format!("{core} is back"), |cluster| {
            cluster.run(core);
            cluster.until_linked();
        });
    }
    drill.fault("kill -9 of edge-a", |cluster| cluster.kill("edge-a"));
    drill.fault("edge-a is back", |cluster| cluster.run("edge-a"));
    drill.finish();
}

#[test]
fn most_of_the_cluster_is_away_and_comes_back() {
    let Some(cassandra) = Cassandra::shared("Cassandra that is away") else { return };
    let _alone = NODES.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let keyspace = &keyspace("away");
    init(cassandra, keyspace);
    let members = vec![Member::core("core"), Member::edge("edge")];
    let mut plan = plan(cassandra, keyspace, members);
    plan.cluster = "num_shards: 16, copies: 1".to_owned();
    let cluster = Cluster::start(plan, Ground::loopback());
    until_link(&cluster, "edge", "core");
    let door = cluster.client_address("edge").to_string();
    let (mut alice, mut carol) = (Wire::login(&door, "alice"), Wire::login(&door, "carol"));
    alice.send(1, "bob", b"before");
    assert_eq!(copies(&mut alice), COPIES);
    alice.send(2, "carol", b"hello");
    let letter = carol.letter();
    carol.acknowledge(letter.sequence, letter.sequence);
    alice.delivered(2);
    cassandra.kill(&[1, 2]);
    alice.send(3, "bob", b"meanwhile");
    cluster.until("core", "says that the cluster is away", |status| status["storage"]["away_since_unix_ms"].is_u64());
    alice.send(4, "bob", b"too late");
    assert_eq!(alice.refused(4).0, Code::Unavailable);
    // Who is here needs no store.
    alice.send(5, "carol", b"still here");
    let letter = carol.letter();
    assert_eq!(letter.text(), "still here");
    carol.acknowledge(letter.sequence, letter.sequence);
    alice.delivered(5);
    let text = cluster.status_text("core");
    assert!(text.contains("it confirms nothing since 2"), "{text}");
    cassandra.heal();
    cluster.until("core", "says that the cluster is back", |status| status["storage"]["away_since_unix_ms"].is_null());
    alice.send(6, "bob", b"after");
    // What was under way when the cluster went is confirmed in the end, or was refused before it was written.
    assert_eq!(copies(&mut alice), COPIES);
    let mut bob = Wire::login(&door, "bob");
    let mut texts = vec![bob.letter().text()];
    while texts.last().is_some_and(|text| text != "after") {
        texts.push(bob.letter().text());
    }
    assert!(texts == ["before", "after"] || texts == ["before", "meanwhile", "after"], "{texts:?}");
}
