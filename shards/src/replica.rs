//! How far one other node is in step with this executor for one shard (delivery rules 8, 14 and 18).
//!
//! A leaf: it takes what a link, [`crate::peer::Claims`] and [`crate::peer::FromReplica`] tell, and answers what may be
//! relied on. Who the other node is to the shard is [`crate::tenure`]'s.

use std::collections::BTreeSet;

use crate::id::{ExecutorId, NodeId, Slot};
use crate::mutant::{self, Mutant};
use crate::peer::{Claim, Standing};

/// What the other node is to this one, for the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It keeps the shard as this node does.
    Replica,
    /// It may have kept the shard before: it has to agree that it does not any more.
    Former,
    /// This node does not keep the shard any more, and the other one does.
    Heir,
    /// It has asked, or has something to hand over.
    Other,
}

/// What one executor of the other node has said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    replicas: Vec<NodeId>,
    standing: Standing,
    /// Its last question; 0: none.
    round: u32,
    /// It was offered what this side has, in that round.
    offered: bool,
    /// It has asked for what it lacked of that.
    compared: bool,
}

/// What is new about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing but perhaps how far it is.
    Nothing,
    /// Nothing was known before.
    First,
    /// Its log has the mark now.
    Complete,
    /// The replicas have changed, or whether it keeps the shard: what was in step is not any more.
    Changed,
}

/// How far this executor is in step with the core of one other node, for one shard.
#[derive(Debug)]
pub struct InStep {
    /// What the other node is.
    pub role: Role,
    up: bool,
    /// By executor of the other node.
    heard: Vec<Option<Heard>>,
    /// The question of this side that an offer has to answer; 0: none was asked.
    round: u32,
    offers: BTreeSet<ExecutorId>,
    wanted: BTreeSet<Slot>,
    /// A copy of these found no room here: what comes of them is dropped, for it has a gap before it, and they are wanted
    /// again.
    behind: BTreeSet<Slot>,
    /// Those of which the other side has not said yet that nothing more comes.
    stopping: BTreeSet<Slot>,
    /// The same at the other side.
    short: BTreeSet<Slot>,
}

impl InStep {
    /// Nothing is known about the other side.
    pub fn new(role: Role, up: bool) -> Self {
        InStep {
            role,
            up,
            heard: Vec::new(),
            round: 0,
            offers: BTreeSet::new(),
            wanted: BTreeSet::new(),
            behind: BTreeSet::new(),
            stopping: BTreeSet::new(),
            short: BTreeSet::new(),
        }
    }

    /// The link is up, for the first time or again.
    pub fn on_link_up(&mut self) {
        *self = InStep::new(self.role, true);
    }

    /// The link is lost. What was in step by then stays so.
    pub fn on_link_down(&mut self) {
        self.up = false;
        self.forget_offers();
    }

    /// What is in step counts no more: it has to be compared anew.
    pub fn begin(&mut self) {
        self.round = 0;
        self.offers.clear();
        self.wanted.clear();
        self.behind.clear();
        self.stopping.clear();
    }

    /// What was offered to the other side counts no more.
    pub fn forget_offers(&mut self) {
        for heard in self.heard.iter_mut().flatten() {
            (heard.offered, heard.compared) = (false, false);
        }
    }

    /// This side asks.
    pub fn ask(&mut self, round: u32) {
        self.round = round;
    }

    /// Whether this side has asked, or is about to.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// One executor of the other side says how it stands; in a round, if it asks.
    pub fn hear(&mut self, (executor, executors): (ExecutorId, u16), claim: &Claim, round: u32) -> News {
        if self.heard.len() != usize::from(executors) {
            self.heard = vec![None; usize::from(executors)];
        }
        let Some(heard) = self.heard.get_mut(usize::from(executor.0)) else { return News::Nothing };
        let (replicas, standing) = (claim.replicas.clone(), claim.standing);
        let Some(before) = heard else {
            *heard = Some(Heard { replicas, standing, round, offered: false, compared: false });
            return News::First;
        };
        let changed = before.replicas != replicas || keeps(before.standing) != keeps(standing);
        let completes = before.standing == Standing::Joining && standing > Standing::Joining;
        (before.replicas, before.standing) = (replicas, standing);
        if round > 0 {
            (before.round, before.offered, before.compared) = (round, false, false);
            // It compares everything now: what had no room is among what it wants.
            self.short.retain(|slot| slot.home(executors) != executor);
        } else if changed {
            (before.offered, before.compared) = (false, false);
        }
        match changed {
            true => News::Changed,
            false if completes => News::Complete,
            false => News::Nothing,
        }
    }

