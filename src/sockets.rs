//! The sockets of one executor, without a task, stream or buffer per connection. Owns the network
//! ring, the listeners and every descriptor it adopted. Goes in: descriptors and wishes to watch.
//! Comes out: [`SocketEvent`]s; bytes move by [`Sockets::read`] and [`Sockets::write`].
//! Invariant: a descriptor is closed only when the kernel holds no operation on it.
//! Accepting is in `accept`, falling asleep in `sleep`, the io_uring itself in `kernel`.

mod accept;
pub(crate) mod kernel;
mod sleep;

use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use glommio::io::PollableFd;
use socket2::SockRef;

use crate::bell::Bell;
use crate::watchdog::Pulse;
use accept::{Listener, Reserve};
use kernel::{Completion, Operation, Outcome, Ring};

pub use accept::ListenerId;
pub use kernel::{Limit, RingMode, RingSizes};
pub use sleep::Sleep;

const READ_EVENTS: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const WRITE_EVENTS: u32 = libc::POLLOUT as u32;
const END_EVENTS: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) as u32;

/// A connection of one executor. Never valid again once the connection is closed or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    index: u32,
    generation: u32,
}

impl ConnectionKey {
    /// Dense, and used again after a close: fit to index a slab beside this one.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What happened to a socket.
#[derive(Debug)]
pub enum SocketEvent {
    /// A client connected: non-blocking, closed on exec, without Nagle's delay.
    Accepted(ListenerId, OwnedFd),
    /// Accepting failed; it goes on by itself, later if need be. For the log and the metrics.
    AcceptFailed(ListenerId, io::Error),
    /// There is something to read: read until a read comes back short or would block.
    Readable(ConnectionKey),
    /// The peer stopped writing, or the connection broke: read until 0 or an error.
    Hangup(ConnectionKey),
    /// There is room to write again, or a connect finished. Once per [`Sockets::watch_writable`].
    Writable(ConnectionKey),
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections accepted and closed at once for want of descriptors.
    pub shed: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Multishot operations that the kernel ended and that were armed again.
    pub rearmed: u64,
    /// Times the executor went to sleep.
    pub sleeps: u64,
    /// Sleeps that a spin made unnecessary.
    pub spins: u64,
    /// Spins that ended in a sleep.
    pub futile_spins: u64,
    /// Time spent spinning: CPU time that nobody needed.
    pub spun: Duration,
}

/// How an executor's sockets are set up.
#[derive(Clone, Copy, Debug)]
pub struct SocketSettings {
    /// Queue sizes of the network ring.
    pub sizes: RingSizes,
    /// The best that the kernel offers, unless one is named.
    pub mode: Option<RingMode>,
    /// Longest spin before a sleep. Zero where executors share CPUs.
    pub spin: Duration,
    /// Turns before [`Sockets::give_way`] lets glommio's own I/O through.
    pub turns_max: u32,
}

impl Default for SocketSettings {
    fn default() -> Self {
        SocketSettings {
            sizes: RingSizes { submissions: 256, completions: 4096 },
            mode: None,
            spin: Duration::from_micros(50),
            turns_max: 32,
        }
    }
}

/// What a completion belongs to; bits 56–62 of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept = 1,
    Read = 2,
    Write = 3,
    Timeout = 4,
    /// Of a request to end something early.
    Cancel = 5,
}

const GENERATION_MASK: u32 = 0x00ff_ffff;

fn token(kind: Kind, key: ConnectionKey) -> u64 {
    (kind as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.index)
}

fn key_of(token: u64) -> ConnectionKey {
    ConnectionKey { index: token as u32, generation: (token >> 32) as u32 & GENERATION_MASK }
}

/// The kernel holds a poll for reading.
const READ_ARMED: u8 = 1;
/// The kernel holds a poll for writing.
const WRITE_ARMED: u8 = 2;
/// The poll for reading ends with its first event.
const ONCE: u8 = 4;
/// To be closed as soon as nothing is armed.
const CLOSING: u8 = 8;

/// 12 bytes per connection.
struct Slot {
    fd: Option<OwnedFd>,
    generation: u32,
    flags: u8,
}

