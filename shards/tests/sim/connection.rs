//! A client's connection: what is under way in both directions, and what its server and its client know of it.

use std::collections::{BTreeSet, VecDeque};

use iris_shards::event::Level;
use iris_shards::frame::Code;
use iris_shards::id::{Sequence, SessionId};
use iris_shards::peer::PresenceState;

use crate::ledger::{ClientIx, MessageIx};

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    Hello,
    Send(Sequence),
    Ack(Vec<(u64, u64)>),
    Lookup {
        request: u32,
        about: ClientIx,
        watch: bool,
    },
    /// The end of the stream.
    End,
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    Welcome { clock_ms: u64 },
    Deliver { sequence: Sequence, message: MessageIx },
    Confirm { level: Level, run: (Sequence, Sequence) },
    Refused { sequence: Sequence, code: Code, wait_ms: u32 },
    Presence { request: u32, about: ClientIx, state: PresenceState },
    Pong,
    Drain { wait_ms: u32 },
    Close { code: Code, wait_ms: u32 },
    End,
}

/// What a SEND has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    None,
    Stored,
    Delivered,
    Refused,
}

/// One connection. It is never used again.
#[derive(Debug)]
pub struct Connection {
    pub client: ClientIx,
    pub node: usize,
    pub executor: usize,
    /// At the server; none before it was accepted.
    pub session: Option<SessionId>,
    /// HELLO has reached the home executor.
    pub at_home: bool,
    /// The server has it.
    pub is_served: bool,
    /// The server has said CLOSE, or heard the end.
    pub is_ended: bool,
    /// The server does not notice that the client is gone.
    pub is_mute: bool,
    pub is_overfull: bool,
    pub tell_overfull: bool,
    pub is_welcomed: bool,
    pub up: VecDeque<Up>,
    pub down: VecDeque<Down>,
    /// Sequence n + 1 is the message at n, and its answer.
    pub sent: Vec<(MessageIx, Answer)>,
    /// For each of them, whether the client has read its first answer.
    pub heard: Vec<bool>,
    /// When the server has read them, in order.
    pub read_us: Vec<u64>,
    /// Messages that the server has read, and neither sent on nor refused.
    pub held: BTreeSet<MessageIx>,
    /// Everything before this has an answer.
    pub answered_below: usize,
    /// Sequence n + 1 is the message at n.
    pub delivered: Vec<MessageIx>,
    /// Delivered messages whose acknowledgement the server has not read, but for repeats of what was taken before.
    pub unacknowledged: BTreeSet<MessageIx>,
    /// The rest of a frame that was cut, if frames travel as bytes.
    pub up_bytes: Vec<u8>,
}

impl Connection {
    pub fn new(client: ClientIx, node: usize, executor: usize) -> Self {
        Connection {
            client,
            node,
            executor,
            session: None,
            at_home: false,
            is_served: true,
            is_ended: false,
            is_mute: false,
            is_overfull: false,
            tell_overfull: false,
            is_welcomed: false,
            up: VecDeque::from([Up::Hello]),
            down: VecDeque::new(),
            sent: Vec::new(),
            heard: Vec::new(),
            read_us: Vec::new(),
            held: BTreeSet::new(),
            answered_below: 0,
            delivered: Vec::new(),
            unacknowledged: BTreeSet::new(),
            up_bytes: Vec::new(),
        }
    }

    /// Whether the server can read something.
    pub fn has_up(&self) -> bool {
        self.is_served && !self.is_mute && (!self.up.is_empty() || self.tell_overfull)
    }

    /// The server writes a frame.
    pub fn write(&mut self, frame: Down, frames_max: usize) {
        if self.is_ended && !matches!(frame, Down::Close { .. } | Down::End) {
            return;
        }
        self.down.push_back(frame);
        if self.down.len() > frames_max && !self.is_overfull {
            self.is_overfull = true;
            self.tell_overfull = true;
        }
    }

    /// The connection is cut: so many frames still arrive.
    pub fn cut(&mut self, keep_up: usize, keep_down: usize) {
        if !self.is_ended {
            self.up.truncate(keep_up);
            self.up.push_back(Up::End);
        }
        self.is_mute = false;
        self.down.truncate(keep_down);
        self.down.push_back(Down::End);
        self.is_ended = true;
    }

    /// The messages of one recipient in a run of sequences.
    pub fn run(&self, first: Sequence, last: Sequence) -> impl Iterator<Item = MessageIx> + '_ {
        let first = first.0.saturating_sub(1) as usize;
        let last = (last.0 as usize).min(self.sent.len());
        self.sent[first.min(last)..last].iter().map(|(message, _)| *message)
    }
}
