//! In step with the other cores about who keeps what: claims, marks, offers (delivery rules 14 and 18).
//!
//! What an event changes is noted in [`Due`] and looked at once, behind the event: first the claims are told, then what
//! they allow is offered, then what waited for it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Pending, Shard, Turn, to_core};
use crate::event::Action;
use crate::id::{ExecutorId, NodeId, Slot};
use crate::inbox::{Content, EntryKey};
use crate::mailbox::{Mailbox, Mailboxes};
use crate::peer::{Claim, Claims, FromReplica, Peer, Standing, ToCores};
use crate::placement::Placement;
use crate::replica::{News, Role};
use crate::slot::stable_hash;
use crate::storage::{Mark, Place, Record, StorageRequest};
use crate::tenure::Tenure;

/// Shards in one message: with eight replicas each they fit into a frame of [`crate::link::SHARDS_BYTES_MAX`].
const CLAIMS_MAX: usize = 16_384;

/// What is to be done behind an event.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Shards to look at.
    shards: BTreeSet<u32>,
    /// Which nodes are told of which shards; `true`: asked too.
    claims: BTreeMap<NodeId, BTreeMap<u32, bool>>,
    /// What these nodes had on disk of these shards may not be there any more: they are asked again.
    pub(super) unsure: BTreeMap<u32, BTreeSet<NodeId>>,
    /// What other cores have stored of these before may be read now.
    pub(super) stale: BTreeSet<u32>,
    /// Offers of shards of which there is nothing here.
    empty: BTreeMap<(NodeId, ExecutorId, u32), BTreeSet<u32>>,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.claims.is_empty() && self.empty.is_empty() && self.stale.is_empty()
    }

    pub(super) fn shard(&mut self, shard: u32) {
        self.shards.insert(shard);
    }

    fn tell(&mut self, node: NodeId, shard: u32, asks: bool) {
        *self.claims.entry(node).or_default().entry(shard).or_default() |= asks;
    }
}

/// Whether no other core is known, and this one keeps everything.
pub(super) fn is_lone(placement: &Placement, node: NodeId) -> bool {
    let mut shards = 0..placement.ring().num_shards();
    placement.cores() == [node] && shards.all(|shard| placement.of_shard(shard) == [node])
}

impl Shard {
    pub(super) fn shard_of(&self, slot: Slot) -> u32 {
        self.config.placement.ring().shard(slot)
    }

    /// What this executor is to a slot's shard; `None` where nobody else matters, or nothing of it is here.
    #[inline]
    pub(super) fn tenure(&self, slot: Slot) -> Option<&Tenure> {
        self.tenures.get(self.shard_of(slot) as usize)?.as_deref()
    }

    fn tenure_mut(&mut self, shard: u32) -> Option<&mut Tenure> {
        self.tenures.get_mut(shard as usize)?.as_deref_mut()
    }

    pub(super) fn tenures(&self) -> impl Iterator<Item = &Tenure> {
        self.tenures.iter().flatten().map(Box::as_ref)
    }

    pub(super) fn open_tenure(&mut self, shard: u32) -> &mut Tenure {
        if self.tenures.is_empty() {
            self.tenures.resize_with(self.config.placement.ring().num_shards() as usize, || None);
        }
        let node = self.config.node;
        self.tenures[shard as usize].get_or_insert_with(|| Box::new(Tenure::new(shard, node)))
    }

    /// Whether this node keeps a slot.
    #[inline]
    pub(super) fn serves(&self, slot: Slot) -> bool {
        self.is_lone || self.tenure(slot).is_some_and(Tenure::serves)
    }

    /// Who keeps a shard, ascending.
    fn replicas(&self, shard: u32) -> Vec<NodeId> {
        let mut replicas = self.config.placement.of_shard(shard).to_vec();
        replicas.sort_unstable();
        replicas
    }

    /// Recovery has found a mark.
    pub(super) fn recover_mark(&mut self, turn: &mut Turn<'_>, mark: Mark, place: Place) {
        let dead = match mark.num_shards == self.config.placement.ring().num_shards() {
            true => self.open_tenure(mark.shard).on_mark(mark.replicas, Some(place)),
            false => Some(place),
        };
        trim(turn, dead);
    }

