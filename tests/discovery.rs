//! Discovery with real sockets, on addresses 127.x.y.z of its own: nodes that find each other by gossip.
//!
//! Every wait is for a view, and ends when it is there; the time-outs are for what never comes.

use iris::config::{Config, Flags};
use iris::discovery::{Discovery, Known, NodeState, View, link_address, start};
use iris_shards::id::NodeId;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of the tests";

/// Addresses that nobody else has, on a port that is always the same.
fn addresses(count: u8) -> Vec<SocketAddr> {
    let [a, b, ..] = RandomState::new().hash_one(std::process::id()).to_be_bytes();
    (1..=count).map(|n| (Ipv4Addr::new(127, a.clamp(1, 254), b, n), 7085).into()).collect()
}

fn config(text: &str) -> Config {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("iris.ron");
    std::fs::write(&file, text).expect("written");
    Config::load(Some(&file), &Flags::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// All views, and a bell for those who wait for another one.
type Seen = Arc<(Mutex<Vec<Arc<View>>>, Condvar)>;

struct Node {
    name: String,
    discovery: Discovery,
    seen: Seen,
    /// The last view that was waited for. Later ones may have come since.
    at: Cell<usize>,
}

impl Node {
    fn start(config: &Config) -> Self {
        let seen = Seen::default();
        let told = seen.clone();
        let own = Known::own(config, link_address(config, config.link.listen));
        let discovery = start(config, own, move |view| {
            told.0.lock().expect("no panic").push(view);
            told.1.notify_all();
        });
        let discovery = discovery.expect("it starts");
        Node { name: config.name.clone(), discovery, seen, at: Cell::new(0) }
    }

    /// The view that was waited for.
    fn view(&self) -> Arc<View> {
        self.seen.0.lock().expect("no panic")[self.at.get()].clone()
    }

    /// Waits for a view of which this is true, from the last one on that was waited for.
    fn wait(&self, wanted: impl Fn(&View) -> bool) {
        let mut seen = self.seen.0.lock().expect("no panic");
        let deadline = Instant::now() + PATIENCE;
        loop {
            while self.at.get() + 1 < seen.len() && !wanted(&seen[self.at.get()]) {
                self.at.set(self.at.get() + 1);
            }
            let view = &seen[self.at.get()];
            if wanted(view) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} still has {view:#?}", self.name);
            (seen, _) = self.seen.1.wait_timeout(seen, left).expect("no panic");
        }
    }
}

struct Gossip {
    addresses: Vec<SocketAddr>,
    nodes: BTreeMap<usize, Node>,
}

impl Gossip {
    /// Ten shards of their own for each node.
    fn text(&self, n: usize, seeds: &[usize], more: &str) -> String {
        let mut list = String::new();
        seeds.iter().for_each(|&seed| write!(list, "\"{}\", ", self.addresses[seed]).expect("memory"));
        let (first, last) = (n * 10, n * 10 + 9);
        format!(
            r#"(
            cluster: (name: "test", discovery: gossip, secret: "{SECRET}", num_shards: 60, claim_ms: 5_000, seeds: [{list}]),
            node: (name: "core-{n}", role: core, region: "tokyo", zone: "z{n}", shards: "{first}-{last}", data: "unused",
                link: (listen: "{}"), {more}),
        )"#,
            self.addresses[n]
        )
    }

    fn start(&mut self, n: usize, seeds: &[usize]) {
        self.nodes.insert(n, Node::start(&config(&self.text(n, seeds, ""))));
    }

    /// How long it takes until all nodes have this state of these nodes and no others.
    fn until(&self, wanted: &[(usize, NodeState)]) -> Duration {
        let begun = Instant::now();
        let wanted: BTreeMap<String, NodeState> =
            wanted.iter().map(|(n, state)| (format!("core-{n}"), *state)).collect();
        for node in self.nodes.values() {
            node.wait(|view| {
                let found = view.nodes.values().map(|known| (known.name.clone(), known.state));
                found.collect::<BTreeMap<_, _>>() == wanted
            });
        }
        begun.elapsed()
    }
}

#[test]
fn five_nodes_join_leave_die_and_come_back() {
    use NodeState::{Alive, Gone, Leaving};
    let mut gossip = Gossip { addresses: addresses(6), nodes: BTreeMap::new() };
    gossip.start(0, &[]);
    gossip.start(1, &[0]);
    // By one that is not there yet, and by several.
    gossip.start(2, &[1]);
    gossip.start(3, &[4, 2]);
    gossip.start(4, &[0, 1, 2, 3]);
    let joined = gossip.until(&[0, 1, 2, 3, 4].map(|n| (n, Alive)));
    placements_agree(&gossip, &[0, 1, 2, 3, 4]);

    gossip.nodes[&1].discovery.drain();
    let leaving = gossip.until(&[(0, Alive), (1, Leaving), (2, Alive), (3, Alive), (4, Alive)]);
    let begun = Instant::now();
    gossip.nodes[&1].discovery.leave();
    let farewell = begun.elapsed();
    drop(gossip.nodes.remove(&1));
    let left = farewell + gossip.until(&[0, 2, 3, 4].map(|n| (n, Alive)));
    placements_agree(&gossip, &[0, 2, 3, 4]);

    // Without a word.
    drop(gossip.nodes.remove(&3));
    let noticed = gossip.until(&[(0, Alive), (2, Alive), (3, Gone), (4, Alive)]);
    placements_agree(&gossip, &[0, 2, 3, 4]);
    let view = gossip.nodes[&0].view();
    assert_eq!(view.uncovered[1].shards, 30..=39, "{:?}", view.uncovered);
    let forgotten = gossip.until(&[0, 2, 4].map(|n| (n, Alive)));
    placements_agree(&gossip, &[0, 2, 4]);

    gossip.start(5, &[4]);
    let fifth = gossip.until(&[0, 2, 4, 5].map(|n| (n, Alive)));
    gossip.start(3, &[5]);
    let back = gossip.until(&[0, 2, 3, 4, 5].map(|n| (n, Alive)));
    placements_agree(&gossip, &[0, 2, 3, 4, 5]);
    let status = gossip.nodes[&5].discovery.status();
    assert_eq!((status.kind.as_str(), status.nodes.len(), status.away_since_unix_ms), ("gossip", 5, None));
    assert_eq!((status.nodes[1].name.as_str(), status.nodes[1].shards.as_str()), ("core-2", "20-29"));
    assert_eq!(status.uncovered.iter().map(|u| u.shards.as_str()).collect::<Vec<_>>(), ["10-19"]);
    println!(
        "every view: joined {joined:?}, leaving {leaving:?}, left {left:?}, death noticed {noticed:?}, claims over \
         {forgotten:?} later, one more {fifth:?}, back {back:?}"
    );
}

/// Every node has the same placement: each of these keeps its ten shards, and nobody the others.
fn placements_agree(gossip: &Gossip, cores: &[usize]) {
    for node in gossip.nodes.values() {
        let placement = node.view().placement.clone();
        for shard in 0..60 {
            let core = shard as usize / 10;
            let wanted: &[NodeId] =
                if cores.contains(&core) { &[NodeId::of_name(&format!("core-{core}"))] } else { &[] };
            assert_eq!(placement.of_shard(shard), wanted, "shard {shard} at {}", node.name);
        }
    }
}

#[test]
fn strangers_are_refused_and_counted() {
    let mut gossip = Gossip { addresses: addresses(4), nodes: BTreeMap::new() };
    gossip.start(0, &[]);
    let other = gossip.text(1, &[0], "").replace(SECRET, "some other secret");
    let stranger = Node::start(&config(&other));
    let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let deadline = Instant::now() + PATIENCE;
    while gossip.nodes[&0].discovery.status().datagrams_refused < 2 {
        assert!(Instant::now() < deadline);
        noise.send_to(b"hello?", gossip.addresses[0]).expect("sent");
        std::thread::yield_now();
    }
    // It goes on.
    gossip.start(2, &[0]);
    gossip.until(&[0, 2].map(|n| (n, NodeState::Alive)));
    assert_eq!(stranger.view().nodes.len(), 1);
}

#[test]
fn a_node_that_finds_nobody_says_so() {
    let mut gossip = Gossip { addresses: addresses(2), nodes: BTreeMap::new() };
    gossip.start(0, &[1]);
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        let status = gossip.nodes[&0].discovery.status();
        if status.away_since_unix_ms.is_some() {
            break status;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.away_reason.as_deref(), Some("no other node answers"));
    gossip.start(1, &[]);
    gossip.until(&[0, 1].map(|n| (n, NodeState::Alive)));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let gossip = Gossip { addresses: addresses(1), nodes: BTreeMap::new() };
    let _taken = UdpSocket::bind(gossip.addresses[0]).expect("free");
    let config = config(&gossip.text(0, &[], ""));
    let error = start(&config, Known::own(&config, String::new()), |_| {}).expect_err("taken").to_string();
    assert!(error.starts_with(&format!("cannot listen for gossip on UDP {}: ", gossip.addresses[0])), "{error}");
}

#[test]
fn a_static_list_is_the_view() {
    let text = r#"(
        cluster: (secret: "0123456789abcdef", copies: 2, num_shards: 10, nodes: [
            (name: "a", address: "127.0.0.1:1", role: core, shards: "0-9"),
            (name: "b", address: "127.0.0.1:2", role: core, shards: "0-4"),
            (name: "c", address: "127.0.0.1:3", role: edge),
        ]),
        node: (name: "d", role: edge, link: (listen: "127.0.0.1:4"), admin: "unused"),
    )"#;
    let node = Node::start(&config(text));
    let view = node.view();
    let names: Vec<&str> = view.nodes.values().map(|known| known.name.as_str()).collect();
    assert_eq!((view.number, names.len(), view.placement.copies()), (1, 4, 2));
    assert_eq!(view.nodes[&NodeId::of_name("d")].address, "127.0.0.1:4");
    assert_eq!(view.uncovered.iter().map(|u| (u.shards.clone(), u.cores)).collect::<Vec<_>>(), [(5..=9, 1)]);
    node.discovery.drain();
    node.discovery.leave();
    let status = node.discovery.status();
    assert_eq!((status.kind.as_str(), status.view, status.nodes[0].role.as_str()), ("static", 1, "core"));
    assert_eq!(serde_json::to_value(&status).expect("JSON")["uncovered"][0]["shards"], "5-9");
}

#[test]
fn a_node_that_is_alone_keeps_everything() {
    let node = Node::start(&config("(node: (data: \"unused\"))"));
    let view = node.view();
    assert_eq!((view.nodes.len(), view.uncovered.len(), view.placement.of_shard(15).len()), (1, 0, 1));
}
