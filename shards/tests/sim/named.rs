//! Named scenarios: each is a schedule that broke, or would break, an obvious rule (`delivery.md`, last section), or a
//! limit that a random seed seldom meets. A fixed bug adds one.

use iris_shards::peer::PresenceState;

use crate::ledger::Told;
use crate::plan::{FrameKind, MessageKind, NodePlan, Op};
use crate::script::{A, B, C, Script, cluster, one_node};

const CUT_A: Op = Op::Cut { client: A, keep_up: 1_000, keep_down: 0 };

#[test]
fn a_message_is_delivered_and_the_next_goes_direct() {
    let mut script = Script::new(one_node());
    script.login(A, 0).login(B, 0).earn_direct();
    assert_eq!((script.told(0), script.told(1)), (Told::Delivered, Told::Delivered));
    script.finish();
}

#[test]
fn an_absent_recipient_gets_everything_when_it_comes() {
    let mut script = Script::new(one_node());
    script.login(A, 0).send(A, B, 30).wait(10);
    assert_eq!(script.told(29), Told::Stored);
    script.login(B, 0).wait(5);
    assert_eq!(script.taken(), 30);
    script.finish();
}

#[test]
fn what_is_piped_behind_a_bounce_does_not_overtake_it() {
    let mut plan = cluster(1, 2);
    plan.edge.delivery_messages_max = 2;
    let mut script = Script::new(plan);
    script.login(A, 1).login(B, 2).earn_direct();
    let hold = Op::Stall { node: 1, executor: 0, from: 2 };
    script.now(&[Op::Pause(B), hold]).send(A, B, 3);
    // B has room again while the bounce is on its way: what comes now is of the old phase.
    script.then(&[Op::Resume(B)]).send(A, B, 2);
    script.then(&[Op::Unstall { node: 1, executor: 0, from: 2 }]).send(A, B, 2);
    script.finish();
}

#[test]
fn a_recipient_that_still_drains_takes_direct_messages_in_order() {
    let mut plan = cluster(1, 2);
    plan.core.page_messages = 1;
    let mut script = Script::new(plan);
    script.login(A, 1).send(A, B, 4).wait(10);
    script.login(C, 1).send(C, B, 6).wait(10);
    script.login(B, 2).send(A, B, 4);
    script.finish();
}

#[test]
fn nothing_overtakes_a_message_that_is_on_its_way_back_while_the_recipient_moves() {
    let mut script = Script::new(cluster(1, 3));
    script.login(A, 1).login(B, 2).earn_direct();
    script.now(&[Op::Pause(B)]).send(A, B, 1);
    let hold = Op::Stall { node: 1, executor: 0, from: 2 };
    script.then(&[hold]).login(B, 3).send(A, B, 1);
    script.then(&[Op::Unstall { node: 1, executor: 0, from: 2 }, Op::Resume(B)]).send(A, B, 1);
    script.finish();
}

#[test]
fn a_direct_message_does_not_overtake_a_stored_one() {
    let mut script = Script::new(cluster(1, 2));
    script.login(A, 1).login(B, 2).earn_direct();
    script.now(&[Op::Pause(B)]).send(A, B, 1).wait(900);
    assert_eq!(script.told(2), Told::Stored);
    script.now(&[Op::Resume(B)]).send(A, B, 2);
    script.finish();
}

#[test]
fn a_repeat_after_a_lost_confirmation_is_not_overtaken() {
    let mut plan = cluster(1, 2);
    plan.core.log_delay_ms = 5;
    let mut script = Script::new(plan);
    script.login(A, 1).login(B, 2).now(&[Op::Pause(B), Op::CutOnMessage { from: 0, to: 1, kind: MessageKind::Stored }]);
    script.send(A, B, 2).wait(20).then(&[Op::Mend(0, 1)]);
    script.then(&[CUT_A]).login(A, 1).send(A, B, 1).then(&[Op::Resume(B)]).send(A, B, 1);
    script.finish();
}

