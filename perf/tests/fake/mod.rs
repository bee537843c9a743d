//! A small server that speaks the protocol, in this process: a thread for each connection, everything else in memory
//! under one lock. It can break a promise on purpose, so that the checker can be seen to notice.

use iris_shards::frame::{
    ClientFrame, Decoded, Deliver, LEVEL_DELIVERED, LEVEL_STORED, ServerFrame, Welcome, confirm, decode_client, deliver,
};
use iris_shards::id::{MessageId, Sequence};
use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the server does wrong, once, at the hundredth message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The message is confirmed and never delivered.
    Lose,
    /// It is delivered twice.
    Repeat,
    /// It is delivered after the one behind it.
    Swap,
    /// It is delivered to somebody else.
    Misroute,
    /// It is never confirmed.
    Forget,
    /// It is refused.
    Refuse,
    /// The connection ends.
    Hang,
    /// A message to somebody who is away is called delivered.
    Pretend,
}

struct Message {
    sender: String,
    /// The sender's session, to which the sequence belongs.
    session: u64,
    sequence: u64,
    id: MessageId,
    body: Vec<u8>,
}

struct Session {
    number: u64,
    stream: TcpStream,
    out: Vec<u8>,
    delivered: u64,
    unacknowledged: VecDeque<(u64, Message)>,
}

#[derive(Default)]
struct World {
    sessions: HashMap<String, Session>,
    inboxes: HashMap<String, VecDeque<Message>>,
    messages: u64,
    logins: u64,
    held: Option<(String, Message)>,
}

/// Starts it. It runs until the test ends.
pub fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let world = Arc::new(Mutex::new(World::default()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let world = world.clone();
            thread::spawn(move || serve(stream, &world, fault));
        }
    });
    address
}

fn serve(mut stream: TcpStream, world: &Mutex<World>, fault: Fault) {
    stream.set_nodelay(true).expect("a TCP socket");
    let (mut input, mut buffer, mut user) = (Vec::new(), vec![0; 64 << 10], (String::new(), 0));
    while let Ok(received) = stream.read(&mut buffer) {
        if received == 0 {
            break;
        }
        input.extend_from_slice(&buffer[..received]);
        let mut world = world.lock().expect("no test panicked here");
        let mut at = 0;
        while let Ok(Decoded::Frame { frame, used }) = decode_client(&input[at..], 1 << 20) {
            at += used;
            if !world.on_frame(frame, &mut user, &stream, fault) {
                world.sessions.remove(&user.0);
                return;
            }
        }
        input.drain(..at);
        world.flush();
    }
    world.lock().expect("no test panicked here").on_end(&user);
}

impl World {
    fn on_frame(&mut self, frame: ClientFrame<'_>, user: &mut (String, u64), stream: &TcpStream, fault: Fault) -> bool {
        match frame {
            ClientFrame::Hello(hello) => {
                self.logins += 1;
                *user = (String::from_utf8(hello.user.to_vec()).expect("UTF-8"), self.logins);
                self.on_hello(&user.0, stream.try_clone().expect("a socket"));
            }
            ClientFrame::Send { sequence, id, recipient, body } => {
                let recipient = String::from_utf8(recipient.to_vec()).expect("UTF-8");
                let (sender, session) = user.clone();
                let message = Message { sender, session, sequence: sequence.0, id, body: body.to_vec() };
                return self.on_send(recipient, message, fault);
            }
            ClientFrame::Ack { ranges } => {
                for (first, last) in ranges {
                    self.on_ack(&user.0, first, last, fault);
                }
            }
            _ => {}
        }
        true
    }

