//! Discovery by Consul and etcd, against the real servers in a data folder of their own (`scripts/engines`).
//!
//! A machine that cannot have a server says so, and its tests are skipped.
#![allow(clippy::unwrap_used)]

use iris::config::{Config, Flags};
use iris::discovery::registry::{PublishedMap, Service};
use iris::discovery::{Discovery, Known, NodeState, View, start};
use iris_shards::id::NodeId;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// After the service has changed, edges follow within this time; a busy machine gets some more.
const FOLLOWS: Duration = Duration::from_secs(10);

/// A server of its own, stopped at the end.
struct Server {
    kind: &'static str,
    data: tempfile::TempDir,
    address: String,
}

impl Server {
    fn up(kind: &'static str) -> Option<Server> {
        let mut server = Server { kind, data: tempfile::tempdir().unwrap(), address: String::new() };
        server.address = server.start()?;
        Some(server)
    }

    fn start(&self) -> Option<String> {
        let mut words = vec!["up", self.kind];
        if self.kind == "consul" {
            words.extend(["--token", "0d5f7b1c-5c3a-4e6e-9a7d-6f6d5b1c2a3e"]);
        }
        let output = self.engines(&words);
        let told = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(69) {
            eprintln!("skipped: {told}");
            return None;
        }
        assert!(output.status.success(), "{told}");
        let started: Value = serde_json::from_slice(&output.stdout).unwrap();
        Some(started[self.kind][0]["http"].as_str().unwrap().to_owned())
    }

    fn engines(&self, words: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/engines");
        Command::new(script).args(words).arg("--data").arg(self.data.path()).output().unwrap()
    }

    fn kill(&self) {
        assert!(self.engines(&["down", self.kind, "--kill"]).status.success());
    }

    /// Its data is gone, and it is back at the same address.
    fn wipe(&self) {
        self.kill();
        std::fs::remove_dir_all(self.data.path().join(self.kind).join("data")).unwrap();
        self.start().unwrap();
    }

    fn config(&self, name: &str, node: &str, claim_ms: u64) -> Config {
        let token = "token: \"0d5f7b1c-5c3a-4e6e-9a7d-6f6d5b1c2a3e\"";
        let (kind, token) = (self.kind, if self.kind == "consul" { token } else { "" });
        let text = format!(
            "(cluster: (name: \"test\", discovery: {kind}, {kind}: (address: \"{}\", {token}), secret: \"0123456789abcdef\", \
             num_shards: 100, copies: 1, claim_ms: {claim_ms}), \
             node: (name: \"{name}\", {node}, link: (listen: \"127.0.0.1:7085\")))",
            self.address
        );
        let file = self.data.path().join(format!("{name}.ron"));
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file), &Flags::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn core(&self, name: &str, shards: &str, claim_ms: u64) -> Node {
        Node::start(&self.config(name, &format!("role: core, shards: {shards}"), claim_ms))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.engines(&["down", self.kind, "--kill"]);
    }
}

/// The last view, and a bell for those who wait for another one.
type Seen = Arc<(Mutex<Option<Arc<View>>>, Condvar)>;

struct Node {
    discovery: Discovery,
    seen: Seen,
}

impl Node {
    fn start(config: &Config) -> Self {
        let seen = Seen::default();
        let told = seen.clone();
        let own = Known::own(config, format!("{}.test:7085", config.name));
        let discovery = start(config, own, move |view| {
            *told.0.lock().unwrap() = Some(view);
            told.1.notify_all();
        });
        Node { discovery: discovery.unwrap(), seen }
    }

    /// Waits for a view of which this is true, and says how long that took.
    fn wait(&self, what: &str, wanted: impl Fn(&View) -> bool) -> Duration {
        let (begun, mut seen) = (Instant::now(), self.seen.0.lock().unwrap());
        loop {
            let view = seen.clone().unwrap();
            if wanted(&view) {
                return begun.elapsed();
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "not {what}: {:#?} {:?}", view.nodes, view.faults);
            (seen, _) = self.seen.1.wait_timeout(seen, left).unwrap();
        }
    }

