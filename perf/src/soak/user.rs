//! One soaking user: it sends to its recipients, takes what comes, and when its connection ends it goes to another
//! server and repeats there, in order and under the same ids, whatever has no answer. Some users are visitors: away
//! for a while, again and again.

use super::account::{Account, Name};
use super::line::{End, Heard, Line};
use super::plan::Plan;
use crate::load::Connection;
use crate::wire::iris::hello;
use iris_shards::frame::Code;
use iris_shards::id::MessageId;
use std::collections::VecDeque;

const MS: u64 = 1_000_000;
/// The first pause before dialling again, and the longest.
const PAUSE_MS: (u64, u64) = (20, 1_000);

/// Numbers that look random and are the same again for the same seed (xorshift64*).
pub struct Dice(pub u64);

impl Dice {
    /// 0 to `below` - 1.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }
}

/// To whom a user writes.
pub struct Correspondent {
    /// The pair.
    pub pair: u32,
    /// The recipient's number.
    pub number: u32,
    /// And name.
    pub name: String,
}

/// Where a user is.
enum Place {
    Away { until_ns: u64 },
    Connected(Box<Line>),
}

/// What a thread lends to its users.
pub struct Desk<'a> {
    /// What is done.
    pub plan: &'a Plan,
    /// The books.
    pub account: &'a mut Account,
    /// The clock, ns.
    pub now_ns: u64,
    /// Whether the run is about to end: nobody leaves, nobody sends anything new.
    pub is_settling: bool,
    /// Room to read into.
    pub scratch: &'a mut [u8],
    /// Room for a body.
    pub body: &'a mut Vec<u8>,
}

/// See the module.
pub struct User {
    number: u32,
    name: String,
    correspondents: Vec<Correspondent>,
    is_visitor: bool,
    place: Place,
    dice: Dice,
    /// The server that it goes to next.
    server: usize,
    failures: u32,
    turn: usize,
    /// Time and counter of the last id.
    last_id: (u64, u64),
    /// To be sent again as soon as there is a connection, in order.
    repeats: VecDeque<Name>,
    /// To be sent again at a time of their own.
    retries: VecDeque<(u64, Name)>,
    /// Connections that it has lost or left.
    pub reconnects: u64,
}

