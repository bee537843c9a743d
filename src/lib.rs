//! Iris: a thread-per-core, io_uring network appliance that carries 1:1 messages between users.

pub mod admin;
pub mod bell;
pub mod cli;
pub mod client;
pub mod config;
pub mod connections;
pub mod cpus;
pub mod executor;
pub mod logging;
pub mod mesh;
pub mod node;
pub mod preflight;
pub mod runtime;
pub mod service;
pub mod sockets;
pub mod storage;
pub mod watchdog;
