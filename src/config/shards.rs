//! Which shards a node names: "0-499", "7" or "0-9,20" ⇄ sorted ranges that do not touch.
//!
//! The same text is used in configurations, by gossip and in DNS.

use std::fmt::Write;
use std::ops::RangeInclusive;

/// Sorted, without overlap or neighbours.
pub type Ranges = Vec<RangeInclusive<u32>>;

/// The shards that a text names, or nothing if one of them is not below `num_shards` or the text is something else.
#[must_use]
pub fn parse_shards(text: &str, num_shards: u32) -> Option<Ranges> {
    let ranges: Option<Ranges> = text.split(',').map(|part| range(part.trim(), num_shards)).collect();
    Some(united(ranges?))
}

fn range(text: &str, num_shards: u32) -> Option<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < num_shards).then_some(first..=last)
}

/// Digits only, with underscores as everywhere in a configuration.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    if is_number { text.replace('_', "").parse().ok() } else { None }
}

/// Sorts ranges, and makes one of those that touch.
#[must_use]
pub fn united(mut ranges: Ranges) -> Ranges {
    ranges.sort_by_key(|range| (*range.start(), *range.end()));
    let mut united: Ranges = Vec::with_capacity(ranges.len());
    for range in ranges {
        match united.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => united.push(range),
        }
    }
    united
}

/// The text of ranges.
#[must_use]
pub fn shards_text(ranges: &[RangeInclusive<u32>]) -> String {
    let mut text = String::new();
    for range in ranges {
        let comma = if text.is_empty() { "" } else { "," };
        let written = match (range.start(), range.end()) {
            (first, last) if first == last => write!(text, "{comma}{first}"),
            (first, last) => write!(text, "{comma}{first}-{last}"),
        };
        debug_assert!(written.is_ok(), "memory takes every text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_ranges_and_texts_again() {
        for (text, wanted) in [
            ("7", "7"),
            ("0-499", "0-499"),
            (" 20, 0 - 9 ", "0-9,20"),
            ("0-4,5-9,7,8-12", "0-12"),
            ("1_0-1_1", "10-11"),
            ("999,0-998", "0-999"),
        ] {
            assert_eq!(parse_shards(text, 1_000).map(|ranges| shards_text(&ranges)).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_names_no_shard_is_refused() {
        for text in ["", ",", "-", "1-", "-1", "+1", "_1", "5-2", "1000", "0-1000", "a", "1;2", "1-2-3", "4294967296"] {
            assert_eq!(parse_shards(text, 1_000), None, "{text}");
        }
    }
}
