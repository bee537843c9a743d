//! The frames before a link is up, and what the proofs in them sign (`docs/peer-protocol.md`, section 4).
//! Bytes behind the last field of HELLO, ACCEPT and REFUSE are ignored: they are a later version's. Texts are UTF-8 without
//! control characters. The HMAC itself, comparing secrets and names, and the clock are the links' of `src/`.

use super::fields::Reader;
use super::{LinkError, VERSION, VERSION_MIN, kind};
use crate::frame::payload::Writer;
use crate::id::NodeId;

const MAGIC: [u8; 4] = *b"IRIN";
/// The largest name of a cluster, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 64;
/// Put in front of the transcript for the acceptor's proof, so that one side's is never the other's.
pub const ACCEPTOR_LABEL: &[u8] = b"iris link 1 acceptor";
/// The same for the dialer's.
pub const DIALER_LABEL: &[u8] = b"iris link 1 dialer";

const IS_EDGE: u8 = 1;
const IS_CORE: u8 = 2;

/// What each side says of itself: the same fields, in the same order, in HELLO and in ACCEPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Which node.
    pub node: NodeId,
    /// Its name: 1 to 255 bytes.
    pub name: String,
    /// Its region, at most 255 bytes.
    pub region: String,
    /// Where it can be dialled, at most 255 bytes; empty: nowhere.
    pub address: String,
    /// Whether it has an edge half.
    pub is_edge: bool,
    /// Whether it has a core half.
    pub is_core: bool,
    /// How many executors it has, at least 1.
    pub executors: u16,
    /// Which start of the node this is: higher than at any start before.
    pub boot: u64,
}

/// HELLO: who dials, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version that the dialer speaks.
    pub version_min: u8,
    /// Highest protocol version that the dialer speaks.
    pub version_max: u8,
    /// The cluster's name: 1 to 64 bytes.
    pub cluster: String,
    /// Over everything that has to be the same on every node.
    pub cluster_hash: u64,
    /// The dialer.
    pub party: Party,
    /// Counts the attempts of this start to reach that node: never used twice.
    pub attempt: u64,
    /// The newest link with that node that the dialer had up, or had answered with ACCEPT: it is dead here.
    pub last: Option<LinkName>,
    /// Chosen by chance for this attempt.
    pub nonce: [u8; 32],
}

/// Names one link for good, whichever side asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName {
    /// Who dialled.
    pub dialer: NodeId,
    /// Which start of the dialer.
    pub boot: u64,
    /// Which attempt of that start.
    pub attempt: u64,
}

/// ACCEPT: who answers, with the proof that it knows the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The version of this link.
    pub version: u8,
    /// The acceptor.
    pub party: Party,
    /// Chosen by chance for this answer.
    pub nonce: [u8; 32],
    /// HMAC-SHA256 of the secret over [`ACCEPTOR_LABEL`] and the [`transcript`].
    pub proof: [u8; 32],
}

/// PROOF: the dialer knows the secret too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// HMAC-SHA256 of the secret over [`DIALER_LABEL`] and the [`transcript`].
    pub proof: [u8; 32],
}

/// REFUSE: why there is no link, with the values that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuse {
    /// Why.
    pub code: RefuseCode,
    /// The value of the side that refuses; cut after 255 bytes.
    pub ours: String,
    /// The value of the other side; cut after 255 bytes.
    pub theirs: String,
}

/// Why a link is refused. Numbers are stable and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RefuseCode {
    /// No version that both speak.
    Version = 1,
    /// Another cluster.
    ClusterName = 2,
    /// The same cluster, configured otherwise.
    ClusterHash = 3,
    /// The proof is not of this cluster's secret.
    Secret = 4,
    /// There is a link between the two already, or the other attempt goes first.
    Crossed = 5,
    /// Two nodes with one name, or two names with one id, or the node itself.
    SameName = 6,
    /// Not a node of this cluster's nodes, or too many links.
    NotWanted = 7,
    /// The node stops.
    Draining = 8,
}

impl RefuseCode {
    /// Every code, in ascending order of numbers.
    pub const ALL: [Self; 8] = [
        Self::Version,
        Self::ClusterName,
        Self::ClusterHash,
        Self::Secret,
        Self::Crossed,
        Self::SameName,
        Self::NotWanted,
        Self::Draining,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in the document's table, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::ClusterName => "cluster_name",
            Self::ClusterHash => "cluster_hash",
            Self::Secret => "secret",
            Self::Crossed => "crossed",
            Self::SameName => "same_name",
            Self::NotWanted => "not_wanted",
            Self::Draining => "draining",
        }
    }
}

/// INTRODUCE: where a node can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Which.
    pub node: NodeId,
    /// Its name, at most 255 bytes; empty: not known here.
    pub name: String,
    /// Its region, at most 255 bytes.
    pub region: String,
    /// Its address, at most 255 bytes; empty: not known here, or nowhere.
    pub address: String,
}

/// The highest version that both sides speak, of the dialer's range and the acceptor's own `(min, max)`.
#[must_use]
pub fn common_version(hello: &Hello, own: (u8, u8)) -> Option<u8> {
    let highest = hello.version_max.min(own.1);
    (highest >= hello.version_min.max(own.0)).then_some(highest)
}

/// [`common_version`] with the versions that this codec speaks.
#[must_use]
pub fn spoken_version(hello: &Hello) -> Option<u8> {
    common_version(hello, (VERSION_MIN, VERSION))
}

