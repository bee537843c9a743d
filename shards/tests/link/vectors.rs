//! The codec against `docs/peer-vectors.json`, whose bytes `scripts/peer-vectors` packs from the document.

use crate::{MAX, encoded, known_kinds};
use iris_shards::frame::{Decoded, HEADER_BYTES};
use iris_shards::id::{Grant, Key, Login, MessageId, NodeId, ReturnAddress, Slot};
use iris_shards::link::handshake::{ACCEPTOR_LABEL, DIALER_LABEL, transcript};
use iris_shards::link::{Accept, Hello, LinkFrame, LinkName, Parcel, Party, VERSION, decode};
use iris_shards::peer::{Claim, Claims, FromReplica, Message, PresenceState, ToCore, ToCores, ToEdge};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Deserialize)]
struct Vectors {
    version: u8,
    own: u32,
    vectors: Vec<Vector>,
    invalid: Vec<Invalid>,
    proofs: Proofs,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    r#type: String,
    fields: Value,
    hex: String,
}

#[derive(Deserialize)]
struct Invalid {
    name: String,
    hex: String,
    error: String,
}

#[derive(Deserialize)]
struct Proofs {
    hello: String,
    accept: String,
    transcript: String,
}

fn vectors() -> Vectors {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/peer-vectors.json");
    let text = std::fs::read_to_string(path).expect(path);
    let vectors: Vectors = serde_json::from_str(&text).expect("vectors of the agreed form");
    assert_eq!(vectors.version, VERSION);
    vectors
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "half a byte");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn whole(vectors: &Vectors, name: &str, hex: &str) -> LinkFrame {
    let input = from_hex(hex);
    match decode(&input, MAX, NodeId(vectors.own)) {
        Ok(Decoded::Frame { frame, used }) if used == input.len() => frame,
        other => panic!("{name}: {other:?}"),
    }
}

fn number(value: u64) -> Value {
    value.to_string().into()
}

fn id(id: MessageId) -> Value {
    id.to_string().into()
}

fn login(login: Login) -> Value {
    let at = login.at;
    json!({
        "stamp": number(login.stamp), "node": at.node.0, "executor": at.executor.0, "session": at.session.0,
        "boot": login.boot,
    })
}

fn grant(grant: Grant) -> Value {
    json!({ "login": login(grant.login), "phase": grant.phase.0 })
}

fn address(address: ReturnAddress) -> Value {
    json!({ "login": login(address.login), "pair": address.pair.0, "sequence": number(address.sequence.0) })
}

fn link(link: LinkName) -> Value {
    json!({ "dialer": link.dialer.0, "boot": number(link.boot), "attempt": number(link.attempt) })
}

/// One object of several: later ones win.
fn joined(objects: impl IntoIterator<Item = Value>) -> Value {
    let fields = objects.into_iter().flat_map(|object| object.as_object().expect("an object").clone());
    Value::Object(fields.collect())
}

fn party(party: &Party) -> Value {
    let roles = u8::from(party.is_edge) | u8::from(party.is_core) << 1;
    json!({
        "node": party.node.0, "name": party.name, "region": party.region, "address": party.address, "roles": roles,
        "executors": party.executors, "boot": number(party.boot),
    })
}

fn hello(hello: &Hello) -> Value {
    let more = json!({
        "version_min": hello.version_min, "version_max": hello.version_max, "cluster": hello.cluster,
        "cluster_hash": number(hello.cluster_hash), "attempt": number(hello.attempt), "last": hello.last.map(link),
        "nonce": to_hex(&hello.nonce),
    });
    joined([party(&hello.party), more])
}

fn accept(accept: &Accept) -> Value {
    let (nonce, proof) = (to_hex(&accept.nonce), to_hex(&accept.proof));
    let more = json!({ "version": accept.version, "nonce": nonce, "proof": proof });
    joined([party(&accept.party), more])
}

/// Type and fields as the file writes them. Matches everything, so that no frame is forgotten.
fn fields(frame: &LinkFrame) -> (&'static str, Value) {
    match frame {
        LinkFrame::Hello(frame) => ("HELLO", hello(frame)),
        LinkFrame::Accept(frame) => ("ACCEPT", accept(frame)),
        LinkFrame::Proof(proof) => ("PROOF", json!({ "proof": to_hex(&proof.proof) })),
        LinkFrame::Refuse(refuse) => {
            ("REFUSE", json!({ "code": refuse.code.number(), "ours": refuse.ours, "theirs": refuse.theirs }))
        }
        LinkFrame::Ping { token } => ("PING", json!({ "token": number(*token) })),
        LinkFrame::Pong { token } => ("PONG", json!({ "token": number(*token) })),
        LinkFrame::Whois { node } => ("WHOIS", json!({ "node": node.0 })),
        LinkFrame::Introduce(node) => (
            "INTRODUCE",
            json!({ "node": node.node.0, "name": node.name, "region": node.region, "address": node.address }),
        ),
        LinkFrame::Leaving => ("LEAVING", json!({})),
        LinkFrame::Unknown { kind } => panic!("unknown kind {kind}"),
        LinkFrame::Peer(Parcel::Core { slot, message }) => {
            let (name, fields) = core_fields(*slot, message);
            (name, joined([json!({ "slot": slot.0 }), fields]))
        }
        LinkFrame::Peer(Parcel::Cores { message }) => cores_fields(message.clone()),
        LinkFrame::Peer(Parcel::Edge { executor, message }) => {
            let (name, fields) = edge_fields(message);
            (name, joined([json!({ "executor": executor.0 }), fields]))
        }
    }
}

