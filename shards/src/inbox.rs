//! The inbox of one user: entries in order of (id, sender), in chunks of a sorted list.
//!
//! Owns at most 48 bytes per entry; bodies are elsewhere. An append at the end (ids grow) costs O(1), anything else a
//! binary search and a move within one chunk. There is no cursor: what is to be sent next is the lowest entry that is
//! not out, and only a lower bound of it is kept so that finding it is cheap (delivery rule 12).

use std::collections::VecDeque;

use crate::id::{MessageId, PairId, Sequence};
use crate::names::SenderRef;
use crate::storage::Place;

/// Entries per chunk.
const CHUNK: usize = 256;

/// The key of an entry within one inbox of one executor.
pub type EntryKey = (MessageId, SenderRef);

/// Where the content of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In memory only, in this cell; not handed to the storage engine yet.
    Unlogged(u32),
    /// In memory, in this cell; the storage engine was asked to append it.
    Logging(u32),
    /// On disk.
    Flushed(Place),
}

/// One message that no device has acknowledged. Packed by hand into 48 bytes: there may be millions.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The message.
    pub id: MessageId,
    /// A cell or a place; the flags say which.
    content: u64,
    /// Where confirmations go, together with the sender's login of `epoch`.
    pub sequence: Sequence,
    /// Who sent it.
    pub sender: SenderRef,
    /// The pair in the sender's session.
    pub pair: PairId,
    /// Size of the body.
    pub bytes: u32,
    /// Which login of the sender the return address belongs to; 0 for none.
    pub epoch: u16,
    /// Which other replicas have it on disk: bit n is the n-th other replica of the slot.
    pub copies: u8,
    flags: u8,
}

/// Sent to the recipient's session and not acknowledged.
const OUT: u8 = 1;
/// `stored` was told to the present return address.
const TOLD: u8 = 2;
/// The storage engine was asked to append it.
const LOGGING: u8 = 4;
/// It is on disk.
const FLUSHED: u8 = 8;
/// A copy of it is on its way to another place on disk.
const MOVING: u8 = 16;
/// Other replicas are asked for their word once it is on disk here.
const ASKS: u8 = 32;
/// A copy of it came from another replica.
const COPIED: u8 = 64;
/// It was on disk when the store was asked for the inbox, and has not been found yet.
const SOUGHT: u8 = 128;

impl Entry {
    /// An entry without a return address, whose content is in a cell.
    pub fn new(id: MessageId, sender: SenderRef, bytes: u32, content: Content) -> Self {
        let (sequence, pair) = (Sequence(0), PairId(0));
        let mut entry = Entry { id, content: 0, sequence, sender, pair, bytes, epoch: 0, copies: 0, flags: 0 };
        entry.set_content(content);
        entry
    }

    /// The key.
    pub fn key(&self) -> EntryKey {
        (self.id, self.sender)
    }

    /// Where its content is.
    pub fn content(&self) -> Content {
        match self.flags & (LOGGING | FLUSHED) {
            0 => Content::Unlogged(self.content as u32),
            LOGGING => Content::Logging(self.content as u32),
            _ => Content::Flushed(Place(self.content)),
        }
    }

    /// Its content has moved.
    pub fn set_content(&mut self, content: Content) {
        let (flag, content) = match content {
            Content::Unlogged(cell) => (0, u64::from(cell)),
            Content::Logging(cell) => (LOGGING, u64::from(cell)),
            Content::Flushed(place) => (FLUSHED, place.0),
        };
        self.flags = self.flags & !(LOGGING | FLUSHED | MOVING | SOUGHT) | flag;
        self.content = content;
    }

    /// Whether a copy is on its way to another place; over as soon as its content has moved.
    pub fn is_moving(&self) -> bool {
        self.flags & MOVING != 0
    }

    /// A copy is on its way to another place, or was dropped on its way.
    pub fn set_moving(&mut self, moving: bool) {
        self.flags = self.flags & !MOVING | if moving { MOVING } else { 0 };
    }

    /// Other replicas may have it already: they are asked once it is on disk here.
    pub fn ask_when_flushed(&mut self) {
        self.flags |= ASKS;
    }

    /// Whether they are to be asked now.
    pub fn take_ask(&mut self) -> bool {
        let asks = self.flags & ASKS != 0;
        self.flags &= !ASKS;
        asks
    }

    /// Whether a copy of it came: another replica has it, and may wait for this one to have it on disk.
    pub fn is_copied(&self) -> bool {
        self.flags & COPIED != 0
    }

    /// A copy of it came.
    pub fn set_copied(&mut self) {
        self.flags |= COPIED;
    }

