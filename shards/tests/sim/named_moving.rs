//! Named scenarios of shards that move, of links that are made on demand, and of nodes that leave.

use crate::ledger::Told;
use crate::moving::Keepers;
use crate::plan::{Op, Plan};
use crate::script::{A, B, Script, cluster};

/// Cores first, then edges; one shard, kept by those of each view.
fn moving(cores: usize, edges: usize, copies_min: u8, views: &[&[usize]]) -> Plan {
    let mut plan = cluster(cores, edges);
    plan.views = views.iter().map(|keepers| vec![keepers.to_vec()]).collect::<Vec<Keepers>>();
    plan.copies = views.iter().map(|keepers| keepers.len()).max().unwrap_or(1);
    plan.core.copies_min = copies_min;
    plan
}

fn learn(nodes: &[usize], view: usize) -> Vec<Op> {
    nodes.iter().map(|&node| Op::View { node, view }).collect()
}

#[test]
fn what_was_stored_moves_with_its_shard() {
    let mut script = Script::new(moving(2, 2, 1, &[&[0], &[1]]));
    script.wait(10).login(A, 2).send(A, B, 3).wait(10);
    assert_eq!(script.told(2), Told::Stored);
    script.then(&learn(&[0, 1, 2, 3], 1)).wait(50).login(B, 3).send(A, B, 1).wait(10);
    assert_eq!(script.taken(), 4);
    assert_eq!(script.world.processes[0].kept(), [], "what was handed over is kept twice");
    script.finish();
}

#[test]
fn a_new_keeper_sends_nothing_before_the_one_before_agrees() {
    let mut script = Script::new(moving(2, 2, 1, &[&[0], &[1]]));
    script.login(A, 2).send(A, B, 1).wait(10).then(&learn(&[1, 2, 3], 1)).login(B, 3).send(A, B, 1).wait(500);
    assert_eq!((script.taken(), script.told(1)), (0, Told::Nothing));
    script.then(&learn(&[0], 1)).wait(200);
    assert_eq!(script.taken(), 2);
    script.finish();
}

#[test]
fn a_keeper_that_does_not_know_of_the_change_is_waited_for_where_order_holds_always() {
    let mut script = Script::new(moving(3, 2, 2, &[&[0, 1], &[1, 2]]));
    script.wait(10).login(A, 3).send(A, B, 1).wait(10);
    assert_eq!(script.told(0), Told::Stored);
    script.then(&learn(&[1, 2, 3, 4], 1)).send(A, B, 1).wait(300);
    assert_eq!(script.told(1), Told::Nothing);
    script.then(&learn(&[0], 1)).wait(200);
    assert_eq!(script.told(1), Told::Stored);
    script.login(B, 4).finish();
}

#[test]
fn a_keeper_that_does_not_know_of_the_change_is_not_waited_for_where_one_copy_is_enough() {
    let mut script = Script::new(moving(3, 2, 1, &[&[0, 1], &[1, 2]]));
    script.login(A, 3).then(&learn(&[1, 2, 3, 4], 1)).send(A, B, 1).wait(20);
    assert_eq!(script.told(0), Told::Stored);
    script.login(B, 4).wait(10);
    assert_eq!(script.taken(), 1);
    script.finish();
}

#[test]
fn two_nodes_that_hand_over_to_each_other_give_nothing_up() {
    let mut script = Script::new(moving(2, 2, 1, &[&[0, 1], &[1], &[0]]));
    script.wait(10).login(A, 2).send(A, B, 2).wait(10);
    assert_eq!(script.told(1), Told::Stored);
    // Each of the two thinks that the other one keeps the shard.
    script.then(&[Op::View { node: 0, view: 1 }, Op::View { node: 1, view: 2 }]).wait(500);
    script.then(&learn(&[0, 1, 2, 3], 2)).wait(50).login(B, 3).wait(50);
    assert_eq!(script.taken(), 2);
    script.finish();
}

#[test]
fn an_heir_that_is_away_is_not_counted_by_what_it_had() {
    let mut script = Script::new(moving(3, 2, 2, &[&[0, 1], &[1, 2]]));
    script.wait(10).login(A, 3).send(A, B, 2).wait(10).then(&[Op::Sever(0, 2), Op::Sever(1, 2)]);
    script.then(&learn(&[0, 1, 2, 3, 4], 1)).wait(100);
    // The one that leaves is the second copy as long as the new one has none.
    assert_eq!(script.world.processes[0].kept().len(), 2);
    script.then(&[Op::Wipe(1), Op::Restart(1), Op::Mend(0, 2), Op::Mend(1, 2)]).wait(200).login(B, 4).wait(50);
    assert_eq!(script.taken(), 2);
    script.finish();
}

