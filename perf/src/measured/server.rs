//! The server of a run: started here in a directory of its own, or running elsewhere already.

use super::admin;
use super::cpus::started_on;
use super::fleet::Fleet;
use super::machine::Disk;
use super::process::{Memory, Usage};
use crate::peer::{Peer, script};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY_LIMIT: Duration = Duration::from_secs(120);
const LAST_WORDS_BYTES: usize = 4_000;
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What.
    pub peer: Peer,
    /// The binary of Iris.
    pub iris: PathBuf,
    /// Executors of Iris; none: its default.
    pub executors: Option<usize>,
    /// Where its data directories go; none: the system's temporary directory.
    pub data: Option<PathBuf>,
    /// CPUs that it may use; empty: all.
    pub cpus: Vec<usize>,
    /// How many nodes of Iris.
    pub fleet: Fleet,
}

/// A server that is up.
pub struct Server {
    /// Where each of its nodes listens, one at least; users connect to them in turn.
    addresses: Vec<SocketAddr>,
    /// The processes of all its nodes; none: it runs on another machine, and nothing is known of it.
    pub pids: Vec<u32>,
    /// Its admin socket, if it was named.
    admin: Option<PathBuf>,
    started: Option<Started>,
}

struct Started {
    launch: Launch,
    /// Its nodes, cores first.
    nodes: Vec<Child>,
    directory: TempDir,
}

impl Server {
    /// A server that runs already.
    pub fn attach(addresses: &[String], pids: &[u32], admin: Option<PathBuf>) -> Result<Self> {
        let resolve = |address: &String| -> Result<SocketAddr> {
            let mut found = address.to_socket_addrs().with_context(|| format!("{address:?} is no HOST:PORT"))?;
            found.next().context("the host has no address")
        };
        let addresses: Vec<SocketAddr> = addresses.iter().map(resolve).collect::<Result<_>>()?;
        ensure!(!addresses.is_empty(), "no server is named");
        Ok(Self { addresses, pids: pids.to_vec(), admin, started: None })
    }

    /// Where its first node listens.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where this user connects.
    pub fn address_of(&self, user: u32) -> SocketAddr {
        self.addresses[user as usize % self.addresses.len()]
    }

    /// Starts one and waits until it says that it is ready.
    pub fn start(launch: &Launch) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("iris-perf-");
        let directory = match &launch.data {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        Self::start_in(launch, directory.context("cannot make a directory for the server")?)
    }

    fn start_in(launch: &Launch, directory: TempDir) -> Result<Self> {
        if launch.peer == Peer::Iris && !launch.fleet.is_alone() {
            return Self::start_fleet(launch, directory);
        }
        let log = File::create(directory.path().join("log"))?;
        let (mut command, address) = command(launch, directory.path())?;
        // Peers that are started by the script say what they say to the log.
        let output = if address.is_some() { Stdio::from(log.try_clone()?) } else { Stdio::piped() };
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        let name = launch.peer.name();
        let spawn = || command.spawn().with_context(|| format!("cannot start {name}"));
        let mut child = started_on(&launch.cpus, spawn)?;
        let ready = match address {
            Some(address) => script::wait_ready(&mut child, address).map(|()| address),
            None => wait_ready(&mut child),
        };
        match ready {
            Ok(address) => {
                let (addresses, pids) = (vec![address], vec![child.id()]);
                let started = Started { launch: launch.clone(), nodes: vec![child], directory };
                Ok(Self { addresses, pids, admin: None, started: Some(started) })
            }
            Err(error) => {
                end(&mut child);
                Err(error.context(format!("{name} did not start; it said:\n{}", last_words(&directory))))
            }
        }
    }

