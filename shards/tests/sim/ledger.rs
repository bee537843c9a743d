//! What really happened, as the checkers see it: every message from its first transmission to its end.

use std::collections::BTreeMap;

use iris_shards::id::{Login, MessageId};

/// The number of a message in the ledger. It is also the lower half of the message's id.
pub type MessageIx = usize;
/// The number of a user and of its client.
pub type ClientIx = usize;
/// The number of a connection, never used again.
pub type ConnectionIx = usize;

/// What a sender was told at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    Nothing,
    Stored,
    Delivered,
}

/// One message.
#[derive(Debug, Clone)]
pub struct Note {
    pub id: MessageId,
    pub from: ClientIx,
    pub to: ClientIx,
    pub bytes: usize,
    /// When it was transmitted first since it was last refused: its place in the order. 0: never.
    pub position: u64,
    /// When it was transmitted first since its client queued it: the client does not hear of every refusal. 0: not yet.
    pub first: u64,
    pub sent_us: u64,
    /// When a server refused it last. 0: never.
    pub refused: u64,
    /// Copies that left the sender's edge and were not seen to be turned down.
    pub under_way: u32,
    /// A client was sent it: a bounce does not take it back.
    pub is_shown: bool,
    /// The sender was told that it is refused while a copy was left somewhere: that copy comes when it comes.
    pub is_doubtful: bool,
    /// Nodes that have had it on disk.
    pub flushed: u8,
    /// The highest number of copies that a core has claimed.
    pub claimed: u8,
    /// Some replica did not have it when a core claimed it, or when a later one was shown: it may be late where the
    /// operator allows that.
    pub was_scarce: bool,
    pub told: Told,
    /// When the recipient's application took it. 0: not yet.
    pub taken: u64,
    /// The sender's client gave up: it was told that repeating is useless.
    pub abandoned: bool,
}

/// Everything that the checkers compare with.
#[derive(Debug, Default)]
pub struct Ledger {
    pub notes: Vec<Note>,
    pub stamp: u64,
    /// Which connection a login belongs to.
    pub logins: BTreeMap<Login, ConnectionIx>,
    /// What was taken, per sender and recipient, in order.
    pub takes: BTreeMap<(ClientIx, ClientIx), Vec<MessageIx>>,
    pub counts: Counts,
}

/// How much of what happened, so that a run can show that it tested something.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub sent: u64,
    pub taken: u64,
    pub stored: u64,
    pub delivered: u64,
    pub refused: u64,
    pub direct: u64,
    pub bounced: u64,
    pub late: u64,
    pub repeats: u64,
    pub crashes: u64,
    pub wipes: u64,
    pub link_cuts: u64,
    pub connection_cuts: u64,
    pub take_overs: u64,
    pub unknown_logins: u64,
}

impl Ledger {
    pub fn tick(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// The message with this id, if there is one.
    pub fn find(&self, id: MessageId) -> Option<MessageIx> {
        let ix = (u128::from_be_bytes(id.bytes()) as u64 & (u64::MAX >> 2)) as usize;
        self.notes.get(ix).filter(|note| note.id == id).map(|_| ix)
    }

    pub fn add(&mut self, id_time_ms: u64, from: ClientIx, to: ClientIx, bytes: usize) -> MessageIx {
        let ix = self.notes.len();
        self.notes.push(Note {
            id: MessageId::v7(id_time_ms, ix as u128),
            from,
            to,
            bytes,
            position: 0,
            first: 0,
            sent_us: 0,
            refused: 0,
            under_way: 0,
            is_shown: false,
            is_doubtful: false,
            flushed: 0,
            claimed: 0,
            was_scarce: false,
            told: Told::Nothing,
            taken: 0,
            abandoned: false,
        });
        ix
    }

    /// The client has put it on a connection.
    pub fn on_transmit(&mut self, ix: MessageIx, now_us: u64) {
        let stamp = self.tick();
        let note = &mut self.notes[ix];
        self.counts.sent += 1;
        if note.first == 0 {
            note.first = stamp;
        }
        if note.position <= note.refused && note.taken == 0 {
            note.position = stamp;
            note.sent_us = now_us;
        }
    }

    /// The client queues it again, behind everything else.
    pub fn on_queued_again(&mut self, ix: MessageIx) {
        let note = &mut self.notes[ix];
        if note.taken == 0 {
            note.first = 0;
        }
    }

    /// An edge or a core has refused it: it is out of the order until it is sent again. What was taken
    /// before keeps its place.
    pub fn on_refused(&mut self, ix: MessageIx) {
        let stamp = self.tick();
        self.counts.refused += 1;
        if self.notes[ix].taken == 0 {
            self.notes[ix].refused = stamp;
        }
    }

    /// A message is shown.
    pub fn on_shown(&mut self, shown: MessageIx, copies: usize) {
        self.notes[shown].is_shown = true;
        self.on_under_way(shown, copies);
    }

    /// A message is sent from an inbox, or shown: what is older of its pair and not on `copies` disks may be seen later.
    pub fn on_under_way(&mut self, shown: MessageIx, copies: usize) {
        let (from, to) = (self.notes[shown].from, self.notes[shown].to);
        let older = self.notes[..shown].iter_mut().filter(|note| (note.from, note.to, note.taken) == (from, to, 0));
        for note in older.filter(|note| (note.flushed.count_ones() as usize) < copies) {
            note.was_scarce = true;
        }
    }

    /// A copy leaves the sender's edge.
    pub fn on_sent_on(&mut self, id: MessageId) {
        if let Some(ix) = self.find(id) {
            self.notes[ix].under_way += 1;
        }
    }

    /// A copy was bounced or refused.
    pub fn on_turned_down(&mut self, ix: MessageIx) {
        let note = &mut self.notes[ix];
        if !note.is_shown {
            note.under_way = note.under_way.saturating_sub(1);
        }
    }

    /// The body that belongs to a message.
    pub fn body(&self, ix: MessageIx) -> Vec<u8> {
        let note = &self.notes[ix];
        (0..note.bytes).map(|at| (ix >> (8 * (at % 4))) as u8).collect()
    }
}
