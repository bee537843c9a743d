//! What every engine owes a core.

use iris_shards::id::Key;
use iris_shards::storage::{Mark, Place, Record, StorageRequest};

use super::store::{Store, body_of, keys};

fn zipped(keys: &[Key], places: &[Place]) -> Vec<(Key, Place)> {
    keys.iter().cloned().zip(places.iter().copied()).collect()
}

/// Record n of `Flushed` is the n-th append, whatever the engine writes first.
pub async fn flushes_are_told_in_the_order_of_appends(mut store: Store) {
    let keys = keys("alice", 0..600);
    let users: Vec<_> = (0..20).map(|n| store.user(n)).collect();
    let of = |at: usize| &users[at * 7 % 20];
    keys.iter().enumerate().for_each(|(at, key)| store.append(of(at), key, &body_of(key)));
    store.until("flushed", |store| store.flushed.len() == 600).await;
    let places = store.flushed.clone();
    for (at, (key, place)) in keys.iter().zip(&places).enumerate().step_by(11) {
        store.page(of(at), &[(key.clone(), *place)]).await;
        assert_eq!(*store.read[key].1, body_of(key)[..], "place {at} is another message's");
    }
}

pub async fn a_page_is_read_as_it_was_written(mut store: Store) {
    let (bob, eve) = (store.user(1), store.user(2));
    let (to_bob, to_eve) = (keys("alice", 0..200), keys("alice", 500..600));
    let bobs = store.stored(&bob, &to_bob).await;
    let eves = store.stored(&eve, &to_eve).await;
    for from in [0, 64, 136] {
        let mut page = zipped(&to_bob[from..from + 64], &bobs[from..from + 64]);
        page.reverse();
        store.page(&bob, &page).await;
        store.page(&eve, &zipped(&to_eve[..30], &eves[..30])).await;
    }
    assert!(store.damaged.is_empty());
    for (key, (sent_at, body)) in &store.read {
        assert_eq!((**body).to_vec(), body_of(key));
        assert_eq!(*sent_at, key.id.time_ms());
    }
}

pub async fn bodies_of_all_sizes_come_back(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..5);
    let sizes = [0, 1, 255, 4_097, 65_536];
    for (key, size) in keys.iter().zip(sizes) {
        store.append(&bob, key, &vec![size as u8; size]);
    }
    store.until("flushed", |store| store.flushed.len() == 5).await;
    let page = zipped(&keys, &store.flushed);
    store.page(&bob, &page).await;
    for (key, size) in keys.iter().zip(sizes) {
        assert_eq!(*store.read[key].1, vec![size as u8; size][..]);
    }
    store = store.kill().await;
    let found: Vec<u32> = store.inbox(&bob).await.into_iter().map(|(_, _, bytes)| bytes).collect();
    assert_eq!(found, sizes.map(|size| size as u32));
}

pub async fn what_is_told_is_there_after_kill(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..300);
    store.stored(&bob, &keys).await;
    store = store.kill().await;
    let found = store.inbox(&bob).await;
    assert!(found.iter().map(|(key, ..)| key).eq(&keys), "{} of 300", found.len());
    let page: Vec<(Key, Place)> = found.into_iter().map(|(key, place, _)| (key, place)).collect();
    store.page(&bob, &page).await;
    assert!(page.iter().all(|(key, _)| *store.read[key].1 == body_of(key)[..]));
}

/// Nothing younger is there without what is older, or a message would be seen before one that was sent earlier.
pub async fn what_is_there_after_kill_is_a_prefix_of_each_inbox(mut store: Store) {
    let users: Vec<_> = (0..5).map(|n| store.user(n)).collect();
    let keys = keys("alice", 0..2_000);
    for round in keys.chunks(50) {
        round.iter().enumerate().for_each(|(at, key)| store.append(&users[at % 5], key, &body_of(key)));
        store.turns(std::time::Duration::from_millis(2)).await;
    }
    let told = store.flushed.len();
    store = store.kill().await;
    for (n, user) in users.iter().enumerate() {
        let sent = keys.chunks(50).flat_map(|round| round.iter().skip(n).step_by(5));
        let found: Vec<Key> = store.inbox(user).await.into_iter().map(|(key, ..)| key).collect();
        assert!(sent.clone().take(found.len()).eq(&found), "user {n}: {} found are no prefix", found.len());
        assert!(found.len() >= told / 50 * 10, "user {n}: {} found, and {told} were told", found.len());
    }
}

