//! Configurations of clusters: what makes a node part of one, and what is said about those that do not fit together.

use super::tests::{default, of_text, refused};
use super::*;
use iris_shards::placement::Spread;

/// Three nodes that share this file; which one is said by `node`.
fn three(node: &str) -> String {
    format!(
        r#"(
    cluster: (
        copies: 2,
        secret: Env("SECRET"),
        nodes: [
            (name: "a", address: "127.0.0.1:7001", role: core, region: "tokyo", shards: "0-7"),
            (name: Env("NODE"), address: "db.example:7002", role: both, zone: "z", shards: Env("SHARD_ID")),
            (name: "c", address: "[::1]:7003", role: edge),
        ],
    ),
    node: ({node}),
)"#
    )
}

fn gossip(cluster: &str, node: &str) -> String {
    format!(
        "(cluster: (discovery: gossip, secret: \"0123456789abcdef\", {cluster}), \
         node: (link: (listen: \"127.0.0.1:7000\"), {node}))"
    )
}

#[test]
fn the_default_is_alone() {
    let config = default();
    assert!(config.cluster.is_alone() && config.link.listen.is_none());
    assert_eq!((config.role, config.shards), (Role::Both, None));
    assert_eq!((config.cluster.copies, config.cluster.copies_min, config.cluster.spread), (1, 1, Spread::Node));
}

