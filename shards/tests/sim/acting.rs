//! What clients do: connect, send, read, take, acknowledge. One thing per step.

use iris_shards::event::Level;
use iris_shards::frame::Code;
use iris_shards::id::Sequence;

use crate::check::{once, order};
use crate::client::Received;
use crate::connection::{Answer, Connection, Down, Up};
use crate::ledger::{ClientIx, ConnectionIx, MessageIx, Told};
use crate::world::World;

/// Times that a client logs in again after everything was healed.
const TAKEN_OVER_MAX: u32 = 2;

#[derive(Debug, Clone, Copy)]
enum Act {
    Read(ConnectionIx),
    Take,
    Acknowledge,
    Transmit,
    Connect,
    Retry,
}

impl World {
    /// One thing that this client can do. False if there is nothing.
    pub fn client_acts(&mut self, ix: ClientIx) -> bool {
        let mut acts = Vec::with_capacity(8);
        self.acts(ix, &mut acts);
        if acts.is_empty() {
            return false;
        }
        let act = self.rng.pick(&acts);
        match act {
            Act::Read(connection) => self.read(ix, connection),
            Act::Take => self.take_message(ix),
            Act::Acknowledge => self.acknowledge(ix),
            Act::Transmit => self.transmit(ix),
            Act::Connect => self.connect(ix),
            Act::Retry => {
                let again = self.clients[ix].retry(self.now_us);
                again.into_iter().for_each(|message| self.ledger.on_queued_again(message));
            }
        }
        true
    }

    fn acts(&self, ix: ClientIx, acts: &mut Vec<Act>) {
        let client = &self.clients[ix];
        if !client.is_deaf {
            let readable = client.reading.iter().filter(|&&connection| !self.connections[connection].down.is_empty());
            acts.extend(readable.map(|&connection| Act::Read(connection)));
        }
        if !client.is_paused && !client.queue.is_empty() {
            acts.push(Act::Take);
        }
        if client.refused.iter().any(|(due, _)| *due <= self.now_us) {
            acts.push(Act::Retry);
        }
        match client.connection {
            Some(connection) => {
                if !client.acknowledge.is_empty() {
                    acts.push(Act::Acknowledge);
                }
                let window = (self.plan.edge.window_messages as usize, self.plan.edge.window_bytes as usize);
                let welcomed = self.connections[connection].is_welcomed;
                if client.may_transmit(window, welcomed, |message| self.ledger.notes[message].bytes) {
                    acts.push(Act::Transmit);
                }
            }
            None if !client.is_out && client.away_until_us <= self.now_us => acts.push(Act::Connect),
            None => {}
        }
    }

    fn connect(&mut self, ix: ClientIx) {
        let up = |node: &usize| self.plan.nodes[*node].edge && self.processes[*node].is_up();
        let edges: Vec<usize> = (0..self.processes.len()).filter(up).collect();
        if edges.is_empty() {
            self.clients[ix].away_until_us = self.now_us + 10_000;
            return;
        }
        let node = self.rng.pick(&edges);
        self.connect_to(ix, node);
    }

    /// Opens a connection to this node and says HELLO.
    pub fn connect_to(&mut self, ix: ClientIx, node: usize) {
        let executor = self.rng.index(self.processes[node].executors.len());
        let connection = self.connections.len();
        self.say(|| format!("user {ix} connects to {node}.{executor}: connection {connection}"));
        self.connections.push(Connection::new(ix, node, executor));
        self.processes[node].executors[executor].connections.push(connection);
        let client = &mut self.clients[ix];
        client.disconnect(0);
        client.is_out = false;
        client.connection = Some(connection);
        client.reading.push(connection);
    }

    /// The application sends so many messages.
    pub fn submit(&mut self, from: ClientIx, to: ClientIx, count: u32, bytes: usize) {
        let now_ms = self.true_ms();
        for _ in 0..count {
            let id_ms = self.clients[from].id_ms(now_ms);
            let message = self.ledger.add(id_ms, from, to, bytes);
            self.clients[from].pending.push_back(message);
        }
    }

    fn transmit(&mut self, ix: ClientIx) {
        let client = &mut self.clients[ix];
        let Some(connection) = client.connection else { return };
        let message = client.pending[client.transmitted];
        client.transmitted += 1;
        let connection = &mut self.connections[connection];
        connection.sent.push((message, Answer::None));
        connection.heard.push(false);
        if !connection.is_ended {
            connection.up.push_back(Up::Send(Sequence(connection.sent.len() as u64)));
        }
        self.ledger.on_transmit(message, self.now_us);
    }

    fn acknowledge(&mut self, ix: ClientIx) {
        let pairs = self.clients[ix].take_acknowledgements();
        self.push_up(ix, Up::Ack(pairs));
    }

