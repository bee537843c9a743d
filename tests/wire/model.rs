//! A client that does what `docs/protocol.md` asks of a library, over any number of connections, and a model of what it
//! may expect: sequences, the order of confirmations, the order of messages, none lost, none twice. It panics when the
//! server breaks a rule.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use iris_shards::frame::{Code, LEVEL_DELIVERED, LEVEL_STORED, acknowledge};
use iris_shards::id::MessageId;

use super::{Heard, Letter, Wire, hello, new_id, send};

/// A message without an answer.
#[derive(Debug, Clone)]
pub struct Open {
    pub id: MessageId,
    pub recipient: String,
    pub body: Vec<u8>,
    sequence: u64,
}

/// See the module.
pub struct Client {
    pub name: String,
    /// None while it is away.
    pub wire: Option<Wire>,
    /// In order of sending.
    pub open: VecDeque<Open>,
    /// Everything ever sent, per recipient, in order of sending; what was refused is taken out again.
    pub sent: HashMap<String, Vec<MessageId>>,
    /// The highest level heard of each message.
    pub levels: HashMap<MessageId, u8>,
    pub refused: Vec<(MessageId, Code)>,
    /// Everything taken, per sender, in order.
    pub taken: HashMap<String, Vec<MessageId>>,
    known: HashSet<(String, MessageId)>,
    /// Deliveries of a message that was taken before.
    pub repeats: usize,
    /// This client was told that another one took its place.
    pub taken_over: bool,
    /// Whether what is delivered is taken at once.
    pub is_taking: bool,
    next_send: u64,
    next_deliver: u64,
    by_sequence: BTreeMap<u64, (MessageId, String)>,
}

/// The body that this message has to have: its id, and a pattern of this length.
pub fn body(id: MessageId, length: usize) -> Vec<u8> {
    let id = id.bytes();
    let pattern = (0..length).map(|at| id[15].wrapping_add(at as u8) ^ id[7]);
    id.iter().copied().chain(pattern).collect()
}

fn check_body(letter: &Letter) {
    if letter.body.len() >= 16 {
        assert_eq!(letter.body, body(letter.id, letter.body.len() - 16), "the body of {} is another one", letter.id);
    }
}

impl Client {
    pub fn new(name: &str) -> Client {
        Client {
            name: name.to_owned(),
            wire: None,
            open: VecDeque::new(),
            sent: HashMap::new(),
            levels: HashMap::new(),
            refused: Vec::new(),
            taken: HashMap::new(),
            known: HashSet::new(),
            repeats: 0,
            taken_over: false,
            is_taking: true,
            next_send: 1,
            next_deliver: 1,
            by_sequence: BTreeMap::new(),
        }
    }

    pub fn online(address: &str, name: &str) -> Client {
        let mut client = Client::new(name);
        assert!(client.login(address), "{name} cannot log in");
        client
    }

    /// Connects, and repeats what has no answer, all in one write. False if nobody answers.
    pub fn login(&mut self, address: &str) -> bool {
        let Ok(mut wire) = Wire::try_connect(address) else { return false };
        self.leave();
        let mut bytes = hello(self.name.as_bytes());
        let mut sequence = 0;
        for open in &mut self.open {
            sequence += 1;
            open.sequence = sequence;
            bytes.extend(send(sequence, open.id, &open.recipient, &open.body));
            self.by_sequence.insert(sequence, (open.id, open.recipient.clone()));
        }
        self.next_send = sequence + 1;
        if wire.try_write(&bytes).is_err() {
            return false;
        }
        match wire.within(Duration::from_secs(20)) {
            Some(Heard::Welcome(_)) => {
                self.wire = Some(wire);
                true
            }
            _ => false,
        }
    }

    /// Hangs up.
    pub fn leave(&mut self) {
        self.wire = None;
        self.by_sequence.clear();
        (self.next_send, self.next_deliver) = (1, 1);
    }

    /// Sends a message with a body of 16 bytes and this many more. It is kept until it is answered.
    pub fn send(&mut self, recipient: &str, length: usize) -> MessageId {
        let id = new_id();
        let body = body(id, length);
        let sequence = self.next_send;
        let bytes = send(sequence, id, recipient, &body);
        self.next_send += 1;
        self.open.push_back(Open { id, recipient: recipient.to_owned(), body, sequence });
        self.sent.entry(recipient.to_owned()).or_default().push(id);
        if let Some(wire) = &mut self.wire {
            self.by_sequence.insert(sequence, (id, recipient.to_owned()));
            if wire.try_write(&bytes).is_err() {
                self.leave();
            }
        }
        id
    }

    /// Handles what comes within this time; one frame, and those that are there already. False if the connection is over.
    pub fn pump(&mut self, time: Duration) -> bool {
        let mut wait = time;
        let mut acks = Vec::new();
        while let Some(wire) = &mut self.wire {
            let Some(heard) = wire.within(wait) else { break };
            wait = Duration::ZERO;
            match heard {
                Heard::Deliver(letter) => self.on_letter(letter, &mut acks),
                Heard::End => self.leave(),
                Heard::Close { code, .. } => {
                    self.taken_over |= code == Some(Code::TakenOver);
                    let known = matches!(code, Some(Code::TakenOver | Code::Draining));
                    assert!(known, "{} was closed with {code:?}", self.name);
                    self.leave();
                }
                other => self.on_answer(other),
            }
        }
        let mut bytes = Vec::new();
        acks.sort_unstable();
        let pairs: Vec<_> = acks.iter().map(|&sequence| (sequence, sequence)).collect();
        acknowledge(&mut bytes, &pairs);
        if let Some(wire) = &mut self.wire
            && wire.try_write(&bytes).is_err()
        {
            self.leave();
        }
        self.wire.is_some()
    }

