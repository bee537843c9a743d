//! Peers that are part of this crate. (Others are real servers, started by `scripts/peers`.)

pub mod raw;
