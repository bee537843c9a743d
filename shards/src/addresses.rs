//! Return addresses that found no place in their entry, because it has that of a higher login (rule 8).
//!
//! The session of the higher login is not always the newer one: the clock of another edge was ahead, or a message of an
//! older session was long on its way. So no address is dropped for another: all sessions are told, and those that are
//! gone do not hear it. Owns them by (mailbox, key, login), in two generations: at most [`ADDRESSES_MAX`].

use std::collections::BTreeMap;

use crate::id::{ExecutorId, Location, Login, NodeId, ReturnAddress, SessionId};
use crate::inbox::{Entry, EntryKey};
use crate::mailbox::MailboxId;
use crate::mutant::{self, Mutant};

/// Addresses of one executor. Reached: the older half is forgotten, and those sessions confirm nothing of it.
pub const ADDRESSES_MAX: usize = 4_096;

const LOWEST: Login =
    Login { stamp: 0, at: Location { node: NodeId(0), executor: ExecutorId(0), session: SessionId(0) }, boot: 0 };

type Generation = BTreeMap<(MailboxId, EntryKey, Login), ReturnAddress>;

/// The further return addresses of one executor's entries.
#[derive(Debug, Default)]
pub struct Addresses {
    young: Generation,
    old: Generation,
}

impl Addresses {
    /// The message came once more: the entry keeps the return address of the higher login, the other one is kept here.
    pub fn add(
        &mut self,
        (id, entry): (MailboxId, &mut Entry),
        before: Option<Login>,
        (epoch, origin): (u16, ReturnAddress),
    ) {
        let before = before.map(|login| ReturnAddress { login, pair: entry.pair, sequence: entry.sequence });
        entry.set_told(false);
        match before.filter(|before| before.login != origin.login) {
            Some(_) if mutant::is(Mutant::OlderSessionOverwritesReturn) => {}
            Some(before) if before.login > origin.login => return self.keep(id, entry.key(), origin),
            Some(before) => self.keep(id, entry.key(), before),
            None => {}
        }
        self.forget(id, entry.key(), origin.login);
        (entry.epoch, entry.sequence, entry.pair) = (epoch, origin.sequence, origin.pair);
    }

    /// Remembers an address.
    pub fn keep(&mut self, mailbox: MailboxId, key: EntryKey, address: ReturnAddress) {
        if self.young.len() >= ADDRESSES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let of = (mailbox, key, address.login);
        self.old.remove(&of);
        self.young.insert(of, address);
    }

    /// The addresses of this message.
    #[inline]
    pub fn of(&self, mailbox: MailboxId, key: EntryKey) -> Vec<ReturnAddress> {
        if self.is_empty() {
            return Vec::new();
        }
        let both = [&self.old, &self.young].into_iter();
        let them = both.flat_map(|generation| {
            let from = generation.range((mailbox, key, LOWEST)..);
            from.take_while(|((its_mailbox, its_key, _), _)| (*its_mailbox, *its_key) == (mailbox, key))
        });
        them.map(|(_, &address)| address).collect()
    }

    /// The message is gone, and its addresses with it.
    #[inline]
    pub fn take(&mut self, mailbox: MailboxId, key: EntryKey) -> Vec<ReturnAddress> {
        let addresses = self.of(mailbox, key);
        for address in &addresses {
            self.forget(mailbox, key, address.login);
        }
        addresses
    }

    /// The entry has the address of this login now.
    pub fn forget(&mut self, mailbox: MailboxId, key: EntryKey, login: Login) {
        if !self.is_empty() {
            self.young.remove(&(mailbox, key, login));
            self.old.remove(&(mailbox, key, login));
        }
    }

    /// Whether there is none, as nearly always.
    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MessageId, PairId, Sequence, UserId};
    use crate::names::Senders;

    #[test]
    fn addresses_are_bounded_and_the_youngest_stay() {
        let alice = Senders::new(0).acquire(&UserId::parse(b"alice").unwrap());
        let address =
            |stamp| ReturnAddress { login: Login { stamp, ..LOWEST }, pair: PairId(0), sequence: Sequence(1) };
        let key = |id: u64| (MessageId::v7(id, 0), alice);
        let mut addresses = Addresses::default();
        for id in 0..10_000 {
            addresses.keep(MailboxId(3), key(id), address(id));
            assert!(addresses.young.len() + addresses.old.len() <= ADDRESSES_MAX);
        }
        assert_eq!(addresses.of(MailboxId(3), key(9_999)), [address(9_999)]);
        assert_eq!(addresses.of(MailboxId(3), key(1)), []);
        addresses.keep(MailboxId(3), key(9_000), address(5));
        addresses.forget(MailboxId(3), key(9_000), address(7).login);
        assert_eq!(addresses.take(MailboxId(3), key(9_000)).len(), 2);
        assert_eq!(addresses.of(MailboxId(3), key(9_000)), []);
    }
}
