//! Conversations as `docs/protocol.md` has them, with a real node: online, away, repeated, taken over, cut anywhere.

mod process;
mod wire;

use std::time::Duration;

use iris_shards::frame::{ClientFrame, Code, LEVEL_DELIVERED, LEVEL_STORED, STATE_OFFLINE, STATE_ONLINE};
use process::Node;
use wire::model::Client;
use wire::{Dice, Heard, Wire, clock_ms, hello, new_id, send};

fn node(executors: usize) -> Node {
    Node::with(&["--executors", &executors.to_string()])
}

/// Lets all clients run until everything is answered, and taken.
fn settle(clients: &mut [Client]) {
    let deadline = std::time::Instant::now() + process::PATIENCE;
    let is_done = |clients: &[Client]| {
        let sent: usize = clients.iter().flat_map(|client| client.sent.values()).map(Vec::len).sum();
        let taken: usize = clients.iter().map(Client::count).sum();
        clients.iter().all(|client| client.open.is_empty()) && sent == taken
    };
    while !is_done(clients) {
        let state =
            || clients.iter().map(|client| format!("{}: {}\n", client.name, client.summary())).collect::<String>();
        assert!(std::time::Instant::now() < deadline, "not everything arrives:\n{}", state());
        for client in clients.iter_mut() {
            assert!(client.pump(Duration::from_millis(1)), "{} lost its connection", client.name);
        }
    }
    for sender in 0..clients.len() {
        clients.iter().for_each(|recipient| recipient.has_all_of(&clients[sender]));
    }
}

/// Everybody writes to everybody, in rounds, so that every pair goes through the inbox first and then direct.
fn chatter(executors: usize, users: usize) {
    let node = node(executors);
    let mut clients: Vec<_> = (0..users).map(|n| Client::online(&node.address, &format!("user-{n}"))).collect();
    for round in 0..3 {
        for from in 0..users {
            for to in 0..users {
                let recipient = clients[to].name.clone();
                clients[from].send(&recipient, (from * 7 + to * 13 + round) % 300);
            }
        }
        settle(&mut clients);
    }
    assert!(clients.iter().all(|client| client.refused.is_empty()));
    // Nobody is slow here: what is online is delivered.
    let delivered = clients.iter().flat_map(|client| client.levels.values()).filter(|level| **level == LEVEL_DELIVERED);
    assert!(delivered.count() * 2 > users * users * 3, "most messages are delivered, not stored");
}

#[test]
fn everybody_talks_to_everybody_on_1_executor() {
    chatter(1, 12);
}

#[test]
fn everybody_talks_to_everybody_on_2_executors() {
    chatter(2, 12);
}

#[test]
fn everybody_talks_to_everybody_on_3_executors() {
    chatter(3, 24);
}

#[test]
fn everybody_talks_to_everybody_on_16_executors() {
    chatter(16, 24);
}

#[test]
fn everybody_talks_to_everybody_on_64_executors() {
    chatter(64, 32);
}

