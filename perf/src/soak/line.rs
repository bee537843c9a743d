//! One connection of a soaking user, from connecting to its end: the client protocol's own numbers (sequences,
//! acknowledgements due), and which message each sequence was. What that means is the account's.

use super::account::{Account, Level, Name};
use crate::load::Connection;
use crate::wire::iris::{FRAME_BYTES_MAX, name_of};
use iris_shards::frame::{
    self, ClientFrame, Code, Decoded, Deliver, LEVEL_DELIVERED, LEVEL_STORED, Ranges, ServerFrame, Welcome,
    decode_server,
};
use iris_shards::id::{MessageId, Sequence};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

/// Answered messages that are remembered, for a `delivered` that follows.
const SENT_MAX: usize = 8_192;

/// What a sequence of this connection stands for.
#[derive(Clone, Copy)]
struct Sent {
    name: Name,
    is_open: bool,
}

/// What a turn of reading brought, beside what went to the account.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// WELCOME.
    pub is_welcome: bool,
    /// Refused messages, and how long to wait before each is sent again, ms.
    pub refused: Vec<(Name, u32)>,
    /// DRAIN: when to leave, ms.
    pub drain_ms: Option<u32>,
    /// CLOSE: its code, and how long to stay away, ms.
    pub closed: Option<(Option<Code>, u32)>,
    /// Messages whose first answer came.
    pub confirmed: u64,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The world: a server that died, a network that is cut.
    Lost,
    /// The server broke the protocol; how.
    Breach(String),
}

/// See the module.
pub struct Line {
    connection: Connection,
    talk: Talk,
    /// When anything was heard last, ns.
    pub heard_ns: u64,
    /// Whether a PING waits for its answer.
    pub is_asked: bool,
    /// When this user will hang up, ns.
    pub leave_ns: u64,
    out: Vec<u8>,
}

/// What was said on it.
#[derive(Default)]
struct Talk {
    user: u32,
    is_here: bool,
    /// The server's clock at `clock_ns` of ours, ms.
    clock_ms: u64,
    clock_ns: u64,
    window: usize,
    delivered: u64,
    acknowledged: u64,
    /// Sequences up to this one are forgotten.
    forgotten: u64,
    sent: VecDeque<Sent>,
    /// Sequences without an answer, in order.
    open: VecDeque<u64>,
}

impl Line {
    /// A connection that was begun with the HELLO of this user.
    pub fn new(connection: Connection, user: u32, now_ns: u64) -> Self {
        let (heard_ns, leave_ns, talk) = (now_ns, u64::MAX, Talk { user, ..Talk::default() });
        Self { connection, talk, heard_ns, is_asked: false, leave_ns, out: Vec::new() }
    }

    /// Whether WELCOME has come.
    pub fn is_here(&self) -> bool {
        self.talk.is_here
    }

    /// Messages that the server lets this user send.
    pub fn room(&self) -> usize {
        self.talk.window.saturating_sub(self.talk.open.len())
    }

    /// Messages without an answer.
    pub fn open(&self) -> usize {
        self.talk.open.len()
    }

    /// The server's clock, ms.
    pub fn server_ms(&self, now_ns: u64) -> u64 {
        self.talk.clock_ms + now_ns.saturating_sub(self.talk.clock_ns) / 1_000_000
    }

    /// Everything without an answer, in order.
    pub fn unanswered(self) -> Vec<Name> {
        let Talk { sent, open, forgotten, .. } = self.talk;
        open.iter().map(|sequence| sent[(sequence - forgotten - 1) as usize].name).collect()
    }

    /// Puts a message behind what is to be written.
    pub fn send(&mut self, name: Name, id: MessageId, (recipient, body): (&str, &[u8])) {
        let talk = &mut self.talk;
        talk.sent.push_back(Sent { name, is_open: true });
        let sequence = talk.forgotten + talk.sent.len() as u64;
        talk.open.push_back(sequence);
        let recipient = recipient.as_bytes();
        ClientFrame::Send { sequence: Sequence(sequence), id, recipient, body }.encode(&mut self.out);
    }

    /// Asks for a sign of life.
    pub fn ask(&mut self) {
        self.is_asked = true;
        ClientFrame::Ping { token: self.talk.delivered }.encode(&mut self.out);
    }

    /// Writes what is to be written; acknowledges what was taken.
    pub fn flush(&mut self) -> Result<(), End> {
        let talk = &mut self.talk;
        if talk.delivered > talk.acknowledged {
            frame::acknowledge(&mut self.out, &[(talk.acknowledged + 1, talk.delivered)]);
            talk.acknowledged = talk.delivered;
        }
        let written = self.connection.send(&self.out);
        self.out.clear();
        written.map_err(|_| End::Lost)
    }

