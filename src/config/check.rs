//! Judges a configuration as written, and turns it into the one that is used.
//!
//! Every fault is gathered, each with the place of its field. Numbers that are out of bounds are cut to them meanwhile,
//! so that the rest can be judged too; the result is thrown away if there is any fault.

use super::Flags;
use super::fault::{ConfigError, Fault, Place, Problem};
use super::text::{Environment, Source};
use super::used::Config;
use super::written::{self, Discovery, Number, Numbers, Storage, Transport, Written};
use iris_shards::limits::{CoreLimits, EdgeLimits};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub const MIB: u64 = 1 << 20;
pub const HOUR_MS: u64 = 3_600_000;
/// Bytes around a body in a record of the log, generously.
const RECORD_OVERHEAD_BYTES: u64 = 1_024;
/// A Unix socket's address has 108 bytes with the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub fn checked(
    written: Written,
    source: &Source,
    flags: &Flags,
    environment: Environment,
) -> Result<Config, ConfigError> {
    let mut check = Check { source, flags, faults: Vec::new() };
    check.choices(&written);
    let config = check.config(&written, environment);
    if check.faults.is_empty() { Ok(config) } else { Err(ConfigError { faults: check.faults }) }
}

pub struct Check<'a> {
    pub source: &'a Source,
    flags: &'a Flags,
    faults: Vec<Fault>,
}

