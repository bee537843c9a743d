//! Frames of every kind, made by chance.

use iris_shards::frame::Code;
use iris_shards::id::{
    Body, ExecutorId, Grant, Key, Location, Login, MessageId, NodeId, PairId, Phase, ReturnAddress, SLOTS, Sequence,
    SessionId, Slot, UserId,
};
use iris_shards::link::{Accept, Hello, Introduction, LinkFrame, LinkName, Parcel, Party, Proof, Refuse, RefuseCode};
use iris_shards::peer::{
    Asker, Claim, Claims, FromReplica, Message, PresenceState, Refusal, Standing, ToCore, ToCores, ToEdge,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Who reads.
pub const OWN: NodeId = NodeId(7);

pub fn user() -> impl Strategy<Value = UserId> {
    let character = any::<char>().prop_filter("no control character", |c| !c.is_control());
    vec(character, 1..=63).prop_map(|text| UserId::parse(String::from_iter(text).as_bytes()).expect("valid"))
}

pub fn text(least: usize) -> impl Strategy<Value = String> {
    let character = any::<char>().prop_filter("no control character", |c| !c.is_control());
    vec(character, least..=63).prop_map(String::from_iter)
}

pub fn body() -> impl Strategy<Value = Body> {
    vec(any::<u8>(), 0..400).prop_map(Body::from)
}

pub fn id() -> impl Strategy<Value = MessageId> {
    any::<[u8; 16]>().prop_map(MessageId::from_bytes)
}

pub fn location() -> impl Strategy<Value = Location> {
    any::<(u32, u16, u32)>().prop_map(|(node, executor, session)| Location {
        node: NodeId(node),
        executor: ExecutorId(executor),
        session: SessionId(session),
    })
}

pub fn login() -> impl Strategy<Value = Login> {
    (any::<u64>(), location(), any::<u32>()).prop_map(|(stamp, at, boot)| Login { stamp, at, boot })
}

/// Of a session of the node that reads.
pub fn own_login() -> impl Strategy<Value = Login> {
    login().prop_map(|login| Login { at: Location { node: OWN, ..login.at }, ..login })
}

pub fn address(login: impl Strategy<Value = Login>) -> impl Strategy<Value = ReturnAddress> {
    (login, any::<u32>(), 0..u64::MAX / 2).prop_map(|(login, pair, sequence)| ReturnAddress {
        login,
        pair: PairId(pair),
        sequence: Sequence(sequence),
    })
}

pub fn grant(login: impl Strategy<Value = Login>) -> impl Strategy<Value = Grant> {
    (login, any::<u32>()).prop_map(|(login, phase)| Grant { login, phase: Phase(phase) })
}

pub fn asker(login: impl Strategy<Value = Login>) -> impl Strategy<Value = Asker> {
    (login, any::<u32>()).prop_map(|(login, request)| Asker { login, request })
}

pub fn key() -> impl Strategy<Value = Key> {
    (id(), user()).prop_map(|(id, sender)| Key { id, sender })
}

pub fn message() -> impl Strategy<Value = Message> {
    (key(), any::<u64>(), body()).prop_map(|(key, sent_at, body)| Message { key, sent_at, body })
}

/// Of one sender.
pub fn run() -> impl Strategy<Value = Vec<Message>> {
    let rest = vec((id(), any::<u64>(), body()), 1..20);
    (user(), rest).prop_map(|(sender, rest)| {
        let message = |(id, sent_at, body)| Message { key: Key { id, sender: sender.clone() }, sent_at, body };
        rest.into_iter().map(message).collect()
    })
}

/// Some in a row of one sender.
pub fn keys() -> impl Strategy<Value = Vec<Key>> {
    vec((user(), vec(id(), 1..5)), 1..5).prop_map(|groups| {
        let keys = groups.into_iter().flat_map(|(sender, ids)| {
            ids.into_iter().map(move |id| Key { id, sender: sender.clone() }).collect::<Vec<_>>()
        });
        keys.collect()
    })
}

pub fn slot() -> impl Strategy<Value = Slot> {
    (0..SLOTS).prop_map(Slot)
}

pub fn code() -> impl Strategy<Value = Code> {
    proptest::sample::select(Code::ALL.to_vec())
}

pub fn state() -> impl Strategy<Value = PresenceState> {
    prop_oneof![
        any::<u64>().prop_map(|last_seen| PresenceState::Offline { last_seen }),
        Just(PresenceState::Online),
        Just(PresenceState::Unknown),
    ]
}

pub fn from_replica() -> impl Strategy<Value = (Slot, FromReplica)> {
    let entry = (slot(), user(), message(), any::<bool>());
    prop_oneof![
        entry.prop_map(|(slot, user, message, flushed)| (slot, FromReplica::Entry { user, message, flushed })),
        (slot(), user(), key(), any::<bool>())
            .prop_map(|(slot, user, key, asks)| (slot, FromReplica::Flushed { user, key, asks })),
        (slot(), user(), key(), any::<u64>())
            .prop_map(|(slot, user, key, taken_at)| (slot, FromReplica::Tombstone { user, key, taken_at })),
        (slot(), any::<u64>()).prop_map(|(slot, digest)| (slot, FromReplica::Digest { slot, digest })),
        slot().prop_map(|slot| (slot, FromReplica::Want { slot })),
        slot().prop_map(|slot| (slot, FromReplica::Done { slot })),
        slot().prop_map(|slot| (slot, FromReplica::NoRoom { slot })),
        (slot(), any::<u16>(), any::<u32>(), vec(any::<u32>(), 0..9)).prop_map(|(slot, executor, round, shards)| {
            (slot, FromReplica::Offered { executor: ExecutorId(executor), round, shards })
        }),
        (slot(), any::<u16>(), any::<u32>(), vec(any::<u32>(), 0..9)).prop_map(|(slot, executor, round, shards)| {
            (slot, FromReplica::Compared { executor: ExecutorId(executor), round, shards })
        }),
    ]
}

pub fn to_core() -> impl Strategy<Value = ToCore> {
    let register = (user(), login(), any::<u32>(), any::<Option<u32>>(), any::<bool>());
    prop_oneof![
        register.prop_map(|(user, login, phase, drain, again)| {
            ToCore::Register { user, login, phase: Phase(phase), drain, again }
        }),
        (user(), login()).prop_map(|(user, login)| ToCore::Unregister { user, login }),
        (user(), login(), any::<u32>()).prop_map(|(user, login, phase)| ToCore::PhaseGrown {
            user,
            login,
            phase: Phase(phase)
        }),
        (user(), message(), address(login())).prop_map(|(user, message, origin)| ToCore::Append {
            user,
            message,
            origin
        }),
        (user(), keys()).prop_map(|(user, keys)| ToCore::Ack { user, keys }),
        (user(), asker(login()), any::<bool>()).prop_map(|(user, asker, watch)| ToCore::Lookup { user, asker, watch }),
        (user(), login()).prop_map(|(user, login)| ToCore::Unwatch { user, login }),
    ]
}

fn claim() -> impl Strategy<Value = Claim> {
    let standings = [
        Standing::Outside,
        Standing::Handing,
        Standing::Leaving,
        Standing::Joining,
        Standing::Unsettled,
        Standing::Settled,
    ]
    .to_vec();
    let replicas = vec(any::<u32>().prop_map(NodeId), 0..9);
    (any::<u32>(), replicas, proptest::sample::select(standings)).prop_map(|(shard, replicas, standing)| Claim {
        shard,
        replicas,
        standing,
    })
}

pub fn to_cores() -> impl Strategy<Value = ToCores> {
    let executor = || any::<u16>().prop_map(ExecutorId);
    prop_oneof![
        executor().prop_map(ToCores::Refresh),
        (executor(), any::<u16>(), any::<u32>(), any::<bool>(), vec(claim(), 0..9)).prop_map(
            |(executor, executors, round, asks, claims)| {
                ToCores::Claims(Box::new(Claims { executor, executors, round, asks, claims }))
            }
        ),
    ]
}

pub fn to_edge() -> impl Strategy<Value = ToEdge> {
    let core = || any::<u32>().prop_map(NodeId);
    let to = || address(own_login());
    let sequence = || any::<u64>().prop_map(Sequence);
    let granted = proptest::option::of((id(), grant(login())).prop_map(Box::new));
    prop_oneof![
        (own_login(), core(), login()).prop_map(|(to, core, known)| ToEdge::Outnumbered { to, core, known }),
        own_login().prop_map(|to| ToEdge::Replaced { to }),
        (own_login(), core(), any::<u32>(), message()).prop_map(|(to, core, drain, message)| ToEdge::Deliver {
            to,
            core,
            drain,
            message
        }),
        (grant(own_login()), run(), address(login())).prop_map(|(to, messages, origin)| ToEdge::Direct {
            to,
            messages,
            origin
        }),
        (to(), sequence(), id(), any::<u8>()).prop_map(|(to, last, newest, copies)| ToEdge::Stored {
            to,
            last,
            newest,
            copies
        }),
        (to(), sequence(), granted).prop_map(|(to, last, grant)| ToEdge::Delivered { to, last, grant }),
        to().prop_map(|to| ToEdge::Bounce { to }),
        (to(), code(), any::<u32>())
            .prop_map(|(to, code, wait_ms)| ToEdge::Refused { to, refusal: Refusal { code, wait_ms } }),
        (asker(own_login()), user(), state()).prop_map(|(to, user, state)| ToEdge::Presence { to, user, state }),
        core().prop_map(|core| ToEdge::LeaseEnded { core }),
    ]
}

pub fn parcel() -> impl Strategy<Value = Parcel> {
    prop_oneof![
        4 => (slot(), to_core()).prop_map(|(slot, message)| Parcel::Core { slot, message }),
        3 => from_replica().prop_map(|(slot, message)| Parcel::Core { slot, message: ToCore::Replica(message) }),
        1 => to_cores().prop_map(|message| Parcel::Cores { message }),
        4 => (any::<u16>(), to_edge())
            .prop_map(|(executor, message)| Parcel::Edge { executor: ExecutorId(executor), message }),
    ]
}

pub fn party() -> impl Strategy<Value = Party> {
    let numbers = (any::<u32>(), 1..=u16::MAX, any::<u64>());
    (numbers, (text(1), text(0), text(0)), 1..=3_u8).prop_map(
        |((node, executors, boot), (name, region, address), roles)| {
            let (is_edge, is_core, node) = (roles & 1 != 0, roles & 2 != 0, NodeId(node));
            Party { node, name, region, address, is_edge, is_core, executors, boot }
        },
    )
}

pub fn hello() -> impl Strategy<Value = Hello> {
    let cluster = text(1).prop_map(|text| text.chars().take(16).collect::<String>());
    let last = proptest::option::of(any::<(u32, u64, u64)>());
    (any::<(u8, u8, u64, u64)>(), cluster, party(), last, any::<[u8; 32]>()).prop_map(
        |((version_min, version_max, cluster_hash, attempt), cluster, party, last, nonce)| {
            let last = last.map(|(node, boot, attempt)| LinkName { dialer: NodeId(node), boot, attempt });
            Hello { version_min, version_max, cluster, cluster_hash, party, attempt, last, nonce }
        },
    )
}

pub fn accept() -> impl Strategy<Value = Accept> {
    (any::<u8>(), party(), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(version, party, nonce, proof)| Accept {
        version,
        party,
        nonce,
        proof,
    })
}

pub fn link_frame() -> impl Strategy<Value = LinkFrame> {
    let refuse = (proptest::sample::select(RefuseCode::ALL.to_vec()), text(0), text(0));
    let introduction = (any::<u32>(), text(0), text(0), text(0));
    prop_oneof![
        hello().prop_map(|hello| LinkFrame::Hello(Box::new(hello))),
        accept().prop_map(|accept| LinkFrame::Accept(Box::new(accept))),
        any::<[u8; 32]>().prop_map(|proof| LinkFrame::Proof(Proof { proof })),
        refuse.prop_map(|(code, ours, theirs)| LinkFrame::Refuse(Refuse { code, ours, theirs })),
        any::<u64>().prop_map(|token| LinkFrame::Ping { token }),
        any::<u64>().prop_map(|token| LinkFrame::Pong { token }),
        any::<u32>().prop_map(|node| LinkFrame::Whois { node: NodeId(node) }),
        introduction.prop_map(|(node, name, region, address)| {
            LinkFrame::Introduce(Introduction { node: NodeId(node), name, region, address })
        }),
        Just(LinkFrame::Leaving),
        (0x80..=u8::MAX).prop_map(|kind| LinkFrame::Unknown { kind }),
    ]
}

pub fn frame() -> impl Strategy<Value = LinkFrame> {
    prop_oneof![1 => link_frame(), 2 => parcel().prop_map(LinkFrame::Peer)]
}
