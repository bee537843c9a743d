//! The deterministic simulator of a whole cluster: machines, links, disks, clients and faults in one thread, from a seed.
//!
//! `scripts/sim` runs it for long; a failing seed prints how to replay it. Delivery is proven here, as far as evidence goes.

mod acting;
mod check;
mod client;
mod connection;
mod disk;
mod engine;
mod fault;
mod ledger;
mod links;
mod logged;
mod model;
mod moving;
mod mutants;
mod named;
mod named_moving;
mod named_shared;
mod perform;
mod plan;
mod process;
mod rng;
mod run;
mod script;
mod seeds;
mod shared;
mod sharing;
mod shrink;
mod wire;
mod world;
