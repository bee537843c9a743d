//! One engine, and everything it told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use iris::bell::Bell;
use iris::storage::cassandra::{CassandraEngine, CassandraOptions, CassandraThreads};
use iris::storage::{DataDir, Engine, LogEngine, StorageError, StorageOptions};
use iris_shards::id::{Body, Key, MessageId, NodeId, UserId};
use iris_shards::log::LogConfig;
use iris_shards::storage::{Entry, Mark, Place, Record, StorageEvent, StorageRequest};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// Which engine, and where its data is.
#[derive(Clone)]
pub enum Kind {
    Log(PathBuf),
    /// By the core with this number.
    Cassandra(Box<CassandraOptions>, u32),
}

impl Kind {
    pub fn log(dir: &Path) -> Kind {
        Kind::Log(dir.to_owned())
    }
}

/// What keeps the engine's other half alive.
enum Behind {
    Dir { _dir: DataDir },
    Threads { _threads: Box<CassandraThreads> },
}

/// See the module.
pub struct Store {
    kind: Kind,
    pub engine: Engine,
    _behind: Behind,
    started: Instant,
    /// Distinguishes the users of this test from all others in the same database.
    prefix: String,
    pub flushed: Vec<Place>,
    pub failed: usize,
    pub full: Vec<bool>,
    pub away: Vec<bool>,
    pub read: BTreeMap<Key, (u64, Body)>,
    pub damaged: BTreeSet<Key>,
    pub gone: BTreeSet<Key>,
    recovered: BTreeMap<UserId, BTreeMap<Key, (Place, u32)>>,
    tombstones: BTreeSet<(UserId, Key)>,
    pub loaded: Vec<UserId>,
    is_recovered: bool,
    pub marks: Vec<Mark>,
}

impl Store {
    /// Another core's, beside this one, on the same data.
    pub async fn beside(&self, node: u32) -> Store {
        let Kind::Cassandra(options, _) = &self.kind else { panic!("a log is of one core") };
        Store::open_as(Kind::Cassandra(options.clone(), node), self.prefix.clone()).await
    }

    pub async fn open(kind: Kind) -> Store {
        let prefix =
            format!("{:x}", MessageId::v7(now_ms(), rand()).bytes().iter().fold(0u128, |n, &b| n << 8 | u128::from(b)));
        Store::open_as(kind, prefix).await
    }

    async fn open_as(kind: Kind, prefix: String) -> Store {
        let (engine, behind) = open_engine(&kind);
        let mut store = Store {
            kind,
            engine,
            _behind: behind,
            started: Instant::now(),
            prefix,
            flushed: Vec::new(),
            failed: 0,
            full: Vec::new(),
            away: Vec::new(),
            read: BTreeMap::new(),
            damaged: BTreeSet::new(),
            gone: BTreeSet::new(),
            recovered: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            loaded: Vec::new(),
            is_recovered: false,
            marks: Vec::new(),
        };
        store.until("recovered", |store| store.is_recovered).await;
        store
    }

    /// Opens anew what this one leaves behind, without closing it: as after kill -9.
    pub async fn kill(self) -> Store {
        let Store { kind, engine, _behind, prefix, .. } = self;
        drop((engine, _behind));
        Store::open_as(kind, prefix).await
    }

    /// Closes, and opens anew.
    pub async fn reopen(mut self) -> Store {
        self.close().await;
        self.kill().await
    }

    pub async fn close(&mut self) {
        self.engine.close();
        self.until("closed", |store| store.engine.is_closed()).await;
    }

    pub fn is_log(&self) -> bool {
        matches!(self.kind, Kind::Log(_))
    }

    pub fn user(&self, n: u64) -> UserId {
        UserId::parse(format!("{}-{n}", self.prefix).as_bytes()).unwrap()
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        self.engine.take_events(&mut events);
        events.into_iter().for_each(|event| self.on_event(event));
        self.is_recovered |= self.engine.take_recovered();
        self.engine.commit(self.started.elapsed().as_millis() as u64);
    }

    fn on_event(&mut self, event: StorageEvent) {
        match event {
            StorageEvent::Flushed { places } => self.flushed.extend(places),
            StorageEvent::Failed { count } => {
                self.failed += count;
                self.engine.request(StorageRequest::Heard { count });
            }
            StorageEvent::Full(is_full) => self.full.push(is_full),
            StorageEvent::Read { key, sent_at, body, .. } => drop(self.read.insert(key, (sent_at, body))),
            StorageEvent::Damaged { key, .. } => drop(self.damaged.insert(key)),
            StorageEvent::Gone { key, .. } => drop(self.gone.insert(key)),
            StorageEvent::Away(is_away) => self.away.push(is_away),
            StorageEvent::Loaded { user } => self.loaded.push(user),
            StorageEvent::Recovered { record: Record::Entry(entry), body_bytes, place } => {
                self.recovered.entry(entry.user).or_default().insert(entry.key, (place, body_bytes));
            }
            StorageEvent::Recovered { record: Record::Tombstone { user, key, .. }, .. } => {
                self.recovered.entry(user.clone()).or_default().remove(&key);
                self.tombstones.insert((user, key));
            }
            StorageEvent::Recovered { record: Record::Complete(mark), .. } => self.marks.push(mark),
            StorageEvent::Relocate { place, .. } => self.engine.request(StorageRequest::Trim { place }),
        }
    }

