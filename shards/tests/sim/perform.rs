//! What the shell does: performs actions, routes messages between executors and nodes, moves frames of clients.
//! Everything that crosses the wall outwards passes here, so the checkers are called here.

use iris_shards::event::{Action, EdgeEvent};
use iris_shards::id::{Login, MessageId, Sequence, SessionId};
use iris_shards::peer::{Message, Peer, ToCore, ToCores, ToEdge};
use iris_shards::storage::{Record, StorageRequest};

use crate::check::{acknowledged, bounds, confirmed, ensure, login, once, slow};
use crate::connection::{Connection, Down, Up};
use crate::ledger::{ConnectionIx, MessageIx};
use crate::plan::{FrameKind, MessageKind};
use crate::process::{Arrival, Parcel};
use crate::world::World;

/// An executor's place: node and executor.
type At = (usize, usize);

impl World {
    pub fn perform(&mut self, node: usize, executor: usize, action: Action) {
        match action {
            Action::Peer(peer) => self.route((node, executor), peer),
            Action::Connect { node: to, .. } => self.on_wanted(node, to.0 as usize),
            Action::Storage(request) => self.request((node, executor), request),
            Action::Lost { user, id } => {
                let verdict = ensure(false, "acknowledged", || format!("{id} of {user} was lost on disk"));
                self.judge(verdict);
            }
            Action::Welcome { session, clock_ms, .. } => {
                self.write((node, executor), session, Down::Welcome { clock_ms });
            }
            Action::Deliver { session, sequence, messages } => {
                for (sequence, message) in (sequence.0..).map(Sequence).zip(messages) {
                    self.deliver((node, executor), session, sequence, message);
                }
            }
            Action::Confirm { session, level, run } => {
                let Some(ix) = self.connection_at((node, executor), session) else { return };
                if slow::applies(&self.plan) {
                    self.judge(slow::confirm(&self.plan, &self.connections[ix], run, self.now_us));
                }
                let connection = &mut self.connections[ix];
                let verdict = confirmed::confirm(&self.ledger, &self.plan, connection, level, run);
                self.judge(verdict);
                self.write((node, executor), session, Down::Confirm { level, run });
                self.cut_on_frame(ix, FrameKind::Confirm);
            }
            Action::Refuse { session, sequence, refusal } => {
                let Some(ix) = self.connection_at((node, executor), session) else { return };
                let verdict = confirmed::refuse(&mut self.connections[ix], sequence);
                let refused = self.connections[ix].sent.get(sequence.0 as usize - 1).map(|sent| sent.0);
                if let Some(message) = refused {
                    self.connections[ix].held.remove(&message);
                    let is_left = self.is_on_another_connection(ix, message);
                    let note = &mut self.ledger.notes[message];
                    note.is_doubtful |= note.under_way > 0 || is_left;
                    self.ledger.on_refused(message);
                }
                self.judge(verdict);
                let down = Down::Refused { sequence, code: refusal.code, wait_ms: refusal.wait_ms };
                self.write((node, executor), session, down);
            }
            Action::Presence { session, request, user, state } => {
                let about = self.users[&user];
                self.write((node, executor), session, Down::Presence { request, about, state });
            }
            Action::Pong { session, .. } => self.write((node, executor), session, Down::Pong),
            Action::Drain { session, wait_ms } => self.write((node, executor), session, Down::Drain { wait_ms }),
            Action::Close { session, farewell } => {
                let Some(ix) = self.connection_at((node, executor), session) else { return };
                let mut verdict = bounds::close(&self.connections[ix], farewell.code);
                if farewell.code == iris_shards::frame::Code::TakenOver {
                    self.ledger.counts.take_overs += 1;
                    verdict = verdict.and(login::taken_over(ix, &self.connections));
                }
                self.judge(verdict);
                self.say(|| format!("{node}.{executor} closes connection {ix}: {farewell:?}"));
                let (code, wait_ms) = (farewell.code, farewell.wait_ms);
                self.write((node, executor), session, Down::Close { code, wait_ms });
                let connection = &mut self.connections[ix];
                connection.is_ended = true;
                connection.is_mute = false;
                connection.down.push_back(Down::End);
                connection.up.clear();
                connection.up.push_back(Up::End);
            }
        }
    }

    /// Whether a connection of before still brings this message to its server, or that has it and has not sent it on yet:
    /// it was refused on this one only.
    fn is_on_another_connection(&self, this: ConnectionIx, message: MessageIx) -> bool {
        let client = self.connections[this].client;
        let mut others =
            self.connections.iter().enumerate().filter(|(ix, other)| *ix != this && other.client == client);
        let brings = |other: &Connection| {
            let is_it = |up: &Up| matches!(up, Up::Send(sequence) if other.sent[sequence.0 as usize - 1].0 == message);
            other.up.iter().any(is_it)
        };
        others.any(|(_, other)| brings(other) || other.held.contains(&message))
    }

