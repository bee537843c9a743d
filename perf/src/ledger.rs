//! The accounts of one user: what it sent, what of that was confirmed, what it heard from whom, and what it owes. It
//! decides what is sent next, and it is the checker: every message exactly once, in the order of sending, from the
//! right sender, every confirmation in order and for something that was sent.
//!
//! One recipient per user: then first confirmations come in order, whatever the path.

use crate::body::Head;
use crate::latency::Latencies;
use crate::wire::Level;
use serde::Serialize;
use std::collections::VecDeque;
use std::ops::Range;

/// When a user sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// A window at the start, then one message for each that it receives.
    Answer,
    /// A window at the start, then one message for each of its own that is confirmed.
    Continue,
    /// A window at the start, then one for each of its own that arrived, which the generator tells it without the server: for
    /// peers that confirm nothing.
    Credit,
    /// When its schedule says so, whatever has become of the messages before.
    Schedule,
    /// Never; it takes what comes.
    Listen,
}

/// Promises that were broken, counted. Any of them makes a run worthless.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Messages that had not come when a later one of the same sender did.
    pub skipped: u64,
    /// Messages that came a second time, or after a later one of the same sender.
    pub repeated: u64,
    /// Messages of somebody who does not write to this user, or with a foreign body.
    pub misrouted: u64,
    /// Confirmations out of order, of something not sent, or of the wrong level.
    pub misconfirmed: u64,
    /// Messages that were refused.
    pub refused: u64,
    /// Connections that ended, or broke the protocol.
    pub disconnected: u64,
    /// Messages not delivered or not confirmed at the end.
    pub missing: u64,
    /// The first of them in words.
    pub first: Option<String>,
}

impl Faults {
    /// Whether nothing was broken.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Remembers the words for the first fault.
    pub fn explain(&mut self, words: impl FnOnce() -> String) {
        self.first.get_or_insert_with(words);
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.skipped += other.skipped;
        self.repeated += other.repeated;
        self.misrouted += other.misrouted;
        self.misconfirmed += other.misconfirmed;
        self.refused += other.refused;
        self.disconnected += other.disconnected;
        self.missing += other.missing;
        self.first = self.first.take().or(other.first);
    }
}

/// Totals of one generator thread since it started, and the latencies of its measured part.
#[derive(Default, Clone)]
pub struct Harvest {
    /// Messages sent.
    pub sent: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages confirmed for the first time.
    pub confirmed: u64,
    /// Those of them that were confirmed as stored.
    pub stored: u64,
    /// Messages whose time had come and that the window still held back when the run ended.
    pub held_back: u64,
    /// Logins of users who come and go.
    pub logins: u64,
    /// From sending (or when it was due) to the recipient's client.
    pub delivery: Latencies,
    /// From sending (or when it was due) to the first confirmation.
    pub confirmation: Latencies,
    /// From when a message was due to when this generator came to it.
    pub lateness: Latencies,
    /// From connecting to being logged in, of users who come and go.
    pub login: Latencies,
    /// What was broken.
    pub faults: Faults,
}

/// What a user shall do.
#[derive(Debug, Clone)]
pub struct Duty {
    /// When it sends.
    pub behaviour: Behaviour,
    /// Messages in flight at the start.
    pub window: u64,
    /// Messages that it sends at most.
    pub messages_max: u64,
    /// Its own index in this run.
    pub origin: u32,
    /// The indices of those who write to it.
    pub senders: Range<u32>,
    /// The level of the first confirmation, where only one is right.
    pub level: Option<Level>,
}

/// The accounts of one user.
#[derive(Debug)]
pub struct Ledger {
    duty: Duty,
    sent: u64,
    confirmed: u64,
    due: u64,
    /// When the next messages were due, if a schedule says so.
    due_ns: VecDeque<u64>,
    /// Messages that may be unconfirmed.
    room: u64,
    /// The number last heard of each sender.
    heard: Box<[u64]>,
    /// When the last messages were sent, by number modulo its length (a power of two).
    sent_ns: Box<[u64]>,
}

impl Ledger {
    /// Empty accounts. `room`: messages that may be unconfirmed, until [`Ledger::grant`].
    pub fn new(duty: Duty, room: u64) -> Self {
        let stamps = (duty.window * 4).next_power_of_two().clamp(64, 4_096) as usize;
        let heard = vec![0; duty.senders.len()].into();
        Self {
            duty,
            sent: 0,
            confirmed: 0,
            due: 0,
            due_ns: VecDeque::new(),
            room,
            heard,
            sent_ns: vec![0; stamps].into(),
        }
    }

    /// The server's window.
    pub fn grant(&mut self, window_messages: u64, window_bytes: u64, body_bytes: u64) {
        self.room = window_messages.min(window_bytes / body_bytes.max(1)).max(1);
    }

