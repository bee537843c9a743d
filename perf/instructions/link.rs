//! The peer codec: what a message costs on a link between two nodes, at both ends.

use crate::Work;
use crate::leaves::user;
use iris_shards::frame::Decoded;
use iris_shards::id::{
    Body, ExecutorId, Grant, Key, Location, Login, MessageId, NodeId, PairId, Phase, ReturnAddress, Sequence, SessionId,
};
use iris_shards::link::{decode, encode_peer, frame_bytes_max};
use iris_shards::peer::{Message, Peer, ToCore, ToEdge};
use iris_shards::slot::slot_of;
use std::hint::black_box;

pub const MESSAGES: u64 = 1_600;

const RUN: u64 = 16;
const BODY: [u8; 64] = [7; 64];
const FRAME_BYTES_MAX: usize = frame_bytes_max(64 << 10);
const WALL_MS: u64 = 1_700_000_000_000;
const OWN: NodeId = NodeId(7);

/// Runs of 16, acknowledged: DIRECT one way, DELIVERED the other.
pub fn direct() -> Work {
    let (sender, to) = (user("user-000042"), Grant { login: login(OWN), phase: Phase(1) });
    let run = |first: u64| {
        let messages = (first..first + RUN).map(|number| Message {
            key: Key { id: MessageId::v7(WALL_MS + number, number.into()), sender: sender.clone() },
            sent_at: WALL_MS,
            body: Body::from(&BODY[..]),
        });
        let direct = ToEdge::Direct { to, messages: messages.collect(), origin: address(first) };
        let delivered = ToEdge::Delivered { to: address(first), last: Sequence(first + RUN - 1), grant: None };
        [direct, delivered].map(|message| Peer::Edge { at: to.login.at, message })
    };
    over_the_link((0..MESSAGES / RUN).flat_map(|number| run(number * RUN)).collect())
}

/// One by one, each with its confirmation: APPEND one way, STORED the other; and an ACK for each 16.
pub fn append() -> Work {
    let (sender, recipient) = (user("user-000042"), user("user-000043"));
    let slot = slot_of(recipient.as_bytes());
    let append = |number: u64| {
        let key = Key { id: MessageId::v7(WALL_MS + number, number.into()), sender: sender.clone() };
        let message = Message { key, sent_at: WALL_MS, body: Body::from(&BODY[..]) };
        let newest = message.key.id;
        let append = ToCore::Append { user: recipient.clone(), message, origin: address(number) };
        let stored = ToEdge::Stored { to: address(number), last: Sequence(number), newest, copies: 2 };
        [Peer::Core { node: OWN, slot, message: append }, Peer::Edge { at: login(OWN).at, message: stored }]
    };
    let acknowledged = |first: u64| {
        let ids = (first..first + RUN).map(|number| MessageId::v7(WALL_MS + number, number.into()));
        let keys = ids.map(|id| Key { id, sender: sender.clone() }).collect();
        Peer::Core { node: OWN, slot, message: ToCore::Ack { user: recipient.clone(), keys } }
    };
    let run = |first: u64| (first..first + RUN).flat_map(append).chain([acknowledged(first)]);
    over_the_link((0..MESSAGES / RUN).flat_map(|number| run(number * RUN).collect::<Vec<_>>()).collect())
}

fn over_the_link(peers: Vec<Peer>) -> Work {
    let mut out = Vec::with_capacity(MESSAGES as usize * 512);
    let mut work = move || {
        out.clear();
        peers.iter().for_each(|peer| encode_peer(black_box(peer), &mut out));
        let (mut at, mut frames) = (0, 0);
        while let Ok(Decoded::Frame { frame, used }) = decode(black_box(&out[at..]), FRAME_BYTES_MAX, OWN) {
            black_box(frame);
            at += used;
            frames += 1;
        }
        assert_eq!((at, frames), (out.len(), peers.len()));
    };
    Box::new(move |count| count(&mut work))
}

fn login(node: NodeId) -> Login {
    let at = Location { node, executor: ExecutorId(1), session: SessionId(42) };
    Login { stamp: WALL_MS * 1_000, at, boot: 3 }
}

fn address(sequence: u64) -> ReturnAddress {
    ReturnAddress { login: login(OWN), pair: PairId(5), sequence: Sequence(sequence) }
}
