//! The numbers that the seed prints, each beside what this calculator makes of the seed's inputs, and where the seed
//! disagrees with itself.

use super::{Cost, Counts, Demand, Fleet, Inputs};
use serde::Serialize;

/// Bytes per connection in section 10.
pub const CONNECTION_BYTES: f64 = 10_000.0;
/// Connections of a t3.medium in section 10, which its table of costs is made from.
pub const CONNECTIONS_PER_MEDIUM: u64 = 300_000;

/// One number of the seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// Where it is printed.
    pub section: &'static str,
    /// What it says.
    pub what: String,
    /// As printed there.
    pub seed: &'static str,
    /// As calculated here.
    pub here: String,
    /// How.
    pub how: &'static str,
}

impl Figure {
    /// Whether both agree.
    #[must_use]
    pub fn is_reproduced(&self) -> bool {
        self.seed.trim_start_matches('~') == self.here
    }
}

/// All of them, in the order of the seed.
#[must_use]
pub fn figures() -> Vec<Figure> {
    [pictures(), division(), calculator(), cost_table(), fleet(), machines()].concat()
}

/// Where the seed disagrees with itself, and what is done here.
pub const CORRECTIONS: [&str; 7] = [
    "section 7 adds 1 to each quotient and prints numbers without it; here: the integer ceiling, and at least 2 edges",
    "section 10 has $50,000 and $3.15M a month for the same 5B users: the first is edges alone at 300K connections per $30 \
     machine, the second is edges at 100K connections and 100,000 core nodes at $30 each; here: both, by layer",
    "the table of costs rounds: in whole machines 10M, 100M and 500M connections are 34, 334 and 1,667 edges: $1,020, \
     $10,020 and $50,010",
    "100K connections x 10 KB = 1 GB is 25% of the 4 GB t3.medium that $30 buys, not the 80-90% printed beside it; at \
     300K connections it is 75%; here: utilisation follows from machine and load, and targets apply to what binds",
    "the overview says 10,000+ edges, 1,000+ shards and 50+ regions; section 7 gives 5,000, 50,000 and 100; here: section 7",
    "the overview's ~10M messages a second are 173 messages per user and day on average, or 58 with a peak of 3 times the \
     mean; here: an input",
    "80-90% everywhere leaves no room for a failure; here: with f of N nodes lost the rest stay under 90%, so (N-f)/N x 90%",
];

fn inputs(dau: u64) -> (Demand, Fleet) {
    let Inputs { demand, fleet, .. } = Inputs::default();
    (Demand { dau, ..demand }, fleet)
}

fn at(dau: u64) -> (Counts, Cost) {
    let (demand, fleet) = inputs(dau);
    let counts = Counts::by_density(&demand, &fleet);
    (counts, Cost::of(&counts, &fleet))
}

/// Section "Architecture Layers": edges of four regions and their connections.
fn pictures() -> Vec<Figure> {
    let regions = [("Tokyo", 50, "5M"), ("Singapore", 30, "3M"), ("Mumbai", 40, "4M"), ("Frankfurt", 60, "6M")];
    let (_, fleet) = inputs(1);
    let figure = |(name, edges, seed): (&str, u64, &'static str)| Figure {
        section: "layers",
        what: format!("connections of {name}, {edges} edges"),
        seed,
        here: short(edges * fleet.connections_per_edge),
        how: "edges x connections per edge",
    };
    regions.map(figure).to_vec()
}

/// Section 3, "The Math".
fn division() -> Vec<Figure> {
    let (counts, _) = at(5_000_000_000);
    let figure =
        |what: &str, seed, count, how| Figure { section: "3", what: what.into(), seed, here: grouped(count), how };
    vec![
        figure("shards for 5B users", "50,000", counts.core_shards, "ceiling(users / users per shard)"),
        figure("core nodes for 5B users", "100,000", counts.core_nodes, "shards x replicas"),
    ]
}

