//! A client of the protocol for tests, over a blocking socket: any bytes, in any segments, and owned frames back.
#![allow(dead_code)]

pub mod model;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use iris_shards::frame::{ClientFrame, Code, Decoded, Hello, LEVEL_DELIVERED, ServerFrame, acknowledge, decode_server};
use iris_shards::id::{MessageId, Sequence};

use super::process::PATIENCE;

/// A frame of the server, or the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Welcome(Grants),
    Deliver(Letter),
    Confirm {
        level: u8,
        copies: u8,
        ranges: Vec<(u64, u64)>,
    },
    Refused {
        sequence: u64,
        code: Option<Code>,
        wait_ms: u32,
    },
    Presence {
        request: u32,
        state: u8,
        last_seen: u64,
        user: String,
    },
    Pong(u64),
    Drain(u32),
    Close {
        code: Option<Code>,
        wait_ms: u32,
    },
    Unknown(u8),
    /// The connection is over.
    End,
}

/// WELCOME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    pub version: u8,
    pub capabilities: u64,
    pub region: String,
    pub node: String,
    pub window_messages: u32,
    pub window_bytes: u32,
    pub body_bytes_max: u32,
    pub frame_bytes_max: u32,
    pub silent_ms_max: u32,
    pub clock: u64,
}

/// DELIVER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub sequence: u64,
    pub id: MessageId,
    pub sent_at: u64,
    pub sender: String,
    pub body: Vec<u8>,
}

impl Letter {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Milliseconds since the Unix epoch, by the clock that the node has too.
pub fn clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// A new id, higher than every id that this process made before.
pub fn new_id() -> MessageId {
    static LAST: Mutex<(u64, u64)> = Mutex::new((0, 0));
    let mut last = LAST.lock().expect("no panic while it is held");
    let now = clock_ms();
    *last = if now > last.0 { (now, 0) } else { (last.0, last.1 + 1) };
    MessageId::v7(last.0, last.1.into())
}

/// HELLO of version 1 with presence.
pub fn hello(user: &[u8]) -> Vec<u8> {
    encoded(&[ClientFrame::Hello(opening(user))])
}

/// What [`hello`] says, to be changed.
pub fn opening(user: &[u8]) -> Hello<'_> {
    Hello { version_min: 1, version_max: 1, capabilities: 1, user, token: &[], agent: "wire" }
}

/// SEND.
pub fn send(sequence: u64, id: MessageId, recipient: &str, body: &[u8]) -> Vec<u8> {
    let sequence = Sequence(sequence);
    encoded(&[ClientFrame::Send { sequence, id, recipient: recipient.as_bytes(), body }])
}