fn message_fields(message: &Message) -> Value {
    json!({
        "id": id(message.key.id), "sent_at": number(message.sent_at), "sender": message.key.sender.as_str(),
        "body": to_hex(&message.body),
    })
}

fn groups(keys: &[Key]) -> Value {
    let groups = keys.chunk_by(|one, next| one.sender == next.sender).map(|keys| {
        let ids: Vec<Value> = keys.iter().map(|key| id(key.id)).collect();
        json!({ "sender": keys[0].sender.as_str(), "ids": ids })
    });
    groups.collect()
}

fn core_fields(slot: Slot, message: &ToCore) -> (&'static str, Value) {
    match message {
        ToCore::Register { user, login: of, phase, drain, again } => {
            let again = u8::from(*again);
            let user = user.as_str();
            ("REGISTER", json!({ "user": user, "login": login(*of), "phase": phase.0, "drain": drain, "again": again }))
        }
        ToCore::Unregister { user, login: of } => ("UNREGISTER", json!({ "user": user.as_str(), "login": login(*of) })),
        ToCore::PhaseGrown { user, login: of, phase } => {
            ("PHASE_GROWN", json!({ "user": user.as_str(), "login": login(*of), "phase": phase.0 }))
        }
        ToCore::Append { user, message, origin } => {
            let more = json!({ "user": user.as_str(), "origin": address(*origin) });
            ("APPEND", joined([message_fields(message), more]))
        }
        ToCore::Ack { user, keys } => {
            ("ACK", json!({ "user": user.as_str(), "keys": keys.len(), "groups": groups(keys) }))
        }
        ToCore::Lookup { user, asker, watch } => {
            let (user, of, watch) = (user.as_str(), login(asker.login), u8::from(*watch));
            ("LOOKUP", json!({ "user": user, "login": of, "request": asker.request, "watch": watch }))
        }
        ToCore::Unwatch { user, login: of } => ("UNWATCH", json!({ "user": user.as_str(), "login": login(*of) })),
        ToCore::Replica(message) => replica_fields(slot, message),
    }
}

fn replica_fields(slot: Slot, message: &FromReplica) -> (&'static str, Value) {
    let same = |name, of: &Slot| {
        assert_eq!(*of, slot, "{name}");
        (name, json!({}))
    };
    match message {
        FromReplica::Entry { user, message, flushed } => {
            let more = json!({ "user": user.as_str(), "flushed": u8::from(*flushed) });
            ("ENTRY", joined([message_fields(message), more]))
        }
        FromReplica::Flushed { user, key, asks } => {
            let (user, sender, asks) = (user.as_str(), key.sender.as_str(), u8::from(*asks));
            ("FLUSHED", json!({ "user": user, "id": id(key.id), "asks": asks, "sender": sender }))
        }
        FromReplica::Tombstone { user, key, taken_at } => {
            let (user, sender, taken_at) = (user.as_str(), key.sender.as_str(), number(*taken_at));
            ("TOMBSTONE", json!({ "user": user, "id": id(key.id), "sender": sender, "taken_at": taken_at }))
        }
        FromReplica::Digest { slot, digest } => {
            let (name, _) = same("DIGEST", slot);
            (name, json!({ "digest": number(*digest) }))
        }
        FromReplica::Want { slot } => same("WANT", slot),
        FromReplica::Done { slot } => same("DONE", slot),
        FromReplica::NoRoom { slot } => same("NO_ROOM", slot),
        FromReplica::Offered { executor, round, shards } => {
            ("OFFERED", json!({ "executor": executor.0, "round": round, "shards": shards }))
        }
        FromReplica::Compared { executor, round, shards } => {
            ("COMPARED", json!({ "executor": executor.0, "round": round, "shards": shards }))
        }
    }
}

fn cores_fields(message: ToCores) -> (&'static str, Value) {
    match message {
        ToCores::Refresh(executor) => ("REFRESH", json!({ "executor": executor.0 })),
        ToCores::Claims(claims) => {
            let of = |claim: &Claim| {
                let replicas: Vec<u32> = claim.replicas.iter().map(|node| node.0).collect();
                json!({ "shard": claim.shard, "standing": claim.standing as u8, "replicas": replicas })
            };
            let Claims { executor, executors, round, asks, claims } = *claims;
            let all: Vec<Value> = claims.iter().map(of).collect();
            let asks = u8::from(asks);
            let (executor, claims) = (executor.0, all);
            (
                "CLAIMS",
                json!({ "executor": executor, "executors": executors, "round": round, "asks": asks, "claims": claims }),
            )
        }
    }
}

