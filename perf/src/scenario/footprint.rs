//! What memory a run's connections took, of the server's nodes together and of the kernel.

use crate::measured::Server;
use crate::measured::process::{Memory, socket_bytes};
use crate::report::Fields;
use anyhow::Result;

/// Memory at a moment.
pub struct Footprint {
    server: Option<Memory>,
    kernel: Option<u64>,
}

impl Footprint {
    /// Now.
    pub fn of(server: &Server) -> Result<Self> {
        Ok(Self { server: server.memory_quick()?, kernel: socket_bytes() })
    }

    /// What has come since, for each of `connections`, which are open still. The server's memory holds what it needs for
    /// their messages too.
    pub fn growth(&self, server: &Server, connections: u64) -> Result<Fields> {
        let now = Self::of(server)?;
        let each = |bytes: u64| (bytes as f64 / connections.max(1) as f64 * 10.0).round() / 10.0;
        let mut fields = Fields::default();
        fields.put("connections", connections);
        fields.put("server_rss_bytes", now.server.map(|memory| memory.rss));
        let grown = now.server.zip(self.server).map(|(now, before)| each(now.rss.saturating_sub(before.rss)));
        fields.put("server_rss_bytes_per_connection", grown);
        let kernel = now.kernel.zip(self.kernel).map(|(now, before)| each(now.saturating_sub(before)));
        fields.put("kernel_bytes_per_connection_both_ends", kernel);
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_of_a_cluster_counts() -> Result<()> {
        let rss = |pids: &[u32]| -> Result<Option<u64>> {
            let server = Server::attach(&["127.0.0.1:9".to_owned()], pids, None)?;
            Ok(Footprint::of(&server)?.server.map(|memory| memory.rss))
        };
        let pid = std::process::id();
        let (one, two) = (rss(&[pid])?, rss(&[pid, pid])?);
        assert!(two > one.map(|one| one + one / 2), "{two:?} of two nodes, {one:?} of one");
        assert_eq!(rss(&[])?, None);
        Ok(())
    }
}
