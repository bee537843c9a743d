//! Slots, rings, node ids and preferences against `docs/placement-vectors.json`, which another program counted.

use iris_shards::id::{NodeId, SLOTS, Slot};
use iris_shards::placement::{Candidate, Spread, place};
use iris_shards::ring::Ring;
use iris_shards::slot::{slot_of, stable_hash};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    slots: u32,
    users: Vec<User>,
    rings: Vec<RingVector>,
    nodes: Vec<Node>,
    rendezvous: Vec<Preference>,
}

#[derive(Deserialize)]
struct User {
    user: String,
    hash: String,
    slot: u32,
}

#[derive(Deserialize)]
struct RingVector {
    num_shards: u32,
    largest: u32,
    smallest: u32,
    table_hash: String,
    shards: Vec<(u32, u32)>,
}

#[derive(Deserialize)]
struct Node {
    node: String,
    id: u32,
}

#[derive(Deserialize)]
struct Preference {
    shard: u32,
    preferred: Vec<String>,
}

fn vectors() -> Vectors {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/placement-vectors.json");
    let text = std::fs::read_to_string(path).expect(path);
    serde_json::from_str(&text).expect("vectors of the agreed form")
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

#[test]
fn users_have_their_slots() {
    let vectors = vectors();
    assert_eq!(vectors.slots, SLOTS);
    for User { user, hash, slot } in vectors.users {
        assert_eq!(hex(stable_hash(user.as_bytes())), hash, "{user}");
        assert_eq!(slot_of(user.as_bytes()), Slot(slot), "{user}");
    }
}

#[test]
fn slots_have_their_shards() {
    let rings = vectors().rings;
    assert_eq!(rings.iter().map(|ring| ring.num_shards).collect::<Vec<_>>(), [1, 2, 3, 16, 1_000, 50_000]);
    for wanted in rings {
        let ring = Ring::new(wanted.num_shards);
        for (slot, shard) in wanted.shards {
            assert_eq!(ring.shard(Slot(slot)), shard, "slot {slot} of {} shards", wanted.num_shards);
        }
        let sizes = ring.sizes();
        assert_eq!(sizes.iter().max(), Some(&wanted.largest));
        assert_eq!(sizes.iter().min(), Some(&wanted.smallest));
        let table: Vec<u8> = (0..SLOTS).flat_map(|slot| (ring.shard(Slot(slot)) as u16).to_be_bytes()).collect();
        assert_eq!(hex(stable_hash(&table)), wanted.table_hash, "{} shards", wanted.num_shards);
    }
}

#[test]
fn nodes_have_their_ids() {
    let nodes = vectors().nodes;
    assert!(nodes.iter().any(|node| stable_hash(node.node.as_bytes()) as u32 == 0), "a name whose id would be 0");
    for Node { node, id } in nodes {
        assert_eq!(NodeId::of_name(&node), NodeId(id), "{node}");
    }
}

#[test]
fn shards_prefer_their_nodes() {
    let vectors = vectors();
    let candidate = |node: &Node| Candidate { node: NodeId(node.id), zone: 0, region: 0, shards: None };
    let candidates: Vec<Candidate> = vectors.nodes.iter().map(candidate).collect();
    let placed = place(50_000, 8, Spread::Node, &candidates);
    for Preference { shard, preferred } in vectors.rendezvous {
        let preferred: Vec<NodeId> = preferred.iter().map(|name| NodeId::of_name(name)).collect();
        assert_eq!(placed[shard as usize], preferred, "shard {shard}");
    }
}
