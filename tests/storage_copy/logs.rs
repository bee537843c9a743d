//! Logs as a node writes them, and everything that is in their files, read without anything of the copy.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use glommio::LocalExecutor;
use iris::bell::Bell;
use iris::storage::{DataDir, LogEngine, StorageError, StorageOptions};
use iris_shards::id::{Body, Key, MessageId, UserId};
use iris_shards::log::{LogConfig, Recovery};
use iris_shards::slot::slot_of;
use iris_shards::storage::{Entry, Record, StorageEvent, StorageRequest};

/// What is in some logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Everything {
    pub messages: BTreeMap<(UserId, Key), (u64, Body)>,
    pub taken: BTreeMap<(UserId, Key), u64>,
    /// Records, with those that are there more than once.
    pub records: usize,
}

pub fn options(dir: &Path, executors: u16) -> StorageOptions {
    let log = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
    StorageOptions { dir: dir.to_owned(), log, executors }
}

/// As soon as no child that is just being started holds the lock.
pub fn open(options: &StorageOptions) -> DataDir {
    loop {
        match DataDir::open(options) {
            Err(StorageError::Locked { .. }) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
}

/// Appends records to the logs of a directory.
pub fn append(options: &StorageOptions, records: Vec<Record>) {
    LocalExecutor::default().run(async {
        let mut dir = open(options);
        let bell = Bell::new().unwrap();
        let mut logs: Vec<LogEngine> =
            dir.take_seats().into_iter().map(|seat| LogEngine::open(seat, &bell).unwrap()).collect();
        for record in records {
            let (Record::Entry(Entry { user, .. }) | Record::Tombstone { user, .. }) = &record else { continue };
            let home = slot_of(user.as_bytes()).home(logs.len() as u16);
            logs[usize::from(home.0)].request(StorageRequest::Append(record));
        }
        logs.iter_mut().for_each(LogEngine::close);
        let mut now_ms = 0;
        while !logs.iter().all(LogEngine::is_closed) {
            now_ms += 1;
            for log in &mut logs {
                log.take_events(&mut Vec::new());
                log.commit(now_ms);
            }
            glommio::timer::sleep(Duration::from_micros(500)).await;
        }
    });
}

/// Reads all files of a directory's logs, in which nothing may be damaged.
pub fn everything(dir: &Path) -> Everything {
    let text = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let config = LogConfig { salt: manifest["salt"].as_u64().unwrap() as u32, ..LogConfig::default() };
    let mut found = Everything::default();
    for executor in 0..manifest["executors"].as_u64().unwrap() {
        read(&dir.join(format!("generation-{}/log-{executor}", manifest["generation"])), &config, &mut found);
    }
    found
}

fn read(log: &Path, config: &LogConfig, found: &mut Everything) {
    let files = std::fs::read_dir(log).unwrap().map(|file| file.unwrap().path());
    let number = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u32>().unwrap();
    let files = files.map(|path| (number(&path), std::fs::read(path).unwrap())).collect();
    let mut recovery = Recovery::new(config, files);
    let (mut events, mut damage) = (Vec::new(), Vec::new());
    while recovery.step(usize::MAX, &mut events, &mut damage) {}
    assert!(damage.is_empty(), "{damage:?}");
    for event in events {
        let StorageEvent::Recovered { place, .. } = event else { continue };
        found.records += 1;
        match recovery.record(place).unwrap() {
            Record::Entry(Entry { user, key, sent_at, body }) => {
                drop(found.messages.insert((user, key), (sent_at, body)));
            }
            Record::Tombstone { user, key, taken_at, .. } => drop(found.taken.insert((user, key), taken_at)),
            Record::Complete(_) => {}
        }
    }
    let Everything { messages, taken, .. } = found;
    messages.retain(|of, _| !taken.contains_key(of));
}

pub fn user(n: u64) -> UserId {
    UserId::parse(format!("user-{n} ÿ").as_bytes()).unwrap()
}

/// Of the last days, several in one millisecond.
pub fn key(now_ms: u64, n: u64) -> Key {
    let sender = UserId::parse(format!("sender-{}", n % 7).as_bytes()).unwrap();
    Key { id: MessageId::v7(now_ms - n / 3 * 40_000, n.into()), sender }
}

pub fn body(n: u64) -> Body {
    let bytes = if n.is_multiple_of(97) { 60_000 } else { n % 300 };
    (0..bytes).map(|i| (n + i * 7) as u8).collect::<Vec<u8>>().into()
}

pub fn entry(now_ms: u64, n: u64, users: u64) -> Record {
    let (user, key) = (user(n % users), key(now_ms, n));
    Record::Entry(Entry { user, sent_at: key.id.time_ms() + n % 5, key, body: body(n) })
}

pub fn tombstone(now_ms: u64, n: u64, users: u64) -> Record {
    Record::Tombstone { user: user(n % users), key: key(now_ms, n), taken_at: now_ms - n, kills: None }
}