/// Frames one behind the other.
pub fn encoded(frames: &[ClientFrame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

/// A frame of any type with any payload.
pub fn raw_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((payload.len() + 1) as u32).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(payload);
    bytes
}

/// Numbers that look random and are the same again for the same seed (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `below` - 1.
    pub fn roll(&mut self, below: usize) -> usize {
        (self.next() >> 33) as usize % below
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// One connection.
pub struct Wire {
    pub stream: TcpStream,
    input: Vec<u8>,
    /// The part of `input` that was taken.
    taken: usize,
    /// Heard while something else was waited for.
    aside: VecDeque<Heard>,
}

impl Wire {
    pub fn connect(address: &str) -> Wire {
        Wire::try_connect(address).expect("connected")
    }

    pub fn try_connect(address: &str) -> std::io::Result<Wire> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match TcpStream::connect(address) {
                // Other programs on this machine may have all ports for a moment.
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                connected => break connected?,
            }
        };
        stream.set_nodelay(true)?;
        // A server that takes nothing must not hold up a test for ever.
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire { stream, input: Vec::new(), taken: 0, aside: VecDeque::new() })
    }

    /// Connects and waits for WELCOME.
    pub fn login(address: &str, user: &str) -> Wire {
        let mut wire = Wire::connect(address);
        wire.write(&hello(user.as_bytes()));
        wire.welcome();
        wire
    }

    pub fn welcome(&mut self) -> Grants {
        match self.next() {
            Heard::Welcome(grants) => grants,
            other => panic!("no WELCOME: {other:?}"),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("written");
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes in segments that end at these places.
    pub fn write_cut(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            self.write(&bytes[from..cut]);
            from = cut;
        }
    }

    pub fn send(&mut self, sequence: u64, recipient: &str, body: &[u8]) -> MessageId {
        let id = new_id();
        self.write(&send(sequence, id, recipient, body));
        id
    }

    pub fn frame(&mut self, frame: ClientFrame<'_>) {
        self.write(&encoded(&[frame]));
    }

    pub fn acknowledge(&mut self, first: u64, last: u64) {
        let mut bytes = Vec::new();
        acknowledge(&mut bytes, &[(first, last)]);
        self.write(&bytes);
    }

    /// The next frame, or [`Heard::End`].
    pub fn next(&mut self) -> Heard {
        self.within(PATIENCE).unwrap_or_else(|| panic!("nothing is heard for {PATIENCE:?}"))
    }

    /// The next frame, if it comes within this time.
    pub fn within(&mut self, time: Duration) -> Option<Heard> {
        if let Some(heard) = self.aside.pop_front() {
            return Some(heard);
        }
        let deadline = Instant::now() + time;
        loop {
            if let Some(heard) = self.decode() {
                return Some(heard);
            }
            match self.read_until(deadline) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(()) => return Some(Heard::End),
            }
        }
    }

    /// Skips frames until one is of this kind.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(&Heard) -> Option<T>) -> T {
        loop {
            let heard = self.next();
            if let Some(found) = wanted(&heard) {
                return found;
            }
            assert_ne!(heard, Heard::End, "the connection ended before what was wanted");
        }
    }

    /// Waits for a message; everything else is kept for later.
    pub fn letter(&mut self) -> Letter {
        let mut aside = VecDeque::new();
        let letter = self.until(|heard| match heard {
            Heard::Deliver(letter) => Some(letter.clone()),
            other => {
                aside.push_back(other.clone());
                None
            }
        });
        aside.append(&mut self.aside);
        self.aside = aside;
        letter
    }

    /// Waits until this sequence is confirmed, and tells the level.
    pub fn confirmed(&mut self, wanted: u64) -> u8 {
        self.until(|heard| match heard {
            Heard::Confirm { level, ranges, .. } => {
                ranges.iter().any(|&(first, last)| first <= wanted && wanted <= last).then_some(*level)
            }
            Heard::Refused { sequence, code, .. } if *sequence == wanted => panic!("refused: {code:?}"),
            _ => None,
        })
    }

    /// Waits until this sequence is delivered. It may be stored before, where the recipient was slow to take it.
    pub fn delivered(&mut self, wanted: u64) {
        while self.confirmed(wanted) != LEVEL_DELIVERED {}
    }

    /// Waits until this sequence is refused, and tells code and time.
    pub fn refused(&mut self, wanted: u64) -> (Code, u32) {
        self.until(|heard| match heard {
            Heard::Refused { sequence, code, wait_ms } if *sequence == wanted => {
                Some((code.expect("a known code"), *wait_ms))
            }
            Heard::Confirm { ranges, .. } if ranges.iter().any(|&(f, l)| f <= wanted && wanted <= l) => {
                panic!("{wanted} was confirmed")
            }
            _ => None,
        })
    }

    /// Everything written so far was handled: what was heard until PONG.
    pub fn settle(&mut self) -> Vec<Heard> {
        let token = new_id().bytes()[7..15].iter().fold(0, |token, &byte| token << 8 | u64::from(byte));
        self.frame(ClientFrame::Ping { token });
        let mut before = Vec::new();
        loop {
            match self.next() {
                Heard::Pong(found) if found == token => return before,
                Heard::End => panic!("the connection ended instead of PONG, after {before:?}"),
                other => before.push(other),
            }
        }
    }

    /// Skips to CLOSE, and to the end that has to follow it.
    pub fn closed(&mut self) -> (Code, u32) {
        let found = self.until(|heard| match heard {
            Heard::Close { code, wait_ms } => Some((code.expect("a known code"), *wait_ms)),
            _ => None,
        });
        assert_eq!(self.next(), Heard::End, "nothing comes behind CLOSE");
        found
    }

    /// The code of CLOSE.
    pub fn close_code(&mut self) -> Code {
        self.closed().0
    }

    /// Keeps no memory, of which a crowd would need much.
    pub fn shrink(&mut self) {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.shrink_to_fit();
    }

    /// A byte that a test has read from the stream by itself.
    pub fn push_back(&mut self, byte: u8) {
        self.input.push(byte);
    }

    /// Sends FIN; reading goes on.
    pub fn finish(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    fn decode(&mut self) -> Option<Heard> {
        match decode_server(&self.input[self.taken..], 64 << 20).expect("a frame of the server") {
            Decoded::Frame { frame, used } => {
                let heard = owned(&frame);
                self.taken += used;
                Some(heard)
            }
            Decoded::NeedMore { .. } => None,
        }
    }

    /// False if the time is over; an error if the connection is.
    fn read_until(&mut self, deadline: Instant) -> Result<bool, ()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        let left = deadline.saturating_duration_since(Instant::now());
        // Also when the time is over: what is there already is read.
        self.stream.set_nonblocking(left.is_zero()).expect("a socket");
        if !left.is_zero() {
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a timeout");
        }
        let start = self.input.len();
        self.input.resize(start + (64 << 10), 0);
        let read = self.stream.read(&mut self.input[start..]);
        self.input.truncate(start + *read.as_ref().unwrap_or(&0));
        if left.is_zero() {
            self.stream.set_nonblocking(false).expect("a socket");
        }
        match read {
            Ok(0) => Err(()),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(()),
        }
    }
}

