//! One TCP connection of the generator: a frame that is not whole yet, and bytes that the socket did not take yet. Both
//! are empty most of the time and hold no memory until they are needed.

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects, with a bound. `source` is the address to connect from, where one address has not enough ports.
pub fn connect(server: SocketAddr, source: Option<SocketAddr>) -> Result<TcpStream> {
    let socket = socket(server, source)?;
    socket.connect_timeout(&server.into(), CONNECT_TIMEOUT).with_context(|| format!("cannot connect to {server}"))?;
    Ok(socket.into())
}

/// Begins to connect and does not block: the connection is there when it can be written to.
pub fn connect_later(server: SocketAddr, source: Option<SocketAddr>) -> Result<TcpStream> {
    let socket = socket(server, source)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&server.into()) {
        Err(error) if !is_under_way(&error) => Err(error).with_context(|| format!("cannot connect to {server}")),
        _ => Ok(socket.into()),
    }
}

fn is_under_way(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// Ports below those that the kernel hands out (32,768 and up). A socket that is bound to one of the latter keeps it from
/// everybody else's connect(2) for a minute after its end, and a storm would take them all.
const OWN_PORTS: Range<u64> = 10_000..32_000;

/// An address of one's own for the connection `turn` of `thread`, where the server is on this machine and its ports might run
/// out: another for each process and thread, a new port each time.
pub fn own_source(server: SocketAddr, thread: usize, turn: u64) -> Option<SocketAddr> {
    let is_local = matches!(server.ip(), IpAddr::V4(address) if address.is_loopback());
    let ports = OWN_PORTS.end - OWN_PORTS.start;
    let process = (std::process::id() % 250) as u8;
    let address = Ipv4Addr::new(127, process + 2, (thread % 250) as u8, (turn / ports % 250) as u8 + 1);
    let port = (OWN_PORTS.start + turn % ports) as u16;
    is_local.then(|| SocketAddr::from((address, port)))
}

fn socket(server: SocketAddr, source: Option<SocketAddr>) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into()).with_context(|| format!("cannot connect from {source}"))?;
    }
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// A connection that does not block.
pub struct Connection {
    stream: TcpStream,
    cut: Vec<u8>,
    unsent: Vec<u8>,
}

impl Connection {
    /// Connects and writes `hello` at once.
    pub fn open(server: SocketAddr, hello: &[u8]) -> Result<Self> {
        let mut stream = connect(server, None)?;
        stream.write_all(hello)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, cut: Vec::new(), unsent: Vec::new() })
    }

    /// Begins to connect and does not block; `hello` is written as soon as that is possible.
    pub fn begin(server: SocketAddr, hello: &[u8]) -> Result<Self> {
        let stream = connect_later(server, None)?;
        Ok(Self { stream, cut: Vec::new(), unsent: hello.to_vec() })
    }

    /// One recv(2). `None`: nothing is there.
    #[inline]
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.read(buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands received bytes to `decode`, which says how many it took; the rest waits for more.
    #[inline]
    pub fn feed(
        &mut self,
        received: &[u8],
        mut decode: impl FnMut(&[u8]) -> Result<usize, String>,
    ) -> Result<(), String> {
        if self.cut.is_empty() {
            let used = decode(received)?;
            if used < received.len() {
                self.cut.extend_from_slice(&received[used..]);
            }
            return Ok(());
        }
        self.cut.extend_from_slice(received);
        let used = decode(&self.cut)?;
        self.cut.drain(..used);
        Ok(())
    }

    /// One send(2), if there is anything; what the socket does not take is kept for the next call.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            let taken = self.write(bytes)?;
            if taken < bytes.len() {
                self.unsent.extend_from_slice(&bytes[taken..]);
            }
            return Ok(());
        }
        self.unsent.extend_from_slice(bytes);
        let unsent = std::mem::take(&mut self.unsent);
        let taken = self.write(&unsent)?;
        self.unsent = unsent;
        self.unsent.drain(..taken);
        Ok(())
    }

    /// Whether the socket has taken everything.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Says that nothing more will be written.
    pub fn shut(&self) {
        let _gone = self.stream.shutdown(std::net::Shutdown::Write);
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.stream.write(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            taken => taken,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Takes whole groups of three bytes.
    fn threes(seen: &mut Vec<u8>, bytes: &[u8]) -> Result<usize, String> {
        let whole = bytes.len() / 3 * 3;
        seen.extend_from_slice(&bytes[..whole]);
        Ok(whole)
    }

    #[test]
    fn sources_do_not_repeat() {
        let local: SocketAddr = "127.0.0.1:7".parse().expect("an address");
        let all: std::collections::HashSet<_> =
            (0..50_000).flat_map(|turn| [own_source(local, 0, turn), own_source(local, 1, turn)]).collect();
        assert_eq!(all.len(), 100_000);
        assert_eq!(own_source("192.0.2.1:7".parse().expect("an address"), 0, 0), None);
    }

    #[test]
    fn cut_frames_wait_and_refused_bytes_are_kept_in_order() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut connection = Connection::open(listener.local_addr()?, b"hello")?;
        let mut seen = Vec::new();
        for piece in [&b"ab"[..], b"c", b"defg", b"hijkl"] {
            connection.feed(piece, |bytes| threes(&mut seen, bytes)).map_err(anyhow::Error::msg)?;
        }
        assert_eq!(seen, b"abcdefghijkl");

        let sent: Vec<u8> = (0..16_000_000_u32).map(|n| n as u8).collect();
        sent.chunks(4_000_000).try_for_each(|chunk| connection.send(chunk))?;
        assert!(!connection.unsent.is_empty(), "the test must fill the socket");
        let (mut peer, _) = listener.accept()?;
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 16_000_005];
            peer.read_exact(&mut all).map(|()| all)
        });
        while !connection.unsent.is_empty() {
            connection.send(&[])?;
        }
        let all = reader.join().expect("the reader does not panic")?;
        assert!(all[..5] == *b"hello" && all[5..] == sent);
        Ok(())
    }
}
