//! The load generator: a crew of threads, each with its own epoll and its users' connections.
//!
//! A thread's loop is one for every peer: wait, then for each ready connection read once, decode everything, and write
//! once what that calls for (acknowledgement and answers together). Nothing is allocated per message. The main thread
//! moves the crew through its phases by the board, and reads the threads' tallies there while they run.

mod board;
mod busy;
mod connection;
mod crew;
mod pacer;
mod visitors;
mod worker;

pub use board::{Board, Phase, Totals};
pub use busy::Busy;
pub use connection::{Connection, connect, connect_later, own_source};
pub use crew::{Body, Crew, CrewReport, Outcome, talkers};
pub use pacer::Pace;
pub use visitors::{Visitor, Visits, visitors};
pub use worker::User;