#[test]
fn welcome_tells_what_holds() {
    let node = Node::configured(r#"(node: (name: "n1", region: "tokyo"))"#, &["--executors", "2"]);
    for user in ["a", "b", "c", "d"] {
        let mut wire = Wire::connect(&node.address);
        let before = clock_ms();
        wire.write(&hello(user.as_bytes()));
        let grants = wire.welcome();
        assert_eq!((grants.version, grants.capabilities), (1, 1));
        assert_eq!((grants.node.as_str(), grants.region.as_str()), ("n1", "tokyo"));
        assert_eq!((grants.window_messages, grants.window_bytes, grants.body_bytes_max), (1_024, 4_194_304, 65_536));
        assert!(grants.frame_bytes_max as usize >= 65_536 + 26 + 255);
        assert!((before..=clock_ms()).contains(&grants.clock));
    }
}

#[test]
fn what_is_sent_to_somebody_away_is_stored_and_comes_in_order() {
    for executors in [1, 3] {
        let node = node(executors);
        let mut alice = Client::online(&node.address, "alice");
        let mut carol = Client::online(&node.address, "carol");
        for length in 0..300 {
            alice.send("bob", length);
            carol.send("bob", 0);
        }
        alice.until_answered();
        carol.until_answered();
        assert!(alice.levels.values().all(|level| *level == LEVEL_STORED));
        let mut bob = Client::online(&node.address, "bob");
        bob.until_taken(600);
        bob.has_all_of(&alice);
        bob.has_all_of(&carol);
        alice.until("hears `delivered` for all", |alice| alice.levels.values().all(|level| *level == LEVEL_DELIVERED));
        // From here on they talk directly, behind what was stored.
        alice.send("bob", 5);
        bob.until_taken(601);
        alice.until_answered();
        bob.has_all_of(&alice);
        assert_eq!(bob.repeats, 0);
        node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
    }
}

#[test]
fn messages_of_no_bytes_and_of_the_most_bytes_arrive() {
    let node = node(2);
    let (mut alice, mut bob) = (Wire::login(&node.address, "alice"), Wire::login(&node.address, "bob"));
    let large = Dice::new(1).bytes(65_536);
    for (sequence, body) in [(1, &[][..]), (2, &large), (3, &[])] {
        let id = alice.send(sequence, "bob", body);
        let letter = bob.letter();
        assert_eq!((letter.sequence, letter.id, letter.sender.as_str()), (sequence, id, "alice"));
        assert!(letter.body == body && letter.sent_at <= clock_ms());
        bob.acknowledge(sequence, sequence);
        alice.delivered(sequence);
    }
}

#[test]
fn users_may_have_any_name_and_may_write_to_themselves() {
    let node = node(3);
    let longest = "é".repeat(127) + "x";
    for name in ["a", " ", "名前", "a/b?c=d&e", "\u{feff}", "O'Neil; DROP TABLE", longest.as_str()] {
        let mut me = Client::online(&node.address, name);
        me.send(name, 3);
        me.until_answered();
        me.until_taken(1);
        me.has_all_of(&me);
    }
    // Nothing is normalised: these look alike, and are two.
    let (mut one, mut other) = (Client::online(&node.address, "\u{e9}"), Client::online(&node.address, "e\u{301}"));
    one.send("e\u{301}", 0);
    other.until_taken(1);
    assert_eq!(one.count(), 0);
}

#[test]
fn a_repeat_after_a_reconnect_makes_no_second_message() {
    for executors in [1, 3] {
        let node = node(executors);
        let mut bob = Client::online(&node.address, "bob");
        let mut alice = Client::online(&node.address, "alice");
        for round in 0..20 {
            for _ in 0..10 {
                alice.send("bob", 10);
                alice.send("carol", 10);
            }
            // Hangs up without having read any answer, and repeats all of them.
            assert!(alice.login(&node.address), "round {round}");
        }
        alice.until_answered();
        bob.until_taken(200);
        bob.has_all_of(&alice);
        let mut carol = Client::online(&node.address, "carol");
        carol.until_taken(200);
        carol.has_all_of(&alice);
        assert_eq!((bob.repeats, carol.repeats), (0, 0));
    }
}

#[test]
fn a_repeat_of_something_taken_is_confirmed_and_not_shown_again() {
    let node = node(3);
    let mut bob = Wire::login(&node.address, "bob");
    let (id, older) = (new_id(), new_id());
    for id in [id, older] {
        let mut alice = Wire::login(&node.address, "alice");
        alice.write(&send(1, id, "bob", b"x"));
        let letter = bob.letter();
        bob.acknowledge(letter.sequence, letter.sequence);
        alice.delivered(1);
    }
    let mut alice = Wire::login(&node.address, "alice");
    alice.write(&send(1, id, "bob", b"x"));
    alice.delivered(1);
    alice.write(&send(2, new_id(), "bob", b"y"));
    assert_eq!(bob.letter().body, b"y");
}

/// Whoever repeats on the same connection gets an answer to each SEND, whether the first one has its answer or not; the
/// recipient gets one message.
#[test]
fn a_repeat_on_the_same_connection_is_answered_too() {
    for executors in [1, 3] {
        let node = node(executors);
        let mut alice = Wire::login(&node.address, "alice");
        let mut bob = Client::online(&node.address, "bob");
        for (recipient, first) in [("away", 1), ("bob", 7), ("bob", 13)] {
            let (id, next) = (new_id(), new_id());
            let sends = [(0, id), (1, id), (2, next), (3, id), (4, next)];
            let bytes: Vec<_> = sends.iter().flat_map(|&(n, id)| send(first + n, id, recipient, b"x")).collect();
            alice.write(&bytes);
            if recipient == "bob" {
                bob.until_taken(first as usize / 6 * 2);
                let taken = &bob.taken["alice"];
                assert_eq!(taken[taken.len() - 2..], [id, next]);
            }
            answered(&mut alice, first..=first + 4);
            alice.write(&send(first + 5, id, recipient, b"x"));
            // A library drops it where it is shown again: straight from edge to edge nobody remembers it.
            bob.pump(Duration::from_millis(100));
            answered(&mut alice, first + 5..=first + 5);
        }
        alice.send(19, "bob", b"last");
        bob.until_taken(5);
        let mut away = Client::online(&node.address, "away");
        away.until_taken(2);
    }
}

/// Every one of these sequences is confirmed.
fn answered(wire: &mut Wire, wanted: std::ops::RangeInclusive<u64>) {
    let mut open: std::collections::BTreeSet<u64> = wanted.collect();
    while !open.is_empty() {
        match wire.within(process::PATIENCE / 4) {
            Some(Heard::Confirm { ranges, .. }) => {
                open.retain(|sequence| !ranges.iter().any(|(first, last)| (first..=last).contains(&sequence)));
            }
            other => panic!("{other:?}, and {open:?} have no answer"),
        }
    }
}

#[test]
fn what_is_not_acknowledged_comes_again() {
    for executors in [1, 3] {
        let node = node(executors);
        let mut alice = Client::online(&node.address, "alice");
        let mut bob = Wire::login(&node.address, "bob");
        let ids: Vec<_> = (0..5).map(|_| alice.send("bob", 1)).collect();
        let heard: Vec<_> = (0..5).map(|_| bob.letter().id).collect();
        assert_eq!(heard, ids);
        // In any order, and twice: harmless.
        for (first, last) in [(4, 4), (2, 2), (2, 2)] {
            bob.acknowledge(first, last);
        }
        bob.settle();
        drop(bob);
        alice.until_answered();
        let mut bob = Wire::login(&node.address, "bob");
        let heard: Vec<_> = (0..3).map(|_| bob.letter().id).collect();
        assert_eq!(heard, [ids[0], ids[2], ids[4]], "with {executors} executors");
        bob.acknowledge(1, 3);
        bob.settle();
        drop(bob);
        node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
    }
}

#[test]
fn a_take_over_tells_the_first_and_loses_nothing() {
    for executors in [1, 3] {
        let node = node(executors);
        let mut alice = Client::online(&node.address, "alice");
        let mut bobs = Vec::new();
        let mut bob = Client::online(&node.address, "bob");
        for round in 0..15 {
            for _ in 0..20 {
                alice.send("bob", round);
            }
            // The first may have taken some of them by now.
            bob.pump(Duration::from_millis(1 + round as u64 % 3));
            let mut next = Client::new("bob");
            std::mem::swap(&mut next.taken, &mut bob.taken);
            next.adopt(&bob);
            assert!(next.login(&node.address));
            bobs.push(std::mem::replace(&mut bob, next));
        }
        alice.until_answered();
        bob.until_taken(300);
        bob.has_all_of(&alice);
        for mut old in bobs {
            old.is_taking = false;
            while old.pump(process::PATIENCE) {}
            assert!(old.taken_over, "with {executors} executors");
        }
    }
}

#[test]
fn frames_in_flight_of_a_session_that_is_taken_over_are_repeated_by_the_next() {
    let node = node(3);
    let mut bob = Client::online(&node.address, "bob");
    let mut alice = Client::online(&node.address, "alice");
    for _ in 0..10 {
        for _ in 0..50 {
            alice.send("bob", 100);
        }
        let old = alice.wire.take();
        assert!(alice.login(&node.address));
        let mut old = old.expect("it was online");
        let code = old.until(|heard| if let Heard::Close { code, .. } = heard { Some(*code) } else { None });
        assert_eq!(code, Some(Code::TakenOver));
    }
    alice.until_answered();
    bob.until_taken(500);
    bob.has_all_of(&alice);
}

#[test]
fn presence_is_told_and_watched() {
    let node = node(3);
    let mut alice = Wire::login(&node.address, "alice");
    let user = &b"bob"[..];
    let presence = |wire: &mut Wire| {
        wire.until(|heard| match heard {
            Heard::Presence { request, state, last_seen, user } => {
                assert_eq!(user, "bob");
                Some((*request, *state, *last_seen))
            }
            _ => None,
        })
    };
    alice.frame(ClientFrame::Lookup { request: 7, user });
    assert_eq!(presence(&mut alice), (7, STATE_OFFLINE, 0), "never seen");
    alice.frame(ClientFrame::Watch { request: 8, user });
    assert_eq!(presence(&mut alice), (8, STATE_OFFLINE, 0));
    let bob = Wire::login(&node.address, "bob");
    assert_eq!(presence(&mut alice), (8, STATE_ONLINE, 0));
    alice.frame(ClientFrame::Lookup { request: 9, user });
    assert_eq!(presence(&mut alice), (9, STATE_ONLINE, 0));
    let before = clock_ms();
    drop(bob);
    let (request, state, last_seen) = presence(&mut alice);
    assert_eq!((request, state), (8, STATE_OFFLINE));
    assert!((before..=clock_ms()).contains(&last_seen));
    alice.frame(ClientFrame::Unwatch { user });
    alice.frame(ClientFrame::Unwatch { user: b"nobody" });
    alice.settle();
    let _bob = Wire::login(&node.address, "bob");
    alice.frame(ClientFrame::Lookup { request: 10, user });
    assert_eq!(presence(&mut alice), (10, STATE_ONLINE, 0), "nothing of the watch that ended");
    assert!(alice.settle().is_empty());
}

#[test]
fn more_watches_than_there_may_be_are_answered_unknown() {
    let node = Node::configured("(node: (edge: (watches_max: 4)))", &["--executors", "2"]);
    let mut alice = Wire::login(&node.address, "alice");
    let states: Vec<u8> = (0..6)
        .map(|request| {
            alice.frame(ClientFrame::Watch { request, user: format!("user-{request}").as_bytes() });
            alice.until(|heard| if let Heard::Presence { state, .. } = heard { Some(*state) } else { None })
        })
        .collect();
    assert_eq!(states, [0, 0, 0, 0, 2, 2]);
    alice.frame(ClientFrame::Unwatch { user: b"user-1" });
    alice.frame(ClientFrame::Lookup { request: 9, user: b"bob" });
    let of = |heard: &Heard| {
        if let Heard::Presence { request, state, .. } = heard { Some((*request, *state)) } else { None }
    };
    assert_eq!(alice.until(of), (9, STATE_OFFLINE));
    let _bob = Wire::login(&node.address, "user-0");
    assert_eq!(alice.until(of), (0, STATE_ONLINE));
}

#[test]
fn a_client_that_hangs_up_right_behind_its_last_message_is_gone_and_the_message_is_not() {
    let node = node(3);
    let mut dice = Dice::new(5);
    let mut senders: Vec<_> = (0..60).map(|n| Wire::login(&node.address, &format!("sender-{n}"))).collect();
    senders.iter_mut().for_each(|sender| drop(sender.settle()));
    // Whoever sleeps that long finds message and FIN at once.
    node.running.signal("STOP");
    for mut sender in senders {
        sender.write(&send(1, new_id(), "bob", &dice.bytes(40)));
    }
    node.running.signal("CONT");
    let status = node.until("without sessions", |status| {
        status["totals"]["sessions"] == 0 && status["totals"]["inbox_messages"] == 60
    });
    assert_eq!(status["totals"]["connections"], 0, "{status}");
}

/// As above, with a last word that nobody answers: nothing but the FIN itself tells that the client is gone.
#[test]
fn a_client_that_hangs_up_behind_something_that_is_not_answered_is_gone() {
    let node = node(3);
    let mut clients: Vec<_> = (0..60).map(|n| Wire::login(&node.address, &format!("user-{n}"))).collect();
    clients.iter_mut().for_each(|client| drop(client.settle()));
    node.running.signal("STOP");
    for mut client in clients {
        client.frame(ClientFrame::Unwatch { user: b"nobody" });
    }
    node.running.signal("CONT");
    node.until("without sessions", |status| status["totals"]["connections"] == 0);
}

/// Someone who sends nonsense, and FIN with it, still hears why it is closed.
#[test]
fn a_mistake_and_fin_at_once_are_answered() {
    let node = node(3);
    let mut clients: Vec<_> = (0..20).map(|n| Wire::login(&node.address, &format!("user-{n}"))).collect();
    node.running.signal("STOP");
    for client in &mut clients {
        client.write(&wire::raw_frame(0x55, b"?"));
        client.finish();
    }
    node.running.signal("CONT");
    for client in &mut clients {
        assert_eq!(client.close_code(), Code::ProtocolError);
    }
    node.until("without sessions", |status| status["totals"]["connections"] == 0);
}

#[test]
fn a_half_closed_connection_is_over() {
    let node = node(3);
    for round in 0..30 {
        let mut alice = Wire::login(&node.address, &format!("user-{round}"));
        alice.write(&send(1, new_id(), "bob", b"x"));
        alice.finish();
        while alice.next() != Heard::End {}
        // One that gives up before it is heard is not logged in, and ends as well.
        let mut hasty = Wire::connect(&node.address);
        hasty.write(&hello(b"hasty"));
        hasty.finish();
        while hasty.next() != Heard::End {}
    }
    node.until("without sessions", |status| status["totals"]["connections"] == 0);
    let mut bob = Client::online(&node.address, "bob");
    bob.until_taken(30);
}

/// HELLO and everything behind it at once: nothing is lost on the way to the home executor, however it is cut.
#[test]
fn nothing_pipelined_is_lost_however_it_is_cut() {
    let node = node(3);
    let mut dice = Dice::new(42);
    let mut sent = 0;
    for user in 0..60 {
        let name = format!("user-{user}");
        let mut wire = Wire::connect(&node.address);
        let mut bytes = hello(name.as_bytes());
        let count = 1 + dice.roll(16) as u64;
        for sequence in 1..=count {
            let length = dice.roll(if sequence < 8 { 64 } else { 3_000 });
            bytes.extend(send(sequence, new_id(), "bob", &dice.bytes(length)));
        }
        bytes.extend(wire::encoded(&[ClientFrame::Ping { token: 77 }]));
        match user % 4 {
            0 => wire.write(&bytes),
            // Every byte of HELLO and of the first frame behind it alone; then a bit faster.
            1 => {
                let slow = bytes.len().min(120);
                let cuts: Vec<_> = (1..slow).chain((slow..bytes.len()).step_by(97)).collect();
                wire.write_cut(&bytes, &cuts);
            }
            _ => {
                let mut cuts: Vec<_> = (0..dice.roll(12)).map(|_| dice.roll(bytes.len())).collect();
                cuts.sort_unstable();
                wire.write_cut(&bytes, &cuts);
            }
        }
        wire.welcome();
        let mut confirmed = 0;
        let mut has_pong = false;
        while confirmed < count || !has_pong {
            match wire.next() {
                Heard::Confirm { ranges, level: LEVEL_STORED, .. } => {
                    confirmed += ranges.iter().map(|(first, last)| last - first + 1).sum::<u64>();
                }
                Heard::Pong(77) => has_pong = true,
                other => panic!("seed 42, user {user}: {other:?}"),
            }
        }
        sent += count;
    }
    let mut bob = Wire::login(&node.address, "bob");
    for sequence in 1..=sent {
        assert_eq!(bob.letter().sequence, sequence);
        bob.acknowledge(sequence, sequence);
    }
    let status = node.status();
    assert!(status["totals"]["messages"]["stored"].as_u64() >= Some(sent), "{status}");
}

#[test]
fn a_conversation_in_single_bytes_works() {
    let node = node(2);
    let (mut alice, mut bob) = (Wire::connect(&node.address), Wire::connect(&node.address));
    let bytewise = |wire: &mut Wire, bytes: &[u8]| {
        let cuts: Vec<_> = (1..bytes.len()).collect();
        wire.write_cut(bytes, &cuts);
    };
    bytewise(&mut alice, &hello(b"alice"));
    bytewise(&mut bob, &hello(b"bob"));
    alice.welcome();
    bob.welcome();
    for sequence in 1..=5 {
        bytewise(&mut alice, &send(sequence, new_id(), "bob", b"how are you?"));
        assert_eq!(bob.letter().body, b"how are you?");
        let mut ack = Vec::new();
        iris_shards::frame::acknowledge(&mut ack, &[(sequence, sequence)]);
        bytewise(&mut bob, &ack);
        alice.delivered(sequence);
    }
}

#[test]
fn a_thousand_ranges_in_one_acknowledgement_are_taken() {
    let settings = "(node: (edge: (window_messages: 4096), core: (page_messages: 4096)))";
    let node = Node::configured(settings, &["--executors", "2"]);
    let mut alice = Client::online(&node.address, "alice");
    let mut bob = Wire::login(&node.address, "bob");
    for _ in 0..2_048 {
        alice.send("bob", 0);
    }
    let letters: Vec<_> = (0..2_048).map(|_| bob.letter().sequence).collect();
    for first in [1, 0] {
        let pairs: Vec<_> = letters[first..].iter().step_by(2).map(|&sequence| (sequence, sequence)).collect();
        let mut ack = Vec::new();
        iris_shards::frame::acknowledge(&mut ack, &pairs);
        assert_eq!(ack.len(), 5 + 1_024 * 16, "one frame");
        bob.write(&ack);
        bob.settle();
    }
    alice.until("hears `delivered` for all", |alice| {
        alice.levels.len() == 2_048 && alice.levels.values().all(|level| *level == LEVEL_DELIVERED)
    });
}
