//! What is known of a cluster by a registry: who is there, who is gone and for how long, and the shard map (no I/O).
//!
//! In: news and the time in ms since 1970. Out: nodes and what does not fit. A service that was away may have lost its data:
//! who is missing when it is back counts as before for a while, because all that live register again. Claims do not end
//! while it is away.

use super::map::{Kept, PublishedMap};
use super::{Entry, News, known_of};
use crate::discovery::view::{Known, NodeState};
use std::collections::BTreeMap;

/// How long those that are missing have to register again. They try each second, and each question has two.
const SETTLE_MS: u64 = 4_000;
/// The longest name, address, region and zone.
const TEXT_BYTES_MAX: usize = 255;

/// See the module.
pub struct Follower {
    own: Known,
    claim_ms: u64,
    /// By name, without those that said that they leave and are gone.
    cores: BTreeMap<String, Core>,
    has_cores: bool,
    /// The last one that could be read.
    map: Option<Kept>,
    has_map: bool,
    map_fault: Option<String>,
    /// Since when the service is away, as far as the list of cores goes.
    away_since_ms: Option<u64>,
    /// Until then a core that is missing counts as before.
    settled_at_ms: u64,
    troubles: [Option<String>; 3],
    /// When something changes that was known at the last look.
    next_ms: Option<u64>,
}

struct Core {
    known: Known,
    /// While others have time to register again it lies ahead.
    gone_at_ms: Option<u64>,
}

impl Follower {
    /// Of this node, which may be registered or not.
    pub fn new(own: Known, claim_ms: u64) -> Self {
        Follower {
            own,
            claim_ms,
            cores: BTreeMap::new(),
            has_cores: false,
            map: None,
            has_map: false,
            map_fault: None,
            away_since_ms: None,
            settled_at_ms: 0,
            troubles: [None, None, None],
            next_ms: None,
        }
    }

    /// Takes what came from the service.
    pub fn on_news(&mut self, now_ms: u64, news: News) {
        let (source, trouble) = match news {
            News::Cores(Ok(cores)) => {
                self.on_cores(now_ms, cores);
                (0, None)
            }
            News::Cores(Err(away)) => {
                self.away_since_ms.get_or_insert(now_ms);
                (0, Some(away.to_string()))
            }
            News::Map(Ok(map)) => {
                self.on_map(map);
                (1, None)
            }
            News::Map(Err(away)) => (1, Some(format!("the shard map cannot be read: {away}"))),
            News::Own(Ok(())) => (2, None),
            News::Own(Err(away)) => (2, Some(format!("this node cannot be registered: {away}"))),
        };
        self.troubles[source] = trouble;
    }

    /// What is wrong with the service.
    pub fn trouble(&self) -> Option<String> {
        self.troubles.iter().flatten().next().cloned()
    }

    /// This node will go.
    pub fn drain(&mut self) {
        self.own.state = NodeState::Leaving;
    }

    fn on_cores(&mut self, now_ms: u64, cores: Vec<(Entry, bool)>) {
        if self.away_since_ms.take().is_some() {
            self.settled_at_ms = now_ms + SETTLE_MS;
        }
        self.has_cores = true;
        let gone_at_ms = now_ms.max(self.settled_at_ms);
        let mut before = std::mem::take(&mut self.cores);
        for (name, (entry, is_alive)) in distinct(cores) {
            let last = before.remove(&name).and_then(|core| core.gone_at_ms);
            let core = Core { known: known_of(entry), gone_at_ms: (!is_alive).then(|| last.unwrap_or(gone_at_ms)) };
            self.cores.insert(name, core);
        }
        for (name, core) in before {
            let gone_at_ms = core.gone_at_ms.unwrap_or(gone_at_ms);
            if self.end_ms(gone_at_ms) > now_ms {
                self.cores.insert(name, Core { gone_at_ms: Some(gone_at_ms), ..core });
            }
        }
        // Who said that it leaves is not waited for.
        self.cores.retain(|_, core| core.gone_at_ms.is_none() || core.known.state != NodeState::Leaving);
    }