    /// Starts the nodes of a cluster, all at once, and waits until each is ready.
    fn start_fleet(launch: &Launch, directory: TempDir) -> Result<Self> {
        let iris = &launch.iris;
        ensure!(iris.is_file(), "{} does not exist: build Iris, or name it by --iris", iris.display());
        let mut children: Vec<(Child, bool)> = Vec::new();
        for (mut command, takes_clients) in launch.fleet.commands(iris, directory.path(), launch.executors)? {
            let log = File::options().create(true).append(true).open(directory.path().join("log"))?;
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
            children.push((command.spawn().context("cannot start a node")?, takes_clients));
        }
        let mut addresses = Vec::new();
        for at in 0..children.len() {
            match wait_ready_line(&mut children[at].0) {
                Ok(address) => addresses.extend(address.filter(|_| children[at].1)),
                Err(error) => {
                    children.iter_mut().for_each(|(child, _)| end(child));
                    return Err(error.context(format!("a node did not start; they said:\n{}", last_words(&directory))));
                }
            }
        }
        wait_linked(&launch.fleet.core_sockets(directory.path()))?;
        ensure!(!addresses.is_empty(), "no node takes clients");
        let nodes: Vec<Child> = children.into_iter().map(|(child, _)| child).collect();
        let pids = nodes.iter().map(Child::id).collect();
        let started = Started { launch: launch.clone(), nodes, directory };
        Ok(Self { addresses, pids, admin: None, started: Some(started) })
    }

    /// Stops it (SIGTERM) and starts it again on the same data, if it was started here; `between` runs while it is
    /// down. Returns the time from starting to being ready; none, and nothing done, if it runs elsewhere.
    pub fn restart(&mut self, between: impl FnOnce() -> Result<()>) -> Result<Option<Duration>> {
        let Some(mut started) = self.started.take() else { return Ok(None) };
        // Edges first: they need the cores.
        started.nodes.iter_mut().rev().try_for_each(stop)?;
        between()?;
        let start = Instant::now();
        *self = Self::start_in(&started.launch, started.directory)?;
        Ok(Some(start.elapsed()))
    }

