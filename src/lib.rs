//! Iris: a thread-per-core, io_uring network appliance that carries 1:1 messages between users.
//!
//! This crate is the shell: it touches the kernel and decides nothing. What is decided (sessions, routing, presence,
//! inboxes, the log) is in [`iris_shards`], as state machines without I/O. Between them goes one vocabulary: events in,
//! actions out ([`iris_shards::event`]).
//!
//! # The rooms
//!
//! | room | what it is |
//! |---|---|
//! | [`cli`], [`client`] | the command: one file per verb, and the client that chat, send and listen use |
//! | [`config`] | RON as written → configuration as used; every default and limit |
//! | [`node`] | one node: preflight, executors, drain, the end |
//! | [`discovery`] | who is in the cluster and keeps what: a static list, gossip, DNS |
//! | [`runtime`], [`cpus`], [`preflight`], [`watchdog`] | starting executors on their CPUs, and what could be in the way |
//! | [`executor`] | the loop of one executor: gather, handle, perform, write, sleep |
//! | [`sockets`], [`connections`] | the kernel's ring: accept, readiness, close; bytes ↔ frames |
//! | [`mesh`], [`bell`] | bounded rings between executors, and what wakes them |
//! | [`storage`] | performs append, read, trim and flush: segment files on disk |
//! | [`plan`], [`shard_map`] | what a cluster needs, and who keeps what in it, as `iris plan` and `iris shards` print it |
//! | [`admin`], [`service`], [`logging`] | the admin socket, signals and systemd, log lines |
//!
//! # One message, from end to end
//!
//! Alice and Bob are connected to this node; Alice's home executor is 0 (her slot modulo the number of executors), Bob's
//! is 1. She was accepted on any executor and handed over to 0 when her HELLO named her.
//!
//! 1. Alice's SEND arrives. [`sockets`] says that her connection is readable; the [`executor`] reads into its scratch
//!    buffer, decodes the frame ([`iris_shards::frame`]) and gives it to its edge half
//!    ([`iris_shards::edge_node`]), which finds her [`iris_shards::session`].
//! 2. Her [`iris_shards::router`] copies the body once and chooses the path. The first message to Bob goes to the inbox
//!    of his core: `Action::Peer(Append)`. The executor looks where slot and node are at home and puts it into the
//!    [`mesh`]; at the end of the turn it rings executor 1.
//! 3. Executor 1 takes it from the mesh and gives it to its core half ([`iris_shards::core_node`]), where the
//!    [`iris_shards::shard`] puts it into Bob's [`iris_shards::inbox`]. Bob is there, so it is sent to his session's
//!    [`iris_shards::receiver`] at once; the disk is not asked while Bob answers within `log_delay_ms`.
//! 4. The receiver numbers the delivery: `Action::Deliver`. The executor encodes it into the out-buffer of Bob's
//!    connection and writes once at the end of the turn.
//! 5. Bob's client acknowledges. The receiver tells the core, the entry becomes a tombstone, and `Delivered` goes back to
//!    Alice's router, with a grant: nothing older of hers is left. She hears CONFIRM *delivered*.
//! 6. With the grant her next messages go straight to Bob's receiver, past the core. If he does not acknowledge for
//!    `delivery_ms_max`, or leaves, they bounce, and go through the inbox again, in order.
//! 7. Were Bob away, step 3 would log the entry at once: [`storage`] stages it, writes and syncs with everything else of
//!    the moment, and only when fdatasync has returned does the core tell `Stored`: Alice hears CONFIRM *stored*.
//!
//! The exact rules, and how the obvious ones fail, are in `docs/delivery.md`.

pub mod admin;
pub mod bell;
pub mod cli;
pub mod client;
pub mod config;
pub mod connections;
pub mod cpus;
pub mod discovery;
pub mod executor;
pub mod logging;
pub mod mesh;
pub mod node;
pub mod plan;
pub mod preflight;
pub mod runtime;
pub mod service;
pub mod shard_map;
pub mod sockets;
pub mod storage;
pub mod watchdog;
