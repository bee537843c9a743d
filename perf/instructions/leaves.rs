//! Formats and leaves: frames, records, inbox, wheel.

use crate::Work;
use iris_shards::frame::{
    ClientFrame, Decoded, Deliver, LEVEL_DELIVERED, acknowledge, confirm, decode_client, deliver,
};
use iris_shards::id::{Body, Key, MessageId, Sequence, UserId};
use iris_shards::inbox::{Content, Entry, Inbox};
use iris_shards::names::Senders;
use iris_shards::record::{self, At};
use iris_shards::storage::{self, Record};
use iris_shards::wheel::Wheel;
use std::hint::black_box;

pub const FRAMES: u64 = 1_600;
pub const RECORDS: u64 = 1_000;
pub const ENTRIES: u64 = 2_000;
pub const TIMERS: u64 = 2_000;

const BATCH: u64 = 16;
const BODY: [u8; 64] = [7; 64];
const FRAME_BYTES_MAX: usize = 1 << 17;
const WALL_MS: u64 = 1_700_000_000_000;

pub fn frame_decode() -> Work {
    let mut input = Vec::new();
    for number in 1..=FRAMES {
        let id = MessageId::v7(WALL_MS + number, number.into());
        ClientFrame::Send { sequence: Sequence(number), id, recipient: b"user-000042", body: &BODY }.encode(&mut input);
        if number % BATCH == 0 {
            acknowledge(&mut input, &[(number - BATCH + 1, number)]);
        }
    }
    let mut work = move || {
        let mut at = 0;
        while let Ok(Decoded::Frame { frame, used }) = decode_client(black_box(&input[at..]), FRAME_BYTES_MAX) {
            if let ClientFrame::Ack { ranges } = &frame {
                ranges.into_iter().for_each(|range| _ = black_box(range));
            }
            black_box(&frame);
            at += used;
        }
        assert_eq!(at, input.len());
    };
    Box::new(move |count| count(&mut work))
}

pub fn frame_encode() -> Work {
    let mut out = Vec::with_capacity(FRAMES as usize * 160);
    let mut work = move || {
        out.clear();
        for number in 1..=FRAMES {
            let id = MessageId::v7(WALL_MS + number, number.into());
            let (sequence, sender, body) = (Sequence(number), "user-000042", &BODY[..]);
            deliver(&mut out, black_box(&Deliver { sequence, id, sent_at: WALL_MS, sender, body }));
            if number % BATCH == 0 {
                confirm(&mut out, LEVEL_DELIVERED, 0, &[(number - BATCH + 1, number)]);
            }
        }
        black_box(&out);
    };
    Box::new(move |count| count(&mut work))
}

pub fn record() -> Work {
    let (user, sender) = (user("user-000001"), user("user-000002"));
    let entry = |number: u64| {
        let key = Key { id: MessageId::v7(WALL_MS + number, number.into()), sender: sender.clone() };
        Record::Entry(storage::Entry { user: user.clone(), key, sent_at: WALL_MS, body: Body::from(&BODY[..]) })
    };
    let records: Vec<Record> = (0..RECORDS).map(entry).collect();
    let mut out = Vec::with_capacity(RECORDS as usize * 256);
    let place = |offset: usize| At { salt: 5, segment: 3, offset: offset as u32 };
    let mut work = move || {
        out.clear();
        records.iter().for_each(|record| record::encode(black_box(record), place(out.len()), &mut out));
        let mut at = 0;
        while at < out.len() {
            let decoded = record::decode(black_box(&out[at..]), place(at)).expect("what was written");
            at += black_box(decoded).bytes;
        }
    };
    Box::new(move |count| count(&mut work))
}

pub fn inbox() -> Work {
    let mut senders = Senders::new(1);
    let senders = ["a", "b", "c"].map(|name| senders.acquire(&user(name)));
    let mut work = move || {
        let mut inbox = Inbox::default();
        for number in 0..ENTRIES {
            // One of sixteen is late and goes before others.
            let time = if number % BATCH == 0 { WALL_MS + number.saturating_sub(100) } else { WALL_MS + number };
            let id = MessageId::v7(time, number.into());
            inbox.insert(Entry::new(id, senders[number as usize % 3], 64, Content::Unlogged(number as u32)));
        }
        while let Some(key) = inbox.send_next().map(|entry| entry.key()) {
            black_box(inbox.remove(key));
        }
        assert!(inbox.is_empty());
    };
    Box::new(move |count| count(&mut work))
}

pub fn wheel() -> Work {
    let (mut wheel, mut now_ms) = (Wheel::new(), 0);
    let mut work = move || {
        for number in 0..TIMERS {
            wheel.arm(now_ms + (number * 7_919) % 10_000, number);
        }
        let end = now_ms + 10_008;
        let mut fired = 0;
        while now_ms < end {
            now_ms += 8;
            while let Some(token) = wheel.expire(now_ms) {
                fired += 1;
                black_box(token);
            }
        }
        assert_eq!(fired, TIMERS);
    };
    Box::new(move |count| count(&mut work))
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name.as_bytes()).expect("a valid name")
}
