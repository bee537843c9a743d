//! Bad neighbours: random bytes, half frames, and clients that hardly read. Others notice nothing, and nothing grows.

mod process;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iris_shards::frame::{ClientFrame, LEVEL_DELIVERED, LEVEL_STORED};
use process::{Node, PATIENCE};
use wire::model::Client;
use wire::{Dice, Heard, Wire, encoded, hello, new_id, raw_frame, send};

/// What one bad connection sends.
fn nonsense(dice: &mut Dice, user: u64) -> Vec<u8> {
    let name = format!("bad-{user}");
    let length = 1 + dice.roll(3_000);
    let random = dice.bytes(length);
    let login = hello(name.as_bytes());
    match dice.roll(9) {
        0 => random,
        // The beginning of a HELLO.
        1 => login[..dice.roll(login.len())].to_vec(),
        2 => [login, random].concat(),
        // A frame of the right form with random contents.
        3 => raw_frame(dice.roll(12) as u8, &random),
        4 => [login, raw_frame(2 + dice.roll(7) as u8, &random)].concat(),
        // A large frame that never comes to its end.
        5 => [&login[..], &60_000u32.to_be_bytes(), &[2], &random].concat(),
        6 => [login, send(1, new_id(), "bob", &random), send(7, new_id(), "bob", b"")].concat(),
        // One flipped bit.
        7 => {
            let mut bytes = [login, send(1, new_id(), &name, &random)].concat();
            let at = dice.roll(bytes.len());
            bytes[at] ^= 1 << dice.roll(8);
            bytes
        }
        _ => [login, encoded(&[ClientFrame::Watch { request: 1, user: &random[..random.len().min(255)] }])].concat(),
    }
}

/// Opens connections, some of which stay open, until it is told to stop. Returns how many.
fn be_bad(address: &str, seed: u64, stop: &AtomicBool) -> usize {
    let mut dice = Dice::new(seed);
    let mut open: Vec<Wire> = Vec::new();
    let mut count = 0;
    while !stop.load(Ordering::Acquire) {
        let mut wire = Wire::connect(address);
        let bytes = nonsense(&mut dice, seed * 1_000 + count as u64 % 50);
        let cut = dice.roll(bytes.len() + 1);
        // The server may have hung up on it by the second half.
        drop(wire.try_write(&bytes[..cut]).and_then(|()| wire.try_write(&bytes[cut..])));
        count += 1;
        match dice.roll(3) {
            0 => open.push(wire),
            1 => drop(wire.within(Duration::from_millis(5))),
            _ => drop(wire),
        }
        if open.len() > 100 {
            let at = dice.roll(open.len());
            open.swap_remove(at);
        }
    }
    count
}

