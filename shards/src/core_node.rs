//! The core half of one executor: finds the mailbox and routes events to the [`Shard`], without rules of its own.
//!
//! Owns the mailboxes. In: peer messages, completions of storage, links. Out: messages to edges and other cores, and
//! storage requests.

use crate::event::{Action, CoreEvent};
use crate::id::NodeId;
use crate::mailbox::{MailboxId, Mailboxes, Sums};
use crate::peer::{Message, ToCore, ToCores};
use crate::shard::{Shard, Turn};
use crate::storage::StorageEvent;
use crate::time::Now;

pub use crate::shard::{CoreConfig, CoreCounts, KeptShards};

/// Between two looks at tombstones, leases and a part of the mailboxes, in ms.
const SWEEP_MS: u64 = 1_000;
/// The same while there are more tombstones to forget than one look may.
const AGAIN_MS: u64 = 10;
/// Tombstones forgotten per look, so that no turn is long.
const FORGET_BUDGET: usize = 2_048;
/// Looks until every mailbox was looked at once.
const SWEEPS: usize = 60;

/// The core half of one executor.
#[derive(Debug)]
pub struct CoreNode {
    shard: Shard,
    mailboxes: Mailboxes,
    sweep_ms: u64,
    sweep_at: u32,
}

impl CoreNode {
    /// A core half without messages. It serves once it was told `Recovered`.
    pub fn new(config: CoreConfig) -> Self {
        let mailboxes = Mailboxes::new(config.seed, config.reach);
        CoreNode { shard: Shard::new(config), mailboxes, sweep_ms: 0, sweep_at: 0 }
    }

    /// Handles one event; appends what is to be done to `out`.
    pub fn handle(&mut self, now: Now, event: CoreEvent, out: &mut Vec<Action>) {
        let turn = &mut Turn { now, out };
        match event {
            CoreEvent::Peer(from, message) => self.on_peer(turn, from, message),
            CoreEvent::Storage(event) => self.on_storage(turn, event),
            CoreEvent::Cores(from, ToCores::Refresh(executor)) => self.shard.on_refresh(turn, from, executor),
            CoreEvent::Cores(from, ToCores::Claims(claims)) => self.shard.on_claims(from, &claims),
            CoreEvent::Recovered => self.shard.on_recovered_all(turn, &mut self.mailboxes),
            CoreEvent::LinkUp(node) => self.shard.on_link_up(node),
            CoreEvent::LinkDown(node) => self.shard.on_link_down(turn, &mut self.mailboxes, node),
            CoreEvent::Placement(placement) => self.shard.on_placement(turn, &mut self.mailboxes, placement),
            CoreEvent::Leave => self.shard.on_leave(turn, &mut self.mailboxes),
            CoreEvent::Tick => self.on_tick(turn),
        }
        if self.shard.has_too_many_tombstones() {
            self.shard.forget_tombstones(turn, &mut self.mailboxes, FORGET_BUDGET);
        }
        self.shard.end_event(turn, &mut self.mailboxes);
    }

    /// Whether the node may stop: after [`CoreEvent::Leave`], everything is on disk, what others keep is handed over, and
    /// another replica has what this node keeps (delivery rule 20).
    pub fn has_left(&self) -> bool {
        self.shard.has_left()
    }

    /// When the next `Tick` is wanted, in monotonic ms; `None`: not before another event.
    pub fn next_deadline(&mut self) -> Option<u64> {
        let sweeps = !self.mailboxes.is_empty() || self.shard.tombstones() > 0 || self.shard.has_leases();
        let sweep = sweeps.then_some(self.sweep_ms);
        [self.shard.next_timer_ms(), sweep].into_iter().flatten().min()
    }

    /// The counters.
    pub fn counts(&self) -> CoreCounts {
        self.shard.counts()
    }

    /// The shards that this executor has a part of. Looks at each of them.
    pub fn kept_shards(&self) -> KeptShards {
        self.shard.kept_shards()
    }

    /// Appends that wait for the disk, and their bytes; bytes that are in memory only; tombstones.
    pub fn waiting(&self) -> ((usize, u64), u64, usize) {
        (self.shard.unflushed(), self.shard.unlogged_bytes(), self.shard.tombstones())
    }

    /// Sums over the inboxes, and how many users are there.
    pub fn sums(&self) -> (Sums, usize) {
        self.shard.sums()
    }

