//! Judges what makes a node part of a cluster: its nodes, discovery, links, and its own place among them.
//!
//! With a static list, role, region, zone and shards of a node are those of its entry, so that one file can serve all
//! nodes; what its own file says besides must be the same.

use super::check::{Check, HOUR_MS, MIB, narrow8, parse_address};
use super::fault::Problem;
use super::secret::{SECRET_BYTES_MAX, SECRET_BYTES_MIN, Secret};
use super::shards::{Ranges, parse_shards, shards_text};
use super::used::{Cluster, Discovery, LinkConfig, ListedNode, Role, Spread};
use super::written::{self, Address, Shards, Written};
use iris_shards::id::NodeId;
use iris_shards::slot::stable_hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// More replicas of a shard are not kept.
const COPIES_MAX: u64 = 8;
/// Nodes in a list, and addresses to join by.
const LISTED_MAX: usize = 65_536;
/// What is put in front of the domain may have 50 bytes, and a name has at most 253.
const DOMAIN_BYTES_MAX: usize = 200;

/// What a node tells about itself by gossip, so that it fits into a datagram beside what it tells about another one.
const GOSSIP_TEXT_BYTES_MAX: usize = 512;
/// The longest socket address, where it is not written.
const ADDRESS_BYTES_MAX: usize = 47;

/// Where a node stands in its cluster.
pub struct Place {
    pub role: Role,
    pub region: String,
    pub zone: String,
    pub shards: Option<Ranges>,
}

