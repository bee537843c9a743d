//! Discovery by DNS against a real name server (NSD, by `scripts/engines`).

mod engines;

use engines::Engine;
use iris::config::{Config, Flags};
use iris::discovery::{Discovery, DiscoveryStatus, Known, View, start};
use iris_shards::id::NodeId;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

struct NameServer {
    engine: Engine,
    serial: u32,
    is_up: bool,
}

impl NameServer {
    /// None, and a sentence, if there is none on this machine.
    fn new(test: &str) -> Option<Self> {
        let engine = Engine::up("dns", &format!("discovery by DNS, {test}"))?;
        Some(NameServer { engine, serial: 1, is_up: true })
    }

    /// Serves these records of core.iris.internal from now on.
    fn serve(&mut self, records: &str) {
        self.serial += 1;
        let (zone, host) = (self.engine.field("zone"), self.engine.field("host"));
        let head = format!("$ORIGIN {zone}.\n$TTL 1\n@ SOA ns host {} 60 60 60 1\n@ NS ns\nns A {host}\n", self.serial);
        std::fs::write(self.engine.field("zone_file"), head + records).expect("written");
        match self.is_up {
            true => self.engine.signal("HUP"),
            false => self.engine.start(),
        }
        self.is_up = true;
    }

    fn stop(&mut self) {
        self.engine.stop();
        self.is_up = false;
    }
}

struct Node {
    discovery: Discovery,
    seen: Arc<(Mutex<Option<Arc<View>>>, Condvar)>,
}

