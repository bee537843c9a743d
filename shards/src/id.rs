//! The names of things: users, messages, nodes, slots, sessions, logins.
//!
//! Every id is a newtype, so that the compiler tells them apart. Ids order as documented on each type; nothing here
//! reads a clock or makes an id up.

use crate::slot::stable_hash;
use std::fmt;
use std::sync::Arc;

/// The largest user id, in bytes of UTF-8.
pub const USER_BYTES_MAX: usize = 255;

/// The number of slots. A user never changes slot; slots are what moves between shards.
pub const SLOTS: u32 = 1 << 20;

/// A user id that is empty, too long, not UTF-8, or has control characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUser {
    /// No bytes at all.
    #[error("the user id is empty")]
    Empty,
    /// More than [`USER_BYTES_MAX`] bytes.
    #[error("the user id has {0} bytes, at most {USER_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the user id is not UTF-8")]
    NotUtf8,
    /// A character of Unicode category Cc.
    #[error("the user id has the control character {0:?}")]
    Control(char),
}

/// A valid user id: 1 to 255 bytes of UTF-8 without control characters, compared byte by byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Checks and copies an id.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadUser> {
        check_user(bytes).map(|name| UserId(Arc::from(name)))
    }

    /// The id as text.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The text of a valid user id, or what is wrong with it.
pub fn check_user(bytes: &[u8]) -> Result<&str, BadUser> {
    if bytes.is_empty() {
        return Err(BadUser::Empty);
    }
    if bytes.len() > USER_BYTES_MAX {
        return Err(BadUser::TooLong(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadUser::NotUtf8)?;
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(BadUser::Control(control)),
        None => Ok(text),
    }
}

/// Whether these bytes are a valid user id.
pub fn is_user(bytes: &[u8]) -> bool {
    check_user(bytes).is_ok()
}

/// A message id: a UUID version 7 (RFC 9562, section 5.7). Ids order by their bytes, which is by time first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    high: u64,
    low: u64,
}

impl MessageId {
    /// The id with these bytes (any 16 bytes; see [`MessageId::is_v7`]).
    #[inline]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let value = u128::from_be_bytes(bytes);
        MessageId { high: (value >> 64) as u64, low: value as u64 }
    }

    /// The sixteen bytes, most significant first.
    #[inline]
    pub fn bytes(self) -> [u8; 16] {
        ((u128::from(self.high) << 64) | u128::from(self.low)).to_be_bytes()
    }

    /// An id of version 7 with this time and these 74 bits of counter or randomness (the upper bits are cut off).
    pub fn v7(time_ms: u64, rest: u128) -> Self {
        MessageId {
            high: (time_ms << 16) | 0x7000 | ((rest >> 62) as u64 & 0xfff),
            low: (0b10 << 62) | (rest as u64 & (u64::MAX >> 2)),
        }
    }

    /// The time part, in milliseconds since the Unix epoch.
    #[inline]
    pub fn time_ms(self) -> u64 {
        self.high >> 16
    }

    /// Whether version and variant bits are those of a UUIDv7.
    #[inline]
    pub fn is_v7(self) -> bool {
        (self.high >> 12) & 0xf == 7 && self.low >> 62 == 0b10
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = (self.high, self.low);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Numbers the SENDs, and separately the DELIVERs, of one connection from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// A node of the cluster: the hash of its name. The machines and their tests take any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The id of a node with this name: the low 32 bits of [`stable_hash`], 1 instead of 0. Two names of a cluster may
    /// have the same id; where they meet, one is refused.
    pub fn of_name(name: &str) -> Self {
        NodeId((stable_hash(name.as_bytes()) as u32).max(1))
    }
}

/// An executor of a node: the thread of one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutorId(pub u16);

/// A slot: what a user belongs to for ever. `0..SLOTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// The executor that owns this slot on a node with that many executors.
    #[inline]
    pub fn home(self, executors: u16) -> ExecutorId {
        ExecutorId((self.0 % u32::from(executors)) as u16)
    }
}

/// The number of a connection on its executor. Numbers are used again; a [`Login`] is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The edge.
    pub node: NodeId,
    /// The executor of the edge.
    pub executor: ExecutorId,
    /// The connection there.
    pub session: SessionId,
}

/// The number of a login (delivery rule 10). Compared whole: the higher login of a user replaces the lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Login {
    /// The larger of the highest known stamp + 1 and the edge's clock in µs.
    pub stamp: u64,
    /// Where the session is.
    pub at: Location,
    /// Which start of that edge: with the place it makes the login unique, whatever the clock did.
    pub boot: u32,
}

/// Counts the refusals of a session (delivery rule 5): a grant of an older phase is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Phase(pub u32);

/// What lets a sender's edge send straight to the recipient's edge (delivery rules 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The recipient's login, which says where its session is.
    pub login: Login,
    /// The phase of that session.
    pub phase: Phase,
}

/// The key of a message in an inbox. Orders by id, then by sender.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The message.
    pub id: MessageId,
    /// Who sent it.
    pub sender: UserId,
}

/// Where confirmations of a message go: a sender's session, its pair and the SEND's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReturnAddress {
    /// The sender's login, which says where its session is.
    pub login: Login,
    /// The pair within the session. Never used twice by one session.
    pub pair: PairId,
    /// The SEND.
    pub sequence: Sequence,
}

/// Numbers the pairs of one session, in the order in which they were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(pub u32);

/// A message's body. Made once, of the exact size, then shared.
pub type Body = Arc<[u8]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_checked() {
        assert_eq!(check_user(b""), Err(BadUser::Empty));
        assert_eq!(check_user(&[b'a'; 256]), Err(BadUser::TooLong(256)));
        assert_eq!(check_user(&[0xff]), Err(BadUser::NotUtf8));
        assert_eq!(check_user("a\u{85}".as_bytes()), Err(BadUser::Control('\u{85}')));
        assert_eq!(check_user("zoë 🦀".as_bytes()), Ok("zoë 🦀"));
        assert!(is_user(&[b'a'; 255]));
    }

    #[test]
    fn message_ids_keep_their_bytes_and_order() {
        let id = MessageId::v7(0x0123_4567_89ab, 5);
        assert!(id.is_v7());
        assert_eq!(id.time_ms(), 0x0123_4567_89ab);
        assert_eq!(MessageId::from_bytes(id.bytes()), id);
        assert_eq!(id.to_string(), "01234567-89ab-7000-8000-000000000005");
        assert!(id < MessageId::v7(0x0123_4567_89ab, 6));
        assert!(id < MessageId::v7(0x0123_4567_89ac, 0));
        assert!(!MessageId::from_bytes([0; 16]).is_v7());
    }
}
