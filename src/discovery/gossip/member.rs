//! What gossip says about a node: its identity in SWIM, and how it is written into datagrams.
//!
//! An identity is one start of one node, and one state of what it says about itself; what it says travels with it where
//! a node introduces itself or is told of, and is left out where it is only addressed. Numbers are big endian.

use crate::config::{Ranges, parse_shards, shards_text};
use crate::discovery::view::{Known, NodeState};
use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Message, State};
use iris_shards::id::NodeId;
use iris_shards::ring::SHARDS_MAX;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// What a node says about itself must fit into a datagram beside what it says about another one. The configuration bounds
/// the texts.
const ABOUT_BYTES_MAX: usize = 560;

const IS_EDGE: u8 = 1;
const IS_CORE: u8 = 2;
const IS_LEAVING: u8 = 4;
const HAS_SHARDS: u8 = 8;

/// A node in SWIM. Two of them are the same if all but `about` is.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where it is sent datagrams.
    pub address: SocketAddr,
    /// When it started, in ms since the Unix epoch, or later if the cluster knew a later start of it.
    pub boot: u64,
    /// How often it had to come back since.
    pub renewal: u8,
    /// How often it changed what it says.
    pub version: u8,
    /// What it says; nothing for a node that is only addressed.
    pub about: Option<Arc<About>>,
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub name: String,
    pub address: String,
    pub region: String,
    pub zone: String,
    pub is_edge: bool,
    pub is_core: bool,
    pub is_leaving: bool,
    pub num_shards: u32,
    pub shards: Option<Ranges>,
    /// What a later version says besides. It is passed on as it came.
    pub rest: Vec<u8>,
}

impl Member {
    /// A node of which nothing is known but the address.
    pub fn seed(address: SocketAddr) -> Self {
        Member { address, boot: 0, renewal: 0, version: 0, about: None }
    }

    /// The same start of the node, saying something else.
    pub fn saying(&self, about: About) -> Self {
        Member { version: self.version.wrapping_add(1), about: Some(Arc::new(about)), ..self.clone() }
    }

    fn order(&self) -> (u64, u8, u8) {
        (self.boot, self.renewal, self.version)
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address && self.order() == other.order()
    }
}

impl Eq for Member {}

impl Identity for Member {
    type Addr = SocketAddr;