    /// Recovery is over. A core that is alone has everything.
    pub fn on_recovered_all(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        self.is_recovered = true;
        if self.is_lone {
            return self.pump_all(turn, mailboxes);
        }
        for id in mailboxes.numbers() {
            if let Some(slot) = mailboxes.mailbox(id).map(|mailbox| mailbox.slot) {
                self.open_tenure(self.shard_of(slot));
            }
        }
        self.become_placed(turn, mailboxes);
    }

    /// Other cores have come, or have asked: what was never written because nobody needed it is written now.
    fn become_clustered(&mut self) {
        self.is_lone = false;
        let node = self.config.node;
        for shard in 0..self.config.placement.ring().num_shards() {
            let replicas = self.replicas(shard);
            let tenure = self.open_tenure(shard);
            tenure.set_replicas(replicas);
            if !tenure.is_complete() {
                tenure.on_mark(vec![node], None);
            }
        }
    }

    /// Who keeps what has changed.
    pub fn on_placement(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, placement: Arc<Placement>) {
        let num_shards = self.config.placement.ring().num_shards();
        assert_eq!(placement.ring().num_shards(), num_shards, "the number of shards changes with a restart only");
        if self.is_lone && !is_lone(&placement, self.config.node) {
            if self.is_recovered {
                self.become_clustered();
            }
            self.is_lone = false;
        }
        self.config.placement = placement;
        if self.is_recovered && !self.is_lone {
            self.become_placed(turn, mailboxes);
        }
    }

    fn become_placed(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        let placement = self.config.placement.clone();
        let mut changed = BTreeSet::new();
        for shard in 0..placement.ring().num_shards() {
            let replicas = self.replicas(shard);
            if self.tenure_mut(shard).is_none() && !replicas.contains(&self.config.node) {
                continue;
            }
            let is_changed = self.open_tenure(shard).set_replicas(replicas);
            self.complete_by_store(&placement, shard);
            self.arrange(shard, is_changed);
            if is_changed {
                changed.insert(shard);
            }
        }
        self.on_replicas_changed(turn, mailboxes, &changed);
        let others = placement.cores().iter().copied().filter(|&core| core != self.config.node);
        let wanted = others.filter(|core| !self.links.contains(core));
        turn.out.extend(wanted.map(|node| Action::Connect { node, via: None }));
    }

    /// A store that is shared has everything. Who kept the shard before is not known: it may have been any core.
    fn complete_by_store(&mut self, placement: &Placement, shard: u32) {
        let mut before = placement.cores().to_vec();
        before.push(self.config.node);
        let is_shared = self.is_shared();
        let tenure = self.open_tenure(shard);
        if is_shared && tenure.serves() && !tenure.is_complete() {
            tenure.on_mark(before, None);
        }
    }

    /// Who matters for a shard is looked at again, and whoever does newly is asked; if its replicas have changed,
    /// everybody who does.
    fn arrange(&mut self, shard: u32, is_changed: bool) {
        let placement = self.config.placement.clone();
        let links = std::mem::take(&mut self.links);
        let tenure = self.open_tenure(shard);
        let newly = tenure.arrange(placement.cores(), |node| links.contains(&node));
        let (mut asked, serves) = (Vec::new(), tenure.serves());
        for (node, peer) in tenure.peers_mut().filter(|(_, peer)| peer.is_up()) {
            if newly.contains(&node) || (is_changed && peer.matters(serves)) {
                peer.begin();
                asked.push(node);
            }
        }
        self.links = links;
        asked.into_iter().for_each(|node| self.due.tell(node, shard, true));
        self.due.shard(shard);
    }

    /// The link to another node is up.
    pub fn on_link_up(&mut self, node: NodeId) {
        self.links.insert(node);
        self.digests.remove(&node);
        for shard in 0..self.tenures.len() as u32 {
            let Some(peer) = self.tenure_mut(shard).and_then(|tenure| tenure.peer_mut(node)) else { continue };
            peer.on_link_up();
            if peer.role != Role::Other {
                self.due.tell(node, shard, true);
            }
            self.due.unsure.entry(shard).or_default().insert(node);
            self.due.shard(shard);
        }
    }

