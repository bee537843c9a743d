//! Clusters of real processes: nodes from configuration texts, each with its own address, data directory and admin
//! socket, that can be killed, stopped, frozen, cut off and started again.
#![allow(dead_code)]

pub mod drill;
pub mod ground;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{Done, PATIENCE, Running, command, run, run_with, wait};
use ground::{Ground, at};

/// Where clients connect, and where links are dialled: the hosts are the test's own.
pub const CLIENT_PORT: u16 = 8_085;
const LINK_PORT: u16 = 7_085;
/// Between two looks at something that takes its time.
const LOOK: Duration = Duration::from_millis(50);

/// How nodes find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    Static,
    /// With the first node as the seed of all.
    Gossip,
    /// As these fields of `cluster` say.
    By(String),
}

/// What a cluster is.
#[derive(Debug, Clone)]
pub struct Plan {
    pub discovery: Discovery,
    /// Fields of `cluster`, besides those that the harness writes.
    pub cluster: String,
    /// Fields of `node` for all.
    pub node: String,
    pub members: Vec<Member>,
}

/// A node to be.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub role: &'static str,
    pub region: String,
    /// As in the configuration: `Auto`, `"0-499"`.
    pub shards: String,
    /// Fields of `node` of its own.
    pub node: String,
    /// Replaces all fields of `cluster`, for a node that does not belong.
    pub cluster: Option<String>,
    pub secret: String,
}

/// As everybody has it.
pub const SECRET: &str = "a secret of sixteen or more";

impl Member {
    pub fn new(name: &str, role: &'static str) -> Member {
        Member {
            name: name.to_owned(),
            role,
            region: "local".to_owned(),
            shards: "Auto".to_owned(),
            node: String::new(),
            cluster: None,
            secret: SECRET.to_owned(),
        }
    }

    pub fn edge(name: &str) -> Member {
        Member::new(name, "edge")
    }

    pub fn core(name: &str) -> Member {
        Member::new(name, "core")
    }

    pub fn with_shards(mut self, shards: &str) -> Member {
        self.shards = format!("\"{shards}\"");
        self
    }

    pub fn in_region(mut self, region: &str) -> Member {
        region.clone_into(&mut self.region);
        self
    }

    fn is_core(&self) -> bool {
        self.role != "edge"
    }

    fn is_edge(&self) -> bool {
        self.role != "core"
    }
}

impl Plan {
    /// Two cores that keep two copies, and two edges.
    pub fn proof() -> Plan {
        Plan {
            discovery: Discovery::Static,
            cluster: "num_shards: 16, copies: 2, copies_min: 1".to_owned(),
            node: String::new(),
            members: ["core-a", "core-b"]
                .map(Member::core)
                .into_iter()
                .chain(["edge-a", "edge-b"].map(Member::edge))
                .collect(),
        }
    }

    pub fn by_gossip(mut self) -> Plan {
        self.discovery = Discovery::Gossip;
        self
    }
}

struct Seat {
    member: Member,
    /// Its number on the ground.
    number: usize,
    running: Option<Running>,
}

/// See the module. Nodes end when it is dropped.
pub struct Cluster {
    plan: Plan,
    seats: Vec<Seat>,
    directory: tempfile::TempDir,
    // Behind the seats: namespaces go when their processes have.
    ground: Ground,
}

impl Cluster {
    /// Starts all nodes, and waits until every one of them sees all links that the placement asks for.
    pub fn start(plan: Plan, ground: Ground) -> Cluster {
        let mut cluster = Cluster::prepare(plan, ground);
        cluster.run_all();
        cluster.until_linked();
        cluster
    }

    /// Starts all nodes, and waits until each of them is ready.
    pub fn run_all(&mut self) {
        let names = self.names();
        names.iter().for_each(|name| self.begin(name));
        names.iter().for_each(|name| self.until_ready(name));
    }

    /// Nothing runs yet.
    pub fn prepare(plan: Plan, mut ground: Ground) -> Cluster {
        let directory = tempfile::tempdir().expect("a directory");
        let seat = |(number, member)| {
            ground.open(number);
            Seat { member, number, running: None }
        };
        let seats = plan.members.iter().cloned().enumerate().map(seat).collect();
        Cluster { plan, seats, directory, ground }
    }