impl Check<'_> {
    pub fn cluster(&mut self, written: &Written) -> Cluster {
        let cluster = &written.cluster;
        let num_shards = self.within_u32("cluster.num_shards", cluster.num_shards, 1, 65_536);
        let discovery = self.discovery(written, num_shards);
        let copies = self.copies(cluster, &discovery);
        let day_ms = 24 * HOUR_MS;
        Cluster {
            name: self.text("cluster.name", &cluster.name, 64),
            num_shards,
            copies,
            // Judged with the limits of the core half.
            copies_min: narrow8(cluster.copies_min),
            spread: spread(cluster.spread),
            secret: self.secret(cluster, &discovery),
            discovery,
            claim_ms: self.within("cluster.claim_ms", cluster.claim_ms, 1_000, day_ms),
            hash: hash(cluster),
        }
    }

    fn copies(&mut self, cluster: &written::Cluster, discovery: &Discovery) -> u8 {
        let (max, why) = match discovery {
            Discovery::Static { nodes } if nodes.is_empty() => (1, "there is one node to keep copies"),
            Discovery::Static { nodes } => {
                let cores = nodes.iter().filter(|node| node.role.is_core()).count() as u64;
                (cores.clamp(1, COPIES_MAX), "at most as many as there are cores in cluster.nodes")
            }
            _ => (COPIES_MAX, ""),
        };
        narrow8(self.within_because("cluster.copies", cluster.copies, (1, max), why))
    }

    fn secret(&mut self, cluster: &written::Cluster, discovery: &Discovery) -> Secret {
        let length = cluster.secret.length();
        let is_alone = matches!(discovery, Discovery::Static { nodes } if nodes.is_empty());
        if length == 0 && !is_alone {
            let needed = "nodes of a cluster prove to each other that they know a secret of 16 to 1024 bytes; write \
                          `cluster: (secret: Env(\"IRIS_SECRET\"))` and set it, such as to the output of `openssl rand -hex 32`";
            self.fault("cluster.secret", Problem::Needed(needed));
        } else if length != 0 && !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&length) {
            let problem = Problem::BadLength { length, unit: "bytes", min: SECRET_BYTES_MIN, max: SECRET_BYTES_MAX };
            self.fault("cluster.secret", problem);
        }
        cluster.secret.clone()
    }

    fn discovery(&mut self, written: &Written, num_shards: u32) -> Discovery {
        match written.cluster.discovery {
            written::Discovery::Gossip => self.gossip(written),
            written::Discovery::Dns => self.dns(&written.cluster.dns),
            written::Discovery::Consul => self.consul(written),
            written::Discovery::Etcd => self.etcd(written),
            written::Discovery::Static => Discovery::Static { nodes: self.listed(&written.cluster.nodes, num_shards) },
        }
    }

    fn gossip(&mut self, written: &Written) -> Discovery {
        let (node, seeds) = (&written.node, &written.cluster.seeds);
        if seeds.len() > LISTED_MAX {
            let problem = Problem::BadLength { length: seeds.len(), unit: "entries", min: 0, max: LISTED_MAX };
            self.fault("cluster.seeds", problem);
        }
        seeds.iter().for_each(|seed| self.peer("cluster.seeds", seed));
        let listen = match (&node.gossip.listen, &node.link.listen) {
            (Address::Is(text), _) => self.link_address("node.gossip.listen", text, node.insecure),
            // Wrong or missing: told with the links.
            (Address::Auto(_), Address::Is(text)) => parse_address(text),
            (Address::Auto(_), Address::Auto(_)) => None,
        };
        Discovery::Gossip {
            seeds: seeds.clone(),
            listen: listen.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)),
            advertise: self.gossip_advertise(&node.gossip.advertise),
        }
    }

    /// To be asked when everything else of the node is known.
    pub fn gossip_length(&mut self, name: &str, place: &Place, cluster: &Cluster, link: &LinkConfig) {
        if !matches!(cluster.discovery, Discovery::Gossip { .. }) {
            return;
        }
        let address = link.advertise.as_ref().map_or(ADDRESS_BYTES_MAX, String::len);
        let shards = place.shards.as_deref().map_or(0, |ranges| shards_text(ranges).len());
        let length = name.len() + place.region.len() + place.zone.len() + shards + address;
        if length > GOSSIP_TEXT_BYTES_MAX {
            self.fault("node.shards", Problem::TooLongForGossip { length, max: GOSSIP_TEXT_BYTES_MAX });
        }
    }

    fn gossip_advertise(&mut self, written: &Address) -> Option<SocketAddr> {
        let Address::Is(text) = written else { return None };
        let address = parse_address(text).filter(|address| address.port() != 0 && !address.ip().is_unspecified());
        if address.is_none() {
            self.fault("node.gossip.advertise", Problem::BadAddress(text.clone()));
        }
        address
    }

    fn dns(&mut self, dns: &written::Dns) -> Discovery {
        let core = dns.core.trim_end_matches('.');
        let is_label = |label: &str| {
            let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            is_plain && (1..=63).contains(&label.len())
        };
        if core.len() > DOMAIN_BYTES_MAX || !core.split('.').all(is_label) {
            self.fault("cluster.dns.core", Problem::BadDomain(dns.core.clone()));
        }
        let server = match &dns.server {
            Address::Auto(_) => None,
            Address::Is(text) => {
                let server = parse_address(text).filter(|server| server.port() != 0);
                if server.is_none() {
                    self.fault("cluster.dns.server", Problem::BadAddress(text.clone()));
                }
                server
            }
        };
        Discovery::Dns { core: core.to_owned(), server }
    }

    fn listed(&mut self, written: &[written::ListedNode], num_shards: u32) -> Vec<ListedNode> {
        if written.len() > LISTED_MAX {
            let problem = Problem::BadLength { length: written.len(), unit: "entries", min: 0, max: LISTED_MAX };
            self.fault("cluster.nodes", problem);
        }
        let nodes: Vec<ListedNode> =
            written.iter().enumerate().map(|(at, node)| self.listed_node(at, node, num_shards)).collect();
        self.names(&nodes);
        if !nodes.is_empty() && nodes.iter().all(|node| !node.role.is_core()) {
            self.fault(
                "cluster.nodes",
                Problem::Needed("at least one of the nodes has to be a core (role: core or both)"),
            );
        }
        nodes
    }

    fn listed_node(&mut self, at: usize, node: &written::ListedNode, num_shards: u32) -> ListedNode {
        let field = |name: &str| format!("cluster.nodes[{at}].{name}");
        self.peer(&field("address"), &node.address);
        ListedNode {
            name: self.text(&field("name"), &node.name, 255),
            address: node.address.clone(),
            role: role(node.role),
            region: node
                .region
                .as_deref()
                .map_or("local".to_owned(), |region| self.text(&field("region"), region, 255)),
            zone: self.zone(&field("zone"), &node.zone),
            shards: self.shards(&field("shards"), &node.shards, num_shards),
        }
    }

    /// Names differ, and so do the ids that come from them.
    fn names(&mut self, nodes: &[ListedNode]) {
        let mut ids: Vec<(NodeId, usize)> = (0..nodes.len()).map(|at| (NodeId::of_name(&nodes[at].name), at)).collect();
        ids.sort_unstable();
        for pair in ids.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let (first, second) = (nodes[pair[0].1].name.clone(), nodes[pair[1].1].name.clone());
            self.fault(&format!("cluster.nodes[{}].name", pair[1].1), Problem::SameNode { first, second });
        }
    }

    fn zone(&mut self, field: &str, zone: &str) -> String {
        if zone.len() > 255 {
            self.fault(field, Problem::BadLength { length: zone.len(), unit: "bytes", min: 0, max: 255 });
        }
        zone.to_owned()
    }

    fn shards(&mut self, field: &str, written: &Shards, num_shards: u32) -> Option<Ranges> {
        let found = match written {
            Shards::Auto(_) => return None,
            Shards::Is(number) => number.to_string(),
            Shards::Are(text) => text.clone(),
        };
        let ranges = parse_shards(&found, num_shards);
        if ranges.is_none() {
            self.fault(field, Problem::BadShards { found, num_shards });
        }
        ranges
    }

    /// HOST:PORT of another node.
    pub fn peer(&mut self, field: &str, text: &str) {
        let host_port = text.rsplit_once(':').filter(|(host, _)| is_host(host));
        let port = host_port.and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) || text.len() > 255 {
            self.fault(field, Problem::BadPeer(text.to_owned()));
        }
    }

    /// Role, region, zone and shards: those of the node's entry, if it is listed.
    pub fn place(&mut self, node: &written::Node, cluster: &Cluster) -> Place {
        let own = Place {
            role: role(node.role),
            region: self.text("node.region", &node.region, 255),
            zone: self.zone("node.zone", &node.zone),
            shards: self.shards("node.shards", &node.shards, cluster.num_shards),
        };
        let Discovery::Static { nodes } = &cluster.discovery else { return own };
        match nodes.iter().find(|listed| listed.name == node.name) {
            Some(listed) => self.listed_place(&own, listed),
            None => {
                if !nodes.is_empty() && own.role.is_core() {
                    let listed = nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
                    self.fault("node.name", Problem::NotListed { name: node.name.clone(), listed });
                }
                own
            }
        }
    }

    fn listed_place(&mut self, own: &Place, listed: &ListedNode) -> Place {
        self.agrees("node.role", own.role.word(), listed.role.word());
        self.agrees("node.region", &own.region, &listed.region);
        self.agrees("node.zone", &own.zone, &listed.zone);
        let text = |shards: &Option<Ranges>| shards.as_deref().map_or("Auto".to_owned(), shards_text);
        self.agrees("node.shards", &text(&own.shards), &text(&listed.shards));
        Place {
            role: listed.role,
            region: listed.region.clone(),
            zone: listed.zone.clone(),
            shards: listed.shards.clone(),
        }
    }

    fn agrees(&mut self, field: &str, found: &str, listed: &str) {
        if found != listed && self.source.place_of_field(field).is_some() {
            self.fault(field, Problem::Disagrees { found: found.to_owned(), listed: listed.to_owned() });
        }
    }

    pub fn link(&mut self, node: &written::Node, cluster: &Cluster, body_bytes_max: u32) -> LinkConfig {
        let link = &node.link;
        let advertise = match &link.advertise {
            Address::Is(text) => {
                self.peer("node.link.advertise", text);
                Some(text.clone())
            }
            Address::Auto(_) => own_entry(node, cluster).map(|(_, entry)| entry.address.clone()),
        };
        let out_min = MIB.max(2 * u64::from(body_bytes_max));
        let why = "at least twice cluster.limits.body_bytes_max";
        LinkConfig {
            listen: self.link_listen(node, cluster),
            advertise,
            silent_ms: self.within("node.link.silent_ms", link.silent_ms, 300, 600_000),
            idle_ms: self.within("node.link.idle_ms", link.idle_ms, 1_000, 24 * HOUR_MS),
            out_bytes_max: self.within_because("node.link.out_bytes_max", link.out_bytes_max, (out_min, MIB << 16), why)
                as usize,
            retry_ms_max: self.within("node.link.retry_ms_max", link.retry_ms_max, 100, 600_000),
            links_max: self.within_usize("node.link.links_max", link.links_max, 1, 65_536),
        }
    }

    fn link_listen(&mut self, node: &written::Node, cluster: &Cluster) -> Option<SocketAddr> {
        if cluster.is_alone() {
            return None;
        }
        if let Address::Is(text) = &node.link.listen {
            return self.link_address("node.link.listen", text, node.insecure);
        }
        let Some((at, entry)) = own_entry(node, cluster) else {
            let needed = "a node of a cluster listens for links: write IP:PORT, such as 127.0.0.1:7085 or 0.0.0.0:7085 \
                          (Auto is for nodes that are listed in cluster.nodes)";
            self.fault("node.link.listen", Problem::Needed(needed));
            return None;
        };
        let port = entry.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        // What is no address has been told.
        let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port?);
        let address = parse_address(&entry.address).unwrap_or(everywhere);
        self.link_address(&format!("cluster.nodes[{at}].address"), &address.to_string(), node.insecure)
    }

    fn link_address(&mut self, field: &str, text: &str, insecure: bool) -> Option<SocketAddr> {
        let parsed = parse_address(text);
        match parsed {
            None => self.fault(field, Problem::BadAddress(text.to_owned())),
            Some(address) if !address.ip().is_loopback() && !insecure => {
                self.fault(field, Problem::InsecureLinks(text.to_owned()));
            }
            Some(_) => {}
        }
        parsed
    }
}