impl User {
    /// A user by its number in the thread, who will first go to this server.
    pub fn new(
        (number, name): (u32, String),
        correspondents: Vec<Correspondent>,
        (server, is_visitor): (usize, bool),
    ) -> Self {
        let seed = iris_shards::slot::stable_hash(name.as_bytes()) | 1;
        Self {
            number,
            name,
            correspondents,
            is_visitor,
            place: Place::Away { until_ns: 0 },
            dice: Dice(seed),
            server,
            failures: 0,
            turn: 0,
            last_id: (0, 0),
            repeats: VecDeque::new(),
            retries: VecDeque::new(),
            reconnects: 0,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// To whom it writes.
    pub fn correspondents(&self) -> &[Correspondent] {
        &self.correspondents
    }

    /// Its connection.
    pub fn line(&self) -> Option<&Line> {
        match &self.place {
            Place::Connected(line) => Some(line),
            Place::Away { .. } => None,
        }
    }

    /// Whether it is logged in.
    pub fn is_here(&self) -> bool {
        self.line().is_some_and(Line::is_here)
    }

    /// Bytes came, or there is room for some.
    pub fn on_ready(&mut self, desk: &mut Desk<'_>) -> u64 {
        let Place::Connected(line) = &mut self.place else { return 0 };
        match line.read(desk.scratch, desk.now_ns, desk.account) {
            Ok(heard) => {
                let confirmed = heard.confirmed;
                self.on_heard(heard, desk);
                self.flush(desk);
                confirmed
            }
            Err(end) => {
                self.on_end(&end, desk);
                0
            }
        }
    }

    /// Time has passed. True: it has a new connection.
    pub fn on_time(&mut self, desk: &mut Desk<'_>) -> bool {
        let now_ns = desk.now_ns;
        let silence_ns = desk.plan.silence_ms * MS;
        let line = match &mut self.place {
            Place::Away { until_ns } if *until_ns > now_ns => return false,
            Place::Away { .. } => return self.dial(desk),
            Place::Connected(line) => line,
        };
        let silent_ns = now_ns.saturating_sub(line.heard_ns);
        if silent_ns > silence_ns {
            self.on_end(&End::Lost, desk);
        } else if line.leave_ns <= now_ns && !(desk.is_settling && self.is_visitor) {
            self.hang_up(desk);
        } else {
            if silent_ns > silence_ns / 3 && line.is_here() && !line.is_asked {
                line.ask();
            }
            self.retry(desk);
            self.flush(desk);
        }
        false
    }

    /// Sends up to this many new messages, as many as there is room for; how many.
    pub fn speak(&mut self, count: usize, desk: &mut Desk<'_>) -> usize {
        let waiting = self.retries.len() + self.repeats.len();
        let Place::Connected(line) = &mut self.place else { return 0 };
        if !line.is_here() {
            return 0;
        }
        let own = desk.plan.window.saturating_sub(line.open() + waiting);
        let count = count.min(own).min(line.room());
        for _ in 0..count {
            self.turn = (self.turn + 1) % self.correspondents.len();
            let Correspondent { pair, name, .. } = &self.correspondents[self.turn];
            let (last_ms, counter) = self.last_id;
            self.last_id = (line.server_ms(desk.now_ns).max(last_ms), counter + 1);
            let id = MessageId::v7(self.last_id.0, u128::from(self.last_id.1));
            let stamp = desk.account.on_send(*pair, id, desk.now_ns);
            stamp.write(desk.body, desk.plan.body);
            line.send(Name { pair: *pair, number: stamp.number }, id, (name, desk.body));
        }
        if count > 0 {
            self.flush(desk);
        }
        count
    }

    fn dial(&mut self, desk: &mut Desk<'_>) -> bool {
        let mut bytes = Vec::new();
        hello(&self.name, desk.plan.token.as_bytes(), &mut bytes);
        match Connection::begin(desk.plan.servers[self.server], &bytes) {
            Ok(connection) => {
                self.place = Place::Connected(Box::new(Line::new(connection, self.number, desk.now_ns)));
                true
            }
            Err(_) => {
                self.on_end(&End::Lost, desk);
                false
            }
        }
    }

    fn on_heard(&mut self, heard: Heard, desk: &mut Desk<'_>) {
        for (name, wait_ms) in heard.refused {
            // Some refusals say that repeating is useless; here nothing is ever useless.
            let wait_ms = u64::from(wait_ms).max(PAUSE_MS.0);
            let due_ns = desk.now_ns + (wait_ms + self.dice.roll(wait_ms / 4 + 1)) * MS;
            self.retries.push_back((due_ns, name));
        }
        if heard.is_welcome {
            self.on_welcome(desk);
        }
        let Place::Connected(line) = &mut self.place else { return };
        if let Some(wait_ms) = heard.drain_ms {
            line.leave_ns = line.leave_ns.min(desk.now_ns + u64::from(wait_ms) * MS);
        }
        if let Some((code, wait_ms)) = heard.closed {
            self.on_closed(code, desk);
            self.stay_away(u64::from(wait_ms), desk.now_ns);
        }
    }

    fn on_welcome(&mut self, desk: &mut Desk<'_>) {
        self.failures = 0;
        let stay_ns = (desk.plan.stay_ms / 2 + self.dice.roll(desk.plan.stay_ms)) * MS;
        let Place::Connected(line) = &mut self.place else { return };
        if self.is_visitor {
            line.leave_ns = desk.now_ns + stay_ns;
        }
        for name in std::mem::take(&mut self.repeats) {
            send_again(name, line, &self.correspondents, desk);
        }
    }

    /// What was refused a while ago.
    fn retry(&mut self, desk: &mut Desk<'_>) {
        let Place::Connected(line) = &mut self.place else { return };
        while line.is_here() && line.room() > 0 {
            let Some(at) = self.retries.iter().position(|(due_ns, _)| *due_ns <= desk.now_ns) else { return };
            let Some((_, name)) = self.retries.remove(at) else { return };
            send_again(name, line, &self.correspondents, desk);
        }
    }

    fn flush(&mut self, desk: &mut Desk<'_>) {
        if let Place::Connected(line) = &mut self.place
            && let Err(end) = line.flush()
        {
            self.on_end(&end, desk);
        }
    }

    fn on_closed(&mut self, code: Option<Code>, desk: &mut Desk<'_>) {
        let word = code.map_or("unknown", Code::name);
        *desk.account.counts.closed.entry(word.to_owned()).or_default() += 1;
        let is_ours = !matches!(code, Some(Code::Draining | Code::Unavailable | Code::Internal | Code::SlowReader));
        if is_ours {
            desk.account.faults.disconnected += 1;
            let name = &self.name;
            desk.account.faults.explain(|| format!("{name} was closed with {word}"));
        }
        self.on_end(&End::Lost, desk);
    }

    /// The connection is over: another server, after a pause that grows.
    fn on_end(&mut self, end: &End, desk: &mut Desk<'_>) {
        if let End::Breach(how) = end {
            desk.account.faults.disconnected += 1;
            let name = &self.name;
            desk.account.faults.explain(|| format!("{name}: {how}"));
        }
        self.failures += 1;
        let pause_ms = (PAUSE_MS.0 << self.failures.min(10)).min(PAUSE_MS.1);
        let pause_ms = pause_ms / 2 + self.dice.roll(pause_ms);
        self.leave(desk.now_ns + pause_ms * MS);
        let servers = desk.plan.servers.len();
        self.server = (self.server + 1 + self.dice.roll(servers.saturating_sub(1) as u64) as usize) % servers;
    }

    fn stay_away(&mut self, wait_ms: u64, now_ns: u64) {
        if let Place::Away { until_ns } = &mut self.place {
            *until_ns = (*until_ns).max(now_ns + wait_ms * MS);
        }
    }

    /// By its own choice, or because the server asked it to.
    fn hang_up(&mut self, desk: &mut Desk<'_>) {
        let away_ms = if self.is_visitor { desk.plan.away_ms / 2 + self.dice.roll(desk.plan.away_ms) } else { 0 };
        self.leave(desk.now_ns + away_ms * MS);
        self.server = (self.server + 1) % desk.plan.servers.len();
    }

    fn leave(&mut self, until_ns: u64) {
        if let Place::Connected(line) = std::mem::replace(&mut self.place, Place::Away { until_ns }) {
            self.reconnects += 1;
            // What was to be repeated on this connection and had no WELCOME yet comes behind what it has sent: nothing.
            let unanswered = line.unanswered();
            unanswered.into_iter().rev().for_each(|name| self.repeats.push_front(name));
        }
    }

    /// The run settles: whoever is away comes now.
    pub fn come(&mut self, by_ns: u64) {
        if let Place::Away { until_ns } = &mut self.place {
            *until_ns = (*until_ns).min(by_ns);
        }
    }
}

fn send_again(name: Name, line: &mut Line, to: &[Correspondent], desk: &mut Desk<'_>) {
    let Some(stamp) = desk.account.on_resend(name) else { return };
    let Some(recipient) = to.iter().find(|to| to.pair == name.pair) else { return };
    stamp.write(desk.body, desk.plan.body);
    line.send(name, stamp.id, (&recipient.name, desk.body));
}
