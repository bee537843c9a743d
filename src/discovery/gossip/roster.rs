//! The roster: what SWIM knows about each address, and how long cores that are gone keep their claims (pure).
//!
//! SWIM's members come in whole whenever something changed; nodes go out. A core that died keeps its shards for
//! `claim_ms`; one that said that it leaves loses them when it is gone, and so does everybody else.

use super::member::Member;
use crate::discovery::view::{Known, NodeState};
use foca::State;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Who is there, by the address for gossip.
#[derive(Debug)]
pub struct Roster {
    claim_ms: u64,
    entries: BTreeMap<SocketAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    member: Member,
    /// Since when it is down.
    down_since: Option<u64>,
}

impl Roster {
    pub fn new(claim_ms: u64) -> Self {
        Roster { claim_ms, entries: BTreeMap::new() }
    }

    /// Takes SWIM's members, those that are down included.
    pub fn update<'a>(&mut self, now_ms: u64, members: impl Iterator<Item = &'a foca::Member<Member>>) {
        let mut entries = BTreeMap::new();
        for member in members {
            let is_down = member.state() == State::Down;
            let before = self.entries.get(&member.id().address);
            let since = before.filter(|entry| entry.member == *member.id()).and_then(|entry| entry.down_since);
            let entry = Entry { member: member.id().clone(), down_since: is_down.then(|| since.unwrap_or(now_ms)) };
            entries.insert(member.id().address, entry);
        }
        self.entries = entries;
    }

    /// Those that are up, by their address.
    pub fn up(&self) -> impl Iterator<Item = &Member> {
        self.entries.values().filter(|entry| entry.down_since.is_none()).map(|entry| &entry.member)
    }

    /// Whether somebody at this address is up.
    pub fn is_up(&self, address: &SocketAddr) -> bool {
        self.entries.get(address).is_some_and(|entry| entry.down_since.is_none())
    }

    /// The nodes, one for each name; and names that two nodes have.
    pub fn known(&self, now_ms: u64) -> (Vec<Known>, Vec<String>) {
        let mut best: BTreeMap<&str, (&Entry, NodeState)> = BTreeMap::new();
        let mut faults = Vec::new();
        for entry in self.entries.values() {
            let (Some(about), Some(state)) = (&entry.member.about, self.state(entry, now_ms)) else { continue };
            let Some((other, other_state)) = best.get(about.name.as_str()) else {
                best.insert(&about.name, (entry, state));
                continue;
            };
            let rank = |entry: &Entry| (entry.down_since.is_none(), entry.member.boot, entry.member.address);
            if state != NodeState::Gone && *other_state != NodeState::Gone {
                let (name, one, two) = (&about.name, other.member.address, entry.member.address);
                faults.push(format!("two nodes are called {name}: {one} and {two}; the one that started last counts"));
            }
            if rank(entry) > rank(other) {
                best.insert(&about.name, (entry, state));
            }
        }
        let known = best.values().filter_map(|(entry, state)| Some(entry.member.about.as_ref()?.known(*state)));
        (known.collect(), faults)
    }

    /// When a claim ends next.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let ends = self.entries.values().filter_map(|entry| Some(entry.down_since? + self.claim_ms));
        ends.filter(|&end| end > now_ms).min()
    }

    /// How a node is, if it still counts.
    fn state(&self, entry: &Entry, now_ms: u64) -> Option<NodeState> {
        let about = entry.member.about.as_ref()?;
        match entry.down_since {
            None if about.is_leaving => Some(NodeState::Leaving),
            None => Some(NodeState::Alive),
            Some(since) if about.is_core && !about.is_leaving && now_ms < since + self.claim_ms => {
                Some(NodeState::Gone)
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::About;
    use super::*;
    use std::sync::Arc;

    fn member(port: u16, name: &str, boot: u64, is_leaving: bool) -> Member {
        let about = About {
            name: name.to_owned(),
            address: String::new(),
            region: String::new(),
            zone: String::new(),
            is_edge: !name.starts_with("core"),
            is_core: name.starts_with("core"),
            is_leaving,
            num_shards: 1,
            shards: None,
            rest: Vec::new(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Member { address, boot, renewal: 0, version: 0, about: Some(Arc::new(about)) }
    }

    fn states(roster: &Roster, now_ms: u64) -> Vec<(String, NodeState)> {
        roster.known(now_ms).0.into_iter().map(|known| (known.name, known.state)).collect()
    }

    fn update(roster: &mut Roster, now_ms: u64, members: &[(Member, State)]) {
        let members: Vec<_> = members.iter().map(|(id, state)| foca::Member::new(id.clone(), 0, *state)).collect();
        roster.update(now_ms, members.iter());
    }

    #[test]
    fn a_dead_core_keeps_its_claims_for_a_while_and_nobody_else_does() {
        let mut roster = Roster::new(1_000);
        let [core, edge, leaving] =
            [member(1, "core", 1, false), member(2, "edge", 1, false), member(3, "core-2", 1, true)];
        let all = |state| [(core.clone(), state), (edge.clone(), state), (leaving.clone(), state)];
        update(&mut roster, 5, &all(State::Suspect));
        let up = [("core", NodeState::Alive), ("core-2", NodeState::Leaving), ("edge", NodeState::Alive)];
        assert_eq!(states(&roster, 5), up.map(|(name, state)| (name.to_owned(), state)));
        update(&mut roster, 10, &all(State::Down));
        update(&mut roster, 500, &all(State::Down));
        assert_eq!(states(&roster, 1_009), [("core".to_owned(), NodeState::Gone)]);
        assert_eq!((roster.next_ms(500), roster.next_ms(1_010)), (Some(1_010), None));
        assert_eq!(states(&roster, 1_010), []);
        // A new start at the same address, which dies too.
        update(&mut roster, 2_000, &[(member(1, "core", 2, false), State::Down)]);
        assert_eq!(states(&roster, 2_500), [("core".to_owned(), NodeState::Gone)]);
    }

    #[test]
    fn of_two_nodes_with_one_name_the_last_started_counts() {
        let mut roster = Roster::new(1_000);
        let (old, new) = (member(1, "core", 1, true), member(2, "core", 2, false));
        update(&mut roster, 0, &[(old.clone(), State::Alive), (new.clone(), State::Alive)]);
        let (known, faults) = roster.known(0);
        assert_eq!((known.len(), known[0].state), (1, NodeState::Alive));
        assert_eq!(
            faults,
            ["two nodes are called core: 127.0.0.1:1 and 127.0.0.1:2; the one that started last counts"]
        );
        // It came back with another address: no fault, once the old one is known to be gone.
        update(&mut roster, 0, &[(old, State::Down), (new.clone(), State::Alive)]);
        assert_eq!(roster.known(0), (vec![new.about.expect("known").known(NodeState::Alive)], vec![]));
    }
}
