//! What Iris decides, as state machines and formats without I/O.
//!
//! No clock, random source, socket, file or thread is here, and no iteration over hash maps: time is an argument,
//! completions of I/O are events. So a whole cluster runs in one thread in a test, from a seed (`tests/sim`).
//!
//! # The contract
//!
//! `handle(&mut self, now, event, &mut actions)` appends to `actions` what is to be done, in order. The shell performs
//! every action, and reports what comes of it as another event; an action means the same thing everywhere. An
//! acknowledgement can arise only in the handler of a completion. Leaves (ring, placement, presence, inbox, names,
//! tombstones, wheel) return values; only session, router, receiver, shard and the two nodes emit actions. What the
//! machine itself did wrong is an assertion: the process ends and recovers from disk.
//!
//! # Reading order
//!
//! 1. [`id`], [`time`]: the names of things.
//! 2. [`event`], [`peer`], [`storage`]: the vocabulary. [`frame`], [`link`],
//!    [`record`]: the formats of clients, of peers and of the log.
//! 3. [`edge_node`] → [`session`] → [`router`] (the sender's side) and [`receiver`] (the recipient's side), which share
//!    [`edge`], [`identity`] and [`reach`].
//! 4. [`core_node`] → [`shard`] → [`mailbox`], [`inbox`], [`presence`], [`tombstone`], [`names`],
//!    [`addresses`]; who keeps what with whom: [`tenure`] → [`replica`].
//! 5. [`log`]: where records are on disk, what survives a crash, what is rewritten.
//! 6. [`slot`] → [`ring`] → [`placement`]: where a user is kept. [`wheel`], [`limits`].
//!
//! Each rule of `docs/delivery.md` is named by its number where it is kept. [`mutant`] breaks one at a time.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod core_node;
pub mod edge;
pub mod edge_node;
pub mod event;
pub mod frame;
pub mod id;
pub mod identity;
pub mod inbox;
pub mod limits;
pub mod link;
pub mod log;
pub mod mailbox;
pub mod mutant;
pub mod names;
pub mod peer;
pub mod placement;
pub mod presence;
pub mod reach;
pub mod receiver;
pub mod record;
pub mod replica;
pub mod ring;
pub mod router;
pub mod session;
pub mod shard;
pub mod slot;
pub mod storage;
pub mod tenure;
pub mod time;
pub mod tombstone;
pub mod wheel;
