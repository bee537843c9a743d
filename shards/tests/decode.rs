//! Properties of the client-protocol codec: round trips, segmentation, and bytes from people who mean harm.

use iris_shards::frame::{
    self, ClientFrame, Decoded, Deliver, FrameError, Hello, RangeSet, Ranges, ServerFrame, Welcome, decode_client,
    decode_server,
};
use iris_shards::id::{MessageId, Sequence};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Debug;

const FRAME_BYTES_MAX: usize = 1 << 17;

/// A frame as bytes, and as `Debug` shows it: that compares every field without an owned twin of each frame.
#[derive(Debug, Clone)]
struct Encoded {
    bytes: Vec<u8>,
    shown: String,
}

fn client(frame: ClientFrame<'_>) -> Encoded {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    Encoded { bytes, shown: format!("{frame:?}") }
}

fn server(frame: ServerFrame<'_>) -> Encoded {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    Encoded { bytes, shown: format!("{frame:?}") }
}

fn short_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=255)
}

fn short_text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=63).prop_map(String::from_iter)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..2_000)
}

fn message_id() -> impl Strategy<Value = MessageId> {
    any::<[u8; 16]>().prop_map(MessageId::from_bytes)
}

/// Ascending pairs without overlap; some touch.
fn pairs() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::btree_set(any::<u64>(), 2..80).prop_map(|ends| {
        let ends: Vec<u64> = ends.into_iter().collect();
        ends.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    })
}

fn ranges(pairs: &[(u64, u64)]) -> Ranges<'_> {
    Ranges::from_pairs(pairs).expect("ascending")
}

fn hello() -> impl Strategy<Value = Encoded> {
    let numbers = (any::<u8>(), any::<u8>(), any::<u64>());
    (numbers, short_bytes(), vec(any::<u8>(), 0..3_000), short_text()).prop_map(|(numbers, user, token, agent)| {
        let (version_min, version_max, capabilities) = numbers;
        let (user, token, agent) = (&user, &token, &agent);
        client(ClientFrame::Hello(Hello { version_min, version_max, capabilities, user, token, agent }))
    })
}

fn send() -> impl Strategy<Value = Encoded> {
    (any::<u64>(), message_id(), short_bytes(), body()).prop_map(|(sequence, id, recipient, body)| {
        client(ClientFrame::Send { sequence: Sequence(sequence), id, recipient: &recipient, body: &body })
    })
}

fn client_frame() -> impl Strategy<Value = Encoded> {
    let asking = || (any::<u32>(), short_bytes());
    let close = (any::<u16>(), any::<u32>(), short_text());
    prop_oneof![
        hello(),
        send(),
        pairs().prop_map(|pairs| client(ClientFrame::Ack { ranges: ranges(&pairs) })),
        asking().prop_map(|(request, user)| client(ClientFrame::Lookup { request, user: &user })),
        asking().prop_map(|(request, user)| client(ClientFrame::Watch { request, user: &user })),
        short_bytes().prop_map(|user| client(ClientFrame::Unwatch { user: &user })),
        any::<u64>().prop_map(|token| client(ClientFrame::Ping { token })),
        close.prop_map(|(code, wait_ms, reason)| client(ClientFrame::Close { code, wait_ms, reason: &reason })),
    ]
}

fn welcome() -> impl Strategy<Value = Encoded> {
    (any::<[u32; 5]>(), any::<[u64; 2]>(), any::<u8>(), short_text(), short_text()).prop_map(
        |(limits, [capabilities, clock], version, region, node)| {
            let [window_messages, window_bytes, body_bytes_max, frame_bytes_max, silent_ms_max] = limits;
            server(ServerFrame::Welcome(Welcome {
                version,
                capabilities,
                region: &region,
                node: &node,
                window_messages,
                window_bytes,
                body_bytes_max,
                frame_bytes_max,
                silent_ms_max,
                clock,
            }))
        },
    )
}

fn deliver() -> impl Strategy<Value = Encoded> {
    (any::<[u64; 2]>(), message_id(), short_text(), body()).prop_map(|([sequence, sent_at], id, sender, body)| {
        let (sender, body) = (&sender, &body);
        server(ServerFrame::Deliver(Deliver { sequence: Sequence(sequence), id, sent_at, sender, body }))
    })
}