    pub async fn until(&mut self, what: &str, is_done: impl Fn(&Store) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            let (flushed, failed) = (self.flushed.len(), self.failed);
            let told = (&self.full, &self.away);
            assert!(
                Instant::now() < deadline,
                "not {what}: {flushed} flushed, {failed} failed, full and away {told:?}"
            );
            self.turn();
            glommio::timer::sleep(Duration::from_micros(500)).await;
        }
    }

    /// Turns for some time.
    pub async fn turns(&mut self, during: Duration) {
        let end = Instant::now() + during;
        while Instant::now() < end {
            self.turn();
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Appends without waiting.
    pub fn append(&mut self, user: &UserId, key: &Key, body: &[u8]) {
        let (user, key, sent_at) = (user.clone(), key.clone(), key.id.time_ms());
        let record = Record::Entry(Entry { user, key, sent_at, body: body.into() });
        self.engine.request(StorageRequest::Append(record));
    }

    /// Appends messages of one user, and returns where they are.
    pub async fn stored(&mut self, user: &UserId, keys: &[Key]) -> Vec<Place> {
        let before = self.flushed.len();
        keys.iter().for_each(|key| self.append(user, key, body_of(key).as_ref()));
        self.until("stored", |store| store.flushed.len() == before + keys.len()).await;
        self.flushed[before..].to_vec()
    }

    /// As a core does when a client has acknowledged: the tombstone, and the entry is not needed any more.
    pub fn take(&mut self, user: &UserId, key: &Key, place: Place) {
        let (user, key) = (user.clone(), key.clone());
        let record = Record::Tombstone { user, key, taken_at: now_ms(), kills: Some(place) };
        self.engine.request(StorageRequest::Append(record));
        self.engine.request(StorageRequest::Trim { place });
    }

    pub async fn taken(&mut self, user: &UserId, entries: &[(Key, Place)]) {
        let before = self.flushed.len();
        entries.iter().for_each(|(key, place)| self.take(user, key, *place));
        self.until("taken", |store| store.flushed.len() == before + entries.len()).await;
    }

    /// Everything alive of a user, as a core learns it at its start or at the first need. The log told it while it
    /// opened, so the store has to be a new one.
    pub async fn inbox(&mut self, user: &UserId) -> Vec<(Key, Place, u32)> {
        self.load(user, &[]).await;
        self.found(user)
    }

    /// What was told of a user.
    pub fn found(&self, user: &UserId) -> Vec<(Key, Place, u32)> {
        let found = self.recovered.get(user);
        found.into_iter().flatten().map(|(key, (place, bytes))| (key.clone(), *place, *bytes)).collect()
    }

    /// Whether the engine remembers that a key was taken.
    pub async fn was_taken(&mut self, user: &UserId, key: &Key) -> bool {
        self.load(user, std::slice::from_ref(key)).await;
        self.is_tombstone(user, key)
    }

    pub fn is_tombstone(&self, user: &UserId, key: &Key) -> bool {
        self.tombstones.contains(&(user.clone(), key.clone()))
    }

    async fn load(&mut self, user: &UserId, keys: &[Key]) {
        if self.is_log() {
            return;
        }
        self.recovered.remove(user);
        let target = self.loaded.len() + 1;
        self.engine.request(StorageRequest::Load { user: user.clone(), entries: true, keys: keys.to_vec() });
        self.until("loaded", |store| store.loaded.len() == target).await;
        assert_eq!(self.loaded.last(), Some(user));
    }

    /// Reads, as a core does for a page.
    pub async fn page(&mut self, user: &UserId, entries: &[(Key, Place)]) {
        entries.iter().for_each(|(key, _)| drop(self.read.remove(key)));
        for (key, place) in entries {
            let (user, key) = (user.clone(), key.clone());
            self.engine.request(StorageRequest::Read { user, key, place: *place });
        }
        let is_told = |store: &Store, key: &Key| {
            store.read.contains_key(key) || store.damaged.contains(key) || store.gone.contains(key)
        };
        let is_done = |store: &Store| entries.iter().all(|(key, _)| is_told(store, key));
        self.until("read", is_done).await;
    }
}

fn open_engine(kind: &Kind) -> (Engine, Behind) {
    let bell = Bell::new().unwrap();
    match kind {
        Kind::Log(dir) => {
            let mut dir = open_dir(dir);
            let seat = dir.take_seats().remove(0);
            (Engine::Log(Box::new(LogEngine::open(seat, &bell).unwrap())), Behind::Dir { _dir: dir })
        }
        Kind::Cassandra(options, node) => {
            let threads = CassandraThreads::start(options).unwrap();
            let engine = CassandraEngine::open(threads.seat(0, NodeId(*node)), &bell);
            (Engine::Cassandra(Box::new(engine)), Behind::Threads { _threads: Box::new(threads) })
        }
    }
}

/// Until its exec, a child that another test starts holds every lock of this process.
fn open_dir(dir: &Path) -> DataDir {
    let log = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
    let options = StorageOptions { dir: dir.to_owned(), log, executors: 1 };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match DataDir::open(&options) {
            Err(StorageError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.unwrap(),
        }
    }
}

/// Message ids of one sender, each later than all before.
pub fn keys(sender: &str, numbers: std::ops::Range<u64>) -> Vec<Key> {
    let base = now_ms();
    let sender = UserId::parse(sender.as_bytes()).unwrap();
    let key = |n| Key { id: MessageId::v7(base, (rand() & 0xffff) << 40 | u128::from(n)), sender: sender.clone() };
    let mut keys: Vec<Key> = numbers.map(key).collect();
    keys.sort_unstable();
    keys
}

/// A body that only this key has.
pub fn body_of(key: &Key) -> Vec<u8> {
    let bytes = key.id.bytes();
    bytes.iter().cycle().take(usize::from(bytes[15]) + 16).copied().collect()
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn rand() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    u128::from(RandomState::new().hash_one(0u8))
}
