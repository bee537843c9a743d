//! Fields that only peer frames have: a reader that names what is wrong, and a block that is appended to the caller's
//! buffer. A [`Block`] gathers fields of known size on the stack, so that a hot frame grows the buffer once; frames whose
//! texts or lists stand between other fields are written by [`Writer`](crate::frame::payload::Writer).

use super::LinkError;
use crate::frame::HEADER_BYTES;
use crate::frame::payload::{Fields, length32};
use crate::id::{
    ExecutorId, Grant, Key, Location, Login, MessageId, NodeId, PairId, Phase, ReturnAddress, SLOTS, Sequence,
    SessionId, Slot, UserId,
};
use crate::peer::Message;
use std::sync::Arc;

/// Length and kind.
pub(super) const HEAD_BYTES: usize = HEADER_BYTES + 1;
pub(super) const ID_BYTES: usize = 16;
pub(super) const LOGIN_BYTES: usize = 8 + 4 + 2 + 4 + 4;
pub(super) const GRANT_BYTES: usize = LOGIN_BYTES + 4;
pub(super) const ADDRESS_BYTES: usize = LOGIN_BYTES + 4 + 8;

/// Of frames between nodes.
pub(super) type Reader<'a> = Fields<'a, LinkError>;

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, LinkError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad(field, other.into())),
        }
    }

    #[inline]
    pub(super) fn node(&mut self, field: &'static str) -> Result<NodeId, LinkError> {
        self.u32(field).map(NodeId)
    }

    #[inline]
    pub(super) fn executor(&mut self, field: &'static str) -> Result<ExecutorId, LinkError> {
        self.u16(field).map(ExecutorId)
    }

    #[inline]
    pub(super) fn phase(&mut self, field: &'static str) -> Result<Phase, LinkError> {
        self.u32(field).map(Phase)
    }

    #[inline]
    pub(super) fn slot(&mut self) -> Result<Slot, LinkError> {
        match self.u32("slot")? {
            slot if slot < SLOTS => Ok(Slot(slot)),
            other => Err(self.bad("slot", other.into())),
        }
    }

    #[inline]
    pub(super) fn id(&mut self, field: &'static str) -> Result<MessageId, LinkError> {
        self.array(field).map(MessageId::from_bytes)
    }

    /// Read as one array: the checks within it are folded away.
    #[inline]
    pub(super) fn login(&mut self, field: &'static str) -> Result<Login, LinkError> {
        let bytes = self.array::<LOGIN_BYTES>(field)?;
        let mut part = Reader::new(self.frame, &bytes);
        let stamp = part.u64(field)?;
        let (node, executor) = (part.node(field)?, part.executor(field)?);
        let at = Location { node, executor, session: SessionId(part.u32(field)?) };
        Ok(Login { stamp, at, boot: part.u32(field)? })
    }

    #[inline]
    pub(super) fn grant(&mut self, field: &'static str) -> Result<Grant, LinkError> {
        let bytes = self.array::<GRANT_BYTES>(field)?;
        let mut part = Reader::new(self.frame, &bytes);
        Ok(Grant { login: part.login(field)?, phase: part.phase(field)? })
    }

    #[inline]
    pub(super) fn address(&mut self, field: &'static str) -> Result<ReturnAddress, LinkError> {
        let bytes = self.array::<ADDRESS_BYTES>(field)?;
        let mut part = Reader::new(self.frame, &bytes);
        let (login, pair) = (part.login(field)?, PairId(part.u32(field)?));
        Ok(ReturnAddress { login, pair, sequence: Sequence(part.u64(field)?) })
    }

    /// A login of the node that reads: what is addressed to a session elsewhere was misdirected.
    #[inline]
    pub(super) fn own(&self, login: Login, own: NodeId) -> Result<(), LinkError> {
        if login.at.node == own {
            return Ok(());
        }
        Err(LinkError::Misdirected { frame: self.frame, node: login.at.node, own })
    }

    #[inline]
    pub(super) fn user(&mut self, field: &'static str) -> Result<UserId, LinkError> {
        let bytes = self.u8(field)?;
        let text = self.bytes(bytes.into(), field)?;
        UserId::parse(text).map_err(|why| LinkError::BadUser { frame: self.frame, field, why })
    }

    /// A `str8` that people may read: UTF-8 without control characters, of at least `least` bytes.
    pub(super) fn text(&mut self, field: &'static str, least: u8) -> Result<String, LinkError> {
        let bytes = self.u8(field)?;
        if bytes < least {
            return Err(self.bad(field, bytes.into()));
        }
        let text = str::from_utf8(self.bytes(bytes.into(), field)?).ok();
        let text = text.filter(|text| !text.chars().any(char::is_control));
        text.map(String::from).ok_or(LinkError::BadText { frame: self.frame, field })
    }

    /// The message whose sender and body are what is left.
    #[inline]
    pub(super) fn message(mut self, id: MessageId, sent_at: u64) -> Result<Message, LinkError> {
        let sender = self.user("sender")?;
        Ok(Message { key: Key { id, sender }, sent_at, body: Arc::from(self.rest()) })
    }

    #[inline]
    pub(super) fn bad(&self, field: &'static str, value: u64) -> LinkError {
        LinkError::BadValue { frame: self.frame, field, value }
    }
}

