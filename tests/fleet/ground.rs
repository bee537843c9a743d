//! Where the processes of a cluster stand: on loopback addresses of their own, or each in a network namespace of its
//! own behind a bridge, where links can be cut. Needs root and nftables for the latter. What is made is removed when it
//! is dropped, and what a killed test left behind when the next one starts.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Start of the names of all namespaces; the process id and a number follow.
const PREFIX: &str = "iris-t";
/// The table with the rules that cut.
const TABLE: &str = "cut";

/// See the module.
pub enum Ground {
    /// 127.A.B.x, chosen at random.
    Loopback(Ipv4Addr),
    /// One namespace for each node, and one with the bridge, where clients are.
    Namespaces(Namespaces),
}

impl Ground {
    pub fn loopback() -> Ground {
        let mut seed = u64::from(std::process::id())
            ^ SystemTime::now().duration_since(UNIX_EPOCH).map_or(7, |now| now.as_nanos() as u64);
        loop {
            seed = iris_shards::slot::stable_hash(&seed.to_be_bytes());
            let [a, b, ..] = seed.to_be_bytes();
            let address = Ipv4Addr::new(127, a.clamp(1, 254), b, 0);
            // Nobody else's, as far as that can be seen.
            if TcpListener::bind((Ipv4Addr::from(u32::from(address) + 1), 7_085)).is_ok() {
                return Ground::Loopback(address);
            }
        }
    }

    /// Namespaces where that is possible, else loopback, and then it says what is left out.
    pub fn best() -> Ground {
        Namespaces::make().map_or_else(Ground::loopback, Ground::Namespaces)
    }

    /// Whether links can be cut here.
    pub fn namespaces(&self) -> Option<&Namespaces> {
        match self {
            Ground::Namespaces(namespaces) => Some(namespaces),
            Ground::Loopback(_) => None,
        }
    }

    /// The address of a node, by its number from 0.
    pub fn address(&self, node: usize) -> IpAddr {
        let base = match self {
            Ground::Loopback(base) => *base,
            Ground::Namespaces(_) => Ipv4Addr::new(10, 77, 0, 0),
        };
        Ipv4Addr::from(u32::from(base) + 1 + node as u32).into()
    }

    /// Makes room for a node.
    pub fn open(&mut self, node: usize) {
        let address = self.address(node);
        if let Ground::Namespaces(namespaces) = self {
            namespaces.add(node, address);
        }
    }

    /// The command as it has to be run to be where this node is.
    pub fn place(&self, node: usize, command: Command) -> Command {
        match self {
            Ground::Loopback(_) => command,
            Ground::Namespaces(namespaces) => inside(&namespaces.of(node), &command),
        }
    }

    /// Runs something where clients are.
    pub fn among_clients<T: Send + 'static>(&self, run: impl FnOnce() -> T + Send + 'static) -> T {
        let hub = self.namespaces().map(Namespaces::hub);
        let thread = std::thread::spawn(move || {
            if let Some(hub) = hub {
                let file = File::open(Path::new("/run/netns").join(hub)).expect("a namespace");
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("may enter it");
            }
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The same command in a namespace. It keeps its process id.
fn inside(namespace: &str, command: &Command) -> Command {
    let mut placed = Command::new("ip");
    placed.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => placed.env(name, value),
            None => placed.env_remove(name),
        };
    }
    placed.stdin(Stdio::null());
    placed
}

/// Namespaces of one cluster.
pub struct Namespaces {
    name: String,
    nodes: Vec<usize>,
}

impl Namespaces {
    /// None, and a word about it, where this machine does not let us.
    fn make() -> Option<Namespaces> {
        static TOLD: OnceLock<()> = OnceLock::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespaces = Namespaces { name: format!("{PREFIX}-{}-{number}", std::process::id()), nodes: Vec::new() };
        match namespaces.bridge() {
            Ok(()) => Some(namespaces),
            Err(why) => {
                TOLD.get_or_init(|| eprintln!("SKIPPED: no network namespaces, so no links are cut here: {why}"));
                None
            }
        }
    }

    fn bridge(&self) -> Result<(), String> {
        let hub = self.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "address", "add", "10.77.0.254/24", "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        // A probe, so that a machine without nftables is known at once.
        nft(&hub, "add table inet probe")?;
        nft(&hub, "delete table inet probe")
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn of(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn add(&mut self, node: usize, address: IpAddr) {
        if self.nodes.contains(&node) {
            return;
        }
        self.nodes.push(node);
        let (hub, own, port) = (self.hub(), self.of(node), port(node));
        let address = format!("{address}/24");
        let steps: [&[&str]; 6] = [
            &["netns", "add", &own],
            &["link", "add", &port, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &own],
            &["-n", &own, "link", "set", "lo", "up"],
            &["-n", &own, "address", "add", &address, "dev", "eth0"],
            &["-n", &own, "link", "set", "eth0", "up"],
            &["-n", &hub, "link", "set", &port, "master", "br0", "up"],
        ];
        steps.iter().for_each(|step| ip(step).expect("a namespace for a node"));
    }

    /// Takes the node's cable out.
    pub fn unplug(&self, node: usize) {
        ip(&["-n", &self.hub(), "link", "set", &port(node), "down"]).expect("taken down");
    }

    /// Puts it in again.
    pub fn plug(&self, node: usize) {
        ip(&["-n", &self.hub(), "link", "set", &port(node), "up"]).expect("taken up");
    }

    /// What `from` sends to `to` is dropped from now on.
    pub fn cut(&self, from: usize, to: IpAddr) {
        let own = self.of(from);
        let rules = format!(
            "add table inet {TABLE}
             add chain inet {TABLE} out {{ type filter hook output priority 0; }}
             add rule inet {TABLE} out ip daddr {to} drop"
        );
        nft(&own, &rules).expect("a rule");
    }

    /// Nothing that this node sends is dropped any more.
    pub fn heal(&self, node: usize) {
        nft(&self.of(node), &format!("delete table inet {TABLE}")).expect("no rule");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let own = self.nodes.iter().map(|node| self.of(*node)).chain([self.hub()]);
        own.for_each(|namespace| drop(ip(&["netns", "delete", &namespace])));
    }
}

/// The bridge's end of a node's cable.
fn port(node: usize) -> String {
    format!("port{node}")
}

/// Removes what tests left behind that were killed.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(rest) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')) else { continue };
        let process = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            drop(ip(&["netns", "delete", &name]));
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    finished(Command::new("ip").args(arguments))
}

/// Runs rules in a namespace.
fn nft(namespace: &str, rules: &str) -> Result<(), String> {
    // One argument for each line: no file is needed.
    rules.lines().try_for_each(|rule| {
        finished(Command::new("ip").args(["netns", "exec", namespace, "nft"]).args(rule.split_whitespace()))
    })
}

fn finished(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A node's address for clients, or for links.
pub fn at(host: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(host, port)
}
