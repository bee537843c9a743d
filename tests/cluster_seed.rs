//! The three configurations of the seed, as they are in conf/, each on hosts that are scaled down: processes on
//! addresses of the test's own, told apart by their environment as real hosts would be.

mod engines;
mod fleet;
mod process;
mod wire;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engines::cassandra::Cassandra;
use engines::registry::{NODES, PUBLISHER, Registry};
use fleet::ground::Ground;
use iris_perf::soak::{Plan, Soak};
use iris_shards::frame::LEVEL_STORED;
use process::{PATIENCE, Running, command, run, run_with};
use serde_json::Value;
use wire::{Heard, Wire};

/// A host: its name, and what else its environment says.
type Host<'a> = (&'a str, &'a [(&'a str, String)]);

struct Fleet {
    directory: tempfile::TempDir,
    ground: Ground,
    names: Vec<String>,
    /// Those that others do not know, because they follow without being registered.
    unknown: Vec<String>,
    running: Vec<Running>,
}

impl Fleet {
    fn new() -> Fleet {
        let directory = tempfile::tempdir().expect("a directory");
        Fleet { directory, ground: Ground::loopback(), names: Vec::new(), unknown: Vec::new(), running: Vec::new() }
    }

    fn host(&self, number: usize) -> IpAddr {
        self.ground.address(number)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
    }

    /// Starts the next host by a file of conf/.
    fn start(&mut self, file: &str, (name, environment): Host<'_>) {
        let host = self.host(self.names.len());
        let mut command = command(&["serve", "--json", "--executors", "1"]);
        command.arg("--config").arg(Fleet::file(file)).arg("--data").arg(self.data(name));
        command.args(["--listen", &format!("{host}:8085")]);
        command.env("IRIS_NODE", name).env("IRIS_SECRET", fleet::SECRET);
        command.env("IRIS_LISTEN", format!("{host}:8085")).env("IRIS_LINK", format!("{host}:7085"));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        self.names.push(name.to_owned());
        self.running.push(Running::start(command));
    }

    fn until_ready(&self) {
        self.running.iter().for_each(|running| drop(running.lines.until("ready")));
    }

    fn status(&self, name: &str) -> Value {
        let admin = self.data(name).join("admin.sock");
        run(&["status", "--json", "--admin", admin.to_str().expect("UTF-8")]).json()
    }

