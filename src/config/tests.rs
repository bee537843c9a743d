//! Configurations that are good, and what is said about those that are not.

use super::*;
use iris_shards::limits::{CoreLimits, EdgeLimits};

pub fn environment(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/ada".into()),
        "PORTS" => Some("127.0.0.1:1, [::1]:2".into()),
        "COUNT" => Some("3".into()),
        "NODE" => Some("b".into()),
        "SECRET" => Some("0123456789abcdef".into()),
        "SHARD_ID" => Some("7".into()),
        "SHARD_IDS" => Some("20,0-9".into()),
        _ => None,
    }
}

pub fn of_text(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("iris.ron");
    std::fs::write(&file, text).expect("written");
    load(Some(&file), &Flags::default(), &environment)
        .map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

pub fn refused(text: &str) -> String {
    of_text(text).expect_err("refused")
}

pub fn default() -> Config {
    load(None, &Flags::default(), &environment).expect("the default is good")
}

#[test]
fn the_default_file_says_what_the_machines_have_by_default() {
    let config = default();
    assert_eq!(config.edge, EdgeLimits::default());
    assert_eq!(config.core, CoreLimits::default());
    assert_eq!(config.listen, ["127.0.0.1:8085".parse().expect("an address")]);
    assert_eq!(config.data, Path::new("/home/ada/.local/state/iris"));
    assert_eq!(config.admin, Path::new("/home/ada/.local/state/iris/admin.sock"));
    assert_eq!(config.out_bytes_max, (4 << 20) + (1 << 20) + (1 << 20));
    assert_eq!(config.frame_bytes_max(), 65_536 + 281);
    assert_eq!((config.executors, config.cpus, config.connections_max), (None, None, None));
}

#[test]
fn a_file_needs_only_what_differs() {
    let config = of_text("(node: (name: \"a\", edge: (retry_ms: 7), cpus: [1, 2]))").expect("good");
    assert_eq!((config.name.as_str(), config.edge.retry_ms, config.core.retry_ms), ("a", 7, 1_000));
    assert_eq!(config.cpus, Some(vec![1, 2]));
    assert!(of_text("()").is_ok());
}

#[test]
fn flags_win() {
    let flags = Flags { listen: vec!["[::1]:0".into()], data: Some("/x".into()), executors: Some(5) };
    let config = load(None, &flags, &environment).expect("good");
    assert_eq!(config.listen, ["[::1]:0".parse().expect("an address")]);
    assert_eq!((config.data.as_path(), config.executors), (Path::new("/x"), Some(5)));
    let flags = Flags { executors: Some(0), ..Flags::default() };
    let error = load(None, &flags, &environment).expect_err("refused").to_string();
    assert_eq!(error, "--executors: node.executors: 0 is not allowed; 1 to 256 is");
}

#[test]
fn the_environment_fills_any_value() {
    let config =
        of_text("(node: (listen: Env(\"PORTS\"), executors: Env(\"COUNT\"), edge: (retry_ms: Env(\"COUNT\"))))");
    let config = config.expect("good");
    assert_eq!((config.listen.len(), config.executors, config.edge.retry_ms), (2, Some(3), 3));
    let error = refused("(\n node: (\n  name: Env(\"NOBODY\")))");
    assert_eq!(error, "iris.ron:3:9: node.name: the environment variable NOBODY is not set");
}

#[test]
fn state_goes_where_systemd_or_the_desktop_says() {
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("STATE_DIRECTORY", "/s/iris:/s/more"), ("HOME", "/h")], "/s/iris"),
        (&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")], "/x/iris"),
        (&[("XDG_STATE_HOME", "x"), ("HOME", "/h")], "/h/.local/state/iris"),
        (&[("HOME", "/h"), ("STATE_DIRECTORY", "")], "/h/.local/state/iris"),
    ];
    for (variables, wanted) in cases {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let config = load(None, &Flags::default(), &lookup).expect("good");
        assert_eq!(config.data, Path::new(wanted));
    }
    let error = load(None, &Flags::default(), &|_| None).expect_err("refused").to_string();
    assert!(error.contains("node.data: Auto needs") && error.contains("--data DIR"), "{error}");
}

