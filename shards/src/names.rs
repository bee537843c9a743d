//! Interned senders: one short reference per sender instead of a name per stored message.
//!
//! Counted: a name lives as long as entries or tombstones refer to it. Beside the name stands where confirmations for
//! this sender go: its highest login, and some others of which messages came: a lower one may be the newer, from an edge
//! whose clock is behind. The return addresses of those that are forgotten are void.

use ahash::RandomState;
use hashbrown::HashMap;

use crate::id::{Login, UserId};

/// Logins of a sender beside the highest. Reached: the one that was seen first is forgotten.
const OTHERS_MAX: usize = 3;

/// A sender of this executor's core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenderRef(u32);

#[derive(Debug)]
struct Sender {
    name: UserId,
    references: u32,
    /// The last epoch that was given.
    epoch: u16,
    highest: Option<(u16, Login)>,
    others: Vec<(u16, Login)>,
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
        let sender = Some(Sender { name: name.clone(), references: 1, epoch: 0, highest: None, others: Vec::new() });
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

    /// A message of this login was seen: the epoch of its return addresses (delivery rule 8).
    pub fn on_login(&mut self, sender: SenderRef, login: Login) -> u16 {
        let entry = self.sender_mut(sender);
        let known = entry.highest.iter().chain(&entry.others).find(|(_, known)| *known == login);
        if let Some(&(epoch, _)) = known {
            return epoch;
        }
        entry.epoch = entry.epoch.wrapping_add(1).max(1);
        let new = (entry.epoch, login);
        let other = match &mut entry.highest {
            Some(highest) if highest.1 < login => Some(std::mem::replace(highest, new)),
            Some(_) => Some(new),
            None => entry.highest.replace(new),
        };
        if entry.others.len() == OTHERS_MAX && other.is_some() {
            entry.others.remove(0);
        }
        entry.others.extend(other);
        new.0
    }

    /// The login for return addresses of this epoch, if they are not void. Epoch 0 is none.
    pub fn login_of(&self, sender: SenderRef, epoch: u16) -> Option<Login> {
        let entry = self.sender(sender);
        let mut known = entry.highest.iter().chain(&entry.others);
        known.find(|(its, _)| *its == epoch).map(|&(_, login)| login)
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
    fn the_highest_login_and_the_last_others_have_return_addresses() {
        let mut senders = Senders::new(1);
        let alice = senders.acquire(&UserId::parse(b"alice").unwrap());
        let first = senders.on_login(alice, login(9));
        let second = senders.on_login(alice, login(5));
        assert_eq!((senders.login_of(alice, first), senders.login_of(alice, second)), (Some(login(9)), Some(login(5))));
        assert_eq!(senders.on_login(alice, login(9)), first);
        for stamp in 10..14 {
            senders.on_login(alice, login(stamp));
        }
        let highest = senders.on_login(alice, login(20));
        senders.on_login(alice, login(6));
        assert_eq!((senders.login_of(alice, second), senders.login_of(alice, highest)), (None, Some(login(20))));
        assert_eq!(senders.login_of(alice, 0), None);
    }
}
