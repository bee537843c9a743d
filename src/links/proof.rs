//! The proofs of a link's handshake: HMAC-SHA256 (RFC 2104) over what both sides said, keyed by the cluster's secret.
//!
//! Whoever does not know the secret can neither answer nor dial; what travels later is not encrypted.

use hmac::{Hmac, Mac};
use iris_shards::link::{Accept, Hello, transcript};
use sha2::Sha256;

use crate::config::Secret;

/// Which side proves. Each has its own label, so that no proof can be sent back to its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who accepted.
    Acceptor,
    /// Who dialled.
    Dialer,
}

impl Side {
    fn label(self) -> &'static [u8] {
        match self {
            Side::Acceptor => b"iris link 1 acceptor",
            Side::Dialer => b"iris link 1 dialer",
        }
    }
}

/// What this side has to show for this exchange.
pub fn proof(secret: &Secret, side: Side, hello: &Hello, accept: &Accept) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("HMAC takes keys of any length");
    mac.update(side.label());
    mac.update(&transcript(hello, accept));
    mac.finalize().into_bytes().into()
}

/// Whether two proofs are equal, in a time that does not tell where they differ.
pub fn is_equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// 32 bytes that nobody can guess.
pub fn nonce() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}
