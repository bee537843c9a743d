//! Processes that die, freeze, lose their disks, join, leave and are restarted one after the other, under a checked load.

mod fleet;
mod process;

use std::time::Duration;

use fleet::drill::Drill;
use fleet::ground::Ground;
use fleet::{Cluster, Member, Plan};

const FROZEN: Duration = Duration::from_secs(30);

#[test]
fn nodes_die_and_come_back() {
    let cluster = Cluster::start(Plan::proof(), Ground::best());
    let mut drill = Drill::start("dying", cluster, |plan| plan.late_allowed = true);
    for edge in ["edge-a", "edge-b"] {
        drill.fault(&format!("kill -9 of {edge}"), |cluster| cluster.kill(edge));
        drill.fault(&format!("{edge} is back"), |cluster| cluster.run(edge));
    }
    // Both replicas of every shard, one after the other, twice.
    for core in ["core-a", "core-b", "core-a", "core-b"] {
        drill.fault(&format!("kill -9 of {core}"), |cluster| cluster.kill(core));
        drill.fault(&format!("{core} is back"), |cluster| {
            cluster.run(core);
            cluster.until_linked();
        });
    }
    drill.fault("core-b loses its disk", |cluster| {
        cluster.kill("core-b");
        cluster.wipe("core-b");
        cluster.run("core-b");
        cluster.until_linked();
    });
    drill.fault("kill -9 of core-a, and what was lost is with core-b again", |cluster| cluster.kill("core-a"));
    drill.fault("core-a is back", |cluster| cluster.run("core-a"));
    drill.finish();
}

#[test]
fn nodes_freeze() {
    let cluster = Cluster::start(Plan::proof(), Ground::best());
    let mut drill = Drill::start("freezing", cluster, |plan| plan.late_allowed = true);
    for node in ["edge-a", "core-a"] {
        let what = format!("SIGSTOP of {node}");
        drill.lasting((&what, FROZEN), |cluster| cluster.freeze(node, true), |cluster| cluster.freeze(node, false));
    }
    drill.finish();
}

#[test]
fn a_core_joins_and_leaves_and_every_node_is_restarted() {
    let cluster = Cluster::start(Plan::proof().by_gossip(), Ground::best());
    let mut drill = Drill::start("rolling", cluster, |plan| plan.late_allowed = true);
    drill.fault("core-c joins with an empty disk", |cluster| {
        cluster.add(Member::core("core-c"));
        cluster.run("core-c");
        cluster.until_linked();
    });
    for node in ["edge-a", "core-a", "edge-b", "core-b", "core-c"] {
        drill.fault(&format!("{node} is restarted"), |cluster| {
            let status = cluster.stop(node).expect("it ran");
            assert!(status.success(), "{node} ends with {status}: {}", cluster.log(node));
            cluster.run(node);
            cluster.until_linked();
        });
    }
    drill.fault("core-c leaves for good", |cluster| cluster.remove("core-c"));
    drill.fault("edge-b is drained by `iris drain`", |cluster| {
        let (done, status) = cluster.drain("edge-b", &["--rate", "500"]);
        assert!(status.success() && done.code == Some(0), "{}{}", done.out, done.err);
    });
    drill.finish();
}

/// With `copies_min = copies` nothing may ever come out of order, whatever it costs in availability.
#[test]
fn order_holds_always_where_every_copy_is_asked_for() {
    let mut plan = Plan::proof();
    plan.cluster = "num_shards: 16, copies: 2, copies_min: 2".to_owned();
    let cluster = Cluster::start(plan, Ground::best());
    let mut drill = Drill::start("strict", cluster, |_| {});
    for core in ["core-a", "core-b"] {
        drill.fault(&format!("kill -9 of {core}, back at once"), |cluster| {
            cluster.kill(core);
            cluster.run(core);
            cluster.until_linked();
        });
    }
    drill.fault("kill -9 of edge-a, back at once", |cluster| {
        cluster.kill("edge-a");
        cluster.run("edge-a");
    });
    let (_, outcome) = drill.finish();
    assert_eq!(outcome.late, 0);
}