    /// Reads until nothing is there, or the server has said CLOSE.
    pub fn read(&mut self, scratch: &mut [u8], now_ns: u64, account: &mut Account) -> Result<Heard, End> {
        let mut heard = Heard::default();
        while heard.closed.is_none() {
            let bytes = match self.connection.receive(scratch) {
                Ok(Some(0)) | Err(_) => return Err(End::Lost),
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
            };
            (self.heard_ns, self.is_asked) = (now_ns, false);
            let talk = &mut self.talk;
            let decode = |bytes: &[u8]| talk.on_bytes(bytes, now_ns, (&mut *account, &mut heard));
            self.connection.feed(&scratch[..bytes], decode).map_err(End::Breach)?;
        }
        Ok(heard)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Talk {
    fn on_bytes(&mut self, bytes: &[u8], now_ns: u64, to: (&mut Account, &mut Heard)) -> Result<usize, String> {
        let (account, heard) = to;
        let mut at = 0;
        loop {
            let decoded = decode_server(&bytes[at..], FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
            let Decoded::Frame { frame, used } = decoded else { return Ok(at) };
            at += used;
            match frame {
                ServerFrame::Deliver(message) => self.on_deliver(&message, account)?,
                ServerFrame::Confirm { level, copies, ranges } => {
                    let level = level_of(level, copies)?;
                    heard.confirmed += self.on_confirm(level, ranges, (now_ns, account))?;
                }
                ServerFrame::Refused { sequence, code, wait_ms, .. } => {
                    self.on_refused(sequence, (code, wait_ms), (account, heard))?;
                }
                ServerFrame::Welcome(welcome) => {
                    self.on_welcome(&welcome, now_ns);
                    heard.is_welcome = true;
                }
                ServerFrame::Drain { wait_ms } => heard.drain_ms = Some(wait_ms),
                ServerFrame::Close { code, wait_ms, .. } => heard.closed = Some((Code::from_number(code), wait_ms)),
                ServerFrame::Presence { .. } | ServerFrame::Pong { .. } | ServerFrame::Unknown { .. } => {}
            }
        }
    }

    fn on_welcome(&mut self, welcome: &Welcome<'_>, now_ns: u64) {
        self.is_here = true;
        (self.clock_ms, self.clock_ns) = (welcome.clock, now_ns);
        self.window = welcome.window_messages as usize;
    }

    fn on_deliver(&mut self, message: &Deliver<'_>, account: &mut Account) -> Result<(), String> {
        self.delivered += 1;
        if message.sequence.0 != self.delivered {
            return Err(format!("DELIVER has sequence {}, {} was next", message.sequence.0, self.delivered));
        }
        account.on_taken(self.user, (message.sender, message.id), message.body);
        Ok(())
    }

    /// How many of these are first answers.
    fn on_confirm(&mut self, level: Level, ranges: Ranges<'_>, to: (u64, &mut Account)) -> Result<u64, String> {
        let (now_ns, account) = to;
        let mut first_answers = 0;
        for sequence in ranges.iter().flat_map(|(first, last)| first..=last) {
            if sequence > self.forgotten + self.sent.len() as u64 {
                return Err(format!("{sequence} is confirmed, and was never sent here"));
            }
            let Some(at) = sequence.checked_sub(self.forgotten + 1) else { continue };
            let Sent { name, is_open } = self.sent[at as usize];
            if is_open {
                first_answers += 1;
                self.on_first_confirmation(sequence, name, account);
            }
            account.on_confirmed(name, level, now_ns);
        }
        self.forget();
        Ok(first_answers)
    }

    /// First confirmations of a pair come in the order of sending.
    fn on_first_confirmation(&mut self, sequence: u64, name: Name, account: &mut Account) {
        let first = self.forgotten + 1;
        let older = self.open.iter().take_while(|open| **open < sequence);
        let older = older.copied().find(|open| self.sent[(open - first) as usize].name.pair == name.pair);
        if let Some(older) = older {
            account
                .on_misconfirmed(|| format!("{name:?}, sent as {sequence}, is confirmed before {older} of its pair"));
        }
        self.answer(sequence);
    }

    fn on_refused(
        &mut self,
        sequence: Sequence,
        why: (u16, u32),
        to: (&mut Account, &mut Heard),
    ) -> Result<(), String> {
        let ((code, wait_ms), (account, heard)) = (why, to);
        let at = sequence.0.checked_sub(self.forgotten + 1);
        let sent = at.and_then(|at| self.sent.get(at as usize)).filter(|sent| sent.is_open);
        let Some(&Sent { name, .. }) = sent else {
            return Err(format!("{} is refused, and it was not waiting for an answer", sequence.0));
        };
        account.on_refused(name, &name_of(code));
        heard.refused.push((name, wait_ms));
        self.answer(sequence.0);
        self.forget();
        Ok(())
    }

    fn answer(&mut self, sequence: u64) {
        self.sent[(sequence - self.forgotten - 1) as usize].is_open = false;
        if let Ok(at) = self.open.binary_search(&sequence) {
            self.open.remove(at);
        }
    }

    /// Keeps the last answered ones.
    fn forget(&mut self) {
        while self.sent.len() > SENT_MAX && self.sent.front().is_some_and(|sent| !sent.is_open) {
            self.sent.pop_front();
            self.forgotten += 1;
        }
    }
}

fn level_of(level: u8, copies: u8) -> Result<Level, String> {
    match (level, copies) {
        (LEVEL_STORED, 1..) => Ok(Level::Stored(copies)),
        (LEVEL_DELIVERED, 0) => Ok(Level::Delivered),
        _ => Err(format!("CONFIRM of level {level} with {copies} copies")),
    }
}
