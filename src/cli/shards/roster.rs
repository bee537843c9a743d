//! The cores of a cluster: those of a configuration, or those that the command line names.

use crate::admin;
use crate::config::{Config, Discovery, Role, parse_shards};
use crate::shard_map::Member;
use std::fs;
use std::path::Path;

/// The cores that a configuration lists; a node that is alone is its own cluster.
pub fn configured(config: &Config) -> Result<Vec<Member>, String> {
    match &config.cluster.discovery {
        Discovery::Static { nodes } if nodes.is_empty() => Ok(vec![Member {
            name: config.name.clone(),
            region: config.region.clone(),
            zone: config.zone.clone(),
            shards: config.shards.clone(),
        }]),
        Discovery::Static { nodes } => {
            Ok(nodes.iter().filter(|node| node.role != Role::Edge).map(Member::from).collect())
        }
        other => living(&config.admin, config.cluster.num_shards).map_err(|error| {
            format!(
                "nodes of this configuration find each other by {}, and the one here cannot be asked ({error}): name \
                 another one's socket with --admin, or the cores with --nodes NAME,NAME,… or --nodes @FILE",
                other.word()
            )
        }),
    }
}

/// The cores that a running node knows.
pub fn living(socket: &Path, num_shards: u32) -> Result<Vec<Member>, String> {
    let status = admin::ask(socket).map_err(|error| error.to_string())?;
    let cores = status.discovery.nodes.into_iter().filter(|node| node.role != Role::Edge.word());
    let members: Vec<Member> = cores
        .map(|node| Member {
            shards: parse_shards(&node.shards, num_shards),
            name: node.name,
            region: node.region,
            zone: node.zone,
        })
        .collect();
    if members.is_empty() { Err("it knows no core".into()) } else { Ok(members) }
}

/// `NAME,NAME,…` or `@FILE`.
pub fn named(text: &str, num_shards: u32) -> Result<Vec<Member>, String> {
    let members: Result<Vec<Member>, String> = match text.strip_prefix('@') {
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            let at = |(line, error)| format!("{file}:{line}: {error}");
            lines(&text).map(|(line, text)| member(text, num_shards).map_err(|error| at((line, error)))).collect()
        }
        None => text.split(',').map(|name| member(name.trim(), num_shards)).collect(),
    };
    members.and_then(|members| if members.is_empty() { Err("no nodes are named".into()) } else { Ok(members) })
}

/// The lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    (1..).zip(lines).filter(|(_, line)| !line.is_empty())
}

/// `NAME [region=R] [zone=Z] [shards=0-499]`.
fn member(text: &str, num_shards: u32) -> Result<Member, String> {
    let mut words = text.split_whitespace();
    let name = words.next().filter(|name| !name.contains('=') && name.len() <= 255);
    let name = name.ok_or("a node has a name of 1 to 255 bytes, without spaces here")?;
    let mut member = Member { name: name.to_owned(), region: "local".to_owned(), zone: String::new(), shards: None };
    for word in words {
        match word.split_once('=') {
            Some(("region", region)) => member.region = region.to_owned(),
            Some(("zone", zone)) => member.zone = zone.to_owned(),
            Some(("shards", shards)) => {
                let wrong = || format!("`{shards}` is not 7, 0-499 or 0-9,20, with numbers below {num_shards}");
                member.shards = Some(parse_shards(shards, num_shards).ok_or_else(wrong)?);
            }
            _ => return Err(format!("`{word}` is none of region=…, zone=…, shards=…")),
        }
    }
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named() {
        let nodes = named("a, b,c", 1).expect("names");
        assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(named("", 1).is_err() && named("a,,b", 1).is_err());
    }

    #[test]
    fn lines_say_where_nodes_stand_and_what_they_claim() {
        let text = "# cores\n\na region=tokyo zone=a shards=0-4,7 # the old one\n  b\n";
        let lines: Vec<_> = lines(text).collect();
        assert_eq!(lines, [(3, "a region=tokyo zone=a shards=0-4,7"), (4, "b")]);
        let a = member(lines[0].1, 10).expect("a node");
        assert_eq!((a.region.as_str(), a.zone.as_str(), a.shards), ("tokyo", "a", Some(vec![0..=4, 7..=7])));
        assert_eq!(member("b", 10).map(|b| (b.region, b.shards)), Ok(("local".into(), None)));
        for (text, words) in [("a shards=0-10", "below 10"), ("a rack=7", "none of region"), ("zone=a", "a name")] {
            assert!(member(text, 10).is_err_and(|error| error.contains(words)), "{text}");
        }
    }
}
