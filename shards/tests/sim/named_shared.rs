//! Scenarios by hand: cores that share one store.

use iris_shards::mutant::{self, Mutant};

use crate::ledger::Told;
use crate::plan::{FrameKind, Op, Plan};
use crate::script::{A, B, Script, cluster, one_node};

const CUT_A: Op = Op::Cut { client: A, keep_up: 0, keep_down: 0 };

fn shared(plan: Plan) -> Script {
    Script::new(Plan { is_shared: true, ..plan })
}

#[test]
fn a_core_that_dies_leaves_everything_to_the_others_at_once() {
    let mut script = shared(cluster(2, 2));
    script.login(A, 2).send(A, B, 3).wait(50);
    assert_eq!(script.told(2), Told::Stored);
    script.then(&[Op::Crash(0)]).login(B, 3).wait(20);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn what_one_core_stores_is_shown_by_the_one_that_has_the_session() {
    let mut script = shared(cluster(2, 2));
    script.login(A, 2).login(B, 3).wait(20).then(&[Op::Sever(3, 0), Op::Sever(2, 1)]).wait(20);
    // B's session is with core 1, and A reaches core 0 only.
    script.send(A, B, 3).wait(200);
    assert_eq!(script.taken(), 3);
    script.finish();
}

/// A repeats what B has taken through a core that is gone, and has not heard of it; B is away by then. What is stored.
fn stored_after_a_repeat() -> usize {
    let mut script = shared(cluster(2, 2));
    script.login(A, 2).now(&[Op::CutOnFrame(A, FrameKind::Confirm)]).send(A, B, 1);
    script.world.clients[A].is_out = true;
    script.wait(10).login(B, 3).wait(10);
    assert_eq!((script.taken(), script.told(0)), (1, Told::Nothing));
    script.world.clients[B].is_out = true;
    script.then(&[Op::Cut { client: B, keep_up: 0, keep_down: 0 }, Op::Crash(0), Op::Crash(1), Op::Restart(1)]);
    script.login(A, 2).wait(50);
    let kept = script.world.processes[1].kept().len();
    script.finish();
    kept
}

#[test]
fn a_core_asks_whether_a_message_was_taken_before_it_came() {
    assert_eq!(stored_after_a_repeat(), 0);
}

/// How many are stored when one more is sent to an inbox that another core, which is gone, has filled with six.
fn stored_in_a_full_inbox() -> usize {
    let mut plan = cluster(2, 2);
    plan.core.inbox_messages_max = 6;
    let mut script = shared(plan);
    script.login(A, 2).send(A, B, 6).wait(50).then(&[Op::Crash(0)]).send(A, B, 1).wait(50);
    let kept = script.world.processes[1].kept().len();
    script.login(B, 3).finish();
    kept
}

#[test]
fn an_inbox_is_full_for_a_core_that_has_not_seen_it_before() {
    assert_eq!(stored_in_a_full_inbox(), 6);
}

#[cfg(feature = "mutants")]
#[test]
fn rules_that_no_client_notices_are_rules() {
    let with = |broken, stored: fn() -> usize| {
        mutant::activate(Some(broken));
        let stored = stored();
        mutant::activate(None);
        stored
    };
    assert_eq!(with(Mutant::TakenIsNotAsked, stored_after_a_repeat), 1);
    assert_eq!(with(Mutant::ServesWithoutLoading, stored_in_a_full_inbox), 7);
}

#[test]
fn a_conversation_does_not_read_the_store_for_each_message() {
    let mut script = shared(one_node());
    script.login(A, 0).login(B, 0).now(&[Op::Deaf(B)]);
    for _ in 0..100 {
        script.send(A, B, 1).wait(100);
    }
    let loads = script.world.processes[0].executors[0].core.counts().loads;
    assert!(loads < 20, "{loads} loads for 100 messages in 10 s");
    script.finish();
}

#[test]
fn a_store_that_is_away_refuses_for_the_absent_and_comes_back() {
    let mut script = shared(one_node());
    script.login(A, 0).then(&[Op::DiskFull(0)]).send(A, B, 3).wait(500);
    assert_eq!((script.told(0), script.world.processes[0].kept().len()), (Told::Nothing, 0));
    assert!(script.world.ledger.counts.refused >= 3);
    script.then(&[Op::DiskRoom(0)]).wait(100);
    assert_eq!(script.told(2), Told::Stored);
    script.login(B, 0).finish();
}

#[test]
fn a_store_that_is_away_does_not_stop_who_is_there() {
    let mut script = shared(one_node());
    script.login(A, 0).login(B, 0).wait(2_000).earn_direct();
    script.then(&[Op::DiskFull(0)]).send(A, B, 5);
    assert_eq!(script.taken(), 7);
    script.finish();
}

#[test]
fn a_session_that_comes_while_the_store_is_away_gets_everything_later() {
    let mut script = shared(one_node());
    script.login(A, 0).send(A, B, 3).wait(10).then(&[Op::DiskFull(0)]).login(B, 0).wait(1_000);
    assert_eq!(script.taken(), 0);
    script.then(&[Op::DiskRoom(0)]).wait(10);
    assert_eq!(script.taken(), 3);
    script.finish();
}

#[test]
fn memory_is_for_those_who_are_there() {
    let mut script = shared(one_node());
    script.login(A, 0).send(A, B, 20).wait(50);
    let messages = |script: &Script| script.world.processes[0].executors[0].core.sums().0.messages;
    assert_eq!(messages(&script), 20);
    script.wait(61_000);
    assert_eq!(messages(&script), 0);
    script.then(&[CUT_A]).login(B, 0).wait(50);
    assert_eq!(script.taken(), 20);
    script.finish();
}
