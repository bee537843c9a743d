//! Two cores and two edges as real processes: what users see of it, and who is not let in.

mod fleet;
mod process;
mod wire;

use fleet::ground::Ground;
use fleet::{Cluster, Member, Plan, link, messages};
use iris_shards::frame::{ClientFrame, Code, LEVEL_STORED};
use process::PATIENCE;
use std::time::{Duration, Instant};
use wire::{Heard, Wire, clock_ms};

fn proof() -> Cluster {
    Cluster::start(Plan::proof(), Ground::loopback())
}

fn login(cluster: &Cluster, node: &str, user: &str) -> Wire {
    Wire::login(&cluster.client_address(node).to_string(), user)
}

/// Waits for a message with this text, and takes it.
fn takes(wire: &mut Wire, text: &str) {
    let letter = wire.letter();
    assert_eq!(letter.text(), text);
    wire.acknowledge(letter.sequence, letter.sequence);
}

/// The next PRESENCE: to which request, and what.
fn presence(wire: &mut Wire) -> (u32, u8, u64) {
    wire.until(|heard| match heard {
        Heard::Presence { request, state, last_seen, .. } => Some((*request, *state, *last_seen)),
        _ => None,
    })
}

/// Sends until a message is stored: until the edge has noticed who is there, messages are refused. Returns the sequence.
fn until_stored(alice: &mut Wire, bob: &str, body: &[u8]) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    for turn in 1.. {
        alice.send(turn, bob, body);
        let refused = alice.until(|heard| match heard {
            Heard::Confirm { level: LEVEL_STORED, .. } => Some(None),
            Heard::Refused { code: Some(Code::Unavailable), wait_ms, .. } => Some(Some(*wait_ms)),
            Heard::Refused { code, .. } => panic!("refused: {code:?}"),
            _ => None,
        });
        let Some(wait_ms) = refused else { return turn };
        assert!(Instant::now() < deadline, "never stored");
        std::thread::sleep(Duration::from_millis(wait_ms.into()));
    }
    unreachable!()
}

/// Sends until a message has gone from edge to edge, which the sender's edge counts; how many that took.
fn until_direct(cluster: &Cluster, (alice, bob): (&mut Wire, &mut Wire), edge: &str) -> u64 {
    let before = messages(&cluster.status(edge), "direct");
    let deadline = Instant::now() + PATIENCE;
    for turn in 1.. {
        let text = format!("hello {turn}");
        alice.send(turn, "bob", text.as_bytes());
        takes(bob, &text);
        alice.delivered(turn);
        if messages(&cluster.status(edge), "direct") > before {
            return turn;
        }
        // A recipient that was slow once is not granted for ten seconds.
        assert!(Instant::now() < deadline, "never direct: {:#}", cluster.status(edge));
    }
    unreachable!()
}

#[test]
fn users_on_different_edges_talk_and_soon_past_the_cores() {
    for plan in [Plan::proof(), Plan::proof().by_gossip()] {
        let cluster = Cluster::start(plan, Ground::loopback());
        let (mut alice, mut bob) = (login(&cluster, "edge-a", "alice"), login(&cluster, "edge-b", "bob"));
        let turns = until_direct(&cluster, (&mut alice, &mut bob), "edge-a");
        assert!(turns > 1, "the first message of a pair goes through a core");
        for core in ["core-a", "core-b"] {
            assert_eq!(messages(&cluster.status(core), "direct"), 0);
        }
        // And the way back is a pair of its own.
        bob.send(1, "alice", b"and hello to you");
        takes(&mut alice, "and hello to you");
        bob.delivered(1);
    }
}

#[test]
fn presence_is_known_across_nodes() {
    let cluster = proof();
    let mut alice = login(&cluster, "edge-a", "alice");
    alice.frame(ClientFrame::Lookup { request: 1, user: b"bob" });
    assert_eq!(presence(&mut alice), (1, 0, 0));
    alice.frame(ClientFrame::Watch { request: 2, user: b"bob" });
    assert_eq!(presence(&mut alice), (2, 0, 0));
    let before = clock_ms();
    let bob = login(&cluster, "edge-b", "bob");
    assert_eq!(presence(&mut alice), (2, 1, 0));
    alice.frame(ClientFrame::Lookup { request: 3, user: b"bob" });
    assert_eq!(presence(&mut alice), (3, 1, 0));
    drop(bob);
    let (request, state, last_seen) = presence(&mut alice);
    assert_eq!((request, state), (2, 0));
    assert!((before..=clock_ms() + 1_000).contains(&last_seen), "{last_seen}");
}