fn own_entry<'a>(node: &written::Node, cluster: &'a Cluster) -> Option<(usize, &'a ListedNode)> {
    let Discovery::Static { nodes } = &cluster.discovery else { return None };
    nodes.iter().enumerate().find(|(_, listed)| listed.name == node.name)
}

/// An IPv6 address has brackets, and nothing else has colons or spaces.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')),
    }
}

fn role(written: written::Role) -> Role {
    match written {
        written::Role::Edge => Role::Edge,
        written::Role::Core => Role::Core,
        written::Role::Both => Role::Both,
    }
}

fn spread(written: written::Spread) -> Spread {
    match written {
        written::Spread::Node => Spread::Node,
        written::Spread::Zone => Spread::Zone,
        written::Spread::Region => Spread::Region,
    }
}

/// Field by field with its name, so that a later version can leave a new field out while it has its old value: then
/// nodes of both versions have the same hash.
fn hash(cluster: &written::Cluster) -> u64 {
    let written::Limits {
        body_bytes_max,
        id_ahead_ms_max,
        id_age_ms_max,
        inbox_messages_max,
        inbox_bytes_max,
        inbox_age_ms_max,
        tombstone_keep_ms,
        lease_ms,
        refresh_ms,
    } = &cluster.limits;
    let numbers = [
        ("num_shards", cluster.num_shards),
        ("copies", cluster.copies),
        ("copies_min", cluster.copies_min),
        ("body_bytes_max", *body_bytes_max),
        ("id_ahead_ms_max", *id_ahead_ms_max),
        ("id_age_ms_max", *id_age_ms_max),
        ("inbox_messages_max", *inbox_messages_max),
        ("inbox_bytes_max", *inbox_bytes_max),
        ("inbox_age_ms_max", *inbox_age_ms_max),
        ("tombstone_keep_ms", *tombstone_keep_ms),
        ("lease_ms", *lease_ms),
        ("refresh_ms", *refresh_ms),
    ];
    let mut text = format!("name={:?}\nspread={}\n", cluster.name, cluster.spread.word());
    numbers.iter().for_each(|(name, value)| text.push_str(&format!("{name}={value}\n")));
    stable_hash(text.as_bytes())
}