    /// The cluster thinks that this node is down. If its clock went back since its last start, the cluster knows a later
    /// boot: each time the step doubles, so that a year is made up for in 35 of them.
    fn renew(&self) -> Option<Self> {
        let boot = self.boot.saturating_add(1 << self.renewal.min(36));
        Some(Member { boot, renewal: self.renewal.saturating_add(1), version: 0, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.order() > adversary.order()
    }
}

impl About {
    pub fn of(known: &Known) -> Self {
        About {
            name: known.name.clone(),
            address: known.address.clone(),
            region: known.region.clone(),
            zone: known.zone.clone(),
            is_edge: known.is_edge,
            is_core: known.is_core,
            is_leaving: known.state == NodeState::Leaving,
            num_shards: known.num_shards,
            shards: known.shards.clone(),
            rest: Vec::new(),
        }
    }

    pub fn known(&self, state: NodeState) -> Known {
        Known {
            node: NodeId::of_name(&self.name),
            name: self.name.clone(),
            address: self.address.clone(),
            region: self.region.clone(),
            zone: self.zone.clone(),
            is_edge: self.is_edge,
            is_core: self.is_core,
            shards: self.shards.clone(),
            num_shards: self.num_shards,
            state,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let at = out.len();
        out.put_u16(0);
        out.put_u8(
            flag(self.is_edge, IS_EDGE)
                | flag(self.is_core, IS_CORE)
                | flag(self.is_leaving, IS_LEAVING)
                | flag(self.shards.is_some(), HAS_SHARDS),
        );
        out.put_u32(self.num_shards);
        for text in [&self.name, &self.address, &self.region, &self.zone] {
            put_text(out, text);
        }
        put_text(out, &shards_text(self.shards.as_deref().unwrap_or_default()));
        out.put_slice(&self.rest);
        let length = (out.len() - at - 2) as u16;
        out[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn decode(buf: &mut impl Buf, length: usize) -> Result<Self, BadMember> {
        if length > ABOUT_BYTES_MAX || length > buf.remaining() {
            return Err(BadMember::Length);
        }
        let bytes = buf.copy_to_bytes(length);
        let mut buf = &bytes[..];
        let flags = buf.try_get_u8()?;
        let num_shards = buf.try_get_u32()?;
        let [name, address, region, zone] = [text(&mut buf)?, text(&mut buf)?, text(&mut buf)?, text(&mut buf)?];
        let shards = text(&mut buf)?;
        if name.is_empty() || name.len() > 255 {
            return Err(BadMember::Text);
        }
        let shards = match flags & HAS_SHARDS {
            0 => None,
            _ => Some(parse_shards(&shards, SHARDS_MAX).ok_or(BadMember::Shards)?),
        };
        Ok(About {
            name,
            address,
            region,
            zone,
            is_edge: flags & IS_EDGE != 0,
            is_core: flags & IS_CORE != 0,
            is_leaving: flags & IS_LEAVING != 0,
            num_shards,
            shards,
            rest: buf.to_vec(),
        })
    }
}

/// Bytes that are no member. The datagram is dropped.
#[derive(Debug, thiserror::Error)]
pub enum BadMember {
    #[error("a member ends too early")]
    Short(#[from] bytes::TryGetError),
    #[error("a length that does not fit")]
    Length,
    #[error("a text that is none")]
    Text,
    #[error("shards that are none")]
    Shards,
    #[error("an unknown kind {0}")]
    Kind(u8),
    #[error("no room")]
    Full,
}

/// Control characters would steer the terminals of those who read names in log lines.
fn text(buf: &mut &[u8]) -> Result<String, BadMember> {
    let length = usize::from(buf.try_get_u16()?);
    let bytes = buf.get(..length).ok_or(BadMember::Length)?;
    let text = std::str::from_utf8(bytes).map_err(|_| BadMember::Text)?;
    if text.chars().any(char::is_control) {
        return Err(BadMember::Text);
    }
    let text = text.to_owned();
    buf.advance(length);
    Ok(text)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= ABOUT_BYTES_MAX);
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn put_key(out: &mut Vec<u8>, member: &Member) {
    match member.address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(member.address.port());
    out.put_u64(member.boot);
    out.put_u8(member.renewal);
    out.put_u8(member.version);
}

fn key(buf: &mut impl Buf) -> Result<Member, BadMember> {
    let ip: IpAddr = match buf.try_get_u8()? {
        4 => Ipv4Addr::from_bits(buf.try_get_u32()?).into(),
        6 => Ipv6Addr::from_bits(buf.try_get_u128()?).into(),
        kind => return Err(BadMember::Kind(kind)),
    };
    let address = SocketAddr::new(ip, buf.try_get_u16()?);
    let (boot, renewal, version) = (buf.try_get_u64()?, buf.try_get_u8()?, buf.try_get_u8()?);
    Ok(Member { address, boot, renewal, version, about: None })
}

/// The key, and what the member says if that is known.
fn put_whole(out: &mut Vec<u8>, member: &Member) {
    put_key(out, member);
    match &member.about {
        Some(about) => about.encode(out),
        None => out.put_u16(0),
    }
}

fn whole(buf: &mut impl Buf) -> Result<Member, BadMember> {
    let key = key(buf)?;
    Ok(match usize::from(buf.try_get_u16()?) {
        0 => key,
        length => Member { about: Some(Arc::new(About::decode(buf, length)?)), ..key },
    })
}

/// How members are written into SWIM's datagrams.
#[derive(Debug, Clone, Copy)]
pub struct MemberCodec;

impl Codec<Member> for MemberCodec {
    type Error = BadMember;

    fn encode_header(&mut self, header: &Header<Member>, buf: impl BufMut) -> Result<(), BadMember> {
        let mut out = Vec::new();
        put_whole(&mut out, &header.src);
        out.put_u16(header.src_incarnation);
        put_key(&mut out, &header.dst);
        put_message(&mut out, &header.message);
        put_all(&out, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Member>, BadMember> {
        let src = whole(&mut buf)?;
        let src_incarnation = buf.try_get_u16()?;
        let dst = key(&mut buf)?;
        Ok(Header { src, src_incarnation, dst, message: message(&mut buf)? })
    }

    fn encode_member(&mut self, member: &foca::Member<Member>, buf: impl BufMut) -> Result<(), BadMember> {
        let mut out = Vec::new();
        put_whole(&mut out, member.id());
        out.put_u16(member.incarnation());
        out.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        put_all(&out, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Member>, BadMember> {
        let member = whole(&mut buf)?;
        let incarnation = buf.try_get_u16()?;
        let state = match buf.try_get_u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            kind => return Err(BadMember::Kind(kind)),
        };
        Ok(foca::Member::new(member, incarnation, state))
    }
}

fn put_all(out: &[u8], mut buf: impl BufMut) -> Result<(), BadMember> {
    if buf.remaining_mut() < out.len() {
        return Err(BadMember::Full);
    }
    buf.put_slice(out);
    Ok(())
}

fn put_message(out: &mut Vec<u8>, message: &Message<Member>) {
    let mut about = |kind: u8, member: &Member, probe: u8| {
        out.put_u8(kind);
        put_key(out, member);
        out.put_u8(probe);
    };
    match message {
        Message::Ping(probe) => out.put_slice(&[0, *probe]),
        Message::Ack(probe) => out.put_slice(&[1, *probe]),
        Message::PingReq { target, probe_number } => about(2, target, *probe_number),
        Message::IndirectPing { origin, probe_number } => about(3, origin, *probe_number),
        Message::IndirectAck { target, probe_number } => about(4, target, *probe_number),
        Message::ForwardedAck { origin, probe_number } => about(5, origin, *probe_number),
        Message::Announce => out.put_u8(6),
        Message::Feed => out.put_u8(7),
        Message::Gossip => out.put_u8(8),
        Message::Broadcast => out.put_u8(9),
        Message::TurnUndead => out.put_u8(10),
    }
}

fn message(buf: &mut impl Buf) -> Result<Message<Member>, BadMember> {
    let kind = buf.try_get_u8()?;
    Ok(match kind {
        0 => Message::Ping(buf.try_get_u8()?),
        1 => Message::Ack(buf.try_get_u8()?),
        2 => Message::PingReq { target: key(buf)?, probe_number: buf.try_get_u8()? },
        3 => Message::IndirectPing { origin: key(buf)?, probe_number: buf.try_get_u8()? },
        4 => Message::IndirectAck { target: key(buf)?, probe_number: buf.try_get_u8()? },
        5 => Message::ForwardedAck { origin: key(buf)?, probe_number: buf.try_get_u8()? },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        kind => return Err(BadMember::Kind(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            name: "core-ä".to_owned(),
            address: "10.0.0.1:7085".to_owned(),
            region: "tokyo".to_owned(),
            zone: String::new(),
            is_edge: false,
            is_core: true,
            is_leaving: true,
            num_shards: 50_000,
            shards: Some(vec![0..=499, 600..=600]),
            rest: vec![1, 2, 3],
        }
    }

    fn member(address: &str) -> Member {
        let about = Some(Arc::new(about()));
        Member { address: address.parse().expect("an address"), boot: 7, renewal: 1, version: 2, about }
    }

    fn headers() -> Vec<Header<Member>> {
        let (src, dst, third) = (member("10.0.0.1:1"), member("[2001:db8::1]:2"), member("10.0.0.3:3"));
        let messages = [
            Message::Ping(1),
            Message::Ack(2),
            Message::PingReq { target: third.clone(), probe_number: 3 },
            Message::IndirectPing { origin: third.clone(), probe_number: 4 },
            Message::IndirectAck { target: third.clone(), probe_number: 5 },
            Message::ForwardedAck { origin: third, probe_number: 6 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        let of = |message| Header { src: src.clone(), src_incarnation: 9, dst: dst.clone(), message };
        messages.map(of).to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        for header in headers() {
            let mut bytes = Vec::new();
            MemberCodec.encode_header(&header, &mut bytes).expect("room");
            bytes.push(0xff);
            let mut rest = &bytes[..];
            let read = MemberCodec.decode_header(&mut rest).expect("a header");
            assert_eq!((&read, rest), (&header, &[0xff][..]));
            assert_eq!((read.src.about.as_deref(), read.dst.about), (Some(&about()), None));
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = foca::Member::new(member("10.0.0.1:1"), 3, state);
            let mut bytes = Vec::new();
            MemberCodec.encode_member(&member, &mut bytes).expect("room");
            assert_eq!(MemberCodec.decode_member(&bytes[..]).expect("a member"), member);
            assert!(MemberCodec.encode_member(&member, &mut [0u8; 20][..]).is_err());
        }
    }

    #[test]
    fn cut_and_broken_bytes_are_refused_quietly() {
        for header in headers() {
            let mut bytes = Vec::new();
            MemberCodec.encode_header(&header, &mut bytes).expect("room");
            for length in 0..bytes.len() {
                assert!(MemberCodec.decode_header(&bytes[..length]).is_err(), "{length} bytes of {header:?}");
            }
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x80;
                drop(MemberCodec.decode_header(&broken[..]));
            }
        }
    }

    #[test]
    fn texts_do_not_steer_terminals() {
        let mut bytes = Vec::new();
        let about = About { name: "a\x1b[2J".to_owned(), ..about() };
        about.encode(&mut bytes);
        let length = bytes.len() - 2;
        assert!(matches!(About::decode(&mut &bytes[2..], length), Err(BadMember::Text)));
    }

    #[test]
    fn a_renewed_node_wins_and_makes_up_for_a_clock_that_went_back() {
        let start = member("10.0.0.1:1");
        let mut node = start.clone();
        for times in 1..=35 {
            let renewed = node.renew().expect("always");
            assert!(renewed.win_addr_conflict(&node) && renewed != node, "{times}");
            node = renewed;
        }
        assert!(node.boot - start.boot > 366 * 24 * 3_600_000);
        assert!(start.saying(about()).win_addr_conflict(&start));
    }
}
