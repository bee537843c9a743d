//! Figures, not checks of the suite: `IRIS_ENGINES=… cargo test --release --test contract -- --ignored --nocapture measure`.

use std::time::{Duration, Instant};

use glommio::LocalExecutor;
use iris_shards::id::Key;
use iris_shards::storage::Place;

use super::cassandra;
use super::store::{Store, body_of, keys};

const MESSAGES: u64 = 10_000;
const PAGE: usize = 64;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What a user who comes back waits for: the inbox is found, and its first page read. The engine is a new one, as after
/// a failover.
async fn first_page(mut store: Store) -> (Store, Duration) {
    let bob = store.user(1);
    let mut times = Vec::new();
    for _ in 0..5 {
        store = store.kill().await;
        let begun = Instant::now();
        let found = store.inbox(&bob).await;
        let page: Vec<(Key, Place)> = found[..PAGE].iter().map(|(key, place, _)| (key.clone(), *place)).collect();
        store.page(&bob, &page).await;
        times.push(begun.elapsed());
        assert_eq!(found.len(), MESSAGES as usize);
        assert!(page.iter().all(|(key, _)| *store.read[key].1 == body_of(key)[..]));
    }
    (store, median(&mut times))
}

async fn drain(store: &mut Store) {
    let bob = store.user(1);
    let entries: Vec<(Key, Place)> = store.inbox(&bob).await.into_iter().map(|(key, place, _)| (key, place)).collect();
    for page in entries.chunks(PAGE) {
        store.page(&bob, page).await;
        store.taken(&bob, page).await;
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_an_inbox_that_is_filled_and_drained_again_and_again() {
    let Some((_, kind)) = cassandra() else { return };
    let cycles = number("IRIS_CYCLES", 100);
    LocalExecutor::default().run(async {
        let mut store = Store::open(kind).await;
        let bob = store.user(1);
        let (mut first, begun) = (Duration::ZERO, Instant::now());
        for cycle in 1..=cycles {
            store.stored(&bob, &keys("alice", 0..MESSAGES)).await;
            if cycle <= 2 || cycle % 10 == 0 {
                let time;
                (store, time) = first_page(store).await;
                if cycle == 1 {
                    first = time;
                }
                let ratio = time.as_secs_f64() / first.as_secs_f64();
                println!("filled {cycle} times: first page after {time:.1?}, {ratio:.2} × the first time");
            }
            drain(&mut store).await;
        }
        println!("{cycles} × {MESSAGES} messages in {:.0?}", begun.elapsed());
    });
}

/// 1,000 absent users, as many messages as the bound of writes allows.
#[test]
#[ignore = "a measurement"]
fn measure_appends() {
    let Some((_, kind)) = cassandra() else { return };
    LocalExecutor::default().run(async {
        let mut store = Store::open(kind).await;
        let users: Vec<_> = (0..1_000).map(|n| store.user(n)).collect();
        for (under_way, rounds) in [(64, 60), (1_000, 20), (10_000, 4)] {
            let (begun, before) = (Instant::now(), store.flushed.len());
            for _ in 0..rounds {
                let target = store.flushed.len() + under_way as usize;
                for (at, key) in keys("alice", 0..under_way).iter().enumerate() {
                    store.append(&users[at % 1_000], key, &[7; 64]);
                }
                store.until("flushed", |store| store.flushed.len() >= target).await;
            }
            let rate = (store.flushed.len() - before) as f64 / begun.elapsed().as_secs_f64();
            println!("{under_way} under way: {rate:.0} appends/s, {:.2?} each round", begun.elapsed() / rounds);
        }
    });
}
