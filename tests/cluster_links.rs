//! Links between nodes that are cut, in network namespaces: cables taken out, packets dropped both ways or one way,
//! under a checked load. Needs root and nftables; elsewhere it says that it is skipped.

mod fleet;
mod process;

use std::time::Duration;

use fleet::drill::{Drill, cuttable};
use fleet::{Cluster, Plan};

const BLINK: Duration = Duration::from_millis(50);
const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// The long cuts take minutes: IRIS_LONG_FAULTS=1 asks for them.
fn times() -> Vec<Duration> {
    let is_long = std::env::var_os("IRIS_LONG_FAULTS").is_some();
    if !is_long {
        eprintln!("SKIPPED: cuts of {LONG:?}, which IRIS_LONG_FAULTS=1 asks for");
    }
    [BLINK, SHORT].into_iter().chain(is_long.then_some(LONG)).collect()
}

fn unplug(cluster: &Cluster, node: &str) {
    cluster.ground().namespaces().expect("namespaces").unplug(cluster.number(node));
}

fn plug(cluster: &Cluster, node: &str) {
    cluster.ground().namespaces().expect("namespaces").plug(cluster.number(node));
}

fn cut(cluster: &Cluster, from: &str, to: &str) {
    let to = cluster.link_address(to).ip();
    cluster.ground().namespaces().expect("namespaces").cut(cluster.number(from), to);
}

fn heal(cluster: &Cluster, node: &str) {
    cluster.ground().namespaces().expect("namespaces").heal(cluster.number(node));
}

#[test]
fn cables_are_taken_out() {
    let Some(ground) = cuttable("taking cables out") else { return };
    let cluster = Cluster::start(Plan::proof(), ground);
    let mut drill = Drill::start("cables", cluster, |plan| plan.late_allowed = true);
    for time in times() {
        for node in ["edge-a", "core-a", "core-b"] {
            let what = format!("the cable of {node} is out");
            drill.lasting((&what, time), |cluster| unplug(cluster, node), |cluster| plug(cluster, node));
        }
    }
    drill.finish();
}

#[test]
fn packets_between_two_nodes_are_dropped() {
    let Some(ground) = cuttable("dropping packets") else { return };
    let cluster = Cluster::start(Plan::proof(), ground);
    let mut drill = Drill::start("packets", cluster, |plan| plan.late_allowed = true);
    for time in times() {
        for (from, to) in [("core-a", "core-b"), ("edge-a", "core-a"), ("edge-a", "edge-b")] {
            let both = format!("nothing passes between {from} and {to}");
            let on = |cluster: &mut Cluster| {
                cut(cluster, from, to);
                cut(cluster, to, from);
            };
            drill.lasting((&both, time), on, |cluster| [from, to].iter().for_each(|node| heal(cluster, node)));
            let one = format!("nothing passes from {from} to {to}");
            drill.lasting((&one, time), |cluster| cut(cluster, from, to), |cluster| heal(cluster, from));
        }
    }
    drill.finish();
}