impl Node {
    fn start(server: &NameServer, name: &str, num_shards: u32) -> Self {
        let role = if name.starts_with("edge") { "edge" } else { "core" };
        let text = format!(
            r#"(
            cluster: (discovery: dns, secret: "0123456789abcdef", num_shards: {num_shards}, claim_ms: 3_000,
                dns: (core: "core.iris.internal", server: "{}")),
            node: (name: "{name}", role: {role}, data: "unused", admin: "unused", link: (listen: "127.0.0.1:1")),
        )"#,
            server.engine.field("dns")
        );
        let config = load(&server.engine.folder(), &text);
        let seen: Arc<(Mutex<Option<Arc<View>>>, Condvar)> = Arc::default();
        let told = seen.clone();
        let discovery = start(&config, Known::own(&config, "127.0.0.1:1".to_owned()), move |view| {
            *told.0.lock().expect("no panic") = Some(view);
            told.1.notify_all();
        });
        Node { discovery: discovery.expect("it starts"), seen }
    }

    fn wait(&self, wanted: impl Fn(&View) -> bool) -> Arc<View> {
        let mut seen = self.seen.0.lock().expect("no panic");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = seen.clone().expect("the first comes before the start returns");
            if wanted(&view) {
                return view;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "still {view:#?}, {:#?}", self.discovery.status());
            (seen, _) = self.seen.1.wait_timeout(seen, left).expect("no panic");
        }
    }

    /// Waits until it is known who these are.
    fn until(&self, names: &[&str]) -> Arc<View> {
        self.wait(|view| {
            let mut found: Vec<&str> = view.nodes.values().map(|known| known.name.as_str()).collect();
            found.sort_unstable();
            found == names
        })
    }

    fn until_status(&self, wanted: impl Fn(&DiscoveryStatus) -> bool) -> DiscoveryStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.discovery.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "still {status:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn load(directory: &Path, text: &str) -> Config {
    let file = directory.join("iris.ron");
    std::fs::write(&file, text).expect("written");
    Config::load(Some(&file), &Flags::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A core that the list names, with what its TXT record says.
fn core(name: &str, ip: &str, texts: &str) -> String {
    let text = if texts.is_empty() { String::new() } else { format!("{name} TXT {texts}\n") };
    format!("_iris._tcp SRV 0 0 7085 {name}\n{name} A {ip}\n{text}")
}

#[test]
fn the_list_of_cores_is_followed_and_kept_while_the_server_is_away() {
    let Some(mut server) = NameServer::new("the list of cores") else { return };
    let a = core("core-a", "10.0.0.1", r#""shards=0-499" "region=tokyo" "zone=z1""#);
    let b = core("core-b", "10.0.0.2", r#""shards=500-999""#);
    server.serve(&(a.clone() + &b));
    let node = Node::start(&server, "edge-1", 1_000);
    let view = node.until(&["core-a", "core-b", "edge-1"]);
    let known = &view.nodes[&NodeId::of_name("core-a")];
    assert_eq!((known.address.as_str(), known.region.as_str(), known.zone.as_str()), ("10.0.0.1:7085", "tokyo", "z1"));
    let half: Vec<NodeId> = (0..1_000).map(|shard| view.placement.of_shard(shard)[0]).collect();
    assert!(half[..500].iter().all(|&node| node == NodeId::of_name("core-a")));
    assert!(half[500..].iter().all(|&node| node == NodeId::of_name("core-b")));

    // Another address, another core, and one that says nothing: what nobody names falls to it.
    let begun = Instant::now();
    let moved = core("core-a", "10.0.0.7", r#""shards=0-399""#);
    server.serve(&(moved + &core("core-c", "10.0.0.3", "")));
    let view = node.until(&["core-a", "core-c", "edge-1"]);
    println!("a changed zone with a TTL of 1 s is followed after {:?}", begun.elapsed());
    assert_eq!(view.nodes[&NodeId::of_name("core-a")].address, "10.0.0.7:7085");
    assert_eq!(view.placement.of_shard(399), [NodeId::of_name("core-a")]);
    assert_eq!(view.placement.of_shard(400), [NodeId::of_name("core-c")]);

    server.stop();
    let status = node.until_status(|status| status.away_since_unix_ms.is_some());
    assert!(status.away_reason.expect("a reason").starts_with("no name server answers for core.iris.internal: "));
    assert_eq!(status.nodes.len(), 3);
    server.serve(&(a + &b));
    node.until(&["core-a", "core-b", "edge-1"]);
    node.until_status(|status| status.away_since_unix_ms.is_none());

    // An empty zone may be a mistake: it is believed after claim_ms.
    let begun = Instant::now();
    server.serve("");
    node.until_status(|status| status.away_since_unix_ms.is_some());
    node.until(&["edge-1"]);
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[test]
fn names_of_shards_say_who_keeps_them() {
    let Some(mut server) = NameServer::new("names of shards") else { return };
    let mut records = String::from("core-a A 10.0.0.1\ncore-b AAAA 2001:db8::2\n");
    for shard in 0..40 {
        let core = if shard < 30 { "core-a" } else { "core-b" };
        writeln!(records, "_iris._tcp.shard-{shard} SRV 0 0 7085 {core}").expect("memory");
    }
    server.serve(&(records + "_iris._tcp.shard-30 SRV 0 0 7085 core-a\n"));
    let node = Node::start(&server, "core-a", 40);
    let view = node.until(&["core-a", "core-b"]);
    assert_eq!(view.nodes[&NodeId::of_name("core-b")].address, "[2001:db8::2]:7085");
    assert_eq!(view.nodes[&NodeId::of_name("core-a")].shards, Some(vec![0..=30]));
    assert_eq!(view.nodes[&NodeId::of_name("core-b")].shards, Some(vec![30..=39]));
    assert_eq!((view.placement.of_shard(30).len(), view.uncovered.len()), (2, 0));
}

#[test]
fn what_is_wrong_in_the_zone_is_told() {
    let Some(mut server) = NameServer::new("wrong zone") else { return };
    let nowhere = "_iris._tcp SRV 0 0 7085 core-b\ncore-b TXT \"shards=0-3\"\n";
    server.serve(&(core("core-a", "10.0.0.1", r#""shards=0-4""#) + nowhere));
    // Not listed: then it keeps nothing.
    let node = Node::start(&server, "core-z", 4);
    let view = node.until(&["core-a", "core-b"]);
    assert_eq!(
        view.faults,
        [
            "core-b.core.iris.internal has no address (A or AAAA)",
            "the TXT record of core-a.core.iris.internal says shards=0-4: not numbers and ranges below \
             cluster.num_shards (4); it keeps none",
        ]
    );
    assert_eq!(view.placement.of_shard(0), [NodeId::of_name("core-b")]);
}
