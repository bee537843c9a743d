//! The checker of a soak: for every pair what was sent, what became of it and what was taken, as far as it is not
//! settled. A message is settled when it is confirmed and taken; then only its number is known, by being below the
//! first that is not.
//!
//! Order is judged at the end: a message that was refused has no place in it, and that may be heard late.

use super::stamp::Stamp;
use crate::latency::Latencies;
use crate::ledger::Faults;
use iris_shards::id::MessageId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Suspicions that a pair remembers, and messages that each names.
const SUSPECTS_MAX: usize = 256;

/// How a message was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// On this many disks.
    Stored(u8),
    /// Taken by the recipient.
    Delivered,
}

/// A message of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The pair.
    pub pair: u32,
    /// Its number in the pair, from 1.
    pub number: u64,
}

struct Message {
    id: MessageId,
    sent_ns: u64,
    level: Option<Level>,
    is_taken: bool,
}

impl Message {
    fn is_settled(&self) -> bool {
        self.level.is_some() && self.is_taken
    }
}

/// Messages that came after these higher ones.
struct Suspect {
    number: u64,
    behind: Vec<u64>,
}

#[derive(Default)]
struct Pair {
    from: String,
    to: u32,
    /// Messages settled: all up to this number.
    settled: u64,
    /// Those behind them.
    open: VecDeque<Message>,
    /// Ever refused.
    refused: BTreeSet<u64>,
    suspects: Vec<Suspect>,
}

impl Pair {
    fn at(&mut self, number: u64) -> Option<&mut Message> {
        let at = number.checked_sub(self.settled + 1)?;
        self.open.get_mut(at as usize)
    }

    fn sent(&self) -> u64 {
        self.settled + self.open.len() as u64
    }

    /// Forgets what is settled at the start; how many that were.
    fn settle(&mut self) -> u64 {
        let before = self.settled;
        while self.open.front().is_some_and(Message::is_settled) {
            self.open.pop_front();
            self.settled += 1;
        }
        self.settled - before
    }
}

/// Totals since the start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Messages sent, repeats not counted.
    pub sent: u64,
    /// Sent again, because the connection ended without an answer or after a refusal.
    pub resent: u64,
    /// Taken by their recipients.
    pub taken: u64,
    /// Deliveries of what was taken before.
    pub repeats: u64,
    /// Confirmed, in any way.
    pub confirmed: u64,
    /// First confirmed as stored, by the number of copies.
    pub stored: BTreeMap<u8, u64>,
    /// Confirmed and taken.
    pub checked: u64,
    /// Refusals, by code.
    pub refused: BTreeMap<String, u64>,
    /// Connections that the server closed, by code.
    pub closed: BTreeMap<String, u64>,
    /// Taken behind a later message of the same sender (neither was refused).
    pub late: u64,
}

impl Counts {
    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.resent += other.resent;
        self.taken += other.taken;
        self.repeats += other.repeats;
        self.confirmed += other.confirmed;
        self.checked += other.checked;
        self.late += other.late;
        other.stored.into_iter().for_each(|(copies, count)| *self.stored.entry(copies).or_default() += count);
        other.refused.into_iter().for_each(|(code, count)| *self.refused.entry(code).or_default() += count);
        other.closed.into_iter().for_each(|(code, count)| *self.closed.entry(code).or_default() += count);
    }
}

/// See the module.
#[derive(Default)]
pub struct Account {
    thread: u32,
    pairs: Vec<Pair>,
    /// Totals.
    pub counts: Counts,
    /// Broken promises.
    pub faults: Faults,
    /// From sending to the first confirmation, with all repeats between.
    pub confirmation: Latencies,
    /// The longest of them, ns.
    pub wait_ns_max: u64,
}

impl Account {
    /// For the pairs of a thread: the name of each sender, and which user is its recipient.
    pub fn new(thread: u32, pairs: impl IntoIterator<Item = (String, u32)>) -> Self {
        let pairs = pairs.into_iter().map(|(from, to)| Pair { from, to, ..Pair::default() }).collect();
        Self { thread, pairs, ..Self::default() }
    }

    /// A new message of a pair, sent at this time under this id.
    pub fn on_send(&mut self, pair: u32, id: MessageId, now_ns: u64) -> Stamp {
        let found = &mut self.pairs[pair as usize];
        found.open.push_back(Message { id, sent_ns: now_ns, level: None, is_taken: false });
        self.counts.sent += 1;
        Stamp { thread: self.thread, pair, number: found.sent(), id }
    }

