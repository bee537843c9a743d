//! The embedded log on real files: reopening, damage, another number of executors, full and failing disks.
//!
//! What needs a mount is skipped, with a word, when it is not run as root.
#![allow(clippy::unwrap_used)]

#[path = "storage/bench.rs"]
mod bench;
#[path = "storage/mount.rs"]
mod mount;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glommio::LocalExecutor;
use iris::bell::Bell;
use iris::storage::{DataDir, Engine, StorageError, StorageOptions, StorageSeat};
use iris_shards::id::{Body, Key, MessageId, NodeId, UserId};
use iris_shards::log::LogConfig;
use iris_shards::slot::slot_of;
use iris_shards::storage::{Entry, Mark, Place, Record, StorageEvent, StorageRequest};

use self::mount::Mount;

const PATIENCE: Duration = Duration::from_secs(30);

/// All logs of a data directory, on one executor, and what they told.
struct Node {
    logs: Vec<Engine>,
    started: Instant,
    places: BTreeMap<u64, Place>,
    tombstones: BTreeSet<u64>,
    read: BTreeMap<u64, Body>,
    damaged: BTreeSet<u64>,
    flushed: Vec<Place>,
    failed: usize,
    full: Vec<bool>,
    recovered: usize,
    marks: Vec<Mark>,
    _dir: DataDir,
}

fn mark_of(shard: u32, replica: u32) -> Mark {
    Mark { num_shards: 9, shard, replicas: vec![NodeId(replica)] }
}

fn mark(shard: u32, replica: u32) -> Record {
    Record::Complete(mark_of(shard, replica))
}

fn options(dir: &Path, executors: u16) -> StorageOptions {
    let log = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
    StorageOptions { dir: dir.to_owned(), log, executors }
}

/// Opens a directory that this process may have closed a moment ago: until its exec, a child that another test starts
/// holds every lock of this process.
fn reopened(options: &StorageOptions) -> DataDir {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match DataDir::open(options) {
            Err(StorageError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.unwrap(),
        }
    }
}

fn user(n: u64) -> UserId {
    UserId::parse(format!("user-{}", n % 50).as_bytes()).unwrap()
}

fn key(n: u64) -> Key {
    Key { id: MessageId::v7(n, 1), sender: UserId::parse(b"sender").unwrap() }
}

fn body(n: u64) -> Body {
    (0..n % 300).map(|i| (n + i) as u8).collect::<Vec<u8>>().into()
}

fn entry(n: u64) -> Record {
    Record::Entry(Entry { user: user(n), key: key(n), sent_at: n, body: body(n) })
}

impl Node {
    async fn open(options: &StorageOptions) -> Node {
        let mut dir = reopened(options);
        let bell = Bell::new().unwrap();
        let open = |seat| Engine::open(Some(StorageSeat::Log(seat)), &bell).unwrap();
        let mut node = Node {
            logs: dir.take_seats().into_iter().map(open).collect(),
            started: Instant::now(),
            places: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            read: BTreeMap::new(),
            damaged: BTreeSet::new(),
            flushed: Vec::new(),
            failed: 0,
            full: Vec::new(),
            recovered: 0,
            marks: Vec::new(),
            _dir: dir,
        };
        let logs = node.logs.len();
        node.until(|node| node.recovered == logs).await;
        node
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn log_of(&mut self, n: u64) -> &mut Engine {
        let home = slot_of(user(n).as_bytes()).home(self.logs.len() as u16);
        &mut self.logs[usize::from(home.0)]
    }

    fn turn(&mut self) {
        let now_ms = self.now_ms();
        for at in 0..self.logs.len() {
            let mut events = Vec::new();
            self.logs[at].take_events(&mut events);
            events.into_iter().for_each(|event| self.on_event(at, event));
            self.recovered += usize::from(self.logs[at].take_recovered());
            self.logs[at].commit(now_ms);
        }
    }

    fn on_event(&mut self, at: usize, event: StorageEvent) {
        match event {
            StorageEvent::Flushed { places } => self.flushed.extend(places),
            StorageEvent::Failed { count } => {
                self.failed += count;
                self.logs[at].request(StorageRequest::Heard { count });
            }
            StorageEvent::Full(is_full) => self.full.push(is_full),
            StorageEvent::Read { key, body, .. } => drop(self.read.insert(key.id.time_ms(), body)),
            StorageEvent::Damaged { key, .. } => drop(self.damaged.insert(key.id.time_ms())),
            StorageEvent::Recovered { record: Record::Entry(entry), place, .. } => {
                let n = entry.key.id.time_ms();
                assert_eq!(slot_of(entry.user.as_bytes()).home(self.logs.len() as u16).0 as usize, at, "wrong home");
                self.places.insert(n, place);
            }
            StorageEvent::Recovered { record: Record::Tombstone { key, .. }, .. } => {
                self.places.remove(&key.id.time_ms());
                self.tombstones.insert(key.id.time_ms());
            }
            StorageEvent::Recovered { record: Record::Complete(mark), .. } => self.marks.push(mark),
            StorageEvent::Relocate { record, place } => {
                self.logs[at].request(StorageRequest::Trim { place });
                drop(record);
            }
            other @ (StorageEvent::Away(_) | StorageEvent::Loaded { .. } | StorageEvent::Gone { .. }) => {
                panic!("only shared stores say this: {other:?}")
            }
        }
    }

    async fn until(&mut self, is_done: impl Fn(&Node) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            assert!(Instant::now() < deadline, "the log does not get on: {}", self.state());
            self.turn();
            glommio::timer::sleep(Duration::from_micros(200)).await;
        }
    }

