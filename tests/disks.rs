//! Disks that are full, damaged, foreign or gone: the node says so, serves what is whole, and loses nothing confirmed.
//!
//! What needs a mount is skipped, with a word, when it is not run as root.

#[path = "storage/mount.rs"]
mod mount;
mod process;
mod wire;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use iris_shards::frame::{Code, LEVEL_DELIVERED, LEVEL_STORED};
use iris_shards::id::MessageId;
use mount::Mount;
use process::{Node, PATIENCE, Place, wait};
use wire::Dice;
use wire::model::{Client, body};

/// Small files, so that there are many.
const SMALL_SEGMENTS: &str = "(cluster: (limits: (body_bytes_max: 16_384)), node: (segment_bytes: 131_072, \
                              edge: (retry_ms: 20), core: (retry_ms: 20)))";
const ONE: [&str; 2] = ["--executors", "1"];

// Full

/// Sends to somebody who is away until the disk is full.
fn fill(alice: &mut Client, recipient: &str) {
    let deadline = Instant::now() + PATIENCE;
    while alice.refused.is_empty() {
        assert!(Instant::now() < deadline, "the disk never gets full: {} sent", alice.levels.len());
        while alice.open.len() >= 64 && alice.refused.is_empty() {
            assert!(alice.pump(Duration::from_millis(100)));
        }
        alice.send(recipient, 8_000);
    }
    alice.until_answered();
    assert!(alice.refused.iter().all(|(_, code)| *code == Code::DiskFull), "{:?}", alice.refused.last());
}

fn full_disk(mount: &Mount) {
    let data = mount.path().join("data");
    let node = Place::configured(SMALL_SEGMENTS).with_data_in(&data).start(&ONE);
    let mut alice = Client::online(&node.address, "alice");
    fill(&mut alice, "bob");
    let confirmed = alice.sent["bob"].len();
    println!("the disk was full after {confirmed} messages, {} refused", alice.refused.len());
    assert!(confirmed > 100);
    // Who is online talks on.
    let (mut carol, mut dave) = (Client::online(&node.address, "carol"), Client::online(&node.address, "dave"));
    for round in 1..=200 {
        carol.send("dave", 1_000);
        dave.until_taken(round);
    }
    carol.until_answered();
    assert!(carol.levels.values().all(|level| *level == LEVEL_DELIVERED));
    // A crash now loses nothing.
    let node = node.crash_and_restart(&ONE);
    let mut bob = Client::online(&node.address, "bob");
    bob.until("takes all of it", |bob| bob.count() >= confirmed);
    bob.has_all_of(&alice);
    bob.leave();
    node.until("empty", |status| status["totals"]["inbox_messages"] == 0);
    // There is room again, sooner or later.
    alice.leave();
    assert!(alice.login(&node.address));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let id = alice.send("erin", 8_000);
        alice.until_answered();
        if alice.levels.get(&id) == Some(&LEVEL_STORED) {
            break;
        }
        assert!(Instant::now() < deadline, "no room: {}", node.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    alice.refused.clear();
    fill(&mut alice, "frank");
    let mut frank = Client::online(&node.address, "frank");
    frank.until_taken(alice.sent["frank"].len());
    frank.has_all_of(&alice);
}

#[test]
fn a_full_tmpfs_is_a_refusal_and_no_loss() {
    if let Some(mount) = Mount::tmpfs("8m") {
        full_disk(&mount);
    }
}

#[test]
fn a_full_ext4_is_a_refusal_and_no_loss() {
    if let Some(mount) = Mount::ext4("24M") {
        full_disk(&mount);
    }
}

#[test]
fn a_disk_that_fails_ends_the_node_before_it_confirms() {
    let Some(mount) = Mount::ext4("64M") else { return };
    let mut node = Place::configured(SMALL_SEGMENTS).with_data_in(&mount.path().join("data")).start(&ONE);
    let mut alice = Client::online(&node.address, "alice");
    alice.send("bob", 100);
    alice.until_answered();
    mount.fail();
    for _ in 0..60 {
        alice.send("bob", 8_000);
    }
    while alice.pump(Duration::from_millis(100)) {}
    let status = wait(&mut node.running.child);
    assert!(!status.success(), "{status}");
    assert!(node.log().contains("recovers from disk"), "it says why");
    assert_eq!(alice.levels.len(), 1, "nothing is confirmed that is not on disk");
}

#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let Some(mount) = Mount::tmpfs("1m") else { return };
    let data = mount.path().join("data");
    std::fs::write(mount.path().join("filler"), vec![1; 2 << 20]).expect_err("it is full");
    let place = Place::configured(SMALL_SEGMENTS).with_data_in(&data);
    let done = place.refused(&ONE);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains(data.to_str().expect("UTF-8")) && done.err.contains("free some space"), "{}", done.err);
}

