//! Recovery: finds out from the bytes of the segments what the log holds, and where it ends.
//!
//! A batch is written only after the one before it was flushed, and starts with a marker. So what is no record is damage
//! if a marker follows it (report, search on behind it), and the torn end of the last batch otherwise (cut there).

use super::place::{Spot, pack, unpack};
use super::segment::{Segment, Segments};
use super::{Damage, LogConfig};
use crate::id::{Body, Key, UserId};
use crate::record::{At, Content, Decoded, Invalid, Position, decode, next_header};
use crate::storage::{Entry, Place, Record, StorageEvent};

/// A scan of all segments, in order. `S` is anything that has the bytes of a segment file.
pub struct Recovery<S> {
    salt: u32,
    files: Vec<(u32, S)>,
    /// The file that is being scanned.
    at: usize,
    offset: usize,
    segment: Segment,
    segments: Segments,
    names: Names,
    cut: Option<Cut>,
}

/// What has to be done to the files before the log may be used, and what the log needs to know of them.
#[derive(Debug)]
pub struct Recovered {
    /// Segments that were never used or hold nothing but the torn end: to be removed.
    pub remove: Vec<u32>,
    /// The segment that has to end at this length, so that what is torn off is never read again.
    pub truncate: Option<(u32, u32)>,
    /// The last segment, which has to be synced: a crash of the process alone leaves records that no sync has seen.
    pub sync: Option<u32>,
    pub(crate) segments: Segments,
}

#[derive(Debug)]
struct Cut {
    file: usize,
    length: u32,
}

impl<S: AsRef<[u8]>> Recovery<S> {
    /// Starts a scan of these files, by number.
    pub fn new(config: &LogConfig, mut files: Vec<(u32, S)>) -> Self {
        files.sort_by_key(|&(number, _)| number);
        let first = files.first().map_or(1, |&(number, _)| number);
        Recovery {
            salt: config.salt,
            files,
            at: 0,
            offset: 0,
            segment: Segment::default(),
            segments: Segments::starting_at(first),
            names: Names::default(),
            cut: None,
        }
    }

    /// Goes on until about `events_max` events were found; `false` at the end.
    pub fn step(&mut self, events_max: usize, out: &mut Vec<StorageEvent>, damage: &mut Vec<Damage>) -> bool {
        while self.cut.is_none() && self.at < self.files.len() {
            if out.len() >= events_max {
                return true;
            }
            let (number, file) = &self.files[self.at];
            let at = At { salt: self.salt, segment: *number, offset: self.offset as u32 };
            match decode(file.as_ref().get(self.offset..).unwrap_or_default(), at) {
                Ok(decoded) => {
                    let bytes = decoded.bytes;
                    let event = self.names.event(&decoded, pack(at.segment, at.offset, bytes as u32));
                    self.on_record(bytes, event, out);
                }
                Err(reason) => self.on_invalid(at, reason, damage),
            }
        }
        false
    }

    /// The record at a place that was found, with its body.
    pub fn record(&self, place: Place) -> Option<Record> {
        let Spot { segment, offset, .. } = unpack(place);
        let at = self.files.binary_search_by_key(&segment, |&(number, _)| number).ok()?;
        let bytes = self.files[at].1.as_ref().get(offset as usize..)?;
        to_record(&decode(bytes, At { salt: self.salt, segment, offset }).ok()?.content)
    }

    /// The result, after the last step.
    pub fn finish(mut self) -> Recovered {
        let mut remove = Vec::new();
        let mut truncate = None;
        if let Some(cut) = &self.cut {
            remove.extend(self.files[cut.file..].iter().map(|&(number, _)| number));
            if cut.length > 0 {
                let number = remove.remove(0);
                truncate = Some((number, cut.length));
                self.segments.push(std::mem::take(&mut self.segment));
            }
        }
        let sync = self.segments.next().checked_sub(1).filter(|_| self.segments.len() > 0);
        Recovered { remove, truncate, sync, segments: self.segments }
    }

    fn on_record(&mut self, bytes: usize, event: Option<StorageEvent>, out: &mut Vec<StorageEvent>) {
        self.offset += bytes;
        self.segment.used = self.offset as u32;
        let Some(event) = event else { return };
        if let StorageEvent::Recovered { place, .. } = &event {
            self.segment.on_record(*place);
        }
        out.push(event);
    }

