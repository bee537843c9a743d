//! Every number that the seed prints, and what must hold for any plan.

use super::measured::{Measured, MeasuredError};
use super::sizing::{Plan, plan};
use super::*;
use std::path::Path;

const MEASURED: &str = r#"{
    "schema": "iris-measured/1", "node_bytes": 10e6,
    "connection": {"resident_bytes": 300, "kernel_bytes": 4700, "cpus": 2e-7},
    "per_cpu_second": {"messages": 150000, "logins": 20000, "stored": 300000, "drained": 600000},
    "stored": {"disk_bytes": 150, "memory_bytes": 56, "body_bytes": 64}
}"#;

fn measured() -> Measured {
    Measured::parse(MEASURED, Path::new("m.json")).unwrap()
}

fn with_users(dau: u64) -> Inputs {
    Inputs { demand: Demand { dau, ..Demand::default() }, ..Inputs::default() }
}

fn counts(dau: u64) -> [u64; 5] {
    let counts = plan(&with_users(dau), None).unwrap().counts;
    [counts.concurrent_users, counts.edge_nodes, counts.core_shards, counts.core_nodes, counts.regions]
}

#[test]
fn section_7_is_reproduced() {
    assert_eq!(counts(1_000_000), [100_000, 2, 10, 20, 1]);
    assert_eq!(counts(100_000_000), [10_000_000, 100, 1_000, 2_000, 2]);
    assert_eq!(counts(5_000_000_000), [500_000_000, 5_000, 50_000, 100_000, 100]);
}

#[test]
fn section_10_is_reproduced() {
    let cost = plan(&with_users(5_000_000_000), None).unwrap().cost_per_month;
    assert_eq!((cost.edge, cost.core, cost.total, cost.per_user), (150_000.0, 3_000_000.0, 3_150_000.0, 0.00063));
    let edges = &plan(&with_users(5_000_000_000), None).unwrap().layers[0];
    assert!(edges.advice.contains("1,667 edges for $50,010") && edges.advice.contains("113,379"), "{}", edges.advice);
    let fleet = Fleet { connections_per_edge: 300_000, ..Fleet::default() };
    for (connections, nodes, dollars) in
        [(10_000_000, 34, 1_020.0), (100_000_000, 334, 10_020.0), (500_000_000, 1_667, 50_010.0)]
    {
        let demand = Demand { dau: connections * 10, ..Demand::default() };
        let counts = Counts::by_density(&demand, &fleet);
        assert_eq!((counts.concurrent_users, counts.edge_nodes), (connections, nodes));
        assert_eq!(Cost::of(&counts, &fleet).edge, dollars);
    }
}