    /// The link to another node is lost.
    pub fn on_link_down(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, node: NodeId) {
        self.links.remove(&node);
        self.on_edge_lost(turn, mailboxes, node);
        self.syncs.on_link_down(node);
        self.due.claims.remove(&node);
        self.due.empty.retain(|(its, ..), _| *its != node);
        for shard in 0..self.tenures.len() as u32 {
            let Some(tenure) = self.tenure_mut(shard) else { continue };
            let Some(peer) = tenure.peer_mut(node) else { continue };
            peer.on_link_down();
            if peer.role == Role::Other {
                tenure.forget_peer(node);
            }
            self.due.shard(shard);
        }
    }

    /// Another core says how it stands to some shards.
    pub fn on_claims(&mut self, from: NodeId, claims: &Claims) {
        if self.is_lone && self.is_recovered {
            self.become_clustered();
            (0..self.tenures.len() as u32).for_each(|shard| self.arrange(shard, false));
        }
        let num_shards = self.config.placement.ring().num_shards();
        for claim in claims.claims.iter().filter(|claim| claim.shard < num_shards) {
            self.on_claim(from, claims, claim);
        }
    }

    fn on_claim(&mut self, from: NodeId, claims: &Claims, claim: &Claim) {
        let shard = claim.shard;
        if claims.asks {
            self.due.tell(from, shard, false);
        }
        let Some(tenure) = self.tenure_mut(shard) else {
            if claims.round > 0 {
                let to = (from, claims.executor, claims.round);
                self.due.empty.entry(to).or_default().insert(shard);
            }
            return;
        };
        let (serves, is_complete) = (tenure.serves(), tenure.is_complete());
        let peer = tenure.open_peer(from);
        let news = peer.hear((claims.executor, claims.executors), claim, claims.round);
        // What it got since it offered may be on its way still.
        if news == News::Changed || (news == News::Complete && !is_complete) {
            peer.begin();
        }
        if peer.matters(serves) && peer.round() == 0 {
            self.due.tell(from, shard, true);
        }
        if news == News::Changed {
            self.due.unsure.entry(shard).or_default().insert(from);
        }
        self.due.shard(shard);
    }

    /// Everything that the event has made due.
    pub fn end_event(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        if self.due.is_empty() || !self.is_recovered {
            return;
        }
        let shards = std::mem::take(&mut self.due.shards);
        self.forget_copies(mailboxes);
        self.append_marks(turn, mailboxes, &shards);
        shards.iter().for_each(|&shard| self.look_at(shard));
        self.tell_claims(turn);
        self.offer(turn, mailboxes, &shards);
        self.read_again(turn, mailboxes);
        self.become_served(turn, mailboxes, &shards);
    }

    /// Appends the marks that are due, behind everything of their shards that waits in memory: it may have been offered by
    /// others, and had no room until now.
    fn append_marks(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, shards: &BTreeSet<u32>) {
        if !self.has_room() {
            return;
        }
        let copies_min = self.config.limits.copies_min;
        let mut marks = BTreeMap::new();
        for &shard in shards {
            let replicas = self.tenure_mut(shard).and_then(|tenure| tenure.next_mark(copies_min));
            marks.extend(replicas.map(|replicas| (shard, replicas)));
        }
        for id in mailboxes.numbers().filter(|_| !marks.is_empty()) {
            let mailbox = mailboxes.mailbox(id).filter(|mailbox| marks.contains_key(&self.shard_of(mailbox.slot)));
            if let Some(mailbox) = mailbox {
                self.log_all(turn, (id, mailbox));
            }
        }
        marks.into_iter().for_each(|(shard, replicas)| self.append_mark(turn, shard, replicas));
    }

    /// Tells everybody who matters how this executor stands now.
    fn look_at(&mut self, shard: u32) {
        let Some(tenure) = self.tenure_mut(shard) else { return };
        if tenure.has_news() {
            let nodes: Vec<NodeId> = tenure.peers().filter(|(_, peer)| peer.is_up()).map(|(node, _)| node).collect();
            nodes.into_iter().for_each(|node| self.due.tell(node, shard, false));
        }
    }

