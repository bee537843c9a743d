//! What Iris decides: sans-I/O state machines and formats. No clock, random source, socket, file or thread is here.
#![forbid(unsafe_code)]

pub mod core_node;
pub mod edge_node;
pub mod event;
pub mod frame;
pub mod id;
pub mod inbox;
pub mod limits;
pub mod log;
pub mod mailbox;
pub mod mutant;
pub mod names;
pub mod peer;
pub mod placement;
pub mod presence;
pub mod receiver;
pub mod record;
pub mod replica;
pub mod router;
pub mod session;
pub mod shard;
pub mod slot;
pub mod storage;
pub mod time;
pub mod tombstone;
pub mod wheel;
