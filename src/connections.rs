//! The connections of one executor: bytes of clients to frames, and frames to bytes.
//!
//! Owns, per connection, what is not yet written and what is not yet a whole frame; both only while there is something.
//! Input is read into one scratch buffer of the executor. Output is written once per turn. What a frame means is the
//! machine's; sockets themselves are in [`crate::sockets`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use iris_shards::frame::FRAME_BYTES_MAX_BEFORE_WELCOME;
use iris_shards::id::SessionId;

use crate::sockets::{ConnectionKey, Sockets};

/// Room for reading behind the longest cut frame.
const READ_BYTES: usize = 64 << 10;
/// Out-buffers kept for the next connection that needs one.
const POOL_MAX: usize = 256;
/// A larger out-buffer is given back to the allocator.
const POOL_BYTES_MAX: usize = 64 << 10;
/// How long a client has to read its CLOSE and to hang up, in ms.
const LINGER_MS: u64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No connection.
    Free,
    /// Watched for one event at a time, so that it can be handed over.
    Opening,
    Open,
    /// Only the rest of its output is written; input is thrown away.
    Closing,
}

/// Output of one connection that is not yet written.
#[derive(Debug, Default)]
struct Out {
    bytes: Vec<u8>,
    /// The beginning that is written already.
    written: usize,
}

/// The beginning of a frame.
#[derive(Debug)]
struct Cut {
    bytes: Vec<u8>,
    /// Bytes that are needed before it is worth decoding again.
    wanted: usize,
}

/// One connection; nothing of it is on the heap while it is idle.
#[derive(Debug)]
struct Connection {
    key: Option<ConnectionKey>,
    out: Option<Box<Out>>,
    /// The beginning of a frame.
    cut: Option<Box<Cut>>,
    phase: Phase,
    is_dirty: bool,
    is_read: bool,
    is_overfull: bool,
}

impl Connection {
    const FREE: Connection = Connection {
        key: None,
        out: None,
        cut: None,
        phase: Phase::Free,
        is_dirty: false,
        is_read: false,
        is_overfull: false,
    };
}

/// When a connection is read of which was heard that it is readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Now.
    Now,
    /// In the next turn: it is written at the end of this one, and what its client answers to that may be read along. Else
    /// two who write to each other would for ever be read and written twice, each time for half of the messages.
    Next,
    /// It was read after this was heard.
    Done,
}

/// What came of reading from a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// The scratch buffer has this many bytes of it, and whether there may be more to read.
    Bytes(usize, bool),
    /// There was nothing to read.
    Nothing,
    /// The client has ended, or the connection broke.
    Ended,
}

/// See the module.
#[derive(Debug)]
// The boxes of the pool go into connections and come back.
#[allow(clippy::vec_box)]
pub struct Connections {
    list: Vec<Connection>,
    dirty: Vec<u32>,
    /// Those that were read in this turn before anything that was heard at its beginning.
    read: Vec<u32>,
    pool: Vec<Box<Out>>,
    /// Closing connections and when to stop waiting for them, in monotonic ms.
    lingering: VecDeque<(u64, ConnectionKey)>,
    frame_bytes_max: usize,
    out_bytes_max: usize,
}

impl Connections {
    /// No connections. Frames have at most `frame_bytes_max` bytes, and `out_bytes_max` wait for one client.
    pub fn new(frame_bytes_max: usize, out_bytes_max: usize) -> Self {
        Connections {
            list: Vec::new(),
            dirty: Vec::new(),
            read: Vec::new(),
            pool: Vec::new(),
            lingering: VecDeque::new(),
            frame_bytes_max,
            out_bytes_max,
        }
    }

    /// A connection before its HELLO.
    pub fn open(&mut self, key: ConnectionKey) -> SessionId {
        if self.list.len() <= key.index() {
            self.list.resize_with(key.index() + 1, || Connection::FREE);
        }
        self.list[key.index()] = Connection { key: Some(key), phase: Phase::Opening, ..Connection::FREE };
        SessionId(key.index() as u32)
    }

    /// The HELLO of a connection was taken here: it is watched for good.
    pub fn welcome(&mut self, sockets: &mut Sockets, session: SessionId) -> io::Result<()> {
        let Some((connection, key)) = self.connection(session) else { return Ok(()) };
        connection.phase = Phase::Open;
        sockets.watch(key)
    }