    fn on_peer(&mut self, turn: &mut Turn<'_>, from: NodeId, message: ToCore) {
        match message {
            ToCore::Append { user, message, origin } => {
                self.shard.on_append(turn, self.mailboxes.open(&user), message, origin);
            }
            ToCore::Ack { user, keys } => {
                if let Some(at) = self.mailboxes.find(&user) {
                    self.shard.on_ack(turn, at, &keys);
                }
            }
            ToCore::Register { user, login, phase, drain, again } => {
                self.shard.on_register(turn, self.mailboxes.open(&user), login, (phase, drain, again));
            }
            ToCore::Unregister { user, login } => {
                if let Some(at) = self.mailboxes.find(&user) {
                    self.shard.on_unregister(turn, at, login);
                }
            }
            ToCore::PhaseGrown { user, login, phase } => {
                if let Some((_, mailbox)) = self.mailboxes.find(&user) {
                    let granted_from_ms = turn.now.mono_ms + self.shard.config.limits.grant_pause_ms;
                    mailbox.presence.on_phase(login, phase, granted_from_ms);
                }
            }
            ToCore::Lookup { user, asker, watch } => {
                self.shard.on_lookup(turn, self.mailboxes.open(&user).1, asker, watch);
            }
            ToCore::Unwatch { user, login } => {
                if let Some((_, mailbox)) = self.mailboxes.find(&user) {
                    mailbox.keep_watchers(|asker| asker.login != login);
                }
            }
            ToCore::Replica(message) => self.shard.on_replica(turn, &mut self.mailboxes, from, message),
        }
    }

    fn on_storage(&mut self, turn: &mut Turn<'_>, event: StorageEvent) {
        match event {
            StorageEvent::Flushed { places } => self.shard.on_flushed(turn, &mut self.mailboxes, &places),
            StorageEvent::Failed { count } => self.shard.on_failed(turn, &mut self.mailboxes, count),
            StorageEvent::Full(full) => self.shard.on_full(turn, &mut self.mailboxes, full),
            StorageEvent::Read { user, key, sent_at, body } => {
                let message = Message { key, sent_at, body };
                self.shard.on_content(turn, &mut self.mailboxes, (&user, &message.key), Some(&message));
                if let Some((_, mailbox)) = self.mailboxes.find(&user) {
                    self.shard.on_read(turn, mailbox, message);
                }
            }
            StorageEvent::Damaged { user, key, place } => {
                if let Some(at) = self.mailboxes.find(&user) {
                    self.shard.on_damaged(turn, at, &key, place);
                }
                self.shard.on_content(turn, &mut self.mailboxes, (&user, &key), None);
            }
            StorageEvent::Recovered { record, body_bytes, place } => {
                self.shard.on_recovered(turn, &mut self.mailboxes, record, (body_bytes, place));
            }
            StorageEvent::Away(is_away) => self.shard.on_away(turn, &mut self.mailboxes, is_away),
            StorageEvent::Loaded { user } => {
                if let Some(at) = self.mailboxes.find(&user) {
                    self.shard.on_loaded(turn, at);
                }
            }
            StorageEvent::Gone { user, key, place } => {
                if let Some(at) = self.mailboxes.find(&user) {
                    self.shard.on_gone(turn, at, &key, place);
                }
                self.shard.on_content(turn, &mut self.mailboxes, (&user, &key), None);
            }
            StorageEvent::Relocate { record, place } => {
                self.shard.on_relocate(turn, &mut self.mailboxes, record, place);
            }
        }
    }

    fn on_tick(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.shard.expired_timer(turn.now) {
            if let Some(mailbox) = self.mailboxes.mailbox(id) {
                self.shard.on_timer(turn, (id, mailbox));
            }
        }
        if turn.now.mono_ms >= self.sweep_ms {
            let more = self.shard.forget_tombstones(turn, &mut self.mailboxes, FORGET_BUDGET);
            self.sweep_ms = turn.now.mono_ms + if more { AGAIN_MS } else { SWEEP_MS };
            self.shard.end_leases(turn, &mut self.mailboxes);
            self.sweep(turn);
        }
    }

    /// Looks at a part of the mailboxes: what is too old, what need not be remembered.
    fn sweep(&mut self, turn: &mut Turn<'_>) {
        let count = self.mailboxes.numbers().count();
        for _ in 0..count.div_ceil(SWEEPS) {
            self.sweep_at = (self.sweep_at + 1) % count as u32;
            let id = MailboxId(self.sweep_at);
            let crowded = self.mailboxes.len() > self.shard.config.limits.absent_users_max;
            let Some(mailbox) = self.mailboxes.mailbox(id) else { continue };
            self.shard.expire(turn, (id, mailbox));
            let blank = mailbox.presence.last_seen == 0;
            if mailbox.is_forgettable() && (crowded || blank) {
                self.mailboxes.forget(id);
            }
        }
    }
}
