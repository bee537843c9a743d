//! What one shard is to this executor: who keeps it, what the log says of it, and how far the others are (rules 14, 18).
//!
//! A leaf: it judges claims and answers what may be relied on; the core acts ([`crate::shard`]). A shard is *settled* at
//! a core whose log has everything that its keepers before had, once all of them agree that its present replicas keep it.

use std::collections::BTreeMap;

use crate::id::{NodeId, Slot};
use crate::mutant::{self, Mutant};
use crate::peer::{Claim, Standing};
use crate::replica::{InStep, Role};
use crate::storage::Place;

/// The last mark of a shard on disk, and where it is; one without a place was never written.
#[derive(Debug)]
struct Marked {
    replicas: Vec<NodeId>,
    place: Option<Place>,
}

/// See the module.
#[derive(Debug)]
pub struct Tenure {
    shard: u32,
    node: NodeId,
    /// Ascending.
    replicas: Vec<NodeId>,
    mark: Option<Marked>,
    /// A mark that is appended and not flushed.
    marking: Option<Vec<NodeId>>,
    /// Entries that are left here of a shard that others keep.
    pub left: u64,
    /// It was stored to a store that is shared, and those who keep the shard now have not read since.
    untold: bool,
    peers: BTreeMap<NodeId, InStep>,
    /// What the others were told last.
    told: Option<Claim>,
}

impl Tenure {
    /// A shard with these replicas, of which the log has no mark.
    pub fn new(shard: u32, node: NodeId) -> Self {
        Tenure {
            shard,
            node,
            replicas: Vec::new(),
            mark: None,
            marking: None,
            left: 0,
            untold: false,
            peers: BTreeMap::new(),
            told: None,
        }
    }

    /// The log has, or had, this mark; `None`: it is as good as written, for nobody else ever kept the shard. Returns
    /// the place of the one before.
    pub fn on_mark(&mut self, replicas: Vec<NodeId>, place: Option<Place>) -> Option<Place> {
        if self.marking.as_ref() == Some(&replicas) {
            self.marking = None;
        }
        self.mark.replace(Marked { replicas, place }).and_then(|before| before.place)
    }

    /// A mark was not written.
    pub fn on_mark_failed(&mut self, replicas: &[NodeId]) {
        if self.marking.as_deref() == Some(replicas) {
            self.marking = None;
        }
    }

    /// The mark that is on disk at this place, if it is needed and none is on its way there.
    pub fn mark_at(&self, place: Place) -> Option<&[NodeId]> {
        self.mark.as_ref().filter(|mark| mark.place == Some(place)).map(|mark| mark.replicas.as_slice())
    }

    /// Whether this node keeps the shard.
    pub fn serves(&self) -> bool {
        self.replicas.contains(&self.node)
    }

    /// Who keeps it, ascending.
    pub fn replicas(&self) -> &[NodeId] {
        &self.replicas
    }