    /// The session on this connection, if it still stands for one.
    pub fn session(&self, key: ConnectionKey) -> Option<SessionId> {
        let connection = self.list.get(key.index())?;
        (connection.key == Some(key)).then_some(SessionId(key.index() as u32))
    }

    /// Whether HELLO is awaited.
    pub fn is_opening(&self, session: SessionId) -> bool {
        self.list[session.0 as usize].phase == Phase::Opening
    }

    /// Whether only the end is awaited.
    pub fn is_closing(&self, session: SessionId) -> bool {
        self.list[session.0 as usize].phase == Phase::Closing
    }

    /// When to read a connection that became readable before this turn.
    pub fn reading(&self, key: ConnectionKey) -> Reading {
        match self.list.get(key.index()) {
            Some(connection) if connection.key == Some(key) && connection.is_read => Reading::Done,
            Some(connection) if connection.is_dirty && connection.phase == Phase::Open => Reading::Next,
            _ => Reading::Now,
        }
    }

    /// A connection was read, or will be in the next turn, whatever was heard before this turn.
    pub fn note_read(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.list.get_mut(key.index()).filter(|connection| connection.key == Some(key)) {
            connection.is_read = true;
            self.read.push(key.index() as u32);
        }
    }

    /// What is heard from now on is new.
    pub fn end_turn(&mut self) {
        for index in self.read.drain(..) {
            self.list[index as usize].is_read = false;
        }
    }

    /// A scratch buffer that holds the longest cut frame and one read behind it.
    pub fn scratch(&self) -> Vec<u8> {
        vec![0; READ_BYTES + self.frame_bytes_max.max(FRAME_BYTES_MAX_BEFORE_WELCOME)]
    }

    /// The largest frame that this connection may send now, in bytes.
    pub fn frame_bytes_max(&self, session: SessionId) -> usize {
        match self.list[session.0 as usize].phase {
            Phase::Open => self.frame_bytes_max,
            _ => FRAME_BYTES_MAX_BEFORE_WELCOME,
        }
    }

    /// Reads once, behind what is left of the last read.
    pub fn fill(&mut self, sockets: &Sockets, session: SessionId, scratch: &mut [u8]) -> Input {
        let Some((connection, key)) = self.connection(session) else { return Input::Nothing };
        let start = connection.cut.as_ref().map_or(0, |cut| cut.bytes.len());
        let length = match sockets.read(key, &mut scratch[start..]) {
            Ok(0) => return Input::Ended,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Input::Nothing,
            Err(_) => return Input::Ended,
        };
        let (end, may_have_more) = (start + length, start + length == scratch.len());
        match connection.cut.take() {
            // However small the pieces of a large frame are, each byte of it is copied a bounded number of times.
            Some(mut cut) if end < cut.wanted => {
                cut.bytes.extend_from_slice(&scratch[start..end]);
                connection.cut = Some(cut);
                Input::Bytes(0, may_have_more)
            }
            Some(cut) => {
                scratch[..start].copy_from_slice(&cut.bytes);
                Input::Bytes(end, may_have_more)
            }
            None => Input::Bytes(end, may_have_more),
        }
    }

    /// Keeps the beginning of a frame until there are `wanted` bytes of it.
    pub fn keep_cut(&mut self, session: SessionId, rest: &[u8], wanted: usize) {
        if let Some((connection, _)) = self.connection(session)
            && !rest.is_empty()
        {
            connection.cut = Some(Box::new(Cut { bytes: rest.to_vec(), wanted }));
        }
    }

    /// Watches a connection before its HELLO for one more event.
    pub fn watch_opening(&mut self, sockets: &mut Sockets, session: SessionId) -> io::Result<()> {
        match self.connection(session) {
            Some((connection, key)) if connection.phase == Phase::Opening => sockets.watch_once(key),
            _ => Ok(()),
        }
    }

