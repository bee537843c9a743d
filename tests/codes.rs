//! Every code that one node can answer with, reached: REFUSED and CLOSE, with limits made small by a configuration; and
//! what a client of another version may send.

mod process;
mod wire;

use std::time::{Duration, Instant};

use iris_shards::frame::{ClientFrame, Code, Hello, LEVEL_STORED};
use iris_shards::id::MessageId;
use process::Node;
use wire::{Dice, Heard, Wire, clock_ms, encoded, hello, new_id, opening, raw_frame, send};

fn node() -> Node {
    Node::with(&["--executors", "2"])
}

fn small(settings: &str) -> Node {
    Node::configured(settings, &["--executors", "1"])
}

/// What the server answers to these bytes of a new connection.
fn answer(node: &Node, bytes: &[u8]) -> Code {
    let mut wire = Wire::connect(&node.address);
    wire.write(bytes);
    wire.close_code()
}

/// What the server answers to these bytes of a client that has logged in.
fn answer_later(node: &Node, bytes: &[u8]) -> Code {
    let mut wire = Wire::login(&node.address, "alice");
    wire.write(bytes);
    wire.close_code()
}

// REFUSED

#[test]
fn a_body_that_is_too_large_is_refused_and_the_next_is_not() {
    let node = small("(cluster: (limits: (body_bytes_max: 5_000)))");
    let mut alice = Wire::login(&node.address, "alice");
    alice.send(1, "bob", &[0; 5_001]);
    assert_eq!(alice.refused(1), (Code::BodyTooLarge, 0));
    alice.send(2, "bob", &[0; 5_000]);
    assert_eq!(alice.confirmed(2), LEVEL_STORED);
}

#[test]
fn a_recipient_that_cannot_be_is_refused() {
    let node = node();
    let mut alice = Wire::login(&node.address, "alice");
    let bad: [&[u8]; 5] = [b"", b"a\0b", &[0xff, 0xfe], b"line\n", "\u{85}".as_bytes()];
    for (sequence, recipient) in (1..).zip(bad) {
        let sequence_ = iris_shards::id::Sequence(sequence);
        alice.frame(ClientFrame::Send { sequence: sequence_, id: new_id(), recipient, body: b"x" });
        assert_eq!(alice.refused(sequence), (Code::BadRecipient, 0), "{recipient:?}");
    }
}

#[test]
fn an_id_that_cannot_be_is_refused() {
    let node = small("(cluster: (limits: (id_age_ms_max: 120_000, inbox_age_ms_max: 60_000)))");
    let mut alice = Wire::login(&node.address, "alice");
    let now = clock_ms();
    let no_v7 = |at: usize, mask: u8| {
        let mut bytes = new_id().bytes();
        bytes[at] ^= mask;
        MessageId::from_bytes(bytes)
    };
    let bad = [
        MessageId::from_bytes([0; 16]),
        MessageId::from_bytes([0xff; 16]),
        no_v7(6, 0x30),
        no_v7(8, 0x40),
        MessageId::v7(now + 75_000, 0),
        MessageId::v7(now - 135_000, 0),
        MessageId::v7((1 << 48) - 1, 0),
        MessageId::v7(0, 0),
    ];
    for (sequence, id) in (1..).zip(bad) {
        alice.write(&send(sequence, id, "bob", b"x"));
        assert_eq!(alice.refused(sequence), (Code::BadId, 0), "{id}");
    }
    for (sequence, id) in [(9, MessageId::v7(now - 50_000, 0)), (10, MessageId::v7(now + 45_000, 0))] {
        alice.write(&send(sequence, id, "bob", b"x"));
        assert_eq!(alice.confirmed(sequence), LEVEL_STORED, "{id}");
    }
}

#[test]
fn an_inbox_is_full_by_count() {
    let node = small("(cluster: (limits: (inbox_messages_max: 3)), node: (core: (retry_ms: 123)))");
    let mut alice = Wire::login(&node.address, "alice");
    for sequence in 1..=5 {
        alice.send(sequence, "bob", b"x");
    }
    let refusals: Vec<_> = (4..=5).map(|sequence| alice.refused(sequence)).collect();
    assert_eq!(refusals, [(Code::InboxFull, 123); 2]);
    alice.send(6, "carol", b"x");
    assert_eq!(alice.confirmed(6), LEVEL_STORED);
    let mut bob = Wire::login(&node.address, "bob");
    (1..=3).for_each(|sequence| assert_eq!(bob.letter().sequence, sequence));
    bob.acknowledge(1, 3);
    bob.settle();
    alice.send(7, "bob", b"x");
    assert_eq!(bob.letter().sequence, 4);
    bob.acknowledge(4, 4);
    alice.delivered(7);
    assert!(
        node.status()["totals"]["limits_reached"]["inbox_messages_max"].is_u64()
            || node.status()["totals"]["limits_reached"].to_string().contains("inbox")
    );
}