    fn until_away(&self, away: bool) {
        let deadline = Instant::now() + PATIENCE;
        while self.discovery.status().away_since_unix_ms.is_some() != away {
            assert!(Instant::now() < deadline, "{:?}", self.discovery.status());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn state(view: &View, name: &str) -> Option<NodeState> {
    view.nodes.get(&NodeId::of_name(name)).map(|known| known.state)
}

fn keeps(view: &View, name: &str, shard: u32) -> bool {
    view.placement.of_shard(shard).first() == Some(&NodeId::of_name(name))
}

fn both(rule: impl Fn(&Server)) {
    for kind in ["consul", "etcd"] {
        if let Some(server) = Server::up(kind) {
            rule(&server);
        }
    }
}

#[test]
fn cores_come_and_go_and_edges_follow() {
    both(|server| {
        let edge = Node::start(&server.config("edge-1", "role: edge", 60_000));
        let a = server.core("core-a", "\"0-49\"", 60_000);
        let b = server.core("core-b", "\"50-99\"", 60_000);
        edge.wait("both", |view| keeps(view, "core-a", 0) && keeps(view, "core-b", 99));
        a.wait("both", |view| keeps(view, "core-b", 99));
        let view = edge.seen.0.lock().unwrap().clone().unwrap();
        assert_eq!(view.nodes[&NodeId::of_name("core-a")].address, "core-a.test:7085");
        b.discovery.drain();
        let took = edge.wait("draining", |view| state(view, "core-b") == Some(NodeState::Leaving));
        assert!(took < FOLLOWS, "{took:?}");
        b.discovery.leave();
        drop(b);
        let took = edge.wait("gone", |view| state(view, "core-b").is_none());
        assert!(took < FOLLOWS, "{took:?}");
        assert!(!edge.seen.0.lock().unwrap().clone().unwrap().nodes.contains_key(&NodeId::of_name("edge-2")));
    });
}

#[test]
fn who_goes_without_a_word_is_gone_for_a_while() {
    both(|server| {
        let edge = Node::start(&server.config("edge-1", "role: edge", 12_000));
        let a = server.core("core-a", "\"0-49\"", 12_000);
        edge.wait("there", |view| state(view, "core-a") == Some(NodeState::Alive));
        drop(a);
        edge.wait("gone", |view| state(view, "core-a") == Some(NodeState::Gone));
        let again = server.core("core-a", "\"0-49\"", 12_000);
        edge.wait("back", |view| state(view, "core-a") == Some(NodeState::Alive));
        drop(again);
        edge.wait("gone", |view| state(view, "core-a") == Some(NodeState::Gone));
        edge.wait("forgotten", |view| state(view, "core-a").is_none());
    });
}

#[test]
fn the_last_view_is_kept_while_the_service_is_away_or_wiped() {
    both(|server| {
        let edge = Node::start(&server.config("edge-1", "role: edge", 60_000));
        let _a = server.core("core-a", "\"0-49\"", 60_000);
        let b = server.core("core-b", "\"50-99\"", 60_000);
        edge.wait("both", |view| keeps(view, "core-a", 0) && keeps(view, "core-b", 99));
        server.kill();
        edge.until_away(true);
        edge.wait("kept", |view| keeps(view, "core-a", 0) && keeps(view, "core-b", 99));
        drop(b);
        server.start().unwrap();
        edge.until_away(false);
        edge.wait("b gone", |view| {
            state(view, "core-a") == Some(NodeState::Alive) && state(view, "core-b") == Some(NodeState::Gone)
        });
        server.wipe();
        let _c = server.core("core-c", "\"50-99\"", 60_000);
        let alive = |view: &View, name| state(view, name) == Some(NodeState::Alive);
        edge.wait("registered anew", |view| alive(view, "core-a") && alive(view, "core-c"));
        edge.wait("kept", |view| keeps(view, "core-a", 0));
    });
}

#[test]
fn the_shard_map_says_what_cores_keep_and_is_written_with_check_and_set() {
    both(|server| {
        let config = server.config("edge-1", "role: edge", 60_000);
        let edge = Node::start(&config);
        let _a = server.core("core-a", "Auto", 60_000);
        let _b = server.core("core-b", "Auto", 60_000);
        edge.wait("both", |view| state(view, "core-a").is_some() && state(view, "core-b").is_some());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let service = Service::new(&config).unwrap();
        let map = |a: &str, b: &str, num_shards| {
            let nodes = [("core-a", a), ("core-b", b)].map(|(name, shards)| (name.to_owned(), shards.to_owned()));
            serde_json::to_string(&PublishedMap { num_shards, nodes: nodes.into() }).unwrap()
        };
        let put = |version, map: &str| runtime.block_on(service.put_map(version, map)).unwrap();
        assert_eq!(runtime.block_on(service.map()).unwrap(), (0, None));
        assert!(put(0, &map("0-79", "80-99", 100)));
        assert!(!put(0, &map("0-9", "10-99", 100)), "somebody else was first");
        let took = edge.wait("mapped", |view| keeps(view, "core-a", 79) && keeps(view, "core-b", 80));
        assert!(took < FOLLOWS, "{took:?}");
        let (version, _) = runtime.block_on(service.map()).unwrap();
        assert!(put(version, &map("0-9", "10-99", 100)));
        edge.wait("mapped anew", |view| keeps(view, "core-a", 9) && keeps(view, "core-b", 10));
        let (version, _) = runtime.block_on(service.map()).unwrap();
        assert!(put(version, &map("0-9", "10-199", 200)));
        edge.wait("told", |view| view.faults.iter().any(|fault| fault.contains("is for 200 shards")));
    });
}