    /// The store is asked for the inbox: what is on disk is found, or is gone.
    pub fn seek(&mut self) {
        if self.flags & FLUSHED != 0 {
            self.flags |= SOUGHT;
        }
    }

    /// Whether it was not found, since the store was asked.
    pub fn is_sought(&self) -> bool {
        self.flags & SOUGHT != 0
    }

    /// Whether it was sent to the recipient's session and not acknowledged.
    pub fn is_out(&self) -> bool {
        self.flags & OUT != 0
    }

    fn set_out(&mut self, out: bool) {
        self.flags = self.flags & !OUT | if out { OUT } else { 0 };
    }

    /// Whether `stored` was told to the present return address.
    pub fn is_told(&self) -> bool {
        self.flags & TOLD != 0
    }

    /// `stored` was told, or there is a new return address.
    pub fn set_told(&mut self, told: bool) {
        self.flags = self.flags & !TOLD | if told { TOLD } else { 0 };
    }
}

/// The entries of one user.
#[derive(Debug, Default)]
pub struct Inbox {
    chunks: VecDeque<VecDeque<Entry>>,
    len: usize,
    /// Every entry below this is out.
    out_below: Option<EntryKey>,
    /// No entry above this is out.
    out_top: Option<EntryKey>,
}

impl Inbox {
    /// How many entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this key.
    pub fn entry(&self, key: EntryKey) -> Option<&Entry> {
        let (chunk, at) = self.find(key).ok()?;
        Some(&self.chunks[chunk][at])
    }

    /// The entry with this key.
    pub fn entry_mut(&mut self, key: EntryKey) -> Option<&mut Entry> {
        let (chunk, at) = self.find(key).ok()?;
        Some(&mut self.chunks[chunk][at])
    }

    /// Puts an entry in. Panics if its key is there: the caller has looked.
    pub fn insert(&mut self, entry: Entry) {
        let key = entry.key();
        if !entry.is_out() && self.out_below.is_some_and(|bound| key < bound) {
            self.out_below = Some(key);
        }
        self.len += 1;
        match self.chunks.back_mut() {
            Some(last) if last.back().is_some_and(|e| e.key() < key) => {
                if last.len() < CHUNK {
                    make_room(last);
                    last.push_back(entry);
                } else {
                    self.chunks.push_back(VecDeque::from([entry]));
                }
            }
            Some(_) => self.insert_within(key, entry),
            None => self.chunks.push_back(VecDeque::from([entry])),
        }
    }

