//! A map of shards as people read it.

use crate::cli::printable;
use crate::cli::table::{Align, table};
use crate::plan::seed::grouped;
use crate::shard_map::moves::Moves;
use crate::shard_map::{Balance, Lacking, NodeShare, ShardMap, ShardPlace, Summary, UserPlace};
use std::time::Duration;

/// More rows than these are for --json.
const ROWS_MAX: usize = 64;
/// Characters of the longest bar.
const BAR_MAX: u32 = 48;

pub fn map(map: &ShardMap, compiled: Duration) -> Vec<String> {
    let summary = map.summary();
    let ms = compiled.as_secs_f64() * 1e3;
    let mut lines = vec![format!("{}, compiled in {ms:.1} ms", head(&summary)), String::new()];
    lines.extend(nodes(&summary));
    lines.push(String::new());
    lines.extend(balance(&summary.balance));
    lines.push(String::new());
    lines.extend(lacking(&summary));
    lines.push(String::new());
    lines.extend(owners(map));
    lines
}

fn head(summary: &Summary) -> String {
    let Summary { num_shards, copies, spread, nodes, .. } = summary;
    let (shards, cores) = (counted(u64::from(*num_shards), "shard"), counted(nodes.len() as u64, "core"));
    let copies = if *copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") };
    format!("{shards} on {cores}, {copies}, spread by {spread}")
}

pub fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn nodes(summary: &Summary) -> Vec<String> {
    const COLUMNS: [(&str, Align); 8] = [
        ("node", Align::Left),
        ("region", Align::Left),
        ("zone", Align::Left),
        ("claims", Align::Left),
        ("shards", Align::Right),
        ("preferred", Align::Right),
        ("users", Align::Right),
        ("node id", Align::Left),
    ];
    let mut lines = table(COLUMNS, summary.nodes.iter().take(ROWS_MAX).map(node));
    lines.extend(more(summary.nodes.len(), "nodes"));
    lines.push(format!("the largest node keeps {:.3} times the mean", summary.node_largest_over_mean));
    lines
}

fn node(node: &NodeShare) -> [String; 8] {
    [
        printable(&node.name),
        printable(&node.region),
        printable(&node.zone),
        node.claims.as_deref().map_or_else(|| "any".to_owned(), shortened),
        grouped(u64::from(node.shards)),
        grouped(u64::from(node.preferred)),
        percent(node.users),
        node.id.to_string(),
    ]
}

fn balance(balance: &Balance) -> Vec<String> {
    let Balance { mean_slots, smallest_slots, largest_slots, largest_over_mean, histogram } = balance;
    let mut lines = vec![format!(
        "slots of a shard: {} to {}, {mean_slots:.1} on average; the largest has {largest_over_mean:.3} times the mean",
        grouped(u64::from(*smallest_slots)),
        grouped(u64::from(*largest_slots)),
    )];
    let most = histogram.iter().map(|bin| bin.shards).max().unwrap_or(0).max(1);
    lines.extend(histogram.iter().map(|bin| {
        let length = (u64::from(bin.shards) * u64::from(BAR_MAX)).div_ceil(u64::from(most));
        let bar = "█".repeat(length as usize);
        format!("  from {:.2} of the mean {bar} {}", bin.from, grouped(u64::from(bin.shards)))
    }));
    lines
}

fn lacking(summary: &Summary) -> Vec<String> {
    let line = |lacking: &Lacking, what: &str, so: &str| {
        let Lacking { shards, count, users } = lacking;
        let (count, shards) = (counted(u64::from(*count), "shard"), shortened(shards));
        (lacking.count > 0)
            .then(|| format!("WARNING: {count} with {what} ({} of the users{so}): {shards}", percent(*users)))
    };
    let too_few = format!("fewer than {} nodes", summary.copies);
    let lines =
        [line(&summary.unowned, "no node", ", refused with `unavailable`"), line(&summary.underowned, &too_few, "")];
    let lines: Vec<String> = lines.into_iter().flatten().collect();
    if lines.is_empty() { vec!["every shard has enough nodes".to_owned()] } else { lines }
}

