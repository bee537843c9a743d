//! Clusters of SWIM in one thread: a network that loses, delays and reorders datagrams, and a clock that is an argument.

use super::datagram::BadDatagram;
use super::swim::Swim;
use crate::config::{Cluster, Config, Flags};
use crate::discovery::view::{Known, NodeState};
use iris_shards::id::NodeId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

const CLAIM_MS: u64 = 20_000;
/// Virtual time in which anything here has to happen.
const PATIENCE_MS: u64 = 120_000;

fn config(secret: &str) -> Config {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("iris.ron");
    let text = format!(
        "(cluster: (discovery: gossip, secret: \"{secret}\", claim_ms: {CLAIM_MS}, num_shards: 100), \
         node: (data: \"x\", link: (listen: \"127.0.0.1:0\")))"
    );
    std::fs::write(&file, text).expect("written");
    Config::load(Some(&file), &Flags::default()).expect("good")
}

fn cluster() -> Cluster {
    config("0123456789abcdef").cluster
}

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 7085))
}

fn own(n: u16) -> Known {
    static CONFIG: std::sync::LazyLock<Config> = std::sync::LazyLock::new(|| config("0123456789abcdef"));
    let config = &*CONFIG;
    let name = format!("core-{n}");
    let node = NodeId::of_name(&name);
    let shards = Some(vec![u32::from(n)..=u32::from(n)]);
    Known { node, name, shards, region: "tokyo".into(), zone: "a".into(), ..Known::own(config, address(n).to_string()) }
}

/// A datagram under way: when it arrives, a number that makes it unique, to whom.
type Arrival = (u64, u64, SocketAddr);

struct Net {
    cluster: Cluster,
    now_ms: u64,
    nodes: BTreeMap<SocketAddr, Swim>,
    wire: BTreeMap<Arrival, Vec<u8>>,
    sent: u64,
    chance: SmallRng,
    /// Of a hundred datagrams.
    lost: u32,
    delay_ms_max: u64,
    /// Parted from the others.
    parted: BTreeSet<SocketAddr>,
    trace: u64,
}

impl Net {
    fn new(seed: u64) -> Self {
        Net {
            cluster: cluster(),
            now_ms: 0,
            nodes: BTreeMap::new(),
            wire: BTreeMap::new(),
            sent: 0,
            chance: SmallRng::seed_from_u64(seed),
            lost: 0,
            delay_ms_max: 2,
            parted: BTreeSet::new(),
            trace: 0,
        }
    }

    /// A start of node `n`, which joins by `seed`.
    fn start(&mut self, n: u16, boot_ms: u64, seed: u16) {
        let mut swim = Swim::new(&self.cluster, &own(n), address(n), boot_ms, self.chance.random());
        swim.set_seeds(vec![address(seed)]);
        self.nodes.insert(address(n), swim);
    }

    /// One node after another, each by the one before it.
    fn start_all(&mut self, count: u16) {
        (1..=count).for_each(|n| self.start(n, 1_000, n.max(2) - 1));
    }

    fn at(&mut self, n: u16) -> (&mut Swim, u64) {
        (self.nodes.get_mut(&address(n)).expect("a node"), self.now_ms)
    }

    fn kill(&mut self, n: u16) {
        self.nodes.remove(&address(n)).expect("a node");
    }