    /// The same message once more, as it was. None if it has been confirmed meanwhile, by an earlier sending.
    pub fn on_resend(&mut self, name: Name) -> Option<Stamp> {
        let message = self.pairs[name.pair as usize].at(name.number)?;
        if message.level.is_some() {
            return None;
        }
        self.counts.resent += 1;
        Some(Stamp { thread: self.thread, pair: name.pair, number: name.number, id: message.id })
    }

    /// A message was confirmed.
    pub fn on_confirmed(&mut self, name: Name, level: Level, now_ns: u64) {
        let pair = &mut self.pairs[name.pair as usize];
        // What is settled was taken, so every confirmation of it is true.
        let Some(message) = pair.at(name.number) else { return };
        if level == Level::Delivered && !message.is_taken {
            self.faults.misconfirmed += 1;
            self.faults.explain(|| format!("{name:?} is called delivered, and its recipient has not taken it"));
        }
        let is_first = message.level.is_none();
        message.level = message.level.max(Some(level));
        if !is_first {
            return;
        }
        let wait_ns = now_ns.saturating_sub(message.sent_ns);
        self.counts.checked += pair.settle();
        self.confirmation.note(wait_ns);
        self.wait_ns_max = self.wait_ns_max.max(wait_ns);
        self.counts.confirmed += 1;
        if let Level::Stored(copies) = level {
            *self.counts.stored.entry(copies).or_default() += 1;
        }
    }

    /// A message was refused.
    pub fn on_refused(&mut self, name: Name, code: &str) {
        *self.counts.refused.entry(code.to_owned()).or_default() += 1;
        self.pairs[name.pair as usize].refused.insert(name.number);
    }

    /// A confirmation came before that of an older message of the pair.
    pub fn on_misconfirmed(&mut self, words: impl FnOnce() -> String) {
        self.faults.misconfirmed += 1;
        self.faults.explain(words);
    }

    /// A message was delivered to a user, by this sender under this id.
    pub fn on_taken(&mut self, to: u32, (from, id): (&str, MessageId), body: &[u8]) {
        let stamp = Stamp::read(body).filter(|stamp| stamp.thread == self.thread);
        let known = stamp.and_then(|stamp| Some((stamp, self.pairs.get_mut(stamp.pair as usize)?)));
        let is_right = |(stamp, pair): &(Stamp, &mut Pair)| {
            (1..=pair.sent()).contains(&stamp.number) && pair.to == to && pair.from == from
        };
        let Some((stamp, pair)) = known.filter(is_right) else {
            self.faults.misrouted += 1;
            self.faults.explain(|| format!("{id} of {from} to user {to}: nobody sent this, but: {stamp:?}"));
            return;
        };
        if stamp.id != id {
            self.faults.repeated += 1;
            self.faults.explain(|| format!("{stamp:?} comes under the id {id}"));
            return;
        }
        match pair.at(stamp.number) {
            Some(message) if !message.is_taken => message.is_taken = true,
            _ => {
                self.counts.repeats += 1;
                return;
            }
        }
        self.counts.taken += 1;
        suspect(pair, stamp.number);
        self.counts.checked += pair.settle();
    }

    /// Messages that are not settled.
    pub fn unsettled(&self) -> u64 {
        self.counts.sent - self.counts.checked - self.settled_in_between()
    }

    fn settled_in_between(&self) -> u64 {
        let in_pair = |pair: &Pair| pair.open.iter().filter(|message| message.is_settled()).count() as u64;
        self.pairs.iter().map(in_pair).sum()
    }

    /// The end: whatever is confirmed and not taken is lost, and the order is judged, unless it may be broken. Messages
    /// without any answer.
    pub fn finish(&mut self, is_late_allowed: bool) -> u64 {
        self.counts.checked += self.settled_in_between();
        let mut unanswered = 0;
        for (number, pair) in (0..).zip(&mut self.pairs) {
            let late = judge(pair);
            if let Some((late, behind)) = late.first().filter(|_| !is_late_allowed) {
                self.faults.explain(|| format!("pair {number}: {late} was delivered behind {behind}"));
            }
            self.counts.late += late.len() as u64;
            for (message, at) in pair.open.iter().zip(pair.settled + 1..) {
                if message.level.is_none() {
                    unanswered += 1;
                } else if !message.is_taken {
                    self.faults.missing += 1;
                    let (id, level) = (message.id, message.level);
                    self.faults.explain(|| format!("pair {number}: {at} ({id}) is lost, it was confirmed {level:?}"));
                }
            }
        }
        if !is_late_allowed {
            self.faults.skipped += self.counts.late;
        }
        unanswered
    }
}