    /// One that cannot be read is told and not followed: nothing moves for a slip of the pen.
    fn on_map(&mut self, map: Option<String>) {
        self.has_map = true;
        match map.map(|text| PublishedMap::read(&text, self.own.num_shards)) {
            None => (self.map, self.map_fault) = (None, None),
            Some(Ok(map)) => (self.map, self.map_fault) = (Some(map), None),
            Some(Err(fault)) => self.map_fault = Some(format!("{fault}; it is not followed")),
        }
    }

    /// When something changes though nothing was told, as far as is known since [`Follower::known`] was asked.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// Everybody that is known, this node included, and what does not fit.
    pub fn known(&mut self, now_ms: u64) -> (Vec<Known>, Vec<String>) {
        if !(self.has_cores && self.has_map) {
            return (self.alone(), Vec::new());
        }
        // Nobody can register again while the service is away.
        let at_ms = self.away_since_ms.unwrap_or(now_ms);
        let gone = self.cores.values().filter_map(|core| core.gone_at_ms);
        let changes = gone.flat_map(|gone_at_ms| [gone_at_ms, self.end_ms(gone_at_ms)]).filter(|&next| next > at_ms);
        self.next_ms = changes.min().filter(|_| self.away_since_ms.is_none());
        let others = self.cores.values().filter(|core| core.known.name != self.own.name);
        let others = others.filter_map(|core| self.seen(core, at_ms));
        let mut known: Vec<Known> = others.chain([self.own.clone()]).collect();
        if let Some(map) = &self.map {
            let cores = known.iter_mut().filter(|node| node.is_core);
            cores.for_each(|core| core.shards = Some(map.get(&core.name).cloned().unwrap_or_default()));
        }
        (known, self.map_fault.iter().cloned().chain(self.double()).collect())
    }

    /// When the claims of a core end that is gone since then.
    fn end_ms(&self, gone_at_ms: u64) -> u64 {
        (gone_at_ms + self.claim_ms).max(self.settled_at_ms)
    }

    fn seen(&self, core: &Core, at_ms: u64) -> Option<Known> {
        let mut known = core.known.clone();
        if let Some(gone_at_ms) = core.gone_at_ms.filter(|&gone_at_ms| gone_at_ms <= at_ms) {
            known.state = NodeState::Gone;
            // Consul lists some for longer than they are waited for.
            if self.end_ms(gone_at_ms) <= at_ms {
                return None;
            }
        }
        Some(known)
    }

    /// Another node that is registered under this one's name.
    fn double(&self) -> Option<String> {
        let core = self.cores.get(&self.own.name).filter(|core| core.gone_at_ms.is_none())?;
        let (theirs, ours) = (&core.known.address, &self.own.address);
        let text = || format!("{} is registered at {theirs}, and this node of that name is at {ours}", self.own.name);
        (theirs != ours).then(text)
    }

    /// Before the service has said who is there. A core that names no shards keeps none until then: others may keep them.
    fn alone(&self) -> Vec<Known> {
        let is_harmless = !self.own.is_core || self.own.shards.is_some();
        Some(self.own.clone()).filter(|_| is_harmless).into_iter().collect()
    }
}