#[test]
fn a_read_only_disk_is_named() {
    let Some(mount) = Mount::tmpfs("4m") else { return };
    let place = Place::new().with_data_in(&mount.path().join("data"));
    let mut node = place.start(&ONE);
    assert_eq!(node.stop().code(), Some(0));
    mount.read_only();
    let done = node.crash().refused(&ONE);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("read-only"), "{}", done.err);
}

// Damaged

/// A stopped node with messages in many segments: where it is, and who sent what to bob.
fn stored(count: usize) -> (Place, Client) {
    let mut node = Node::configured(SMALL_SEGMENTS, &ONE);
    let mut alice = Client::online(&node.address, "alice");
    for n in 0..count {
        alice.send("bob", 200 + n % 700);
        if alice.open.len() > 500 {
            alice.until_answered();
        }
    }
    alice.until_answered();
    alice.leave();
    assert_eq!(node.stop().code(), Some(0));
    (node.crash(), alice)
}

fn segments(place: &Place) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![place.data().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "seg") => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    files
}

/// Where these bytes are.
fn find(files: &[PathBuf], wanted: &[u8]) -> (PathBuf, usize) {
    for path in files {
        let bytes = std::fs::read(path).expect("a segment");
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            return (path.clone(), at);
        }
    }
    panic!("no segment has it");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a segment");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("written");
}

/// What bob takes from this node, until nothing more comes; the model panics about order and contents.
fn taken(node: &Node, least: usize) -> Vec<MessageId> {
    let mut bob = Client::online(&node.address, "bob");
    bob.until("takes what is whole", |bob| bob.count() >= least);
    node.until("empty", |status| {
        bob.pump(Duration::from_millis(50));
        status["totals"]["inbox_messages"] == 0
    });
    bob.taken.remove("alice").unwrap_or_default()
}

