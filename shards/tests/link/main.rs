//! Properties of the peer codec: every message of [`iris_shards::peer`] survives the link, cut, damaged or made up.

mod handshake;
mod made;
mod vectors;

use iris_shards::frame::{Decoded, HEADER_BYTES};
use iris_shards::id::{
    Body, ExecutorId, Grant, Key, Location, Login, MessageId, NodeId, PairId, Phase, ReturnAddress, Sequence,
    SessionId, Slot, UserId,
};
use iris_shards::link::{
    HANDSHAKE_FRAME_BYTES_MAX, LinkError, LinkFrame, Parcel, RUN_BYTES_MAX, decode, encode, encode_peer,
    frame_bytes_max,
};
use iris_shards::peer::{Claim, Claims, FromReplica, Message, Peer, Standing, ToCore, ToCores, ToEdge};
use made::{OWN, frame, slot, to_core, to_cores, to_edge};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// More than any frame made here needs.
const MAX: usize = frame_bytes_max(1 << 17);

fn encoded(frame: &LinkFrame) -> Vec<u8> {
    let mut out = Vec::new();
    encode(frame, &mut out);
    out
}

/// Cut anywhere it wants more, whole it is the frame, whatever is behind it.
fn check_one(frame: &LinkFrame, behind: &[u8]) -> Result<(), TestCaseError> {
    let mut input = encoded(frame);
    let used = input.len();
    for bytes in 0..used {
        match decode(&input[..bytes], MAX, OWN) {
            Ok(Decoded::NeedMore { wanted }) => prop_assert!(wanted > bytes && wanted <= used),
            other => prop_assert!(false, "cut at {bytes}: {other:?}"),
        }
    }
    input.extend_from_slice(behind);
    prop_assert_eq!(decode(&input, MAX, OWN), Ok(Decoded::Frame { frame: frame.clone(), used }));
    Ok(())
}

/// Whatever the bytes are: no panic, progress, nothing behind the frame matters, and what was read can be written.
fn check_garbage(input: &[u8]) -> Result<(), TestCaseError> {
    match decode(input, MAX, OWN) {
        Ok(Decoded::Frame { frame, used }) => {
            prop_assert!((5..=input.len()).contains(&used));
            let again = encoded(&frame);
            prop_assert_eq!(decode(&again, MAX, OWN), Ok(Decoded::Frame { used: again.len(), frame: frame.clone() }));
            prop_assert_eq!(decode(&input[..used], MAX, OWN), Ok(Decoded::Frame { frame, used }));
        }
        Ok(Decoded::NeedMore { wanted }) => {
            prop_assert!(wanted > input.len() && wanted <= HEADER_BYTES + MAX);
        }
        Err(error) => {
            prop_assert!(!error.to_string().is_empty());
            let longer = [input, &[0xa5; 64]].concat();
            prop_assert_eq!(decode(&longer, MAX, OWN), Err(error));
        }
    }
    Ok(())
}

/// The frame says itself that it ends at `bytes`.
fn shortened(whole: &[u8], bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes - HEADER_BYTES).expect("small");
    [&length.to_be_bytes(), &whole[HEADER_BYTES..bytes]].concat()
}

/// A body takes what is there; everything else has to be whole.
fn ends_with_a_body(frame: &LinkFrame) -> bool {
    matches!(
        frame,
        LinkFrame::Peer(
            Parcel::Core { message: ToCore::Append { .. } | ToCore::Replica(FromReplica::Entry { .. }), .. }
                | Parcel::Edge { message: ToEdge::Deliver { .. }, .. }
        )
    )
}

fn decode_all(mut input: &[u8], frame_bytes_max: usize) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    while !input.is_empty() {
        match decode(input, frame_bytes_max, OWN) {
            Ok(Decoded::Frame { frame: LinkFrame::Peer(parcel), used }) => {
                parcels.push(parcel);
                input = &input[used..];
            }
            other => panic!("{other:?}"),
        }
    }
    parcels
}

fn long_user(bytes: usize) -> UserId {
    UserId::parse("u".repeat(bytes).as_bytes()).expect("valid")
}

fn number_id(number: u64) -> MessageId {
    MessageId::v7(1_700_000_000_000, number.into())
}

fn own_address(sequence: u64) -> ReturnAddress {
    let at = Location { node: OWN, executor: ExecutorId(1), session: SessionId(2) };
    ReturnAddress { login: Login { stamp: 3, at, boot: 4 }, pair: PairId(5), sequence: Sequence(sequence) }
}

