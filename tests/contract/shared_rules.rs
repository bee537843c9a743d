//! What an engine that all cores share owes them beyond `rules`.

use iris_shards::id::Key;
use iris_shards::storage::{Place, StorageRequest};

use super::store::{Store, body_of, keys};

const OTHER: u32 = 0xbeef;

fn zipped(keys: &[Key], places: &[Place]) -> Vec<(Key, Place)> {
    keys.iter().cloned().zip(places.iter().copied()).collect()
}

fn pages(found: Vec<(Key, Place, u32)>) -> Vec<(Key, Place)> {
    found.into_iter().map(|(key, place, _)| (key, place)).collect()
}

fn names(found: &[(Key, Place, u32)]) -> Vec<Key> {
    found.iter().map(|(key, ..)| key.clone()).collect()
}

pub async fn what_one_core_stores_is_loaded_by_another(mut store: Store) {
    let bob = store.user(1);
    let (first, second) = (keys("alice", 0..100), keys("carol", 0..50));
    store.stored(&bob, &first).await;
    let mut other = store.beside(OTHER).await;
    other.stored(&bob, &second).await;
    for store in [&mut store, &mut other] {
        let found = store.inbox(&bob).await;
        assert_eq!(found.len(), 150);
        let page = pages(found);
        store.page(&bob, &page).await;
        assert!(page.iter().all(|(key, _)| *store.read[key].1 == body_of(key)[..]));
    }
}

/// One `Loaded` for each `Load`, and the order of requests of a user holds.
pub async fn a_load_sees_what_was_appended_before_and_not_what_is_behind(mut store: Store) {
    let (bob, keys) = (store.user(1), keys("alice", 0..30));
    keys[..20].iter().for_each(|key| store.append(&bob, key, &body_of(key)));
    for _ in 0..2 {
        store.engine.request(StorageRequest::Load { user: bob.clone(), entries: true, keys: Vec::new() });
    }
    keys[20..].iter().for_each(|key| store.append(&bob, key, &body_of(key)));
    store.until("loaded", |store| store.loaded.len() == 2).await;
    assert_eq!(store.found(&bob).len(), 20);
    store.until("flushed", |store| store.flushed.len() == 30).await;
    assert_eq!(names(&store.inbox(&bob).await), keys);
}

pub async fn of_two_rows_of_a_key_one_is_told_and_one_is_left(mut store: Store) {
    let (bob, keys) = (store.user(1), keys("alice", 0..10));
    let stored = store.stored(&bob, &keys).await;
    let mut other = store.beside(OTHER).await;
    // Without a load, as if both had taken it at the same time.
    let again = other.stored(&bob, &keys[..5]).await;
    let found = other.inbox(&bob).await;
    assert_eq!(names(&found), keys);
    // The others were deleted behind the load.
    other.until("idle", |store| !store.engine.is_busy()).await;
    store.page(&bob, &zipped(&keys, &stored)).await;
    other.page(&bob, &zipped(&keys, &again)).await;
    assert_eq!(store.gone.len() + other.gone.len(), 5, "one of the two");
    (store.gone, other.gone) = Default::default();
    other.page(&bob, &pages(found)).await;
    let found = store.inbox(&bob).await;
    store.page(&bob, &pages(found)).await;
    assert!(store.gone.is_empty() && other.gone.is_empty(), "what was told is there, whoever asks");
}

/// A sender that was not answered tries another core.
pub async fn what_is_found_is_told_to_who_appends_it_again(mut store: Store) {
    let (bob, keys) = (store.user(1), keys("alice", 0..10));
    store.stored(&bob, &keys).await;
    let mut other = store.beside(OTHER).await;
    other.engine.request(StorageRequest::Load { user: bob.clone(), entries: true, keys: Vec::new() });
    let places = other.stored(&bob, &keys).await;
    let found = other.inbox(&bob).await;
    assert!(found.iter().map(|(_, place, _)| *place).eq(places.iter().copied()), "where they were already");
    let page = zipped(&keys, &places);
    other.taken(&bob, &page).await;
    assert!(store.inbox(&bob).await.is_empty(), "nothing was written twice");
}

pub async fn what_another_core_took_is_gone(mut store: Store) {
    let (bob, keys) = (store.user(1), keys("alice", 0..10));
    let places = store.stored(&bob, &keys).await;
    let mut other = store.beside(OTHER).await;
    let found = other.inbox(&bob).await;
    let page = pages(found);
    other.taken(&bob, &page[..4]).await;
    store.page(&bob, &zipped(&keys, &places)).await;
    assert!(store.gone.iter().eq(&keys[..4]) && store.damaged.is_empty());
    assert!(keys[4..].iter().all(|key| *store.read[key].1 == body_of(key)[..]));
}

pub async fn taken_keys_are_told_and_others_are_not(mut store: Store) {
    let (bob, keys) = (store.user(1), keys("alice", 0..200));
    let places = store.stored(&bob, &keys).await;
    let page = zipped(&keys, &places);
    store.taken(&bob, &page[..150]).await;
    let mut other = store.beside(OTHER).await;
    other.engine.request(StorageRequest::Load { user: bob.clone(), entries: true, keys: keys[100..].to_vec() });
    other.until("loaded", |store| store.loaded.len() == 1).await;
    assert!(keys.iter().enumerate().all(|(at, key)| other.is_tombstone(&bob, key) == (100..150).contains(&at)));
    assert_eq!(names(&other.found(&bob)), keys[150..]);
    let mut third = store.beside(OTHER + 1).await;
    third.engine.request(StorageRequest::Load { user: bob.clone(), entries: false, keys: keys[..2].to_vec() });
    third.until("loaded", |store| store.loaded.len() == 1).await;
    assert!(third.found(&bob).is_empty() && third.is_tombstone(&bob, &keys[0]));
}
