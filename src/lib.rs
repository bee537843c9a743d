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
//! | [`node`] | one node: preflight, its cluster, executors, drain, the end |
//! | [`discovery`] | who is there and which shards each core keeps: a list, gossip, DNS, Consul or etcd → a view with its placement |
//! | [`links`] | one TCP connection to each other node: dialling, handshake, bytes ↔ messages between machines |
//! | [`runtime`], [`cpus`], [`preflight`], [`watchdog`] | starting executors on their CPUs, and what could be in the way |
//! | [`executor`] | the loop of one executor: gather, handle, perform, write, sleep |
//! | [`sockets`], [`connections`] | the kernel's ring: accept, readiness, close; bytes ↔ frames |
//! | [`mesh`], [`bell`] | bounded rings between executors, and what wakes them |
//! | [`storage`] | performs append, read, trim and flush: segment files on disk |
//! | [`plan`], [`shard_map`] | what a cluster needs, and who keeps what in it, as `iris plan` and `iris shards` print it |
//! | [`admin`], [`service`], [`logging`], [`random`] | the admin socket, signals and systemd, log lines, numbers by chance |
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
//! # The same message across nodes
//!
//! Alice is connected to edge S, Bob to edge R, and core X keeps Bob's shard. The machines are the same; only step 2 and
//! what follows travel farther.
//!
//! 1. [`discovery`] has told every executor which cores keep which slots. Alice's router wants X; if there is no link yet,
//!    `Action::Connect` makes [`links`] dial it, and her message waits in the router.
//! 2. `Action::Peer` names node X: the executor gives it to the executor that owns the link to X (`X % executors`), which
//!    appends it to the link's out-buffer; all that a turn brings for X goes out in one write.
//! 3. X's end of the link belongs to one executor there, which hands the message to the home executor of Bob's slot. That
//!    sends a copy to the other replicas if it has to be logged, and the entry to R, where Bob's session registered.
//! 4. Bob's acknowledgement and `Delivered` travel back in the same way; with the grant S asks for a link to R (X knows
//!    where it is), and once that is up Alice's next messages go straight from S to R.
//! 5. If a link is lost, everything outstanding on it counts as bounced, and goes through an inbox again, in order. A link
//!    that comes back carries a new number, and nothing that was meant for the old one.
//!
//! The exact rules, and how the obvious ones fail, are in `docs/delivery.md`.

pub mod admin;
pub mod bell;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod connections;
pub mod cpus;
pub mod discovery;
pub mod executor;
pub mod links;
pub mod logging;
pub mod mesh;
pub mod node;
pub mod plan;
pub mod preflight;
pub mod random;
pub mod runtime;
pub mod service;
pub mod shard_map;
pub mod sockets;
pub mod storage;
pub mod tls;
pub mod watchdog;