/// Section 7, its three outputs.
fn calculator() -> Vec<Figure> {
    let scales: [(u64, [&'static str; 6]); 3] = [
        (1_000_000, ["1,000,000", "100,000", "2", "10", "20", "1"]),
        (100_000_000, ["100,000,000", "10,000,000", "100", "1,000", "2,000", "2"]),
        (5_000_000_000, ["5,000,000,000", "500,000,000", "5,000", "50,000", "100,000", "100"]),
    ];
    let mut figures = Vec::new();
    for (dau, printed) in scales {
        let (counts, _) = at(dau);
        let rows = [
            ("dau", counts.dau, "an input"),
            ("concurrent_users", counts.concurrent_users, "users x concurrent ratio"),
            ("edge_nodes", counts.edge_nodes, "ceiling(connections / connections per edge), at least 2"),
            ("core_shards", counts.core_shards, "ceiling(users / users per shard)"),
            ("core_nodes", counts.core_nodes, "shards x replicas"),
            ("regions", counts.regions, "ceiling(edges / 50)"),
        ];
        figures.extend(rows.into_iter().zip(printed).map(|((name, count, how), seed)| {
            let what = format!("{name} at {} users", short(dau));
            Figure { section: "7", what, seed, here: grouped(count), how }
        }));
    }
    figures
}

/// Section 10, "Cost Efficiency Targets": edges alone, by the connection.
fn cost_table() -> Vec<Figure> {
    let (_, fleet) = inputs(1);
    let each = fleet.edge.price / CONNECTIONS_PER_MEDIUM as f64;
    let how = "edges alone: connections x $30 / 300K";
    let rows = [
        ("10M connections", 10_000_000, "$1,000"),
        ("100M connections", 100_000_000, "$10,000"),
        ("500M connections", 500_000_000, "$50,000"),
        ("5B users", inputs(5_000_000_000).0.concurrent_users(), "$50,000"),
    ];
    let mut figures = Vec::new();
    for (what, connections, seed) in rows {
        let cost = connections as f64 * each;
        let (what, per) = (format!("monthly cost of {what}"), format!("cost per connection at {what}"));
        figures.push(Figure { section: "10", what, seed, here: dollars(cost), how });
        let here = dollars(cost / connections as f64);
        figures.push(Figure { section: "10", what: per, seed: "$0.0001", here, how: "cost / connections" });
    }
    figures
}

/// Section 10, "Resource Utilization at Scale".
fn fleet() -> Vec<Figure> {
    let (counts, cost) = at(5_000_000_000);
    let (_, fleet) = inputs(1);
    let gigabytes = fleet.connections_per_edge as f64 * CONNECTION_BYTES / 1e9;
    let figure =
        |what: &str, seed, here, how| Figure { section: "10", what: format!("{what}, 5B users"), seed, here, how };
    vec![
        figure("edges", "5,000", grouped(counts.edge_nodes), "as in section 7"),
        figure("memory of an edge's connections", "1GB", format!("{gigabytes}GB"), "100K connections x 10 KB"),
        figure("edges' monthly cost", "$150,000", dollars(cost.edge), "edges x $30"),
        figure("core nodes", "100,000", grouped(counts.core_nodes), "as in section 7"),
        figure("core nodes' monthly cost", "$3,000,000", dollars(cost.core), "core nodes x $30"),
        figure("total monthly cost", "~$3.15M", format!("${}M", cost.total / 1e6), "edges + core nodes"),
        figure("per user and month", "$0.00063", dollars(cost.per_user), "total / users"),
    ]
}

/// Section 10, "Instance Right-Sizing".
fn machines() -> Vec<Figure> {
    let per_gigabyte = CONNECTIONS_PER_MEDIUM / 4;
    let figure = |name: &str, gigabytes, seed| Figure {
        section: "10",
        what: format!("connections of a {name} ({gigabytes}GB)"),
        seed,
        here: short(gigabytes * per_gigabyte),
        how: "75K connections per GB (13.3 KB each)",
    };
    vec![figure("t3.medium", 4, "300K"), figure("t3.large", 8, "600K")]
}

/// With thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `5B`, `100M`, `300K` where that is exact.
#[must_use]
pub fn short(number: u64) -> String {
    let unit = [("B", 1_000_000_000), ("M", 1_000_000), ("K", 1_000)]
        .into_iter()
        .find(|(_, unit)| number >= *unit && number.is_multiple_of(*unit));
    unit.map_or_else(|| grouped(number), |(name, unit)| format!("{}{name}", grouped(number / unit)))
}

/// Dollars as people write them: whole ones from a thousand on, cents from one on, two digits of the first below.
#[must_use]
pub fn dollars(amount: f64) -> String {
    if amount == 0.0 || amount >= 1_000.0 || (amount.fract() == 0.0 && amount > 0.0) {
        return format!("${}", grouped(amount.round() as u64));
    }
    if amount >= 1.0 {
        return format!("${amount:.2}");
    }
    let digits = (1.0 - amount.abs().log10().floor()) as usize;
    let text = format!("{amount:.digits$}");
    format!("${}", text.trim_end_matches('0').trim_end_matches('.'))
}
