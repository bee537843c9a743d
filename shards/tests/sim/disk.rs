//! A simulated disk under one log: takes its actions, completes each when told to, and crashes.
//!
//! Sectors of 512 bytes are written whole or not at all, in any order, and are safe once a sync has completed. A crash of
//! the process keeps the page cache, a loss of power does not. All choices come from the caller's random numbers.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use iris_shards::log::{LogAction, LogEvent, ReadToken, Recovered};

const SECTOR_BYTES: usize = 512;

/// What a crash takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// kill -9: what the kernel has is kept, writes under way may be half done.
    Process,
    /// What was not synced is lost, sector by sector.
    Power,
}

/// An operation that is under way. Names it for [`Disk::complete`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// A completion, to be given to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Prepared(u32),
    PrepareFailed(u32),
    Written,
    Synced,
    Read(ReadToken, Vec<u8>),
    Removed(u32),
}

impl Done {
    /// As the log's event.
    pub fn event(&self) -> LogEvent<'_> {
        match self {
            Done::Prepared(segment) => LogEvent::Prepared { segment: *segment },
            Done::PrepareFailed(segment) => LogEvent::PrepareFailed { segment: *segment },
            Done::Written => LogEvent::Written,
            Done::Synced => LogEvent::Synced,
            Done::Read(token, bytes) => LogEvent::ReadDone { token: *token, bytes },
            Done::Removed(segment) => LogEvent::Removed { segment: *segment },
        }
    }
}

/// A file: what the kernel has, and what of it is not synced (with the bytes that are on the disk instead).
#[derive(Debug, Default, Clone)]
struct File {
    bytes: Vec<u8>,
    unsynced: BTreeMap<usize, Vec<u8>>,
}

impl File {
    fn write_sector(&mut self, offset: usize, bytes: &[u8], sector: usize) {
        let (start, end) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
        let (from, to) = (start.max(offset), end.min(offset + bytes.len()));
        if self.bytes.len() < to {
            self.bytes.resize(to, 0);
        }
        let old = self.bytes[start..end.min(self.bytes.len())].to_vec();
        self.unsynced.entry(sector).or_insert(old);
        self.bytes[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
    }

    fn lose(&mut self, random: &mut impl FnMut() -> u64) {
        for (sector, old) in std::mem::take(&mut self.unsynced) {
            if random().is_multiple_of(2) {
                self.bytes[sector * SECTOR_BYTES..][..old.len()].copy_from_slice(&old);
            }
        }
    }
}

/// The disk of one log.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    segment_bytes: usize,
    /// Segments that have room; `Prepare` fails beyond.
    pub segments_max: usize,
    files: BTreeMap<u32, File>,
    under_way: BTreeMap<OpId, LogAction>,
    next: u64,
    /// The most files that there ever were.
    pub files_peak: usize,
}

impl Disk {
    /// An empty disk.
    pub fn new(segment_bytes: u32) -> Self {
        Disk { segment_bytes: segment_bytes as usize, segments_max: usize::MAX, ..Disk::default() }
    }

    /// Starts a disk action; gives every other action back.
    pub fn apply(&mut self, action: LogAction) -> Option<LogAction> {
        match action {
            LogAction::Tell(_) | LogAction::Report(_) | LogAction::Closed => return Some(action),
            LogAction::Prepare { .. }
            | LogAction::Write { .. }
            | LogAction::Sync { .. }
            | LogAction::Read { .. }
            | LogAction::Remove { .. } => {
                self.next += 1;
                self.under_way.insert(OpId(self.next), action);
            }
        }
        None
    }

    /// What may complete next: everything but a sync whose write has not.
    pub fn pending(&self) -> Vec<OpId> {
        let is_writing = self.under_way.values().any(|action| matches!(action, LogAction::Write { .. }));
        let ready =
            self.under_way.iter().filter(|(_, action)| !is_writing || !matches!(action, LogAction::Sync { .. }));
        ready.map(|(&id, _)| id).collect()
    }