    fn append_mark(&mut self, turn: &mut Turn<'_>, shard: u32, replicas: Vec<NodeId>) {
        let mark = Mark { num_shards: self.config.placement.ring().num_shards(), shard, replicas };
        self.marks.push_back(mark.clone());
        self.pending.push_back(Pending::Complete);
        turn.out.push(Action::Storage(StorageRequest::Append(Record::Complete(mark))));
    }

    /// A mark is on disk.
    pub(super) fn on_mark_flushed(&mut self, turn: &mut Turn<'_>, place: Place) {
        let Some(mark) = self.marks.pop_front() else { return };
        let shard = mark.shard;
        let dead = self.open_tenure(shard).on_mark(mark.replicas, Some(place));
        trim(turn, dead);
        if !self.is_lone {
            self.arrange(shard, false);
        }
    }

    /// A mark was not written: something before it is missing, or there was no room.
    pub(super) fn on_mark_failed(&mut self) {
        let Some(mark) = self.marks.pop_front() else { return };
        self.open_tenure(mark.shard).on_mark_failed(&mark.replicas);
        self.due.shard(mark.shard);
    }

    /// The engine wants to give up the place of a mark.
    pub(super) fn relocate_mark(&mut self, turn: &mut Turn<'_>, mark: &Mark, place: Place) {
        let tenure = self.tenures.get(mark.shard as usize).and_then(Option::as_deref);
        let is_needed = tenure.and_then(|tenure| tenure.mark_at(place)).is_some_and(|known| known == mark.replicas);
        match is_needed && mark.num_shards == self.config.placement.ring().num_shards() {
            // One that is on its way is of a younger state, or a copy of this one.
            true if self.marks.iter().any(|pending| pending.shard == mark.shard) => {}
            true => self.append_mark(turn, mark.shard, mark.replicas.clone()),
            false => trim(turn, Some(place)),
        }
    }

    fn tell_claims(&mut self, turn: &mut Turn<'_>) {
        for (node, shards) in std::mem::take(&mut self.due.claims) {
            for asks in [true, false] {
                let its: Vec<u32> = shards.iter().filter(|(_, its)| **its == asks).map(|(&shard, _)| shard).collect();
                if self.links.contains(&node) {
                    // What answers a round names no more shards than it.
                    its.chunks(CLAIMS_MAX).for_each(|its| self.tell_claims_of(turn, node, asks, its));
                }
            }
        }
    }

    fn tell_claims_of(&mut self, turn: &mut Turn<'_>, node: NodeId, asks: bool, shards: &[u32]) {
        self.rounds += u32::from(asks);
        let round = if asks { self.rounds } else { 0 };
        let mut claims = Vec::new();
        for &shard in shards {
            let replicas = self.replicas(shard);
            claims.push(match self.tenure_mut(shard) {
                Some(tenure) => {
                    if asks && let Some(peer) = tenure.peer_mut(node) {
                        peer.ask(round);
                    }
                    tenure.claim()
                }
                None => Claim { shard, replicas, standing: Standing::Outside },
            });
        }
        let (executor, executors) = (self.config.executor, self.config.executors);
        let message = ToCores::Claims(Box::new(Claims { executor, executors, round, asks, claims }));
        turn.out.push(Action::Peer(Peer::Cores { node, message }));
    }

    /// Offers what is here of some shards to those who wait for it and may have it.
    fn offer(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, shards: &BTreeSet<u32>) {
        let mut offers = std::mem::take(&mut self.due.empty);
        let mut offered: BTreeSet<u32> = BTreeSet::new();
        for &shard in shards {
            let Some(tenure) = self.tenure_mut(shard) else { continue };
            let (serves, standing, replicas) = (tenure.serves(), tenure.standing(), tenure.replicas().to_vec());
            if standing == Standing::Leaving {
                continue;
            }
            for (node, peer) in tenure.peers_mut() {
                let due: Vec<(ExecutorId, u32)> = peer.offers_due(serves.then_some(&replicas)).collect();
                for (executor, round) in due {
                    peer.on_offer_sent(executor);
                    offers.entry((node, executor, round)).or_default().insert(shard);
                    offered.insert(shard);
                }
            }
        }
        if offers.is_empty() {
            return;
        }
        let digests = self.digests(mailboxes, &offered);
        for ((node, executor, round), shards) in offers {
            self.offer_to(turn, (node, executor), &digests, (round, shards));
        }
    }