fn server_frame() -> impl Strategy<Value = Encoded> {
    let confirm = (any::<u8>(), any::<u8>(), pairs());
    let refused = (any::<u64>(), any::<u16>(), any::<u32>(), short_text());
    let presence = (any::<u32>(), any::<u8>(), any::<u64>(), short_text());
    let close = (any::<u16>(), any::<u32>(), short_text());
    prop_oneof![
        welcome(),
        deliver(),
        confirm.prop_map(|(level, copies, pairs)| {
            server(ServerFrame::Confirm { level, copies, ranges: ranges(&pairs) })
        }),
        refused.prop_map(|(sequence, code, wait_ms, reason)| {
            server(ServerFrame::Refused { sequence: Sequence(sequence), code, wait_ms, reason: &reason })
        }),
        presence.prop_map(|(request, state, last_seen, user)| {
            server(ServerFrame::Presence { request, state, last_seen, user: &user })
        }),
        any::<u64>().prop_map(|token| server(ServerFrame::Pong { token })),
        any::<u32>().prop_map(|wait_ms| server(ServerFrame::Drain { wait_ms })),
        close.prop_map(|(code, wait_ms, reason)| server(ServerFrame::Close { code, wait_ms, reason: &reason })),
        (0x88..=u8::MAX, body()).prop_map(|(kind, payload)| server(ServerFrame::Unknown { kind, payload: &payload })),
    ]
}

/// What one decoder finds at the start of the input, in a form that both share.
type Found = Result<Decoded<String>, FrameError>;

fn shown<F: Debug>(found: Result<Decoded<F>, FrameError>) -> Found {
    found.map(|decoded| match decoded {
        Decoded::Frame { frame, used } => Decoded::Frame { frame: format!("{frame:?}"), used },
        Decoded::NeedMore { wanted } => Decoded::NeedMore { wanted },
    })
}

fn find_client(input: &[u8]) -> Found {
    shown(decode_client(input, FRAME_BYTES_MAX))
}

fn find_server(input: &[u8]) -> Found {
    shown(decode_server(input, FRAME_BYTES_MAX))
}

/// Reads a stream that arrives in segments of these sizes (again and again), as a connection would.
fn read_stream(find: fn(&[u8]) -> Found, stream: &[u8], segments: &[usize]) -> Result<Vec<String>, FrameError> {
    let (mut frames, mut buffer, mut arrived) = (Vec::new(), Vec::new(), 0);
    for segment in segments.iter().cycle() {
        let until = stream.len().min(arrived + segment);
        buffer.extend_from_slice(&stream[arrived..until]);
        arrived = until;
        while let Decoded::Frame { frame, used } = find(&buffer)? {
            frames.push(frame);
            buffer.drain(..used);
        }
        if arrived == stream.len() {
            assert!(buffer.is_empty(), "{} bytes left", buffer.len());
            return Ok(frames);
        }
    }
    Ok(frames)
}

fn check_one(find: fn(&[u8]) -> Found, encoded: &Encoded, behind: &[u8]) -> Result<(), TestCaseError> {
    let mut input = encoded.bytes.clone();
    let used = input.len();
    for bytes in 0..used {
        match find(&input[..bytes]) {
            Ok(Decoded::NeedMore { wanted }) => prop_assert!(wanted > bytes && wanted <= used),
            other => prop_assert!(false, "cut at {bytes}: {other:?}"),
        }
    }
    input.extend_from_slice(behind);
    prop_assert_eq!(find(&input), Ok(Decoded::Frame { frame: encoded.shown.clone(), used }));
    Ok(())
}

fn check_stream(find: fn(&[u8]) -> Found, frames: &[Encoded], segments: &[usize]) -> Result<(), TestCaseError> {
    let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes.iter().copied()).collect();
    let expected: Vec<String> = frames.iter().map(|frame| frame.shown.clone()).collect();
    prop_assert_eq!(read_stream(find, &stream, segments), Ok(expected));
    Ok(())
}