    /// The file system that its data is on, by its magic number in hexadecimal where it has no name here.
    pub fn filesystem(&self) -> Option<String> {
        let magic = rustix::fs::statfs(self.started.as_ref()?.directory.path()).ok()?.f_type as u64;
        let names = [(0xef53, "ext4"), (0x0102_1994, "tmpfs"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs")];
        let name = names.iter().find(|(known, _)| *known == magic);
        Some(name.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned()))
    }

    /// The block device that its data is on, if it was started here.
    pub fn disk(&self) -> Option<Disk> {
        let device = fs::metadata(self.started.as_ref()?.directory.path()).ok()?.dev();
        Some((rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// The process of a server that runs here.
    pub fn pid(&self) -> Result<u32> {
        self.pids.first().copied().context("this scenario measures the server's process: give --pid with --server")
    }

    /// The memory of all its nodes, exactly.
    pub fn memory(&self) -> Result<Memory> {
        self.pids.iter().try_fold(Memory::default(), |sum, &pid| Ok(sum.plus(Memory::of(pid)?)))
    }

    /// The memory of all its nodes, cheaply; none if they run elsewhere.
    pub fn memory_quick(&self) -> Result<Option<Memory>> {
        let each = self.pids.iter().map(|&pid| Memory::quick(pid));
        each.reduce(|sum, other| Ok(sum?.plus(other?))).transpose()
    }

    /// What all its nodes have used.
    pub fn usage(&self) -> Result<Usage> {
        self.pids.iter().try_fold(Usage::default(), |sum, &pid| Ok(sum.plus(Usage::of(pid)?)))
    }

    /// Its admin socket, if it was named, or it was started here and has one.
    pub fn admin(&self) -> Option<PathBuf> {
        if self.admin.is_some() {
            return self.admin.clone();
        }
        let directory = self.started.as_ref()?.directory.path();
        let places = [directory.to_owned(), directory.join("data")];
        let files = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
        files.map(|file| file.path()).find(|path| path.extension().is_some_and(|extension| extension == "sock"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(started) = &mut self.started else { return };
        if let Some(Ok(Some(status))) = started.nodes.first_mut().map(Child::try_wait) {
            eprintln!("iris-perf: the server ended by itself, {status}; it said:\n{}", last_words(&started.directory));
        }
        started.nodes.iter_mut().for_each(end);
    }
}

/// What to run, and where it will listen if it does not say so itself.
fn command(launch: &Launch, directory: &Path) -> Result<(Command, Option<SocketAddr>)> {
    if launch.peer == Peer::Raw {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("raw-relay");
        return Ok((command, None));
    }
    if launch.peer.is_scripted() {
        let (command, address) = script::command(launch.peer, directory)?;
        return Ok((command, Some(address)));
    }
    ensure!(launch.iris.is_file(), "{} does not exist: build Iris, or name it by --iris", launch.iris.display());
    let mut command = Command::new(&launch.iris);
    command.args(["serve", "--listen", "127.0.0.1:0", "--json", "--data"]).arg(directory.join("data"));
    if let Some(executors) = launch.executors {
        command.args(["--executors", &executors.to_string()]);
    }
    Ok((command, None))
}

/// Reads standard output up to the line that says `ready`.
fn wait_ready(child: &mut Child) -> Result<SocketAddr> {
    wait_ready_line(child)?.context("it is ready, and takes no clients")
}

/// The address that the line names, if it names one. A thread goes on reading, so that the pipe never fills.
fn wait_ready_line(child: &mut Child) -> Result<Option<SocketAddr>> {
    let output = child.stdout.take().context("standard output is not piped")?;
    let (sender, lines) = mpsc::sync_channel(16);
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _full_once_ready = sender.try_send(line);
        }
    });
    let end = Instant::now() + READY_LIMIT;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left).context("it ended, or was not ready in time")?;
        if let Some(address) = ready_address(&line) {
            let parse = |address: String| address.parse().with_context(|| format!("{address:?} is no address"));
            return address.map(parse).transpose();
        }
    }
}

/// Waits until every core has a link to every other one. A core that was dialled before it listened is dialled again.
fn wait_linked(sockets: &[PathBuf]) -> Result<()> {
    let end = Instant::now() + READY_LIMIT;
    let is_linked = |socket: &PathBuf| -> Result<bool> {
        let status = admin::status(socket)?;
        let up = status["links"].as_array().into_iter().flatten().filter(|link| link["up"] == true).count();
        Ok(up + 1 >= sockets.len())
    };
    for socket in sockets {
        while !is_linked(socket)? {
            ensure!(Instant::now() < end, "the cores of the cluster find no link to each other");
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// `None`: another line. The address is missing where no client can connect.
fn ready_address(line: &str) -> Option<Option<String>> {
    let value: Value = serde_json::from_str(line).ok()?;
    if value["event"] != "ready" {
        return None;
    }
    let tcp = value["listen"].as_array()?.iter().find(|listen| listen["transport"] == "tcp");
    Some(tcp.and_then(|tcp| tcp["address"].as_str()).map(str::to_owned))
}

fn stop(child: &mut Child) -> Result<()> {
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        kill_process(pid, Signal::TERM)?;
    }
    let end = Instant::now() + STOP_LIMIT;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the server ended with {status}");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("the server did not stop within {} s of SIGTERM", STOP_LIMIT.as_secs())
}

/// The end of the server's standard error.
fn last_words(directory: &TempDir) -> String {
    let log = fs::read(directory.path().join("log")).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(LAST_WORDS_BYTES)..]).trim().to_owned()
}

fn end(child: &mut Child) {
    let _gone = child.kill();
    let _reaped = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_address() {
        let listen = r#"{"transport":"quic","address":"x"},{"transport":"tcp","address":"127.0.0.1:40123"}"#;
        let line = format!(r#"{{"event":"ready","pid":7,"listen":[{listen}]}}"#);
        assert_eq!(ready_address(&line), Some(Some("127.0.0.1:40123".to_owned())));
        assert_eq!(ready_address(r#"{"event":"ready","pid":7,"listen":[]}"#), Some(None));
        assert_eq!(ready_address(r#"{"event":"starting"}"#), None);
        assert_eq!(ready_address("not JSON"), None);
    }
}
