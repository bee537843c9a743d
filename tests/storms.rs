//! Storms: everybody logs in at once, the same user logs in from everywhere at once, everybody comes back after a crash.

mod process;
mod wire;

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use iris_shards::frame::{Code, LEVEL_DELIVERED};
use iris_shards::id::MessageId;
use process::Node;
use wire::model::Client;
use wire::{Heard, Wire, hello};

/// One device of bob: takes what it is shown until another device takes over, and a bit more of nothing.
fn device(address: &str, taken: &Mutex<HashSet<MessageId>>) -> Option<Code> {
    let mut wire = Wire::connect(address);
    wire.write(&hello(b"bob"));
    loop {
        match wire.next() {
            Heard::Deliver(letter) => {
                taken.lock().expect("no panic").insert(letter.id);
                // It may be closed by now: then another device gets it.
                let mut ack = Vec::new();
                iris_shards::frame::acknowledge(&mut ack, &[(letter.sequence, letter.sequence)]);
                drop(wire.try_write(&ack));
            }
            Heard::Close { code, .. } => return code,
            Heard::End => return None,
            _ => {}
        }
    }
}

/// The newest login wins, whatever the others do, and no message gets lost between devices.
#[test]
fn a_user_who_logs_in_from_everywhere_at_once_has_one_session_and_all_messages() {
    let node = Node::with(&["--executors", "3"]);
    let taken = Mutex::new(HashSet::new());
    let mut alice = Client::online(&node.address, "alice");
    let codes = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| (0..40).map(|_| device(&node.address, &taken)).collect::<Vec<_>>()))
            .collect();
        for n in 0..1_500 {
            alice.send("bob", n % 50);
            alice.pump(Duration::from_millis(u64::from(n % 10 == 0)));
        }
        alice.until_answered();
        // Whoever is last would wait for ever.
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            drop(Wire::login(&node.address, "bob"));
        }
        threads.into_iter().flat_map(|thread| thread.join().expect("no rule was broken")).collect::<Vec<_>>()
    });
    assert!(codes.iter().all(|code| *code == Some(Code::TakenOver)), "{codes:?}");
    node.until("alone", |status| status["totals"]["sessions"] == 1);
    let mut last = Client::online(&node.address, "bob");
    let is_complete = |last: &Client| {
        let taken = taken.lock().expect("no panic");
        let here = last.taken.get("alice").into_iter().flatten();
        here.chain(taken.iter()).collect::<HashSet<_>>().len() == 1_500
    };
    last.until("has what no other device has taken", is_complete);
    alice.until("hears of all of them", |alice| alice.levels.values().all(|level| *level == LEVEL_DELIVERED));
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}

/// Complaint 10: everybody comes back at once after a crash, with everything to repeat.
#[test]
fn everybody_comes_back_at_once_after_a_crash() {
    const CROWD: usize = 1_500;
    let node = Node::with(&["--executors", "3"]);
    let mut clients: Vec<_> = (0..CROWD).map(|n| Client::online(&node.address, &format!("user-{n}"))).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        for step in [1, 7, 501] {
            client.send(&format!("user-{}", (n + step) % CROWD), 20);
        }
    }
    let node = node.crash_and_restart(&["--executors", "2"]);
    let begun = Instant::now();
    let share = CROWD.div_ceil(4);
    std::thread::scope(|scope| {
        for part in clients.chunks_mut(share) {
            let address = &node.address;
            scope.spawn(move || part.iter_mut().for_each(|client| assert!(client.login(address))));
        }
    });
    println!("{CROWD} clients are back after {:?}", begun.elapsed());
    let deadline = Instant::now() + process::PATIENCE;
    while clients.iter().any(|client| !client.open.is_empty() || client.count() < 3) {
        assert!(Instant::now() < deadline, "not everything arrives");
        for client in &mut clients {
            client.pump(Duration::ZERO);
        }
    }
    for n in 0..CROWD {
        for step in [1, 7, 501] {
            clients[(n + step) % CROWD].has_all_of(&clients[n]);
        }
    }
    assert!(clients.iter().all(|client| client.repeats == 0), "nothing was taken before the crash");
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}

/// Many write to one, who is online, leaves and comes back: everything arrives, in order of each sender.
#[test]
fn a_hundred_write_to_one_who_comes_and_goes() {
    let node = Node::with(&["--executors", "3"]);
    let mut senders: Vec<_> = (0..100).map(|n| Client::online(&node.address, &format!("sender-{n}"))).collect();
    let mut bob = Client::online(&node.address, "bob");
    for round in 0..12 {
        for sender in &mut senders {
            for n in 0..5 {
                sender.send("bob", n * round);
            }
        }
        for _ in 0..round {
            bob.pump(Duration::from_millis(1));
        }
        if round % 3 == 1 {
            bob.leave();
        }
        if round % 3 == 2 {
            assert!(bob.login(&node.address));
        }
        for sender in &mut senders {
            sender.pump(Duration::ZERO);
        }
    }
    bob.until_taken(100 * 5 * 12);
    for sender in &mut senders {
        sender.until_answered();
        bob.has_all_of(sender);
    }
    bob.leave();
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}
