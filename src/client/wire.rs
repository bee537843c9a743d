//! One TCP connection to a server: frames in, and the login that opens it.

use super::ClientError;
use iris_shards::frame::{CAPABILITY_PRESENCE, ClientFrame, Code, Decoded, Hello, ServerFrame, VERSION, decode_server};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Room for the largest body that a server can be configured for, with what is around it.
const FRAME_BYTES_MAX: usize = (16 << 20) + 4_096;
const READ_BYTES: usize = 64 << 10;
/// How long a server may take to accept a connection, to answer HELLO, or to take what is written.
const PATIENCE: Duration = Duration::from_secs(10);

/// What WELCOME says, as far as this client needs it.
#[derive(Debug, Clone)]
pub struct Granted {
    pub region: String,
    pub node: String,
    pub window_messages: u32,
    pub window_bytes: u32,
    pub body_bytes_max: u32,
    pub silent_ms_max: u32,
    pub clock_ms: u64,
}

/// Reads frames from a socket.
pub struct FrameReader {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were frames already.
    used: usize,
}

/// Why no frame came.
#[derive(Debug)]
pub enum NoFrame {
    /// Nothing to read for the given time.
    Silence,
    /// The server ended the connection, or it broke.
    Ended(String),
}

impl FrameReader {
    /// Waits for a frame and hands it over.
    pub fn next<R>(&mut self, wait: Duration, take: impl FnOnce(ServerFrame<'_>) -> R) -> Result<R, NoFrame> {
        loop {
            match decode_server(&self.buffer[self.used..], FRAME_BYTES_MAX) {
                Err(error) => return Err(NoFrame::Ended(format!("the server sent no frame of Iris: {error}"))),
                Ok(Decoded::NeedMore { .. }) => self.fill(wait)?,
                Ok(Decoded::Frame { used, .. }) => {
                    let frame = &self.buffer[self.used..self.used + used];
                    self.used += used;
                    let Ok(Decoded::Frame { frame, .. }) = decode_server(frame, FRAME_BYTES_MAX) else {
                        return Err(NoFrame::Ended("the server sent half a frame".into()));
                    };
                    return Ok(take(frame));
                }
            }
        }
    }

    fn fill(&mut self, wait: Duration) -> Result<(), NoFrame> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let ended = |error: io::Error| NoFrame::Ended(error.to_string());
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).map_err(ended)?;
        let length = self.buffer.len();
        self.buffer.resize(length + READ_BYTES, 0);
        let result = self.stream.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Err(NoFrame::Ended("the server ended the connection".into())),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(NoFrame::Silence)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(ended(error)),
        }
    }
}

/// Connects and says HELLO. Errors: the server cannot be reached, does not answer, or does not let the user in.
pub fn login(server: &str, user: &str) -> Result<(TcpStream, FrameReader, Granted), ClientError> {
    let unreachable = |cause: String| ClientError::Unreachable { server: server.to_owned(), cause };
    let mut stream = dial(server).map_err(|error| unreachable(error.to_string()))?;
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        capabilities: CAPABILITY_PRESENCE,
        user: user.as_bytes(),
        token: &[],
        agent: concat!("iris/", env!("CARGO_PKG_VERSION")),
    };
    let mut out = Vec::new();
    ClientFrame::Hello(hello).encode(&mut out);
    stream.write_all(&out).map_err(|error| unreachable(error.to_string()))?;
    let reading = stream.try_clone().map_err(|error| unreachable(error.to_string()))?;
    let mut reader = FrameReader { stream: reading, buffer: Vec::new(), used: 0 };
    match reader.next(PATIENCE, granted) {
        Ok(granted) => Ok((stream, reader, granted?)),
        Err(NoFrame::Silence) => Err(unreachable("it does not answer; is it an Iris server?".into())),
        Err(NoFrame::Ended(cause)) => Err(unreachable(cause)),
    }
}

fn dial(server: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn granted(frame: ServerFrame<'_>) -> Result<Granted, ClientError> {
    match frame {
        ServerFrame::Welcome(welcome) => Ok(Granted {
            region: welcome.region.to_owned(),
            node: welcome.node.to_owned(),
            window_messages: welcome.window_messages,
            window_bytes: welcome.window_bytes,
            body_bytes_max: welcome.body_bytes_max,
            silent_ms_max: welcome.silent_ms_max,
            clock_ms: welcome.clock,
        }),
        ServerFrame::Close { code, wait_ms, reason } => {
            Err(ClientError::Closed { code, wait_ms, reason: reason.to_owned() })
        }
        _ => Err(ClientError::Closed {
            code: Code::ProtocolError.number(),
            wait_ms: 0,
            reason: "the server answered HELLO by something else".into(),
        }),
    }
}
