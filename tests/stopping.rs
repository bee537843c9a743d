//! Stopping with clients connected: they are asked to leave, what they were given is kept, and nothing confirmed is lost.

mod process;
mod wire;

use std::time::{Duration, Instant};

use iris_shards::frame::{Code, LEVEL_STORED};
use process::{Node, wait};
use wire::model::Client;
use wire::{Heard, Wire};

fn drain_ms(ms: u32) -> String {
    format!("(node: (drain_ms: {ms}, edge: (retry_ms: 321, delivery_ms_max: 60_000), core: (log_delay_ms: 10_000)))")
}

#[test]
fn sigterm_asks_everybody_to_leave_and_closes_those_who_stay() {
    let mut node = Node::configured(&drain_ms(800), &["--executors", "3"]);
    let mut wires: Vec<_> = (0..200).map(|n| Wire::login(&node.address, &format!("user-{n}"))).collect();
    let begun = Instant::now();
    node.running.signal("TERM");
    let mut waits = Vec::new();
    for wire in &mut wires {
        let Heard::Drain(wait_ms) = wire.next() else { panic!("no DRAIN") };
        waits.push(wait_ms);
    }
    // Half of them do as they are asked.
    let stubborn = wires.split_off(100);
    drop(wires);
    for mut wire in stubborn {
        assert_eq!(wire.next(), Heard::Close { code: Some(Code::Draining), wait_ms: 321 });
        assert_eq!(wire.next(), Heard::End);
    }
    assert_eq!(wait(&mut node.running.child).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    waits.sort_unstable();
    assert!(waits.iter().all(|wait_ms| *wait_ms <= 800), "{waits:?}");
    waits.dedup();
    assert!(waits.len() > 50, "clients do not come back all at once: {waits:?}");
}

#[test]
fn a_node_that_everybody_has_left_does_not_wait() {
    let mut node = Node::configured(&drain_ms(60_000), &["--executors", "3"]);
    let wires: Vec<_> = (0..20).map(|n| Wire::login(&node.address, &format!("user-{n}"))).collect();
    node.running.signal("TERM");
    drop(wires);
    let begun = Instant::now();
    assert_eq!(wait(&mut node.running.child).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(Wire::try_connect(&node.address).is_err());
}

#[test]
fn connections_that_never_said_who_they_are_do_not_hold_up_the_end() {
    let mut node = Node::configured(&drain_ms(500), &["--executors", "2"]);
    let mut silent: Vec<_> = (0..10).map(|_| Wire::connect(&node.address)).collect();
    node.until("accepted", |status| status["totals"]["connections"] == 10);
    let begun = Instant::now();
    assert_eq!(node.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for wire in &mut silent {
        assert_eq!(wire.close_code(), Code::Draining);
    }
}

/// What is in memory only, for a client that is online and takes nothing, is on disk when the process has ended.
#[test]
fn what_was_not_logged_yet_is_kept() {
    for executors in ["1", "3", "16"] {
        let mut node = Node::configured(&drain_ms(200), &["--executors", executors]);
        let mut sent = Vec::new();
        let mut alice = Wire::login(&node.address, "alice");
        let mut present: Vec<_> = (0..20).map(|n| Wire::login(&node.address, &format!("bob-{n}"))).collect();
        for sequence in 1..=100 {
            let recipient = format!("bob-{}", sequence % 20);
            sent.push((recipient.clone(), alice.send(sequence, &recipient, b"keep it")));
        }
        // They have it, and take it not; it was confirmed to nobody.
        for wire in &mut present {
            (0..5).for_each(|_| assert_eq!(wire.letter().body, b"keep it"));
        }
        assert!(alice.settle().iter().all(|heard| !matches!(heard, Heard::Confirm { .. })));
        node.running.signal("TERM");
        let mut stored = 0;
        alice.until(|heard| {
            if let Heard::Confirm { level: LEVEL_STORED, ranges, .. } = heard {
                stored += ranges.iter().map(|(first, last)| last - first + 1).sum::<u64>();
            }
            matches!(heard, Heard::End).then_some(())
        });
        assert_eq!(wait(&mut node.running.child).code(), Some(0));
        let node = node.crash_and_restart(&["--executors", "2"]);
        for n in 0..20 {
            let name = format!("bob-{n}");
            let mut wire = Wire::login(&node.address, &name);
            let wanted: Vec<_> = sent.iter().filter(|(to, _)| *to == name).map(|(_, id)| *id).collect();
            let heard: Vec<_> = wanted.iter().map(|_| wire.letter().id).collect();
            assert_eq!(heard, wanted, "{name} with {executors} executors, {stored} were called stored");
        }
    }
}

/// A stop under load, and the same again: nothing is lost, and clients that come back repeat nothing twice.
#[test]
fn a_restart_under_load_loses_nothing() {
    let mut node = Node::configured(&drain_ms(300), &["--executors", "3"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut bob = Client::online(&node.address, "bob");
    for round in 0..4 {
        for n in 0..300 {
            alice.send("bob", n);
            alice.send("away", n);
            if n % 20 == 0 {
                alice.pump(Duration::ZERO);
                bob.pump(Duration::ZERO);
            }
            if n == 150 {
                node.running.signal("TERM");
            }
        }
        // Both are told to go, and stay until they are closed.
        while alice.pump(Duration::from_millis(10)) | bob.pump(Duration::from_millis(10)) {}
        assert_eq!(wait(&mut node.running.child).code(), Some(0));
        node = node.crash_and_restart(&["--executors", ["1", "2", "16", "3"][round]]);
        assert!(bob.login(&node.address) && alice.login(&node.address));
    }
    alice.until_answered();
    bob.until_taken(1_200);
    bob.has_all_of(&alice);
    let mut away = Client::online(&node.address, "away");
    away.until_taken(1_200);
    away.has_all_of(&alice);
    assert_eq!(alice.refused.len(), 0);
}

#[test]
fn sigint_twice_exits_at_once_and_nothing_confirmed_is_lost() {
    let mut node = Node::configured(&drain_ms(60_000), &["--executors", "2"]);
    let mut alice = Client::online(&node.address, "alice");
    for n in 0..50 {
        alice.send("away", n);
    }
    alice.until_answered();
    node.running.signal("INT");
    let wire = alice.wire.as_mut().expect("online");
    wire.until(|heard| matches!(heard, Heard::Drain(_)).then_some(()));
    let begun = Instant::now();
    node.running.signal("INT");
    assert_eq!(wait(&mut node.running.child).code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let node = node.crash_and_restart(&["--executors", "1"]);
    let mut away = Client::online(&node.address, "away");
    away.until_taken(50);
    away.has_all_of(&alice);
}