    /// Owes the window that starts the talk.
    pub fn begin(&mut self) {
        if !matches!(self.duty.behaviour, Behaviour::Listen | Behaviour::Schedule) {
            self.due = self.duty.window;
        }
    }

    /// Its own index in this run.
    pub fn origin(&self) -> u32 {
        self.duty.origin
    }

    /// Whether it sends when its schedule says so.
    pub fn is_scheduled(&self) -> bool {
        self.duty.behaviour == Behaviour::Schedule
    }

    /// Whether it hears from the generator that its messages arrived.
    pub fn is_credited(&self) -> bool {
        self.duty.behaviour == Behaviour::Credit
    }

    /// Owes a message since `due_ns`; its latency counts from then.
    #[inline]
    pub fn on_due(&mut self, due_ns: u64) {
        self.due += 1;
        self.due_ns.push_back(due_ns);
    }

    /// A message of its own arrived. Owes the next, if it goes by credit.
    #[inline]
    pub fn on_credit(&mut self) {
        self.due += u64::from(self.duty.behaviour == Behaviour::Credit);
    }

    /// Owes nothing any more. Returns how many scheduled messages it had not sent.
    pub fn stop(&mut self) -> u64 {
        self.due = 0;
        let held_back = self.due_ns.len();
        self.due_ns.clear();
        held_back as u64
    }

    /// The head of the next message, if one is owed and the window has room for it.
    #[inline]
    pub fn next(&mut self, now_ns: u64) -> Option<Head> {
        if self.due == 0 || self.sent - self.confirmed >= self.room || self.sent >= self.duty.messages_max {
            return None;
        }
        self.due -= 1;
        self.sent += 1;
        let slot = self.slot(self.sent);
        let sent_ns = self.due_ns.pop_front().unwrap_or(now_ns);
        self.sent_ns[slot] = sent_ns;
        Some(Head { number: self.sent, sent_ns, origin: self.duty.origin, kind: crate::body::DATA })
    }

    #[inline]
    fn slot(&self, number: u64) -> usize {
        number as usize & (self.sent_ns.len() - 1)
    }

    /// A message came. Owes an answer if `is_talking`.
    #[inline]
    pub fn on_message(&mut self, body: &[u8], now_ns: u64, is_talking: bool, harvest: &mut Harvest) {
        let Some(head) = Head::read(body) else { return self.on_misrouted("a foreign body", harvest) };
        let sender = head.origin.wrapping_sub(self.duty.senders.start) as usize;
        let Some(heard) = self.heard.get_mut(sender) else {
            return self.on_misrouted(&format!("a message of user {}", head.origin), harvest);
        };
        if head.number == *heard + 1 {
            *heard = head.number;
        } else {
            Self::on_disorder(heard, &head, &mut harvest.faults);
        }
        harvest.delivered += 1;
        harvest.delivery.note(now_ns.saturating_sub(head.sent_ns));
        if is_talking && self.duty.behaviour == Behaviour::Answer {
            self.due += 1;
        }
    }

    #[cold]
    fn on_disorder(heard: &mut u64, head: &Head, faults: &mut Faults) {
        let (number, last) = (head.number, *heard);
        faults.explain(|| format!("message {number} of user {} came after its message {last}", head.origin));
        if number > last {
            faults.skipped += number - last - 1;
            *heard = number;
        } else {
            faults.repeated += 1;
        }
    }

    #[cold]
    fn on_misrouted(&self, what: &str, harvest: &mut Harvest) {
        harvest.faults.misrouted += 1;
        harvest.faults.explain(|| format!("user {} received {what}", self.duty.origin));
    }

    /// Own messages were confirmed, perhaps for the second time.
    #[inline]
    pub fn on_confirmed(&mut self, (first, last): (u64, u64), level: Level, now_ns: u64, harvest: &mut Harvest) {
        let is_again = last <= self.confirmed;
        if is_again && level == Level::Delivered {
            return;
        }
        let is_level_wrong = self.duty.level.is_some_and(|wanted| wanted != level);
        if is_again || first > self.confirmed + 1 || last > self.sent || is_level_wrong {
            self.on_misconfirmed((first, last), level, harvest);
        }
        let (first, last) = (first.max(self.confirmed + 1), last.min(self.sent));
        let newly = (last + 1).saturating_sub(first);
        self.note_confirmations((first, last), now_ns, &mut harvest.confirmation);
        self.confirmed = self.confirmed.max(last);
        harvest.confirmed += newly;
        if level == Level::Stored {
            harvest.stored += newly;
        }
        if self.duty.behaviour == Behaviour::Continue {
            self.due += newly;
        }
    }