/// The sockets of one executor; made and used on its thread.
pub struct Sockets {
    ring: Ring,
    slots: Vec<Slot>,
    free: Vec<u32>,
    listeners: Vec<Listener>,
    reserve: Reserve,
    batch: Vec<Completion>,
    counters: SocketCounters,
    bell: Bell,
    pulse: Pulse,
    /// The bell, as glommio waits for it.
    doorbell: PollableFd<Bell>,
    /// Always readable: the way through the reactor and back.
    open_door: PollableFd<std::fs::File>,
    settings: SocketSettings,
    rest: sleep::Rest,
}

impl Sockets {
    /// Inside the executor that will use it. Fails without io_uring or descriptors.
    pub fn new(settings: SocketSettings, pulse: Pulse) -> io::Result<Sockets> {
        let ring = match settings.mode {
            None => Ring::best(settings.sizes),
            Some(mode) => Ring::with_mode(settings.sizes, mode),
        };
        let ring = ring.map_err(kernel::explain_memory)?;
        let bell = pulse.bell().clone();
        ring.signal(bell.as_raw_fd())?;
        let doorbell = PollableFd::new(bell.clone()).map_err(io::Error::from)?;
        let open_door = PollableFd::new(kernel::eventfd(1)?).map_err(io::Error::from)?;
        Ok(Sockets {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            reserve: Reserve::new(),
            batch: Vec::new(),
            counters: SocketCounters::default(),
            bell,
            pulse,
            doorbell,
            open_door,
            settings,
            rest: sleep::Rest::default(),
        })
    }

    /// How this kernel delivers completions.
    #[must_use]
    pub fn mode(&self) -> RingMode {
        self.ring.mode()
    }

    /// The bell that wakes this executor.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Sums since the start.
    #[must_use]
    pub fn counters(&self) -> SocketCounters {
        self.counters
    }

    /// Connections held, those that wait to be closed included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a connected (or connecting) socket and watches it until it is closed.
    pub fn adopt(&mut self, fd: OwnedFd) -> io::Result<ConnectionKey> {
        let key = self.insert(fd)?;
        self.arm_read(key, false)?;
        Ok(key)
    }

    /// Takes a connected socket and watches it for one event, so that it can be released after.
    pub fn adopt_once(&mut self, fd: OwnedFd) -> io::Result<ConnectionKey> {
        let key = self.insert(fd)?;
        self.arm_read(key, true)?;
        Ok(key)
    }

    /// From now on until it is closed.
    pub fn watch(&mut self, key: ConnectionKey) -> io::Result<()> {
        self.arm_read(key, false)
    }

    /// For one more event; what is watched until it is closed stays so.
    pub fn watch_once(&mut self, key: ConnectionKey) -> io::Result<()> {
        self.arm_read(key, true)
    }

    /// One [`SocketEvent::Writable`] when there is room: after a short write, or a connect.
    pub fn watch_writable(&mut self, key: ConnectionKey) -> io::Result<()> {
        let slot = self.open_slot(key)?;
        if slot.flags & WRITE_ARMED != 0 {
            return Ok(());
        }
        slot.flags |= WRITE_ARMED;
        let fd = raw(slot);
        self.ring.push(token(Kind::Write, key), Operation::PollOnce(fd, WRITE_EVENTS))
    }

    /// Gives the descriptor away, for another executor to adopt. Refused (`ResourceBusy`) while it
    /// is watched: after an event of [`Sockets::adopt_once`] or [`Sockets::watch_once`] it is not.
    pub fn release(&mut self, key: ConnectionKey) -> io::Result<OwnedFd> {
        let slot = self.open_slot(key)?;
        if slot.flags & (READ_ARMED | WRITE_ARMED) != 0 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let fd = slot.fd.take().ok_or(io::ErrorKind::NotConnected)?;
        self.vacate(key);
        Ok(fd)
    }