    fn state(&self) -> String {
        let logs = self.logs.iter().filter_map(|engine| match engine {
            Engine::Log(log) => Some(log.log().map(|log| log.state())),
            _ => None,
        });
        format!(
            "{} flushed, {} failed, full {:?}, {:?}",
            self.flushed.len(),
            self.failed,
            self.full,
            logs.collect::<Vec<_>>()
        )
    }

    fn append(&mut self, n: u64) {
        self.log_of(n).request(StorageRequest::Append(entry(n)));
    }

    fn take(&mut self, n: u64) {
        let record = Record::Tombstone { user: user(n), key: key(n), taken_at: n, kills: None };
        self.log_of(n).request(StorageRequest::Append(record));
    }

    async fn append_all(&mut self, numbers: std::ops::Range<u64>) {
        let target = self.flushed.len() + numbers.clone().count();
        numbers.for_each(|n| self.append(n));
        self.until(|node| node.flushed.len() + node.failed >= target).await;
    }

    async fn read_all(&mut self) {
        let wanted: Vec<(u64, Place)> = self.places.iter().map(|(&n, &place)| (n, place)).collect();
        for &(n, place) in &wanted {
            self.log_of(n).request(StorageRequest::Read { user: user(n), key: key(n), place });
        }
        self.until(|node| node.read.len() + node.damaged.len() == wanted.len()).await;
        self.read.iter().for_each(|(&n, read)| assert_eq!(*read, body(n), "{n} is served wrong"));
    }

    async fn close(mut self) {
        self.logs.iter_mut().for_each(Engine::close);
        self.until(|node| node.logs.iter().all(Engine::is_closed)).await;
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_flushed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(dir.path(), 2)).await;
        assert!(segments(dir.path()).is_empty(), "an idle log makes no files");
        node.append_all(0..5_000).await;
        (0..1_000).for_each(|n| node.take(n));
        node.until(|node| node.flushed.len() == 6_000).await;
        node.close().await;

        let mut node = Node::open(&options(dir.path(), 2)).await;
        assert!(node.places.keys().copied().eq(1_000..5_000));
        node.read_all().await;
        assert!(node.damaged.is_empty());
        // And without closing: as after kill -9.
        node.append_all(5_000..6_000).await;
        drop(node);
        let node = Node::open(&options(dir.path(), 2)).await;
        assert!(node.places.keys().copied().eq(1_000..6_000));
    });
}