#[test]
fn a_listed_node_is_what_its_entry_says() {
    let config = of_text(&three("name: \"a\"")).expect("good");
    assert_eq!((config.role, config.region.as_str(), config.zone.as_str()), (Role::Core, "tokyo", ""));
    assert_eq!(config.shards, Some(vec![0..=7]));
    assert_eq!(config.listen, []);
    assert_eq!(config.link.listen, "127.0.0.1:7001".parse().ok());
    assert_eq!(config.link.advertise.as_deref(), Some("127.0.0.1:7001"));
    let config = of_text(&three("name: Env(\"NODE\"), insecure: true")).expect("good");
    assert_eq!((config.role, config.region.as_str(), config.zone.as_str()), (Role::Both, "local", "z"));
    assert_eq!(config.shards, Some(vec![7..=7]));
    assert_eq!(config.link.listen, "0.0.0.0:7002".parse().ok());
    assert_eq!(config.link.advertise.as_deref(), Some("db.example:7002"));
    let Discovery::Static { nodes } = &config.cluster.discovery else { panic!("static") };
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn what_a_node_says_besides_its_entry_is_the_same() {
    let same = "name: \"a\", role: core, region: \"tokyo\", zone: \"\", shards: \"0-3,4-7\"";
    assert!(of_text(&three(same)).is_ok());
    for (field, wanted) in [
        ("role: both", "node.role: `both`, but the entry of this node in cluster.nodes says `core`"),
        ("region: \"local\"", "node.region: `local`, but the entry of this node in cluster.nodes says `tokyo`"),
        ("zone: \"x\"", "node.zone: `x`, but"),
        ("shards: Auto", "node.shards: `Auto`, but the entry of this node in cluster.nodes says `0-7`"),
    ] {
        let error = refused(&three(&format!("name: \"a\", {field}")));
        assert!(error.starts_with("iris.ron:11:") && error.contains(wanted), "{error}");
    }
}

#[test]
fn a_core_is_listed_and_an_edge_may_be() {
    let error = refused(&three("name: \"x\", role: core, link: (listen: \"127.0.0.1:7000\")"));
    assert_eq!(error, "iris.ron:11:12: node.name: \"x\" is not among cluster.nodes: a, b, c");
    let config = of_text(&three("name: \"x\", role: edge, link: (listen: \"127.0.0.1:7000\")")).expect("good");
    assert_eq!((config.role, config.link.advertise), (Role::Edge, None));
    let error = refused(&three("name: \"x\", role: edge"));
    assert!(error.contains("node.link.listen: a node of a cluster listens for links"), "{error}");
}

#[test]
fn faults_of_a_listed_node_have_its_place() {
    let cluster = |entry: &str| {
        format!(
            "(cluster: (secret: Env(\"SECRET\"), nodes: [\n(name: \"laptop\", address: \"127.0.0.1:1\"),\n{entry}]))"
        )
    };
    for (entry, wanted) in [
        ("(name: \"b\", address: \"b\")", "3:13: cluster.nodes[1].address: `b` is no address to dial; write HOST:PORT"),
        ("(name: \"b\", address: \"b:0\")", "3:13: cluster.nodes[1].address: `b:0` is no address"),
        ("(name: \"b\", address: \"a b:1\")", "3:13: cluster.nodes[1].address: `a b:1` is no address"),
        ("(name: \"b\", address: \"::1:1\")", "3:13: cluster.nodes[1].address: `::1:1` is no address"),
        ("(name: \"\", address: \"b:1\")", "3:2: cluster.nodes[1].name: has 0 bytes; 1 to 255"),
        ("(name: \"laptop\", address: \"b:1\")", "3:2: cluster.nodes[1].name: \"laptop\" cannot be told apart"),
        (
            "(name: \"b\", address: \"b:1\", shards: \"9-16\")",
            "3:29: cluster.nodes[1].shards: `9-16` names no shards; write numbers and ranges below cluster.num_shards (16)",
        ),
        (
            "(name: \"b\", address: \"b:1\", role: booth)",
            "cluster.nodes[1].role: unknown value `booth`, did you mean `both`?; allowed: edge, core, both",
        ),
        ("(name: \"b\", adress: \"b:1\")", "3:13: cluster.nodes[1]: unknown field `adress`, did you mean `address`?"),
        ("(name: \"b\")", "address"),
    ] {
        let error = refused(&cluster(entry));
        assert!(error.contains(wanted), "{entry}: {error}");
    }
    // Two names with one id, found by counting.
    let error = refused(&cluster("(name: \"core-30139\", address: \"b:1\"), (name: \"core-65266\", address: \"b:1\")"));
    assert!(
        error.contains("\"core-65266\" cannot be told apart from \"core-30139\", which is listed before"),
        "{error}"
    );
    let edge = "(name: \"laptop\", address: \"127.0.0.1:1\", role: edge)";
    let error = refused(&format!("(cluster: (secret: Env(\"SECRET\"), nodes: [{edge}]))"));
    assert!(error.contains("cluster.nodes: at least one of the nodes has to be a core"), "{error}");
}

#[test]
fn shards_are_numbers_ranges_and_lists() {
    for (written, wanted) in [
        ("7", vec![7..=7]),
        ("\"0-3\"", vec![0..=3]),
        ("Env(\"SHARD_ID\")", vec![7..=7]),
        ("Env(\"SHARD_IDS\")", vec![0..=9, 20..=20]),
    ] {
        let config = of_text(&gossip("num_shards: 21", &format!("shards: {written}"))).expect(written);
        assert_eq!(config.shards, Some(wanted), "{written}");
    }
    for written in ["21", "\"\"", "\"5-2\"", "\"0-21\"", "\"all\""] {
        let error = refused(&gossip("num_shards: 21", &format!("shards: {written}")));
        assert!(error.contains(": node.shards: `") && error.contains("below cluster.num_shards (21)"), "{error}");
    }
    let error = refused(&gossip("", "shards: 1.5"));
    assert!(error.contains("node.shards: expected Auto, a number, or numbers and ranges in quotes"), "{error}");
}

#[test]
fn copies_need_cores_to_keep_them() {
    let nodes = "secret: Env(\"SECRET\"), nodes: [(name: \"laptop\", address: \"127.0.0.1:1\"), \
                 (name: \"b\", address: \"b:1\", role: core), (name: \"c\", address: \"c:1\", role: edge)]";
    assert!(of_text(&format!("(cluster: (copies: 2, copies_min: 2, {nodes}))")).is_ok());
    for (cluster, wanted) in [
        (
            format!("copies: 3, {nodes}"),
            "cluster.copies: 3 is not allowed; 1 to 2 is (at most as many as there are cores",
        ),
        (
            format!("copies: 2, copies_min: 3, {nodes}"),
            "cluster.copies_min: 3 is not allowed; 1 to 2 is (at most cluster",
        ),
    ] {
        assert!(refused(&format!("(cluster: ({cluster}))")).contains(wanted), "{cluster}");
    }
    assert_eq!(of_text(&gossip("copies: 8", "")).expect("good").cluster.copies, 8);
    let error = refused(&gossip("copies: 9", ""));
    assert!(error.contains("cluster.copies: 9 is not allowed; 1 to 8 is"), "{error}");
}

#[test]
fn a_cluster_has_a_secret_that_is_long_and_never_shown() {
    let error = refused("(cluster: (discovery: gossip), node: (link: (listen: \"127.0.0.1:1\")))");
    assert!(error.contains("cluster.secret: nodes of a cluster prove to each other"), "{error}");
    let error = refused("(cluster: (secret: \"swordfish\"))");
    assert!(error.contains("cluster.secret: has 9 bytes; 16 to 1024 are allowed"), "{error}");
    assert!(!error.contains("swordfish"));
    let config = of_text(&gossip("", "")).expect("good");
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn links_that_others_can_reach_are_allowed_by_word() {
    let cluster = "cluster: (discovery: gossip, secret: \"0123456789abcdef\")";
    for (node, field) in [
        ("link: (listen: \"10.0.0.1:7000\")", "node.link.listen"),
        ("link: (listen: \"127.0.0.1:7000\"), gossip: (listen: \"[::]:7000\")", "node.gossip.listen"),
    ] {
        let error = refused(&format!("({cluster}, node: ({node}))"));
        assert!(error.contains(&format!("{field}: `")) && error.contains("not encrypted in this version"), "{error}");
        assert!(of_text(&format!("({cluster}, node: ({node}, insecure: true))")).is_ok(), "{node}");
    }
    let error = refused(&three("name: \"b\""));
    assert!(error.contains("iris.ron:7:25: cluster.nodes[1].address: `0.0.0.0:7002` can be reached"), "{error}");
    let error = refused(&format!("({cluster})"));
    assert!(error.contains("node.link.listen: a node of a cluster listens for links"), "{error}");
}

#[test]
fn gossip_listens_where_links_do_unless_it_is_told() {
    let of =
        |node: &str| match of_text(&gossip("seeds: [\"a:1\", \"10.0.0.1:2\"]", node)).expect(node).cluster.discovery {
            Discovery::Gossip { seeds, listen, advertise } => (seeds.len(), listen.to_string(), advertise),
            other => panic!("{other:?}"),
        };
    assert_eq!(of(""), (2, "127.0.0.1:7000".into(), None));
    let both = "gossip: (listen: \"127.0.0.2:0\", advertise: \"10.0.0.9:7\")";
    assert_eq!(of(both), (2, "127.0.0.2:0".into(), "10.0.0.9:7".parse().ok()));
    for (cluster, node, wanted) in [
        ("seeds: [\"a\"]", "", "cluster.seeds: `a` is no address to dial"),
        ("", "gossip: (advertise: \"0.0.0.0:7\")", "node.gossip.advertise: `0.0.0.0:7` is no address"),
        ("", "gossip: (listen: \"here:7\")", "node.gossip.listen: `here:7` is no address"),
        ("claim_ms: 999", "", "cluster.claim_ms: 999 is not allowed; 1000 to 86400000 is"),
    ] {
        let error = refused(&gossip(cluster, node));
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn what_a_node_says_fits_into_a_datagram() {
    let every_second: Vec<String> = (0..160).map(|n| (2 * n).to_string()).collect();
    let node = format!("shards: \"{}\"", every_second.join(","));
    let error = refused(&gossip("num_shards: 1000", &node));
    assert!(error.contains("node.shards: name, region, zone, shards and address of a node have 6"), "{error}");
    assert!(error.contains("gossip takes 512; name fewer or larger ranges"), "{error}");
    let fewer = format!("shards: \"{}\"", every_second[..100].join(","));
    assert!(of_text(&gossip("num_shards: 1000", &fewer)).is_ok());
}

#[test]
fn dns_has_a_domain_and_perhaps_a_server() {
    let dns = |dns: &str| {
        of_text(&format!(
            "(cluster: (discovery: dns, secret: Env(\"SECRET\"), dns: ({dns})), node: (link: (listen: \"127.0.0.1:1\")))"
        ))
        .map(|config| config.cluster.discovery)
    };
    let wanted = Discovery::Dns { core: "core.iris.internal".into(), server: None };
    assert_eq!(dns("").as_ref(), Ok(&wanted));
    assert_eq!(dns("core: \"core.iris.internal.\"").as_ref(), Ok(&wanted));
    let server = dns("core: \"c\", server: \"127.0.0.1:53\"");
    assert_eq!(server, Ok(Discovery::Dns { core: "c".into(), server: "127.0.0.1:53".parse().ok() }));
    for (text, wanted) in [
        ("core: \"\"", "cluster.dns.core: `` is no domain"),
        ("core: \"a..b\"", "cluster.dns.core: `a..b` is no domain"),
        ("server: \"ns.example:53\"", "cluster.dns.server: `ns.example:53` is no address"),
        ("server: \"127.0.0.1:0\"", "cluster.dns.server: `127.0.0.1:0` is no address"),
    ] {
        let error = dns(text).expect_err(text);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn bounds_of_links() {
    for (link, wanted) in [
        ("silent_ms: 299", "node.link.silent_ms: 299 is not allowed; 300 to 600000 is"),
        ("idle_ms: 999", "node.link.idle_ms: 999 is not allowed; 1000 to 86400000 is"),
        ("out_bytes_max: 1048575", "node.link.out_bytes_max: 1048575 is not allowed; 1048576 to"),
        ("retry_ms_max: 99", "node.link.retry_ms_max: 99 is not allowed; 100 to 600000 is"),
        ("links_max: 0", "node.link.links_max: 0 is not allowed; 1 to 65536 is"),
        ("advertise: \"x\"", "node.link.advertise: `x` is no address to dial"),
    ] {
        let error = refused(&format!("(node: (link: ({link})))"));
        assert!(error.contains(wanted), "{error}");
    }
    let error = refused("(cluster: (limits: (body_bytes_max: 1048577)), node: (link: (out_bytes_max: 2097153)))");
    assert!(error.contains("(at least twice cluster.limits.body_bytes_max)"), "{error}");
}

#[test]
fn each_role_needs_only_what_it_uses() {
    let nowhere = |role: &str, rest: &str| {
        let text = format!("(node: (role: {role}, {rest}))");
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("iris.ron");
        std::fs::write(&file, text).expect("written");
        load(Some(&file), &Flags::default(), &|_| None).map_err(|error| error.to_string())
    };
    let edge = nowhere("edge", "admin: \"/run/iris.sock\"").expect("an edge without a place for data");
    assert_eq!((edge.role, edge.data.as_path()), (Role::Edge, Path::new("")));
    assert!(nowhere("edge", "").expect_err("an admin socket has a place").contains("node.admin: Auto needs"));
    assert!(nowhere("core", "").expect_err("a core keeps data").contains("node.data: Auto needs"));
    let core = of_text("(node: (role: core, listen: [\"0.0.0.0:1\"]))").expect("a core without clients");
    assert_eq!((core.role, core.listen.len()), (Role::Core, 0));
}

#[test]
fn the_hash_covers_what_has_to_be_equal_and_nothing_else() {
    let hash = |cluster: &str| of_text(&gossip(cluster, "")).expect(cluster).cluster.hash();
    let usual = hash("");
    assert_eq!((hash("seeds: [\"a:1\"]"), hash("claim_ms: 5000")), (usual, usual));
    assert_eq!(of_text(&gossip("", "").replace("gossip", "dns")).expect("good").cluster.hash(), usual);
    assert_eq!(of_text(&gossip("", "").replace("abcdef", "ABCDEF")).expect("good").cluster.hash(), usual);
    for other in [
        "name: \"other\"",
        "num_shards: 17",
        "copies: 2",
        "copies: 2, copies_min: 2",
        "spread: zone",
        "limits: (lease_ms: 20000)",
        "limits: (body_bytes_max: 4096)",
    ] {
        assert_ne!(hash(other), usual, "{other}");
    }
    // Nodes of different versions compare it.
    assert_eq!(default().cluster.hash(), 8_987_953_064_262_248_909);
}

fn registry(kind: &str, fields: &str, node: &str) -> String {
    format!(
        "(cluster: (discovery: {kind}, secret: \"0123456789abcdef\", num_shards: 1_000,\n{kind}: ({fields})), \
         node: (link: (listen: \"127.0.0.1:7000\"),\n{node}))"
    )
}

#[test]
fn a_registry_is_asked_where_the_file_says() {
    let config = of_text(&registry("consul", "token: Env(\"SECRET\")", "")).expect("good");
    let Discovery::Consul { at, token } = &config.cluster.discovery else { panic!("consul") };
    assert_eq!((at.address.as_str(), token.reveal()), ("http://127.0.0.1:8500/", "0123456789abcdef"));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    let fields = "address: \"https://etcd.iris.internal\", tls: (ca: \"ca.pem\", identity: \"node.pem\")";
    let config = of_text(&registry("etcd", fields, "")).expect("good");
    let Discovery::Etcd { at, .. } = &config.cluster.discovery else { panic!("etcd") };
    assert_eq!((at.address.port_or_known_default(), at.address.scheme()), (Some(443), "https"));
    assert_eq!((at.ca.as_deref(), at.identity.as_deref()), (Some(Path::new("ca.pem")), Some(Path::new("node.pem"))));
    for here in ["http://localhost:2379", "http://[::1]:2379/", "http://127.9.9.9:1"] {
        assert!(of_text(&registry("etcd", &format!("address: \"{here}\""), "")).is_ok(), "{here}");
    }
    let far = "address: \"http://consul.iris.internal:8500\"";
    assert!(of_text(&registry("consul", far, "insecure: true")).is_ok());
}

#[test]
fn a_registry_that_cannot_be_asked_is_refused_with_its_place() {
    let ranges: Vec<String> = (0..150).map(|at| (at * 2 + 100).to_string()).collect();
    let shards = format!("shards: \"{}\"", ranges.join(","));
    for (kind, fields, node, wanted) in [
        (
            "consul",
            "address: \"consul:8500\"",
            "",
            "iris.ron:2:10: cluster.consul.address: `consul:8500` is not where a",
        ),
        ("etcd", "address: \"http://:2379\"", "", "iris.ron:2:8: cluster.etcd.address: `http://:2379` is not where a"),
        ("etcd", "address: \"http://a/v3\"", "", "cluster.etcd.address: `http://a/v3` is not where a registry answers"),
        ("etcd", "address: \"https://a?b\"", "", "cluster.etcd.address: `https://a?b` is not where a registry answers"),
        (
            "etcd",
            "address: \"http://10.0.0.7:2379\"",
            "",
            "cluster.etcd.address: `http://10.0.0.7:2379` goes to another",
        ),
        ("consul", "tls: (ca: \"x\")", "", "iris.ron:2:16: cluster.consul.tls.ca: certificates are for https"),
        ("etcd", "address: \"https://a\", tls: (identity: \"\")", "", "cluster.etcd.tls.identity: has 0 bytes"),
        ("consul", "token: \"sword fish\"", "", "iris.ron:2:10: cluster.consul.token: a token has visible characters"),
        ("etcd", "password: \"swordfish\"", "", "iris.ron:2:8: cluster.etcd.password: a password is a user's"),
        ("consul", "tokn: \"\"", "", "cluster.consul: unknown field `tokn`, did you mean `token`?"),
        ("consul", "", shards.as_str(), "iris.ron:3:1: node.shards: has 599 bytes, and Consul keeps 512 of a node"),
    ] {
        let error = refused(&registry(kind, fields, node));
        assert!(error.contains(wanted) && !error.contains("fish"), "{error}\n{wanted}");
    }
    let error = refused(&registry("consul", "address: \"http://me:swordfish@a\"", ""));
    assert!(error.contains("`…@a` is not where") && !error.contains("swordfish"), "{error}");
}
