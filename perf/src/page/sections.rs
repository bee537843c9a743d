//! The page: what is shown of which results, in which words.

use super::chart::{Axis, Lines, Measure, Ratio, Series, Used, ratios, utilisation};
use super::draw::{Unit, escape};
use super::input::{Comparison, Results, Run};
use crate::report::readable_number;
use serde_json::Value;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
/// Where a resource should be, in ordinary times (the seed, section 10).
const BAND: (f64, f64) = (0.7, 0.9);
/// In the order in which they are looked at.
const RESOURCES: [&str; 5] = ["cpu", "busiest_thread", "memory", "nic", "disk"];
/// Colours of peers that have no own one.
const COLOURS: usize = 5;
/// Quantiles by how many of their nines there are.
const QUANTILES: [(f64, &str, &str); 5] =
    [(0.301, "p50", "p50"), (1.0, "p90", "p90"), (2.0, "p99", "p99"), (3.0, "p999", "p99.9"), (4.0, "max", "max")];

/// The whole page.
pub fn page(title: &str, results: &Results) -> String {
    let colours = Colours::of(results);
    let sections = [
        tiles(results),
        comparisons(results),
        latencies(results, &colours),
        saturation(results),
        bands(results),
        memory(results, &colours),
        table(results, &colours),
    ];
    let title = escape(title);
    let machine = machine(results);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n<header><h1>{title}</h1>{machine}</header>\n\
         {}\n<footer>Made by <code>iris-perf report</code>. Every message of every run was checked: it arrives once, in order, \
         and is confirmed.</footer>\n</main></body></html>\n",
        sections.concat()
    )
}

/// A colour for each peer, the same in all plots.
struct Colours(Vec<String>);

impl Colours {
    fn of(results: &Results) -> Self {
        let mut peers: Vec<String> = Vec::new();
        let named = results.runs.iter().map(Run::peer).chain(results.comparisons.iter().map(|c| c.peer.as_str()));
        for peer in named.filter(|peer| !matches!(*peer, "iris" | "raw")) {
            if !peers.iter().any(|known| known == peer) {
                peers.push(peer.to_owned());
            }
        }
        Self(peers)
    }

    fn class(&self, peer: &str) -> String {
        match peer {
            "iris" | "raw" => peer.to_owned(),
            other => format!("peer{}", self.0.iter().position(|known| known == other).unwrap_or(0) % COLOURS),
        }
    }
}

fn section(heading: &str, words: &str, plots: &[String]) -> String {
    if plots.is_empty() {
        return String::new();
    }
    let class = if plots.len() > 1 { "plots many" } else { "plots" };
    let figures: String = plots.iter().map(|plot| format!("<figure>{plot}</figure>")).collect();
    format!("<section><h2>{heading}</h2><p>{words}</p><div class=\"{class}\">{figures}</div></section>\n")
}

/// Where it was measured.
fn machine(results: &Results) -> String {
    let Some(run) = results.runs.first() else { return String::new() };
    let text = |name: &str| run.at(&format!("/environment/{name}")).and_then(Value::as_str).map(str::to_owned);
    let cpus = run.number("/environment/cpus").map(|cpus| format!("{cpus} CPUs"));
    let memory = run.number("/environment/memory_bytes").map(|bytes| format!("{} of memory", Unit::Bytes.say(bytes)));
    let kernel = text("kernel").map(|kernel| format!("Linux {kernel}"));
    let commit = text("commit").map(|commit| format!("commit {commit}"));
    let facts: Vec<String> = [text("cpu"), cpus, memory, kernel, commit].into_iter().flatten().collect();
    format!("<p class=\"machine\">{}</p>", escape(&facts.join(" · ")))
}

