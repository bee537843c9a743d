//! A plan as people read it.

use crate::plan::seed::{CORRECTIONS, Figure, dollars, grouped};
use crate::plan::sizing::{Layer, Plan, Rates, Resource};

pub fn plan(plan: &Plan) -> Vec<String> {
    let counts = &plan.counts;
    let cost = &plan.cost_per_month;
    let mut lines = vec![
        format!("{} daily users, by {} figures", grouped(counts.dau), plan.figures),
        String::new(),
        row("connected at the peak", grouped(counts.concurrent_users)),
        row("edge nodes", format!("{} in {} regions", grouped(counts.edge_nodes), grouped(counts.regions))),
        row("core shards", grouped(counts.core_shards)),
        row("core nodes", grouped(counts.core_nodes)),
    ];
    lines.extend(rates(&plan.rates));
    for layer in &plan.layers {
        lines.push(String::new());
        lines.extend(self::layer(layer));
    }
    lines.extend([
        String::new(),
        "cost per month".into(),
        row("edges", format!("{}, {} per connection", dollars(cost.edge), dollars(cost.edge_per_connection))),
        row("core nodes", dollars(cost.core)),
        row("both", format!("{}, {} per daily user", dollars(cost.total), dollars(cost.per_user))),
    ]);
    lines.extend(list("taken for granted", plan.assumptions.iter().map(String::as_str)));
    lines.extend(list("not in the cost", plan.excluded.iter().copied()));
    lines.extend(list("to change", plan.config_changes.iter().map(String::as_str)));
    lines.push(row("code", format!("changes: {}", plan.code_changes)));
    lines
}

/// Every number of the seed, then its contradictions.
pub fn seed(figures: &[Figure]) -> Vec<String> {
    let width = figures.iter().map(|figure| figure.what.chars().count()).max().unwrap_or(0);
    let mut lines = vec![format!("§       {:<width$}  {:>14}  {:>14}", "", "the seed", "here")];
    for figure in figures {
        let mark = if figure.is_reproduced() { ' ' } else { '!' };
        let Figure { section, what, seed, here, how } = figure;
        lines.push(format!("{section:<6}{mark} {what:<width$}  {seed:>14}  {here:>14}  {how}"));
    }
    lines.extend(list("where the seed contradicts itself", CORRECTIONS.into_iter()));
    lines
}

fn row(name: &str, value: impl AsRef<str>) -> String {
    format!("  {name:<24} {}", value.as_ref())
}

fn list<'a>(head: &str, items: impl Iterator<Item = &'a str>) -> Vec<String> {
    let head = [String::new(), head.to_owned()];
    head.into_iter().chain(items.map(|item| format!("  - {item}"))).collect()
}

fn rates(rates: &Rates) -> [String; 4] {
    let per_second = |rate: f64| format!("{} per second", grouped(rate.round() as u64));
    [
        row("messages at the peak", per_second(rates.messages_per_second)),
        row("  of them stored", per_second(rates.stored_per_second)),
        row("logins at the peak", per_second(rates.logins_per_second)),
        row("messages waiting", grouped(rates.messages_waiting.round() as u64)),
    ]
}

fn layer(layer: &Layer) -> Vec<String> {
    let Layer { layer: name, nodes, group, may_fail, .. } = layer;
    let group_name = if *name == "edge" { "region" } else { "shard" };
    let mut lines = vec![
        format!(
            "{name}: {} nodes, {} a month; {may_fail} of {group} in a {group_name} may be lost, so at most {} in ordinary times",
            grouped(*nodes),
            dollars(layer.cost),
            percent(layer.ordinary_max)
        ),
        format!(
            "  {:<12} {:>12} {:>12} {:>7} {:>11} {:>8}",
            "a node's", "needs", "has", "used", "after loss", "target"
        ),
    ];
    lines.extend(layer.resources.iter().map(resource));
    lines.push(format!("  {} binds; {}", layer.binds, layer.advice));
    lines
}

fn resource(resource: &Resource) -> String {
    let verdict = match resource.verdict {
        "stranded" => format!("stranded: {} paid for and not used", percent(resource.stranded)),
        other => other.to_owned(),
    };
    format!(
        "  {:<12} {:>12} {:>12} {:>7} {:>11} {:>8}  {verdict}",
        resource.resource,
        amount(resource.needed, resource.unit),
        amount(resource.available, resource.unit),
        percent(resource.utilisation),
        percent(resource.after_failure),
        percent(resource.target)
    )
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn amount(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => scaled(value, "B"),
        "bits/s" => scaled(value, "bit/s"),
        "CPUs" => format!("{value:.3}"),
        _ => grouped(value.ceil() as u64),
    }
}

fn scaled(value: f64, unit: &str) -> String {
    let scales = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match scales.iter().find(|(scale, _)| value >= *scale) {
        Some((scale, prefix)) => format!("{:.2} {prefix}{unit}", value / scale),
        None => format!("{value:.0} {unit}"),
    }
}