#[test]
fn an_inbox_is_full_by_bytes() {
    let node = small("(cluster: (limits: (inbox_bytes_max: 65_536)))");
    let mut alice = Wire::login(&node.address, "alice");
    alice.send(1, "bob", &[1; 40_000]);
    alice.send(2, "bob", &[2; 40_000]);
    alice.send(3, "bob", &[3; 20_000]);
    assert_eq!(alice.refused(2).0, Code::InboxFull);
    assert_eq!(alice.confirmed(3), LEVEL_STORED);
    let mut bob = Wire::login(&node.address, "bob");
    assert_eq!((bob.letter().body[0], bob.letter().body[0]), (1, 3));
}

#[test]
fn too_many_recipients_at_a_time_are_refused() {
    let settings =
        "(node: (edge: (pairs_max: 2, delivery_ms_max: 60_000, retry_ms: 77), core: (log_delay_ms: 10_000)))";
    let node = small(settings);
    let mut present: Vec<_> = (0..2).map(|n| Wire::login(&node.address, &format!("bob-{n}"))).collect();
    let mut alice = Wire::login(&node.address, "alice");
    alice.send(1, "bob-0", b"x");
    alice.send(2, "bob-1", b"x");
    alice.send(3, "carol", b"x");
    assert_eq!(alice.refused(3), (Code::TooManyRecipients, 77));
    assert_eq!(present[0].letter().sequence, 1);
    present[0].acknowledge(1, 1);
    alice.delivered(1);
    alice.send(4, "carol", b"x");
    assert_eq!(alice.confirmed(4), LEVEL_STORED);
}

#[test]
fn a_busy_executor_refuses() {
    let settings = "(node: (edge: (window_bytes: 65_536, outstanding_bytes_max: 65_536, delivery_ms_max: 60_000, \
                    retry_ms: 55), core: (log_delay_ms: 10_000)))";
    let node = small(settings);
    let mut bob = Wire::login(&node.address, "bob");
    let mut alice = Wire::login(&node.address, "alice");
    let mut carol = Wire::login(&node.address, "carol");
    alice.send(1, "bob", &[0; 60_000]);
    alice.settle();
    carol.send(1, "bob", &[0; 6_000]);
    assert_eq!(carol.refused(1), (Code::Busy, 55));
    bob.letter();
    bob.acknowledge(1, 1);
    alice.delivered(1);
    carol.send(2, "bob", &[0; 6_000]);
    bob.letter();
    bob.acknowledge(2, 2);
    carol.delivered(2);
}

#[test]
fn what_waited_longer_than_inboxes_keep_is_dropped_and_the_sender_hears_it() {
    let node = small("(cluster: (limits: (inbox_age_ms_max: 60_000)), node: (core: (log_delay_ms: 10_000)))");
    let mut bob = Wire::login(&node.address, "bob");
    let mut alice = Wire::login(&node.address, "alice");
    // Everything is old already; the inbox is looked at within a minute, here within seconds.
    let id = MessageId::v7(clock_ms() - 100_000, 1);
    alice.write(&send(1, id, "bob", b"old"));
    assert_eq!(bob.letter().body, b"old");
    assert_eq!(alice.refused(1), (Code::Expired, 0));
    // It is a tombstone by now: an acknowledgement that comes late is harmless.
    bob.acknowledge(1, 1);
    alice.send(2, "bob", b"new");
    assert_eq!(bob.letter().body, b"new");
    bob.acknowledge(2, 2);
    alice.delivered(2);
}

// CLOSE

#[test]
fn versions_that_have_nothing_in_common_part() {
    let node = node();
    let with = |version_min, version_max| {
        encoded(&[ClientFrame::Hello(Hello { version_min, version_max, ..opening(b"alice") })])
    };
    assert_eq!(answer(&node, &with(2, 9)), Code::Version);
    assert_eq!(answer(&node, &with(0, 0)), Code::Version);
    assert_eq!(answer(&node, &with(1, 0)), Code::Version);
    let mut wire = Wire::connect(&node.address);
    wire.write(&with(0, 255));
    assert_eq!(wire.welcome().version, 1);
}