    fn offer_to(
        &mut self,
        turn: &mut Turn<'_>,
        (node, to): (NodeId, ExecutorId),
        digests: &BTreeMap<Slot, u64>,
        (round, shards): (u32, BTreeSet<u32>),
    ) {
        for (&slot, &digest) in digests {
            let shard = self.shard_of(slot);
            let executors = self.tenure(slot).and_then(|tenure| tenure.peer(node)).map_or(0, |peer| peer.executors());
            if shards.contains(&shard) && executors > 0 && slot.home(executors) == to {
                self.syncs.forget(node, slot);
                to_core(turn, node, slot, FromReplica::Digest { slot, digest });
            }
        }
        let (executor, shards) = (self.config.executor, shards.into_iter().collect());
        let message = FromReplica::Offered { executor, round, shards };
        to_core(turn, node, Slot(u32::from(to.0)), message);
    }

    /// Another core has told the digest of a slot.
    pub(super) fn on_digest(&mut self, node: NodeId, slot: Slot, digest: u64) {
        self.digests.entry(node).or_default().insert(slot, digest);
    }

    /// One executor of another core has told all its digests: what differs is asked for.
    pub(super) fn on_offered(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        (node, from): (NodeId, ExecutorId),
        (round, shards): (u32, &[u32]),
    ) {
        let mut executors = 0;
        let mut taken = BTreeSet::new();
        for &shard in shards {
            let Some(peer) = self.tenure_mut(shard).and_then(|tenure| tenure.peer_mut(node)) else { continue };
            executors = peer.executors();
            if peer.on_offered(from, round) {
                taken.insert(shard);
            }
        }
        let mine = self.digests(mailboxes, &taken);
        let mut theirs = self.digests.remove(&node).unwrap_or_default();
        let others = theirs.extract_if(.., |slot, _| executors == 0 || slot.home(executors) != from).collect();
        self.digests.insert(node, others);
        for (slot, digest) in theirs {
            let shard = self.shard_of(slot);
            if !taken.contains(&shard) || mine.get(&slot) == Some(&digest) {
                continue;
            }
            let peer = self.tenure_mut(shard).and_then(|tenure| tenure.peer_mut(node));
            if peer.is_some_and(|peer| peer.want(slot)) {
                to_core(turn, node, slot, FromReplica::Want { slot });
            }
        }
        for &shard in &taken {
            self.due.shard(shard);
            self.due.stale.insert(shard);
            self.want_again(turn, shard);
        }
        let (executor, shards) = (self.config.executor, taken.into_iter().collect());
        to_core(turn, node, Slot(u32::from(from.0)), FromReplica::Compared { executor, round, shards });
    }

    /// What this executor has of some shards, by slot: entries that were logged, and tombstones.
    fn digests(&self, mailboxes: &mut Mailboxes, shards: &BTreeSet<u32>) -> BTreeMap<Slot, u64> {
        let mut digests = BTreeMap::new();
        if shards.is_empty() || self.is_shared() {
            return digests;
        }
        let mut add = |mailbox: &Mailbox, key: EntryKey, kind: u8| {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&key.0.bytes());
            for name in [self.senders.name(key.1), &mailbox.user] {
                bytes.push(name.as_bytes().len() as u8);
                bytes.extend_from_slice(name.as_bytes());
            }
            *digests.entry(mailbox.slot).or_insert(0) ^= stable_hash(&bytes);
        };
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let Some(held) = mailbox.held.as_ref().filter(|_| shards.contains(&self.shard_of(mailbox.slot))) else {
                continue;
            };
            for entry in held.inbox.iter().filter(|entry| !matches!(entry.content(), Content::Unlogged(_))) {
                add(mailbox, entry.key(), 1);
            }
        }
        for (id, key) in self.tombstones.iter() {
            let mailbox = mailboxes.mailbox(id);
            if let Some(mailbox) = mailbox.filter(|mailbox| shards.contains(&self.shard_of(mailbox.slot))) {
                add(mailbox, key, 2);
            }
        }
        digests
    }
}

fn trim(turn: &mut Turn<'_>, place: Option<Place>) {
    turn.out.extend(place.map(|place| Action::Storage(StorageRequest::Trim { place })));
}
