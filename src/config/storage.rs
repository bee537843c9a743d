//! Judges where messages are kept: in the node's own log, or in a Cassandra or ScyllaDB cluster and how that is reached.
//!
//! Certificates are read when the node starts; here only their place is known.

use std::path::PathBuf;

use super::check::Check;
use super::fault::Problem;
use super::used::Storage;
use super::written::{self, Consistency, Written};
use crate::storage::cassandra::{CassandraOptions, Level, TlsFiles};

/// Hosts that are named; the rest is found through them.
const HOSTS_MAX: usize = 64;
/// What Cassandra takes.
const KEYSPACE_BYTES_MAX: usize = 48;
/// What the database keeps longer than the core does, which drops it properly.
const SLACK_MS: u64 = 24 * super::check::HOUR_MS;

impl Check<'_> {
    pub fn storage(&mut self, written: &Written) -> Storage {
        let node = &written.node;
        match node.storage {
            written::Storage::Log => Storage::Log,
            written::Storage::Cassandra => Storage::Cassandra(self.cassandra(written)),
            written::Storage::Scylla => Storage::Scylla(self.cassandra(written)),
        }
    }

    fn cassandra(&mut self, written: &Written) -> CassandraOptions {
        let (cassandra, limits) = (&written.node.cassandra, &written.cluster.limits);
        self.hosts(&cassandra.hosts);
        self.keyspace(&cassandra.keyspace);
        let mut options = CassandraOptions::new(cassandra.hosts.clone(), &cassandra.keyspace);
        options.data_centre = (!cassandra.data_centre.is_empty()).then(|| cassandra.data_centre.clone());
        options.consistency = level(cassandra.consistency);
        if !cassandra.user.is_empty() {
            options.login = Some((cassandra.user.clone(), cassandra.password.clone()));
        } else if !cassandra.password.reveal().is_empty() {
            let problem = Problem::Needed("a password is a user's: write node.cassandra.user, too");
            self.fault("node.cassandra.password", problem);
        }
        options.tls = self.cassandra_tls(cassandra, written.node.insecure);
        options.threads = self.within_u32("node.cassandra.threads", cassandra.threads, 1, 64) as u16;
        options.writes_max = self.within_usize("node.cassandra.writes_max", cassandra.writes_max, 1, 65_536);
        options.away_ms = self.within("node.cassandra.away_ms", cassandra.away_ms, 100, 600_000);
        options.keep_ms = limits.inbox_age_ms_max.saturating_add(SLACK_MS);
        options.taken_ms = limits.tombstone_keep_ms.saturating_add(SLACK_MS);
        options
    }

    fn hosts(&mut self, hosts: &[String]) {
        if hosts.is_empty() || hosts.len() > HOSTS_MAX {
            let problem = Problem::BadLength { length: hosts.len(), unit: "entries", min: 1, max: HOSTS_MAX };
            self.fault("node.cassandra.hosts", problem);
        }
        hosts.iter().for_each(|host| self.peer("node.cassandra.hosts", host));
    }

    fn keyspace(&mut self, keyspace: &str) {
        self.text("node.cassandra.keyspace", keyspace, KEYSPACE_BYTES_MAX);
        if !keyspace.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.fault(
                "node.cassandra.keyspace",
                Problem::Needed("a keyspace has letters, digits and underscores only"),
            );
        }
    }

    fn cassandra_tls(&mut self, cassandra: &written::Cassandra, insecure: bool) -> Option<TlsFiles> {
        let mut file = |name: &str, path: &written::Path| {
            let written::Path::Is(path) = path else { return None };
            let field = format!("node.cassandra.tls.{name}");
            if !cassandra.encrypted {
                self.fault(&field, Problem::Needed("certificates are for `encrypted: true`"));
            }
            Some(PathBuf::from(self.text(&field, path, 4_095)))
        };
        let files = TlsFiles { ca: file("ca", &cassandra.tls.ca), identity: file("identity", &cassandra.tls.identity) };
        if cassandra.encrypted {
            return Some(files);
        }
        let elsewhere = cassandra.hosts.iter().find(|host| !insecure && !is_here(host));
        if let Some(host) = elsewhere {
            self.fault("node.cassandra.encrypted", Problem::InsecureStorage(host.clone()));
        }
        None
    }
}

fn level(consistency: Consistency) -> Level {
    match consistency {
        Consistency::LocalQuorum => Level::LocalQuorum,
        Consistency::Quorum => Level::Quorum,
        Consistency::EachQuorum => Level::EachQuorum,
    }
}

/// Whether it is on this machine.
fn is_here(host_port: &str) -> bool {
    let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{of_text, refused};
    use super::*;

    fn with(fields: &str) -> String {
        format!("(node: (storage: cassandra, cassandra: ({fields})))")
    }

    #[test]
    fn a_cluster_needs_hosts_and_nothing_else() {
        let config = of_text(&with("hosts: [\"127.0.0.1:9042\", \"localhost:9043\"]")).expect("good");
        assert_eq!(config.storage.word(), "cassandra");
        let Storage::Cassandra(options) = config.storage else { panic!("another engine") };
        assert_eq!((options.keyspace.as_str(), options.consistency), ("iris", Level::LocalQuorum));
        assert!(options.login.is_none() && options.tls.is_none() && options.data_centre.is_none());
        assert!(options.keep_ms > config.core.inbox_age_ms_max && options.taken_ms > config.core.tombstone_keep_ms);
        assert_eq!(of_text("(node: (storage: log))").expect("good").storage.word(), "log");
        let scylla = of_text("(node: (storage: scylla, cassandra: (hosts: [\"[::1]:9042\"])))").expect("good");
        assert_eq!(scylla.storage.word(), "scylla");
    }

    #[test]
    fn what_is_wrong_names_the_culprit() {
        let here = "hosts: [\"127.0.0.1:9042\"]";
        for (fields, wanted) in [
            ("", "node.cassandra.hosts: has 0 entries"),
            ("hosts: [\"127.0.0.1\"]", "node.cassandra.hosts: `127.0.0.1`"),
            ("hosts: [\"10.0.0.7:9042\"]", "node.cassandra.encrypted: `10.0.0.7:9042`"),
            (&format!("{here}, keyspace: \"i-ris\""), "node.cassandra.keyspace: a keyspace has letters"),
            (&format!("{here}, consistency: one"), "unknown value `one`; allowed: local_quorum, quorum, each_quorum"),
            (&format!("{here}, password: \"secret\""), "node.cassandra.password: a password is a user's"),
            (&format!("{here}, tls: (ca: \"ca.pem\")"), "node.cassandra.tls.ca: certificates are for"),
            (&format!("{here}, threads: 0"), "node.cassandra.threads"),
            (&format!("{here}, writes: 1"), "writes"),
        ] {
            let told = refused(&with(fields));
            assert!(told.contains(wanted) && !told.contains("secret"), "{fields}: {told}");
        }
        let login = format!("{here}, user: \"iris\", password: Env(\"SECRET\")");
        let config = of_text(&with(&login)).expect("good");
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }
}