    /// Lets time pass to the next thing that happens, if that is before `until_ms`.
    fn step(&mut self, until_ms: u64) {
        let due = self.nodes.values().map(Swim::next_ms).min().unwrap_or(u64::MAX);
        let arrival = self.wire.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
        let next = due.min(arrival).min(until_ms).max(self.now_ms);
        self.now_ms = next;
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= next) {
            let ((_, _, to), datagram) = entry.remove_entry();
            if let Some(swim) = self.nodes.get_mut(&to) {
                swim.on_datagram(next, &datagram).expect("ours");
            }
        }
        self.nodes.values_mut().for_each(|swim| swim.on_time(next));
        self.send();
    }

    fn send(&mut self) {
        let froms: Vec<SocketAddr> = self.nodes.keys().copied().collect();
        for from in froms {
            for (to, datagram) in self.nodes.get_mut(&from).expect("a node").take_sends() {
                self.sent += 1;
                assert!(datagram.len() <= super::DATAGRAM_BYTES_MAX);
                self.trace = self.trace.rotate_left(7) ^ iris_shards::slot::stable_hash(&datagram) ^ self.now_ms;
                let is_cut = self.parted.contains(&from) != self.parted.contains(&to);
                if is_cut || self.chance.random_range(0..100) < self.lost {
                    continue;
                }
                let at_ms = self.now_ms + self.chance.random_range(1..=self.delay_ms_max);
                self.wire.insert((at_ms, self.sent, to), datagram);
            }
        }
    }

    /// What node `n` knows: names and states, in order.
    fn view(&self, n: u16) -> Vec<(String, NodeState)> {
        let (known, faults) = self.nodes[&address(n)].known(self.now_ms);
        assert_eq!(faults, Vec::<String>::new());
        let mut view: Vec<_> = known.into_iter().map(|known| (known.name, known.state)).collect();
        view.sort_by(|a, b| a.0.cmp(&b.0));
        view
    }

    /// Runs until all nodes know exactly these; returns after how long.
    fn until(&mut self, wanted: &[(u16, NodeState)]) -> u64 {
        let mut wanted: Vec<_> = wanted.iter().map(|(n, state)| (format!("core-{n}"), *state)).collect();
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        let begun = self.now_ms;
        let numbers: Vec<u16> = (0..1_000).filter(|&n| self.nodes.contains_key(&address(n))).collect();
        while !numbers.iter().all(|&n| self.view(n) == wanted) {
            assert!(self.now_ms < begun + PATIENCE_MS, "wanted {wanted:?}, node 1 has {:?}", self.view(numbers[0]));
            self.step(begun + PATIENCE_MS);
        }
        self.now_ms - begun
    }

    fn until_alive(&mut self, numbers: impl Iterator<Item = u16>) -> u64 {
        self.until(&numbers.map(|n| (n, NodeState::Alive)).collect::<Vec<_>>())
    }

    fn run(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.step(until);
        }
    }
}