fn edge_fields(message: &ToEdge) -> (&'static str, Value) {
    match message {
        ToEdge::Outnumbered { to, core, known } => {
            ("OUTNUMBERED", json!({ "to": login(*to), "core": core.0, "known": login(*known) }))
        }
        ToEdge::Replaced { to } => ("REPLACED", json!({ "to": login(*to) })),
        ToEdge::Deliver { to, core, drain, message } => {
            let more = json!({ "to": login(*to), "core": core.0, "drain": drain });
            ("DELIVER", joined([message_fields(message), more]))
        }
        ToEdge::Direct { to, messages, origin } => direct_fields(*to, messages, *origin),
        ToEdge::Stored { to, last, newest, copies } => {
            let last = number(last.0);
            ("STORED", json!({ "to": address(*to), "last": last, "newest": id(*newest), "copies": copies }))
        }
        ToEdge::Delivered { to, last, grant: of } => {
            let granted = of.as_ref().map(|of| json!({ "newest": id(of.0), "grant": grant(of.1) }));
            ("DELIVERED", json!({ "to": address(*to), "last": number(last.0), "granted": granted }))
        }
        ToEdge::Bounce { to } => ("BOUNCE", json!({ "to": address(*to) })),
        ToEdge::Refused { to, refusal } => {
            let code = refusal.code.number();
            ("REFUSED", json!({ "to": address(*to), "code": code, "wait_ms": refusal.wait_ms }))
        }
        ToEdge::Presence { to, user, state } => {
            let (state, last_seen) = match state {
                PresenceState::Offline { last_seen } => (0, *last_seen),
                PresenceState::Online => (1, 0),
                PresenceState::Unknown => (2, 0),
            };
            let (of, user, last_seen) = (login(to.login), user.as_str(), number(last_seen));
            let request = to.request;
            ("PRESENCE", json!({ "to": of, "request": request, "user": user, "state": state, "last_seen": last_seen }))
        }
        ToEdge::LeaseEnded { core } => ("LEASE_ENDED", json!({ "core": core.0 })),
    }
}

fn direct_fields(to: Grant, messages: &[Message], origin: ReturnAddress) -> (&'static str, Value) {
    let sender = &messages[0].key.sender;
    assert!(messages.iter().all(|message| message.key.sender == *sender));
    let run = messages.iter().map(|message| {
        json!({
            "id": id(message.key.id), "sent_at": number(message.sent_at), "body": to_hex(&message.body),
        })
    });
    let run: Vec<Value> = run.collect();
    let (to, origin, sender) = (grant(to), address(origin), sender.as_str());
    ("DIRECT", json!({ "to": to, "origin": origin, "messages": run.len(), "sender": sender, "run": run }))
}

#[test]
fn frames_are_read_and_written_as_the_vectors_say() {
    let vectors = vectors();
    for vector in &vectors.vectors {
        let frame = whole(&vectors, &vector.name, &vector.hex);
        let (kind, fields) = fields(&frame);
        assert_eq!((kind, &fields), (vector.r#type.as_str(), &vector.fields), "{}", vector.name);
        assert_eq!(to_hex(&encoded(&frame)), vector.hex, "{}", vector.name);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let vectors = vectors();
    for Invalid { name, hex, error } in &vectors.invalid {
        let found = decode(&from_hex(hex), MAX, NodeId(vectors.own)).expect_err(name);
        assert_eq!(found.to_string(), *error, "{name}");
    }
}

#[test]
fn proofs_sign_what_the_document_says() {
    let vectors = vectors();
    let proofs = &vectors.proofs;
    let LinkFrame::Hello(hello) = whole(&vectors, "hello", &proofs.hello) else { panic!("no HELLO") };
    let LinkFrame::Accept(accept) = whole(&vectors, "accept", &proofs.accept) else { panic!("no ACCEPT") };
    assert_eq!(to_hex(&transcript(&hello, &accept)), proofs.transcript);
    assert_eq!((ACCEPTOR_LABEL, DIALER_LABEL), (&b"iris link 1 acceptor"[..], &b"iris link 1 dialer"[..]));
}

#[test]
fn every_frame_of_the_document_has_a_vector() {
    let document = include_str!("../../../docs/peer-protocol.md");
    let documented: BTreeSet<(u8, &str)> = document.lines().filter_map(row).collect();
    let vectors = vectors();
    let kind = |vector: &Vector| from_hex(&vector.hex)[HEADER_BYTES];
    let shown = vectors.vectors.iter().map(|vector| (kind(vector), vector.r#type.as_str()));
    assert_eq!(shown.collect::<BTreeSet<_>>(), documented);
    assert_eq!(documented.into_iter().map(|(kind, _)| kind).collect::<BTreeSet<_>>(), known_kinds());
}

/// Kind and name of a row of the tables of frames.
fn row(line: &str) -> Option<(u8, &str)> {
    let (kind, rest) = line.strip_prefix("| 0x")?.split_once(" | ")?;
    Some((u8::from_str_radix(kind, 16).ok()?, rest.split(" | ").next()?))
}
