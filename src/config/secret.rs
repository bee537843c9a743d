//! What must not be known to others: the secret of a cluster, which its nodes prove to each other (HMAC-SHA256, RFC 2104)
//! and never say, and the token that a service wants to be shown.
//!
//! Neither is printed, not even by `Debug`; the secret is not compared with anything that came over the network.

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use std::fmt;

/// The fewest bytes of a secret.
pub const SECRET_BYTES_MIN: usize = 16;
/// The most.
pub const SECRET_BYTES_MAX: usize = 1_024;

/// What all nodes of a cluster know and nobody else. Empty for a node that is alone.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret of any length.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Secret(text.to_owned())
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// HMAC-SHA256 of the parts, one behind the other. The first part says what the proof is for.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Whether these are the first bytes of [`Secret::mac`], at least 16. Takes the same time wherever they differ.
    #[must_use]
    pub fn proves(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        proof.len() >= 16 && self.over(parts).verify_truncated_left(proof).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = keyed(self.0.as_bytes());
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a service wants to be shown with each question; may be empty.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Token(text.to_owned())
    }
}

impl Token {
    /// For the service that it is meant for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn a_published_vector() {
        let secret = Secret::new("Jefe");
        let mac = secret.mac(&[b"what do ya want ", b"for nothing?"]);
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_proof_may_be_cut_but_not_too_short() {
        let secret = Secret::new("0123456789abcdef");
        let mac = secret.mac(&[b"a"]);
        assert!(secret.proves(&[b"a"], &mac) && secret.proves(&[b"a"], &mac[..16]));
        assert!(!secret.proves(&[b"a"], &mac[..15]) && !secret.proves(&[b"b"], &mac));
        assert!(!Secret::new("0123456789abcdeg").proves(&[b"a"], &mac));
    }

    #[test]
    fn it_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("swordfish")), "Secret(…)");
        assert_eq!(format!("{:?}", Token("swordfish".to_owned())), "Token(…)");
    }
}
