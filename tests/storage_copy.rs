//! `iris storage copy` between logs and a real cluster: byte for byte, both ways, with kill -9 in the middle.
//!
//! Without Java, Maven or what else the cluster needs, each test says that it is skipped, and why.
#![allow(clippy::unwrap_used)]

mod engines;
#[path = "storage_copy/logs.rs"]
mod logs;
mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iris::storage::cassandra::connect;
use tempfile::TempDir;

use self::engines::cassandra::Cassandra;
use self::logs::{append, entry, everything, open, options, tombstone};
use self::process::{Done, command, run_with};

/// A keyspace of its own, and directories.
struct Rig {
    cassandra: &'static Cassandra,
    keyspace: String,
    dir: TempDir,
    now_ms: u64,
}

impl Rig {
    /// None, and a word why, where no cluster runs.
    fn new(test: &str) -> Option<Rig> {
        let cassandra = Cassandra::shared(test)?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let (keyspace, dir) = (format!("copy_{test}_{now_ms}"), tempfile::tempdir().unwrap());
        let rig = Rig { cassandra, keyspace, dir, now_ms };
        let (hosts, copies) = (cassandra.hosts().join(","), format!("{}=3", cassandra.data_centre()));
        let init = ["storage", "init", "--hosts", &hosts, "--keyspace", &rig.keyspace, "--data-centres", &copies];
        // Tables that are made at the same time make the cluster disagree with itself for a while.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let done = process::run(&init);
        assert_eq!(done.code, Some(0), "{}", done.err);
        std::fs::write(rig.config(), configuration(&cassandra.hosts(), &rig.keyspace)).unwrap();
        Some(rig)
    }

    fn config(&self) -> PathBuf {
        self.path("node.ron")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A log with messages of some users, of which some were taken.
    fn log(&self, name: &str, (messages, users): (u64, u64)) -> PathBuf {
        let records = (0..messages).map(|n| entry(self.now_ms, n, users));
        let taken = (0..messages).filter(|n| n % 10 == 3).map(|n| tombstone(self.now_ms, n, users));
        append(&options(&self.path(name), 3), records.chain(taken).collect());
        self.path(name)
    }

    fn copy(&self, from: &str, to: &str) -> Command {
        let config = self.config();
        let config = config.to_str().unwrap();
        command(&["storage", "copy", "--from", from, "--to", to, "--executors", "2", "--config", config])
    }

    fn to_cassandra(&self, log: &Path) -> Done {
        let done = run_with(self.copy(&of(log), "cassandra"), "");
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        done
    }

    fn to_log(&self, log: &Path) -> Done {
        let done = run_with(self.copy("cassandra", &of(log)), "");
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        done
    }

    /// Runs a statement, in which `{}` stands for the keyspace.
    fn execute(&self, statement: &str) {
        let statement = statement.replace("{}", &self.keyspace);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut options = self.cassandra.options(&self.keyspace);
            options.request_ms_max = 60_000;
            let session = connect(&options).await.unwrap();
            session.query_unpaged(statement, ()).await.unwrap();
        });
    }
}

fn configuration(hosts: &[String], keyspace: &str) -> String {
    format!("(node: (storage: cassandra, cassandra: (hosts: {hosts:?}, keyspace: {keyspace:?})))")
}

fn of(log: &Path) -> String {
    format!("log:{}", log.display())
}

/// The command is killed after ever longer times, until it ends by itself. How often it was killed.
fn with_kills(command: impl Fn() -> Command) -> usize {
    for kills in 0.. {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_millis(150 + 130 * kills);
        while std::time::Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "it ends with {status}");
                return kills as usize;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    unreachable!("it ends some time")
}

#[test]
fn a_round_trip_with_kills_changes_no_byte() {
    let Some(rig) = Rig::new("round") else { return };
    let (there, back) = (rig.log("there", (20_000, 1_500)), rig.path("back"));
    let kills = with_kills(|| rig.copy(&of(&there), "cassandra"));
    let done = rig.to_cassandra(&there);
    assert!(done.out.starts_with("copied 0 messages and 0 taken keys"), "a second copy writes nothing: {}", done.out);
    let kills_back = with_kills(|| rig.copy("cassandra", &of(&back)));
    eprintln!("killed {kills} times on the way there, and {kills_back} times on the way back");
    assert!(kills > 2 && kills_back > 2);
    let records = everything(&back).records;
    let done = rig.to_log(&back);
    assert!(done.out.starts_with("copied 0 messages and 0 taken keys"), "{}", done.out);
    let (first, last) = (everything(&there), everything(&back));
    assert_eq!(last.records, records);
    assert_eq!((first.messages.len(), first.taken.len()), (18_000, 2_000));
    assert!(first.messages == last.messages, "messages differ");
    assert!(first.taken == last.taken, "taken keys differ");
    assert_eq!(last.records, 20_000, "each message and each taken key once");
}

