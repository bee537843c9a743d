//! A cluster of Iris on this machine: its one configuration file, and what each node is told beside it.
//!
//! Nodes link over loopback addresses of their own, chosen at random, so that any number of clusters fit on a machine.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The port of links; each node has an address of its own.
const LINK_PORT: u16 = 7_070;
/// An address that nobody answers at: for edges that are not to be dialled.
const NOWHERE: &str = "127.0.0.1:9";

/// How many nodes of which kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Cores; they take clients too if there are no edges.
    pub cores: u16,
    /// Edges.
    pub edges: u16,
    /// Edges cannot be dialled.
    pub is_through_core: bool,
    /// Copies of each stored message.
    pub copies: u8,
    /// HOST:PORT of the Cassandra cluster that stores them; empty: each core does.
    pub cassandra: Vec<String>,
}

impl Fleet {
    /// Whether it is one node that needs no configuration.
    pub fn is_alone(&self) -> bool {
        self.cores == 1 && self.edges == 0 && self.cassandra.is_empty()
    }

    /// The name of each node, and whether clients connect to it.
    fn nodes(&self) -> impl Iterator<Item = (String, bool)> {
        let is_edgeless = self.edges == 0;
        let cores = (0..self.cores).map(move |n| (format!("core-{n}"), is_edgeless));
        cores.chain((0..self.edges).map(|n| (format!("edge-{n}"), true)))
    }

    /// Writes the configuration of the cluster, and returns the commands that start its nodes, and which take clients.
    pub fn commands(&self, iris: &Path, directory: &Path, executors: Option<usize>) -> Result<Vec<(Command, bool)>> {
        let dice = RandomState::new().hash_one(std::process::id());
        let address = |n: usize| format!("127.{}.{}.{}:{LINK_PORT}", 64 + dice % 64, dice >> 8 & 0xff, n + 1);
        let file = directory.join("cluster.ron");
        fs::write(&file, self.configuration(&address, dice)?).context("cannot write the cluster's configuration")?;
        let command = |(n, (name, takes_clients)): (usize, (String, bool))| {
            let mut command = Command::new(iris);
            let data: PathBuf = directory.join(&name);
            command.args(["serve", "--json", "--config"]).arg(&file).arg("--data").arg(&data);
            if takes_clients {
                command.args(["--listen", "127.0.0.1:0"]);
            }
            if let Some(executors) = executors {
                command.args(["--executors", &executors.to_string()]);
            }
            let is_edge = name.starts_with("edge");
            let role = if is_edge {
                "edge"
            } else if takes_clients {
                "both"
            } else {
                "core"
            };
            let own = if is_edge && self.is_through_core { NOWHERE.to_owned() } else { address(n) };
            command.env("IRIS_PERF_NAME", &name).env("IRIS_PERF_ROLE", role);
            command.env("IRIS_PERF_LINK", address(n)).env("IRIS_PERF_ADVERTISE", own);
            (command, takes_clients)
        };
        Ok(self.nodes().enumerate().map(command).collect())
    }

    /// The admin sockets of its cores.
    pub fn core_sockets(&self, directory: &Path) -> Vec<PathBuf> {
        (0..self.cores).map(|n| directory.join(format!("core-{n}")).join("admin.sock")).collect()
    }

    fn configuration(&self, address: &impl Fn(usize) -> String, dice: u64) -> Result<String> {
        let mut nodes = String::new();
        for (n, (name, _)) in self.nodes().enumerate().filter(|(_, (name, _))| name.starts_with("core")) {
            let role = if self.edges == 0 { "both" } else { "core" };
            writeln!(nodes, "        (name: {name:?}, address: {:?}, role: {role}),", address(n))?;
        }
        let copies = self.copies;
        let storage = match self.cassandra.as_slice() {
            [] => "storage: log".to_owned(),
            hosts => format!("storage: cassandra, cassandra: (hosts: {hosts:?})"),
        };
        Ok(format!(
            r#"(
    cluster: (name: "perf", num_shards: 64, copies: {copies}, secret: "{dice:032x}", nodes: [
{nodes}    ]),
    node: (
        name: Env("IRIS_PERF_NAME"),
        role: Env("IRIS_PERF_ROLE"),
        {storage},
        link: (listen: Env("IRIS_PERF_LINK"), advertise: Env("IRIS_PERF_ADVERTISE")),
    ),
)
"#
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_connect_to_edges_where_there_are_some() {
        let fleet = Fleet { cores: 2, edges: 1, is_through_core: false, copies: 1, cassandra: Vec::new() };
        let nodes: Vec<_> = fleet.nodes().collect();
        assert_eq!(nodes, [("core-0".into(), false), ("core-1".into(), false), ("edge-0".into(), true)]);
        let alone = Fleet { edges: 0, ..fleet };
        assert!(alone.nodes().all(|(_, takes_clients)| takes_clients));
    }
}