#[test]
fn the_newest_login_wins_across_edges() {
    let cluster = proof();
    let mut alice = login(&cluster, "edge-a", "alice");
    let mut first = login(&cluster, "edge-a", "bob");
    until_direct(&cluster, (&mut alice, &mut first), "edge-a");
    let mut second = login(&cluster, "edge-b", "bob");
    assert_eq!(first.close_code(), Code::TakenOver);
    let mut again = login(&cluster, "edge-a", "carol");
    again.send(1, "bob", b"to the second");
    takes(&mut second, "to the second");
    again.delivered(1);
    // And back: the edge that lost the user takes it again.
    let mut third = login(&cluster, "edge-a", "bob");
    assert_eq!(second.close_code(), Code::TakenOver);
    again.send(2, "bob", b"to the third");
    takes(&mut third, "to the third");
}

#[test]
fn what_waits_is_on_two_disks_and_comes_wherever_the_user_comes() {
    let cluster = proof();
    ["core-a", "core-b"].iter().for_each(|core| cluster.until_in_step(core));
    let mut alice = login(&cluster, "edge-a", "alice");
    let count = 50;
    for turn in 1..=count {
        alice.send(turn, "bob", format!("waits {turn}").as_bytes());
    }
    let copies = alice.until(|heard| match heard {
        Heard::Confirm { level: LEVEL_STORED, copies, ranges } if ranges.iter().any(|(_, last)| *last == count) => {
            Some(*copies)
        }
        Heard::Refused { code, .. } => panic!("refused: {code:?}"),
        _ => None,
    });
    assert_eq!(copies, 2);
    let mut bob = login(&cluster, "edge-b", "bob");
    (1..=count).for_each(|turn| takes(&mut bob, &format!("waits {turn}")));
    // What was taken does not come again, on the other edge and from the other core either, once both cores have heard.
    for core in ["core-a", "core-b"] {
        cluster.until(core, "has nothing left", |status| status["totals"]["inbox_messages"] == 0);
    }
    let mut bob = login(&cluster, "edge-a", "bob");
    alice.send(count + 1, "bob", b"new");
    takes(&mut bob, "new");
}

#[test]
fn one_core_is_enough_for_what_was_stored_on_two() {
    let mut cluster = proof();
    let mut alice = login(&cluster, "edge-a", "alice");
    alice.send(1, "bob", b"kept");
    assert_eq!(alice.confirmed(1), LEVEL_STORED);
    for (lost, back) in [("core-a", "core-b"), ("core-b", "core-a")] {
        cluster.kill(lost);
        let text = format!("kept without {lost}");
        let mut carol = login(&cluster, "edge-b", &format!("carol-{back}"));
        until_stored(&mut carol, "bob", text.as_bytes());
        let alone = serde_json::json!({"kept": 16, "in_step": 0});
        cluster.until(back, "knows that it is alone", |status| status["totals"]["shards"] == alone);
        cluster.run(lost);
        cluster.until_linked();
        cluster.until_in_step(back);
    }
    let mut bob = login(&cluster, "edge-b", "bob");
    let mut letters: Vec<String> = (0..3)
        .map(|_| {
            let letter = bob.letter();
            bob.acknowledge(letter.sequence, letter.sequence);
            letter.text()
        })
        .collect();
    letters.sort_unstable();
    assert_eq!(letters, ["kept", "kept without core-a", "kept without core-b"]);
}

/// A node that does not belong has no links: it says why in its log and status, and those that it dialled say so too.
fn is_refused(change: impl FnOnce(&mut Member), (words, theirs): (&[&str], &[&str])) {
    let mut cluster = Cluster::prepare(Plan::proof(), Ground::loopback());
    cluster.change("edge-b", change);
    cluster.run_all();
    cluster.until("edge-b", "tells why it has no link to core-a", |status| {
        let trouble = link(status, "core-a").and_then(|link| link["trouble"].as_str()).unwrap_or_default();
        words.iter().all(|word| trouble.contains(word)) && !fleet::has_link(status, "core-a")
    });
    for (name, words) in [("edge-b", words), ("core-a", theirs)] {
        let log = cluster.log(name);
        assert!(words.iter().all(|word| log.contains(word)), "{name} does not say {words:?}: {log}");
    }
    // The others are not disturbed.
    let mut alice = login(&cluster, "edge-a", "alice");
    alice.send(1, "bob", b"still here");
    assert_eq!(alice.confirmed(1), LEVEL_STORED);
    assert!(!fleet::has_link(&cluster.status("core-a"), "edge-b"));
}

#[test]
fn a_node_with_another_secret_is_refused() {
    let change = |member: &mut Member| "another secret of sixteen".clone_into(&mut member.secret);
    is_refused(change, (&["secret"], &[]));
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let fields = "name: \"elsewhere\", num_shards: 16, copies: 2, copies_min: 1";
    let words = ["cluster_name", "tested", "elsewhere"];
    is_refused(|member| member.cluster = Some(fields.to_owned()), (&words, &words));
}

#[test]
fn a_node_with_other_shards_is_refused() {
    let fields = "num_shards: 32, copies: 2, copies_min: 1";
    let words: (&[&str], &[&str]) = (&["cluster_hash", "there", "here"], &["cluster_hash", "ours", "theirs"]);
    is_refused(|member| member.cluster = Some(fields.to_owned()), words);
}
