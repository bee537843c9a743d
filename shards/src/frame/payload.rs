//! Fields of a payload: a reader that names what is missing, a writer that fills in the length at the end.
//! The reader only ever shortens its slice; the writer appends to the caller's buffer and nowhere else.

use super::FrameError;
use super::ranges::Ranges;

/// Reads the fields of one frame in order. `frame` names it in errors.
pub(super) struct Reader<'a> {
    frame: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn new(frame: &'static str, payload: &'a [u8]) -> Self {
        Self { frame, rest: payload }
    }

    #[inline]
    fn truncated(&self, field: &'static str) -> FrameError {
        FrameError::Truncated { frame: self.frame, field }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        self.array(field).map(u8::from_be_bytes)
    }

    #[inline]
    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        self.array(field).map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        self.array(field).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        self.array(field).map(u64::from_be_bytes)
    }

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
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn rest_text(self, field: &'static str) -> Result<&'a str, FrameError> {
        str::from_utf8(self.rest).map_err(|_| FrameError::NotUtf8 { field })
    }

    #[inline]
    pub(super) fn ranges(self) -> Result<Ranges<'a>, FrameError> {
        Ranges::from_wire(self.frame, self.rest)
    }

    /// The frame must end here.
    #[inline]
    pub(super) fn end(self) -> Result<(), FrameError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(FrameError::TrailingBytes { frame: self.frame, count }),
        }
    }
}

/// Appends the fields of one frame in order; [`Writer::end`] fills in the length.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> Writer<'o> {
    #[inline]
    pub(super) fn new(out: &'o mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, kind]);
        Self { out, start }
    }

    #[inline]
    pub(super) fn put(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    #[inline]
    pub(super) fn u8(self, value: u8) -> Self {
        self.put(&[value])
    }

    #[inline]
    pub(super) fn u16(self, value: u16) -> Self {
        self.put(&value.to_be_bytes())
    }

    #[inline]
    pub(super) fn u32(self, value: u32) -> Self {
        self.put(&value.to_be_bytes())
    }

    #[inline]
    pub(super) fn u64(self, value: u64) -> Self {
        self.put(&value.to_be_bytes())
    }

    /// Panics above 255 bytes: what a length field cannot say must not reach the wire.
    #[inline]
    pub(super) fn bytes8(self, bytes: &[u8]) -> Self {
        self.u8(length8(bytes)).put(bytes)
    }

    /// Panics above 65,535 bytes.
    #[inline]
    pub(super) fn bytes16(self, bytes: &[u8]) -> Self {
        assert!(bytes.len() <= usize::from(u16::MAX), "bytes16 of {} bytes", bytes.len());
        self.u16(bytes.len() as u16).put(bytes)
    }

    #[inline]
    pub(super) fn end(self) {
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
pub(super) fn length32(bytes: usize) -> [u8; 4] {
    assert!(bytes <= u32::MAX as usize, "frame of {bytes} bytes");
    (bytes as u32).to_be_bytes()
}
