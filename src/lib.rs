//! Iris: a thread-per-core, io_uring network appliance that carries 1:1 messages between users.

pub mod bell;
pub mod client;
pub mod config;
pub mod cpus;
pub mod mesh;
pub mod preflight;
pub mod runtime;
pub mod sockets;
pub mod storage;
pub mod watchdog;