/// Exactly `N` bytes of fields.
pub(super) struct Block<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Block<N> {
    #[inline]
    pub(super) fn new() -> Self {
        Block { bytes: [0; N], at: 0 }
    }

    /// The start of a frame: room for its length, and its kind.
    #[inline]
    pub(super) fn head(kind: u8) -> Self {
        let mut block = Block { bytes: [0; N], at: HEADER_BYTES };
        block.u8(kind);
        block
    }

    #[inline]
    pub(super) fn put<const M: usize>(&mut self, bytes: [u8; M]) -> &mut Self {
        self.bytes[self.at..self.at + M].copy_from_slice(&bytes);
        self.at += M;
        self
    }

    #[inline]
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.put([value])
    }

    #[inline]
    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(value.to_be_bytes())
    }

    #[inline]
    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(value.to_be_bytes())
    }

    #[inline]
    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(value.to_be_bytes())
    }

    #[inline]
    pub(super) fn id(&mut self, id: MessageId) -> &mut Self {
        self.put(id.bytes())
    }

    #[inline]
    pub(super) fn login(&mut self, login: Login) -> &mut Self {
        let Location { node, executor, session } = login.at;
        self.u64(login.stamp).u32(node.0).u16(executor.0).u32(session.0).u32(login.boot)
    }

    #[inline]
    pub(super) fn grant(&mut self, grant: Grant) -> &mut Self {
        self.login(grant.login).u32(grant.phase.0)
    }

    #[inline]
    pub(super) fn address(&mut self, address: ReturnAddress) -> &mut Self {
        self.login(address.login).u32(address.pair.0).u64(address.sequence.0)
    }

    /// The length of the name that follows the block.
    #[inline]
    pub(super) fn user_bytes(&mut self, user: &UserId) -> &mut Self {
        self.put(user_bytes(user))
    }

    /// Fills in the length of a frame of that many bytes, header included.
    #[inline]
    pub(super) fn length(&mut self, bytes: usize) -> &mut Self {
        self.bytes[..HEADER_BYTES].copy_from_slice(&length32(bytes - HEADER_BYTES));
        self
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        assert_eq!(self.at, N, "bytes of a block");
        &self.bytes
    }

    /// Appends the block as it is: a part of a frame that has its length already.
    #[inline]
    pub(super) fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes());
    }

    /// Appends a whole frame: this block, made by [`Block::head`], and what follows it.
    #[inline]
    pub(super) fn frame<const M: usize>(&mut self, out: &mut Vec<u8>, behind: [&[u8]; M]) {
        let bytes = N + behind.iter().map(|part| part.len()).sum::<usize>();
        out.reserve(bytes);
        self.length(bytes).append(out);
        behind.iter().for_each(|part| out.extend_from_slice(part));
    }
}

/// The length in front of a name. A user id has 255 bytes at most.
#[inline]
pub(super) fn user_bytes(user: &UserId) -> [u8; 1] {
    [user.as_bytes().len() as u8]
}