    /// Ends the connection: the peer sees it at once, the key is dead, no event follows.
    pub fn close(&mut self, key: ConnectionKey) {
        let Ok(slot) = self.open_slot(key) else { return };
        let armed = slot.flags & (READ_ARMED | WRITE_ARMED);
        if armed == 0 {
            return self.vacate(key);
        }
        slot.flags |= CLOSING;
        if let Some(fd) = &slot.fd {
            // Fails when the peer was faster.
            let _ = SockRef::from(fd).shutdown(Shutdown::Both);
        }
        for (flag, kind) in [(READ_ARMED, Kind::Read), (WRITE_ARMED, Kind::Write)] {
            if armed & flag != 0 {
                self.cancel(kind, key);
            }
        }
    }

    /// Tells the peer that nothing more will be written; reading goes on.
    pub fn shutdown_write(&mut self, key: ConnectionKey) -> io::Result<()> {
        let slot = self.open_slot(key)?;
        let fd = slot.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        SockRef::from(fd).shutdown(Shutdown::Write)
    }

    /// Reads what is there: 0 at the end of the stream, `WouldBlock` when there is nothing,
    /// `NotConnected` for a dead key.
    pub fn read(&self, key: ConnectionKey, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket(key)?;
        loop {
            match (&*socket).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes what fits: `WouldBlock` when nothing does, `NotConnected` for a dead key.
    pub fn write(&self, key: ConnectionKey, bytes: &[u8]) -> io::Result<usize> {
        let socket = self.socket(key)?;
        loop {
            match socket.send_with_flags(bytes, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Like [`Sockets::write`], from several pieces.
    pub fn write_vectored(&self, key: ConnectionKey, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket(key)?;
        loop {
            match socket.send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// The error that the kernel keeps for the socket: how a connect ended.
    pub fn take_error(&self, key: ConnectionKey) -> io::Result<Option<io::Error>> {
        self.socket(key)?.take_error()
    }

    /// The address of the other end; `None` when it has none or is gone.
    #[must_use]
    pub fn peer_address(&self, key: ConnectionKey) -> Option<SocketAddr> {
        self.socket(key).ok()?.peer_addr().ok()?.as_socket()
    }

    /// The descriptor itself, for options and datagrams.
    pub fn descriptor(&self, key: ConnectionKey) -> io::Result<BorrowedFd<'_>> {
        let slot = self.slot(key).ok_or(io::ErrorKind::NotConnected)?;
        Ok(slot.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?.as_fd())
    }

    /// Whether the key still stands for a connection: an event gathered earlier may be of one that
    /// was closed since.
    #[must_use]
    pub fn is_open(&self, key: ConnectionKey) -> bool {
        self.slot(key).is_some_and(|slot| slot.flags & CLOSING == 0)
    }

    /// Begins a turn: appends what happened since the last. Never waits.
    pub fn gather(&mut self, events: &mut Vec<SocketEvent>) -> io::Result<()> {
        self.rest.count_turn();
        self.resume_accepting()?;
        if self.ring.needs_submit() {
            self.ring.submit()?;
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.take_completions(&mut batch);
        for completion in batch.drain(..) {
            self.on_completion(completion, events)?;
        }
        self.batch = batch;
        Ok(())
    }

    fn on_completion(&mut self, completion: Completion, events: &mut Vec<SocketEvent>) -> io::Result<()> {
        let Completion { token, outcome, has_more } = completion;
        match (token >> 56) as u8 {
            kind if kind == Kind::Accept as u8 => self.on_accept(token as u32 as usize, outcome, has_more, events),
            kind if kind == Kind::Read as u8 => self.on_readable(key_of(token), &outcome, has_more, events),
            kind if kind == Kind::Write as u8 => {
                self.on_writable(key_of(token), events);
                Ok(())
            }
            kind if kind == Kind::Timeout as u8 => {
                self.rest.on_timeout(token as u32);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_readable(
        &mut self,
        key: ConnectionKey,
        outcome: &Outcome,
        has_more: bool,
        events: &mut Vec<SocketEvent>,
    ) -> io::Result<()> {
        let Some(slot) = self.slot_mut(key) else { return Ok(()) };
        if !has_more {
            slot.flags &= !READ_ARMED;
        }
        if slot.flags & CLOSING != 0 {
            self.close_when_idle(key);
            return Ok(());
        }
        let is_ended = !has_more && slot.flags & ONCE == 0;
        let Outcome::Done(ready) = outcome else {
            events.push(SocketEvent::Hangup(key));
            return Ok(());
        };
        events.push(match ready & END_EVENTS {
            0 => SocketEvent::Readable(key),
            _ => SocketEvent::Hangup(key),
        });
        if is_ended {
            self.counters.rearmed += 1;
            self.arm_read(key, false)?;
        }
        Ok(())
    }

    fn on_writable(&mut self, key: ConnectionKey, events: &mut Vec<SocketEvent>) {
        let Some(slot) = self.slot_mut(key) else { return };
        slot.flags &= !WRITE_ARMED;
        if slot.flags & CLOSING != 0 {
            return self.close_when_idle(key);
        }
        events.push(SocketEvent::Writable(key));
    }

    fn insert(&mut self, fd: OwnedFd) -> io::Result<ConnectionKey> {
        SockRef::from(&fd).set_nonblocking(true)?;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.fd = Some(fd);
            slot.flags = 0;
            return Ok(ConnectionKey { index, generation: slot.generation });
        }
        let index = u32::try_from(self.slots.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.slots.push(Slot { fd: Some(fd), generation: 0, flags: 0 });
        Ok(ConnectionKey { index, generation: 0 })
    }

    fn arm_read(&mut self, key: ConnectionKey, once: bool) -> io::Result<()> {
        let slot = self.open_slot(key)?;
        if slot.flags & READ_ARMED != 0 {
            if !once {
                // When the one event comes, it is armed again for good.
                slot.flags &= !ONCE;
            }
            return Ok(());
        }
        slot.flags |= READ_ARMED;
        let fd = raw(slot);
        let operation = if once {
            slot.flags |= ONCE;
            Operation::PollOnce(fd, READ_EVENTS)
        } else {
            slot.flags &= !ONCE;
            Operation::PollMany(fd, READ_EVENTS)
        };
        self.ring.push(token(Kind::Read, key), operation)
    }

    fn cancel(&mut self, kind: Kind, key: ConnectionKey) {
        // A poll that ends by itself meanwhile is the same to us. A failing submit shows up in
        // the next `gather`, which submits again.
        let _ = self.ring.push(token(Kind::Cancel, key), Operation::Cancel(token(kind, key)));
    }

    fn close_when_idle(&mut self, key: ConnectionKey) {
        let armed = READ_ARMED | WRITE_ARMED;
        if self.slot(key).is_some_and(|slot| slot.flags & armed == 0) {
            self.vacate(key);
        }
    }

    /// Closes the descriptor, if it is still there, and makes the index free.
    fn vacate(&mut self, key: ConnectionKey) {
        let slot = &mut self.slots[key.index()];
        debug_assert!(slot.flags & (READ_ARMED | WRITE_ARMED) == 0);
        slot.fd = None;
        slot.flags = 0;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(key.index);
        self.hurry_accepting();
    }

    fn slot(&self, key: ConnectionKey) -> Option<&Slot> {
        let slot = self.slots.get(key.index())?;
        (slot.generation == key.generation && slot.fd.is_some()).then_some(slot)
    }

    fn slot_mut(&mut self, key: ConnectionKey) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(key.index())?;
        (slot.generation == key.generation && slot.fd.is_some()).then_some(slot)
    }

    fn open_slot(&mut self, key: ConnectionKey) -> io::Result<&mut Slot> {
        let slot = self.slot_mut(key).filter(|slot| slot.flags & CLOSING == 0);
        slot.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn socket(&self, key: ConnectionKey) -> io::Result<SockRef<'_>> {
        let slot = self.slot(key).filter(|slot| slot.flags & CLOSING == 0);
        let fd = slot.and_then(|slot| slot.fd.as_ref()).ok_or(io::ErrorKind::NotConnected)?;
        Ok(SockRef::from(fd))
    }
}

/// -1 is refused by the kernel like any closed descriptor.
fn raw(slot: &Slot) -> i32 {
    slot.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
}
