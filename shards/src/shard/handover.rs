//! What becomes of the inboxes of a shard whose keepers have changed: copies are counted anew, and who does not keep it
//! any more hands over what it has (delivery rule 18).

use std::collections::BTreeSet;

use super::{Run, Shard, Turn, flush_stored, to_core};
use crate::event::Action;
use crate::id::{Key, NodeId, Slot};
use crate::inbox::{Content, EntryKey};
use crate::mailbox::{Mailbox, MailboxId, Mailboxes};
use crate::mutant::{self, Mutant};
use crate::peer::{FromReplica, ToEdge};
use crate::replica::{InStep, Role};
use crate::storage::StorageRequest;
use crate::tenure::Tenure;

impl Shard {
    /// The replicas of these shards are others now.
    pub(super) fn on_replicas_changed(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        changed: &BTreeSet<u32>,
    ) {
        let is_shared = self.is_shared();
        for &shard in changed {
            let tenure = self.open_tenure(shard);
            tenure.left = 0;
            if is_shared {
                tenure.leave_to_store();
            }
        }
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let shard = self.shard_of(mailbox.slot);
            if !changed.contains(&shard) {
                continue;
            }
            // The bits were of places among the replicas before.
            if let Some(held) = mailbox.held.as_mut().filter(|_| !mutant::is(Mutant::CopiesCountedByOldPlace)) {
                held.inbox.each_mut(|entry| entry.copies = 0);
            }
            if !self.serves(mailbox.slot) && !mutant::is(Mutant::LeaverKeepsServing) {
                self.leave_mailbox(turn, (id, mailbox));
            } else {
                self.become_stale(turn, mailbox);
            }
        }
    }

    /// Nodes whose copies may be gone, because they were away or did not keep the shard for a while.
    pub(super) fn forget_copies(&mut self, mailboxes: &mut Mailboxes) {
        let unsure = std::mem::take(&mut self.due.unsure);
        if unsure.is_empty() || mutant::is(Mutant::CopiesCountedByOldPlace) {
            return;
        }
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let Some(nodes) = unsure.get(&self.shard_of(mailbox.slot)) else { continue };
            let (Some(held), Some(tenure)) = (mailbox.held.as_mut(), self.tenure(mailbox.slot)) else { continue };
            let bits = nodes.iter().map(|&node| tenure.bit(node)).fold(0, |bits, bit| bits | bit);
            held.inbox.each_mut(|entry| entry.copies &= !bits);
        }
    }

    /// This node does not keep the mailbox any more: nothing waits in memory, and who waits for an answer asks others.
    fn leave_mailbox(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox)) {
        self.recall(mailbox);
        self.log_all(turn, (id, mailbox));
        self.refuse_waiting(turn, mailbox);
        self.become_stale(turn, mailbox);
        let shard = self.shard_of(mailbox.slot);
        let Some(held) = mailbox.held.as_mut() else { return };
        self.open_tenure(shard).left += held.inbox.len() as u64;
        let mut untold = Vec::new();
        held.inbox.each_mut(|entry| {
            if !entry.is_told() {
                entry.set_told(true);
                untold.extend(self.origin(entry));
                untold.extend(self.addresses.take(id, entry.key()));
            }
        });
        for to in untold {
            turn.to_edge(to.login.at, ToEdge::Bounce { to });
        }
        mailbox.settle();
    }

    /// An entry is not here any more.
    pub(super) fn on_removed(&mut self, slot: Slot) {
        if self.is_lone {
            return;
        }
        let shard = self.shard_of(slot);
        let tenure = self.tenures.get_mut(shard as usize).and_then(Option::as_deref_mut);
        if let Some(tenure) = tenure.filter(|tenure| !tenure.serves() && tenure.left > 0) {
            tenure.left -= 1;
            if tenure.left == 0 {
                self.due.shard(shard);
            }
        }
    }

    /// Gives an entry up once those who keep it now have it on disk.
    pub(super) fn hand_over(&mut self, turn: &mut Turn<'_>, (id, mailbox): (MailboxId, &mut Mailbox), key: EntryKey) {
        if self.is_lone {
            return;
        }
        let Some(tenure) = self.tenure(mailbox.slot).filter(|tenure| !tenure.serves()) else { return };
        let Some(entry) = mailbox.held.as_ref().and_then(|held| held.inbox.entry(key)) else { return };
        let Content::Flushed(place) = entry.content() else { return };
        // A copy of it is on its way to another place: where it is gone by then, it was taken.
        if entry.is_moving() {
            return;
        }
        let keeps = |peer: &InStep| peer.role == Role::Heir && peer.is_up() && peer.agrees(tenure.replicas());
        let heirs = tenure.peers().filter(|(_, peer)| keeps(peer)).map(|(node, _)| tenure.bit(node));
        let heirs = heirs.fold(0, |bits, bit| bits | bit);
        let enough = usize::from(self.config.limits.copies_min).min(tenure.replicas().len()).max(1);
        let kept = heirs & entry.copies;
        let is_kept = self.is_shared() || (kept == heirs && kept.count_ones() as usize >= enough);
        let drops_early = mutant::is(Mutant::LeaverDropsBeforeFlushed) && heirs != 0;
        if !(is_kept || drops_early) {
            return;
        }
        if self.give_up((id, mailbox), key).is_some() {
            match self.is_shared() {
                true => Self::void_load(mailbox),
                false => turn.out.push(Action::Storage(StorageRequest::Trim { place })),
            }
            mailbox.settle();
        }
    }

    /// Another core has compared: of what it has already, it says so only if it is asked.
    pub(super) fn ask_for_copies(
        &mut self,
        turn: &mut Turn<'_>,
        mailboxes: &mut Mailboxes,
        node: NodeId,
        shards: &BTreeSet<u32>,
    ) {
        if shards.is_empty() {
            return;
        }
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let (slot, user) = (mailbox.slot, mailbox.user.clone());
            let Some(tenure) = self.tenure(slot).filter(|_| shards.contains(&self.shard_of(slot))) else { continue };
            let (bit, serves) = (tenure.bit(node), tenure.serves());
            let Some(held) = mailbox.held.as_mut() else { continue };
            held.inbox.each_mut(|entry| match entry.content() {
                _ if (serves && entry.is_told()) || entry.copies & bit != 0 => {}
                Content::Unlogged(_) => {}
                Content::Logging(_) => entry.ask_when_flushed(),
                Content::Flushed(_) => {
                    let key = Key { id: entry.id, sender: self.senders.name(entry.sender).clone() };
                    let message = FromReplica::Flushed { user: user.clone(), key, asks: true };
                    to_core(turn, node, slot, message);
                }
            });
        }
    }

    /// Which replicas count has changed: what waits for them is looked at again.
    pub(super) fn become_served(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes, shards: &BTreeSet<u32>) {
        let mut run = Run::default();
        for id in mailboxes.numbers() {
            let Some(mailbox) = mailboxes.mailbox(id) else { continue };
            let slot = mailbox.slot;
            if mailbox.held.is_none() || !shards.contains(&self.shard_of(slot)) {
                continue;
            }
            if !self.serves(slot) {
                let keys = mailbox.held.iter().flat_map(|held| held.inbox.iter());
                let keys: Vec<EntryKey> = keys.map(|entry| entry.key()).collect();
                keys.into_iter().for_each(|key| self.hand_over(turn, (id, mailbox), key));
            } else if let Some(held) = mailbox.held.as_mut() {
                held.inbox.each_mut(|entry| self.tell_stored(turn, &mut run, (id, slot), entry));
                self.pump(turn, mailbox);
            }
        }
        flush_stored(turn, run);
    }

    /// The node stops soon: nothing waits in memory from now on.
    pub fn on_leave(&mut self, turn: &mut Turn<'_>, mailboxes: &mut Mailboxes) {
        self.is_leaving = true;
        for id in mailboxes.numbers() {
            if let Some(mailbox) = mailboxes.mailbox(id) {
                self.log_all(turn, (id, mailbox));
            }
        }
    }

    /// Whether everything is on disk, nothing is left of shards that others keep, and of those that this node keeps with
    /// others one of them has everything, if any can be reached.
    pub fn has_left(&self) -> bool {
        let is_sent = |node| self.syncs.is_sent(node);
        let has_handed_over =
            |tenure: &Tenure| if tenure.serves() { tenure.has_heir(is_sent) } else { tenure.left == 0 };
        self.is_leaving
            && self.pending.is_empty()
            && self.unlogged_bytes == 0
            && self.unwritten.is_empty()
            && self.tenures().all(has_handed_over)
    }
}