#[test]
fn a_user_that_cannot_be_is_turned_away() {
    let node = node();
    for user in [&b""[..], b"a\tb", &[0xc0, 0x80], "\u{9f}".as_bytes(), b"\x7f"] {
        assert_eq!(answer(&node, &hello(user)), Code::BadUser, "{user:?}");
    }
}

#[test]
fn a_token_that_is_too_long_is_turned_away() {
    let node = node();
    let with = |length| encoded(&[ClientFrame::Hello(Hello { token: &vec![b'x'; length], ..opening(b"alice") })]);
    assert_eq!(answer(&node, &with(3_001)), Code::Unauthorized);
    let mut wire = Wire::connect(&node.address);
    wire.write(&with(3_000));
    wire.welcome();
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let node = Node::configured("(node: (edge: (hello_ms_max: 300)))", &["--executors", "2"]);
    let begun = Instant::now();
    let mut nothing = Wire::connect(&node.address);
    let mut half = Wire::connect(&node.address);
    half.write(&hello(b"alice")[..20]);
    assert_eq!(nothing.close_code(), Code::HelloTimeout);
    assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
    assert_eq!(half.close_code(), Code::HelloTimeout);
    // Bytes that trickle do not make the time longer.
    let mut slow = Wire::connect(&node.address);
    let bytes = hello("a-very-long-name".repeat(10).as_bytes());
    for byte in bytes {
        if slow.try_write(&[byte]).is_err() {
            break;
        }
        if let Some(heard) = slow.within(Duration::from_millis(20)) {
            assert_eq!(heard, Heard::Close { code: Some(Code::HelloTimeout), wait_ms: 0 });
            return;
        }
    }
    panic!("a HELLO of 3 seconds was taken");
}