/// The figures to remember.
fn tiles(results: &Results) -> String {
    let mut tiles = String::new();
    let mut tile = |number: String, words: &str, more: String| {
        let (number, more) = (escape(&number), escape(&more));
        let _never_fails = write!(
            tiles,
            "<div class=\"tile\"><strong>{number}</strong><span>{words}</span><small>{more}</small></div>"
        );
    };
    let best = |scenario: &str, figure: &str| {
        let pointer = format!("/figures/{figure}");
        let of_iris = results.of(scenario).filter(|run| run.peer() == "iris");
        let values = of_iris.filter_map(|run| Some((run.number(&pointer)?, run.what())));
        values.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    if let Some(run) = results.of("saturate").find(|run| run.peer() == "iris")
        && let Some(rate) = run.number("/figures/sustained_per_second")
    {
        let p99 = run
            .number("/figures/p99_us_at_70_percent")
            .map_or_else(String::new, |p99| format!("p99 {} at 70% of it", Unit::Micros.say(p99)));
        tile(Unit::Count.say(rate), "messages a second sustained", p99);
    }
    for (scenario, figure, words) in [
        ("relay", "delivered_per_cpu_second", "messages per CPU second"),
        ("stored", "stored_per_cpu_second", "stored per CPU second"),
        ("login", "logins_per_cpu_second", "logins per CPU second"),
    ] {
        if let Some((value, what)) = best(scenario, figure) {
            tile(Unit::Count.say(value), words, what);
        }
    }
    let idle = results.of("idle").filter(|run| run.peer() == "iris");
    let largest = idle.max_by_key(|run| run.number("/parameters/connections").unwrap_or(0.0) as u64);
    if let Some((run, bytes)) = largest.and_then(|run| Some((run, run.number("/figures/rss_bytes_per_connection")?))) {
        tile(Unit::Bytes.say(bytes), "per idle connection", run.what());
    }
    if tiles.is_empty() { tiles } else { format!("<div class=\"tiles\">{tiles}</div>\n") }
}

fn comparisons(results: &Results) -> String {
    let (limit, peers): (Vec<&Comparison>, Vec<&Comparison>) =
        results.comparisons.iter().partition(|c| c.peer == "raw");
    let rows = peers.iter().map(|c| Ratio { name: format!("{} · {}", c.what, c.peer), spread: c.ratio }).collect();
    let mut limits: Vec<Ratio> = Vec::new();
    let shares = peers.iter().filter_map(|c| Some((&c.what, c.share_of_raw?)));
    for (name, spread) in limit.iter().map(|c| (&c.what, c.ratio)).chain(shares) {
        if !limits.iter().any(|known| known.name == *name) {
            limits.push(Ratio { name: name.clone(), spread });
        }
    }
    let others = Measure {
        title: "Iris / peer, per second of the server's CPU, or per byte",
        base: 1.0,
        goal: 1.0,
        words: ("peer is better", "Iris is better"),
        is_linear: false,
    };
    let raw = Measure {
        title: "Iris / raw, the plain epoll relay without acknowledgements that marks the limit",
        base: 0.0,
        goal: 0.8,
        words: ("", "0.8, the moonshot"),
        is_linear: true,
    };
    let plots: Vec<String> = [(others, rows), (raw, limits)]
        .iter()
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(measure, rows)| ratios(measure, rows))
        .collect();
    let words = "Both sides run in turn, A B A B …, under the same load; the bar ends at the median of the rounds' ratios, the \
                 thin line spans all of them. Right of the line Iris does more with less.";
    section("Against others", words, &plots).replace("plots many", "plots")
}