#[test]
fn a_torn_end_is_cut_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(dir.path(), 1)).await;
        node.append_all(0..100).await;
        drop(node);
        let path = segments(dir.path()).pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        bytes[end - 40..end].fill(0x55);
        bytes[end + 100..end + 3_000].fill(0xaa);
        std::fs::write(&path, bytes).unwrap();

        for _ in 0..2 {
            let mut node = Node::open(&options(dir.path(), 1)).await;
            assert!(node.places.keys().copied().eq(0..99));
            node.read_all().await;
            node.append(100);
            node.until(|node| node.flushed.len() == 1).await;
            node.take(100);
            node.until(|node| node.flushed.len() == 2).await;
        }
    });
}

#[test]
fn a_flipped_bit_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(dir.path(), 1)).await;
        node.append_all(0..2_000).await;
        node.close().await;
        let mut node = Node::open(&options(dir.path(), 1)).await;
        let path = segments(dir.path()).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100_000] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        node.read_all().await;
        assert_eq!(node.damaged.len(), 1, "a running log serves it");
        drop(node);

        let mut node = Node::open(&options(dir.path(), 1)).await;
        assert_eq!(node.places.len(), 1_999, "recovery finds it");
        node.read_all().await;
        assert!(node.damaged.is_empty());
    });
}

#[test]
fn another_number_of_executors_finds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(dir.path(), 3)).await;
        node.append_all(0..3_000).await;
        (0..1_000).for_each(|n| node.take(n));
        for log in &mut node.logs {
            log.request(StorageRequest::Append(mark(7, 1)));
            log.request(StorageRequest::Append(mark(7, 2)));
        }
        node.until(|node| node.flushed.len() == 4_006).await;
        node.close().await;
        for (executors, last) in [(2, 3_000), (5, 3_100), (1, 3_200)] {
            // What an interrupted change leaves behind does not count.
            let stranger = dir.path().join("generation-77/log-0");
            std::fs::create_dir_all(&stranger).unwrap();
            std::fs::write(stranger.join("0000000001.seg"), b"unfinished").unwrap();
            std::fs::write(dir.path().join("manifest.json.new"), b"{").unwrap();

            let mut node = Node::open(&options(dir.path(), executors)).await;
            assert!(node.places.keys().copied().eq(1_000..last), "{executors} executors");
            assert!(node.tombstones.iter().copied().eq(0..1_000), "tombstones are kept");
            assert_eq!(node.marks, vec![mark_of(7, 2); usize::from(executors)], "the last mark of all logs");
            node.read_all().await;
            assert!(node.damaged.is_empty());
            node.append_all(last..last + 100).await;
            assert!(!stranger.exists());
            let generations =
                std::fs::read_dir(dir.path()).unwrap().filter(|file| file.as_ref().unwrap().path().is_dir());
            assert_eq!(generations.count(), 1);
        }
    });
}

#[test]
fn a_log_that_was_never_complete_is_not_after_a_change() {
    let dir = tempfile::tempdir().unwrap();
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(dir.path(), 2)).await;
        node.logs[0].request(StorageRequest::Append(mark(7, 1)));
        node.logs[0].request(StorageRequest::Append(mark(8, 1)));
        node.logs[1].request(StorageRequest::Append(mark(8, 2)));
        node.until(|node| node.flushed.len() == 3).await;
        node.close().await;
        let node = Node::open(&options(dir.path(), 1)).await;
        assert_eq!(node.marks, []);
    });
}

#[test]
fn mistakes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let held = DataDir::open(&options(&path, 1)).unwrap();
    let told = |result: Result<DataDir, StorageError>| result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told(DataDir::open(&options(&path, 1))).contains("is used by another process"));
    drop(held);
    drop(reopened(&options(&path, 1)));
    let mut large = options(&path, 1);
    large.log.body_bytes_max = 16 << 20;
    assert!(told(DataDir::open(&large)).contains("segment_bytes is 1048576"));
    std::fs::write(path.join("manifest.json"), r#"{"format":2}"#).unwrap();
    assert!(told(DataDir::open(&options(&path, 1))).contains("has format 2, this version reads 1"));
    std::fs::write(path.join("manifest.json"), "x").unwrap();
    assert!(told(DataDir::open(&options(&path, 1))).contains("is not a manifest of Iris"));
    let file = path.join("manifest.json/data");
    assert!(told(DataDir::open(&options(&file, 1))).contains("a part of the path is a file"));
}

