//! 1,000,000 stored messages: a restart in seconds, and a drain with flat memory. Bounds are lax here; the perf suite
//! measures the same with figures.

mod process;
mod wire;

use std::time::{Duration, Instant};

use iris_shards::frame::{LEVEL_STORED, acknowledge};
use process::Node;
use wire::{Heard, Wire, new_id, send};

const MESSAGES: usize = 1_000_000;
const SENDERS: usize = 10;
const WINDOW: usize = 1_000;

/// Stores this many messages for bob.
fn store(address: &str, sender: usize, count: usize) {
    let mut wire = Wire::login(address, &format!("sender-{sender}"));
    let (mut sent, mut confirmed) = (0, 0);
    while confirmed < count {
        let mut bytes = Vec::new();
        while sent < count && sent - confirmed < WINDOW {
            sent += 1;
            bytes.extend(send(sent as u64, new_id(), "bob", &[7; 64]));
        }
        wire.write(&bytes);
        match wire.next() {
            Heard::Confirm { level: LEVEL_STORED, ranges, .. } => {
                confirmed += ranges.iter().map(|(first, last)| (last - first + 1) as usize).sum::<usize>();
            }
            other => panic!("{other:?}"),
        }
    }
}

fn fill_restart_drain(messages: usize) {
    let node = Node::with(&["--executors", "2"]);
    let empty = node.resident_kib();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let address = &node.address;
            scope.spawn(move || store(address, sender, messages / SENDERS));
        }
    });
    println!("{messages} stored in {:?}", begun.elapsed());
    let begun = Instant::now();
    let node = node.crash_and_restart(&["--executors", "2"]);
    let took = begun.elapsed();
    println!("restarted in {took:?}; {} KiB above an empty node", node.resident_kib().saturating_sub(empty));
    assert!(took < Duration::from_secs(60), "a restart takes {took:?}");
    let mut bob = Wire::login(&node.address, "bob");
    let begun = Instant::now();
    let mut most = 0;
    for n in 1..=messages as u64 {
        let letter = bob.letter();
        assert_eq!(letter.sequence, n);
        if n % 100 == 0 || n == messages as u64 {
            let mut bytes = Vec::new();
            acknowledge(&mut bytes, &[(n - (n - 1) % 100, n)]);
            bob.write(&bytes);
        }
        if n % 50_000 == 0 {
            most = most.max(node.resident_kib());
        }
    }
    println!("drained in {:?}; at most {} KiB above an empty node", begun.elapsed(), most.saturating_sub(empty));
    assert!(most < empty + 256 * 1_024, "memory grows to {most} KiB");
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}

#[test]
fn a_million_messages_survive_a_restart_and_are_drained() {
    fill_restart_drain(MESSAGES);
}
