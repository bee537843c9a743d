//! Fields of a frame, of clients and of nodes: a reader that names what is missing, a writer that fills in the length at
//! the end. The reader only ever shortens its slice; the writer appends to the caller's buffer and nowhere else.
//! What only clients' frames have is below [`Reader`], what only nodes' frames have is in `link::fields`.

use super::FrameError;
use super::ranges::Ranges;
use std::marker::PhantomData;

/// What can be wrong with a frame whatever it says: each protocol has it among its own errors.
#[derive(Debug)]
pub(crate) enum Flaw {
    TooLarge { length: u32, max: usize },
    Empty,
    Truncated { frame: &'static str, field: &'static str },
    TrailingBytes { frame: &'static str, count: usize },
}

/// Reads the fields of one frame in order. `frame` names it in errors, which are those of its protocol.
pub(crate) struct Fields<'a, E> {
    pub(crate) frame: &'static str,
    rest: &'a [u8],
    error: PhantomData<E>,
}

impl<'a, E: From<Flaw>> Fields<'a, E> {
    #[inline]
    pub(crate) fn new(frame: &'static str, payload: &'a [u8]) -> Self {
        Fields { frame, rest: payload, error: PhantomData }
    }

    #[inline]
    pub(crate) fn truncated(&self, field: &'static str) -> E {
        Flaw::Truncated { frame: self.frame, field }.into()
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], E> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], E> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, E> {
        self.array(field).map(u8::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, E> {
        self.array(field).map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, E> {
        self.array(field).map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, E> {
        self.array(field).map(u64::from_be_bytes)
    }

    #[inline]
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The frame must end here.
    #[inline]
    pub(crate) fn end(self) -> Result<(), E> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Flaw::TrailingBytes { frame: self.frame, count }.into()),
        }
    }
}

/// The only field of PING and PONG, which both protocols have.
pub(crate) fn decode_token<E: From<Flaw>>(frame: &'static str, payload: &[u8]) -> Result<u64, E> {
    let mut fields = Fields::<E>::new(frame, payload);
    let token = fields.u64("token")?;
    fields.end().map(|()| token)
}

/// Of frames between client and server.
pub(super) type Reader<'a> = Fields<'a, FrameError>;

impl<'a> Reader<'a> {
    /// A `str8` whose text nobody has looked at.
    #[inline]
    pub(super) fn bytes8(&mut self, field: &'static str) -> Result<&'a [u8], FrameError> {
        let count = self.u8(field)?;
        self.bytes(usize::from(count), field)
    }

    #[inline]
    pub(super) fn bytes16(&mut self, field: &'static str) -> Result<&'a [u8], FrameError> {
        let count = self.u16(field)?;
        self.bytes(usize::from(count), field)
    }

    #[inline]
    pub(super) fn str8(&mut self, field: &'static str) -> Result<&'a str, FrameError> {
        let bytes = self.bytes8(field)?;
        str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8 { field })
    }

    #[inline]
    pub(super) fn rest_text(self, field: &'static str) -> Result<&'a str, FrameError> {
        str::from_utf8(self.rest).map_err(|_| FrameError::NotUtf8 { field })
    }

    #[inline]
    pub(super) fn ranges(self) -> Result<Ranges<'a>, FrameError> {
        Ranges::from_wire(self.frame, self.rest)
    }
}

/// Appends the fields of one frame in order; [`Writer::end`] fills in the length.
pub(crate) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> Writer<'o> {
    #[inline]
    pub(crate) fn new(out: &'o mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, kind]);
        Self { out, start }
    }

    #[inline]
    pub(crate) fn put(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    #[inline]
    pub(crate) fn u8(self, value: u8) -> Self {
        self.put(&[value])
    }

    #[inline]
    pub(crate) fn u16(self, value: u16) -> Self {
        self.put(&value.to_be_bytes())
    }

    #[inline]
    pub(crate) fn u32(self, value: u32) -> Self {
        self.put(&value.to_be_bytes())
    }

    #[inline]
    pub(crate) fn u64(self, value: u64) -> Self {
        self.put(&value.to_be_bytes())
    }

    /// Panics above 255 bytes: what a length field cannot say must not reach the wire.
    #[inline]
    pub(crate) fn bytes8(self, bytes: &[u8]) -> Self {
        self.u8(length8(bytes)).put(bytes)
    }

    /// Panics above 255 bytes.
    #[inline]
    pub(crate) fn str8(self, text: &str) -> Self {
        self.bytes8(text.as_bytes())
    }

    /// Panics above 65,535 bytes.
    #[inline]
    pub(crate) fn bytes16(self, bytes: &[u8]) -> Self {
        assert!(bytes.len() <= usize::from(u16::MAX), "bytes16 of {} bytes", bytes.len());
        self.u16(bytes.len() as u16).put(bytes)
    }

    #[inline]
    pub(crate) fn end(self) {
        let length = length32(self.out.len() - self.start - super::HEADER_BYTES);
        self.out[self.start..self.start + super::HEADER_BYTES].copy_from_slice(&length);
    }
}

/// The length byte of a `str8`. Panics above 255 bytes.
#[inline]
pub(super) fn length8(bytes: &[u8]) -> u8 {
    assert!(bytes.len() <= usize::from(u8::MAX), "str8 of {} bytes", bytes.len());
    bytes.len() as u8
}

/// The length field of a frame whose type and payload have that many bytes. Panics above `u32::MAX`.
#[inline]
pub(crate) fn length32(bytes: usize) -> [u8; 4] {
    assert!(bytes <= u32::MAX as usize, "frame of {bytes} bytes");
    (bytes as u32).to_be_bytes()
}