#[test]
fn a_read_only_disk_is_named() {
    let Some(mount) = Mount::tmpfs("4m") else { return };
    mount.read_only();
    let error = DataDir::open(&options(mount.path(), 1)).err().unwrap().to_string();
    assert!(error.contains("is mounted read-only") && error.contains("lock"), "{error}");
}

#[test]
fn a_full_tmpfs_refuses_entries_and_takes_tombstones() {
    let Some(mount) = Mount::tmpfs("12m") else { return };
    fill_and_drain(mount.path());
}

#[test]
fn a_full_ext4_refuses_entries_and_takes_tombstones() {
    let Some(mount) = Mount::ext4("24M") else { return };
    fill_and_drain(mount.path());
}

fn fill_and_drain(dir: &Path) {
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(dir, 1)).await;
        let mut next = 0;
        while node.failed == 0 {
            node.append_all(next..next + 500).await;
            next += 500;
        }
        assert_eq!(node.full, [true]);
        let stored = node.flushed.clone();
        assert!(stored.len() > 10_000, "full after {} entries", stored.len());

        // Taken in order: the log frees segments by itself, and has room again.
        for from in (0..10_000).step_by(1_000) {
            let target = node.flushed.len() + 1_000;
            (from..from + 1_000).for_each(|n| node.take(n));
            node.until(|node| node.flushed.len() >= target).await;
            let trim = |&place| StorageRequest::Trim { place };
            stored[from as usize..][..1_000].iter().map(trim).for_each(|trim| node.logs[0].request(trim));
        }
        node.until(|node| node.full == [true, false]).await;
        let failed = node.failed;
        node.append_all(next..next + 500).await;
        assert_eq!(node.failed, failed, "there is room again");
        node.close().await;

        let mut node = Node::open(&options(dir, 1)).await;
        assert!(node.places.contains_key(&(next + 499)));
        assert!(node.places.keys().all(|&n| n >= 10_000), "taken ones are dead");
        node.read_all().await;
        assert!(node.damaged.is_empty());
        drop(node);
        no_space_for_another_number(dir).await;
    });
}

async fn no_space_for_another_number(dir: &Path) {
    let mut filler = Vec::new();
    while std::fs::write(dir.join(format!("filler-{}", filler.len())), [1; 100_000]).is_ok() {
        filler.push(());
    }
    drop(reopened(&options(dir, 1)));
    let error = DataDir::open(&options(dir, 4)).err().unwrap().to_string();
    assert!(error.contains("no space") || error.contains("free some space"), "{error}");
    let node = Node::open(&options(dir, 1)).await;
    assert!(!node.places.is_empty(), "the old logs are whole");
}

/// Runs itself as a child, because the process has to abort.
#[test]
fn a_failed_sync_ends_the_process() {
    if let Some(dir) = std::env::var_os("IRIS_TEST_FAILING_DIR") {
        return write_until_it_fails(Path::new(&dir));
    }
    let Some(mount) = Mount::ext4("64M") else { return };
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_failed_sync_ends_the_process", "--nocapture"]);
    child.env("IRIS_TEST_FAILING_DIR", mount.path());
    let child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let ready = mount.path().join("ready");
    while !ready.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    mount.fail();
    std::fs::remove_file(&ready).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGABRT), "{said}");
    assert!(said.contains("iris: fatal: cannot flush") && said.contains("0000000001.seg"), "{said}");
}

fn write_until_it_fails(dir: &Path) {
    LocalExecutor::default().run(async {
        let mut node = Node::open(&options(&dir.join("data"), 1)).await;
        node.append_all(0..10).await;
        std::fs::write(dir.join("ready"), b"").unwrap();
        while dir.join("ready").exists() {
            glommio::timer::sleep(Duration::from_millis(10)).await;
        }
        let before = node.flushed.len();
        for n in 10..10_000 {
            node.append_all(n..n + 1).await;
        }
        panic!("{} appends were told on a disk that fails", node.flushed.len() - before);
    });
}