#[test]
fn a_sender_that_reconnects_with_a_lost_confirmation_makes_no_second_message() {
    let mut script = Script::new(one_node());
    script.login(A, 0).login(B, 0).now(&[Op::CutOnFrame(A, FrameKind::Confirm)]).send(A, B, 3);
    script.login(A, 0).send(A, B, 1);
    assert_eq!(script.taken(), 4);
    script.finish();
}

#[test]
fn a_storm_of_retries_makes_no_second_message() {
    let mut script = Script::new(cluster(1, 2));
    script.login(B, 2).login(A, 1).now(&[Op::Pause(B), Op::Send { from: A, to: B, count: 10, bytes: 8 }]);
    for round in 0..20 {
        script.settle().then(&[Op::Cut { client: A, keep_up: 1_000, keep_down: 0 }]).login(A, 1 + round % 2);
    }
    script.then(&[Op::Resume(B)]);
    script.finish();
}

#[test]
fn a_take_over_while_a_direct_message_is_in_flight_loses_nothing() {
    let mut script = Script::new(cluster(1, 3));
    script.login(A, 1).login(B, 2).earn_direct();
    script.now(&[Op::Stall { node: 2, executor: 0, from: 1 }]).send(A, B, 3).login(B, 3);
    script.then(&[Op::Unstall { node: 2, executor: 0, from: 1 }]).send(A, B, 1);
    assert_eq!(script.taken(), 6);
    script.finish();
}

#[test]
fn a_slow_reader_bounces_once_and_comes_back() {
    let mut script = Script::new(one_node());
    script.login(A, 0).login(B, 0).earn_direct();
    script.now(&[Op::Pause(B)]).send(A, B, 5).wait(700);
    assert_eq!(script.told(6), Told::Stored);
    script.now(&[Op::Resume(B)]).send(A, B, 3).settle();
    assert_eq!(script.taken(), 10);
    let before = script.world.ledger.counts.direct;
    script.send(A, B, 1).send(A, B, 1);
    assert!(script.world.ledger.counts.direct > before, "a reader that is quick again is reached directly");
    script.finish();
}