    /// A message leaves its sender's edge.
    fn note_sent_on(&mut self, login: Login, id: MessageId) {
        self.ledger.on_sent_on(id);
        if let (Some(&connection), Some(message)) = (self.ledger.logins.get(&login), self.ledger.find(id)) {
            self.connections[connection].held.remove(&message);
        }
    }

    fn connection_at(&self, (node, executor): At, session: SessionId) -> Option<ConnectionIx> {
        self.processes[node].executors.get(executor)?.sessions.get(session.0 as usize).copied().flatten()
    }

    fn write(&mut self, at: At, session: SessionId, frame: Down) {
        let Some(ix) = self.connection_at(at, session) else { return };
        self.say(|| format!("{}.{} -> user {} (connection {ix}): {frame:?}", at.0, at.1, self.connections[ix].client));
        if self.plan.as_bytes {
            self.judge(crate::wire::check_down(&frame));
        }
        self.connections[ix].write(frame, self.plan.out_frames_max);
    }

    fn deliver(&mut self, at: At, session: SessionId, sequence: Sequence, message: Message) {
        let Some(ix) = self.connection_at(at, session) else { return };
        let found = self.ledger.find(message.key.id);
        let found = found.filter(|&found| self.clients[self.ledger.notes[found].from].user == message.key.sender);
        let client = self.connections[ix].client;
        let verdict = once::deliver(&self.ledger, client, found, &message.body);
        let is_fair = verdict.is_ok();
        self.judge(verdict);
        let Some(message) = found.filter(|_| is_fair) else { return };
        self.ledger.on_shown(message, self.plan.copies);
        let connection = &mut self.connections[ix];
        connection.delivered.push(message);
        if self.ledger.notes[message].taken == 0 {
            connection.unacknowledged.insert(message);
        }
        let verdict = bounds::deliver(&self.plan, connection, sequence);
        self.judge(verdict);
        self.write(at, session, Down::Deliver { sequence, message });
        self.cut_on_frame(ix, FrameKind::Deliver);
    }

    fn cut_on_frame(&mut self, connection: ConnectionIx, kind: FrameKind) {
        let client = self.connections[connection].client;
        let Some(at) = self.armed_frames.iter().position(|armed| *armed == (client, kind)) else { return };
        self.armed_frames.swap_remove(at);
        let keep_down = self.connections[connection].down.len().saturating_sub(1);
        let keep_up = self.rng.index(self.connections[connection].up.len() + 1);
        self.say(|| format!("connection {connection} is cut on {kind:?}"));
        self.ledger.counts.connection_cuts += 1;
        self.connections[connection].cut(keep_up, keep_down);
    }

    fn request(&mut self, (node, executor): At, request: StorageRequest) {
        self.say(|| format!("{node}.{executor} {request:?}"));
        let this = &mut self.processes[node].executors[executor];
        let trimmed = this.engine.request(request, self.now_us, &mut self.rng);
        let Some(Record::Entry(entry)) = trimmed else { return };
        let Some(message) = self.ledger.find(entry.key.id) else { return };
        let is_taken = self.ledger.notes[message].taken > 0;
        let elsewhere = !is_taken
            && (this.engine.ids().contains(&entry.key.id) || self.is_handed_over((node, executor), entry.key.id));
        self.judge(acknowledged::trimmed(&self.ledger, &self.plan, message, (elsewhere, self.now_us)));
    }

    /// Whether as many other nodes as are needed have it on their disks. One that had it counts as long as word from there
    /// is on its way to this executor: that its disk was wiped, or that it has given it to others, cannot be known yet.
    fn is_handed_over(&self, (node, executor): At, id: MessageId) -> bool {
        let arrivals = &self.processes[node].executors[executor].arrivals;
        let flushed = self.ledger.find(id).map_or(0, |message| self.ledger.notes[message].flushed);
        let had = |other: usize| flushed & (1 << other) != 0 && !arrivals[other].is_empty();
        let others = self.processes.iter().filter(|process| process.ix != node);
        let have: Vec<bool> = others.clone().map(|process| process.kept().contains(&id)).collect();
        let count = others.zip(&have).filter(|(process, has)| **has || had(process.ix)).count();
        self.plan.views.len() > 1 && have.contains(&true) && count >= usize::from(self.plan.core.copies_min)
    }