proptest! {
    #[test]
    fn a_frame_survives_the_link(frame in frame(), behind in vec(any::<u8>(), 0..40)) {
        check_one(&frame, &behind)?;
    }

    #[test]
    fn a_frame_that_ends_within_a_field_says_which(frame in frame()) {
        let whole = encoded(&frame);
        for bytes in HEADER_BYTES + 1..whole.len() {
            let input = shortened(&whole, bytes);
            check_garbage(&input)?;
            let result = decode(&input, MAX, OWN);
            let is_truncated = matches!(result, Err(LinkError::Truncated { .. }));
            prop_assert!(is_truncated || (ends_with_a_body(&frame) && result.is_ok()), "at {bytes}: {result:?}");
        }
    }

    #[test]
    fn garbage_is_survived(input in vec(any::<u8>(), 0..600)) {
        check_garbage(&input)?;
    }

    #[test]
    fn garbage_in_a_frame_is_survived(kind in 0..=0x4f_u8, payload in vec(any::<u8>(), 0..200)) {
        let input = [&[0; HEADER_BYTES][..], &[kind], &payload].concat();
        check_garbage(&shortened(&input, input.len()))?;
    }

    #[test]
    fn damaged_frames_are_survived(
        frame in frame(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut input = encoded(&frame);
        for (at, byte) in damage {
            let at = at.index(input.len());
            input[at] = byte;
        }
        check_garbage(&input)?;
    }

    #[test]
    fn encoding_leaves_what_is_there(before in vec(any::<u8>(), 0..40), frames in vec(frame(), 0..8)) {
        let mut out = before.clone();
        frames.iter().for_each(|frame| encode(frame, &mut out));
        prop_assert!(out.starts_with(&before));
        let (mut rest, mut found) = (&out[before.len()..], Vec::new());
        while let Ok(Decoded::Frame { frame, used }) = decode(rest, MAX, OWN) {
            found.push(frame);
            rest = &rest[used..];
        }
        prop_assert_eq!((found, rest.len()), (frames, 0));
    }

    #[test]
    fn a_peer_is_its_parcel(slot in slot(), core in to_core(), cores in to_cores(), edge in to_edge()) {
        let at = Location { node: OWN, executor: ExecutorId(9), session: SessionId(8) };
        let (mut peers, mut parcels) = (Vec::new(), Vec::new());
        encode_peer(&Peer::Core { node: OWN, slot, message: core.clone() }, &mut peers);
        encode_peer(&Peer::Cores { node: OWN, message: cores.clone() }, &mut peers);
        encode_peer(&Peer::Edge { at, message: edge.clone() }, &mut peers);
        let executor = at.executor;
        encode(&LinkFrame::Peer(Parcel::Core { slot, message: core }), &mut parcels);
        encode(&LinkFrame::Peer(Parcel::Cores { message: cores }), &mut parcels);
        encode(&LinkFrame::Peer(Parcel::Edge { executor, message: edge }), &mut parcels);
        prop_assert_eq!(peers, parcels);
    }

    #[test]
    fn a_long_run_is_cut_without_loss(sizes in vec(0..60_000_usize, 0..40), others in 0..3_usize) {
        let senders = ["a", "b"].map(|name| UserId::parse(name.as_bytes()).expect("valid"));
        let message = |(number, size): (usize, &usize)| Message {
            // A run has one sender; should it ever have two, none of them may speak for the other.
            key: Key { id: number_id(number as u64), sender: senders[usize::from(number < others)].clone() },
            sent_at: 1,
            body: Body::from(vec![number as u8; *size]),
        };
        let messages: Vec<Message> = sizes.iter().enumerate().map(message).collect();
        let to = Grant { login: own_address(1).login, phase: Phase(1) };
        let mut out = Vec::new();
        let whole = ToEdge::Direct { to, messages: messages.clone(), origin: own_address(10) };
        encode(&LinkFrame::Peer(Parcel::Edge { executor: ExecutorId(0), message: whole }), &mut out);
        let mut found = Vec::new();
        for parcel in decode_all(&out, RUN_BYTES_MAX) {
            let Parcel::Edge { message: ToEdge::Direct { messages, origin, .. }, .. } = parcel else {
                return Err(TestCaseError::fail("not a run"));
            };
            prop_assert_eq!(origin, own_address(10 + found.len() as u64));
            found.extend(messages);
        }
        prop_assert_eq!(found, messages);
    }

    #[test]
    fn a_long_acknowledgement_is_cut_without_loss(groups in vec((1..=255_usize, 0..6_000_u64), 0..5)) {
        let group = |&(name, ids): &(usize, u64)| {
            let sender = long_user(name);
            (0..ids).map(move |number| Key { id: number_id(number), sender: sender.clone() }).collect::<Vec<_>>()
        };
        let keys: Vec<Key> = groups.iter().flat_map(group).collect();
        let mut out = Vec::new();
        let whole = ToCore::Ack { user: long_user(255), keys: keys.clone() };
        encode(&LinkFrame::Peer(Parcel::Core { slot: Slot(1), message: whole }), &mut out);
        let mut found = Vec::new();
        for parcel in decode_all(&out, RUN_BYTES_MAX) {
            let Parcel::Core { message: ToCore::Ack { keys, .. }, .. } = parcel else {
                return Err(TestCaseError::fail("not an acknowledgement"));
            };
            prop_assert!(!keys.is_empty());
            found.extend(keys);
        }
        prop_assert_eq!(found, keys);
    }
}

/// The kinds below 0x80 that the decoder knows.
fn known_kinds() -> BTreeSet<u8> {
    let is_known = |kind: &u8| decode(&[0, 0, 0, 1, *kind], MAX, OWN) != Err(LinkError::UnknownKind(*kind));
    (0..0x80).filter(is_known).collect()
}

#[test]
fn the_frames_that_are_made_here_are_all_there_are() {
    let mut runner = TestRunner::deterministic();
    let sample = |_| frame().new_tree(&mut runner).expect("a frame").current();
    let made: BTreeSet<u8> = (0..4_000).map(sample).map(|frame| encoded(&frame)[HEADER_BYTES]).collect();
    assert_eq!(made.into_iter().filter(|kind| *kind < 0x80).collect::<BTreeSet<_>>(), known_kinds());
}

#[test]
fn the_largest_message_fits_into_the_largest_frame() {
    for body_bytes in [0, 1, 64_000, 65_000, 65_536, 1 << 20] {
        let key = Key { id: number_id(1), sender: long_user(255) };
        let message = Message { key, sent_at: 1, body: Body::from(vec![1; body_bytes]) };
        let (user, to) = (long_user(255), own_address(1).login);
        let (origin, grant) = (own_address(1), Grant { login: to, phase: Phase(0) });
        let replica = FromReplica::Entry { user: user.clone(), message: message.clone(), flushed: true };
        let core = [ToCore::Append { user, message: message.clone(), origin }, ToCore::Replica(replica)];
        let messages = vec![message.clone(), message.clone()];
        let deliver = ToEdge::Deliver { to, core: OWN, drain: 1, message };
        let edge = [deliver, ToEdge::Direct { to: grant, messages, origin }];
        let mut out = Vec::new();
        core.into_iter()
            .for_each(|message| encode(&LinkFrame::Peer(Parcel::Core { slot: Slot(1), message }), &mut out));
        let executor = ExecutorId(1);
        edge.into_iter().for_each(|message| encode(&LinkFrame::Peer(Parcel::Edge { executor, message }), &mut out));
        assert!(decode_all(&out, frame_bytes_max(body_bytes as u32)).len() >= 4);
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let payload = |kind: u8, payload: &[u8]| {
        let input = [&[0; HEADER_BYTES][..], &[kind], payload].concat();
        let error = decode(&shortened(&input, input.len()), MAX, OWN).expect_err("no frame");
        error.to_string()
    };
    assert_eq!(payload(0x0a, &[]), "unknown kind of frame 0x0a");
    assert_eq!(payload(0x01, b"IRIS"), "HELLO without the magic of Iris nodes");
    assert_eq!(payload(0x01, b"IR"), "HELLO ends within magic");
    assert_eq!(payload(0x01, b"IRIN\x01\x01\x00"), "HELLO has 0 as cluster");
    assert_eq!(payload(0x04, &[99, 0, 0]), "REFUSE has 99 as code");
    assert_eq!(payload(0x04, &[1, 1, 7, 0]), "ours of REFUSE is not a text");
    assert_eq!(payload(0x05, &[0; 9]), "PING has 1 bytes behind its last field");
    assert_eq!(payload(0x24, &[0, 0x10, 0, 0]), "WANT has 1048576 as slot");
    assert_eq!(payload(0x31, &[0, 0, 0, 0, 0, 0, 0, 0, 2]), "CLAIMS has 2 as asks");
    assert_eq!(payload(0x31, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]), "CLAIMS ends within claims");
    assert_eq!(payload(0x27, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]), "OFFERED ends within shards");
    assert_eq!(payload(0x21, &[0; 22]), "user of FLUSHED: the user id is empty");
    assert_eq!(payload(0x41, &[0; 24]), "REPLACED is for node NodeId(0), this is NodeId(7)");
    assert_eq!(payload(0x14, &[0, 0, 0, 0, 0, 0, 1, b'u']), "ACK has 0 as keys");
    assert_eq!(payload(0x14, &[0, 0, 0, 0, 0xff, 0xff, 1, b'u']), "ACK ends within keys");
    assert_eq!(decode(&[0; 4], MAX, OWN), Err(LinkError::Empty));
    let too_large = LinkError::TooLarge { length: 4_097, max: 4_096 };
    assert_eq!(decode(&[0, 0, 0x10, 1], HANDSHAKE_FRAME_BYTES_MAX, OWN), Err(too_large));
}

#[test]
#[should_panic(expected = "slot of a replica's message")]
fn a_message_of_two_slots_does_not_reach_the_link() {
    let message = ToCore::Replica(FromReplica::Want { slot: Slot(2) });
    encoded(&LinkFrame::Peer(Parcel::Core { slot: Slot(1), message }));
}

#[test]
fn as_many_claims_as_a_core_tells_at_once_fit_into_a_frame() {
    let replicas: Vec<NodeId> = (1..=8).map(NodeId).collect();
    let claim = |shard| Claim { shard, replicas: replicas.clone(), standing: Standing::Settled };
    let claims = (0..16_384).map(claim).collect();
    let claims = Claims { executor: ExecutorId(0), executors: 1, round: 1, asks: true, claims };
    let parcel = Parcel::Cores { message: ToCores::Claims(Box::new(claims)) };
    let mut out = Vec::new();
    encode(&LinkFrame::Peer(parcel.clone()), &mut out);
    assert_eq!(decode_all(&out, frame_bytes_max(0)), [parcel]);
}
