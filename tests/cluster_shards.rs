//! A thousand virtual shards on two nodes, as in the seed: shards 0 to 499 here, 500 to 999 there.

mod fleet;
mod process;

use std::collections::BTreeSet;

use fleet::ground::Ground;
use fleet::{Cluster, Discovery, Member, Plan, link, messages};
use iris_perf::soak::{Plan as Load, Soak};
use iris_shards::ring::Ring;
use iris_shards::slot::slot_of;

const SHARDS: u32 = 1_000;

#[test]
fn a_thousand_shards_on_two_nodes() {
    let halves = [("laptop-a", "0-499"), ("laptop-b", "500-999")];
    let plan = Plan {
        discovery: Discovery::Static,
        cluster: format!("num_shards: {SHARDS}, copies: 1, copies_min: 1"),
        node: String::new(),
        members: halves.map(|(name, shards)| Member::new(name, "both").with_shards(shards)).to_vec(),
    };
    let cluster = Cluster::start(plan, Ground::loopback());
    let mut load = Load::new(cluster.doors());
    (load.users, load.rate, load.recipients) = (4_000, 5_000.0, 4);
    let ring = Ring::new(SHARDS);
    let shard = |at: u32| ring.shard(slot_of(format!("{}{at}", load.prefix).as_bytes()));
    let shards: BTreeSet<u32> = (0..load.users).map(shard).collect();
    assert!(shards.len() > 900, "users of {} shards only", shards.len());

    let soak = Soak::start(load).expect("a soak");
    cluster.until("laptop-a", "has much traffic", |status| messages(status, "direct") > 2_000);
    let outcome = soak.finish().expect("threads that end");
    assert_eq!(outcome.broken(), None, "{}", outcome.json());
    assert!(outcome.checked > 4_000, "{}", outcome.json());
    for (node, other) in [("laptop-a", "laptop-b"), ("laptop-b", "laptop-a")] {
        let status = cluster.status(node);
        assert!(messages(&status, "stored") > 0, "{node} keeps nothing: {status:#}");
        let counts = &link(&status, other).expect("a link")["counts"];
        assert!(counts["sent"].as_u64().is_some_and(|sent| sent > 1_000), "{status:#}");
    }
}
