//! What is measured: the server process (started here or elsewhere), its CPU and memory, and the machine.

pub mod admin;
pub mod cpus;
pub mod environment;
mod fleet;
pub mod machine;
pub mod process;
mod server;
mod utilisation;

pub use fleet::Fleet;
pub use server::{Launch, Server};
pub use utilisation::{Bound, Utilisation};