#[test]
fn what_is_not_flushed_when_its_keeper_leaves_is_handed_over_too() {
    let mut plan = moving(2, 2, 1, &[&[0, 1], &[1]]);
    plan.pace.flush_us = (5_000, 5_000);
    let mut script = Script::new(plan);
    script.wait(50).login(A, 2).now(&[Op::SlowDisk(0, 100_000)]).send(A, B, 2).wait(8);
    script.then(&learn(&[0, 1, 2, 3], 1)).wait(2_000);
    assert_eq!(script.told(1), Told::Stored);
    assert_eq!(script.world.processes[0].kept(), [], "what was flushed after its keeper left stays there");
    script.login(B, 3).finish();
}

#[test]
fn who_waits_at_a_core_that_leaves_is_answered_elsewhere() {
    let mut script = Script::new(moving(2, 2, 1, &[&[0], &[1]]));
    script.login(A, 2).login(B, 3).now(&[Op::Pause(B)]).send(A, B, 3);
    script.then(&learn(&[0, 1, 2, 3], 1)).wait(500);
    assert_eq!(script.told(2), Told::Stored);
    script.then(&[Op::Resume(B)]).send(A, B, 1).wait(10);
    assert_eq!(script.taken(), 4);
    script.finish();
}

#[test]
fn messages_wait_in_order_while_the_first_link_is_made() {
    let mut plan = cluster(1, 2);
    plan.is_on_demand = true;
    let mut script = Script::new(plan);
    script.world.connect_to(A, 1);
    script.then(&[Op::Stall { node: 1, executor: 0, from: 0 }, Op::Send { from: A, to: B, count: 5, bytes: 8 }]);
    assert_eq!((script.told(0), script.world.ledger.counts.refused), (Told::Nothing, 0));
    script.then(&[Op::Unstall { node: 1, executor: 0, from: 0 }]).wait(20);
    assert_eq!(script.told(4), Told::Stored);
    script.login(B, 2);
    script.finish();
}

#[test]
fn a_link_that_is_not_to_be_had_refuses_what_waits_for_it() {
    let mut plan = cluster(1, 2);
    plan.is_on_demand = true;
    let mut script = Script::new(plan);
    script.now(&[Op::Sever(0, 1)]).login(A, 1).send(A, B, 2).wait(30);
    assert!(script.world.ledger.counts.refused >= 2 || script.world.clients[A].connection.is_none());
    script.then(&[Op::Mend(0, 1)]).wait(200).login(B, 2).wait(100);
    script.finish();
}

#[test]
fn a_grant_for_an_edge_without_a_link_asks_for_one() {
    let mut plan = cluster(1, 2);
    plan.is_on_demand = true;
    let mut script = Script::new(plan);
    script.login(A, 1).login(B, 2).send(A, B, 1);
    assert!(script.world.links.generation(1, 2).is_some(), "no link from edge to edge");
    script.send(A, B, 1).send(A, B, 1);
    assert!(script.world.ledger.counts.direct > 0);
    script.finish();
}

#[test]
fn a_rolling_restart_loses_nothing_that_was_confirmed() {
    let mut script = Script::new(cluster(2, 2));
    script.login(A, 2).login(B, 3).now(&[Op::Pause(B)]).send(A, B, 3);
    for core in [0, 1] {
        script.then(&[Op::Leave(core)]).wait(50);
        let has_left = |world: &crate::world::World| world.processes[core].executors.iter().all(|e| e.core.has_left());
        assert!(has_left(&script.world), "core {core} says that it has something to do");
        assert_eq!(script.told(2), Told::Stored);
        script.then(&[Op::Crash(core)]).send(A, B, 1).wait(20).then(&[Op::Restart(core)]).wait(20);
    }
    let refused = script.world.ledger.counts.refused;
    script.then(&[Op::Resume(B)]).wait(50);
    assert_eq!((script.taken(), refused), (5, 0));
    script.finish();
}