#[test]
fn unknown_fields_are_named_with_place_and_neighbours() {
    let error = refused("(\n    node: (\n        edge: (\n            retry_m: 5,\n        ),\n    ),\n)");
    assert!(
        error.starts_with("iris.ron:4:13: node.edge: unknown field `retry_m`, did you mean `retry_ms`?"),
        "{error}"
    );
    assert!(error.contains("allowed here: hello_ms_max, silent_ms_max"), "{error}");
    let error = refused("(\nnodes: ())");
    assert!(error.starts_with("iris.ron:2:1: unknown field `nodes`, did you mean `node`?"), "{error}");
}

#[test]
fn wrong_types_and_words_are_named_with_place_and_field() {
    let error = refused("(node: (\n  drain_ms: \"5 s\"))");
    assert!(error.starts_with("iris.ron:2:13: node.drain_ms: "), "{error}");
    let error = refused("(node: (\n  executors: Atuo))");
    assert!(error.contains("node.executors: expected Auto or a number"), "{error}");
    assert!(error.starts_with("iris.ron:2:"), "{error}");
    let error = refused("(node: (role: booth))");
    assert!(
        error.contains("node.role: unknown value `booth`, did you mean `both`?; allowed: edge, core, both"),
        "{error}"
    );
    let error = refused("(node: (insecure: 1))");
    assert!(error.starts_with("iris.ron:1:19: node.insecure: "), "{error}");
    let error = refused("(node: (name: \"a\"");
    assert!(error.starts_with("iris.ron:1:"), "{error}");
    let error = refused("(node: (drain_ms: -1))");
    assert!(error.contains("node.drain_ms"), "{error}");
}

#[test]
fn reserved_choices_say_what_there_is_today() {
    let told = refused("(node: (transports: [tcp, quic]))");
    assert!(told.contains("node.transports: `quic` is not in this version; supported: tcp"), "{told}");
}

#[test]
fn impossible_numbers_and_combinations_are_refused() {
    for (text, field, reason) in [
        ("(cluster: (copies: 2))", "cluster.copies", "1 to 1 is (there is one node to keep copies)"),
        ("(cluster: (copies_min: 2))", "cluster.copies_min", "at most cluster.copies"),
        ("(cluster: (limits: (body_bytes_max: 100)))", "cluster.limits.body_bytes_max", "4096 to 16777216"),
        ("(cluster: (limits: (id_age_ms_max: 1)))", "cluster.limits.id_age_ms_max", "inbox_age_ms_max"),
        ("(cluster: (limits: (refresh_ms: 9000)))", "cluster.limits.refresh_ms", "lease_ms"),
        ("(node: (segment_bytes: 266239))", "node.segment_bytes", "266240 to"),
        ("(node: (executors: 257))", "node.executors", "1 to 256"),
        ("(node: (out_bytes_max: 1))", "node.out_bytes_max", "delivery_bytes_max"),
        ("(node: (log: \"x=y=z\"))", "node.log", "no log filter"),
        ("(node: (listen: []))", "node.listen", "0 entries; 1 to 16"),
        ("(node: (listen: [\"here\"]))", "node.listen", "`here` is no address"),
        ("(node: (listen: [\"0.0.0.0:1\"]))", "node.listen", "insecure: true"),
        ("(node: (edge: (silent_ms_max: 999)))", "node.edge.silent_ms_max", "or 0 for never"),
        ("(node: (edge: (window_bytes: 65535)))", "node.edge.window_bytes", "65536 to"),
        ("(node: (edge: (delivery_bytes_max: 65535)))", "node.edge.delivery_bytes_max", "body_bytes_max"),
        ("(node: (core: (page_bytes: 65535)))", "node.core.page_bytes", "body_bytes_max"),
        ("(node: (core: (page_bytes: 4294967296)))", "node.core.page_bytes", "4294967295"),
    ] {
        let error = refused(text);
        assert!(error.starts_with("iris.ron:1:") && error.contains(&format!(": {field}: ")), "{text}: {error}");
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(of_text("(node: (edge: (silent_ms_max: 0), listen: [\"0.0.0.0:1\"], insecure: true))").is_ok());
}

#[test]
fn all_faults_are_told_at_once() {
    let error = refused("(node: (executors: 0,\n storage: scylla,\n edge: (pairs_max: 0)))");
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Some(Path::new("/no/such.ron")), &Flags::default(), &environment).expect_err("refused");
    assert!(error.to_string().starts_with("/no/such.ron: cannot be read: "), "{error}");
}
