//! kill -9 under load: whatever was confirmed is delivered, once, in order, on the same data and on any number of executors.

mod process;
mod wire;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use process::{Node, PATIENCE};
use wire::Dice;
use wire::model::Client;

/// Messages that a client has under way at most.
const OPEN_MAX: usize = 48;

/// What the threads of clients and the one that kills share.
struct Scene {
    address: Mutex<String>,
    /// Clients send nothing new any more.
    is_over: AtomicBool,
    /// Everything that anybody sent was confirmed, by as many clients.
    answered: AtomicUsize,
    /// Everybody has everything: clients may end.
    is_done: AtomicBool,
}

/// One client that talks to everybody, over any number of lives of the server.
fn talk(scene: &Scene, name: &str, recipients: &[String], seed: u64) -> Client {
    let mut dice = Dice::new(seed);
    let mut client = Client::new(name);
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut has_answered = false;
    while !scene.is_done.load(Ordering::Acquire) {
        assert!(Instant::now() < deadline, "{name} does not come to an end: {}", client.summary());
        let is_over = scene.is_over.load(Ordering::Acquire);
        if client.wire.is_none() {
            let address = scene.address.lock().expect("no panic").clone();
            if !client.login(&address) {
                // Nobody is there; not a matter of order, only of not spinning.
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        }
        if !is_over && client.open.len() < OPEN_MAX {
            for _ in 0..1 + dice.roll(6) {
                let recipient = &recipients[dice.roll(recipients.len())];
                client.send(recipient, dice.roll(600));
            }
        }
        client.pump(Duration::from_millis(1));
        if dice.roll(400) == 0 {
            client.leave();
        }
        if is_over && client.open.is_empty() && !has_answered {
            has_answered = true;
            scene.answered.fetch_add(1, Ordering::AcqRel);
        }
    }
    client
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills the node this often, with these numbers of executors, while `present` users talk to each other and to users who
/// are away.
fn rounds(executors: &[usize], present: usize, seed: u64) {
    let count = |n: usize| executors[n % executors.len()].to_string();
    let first = Node::with(&["--executors", &count(0)]);
    let away: Vec<String> = (0..5).map(|n| format!("away-{n}")).collect();
    let here: Vec<String> = (0..present).map(|n| format!("here-{n}")).collect();
    let everybody: Vec<String> = here.iter().chain(&away).cloned().collect();
    let scene = Scene {
        address: Mutex::new(first.address.clone()),
        is_over: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        is_done: AtomicBool::new(false),
    };
    let mut dice = Dice::new(seed);
    let (node, clients): (Node, Vec<Client>) = std::thread::scope(|scope| {
        let talking = here.iter().enumerate();
        let threads: Vec<_> = talking
            .map(|(n, name)| {
                let (scene, everybody) = (&scene, &everybody);
                scope.spawn(move || talk(scene, name, everybody, seed * 100 + n as u64))
            })
            .collect();
        let mut node = first;
        for round in 1..=executors.len() + 2 {
            // At any moment, which is the point of it.
            std::thread::sleep(Duration::from_millis(150 + dice.roll(500) as u64));
            node = node.crash_and_restart(&["--executors", &count(round)]);
            scene.address.lock().expect("no panic").clone_from(&node.address);
        }
        scene.is_over.store(true, Ordering::Release);
        let is_quiet = || scene.answered.load(Ordering::Acquire) == present || threads.iter().any(|t| t.is_finished());
        wait_for("answered", is_quiet);
        if scene.answered.load(Ordering::Acquire) == present {
            // What is left is for those who are away: one inbox for each.
            node.until("delivered to all who are here", |status| {
                status["totals"]["inboxes"].as_u64() <= Some(away.len() as u64)
            });
        }
        // Only from here on may nothing be on its way to them; the check below is about all of it.
        scene.is_done.store(true, Ordering::Release);
        (node, threads.into_iter().map(|thread| thread.join().expect("no rule was broken")).collect())
    });
    finish(&node, clients, &away, seed);
}

/// Waits until a client has taken as many messages as were sent to it, or nothing comes any more.
fn take_all(node: &Node, client: &mut Client, count: usize) {
    let mut last = (0, Instant::now());
    while client.count() < count && last.1.elapsed() < PATIENCE / 4 {
        assert!(client.pump(Duration::from_millis(200)), "{} lost its connection", client.name);
        if client.count() > last.0 {
            last = (client.count(), Instant::now());
        }
    }
    if client.count() < count {
        println!("{} takes {} of {count}; {}", client.name, client.count(), node.status()["totals"]);
    }
}

/// Everything that was confirmed is there, once, in order.
fn finish(node: &Node, clients: Vec<Client>, away: &[String], seed: u64) {
    let mut clients = clients;
    for client in &mut clients {
        // What was acknowledged at the very end may have been cut off by the end of the thread.
        assert!(client.login(&node.address));
    }
    let total = |clients: &[Client], name: &str| -> usize {
        clients.iter().filter_map(|client| client.sent.get(name)).map(Vec::len).sum()
    };
    let mut all = 0;
    for at in 0..clients.len() {
        let name = clients[at].name.clone();
        let count = total(&clients, &name);
        take_all(node, &mut clients[at], count);
        clients.iter().for_each(|sender| clients[at].has_all_of(sender));
        all += count;
    }
    for name in away {
        let count = total(&clients, name);
        let mut client = Client::online(&node.address, name);
        take_all(node, &mut client, count);
        clients.iter().for_each(|sender| client.has_all_of(sender));
        all += count;
    }
    let refused: usize = clients.iter().map(|client| client.refused.len()).sum();
    let repeats: usize = clients.iter().map(|client| client.repeats).sum();
    println!("seed {seed}: {all} messages, {refused} refused, {repeats} repeats");
    assert!(all > 500, "there was some load: {all}");
    assert_eq!(refused, 0);
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}

#[test]
fn nothing_confirmed_is_lost_by_kill_9_on_one_executor() {
    rounds(&[1, 1, 1, 1], 6, 1);
}

#[test]
fn nothing_confirmed_is_lost_by_kill_9_with_changing_executors() {
    rounds(&[3, 1, 16, 2, 3], 8, 2);
}

/// Only the disk remembers: senders are gone too, and never repeat.
#[test]
fn what_was_stored_needs_no_repeat_of_its_sender() {
    let mut node = Node::with(&["--executors", "3"]);
    let mut senders = Vec::new();
    for round in 0..4 {
        let mut alice = Client::online(&node.address, &format!("alice-{round}"));
        for n in 0..400 {
            alice.send(&format!("bob-{}", n % 7), n);
        }
        // Killed as soon as half of it is confirmed; what is not confirmed by then may be there or not.
        alice.until("hears half", |alice| alice.levels.len() >= 200);
        node = node.crash_and_restart(&["--executors", ["1", "2", "3", "16"][round]]);
        while alice.pump(Duration::from_millis(1)) {}
        senders.push(alice);
    }
    for n in 0..7 {
        let mut bob = Client::online(&node.address, &format!("bob-{n}"));
        let is_there = |bob: &Client| {
            senders.iter().all(|alice| {
                let none = Vec::new();
                let taken = bob.taken.get(&alice.name).unwrap_or(&none);
                let confirmed = alice.sent[&bob.name].iter().filter(|id| alice.levels.contains_key(id));
                confirmed.filter(|id| !taken.contains(id)).count() == 0
            })
        };
        bob.until("takes everything confirmed", is_there);
        for alice in &senders {
            let sent = &alice.sent[&bob.name];
            let mut taken = bob.taken.get(&alice.name).into_iter().flatten();
            assert!(taken.all(|id| sent.contains(id)));
        }
    }
}

/// Recipients who acknowledge and are killed with the server: what they have acknowledged may come again once, as a repeat,
/// and what they have not acknowledged comes.
#[test]
fn what_was_delivered_before_a_kill_is_not_a_second_message() {
    let mut node = Node::with(&["--executors", "2"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut bob = Client::online(&node.address, "bob");
    for round in 0..5 {
        for n in 0..100 {
            alice.send("bob", n);
        }
        for _ in 0..round * 3 {
            bob.pump(Duration::from_millis(1));
            alice.pump(Duration::from_millis(1));
        }
        node = node.crash_and_restart(&["--executors", ["2", "3", "1"][round % 3]]);
        alice.leave();
        bob.leave();
        assert!(bob.login(&node.address) && alice.login(&node.address));
    }
    alice.until_answered();
    bob.until_taken(500);
    bob.has_all_of(&alice);
    bob.leave();
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
}