    #[cold]
    fn insert_within(&mut self, key: EntryKey, entry: Entry) {
        let Err((chunk, at)) = self.find(key) else { panic!("the entry is in the inbox already") };
        let list = &mut self.chunks[chunk];
        make_room(list);
        list.insert(at, entry);
        if list.len() > CHUNK {
            let mut upper = list.split_off(CHUNK / 2);
            list.shrink_to_fit();
            upper.shrink_to_fit();
            self.chunks.insert(chunk + 1, upper);
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: EntryKey) -> Option<Entry> {
        let (chunk, at) = self.find(key).ok()?;
        let list = &mut self.chunks[chunk];
        let entry = list.remove(at)?;
        self.len -= 1;
        if list.is_empty() {
            self.chunks.remove(chunk);
            if self.chunks.is_empty() {
                *self = Inbox::default();
            }
        } else if list.capacity() > 32 && list.len() * 4 < list.capacity() {
            list.shrink_to(list.len() * 2);
        }
        Some(entry)
    }

    /// The lowest entry that is not out. Marks it as out.
    pub fn send_next(&mut self) -> Option<&mut Entry> {
        let (mut chunk, mut at) = match self.out_below {
            Some(bound) => self.find(bound).unwrap_or_else(|place| place),
            None => (0, 0),
        };
        while let Some(list) = self.chunks.get(chunk) {
            match list.iter().skip(at).position(|entry| !entry.is_out()) {
                Some(more) => {
                    at += more;
                    break;
                }
                None => (chunk, at) = (chunk + 1, 0),
            }
        }
        let entry = self.chunks.get_mut(chunk)?.get_mut(at)?;
        entry.set_out(true);
        self.out_below = Some(entry.key());
        self.out_top = self.out_top.max(self.out_below);
        Some(entry)
    }

    /// Marks this entry as out, out of turn.
    pub fn send(&mut self, key: EntryKey) -> Option<&mut Entry> {
        let (chunk, at) = self.find(key).ok()?;
        self.out_top = self.out_top.max(Some(key));
        let entry = &mut self.chunks[chunk][at];
        entry.set_out(true);
        Some(entry)
    }

    /// Nothing is out any more: the session it was sent to has ended.
    pub fn recall(&mut self) {
        self.out_below = None;
        let Some(top) = self.out_top.take() else { return };
        for entry in self.chunks.iter_mut().flatten().take_while(|entry| entry.key() <= top) {
            entry.set_out(false);
        }
    }

    /// Whether there may be an entry of this sender that a later message must not overtake and that its session may not
    /// know of: below this id, or with a return address that is not `ours`. Looks at no more than `most` entries and says
    /// yes when that was not enough.
    pub fn has_other(&self, sender: SenderRef, id: MessageId, most: usize, ours: impl Fn(&Entry) -> bool) -> bool {
        self.iter()
            .enumerate()
            .any(|(looked, entry)| looked >= most || (entry.sender == sender && (entry.id < id || !ours(entry))))
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }

    /// Shows every entry in order; the caller changes no key.
    pub fn each_mut(&mut self, then: impl FnMut(&mut Entry)) {
        self.chunks.iter_mut().flatten().for_each(then);
    }

    /// The lowest entry.
    pub fn first(&self) -> Option<&Entry> {
        self.chunks.front().and_then(VecDeque::front)
    }

    /// Where the key is, or where it would be put.
    fn find(&self, key: EntryKey) -> Result<(usize, usize), (usize, usize)> {
        let chunk = self.chunks.partition_point(|list| list.back().is_some_and(|entry| entry.key() < key));
        let Some(list) = self.chunks.get(chunk) else {
            return Err((self.chunks.len().saturating_sub(1), self.chunks.back().map_or(0, VecDeque::len)));
        };
        let front = &list[0];
        if front.key() == key {
            return Ok((chunk, 0));
        }
        list.binary_search_by(|entry| entry.key().cmp(&key)).map(|at| (chunk, at)).map_err(|at| (chunk, at))
    }
}

/// Grows a full chunk by a little: most inboxes are small, and doubling would waste half of the large ones.
fn make_room(list: &mut VecDeque<Entry>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;
    use crate::names::Senders;

    fn entry(id: u64, sender: SenderRef) -> Entry {
        Entry::new(MessageId::v7(id, 0), sender, 1, Content::Unlogged(0))
    }

    fn sender() -> SenderRef {
        Senders::new(0).acquire(&UserId::parse(b"alice").unwrap())
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 48);
    }

    #[test]
    fn agrees_with_a_sorted_map() {
        let alice = sender();
        let mut inbox = Inbox::default();
        let mut model: std::collections::BTreeMap<u64, bool> = Default::default();
        let mut state = 7u64;
        for step in 0..60_000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = if state >> 63 == 0 { step } else { (state >> 40) % 2_000 };
            let key = (MessageId::v7(id, 0), alice);
            match (state >> 32) % 8 {
                0..=3 if !model.contains_key(&id) => {
                    inbox.insert(entry(id, alice));
                    model.insert(id, false);
                }
                4 => assert_eq!(inbox.remove(key).is_some(), model.remove(&id).is_some()),
                5 | 6 => {
                    let next = model.iter_mut().find(|(_, out)| !**out);
                    assert_eq!(inbox.send_next().map(|e| e.id.time_ms()), next.as_ref().map(|(id, _)| **id));
                    if let Some((_, out)) = next {
                        *out = true;
                    }
                }
                7 if step % 97 == 0 => {
                    inbox.recall();
                    model.values_mut().for_each(|out| *out = false);
                }
                _ => assert_eq!(inbox.entry(key).is_some(), model.contains_key(&id)),
            }
            assert_eq!(inbox.len(), model.len());
        }
        assert!(inbox.iter().map(|e| e.id.time_ms()).eq(model.keys().copied()));
    }

    #[test]
    fn older_entries_of_the_same_sender_are_seen() {
        let mut senders = Senders::new(0);
        let alice = senders.acquire(&UserId::parse(b"alice").unwrap());
        let bob = senders.acquire(&UserId::parse(b"bob").unwrap());
        let mut inbox = Inbox::default();
        inbox.insert(entry(1, bob));
        inbox.insert(entry(2, alice));
        assert!(!inbox.has_other(alice, MessageId::v7(2, 0), 10, |_| true));
        assert!(inbox.has_other(alice, MessageId::v7(3, 0), 10, |_| true));
        assert!(inbox.has_other(alice, MessageId::v7(1, 0), 10, |_| false));
        assert!(inbox.has_other(alice, MessageId::v7(2, 0), 0, |_| true));
    }
}
