//! The client against a server that is played by the test, so that it can fail at any moment.

use super::*;
use iris_shards::frame::{
    Decoded, Deliver, LEVEL_DELIVERED, LEVEL_STORED, ServerFrame, Welcome, confirm, decode_client,
};
use iris_shards::id::Sequence;
use std::io::Read;
use std::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a client sends, as far as the tests look at it.
#[derive(Debug, PartialEq)]
enum Heard {
    Hello(String),
    Send(u64, MessageId),
    Ack(Vec<(u64, u64)>),
    Other,
}

/// One connection of the played server.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    /// Lets a client in. `window_messages` is what it may send.
    fn accept(listener: &TcpListener, window_messages: u32) -> Peer {
        let (stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut peer = Peer { stream, input: Vec::new() };
        assert_eq!(peer.hear(), Heard::Hello("alice".into()));
        let (region, node) = ("here", "n1");
        peer.say(&ServerFrame::Welcome(Welcome {
            version: 1,
            capabilities: 1,
            region,
            node,
            window_messages,
            window_bytes: 1 << 20,
            body_bytes_max: 1 << 16,
            frame_bytes_max: 1 << 17,
            silent_ms_max: 0,
            clock: 1_700_000_000_000,
        }));
        peer
    }

    fn say(&mut self, frame: &ServerFrame<'_>) {
        let mut out = Vec::new();
        frame.encode(&mut out);
        self.stream.write_all(&out).expect("written");
    }

    fn hear(&mut self) -> Heard {
        loop {
            if let Ok(Decoded::Frame { frame, used }) = decode_client(&self.input, 1 << 20) {
                let heard = match frame {
                    ClientFrame::Hello(hello) => Heard::Hello(String::from_utf8_lossy(hello.user).into_owned()),
                    ClientFrame::Send { sequence, id, .. } => Heard::Send(sequence.0, id),
                    ClientFrame::Ack { ranges } => Heard::Ack(ranges.iter().collect()),
                    _ => Heard::Other,
                };
                self.input.drain(..used);
                return heard;
            }
            let mut bytes = [0; 4_096];
            let length = self.stream.read(&mut bytes).expect("bytes in time");
            assert!(length > 0, "the client has gone");
            self.input.extend_from_slice(&bytes[..length]);
        }
    }

    fn deliver(&mut self, sequence: u64, id: MessageId) {
        let sequence = Sequence(sequence);
        self.say(&ServerFrame::Deliver(Deliver { sequence, id, sent_at: 5, sender: "bob", body: b"hi" }));
    }
}

fn server() -> (TcpListener, Login) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = listener.local_addr().expect("an address").to_string();
    (listener, Login { server, user: "alice".into(), reconnect: true })
}

/// Both ends of a first connection.
fn connected(window_messages: u32) -> (TcpListener, Peer, Client, Receiver<Event>) {
    let (listener, login) = server();
    let client = std::thread::spawn(move || Client::connect(login));
    let peer = Peer::accept(&listener, window_messages);
    let (client, events) = client.join().expect("no panic").expect("connected");
    (listener, peer, client, events)
}

fn until<T>(events: &Receiver<Event>, wanted: impl Fn(Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(events.recv_timeout(PATIENCE).expect("an event in time")) {
            return found;
        }
    }
}

#[test]
fn what_was_not_answered_is_repeated_in_order_before_anything_new() {
    let (listener, mut peer, client, events) = connected(2);
    let ids: Vec<_> = (0..4).map(|_| client.send("bob", b"x").expect("taken")).collect();
    assert!(ids.is_sorted() && ids[0].time_ms() >= 1_700_000_000_000);
    assert_eq!([peer.hear(), peer.hear()], [Heard::Send(1, ids[0]), Heard::Send(2, ids[1])]);
    let mut out = Vec::new();
    confirm(&mut out, LEVEL_STORED, 1, &[(1, 1)]);
    peer.stream.write_all(&out).expect("written");
    assert_eq!(peer.hear(), Heard::Send(3, ids[2]));
    drop(peer);
    let mut peer = Peer::accept(&listener, 10);
    assert_eq!([1, 2, 3].map(|n| Heard::Send(n, ids[n as usize])), [peer.hear(), peer.hear(), peer.hear()]);
    let mut out = Vec::new();
    confirm(&mut out, LEVEL_DELIVERED, 0, &[(1, 3)]);
    peer.stream.write_all(&out).expect("written");
    let is = |wanted| move |event| matches!(event, Event::Delivered(id) if id == wanted).then_some(());
    ids[1..].iter().for_each(|id| until(&events, is(*id)));
}

#[test]
fn a_message_is_shown_once_and_acknowledged_on_the_connection_it_came_on() {
    let (listener, mut peer, client, events) = connected(2);
    let id = MessageId::v7(1, 1);
    peer.deliver(1, id);
    let message = until(&events, |event| match event {
        Event::Message(message) => Some(message),
        _ => None,
    });
    drop(peer);
    let mut peer = Peer::accept(&listener, 2);
    peer.deliver(1, MessageId::v7(1, 2));
    peer.deliver(2, id);
    until(&events, |event| matches!(event, Event::Message(_)).then_some(()));
    // The repeat was read by now, or is about to be; then the acknowledgement names the new delivery.
    std::thread::sleep(Duration::from_millis(200));
    client.acknowledge(&message);
    assert_eq!(peer.hear(), Heard::Ack(vec![(2, 2)]));
    peer.deliver(3, id);
    assert_eq!(peer.hear(), Heard::Ack(vec![(3, 3)]));
}

#[test]
fn a_take_over_ends_the_client() {
    let (_listener, mut peer, client, events) = connected(2);
    peer.say(&ServerFrame::Close { code: Code::TakenOver.number(), wait_ms: 0, reason: "elsewhere" });
    let error = until(&events, |event| match event {
        Event::Ended(error) => Some(error),
        _ => None,
    });
    assert_eq!(error.to_string(), "the server closed the connection: taken_over (elsewhere)");
    assert!(client.send("bob", b"x").is_err());
}

#[test]
fn watches_are_asked_again_after_a_reconnect() {
    let (listener, mut peer, client, _events) = connected(2);
    client.watch("bob").expect("a good name");
    assert_eq!(peer.hear(), Heard::Other);
    drop(peer);
    let mut peer = Peer::accept(&listener, 2);
    assert_eq!(peer.hear(), Heard::Other);
}