    /// Where output of this connection is appended; `None` if it takes none any more.
    pub fn out(&mut self, session: SessionId) -> Option<&mut Vec<u8>> {
        let connection = self.list.get_mut(session.0 as usize)?;
        if !matches!(connection.phase, Phase::Open | Phase::Opening) {
            return None;
        }
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(session.0);
        }
        let pool = &mut self.pool;
        Some(&mut connection.out.get_or_insert_with(|| pool.pop().unwrap_or_default()).bytes)
    }

    /// Whether more waits for this client than it may, for the first time: it will be closed.
    pub fn becomes_overfull(&mut self, session: SessionId) -> bool {
        let connection = &mut self.list[session.0 as usize];
        let waiting = connection.out.as_ref().map_or(0, |out| out.bytes.len() - out.written);
        let is_overfull = connection.phase == Phase::Open && waiting > self.out_bytes_max;
        is_overfull && !std::mem::replace(&mut connection.is_overfull, true)
    }

    /// Nothing more is taken from or for this client; what waits for it is written first.
    pub fn close_when_written(&mut self, sockets: &mut Sockets, session: SessionId, now_ms: u64) {
        let Some((connection, key)) = self.connection(session) else { return };
        connection.phase = Phase::Closing;
        connection.cut = None;
        // Sees when the client hangs up; an opening connection was not watched.
        let watched = sockets.watch(key);
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(session.0);
        }
        let deadline = if watched.is_ok() { now_ms + LINGER_MS } else { now_ms };
        self.lingering.push_back((deadline, key));
    }

    /// Ends a connection now.
    pub fn close(&mut self, sockets: &mut Sockets, session: SessionId) {
        let Some((_, key)) = self.connection(session) else { return };
        sockets.close(key);
        self.forget(session);
    }

    /// Gives a connection before its HELLO away.
    pub fn release(&mut self, sockets: &mut Sockets, session: SessionId) -> io::Result<OwnedFd> {
        let (_, key) = self.connection(session).ok_or(io::ErrorKind::NotConnected)?;
        let fd = sockets.release(key)?;
        self.forget(session);
        Ok(fd)
    }

    /// There is room again.
    pub fn on_writable(&mut self, session: SessionId) {
        let connection = &mut self.list[session.0 as usize];
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(session.0);
        }
    }

    /// Whether something has gathered and is not written.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Writes what has gathered, each connection once. Calls `broken` for connections that took nothing and never will.
    pub fn write_dirty(&mut self, sockets: &mut Sockets, mut broken: impl FnMut(SessionId)) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for session in dirty.drain(..).map(SessionId) {
            if self.write(sockets, session).is_err() {
                broken(session);
            }
        }
        self.dirty = dirty;
    }

    fn write(&mut self, sockets: &mut Sockets, session: SessionId) -> io::Result<()> {
        let connection = &mut self.list[session.0 as usize];
        connection.is_dirty = false;
        let Some(key) = connection.key else { return Ok(()) };
        if let Some(out) = &mut connection.out {
            let rest = &out.bytes[out.written..];
            let length = match sockets.write(key, rest) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if length < rest.len() {
                out.written += length;
                // What is written is given up once it is the larger part, so that the buffer stays within its bound.
                if out.written > out.bytes.len() / 2 {
                    out.bytes.drain(..out.written);
                    out.written = 0;
                }
                return sockets.watch_writable(key);
            }
        }
        if connection.phase == Phase::Closing {
            sockets.shutdown_write(key)?;
        }
        if let Some(mut out) = connection.out.take()
            && self.pool.len() < POOL_MAX
            && out.bytes.capacity() <= POOL_BYTES_MAX
        {
            out.bytes.clear();
            out.written = 0;
            self.pool.push(out);
        }
        Ok(())
    }

    /// Closing connections whose client did not hang up in time.
    pub fn take_lingering(&mut self, now_ms: u64) -> Option<SessionId> {
        while let Some(&(deadline, key)) = self.lingering.front() {
            let session = self.session(key);
            if session.is_some() && deadline > now_ms {
                return None;
            }
            self.lingering.pop_front();
            if session.is_some() {
                return session;
            }
        }
        None
    }

    /// When the next one is due, in monotonic ms.
    pub fn next_lingering_ms(&self) -> Option<u64> {
        self.lingering.front().map(|&(deadline, _)| deadline)
    }

    /// All connections.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        let taken = self.list.iter().enumerate().filter(|(_, connection)| connection.key.is_some());
        taken.map(|(index, _)| SessionId(index as u32))
    }

    fn connection(&mut self, session: SessionId) -> Option<(&mut Connection, ConnectionKey)> {
        let connection = self.list.get_mut(session.0 as usize)?;
        let key = connection.key?;
        Some((connection, key))
    }

    fn forget(&mut self, session: SessionId) {
        let is_dirty = self.list[session.0 as usize].is_dirty;
        // A dirty one stays in the list of this turn, and must not be there twice.
        self.list[session.0 as usize] = Connection { is_dirty, ..Connection::FREE };
    }
}