impl Check<'_> {
    pub fn fault(&mut self, field: &str, problem: Problem) {
        let flag = match field {
            "node.listen" if !self.flags.listen.is_empty() => Some("--listen"),
            "node.data" | "node.admin" if self.flags.data.is_some() => Some("--data"),
            "node.executors" if self.flags.executors.is_some() => Some("--executors"),
            _ => None,
        };
        let place = match flag {
            Some(flag) => Place::Flag(flag),
            None => self.source.place_of_field(field).unwrap_or(Place::Default),
        };
        self.faults.push(Fault { place, field: field.to_owned(), problem });
    }

    /// `min..=max`, both fixed.
    pub fn within(&mut self, field: &str, value: u64, min: u64, max: u64) -> u64 {
        self.within_because(field, value, (min, max), "")
    }

    /// `min..=max`, where `why` names the other field that makes a bound.
    pub fn within_because(&mut self, field: &str, value: u64, (min, max): (u64, u64), why: &'static str) -> u64 {
        if value < min || value > max {
            self.fault(field, Problem::OutOfBounds { value, min, max, why });
        }
        value.max(min).min(max)
    }

    pub fn within_u32(&mut self, field: &str, value: u64, min: u64, max: u64) -> u32 {
        narrow(self.within(field, value, min, max.min(u32::MAX.into())))
    }

    pub fn within_usize(&mut self, field: &str, value: u64, min: u64, max: u64) -> usize {
        usize::try_from(self.within(field, value, min, max)).unwrap_or(usize::MAX)
    }

    pub fn text(&mut self, field: &str, text: &str, max: usize) -> String {
        if text.is_empty() || text.len() > max {
            self.fault(field, Problem::BadLength { length: text.len(), unit: "bytes", min: 1, max });
        }
        text.to_owned()
    }

    fn supported(&mut self, field: &str, found: &'static str, is_supported: bool, supported: &'static [&'static str]) {
        if !is_supported {
            self.fault(field, Problem::Unsupported { found, supported });
        }
    }

    fn choices(&mut self, written: &Written) {
        let Written { cluster, node } = written;
        let discovery = cluster.discovery;
        self.supported("cluster.discovery", discovery.word(), discovery.is_supported(), Discovery::TODAY);
        self.supported("node.role", node.role.word(), node.role.is_supported(), written::Role::TODAY);
        let spread = cluster.spread;
        self.supported("cluster.spread", spread.word(), spread.is_supported(), written::Spread::TODAY);
        self.supported("node.storage", node.storage.word(), node.storage.is_supported(), Storage::TODAY);
        for transport in &node.transports {
            self.supported("node.transports", transport.word(), transport.is_supported(), Transport::TODAY);
        }
        self.count("node.transports", node.transports.len(), 1);
    }

    fn count(&mut self, field: &str, length: usize, max: usize) {
        if length == 0 || length > max {
            self.fault(field, Problem::BadLength { length, unit: "entries", min: 1, max });
        }
    }

    fn config(&mut self, written: &Written, environment: Environment) -> Config {
        let node = &written.node;
        let edge = self.edge(written);
        let core = self.core(written);
        let cluster = self.cluster(written);
        let place = self.place(node, &cluster);
        let link = self.link(node, &cluster, edge.body_bytes_max);
        self.gossip_length(&node.name, &place, &cluster, &link);
        self.consul_length(&place, &cluster);
        let storage = self.storage(written);
        let keeps_files = place.role.is_core() && storage.shared().is_none();
        let data = self.data(&node.data, keeps_files, environment);
        Config {
            link,
            cluster,
            name: self.text("node.name", &node.name, 255),
            region: place.region,
            zone: place.zone,
            role: place.role,
            shards: place.shards,
            listen: if place.role.is_edge() { self.listen(node) } else { Vec::new() },
            insecure: node.insecure,
            storage,
            admin: self.admin(&node.admin, &data),
            data,
            executors: self.executors(&node.executors),
            cpus: self.cpus(&node.cpus),
            segment_bytes: self.segment_bytes(node.segment_bytes, &edge),
            mesh_bytes_max: self.within("node.mesh_bytes_max", node.mesh_bytes_max, MIB, MIB << 16),
            backlog: self.within_u32("node.backlog", node.backlog, 1, 65_535),
            out_bytes_max: self.out_bytes_max(&node.out_bytes_max, &edge, &core),
            connections_max: self.connections_max(&node.connections_max),
            drain_ms: self.within_u32("node.drain_ms", node.drain_ms, 0, 600_000),
            log: self.log(&node.log),
            log_format: node.log_format,
            edge,
            core,
        }
    }

    fn edge(&mut self, written: &Written) -> EdgeLimits {
        let (limits, edge) = (&written.cluster.limits, &written.node.edge);
        let body = self.body_bytes_max(limits.body_bytes_max);
        let age = (limits.inbox_age_ms_max, u64::MAX >> 16);
        let lease = (100, (limits.lease_ms / 2).max(100));
        let window = (65_536.max(body), u32::MAX.into());
        let outstanding = (edge.window_bytes, u64::MAX);
        EdgeLimits {
            hello_ms_max: self.within("node.edge.hello_ms_max", edge.hello_ms_max, 100, 600_000),
            silent_ms_max: self.silent_ms_max(edge.silent_ms_max),
            window_messages: self.within_u32("node.edge.window_messages", edge.window_messages, 16, MIB),
            window_bytes: narrow(self.within_because("node.edge.window_bytes", edge.window_bytes, window, OF_BODY)),
            body_bytes_max: narrow(body),
            delivery_messages_max: self.within_u32(
                "node.edge.delivery_messages_max",
                edge.delivery_messages_max,
                1,
                MIB,
            ),
            delivery_bytes_max: self.bodies("node.edge.delivery_bytes_max", edge.delivery_bytes_max, body),
            delivery_ms_max: self.within("node.edge.delivery_ms_max", edge.delivery_ms_max, 10, 60_000),
            pairs_max: self.within_u32("node.edge.pairs_max", edge.pairs_max, 1, MIB),
            watches_max: self.within_u32("node.edge.watches_max", edge.watches_max, 0, MIB),
            outstanding_bytes_max: self.within_because(
                "node.edge.outstanding_bytes_max",
                edge.outstanding_bytes_max,
                outstanding,
                "at least node.edge.window_bytes",
            ),
            id_ahead_ms_max: self.within("cluster.limits.id_ahead_ms_max", limits.id_ahead_ms_max, 0, HOUR_MS),
            id_age_ms_max: self.within_because(
                "cluster.limits.id_age_ms_max",
                limits.id_age_ms_max,
                age,
                "at least cluster.limits.inbox_age_ms_max",
            ),
            refresh_ms: self.within_because(
                "cluster.limits.refresh_ms",
                limits.refresh_ms,
                lease,
                "at most half of cluster.limits.lease_ms",
            ),
            retry_ms: self.within_u32("node.edge.retry_ms", edge.retry_ms, 1, 600_000),
        }
    }

    fn core(&mut self, written: &Written) -> CoreLimits {
        let (cluster, limits, core) = (&written.cluster, &written.cluster.limits, &written.node.core);
        let body = limits.body_bytes_max;
        let copies = (1, cluster.copies.clamp(1, 255));
        let of_bodies = (body, u64::MAX);
        CoreLimits {
            inbox_messages_max: self.within_u32(
                "cluster.limits.inbox_messages_max",
                limits.inbox_messages_max,
                1,
                100_000_000,
            ),
            inbox_bytes_max: self.within_because(
                "cluster.limits.inbox_bytes_max",
                limits.inbox_bytes_max,
                of_bodies,
                OF_BODY,
            ),
            inbox_age_ms_max: self.within(
                "cluster.limits.inbox_age_ms_max",
                limits.inbox_age_ms_max,
                60_000,
                u64::MAX >> 16,
            ),
            page_messages: self.within_u32("node.core.page_messages", core.page_messages, 1, 65_536),
            page_bytes: self.bodies("node.core.page_bytes", core.page_bytes, body),
            log_delay_ms: self.within("node.core.log_delay_ms", core.log_delay_ms, 0, 10_000),
            unlogged_bytes_max: self.within_because(
                "node.core.unlogged_bytes_max",
                core.unlogged_bytes_max,
                of_bodies,
                OF_BODY,
            ),
            unflushed_bytes_max: self.within_because(
                "node.core.unflushed_bytes_max",
                core.unflushed_bytes_max,
                of_bodies,
                OF_BODY,
            ),
            tombstone_keep_ms: self.within(
                "cluster.limits.tombstone_keep_ms",
                limits.tombstone_keep_ms,
                1_000,
                u64::MAX >> 16,
            ),
            tombstones_max: self.within_usize("node.core.tombstones_max", core.tombstones_max, 1, u32::MAX.into()),
            grant_pause_ms: self.within("node.core.grant_pause_ms", core.grant_pause_ms, 0, HOUR_MS),
            watchers_max: self.within_usize("node.core.watchers_max", core.watchers_max, 0, MIB),
            absent_users_max: self.within_usize(
                "node.core.absent_users_max",
                core.absent_users_max,
                0,
                u32::MAX.into(),
            ),
            read_again_ms: self.within("node.core.read_again_ms", core.read_again_ms, 1_000, 24 * HOUR_MS),
            lease_ms: self.within("cluster.limits.lease_ms", limits.lease_ms, 1_000, 600_000),
            copies_min: narrow8(self.within_because(
                "cluster.copies_min",
                cluster.copies_min,
                copies,
                "at most cluster.copies",
            )),
            retry_ms: self.within_u32("node.core.retry_ms", core.retry_ms, 1, 600_000),
        }
    }

    /// Clients may count on frames of 4,096 bytes before they know any limit, hence the lower bound.
    fn body_bytes_max(&mut self, value: u64) -> u64 {
        self.within("cluster.limits.body_bytes_max", value, 4_096, 16 * MIB)
    }

    /// A limit that one body at least has to fit in.
    fn bodies(&mut self, field: &str, value: u64, body: u64) -> u32 {
        narrow(self.within_because(field, value, (body.min(u32::MAX.into()), u32::MAX.into()), OF_BODY))
    }

    fn silent_ms_max(&mut self, value: u64) -> u64 {
        let min = if value == 0 { 0 } else { 1_000 };
        self.within_because("node.edge.silent_ms_max", value, (min, 24 * HOUR_MS), "or 0 for never")
    }

    fn segment_bytes(&mut self, value: u64, edge: &EdgeLimits) -> u64 {
        let min = 4 * (u64::from(edge.body_bytes_max) + RECORD_OVERHEAD_BYTES);
        let why = "at least 4 * (cluster.limits.body_bytes_max + 1_024), in multiples of 4_096";
        let value = self.within_because("node.segment_bytes", value, (min, 128 * MIB), why);
        value.next_multiple_of(4_096)
    }

    fn out_bytes_max(&mut self, value: &Number, edge: &EdgeLimits, core: &CoreLimits) -> usize {
        let granted = u64::from(edge.delivery_bytes_max) + u64::from(core.page_bytes);
        let value = match value {
            Number::Auto(_) => granted + MIB,
            Number::Is(value) => {
                let why = "at least node.edge.delivery_bytes_max + node.core.page_bytes";
                self.within_because("node.out_bytes_max", *value, (granted, MIB << 16), why)
            }
        };
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    fn connections_max(&mut self, value: &Number) -> Option<u32> {
        match value {
            Number::Auto(_) => None,
            Number::Is(value) => Some(self.within_u32("node.connections_max", *value, 1, 16 * MIB)),
        }
    }

    fn executors(&mut self, value: &Number) -> Option<u16> {
        let value = match (self.flags.executors, value) {
            (Some(flag), _) => flag,
            (None, Number::Is(value)) => *value,
            (None, Number::Auto(_)) => return None,
        };
        u16::try_from(self.within("node.executors", value, 1, 256)).ok()
    }

    fn cpus(&mut self, value: &Numbers) -> Option<Vec<usize>> {
        let Numbers::Are(cpus) = value else { return None };
        self.count("node.cpus", cpus.len(), 1_024);
        Some(cpus.iter().map(|&cpu| self.within_usize("node.cpus", cpu, 0, 65_535)).collect())
    }

    fn listen(&mut self, node: &written::Node) -> Vec<SocketAddr> {
        let flags = self.flags;
        let written = if flags.listen.is_empty() { &node.listen } else { &flags.listen };
        self.count("node.listen", written.len(), 16);
        written.iter().filter_map(|text| self.address(text, node.insecure)).collect()
    }

    fn address(&mut self, text: &str, insecure: bool) -> Option<SocketAddr> {
        let parsed = parse_address(text);
        match parsed {
            None => self.fault("node.listen", Problem::BadAddress(text.to_owned())),
            Some(address) if !address.ip().is_loopback() && !insecure => {
                self.fault("node.listen", Problem::Insecure(text.to_owned()));
            }
            Some(_) => {}
        }
        parsed
    }

    /// Who keeps nothing here, needs no place for it.
    fn data(&mut self, written: &written::Path, keeps_files: bool, environment: Environment) -> PathBuf {
        if let Some(flag) = &self.flags.data {
            return flag.clone();
        }
        if let written::Path::Is(path) = written {
            return PathBuf::from(self.text("node.data", path, 4_095));
        }
        state_directory(environment).unwrap_or_else(|| {
            if keeps_files {
                self.fault("node.data", Problem::NoHome);
            }
            PathBuf::new()
        })
    }

    fn admin(&mut self, written: &written::Path, data: &Path) -> PathBuf {
        let path = match written {
            // Said already, unless this is an edge.
            written::Path::Auto(_) if data.as_os_str().is_empty() => {
                if self.faults.iter().all(|fault| fault.problem != Problem::NoHome) {
                    self.fault("node.admin", Problem::NoHome);
                }
                return PathBuf::new();
            }
            written::Path::Auto(_) => data.join("admin.sock"),
            written::Path::Is(path) => PathBuf::from(path),
        };
        let length = path.as_os_str().len();
        if length == 0 || length > SOCKET_PATH_BYTES_MAX {
            let problem = Problem::BadLength { length, unit: "bytes", min: 1, max: SOCKET_PATH_BYTES_MAX };
            self.fault("node.admin", problem);
        }
        path
    }

    fn log(&mut self, filter: &str) -> String {
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(filter) {
            let problem = Problem::BadLog { found: filter.to_owned(), reason: error.to_string() };
            self.fault("node.log", problem);
        }
        filter.to_owned()
    }
}

/// Names are not looked up: what a node listens on must not depend on DNS. `localhost` is 127.0.0.1.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => text.parse().ok(),
    }
}

pub const OF_BODY: &str = "at least cluster.limits.body_bytes_max";

/// Callers have cut the value to bounds that fit.
pub fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub fn narrow8(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// Where systemd or the desktop wants state to be: `STATE_DIRECTORY` (the first of several), `XDG_STATE_HOME`, `HOME`.
fn state_directory(environment: Environment) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(directories) = set("STATE_DIRECTORY") {
        return directories.split(':').next().map(PathBuf::from);
    }
    // The specification says that relative paths are to be ignored.
    let base = set("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/state"))).map(|base| base.join("iris"))
}
