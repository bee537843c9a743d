//! How a link comes up: HELLO, the answer with a proof, the dialer's proof; and why it does not.
//!
//! Which of two crossing links stays is decided by `iris_shards::link::crossing`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use iris_shards::id::NodeId;
use iris_shards::link::crossing::{self, Dial, Up};
use iris_shards::link::handshake::{ACCEPTOR_LABEL, DIALER_LABEL, spoken_version, transcript};
use iris_shards::link::{Accept, Hello, LinkFrame, Party, Proof, Refuse, RefuseCode, VERSION, VERSION_MIN};

use super::wire::{Offer, Stage, Wire};
use super::{Happening, Links, Neighbour};
use crate::config::{LinkConfig, Secret};
use crate::sockets::Sockets;

/// How long the other side's attempt has before this one tries again, in ms.
const CROSSED_MS: u64 = 200;

/// What every link of this node says and obeys.
#[derive(Debug)]
pub struct Own {
    /// What is the same in every HELLO of this process.
    pub hello: Hello,
    /// What both sides have to know.
    pub secret: Secret,
    /// The bounds.
    pub limits: LinkConfig,
    /// The largest frame between nodes, in bytes.
    pub frame_bytes_max: usize,
}

impl Links {
    /// A dial has ended.
    pub fn on_dialled(
        &mut self,
        sockets: &mut Sockets,
        (node, attempt): (NodeId, u64),
        outcome: Result<OwnedFd, String>,
        now_ms: u64,
    ) {
        let Some(care) = self.cares.get(&node) else { return };
        if care.dial != Some((attempt, None)) {
            return;
        }
        let last = care.last;
        if !crossing::may_greet(self.answered(node), self.up(node).as_ref()) {
            return self.on_dial_failed(node, "the other side dials at the same time".into(), now_ms);
        }
        let opened = outcome.and_then(|fd| {
            let nonce = nonce().map_err(|error| error.to_string())?;
            let key = sockets.adopt(fd).map_err(|error| error.to_string())?;
            Ok((key, nonce))
        });
        match opened {
            Ok((key, nonce)) => {
                let hello = Hello { attempt, last, nonce, ..self.own.hello.clone() };
                let mut wire = Wire::new(key, Stage::Offered(Box::new(hello.clone())), now_ms);
                wire.node = Some(node);
                self.wires.insert(key.index(), wire);
                if let Some(care) = self.cares.get_mut(&node) {
                    care.dial = Some((attempt, Some(key.index())));
                }
                self.frame(key.index(), &LinkFrame::Hello(Box::new(hello)));
            }
            Err(cause) => self.on_dial_failed(node, cause, now_ms),
        }
    }

    /// A frame on a link that is not up yet.
    pub(super) fn on_greeting(&mut self, sockets: &mut Sockets, index: usize, frame: LinkFrame, now_ms: u64) {
        let Some(wire) = self.wires.get_mut(&index) else { return };
        let stage = std::mem::replace(&mut wire.stage, Stage::Closing);
        match (stage, frame) {
            (Stage::Greeting, LinkFrame::Hello(hello)) if self.owner(hello.party.node) != self.seat.0 => {
                self.hand_over(sockets, index, hello.party.node, now_ms);
            }
            (Stage::Greeting, LinkFrame::Hello(hello)) => self.on_hello(sockets, index, *hello, now_ms),
            (Stage::Offered(hello), LinkFrame::Accept(accept)) => {
                self.on_accept(sockets, index, (&hello, &accept), now_ms);
            }
            (Stage::Offered(_), LinkFrame::Refuse(refuse)) => self.on_refuse(sockets, index, &refuse, now_ms),
            (Stage::Answered(offer), LinkFrame::Proof(proof)) => {
                self.on_proof(sockets, index, (&offer, &proof), now_ms);
            }
            _ => self.lose(sockets, index, "the other side does not keep to the handshake", now_ms),
        }
    }