/// One registration for each name: an agent that is gone may list a node that has registered at another one since. What no
/// node can be called is passed over.
fn distinct(cores: Vec<(Entry, bool)>) -> BTreeMap<String, (Entry, bool)> {
    let is_text = |text: &String| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    let mut found: BTreeMap<String, (Entry, bool)> = BTreeMap::new();
    for (entry, is_alive) in cores {
        let Entry { name, address, region, zone, .. } = &entry;
        let is_good = !name.is_empty() && [name, address, region, zone].into_iter().all(is_text);
        let is_better = found.get(name).is_none_or(|(_, other_is_alive)| is_alive && !other_is_alive);
        if is_good && is_better {
            found.insert(entry.name.clone(), (entry, is_alive));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Away;
    use super::*;
    use NodeState::{Alive, Gone, Leaving};

    const CLAIM_MS: u64 = 10_000;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            address: format!("{name}:7085"),
            region: "tokyo".to_owned(),
            zone: String::new(),
            role: "core".to_owned(),
            shards: "Auto".to_owned(),
            num_shards: 10,
            leaving: false,
        }
    }

    fn edge() -> Known {
        Known { is_core: false, is_edge: true, ..known_of(entry("edge")) }
    }

    /// An edge that has heard of a and b at 0.
    fn follower() -> Follower {
        let mut follower = Follower::new(edge(), CLAIM_MS);
        follower.on_news(0, cores(&["a", "b"]));
        follower.on_news(0, News::Map(Ok(None)));
        assert_eq!(states(&mut follower, 0), [("a", Alive), ("b", Alive)]);
        follower
    }

    fn cores(names: &[&str]) -> News {
        News::Cores(Ok(names.iter().map(|name| (entry(name), true)).collect()))
    }

    fn away() -> Away {
        Away::Unreachable { service: "consul", cause: "gone".to_owned() }
    }

    /// Without this node.
    fn states(follower: &mut Follower, now_ms: u64) -> Vec<(&'static str, NodeState)> {
        let names = ["a", "b", "c"];
        let (known, _) = follower.known(now_ms);
        let find = |name| Some((name, known.iter().find(|known| known.name == name)?.state));
        names.into_iter().filter_map(find).collect()
    }

    #[test]
    fn who_is_missing_is_gone_and_forgotten_when_its_claims_end() {
        let mut follower = follower();
        follower.on_news(1_000, cores(&["a"]));
        assert_eq!(states(&mut follower, 1_000), [("a", Alive), ("b", Gone)]);
        assert_eq!(follower.next_ms(), Some(1_000 + CLAIM_MS));
        follower.on_news(5_000, cores(&["a"]));
        assert_eq!(states(&mut follower, 999 + CLAIM_MS), [("a", Alive), ("b", Gone)]);
        assert_eq!(states(&mut follower, 1_000 + CLAIM_MS), [("a", Alive)]);
        assert_eq!(follower.next_ms(), None);
        follower.on_news(20_000, cores(&["a", "b"]));
        assert_eq!(states(&mut follower, 20_000), [("a", Alive), ("b", Alive)]);
    }

    #[test]
    fn a_registration_that_has_ended_is_remembered_while_it_is_listed() {
        let mut follower = follower();
        let critical = || News::Cores(Ok(vec![(entry("a"), true), (entry("b"), false)]));
        follower.on_news(1_000, critical());
        assert_eq!(states(&mut follower, 1_000), [("a", Alive), ("b", Gone)]);
        follower.on_news(20_000, critical());
        assert_eq!(states(&mut follower, 20_000), [("a", Alive)]);
        follower.on_news(20_001, critical());
        assert_eq!(states(&mut follower, 20_001), [("a", Alive)]);
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let mut follower = follower();
        let leaving = Entry { leaving: true, ..entry("b") };
        follower.on_news(1_000, News::Cores(Ok(vec![(entry("a"), true), (leaving.clone(), true)])));
        assert_eq!(states(&mut follower, 1_000), [("a", Alive), ("b", Leaving)]);
        follower.on_news(2_000, News::Cores(Ok(vec![(entry("a"), true), (leaving, false)])));
        assert_eq!(states(&mut follower, 2_000), [("a", Alive)]);
        follower.drain();
        assert_eq!(follower.known(2_000).0.last().expect("itself").state, Leaving);
    }

    #[test]
    fn a_service_that_lost_its_data_does_not_make_anybody_gone() {
        let mut follower = follower();
        follower.on_news(1_000, News::Cores(Err(away())));
        assert_eq!(follower.trouble().as_deref(), Some("consul does not answer: gone"));
        assert_eq!(states(&mut follower, 90_000), [("a", Alive), ("b", Alive)]);
        follower.on_news(90_000, cores(&[]));
        assert_eq!((follower.trouble(), states(&mut follower, 90_000).len()), (None, 2));
        assert_eq!(follower.next_ms(), Some(90_000 + SETTLE_MS));
        follower.on_news(91_000, cores(&["a", "c"]));
        assert_eq!(states(&mut follower, 91_000), [("a", Alive), ("b", Alive), ("c", Alive)]);
        let settled_ms = 90_000 + SETTLE_MS;
        assert_eq!(states(&mut follower, settled_ms), [("a", Alive), ("b", Gone), ("c", Alive)]);
        assert_eq!(states(&mut follower, settled_ms + CLAIM_MS), [("a", Alive), ("c", Alive)]);
    }

    #[test]
    fn claims_do_not_end_while_the_service_is_away() {
        let mut follower = follower();
        follower.on_news(1_000, cores(&["a"]));
        follower.on_news(2_000, News::Cores(Err(away())));
        assert_eq!(states(&mut follower, 90_000), [("a", Alive), ("b", Gone)]);
        assert_eq!(follower.next_ms(), None);
        follower.on_news(90_000, cores(&[]));
        assert_eq!(states(&mut follower, 90_000), [("a", Alive), ("b", Gone)]);
        follower.on_news(90_500, cores(&["a", "b"]));
        assert_eq!(states(&mut follower, 90_500), [("a", Alive), ("b", Alive)]);
    }

    #[test]
    fn of_two_registrations_of_a_name_the_one_that_is_alive_counts() {
        let mut follower = follower();
        let at = |address: &str| Entry { address: address.to_owned(), ..entry("a") };
        for list in [[(at("old"), false), (at("new"), true)], [(at("new"), true), (at("old"), false)]] {
            follower.on_news(1_000, News::Cores(Ok(list.to_vec())));
            let (known, _) = follower.known(1_000);
            let a = known.iter().find(|known| known.name == "a").expect("a");
            assert_eq!((a.address.as_str(), a.state), ("new", Alive));
        }
        let bad = [entry(""), entry("c\x1b[2J"), Entry { zone: "z".repeat(256), ..entry("c") }];
        follower.on_news(2_000, News::Cores(Ok(bad.map(|entry| (entry, true)).to_vec())));
        assert_eq!(states(&mut follower, 2_000), [("a", Gone), ("b", Gone)]);
    }

    #[test]
    fn a_map_decides_and_a_broken_one_changes_nothing() {
        let mut follower = follower();
        let shards = |follower: &mut Follower| {
            let (known, faults) = follower.known(0);
            let of = |name: &str| known.iter().find(|known| known.name == name).expect(name).shards.clone();
            ((of("a"), of("b"), of("edge")), faults)
        };
        assert_eq!(shards(&mut follower), ((None, None, None), Vec::new()));
        let map = r#"{"num_shards": 10, "nodes": {"a": "0-9"}}"#;
        follower.on_news(0, News::Map(Ok(Some(map.to_owned()))));
        let mapped = (Some(vec![0..=9]), Some(Vec::new()), None);
        assert_eq!(shards(&mut follower), (mapped.clone(), Vec::new()));
        follower.on_news(0, News::Map(Ok(Some(map.replace("10", "20")))));
        let fault = "the shard map is for 20 shards, and cluster.num_shards is 10; it is not followed";
        assert_eq!(shards(&mut follower), (mapped.clone(), vec![fault.to_owned()]));
        follower.on_news(0, News::Map(Err(away())));
        assert_eq!(follower.trouble().as_deref(), Some("the shard map cannot be read: consul does not answer: gone"));
        assert_eq!(shards(&mut follower).0, mapped);
        follower.on_news(0, News::Map(Ok(None)));
        assert_eq!(shards(&mut follower), ((None, None, None), Vec::new()));
    }

    #[test]
    fn a_core_keeps_what_falls_to_it_only_when_it_knows_who_else_is_there() {
        let own = known_of(entry("c"));
        let mut follower = Follower::new(own.clone(), CLAIM_MS);
        assert!(follower.known(0).0.is_empty());
        follower.on_news(0, cores(&["a"]));
        assert!(follower.known(0).0.is_empty());
        follower.on_news(0, News::Map(Ok(None)));
        assert_eq!(states(&mut follower, 0), [("a", Alive), ("c", Alive)]);
        let named = Known { shards: Some(vec![0..=1]), ..own };
        assert_eq!(Follower::new(named.clone(), CLAIM_MS).known(0).0, [named]);
    }

    #[test]
    fn a_second_node_of_this_name_is_told() {
        let mut follower = Follower::new(known_of(entry("a")), CLAIM_MS);
        follower.on_news(0, News::Map(Ok(None)));
        follower.on_news(0, News::Cores(Ok(vec![(Entry { address: "elsewhere:1".to_owned(), ..entry("a") }, true)])));
        let wanted = "a is registered at elsewhere:1, and this node of that name is at a:7085";
        assert_eq!(follower.known(0).1, [wanted]);
        follower.on_news(0, cores(&["a"]));
        assert!(follower.known(0).1.is_empty());
    }
}