/// A plot for each load, with all peers in it.
fn latencies(results: &Results, colours: &Colours) -> String {
    let mut loads: Vec<String> = Vec::new();
    for run in results.runs.iter().filter(|run| run.latency("p50").is_some()) {
        if !loads.contains(&run.what()) {
            loads.push(run.what());
        }
    }
    let plots: Vec<String> = loads
        .iter()
        .map(|load| {
            let mut series: Vec<Series> = Vec::new();
            for run in results.runs.iter().filter(|run| run.what() == *load) {
                let points: Vec<(f64, f64)> =
                    QUANTILES.iter().filter_map(|(at, name, _)| Some((*at, run.latency(name)?.max(0.1)))).collect();
                if !points.is_empty() && !series.iter().any(|known| known.name == run.peer()) {
                    series.push(Series { name: run.peer().to_owned(), class: colours.class(run.peer()), points });
                }
            }
            let x = Axis { label: "share of the messages", unit: Unit::Count, is_log: false, named: quantiles() };
            let y = Axis { label: "not later than", unit: Unit::Micros, is_log: true, named: Vec::new() };
            Lines { title: load, x, y, series, levels: Vec::new(), marks: Vec::new(), size: (430.0, 270.0) }.draw()
        })
        .collect();
    let words = "From sending to the recipient's client (login: from connecting to WELCOME; stored: to the confirmation that it \
                 is on disk). In a closed loop a slower server is asked less, so read these beside the load.";
    section("Latency", words, &plots)
}

fn quantiles() -> Vec<(f64, &'static str)> {
    QUANTILES.iter().map(|(at, _, name)| (*at, *name)).collect()
}

