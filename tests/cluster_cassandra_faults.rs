//! A Cassandra cluster of three nodes that die, stand still or run out of disk, under nodes of Iris with a checked load:
//! nothing that was confirmed may be missing, come out of order or as two messages.

mod engines;
mod fleet;
mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engines::cassandra::Cassandra;
use fleet::drill::Drill;
use fleet::ground::Ground;
use fleet::{Cluster, Plan};
use process::{Done, run};
use rustix::process::{Pid, Signal, kill_process};

/// Messages per second: three JVMs share the machine.
const RATE: f64 = 400.0;
const USERS: u32 = 200;
const FROZEN: Duration = Duration::from_secs(30);
/// For how long two of three are gone.
const AWAY: Duration = Duration::from_secs(10);
/// For how long a disk is full.
const FULL: Duration = Duration::from_secs(20);
/// What a disk that is about to be full has beside what is on it.
const ROOM_MB: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(120);

/// One test at a time: they stop the nodes of the cluster that they share.
fn whole(test: &str) -> Option<(&'static Cassandra, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cassandra = Cassandra::shared(test)?;
    cassandra.heal();
    Some((cassandra, alone))
}

/// Users talk over two edges and two cores that store on this cluster.
fn drill(name: &'static str, cassandra: &Cassandra) -> Drill {
    let keyspace = format!("faults_{}", name.replace('-', "_"));
    cassandra.init(&keyspace);
    let hosts = cassandra.hosts();
    let node = format!("storage: cassandra, cassandra: (hosts: {hosts:?}, keyspace: {keyspace:?}, away_ms: 4_000),");
    // The storage cluster is on this machine's loopback, which namespaces do not see.
    let cluster = Cluster::start(Plan { node, ..Plan::proof() }, Ground::loopback());
    Drill::start(name, cluster, |plan| (plan.rate, plan.users, plan.late_allowed) = (RATE, USERS, false))
}

/// One that has ended already hears nothing.
fn signal(cassandra: &Cassandra, nodes: &[usize], signal: Signal) {
    let pids = cassandra.pids();
    for &node in nodes {
        let _ = kill_process(Pid::from_raw(pids[node]).expect("a process"), signal);
    }
}

/// A message for somebody who is never there.
fn send_to_absent(cluster: &Cluster) -> Done {
    let server = cluster.client_address("edge-a").to_string();
    run(&["send", "--server", &server, "--user", "probe", "nobody-here", "hello", "--timeout", "20"])
}

/// Sends until this is what becomes of it, and says how long that took.
fn until_sent(cluster: &Cluster, what: &str, is_done: impl Fn(&Done) -> bool) {
    let start = Instant::now();
    loop {
        let done = send_to_absent(cluster);
        if is_done(&done) {
            return eprintln!("a message for an absent user is {what} after {} ms", start.elapsed().as_millis());
        }
        assert!(start.elapsed() < PATIENCE, "not {what}: {:?} {}{}", done.code, done.out, done.err);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn until_refused(cluster: &Cluster) {
    until_sent(cluster, "refused", |done| done.code == Some(3) && done.err.contains("refused: unavailable"));
}

fn until_stored(cluster: &Cluster) {
    until_sent(cluster, "stored", |done| done.code == Some(0));
}

#[test]
fn one_dies_and_one_stands_still() {
    let Some((cassandra, _alone)) = whole("one of three storage nodes dies") else { return };
    let mut drill = drill("storage-one", cassandra);
    drill.fault("kill -9 of one of three storage nodes", |cluster| {
        signal(cassandra, &[1], Signal::KILL);
        until_stored(cluster);
    });
    drill.fault("it is back", |_| cassandra.heal());
    drill.lasting(
        ("SIGSTOP of one of three storage nodes", FROZEN),
        |_| signal(cassandra, &[2], Signal::STOP),
        |_| signal(cassandra, &[2], Signal::CONT),
    );
    drill.finish();
}

#[test]
fn two_die_and_it_heals_by_itself() {
    let Some((cassandra, _alone)) = whole("two of three storage nodes die") else { return };
    let mut drill = drill("storage-two", cassandra);
    drill.fault("kill -9 of two of three storage nodes, and back", |cluster| {
        signal(cassandra, &[1, 2], Signal::KILL);
        until_refused(cluster);
        std::thread::sleep(AWAY);
        cassandra.heal();
        until_stored(cluster);
        assert!(cluster.names().iter().all(|name| cluster.is_alive(name)), "nobody has ended");
    });
    drill.finish();
}

#[test]
fn one_has_a_full_disk() {
    let Some((cassandra, _alone)) = whole("a storage node has a full disk") else { return };
    signal(cassandra, &[2], Signal::KILL);
    let Some(disk) = SmallDisk::under(cassandra.folder(2)) else { return cassandra.heal() };
    cassandra.heal();
    let mut drill = drill("storage-full", cassandra);
    drill.lasting(
        ("a full disk of one of three storage nodes", FULL),
        |cluster| {
            disk.fill();
            until_stored(cluster);
        },
        |_| {
            disk.empty();
            signal(cassandra, &[2], Signal::KILL);
            cassandra.heal();
        },
    );
    drill.finish();
    signal(cassandra, &[2], Signal::KILL);
    drop(disk);
    cassandra.heal();
}

#[test]
fn a_core_dies_and_nothing_with_it() {
    let Some((cassandra, _alone)) = whole("a core on a storage cluster dies") else { return };
    let mut drill = drill("storage-cores", cassandra);
    for core in ["core-a", "core-b"] {
        drill.fault(&format!("kill -9 of {core}"), |cluster| {
            cluster.kill(core);
            until_stored(cluster);
        });
        drill.fault(&format!("{core} is back, without anything that it had"), |cluster| {
            drop(std::fs::remove_dir_all(cluster.data(core)));
            cluster.run(core);
            cluster.until_linked();
        });
    }
    drill.finish();
}

/// A tmpfs in place of a folder, with little more room than what is in it. What is on it is in the folder afterwards.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// None, and a word why, where nothing can be mounted. Nobody may use the folder.
    fn under(folder: PathBuf) -> Option<SmallDisk> {
        let aside = aside(&folder);
        assert!(shell("cp", &["-a", path(&folder), path(&aside)]));
        let size = format!("size={}m", megabytes(&folder) + ROOM_MB);
        if !shell("mount", &["-t", "tmpfs", "-o", &size, "none", path(&folder)]) {
            eprintln!("SKIPPED: a full disk: mounting a tmpfs needs root");
            drop(std::fs::remove_dir_all(aside));
            return None;
        }
        let disk = SmallDisk { folder };
        assert!(shell("cp", &["-a", &format!("{}/.", path(&aside)), path(&disk.folder)]));
        drop(std::fs::remove_dir_all(aside));
        Some(disk)
    }

    fn fill(&self) {
        let filler = format!("of={}", path(&self.folder.join("filler")));
        // Ends when nothing more has room.
        assert!(!shell("dd", &["if=/dev/zero", &filler, "bs=64k"]));
    }

    fn empty(&self) {
        std::fs::remove_file(self.folder.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let aside = aside(&self.folder);
        shell("cp", &["-a", path(&self.folder), path(&aside)]);
        shell("umount", &["-l", path(&self.folder)]);
        shell("cp", &["-a", &format!("{}/.", path(&aside)), path(&self.folder)]);
        drop(std::fs::remove_dir_all(aside));
    }
}

fn aside(folder: &Path) -> PathBuf {
    folder.with_extension("aside")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn megabytes(folder: &Path) -> u64 {
    let output = Command::new("du").args(["-sm", path(folder)]).output().expect("du");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

fn shell(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}
