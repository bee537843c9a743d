//! A datagram of gossip: version, SWIM's bytes, and a proof that the sender knows the cluster's secret.
//!
//! The proof is HMAC-SHA256 (RFC 2104) cut to 16 bytes, over a label, the cluster's name, the version and the bytes. It is
//! no protection against a datagram that is heard and sent again: SWIM's incarnations and boots make old news void.

use crate::config::{Cluster, Secret};

/// What goes over every network without fragments (RFC 8085, section 3.2).
pub const DATAGRAM_BYTES_MAX: usize = 1_400;
/// What is left for SWIM.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - 1 - PROOF_BYTES;

const VERSION: u8 = 1;
const PROOF_BYTES: usize = 16;
const LABEL: &[u8] = b"iris gossip 1\0";

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDatagram {
    /// Too short or too long to be one.
    #[error("it is none of gossip")]
    Length,
    /// A version that this node does not speak.
    #[error("it has version {0}, this node speaks 1")]
    Version(u8),
    /// Another secret, or another cluster.
    #[error("its sender has another cluster.secret or cluster.name")]
    Proof,
}

/// Seals and opens datagrams of one cluster.
#[derive(Debug, Clone)]
pub struct Seal {
    secret: Secret,
    cluster: String,
}

impl Seal {
    /// For this cluster.
    pub fn new(cluster: &Cluster) -> Self {
        Seal { secret: cluster.secret.clone(), cluster: cluster.name.clone() }
    }

    /// The datagram around SWIM's bytes.
    pub fn seal(&self, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(1 + payload.len() + PROOF_BYTES);
        datagram.push(VERSION);
        datagram.extend_from_slice(payload);
        let proof = self.secret.mac(&self.parts(&datagram));
        datagram.extend_from_slice(&proof[..PROOF_BYTES]);
        datagram
    }

    /// SWIM's bytes, if the datagram is one of this cluster.
    pub fn open<'a>(&self, datagram: &'a [u8]) -> Result<&'a [u8], BadDatagram> {
        let at = datagram.len().checked_sub(PROOF_BYTES).filter(|&at| at > 0 && datagram.len() <= DATAGRAM_BYTES_MAX);
        let (signed, proof) = datagram.split_at(at.ok_or(BadDatagram::Length)?);
        if signed[0] != VERSION {
            return Err(BadDatagram::Version(signed[0]));
        }
        if !self.secret.proves(&self.parts(signed), proof) {
            return Err(BadDatagram::Proof);
        }
        Ok(&signed[1..])
    }

    fn parts<'a>(&'a self, signed: &'a [u8]) -> [&'a [u8]; 4] {
        // Names are text without zero bytes, or at least nobody can choose where one ends.
        [LABEL, self.cluster.as_bytes(), b"\0", signed]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &str, cluster: &str) -> Seal {
        Seal { secret: Secret::new(secret), cluster: cluster.to_owned() }
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_cluster_only() {
        let ours = seal("0123456789abcdef", "c");
        let datagram = ours.seal(b"hello");
        assert_eq!(datagram.len(), 1 + 5 + 16);
        assert_eq!(ours.open(&datagram), Ok(&b"hello"[..]));
        for other in [seal("0123456789abcdeX", "c"), seal("0123456789abcdef", "d")] {
            assert_eq!(other.open(&datagram), Err(BadDatagram::Proof));
        }
        for at in 1..datagram.len() {
            let mut broken = datagram.clone();
            broken[at] ^= 1;
            assert_eq!(ours.open(&broken), Err(BadDatagram::Proof), "byte {at}");
        }
        assert_eq!(ours.open(&[&[2], &datagram[1..]].concat()), Err(BadDatagram::Version(2)));
        for length in [0, 1, 16] {
            assert_eq!(ours.open(&datagram[..length]), Err(BadDatagram::Length));
        }
        assert_eq!(ours.open(&[1; 1_401]), Err(BadDatagram::Length));
    }
}