#[test]
fn what_was_taken_on_either_side_is_dead_on_both() {
    let Some(rig) = Rig::new("taken") else { return };
    let (log, users) = (rig.log("log", (200, 5)), 5);
    rig.to_cassandra(&log);
    // Two are taken in the cluster, one by a node that dies before it deletes the row. Then one in the log.
    for n in [1, 2] {
        let logs::Everything { messages, .. } = everything(&log);
        let key = logs::key(rig.now_ms, n);
        let ((user, key), _) = messages.get_key_value(&(logs::user(n % users), key)).unwrap();
        let id: String = key.id.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let (bucket, at) = (key.id.time_ms() / 86_400_000, rig.now_ms);
        rig.execute(&format!(
            "INSERT INTO {{}}.taken (user, bucket, id, sender, taken_at) VALUES ('{user}', {bucket}, 0x{id}, '{}', {at})",
            key.sender
        ));
    }
    append(&options(&log, 3), vec![tombstone(rig.now_ms, 4, users)]);
    let done = rig.to_cassandra(&log);
    assert!(done.out.starts_with("copied 0 messages and 1 taken keys of 5 users"), "{}", done.out);
    assert!(done.out.contains("the same 177 messages"), "{}", done.out);
    // The other way: the log hears of what the cluster knows, and nothing is shown again.
    let done = rig.to_log(&log);
    assert!(done.out.starts_with("copied 0 messages and 2 taken keys"), "{}", done.out);
    let found = everything(&log);
    assert_eq!((found.messages.len(), found.taken.len()), (177, 23));
    // A log that has only what was taken there.
    let new = rig.path("new");
    rig.to_log(&new);
    assert!(everything(&new).messages == found.messages && everything(&new).taken == found.taken);
}

#[test]
fn a_union_of_two_logs_has_each_message_once() {
    let Some(rig) = Rig::new("union") else { return };
    let (one, other, both) = (rig.path("one"), rig.path("other"), rig.path("both"));
    append(&options(&one, 1), (0..60).map(|n| entry(rig.now_ms, n, 3)).collect());
    append(&options(&other, 2), (30..90).map(|n| entry(rig.now_ms, n, 3)).collect());
    rig.to_cassandra(&one);
    let done = rig.to_cassandra(&other);
    assert!(done.out.starts_with("copied 30 messages"), "{}", done.out);
    assert!(done.out.contains("30 more messages are only where it was copied to"), "{}", done.out);
    rig.to_log(&both);
    let found = everything(&both);
    assert_eq!((found.messages.len(), found.records), (90, 90));
}

#[test]
fn what_is_wrong_is_named() {
    let Some(rig) = Rig::new("wrong") else { return };
    let log = rig.log("log", (10, 2));
    let fails = |command: Command, code, word: &str| {
        let done = run_with(command, "");
        assert!(done.code == Some(code) && done.err.contains(word), "{:?} {}", done.code, done.err);
    };
    let held = open(&options(&log, 3));
    fails(rig.copy(&of(&log), "cassandra"), 1, "lock is used by another process: stop it");
    fails(rig.copy("cassandra", &of(&log)), 1, "lock is used by another process: stop it");
    drop(held);
    fails(rig.copy(&of(&rig.path("nothing")), "cassandra"), 2, "has no messages of Iris");
    assert!(!rig.path("nothing").exists(), "nothing is made");
    fails(rig.copy(&of(&log), &of(&log)), 2, "one of --from and --to");
    let without = command(&["storage", "copy", "--from", &of(&log), "--to", "cassandra"]);
    fails(without, 2, "name one with --config");
    rig.execute("DROP KEYSPACE {}");
    fails(rig.copy(&of(&log), "cassandra"), 1, "run `iris storage init`");
}

#[test]
fn a_cluster_that_is_away_is_named_and_the_copy_may_be_run_again() {
    let dir = tempfile::tempdir().unwrap();
    append(&options(dir.path(), 1), vec![entry(1_800_000_000_000, 1, 1)]);
    let config = dir.path().join("node.ron");
    std::fs::write(&config, configuration(&["127.0.0.1:1".to_owned()], "iris")).unwrap();
    let log = of(dir.path());
    let command =
        command(&["storage", "copy", "--from", &log, "--to", "cassandra", "--config", config.to_str().unwrap()]);
    let done = run_with(command, "");
    assert_eq!(done.code, Some(4), "{}", done.err);
    assert!(done.err.contains("127.0.0.1:1") && done.err.contains("run the same command again"), "{}", done.err);
}