    fn on_hello(&mut self, user: &str, stream: TcpStream) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
        let (number, unacknowledged) = (self.logins, VecDeque::new());
        let mut session = Session { number, stream, out: Vec::new(), delivered: 0, unacknowledged };
        ServerFrame::Welcome(Welcome {
            version: 1,
            capabilities: 0,
            region: "test",
            node: "fake",
            window_messages: 1_024,
            window_bytes: 4 << 20,
            body_bytes_max: 64 << 10,
            frame_bytes_max: 70_000,
            silent_ms_max: 0,
            clock: now,
        })
        .encode(&mut session.out);
        let waiting = self.inboxes.remove(user).unwrap_or_default();
        waiting.into_iter().for_each(|message| session.deliver(message));
        self.sessions.insert(user.to_owned(), session);
    }

    fn on_send(&mut self, recipient: String, message: Message, fault: Fault) -> bool {
        self.messages += 1;
        if self.messages == 100 {
            return self.on_hundredth(recipient, message, fault);
        }
        let behind = self.held.take_if(|(_, held)| held.sender == message.sender);
        self.take(recipient, message, LEVEL_STORED);
        if let Some((recipient, message)) = behind {
            self.take(recipient, message, LEVEL_STORED);
        }
        true
    }

    fn on_hundredth(&mut self, recipient: String, message: Message, fault: Fault) -> bool {
        match fault {
            Fault::Lose => self.confirm(&message, LEVEL_DELIVERED),
            Fault::Repeat => {
                let Message { id, ref sender, session, ref body, sequence } = message;
                let twin = Message { id, sender: sender.clone(), session, body: body.clone(), sequence };
                self.take(recipient.clone(), twin, LEVEL_STORED);
                self.take(recipient, message, LEVEL_STORED);
            }
            Fault::Swap => self.held = Some((recipient, message)),
            Fault::Misroute => {
                let sender = message.sender.clone();
                self.take(sender, message, LEVEL_STORED);
            }
            Fault::Refuse => {
                let sequence = Sequence(message.sequence);
                let refused = ServerFrame::Refused { sequence, code: 24, wait_ms: 10, reason: "on purpose" };
                self.sessions.get_mut(&message.sender).into_iter().for_each(|sender| refused.encode(&mut sender.out));
            }
            Fault::Hang => return false,
            Fault::Pretend => self.take(recipient, message, LEVEL_DELIVERED),
            Fault::None | Fault::Forget => self.take(recipient, message, LEVEL_STORED),
        }
        true
    }

    /// Delivers, or keeps and confirms with `level`.
    fn take(&mut self, recipient: String, message: Message, level: u8) {
        match self.sessions.get_mut(&recipient) {
            Some(session) => session.deliver(message),
            None => {
                self.confirm(&message, level);
                self.inboxes.entry(recipient).or_default().push_back(message);
            }
        }
    }

    fn on_ack(&mut self, user: &str, first: u64, last: u64, fault: Fault) {
        let Some(session) = self.sessions.get_mut(user) else { return };
        let is_taken = |(number, _): &(u64, Message)| (first..=last).contains(number);
        let (taken, left): (VecDeque<_>, VecDeque<_>) = session.unacknowledged.drain(..).partition(is_taken);
        session.unacknowledged = left;
        for (_, message) in &taken {
            if fault != Fault::Forget || message.sequence != 10 {
                self.confirm(message, LEVEL_DELIVERED);
            }
        }
    }

    fn confirm(&mut self, message: &Message, level: u8) {
        let sender = self.sessions.get_mut(&message.sender);
        if let Some(sender) = sender.filter(|sender| sender.number == message.session) {
            confirm(&mut sender.out, level, 2 - level, &[(message.sequence, message.sequence)]);
        }
    }

    fn flush(&mut self) {
        for session in self.sessions.values_mut().filter(|session| !session.out.is_empty()) {
            let _client_gone = session.stream.write_all(&session.out);
            session.out.clear();
        }
    }

    /// What was not acknowledged waits, and its senders hear so before they hear of anything later.
    fn on_end(&mut self, (user, number): &(String, u64)) {
        if self.sessions.get(user).is_none_or(|session| session.number != *number) {
            return;
        }
        let Some(session) = self.sessions.remove(user) else { return };
        let waiting: Vec<Message> = session.unacknowledged.into_iter().map(|(_, message)| message).collect();
        waiting.iter().for_each(|message| self.confirm(message, LEVEL_STORED));
        self.inboxes.entry(user.clone()).or_default().extend(waiting);
        self.flush();
    }
}

impl Session {
    fn deliver(&mut self, message: Message) {
        self.delivered += 1;
        let Message { id, ref sender, ref body, .. } = message;
        deliver(&mut self.out, &Deliver { sequence: Sequence(self.delivered), id, sent_at: 0, sender, body });
        self.unacknowledged.push_back((self.delivered, message));
    }
}
