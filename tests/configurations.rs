//! The configurations that come with Iris: each is accepted by `iris check`, with what it takes from the environment.

mod process;

use process::{Done, run_with};
use std::path::Path;

const SECRET: (&str, &str) = ("IRIS_SECRET", "0123456789abcdef");

fn check(file: &str, environment: &[(&str, &str)]) -> Done {
    let mut command = process::command(&["check", file]);
    for name in
        ["IRIS_NODE", "IRIS_ROLE", "IRIS_SECRET", "IRIS_SEEDS", "IRIS_ZONE", "SHARD_ID", "AWS_REGION", "AWS_ZONE"]
    {
        command.env_remove(name);
    }
    command.env("HOME", "/home/ada").envs(environment.iter().copied());
    run_with(command, "")
}

/// What is said of a good file, behind "is good: ".
fn good(file: &str, environment: &[(&str, &str)]) -> String {
    let done = check(file, environment);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{file}: {}", done.err);
    done.out.trim().split_once("is good: ").expect("good").1.to_owned()
}

#[test]
fn every_file_is_checked_here() {
    let mut files: Vec<String> = Path::new("conf")
        .read_dir()
        .expect("conf")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["frankfurt.ron", "global.ron", "laptop.ron", "proof.ron", "regional.ron", "saopaulo.ron", "tokyo.ron"]
    );
    assert_eq!(
        good("conf/laptop.ron", &[]),
        "node laptop listens on 127.0.0.1:8085, data in /home/ada/.local/state/iris"
    );
}

#[test]
fn proof_is_two_cores_and_two_edges() {
    for (node, wanted) in [
        ("core-a", "node core-a, core in proof (static), links on 127.0.0.1:7085, data in /home/ada/.local/state/iris"),
        ("core-b", "node core-b, core in proof (static), links on 127.0.0.1:7086, data in /home/ada/.local/state/iris"),
        ("edge-a", "node edge-a listens on 127.0.0.1:8085, edge in proof (static), links on 127.0.0.1:7087"),
        ("edge-b", "node edge-b listens on 127.0.0.1:8085, edge in proof (static), links on 127.0.0.1:7088"),
    ] {
        assert_eq!(good("conf/proof.ron", &[SECRET, ("IRIS_NODE", node)]), wanted);
    }
    let done = check("conf/proof.ron", &[("IRIS_NODE", "core-a")]);
    assert!(done.err.contains("cluster.secret: the environment variable IRIS_SECRET is not set"), "{}", done.err);
    let done = check("conf/proof.ron", &[SECRET, ("IRIS_NODE", "core-c")]);
    assert!(done.err.contains("\"core-c\" is not among cluster.nodes: core-a, core-b, edge-a, edge-b"), "{}", done.err);
}

#[test]
fn regional_takes_its_shards_from_the_environment() {
    let edge = [SECRET, ("IRIS_NODE", "edge-1"), ("IRIS_ROLE", "edge"), ("IRIS_SEEDS", "10.0.0.7:7085,core-2:7085")];
    let wanted = "node edge-1 listens on 0.0.0.0:8085, edge in regional (gossip), links on 0.0.0.0:7085";
    assert_eq!(good("conf/regional.ron", &edge), wanted);
    for shards in ["7", "0-9", "0-9,20"] {
        let core = [SECRET, ("IRIS_NODE", "core-1"), ("IRIS_ROLE", "core"), ("SHARD_ID", shards), ("IRIS_ZONE", "a")];
        assert!(good("conf/regional.ron", &core).starts_with("node core-1, core in regional (gossip)"), "{shards}");
    }
    assert!(good("conf/regional.ron", &[SECRET, ("IRIS_NODE", "1")]).contains("both in regional"));
    let done = check("conf/regional.ron", &[SECRET, ("IRIS_NODE", "core-1"), ("SHARD_ID", "100")]);
    assert!(done.err.contains("node.shards: `100` names no shards"), "{}", done.err);
    assert!(done.err.contains("below cluster.num_shards (100)"), "{}", done.err);
}

#[test]
fn global_takes_its_region_from_the_environment() {
    let core =
        [SECRET, ("IRIS_NODE", "core-1"), ("IRIS_ROLE", "core"), ("SHARD_ID", "0-499"), ("AWS_REGION", "sa-east-1")];
    assert!(good("conf/global.ron", &core).starts_with("node core-1, core in global (consul), links on 0.0.0.0:7085"));
    let gossip = [&core[..], &[("IRIS_DISCOVERY", "gossip")]].concat();
    assert!(good("conf/global.ron", &gossip).contains("core in global (gossip)"));
    let dns = [&core[..], &[("IRIS_DISCOVERY", "dns"), ("IRIS_DNS", "127.0.0.1:53")]].concat();
    assert!(good("conf/global.ron", &dns).contains("core in global (dns)"));
    let done = check("conf/global.ron", &core[..4]);
    assert!(done.err.contains("node.region: the environment variable AWS_REGION is not set"), "{}", done.err);
}

#[test]
fn the_three_regions_are_one_cluster() {
    for (file, region, port, links) in [
        ("conf/tokyo.ron", "tokyo", 8085, 7085),
        ("conf/frankfurt.ron", "frankfurt", 8086, 7086),
        ("conf/saopaulo.ron", "saopaulo", 8087, 7087),
    ] {
        let wanted = format!(
            "node {region} listens on 127.0.0.1:{port}, both in geo (gossip), links on 127.0.0.1:{links}, data in \
             /home/ada/.local/state/iris"
        );
        assert_eq!(good(file, &[SECRET]), wanted);
    }
    let cluster = |name: &str| {
        let text = std::fs::read_to_string(format!("conf/{name}.ron")).expect("a file");
        text.split("cluster: (").nth(1).and_then(|rest| rest.split("node: (").next()).expect("a cluster").to_owned()
    };
    assert_eq!(cluster("tokyo"), cluster("frankfurt"));
    assert_eq!(cluster("tokyo"), cluster("saopaulo"));
}