#[test]
fn a_crash_between_flush_and_confirmation_loses_nothing() {
    let mut script = Script::new(one_node());
    script.login(A, 0).now(&[Op::CrashOnFlush(0)]).send(A, B, 3).wait(50);
    assert_eq!(script.told(0), Told::Nothing);
    script.now(&[Op::Restart(0)]).login(A, 0).login(B, 0).wait(50);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn a_crash_with_unlogged_entries_is_repaired_by_the_sender() {
    let mut script = Script::new(one_node());
    script.login(A, 0).login(B, 0).now(&[Op::Pause(B)]).send(A, B, 3);
    script.now(&[Op::Crash(0)]).now(&[Op::Restart(0), Op::Resume(B)]).login(A, 0).login(B, 0);
    script.finish();
}

#[test]
fn a_full_disk_refuses_and_takes_messages_again_when_it_has_room() {
    let mut script = Script::new(one_node());
    script.login(A, 0).now(&[Op::DiskFull(0)]).send(A, B, 3).wait(10);
    assert!(script.world.ledger.counts.refused >= 3);
    script.now(&[Op::DiskRoom(0)]).wait(100);
    assert_eq!(script.told(2), Told::Stored);
    script.login(B, 0);
    script.finish();
}

#[test]
fn a_full_inbox_refuses_and_takes_messages_again_when_it_has_room() {
    let mut plan = one_node();
    plan.core.inbox_messages_max = 4;
    let mut script = Script::new(plan);
    script.login(A, 0).send(A, B, 6).wait(10);
    assert_eq!((script.told(3), script.told(4)), (Told::Stored, Told::Nothing));
    assert!(script.world.ledger.counts.refused >= 2);
    script.login(B, 0).wait(200);
    script.finish();
}

#[test]
fn a_message_expires_with_its_inbox_and_later_ones_arrive() {
    let mut plan = one_node();
    plan.core.inbox_age_ms_max = 2_000;
    plan.edge.id_age_ms_max = 10_000;
    let mut script = Script::new(plan);
    script.login(A, 0).send(A, B, 2).wait(60_000);
    script.login(B, 0).send(A, B, 1).wait(10).is_kept();
    let taken: Vec<bool> = script.world.ledger.notes.iter().map(|note| note.taken > 0).collect();
    assert_eq!(taken, [false, false, true]);
}

#[test]
fn a_lost_lease_ends_presence_and_the_edge_registers_again() {
    let mut script = Script::new(cluster(1, 2));
    script.login(A, 1).login(B, 2).earn_direct().now(&[Op::LoseRefreshes(true)]).wait(4_000);
    script.send(A, B, 2).now(&[Op::LoseRefreshes(false)]).wait(4_000);
    script.send(A, B, 2);
    script.finish();
}

#[test]
fn the_newest_login_wins_although_its_edge_has_the_slower_clock() {
    let mut plan = cluster(1, 2);
    plan.nodes[1].skew_us = 900_000;
    plan.nodes[2].skew_us = -900_000;
    let mut script = Script::new(plan);
    script.login(B, 1).login(B, 2);
    let old = &script.world.connections[0];
    assert!(old.is_ended && !script.world.connections[1].is_ended, "the first session lives on");
    script.login(A, 1).send(A, B, 2);
    assert_eq!(script.taken(), 2);
    script.finish();
}

#[test]
fn presence_is_told_and_ends() {
    let mut script = Script::new(cluster(1, 2));
    script.login(A, 1).login(B, 2).then(&[Op::Lookup { client: A, about: B, watch: true }]);
    assert_eq!(script.world.clients[A].seen[&B], PresenceState::Online);
    script.world.clients[B].is_out = true;
    script.then(&[Op::Cut { client: B, keep_up: 0, keep_down: 0 }]);
    assert!(matches!(script.world.clients[A].seen[&B], PresenceState::Offline { last_seen } if last_seen > 0));
}

#[test]
fn executors_of_one_node_reach_each_other() {
    let mut plan = one_node();
    plan.nodes = vec![NodePlan { edge: true, core: true, executors: 3, skew_us: 0 }];
    let mut script = Script::new(plan);
    script.login(A, 0).login(B, 0).login(C, 0).earn_direct().send(A, C, 5).send(C, B, 5).send(B, A, 5);
    assert_eq!(script.taken(), 17);
    script.finish();
}

#[test]
fn a_refused_message_sent_again_earns_no_grant_past_what_an_earlier_session_stored() {
    let mut plan = cluster(1, 2);
    (plan.core.page_messages, plan.core.inbox_messages_max, plan.core.retry_ms) = (1, 2, 500);
    plan.edge.delivery_ms_max = 50;
    let mut script = Script::new(plan);
    script.login(A, 1).send(A, B, 3).login(B, 2).wait(5).now(&[Op::Pause(B)]).send(A, B, 1).wait(250);
    assert_eq!(script.told(3), Told::Stored);
    // The third message, refused before, is older by its id than the fourth, which A's next session does not know of.
    script.wait(260).then(&[Op::Cut { client: B, keep_up: 0, keep_down: 0 }]).login(B, 2);
    script.then(&[CUT_A]).login(A, 1).now(&[Op::Stall { node: 2, executor: 0, from: 0 }]).then(&[Op::Resume(B)]);
    script.send(A, B, 1).then(&[Op::Unstall { node: 2, executor: 0, from: 0 }]);
    script.finish();
}

#[test]
fn what_was_lost_with_a_link_is_not_overtaken_over_the_next_link() {
    let mut script = Script::new(cluster(1, 2));
    script.login(A, 1).login(B, 2).now(&[Op::Stall { node: 2, executor: 0, from: 0 }]).send(A, B, 2);
    script.then(&[Op::Blink(0, 2)]).send(A, B, 2).then(&[Op::Unstall { node: 2, executor: 0, from: 0 }]);
    script.finish();
}

#[test]
fn a_link_that_is_lost_after_a_bounce_bounces_what_is_still_out() {
    let mut plan = cluster(1, 2);
    plan.edge.delivery_messages_max = 2;
    let mut script = Script::new(plan);
    script.login(A, 1).login(B, 2).earn_direct().now(&[Op::Pause(B), Op::Stall { node: 1, executor: 0, from: 2 }]);
    script.send(A, B, 3).now(&[Op::Stall { node: 2, executor: 0, from: 1 }]).send(A, B, 2);
    script.then(&[Op::Unstall { node: 1, executor: 0, from: 2 }]).then(&[Op::Crash(2), Op::Resume(B)]).login(B, 1);
    script.finish();
}

#[test]
fn a_grant_for_an_edge_that_is_lost_is_not_used() {
    let mut script = Script::new(cluster(1, 2));
    script.login(A, 1).login(B, 2).now(&[Op::Stall { node: 1, executor: 0, from: 0 }]).send(A, B, 1);
    script.then(&[Op::Crash(2)]).then(&[Op::Unstall { node: 1, executor: 0, from: 0 }]).send(A, B, 2);
    script.login(B, 1);
    script.finish();
}

#[test]
fn a_sender_that_moves_to_a_slower_clock_is_confirmed() {
    let mut plan = cluster(1, 2);
    (plan.nodes[1].skew_us, plan.nodes[2].skew_us) = (900_000, -900_000);
    let mut script = Script::new(plan);
    script.login(A, 1).send(A, B, 1).wait(5).then(&[CUT_A]);
    script.now(&[Op::Stall { node: 2, executor: 0, from: 0 }]).login(A, 2).send(A, B, 2).wait(5);
    script.then(&[Op::Unstall { node: 2, executor: 0, from: 0 }]).wait(5);
    assert_eq!(script.told(2), Told::Stored);
    script.login(B, 1);
    script.finish();
}

#[test]
fn an_old_session_does_not_steal_the_login_when_its_link_returns() {
    let mut script = Script::new(cluster(1, 2));
    script.login(B, 1).then(&[Op::Sever(0, 1)]).login(B, 2).then(&[Op::Mend(0, 1)]);
    assert!(script.world.connections[0].is_ended, "the old session lives on");
    assert!(!script.world.connections[1].is_ended, "the newest session was ended");
    script.login(A, 1).send(A, B, 2);
    assert_eq!(script.taken(), 2);
    script.finish();
}

#[test]
fn everybody_at_an_edge_whose_lease_ended_is_there_again() {
    let mut script = Script::new(cluster(1, 2));
    script.login(A, 1).login(B, 2).then(&[Op::Freeze(2)]).wait(4_000).login(C, 2).now(&[Op::Thaw(2)]).wait(1_000);
    script.send(A, B, 1).wait(5);
    assert_eq!(script.taken(), 1);
    script.finish();
}

#[test]
fn a_younger_entry_is_not_on_disk_without_an_older_one_that_found_no_room() {
    let mut script = Script::new(one_node());
    script.login(A, 0).login(B, 0).now(&[Op::Pause(B), Op::DiskFull(0)]).send(A, B, 1).wait(105);
    script.now(&[Op::DiskRoom(0)]).send(A, B, 1).wait(110).then(&[Op::Crash(0), Op::Restart(0), Op::Resume(B)]);
    script.login(B, 0).wait(5).login(A, 0);
    script.finish();
}

#[test]
fn a_replica_without_room_is_not_waited_for_and_catches_up() {
    let mut script = Script::new(cluster(2, 2));
    script.login(A, 2).now(&[Op::DiskFull(1)]).send(A, B, 3).wait(50);
    assert_eq!(script.told(2), Told::Stored);
    script.now(&[Op::DiskRoom(1)]).wait(50).then(&[Op::Crash(0)]).login(B, 3).wait(50);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn a_replica_without_room_does_not_count_for_copies_min() {
    let mut plan = cluster(2, 2);
    plan.core.copies_min = 2;
    let mut script = Script::new(plan);
    script.login(A, 2).now(&[Op::DiskFull(1)]).send(A, B, 2).wait(50).send(A, B, 1).wait(5);
    assert_eq!((script.told(0), script.told(2)), (Told::Nothing, Told::Nothing));
    script.now(&[Op::DiskRoom(1)]).wait(100);
    assert_eq!((script.told(0), script.told(2)), (Told::Stored, Told::Stored));
    script.login(B, 3);
    script.finish();
}

#[test]
fn a_core_whose_sync_was_cut_sends_nothing_where_order_holds_always() {
    let mut plan = cluster(2, 2);
    plan.core.copies_min = 2;
    let mut script = Script::new(plan);
    script.login(A, 2).send(A, B, 3).wait(10).then(&[Op::Crash(0), Op::Restart(0), Op::Sever(0, 1)]);
    script.then(&[Op::Crash(1)]).login(B, 3).wait(1_000);
    assert_eq!(script.taken(), 0);
    script.then(&[Op::Restart(1), Op::Mend(0, 1)]).wait(50);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn a_core_that_knows_a_higher_login_than_another_does_not_end_the_newest_session() {
    let mut plan = cluster(2, 3);
    (plan.nodes[2].skew_us, plan.nodes[3].skew_us, plan.nodes[4].skew_us) = (900_000, 300_000, -900_000);
    let mut script = Script::new(plan);
    // Core 1 alone knows the highest login, core 0 a lower one.
    script.then(&[Op::Sever(0, 2)]).login(A, 2).now(&[CUT_A]);
    script.world.clients[A].is_out = true;
    script.settle().then(&[Op::Mend(0, 2), Op::Sever(1, 3)]).login(A, 3).now(&[CUT_A]);
    script.world.clients[A].is_out = true;
    script.settle().then(&[Op::Mend(1, 3)]).now(&[Op::Stall { node: 4, executor: 0, from: 1 }]).login(A, 4);
    script.then(&[Op::Unstall { node: 4, executor: 0, from: 1 }]).wait(5);
    assert!(!script.world.connections[2].is_ended, "the newest session was ended");
    script.login(B, 3).send(A, B, 1).wait(5);
    assert_eq!(script.taken(), 1);
    script.finish();
}

#[test]
fn what_fails_one_after_the_other_is_logged_in_order_when_there_is_room() {
    let mut plan = one_node();
    plan.core.unlogged_bytes_max = 0;
    let mut script = Script::new(plan);
    script.login(A, 0).login(B, 0).now(&[Op::Pause(B), Op::DiskFull(0)]).send(A, B, 1).send(A, B, 2).wait(5);
    script.then(&[Op::DiskRoom(0)]).wait(100);
    let sent: Vec<_> = script.world.ledger.notes.iter().map(|note| note.id).collect();
    assert_eq!(script.world.processes[0].kept(), sent);
    script.then(&[Op::Resume(B)]).finish();
}

#[test]
fn a_copy_that_is_dropped_with_what_its_sender_sent_there_too_is_not_waited_for() {
    let mut plan = cluster(2, 2);
    plan.core.copies_min = 2;
    let mut script = Script::new(plan);
    script
        .wait(10)
        .then(&[Op::Sever(2, 0), Op::Sever(3, 0)])
        .login(A, 2)
        .login(B, 3)
        .now(&[Op::Pause(B)])
        .send(A, B, 1);
    // Core 1 has it in memory. It comes again from core 0, to which A's next session sends it.
    script
        .then(&[Op::DiskFull(1), Op::Mend(2, 0), Op::Cut { client: A, keep_up: 0, keep_down: 0 }])
        .login(A, 2)
        .wait(10);
    script.then(&[Op::Cut { client: B, keep_up: 0, keep_down: 0 }]).wait(10).then(&[Op::DiskRoom(1)]).wait(50);
    assert_eq!(script.told(0), Told::Stored);
    script.login(B, 3).finish();
}
