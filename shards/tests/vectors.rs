//! The codec against `docs/protocol-vectors.json`, whose bytes were packed from the document by another program.

use iris_shards::frame::{self, ClientFrame, Decoded, Ranges, ServerFrame};
use iris_shards::id::MessageId;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// More than any vector needs; the limit itself is tested with the codec.
const FRAME_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct Vectors {
    version: u8,
    vectors: Vec<Vector>,
    invalid: Vec<Invalid>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    direction: String,
    r#type: String,
    fields: Value,
    hex: String,
}

#[derive(Deserialize)]
struct Invalid {
    name: String,
    direction: String,
    hex: String,
    code: String,
}

fn vectors() -> Vectors {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol-vectors.json");
    let text = std::fs::read_to_string(path).expect(path);
    let vectors: Vectors = serde_json::from_str(&text).expect("vectors of the agreed form");
    assert_eq!(vectors.version, frame::VERSION);
    vectors
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "half a byte");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("vectors have valid user ids")
}

fn number(value: u64) -> String {
    value.to_string()
}

fn uuid(id: MessageId) -> String {
    let hex = to_hex(&id.bytes());
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn pairs(ranges: Ranges<'_>) -> Value {
    ranges.iter().map(|(first, last)| json!([number(first), number(last)])).collect()
}

/// Type and fields as the file writes them.
fn client_fields(frame: ClientFrame<'_>) -> (&'static str, Value) {
    match frame {
        ClientFrame::Hello(hello) => (
            "HELLO",
            json!({
                "version_min": hello.version_min, "version_max": hello.version_max,
                "capabilities": number(hello.capabilities), "user": text(hello.user),
                "token": to_hex(hello.token), "agent": hello.agent,
            }),
        ),
        ClientFrame::Send { sequence, id, recipient, body } => (
            "SEND",
            json!({
                "sequence": number(sequence.0), "id": uuid(id),
                "recipient": text(recipient), "body": to_hex(body),
            }),
        ),
        ClientFrame::Ack { ranges } => ("ACK", json!({ "ranges": pairs(ranges) })),
        ClientFrame::Lookup { request, user } => ("LOOKUP", json!({ "request": request, "user": text(user) })),
        ClientFrame::Watch { request, user } => ("WATCH", json!({ "request": request, "user": text(user) })),
        ClientFrame::Unwatch { user } => ("UNWATCH", json!({ "user": text(user) })),
        ClientFrame::Ping { token } => ("PING", json!({ "token": number(token) })),
        ClientFrame::Close { code, wait_ms, reason } => {
            ("CLOSE", json!({ "code": code, "wait_ms": wait_ms, "reason": reason }))
        }
    }
}

/// Type and fields as the file writes them.
fn server_fields(frame: ServerFrame<'_>) -> (&'static str, Value) {
    match frame {
        ServerFrame::Welcome(welcome) => (
            "WELCOME",
            json!({
                "version": welcome.version, "capabilities": number(welcome.capabilities),
                "region": welcome.region, "node": welcome.node,
                "window_messages": welcome.window_messages, "window_bytes": welcome.window_bytes,
                "body_bytes_max": welcome.body_bytes_max, "frame_bytes_max": welcome.frame_bytes_max,
                "silent_ms_max": welcome.silent_ms_max, "clock": number(welcome.clock),
            }),
        ),
        ServerFrame::Deliver(message) => (
            "DELIVER",
            json!({
                "sequence": number(message.sequence.0), "id": uuid(message.id),
                "sent_at": number(message.sent_at), "sender": message.sender, "body": to_hex(message.body),
            }),
        ),
        ServerFrame::Confirm { level, copies, ranges } => {
            ("CONFIRM", json!({ "level": level, "copies": copies, "ranges": pairs(ranges) }))
        }
        ServerFrame::Refused { sequence, code, wait_ms, reason } => {
            ("REFUSED", json!({ "sequence": number(sequence.0), "code": code, "wait_ms": wait_ms, "reason": reason }))
        }
        ServerFrame::Presence { request, state, last_seen, user } => {
            ("PRESENCE", json!({ "request": request, "state": state, "last_seen": number(last_seen), "user": user }))
        }
        ServerFrame::Pong { token } => ("PONG", json!({ "token": number(token) })),
        ServerFrame::Drain { wait_ms } => ("DRAIN", json!({ "wait_ms": wait_ms })),
        ServerFrame::Close { code, wait_ms, reason } => {
            ("CLOSE", json!({ "code": code, "wait_ms": wait_ms, "reason": reason }))
        }
        ServerFrame::Unknown { kind, .. } => panic!("unknown type {kind}"),
    }
}

fn whole<F>(decoded: Result<Decoded<F>, frame::FrameError>, bytes: usize, name: &str) -> F {
    match decoded {
        Ok(Decoded::Frame { frame, used }) if used == bytes => frame,
        Ok(Decoded::Frame { used, .. }) => panic!("{name}: {used} of {bytes} bytes used"),
        Ok(Decoded::NeedMore { wanted }) => panic!("{name}: wants {wanted} bytes"),
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Type and fields that the codec reads, and the bytes that it writes for them.
fn through_the_codec(direction: &str, input: &[u8], name: &str) -> (&'static str, Value, Vec<u8>) {
    let mut out = Vec::new();
    if direction == "client" {
        let frame = whole(frame::decode_client(input, FRAME_BYTES_MAX), input.len(), name);
        frame.encode(&mut out);
        let (kind, fields) = client_fields(frame);
        (kind, fields, out)
    } else {
        let frame = whole(frame::decode_server(input, FRAME_BYTES_MAX), input.len(), name);
        frame.encode(&mut out);
        let (kind, fields) = server_fields(frame);
        (kind, fields, out)
    }
}

fn wanted<F>(decoded: Result<Decoded<F>, frame::FrameError>) -> Option<usize> {
    match decoded {
        Ok(Decoded::NeedMore { wanted }) => Some(wanted),
        _ => None,
    }
}

fn is_need_more(direction: &str, input: &[u8]) -> bool {
    let wanted = match direction {
        "client" => wanted(frame::decode_client(input, FRAME_BYTES_MAX)),
        _ => wanted(frame::decode_server(input, FRAME_BYTES_MAX)),
    };
    wanted.is_some_and(|wanted| wanted > input.len())
}

#[test]
fn frames_are_read_and_written_as_the_vectors_say() {
    for mut vector in vectors().vectors {
        let name = &vector.name;
        assert!(matches!(vector.direction.as_str(), "client" | "server"), "{name}");
        let (kind, fields, out) = through_the_codec(&vector.direction, &from_hex(&vector.hex), name);
        let trailing = vector.fields.as_object_mut().and_then(|fields| fields.remove("trailing"));
        assert_eq!(kind, vector.r#type, "{name}");
        assert_eq!(fields, vector.fields, "{name}");
        if trailing.is_none() {
            assert_eq!(to_hex(&out), vector.hex, "{name}");
        }
    }
}

#[test]
fn a_prefix_of_a_vector_wants_more() {
    for vector in vectors().vectors {
        let input = from_hex(&vector.hex);
        for bytes in 0..input.len() {
            assert!(is_need_more(&vector.direction, &input[..bytes]), "{} cut at {bytes}", vector.name);
        }
    }
}

#[test]
fn invalid_frames_are_closed_with_their_code() {
    for invalid in vectors().invalid {
        let input = from_hex(&invalid.hex);
        let error = match invalid.direction.as_str() {
            "client" => frame::decode_client(&input, FRAME_BYTES_MAX).err(),
            _ => frame::decode_server(&input, FRAME_BYTES_MAX).err(),
        };
        let code = error.map(|error| error.code().name());
        assert_eq!(code, Some(invalid.code.as_str()), "{}", invalid.name);
    }
}

#[test]
fn every_frame_of_the_document_has_several_vectors() {
    let seen: Vec<(String, String)> = vectors().vectors.into_iter().map(|v| (v.direction, v.r#type)).collect();
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), 16, "15 types, CLOSE from both sides");
    for kind in distinct {
        assert!(seen.iter().filter(|&other| other == kind).count() >= 3, "{kind:?}");
    }
}