/// Not "up to": what was not taken stays, in the middle and at both ends.
pub async fn an_acknowledgement_is_of_one_message(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..10);
    store.stored(&bob, &keys).await;
    store = store.reopen().await;
    let found = store.inbox(&bob).await;
    let gone: Vec<(Key, Place)> = [5, 3, 6].map(|at: usize| (found[at].0.clone(), found[at].1)).to_vec();
    store.taken(&bob, &gone).await;
    store = store.kill().await;
    let left: Vec<Key> = store.inbox(&bob).await.into_iter().map(|(key, ..)| key).collect();
    let expected: Vec<Key> = [0, 1, 2, 4, 7, 8, 9].map(|at: usize| keys[at].clone()).to_vec();
    assert_eq!(left, expected);
}

pub async fn what_is_taken_stays_away(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..120);
    let places = store.stored(&bob, &keys).await;
    // Without a load before, and then with one.
    store.taken(&bob, &zipped(&keys[..40], &places[..40])).await;
    store = store.kill().await;
    let found = store.inbox(&bob).await;
    assert!(found.iter().map(|(key, ..)| key).eq(&keys[40..]));
    let gone: Vec<(Key, Place)> = found[..40].iter().map(|(key, place, _)| (key.clone(), *place)).collect();
    store.taken(&bob, &gone).await;
    store = store.reopen().await;
    let found = store.inbox(&bob).await;
    assert!(found.iter().map(|(key, ..)| key).eq(&keys[80..]));
    let gone: Vec<(Key, Place)> = found.into_iter().map(|(key, place, _)| (key, place)).collect();
    store.taken(&bob, &gone).await;
    store = store.kill().await;
    assert!(store.inbox(&bob).await.is_empty());
}

/// So that a repeat does not make a second message.
pub async fn what_was_taken_is_remembered(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..4);
    let places = store.stored(&bob, &keys).await;
    store.taken(&bob, &zipped(&keys[..2], &places[..2])).await;
    store = store.kill().await;
    assert!(store.was_taken(&bob, &keys[0]).await && store.was_taken(&bob, &keys[1]).await);
    assert!(!store.was_taken(&bob, &keys[2]).await, "it was not");
}

pub async fn a_key_that_comes_again_replaces(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..2);
    let first = store.stored(&bob, &keys).await;
    let second = store.stored(&bob, &keys[..1]).await;
    assert_ne!(first[0], second[0]);
    store = store.kill().await;
    let found = store.inbox(&bob).await;
    assert_eq!(found.len(), 2, "one per key");
    store.page(&bob, &[(found[0].0.clone(), found[0].1)]).await;
    assert_eq!(*store.read[&keys[0]].1, body_of(&keys[0])[..]);
}

/// Where nothing is kept that could be incomplete, the mark is told and not found: the core does without.
pub async fn the_mark_is_behind_what_it_counts_on(mut store: Store) {
    let bob = store.user(1);
    let mark = Mark { num_shards: 4, shard: 3, replicas: Vec::new() };
    keys("alice", 0..50).iter().for_each(|key| store.append(&bob, key, b"before"));
    store.engine.request(StorageRequest::Append(Record::Complete(mark.clone())));
    store.until("flushed", |store| store.flushed.len() == 51).await;
    store = store.kill().await;
    assert!(store.marks == [mark] || !store.is_log());
    assert_eq!(store.inbox(&bob).await.len(), 50);
}

pub async fn closing_waits_for_everything(mut store: Store) {
    let bob = store.user(1);
    let keys = keys("alice", 0..700);
    keys.iter().for_each(|key| store.append(&bob, key, &body_of(key)));
    store.close().await;
    store.until("flushed", |store| store.flushed.len() == 700).await;
    store = store.kill().await;
    assert_eq!(store.inbox(&bob).await.len(), 700);
}

pub async fn an_emptied_inbox_is_filled_again(mut store: Store) {
    let bob = store.user(1);
    if !store.is_log() {
        assert!(store.inbox(&bob).await.is_empty());
    }
    for round in 0..12 {
        let keys = keys("alice", round * 1_000..round * 1_000 + 100);
        let places = store.stored(&bob, &keys).await;
        let page = zipped(&keys, &places);
        store.page(&bob, &page[..64]).await;
        assert!(page[..64].iter().all(|(key, _)| *store.read[key].1 == body_of(key)[..]));
        store.taken(&bob, &page).await;
    }
    let last = keys("alice", 90_000..90_010);
    store.stored(&bob, &last).await;
    store = store.reopen().await;
    assert!(store.inbox(&bob).await.iter().map(|(key, ..)| key).eq(&last));
}
