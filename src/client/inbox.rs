//! Which messages a user has been shown, so that repeats are dropped (`docs/protocol.md`, section 5).
//!
//! Remembers the last 1,024 ids taken or queued of each sender, 65,536 in all.

use iris_shards::id::MessageId;
use std::collections::{HashMap, VecDeque};

const IDS_PER_SENDER_MAX: usize = 1_024;
const IDS_MAX: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Given to the application, to be acknowledged under all sequences that this connection delivered it under.
    Queued {
        connection: u64,
        sequences: Vec<u64>,
    },
    Taken,
}

/// What is to be done with a DELIVER.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// New: show it. `is_late`: a higher id of this sender was taken before.
    Show { is_late: bool },
    /// Taken already: acknowledge at once.
    Acknowledge,
    /// Shown and not taken yet: nothing.
    Wait,
}

#[derive(Debug, Default)]
struct Sender {
    states: HashMap<MessageId, State>,
    /// In order of arrival.
    order: VecDeque<MessageId>,
    highest_taken: Option<MessageId>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Inbox {
    senders: HashMap<String, Sender>,
    /// Whose ids arrived, in order: as many as there are ids.
    order: VecDeque<String>,
}

impl Inbox {
    pub fn on_deliver(&mut self, from: &str, id: MessageId, connection: u64, sequence: u64) -> Arrival {
        let sender = self.senders.entry(from.to_owned()).or_default();
        match sender.states.get_mut(&id) {
            Some(State::Taken) => return Arrival::Acknowledge,
            Some(State::Queued { connection: last, sequences }) => {
                if *last != connection {
                    *last = connection;
                    sequences.clear();
                }
                sequences.push(sequence);
                return Arrival::Wait;
            }
            None => {}
        }
        let is_late = sender.highest_taken.is_some_and(|highest| id < highest);
        sender.states.insert(id, State::Queued { connection, sequences: vec![sequence] });
        sender.order.push_back(id);
        self.order.push_back(from.to_owned());
        self.forget(from);
        Arrival::Show { is_late }
    }

    /// The application has it: the sequences to acknowledge on this connection.
    pub fn on_taken(&mut self, from: &str, id: MessageId, connection: u64) -> Vec<u64> {
        let Some(sender) = self.senders.get_mut(from) else { return Vec::new() };
        sender.highest_taken = sender.highest_taken.max(Some(id));
        let Some(state) = sender.states.get_mut(&id) else { return Vec::new() };
        match std::mem::replace(state, State::Taken) {
            State::Queued { connection: delivered, sequences } if delivered == connection => sequences,
            _ => Vec::new(),
        }
    }

    fn forget(&mut self, from: &str) {
        if self.senders.get(from).is_some_and(|sender| sender.order.len() > IDS_PER_SENDER_MAX) {
            self.forget_oldest_of(from);
            if let Some(at) = self.order.iter().position(|name| name == from) {
                self.order.remove(at);
            }
        }
        if self.order.len() > IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.forget_oldest_of(&oldest);
        }
    }

    fn forget_oldest_of(&mut self, from: &str) {
        let Some(sender) = self.senders.get_mut(from) else { return };
        if let Some(id) = sender.order.pop_front() {
            sender.states.remove(&id);
        }
        if sender.order.is_empty() {
            self.senders.remove(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> MessageId {
        MessageId::v7(1, n)
    }

    #[test]
    fn repeats_are_not_shown_again() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.on_deliver("a", id(1), 1, 1), Arrival::Show { is_late: false });
        assert_eq!(inbox.on_deliver("a", id(1), 2, 7), Arrival::Wait);
        assert_eq!(inbox.on_deliver("a", id(1), 2, 9), Arrival::Wait);
        assert_eq!(inbox.on_taken("a", id(1), 2), [7, 9]);
        assert_eq!(inbox.on_deliver("a", id(1), 2, 8), Arrival::Acknowledge);
        assert_eq!(inbox.on_deliver("b", id(1), 2, 10), Arrival::Show { is_late: false });
        assert!(inbox.on_taken("b", id(1), 3).is_empty());
    }

    #[test]
    fn a_lower_id_is_late() {
        let mut inbox = Inbox::default();
        inbox.on_deliver("a", id(5), 1, 1);
        inbox.on_taken("a", id(5), 1);
        assert_eq!(inbox.on_deliver("a", id(4), 1, 2), Arrival::Show { is_late: true });
    }

    #[test]
    fn memory_has_a_bound() {
        let mut inbox = Inbox::default();
        for n in 0..70_000 {
            inbox.on_deliver(&format!("user-{}", n % 100), id(n), 1, 1);
        }
        assert_eq!(inbox.order.len(), IDS_MAX);
        assert_eq!(inbox.senders.values().map(|sender| sender.states.len()).sum::<usize>(), IDS_MAX);
        for n in 0..2_000 {
            inbox.on_deliver("a", id(n), 1, 1);
        }
        assert_eq!(inbox.senders["a"].states.len(), IDS_PER_SENDER_MAX);
    }
}