    /// A node wants a link.
    fn on_hello(&mut self, sockets: &mut Sockets, index: usize, hello: Hello, now_ms: u64) {
        if let Some(refuse) = self.why_not(&hello) {
            return self.refuse(sockets, index, refuse, now_ms);
        }
        let node = hello.party.node;
        let dial = match self.cares.get(&node).and_then(|care| care.dial) {
            None => Dial::None,
            Some((_, None)) => Dial::Connecting,
            Some((_, Some(_))) => Dial::Greeted,
        };
        // Nothing is given up before the proof: anybody can say HELLO.
        if let Err(code) = crossing::on_hello(self.own.hello.party.node, &hello, dial, self.up(node).as_ref()) {
            return self.refuse(sockets, index, self.by_name(code, &hello), now_ms);
        }
        match self.answer(&hello) {
            Ok(accept) => {
                self.frame(index, &LinkFrame::Accept(Box::new(accept.clone())));
                // The dialer may have it up although its proof never comes: the next HELLO of this side names it.
                self.cares.entry(node).or_default().last = Some(hello.link());
                if let Some(wire) = self.wires.get_mut(&index) {
                    wire.node = Some(node);
                    wire.boot = hello.party.boot;
                    wire.name = Some(hello.link());
                    wire.stage = Stage::Answered(Box::new(Offer { hello, accept }));
                    // Watched for one event at a time so far.
                    if sockets.watch(wire.key).is_err() {
                        self.lose(sockets, index, "it cannot be watched", now_ms);
                    }
                }
            }
            Err(error) => self.lose(sockets, index, &error.to_string(), now_ms),
        }
    }

    /// The dialer has proven itself, or not.
    fn on_proof(&mut self, sockets: &mut Sockets, index: usize, (offer, proof): (&Offer, &Proof), now_ms: u64) {
        let hello = &offer.hello;
        let signed = transcript(hello, &offer.accept);
        let is_proven = self.own.secret.proves(&[DIALER_LABEL, &signed], &proof.proof);
        let judged = if is_proven {
            crossing::on_proof(hello, self.up(hello.party.node).as_ref())
        } else {
            Err(RefuseCode::Secret)
        };
        match judged {
            Ok(()) => self.become_up(sockets, index, &hello.party, now_ms),
            Err(code) => self.refuse(sockets, index, self.by_name(code, hello), now_ms),
        }
    }

    /// The link with this node that is up.
    fn up(&self, node: NodeId) -> Option<Up> {
        let wire = self.wires.get(&self.cares.get(&node)?.wire?)?;
        Some(Up { name: wire.name?, boot: wire.boot })
    }

    /// HELLOs of this node that were answered, and not proven yet.
    fn answered(&self, node: NodeId) -> usize {
        let is_answered = |wire: &&Wire| wire.node == Some(node) && matches!(wire.stage, Stage::Answered(_));
        self.wires.values().filter(is_answered).count()
    }

    fn answer(&self, hello: &Hello) -> std::io::Result<Accept> {
        let mut accept = Accept {
            version: hello.version_max.min(VERSION),
            party: self.own.hello.party.clone(),
            nonce: nonce()?,
            proof: [0; 32],
        };
        accept.proof = self.own.secret.mac(&[ACCEPTOR_LABEL, &transcript(hello, &accept)]);
        Ok(accept)
    }

    /// Why this node cannot have a link, if so.
    fn why_not(&self, hello: &Hello) -> Option<Refuse> {
        let own = &self.own.hello;
        if spoken_version(hello).is_none() {
            let (ours, theirs) = (versions(VERSION_MIN, VERSION), versions(hello.version_min, hello.version_max));
            return Some(refusal(RefuseCode::Version, &ours, &theirs));
        }
        if hello.cluster != own.cluster {
            return Some(refusal(RefuseCode::ClusterName, &own.cluster, &hello.cluster));
        }
        if hello.cluster_hash != own.cluster_hash {
            let (ours, theirs) = (format!("{:016x}", own.cluster_hash), format!("{:016x}", hello.cluster_hash));
            return Some(refusal(RefuseCode::ClusterHash, &ours, &theirs));
        }
        let namesake = self.namesake(&hello.party);
        namesake.map(|name| refusal(RefuseCode::SameName, name, &hello.party.name))
    }

    /// The other name of a node with this id, if there is one. This node's own is always another one's.
    fn namesake(&self, party: &Party) -> Option<&str> {
        let own = &self.own.hello.party;
        if party.node == own.node {
            return Some(&own.name);
        }
        let known = self.view.nodes.get(&party.node).map(|known| known.name.as_str());
        known.filter(|known| *known != party.name)
    }

    /// Refused for a reason that is told by the names of the two nodes.
    fn by_name(&self, code: RefuseCode, hello: &Hello) -> Refuse {
        refusal(code, &self.own.hello.party.name, &hello.party.name)
    }