    fn says(&self, what: impl Fn(&Heard) -> bool) -> bool {
        !self.heard.is_empty() && self.heard.iter().all(|heard| heard.as_ref().is_some_and(&what))
    }

    /// Whether all of it keeps the shard, and with these replicas.
    pub fn agrees(&self, replicas: &[NodeId]) -> bool {
        self.says(|heard| keeps(heard.standing) && heard.replicas == replicas)
    }

    /// Whether nobody that kept the shard there before may still think that it does.
    pub fn is_settled(&self) -> bool {
        self.says(|heard| matches!(heard.standing, Standing::Joining | Standing::Settled))
    }

    /// Whether all logs there carry the mark.
    pub fn is_complete(&self) -> bool {
        self.says(|heard| heard.standing >= Standing::Unsettled)
    }

    /// Whether it does not keep the shard, and its logs say so.
    pub fn is_outside(&self) -> bool {
        self.says(|heard| heard.standing <= Standing::Handing)
    }

    /// Whether it is to be asked, by one that keeps the shard or not: also where some of it has something to hand over.
    pub fn matters(&self, serves: bool) -> bool {
        let is_handing = |heard: &Heard| heard.standing == Standing::Handing;
        self.role != Role::Other || (serves && self.heard.iter().flatten().any(is_handing))
    }

    /// The executors that wait for an offer, with their rounds: those that keep the shard, with `replicas` if given.
    pub fn offers_due<'a>(&'a self, replicas: Option<&'a [NodeId]>) -> impl Iterator<Item = (ExecutorId, u32)> + 'a {
        let heard = self.heard.iter().enumerate().filter_map(|(at, heard)| heard.as_ref().map(|heard| (at, heard)));
        let due = heard.filter(move |(_, heard)| {
            let fits = keeps(heard.standing) && replicas.is_none_or(|replicas| heard.replicas == replicas);
            self.up && fits && heard.round > 0 && !heard.offered
        });
        due.map(|(at, heard)| (ExecutorId(at as u16), heard.round))
    }

    /// This executor of the other side is offered what this side has.
    pub fn on_offer_sent(&mut self, executor: ExecutorId) {
        if let Some(Some(heard)) = self.heard.get_mut(usize::from(executor.0)) {
            heard.offered = true;
        }
    }

    /// One executor of the other side has offered everything in this round. False if that is not the present one.
    pub fn on_offered(&mut self, executor: ExecutorId, round: u32) -> bool {
        let counts = self.up && ((self.round == round && round > 0) || mutant::is(Mutant::OldRoundsCount));
        counts && self.offers.insert(executor)
    }

    /// One executor of the other side has asked for what it lacks. True if that is news.
    pub fn on_compared(&mut self, executor: ExecutorId, round: u32) -> bool {
        let Some(Some(heard)) = self.heard.get_mut(usize::from(executor.0)) else { return false };
        let counts = self.up && heard.offered && heard.round == round && !heard.compared;
        heard.compared |= counts;
        counts
    }

    fn home(&self, slot: Slot) -> Option<&Heard> {
        let executors = self.heard.len() as u16;
        let at = (executors > 0).then(|| usize::from(slot.home(executors).0))?;
        self.heard[at].as_ref()
    }

    /// Whether the executor that has this slot there keeps it with the same replicas, or hands over what it has.
    pub fn is_fit(&self, slot: Slot, replicas: &[NodeId]) -> bool {
        let hands_over = |heard: &Heard| heard.standing <= Standing::Handing;
        self.keeps_with(slot, replicas) || (self.up && self.home(slot).is_some_and(hands_over))
    }