    /// Until this node knows the others, and every shard has its cores.
    fn until_covered(&self, name: &str) {
        let is_known = |other: &&String| *other == name || !self.unknown.contains(other);
        let others: Vec<&String> = self.names.iter().filter(is_known).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name);
            let is_covered = status["discovery"]["uncovered"].as_array().is_some_and(Vec::is_empty);
            if is_covered && others.iter().all(|other| fleet::knows(&status, other)) {
                return;
            }
            assert!(Instant::now() < deadline, "{name} never sees all of {others:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Messages go from edge to edge, and what waits has so many copies.
    fn carries_messages(&self, edges: &[usize], copies: u8) {
        self.names.iter().for_each(|name| self.until_covered(name));
        let address = |at: usize| format!("{}:8085", self.host(at));
        let mut alice = Wire::login(&address(edges[0]), "alice");
        let deadline = Instant::now() + PATIENCE;
        // Cores that have just met count each other's copies as soon as they are in step.
        for turn in 1.. {
            alice.send(turn, "bob", b"hello");
            let found = alice.until(|heard| match heard {
                Heard::Confirm { level: LEVEL_STORED, copies, .. } => Some(*copies),
                Heard::Refused { .. } => Some(0),
                _ => None,
            });
            if found == copies {
                break;
            }
            assert!(Instant::now() < deadline, "{found} copies, {copies} are asked for");
        }
        let doors = edges.iter().map(|edge| address(*edge).parse().expect("an address")).collect();
        let load = Plan { users: 400, rate: 2_000.0, ..Plan::new(doors) };
        let soak = Soak::start(load).expect("a soak");
        while soak.sight().checked < 3_000 {
            assert!(Instant::now() < deadline + PATIENCE, "{:?}", soak.sight());
            std::thread::sleep(Duration::from_millis(50));
        }
        let outcome = soak.finish().expect("threads that end");
        assert_eq!(outcome.broken(), None, "{}", outcome.json());
    }
}

#[test]
fn proof_two_cores_and_two_edges() {
    let mut fleet = Fleet::new();
    let names = ["core-a", "core-b", "edge-a", "edge-b"];
    let variables = ["IRIS_CORE_A", "IRIS_CORE_B", "IRIS_EDGE_A", "IRIS_EDGE_B"];
    let links: Vec<(&str, String)> =
        variables.iter().enumerate().map(|(at, name)| (*name, format!("{}:7085", fleet.host(at)))).collect();
    names.iter().for_each(|name| fleet.start("proof.ron", (name, &links)));
    fleet.until_ready();
    fleet.carries_messages(&[2, 3], 2);
}

#[test]
fn regional_a_hundred_shards_by_gossip() {
    let mut fleet = Fleet::new();
    let seeds = ("IRIS_SEEDS", format!("{}:7085,{}:7085", fleet.host(0), fleet.host(1)));
    // Each half of the shards on two cores in two zones; "0-49" where a fleet would have one number.
    for (name, role, shards, zone) in [
        ("core-1", "core", "0-49", "a"),
        ("core-2", "core", "50-99", "a"),
        ("core-3", "core", "0-49", "b"),
        ("core-4", "core", "50-99", "b"),
        ("edge-1", "edge", "0", "a"),
        ("edge-2", "edge", "0", "b"),
    ] {
        let own = [("IRIS_ROLE", role), ("SHARD_ID", shards), ("IRIS_ZONE", zone)].map(|(n, v)| (n, v.to_owned()));
        let environment: Vec<_> = own.into_iter().chain([seeds.clone()]).collect();
        fleet.start("regional.ron", (name, &environment));
    }
    fleet.until_ready();
    fleet.carries_messages(&[4, 5], 2);
}

/// Three regions with a core and an edge each: every core has every shard.
const REGIONS: [(&str, &str); 3] =
    [("tokyo", "ap-northeast-1"), ("frankfurt", "eu-central-1"), ("saopaulo", "sa-east-1")];

/// The same environment for all, beside what tells the hosts apart.
fn global(fleet: &mut Fleet, shared: &[(&'static str, String)]) {
    for role in ["core", "edge"] {
        for (name, region) in REGIONS {
            let own = [("IRIS_ROLE", role), ("AWS_REGION", region)].map(|(n, v)| (n, v.to_owned()));
            let advertise = ("IRIS_ADVERTISE", format!("{}:7085", fleet.host(fleet.names.len())));
            let environment: Vec<_> = own.into_iter().chain(shared.iter().cloned()).chain([advertise]).collect();
            fleet.start("global.ron", (&format!("{name}-{role}"), &environment));
        }
    }
    fleet.until_ready();
}

#[test]
fn global_fifty_thousand_shards() {
    let mut fleet = Fleet::new();
    let (storage, copies) = global_storage();
    let Some(registry) = Registry::up_for("global", "consul", "conf/global.ron by Consul (by gossip instead)") else {
        let seeds = ("IRIS_SEEDS", format!("{}:7085", fleet.host(0)));
        global(&mut fleet, &[seeds, ("IRIS_DISCOVERY", "gossip".to_owned()), storage]);
        return fleet.carries_messages(&[3, 4, 5], copies);
    };
    let address = registry.engine.field("http").to_owned();
    let shared = [("IRIS_CONSUL", address.clone()), ("CONSUL_HTTP_TOKEN", NODES.to_owned()), storage];
    fleet.unknown = REGIONS.map(|(name, _)| format!("{name}-edge")).into();
    global(&mut fleet, &shared);
    fleet.carries_messages(&[3, 4, 5], copies);
    // The shard map of all regions, by the same file.
    let cores = fleet.data("cores");
    let lines = REGIONS.map(|(name, region)| format!("{name}-core region={region}\n"));
    std::fs::write(&cores, lines.concat()).expect("written");
    let mut publish = command(&["shards", "publish", "--nodes", &format!("@{}", cores.display()), "--config"]);
    publish.arg(Fleet::file("global.ron")).env("IRIS_NODE", "operator").env("IRIS_SECRET", fleet::SECRET);
    publish.env("AWS_REGION", "anywhere").env("IRIS_CONSUL", address).env("CONSUL_HTTP_TOKEN", PUBLISHER);
    let done = run_with(publish, "");
    assert!(done.out.contains(": 50,000 shards on 3 cores"), "{}{}", done.out, done.err);
    let deadline = Instant::now() + PATIENCE;
    for name in &fleet.names {
        let has_map = |status: &Value| {
            let nodes = status["discovery"]["nodes"].as_array().expect("a list");
            nodes.iter().filter(|node| node["role"] == "core").all(|node| node["shards"] == "0-49999")
        };
        while !has_map(&fleet.status(name)) {
            assert!(Instant::now() < deadline, "{name} does not follow the map: {:#}", fleet.status(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    fleet.carries_messages(&[3, 4, 5], copies);
}

/// Cassandra with the tables, as the file says; and how many copies `stored` names.
fn global_storage() -> ((&'static str, String), u8) {
    let Some(cassandra) = Cassandra::shared("conf/global.ron with Cassandra (with the log instead)") else {
        return (("IRIS_STORAGE", "log".to_owned()), 3);
    };
    let hosts = cassandra.hosts().join(",");
    let mut init = command(&["storage", "init", "--data-centres", &format!("{}=3", cassandra.data_centre())]);
    init.arg("--config").arg(Fleet::file("global.ron")).env("IRIS_CASSANDRA", &hosts);
    init.env("IRIS_NODE", "operator").env("IRIS_SECRET", fleet::SECRET).env("AWS_REGION", "anywhere");
    let done = run_with(init, "");
    assert!(done.code == Some(0) && done.out.contains("iris.inbox"), "{}{}", done.out, done.err);
    (("IRIS_CASSANDRA", hosts), 2)
}