    /// A message leaves an executor.
    fn route(&mut self, from: At, peer: Peer) {
        self.observe(from, &peer);
        match peer {
            Peer::Core { node, slot, message } => {
                let (node, executors) = (node.0 as usize, self.plan.nodes[node.0 as usize].executors);
                self.send(from, (node, slot.home(executors).0 as usize), Parcel::Core(message));
            }
            Peer::Cores { node, message } => {
                let node = node.0 as usize;
                if self.refreshes_lost && matches!(message, ToCores::Refresh(_)) {
                    return;
                }
                for executor in 0..self.plan.nodes[node].executors as usize {
                    self.send(from, (node, executor), Parcel::Cores(message.clone()));
                }
            }
            Peer::Edge { at, message } => {
                self.send(from, (at.node.0 as usize, at.executor.0 as usize), Parcel::Edge(message));
            }
        }
    }

    fn send(&mut self, from: At, to: At, parcel: Parcel) {
        if from.0 == to.0 {
            let Some(this) = self.processes[to.0].executors.get_mut(to.1) else { return };
            let queue = if from.1 == to.1 { &mut this.local } else { &mut this.mesh[from.1] };
            return queue.push_back(parcel);
        }
        self.cut_on_message(from.0, to.0, &parcel);
        let view = self.processes[from.0].executors[from.1].view[to.0];
        if self.links.generation(from.0, to.0) == Some(view)
            && let Some(this) = self.processes[to.0].executors.get_mut(to.1)
        {
            this.arrivals[from.0].push_back(Arrival::Parcel(parcel));
        } else {
            self.say(|| format!("lost from {} to {}: {parcel:?}", from.0, to.0));
        }
    }

    fn cut_on_message(&mut self, from: usize, to: usize, parcel: &Parcel) {
        if self.armed_messages.is_empty() {
            return;
        }
        let Some(kind) = kind_of(parcel) else { return };
        let Some(at) = self.armed_messages.iter().position(|armed| *armed == (from, to, kind)) else { return };
        self.armed_messages.swap_remove(at);
        self.say(|| format!("the link {from}-{to} is cut on {kind:?}"));
        self.cut_link(from, to);
    }

    /// Claims of machines, as they leave.
    fn observe(&mut self, (node, executor): At, peer: &Peer) {
        match peer {
            Peer::Core { message: ToCore::Register { login, .. }, .. } => self.note_login((node, executor), *login),
            Peer::Edge { message: ToEdge::Stored { to, last, copies, .. }, .. } => {
                for message in self.run_of(to.login, to.sequence, *last) {
                    self.ledger.counts.stored += 1;
                    let verdict = acknowledged::stored(&mut self.ledger, &self.plan, message, *copies);
                    self.judge(verdict);
                }
            }
            Peer::Edge { message: ToEdge::Delivered { to, last, .. }, .. } => {
                for message in self.run_of(to.login, to.sequence, *last) {
                    self.ledger.counts.delivered += 1;
                    let verdict = acknowledged::delivered(&self.ledger, message);
                    self.judge(verdict);
                }
            }
            Peer::Edge { message: ToEdge::Refused { to, refusal }, .. } => {
                // What found no room here may have found it at another replica, and comes from there when it comes.
                let is_kept_once = self.plan.copies == 1 && self.plan.views.len() == 1;
                let is_gone = refusal.code != iris_shards::frame::Code::DiskFull || is_kept_once;
                for message in self.run_of(to.login, to.sequence, to.sequence) {
                    if is_gone {
                        self.ledger.on_turned_down(message);
                    }
                    self.ledger.on_refused(message);
                }
            }
            Peer::Edge { message: ToEdge::Direct { messages, origin, .. }, .. } => {
                self.ledger.counts.direct += messages.len() as u64;
                for message in messages {
                    self.note_sent_on(origin.login, message.key.id);
                }
            }
            Peer::Edge { message: ToEdge::Deliver { message, .. }, .. } => {
                if let Some(message) = self.ledger.find(message.key.id) {
                    self.ledger.on_under_way(message, self.plan.copies);
                }
            }
            Peer::Core { message: ToCore::Append { message, origin, .. }, .. } => {
                // A session whose cores cannot be reached yet has not registered.
                self.note_login((node, executor), origin.login);
                self.note_sent_on(origin.login, message.key.id);
            }
            Peer::Edge { message: ToEdge::Bounce { to }, .. } => {
                self.ledger.counts.bounced += 1;
                // A core that does not keep the shard any more bounces what it still hands over.
                let is_gone = self.plan.views.len() == 1;
                for message in self.run_of(to.login, to.sequence, to.sequence) {
                    if is_gone {
                        self.ledger.on_turned_down(message);
                    }
                }
            }
            _ => {}
        }
    }