    /// Whether the executor that has this slot there is to hear what becomes of its entries: from one that keeps it with
    /// these replicas, or (`None`) hands it over.
    pub fn hears(&self, slot: Slot, replicas: Option<&[NodeId]>) -> bool {
        let hears = |heard: &Heard| match replicas {
            Some(_) if heard.standing == Standing::Handing => true,
            Some(replicas) => keeps(heard.standing) && heard.replicas == replicas,
            None => keeps(heard.standing),
        };
        self.up && self.home(slot).is_some_and(hears)
    }

    /// Whether the executor that has this slot there keeps it with these replicas.
    pub fn keeps_with(&self, slot: Slot, replicas: &[NodeId]) -> bool {
        self.up && self.home(slot).is_some_and(|heard| keeps(heard.standing) && heard.replicas == replicas)
    }

    /// How many executors the other side has, once that is known.
    pub fn executors(&self) -> u16 {
        self.heard.len() as u16
    }

    /// Whether this side has offered what it has of this slot.
    pub fn is_offered(&self, slot: Slot) -> bool {
        self.up && self.home(slot).is_some_and(|heard| heard.offered)
    }

    /// Whether what comes of this slot has no gap before it: it was offered in this round, and none of it was dropped.
    pub fn is_in_order(&self, slot: Slot) -> bool {
        let executors = self.heard.len() as u16;
        executors > 0 && self.offers.contains(&slot.home(executors)) && !self.behind.contains(&slot)
    }

    /// Whether the other side has asked for what it lacked of this slot.
    pub fn has_compared(&self, slot: Slot) -> bool {
        self.up && self.home(slot).is_some_and(|heard| heard.compared)
    }

    /// Whether all of the other side has asked for what it lacked, and has room for it.
    pub fn lacks_nothing(&self) -> bool {
        self.short.is_empty() && self.says(|heard| heard.compared)
    }

    /// The content of this slot is asked for. False if it cannot be: what is on its way has to come first.
    pub fn want(&mut self, slot: Slot) -> bool {
        let can = !self.stopping.contains(&slot);
        if can {
            self.behind.remove(&slot);
            self.wanted.insert(slot);
        }
        can
    }

    /// A copy found no room here. True if the other side has to be told.
    pub fn fall_behind(&mut self, slot: Slot) -> bool {
        self.up && self.behind.insert(slot) && self.stopping.insert(slot)
    }

    /// What is to be asked for again, now that there is room.
    pub fn to_want_again(&self) -> Vec<Slot> {
        let all = self.up && self.has_offered();
        self.behind.iter().copied().filter(|slot| all && !self.stopping.contains(slot)).collect()
    }

    /// The other side had no room for something of this slot (`true`), or asks for all of it (`false`).
    pub fn set_short(&mut self, slot: Slot, is_short: bool) {
        if is_short {
            self.short.insert(slot);
        } else {
            self.short.remove(&slot);
        }
    }

    /// Whether the other side had no room for something of this slot.
    pub fn is_short(&self, slot: Slot) -> bool {
        self.short.contains(&slot)
    }

    /// The content of this slot has arrived, or nothing more of it comes: questions are answered in their order. True if
    /// no content is waited for any more.
    pub fn on_done(&mut self, slot: Slot) -> bool {
        if self.wanted.remove(&slot) {
            return self.wanted.is_empty();
        }
        self.stopping.remove(&slot);
        false
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether the other side has offered everything, and what was lacking was asked for.
    pub fn has_offered(&self) -> bool {
        !self.heard.is_empty() && self.offers.len() == self.heard.len()
    }

    /// Whether this side has everything that the other had of this slot when it was asked; while the link is down: had
    /// it when the link was lost.
    pub fn is_synced(&self, slot: Slot) -> bool {
        self.has_offered() && !self.wanted.contains(&slot) && !self.behind.contains(&slot)
    }

    /// The same for all slots of the shard.
    pub fn is_all_synced(&self) -> bool {
        self.has_offered() && self.wanted.is_empty() && self.behind.is_empty()
    }
}

fn keeps(standing: Standing) -> bool {
    standing >= Standing::Joining
}
