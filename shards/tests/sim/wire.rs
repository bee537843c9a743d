//! Frames of clients: as the borrowed frames that the machine takes, or through the real codec, cut anywhere.

use iris_shards::event::{EdgeEvent, Level};
use iris_shards::frame::{self, ClientFrame, Decoded, Hello, Ranges, ServerFrame, decode_client, decode_server};
use iris_shards::id::SessionId;

use crate::check::{Verdict, ensure};
use crate::connection::{Down, Up};
use crate::ledger::ConnectionIx;
use crate::world::World;

const FRAME_BYTES_MAX: usize = 1 << 16;

impl World {
    /// A frame of a client reaches the edge half of its home executor.
    pub fn take_frame(&mut self, ix: ConnectionIx, session: SessionId, up: &Up) {
        let (node, executor) = (self.connections[ix].node, self.connections[ix].executor);
        if let Up::Ack(pairs) = up {
            self.count_acknowledged(ix, pairs);
        }
        let client = self.connections[ix].client;
        self.say(|| format!("{node}.{executor} <- user {client} (connection {ix}): {up:?}"));
        let user = self.clients[client].user.clone();
        let body;
        let recipient;
        let frame = match up {
            Up::Hello => ClientFrame::Hello(Hello {
                version_min: 1,
                version_max: 1,
                capabilities: 1,
                user: user.as_bytes(),
                token: b"",
                agent: "sim",
            }),
            Up::Send(sequence) => {
                self.connections[ix].read_us.push(self.now_us);
                let (message, _) = self.connections[ix].sent[sequence.0 as usize - 1];
                self.connections[ix].held.insert(message);
                let note = &self.ledger.notes[message];
                recipient = self.clients[note.to].user.clone();
                body = self.ledger.body(message);
                ClientFrame::Send { sequence: *sequence, id: note.id, recipient: recipient.as_bytes(), body: &body }
            }
            Up::Ack(pairs) => ClientFrame::Ack { ranges: Ranges::from_pairs(pairs).expect("ascending") },
            Up::Lookup { request, about, watch } => {
                recipient = self.clients[*about].user.clone();
                let (request, user) = (*request, recipient.as_bytes());
                if *watch { ClientFrame::Watch { request, user } } else { ClientFrame::Lookup { request, user } }
            }
            Up::End => return,
        };
        if !self.plan.as_bytes {
            return self.tell_edge(node, executor, EdgeEvent::Frame(session, frame));
        }
        let mut bytes = std::mem::take(&mut self.connections[ix].up_bytes);
        frame.encode(&mut bytes);
        self.read_bytes(ix, session, bytes);
    }

    /// The server reads some of the bytes; what it cannot decode yet waits for the rest, which comes at once if nothing
    /// else is under way.
    fn read_bytes(&mut self, ix: ConnectionIx, session: SessionId, mut bytes: Vec<u8>) {
        let (node, executor) = (self.connections[ix].node, self.connections[ix].executor);
        let is_last = self.connections[ix].up.is_empty();
        let seen = if is_last { bytes.len() } else { self.rng.index(bytes.len() + 1) };
        let mut at = 0;
        loop {
            match decode_client(&bytes[at..seen], FRAME_BYTES_MAX) {
                Ok(Decoded::Frame { frame, used }) => {
                    at += used;
                    self.tell_edge(node, executor, EdgeEvent::Frame(session, frame));
                }
                Ok(Decoded::NeedMore { .. }) => break,
                Err(error) => {
                    let verdict = ensure(false, "bounds", || format!("a client's frame was not decoded: {error}"));
                    return self.judge(verdict);
                }
            }
        }
        bytes.drain(..at);
        self.connections[ix].up_bytes = bytes;
    }

    fn count_acknowledged(&mut self, ix: ConnectionIx, pairs: &[(u64, u64)]) {
        let connection = &mut self.connections[ix];
        for sequence in pairs.iter().flat_map(|&(first, last)| first..=last) {
            connection.unacknowledged.remove(&connection.delivered[sequence as usize - 1]);
        }
    }
}

/// CONFIRM as bytes says what the action said.
pub fn check_down(down: &Down) -> Verdict {
    let Down::Confirm { level, run } = down else { return Ok(()) };
    let pairs = [(run.0.0, run.1.0)];
    let ranges = Ranges::from_pairs(&pairs).expect("ascending");
    let (level, copies) = match level {
        Level::Stored { copies } => (frame::LEVEL_STORED, *copies),
        Level::Delivered => (frame::LEVEL_DELIVERED, 0),
    };
    let frame = ServerFrame::Confirm { level, copies, ranges };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let decoded = decode_server(&bytes, FRAME_BYTES_MAX);
    let same = matches!(&decoded, Ok(Decoded::Frame { frame: back, used }) if *back == frame && *used == bytes.len());
    ensure(same, "bounds", || format!("{frame:?} came back as {decoded:?}"))
}