#[test]
fn every_figure_of_the_seed_is_reproduced() {
    let figures = seed::figures();
    let wrong: Vec<_> = figures.iter().filter(|figure| !figure.is_reproduced()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(figures.len(), 4 + 2 + 18 + 8 + 7 + 2);
}

#[test]
fn one_user_more_is_one_shard_more_and_never_a_lone_edge() {
    assert_eq!(counts(1), [1, 2, 1, 2, 1]);
    assert_eq!(counts(100_000), [10_000, 2, 1, 2, 1]);
    assert_eq!(counts(100_001), [10_001, 2, 2, 4, 1]);
    assert_eq!(counts(50_000_001)[1], 51);
    assert_eq!(counts(50_000_001)[4], 2);
}

#[test]
fn shares_are_exact() {
    let share: Share = "0.1".parse().unwrap();
    assert_eq!((share, share.of(5_000_000_000), share.of(1)), (Share::percent(10), 500_000_000, 1));
    assert_eq!(("33.3%".parse::<Share>().unwrap().of(1_000), Share::percent(100).of(COUNT_MAX)), (333, COUNT_MAX));
    for text in ["1.1", "-0.1", "101%", "x", "", "NaN"] {
        assert!(text.parse::<Share>().is_err(), "{text}");
    }
}

#[test]
fn what_is_left_after_a_failure_stays_under_ninety_percent() {
    assert_eq!((ordinary_max(50, 1), ordinary_max(2, 1), ordinary_max(3, 3)), (0.882, 0.45, 0.0));
    for dau in [1, 10_000, 1_000_000, 77_000_000, 5_000_000_000] {
        for may_fail in [0, 1, 3] {
            let mut inputs = with_users(dau);
            inputs.fleet.may_fail = may_fail;
            let plan = plan(&inputs, Some(&measured())).unwrap();
            assert_bounded(&plan, may_fail);
        }
    }
}

fn assert_bounded(plan: &Plan, may_fail: u64) {
    let edge = &plan.layers[0];
    assert!(edge.nodes >= EDGES_MIN && edge.nodes > may_fail && plan.counts.edges_of_a_region() <= 50, "{plan:#?}");
    for layer in &plan.layers {
        for resource in &layer.resources {
            // Regions differ by one edge when they do not divide evenly.
            assert!(resource.after_failure <= 0.9 * 1.02, "{plan:#?}");
            assert!(resource.utilisation <= resource.target * 1.02, "{plan:#?}");
        }
        assert_eq!(layer.resources.iter().filter(|resource| resource.verdict == "binds").count(), 1);
    }
}

#[test]
fn the_scarcest_resource_binds_and_the_rest_is_stranded() {
    let mut inputs = with_users(100_000_000);
    let by_memory = plan(&inputs, Some(&measured())).unwrap();
    assert_eq!(by_memory.layers[0].binds, "memory");
    let cpu = by_memory.layers[0].resources[0];
    assert!(cpu.verdict == "stranded" && cpu.stranded > 0.3, "{cpu:?}");
    inputs.fleet.edge.memory_bytes = 1e12;
    let by_cpu = plan(&inputs, Some(&measured())).unwrap();
    assert_eq!(by_cpu.layers[0].binds, "cpu");
    assert!(by_cpu.counts.edge_nodes < by_memory.counts.edge_nodes);
    inputs.fleet.edge.cpus = 1_000.0;
    assert_eq!(plan(&inputs, Some(&measured())).unwrap().layers[0].binds, "network");
}

#[test]
fn more_of_anything_is_never_fewer_nodes() {
    let nodes = |inputs: &Inputs| {
        let counts = plan(inputs, Some(&measured())).unwrap().counts;
        (counts.edge_nodes, counts.core_nodes)
    };
    let before = nodes(&with_users(300_000_000));
    let more: [fn(&mut Inputs); 7] = [
        |inputs| inputs.demand.dau *= 2,
        |inputs| inputs.demand.concurrent = Share::percent(20),
        |inputs| inputs.demand.messages_per_user_day *= 9.0,
        |inputs| inputs.demand.retention_days *= 5.0,
        |inputs| inputs.demand.body_bytes *= 10,
        |inputs| inputs.fleet.may_fail = 2,
        |inputs| inputs.fleet.replicas = 3,
    ];
    for change in more {
        let mut inputs = with_users(300_000_000);
        change(&mut inputs);
        let after = nodes(&inputs);
        assert!(
            after.0 >= before.0 && after.1 >= before.1 && after != before || inputs.fleet.replicas == 3,
            "{inputs:?}"
        );
    }
}

#[test]
fn assumptions_and_exclusions_are_told() {
    let plan = plan(&with_users(1_000_000), Some(&measured())).unwrap();
    assert!(plan.assumptions.len() > 10 && plan.excluded.len() > 5);
    assert!(plan.config_changes[0].starts_with("num_shards: ") && plan.code_changes == "NONE");
    let unknown = MEASURED.replace(r#""kernel_bytes": 4700, "#, "");
    let unknown = Measured::parse(&unknown, Path::new("m.json")).unwrap();
    assert_eq!(unknown.connection_bytes(), measured().connection_bytes());
    let told = sizing::plan(&with_users(1), Some(&unknown)).unwrap().assumptions;
    assert!(told.iter().any(|line| line.contains("that needs root")));
}

#[test]
fn impossible_inputs_name_the_flag() {
    type Case = (fn(&mut Inputs), &'static str);
    let cases: [Case; 8] = [
        (|inputs| inputs.demand.dau = 0, "--dau is 0"),
        (|inputs| inputs.demand.dau = COUNT_MAX + 1, "--dau is 1000000000001"),
        (|inputs| inputs.fleet.connections_per_edge = 0, "--connections-per-edge"),
        (|inputs| inputs.fleet.replicas = 0, "--replicas"),
        (|inputs| inputs.fleet.may_fail = 50, "--may-fail 50 leaves no edge of a region of 50"),
        (|inputs| inputs.demand.peak_factor = f64::NAN, "--peak-factor"),
        (|inputs| inputs.fleet.core.price = -1.0, "--core-price"),
        (|inputs| inputs.targets.cpu = Share::percent(0), "--cpu-target"),
    ];
    for (change, words) in cases {
        let mut inputs = with_users(1_000_000);
        change(&mut inputs);
        let error = plan(&inputs, Some(&measured())).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut inputs = with_users(1_000_000);
    inputs.fleet.edge.memory_bytes = 5e6;
    let error = plan(&inputs, Some(&measured())).unwrap_err().to_string();
    assert!(error.contains("edge's memory") && error.contains("--edge-machine"), "{error}");
}

#[test]
fn files_of_figures_are_checked() {
    let parse = |text: &str| Measured::parse(text, Path::new("m.json"));
    let told = |text: &str| parse(text).unwrap_err().to_string();
    assert!(told("{}").contains("m.json: missing field `schema`"));
    assert!(told(&MEASURED.replace("/1", "/9")).contains("iris-measured/9"));
    assert!(told(&MEASURED.replace("150000", "0")).contains("per_cpu_second.messages is 0"));
    assert!(told(&MEASURED.replace("10e6", "-1")).contains("node_bytes is -1"));
    let missing = Measured::read(Path::new("/no/such/file")).unwrap_err();
    assert!(matches!(missing, MeasuredError::Unreadable { .. }) && missing.to_string().contains("/no/such/file"));
    assert_eq!(measured().stored_bytes(256), 150.0 - 64.0 + 256.0);
}

#[test]
fn money_is_written_as_people_write_it() {
    let texts = [150_000.0, 30.0, 12.345, 0.0001, 0.00063, 0.000_033_4, 0.0].map(seed::dollars);
    assert_eq!(texts, ["$150,000", "$30", "$12.35", "$0.0001", "$0.00063", "$0.000033", "$0"]);
    assert_eq!([5_000_000_000, 300_000, 1_234, 0].map(seed::short), ["5B", "300K", "1,234", "0"]);
}
