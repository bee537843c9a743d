//! A model of the client library: rows A and B of `delivery.md`.
//!
//! Owns what is unanswered, in order; what the application has not taken; and which ids are known. Client mutants are
//! broken here.

use std::collections::{BTreeMap, VecDeque};

use iris_shards::id::UserId;
use iris_shards::mutant::{self, Mutant};
use iris_shards::peer::PresenceState;

use crate::ledger::{ClientIx, ConnectionIx, MessageIx};

/// Ids that the library remembers per sender.
const KNOWN_MAX: usize = 1_024;
/// What a client may send before WELCOME.
const EARLY_MESSAGES: usize = 16;

/// One user's program.
#[derive(Debug)]
pub struct Client {
    pub user: UserId,
    /// The connection in use.
    pub connection: Option<ConnectionIx>,
    /// Every connection whose end it has not read.
    pub reading: Vec<ConnectionIx>,
    /// Taken over: stays away until it is told to log in again.
    pub is_out: bool,
    /// How often that happened after everything was healed.
    pub taken_over: u32,
    /// Does not connect before.
    pub away_until_us: u64,
    /// The application takes nothing.
    pub is_paused: bool,
    /// Reads nothing.
    pub is_deaf: bool,
    /// Unanswered messages in order; the first `transmitted` of them are on the present connection.
    pub pending: VecDeque<MessageIx>,
    pub transmitted: usize,
    /// Refused for now, and when to try again.
    pub refused: Vec<(u64, MessageIx)>,
    pub last_id_ms: u64,
    /// The server's clock as told, minus our time, in ms.
    pub clock_ahead_ms: i64,
    /// Received, not taken, and what to acknowledge then: every sequence under which it came on that connection.
    pub queue: VecDeque<(MessageIx, ConnectionIx, Vec<u64>)>,
    /// To be acknowledged on the present connection.
    pub acknowledge: Vec<u64>,
    known: BTreeMap<ClientIx, VecDeque<MessageIx>>,
    highest: BTreeMap<ClientIx, MessageIx>,
    /// Answers to LOOKUP and WATCH, the last of each user.
    pub seen: BTreeMap<ClientIx, PresenceState>,
    pub asked: u32,
}

/// What the library does with a message that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    New,
    /// Received before and not taken: only the sequence is new, and acknowledged with the first.
    Again,
    /// Taken before: acknowledged at once.
    Repeat,
}

impl Client {
    pub fn new(user: UserId) -> Self {
        Client {
            user,
            connection: None,
            reading: Vec::new(),
            is_out: false,
            taken_over: 0,
            away_until_us: 0,
            is_paused: false,
            is_deaf: false,
            pending: VecDeque::new(),
            transmitted: 0,
            refused: Vec::new(),
            last_id_ms: 0,
            clock_ahead_ms: 0,
            queue: VecDeque::new(),
            acknowledge: Vec::new(),
            known: BTreeMap::new(),
            highest: BTreeMap::new(),
            seen: BTreeMap::new(),
            asked: 0,
        }
    }

    /// The connection is gone or given up: what is unanswered will be sent again, in order.
    pub fn disconnect(&mut self, away_until_us: u64) {
        self.connection = None;
        self.transmitted = 0;
        self.acknowledge.clear();
        self.away_until_us = away_until_us;
    }

    /// The time part of a new id.
    pub fn id_ms(&mut self, now_ms: u64) -> u64 {
        self.last_id_ms = self.last_id_ms.max(now_ms.saturating_add_signed(self.clock_ahead_ms));
        self.last_id_ms
    }

    /// Whether the next pending message may be sent: windows of messages and bytes.
    pub fn may_transmit(&self, window: (usize, usize), welcomed: bool, size: impl Fn(MessageIx) -> usize) -> bool {
        let messages = if welcomed { window.0 } else { window.0.min(EARLY_MESSAGES) };
        let is_early = welcomed || window.0 >= EARLY_MESSAGES;
        if self.transmitted >= self.pending.len().min(messages) || !is_early {
            return false;
        }
        let bytes: usize = self.pending.iter().take(self.transmitted + 1).map(|&message| size(message)).sum();
        bytes <= window.1 && (welcomed || size(self.pending[self.transmitted]) < 3_900)
    }

    /// The first answer to a message has come. False if it was answered before.
    pub fn answered(&mut self, message: MessageIx) -> bool {
        let Some(at) = self.pending.iter().position(|&pending| pending == message) else { return false };
        self.pending.remove(at);
        if at < self.transmitted {
            self.transmitted -= 1;
        }
        true
    }

    /// Refused messages whose time has come are sent as if new.
    pub fn retry(&mut self, now_us: u64) -> Option<MessageIx> {
        let at = self.refused.iter().position(|(due, _)| *due <= now_us)?;
        let (_, message) = self.refused.remove(at);
        self.pending.push_back(message);
        Some(message)
    }

    /// A message of this sender has come.
    pub fn receive(&mut self, from: ClientIx, message: MessageIx, at: (ConnectionIx, u64)) -> Received {
        if let Some(queued) = self.queue.iter_mut().find(|(queued, _, _)| *queued == message)
            && !mutant::is(Mutant::ClientRemembersNothing)
        {
            if queued.1 != at.0 {
                (queued.1, queued.2) = (at.0, Vec::new());
            }
            queued.2.push(at.1);
            return Received::Again;
        }
        if self.knows(from, message) {
            self.acknowledge.push(at.1);
            return Received::Repeat;
        }
        let known = self.known.entry(from).or_default();
        known.push_back(message);
        let most = if mutant::is(Mutant::ClientRemembersSendWindow) { 3 } else { KNOWN_MAX };
        if known.len() > most {
            known.pop_front();
        }
        if mutant::is(Mutant::ClientRemembersHighestOnly) {
            let highest = self.highest.entry(from).or_default();
            *highest = (*highest).max(message + 1);
        }
        self.queue.push_back((message, at.0, vec![at.1]));
        Received::New
    }

    fn knows(&self, from: ClientIx, message: MessageIx) -> bool {
        if mutant::is(Mutant::ClientRemembersNothing) {
            return false;
        }
        if mutant::is(Mutant::ClientRemembersHighestOnly) {
            return self.highest.get(&from).is_some_and(|&highest| message < highest);
        }
        self.known.get(&from).is_some_and(|known| known.contains(&message))
    }

    /// The application takes the next message. Returns it and whether its sender's ids say that it is late.
    pub fn take(&mut self, from: impl Fn(MessageIx) -> ClientIx) -> Option<(MessageIx, bool)> {
        let (message, connection, sequences) = self.queue.pop_front()?;
        if self.connection == Some(connection) {
            self.acknowledge.extend(sequences);
        }
        let from = from(message);
        if mutant::is(Mutant::ClientRemembersHighestOnly) {
            return Some((message, true));
        }
        let highest = self.highest.entry(from).or_default();
        let late = message + 1 < *highest;
        *highest = (*highest).max(message + 1);
        Some((message, late))
    }

    /// Acknowledgements as ranges, ascending.
    pub fn take_acknowledgements(&mut self) -> Vec<(u64, u64)> {
        let mut sequences = std::mem::take(&mut self.acknowledge);
        sequences.sort_unstable();
        sequences.dedup();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for sequence in sequences {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => ranges.push((sequence, sequence)),
            }
        }
        ranges
    }
}
