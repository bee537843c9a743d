//! The shard map that `iris shards publish` writes: which core keeps which shards, whatever the cores say themselves.

use crate::config::{Ranges, parse_shards};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// As it is written, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedMap {
    /// Has to be the cluster's.
    pub num_shards: u32,
    /// Such as `0-499,700`, by the name of the core. A core that is not here keeps nothing.
    pub nodes: BTreeMap<String, String>,
}

/// The shards of each core.
pub type Kept = BTreeMap<String, Ranges>;

impl PublishedMap {
    /// Reads one, for a cluster with so many shards.
    ///
    /// Errors: what does not fit, for people.
    pub fn read(text: &str, num_shards: u32) -> Result<Kept, String> {
        let map: PublishedMap =
            serde_json::from_str(text).map_err(|cause| format!("the shard map is not one: {cause}"))?;
        if map.num_shards != num_shards {
            let theirs = map.num_shards;
            return Err(format!("the shard map is for {theirs} shards, and cluster.num_shards is {num_shards}"));
        }
        let wrong = |name: &str, shards: &str| {
            let (name, shards) = (name.escape_debug(), shards.escape_debug());
            format!("the shard map gives {name} the shards `{shards}`, which are none of 0 to {}", num_shards - 1)
        };
        let read = |(name, shards): (String, String)| match parse_shards(&shards, num_shards) {
            Some(ranges) => Ok((name, ranges)),
            None => Err(wrong(&name, &shards)),
        };
        map.nodes.into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_for_its_number_of_shards() {
        let text = r#"{"num_shards": 10, "nodes": {"a": "0-4,6", "b": "5,7-9"}}"#;
        let map = PublishedMap::read(text, 10).expect("a map");
        assert_eq!((&map["a"], &map["b"]), (&vec![0..=4, 6..=6], &vec![5..=5, 7..=9]));
        for (text, wanted) in [
            (text.replace("10", "11"), "the shard map is for 11 shards, and cluster.num_shards is 10"),
            (text.replace("7-9", "7-10"), "the shard map gives b the shards `5,7-10`, which are none of 0 to 9"),
            (text.replace("nodes", "node"), "the shard map is not one: unknown field `node`"),
            (String::new(), "the shard map is not one: EOF"),
        ] {
            let error = PublishedMap::read(&text, 10).expect_err("refused");
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