    /// Says why, and waits for the other side to hang up.
    fn refuse(&mut self, sockets: &mut Sockets, index: usize, refuse: Refuse, now_ms: u64) {
        if refuse.code != RefuseCode::Crossed {
            tracing::warn!(code = refuse.code.name(), ours = refuse.ours, theirs = refuse.theirs, "a link is refused");
        }
        self.frame(index, &LinkFrame::Refuse(refuse));
        let Some(wire) = self.wires.get_mut(&index) else { return };
        wire.stage = Stage::Closing;
        let written = wire.write(sockets, now_ms).and_then(|()| sockets.shutdown_write(wire.key));
        if written.and_then(|()| sockets.watch(wire.key)).is_err() {
            self.lose(sockets, index, "it was refused", now_ms);
        }
    }

    /// The acceptor has answered.
    fn on_accept(&mut self, sockets: &mut Sockets, index: usize, (hello, accept): (&Hello, &Accept), now_ms: u64) {
        let node = self.wires.get(&index).and_then(|wire| wire.node);
        let is_expected = node == Some(accept.party.node) && self.namesake(&accept.party).is_none();
        if !is_expected {
            let cause = format!("another node answers: {}", accept.party.name);
            return self.lose(sockets, index, &cause, now_ms);
        }
        if !(hello.version_min..=hello.version_max).contains(&accept.version) {
            let cause = format!("it was answered in version {}", accept.version);
            return self.lose(sockets, index, &cause, now_ms);
        }
        let signed = transcript(hello, accept);
        if !self.own.secret.proves(&[ACCEPTOR_LABEL, &signed], &accept.proof) {
            return self.lose(sockets, index, "the other side does not know the cluster's secret", now_ms);
        }
        let proof = self.own.secret.mac(&[DIALER_LABEL, &signed]);
        self.frame(index, &LinkFrame::Proof(Proof { proof }));
        if let Some(wire) = self.wires.get_mut(&index) {
            wire.boot = accept.party.boot;
            wire.name = Some(hello.link());
        }
        self.become_up(sockets, index, &accept.party, now_ms);
    }

    /// The other side says why there is no link.
    fn on_refuse(&mut self, sockets: &mut Sockets, index: usize, refuse: &Refuse, now_ms: u64) {
        if refuse.code != RefuseCode::Crossed {
            let cause = format!("refused: {} (there {:?}, here {:?})", refuse.code.name(), refuse.ours, refuse.theirs);
            return self.lose(sockets, index, &cause, now_ms);
        }
        // The other side's own attempt, or its link, goes first: nothing is lost.
        let Some(wire) = self.wires.remove(&index) else { return };
        sockets.close(wire.key);
        if let Some(care) = wire.node.and_then(|node| self.cares.get_mut(&node)) {
            care.dial = None;
            care.retry_at_ms = now_ms + CROSSED_MS;
        }
    }

    fn become_up(&mut self, sockets: &mut Sockets, index: usize, party: &Party, now_ms: u64) {
        let node = party.node;
        self.generations += 1;
        let Some(wire) = self.wires.get_mut(&index) else { return };
        wire.stage = Stage::Up(self.generations);
        wire.used_ms = now_ms;
        let name = wire.name;
        let care = self.cares.entry(node).or_default();
        let dialled = care.dial.take().and_then(|(_, wire)| wire).filter(|&wire| wire != index);
        let old = care.wire.replace(index);
        (care.last, care.is_told, care.backoff_ms) = (name, false, 0);
        care.trouble.clear();
        care.counts.ups += 1;
        care.counts.downs += u64::from(old.is_some());
        // The old link ends before the new one begins, and what was not read of it is dropped (delivery rule 16).
        for ended in old.into_iter().chain(dialled).filter_map(|index| self.wires.remove(&index)) {
            sockets.close(ended.key);
        }
        if old.is_some() {
            self.happened.push(Happening::Down(node));
        }
        tracing::info!(node = node.0, name = party.name, region = party.region, "a link is up");
        let neighbour = Neighbour { party: party.clone(), generation: self.generations };
        self.happened.push(Happening::Up(Arc::new(neighbour)));
    }
}

fn refusal(code: RefuseCode, ours: &str, theirs: &str) -> Refuse {
    Refuse { code, ours: ours.to_owned(), theirs: theirs.to_owned() }
}

fn versions(min: u8, max: u8) -> String {
    format!("{min} to {max}")
}

/// 32 bytes that nobody can guess.
fn nonce() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}
