//! A digest of a set of messages: the sum of the first 128 bits of the SHA-256 of each, so that their order is no matter.

use std::fmt;

use iris_shards::id::{Key, UserId};
use sha2::{Digest as _, Sha256};

/// See the module.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    sum: u128,
    messages: u64,
}

impl Digest {
    /// One more message. Lengths are in front of what has no fixed one, so that no two messages read alike.
    pub fn add(&mut self, (user, key): (&UserId, &Key), sent_at: u64, body: &[u8]) {
        let mut hash = Sha256::new();
        for name in [user.as_bytes(), key.sender.as_bytes()] {
            hash.update([name.len() as u8]);
            hash.update(name);
        }
        hash.update(key.id.bytes());
        hash.update(sent_at.to_be_bytes());
        hash.update(body);
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(first));
        self.messages += 1;
    }

    /// Those of another set, of which none is in this one.
    pub fn join(&mut self, other: Digest) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.messages += other.messages;
    }

    /// How many messages there are.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_shards::id::MessageId;

    type Message = (&'static str, &'static str, u64, &'static [u8]);

    fn digest(messages: &[Message]) -> Digest {
        let mut digest = Digest::default();
        for (user, sender, sent_at, body) in messages {
            let key = Key { id: MessageId::v7(1, 1), sender: UserId::parse(sender.as_bytes()).unwrap() };
            digest.add((&UserId::parse(user.as_bytes()).unwrap(), &key), *sent_at, body);
        }
        digest
    }

    #[test]
    fn everything_counts_but_the_order() {
        let one: Message = ("bob", "alice", 7, b"hello");
        let others: [Message; 4] = [
            ("bo", "balice", 7, b"hello"),
            ("alice", "bob", 7, b"hello"),
            ("bob", "alice", 8, b"hello"),
            ("bob", "alice", 7, b"hellp"),
        ];
        for other in others {
            assert_ne!(digest(&[one]), digest(&[other]), "{other:?}");
            assert_eq!(digest(&[one, other]), digest(&[other, one]));
        }
        assert_ne!(digest(&[one, one]), digest(&[one]));
        let mut joined = digest(&others[..2]);
        joined.join(digest(&others[2..]));
        assert_eq!((joined, joined.messages()), (digest(&others), 4));
    }
}