fn saturation(results: &Results) -> String {
    let mut plots = Vec::new();
    for run in results.of("saturate") {
        let empty = Vec::new();
        let steps = run.at("/figures/steps").and_then(Value::as_array).unwrap_or(&empty);
        let of = |step: &Value, name: &str| step[name].as_f64();
        let points = |name: &str| {
            let mut points: Vec<(f64, f64)> =
                steps.iter().filter_map(|step| Some((of(step, "rate")?, of(step, name)?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let delivered = points("delivered_per_second");
        if delivered.is_empty() {
            continue;
        }
        let most = delivered.iter().fold(0.0, |most: f64, point| most.max(point.0));
        let line = |name: &str, class: &str, points| Series { name: name.into(), class: class.into(), points };
        let x = || Axis { label: "messages a second, offered", unit: Unit::Count, is_log: false, named: Vec::new() };
        let sustained = run.number("/figures/sustained_per_second").unwrap_or(0.0);
        let marks = vec![(sustained, format!("{} sustained", Unit::Count.say(sustained)))];
        let y = Axis { label: "delivered a second", unit: Unit::Count, is_log: false, named: Vec::new() };
        let series = vec![line("offered", "raw", vec![(0.0, 0.0), (most, most)]), line("delivered", "iris", delivered)];
        let title = format!("Throughput against load · {}", run.what());
        let size = (430.0, 290.0);
        plots.push(Lines { title: &title, x: x(), y, series, levels: Vec::new(), marks: marks.clone(), size }.draw());
        let objective_us = run.number("/parameters/objective_ms").unwrap_or(10.0) * 1e3;
        let levels = vec![(objective_us, format!("objective, {}", Unit::Micros.say(objective_us)))];
        let y = Axis { label: "p99 from the scheduled time", unit: Unit::Micros, is_log: true, named: Vec::new() };
        let series = vec![line("p99", "iris", points("p99_us"))];
        plots.push(Lines { title: "Latency against load", x: x(), y, series, levels, marks, size }.draw());
    }
    let words = "An open loop: the schedule is fixed in advance and latency counts from the scheduled moment, so a server that \
                 falls behind is not excused. The load grows until the objective breaks.";
    section("Until it breaks", words, &plots)
}

fn bands(results: &Results) -> String {
    let mut plots = Vec::new();
    for run in results.of("saturate") {
        for (pointer, title) in [
            ("/figures/utilisation", "Utilisation at the highest sustained load"),
            ("/figures/utilisation_beyond", "At the first load that was too much"),
        ] {
            let Some(resources) = run.at(pointer).and_then(Value::as_object) else { continue };
            let used = |(name, value): (&String, &Value)| {
                let share = value["percent"].as_f64()? / 100.0;
                let words = value["band"].as_str().unwrap_or("").to_owned();
                Some(Used { name: name.replace('_', " "), share, words })
            };
            let order = |name: &str| RESOURCES.iter().position(|known| *known == name).unwrap_or(RESOURCES.len());
            let mut resources: Vec<_> = resources.iter().collect();
            resources.sort_by_key(|(name, _)| order(name));
            let rows: Vec<Used> = resources.into_iter().filter_map(used).collect();
            if !rows.is_empty() {
                plots.push(utilisation(title, &rows, BAND));
            }
        }
    }
    let advice = results.of("saturate").find_map(|run| {
        let (bound, advice) = (run.at("/figures/bound_by")?.as_str()?, run.at("/figures/advice")?.as_str()?);
        Some(format!(" Bound by <b>{}</b>: {}.", escape(bound), escape(advice)))
    });
    let words = format!(
        "The resource that binds should be 70–90% used: below that a machine is paid for and not used, above it nothing is \
         left for a peak or a lost neighbour. The targets are for what binds; the rest is stranded.{}",
        advice.unwrap_or_default()
    );
    section("What is used", &words, &plots).replace("plots many", "plots")
}

fn memory(results: &Results, colours: &Colours) -> String {
    let mut series: Vec<Series> = Vec::new();
    for run in results.of("idle") {
        let (Some(connections), Some(each)) =
            (run.number("/parameters/connections"), run.number("/figures/rss_bytes_per_connection"))
        else {
            continue;
        };
        let class = colours.class(run.peer());
        let at = series.iter().position(|known| known.class == class).unwrap_or_else(|| {
            series.push(Series { name: run.peer().to_owned(), class, points: vec![(0.0, 0.0)] });
            series.len() - 1
        });
        series[at].points.push((connections, connections * each));
    }
    for one in &mut series {
        one.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((connections, bytes)) = one.points.last().copied() {
            one.name = format!("{}, {} each", one.name, Unit::Bytes.say(bytes / connections.max(1.0)));
        }
    }
    if series.is_empty() {
        return String::new();
    }
    let x = Axis { label: "idle connections", unit: Unit::Count, is_log: false, named: Vec::new() };
    let y =
        Axis { label: "resident memory above an empty server", unit: Unit::Bytes, is_log: false, named: Vec::new() };
    let title = "Memory against connections";
    let (levels, marks, size) = (Vec::new(), Vec::new(), (880.0, 320.0));
    let plot = Lines { title, x, y, series, levels, marks, size }.draw();
    let words = "Logged-in connections that say nothing: the server's own memory. The kernel's part of a TCP socket comes on \
                 top, and is the same whoever the server is.";
    section("Idle", words, &[plot])
}

fn table(results: &Results, colours: &Colours) -> String {
    let mut rows = String::new();
    for run in &results.runs {
        let (name, value) = run.headline();
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), readable_number);
        let micros = |name| run.latency(name).map_or_else(|| "–".to_owned(), |value| Unit::Micros.say(value));
        let mark = if run.is_valid() { "" } else { "<em>not valid</em>" };
        let _never_fails = write!(
            rows,
            "<tr><td>{}</td><td class=\"{}\">{}</td><td class=\"n\">{}</td><td>{} {mark}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            escape(&run.what()),
            colours.class(run.peer()),
            escape(run.peer()),
            number(value),
            escape(&name.replace('_', " ")),
            micros("p50"),
            micros("p99"),
        );
    }
    if rows.is_empty() {
        return rows;
    }
    let commands: Vec<&str> = results.runs.iter().filter_map(|run| run.at("/environment/command")?.as_str()).collect();
    let mut lines: Vec<String> = Vec::new();
    for command in commands {
        let line = format!("iris-perf {}", escape(command));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    format!(
        "<section><h2>Every run</h2><div class=\"wide\"><table><thead><tr><th>load</th><th>server</th><th class=\"n\">figure\
         </th><th>of</th><th class=\"n\">p50</th><th class=\"n\">p99</th></tr></thead><tbody>{rows}</tbody></table></div>\
         <details><summary>How it was measured</summary><pre>{}</pre></details></section>\n",
        lines.join("\n")
    )
}
