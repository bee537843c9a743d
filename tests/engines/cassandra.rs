//! A Cassandra cluster of three nodes that the tests of a binary share, each with a keyspace or users of its own.

use super::{SCRIPT, UNAVAILABLE};
use iris::storage::cassandra::{CassandraOptions, connect, schema};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

const NODES: &str = "3";

/// See the module.
pub struct Cassandra {
    data: PathBuf,
    nodes: Vec<Value>,
}

impl Cassandra {
    /// The cluster, started by the first test that asks; it ends with this process. None, and a sentence, if this machine
    /// cannot have it. `IRIS_ENGINES` names the data folder of one that is to be used instead, and stays.
    pub fn shared(test: &str) -> Option<&'static Cassandra> {
        static SHARED: OnceLock<Result<Cassandra, String>> = OnceLock::new();
        match SHARED.get_or_init(Cassandra::start) {
            Ok(cluster) => Some(cluster),
            Err(why) => {
                eprintln!("SKIPPED: {test}: {why}");
                None
            }
        }
    }

    fn start() -> Result<Cassandra, String> {
        let kept = std::env::var_os("IRIS_ENGINES").map(PathBuf::from);
        let data = kept.unwrap_or_else(|| tempfile::tempdir().expect("a directory").keep());
        let mut cluster = Cassandra { data, nodes: Vec::new() };
        let output = cluster.up();
        if output.status.code() == Some(UNAVAILABLE) {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        cluster.nodes = nodes_of(&output);
        Ok(cluster)
    }

    fn up(&self) -> Output {
        let mut command = Command::new(SCRIPT);
        command.args(["up", "cassandra", "--nodes", NODES, "--data"]).arg(&self.data);
        if std::env::var_os("IRIS_ENGINES").is_none() {
            command.args(["--for", &std::process::id().to_string(), "--wipe"]);
        }
        command.output().expect("python3")
    }

    /// `HOST:PORT` of each node.
    pub fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(|node| text(node, "address")).collect()
    }

    /// What all nodes are in.
    pub fn data_centre(&self) -> String {
        text(&self.nodes[0], "data_center")
    }

    /// How to reach this keyspace, with tables as `iris storage init` makes them.
    pub fn options(&self, keyspace: &str) -> CassandraOptions {
        let mut options = CassandraOptions::new(self.hosts(), keyspace);
        // The machine of a test may be busy with others.
        (options.request_ms_max, options.away_ms) = (5_000, 4_000);
        options
    }

    /// Makes this keyspace.
    pub fn init(&self, keyspace: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let replicas = vec![(self.data_centre(), 3)];
        let init = schema::Init { keyspace: keyspace.into(), replicas, keep_days: 30 };
        let done = runtime.block_on(async {
            let mut options = self.options(keyspace);
            options.request_ms_max = 60_000;
            let session = connect(&options).await.expect("a session");
            schema::init(&session, &init).await.expect("tables")
        });
        done.iter().for_each(|line| eprintln!("{line}"));
    }

    /// Process ids, in the nodes' order.
    pub fn pids(&self) -> Vec<i32> {
        let started = std::fs::read(self.data.join("engines.json")).expect("a list of what was started");
        let started: Value = serde_json::from_slice(&started).expect("JSON");
        let nodes = started["cassandra"].as_array().expect("a list");
        nodes.iter().map(|node| node["pid"].as_i64().expect("a number") as i32).collect()
    }

    /// Everything that a node has on disk.
    pub fn folder(&self, node: usize) -> PathBuf {
        text(&self.nodes[node], "folder").into()
    }

    /// SIGKILL of the nodes with these numbers.
    pub fn kill(&self, numbers: &[usize]) {
        let pids = self.pids();
        let pids = numbers.iter().map(|&number| pids[number].to_string());
        assert!(Command::new("kill").arg("-KILL").args(pids).status().expect("kill").success());
    }

    /// Starts what does not run, and waits until it answers. One that comes up while its neighbours are busy may not be
    /// heard by them, and ends: it is started again.
    pub fn heal(&self) {
        let failed = || {
            let output = self.up();
            (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let whys: Vec<String> = (0..4).map_while(|_| failed()).collect();
        assert!(whys.len() < 4, "{}", whys.join("\n"));
    }
}

fn nodes_of(output: &Output) -> Vec<Value> {
    let started: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    started["cassandra"].as_array().expect("a list").clone()
}

fn text(node: &Value, name: &str) -> String {
    node[name].as_str().expect("a text").to_owned()
}