fn owned(frame: &ServerFrame<'_>) -> Heard {
    match *frame {
        ServerFrame::Welcome(welcome) => Heard::Welcome(Grants {
            version: welcome.version,
            capabilities: welcome.capabilities,
            region: welcome.region.to_owned(),
            node: welcome.node.to_owned(),
            window_messages: welcome.window_messages,
            window_bytes: welcome.window_bytes,
            body_bytes_max: welcome.body_bytes_max,
            frame_bytes_max: welcome.frame_bytes_max,
            silent_ms_max: welcome.silent_ms_max,
            clock: welcome.clock,
        }),
        ServerFrame::Deliver(deliver) => Heard::Deliver(Letter {
            sequence: deliver.sequence.0,
            id: deliver.id,
            sent_at: deliver.sent_at,
            sender: deliver.sender.to_owned(),
            body: deliver.body.to_vec(),
        }),
        ServerFrame::Confirm { level, copies, ranges } => {
            Heard::Confirm { level, copies, ranges: ranges.iter().collect() }
        }
        ServerFrame::Refused { sequence, code, wait_ms, .. } => {
            Heard::Refused { sequence: sequence.0, code: Code::from_number(code), wait_ms }
        }
        ServerFrame::Presence { request, state, last_seen, user } => {
            Heard::Presence { request, state, last_seen, user: user.to_owned() }
        }
        ServerFrame::Pong { token } => Heard::Pong(token),
        ServerFrame::Drain { wait_ms } => Heard::Drain(wait_ms),
        ServerFrame::Close { code, wait_ms, .. } => Heard::Close { code: Code::from_number(code), wait_ms },
        ServerFrame::Unknown { kind, .. } => Heard::Unknown(kind),
    }
}