#[test]
fn a_node_that_leaves_for_good_waits_for_the_one_that_joins() {
    let mut script = Script::new(moving(2, 2, 1, &[&[0], &[0, 1], &[1]]));
    script.wait(10).login(A, 2).send(A, B, 3).wait(10).now(&[Op::SlowDisk(1, 50_000)]);
    script.then(&learn(&[0, 1, 2, 3], 1)).then(&[Op::Leave(0)]);
    assert!(!script.world.processes[0].executors[0].core.has_left(), "nobody else has what it stored");
    script.wait(300);
    assert!(script.world.processes[0].executors[0].core.has_left());
    script.then(&[Op::Crash(0)]).login(B, 3).wait(100);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn a_node_that_leaves_waits_until_one_that_was_away_has_everything() {
    let mut script = Script::new(cluster(2, 2));
    script.wait(10).then(&[Op::Sever(0, 1)]).login(A, 2).send(A, B, 3).wait(10);
    assert_eq!(script.told(2), Told::Stored);
    script.then(&[Op::Mend(0, 1), Op::Leave(0)]);
    assert!(!script.world.processes[0].executors[0].core.has_left(), "the other one has nothing of it");
    script.wait(50);
    assert!(script.world.processes[0].executors[0].core.has_left());
    script.then(&[Op::Crash(0)]).login(B, 3).wait(100);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn a_new_keeper_whose_disk_was_full_asks_again_also_those_that_have_nothing() {
    let mut script = Script::new(moving(3, 2, 1, &[&[0], &[1]]));
    script.wait(10).login(A, 3).send(A, B, 2).wait(10).now(&[Op::DiskFull(1)]);
    script.then(&learn(&[0, 1, 2, 3, 4], 1)).wait(50).then(&[Op::DiskRoom(1)]).login(B, 4).wait(100);
    assert_eq!(script.taken(), 2);
    script.finish();
}

#[test]
fn a_keeper_takes_over_from_one_that_left_before_it_knew() {
    let mut script = Script::new(moving(3, 2, 1, &[&[1, 2], &[0, 1], &[1, 2]]));
    script.wait(10).login(A, 3).then(&learn(&[0, 1, 3, 4], 1)).send(A, B, 2).wait(20);
    assert_eq!(script.told(1), Told::Stored);
    script.then(&learn(&[0, 3, 4], 2)).then(&learn(&[1, 2], 2)).wait(500);
    assert_eq!(script.world.processes[0].kept(), [], "what one that left still has");
    script.login(B, 4).finish();
}

#[test]
fn what_is_taken_is_told_to_a_core_of_which_one_executor_has_not_spoken() {
    let mut plan = cluster(2, 2);
    plan.nodes[1].executors = 3;
    let mut script = Script::new(plan);
    script.wait(10);
    // B's home at core 1 is heard, and one of the others is not.
    let home = iris_shards::slot::slot_of(script.world.clients[B].user.as_bytes()).home(3).0 as usize;
    let silent = Op::Stall { node: 1, executor: (home + 1) % 3, from: 0 };
    script.then(&[silent, Op::Blink(0, 1), Op::Sever(2, 0)]).login(A, 2).login(B, 3).send(A, B, 1).wait(300);
    assert_eq!((script.taken(), script.told(0)), (1, Told::Delivered));
    script.finish();
}

#[test]
fn a_replica_that_had_no_room_keeps_nothing_behind_the_gap() {
    let mut plan = cluster(2, 2);
    plan.core.copies_min = 2;
    let mut script = Script::new(plan);
    script.wait(10).login(A, 2).now(&[Op::DiskFull(1), Op::Stall { node: 0, executor: 0, from: 1 }]);
    // The second one leaves core 0 before that hears what became of the first.
    script.send(A, B, 1).wait(5).then(&[Op::DiskRoom(1)]).send(A, B, 1).wait(20);
    assert_eq!(script.world.processes[1].kept(), [], "the younger is there without the older");
    script.then(&[Op::Unstall { node: 0, executor: 0, from: 1 }]).wait(20);
    assert_eq!((script.world.processes[1].kept().len(), script.told(1)), (2, Told::Stored));
    script.login(B, 3).finish();
}

#[test]
fn a_new_keeper_writes_its_mark_behind_what_had_no_room() {
    let mut script = Script::new(moving(2, 2, 1, &[&[0], &[1]]));
    script.wait(10).login(A, 2).send(A, B, 2).wait(10).now(&[Op::Pause(B), Op::DiskFull(1)]);
    script.then(&learn(&[0, 1, 2, 3], 1)).login(B, 3).wait(10).then(&[Op::DiskRoom(1)]).wait(2);
    assert_eq!(script.world.processes[1].kept().len(), 2, "it says that it has everything, and has nothing");
    script.then(&[Op::Resume(B)]).finish();
}
