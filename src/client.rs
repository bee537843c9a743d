//! A small blocking client: what `iris chat`, `send` and `listen` talk to a server with (`docs/protocol.md`).
//!
//! In: calls from any thread. Out: [`Event`]s on a channel, made by one thread that reads, keeps the connection alive
//! and connects again. Writes happen under one lock; a message that is not answered is kept and repeated in order.

mod ids;
mod inbox;
mod outbox;
mod reader;
mod wire;

use ids::Ids;
use inbox::Inbox;
use iris_shards::frame::{ClientFrame, Code, Ranges};
use iris_shards::id::{BadUser, MessageId, check_user};
use outbox::{Outbox, Window};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Granted;

/// Unanswered messages that are kept for sending; more make [`Client::send`] wait.
const OUTBOX_MAX: usize = 1_024;
/// How long [`Client::close`] waits for the connection to end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Whom to connect as, and to what.
#[derive(Debug, Clone)]
pub struct Login {
    /// HOST:PORT.
    pub server: String,
    /// A user id.
    pub user: String,
    /// Whether to connect again when the connection ends.
    pub reconnect: bool,
}

/// What can go wrong for good.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No server is there.
    #[error("cannot reach {server}: {cause}")]
    Unreachable {
        /// As it was named.
        server: String,
        /// What the system says.
        cause: String,
    },
    /// The server said CLOSE.
    #[error("the server closed the connection: {}{}", name_of(*.code), with_reason(.reason))]
    Closed {
        /// A number of [`Code`].
        code: u16,
        /// Milliseconds before which it is no use to come back.
        wait_ms: u32,
        /// For people.
        reason: String,
    },
    /// The connection ended, and the login said not to connect again.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// No user can be called so.
    #[error("`{name}` cannot be a user: {cause}")]
    BadUser {
        /// As it was named.
        name: String,
        /// Why.
        cause: BadUser,
    },
    /// The server would refuse it.
    #[error("the message has {bytes} bytes, at most {max} are allowed by the server")]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
        /// As WELCOME told.
        max: u32,
    },
}

/// The name of a code, or its number if a newer server has it.
#[must_use]
pub fn name_of(code: u16) -> String {
    Code::from_number(code).map_or_else(|| format!("code {code}"), |code| code.name().to_owned())
}

fn with_reason(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// A message that arrived. Hand it to [`Client::acknowledge`] once it is taken.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its name for ever.
    pub id: MessageId,
    /// Who sent it.
    pub sender: String,
    /// When the sender's node took it, milliseconds since the Unix epoch.
    pub sent_at: u64,
    /// What was sent.
    pub body: Vec<u8>,
    /// A later message of this sender was taken before.
    pub is_late: bool,
}

/// What a client hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// Connected, for the first time or again.
    Online {
        /// Name of the node.
        node: String,
        /// Where it is.
        region: String,
    },
    /// The connection ended; the client tries again.
    Offline {
        /// Why.
        reason: String,
    },
    /// A message.
    Message(Message),
    /// A message is on that many disks.
    Stored(MessageId),
    /// The recipient's client has it.
    Delivered(MessageId),
    /// A message was not taken.
    Refused {
        /// Which.
        id: MessageId,
        /// A number of [`Code`].
        code: u16,
        /// Milliseconds after which it may be tried again; 0: useless.
        wait_ms: u32,
        /// For people.
        reason: String,
    },
    /// Where a user is.
    Presence {
        /// Who.
        user: String,
        /// One of the `STATE_` constants of `iris_shards::frame`.
        state: u8,
        /// Milliseconds since the Unix epoch; 0: never seen, or online now.
        last_seen: u64,
    },
    /// Nothing follows.
    Ended(ClientError),
}

/// A logged-in user.
pub struct Client {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// The outbox has become shorter, or the client has ended.
    changed: Condvar,
}

struct State {
    /// None while there is no connection.
    stream: Option<TcpStream>,
    /// Counts connections.
    connection: u64,
    granted: Granted,
    ids: Ids,
    outbox: Outbox,
    inbox: Inbox,
    watched: Vec<String>,
    out: Vec<u8>,
    written_at: Instant,
    has_ended: bool,
}

impl Client {
    /// Logs in, and connects again whenever the connection ends if the login says so.
    ///
    /// Errors: the first connection cannot be made.
    pub fn connect(login: Login) -> Result<(Client, Receiver<Event>), ClientError> {
        valid(&login.user)?;
        let (stream, frames, granted) = wire::login(&login.server, &login.user)?;
        let shared = Arc::new(Shared { state: Mutex::new(State::new(granted.clone())), changed: Condvar::new() });
        let (events, received) = channel();
        let mut reader = reader::Reader { login, shared: Arc::clone(&shared), events };
        let thread =
            std::thread::Builder::new().name("client".into()).spawn(move || reader.run(stream, frames, granted));
        let thread = thread.map_err(|error| ClientError::Lost(error.to_string()))?;
        Ok((Client { shared, reader: Some(thread) }, received))
    }