    /// Performs an operation and says what came of it.
    pub fn complete(&mut self, id: OpId) -> Option<Done> {
        Some(match self.under_way.remove(&id)? {
            LogAction::Prepare { segment } if self.files.len() >= self.segments_max => Done::PrepareFailed(segment),
            LogAction::Prepare { segment } => {
                let old = self.files.insert(segment, File { bytes: vec![0; self.segment_bytes], ..File::default() });
                assert!(old.is_none(), "segment {segment} is prepared twice");
                self.files_peak = self.files_peak.max(self.files.len());
                Done::Prepared(segment)
            }
            LogAction::Write { segment, offset, bytes } => {
                self.write(segment, offset as usize, &bytes, &mut || 0);
                Done::Written
            }
            LogAction::Sync { segment } => {
                self.file(segment).unsynced.clear();
                Done::Synced
            }
            LogAction::Read { segment, offset, bytes, token } => {
                let file = &self.file(segment).bytes;
                let end = (offset as usize + bytes as usize).min(file.len());
                Done::Read(token, file.get(offset as usize..end).unwrap_or_default().to_vec())
            }
            LogAction::Remove { segment } => {
                self.files.remove(&segment);
                Done::Removed(segment)
            }
            LogAction::Tell(_) | LogAction::Report(_) | LogAction::Closed => return None,
        })
    }

    fn file(&mut self, segment: u32) -> &mut File {
        self.files.get_mut(&segment).unwrap_or_else(|| panic!("segment {segment} has no file"))
    }

    /// Writes the sectors for which `random` is even.
    fn write(&mut self, segment: u32, offset: usize, bytes: &[u8], random: &mut impl FnMut() -> u64) {
        let file = self.file(segment);
        for sector in offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES) {
            if random().is_multiple_of(2) {
                file.write_sector(offset, bytes, sector);
            }
        }
    }

    /// The machine stops now. What is under way may have happened, in part.
    pub fn crash(&mut self, crash: Crash, random: &mut impl FnMut() -> u64) {
        for action in std::mem::take(&mut self.under_way).into_values() {
            match action {
                LogAction::Write { segment, offset, bytes } => self.write(segment, offset as usize, &bytes, random),
                LogAction::Prepare { segment }
                    if self.files.len() < self.segments_max && random().is_multiple_of(2) =>
                {
                    let length = random() as usize % (self.segment_bytes + 1);
                    self.files.insert(segment, File { bytes: vec![0; length], ..File::default() });
                }
                LogAction::Remove { segment } if random().is_multiple_of(2) => {
                    self.files.remove(&segment);
                }
                _ => {}
            }
        }
        if crash == Crash::Power {
            self.files.values_mut().for_each(|file| file.lose(random));
        }
    }

    /// A new, empty disk is put in.
    pub fn wipe(&mut self) {
        self.files.clear();
        self.under_way.clear();
    }

    /// What a recovery reads.
    pub fn files(&self) -> Vec<(u32, &[u8])> {
        self.files.iter().map(|(&number, file)| (number, file.bytes.as_slice())).collect()
    }

    /// Does what a recovery asks for.
    pub fn settle(&mut self, recovered: &Recovered) {
        for segment in &recovered.remove {
            self.files.remove(segment);
        }
        if let Some((segment, length)) = recovered.truncate {
            self.file(segment).bytes.truncate(length as usize);
        }
        // Truncated and synced.
        self.files.values_mut().for_each(|file| file.unsynced.clear());
    }

    /// Flips one bit of a byte that is not zero; where. `None` on an empty disk.
    pub fn flip(&mut self, random: &mut impl FnMut() -> u64) -> Option<(u32, usize)> {
        let used: BTreeSet<(u32, usize)> = self.files.iter().flat_map(|(&n, f)| used_sectors(n, &f.bytes)).collect();
        let &(number, sector) = used.iter().nth(random() as usize % used.len().max(1))?;
        let bytes = &mut self.file(number).bytes;
        let offset = (sector * SECTOR_BYTES + random() as usize % SECTOR_BYTES).min(bytes.len() - 1);
        bytes[offset] ^= 1 << (random() % 8);
        Some((number, offset))
    }
}

fn used_sectors(number: u32, bytes: &[u8]) -> impl Iterator<Item = (u32, usize)> {
    let is_used = |sector: &[u8]| sector.iter().any(|&byte| byte != 0);
    bytes.chunks(SECTOR_BYTES).enumerate().filter(move |(_, sector)| is_used(sector)).map(move |(i, _)| (number, i))
}