    /// Whether the log has everything that was ever called stored.
    pub fn is_complete(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.replicas.contains(&self.node))
    }

    /// Whether the log is complete, and everybody who kept the shard before agrees to the present replicas.
    pub fn is_settled(&self) -> bool {
        let is_marked = |mark: &Marked| mark.replicas == self.replicas;
        let marking = self.marking.as_ref() == Some(&self.replicas);
        self.serves() && self.is_complete() && (marking || self.mark.as_ref().is_some_and(is_marked))
            || (mutant::is(Mutant::GrantsAlthoughViewsDisagree) && self.serves() && self.is_complete())
    }

    /// What this executor says of itself.
    pub fn standing(&self) -> Standing {
        match self.serves() {
            true if self.is_settled() => Standing::Settled,
            true if self.is_complete() => Standing::Unsettled,
            true => Standing::Joining,
            false if self.is_complete() || self.marking.is_some() => Standing::Leaving,
            false if self.left > 0 || self.untold => Standing::Handing,
            false => Standing::Outside,
        }
    }

    /// The same, as the others are told.
    pub fn claim(&self) -> Claim {
        Claim { shard: self.shard, replicas: self.replicas.clone(), standing: self.standing() }
    }

    /// Whether the others have to be told anew.
    pub fn has_news(&mut self) -> bool {
        let claim = self.claim();
        // Whoever mattered at the first look was asked, and so told.
        self.told.replace(claim).is_some_and(|told| told != self.claim())
    }

    /// The present replicas. True if they are others than before: then nothing is in step any more.
    pub fn set_replicas(&mut self, replicas: Vec<NodeId>) -> bool {
        if self.replicas == replicas {
            return false;
        }
        self.replicas = replicas;
        for peer in self.peers.values_mut() {
            peer.begin();
            peer.forget_offers();
        }
        true
    }

    /// The shard's entries stay in a store that is shared: who keeps it now has to read them.
    pub fn leave_to_store(&mut self) {
        self.untold = !self.serves();
    }

    /// Somebody has compared. True if all who keep the shard now have read what this node had stored, and that is news.
    pub fn has_told_heirs(&mut self) -> bool {
        let mut heirs = self.peers.values().filter(|peer| peer.role == Role::Heir && peer.is_up()).peekable();
        let is_told = heirs.peek().is_some() && heirs.all(|peer| peer.agrees(&self.replicas) && peer.lacks_nothing());
        is_told && std::mem::take(&mut self.untold)
    }

    /// Who matters for this shard now. Returns those that matter newly.
    pub fn arrange(&mut self, cores: &[NodeId], is_up: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let mut roles: BTreeMap<NodeId, Role> = BTreeMap::new();
        let serves = self.serves();
        let before: &[NodeId] = match &self.mark {
            Some(mark) if self.is_complete() => &mark.replicas,
            _ => cores,
        };
        if serves {
            roles.extend(before.iter().filter(|node| cores.contains(node)).map(|&node| (node, Role::Former)));
        }
        let role = if serves { Role::Replica } else { Role::Heir };
        roles.extend(self.replicas.iter().map(|&node| (node, role)));
        roles.remove(&self.node);
        self.peers.retain(|node, peer| roles.contains_key(node) || peer.is_up());
        for (_, peer) in self.peers.iter_mut().filter(|(node, _)| !roles.contains_key(node)) {
            peer.role = Role::Other;
        }
        let mut newly = Vec::new();
        for (node, role) in roles {
            let peer = self.peers.entry(node).or_insert_with(|| InStep::new(Role::Other, is_up(node)));
            if peer.role != role {
                peer.role = role;
                newly.push(node);
            }
        }
        newly
    }

    /// The others.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &InStep)> {
        self.peers.iter().map(|(&node, peer)| (node, peer))
    }

    /// The others.
    pub fn peers_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut InStep)> {
        self.peers.iter_mut().map(|(&node, peer)| (node, peer))
    }

    /// One of the others.
    pub fn peer(&self, node: NodeId) -> Option<&InStep> {
        self.peers.get(&node)
    }

    /// One of the others.
    pub fn peer_mut(&mut self, node: NodeId) -> Option<&mut InStep> {
        self.peers.get_mut(&node)
    }

    /// One of the others, perhaps heard for the first time.
    pub fn open_peer(&mut self, node: NodeId) -> &mut InStep {
        self.peers.entry(node).or_insert_with(|| InStep::new(Role::Other, true))
    }

    /// One that does not matter is not up any more.
    pub fn forget_peer(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// Whether order holds always: nothing is called stored before every replica has it.
    pub fn is_strict(&self, copies_min: u8) -> bool {
        usize::from(copies_min) >= self.replicas.len()
    }

    /// Whether another node keeps the shard as this one does: it has to hear of everything.
    pub fn is_replica(&self, peer: &InStep) -> bool {
        peer.role == Role::Replica && peer.is_up() && peer.agrees(&self.replicas)
    }

    /// Whether what another node says of a slot's content counts here: a replica's, or what is handed over.
    pub fn takes_from(&self, node: NodeId, slot: Slot) -> bool {
        self.serves() && self.peer(node).is_some_and(|peer| peer.is_fit(slot, &self.replicas))
    }

    /// Whether a copy from there is kept: there is no gap before it.
    pub fn takes_copy(&self, node: NodeId, slot: Slot) -> bool {
        self.takes_from(node, slot) && self.peer(node).is_some_and(|peer| peer.is_in_order(slot))
    }

    /// Whether another node keeps the slot that this one hands over.
    pub fn is_heir(&self, node: NodeId, slot: Slot) -> bool {
        self.peer(node).is_some_and(|peer| peer.keeps_with(slot, &self.replicas))
    }

    /// Whether another replica has everything, or none can be reached; `is_sent` says whether a node was sent all that it
    /// has asked for.
    pub fn has_heir(&self, is_sent: impl Fn(NodeId) -> bool) -> bool {
        let mut up = self.peers().filter(|(_, peer)| peer.role == Role::Replica && peer.is_up()).peekable();
        let has = |peer: &InStep| self.is_replica(peer) && peer.is_complete() && peer.lacks_nothing();
        up.peek().is_none() || up.any(|(node, peer)| has(peer) && is_sent(node))
    }

    /// Whether a copy there counts for `stored`.
    fn counts(&self, peer: &InStep, slot: Slot) -> bool {
        self.is_settled() && self.is_replica(peer) && peer.is_settled() && peer.is_synced(slot) && !peer.is_short(slot)
    }

    /// The bit of a replica in [`crate::inbox::Entry::copies`].
    pub fn bit(&self, node: NodeId) -> u8 {
        self.replicas.iter().position(|&replica| replica == node).map_or(0, |bit| 1 << bit)
    }

    /// Which copies count for `stored`, as bits; `None` if not even this node's does.
    pub fn counted(&self, slot: Slot, copies_min: u8) -> Option<u8> {
        let counts = self.is_settled() || !self.is_strict(copies_min) || mutant::is(Mutant::CountsWhileUnsettled);
        let is_own = self.serves() && counts;
        let others = self.peers.iter().filter(|(_, peer)| self.counts(peer, slot));
        is_own.then(|| others.map(|(&node, _)| self.bit(node)).fold(0, |bits, bit| bits | bit))
    }

    /// Whether everything of the slot that may have been called stored is here, and nothing younger came without what
    /// is older (rule 14).
    pub fn can_send(&self, slot: Slot, copies_min: u8) -> bool {
        let strict = self.is_strict(copies_min);
        let is_ready = |peer: &InStep| match peer.role {
            Role::Replica => peer.is_synced(slot) || !(strict || self.is_replica(peer)),
            Role::Former => peer.is_synced(slot) || !(strict || (peer.is_up() && peer.is_outside())),
            Role::Heir | Role::Other => true,
        };
        self.serves() && self.is_complete() && self.peers.values().all(is_ready)
    }

    /// Whether no other node can have a message of this slot that is not here.
    pub fn is_in_step(&self, slot: Slot) -> bool {
        let with = |peer: &InStep| self.is_replica(peer) && peer.is_settled() && peer.is_synced(slot);
        let mut replicas = self.peers.values().filter(|peer| peer.role == Role::Replica);
        let views = mutant::is(Mutant::GrantsAlthoughViewsDisagree);
        self.is_settled() && replicas.all(|peer| with(peer) || (views && !peer.agrees(&self.replicas)))
    }

    /// Whether tombstones may be forgotten for their age: nobody is away who could bring the entry back.
    pub fn may_forget(&self) -> bool {
        let all = |peer: &InStep| peer.role != Role::Replica || (self.is_replica(peer) && peer.is_all_synced());
        !self.serves() || (self.is_settled() && self.peers.values().all(all))
    }

    /// Whether this node keeps the shard, and every other replica is there and has everything that this one has.
    pub fn is_replicated(&self) -> bool {
        let has_all = |peer: &InStep| peer.role != Role::Replica || peer.lacks_nothing();
        self.serves() && self.may_forget() && self.peers.values().all(has_all)
    }

    /// The mark that is to be appended now, if there is one (rule 18).
    pub fn next_mark(&mut self, copies_min: u8) -> Option<Vec<NodeId>> {
        let wanted = if self.serves() { self.may_settle(copies_min) } else { self.is_complete() };
        let is_there = self.mark.as_ref().is_some_and(|mark| mark.replicas == self.replicas && mark.place.is_some());
        if !wanted || is_there || self.marking.as_ref() == Some(&self.replicas) {
            return None;
        }
        self.marking = Some(self.replicas.clone());
        self.marking.clone()
    }

    fn may_settle(&self, copies_min: u8) -> bool {
        let agreed = |peer: &InStep| peer.role != Role::Former || (peer.is_outside() && peer.is_all_synced());
        let have_left = self.peers.values().all(agreed) || mutant::is(Mutant::SettlesWithoutTheFormer);
        if self.is_complete() {
            return have_left;
        }
        if mutant::is(Mutant::JoinerServesBeforeSync) {
            return true;
        }
        let is_synced = |peer: &InStep| match mutant::is(Mutant::CompleteBeforeFlush) {
            true => peer.has_offered(),
            false => peer.is_all_synced(),
        };
        let with = |peer: &&InStep| self.is_replica(peer) && peer.is_settled() && is_synced(peer);
        let replicas = || self.peers.values().filter(|peer| peer.role == Role::Replica);
        let heir = replicas().filter(with).any(InStep::is_complete);
        let may_be_away = |peer: &InStep| heir && !self.is_strict(copies_min) && !peer.is_up();
        replicas().all(|peer| with(&peer) || may_be_away(peer)) && (heir || have_left)
    }
}