    /// Sends a message, as soon as the server's window has room. Waits while too many are unanswered.
    ///
    /// Errors: a bad recipient, a body that is too large, or the client has ended.
    pub fn send(&self, recipient: &str, body: &[u8]) -> Result<MessageId, ClientError> {
        valid(recipient)?;
        let mut state = self.shared.lock();
        while state.outbox.len() >= OUTBOX_MAX && !state.has_ended {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.has_ended {
            return Err(ClientError::Lost("the client has ended".into()));
        }
        let max = state.granted.body_bytes_max;
        if body.len() > max as usize {
            return Err(ClientError::TooLarge { bytes: body.len(), max });
        }
        let id = state.ids.next();
        state.outbox.push(id, recipient, body);
        state.send_what_fits();
        Ok(id)
    }

    /// The application has this message; the server may forget it.
    pub fn acknowledge(&self, message: &Message) {
        let mut state = self.shared.lock();
        let connection = state.connection;
        for sequence in state.inbox.on_taken(&message.sender, message.id, connection) {
            state.acknowledge(sequence);
        }
    }

    /// Asks for a user's presence, now and whenever it changes, also after reconnects.
    ///
    /// Errors: a bad user.
    pub fn watch(&self, user: &str) -> Result<(), ClientError> {
        valid(user)?;
        let mut state = self.shared.lock();
        if !state.watched.iter().any(|watched| watched == user) {
            state.watched.push(user.to_owned());
            let last = state.watched.len() - 1;
            state.ask(last);
        }
        Ok(())
    }

    /// Says goodbye and waits a moment for the server to hear it.
    pub fn close(mut self) {
        let reader = self.reader.take();
        self.end();
        let deadline = Instant::now() + GOODBYE;
        while reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&self) {
        let mut state = self.shared.lock();
        state.has_ended = true;
        state.write(&ClientFrame::Close { code: Code::Normal.number(), wait_ms: 0, reason: "" });
        if let Some(stream) = &state.stream {
            // The other half stays open, so that the server's last words do not become a reset.
            drop(stream.shutdown(Shutdown::Write));
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.end();
        }
    }
}

fn valid(name: &str) -> Result<(), ClientError> {
    let bad = |cause| ClientError::BadUser { name: name.to_owned(), cause };
    check_user(name.as_bytes()).map(drop).map_err(bad)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(granted: Granted) -> Self {
        State {
            stream: None,
            connection: 0,
            ids: Ids::new(granted.clock_ms),
            granted,
            outbox: Outbox::new(),
            inbox: Inbox::default(),
            watched: Vec::new(),
            out: Vec::new(),
            written_at: Instant::now(),
            has_ended: false,
        }
    }

    /// A new connection: unanswered messages and watches go out again.
    fn on_connected(&mut self, stream: TcpStream, granted: Granted) {
        self.stream = Some(stream);
        self.connection += 1;
        self.ids.on_clock(granted.clock_ms);
        let (messages, bytes) = (granted.window_messages as usize, granted.window_bytes as usize);
        self.outbox.on_connected(Window { messages, bytes });
        self.granted = granted;
        (0..self.watched.len()).for_each(|at| self.ask(at));
        self.send_what_fits();
    }

    fn send_what_fits(&mut self) {
        if self.stream.is_some() {
            self.outbox.fill(&mut self.out);
            self.flush();
        }
    }

    fn acknowledge(&mut self, sequence: u64) {
        if let Ok(ranges) = Ranges::from_pairs(&[(sequence, sequence)]) {
            self.write(&ClientFrame::Ack { ranges });
        }
    }

    fn ask(&mut self, at: usize) {
        let user = self.watched[at].clone();
        self.write(&ClientFrame::Watch { request: at as u32, user: user.as_bytes() });
    }

    fn write(&mut self, frame: &ClientFrame<'_>) {
        if self.stream.is_some() {
            frame.encode(&mut self.out);
            self.flush();
        }
    }

    /// A failed write ends the connection; the reader hears of it and does the rest.
    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        if !self.out.is_empty() && stream.write_all(&self.out).is_err() {
            drop(stream.shutdown(Shutdown::Both));
            self.stream = None;
        }
        self.out.clear();
        self.written_at = Instant::now();
    }
}

#[cfg(test)]
mod tests;
