//! What a client says to a peer and hears from it: one file per peer's protocol, all driven by the same loop, so that
//! client cost is equal. A wire keeps the protocol's own numbers (sequences, acknowledgements due) of one connection;
//! who sends what and when, and whether it arrived, is the ledger's.

pub mod iris;
mod mqtt;
mod nats;
mod raw;
mod resp;
mod spoken;
mod xmpp;

pub use iris::Iris;
pub use mqtt::Mqtt;
pub use nats::Nats;
pub use raw::Raw;
pub use resp::Resp;
pub use spoken::Spoken;
pub use xmpp::Xmpp;

/// How a message was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The server has it; nothing is said of its disk.
    Accepted,
    /// On disk (or in its files, where a peer promises no more), the recipient has not taken it.
    Stored,
    /// The recipient's client acknowledged it.
    Delivered,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The login succeeded.
    Welcome {
        /// Messages that may be unconfirmed.
        window_messages: u64,
        /// Bytes of bodies that may be unconfirmed.
        window_bytes: u64,
    },
    /// A message.
    Message(&'a [u8]),
    /// Messages that this client sent, by their numbers from 1, are confirmed.
    Confirmed {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
        /// How.
        level: Level,
    },
    /// A message that this client sent was not taken.
    Refused {
        /// Its number.
        number: u64,
        /// Why.
        reason: String,
    },
    /// The server ends the connection.
    Closed(String),
}

/// One connection's protocol. Bytes go in and out; nothing here touches a socket or a clock.
pub trait Wire: Send + Sized + 'static {
    /// Whether sent messages are confirmed at all.
    fn confirms(&self) -> bool;

    /// Whether there is a login that is answered by [`Incoming::Welcome`].
    fn logs_in(&self) -> bool;

    /// Appends what logs `user` in.
    fn login(&mut self, user: &str, token: &[u8], out: &mut Vec<u8>);

    /// Appends a message. `now_ns` is the board's clock.
    fn send(&mut self, recipient: &[u8], body: &[u8], now_ns: u64, out: &mut Vec<u8>);

    /// Appends the acknowledgement of every message that was decoded and not acknowledged yet, if there is any, and the
    /// other answers that the protocol calls for.
    fn acknowledge(&mut self, out: &mut Vec<u8>);

    /// Calls `on` for everything whole at the start of `input`, and returns how many bytes that took.
    ///
    /// Errors: the server broke its protocol; a sentence that says how.
    fn decode(&mut self, input: &[u8], now_ns: u64, on: impl FnMut(Incoming<'_>)) -> Result<usize, String>;
}