    /// Pumps until this holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Client) -> bool) {
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while !holds(self) {
            assert!(std::time::Instant::now() < deadline, "{} never {what}: {}", self.name, self.summary());
            assert!(self.pump(Duration::from_millis(200)), "{} lost its connection before {what}", self.name);
        }
    }

    /// Knows what another device of this user has taken.
    pub fn adopt(&mut self, other: &Client) {
        self.known.clone_from(&other.known);
    }

    /// Until everything sent is answered.
    pub fn until_answered(&mut self) {
        self.until("hears all answers", |client| client.open.is_empty());
    }

    /// Until this many messages were taken.
    pub fn until_taken(&mut self, count: usize) {
        self.until("takes all messages", |client| client.count() >= count);
        assert_eq!(self.count(), count);
    }

    /// How many messages were taken.
    pub fn count(&self) -> usize {
        self.taken.values().map(Vec::len).sum()
    }

    pub fn summary(&self) -> String {
        let taken: Vec<_> = self.taken.iter().map(|(sender, ids)| format!("{} of {sender}", ids.len())).collect();
        format!("{} without an answer, taken {}", self.open.len(), taken.join(", "))
    }

    /// Everything that `sender` has sent to this client, and was not refused, was taken, once, in order.
    pub fn has_all_of(&self, sender: &Client) {
        let none = Vec::new();
        let sent = sender.sent.get(&self.name).unwrap_or(&none);
        let taken = self.taken.get(&sender.name).unwrap_or(&none);
        let lost: Vec<_> = sent.iter().filter(|id| !taken.contains(id)).take(5).collect();
        assert!(
            sent == taken,
            "{} → {}: {} sent, {} taken, lost {lost:?}",
            sender.name,
            self.name,
            sent.len(),
            taken.len()
        );
    }

    fn on_letter(&mut self, letter: Letter, acks: &mut Vec<u64>) {
        assert_eq!(letter.sequence, self.next_deliver, "{}: sequences of DELIVER grow by one", self.name);
        self.next_deliver += 1;
        check_body(&letter);
        if self.known.contains(&(letter.sender.clone(), letter.id)) {
            self.repeats += 1;
            acks.push(letter.sequence);
            return;
        }
        if !self.is_taking {
            return;
        }
        let ids = self.taken.entry(letter.sender.clone()).or_default();
        if let Some(&last) = ids.last() {
            assert!(last < letter.id, "{} gets {} of {} behind {last}", self.name, letter.id, letter.sender);
        }
        ids.push(letter.id);
        self.known.insert((letter.sender, letter.id));
        acks.push(letter.sequence);
    }

    fn on_answer(&mut self, heard: Heard) {
        match heard {
            Heard::Confirm { level, copies, ranges } => {
                let fits = (level == LEVEL_STORED && copies == 1) || (level == LEVEL_DELIVERED && copies == 0);
                assert!(fits, "level {level} with {copies} copies");
                for (first, last) in ranges {
                    (first..=last).for_each(|sequence| self.on_confirmed(sequence, level));
                }
            }
            Heard::Refused { sequence, code, .. } => {
                let (id, recipient) = self.answered(sequence);
                self.refused.push((id, code.expect("a known code")));
                self.sent.entry(recipient).or_default().retain(|sent| *sent != id);
            }
            Heard::Presence { .. } | Heard::Pong(_) | Heard::Drain(_) => {}
            other => panic!("{} hears {other:?}", self.name),
        }
    }

    fn on_confirmed(&mut self, sequence: u64, level: u8) {
        let (id, _) = self.by_sequence.get(&sequence).unwrap_or_else(|| panic!("{sequence} was never sent")).clone();
        if self.open.iter().any(|open| open.sequence == sequence) {
            self.answered(sequence);
        } else {
            let before = self.levels.get(&id).copied();
            assert_eq!(
                (before, level),
                (Some(LEVEL_STORED), LEVEL_DELIVERED),
                "{}: {id} is confirmed twice",
                self.name
            );
        }
        let known = self.levels.entry(id).or_default();
        *known = level.max(*known);
    }

    /// The first answer to a message: it has to be the oldest one of its pair.
    fn answered(&mut self, sequence: u64) -> (MessageId, String) {
        let (id, recipient) = self.by_sequence.get(&sequence).expect("a sequence that was sent").clone();
        let at = self.open.iter().position(|open| open.sequence == sequence).expect("one answer per message");
        let older = self.open.iter().take(at).find(|open| open.recipient == recipient);
        assert!(older.is_none(), "{}: {id} to {recipient} is answered before {older:?}", self.name);
        self.open.remove(at);
        (id, recipient)
    }
}