/// Remembers which messages were taken before this one that is older than they are.
fn suspect(pair: &mut Pair, number: u64) {
    let settled = pair.settled;
    let later = pair.open.iter().zip(settled + 1..).skip((number - settled) as usize);
    let behind = later.filter(|(message, at)| message.is_taken && !pair.refused.contains(at)).map(|(_, at)| at);
    let behind: Vec<u64> = behind.take(SUSPECTS_MAX).collect();
    if !behind.is_empty() && pair.suspects.len() < SUSPECTS_MAX {
        pair.suspects.push(Suspect { number, behind });
    }
}

/// Which messages really were late, and behind what.
fn judge(pair: &Pair) -> Vec<(u64, u64)> {
    let is_in_order = |number: &u64| !pair.refused.contains(number);
    let suspects = pair.suspects.iter().filter(|suspect| is_in_order(&suspect.number));
    suspects.filter_map(|suspect| Some((suspect.number, *suspect.behind.iter().find(|at| is_in_order(at))?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account with so many messages of one pair under way, and their bodies.
    fn account(messages: u64) -> (Account, Vec<(MessageId, Vec<u8>)>) {
        let mut account = Account::new(0, [("a".to_owned(), 1)]);
        let send = |number| {
            let id = MessageId::v7(number, 0);
            let mut body = Vec::new();
            account.on_send(0, id, 0).write(&mut body, 64);
            (id, body)
        };
        let sent = (1..=messages).map(send).collect();
        (account, sent)
    }

    fn take(account: &mut Account, (id, body): &(MessageId, Vec<u8>)) {
        account.on_taken(1, ("a", *id), body);
    }

    const fn name(number: u64) -> Name {
        Name { pair: 0, number }
    }

    #[test]
    fn a_settled_message_is_forgotten_and_its_repeat_is_known() {
        let (mut account, sent) = account(2);
        take(&mut account, &sent[0]);
        account.on_confirmed(name(1), Level::Delivered, 5);
        take(&mut account, &sent[0]);
        take(&mut account, &sent[1]);
        assert_eq!(account.unsettled(), 1);
        account.on_confirmed(name(2), Level::Stored(2), 9);
        assert_eq!((account.finish(false), account.counts.checked, account.counts.repeats), (0, 2, 1));
        assert!(account.faults.is_empty(), "{:?}", account.faults);
        assert_eq!((account.counts.stored.get(&2), account.wait_ns_max), (Some(&1), 9));
    }

    #[test]
    fn a_confirmed_message_that_is_not_taken_is_lost() {
        let (mut account, sent) = account(3);
        account.on_confirmed(name(1), Level::Stored(1), 5);
        take(&mut account, &sent[1]);
        account.on_confirmed(name(2), Level::Stored(1), 5);
        assert_eq!(account.unsettled(), 2);
        assert_eq!(account.finish(false), 1);
        assert_eq!((account.faults.missing, account.counts.checked), (1, 1));
    }

    #[test]
    fn order_counts_unless_one_was_refused() {
        for (refused, late) in [(None, 1), (Some(1), 0), (Some(2), 0), (Some(3), 1)] {
            let (mut account, sent) = account(3);
            for at in [1, 0, 2] {
                take(&mut account, &sent[at]);
            }
            if let Some(number) = refused {
                account.on_refused(name(number), "busy");
            }
            account.finish(false);
            assert_eq!((account.faults.skipped, account.counts.late), (late, late), "refused: {refused:?}");
        }
    }

    #[test]
    fn foreign_bodies_second_ids_and_early_confirmations_are_faults() {
        let (mut account, sent) = account(1);
        account.on_taken(1, ("a", sent[0].0), b"hello");
        account.on_taken(2, ("a", sent[0].0), &sent[0].1);
        account.on_taken(1, ("b", sent[0].0), &sent[0].1);
        account.on_taken(1, ("a", MessageId::v7(99, 0)), &sent[0].1);
        account.on_confirmed(name(1), Level::Delivered, 1);
        let faults = &account.faults;
        assert_eq!((faults.misrouted, faults.repeated, faults.misconfirmed), (3, 1, 1));
    }
}