    #[inline]
    fn note_confirmations(&self, (first, last): (u64, u64), now_ns: u64, latencies: &mut Latencies) {
        let is_kept = self.sent - self.confirmed <= self.sent_ns.len() as u64;
        for number in first..=last {
            if is_kept {
                latencies.note(now_ns.saturating_sub(self.sent_ns[self.slot(number)]));
            }
        }
    }

    #[cold]
    fn on_misconfirmed(&self, (first, last): (u64, u64), level: Level, harvest: &mut Harvest) {
        harvest.faults.misconfirmed += 1;
        let (user, sent, confirmed) = (self.duty.origin, self.sent, self.confirmed);
        harvest.faults.explain(|| {
            format!("user {user} heard {level:?} for {first}..={last}, having sent {sent}, {confirmed} confirmed")
        });
    }

    /// An own message was refused.
    #[cold]
    pub fn on_refused(&self, number: u64, reason: &str, harvest: &mut Harvest) {
        harvest.faults.refused += 1;
        harvest.faults.explain(|| format!("message {number} of user {} was {reason}", self.duty.origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duty(behaviour: Behaviour) -> Duty {
        Duty { behaviour, window: 2, messages_max: u64::MAX, origin: 4, senders: 7..8, level: None }
    }

    fn hear(ledger: &mut Ledger, numbers: &[u64], origin: u32) -> Harvest {
        let mut harvest = Harvest::default();
        for &number in numbers {
            let mut body = [0; crate::body::HEAD_BYTES];
            Head { number, sent_ns: 0, origin, kind: 0 }.write(&mut body);
            ledger.on_message(&body, 10, true, &mut harvest);
        }
        harvest
    }

    fn numbers(ledger: &mut Ledger) -> Vec<u64> {
        std::iter::from_fn(|| ledger.next(1)).map(|head| head.number).collect()
    }

    #[test]
    fn a_window_starts_and_answers_follow() {
        let mut ledger = Ledger::new(duty(Behaviour::Answer), 3);
        ledger.begin();
        assert_eq!(numbers(&mut ledger), [1, 2]);
        assert!(hear(&mut ledger, &[1, 2], 7).faults.is_empty());
        assert_eq!(numbers(&mut ledger), [3], "the server's window holds the fourth back");
        ledger.on_confirmed((1, 1), Level::Delivered, 5, &mut Harvest::default());
        assert_eq!(numbers(&mut ledger), [4]);
    }

    #[test]
    fn scheduled_messages_count_from_when_they_were_due() {
        let mut ledger = Ledger::new(duty(Behaviour::Schedule), 1);
        ledger.begin();
        [10, 20, 30].into_iter().for_each(|due_ns| ledger.on_due(due_ns));
        let mut next = |now_ns| ledger.next(now_ns).map(|head| head.sent_ns);
        assert_eq!((next(15), next(25)), (Some(10), None), "the window holds the second back");
        ledger.on_confirmed((1, 1), Level::Delivered, 40, &mut Harvest::default());
        assert_eq!(ledger.next(41).map(|head| head.sent_ns), Some(20), "and its latency grows meanwhile");
        assert_eq!(ledger.stop(), 1);
    }

    #[test]
    fn loss_repetition_and_strangers_are_found() {
        let faults =
            |numbers: &[u64], origin| hear(&mut Ledger::new(duty(Behaviour::Listen), 9), numbers, origin).faults;
        assert_eq!((faults(&[1, 4], 7).skipped, faults(&[1, 4], 7).repeated), (2, 0));
        assert_eq!((faults(&[1, 1], 7).skipped, faults(&[1, 1], 7).repeated), (0, 1));
        assert_eq!((faults(&[1, 3, 2], 7).skipped, faults(&[1, 3, 2], 7).repeated), (1, 1));
        assert_eq!((faults(&[1], 8).misrouted, faults(&[1], 6).misrouted), (1, 1));
        assert!(!faults(&[2], 7).is_empty());
    }

    #[test]
    fn confirmations_are_checked() {
        let mut ledger = Ledger::new(duty(Behaviour::Continue), 9);
        ledger.begin();
        assert_eq!(numbers(&mut ledger), [1, 2]);
        let mut harvest = Harvest::default();
        ledger.on_confirmed((1, 2), Level::Stored, 5, &mut harvest);
        ledger.on_confirmed((1, 1), Level::Delivered, 6, &mut harvest);
        assert_eq!((harvest.confirmed, harvest.stored, harvest.faults.is_empty()), (2, 2, true));
        assert_eq!(numbers(&mut ledger), [3, 4]);
        for (wrong, newly) in [((2, 2), 0), ((4, 4), 1), ((3, 5), 0), ((5, 6), 0)] {
            let mut harvest = Harvest::default();
            ledger.on_confirmed(wrong, Level::Stored, 6, &mut harvest);
            assert_eq!((harvest.faults.misconfirmed, harvest.confirmed), (1, newly), "{wrong:?}");
        }
    }
}
