//! The codec of the log's records: what is encoded is decoded, anything else is refused without a panic.
#![allow(clippy::unwrap_used)]

use iris_shards::id::{Key, MessageId, NodeId, UserId};
use iris_shards::log::to_record;
use iris_shards::record::{At, COMMIT_BYTES, Content, HEADER_BYTES, Invalid, Position};
use iris_shards::record::{decode, encode, encode_commit, next_header, record_bytes, record_bytes_max};
use iris_shards::storage::{Entry, Mark, Record};
use proptest::prelude::*;

const AT: At = At { salt: 0x1234_5678, segment: 3, offset: 4096 };

fn users() -> impl Strategy<Value = UserId> {
    "[a-zé🦀]{1,60}".prop_map(|name| UserId::parse(name.as_bytes()).unwrap())
}

fn records() -> impl Strategy<Value = Record> {
    let body = prop::collection::vec(any::<u8>(), 0..2_000);
    let fields = (users(), users(), any::<[u8; 16]>(), any::<u64>(), body, 0..10);
    fields.prop_map(|(user, sender, id, time, body, kind)| {
        let key = Key { id: MessageId::from_bytes(id), sender };
        match kind {
            0..6 => Record::Entry(Entry { user, key, sent_at: time, body: body.into() }),
            6..9 => Record::Tombstone { user, key, taken_at: time, kills: None },
            _ => {
                let replicas = (0..time % 9).map(|node| NodeId(node as u32 * 77)).collect();
                Record::Complete(Mark { num_shards: time as u32, shard: (time >> 32) as u32, replicas })
            }
        }
    })
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, AT, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(record in records(), behind in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = encoded(&record);
        prop_assert_eq!(bytes.len(), record_bytes(&record));
        prop_assert!(bytes.len().is_multiple_of(8) && bytes.len() >= 32 && bytes.len() <= record_bytes_max(2_000));
        bytes.extend(behind);
        let decoded = decode(&bytes, AT).unwrap();
        prop_assert_eq!(decoded.bytes, record_bytes(&record));
        prop_assert_eq!(to_record(&decoded.content), Some(record));
    }

    #[test]
    fn a_flipped_bit_is_found(record in records(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = encoded(&record);
        let whole = bytes.len();
        let length = HEADER_BYTES + u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let at = at.index(length);
        bytes[at] ^= 1u8 << bit;
        let wanted = if at < HEADER_BYTES && !(4..8).contains(&at) { Invalid::Header } else { Invalid::Payload(whole) };
        let found = decode(&bytes, AT).unwrap_err();
        prop_assert!(found == wanted || at < HEADER_BYTES && found == Invalid::Header, "{:?}", found);
    }

    #[test]
    fn a_record_is_valid_only_in_its_place(record in records(), salt in any::<u32>(), segment in 0..9u32, offset in 0..999u32) {
        let bytes = encoded(&record);
        let at = At { salt, segment, offset: offset * 8 };
        prop_assert!(at == AT || decode(&bytes, at) == Err(Invalid::Header));
    }

    #[test]
    fn a_cut_record_says_what_it_needs(record in records(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&record);
        let payload = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let cut = cut.index(HEADER_BYTES + payload);
        match decode(&bytes[..cut], AT) {
            Err(Invalid::Short(needed)) => prop_assert!(needed == HEADER_BYTES || needed == bytes.len()),
            other => prop_assert!(cut == 0 && other == Err(Invalid::Empty), "{:?}", other),
        }
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 1..5u8, length in 0..600u32) {
        prop_assert!(decode(&bytes, AT).is_err());
        let mut likely = bytes;
        if likely.len() >= HEADER_BYTES {
            likely[8..12].copy_from_slice(&length.to_le_bytes());
            likely[12..16].copy_from_slice(&[kind, 1, 1, 0]);
            prop_assert!(decode(&likely, AT).is_err());
        }
        prop_assert_eq!(next_header(&likely, 0, AT), None);
    }

    #[test]
    fn the_search_finds_the_next_record(garbage in prop::collection::vec(any::<u8>(), 0..200), record in records()) {
        let mut bytes = garbage;
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let start = bytes.len();
        encode(&record, At { offset: AT.offset + start as u32, ..AT }, &mut bytes);
        prop_assert_eq!(next_header(&bytes, 1, AT), (start > 0).then_some(start));
        prop_assert_eq!(next_header(&bytes, 0, AT), Some(start));
    }
}

#[test]
fn a_commit_marker_keeps_its_position() {
    let mut bytes = [0; COMMIT_BYTES];
    let flushed = Position { segment: 7, offset: 4096 };
    encode_commit(flushed, AT, &mut bytes);
    assert_eq!(decode(&bytes, AT).unwrap().content, Content::Commit(flushed));
    assert_eq!(decode(&bytes, AT).unwrap().bytes, COMMIT_BYTES);
}

/// The format is on disks: these bytes stay.
#[test]
fn the_format_stays() {
    let user = UserId::parse(b"b").unwrap();
    let key = Key { id: MessageId::v7(1, 2), sender: UserId::parse(b"a").unwrap() };
    let entry = Record::Entry(Entry { user, key, sent_at: 3, body: b"hello"[..].into() });
    let hex: String = encoded(&entry).iter().map(|byte| format!("{byte:02x}")).collect();
    // Computed from the description of the format by another program.
    let header = "8fbe9a4c3d120ce81f00000001010100d0d20a00";
    let payload = "000000000001700080000000000000020300000000000000626168656c6c6f0000000000";
    assert_eq!(hex, format!("{header}{payload}"));
}