#[test]
fn a_pair_notices_nothing_of_random_bytes_and_half_frames() {
    let node = Node::with(&["--executors", "3"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut carol = Client::online(&node.address, "carol");
    let stop = AtomicBool::new(false);
    let mut resident = Vec::new();
    let count = std::thread::scope(|scope| {
        let bad: Vec<_> = (1..=4)
            .map(|seed| {
                let (address, stop) = (&node.address, &stop);
                scope.spawn(move || be_bad(address, seed, stop))
            })
            .collect();
        let begun = Instant::now();
        for round in 1.. {
            alice.send("carol", round % 500);
            carol.until_taken(round);
            carol.send("alice", round % 500);
            alice.until_taken(round);
            if round % 100 == 0 {
                resident.push(node.resident_kib());
            }
            if begun.elapsed() > Duration::from_secs(6) && resident.len() >= 2 {
                break;
            }
        }
        stop.store(true, Ordering::Release);
        bad.into_iter().map(|thread| thread.join().expect("it does not judge")).sum::<usize>()
    });
    alice.until_answered();
    carol.until_answered();
    assert!(alice.levels.values().chain(carol.levels.values()).all(|level| *level == LEVEL_DELIVERED));
    let (first, last) = (resident[0], resident[resident.len() - 1]);
    println!("{count} bad connections, {} rounds of the pair, {first} to {last} KiB resident", alice.count());
    assert!(count > 500, "{count}");
    assert!(last < first + 64 * 1_024, "memory grows: {resident:?}");
    node.until("rid of all the others", |status| status["totals"]["connections"] == 2);
    node.until("idle", |status| status["totals"]["sessions"] == 2);
}

#[test]
fn random_bytes_at_the_admin_socket_do_no_harm() {
    use std::io::{Read, Write};
    let node = Node::start();
    let path = node.data().join("admin.sock");
    let mut dice = Dice::new(9);
    for round in 0..50 {
        let mut socket = std::os::unix::net::UnixStream::connect(&path).expect("the admin socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let length = 1 + dice.roll(100_000);
        let bytes = match round % 4 {
            0 => dice.bytes(length),
            1 => vec![b'{'; length],
            2 => b"{\"verb\":\"nonsense\"}\n".to_vec(),
            _ => b"{\"verb\":\"stat".to_vec(),
        };
        drop(socket.write_all(&bytes));
        drop(socket.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer));
    }
    // Somebody who says nothing does not keep others from asking.
    let connect = || std::os::unix::net::UnixStream::connect(&path).expect("the admin socket");
    let _silent = [connect(), connect(), connect()];
    assert_eq!(node.status()["pid"], node.pid());
}

/// Makes a client slow at once: the kernel keeps little for it.
fn small_buffer(wire: &Wire) {
    socket2::SockRef::from(&wire.stream).set_recv_buffer_size(64 << 10).expect("a buffer");
}

fn read_one_byte(wire: &mut Wire) {
    use std::io::Read;
    wire.stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    let mut byte = [0];
    if wire.stream.read(&mut byte).is_ok_and(|read| read == 1) {
        wire.push_back(byte[0]);
    }
}

/// Complaint 6 of the field: a slow reader spills to its inbox, and only it is slow.
#[test]
fn a_slow_reader_costs_only_itself() {
    let settings = "(node: (edge: (delivery_ms_max: 300)))";
    let node = Node::configured(settings, &["--executors", "3"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut slow = Wire::connect(&node.address);
    small_buffer(&slow);
    slow.write(&hello(b"slow"));
    slow.welcome();
    // The path is direct by the time the slow one gets slow.
    for sequence in 1..=3 {
        alice.send("slow", 0);
        assert_eq!(slow.letter().sequence, sequence);
        slow.acknowledge(sequence, sequence);
        alice.until_answered();
    }
    let (mut fast, mut other) = (Client::online(&node.address, "fast"), Client::online(&node.address, "other"));
    let mut rounds = 0;
    let begun = Instant::now();
    for n in 0..2_000 {
        alice.send("slow", 1_000);
        if n % 4 == 0 {
            alice.pump(Duration::ZERO);
        }
        while alice.open.len() > 900 {
            alice.pump(Duration::from_millis(50));
        }
        if n % 100 == 0 {
            read_one_byte(&mut slow);
            rounds += 1;
            fast.send("other", 10);
            other.until_taken(rounds);
            fast.until_answered();
        }
    }
    alice.until_answered();
    let took = begun.elapsed();
    let stored = alice.levels.values().filter(|level| **level == LEVEL_STORED).count();
    println!(
        "2,000 messages to a slow reader: {stored} stored, answered after {took:?}; the others made {rounds} rounds"
    );
    assert!(stored > 1_000, "a slow reader's messages are stored: {stored}");
    // delivery_ms_max and a flush; a slow machine gets 30 times as long.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(fast.levels.values().all(|level| *level == LEVEL_DELIVERED), "the others are delivered, not stored");
    // It reads on, and gets all of it, once, in order.
    let sent = alice.sent["slow"].clone();
    let mut heard = Vec::new();
    while heard.len() < 2_000 {
        let letter = slow.letter();
        heard.push(letter.id);
        slow.acknowledge(letter.sequence, letter.sequence);
    }
    assert_eq!(heard, sent[3..]);
    alice.until("hears of all of them", |alice| alice.levels.values().all(|level| *level == LEVEL_DELIVERED));
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}

/// A client that reads and never acknowledges gets its window and no more, and its senders hear `stored`.
#[test]
fn who_acknowledges_nothing_gets_a_window_and_no_more() {
    let settings = "(node: (edge: (delivery_messages_max: 50, delivery_ms_max: 200), core: (page_messages: 20)))";
    let node = Node::configured(settings, &["--executors", "2"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut mute = Wire::login(&node.address, "mute");
    // A grant, so that what follows goes directly.
    alice.send("mute", 0);
    mute.letter();
    mute.acknowledge(1, 1);
    alice.until_answered();
    for _ in 0..500 {
        alice.send("mute", 0);
    }
    alice.until_answered();
    let stored = alice.levels.values().filter(|level| **level == LEVEL_STORED).count();
    assert_eq!(stored, 500);
    let shown = mute.settle().into_iter().filter(|heard| matches!(heard, Heard::Deliver(_))).count();
    assert!((20..=70).contains(&shown), "the window and the page: {shown}");
    mute.acknowledge(2, 1 + shown as u64);
    let mut sequence = 1 + shown as u64;
    while sequence < 501 {
        sequence += 1;
        assert_eq!(mute.letter().sequence, sequence);
        mute.acknowledge(sequence, sequence);
    }
    alice.until("hears of all of them", |alice| alice.levels.values().all(|level| *level == LEVEL_DELIVERED));
}

/// Complaint 1: a frozen client, 10,000 messages, the node killed: the sets are equal.
#[test]
fn a_frozen_client_misses_nothing_of_a_killed_node() {
    let mut node = Node::with(&["--executors", "2"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut bob = Client::online(&node.address, "bob");
    alice.send("bob", 0);
    bob.until_taken(1);
    alice.until_answered();
    for n in 0..10_000 {
        while alice.open.len() > 1_000 {
            alice.pump(Duration::from_millis(100));
        }
        alice.send("bob", n % 100);
    }
    node = node.crash_and_restart(&["--executors", "2"]);
    alice.leave();
    bob.leave();
    assert!(alice.login(&node.address) && bob.login(&node.address));
    alice.until_answered();
    bob.until_taken(10_001);
    bob.has_all_of(&alice);
}

/// Complaint 2: a storm of repeats with fixed ids.
#[test]
fn a_storm_of_repeats_makes_no_duplicates() {
    let mut node = Node::with(&["--executors", "3"]);
    let mut bob = Client::online(&node.address, "bob");
    let mut alice = Client::online(&node.address, "alice");
    for _ in 0..200 {
        alice.send("bob", 10);
        alice.send("away", 10);
    }
    let letters = alice.open.clone();
    for round in 0..10 {
        // As a library that has heard nothing at all.
        alice.open.clone_from(&letters);
        alice.levels.clear();
        if round == 5 {
            node = node.crash_and_restart(&["--executors", "2"]);
            bob.leave();
            assert!(bob.login(&node.address));
        }
        assert!(alice.login(&node.address));
        while !alice.open.is_empty() {
            alice.pump(Duration::from_millis(5));
            bob.pump(Duration::ZERO);
        }
    }
    bob.until_taken(200);
    bob.has_all_of(&alice);
    let mut away = Client::online(&node.address, "away");
    away.until_taken(200);
    away.has_all_of(&alice);
    assert_eq!(away.repeats, 0);
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}