    /// LOOKUP or WATCH.
    pub fn ask(&mut self, ix: ClientIx, about: ClientIx, watch: bool) {
        self.clients[ix].asked += 1;
        let request = self.clients[ix].asked;
        self.push_up(ix, Up::Lookup { request, about, watch });
    }

    fn push_up(&mut self, ix: ClientIx, up: Up) {
        let Some(connection) = self.clients[ix].connection else { return };
        let connection = &mut self.connections[connection];
        if !connection.is_ended {
            connection.up.push_back(up);
        }
    }

    fn take_message(&mut self, ix: ClientIx) {
        let notes = &self.ledger.notes;
        let Some((message, late)) = self.clients[ix].take(|message| notes[message].from) else { return };
        self.say(|| format!("user {ix} takes message {message}{}", if late { ", late" } else { "" }));
        self.note(0x7461, message as u64);
        let verdict = once::take(&self.ledger, ix, message);
        self.judge(verdict);
        let verdict = order::take(&mut self.ledger, &self.plan, message, late);
        self.judge(verdict);
        let stamp = self.ledger.tick();
        let note = &mut self.ledger.notes[message];
        note.taken = stamp;
        let pair = (note.from, note.to);
        self.ledger.takes.entry(pair).or_default().push(message);
        self.ledger.counts.taken += 1;
    }

    fn read(&mut self, ix: ClientIx, connection: ConnectionIx) {
        let this = &mut self.connections[connection];
        let Some(down) = this.down.pop_front() else { return };
        if this.down.len() <= self.plan.out_frames_max {
            this.is_overfull = false;
        }
        if down == Down::End {
            self.clients[ix].reading.retain(|&other| other != connection);
        }
        // What comes on a connection that the client has given up is not looked at.
        if self.clients[ix].connection == Some(connection) {
            self.on_down(ix, connection, down);
        }
    }

    fn on_down(&mut self, ix: ClientIx, connection: ConnectionIx, down: Down) {
        match down {
            Down::Welcome { clock_ms } => {
                self.connections[connection].is_welcomed = true;
                self.clients[ix].clock_ahead_ms = clock_ms as i64 - self.true_ms() as i64;
            }
            Down::Deliver { sequence, message } => {
                let from = self.ledger.notes[message].from;
                let received = self.clients[ix].receive(from, message, (connection, sequence.0));
                self.ledger.counts.repeats += u64::from(received != Received::New);
            }
            Down::Confirm { level, run } => {
                for sequence in run.0.0..=run.1.0 {
                    let (message, _) = self.connections[connection].sent[sequence as usize - 1];
                    let again = std::mem::replace(&mut self.connections[connection].heard[sequence as usize - 1], true);
                    self.on_confirm(ix, (message, again), level);
                }
            }
            Down::Refused { sequence, code, wait_ms } => {
                let (message, _) = self.connections[connection].sent[sequence.0 as usize - 1];
                self.connections[connection].heard[sequence.0 as usize - 1] = true;
                self.on_refused(ix, message, code, wait_ms);
            }
            Down::Presence { about, state, .. } => drop(self.clients[ix].seen.insert(about, state)),
            Down::Close { code, wait_ms } => {
                let away = self.rng.range(0, 20_000).max(u64::from(wait_ms) * 1_000);
                let client = &mut self.clients[ix];
                client.disconnect(self.now_us + away);
                if code == Code::TakenOver {
                    client.taken_over += u32::from(self.is_healed);
                    client.is_out = !self.is_healed || client.taken_over > TAKEN_OVER_MAX;
                }
            }
            Down::Drain { wait_ms } => {
                self.clients[ix].disconnect(self.now_us + u64::from(wait_ms) * 1_000);
                let keep = self.connections[connection].up.len();
                self.cut_connection_at(connection, keep, 0);
            }
            Down::End => {
                let away = self.rng.pick(&[0, 0, 5_000, 50_000]);
                self.clients[ix].disconnect(self.now_us + away);
            }
            Down::Pong => {}
        }
    }

    /// `again`: this SEND had its answer; what comes now frees nothing.
    fn on_confirm(&mut self, ix: ClientIx, (message, again): (MessageIx, bool), level: Level) {
        let told = if level == Level::Delivered { Told::Delivered } else { Told::Stored };
        if !again {
            self.clients[ix].answered(message);
        }
        let note = &mut self.ledger.notes[message];
        note.told = note.told.max(told);
    }

    fn on_refused(&mut self, ix: ClientIx, message: MessageIx, code: Code, wait_ms: u32) {
        self.say(|| format!("user {ix}: message {message} is refused with {code:?}, wait {wait_ms}"));
        if !self.clients[ix].answered(message) {
            return;
        }
        if wait_ms == 0 {
            self.ledger.notes[message].abandoned = true;
        } else {
            self.clients[ix].refused.push((self.now_us + u64::from(wait_ms) * 1_000, message));
        }
    }
}
