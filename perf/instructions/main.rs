//! Fixed workloads for the machines of `iris-shards`, to be counted by callgrind (`scripts/instructions`).
//!
//! `instructions list` says which there are; `instructions run NAME` prepares one, runs it once to warm its memory, and
//! once more through [`measured`], where callgrind counts. Nothing here depends on time, chance or addresses.
#![forbid(unsafe_code)]

mod cluster;
mod leaves;
mod link;
mod nodes;

use std::hint::black_box;
use std::process::ExitCode;

/// Runs a part of a workload, and counts its instructions or not.
pub type Count = fn(&mut dyn FnMut());

/// A workload that is prepared: each call does the same work again, the part that counts inside `Count`.
pub type Work = Box<dyn FnMut(Count)>;

struct Workload {
    name: &'static str,
    /// What one operation is.
    operation: &'static str,
    /// Operations of one call.
    operations: u64,
    prepare: fn() -> Work,
}

const WORKLOADS: [Workload; 13] = [
    Workload {
        name: "frame-decode",
        operation: "a SEND of 64 bytes, and a sixteenth of an ACK",
        operations: leaves::FRAMES,
        prepare: leaves::frame_decode,
    },
    Workload {
        name: "frame-encode",
        operation: "a DELIVER of 64 bytes, and a sixteenth of a CONFIRM",
        operations: leaves::FRAMES,
        prepare: leaves::frame_encode,
    },
    Workload {
        name: "record",
        operation: "a record of 64 bytes, encoded and decoded",
        operations: leaves::RECORDS,
        prepare: leaves::record,
    },
    Workload {
        name: "inbox",
        operation: "an entry put in, sent and taken",
        operations: leaves::ENTRIES,
        prepare: leaves::inbox,
    },
    Workload {
        name: "wheel",
        operation: "a timer armed and fired",
        operations: leaves::TIMERS,
        prepare: leaves::wheel,
    },
    Workload {
        name: "link-direct",
        operation: "a message of 64 bytes in a DIRECT of 16, and a sixteenth of a DELIVERED, encoded and decoded",
        operations: link::MESSAGES,
        prepare: link::direct,
    },
    Workload {
        name: "link-append",
        operation: "an APPEND of 64 bytes, a STORED, and a sixteenth of an ACK, encoded and decoded",
        operations: link::MESSAGES,
        prepare: link::append,
    },
    Workload {
        name: "relay-16",
        operation: "a message between users of two executors, 16 in flight each, acknowledged and confirmed",
        operations: nodes::RELAYED_BY_16,
        prepare: nodes::relay_16,
    },
    Workload {
        name: "relay-1",
        operation: "the same with 1 in flight",
        operations: nodes::RELAYED_BY_1,
        prepare: nodes::relay_1,
    },
    Workload {
        name: "receiver",
        operation: "a direct message at the recipient's edge alone, and a sixteenth of its ACK",
        operations: nodes::RECEIVED,
        prepare: nodes::receiver,
    },
    Workload {
        name: "stored",
        operation: "a message to a user who is away, flushed with 15 others and confirmed",
        operations: nodes::STORED,
        prepare: nodes::stored,
    },
    Workload {
        name: "login",
        operation: "HELLO to the end of the session",
        operations: nodes::LOGINS,
        prepare: nodes::login,
    },
    Workload {
        name: "presence",
        operation: "a LOOKUP of a user of the other executor",
        operations: nodes::LOOKUPS,
        prepare: nodes::presence,
    },
];

/// Callgrind counts what happens in here and nothing else (`--toggle-collect`). Never inlined, or it would not be found.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    black_box(&mut *work)();
    black_box(());
}

fn unmeasured(work: &mut dyn FnMut()) {
    work();
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => list(),
        ["run", name] => {
            let Some(workload) = WORKLOADS.iter().find(|workload| workload.name == name) else {
                eprintln!("instructions: there is no workload {name}; `list` names them");
                return ExitCode::from(2);
            };
            let mut work = (workload.prepare)();
            work(unmeasured);
            work(measured);
        }
        _ => println!("scripts/instructions runs this under callgrind; by itself: list, or run NAME"),
    }
    ExitCode::SUCCESS
}

/// A line each: name, operations, what an operation is.
fn list() {
    for Workload { name, operation, operations, .. } in &WORKLOADS {
        println!("{name}\t{operations}\t{operation}");
    }
}
