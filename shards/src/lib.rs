//! What Iris decides: sans-I/O state machines and formats. No clock, random source, socket, file or thread is here.
#![forbid(unsafe_code)]

pub mod event;
pub mod frame;
pub mod id;
pub mod inbox;
pub mod limits;
pub mod mutant;
pub mod names;
pub mod peer;
pub mod placement;
pub mod replica;
pub mod slot;
pub mod storage;
pub mod time;
pub mod wheel;
