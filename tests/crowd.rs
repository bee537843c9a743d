//! Many connections, and too many: a pair still talks, an idle node costs nothing, and the end of descriptors is no end.

mod process;
mod wire;

use std::time::Duration;

use process::{Node, Place};
use wire::model::Client;
use wire::{Heard, Wire, hello};

const CROWD: usize = 15_000;

/// As many connections as this process may have, less a reserve.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let soft = line.split_whitespace().nth(3).expect("a number").parse::<usize>().unwrap_or(usize::MAX);
    soft.saturating_sub(500)
}

/// Logs in this many users and leaves them alone.
fn crowd(address: &str, count: usize) -> Vec<Wire> {
    let mut wires = Vec::new();
    while wires.len() < count {
        let first = wires.len();
        let some = (first..count.min(first + 500)).map(|n| {
            let mut wire = Wire::connect(address);
            wire.write(&hello(format!("crowd-{n}").as_bytes()));
            wire
        });
        wires.extend(some.collect::<Vec<_>>());
        wires[first..].iter_mut().for_each(|wire| drop(wire.welcome()));
        wires[first..].iter_mut().for_each(Wire::shrink);
    }
    wires
}

fn talk(alice: &mut Client, bob: &mut Client, rounds: usize) {
    for _ in 0..rounds {
        let (of_bob, of_alice) = (bob.count() + 1, alice.count() + 1);
        alice.send("bob", 64);
        bob.until_taken(of_bob);
        bob.send("alice", 64);
        alice.until_taken(of_alice);
    }
}

#[test]
fn a_pair_talks_among_15_000() {
    if files_max() < CROWD {
        println!("skipped: {} open files are allowed here, {CROWD} and a reserve are needed (ulimit -n)", files_max());
        return;
    }
    let node = Node::with(&["--executors", "2"]);
    let (mut alice, mut bob) = (Client::online(&node.address, "alice"), Client::online(&node.address, "bob"));
    talk(&mut alice, &mut bob, 20);
    let before = node.resident_kib();
    let mut wires = crowd(&node.address, CROWD);
    let bytes = (node.resident_kib() - before) * 1_024 / CROWD as u64;
    println!("{bytes} bytes of resident memory per idle connection");
    talk(&mut alice, &mut bob, 100);
    // They are all still there, whatever the order.
    for wire in wires.iter_mut().step_by(97) {
        wire.settle();
    }
    assert_eq!(node.status()["totals"]["sessions"], CROWD + 2);
    // And gone all at once.
    drop(wires);
    talk(&mut alice, &mut bob, 50);
    node.until("alone", |status| status["totals"]["connections"] == 2);
}

#[test]
fn idle_connections_cost_no_cpu_and_an_idle_node_writes_nothing() {
    let node = Node::with(&["--executors", "2"]);
    let files = |path: &std::path::Path| walk(path);
    let fresh = files(&node.data());
    assert!(fresh.iter().all(|file| !file.contains("segment") && !file.ends_with(".log")), "{fresh:?}");
    let _wires = crowd(&node.address, 1_000);
    let before = node.cpu_ms();
    // Nothing happens: that is what is measured.
    std::thread::sleep(Duration::from_secs(3));
    let used = node.cpu_ms() - before;
    println!("{used} ms of CPU in 3 s with 1,000 idle connections; files: {fresh:?}");
    assert!(used <= 90, "an idle node used {used} ms of CPU in 3 s");
    assert_eq!(files(&node.data()), fresh, "an idle node writes nothing");
}

/// All files below, with their sizes.
fn walk(path: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(format!("{} {}", path.display(), path.metadata().map_or(0, |data| data.len()))),
        }
    }
    found.sort();
    found
}

#[test]
fn more_than_connections_max_are_turned_away_at_once() {
    let node = Node::configured("(node: (connections_max: 10))", &["--executors", "2"]);
    let mut wires = crowd(&node.address, 10);
    for _ in 0..50 {
        assert_eq!(Wire::connect(&node.address).next(), Heard::End);
    }
    wires.iter_mut().for_each(|wire| drop(wire.settle()));
    let limits = node.status()["totals"]["limits_reached"].clone();
    assert_eq!(limits["connections_max"], 50, "{limits}");
    // Room again.
    drop(wires.pop());
    node.until("roomy", |status| status["totals"]["connections"] == 9);
    Wire::login(&node.address, "late");
}

/// The limit of open files bounds the connections, so that those who are there go on; who comes hears it at once.
#[test]
fn the_limit_of_open_files_is_kept() {
    let node = Place::new().start_with_files(400, &["--executors", "1"]);
    let (mut alice, mut bob) = (Client::online(&node.address, "alice"), Client::online(&node.address, "bob"));
    let mut wires: Vec<_> = (0..400).map(|_| Wire::connect(&node.address)).collect();
    for (n, wire) in wires.iter_mut().enumerate() {
        // Those who are turned away may see a reset.
        drop(wire.try_write(&hello(format!("user-{n}").as_bytes())));
    }
    let mut welcome = 0;
    for wire in &mut wires {
        match wire.next() {
            Heard::Welcome(_) => welcome += 1,
            Heard::End => {}
            other => panic!("{other:?}"),
        }
    }
    println!("{welcome} of 400 got in with 400 open files");
    assert!((50..=200).contains(&welcome), "{welcome} got in");
    talk(&mut alice, &mut bob, 20);
    // What is stored needs files too.
    alice.send("away", 10);
    alice.until_answered();
    drop(wires);
    node.until("roomy", |status| status["totals"]["connections"] == 2);
    Wire::login(&node.address, "late");
}

#[test]
fn a_limit_of_open_files_that_leaves_no_room_is_named() {
    let done = Place::new().refused_with_files(100, &["--executors", "1"]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("open files"), "{}", done.err);
}