    fn on_invalid(&mut self, at: At, reason: Invalid, damage: &mut Vec<Damage>) {
        let bytes = self.files[self.at].1.as_ref();
        let Some(flushed) = self.flushed_after(reason) else {
            let lost = bytes
                .get(self.offset..)
                .unwrap_or_default()
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1);
            if lost > 0 {
                damage.push(Damage::Torn { segment: at.segment, offset: at.offset, bytes: lost as u32 });
            }
            self.cut = Some(Cut { file: self.at, length: at.offset });
            return;
        };
        let is_end = flushed <= Position { segment: at.segment, offset: at.offset };
        // Without a marker that names the end of this segment, zeros are taken for it.
        let is_zeros = || {
            flushed.segment > at.segment && bytes.get(self.offset..).unwrap_or_default().iter().all(|&byte| byte == 0)
        };
        if is_end || is_zeros() {
            return self.next_file(damage);
        }
        let end = if flushed.segment == at.segment { flushed.offset as usize } else { bytes.len() };
        let next = match reason {
            Invalid::Payload(whole) => self.offset + whole,
            _ => next_header(bytes, self.offset + 1, At { offset: 0, ..at }).unwrap_or(end),
        };
        assert!(next > self.offset, "recovery does not get on");
        damage.push(Damage::Unreadable { segment: at.segment, offset: at.offset, bytes: (next - self.offset) as u32 });
        self.offset = next;
        self.segment.used = next as u32;
    }

    /// What the next marker behind the invalid bytes names as flushed.
    fn flushed_after(&self, reason: Invalid) -> Option<Position> {
        // Usual case, without a search: the segment ends here, and the next one says so.
        let next = self.files.get(self.at + 1);
        let first = next.and_then(|(number, file)| marker(file.as_ref(), 0, self.at(*number)));
        let here = Position { segment: self.files[self.at].0, offset: self.offset as u32 };
        if reason == Invalid::Empty && first.is_some_and(|(_, flushed)| flushed == here) {
            return Some(here);
        }
        let mut from = self.offset + 1;
        for (number, file) in &self.files[self.at..] {
            if let Some((_, flushed)) = next_marker(file.as_ref(), from, self.at(*number)) {
                return Some(flushed);
            }
            from = 0;
        }
        None
    }

    fn at(&self, segment: u32) -> At {
        At { salt: self.salt, segment, offset: 0 }
    }

    fn next_file(&mut self, damage: &mut Vec<Damage>) {
        self.segments.push(std::mem::take(&mut self.segment));
        self.at += 1;
        self.offset = 0;
        let next = self.files.get(self.at).map(|&(number, _)| number);
        while next.is_some_and(|next| next > self.segments.next()) {
            damage.push(Damage::Missing { segment: self.segments.next() });
            self.segments.push(Segment::missing());
        }
    }
}

/// The commit marker at this index, and what it names.
fn marker(bytes: &[u8], index: usize, base: At) -> Option<(usize, Position)> {
    let at = At { offset: base.offset + index as u32, ..base };
    match decode(bytes.get(index..)?, at).ok()?.content {
        Content::Commit(flushed) => Some((index, flushed)),
        _ => None,
    }
}

fn next_marker(bytes: &[u8], from: usize, base: At) -> Option<(usize, Position)> {
    let mut from = from;
    while let Some(index) = next_header(bytes, from, base) {
        if let Some(found) = marker(bytes, index, base) {
            return Some(found);
        }
        from = index + 1;
    }
    None
}

/// Names and the empty body, shared between neighbouring records.
struct Names {
    user: Option<UserId>,
    sender: Option<UserId>,
    empty: Body,
}

impl Default for Names {
    fn default() -> Self {
        Names { user: None, sender: None, empty: Body::from([]) }
    }
}

impl Names {
    /// What is told of a record; nothing of a marker, or of names that no user has.
    fn event(&mut self, decoded: &Decoded<'_>, place: Place) -> Option<StorageEvent> {
        let (record, body_bytes) = match decoded.content {
            Content::Entry { user, sender, id, sent_at, body } => {
                let user = shared(&mut self.user, user)?;
                let key = Key { id, sender: shared(&mut self.sender, sender)? };
                (Record::Entry(Entry { user, key, sent_at, body: self.empty.clone() }), body.len() as u32)
            }
            Content::Tombstone { user, sender, id, taken_at } => {
                let user = shared(&mut self.user, user)?;
                let key = Key { id, sender: shared(&mut self.sender, sender)? };
                (Record::Tombstone { user, key, taken_at, kills: None }, 0)
            }
            Content::Complete(mark) => (Record::Complete(mark.to_mark()), 0),
            Content::Commit(_) => return None,
        };
        Some(StorageEvent::Recovered { record, body_bytes, place })
    }
}

fn shared(last: &mut Option<UserId>, name: &[u8]) -> Option<UserId> {
    match last {
        Some(known) if known.as_bytes() == name => Some(known.clone()),
        _ => {
            *last = UserId::parse(name).ok();
            last.clone()
        }
    }
}

/// A record with its body, made from what was decoded; `None` for a marker.
pub fn to_record(content: &Content<'_>) -> Option<Record> {
    let (user, sender, id) = match *content {
        Content::Entry { user, sender, id, .. } | Content::Tombstone { user, sender, id, .. } => (user, sender, id),
        Content::Complete(mark) => return Some(Record::Complete(mark.to_mark())),
        Content::Commit(_) => return None,
    };
    let user = UserId::parse(user).ok()?;
    let key = Key { id, sender: UserId::parse(sender).ok()? };
    Some(match *content {
        Content::Entry { sent_at, body, .. } => Record::Entry(Entry { user, key, sent_at, body: body.into() }),
        Content::Tombstone { taken_at, .. } => Record::Tombstone { user, key, taken_at, kills: None },
        Content::Complete(_) | Content::Commit(_) => return None,
    })
}