#[test]
fn who_is_silent_is_closed_and_who_pings_is_not() {
    let node = Node::configured("(node: (edge: (silent_ms_max: 1_000)))", &["--executors", "2"]);
    let mut pinging = Wire::login(&node.address, "alice");
    let mut silent = Wire::login(&node.address, "bob");
    let begun = Instant::now();
    let closed = loop {
        pinging.settle();
        match silent.within(Duration::from_millis(300)) {
            None => assert!(begun.elapsed() < process::PATIENCE, "never closed"),
            Some(Heard::Close { code, .. }) => break code,
            Some(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(closed, Some(Code::Silent));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(silent.next(), Heard::End);
    pinging.settle();
}

#[test]
fn a_window_that_is_exceeded_ends_the_connection_and_loses_nothing_confirmed() {
    let settings = "(node: (edge: (window_messages: 16, window_bytes: 65_536, delivery_ms_max: 60_000), \
                    core: (log_delay_ms: 10_000)))";
    let node = small(settings);
    let mut bob = Wire::login(&node.address, "bob");
    let mut alice = Wire::login(&node.address, "alice");
    for sequence in 1..=16 {
        alice.send(sequence, "bob", b"x");
    }
    alice.settle();
    alice.send(17, "bob", b"one too many");
    assert_eq!(alice.close_code(), Code::WindowExceeded);
    (1..=16).for_each(|sequence| assert_eq!(bob.letter().sequence, sequence));
    bob.acknowledge(1, 16);
    let mut alice = Wire::login(&node.address, "alice");
    alice.send(1, "bob", &[0; 40_000]);
    alice.send(2, "bob", &[0; 40_000]);
    assert_eq!(alice.close_code(), Code::WindowExceeded);
}

#[test]
fn frames_that_are_too_large_end_the_connection() {
    let node = node();
    // Before WELCOME: 4,096. The length alone is enough.
    assert_eq!(answer(&node, &4_097u32.to_be_bytes()), Code::FrameTooLarge);
    assert_eq!(answer(&node, &[0xff; 4]), Code::FrameTooLarge);
    let mut alice = Wire::connect(&node.address);
    alice.write(&hello(b"alice"));
    let most = alice.welcome().frame_bytes_max;
    alice.write(&(most + 1).to_be_bytes());
    assert_eq!(alice.close_code(), Code::FrameTooLarge);
    let mut alice = Wire::login(&node.address, "alice");
    // The largest that may be: a body that is refused, in a frame that is not.
    let fixed = send(1, new_id(), "b", &[]).len() - 4;
    alice.send(1, "b", &vec![0; most as usize - fixed]);
    assert_eq!(alice.refused(1).0, Code::BodyTooLarge);
}

#[test]
fn a_client_that_does_not_read_its_answers_is_closed() {
    let settings = "(cluster: (limits: (body_bytes_max: 4_096)), \
                    node: (out_bytes_max: 8_192, edge: (delivery_bytes_max: 4_096), core: (page_bytes: 4_096)))";
    let node = small(settings);
    let mut alice = Wire::login(&node.address, "alice");
    let mut other = Wire::login(&node.address, "bob");
    let pings = encoded(&vec![ClientFrame::Ping { token: 1 }; 4_096]);
    // Until the server's and both kernels' buffers are full of PONGs.
    let deadline = Instant::now() + process::PATIENCE;
    while alice.try_write(&pings).is_ok() {
        assert!(Instant::now() < deadline, "a client that never reads is kept");
        other.settle();
    }
    let limits = node.status()["totals"]["limits_reached"].clone();
    assert_eq!(limits["out_bytes_max"], 1, "{limits}");
    other.settle();
    node.until("rid of it", |status| status["totals"]["connections"] == 1);
}

#[test]
fn a_slow_reader_that_reads_at_last_is_told_why_it_was_closed() {
    let settings = "(cluster: (limits: (body_bytes_max: 4_096)), \
                    node: (out_bytes_max: 8_192, edge: (delivery_bytes_max: 4_096), core: (page_bytes: 4_096)))";
    let node = small(settings);
    let mut alice = Wire::login(&node.address, "alice");
    socket_buffers(&alice, 4_096);
    let pings = encoded(&vec![ClientFrame::Ping { token: 1 }; 4_096]);
    let mut told = None;
    for _ in 0..100 {
        if alice.try_write(&pings).is_err() {
            break;
        }
        let limits = node.status()["totals"]["limits_reached"].clone();
        if limits["out_bytes_max"] == 1 {
            told = Some(alice.until(|heard| match heard {
                Heard::Close { code, .. } => Some(*code),
                Heard::End => Some(None),
                _ => None,
            }));
            break;
        }
    }
    assert_eq!(told, Some(Some(Code::SlowReader)));
}

/// Asks the kernel for a small buffer, so that a slow reader is one soon.
fn socket_buffers(wire: &Wire, bytes: usize) {
    let socket = socket2::SockRef::from(&wire.stream);
    socket.set_recv_buffer_size(bytes).expect("a buffer");
}

#[test]
fn what_is_no_protocol_ends_the_connection() {
    let node = node();
    let mut dice = Dice::new(3);
    let ping = encoded(&[ClientFrame::Ping { token: 1 }]);
    let close = raw_frame(8, &[0; 6]);
    let first: [(&str, Vec<u8>); 9] = [
        ("an empty frame", vec![0; 4]),
        ("a PING before HELLO", ping.clone()),
        ("an ACK before HELLO", raw_frame(3, &[0; 16])),
        ("a SEND before HELLO", send(1, new_id(), "bob", b"x")),
        ("an unknown frame", raw_frame(0x7f, b"x")),
        ("a frame of a server", raw_frame(0x86, &[0; 8])),
        ("another magic", raw_frame(1, b"MQTT\x01\x01\0\0\0\0\0\0\0\0\x01a\0\0\0")),
        ("a HELLO that ends early", raw_frame(1, b"IRIS\x01\x01")),
        ("HTTP", b"\0\0\x01\0GET / HTTP/1.1\r\n".iter().copied().chain(vec![b'x'; 256]).collect()),
    ];
    for (what, bytes) in first {
        assert_eq!(answer(&node, &bytes), Code::ProtocolError, "{what}");
    }
    let range = |first: u64, last: u64| [first.to_be_bytes(), last.to_be_bytes()].concat();
    let later: Vec<(&str, Vec<u8>)> = vec![
        ("an empty frame", vec![0; 4]),
        ("a second HELLO", hello(b"alice")),
        ("another sequence than the next", send(2, new_id(), "bob", b"x")),
        ("sequence 0", send(0, new_id(), "bob", b"x")),
        ("the same sequence twice", [send(1, new_id(), "bob", b"x"), send(1, new_id(), "bob", b"x")].concat()),
        ("an unknown frame", raw_frame(9, b"")),
        ("frame type 0", raw_frame(0, b"")),
        ("a frame of a server", raw_frame(0x81, &[0; 40])),
        ("a PING with too much", raw_frame(7, &[0; 9])),
        ("a PING with too little", raw_frame(7, &[0; 7])),
        ("an ACK of something not delivered", raw_frame(3, &range(1, 1))),
        ("an ACK of sequence 0", raw_frame(3, &range(0, 0))),
        ("an ACK of everything", raw_frame(3, &range(0, u64::MAX))),
        ("an ACK the wrong way round", raw_frame(3, &range(2, 1))),
        ("an ACK without ranges", raw_frame(3, &[])),
        ("an ACK of half a range", raw_frame(3, &[0; 8])),
        (
            "an ACK of too many ranges",
            raw_frame(3, &(0..1_025u64).flat_map(|n| range(2 * n + 1, 2 * n + 1)).collect::<Vec<_>>()),
        ),
        ("a SEND that ends early", raw_frame(2, &[0; 24])),
        ("a SEND whose recipient ends early", raw_frame(2, &[&[0; 24][..], &[200, b'x']].concat())),
        ("a LOOKUP of nobody", raw_frame(4, &[0, 0, 0, 1, 0])),
        ("a WATCH of no text", raw_frame(5, &[0, 0, 0, 1, 1, 0xff])),
        ("a LOOKUP with too much", raw_frame(4, &[0, 0, 0, 1, 1, b'x', b'y'])),
        ("a CLOSE without a code", raw_frame(8, &[0])),
        ("a CLOSE whose reason is no text", raw_frame(8, &[0, 0, 0, 0, 0, 0, 0xff])),
    ];
    for (what, bytes) in later {
        assert_eq!(answer_later(&node, &bytes), Code::ProtocolError, "{what}");
        // What stood behind it in the same write changes nothing.
        let more = [bytes, ping.clone(), dice.bytes(300)].concat();
        assert_eq!(answer_later(&node, &more), Code::ProtocolError, "{what}, and more");
    }
    assert_eq!(answer_later(&node, &close), Code::Normal);
    let mut alice = Wire::login(&node.address, "alice");
    alice.settle();
}

#[test]
fn what_was_sent_before_a_mistake_is_taken() {
    let node = node();
    let mut alice = Wire::login(&node.address, "alice");
    let mut bytes = send(1, new_id(), "bob", b"before");
    bytes.extend(raw_frame(0x55, b"?"));
    bytes.extend(send(2, new_id(), "bob", b"behind"));
    alice.write(&bytes);
    assert_eq!(alice.close_code(), Code::ProtocolError);
    let mut bob = Wire::login(&node.address, "bob");
    assert_eq!(bob.letter().body, b"before");
    bob.acknowledge(1, 1);
    let mut alice = Wire::login(&node.address, "alice");
    alice.send(1, "bob", b"last");
    assert_eq!(bob.letter().body, b"last");
}

#[test]
fn who_connects_while_the_node_drains_is_sent_away() {
    let mut node = Node::configured("(node: (drain_ms: 30_000, edge: (retry_ms: 44)))", &["--executors", "2"]);
    let mut waiting: Vec<_> = (0..6).map(|_| Wire::connect(&node.address)).collect();
    let mut alice = Wire::login(&node.address, "alice");
    // All of them were accepted once the node says so.
    node.until("accepted", |status| status["totals"]["connections"] == 7);
    node.running.signal("TERM");
    alice.until(|heard| matches!(heard, Heard::Drain(_)).then_some(()));
    // Until it goes, the connection works on.
    alice.send(1, "bob", b"x");
    assert_eq!(alice.confirmed(1), LEVEL_STORED);
    for (n, wire) in waiting.iter_mut().enumerate() {
        wire.write(&hello(format!("user-{n}").as_bytes()));
        assert_eq!(wire.closed(), (Code::Draining, 44));
    }
    drop(alice);
    assert_eq!(process::wait(&mut node.running.child).code(), Some(0));
}

// Other versions

#[test]
fn bytes_behind_hello_and_unknown_capabilities_are_room_for_later() {
    let node = Node::with(&["--executors", "3"]);
    for (user, more) in [("alice", 1), ("bob", 40), ("carol", 3_900)] {
        let plain = encoded(&[ClientFrame::Hello(Hello { capabilities: u64::MAX, ..opening(user.as_bytes()) })]);
        let payload = [&plain[5..], &vec![0xee; more]].concat();
        let mut wire = Wire::connect(&node.address);
        wire.write(&raw_frame(1, &payload));
        assert_eq!(wire.welcome().capabilities, 1);
        wire.settle();
    }
    let none = encoded(&[ClientFrame::Hello(Hello { capabilities: 0, ..opening(b"dave") })]);
    let mut wire = Wire::connect(&node.address);
    wire.write(&none);
    assert_eq!(wire.welcome().capabilities, 0);
}