/// The node starts, names the file and the place, and delivers all but these.
fn all_but(place: Place, alice: &Client, lost: &[MessageId], named: &[&str]) -> Node {
    let node = place.start(&ONE);
    let log = node.log();
    for part in named {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    let lost: HashSet<_> = lost.iter().collect();
    let wanted: Vec<_> = alice.sent["bob"].iter().copied().filter(|id| !lost.contains(id)).collect();
    assert_eq!(taken(&node, wanted.len()), wanted);
    // It works on.
    let mut carol = Client::online(&node.address, "carol");
    carol.send("bob", 9);
    carol.until_answered();
    node
}

#[test]
fn a_flipped_bit_in_a_body_is_reported_and_never_served() {
    let (place, alice) = stored(1_000);
    let files = segments(&place);
    assert!(files.len() > 4, "{files:?}");
    let lost = [alice.sent["bob"][10], alice.sent["bob"][500], alice.sent["bob"][501]];
    let mut named = Vec::new();
    for id in lost {
        let (path, at) = find(&files, &body(id, 100)[..116]);
        flip(&path, at + 60);
        named.push(path.display().to_string());
    }
    let named: Vec<_> = named.iter().map(String::as_str).chain(["offset"]).collect();
    all_but(place, &alice, &lost, &named);
}

#[test]
fn a_flipped_bit_in_a_header_costs_one_message() {
    let (place, alice) = stored(1_000);
    let lost = [alice.sent["bob"][300]];
    // The record starts 20 bytes of header, the id and the time before its names and its body.
    let (path, at) = find(&segments(&place), &body(lost[0], 100)[..116]);
    let names = "bob".len() + "alice".len();
    flip(&path, at - names - 24 - 20 + 9);
    let path = path.display().to_string();
    all_but(place, &alice, &lost, &[&path]);
}

#[test]
fn a_segment_that_is_gone_is_reported_and_the_rest_is_served() {
    let (place, alice) = stored(1_000);
    let files = segments(&place);
    let gone = &files[files.len() / 2];
    let bytes = std::fs::read(gone).expect("a segment");
    let is_there = |id: &&MessageId| bytes.windows(16).any(|window| window == id.bytes());
    let lost: Vec<_> = alice.sent["bob"].iter().filter(is_there).copied().collect();
    assert!(lost.len() > 20);
    std::fs::remove_file(gone).expect("removed");
    let name = gone.display().to_string();
    all_but(place, &alice, &lost, &[&name]);
}

#[test]
fn a_torn_tail_is_cut_off() {
    let (place, alice) = stored(1_000);
    let sent = &alice.sent["bob"];
    let (path, at) = find(&segments(&place), &body(sent[997], 100)[..116]);
    let file = std::fs::File::options().write(true).open(&path).expect("a segment");
    file.set_len(at as u64 + 50).expect("cut");
    all_but(place, &alice, &sent[997..], &[&path.display().to_string()]);
}

#[test]
fn random_damage_everywhere_stops_nobody_and_serves_no_wrong_message() {
    for seed in 1..=6 {
        let (place, alice) = stored(400);
        let mut dice = Dice::new(seed);
        for path in segments(&place) {
            let mut bytes = std::fs::read(&path).expect("a segment");
            match dice.roll(4) {
                0 => {
                    let (at, length) = (dice.roll(bytes.len()), 1 + dice.roll(5_000));
                    let end = bytes.len().min(at + length);
                    bytes[at..end].fill(0);
                }
                1 => {
                    let (at, length) = (dice.roll(bytes.len()), 1 + dice.roll(5_000));
                    let end = bytes.len().min(at + length);
                    let junk = dice.bytes(end - at);
                    bytes[at..end].copy_from_slice(&junk);
                }
                2 => bytes.truncate(dice.roll(bytes.len())),
                _ => {
                    for _ in 0..20 {
                        let at = dice.roll(bytes.len());
                        bytes[at] ^= 1 << dice.roll(8);
                    }
                }
            }
            std::fs::write(&path, bytes).expect("written");
        }
        // Also where the logs are written anew.
        let node = place.start(&["--executors", if seed % 2 == 0 { "1" } else { "3" }]);
        let ids = taken(&node, 0);
        let sent: HashSet<_> = alice.sent["bob"].iter().collect();
        assert!(ids.iter().all(|id| sent.contains(id)), "seed {seed}");
        println!("seed {seed}: {} of {} survive", ids.len(), sent.len());
        let mut carol = Client::online(&node.address, "carol");
        carol.send("dave", 9);
        carol.until_answered();
    }
}

#[test]
fn foreign_files_are_left_alone() {
    let (place, alice) = stored(100);
    let data = place.data().to_owned();
    let log = segments(&place)[0].parent().expect("a directory").to_owned();
    std::fs::create_dir(data.join("lost+found")).expect("made");
    for path in [data.join("notes.txt"), log.join("notes.txt"), log.join("12.seg"), log.join("0000000001.seg.bak")] {
        std::fs::write(path, "mine").expect("written");
    }
    let node = all_but(place, &alice, &[], &[]);
    let place = node.crash_and_restart(&["--executors", "2"]).crash();
    assert_eq!(std::fs::read_to_string(data.join("notes.txt")).expect("still there"), "mine");
    assert!(data.join("lost+found").is_dir());
    drop(place);
}

#[test]
fn a_manifest_that_is_gone_or_damaged_does_not_cost_the_messages() {
    let (place, alice) = stored(100);
    let manifest = place.data().join("manifest.json");
    let text = std::fs::read(&manifest).expect("a manifest");
    for (what, bad) in [("nothing", &b""[..]), ("half of it", &text[..text.len() / 2]), ("nonsense", b"{\"format\":9}")]
    {
        std::fs::write(&manifest, bad).expect("written");
        let done = place.refused(&ONE);
        assert_eq!(done.code, Some(1), "{what}: {}", done.err);
        assert!(done.err.contains("manifest.json"), "{what}: {}", done.err);
    }
    std::fs::remove_file(&manifest).expect("removed");
    let done = place.refused(&ONE);
    assert_eq!(done.code, Some(1), "without a manifest the messages cannot be read, and must not be thrown away");
    assert!(done.err.contains("manifest.json"), "{}", done.err);
    std::fs::write(&manifest, text).expect("written");
    all_but(place, &alice, &[], &[]);
}

#[test]
fn what_is_no_directory_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "mine").expect("written");
    for data in [file.clone(), file.join("below")] {
        let place = Place::new().with_data_in(&data);
        let done = place.refused(&ONE);
        assert_eq!(done.code, Some(1), "{}", done.err);
        assert!(done.err.contains(data.to_str().expect("UTF-8")), "{}", done.err);
    }
    assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), Some("mine"));
}

#[test]
fn a_log_that_cannot_be_read_is_named() {
    let (place, alice) = stored(50);
    let first = segments(&place)[0].clone();
    let aside = first.with_extension("aside");
    std::fs::rename(&first, &aside).expect("moved");
    // A directory in its place: even root cannot read it.
    std::fs::create_dir(&first).expect("made");
    let done = place.refused(&ONE);
    assert_ne!(done.code, Some(0));
    assert!(done.err.contains(first.to_str().expect("UTF-8")), "{}", done.err);
    std::fs::remove_dir(&first).expect("removed");
    std::fs::rename(&aside, &first).expect("moved");
    all_but(place, &alice, &[], &[]);
}