/// Whatever the bytes are: no panic, progress, and nothing behind the frame matters.
fn check_garbage(find: fn(&[u8]) -> Found, input: &[u8]) -> Result<(), TestCaseError> {
    match find(input) {
        Ok(Decoded::Frame { frame, used }) => {
            prop_assert!((5..=input.len()).contains(&used));
            prop_assert_eq!(find(&input[..used]), Ok(Decoded::Frame { frame, used }));
        }
        Ok(Decoded::NeedMore { wanted }) => {
            prop_assert!(wanted > input.len() && wanted <= frame::HEADER_BYTES + FRAME_BYTES_MAX);
        }
        Err(error) => {
            let longer = [input, &[0xa5; 64]].concat();
            prop_assert_eq!(find(&longer), Err(error));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_client_frame_survives_the_wire(frame in client_frame(), behind in vec(any::<u8>(), 0..40)) {
        check_one(find_client, &frame, &behind)?;
    }

    #[test]
    fn a_server_frame_survives_the_wire(frame in server_frame(), behind in vec(any::<u8>(), 0..40)) {
        check_one(find_server, &frame, &behind)?;
    }

    #[test]
    fn segments_do_not_matter_to_the_server(
        frames in vec(client_frame(), 0..8),
        segments in vec(1..700_usize, 1..20),
    ) {
        check_stream(find_client, &frames, &segments)?;
    }

    #[test]
    fn segments_do_not_matter_to_the_client(
        frames in vec(server_frame(), 0..8),
        segments in vec(1..700_usize, 1..20),
    ) {
        check_stream(find_server, &frames, &segments)?;
    }

    #[test]
    fn garbage_is_survived(input in vec(any::<u8>(), 0..600)) {
        check_garbage(find_client, &input)?;
        check_garbage(find_server, &input)?;
    }

    #[test]
    fn garbage_in_a_frame_is_survived(
        kind in prop_oneof![0..=0x0a_u8, 0x80..=0x89_u8],
        payload in vec(any::<u8>(), 0..120),
    ) {
        let length = u32::try_from(payload.len() + 1).expect("small");
        let input = [&length.to_be_bytes()[..], &[kind], &payload].concat();
        check_garbage(find_client, &input)?;
        check_garbage(find_server, &input)?;
    }

    #[test]
    fn damaged_frames_are_survived(
        frame in prop_oneof![client_frame(), server_frame()],
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut input = frame.bytes;
        for (at, byte) in damage {
            let at = at.index(input.len());
            input[at] = byte;
        }
        check_garbage(find_client, &input)?;
        check_garbage(find_server, &input)?;
    }

    #[test]
    fn encoding_leaves_what_is_there(before in vec(any::<u8>(), 0..40), token in any::<u64>(), body in body()) {
        let mut out = before.clone();
        ServerFrame::Pong { token }.encode(&mut out);
        let id = MessageId::from_bytes([7; 16]);
        let message = Deliver { sequence: Sequence(token), id, sent_at: 1, sender: "zoë", body: &body };
        frame::deliver(&mut out, &message);
        prop_assert!(out.starts_with(&before));
        let rest = &out[before.len()..];
        prop_assert_eq!(decode_server(rest, 16), Ok(Decoded::Frame { frame: ServerFrame::Pong { token }, used: 13 }));
        let used = rest.len() - 13;
        let frame = ServerFrame::Deliver(message);
        prop_assert_eq!(decode_server(&rest[13..], FRAME_BYTES_MAX), Ok(Decoded::Frame { frame, used }));
    }

    #[test]
    fn a_range_set_is_a_set(sequences in vec(prop_oneof![0..200_u64, u64::MAX - 20..=u64::MAX], 0..300)) {
        let mut set = RangeSet::new();
        sequences.iter().for_each(|&sequence| set.push(sequence));
        let gathered: Vec<u64> = set.pairs().iter().flat_map(|&(first, last)| first..=last).collect();
        let expected: Vec<u64> = sequences.into_iter().collect::<BTreeSet<u64>>().into_iter().collect();
        prop_assert_eq!(gathered, expected);
        prop_assert!(set.pairs().windows(2).all(|pair| pair[1].0 - pair[0].1 > 1));
        prop_assert_eq!(Ranges::from_pairs(set.pairs()), Ok(set.ranges()));
    }

    #[test]
    fn any_number_of_ranges_is_split_without_loss(count in 0..4_000_u64, step in 2..1_000_u64) {
        let pairs: Vec<(u64, u64)> = (0..count).map(|n| (n * step, n * step + step / 2)).collect();
        let mut out = Vec::new();
        frame::confirm(&mut out, frame::LEVEL_STORED, 2, &pairs);
        let (mut seen, mut rest, mut frames) = (Vec::new(), &out[..], 0);
        while !rest.is_empty() {
            match decode_server(rest, frame::RANGES_FRAME_BYTES_MAX) {
                Ok(Decoded::Frame { frame: ServerFrame::Confirm { level: 1, copies: 2, ranges }, used }) => {
                    seen.extend(ranges);
                    rest = &rest[used..];
                    frames += 1;
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        prop_assert_eq!((seen, frames), (pairs, count.div_ceil(1_024)));
    }
}