/// Shards with their nodes; neighbours with the same nodes are one row.
fn owners(map: &ShardMap) -> Vec<String> {
    let mut runs: Vec<(u32, ShardPlace)> = Vec::new();
    for place in map.shards() {
        match runs.last_mut() {
            Some((_, run)) if run.nodes == place.nodes => {
                run.shard = place.shard;
                run.slots += place.slots;
                run.users += place.users;
            }
            _ => runs.push((place.shard, place)),
        }
    }
    let row = |(first, run): &(u32, ShardPlace)| {
        let shards = if *first == run.shard { first.to_string() } else { format!("{first}-{}", run.shard) };
        [shards, grouped(u64::from(run.slots)), percent(run.users), joined(&run.nodes)]
    };
    let columns = [
        ("shards", Align::Right),
        ("slots", Align::Right),
        ("users", Align::Right),
        ("nodes, the preferred one first", Align::Left),
    ];
    let mut lines = table(columns, runs.iter().take(ROWS_MAX).map(row));
    lines.extend(more(runs.len(), "rows"));
    lines
}

pub fn user(place: &UserPlace) -> Vec<String> {
    let UserPlace { user, slot, shard, nodes } = place;
    vec![format!("{}: slot {slot}, shard {shard}, kept by {}", printable(user), joined(nodes))]
}

pub fn shard(place: &ShardPlace) -> Vec<String> {
    let ShardPlace { shard, slots, users, nodes } = place;
    let slots = counted(u64::from(*slots), "slot");
    vec![format!("shard {shard}: {slots} ({} of the users), kept by {}", percent(*users), joined(nodes))]
}

pub fn moves(moves: &Moves, before: &Summary, after: &Summary) -> Vec<String> {
    let share = |slots: u64| format!("{} ({})", grouped(slots), percent(crate::shard_map::users(slots)));
    let mut lines = vec![
        String::new(),
        format!("from {}", head(before)),
        format!("  to {}", head(after)),
        format!("  slots with another shard          {}", share(moves.resharded_slots)),
        format!("  slots with another set of nodes   {}", share(moves.moved_slots)),
        format!("  slots with another preferred node {}", share(moves.preferred_slots)),
        format!("  copies of slots to make           {}", grouped(moves.copied)),
        format!("  copies of slots to drop           {}", grouped(moves.dropped)),
        format!(
            "  largest node over the mean        {:.3}, now {:.3}",
            after.node_largest_over_mean, before.node_largest_over_mean
        ),
    ];
    lines.extend(lacking(after).into_iter().map(|line| format!("  then: {line}")));
    if !moves.pairs.is_empty() {
        let name = |node: &Option<String>| node.as_deref().map_or_else(|| "-".to_owned(), printable);
        let pairs = moves.pairs.iter().take(ROWS_MAX);
        let rows = pairs
            .map(|pair| [format!("  {}", name(&pair.from)), name(&pair.to), grouped(pair.slots), percent(pair.users)]);
        let columns = [
            ("  instead of", Align::Left),
            ("it is kept by", Align::Left),
            ("slots", Align::Right),
            ("users", Align::Left),
        ];
        lines.push(String::new());
        lines.extend(table(columns, rows));
        lines.extend(more(moves.pairs.len(), "pairs of nodes"));
    }
    lines
}

fn joined(nodes: &[String]) -> String {
    if nodes.is_empty() {
        return "nobody".to_owned();
    }
    nodes.iter().map(|node| printable(node)).collect::<Vec<_>>().join(" ")
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0%".to_owned(),
        percent if percent < 0.01 => "<0.01%".to_owned(),
        percent if percent < 1.0 => format!("{percent:.2}%"),
        percent => format!("{percent:.1}%"),
    }
}

/// A long list of shards is not for a line.
fn shortened(shards: &str) -> String {
    match shards.match_indices(',').nth(7) {
        Some((at, _)) => format!("{},…", &shards[..at]),
        None => shards.to_owned(),
    }
}

fn more(count: usize, what: &str) -> Option<String> {
    (count > ROWS_MAX).then(|| format!("… {} {what} more; --json has all", grouped((count - ROWS_MAX) as u64)))
}
