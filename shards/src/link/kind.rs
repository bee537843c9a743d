//! Numbers of the peer frames (`docs/peer-protocol.md`, section 3). Never used twice for different frames.
//! Below 0x80 a frame that is not known ends the link; from 0x80 on it is skipped.

pub(super) const HELLO: u8 = 0x01;
pub(super) const ACCEPT: u8 = 0x02;
pub(super) const PROOF: u8 = 0x03;
pub(super) const REFUSE: u8 = 0x04;
pub(super) const PING: u8 = 0x05;
pub(super) const PONG: u8 = 0x06;
pub(super) const WHOIS: u8 = 0x07;
pub(super) const INTRODUCE: u8 = 0x08;
pub(super) const LEAVING: u8 = 0x09;

/// To the core half, with a slot.
pub(super) const REGISTER: u8 = 0x10;
pub(super) const UNREGISTER: u8 = 0x11;
pub(super) const PHASE_GROWN: u8 = 0x12;
pub(super) const APPEND: u8 = 0x13;
pub(super) const ACK: u8 = 0x14;
pub(super) const LOOKUP: u8 = 0x15;
pub(super) const UNWATCH: u8 = 0x16;

/// From the core of another replica, with a slot.
pub(super) const ENTRY: u8 = 0x20;
pub(super) const FLUSHED: u8 = 0x21;
pub(super) const TOMBSTONE: u8 = 0x22;
pub(super) const DIGEST: u8 = 0x23;
pub(super) const WANT: u8 = 0x24;
pub(super) const DONE: u8 = 0x25;
pub(super) const NO_ROOM: u8 = 0x26;
pub(super) const OFFERED: u8 = 0x27;
pub(super) const COMPARED: u8 = 0x28;

/// To the core half of every executor.
pub(super) const REFRESH: u8 = 0x30;
pub(super) const CLAIMS: u8 = 0x31;

/// To the edge half of one executor.
pub(super) const OUTNUMBERED: u8 = 0x40;
pub(super) const REPLACED: u8 = 0x41;
pub(super) const DELIVER: u8 = 0x42;
pub(super) const DIRECT: u8 = 0x43;
pub(super) const STORED: u8 = 0x44;
pub(super) const DELIVERED: u8 = 0x45;
pub(super) const BOUNCE: u8 = 0x46;
pub(super) const REFUSED: u8 = 0x47;
pub(super) const PRESENCE: u8 = 0x48;
pub(super) const LEASE_ENDED: u8 = 0x49;

/// From here on a frame may be skipped by whoever does not know it.
pub(super) const OPTIONAL: u8 = 0x80;