    pub fn names(&self) -> Vec<String> {
        self.seats.iter().map(|seat| seat.member.name.clone()).collect()
    }

    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    fn seat(&self, name: &str) -> &Seat {
        self.seats.iter().find(|seat| seat.member.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    fn seat_mut(&mut self, name: &str) -> &mut Seat {
        self.seats.iter_mut().find(|seat| seat.member.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The number of a node on the ground.
    pub fn number(&self, name: &str) -> usize {
        self.seat(name).number
    }

    /// Where its clients connect.
    pub fn client_address(&self, name: &str) -> SocketAddr {
        at(self.ground.address(self.number(name)), CLIENT_PORT)
    }

    /// Where its links are dialled.
    pub fn link_address(&self, name: &str) -> SocketAddr {
        at(self.ground.address(self.number(name)), LINK_PORT)
    }

    /// Where clients connect, of all nodes that take clients.
    pub fn doors(&self) -> Vec<SocketAddr> {
        let edges = self.seats.iter().filter(|seat| seat.member.is_edge());
        edges.map(|seat| self.client_address(&seat.member.name)).collect()
    }

    /// Another node. It is in the configuration of all that start from now on; itself it does not start yet.
    pub fn add(&mut self, member: Member) {
        let number = self.seats.iter().map(|seat| seat.number + 1).max().unwrap_or(0);
        self.ground.open(number);
        self.seats.push(Seat { member, number, running: None });
    }

    /// Stops a node for good; it is in nobody's configuration any more.
    pub fn remove(&mut self, name: &str) {
        assert!(self.stop(name).is_none_or(|status| status.success()), "{name} ends well");
        self.seats.retain(|seat| seat.member.name != name);
    }

    /// Changes what a node is when it starts again.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Member)) {
        change(&mut self.seat_mut(name).member);
    }

    /// Changes the fields of `cluster` for those that start from now on.
    pub fn set_cluster(&mut self, fields: &str) {
        fields.clone_into(&mut self.plan.cluster);
    }

    fn path(&self, name: &str, what: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.{what}"))
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.path(name, "data")
    }

    /// Everything that this node has logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name, "log")).unwrap_or_default()
    }

    /// Its configuration.
    pub fn configuration(&self, name: &str) -> String {
        let Seat { member, .. } = self.seat(name);
        let Member { role, region, shards, .. } = member;
        let (data, admin) = (self.path(name, "data"), self.path(name, "sock"));
        let cluster = member.cluster.as_ref().unwrap_or(&self.plan.cluster);
        let is_named = cluster.contains("name:") || matches!(self.plan.discovery, Discovery::By(_));
        let name_of_cluster = if is_named { "" } else { "name: \"tested\"," };
        let mut text = format!("(cluster: ({name_of_cluster} secret: \"{}\", {cluster},", member.secret);
        match &self.plan.discovery {
            Discovery::Static => {
                text.push_str(" discovery: static, nodes: [\n");
                self.seats.iter().for_each(|seat| self.entry(seat, &mut text));
                text.push_str("]),\n");
            }
            Discovery::Gossip => {
                let seed = self.link_address(&self.seats[0].member.name);
                writeln!(text, " discovery: gossip, seeds: [\"{seed}\"]),").expect("memory");
            }
            Discovery::By(fields) => writeln!(text, " {fields}),").expect("memory"),
        }
        let link = self.link_address(name);
        let client = self.client_address(name);
        writeln!(
            text,
            "node: (name: \"{name}\", role: {role}, region: \"{region}\", shards: {shards}, listen: [\"{client}\"],\n\
             insecure: true, executors: 1, data: {data:?}, admin: {admin:?}, log_format: text,\n\
             link: (listen: \"{link}\", advertise: \"{link}\"),\n{} {}))",
            self.plan.node, member.node
        )
        .expect("memory");
        text
    }

    fn entry(&self, seat: &Seat, text: &mut String) {
        let Member { name, role, region, shards, .. } = &seat.member;
        let address = self.link_address(name);
        writeln!(
            text,
            "(name: \"{name}\", address: \"{address}\", role: {role}, region: \"{region}\", shards: {shards}),"
        )
        .expect("memory");
    }

    fn command(&self, name: &str) -> Command {
        let path = self.path(name, "ron");
        std::fs::write(&path, self.configuration(name)).expect("written");
        let command = command(&["serve", "--json", "--config", path.to_str().expect("UTF-8")]);
        self.ground.place(self.number(name), command)
    }

    /// Starts a node and does not wait for it.
    pub fn begin(&mut self, name: &str) {
        let mut command = self.command(name);
        let log = std::fs::File::options().create(true).append(true).open(self.path(name, "log"));
        command.stderr(log.expect("a log"));
        let seat = self.seat_mut(name);
        assert!(seat.running.is_none(), "{name} runs already");
        seat.running = Some(Running::start(command));
    }

    /// Runs a node that must not become ready to its end.
    pub fn refused(&self, name: &str) -> Done {
        run_with(self.command(name), "")
    }

    fn until_ready(&self, name: &str) {
        let running = self.running(name);
        let Some(ready) = running.lines.next() else { panic!("{name} does not become ready: {}", self.log(name)) };
        let ready: Value = serde_json::from_str(&ready).expect("JSON");
        assert_eq!(ready["event"], "ready");
        assert_eq!(ready["pid"], running.child.id());
    }

    /// Starts a node and waits until it is ready.
    pub fn run(&mut self, name: &str) {
        self.begin(name);
        self.until_ready(name);
    }

    fn running(&self, name: &str) -> &Running {
        self.seat(name).running.as_ref().unwrap_or_else(|| panic!("{name} does not run"))
    }

    pub fn pid(&self, name: &str) -> u32 {
        self.running(name).child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        drop(self.seat_mut(name).running.take().expect("it runs"));
    }

    /// SIGTERM, and the exit that follows.
    pub fn stop(&mut self, name: &str) -> Option<ExitStatus> {
        let mut running = self.seat_mut(name).running.take()?;
        running.signal("TERM");
        Some(wait(&mut running.child))
    }

    /// `iris drain`, and the exit that follows.
    pub fn drain(&mut self, name: &str, arguments: &[&str]) -> (Done, ExitStatus) {
        let admin = self.path(name, "sock");
        let told = [&["drain", "--admin", admin.to_str().expect("UTF-8")], arguments].concat();
        let done = run(&told);
        let mut running = self.seat_mut(name).running.take().expect("it runs");
        let status = wait(&mut running.child);
        (done, status)
    }

    /// SIGSTOP, or SIGCONT.
    pub fn freeze(&self, name: &str, is_frozen: bool) {
        self.running(name).signal(if is_frozen { "STOP" } else { "CONT" });
    }

    /// Removes everything that a node has on disk. It must not run.
    pub fn wipe(&self, name: &str) {
        assert!(self.seat(name).running.is_none(), "{name} runs");
        std::fs::remove_dir_all(self.data(name)).expect("removed");
    }

    /// Whether a node runs still.
    pub fn is_alive(&mut self, name: &str) -> bool {
        let running = self.seat_mut(name).running.as_mut();
        running.is_some_and(|running| running.child.try_wait().expect("a child").is_none())
    }

    /// What `iris status` says.
    pub fn status(&self, name: &str) -> Value {
        let admin = self.path(name, "sock");
        run(&["status", "--admin", admin.to_str().expect("UTF-8"), "--json"]).json()
    }

    /// What `iris status` says to people.
    pub fn status_text(&self, name: &str) -> String {
        let admin = self.path(name, "sock");
        run(&["status", "--admin", admin.to_str().expect("UTF-8")]).out
    }

    /// Asks for the status until this holds.
    pub fn until(&self, name: &str, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name);
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{name} never {what}: {status:#}");
            std::thread::sleep(LOOK);
        }
    }

    /// Every core that runs has links to all others, and every edge sees all cores alive.
    pub fn until_linked(&self) {
        let runs = |seat: &&Seat| seat.running.is_some();
        let cores: Vec<&str> = self
            .seats
            .iter()
            .filter(runs)
            .filter(|seat| seat.member.is_core())
            .map(|seat| seat.member.name.as_str())
            .collect();
        for &core in &cores {
            let others = cores.iter().filter(|name| **name != core);
            others.for_each(|other| {
                drop(self.until(core, &format!("has a link to {other}"), |status| has_link(status, other)))
            });
        }
        for seat in self.seats.iter().filter(runs) {
            let name = &seat.member.name;
            self.until(name, "knows all cores", |status| cores.iter().all(|core| knows(status, core)));
        }
    }

    /// All shards of this core are in step with their other replicas.
    pub fn until_in_step(&self, name: &str) {
        self.until(name, "is in step", is_in_step);
    }

    /// Prints what every node has logged last, for a test that fails.
    fn tell(&self) {
        for seat in &self.seats {
            let log = self.log(&seat.member.name);
            let tail: Vec<_> = log.lines().rev().take(25).collect();
            tail.iter().rev().for_each(|line| eprintln!("{}: {line}", seat.member.name));
        }
    }

    /// A directory of the test's own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A frozen process cannot be reaped by namespaces that go first.
        self.seats.iter_mut().for_each(|seat| drop(seat.running.take()));
        if std::thread::panicking() {
            self.tell();
        }
    }
}

/// Whether the link to this node is up.
pub fn has_link(status: &Value, other: &str) -> bool {
    link(status, other).is_some_and(|link| link["up"] == true)
}

/// What is said of the link to this node.
pub fn link<'a>(status: &'a Value, other: &str) -> Option<&'a Value> {
    status["links"].as_array()?.iter().find(|link| link["name"] == other)
}

/// Whether this node is known to be alive.
pub fn knows(status: &Value, other: &str) -> bool {
    let nodes = status["discovery"]["nodes"].as_array();
    nodes.is_some_and(|nodes| nodes.iter().any(|node| node["name"] == other && node["state"] == "alive"))
}

/// Whether all shards of a core are in step with their other replicas.
pub fn is_in_step(status: &Value) -> bool {
    let shards = &status["totals"]["shards"];
    shards["kept"].as_u64().is_some_and(|kept| kept > 0) && shards["kept"] == shards["in_step"]
}

/// A counter of messages, over all executors.
pub fn messages(status: &Value, counter: &str) -> u64 {
    status["totals"]["messages"][counter].as_u64().unwrap_or_else(|| panic!("no counter {counter}: {status:#}"))
}
