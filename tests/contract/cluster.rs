//! The Cassandra cluster that `scripts/engines` has started, and a keyspace of our own in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use iris::storage::cassandra::{CassandraOptions, connect, schema};
use serde_json::Value;

/// See the module.
pub struct Cluster {
    data: PathBuf,
    nodes: Vec<Value>,
}

impl Cluster {
    /// The cluster, with tables; or `None`, and a word why.
    pub fn found() -> Option<Cluster> {
        let Some(data) = std::env::var_os("IRIS_ENGINES").map(PathBuf::from) else {
            eprintln!("skipped: IRIS_ENGINES names no data folder of scripts/engines");
            return None;
        };
        let Some(nodes) = nodes(&data) else {
            eprintln!("skipped: no Cassandra was started in {}", data.display());
            return None;
        };
        let cluster = Cluster { data, nodes };
        static MADE: OnceLock<()> = OnceLock::new();
        MADE.get_or_init(|| cluster.init());
        Some(cluster)
    }

    /// How to reach it.
    pub fn options(&self) -> CassandraOptions {
        let hosts = self.nodes.iter().map(|node| text(node, "address")).collect();
        let mut options = CassandraOptions::new(hosts, "iris_contract", &text(&self.nodes[0], "data_center"));
        // The machine of a test may be busy with others.
        (options.request_ms_max, options.away_ms) = (5_000, 4_000);
        options
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The tables, as `iris storage init` makes them.
    fn init(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let copies = if self.len() == 1 { 1 } else { 3 };
        let init = schema::Init {
            keyspace: "iris_contract".into(),
            replicas: vec![(text(&self.nodes[0], "data_center"), copies)],
            keep_days: 30,
        };
        let done = runtime.block_on(async {
            let mut options = self.options();
            options.request_ms_max = 60_000;
            let session = connect(&options).await.unwrap();
            schema::init(&session, &init).await.unwrap()
        });
        done.iter().for_each(|line| eprintln!("{line}"));
    }

    /// Process ids, in the nodes' order.
    pub fn pids(&self) -> Vec<i32> {
        let nodes = nodes(&self.data).unwrap();
        nodes.iter().map(|node| node["pid"].as_i64().unwrap() as i32).collect()
    }

    /// Starts what does not run, and waits until it answers.
    pub fn heal(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/engines");
        let count = self.len().to_string();
        let mut command = Command::new(script);
        command.args(["up", "cassandra", "--nodes", &count, "--data"]).arg(&self.data);
        assert!(command.output().unwrap().status.success());
    }
}

fn nodes(data: &Path) -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(data.join("engines.json")).ok()?;
    let started: Value = serde_json::from_str(&text).ok()?;
    started["cassandra"].as_array().cloned()
}

fn text(node: &Value, name: &str) -> String {
    node[name].as_str().unwrap().to_owned()
}
