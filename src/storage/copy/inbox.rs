//! What one side has of a user, and what the other one lacks of it. A set of messages and a set of taken keys: union is
//! the only merge, and what was taken on either side is dead on both.

use std::collections::{BTreeMap, BTreeSet};

use iris_shards::id::Key;

/// One user's messages and taken keys, without bodies.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Inbox {
    alive: BTreeSet<Key>,
    /// And when, in ms since the Unix epoch.
    taken: BTreeMap<Key, u64>,
}

/// What has to be written to a side.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Messages, in the order of their keys.
    pub entries: BTreeSet<Key>,
    /// Keys that were taken.
    pub taken: BTreeMap<Key, u64>,
    /// Messages that are there, and were taken.
    pub dead: BTreeSet<Key>,
}

impl Inbox {
    /// A message was found.
    pub fn put(&mut self, key: Key) {
        if !self.taken.contains_key(&key) {
            self.alive.insert(key);
        }
    }

    /// A taken key was found.
    pub fn take(&mut self, key: Key, taken_at: u64) {
        self.alive.remove(&key);
        let newest = self.taken.entry(key).or_default();
        *newest = taken_at.max(*newest);
    }

    /// Messages that nobody took.
    pub fn alive(&self) -> &BTreeSet<Key> {
        &self.alive
    }

    /// Keys that were taken.
    pub fn taken(&self) -> &BTreeMap<Key, u64> {
        &self.taken
    }

    /// What this side lacks of the other.
    pub fn missing_of(&self, from: &Inbox) -> Missing {
        let entries = from.alive.difference(&self.alive).filter(|key| !self.taken.contains_key(key));
        let taken = from.taken.iter().filter(|(key, _)| !self.taken.contains_key(key));
        let dead = self.alive.iter().filter(|key| from.taken.contains_key(key));
        Missing {
            entries: entries.cloned().collect(),
            taken: taken.map(|(key, taken_at)| (key.clone(), *taken_at)).collect(),
            dead: dead.cloned().collect(),
        }
    }
}

impl Missing {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.taken.is_empty() && self.dead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_shards::id::{MessageId, UserId};

    fn key(n: u64) -> Key {
        Key { id: MessageId::v7(n, 1), sender: UserId::parse(b"alice").unwrap() }
    }

    fn inbox(alive: &[u64], taken: &[u64]) -> Inbox {
        let mut inbox = Inbox::default();
        alive.iter().for_each(|&n| inbox.put(key(n)));
        taken.iter().for_each(|&n| inbox.take(key(n), n));
        inbox
    }

    fn written(to: &Inbox, missing: &Missing) -> Inbox {
        let mut to = to.clone();
        missing.entries.iter().for_each(|key| to.put(key.clone()));
        missing.taken.iter().for_each(|(key, at)| to.take(key.clone(), *at));
        to.alive.retain(|key| !missing.dead.contains(key));
        to
    }

    #[test]
    fn what_was_taken_is_dead_whatever_the_order() {
        let mut inbox = inbox(&[1, 2], &[2, 3]);
        inbox.put(key(3));
        assert_eq!(inbox.alive.iter().collect::<Vec<_>>(), [&key(1)]);
    }

    #[test]
    fn a_copy_is_a_union_and_what_was_taken_on_either_side_is_dead() {
        let from = inbox(&[1, 2, 3, 4], &[5, 6]);
        let to = inbox(&[2, 5, 9], &[3, 8]);
        let missing = to.missing_of(&from);
        assert_eq!(missing.entries.iter().collect::<Vec<_>>(), [&key(1), &key(4)]);
        assert_eq!(missing.taken.keys().collect::<Vec<_>>(), [&key(5), &key(6)]);
        assert_eq!(missing.dead.iter().collect::<Vec<_>>(), [&key(5)]);
        assert_eq!(written(&to, &missing), inbox(&[1, 2, 4, 9], &[3, 5, 6, 8]));
    }

    #[test]
    fn a_second_copy_writes_nothing() {
        let (from, to) = (inbox(&[1, 2], &[3]), inbox(&[3], &[2]));
        let to = written(&to, &to.missing_of(&from));
        assert!(to.missing_of(&from).is_empty());
    }

    #[test]
    fn a_copy_of_which_a_part_was_written_goes_on() {
        let (from, to) = (inbox(&(1..50).collect::<Vec<_>>(), &[60, 61]), inbox(&[60], &[7]));
        let whole = to.missing_of(&from);
        let mut part = to.clone();
        whole.entries.iter().take(20).for_each(|key| part.put(key.clone()));
        assert_eq!(written(&part, &part.missing_of(&from)), written(&to, &whole));
    }
}
