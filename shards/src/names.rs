//! Interned senders: one short reference per sender instead of a name per stored message.
//!
//! Counted: a name lives as long as entries or tombstones refer to it. Beside the name stands where confirmations for
//! this sender go: the return addresses of a sender's entries are void as soon as a higher login of it was seen.

use ahash::RandomState;
use hashbrown::HashMap;

use crate::id::{Login, UserId};

/// A sender of this executor's core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenderRef(u32);

#[derive(Debug)]
struct Sender {
    name: UserId,
    references: u32,
    login: Option<Login>,
    epoch: u16,
}

/// The senders that entries and tombstones refer to.
#[derive(Debug)]
pub struct Senders {
    by_name: HashMap<UserId, u32, RandomState>,
    senders: Vec<Option<Sender>>,
    free: Vec<u32>,
}

impl Senders {
    /// An empty table; `seed` makes its hashing unpredictable to users.
    pub fn new(seed: u64) -> Self {
        let state = RandomState::with_seeds(seed, 1, 2, 3);
        Senders { by_name: HashMap::with_hasher(state), senders: Vec::new(), free: Vec::new() }
    }

    /// The reference of a name that is in the table.
    pub fn find(&self, name: &UserId) -> Option<SenderRef> {
        self.by_name.get(name).map(|&index| SenderRef(index))
    }

    /// One more reference to this name.
    pub fn acquire(&mut self, name: &UserId) -> SenderRef {
        if let Some(&index) = self.by_name.get(name) {
            self.sender_mut(SenderRef(index)).references += 1;
            return SenderRef(index);
        }
        let sender = Some(Sender { name: name.clone(), references: 1, login: None, epoch: 0 });
        let index = match self.free.pop() {
            Some(index) => {
                self.senders[index as usize] = sender;
                index
            }
            None => {
                self.senders.push(sender);
                (self.senders.len() - 1) as u32
            }
        };
        self.by_name.insert(name.clone(), index);
        SenderRef(index)
    }

    /// One more reference to a sender that has one.
    pub fn retain(&mut self, sender: SenderRef) {
        self.sender_mut(sender).references += 1;
    }

    /// One reference less.
    pub fn release(&mut self, sender: SenderRef) {
        let entry = self.sender_mut(sender);
        entry.references -= 1;
        if entry.references == 0 {
            let name = entry.name.clone();
            self.by_name.remove(&name);
            self.senders[sender.0 as usize] = None;
            self.free.push(sender.0);
        }
    }

    /// The name.
    pub fn name(&self, sender: SenderRef) -> &UserId {
        &self.sender(sender).name
    }

    /// A message of this login was seen: the epoch of its return addresses, or `None` if a higher login was seen
    /// before (delivery rule 8).
    pub fn on_login(&mut self, sender: SenderRef, login: Login) -> Option<u16> {
        let entry = self.sender_mut(sender);
        match entry.login {
            Some(known) if known == login => Some(entry.epoch),
            Some(known) if known > login && !crate::mutant::is(crate::mutant::Mutant::OlderSessionOverwritesReturn) => {
                None
            }
            _ => {
                entry.login = Some(login);
                entry.epoch = entry.epoch.wrapping_add(1).max(1);
                Some(entry.epoch)
            }
        }
    }

    /// The login for return addresses of this epoch, if they are not void. Epoch 0 is none.
    pub fn login_of(&self, sender: SenderRef, epoch: u16) -> Option<Login> {
        let entry = self.sender(sender);
        entry.login.filter(|_| entry.epoch == epoch && epoch != 0)
    }

    fn sender(&self, sender: SenderRef) -> &Sender {
        self.senders[sender.0 as usize].as_ref().expect("a reference is counted")
    }

    fn sender_mut(&mut self, sender: SenderRef) -> &mut Sender {
        self.senders[sender.0 as usize].as_mut().expect("a reference is counted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ExecutorId, Location, NodeId, SessionId};

    fn login(stamp: u64) -> Login {
        Login { stamp, at: Location { node: NodeId(1), executor: ExecutorId(0), session: SessionId(1) }, boot: 0 }
    }

    #[test]
    fn names_live_as_long_as_their_references() {
        let mut senders = Senders::new(1);
        let name = UserId::parse(b"alice").unwrap();
        let first = senders.acquire(&name);
        assert_eq!(senders.acquire(&name), first);
        senders.release(first);
        assert_eq!(senders.find(&name), Some(first));
        senders.release(first);
        assert_eq!(senders.find(&name), None);
    }

    #[test]
    fn an_older_login_has_no_return_address_and_a_higher_one_voids_the_others() {
        let mut senders = Senders::new(1);
        let alice = senders.acquire(&UserId::parse(b"alice").unwrap());
        let first = senders.on_login(alice, login(5)).unwrap();
        assert_eq!(senders.login_of(alice, first), Some(login(5)));
        let second = senders.on_login(alice, login(9)).unwrap();
        assert_eq!(senders.login_of(alice, first), None);
        assert_eq!(senders.on_login(alice, login(5)), None);
        assert_eq!(senders.login_of(alice, second), Some(login(9)));
    }
}
