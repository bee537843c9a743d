//! What "away" means: the core is told, nothing is told to be stored that is not, and it heals by itself.

use std::sync::PoisonError;
use std::time::Duration;

use glommio::LocalExecutor;
use rustix::process::{Pid, Signal, kill_process};

use super::engines::cassandra::Cassandra;
use super::store::{Store, body_of, keys};
use super::{NODES, cassandra};

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn on_three(rule: impl AsyncFnOnce(Store, &Cassandra)) {
    let Some((cluster, kind)) = cassandra() else { return };
    let _alone = NODES.write().unwrap_or_else(PoisonError::into_inner);
    cluster.heal();
    LocalExecutor::default().run(async {
        let store = Store::open(kind).await;
        rule(store, cluster).await;
    });
    cluster.heal();
}

/// Everything that was appended is told once, in order, and is there.
async fn check_all(mut store: Store, user: u64, keys: &[iris_shards::id::Key]) {
    let user = store.user(user);
    let flushed = store.flushed.clone();
    store = store.reopen().await;
    let found = store.inbox(&user).await;
    assert!(found.iter().map(|(key, ..)| key).eq(keys), "{} of {} are there", found.len(), keys.len());
    assert!(found.iter().map(|(_, place, _)| place).eq(&flushed), "each where it was told");
}

#[test]
fn one_of_three_is_killed() {
    on_three(async |mut store, cluster| {
        let bob = store.user(1);
        let keys = keys("alice", 0..600);
        for (n, key) in keys.iter().enumerate() {
            store.append(&bob, key, &body_of(key));
            store.turns(Duration::from_millis(2)).await;
            if n == 200 {
                signal(cluster.pids()[1], Signal::KILL);
            }
        }
        store.until("flushed", |store| store.flushed.len() == 600).await;
        check_all(store, 1, &keys).await;
    });
}

#[test]
fn two_of_three_are_killed() {
    on_three(async |mut store, cluster| {
        let bob = store.user(1);
        let keys = keys("alice", 0..300);
        store.stored(&bob, &keys[..100]).await;
        cluster.pids()[1..].iter().for_each(|&pid| signal(pid, Signal::KILL));
        keys[100..].iter().for_each(|key| store.append(&bob, key, &body_of(key)));
        store.until("told that it is away", |store| store.away == [true]).await;
        store.turns(Duration::from_secs(3)).await;
        assert_eq!(store.flushed.len(), 100, "stored below the consistency level");
        std::thread::scope(|scope| {
            let healing = scope.spawn(|| cluster.heal());
            while !healing.is_finished() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        store.until("flushed", |store| store.flushed.len() == 300 && store.away == [true, false]).await;
        check_all(store, 1, &keys).await;
    });
}

#[test]
fn two_of_three_stand_still_for_a_while() {
    on_three(async |mut store, cluster| {
        let bob = store.user(1);
        let keys = keys("alice", 0..400);
        store.stored(&bob, &keys[..100]).await;
        let pids = cluster.pids();
        pids[1..].iter().for_each(|&pid| signal(pid, Signal::STOP));
        for key in &keys[100..] {
            store.append(&bob, key, &body_of(key));
            store.turns(Duration::from_millis(30)).await;
        }
        assert_eq!(store.away, [true]);
        pids[1..].iter().for_each(|&pid| signal(pid, Signal::CONT));
        store.until("flushed", |store| store.flushed.len() == 400 && store.away == [true, false]).await;
        check_all(store, 1, &keys).await;
    });
}
