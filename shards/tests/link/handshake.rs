//! The frames before a link is up: versions, sizes, and what the proofs sign.

use crate::made::{self, OWN};
use crate::{MAX, encoded, shortened};
use iris_shards::frame::{Decoded, HEADER_BYTES};
use iris_shards::link::handshake::{common_version, spoken_version, transcript};
use iris_shards::link::{
    Accept, HANDSHAKE_FRAME_BYTES_MAX, Hello, LinkFrame, LinkName, Party, Refuse, RefuseCode, VERSION, decode,
};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

#[test]
fn the_largest_handshake_fits_before_a_secret_is_proven() {
    let text = "é".repeat(127);
    let (node, nonce, proof) = (OWN, [1; 32], [2; 32]);
    let party = Party {
        node,
        name: text.clone(),
        region: text.clone(),
        address: text.clone(),
        is_edge: true,
        is_core: true,
        executors: 1,
        boot: 1,
    };
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        cluster: "c".repeat(64),
        cluster_hash: 1,
        party: party.clone(),
        attempt: 1,
        last: Some(LinkName { dialer: node, boot: 1, attempt: 0 }),
        nonce,
    };
    let accept = Accept { version: 1, party, nonce, proof };
    let refuse = Refuse { code: RefuseCode::ClusterName, ours: text.repeat(9), theirs: text.clone() };
    let cut = Refuse { ours: text, ..refuse.clone() };
    let frames = [LinkFrame::Hello(Box::new(hello)), LinkFrame::Accept(Box::new(accept)), LinkFrame::Refuse(cut)];
    for frame in frames {
        let input = encoded(&frame);
        let used = input.len();
        assert_eq!(decode(&input, HANDSHAKE_FRAME_BYTES_MAX, OWN), Ok(Decoded::Frame { frame, used }));
    }
    let refused = encoded(&LinkFrame::Refuse(refuse));
    assert!(refused.len() <= HEADER_BYTES + HANDSHAKE_FRAME_BYTES_MAX, "what is too long to say is cut");
    assert!(decode(&refused, HANDSHAKE_FRAME_BYTES_MAX, OWN).is_ok());
}

#[test]
fn the_highest_common_version_is_spoken() {
    let mut runner = TestRunner::deterministic();
    let any = made::hello().new_tree(&mut runner).expect("a frame").current();
    let theirs = |version_min, version_max| Hello { version_min, version_max, ..any.clone() };
    let cases = [
        ((1, 1), (1, 1), Some(1)),
        ((1, 2), (1, 1), Some(1)),
        ((1, 2), (2, 3), Some(2)),
        ((2, 3), (1, 9), Some(3)),
        ((2, 3), (1, 1), None),
        ((1, 1), (2, 3), None),
        ((3, 2), (1, 9), None),
        ((0, 255), (1, 1), Some(1)),
    ];
    for ((min, max), own, common) in cases {
        assert_eq!(common_version(&theirs(min, max), own), common, "{min}..{max} and {own:?}");
    }
    assert_eq!(spoken_version(&theirs(VERSION, VERSION + 1)), Some(VERSION));
    assert_eq!(spoken_version(&theirs(VERSION + 1, VERSION + 2)), None);
}

#[test]
fn later_fields_of_the_handshake_are_ignored_and_not_signed() {
    let mut runner = TestRunner::deterministic();
    let hello = made::hello().new_tree(&mut runner).expect("a frame").current();
    let accept = made::accept().new_tree(&mut runner).expect("a frame").current();
    let signed = transcript(&hello, &accept);
    let mut longer = encoded(&LinkFrame::Hello(Box::new(hello.clone())));
    longer.extend_from_slice(b"later");
    let longer = shortened(&longer, longer.len());
    let Ok(Decoded::Frame { frame: LinkFrame::Hello(read), used }) = decode(&longer, MAX, OWN) else {
        panic!("no HELLO");
    };
    assert_eq!((*read == hello, used), (true, longer.len()));
    assert_eq!(transcript(&read, &accept), signed);
    let other_proof = Accept { proof: [9; 32], ..accept.clone() };
    assert_eq!(transcript(&hello, &other_proof), signed, "a proof does not sign itself");
    let other_role = Party { is_edge: !hello.party.is_edge, is_core: true, ..hello.party.clone() };
    let other_boot = Party { boot: accept.party.boot ^ 1, ..accept.party.clone() };
    let others = [
        transcript(&Hello { nonce: [9; 32], ..hello.clone() }, &accept),
        transcript(&Hello { version_min: hello.version_min ^ 1, ..hello.clone() }, &accept),
        transcript(&Hello { party: other_role, ..hello.clone() }, &accept),
        transcript(&Hello { last: Some(hello.link()), ..hello.clone() }, &accept),
        transcript(&hello, &Accept { nonce: [9; 32], ..accept.clone() }),
        transcript(&hello, &Accept { version: accept.version ^ 1, ..accept.clone() }),
        transcript(&hello, &Accept { party: other_boot, ..accept }),
    ];
    assert!(others.iter().all(|other| *other != signed));
}

#[test]
fn the_document_has_the_codes_of_refusals() {
    let document = include_str!("../../../docs/peer-protocol.md");
    let (_, section) = document.split_once("**REFUSE** says").expect("the table of codes");
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let written: Vec<(u8, &str)> = rows.filter_map(code).collect();
    let known: Vec<(u8, &str)> = RefuseCode::ALL.iter().map(|code| (code.number(), code.name())).collect();
    assert_eq!(written, known);
}

fn code(row: &str) -> Option<(u8, &str)> {
    let mut cells = row.strip_prefix("| ")?.split(" | ");
    let number = cells.next()?.parse().ok()?;
    Some((number, cells.next()?.trim_matches('`')))
}
