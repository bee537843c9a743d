//! The bytes of one link: what has come and is no whole frame yet, and what waits to be written.
//!
//! Owned by [`super::Links`]; the out-buffer has the bound `link.out_bytes_max`, the input one frame and one read.

use std::io;

use iris_shards::id::NodeId;
use iris_shards::link::{Accept, Hello, LinkName};

use crate::sockets::{ConnectionKey, Sockets};

/// Buffers above this capacity are given back once they are empty.
const KEPT_BYTES: usize = 256 << 10;

/// How far a link has come.
#[derive(Debug)]
pub enum Stage {
    /// Accepted: HELLO is awaited.
    Greeting,
    /// Dialled: HELLO is sent, the answer is awaited.
    Offered(Box<Hello>),
    /// Accepted: the answer is sent, the dialer's proof is awaited.
    Answered(Box<Offer>),
    /// Up, under this number.
    Up(u32),
    /// Told why not; only the other side's end is awaited.
    Closing,
}

/// A dialer's HELLO, and what it was answered.
#[derive(Debug)]
pub struct Offer {
    /// What it said.
    pub hello: Hello,
    /// What was answered; its proof has to fit both.
    pub accept: Accept,
}

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Something, and perhaps there is more.
    Bytes,
    /// Something, and nothing more for now.
    Drained,
    /// Nothing for now.
    Nothing,
    /// The other side has ended, or the connection broke.
    Ended,
}

/// One connection to another node.
#[derive(Debug)]
pub struct Wire {
    /// Its socket.
    pub key: ConnectionKey,
    /// How far it has come.
    pub stage: Stage,
    /// The other side; `None` before its HELLO.
    pub node: Option<NodeId>,
    /// What both sides call this link, once both have spoken.
    pub name: Option<LinkName>,
    /// The start of the other side's process.
    pub boot: u64,
    /// When something was heard, in monotonic ms.
    pub heard_ms: u64,
    /// When something was written, in monotonic ms.
    pub sent_ms: u64,
    /// When a message between the machines went either way, in monotonic ms.
    pub used_ms: u64,
    /// When it began, in monotonic ms.
    pub began_ms: u64,
    /// What has come and is not decoded.
    pub input: Vec<u8>,
    /// Bytes that are needed before it is worth decoding again.
    pub wanted: usize,
    out: Vec<u8>,
    written: usize,
    /// Whether it is in the list of those to be written.
    pub is_dirty: bool,
    /// Whether a message between the machines was sent since the last write.
    pub is_used: bool,
}

impl Wire {
    /// A connection that has said nothing.
    pub fn new(key: ConnectionKey, stage: Stage, now_ms: u64) -> Self {
        Wire {
            key,
            stage,
            node: None,
            name: None,
            boot: 0,
            heard_ms: now_ms,
            sent_ms: now_ms,
            used_ms: now_ms,
            began_ms: now_ms,
            input: Vec::new(),
            wanted: 0,
            out: Vec::new(),
            written: 0,
            is_dirty: false,
            is_used: false,
        }
    }

    /// Reads once, behind what is there.
    pub fn fill(&mut self, sockets: &Sockets, scratch: &mut [u8]) -> Read {
        match sockets.read(self.key, scratch) {
            Ok(0) => Read::Ended,
            Ok(length) => {
                self.input.extend_from_slice(&scratch[..length]);
                if length == scratch.len() { Read::Bytes } else { Read::Drained }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::Ended,
        }
    }

    /// Forgets what was decoded.
    pub fn consume(&mut self, used: usize) {
        self.input.drain(..used);
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = Vec::new();
        }
    }

    /// Where output is appended.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what fits. Asks to hear when there is room for the rest.
    pub fn write(&mut self, sockets: &mut Sockets, now_ms: u64) -> io::Result<()> {
        let rest = &self.out[self.written..];
        if rest.is_empty() {
            return Ok(());
        }
        let length = match sockets.write(self.key, rest) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if length > 0 {
            self.sent_ms = now_ms;
        }
        self.written += length;
        if self.written < self.out.len() {
            // What is written is given up once it is the larger part.
            if self.written > self.out.len() / 2 {
                self.out.drain(..self.written);
                self.written = 0;
            }
            return sockets.watch_writable(self.key);
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > KEPT_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// The number of the link, if it is up.
    pub fn generation(&self) -> Option<u32> {
        match self.stage {
            Stage::Up(generation) => Some(generation),
            _ => None,
        }
    }
}
