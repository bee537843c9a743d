//! Reads of records: what is wanted in one turn is sorted and neighbours share a disk read.
//!
//! Owns what is wanted and what is under way. A record is answered only if its checksums and its (user, key) are right.

use std::collections::VecDeque;

use super::place::{Spot, unpack};
use super::{Damage, LogAction, LogConfig, ReadToken};
use crate::id::{Key, UserId};
use crate::record::{At, Content, decode};
use crate::storage::{Place, StorageEvent};

/// Neighbours further apart than this are two reads, in bytes.
const GAP_BYTES_MAX: u32 = 16 << 10;

/// A record that somebody waits for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub user: UserId,
    pub key: Key,
    pub place: Place,
}

/// Records that are read at once.
#[derive(Debug)]
pub(crate) struct Run {
    pub segment: u32,
    start: u32,
    end: u32,
    pub wanted: Vec<Wanted>,
}

/// What is read, and what is to be.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    wanted: Vec<Wanted>,
    queued: VecDeque<Run>,
    under_way: Vec<Option<Run>>,
}

impl Reading {
    pub fn want(&mut self, wanted: Wanted) {
        self.wanted.push(wanted);
    }

    /// Turns what is wanted into disk reads, as many as may be under way.
    pub fn start(&mut self, config: &LogConfig, out: &mut Vec<LogAction>) {
        self.group(config);
        self.under_way.resize_with(config.reads_max, || None);
        for (token, room) in self.under_way.iter_mut().enumerate().filter(|(_, room)| room.is_none()) {
            let Some(run) = self.queued.pop_front() else { return };
            out.push(LogAction::Read {
                segment: run.segment,
                offset: run.start,
                bytes: run.end - run.start,
                token: ReadToken(token as u32),
            });
            *room = Some(run);
        }
    }

    /// Ends a disk read.
    pub fn on_done(&mut self, token: ReadToken) -> Option<Run> {
        self.under_way.get_mut(token.0 as usize)?.take()
    }

    fn group(&mut self, config: &LogConfig) {
        self.wanted.sort_unstable_by_key(|wanted| wanted.place);
        for wanted in self.wanted.drain(..) {
            let Spot { segment, offset, bytes } = unpack(wanted.place);
            let end = offset.saturating_add(bytes);
            match self.queued.back_mut() {
                Some(run) if run.takes(segment, offset, end, config.read_bytes_max) => {
                    run.end = run.end.max(end);
                    run.wanted.push(wanted);
                }
                _ => self.queued.push_back(Run { segment, start: offset, end, wanted: vec![wanted] }),
            }
        }
    }
}

impl Run {
    fn takes(&self, segment: u32, offset: u32, end: u32, bytes_max: u32) -> bool {
        segment == self.segment
            && offset >= self.start
            && offset <= self.end.saturating_add(GAP_BYTES_MAX)
            && end - self.start <= bytes_max
    }

    /// Answers every record of the run from what was read; `None` if the disk could not read.
    pub fn answer(self, bytes: Option<&[u8]>, salt: u32, out: &mut Vec<LogAction>) {
        for wanted in self.wanted {
            let offset = unpack(wanted.place).offset;
            let at = At { salt, segment: self.segment, offset };
            let record = bytes.and_then(|bytes| bytes.get((offset - self.start) as usize..)).unwrap_or_default();
            let event = found(&wanted, record, at).unwrap_or_else(|| {
                let bytes = unpack(wanted.place).bytes;
                out.push(LogAction::Report(Damage::Unreadable { segment: self.segment, offset, bytes }));
                StorageEvent::Damaged { user: wanted.user, key: wanted.key, place: wanted.place }
            });
            out.push(LogAction::Tell(event));
        }
    }
}

fn found(wanted: &Wanted, record: &[u8], at: At) -> Option<StorageEvent> {
    let Content::Entry { user, sender, id, sent_at, body } = decode(record, at).ok()?.content else { return None };
    let right = user == wanted.user.as_bytes() && sender == wanted.key.sender.as_bytes() && id == wanted.key.id;
    right.then(|| StorageEvent::Read { user: wanted.user.clone(), key: wanted.key.clone(), sent_at, body: body.into() })
}
