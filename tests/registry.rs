//! Discovery by Consul and etcd, against the real servers: nodes without executors, so that every view can be looked at.

mod engines;

use engines::registry::{Due, NODES, PUBLISHER, READER, Registry};
use engines::{Engine, certificates};
use iris::config::{Config, Flags};
use iris::discovery::registry::{PublishedMap, Service};
use iris::discovery::{Discovery, DiscoveryError, DiscoveryStatus, Known, NodeState, View, start};
use iris_shards::id::NodeId;
use std::collections::BTreeMap;
use std::fs::write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Nodes have followed within this time.
const FOLLOWS: Duration = Duration::from_secs(5);

/// Makes a test of each rule for each service.
macro_rules! on_both {
    ($($rule:ident,)*) => {
        mod consul { $(#[test] fn $rule() { super::on("consul", super::$rule); })* }
        mod etcd { $(#[test] fn $rule() { super::on("etcd", super::$rule); })* }
    };
}

on_both! {
    cores_come_and_go_and_edges_follow,
    who_goes_without_a_word_is_gone_for_a_while,
    the_last_view_is_kept_while_the_service_is_away_or_wiped,
    the_shard_map_decides_and_is_written_with_check_and_set,
    certificates_are_asked_for,
}

fn on(kind: &'static str, rule: fn(&str, &'static str)) {
    rule(&format!("registry, {kind}"), kind);
}

/// The last view, and a bell for those who wait for another one.
type Seen = Arc<(Mutex<Option<Arc<View>>>, Condvar)>;

struct Node {
    discovery: Discovery,
    seen: Seen,
}

impl Node {
    fn start(config: &Config) -> Result<Self, DiscoveryError> {
        let seen = Seen::default();
        let told = seen.clone();
        let own = Known::own(config, format!("{}.test:7085", config.name));
        let discovery = start(config, own, move |view| {
            *told.0.lock().expect("no panic") = Some(view);
            told.1.notify_all();
        });
        Ok(Node { discovery: discovery?, seen })
    }

    fn view(&self) -> Arc<View> {
        self.seen.0.lock().expect("no panic").clone().expect("the first comes before the start returns")
    }

    /// Waits for a view of which this is true.
    fn wait(&self, what: &str, wanted: impl Fn(&View) -> bool) {
        let (deadline, mut seen) = (Instant::now() + PATIENCE, self.seen.0.lock().expect("no panic"));
        loop {
            let view = seen.clone().expect("the first");
            if wanted(&view) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let status = || self.discovery.status();
            assert!(!left.is_zero(), "not {what}: {:#?} {:?} {:#?}", view.nodes, view.faults, status());
            (seen, _) = self.seen.1.wait_timeout(seen, left).expect("no panic");
        }
    }

    fn until_status(&self, what: &str, wanted: impl Fn(&DiscoveryStatus) -> bool) -> DiscoveryStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.discovery.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "not {what}: {status:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn until_away(&self, is_away: bool) {
        self.until_status("away, or back", |status| status.away_since_unix_ms.is_some() == is_away);
    }
}

/// A configuration of a node with these fields of `cluster` beside what all have.
fn config(folder: &Path, cluster: &str, (name, node): (&str, &str)) -> Config {
    let text = format!(
        "(cluster: ({cluster}, secret: \"0123456789abcdef\", num_shards: 100, copies: 1), \
         node: (name: \"{name}\", {node}, data: \"x\", admin: \"x\", link: (listen: \"127.0.0.1:7085\")))"
    );
    let file = folder.join(format!("{name}.ron"));
    write(&file, text).expect("written");
    Config::load(Some(&file), &Flags::default()).unwrap_or_else(|error| panic!("{error}"))
}

impl Registry {
    fn config(&self, name: &str, node: &str, claim_ms: u64) -> Config {
        let cluster = format!("{}, claim_ms: {claim_ms}", self.fields());
        config(&self.engine.folder(), &cluster, (name, node))
    }

    fn edge(&self, claim_ms: u64) -> Node {
        Node::start(&self.config("edge-1", "role: edge", claim_ms)).expect("it starts")
    }

    fn core(&self, name: &str, shards: &str, claim_ms: u64) -> Node {
        Node::start(&self.config(name, &format!("role: core, shards: {shards}"), claim_ms)).expect("it starts")
    }
}

fn state(view: &View, name: &str) -> Option<NodeState> {
    view.nodes.get(&NodeId::of_name(name)).map(|known| known.state)
}

fn is_alive(view: &View, name: &str) -> bool {
    state(view, name) == Some(NodeState::Alive)
}

fn keeps(view: &View, name: &str, shard: u32) -> bool {
    view.placement.of_shard(shard).first() == Some(&NodeId::of_name(name))
}

fn cores_come_and_go_and_edges_follow(test: &str, kind: &'static str) {
    let Some(registry) = Registry::up(kind, test) else { return };
    let edge = registry.edge(60_000);
    let a = registry.core("core-a", "\"0-49\"", 60_000);
    let b = registry.core("core-b", "\"50-99\", region: \"tokyo\", zone: \"z\"", 60_000);
    edge.wait("both", |view| keeps(view, "core-a", 0) && keeps(view, "core-b", 99));
    a.wait("both", |view| keeps(view, "core-b", 99));
    let known = edge.view().nodes[&NodeId::of_name("core-b")].clone();
    let told = (known.address.as_str(), known.region.as_str(), known.zone.as_str());
    assert_eq!((told, known.is_edge, known.is_core), (("core-b.test:7085", "tokyo", "z"), false, true));
    let due = Due::now();
    b.discovery.drain();
    edge.wait("draining", |view| state(view, "core-b") == Some(NodeState::Leaving));
    due.within(FOLLOWS, "an edge knows that a core drains");
    assert_eq!(state(&b.view(), "core-b"), Some(NodeState::Leaving));
    let due = Due::now();
    b.discovery.leave();
    drop(b);
    edge.wait("gone", |view| state(view, "core-b").is_none());
    due.within(FOLLOWS, "an edge knows that a core has left");
    // Edges are nobody's business.
    assert!(state(&a.view(), "edge-1").is_none());
}

fn who_goes_without_a_word_is_gone_for_a_while(test: &str, kind: &'static str) {
    let Some(registry) = Registry::up(kind, test) else { return };
    let edge = registry.edge(4_000);
    let a = registry.core("core-a", "\"0-49\"", 4_000);
    let b = registry.core("core-b", "Auto", 4_000);
    edge.wait("there", |view| is_alive(view, "core-a") && keeps(view, "core-b", 50));
    drop(a);
    edge.wait("gone", |view| state(view, "core-a") == Some(NodeState::Gone) && keeps(view, "core-a", 0));
    let again = registry.core("core-a", "\"0-49\"", 4_000);
    edge.wait("back", |view| is_alive(view, "core-a"));
    drop(again);
    edge.wait("gone", |view| state(view, "core-a") == Some(NodeState::Gone));
    edge.wait("forgotten", |view| state(view, "core-a").is_none() && keeps(view, "core-b", 0));
    b.wait("forgotten", |view| state(view, "core-a").is_none() && keeps(view, "core-b", 0));
}

fn the_last_view_is_kept_while_the_service_is_away_or_wiped(test: &str, kind: &'static str) {
    let Some(mut registry) = Registry::up(kind, test) else { return };
    let edge = registry.edge(60_000);
    let _a = registry.core("core-a", "\"0-49\"", 60_000);
    let b = registry.core("core-b", "Auto", 60_000);
    edge.wait("both", |view| keeps(view, "core-a", 0) && keeps(view, "core-b", 99));
    registry.engine.kill();
    edge.until_away(true);
    let status = edge.discovery.status();
    let reason = status.away_reason.expect("a reason");
    assert!(reason.starts_with(&format!("{kind} does not answer: ")), "{reason}");
    drop(b);
    // It cannot know who else is there, and so keeps nothing yet.
    let c = registry.core("core-c", "Auto", 60_000);
    assert!(keeps(&edge.view(), "core-a", 0) && keeps(&edge.view(), "core-b", 99) && c.view().nodes.is_empty());
    registry.start();
    let due = Due::now();
    edge.wait("following", |view| is_alive(view, "core-a") && is_alive(view, "core-c"));
    edge.until_away(false);
    due.within(FOLLOWS, "an edge follows again");
    edge.wait("b gone", |view| state(view, "core-b") == Some(NodeState::Gone) && is_alive(view, "core-a"));

    registry.engine.kill();
    registry.engine.wipe();
    let d = registry.core("core-d", "Auto", 60_000);
    registry.start();
    let due = Due::now();
    edge.wait("registered anew", |view| ["core-a", "core-c", "core-d"].iter().all(|name| is_alive(view, name)));
    due.within(FOLLOWS, "an edge follows a service that has lost its data");
    d.wait("all", |view| keeps(view, "core-a", 0) && is_alive(view, "core-c"));
    // Who was gone before has lost nothing either.
    edge.wait("kept", |view| state(view, "core-b") == Some(NodeState::Gone) && keeps(view, "core-a", 0));
}

fn the_shard_map_decides_and_is_written_with_check_and_set(test: &str, kind: &'static str) {
    let Some(registry) = Registry::up(kind, test) else { return };
    let edge = registry.edge(60_000);
    let cores = ["core-a", "core-b"].map(|name| registry.core(name, "Auto", 60_000));
    edge.wait("both", |view| is_alive(view, "core-a") && is_alive(view, "core-b"));
    let map = |a: &str, b: &str, num_shards| {
        let nodes = [("core-a", a), ("core-b", b)].map(|(name, shards)| (name.to_owned(), shards.to_owned()));
        serde_json::to_string(&PublishedMap { num_shards, nodes: nodes.into() }).expect("JSON")
    };
    let fields = registry.fields_with(PUBLISHER);
    let service = Service::new(&config(&registry.engine.folder(), &fields, ("publisher", "role: edge")));
    let service = service.expect("no certificates").expect("a registry");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let put = |version, map: &str| runtime.block_on(service.put_map(version, map)).expect("an answer");
    let version = || runtime.block_on(service.map()).expect("an answer").0;
    assert_eq!(version(), 0);
    assert!(put(0, &map("0-79", "80-99", 100)));
    assert!(!put(0, &map("0-9", "10-99", 100)), "somebody else was first");
    let due = Due::now();
    let first = |view: &View| keeps(view, "core-a", 79) && keeps(view, "core-b", 80);
    edge.wait("mapped", first);
    cores.iter().for_each(|core| core.wait("mapped", first));
    due.within(FOLLOWS, "all follow the shard map");
    let before = version();
    assert!(put(before, &map("0-9", "10-99", 100)));
    assert!(!put(before, &map("0-79", "80-99", 100)), "it has another version now");
    let second = |view: &View| keeps(view, "core-a", 9) && keeps(view, "core-b", 10);
    edge.wait("mapped anew", second);
    // Slips of the pen move nothing.
    for (text, fault) in [
        (
            map("0-9", "10-199", 200),
            "the shard map is for 200 shards, and cluster.num_shards is 100; it is not followed",
        ),
        ("oops".to_owned(), "the shard map is not one"),
    ] {
        registry.put_map(&text);
        edge.wait("told", |view| view.faults.iter().any(|told| told.contains(fault)) && second(view));
    }
    registry.put_map(&map("0-79", "80-99", 100));
    edge.wait("mapped again", |view| first(view) && view.faults.is_empty());
}

#[test]
fn consul_asks_for_the_right_token() {
    let Some(registry) = Registry::up("consul", "registry, tokens") else { return };
    let start = |token: &str, name: &str, node: &str| {
        let folder = registry.engine.folder();
        Node::start(&config(&folder, &registry.fields_with(token), (name, node))).expect("it starts")
    };
    let core = start(NODES, "core-a", "role: core");
    core.wait("itself", |view| keeps(view, "core-a", 0));
    let strange = "11111111-2222-3333-4444-555555555555";
    let edge = start(strange, "edge-1", "role: edge");
    let reason = |node: &Node, wanted: &str| {
        let is_it = |status: &DiscoveryStatus| status.away_reason.as_ref().is_some_and(|told| told.contains(wanted));
        let status = node.until_status(wanted, is_it);
        assert!(status.away_since_unix_ms.is_some());
        assert!(!format!("{status:?}").contains(strange));
    };
    reason(&edge, "consul refuses (403)");
    assert!(state(&edge.view(), "core-a").is_none());
    // It may read and write the shard map, and see nobody.
    let publisher = start(PUBLISHER, "edge-2", "role: edge");
    reason(&publisher, "the token may not read all that there is");
    let core = start(READER, "core-b", "role: core, shards: 7");
    reason(&core, "this node cannot be registered: consul refuses (403)");
    core.wait("the other", |view| is_alive(view, "core-a") && keeps(view, "core-b", 7));
    let edge = start(READER, "edge-3", "role: edge");
    edge.wait("who may register", |view| is_alive(view, "core-a"));
    assert!(state(&edge.view(), "core-b").is_none() && edge.discovery.status().away_reason.is_none());
}

#[test]
fn etcd_asks_for_a_login() {
    let Some(mut registry) = Registry::up("etcd", "registry, login") else { return };
    registry.ask_for_login("iris", "swordfish");
    let (folder, address) = (registry.engine.folder(), registry.engine.field("http").to_owned());
    let start = |login: &str, name: &str, node: &str| {
        let fields = format!("name: \"tested\", discovery: etcd, etcd: (address: \"{address}\", {login})");
        Node::start(&config(&folder, &fields, (name, node))).expect("it starts")
    };
    let good = "user: \"iris\", password: \"swordfish\"";
    let _a = start(good, "core-a", "role: core, shards: \"0-49\"");
    let edge = start(good, "edge-1", "role: edge");
    edge.wait("the core", |view| is_alive(view, "core-a"));
    // What a login gave is forgotten.
    registry.engine.kill();
    edge.until_away(true);
    registry.start();
    let due = Due::now();
    let _b = start(good, "core-b", "role: core, shards: \"50-99\"");
    edge.wait("both", |view| is_alive(view, "core-a") && is_alive(view, "core-b"));
    edge.until_away(false);
    due.within(FOLLOWS, "an edge has logged in again");
    for (name, login, wanted) in [
        ("edge-2", "user: \"iris\", password: \"Swordfish\"", "invalid user ID or password"),
        ("edge-3", "", "user name is empty"),
    ] {
        let node = start(login, name, "role: edge");
        let status = node.until_status(wanted, |status| status.away_reason.is_some());
        let reason = status.away_reason.expect("a reason");
        assert!(reason.starts_with("etcd refuses (") && reason.contains(wanted), "{reason}");
        assert!(!reason.contains("wordfish") && state(&node.view(), "core-a").is_none());
    }
}

fn certificates_are_asked_for(test: &str, kind: &'static str) {
    let host = certificates::any_host();
    let folder = tempfile::tempdir().expect("a directory");
    let folder = folder.path();
    certificates::write_all(folder, host);
    let path = folder.to_str().expect("UTF-8");
    let options = ["--host", &host.to_string(), "--tls", path].map(str::to_owned);
    let Some(engine) = Engine::with(kind, test, &options) else { return };
    let address = engine.field("http");
    assert!(address.starts_with("https://"));
    let start = |(ca, identity): (&str, &str), name: &str, role: &str| {
        let identity = if identity.is_empty() { String::new() } else { format!(", identity: \"{path}/{identity}\"") };
        let tls = format!("tls: (ca: \"{path}/{ca}\"{identity})");
        let fields = format!("discovery: {kind}, {kind}: (address: \"{address}\", {tls})");
        Node::start(&config(folder, &fields, (name, &format!("role: {role}"))))
    };
    let good = ("ca.pem", "node.both.pem");
    let core = start(good, "core-a", "core").expect("it starts");
    core.wait("itself", |view| keeps(view, "core-a", 0));
    let edge = start(good, "edge-1", "edge").expect("it starts");
    edge.wait("the core", |view| is_alive(view, "core-a"));
    let refused: BTreeMap<&str, (&str, &str)> = [
        ("no-certificate", ("ca.pem", "")),
        ("a-strange-certificate", ("ca.pem", "stranger.both.pem")),
        ("a-strange-server", ("other-ca.pem", "node.both.pem")),
    ]
    .into();
    for (name, files) in refused {
        let node = start(files, name, "edge").expect("it starts");
        let status = node.until_status(name, |status| status.away_reason.is_some());
        let reason = status.away_reason.expect("a reason");
        assert!(reason.starts_with(&format!("{kind} does not answer: ")), "{reason}");
        // What a server says to strangers is its own choice of words.
        assert!(name != "a-strange-server" || reason.contains("invalid peer certificate"), "{reason}");
        assert!(state(&node.view(), "core-a").is_none());
    }
    for (files, wanted) in [
        (("none.pem", ""), format!("cluster.{kind}.tls.ca: {path}/none.pem: ")),
        (("node.key.pem", ""), format!("cluster.{kind}.tls.ca: {path}/node.key.pem: there is no certificate in it")),
        (("ca.pem", "node.pem"), format!("cluster.{kind}.tls.identity: {path}/node.pem: ")),
    ] {
        let error = start(files, "edge-2", "edge").err().expect("it does not start").to_string();
        assert!(error.starts_with(&wanted), "{error}");
    }
}
