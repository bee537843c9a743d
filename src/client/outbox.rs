//! What a user sends, in order, until it is answered (`docs/protocol.md`, section 4).
//!
//! Owns the unanswered messages and the numbers of SEND on the present connection; keeps within the window that WELCOME
//! grants. After a reconnect everything unanswered goes out again, in the original order, under the same ids.

use iris_shards::frame::{ClientFrame, Ranges};
use iris_shards::id::{MessageId, Sequence};
use std::collections::VecDeque;

/// Messages that were stored and of which `delivered` may still be heard.
const STORED_MAX: usize = 1_024;

/// What the server lets be unanswered at a time.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub messages: usize,
    pub bytes: usize,
}

#[derive(Debug)]
struct Outgoing {
    id: MessageId,
    recipient: String,
    body: Vec<u8>,
    /// Its SEND on this connection.
    sequence: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    unanswered: VecDeque<Outgoing>,
    stored: VecDeque<(u64, MessageId)>,
    window: Window,
    sent_messages: usize,
    sent_bytes: usize,
    next_sequence: u64,
}

impl Outbox {
    pub fn new() -> Self {
        Outbox {
            unanswered: VecDeque::new(),
            stored: VecDeque::new(),
            window: Window { messages: 0, bytes: 0 },
            sent_messages: 0,
            sent_bytes: 0,
            next_sequence: 1,
        }
    }

    /// Messages without an answer, sent or not.
    pub fn len(&self) -> usize {
        self.unanswered.len()
    }

    pub fn push(&mut self, id: MessageId, recipient: &str, body: &[u8]) {
        let (recipient, body) = (recipient.to_owned(), body.to_vec());
        self.unanswered.push_back(Outgoing { id, recipient, body, sequence: None });
    }

    /// A new connection: nothing was sent on it yet.
    pub fn on_connected(&mut self, window: Window) {
        self.window = window;
        self.stored.clear();
        (self.sent_messages, self.sent_bytes, self.next_sequence) = (0, 0, 1);
        self.unanswered.iter_mut().for_each(|message| message.sequence = None);
    }

    /// Appends SENDs to `out`, as many as the window has room for.
    pub fn fill(&mut self, out: &mut Vec<u8>) {
        for message in self.unanswered.iter_mut().skip(self.sent_messages) {
            let bytes = self.sent_bytes + message.body.len();
            if self.sent_messages == self.window.messages || bytes > self.window.bytes {
                return;
            }
            let sequence = Sequence(self.next_sequence);
            let (recipient, body) = (message.recipient.as_bytes(), message.body.as_slice());
            ClientFrame::Send { sequence, id: message.id, recipient, body }.encode(out);
            message.sequence = Some(self.next_sequence);
            self.next_sequence += 1;
            self.sent_messages += 1;
            self.sent_bytes = bytes;
        }
    }

    /// CONFIRM: the ids that are confirmed, in order. Sequences that were never sent are ignored.
    pub fn on_confirm(&mut self, is_delivered: bool, ranges: Ranges<'_>) -> Vec<MessageId> {
        let mut confirmed = Vec::new();
        for (first, last) in ranges {
            for sequence in first..=last.min(self.next_sequence - 1) {
                confirmed.extend(self.confirm(is_delivered, sequence));
            }
        }
        confirmed
    }

    fn confirm(&mut self, is_delivered: bool, sequence: u64) -> Option<MessageId> {
        if let Some(id) = self.answered(sequence) {
            if !is_delivered {
                let excess = (self.stored.len() + 1).saturating_sub(STORED_MAX);
                self.stored.drain(..excess);
                self.stored.push_back((sequence, id));
            }
            return Some(id);
        }
        let at = self.stored.iter().position(|(stored, _)| *stored == sequence).filter(|_| is_delivered)?;
        self.stored.remove(at).map(|(_, id)| id)
    }

    /// REFUSED: which message it was.
    pub fn on_refused(&mut self, sequence: Sequence) -> Option<MessageId> {
        self.answered(sequence.0)
    }

    fn answered(&mut self, sequence: u64) -> Option<MessageId> {
        let at = self.unanswered.iter().take(self.sent_messages).position(|sent| sent.sequence == Some(sequence))?;
        let message = self.unanswered.remove(at)?;
        self.sent_messages -= 1;
        self.sent_bytes -= message.body.len();
        Some(message.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_shards::frame::{Decoded, decode_client};

    fn id(n: u128) -> MessageId {
        MessageId::v7(1, n)
    }

    fn sends(outbox: &mut Outbox) -> Vec<(u64, MessageId)> {
        let mut out = Vec::new();
        outbox.fill(&mut out);
        let mut rest = out.as_slice();
        let mut sends = Vec::new();
        while let Ok(Decoded::Frame { frame: ClientFrame::Send { sequence, id, .. }, used }) =
            decode_client(rest, 4_096)
        {
            sends.push((sequence.0, id));
            rest = &rest[used..];
        }
        sends
    }

    fn confirm(outbox: &mut Outbox, is_delivered: bool, pairs: &[(u64, u64)]) -> Vec<MessageId> {
        outbox.on_confirm(is_delivered, Ranges::from_pairs(pairs).expect("ascending"))
    }

    #[test]
    fn the_window_holds_messages_back_until_answers_come() {
        let mut outbox = Outbox::new();
        outbox.on_connected(Window { messages: 2, bytes: 100 });
        (1..=4).for_each(|n| outbox.push(id(n), "bob", &[0; 40]));
        assert_eq!(sends(&mut outbox), [(1, id(1)), (2, id(2))]);
        assert_eq!(confirm(&mut outbox, false, &[(1, u64::MAX)]), [id(1), id(2)]);
        assert_eq!(sends(&mut outbox), [(3, id(3)), (4, id(4))]);
        assert_eq!(outbox.on_refused(Sequence(4)), Some(id(4)));
        assert_eq!(confirm(&mut outbox, true, &[(1, 4)]), [id(1), id(2), id(3)]);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn bytes_count_too() {
        let mut outbox = Outbox::new();
        outbox.on_connected(Window { messages: 9, bytes: 100 });
        (1..=3).for_each(|n| outbox.push(id(n), "bob", &[0; 40]));
        assert_eq!(sends(&mut outbox).len(), 2);
    }

    #[test]
    fn after_a_reconnect_everything_unanswered_goes_out_again_in_order() {
        let mut outbox = Outbox::new();
        let window = Window { messages: 3, bytes: 100 };
        outbox.on_connected(window);
        (1..=4).for_each(|n| outbox.push(id(n), "bob", &[]));
        assert_eq!(sends(&mut outbox).len(), 3);
        confirm(&mut outbox, false, &[(2, 2)]);
        outbox.on_connected(window);
        assert_eq!(sends(&mut outbox), [(1, id(1)), (2, id(3)), (3, id(4))]);
    }
}