#[test]
fn nodes_join_by_any_of_the_others() {
    let mut net = Net::new(1);
    net.start_all(6);
    let ms = net.until_alive(1..=6);
    println!("6 nodes in a chain know each other after {ms} ms");
    net.start(7, 1_000, 4);
    let ms = net.until_alive(1..=7);
    println!("a seventh is known everywhere after {ms} ms");
    assert!(ms < 5_000, "{ms} ms");
    let (known, _) = net.nodes[&address(7)].known(net.now_ms);
    let third = known.into_iter().find(|known| known.name == "core-3").expect("known");
    assert_eq!(third, own(3));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut net = Net::new(seed);
        (net.lost, net.delay_ms_max) = (20, 300);
        net.start_all(5);
        net.run(20_000);
        (net.trace, net.sent)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn lost_and_reordered_datagrams_delay_but_do_not_mislead() {
    for seed in 0..8 {
        let mut net = Net::new(seed);
        (net.lost, net.delay_ms_max) = (25, 250);
        net.start_all(8);
        let joined = net.until_alive(1..=8);
        net.kill(3);
        let mut wanted: Vec<_> = (1..=8).map(|n| (n, NodeState::Alive)).collect();
        wanted[2].1 = NodeState::Gone;
        let noticed = net.until(&wanted);
        let forgotten = net.until_alive((1..=8).filter(|&n| n != 3));
        println!(
            "seed {seed}: joined after {joined} ms, death noticed after {noticed} ms, claims over {forgotten} ms later"
        );
        assert!(forgotten + noticed >= CLAIM_MS);
    }
}

#[test]
fn a_node_that_leaves_is_leaving_and_then_gone_without_claims() {
    let mut net = Net::new(3);
    net.start_all(5);
    net.until_alive(1..=5);
    let (swim, now_ms) = net.at(2);
    swim.drain(now_ms);
    let mut wanted: Vec<_> = (1..=5).map(|n| (n, NodeState::Alive)).collect();
    wanted[1].1 = NodeState::Leaving;
    let ms = net.until(&wanted);
    println!("leaving is known after {ms} ms");
    assert!(ms < 5_000, "{ms} ms");
    // It goes on taking part meanwhile.
    net.run(30_000);
    net.until(&wanted);
    let (swim, now_ms) = net.at(2);
    swim.leave(now_ms);
    net.send();
    net.kill(2);
    let ms = net.until_alive([1, 3, 4, 5].into_iter());
    println!("gone is known after {ms} ms");
    assert!(ms < 5_000, "{ms} ms");
}

#[test]
fn a_restarted_node_is_itself_again_even_if_its_clock_went_back() {
    for boot_ms in [2_000_000, 1_000_000, 1] {
        let mut net = Net::new(4);
        (1..=5).for_each(|n| net.start(n, 1_000_000, n.max(2) - 1));
        net.until_alive(1..=5);
        net.kill(4);
        // At once, while the others think it is there.
        net.run(1_500);
        net.start(4, boot_ms, 1);
        net.run(10_000);
        net.until_alive(1..=5);
        // After they noticed.
        net.kill(4);
        let gone = |n| (n, if n == 4 { NodeState::Gone } else { NodeState::Alive });
        net.until(&(1..=5).map(gone).collect::<Vec<_>>());
        net.start(4, boot_ms, 1);
        let ms = net.until_alive(1..=5);
        println!("boot {boot_ms}: back after {ms} ms");
        assert!(ms < 10_000, "{ms} ms");
    }
}

#[test]
fn two_halves_find_each_other_again() {
    let mut net = Net::new(5);
    net.start_all(6);
    net.until_alive(1..=6);
    net.parted = [1, 2, 3].map(address).into();
    net.run(CLAIM_MS + 30_000);
    assert_eq!((net.view(1).len(), net.view(4).len()), (3, 3));
    net.parted.clear();
    let ms = net.until_alive(1..=6);
    println!("whole again after {ms} ms");
}

#[test]
fn a_frozen_node_comes_back_by_itself() {
    let mut net = Net::new(6);
    net.start_all(5);
    net.until_alive(1..=5);
    let frozen = net.nodes.remove(&address(5)).expect("a node");
    let gone = |n| (n, if n == 5 { NodeState::Gone } else { NodeState::Alive });
    net.until(&(1..=5).map(gone).collect::<Vec<_>>()[..]);
    net.nodes.insert(address(5), frozen);
    let ms = net.until_alive(1..=5);
    println!("thawed and known after {ms} ms");
    assert!(ms < 10_000, "{ms} ms");
}

#[test]
fn a_large_cluster_is_known_soon() {
    let mut net = Net::new(7);
    (1..=60).for_each(|n| net.start(n, 1_000, 1));
    let ms = net.until_alive(1..=60);
    println!("60 nodes know each other after {ms} ms and {} datagrams", net.sent);
    assert!(ms < 30_000, "{ms} ms");
    let sent = net.sent;
    net.run(10_000);
    println!("{} datagrams in 10 s of peace", net.sent - sent);
    net.start(200, 1_000, 57);
    let ms = net.until_alive((1..=60).chain([200]));
    println!("one more is known everywhere after {ms} ms");
    assert!(ms < 10_000, "{ms} ms");
}

#[test]
fn who_does_not_know_the_secret_is_not_heard() {
    let cluster = config("another secret of 16").cluster;
    let mut stranger = Swim::new(&cluster, &own(9), address(9), 1, 9);
    stranger.set_seeds(vec![address(1)]);
    stranger.on_time(0);
    let sends = stranger.take_sends();
    assert_eq!(sends.len(), 1);
    let mut net = Net::new(8);
    net.start_all(2);
    net.until_alive(1..=2);
    let (swim, now_ms) = net.at(1);
    assert_eq!(swim.on_datagram(now_ms, &sends[0].1), Err(BadDatagram::Proof));
    assert_eq!(net.view(1).len(), 2);
}