/// What both proofs sign, behind their labels: every field of HELLO, and every field of ACCEPT but its proof, as version 1
/// writes them, each with its length in front.
#[must_use]
pub fn transcript(hello: &Hello, accept: &Accept) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    hello.write(Writer::new(&mut out, kind::HELLO)).end();
    accept.write(Writer::new(&mut out, kind::ACCEPT)).end();
    out
}

impl Party {
    fn write<'o>(&self, writer: Writer<'o>) -> Writer<'o> {
        writer
            .u32(self.node.0)
            .str8(&self.name)
            .str8(&self.region)
            .str8(&self.address)
            .u8(roles(self.is_edge, self.is_core))
            .u16(self.executors)
            .u64(self.boot)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, LinkError> {
        let (node, name) = (reader.node("node")?, reader.text("name", 1)?);
        let (region, address) = (reader.text("region", 0)?, reader.text("address", 0)?);
        let (is_edge, is_core) = decode_roles(reader)?;
        let (executors, boot) = (decode_executors(reader)?, reader.u64("boot")?);
        Ok(Party { node, name, region, address, is_edge, is_core, executors, boot })
    }
}

impl Hello {
    /// The name that the link has if this is accepted.
    #[must_use]
    pub fn link(&self) -> LinkName {
        LinkName { dialer: self.party.node, boot: self.party.boot, attempt: self.attempt }
    }

    fn write<'o>(&self, writer: Writer<'o>) -> Writer<'o> {
        assert!(self.cluster.len() <= CLUSTER_BYTES_MAX, "cluster name of {} bytes", self.cluster.len());
        let writer =
            writer.put(&MAGIC).u8(self.version_min).u8(self.version_max).str8(&self.cluster).u64(self.cluster_hash);
        let writer = self.party.write(writer).u64(self.attempt);
        let writer = match self.last {
            Some(last) => writer.u8(1).u32(last.dialer.0).u64(last.boot).u64(last.attempt),
            None => writer.u8(0),
        };
        writer.put(&self.nonce)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.write(Writer::new(out, kind::HELLO)).end();
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new("HELLO", payload);
        if reader.array("magic")? != MAGIC {
            return Err(LinkError::BadMagic);
        }
        let (version_min, version_max) = (reader.u8("version_min")?, reader.u8("version_max")?);
        let cluster = reader.text("cluster", 1)?;
        if cluster.len() > CLUSTER_BYTES_MAX {
            return Err(reader.bad("cluster", cluster.len() as u64));
        }
        Ok(Hello {
            version_min,
            version_max,
            cluster,
            cluster_hash: reader.u64("cluster_hash")?,
            party: Party::decode(&mut reader)?,
            attempt: reader.u64("attempt")?,
            last: decode_last(&mut reader)?,
            nonce: reader.array("nonce")?,
        })
    }
}

impl Accept {
    /// Everything but the proof.
    fn write<'o>(&self, writer: Writer<'o>) -> Writer<'o> {
        self.party.write(writer.u8(self.version)).put(&self.nonce)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.write(Writer::new(out, kind::ACCEPT)).put(&self.proof).end();
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new("ACCEPT", payload);
        Ok(Accept {
            version: reader.u8("version")?,
            party: Party::decode(&mut reader)?,
            nonce: reader.array("nonce")?,
            proof: reader.array("proof")?,
        })
    }
}

impl Proof {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new("PROOF", payload);
        let proof = reader.array("proof")?;
        reader.end().map(|()| Proof { proof })
    }
}

impl Refuse {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out, kind::REFUSE).u8(self.code.number()).str8(cut(&self.ours)).str8(cut(&self.theirs)).end();
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new("REFUSE", payload);
        let number = reader.u8("code")?;
        let known = RefuseCode::ALL.into_iter().find(|code| code.number() == number);
        let code = known.ok_or_else(|| reader.bad("code", number.into()))?;
        Ok(Refuse { code, ours: reader.text("ours", 0)?, theirs: reader.text("theirs", 0)? })
    }
}

impl Introduction {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let writer = Writer::new(out, kind::INTRODUCE).u32(self.node.0);
        writer.str8(&self.name).str8(&self.region).str8(&self.address).end();
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new("INTRODUCE", payload);
        let (node, name) = (reader.node("node")?, reader.text("name", 0)?);
        let introduction =
            Introduction { node, name, region: reader.text("region", 0)?, address: reader.text("address", 0)? };
        reader.end().map(|()| introduction)
    }
}

/// As much of a text as a `str8` can say.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(usize::from(u8::MAX))]
}

fn roles(is_edge: bool, is_core: bool) -> u8 {
    (if is_edge { IS_EDGE } else { 0 }) | (if is_core { IS_CORE } else { 0 })
}

/// Edge and core: at least one of them.
fn decode_roles(reader: &mut Reader<'_>) -> Result<(bool, bool), LinkError> {
    match reader.u8("roles")? {
        roles @ 1..=3 => Ok((roles & IS_EDGE != 0, roles & IS_CORE != 0)),
        other => Err(reader.bad("roles", other.into())),
    }
}

fn decode_executors(reader: &mut Reader<'_>) -> Result<u16, LinkError> {
    match reader.u16("executors")? {
        0 => Err(reader.bad("executors", 0)),
        executors => Ok(executors),
    }
}

fn decode_last(reader: &mut Reader<'_>) -> Result<Option<LinkName>, LinkError> {
    if !reader.flag("last")? {
        return Ok(None);
    }
    let (dialer, boot) = (reader.node("last")?, reader.u64("last")?);
    Ok(Some(LinkName { dialer, boot, attempt: reader.u64("last")? }))
}