    fn note_login(&mut self, (node, executor): At, login: Login) {
        let sessions = &self.processes[node].executors[executor].sessions;
        if let Some(Some(connection)) = sessions.get(login.at.session.0 as usize) {
            self.ledger.logins.insert(login, *connection);
        }
    }

    /// The messages of a run of sequences; all of them are of one pair.
    fn run_of(&mut self, login: Login, first: Sequence, last: Sequence) -> Vec<MessageIx> {
        let Some(&connection) = self.ledger.logins.get(&login) else {
            self.ledger.counts.unknown_logins += 1;
            return Vec::new();
        };
        let run: Vec<MessageIx> = self.connections[connection].run(first, last).collect();
        let to = run.first().map(|&message| self.ledger.notes[message].to);
        let one_pair = run.iter().all(|&message| Some(self.ledger.notes[message].to) == to);
        let verdict = ensure(one_pair && !run.is_empty() && first <= last, "confirmed", || {
            format!("the run {first:?}..={last:?} of connection {connection} is not of one pair")
        });
        self.judge(verdict);
        run
    }

    /// The next thing that a connection brings to its server.
    pub fn take_up(&mut self, ix: ConnectionIx) {
        let (node, executor) = (self.connections[ix].node, self.connections[ix].executor);
        let session = match self.connections[ix].session {
            Some(session) => session,
            None => self.accept(ix),
        };
        if std::mem::take(&mut self.connections[ix].tell_overfull) {
            if !self.connections[ix].is_ended {
                self.tell_edge(node, executor, EdgeEvent::Overfull(session));
            }
            return;
        }
        let client = self.connections[ix].client;
        if self.connections[ix].up.front() == Some(&Up::Hello) {
            let home = iris_shards::slot::slot_of(self.clients[client].user.as_bytes());
            let home = home.home(self.plan.nodes[node].executors).0 as usize;
            if home != executor {
                return self.hand_over(ix, home);
            }
            self.connections[ix].at_home = true;
        }
        let Some(up) = self.connections[ix].up.pop_front() else { return };
        self.note(0x7570, ix as u64);
        if up == Up::End {
            self.say(|| format!("{node}.{executor}: connection {ix} is gone"));
            self.connections[ix].is_served = false;
            self.leave(ix);
        } else {
            self.take_frame(ix, session, &up);
        }
    }

    fn accept(&mut self, ix: ConnectionIx) -> SessionId {
        let (node, executor) = (self.connections[ix].node, self.connections[ix].executor);
        let this = &mut self.processes[node].executors[executor];
        let session = this.free_session();
        this.sessions[session.0 as usize] = Some(ix);
        self.connections[ix].session = Some(session);
        self.tell_edge(node, executor, EdgeEvent::Opened(session));
        session
    }

    /// Before its HELLO a connection moves to the home executor of its user.
    fn hand_over(&mut self, ix: ConnectionIx, home: usize) {
        self.leave(ix);
        self.connections[ix].executor = home;
        let node = self.connections[ix].node;
        self.processes[node].executors[home].connections.push(ix);
    }

    fn leave(&mut self, ix: ConnectionIx) {
        let connection = &mut self.connections[ix];
        let (node, executor) = (connection.node, connection.executor);
        let session = connection.session.take();
        connection.held.clear();
        self.processes[node].executors[executor].connections.retain(|&other| other != ix);
        if let Some(session) = session {
            self.tell_edge(node, executor, EdgeEvent::Gone(session));
            if let Some(this) = self.processes[node].executors.get_mut(executor) {
                this.sessions[session.0 as usize] = None;
            }
        }
    }
}

fn kind_of(parcel: &Parcel) -> Option<MessageKind> {
    match parcel {
        Parcel::Core(ToCore::Append { .. }) => Some(MessageKind::Append),
        Parcel::Core(ToCore::Ack { .. }) => Some(MessageKind::Ack),
        Parcel::Core(ToCore::Replica(_)) => Some(MessageKind::Replica),
        Parcel::Edge(ToEdge::Direct { .. }) => Some(MessageKind::Direct),
        Parcel::Edge(ToEdge::Stored { .. }) => Some(MessageKind::Stored),
        Parcel::Edge(ToEdge::Delivered { .. }) => Some(MessageKind::Delivered),
        Parcel::Edge(ToEdge::Bounce { .. }) => Some(MessageKind::Bounce),
        _ => None,
    }
}
