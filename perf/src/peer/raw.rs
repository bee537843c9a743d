//! `raw`: a relay in one thread over plain epoll. Connections i and i^1, in the order of accepting, are partners: what
//! one sends is forwarded to the other, one recv(2) into one buffer, one send(2). It knows no frames, users or
//! acknowledgements: the limit that a message server on this kernel can come close to.

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const EVENTS_MAX: usize = 1_024;
const BUFFER_BYTES: usize = 64 << 10;
const LISTENER: u64 = u64::MAX;

struct End {
    stream: TcpStream,
    /// Bytes that the socket did not take.
    unsent: Vec<u8>,
}

struct Relay {
    epoll: OwnedFd,
    listener: TcpListener,
    ends: Vec<Option<End>>,
    buffer: Box<[u8]>,
}

/// Listens, prints the line that says so, and relays until the process, or the one that started it, is killed.
pub fn run(listen: SocketAddr) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    socket.listen(4_096)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    let (pid, address) = (std::process::id(), listener.local_addr()?.to_string());
    let ready = serde_json::json!({
        "event": "ready", "pid": pid, "listen": [{ "transport": "tcp", "address": address }],
    });
    println!("{ready}");

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut relay = Relay { epoll, listener, ends: Vec::new(), buffer: vec![0; BUFFER_BYTES].into() };
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        if let Err(error) = epoll::wait(&relay.epoll, spare_capacity(&mut events), None)
            && error != rustix::io::Errno::INTR
        {
            return Err(error.into());
        }
        for event in &events {
            let event: epoll::Event = *event;
            relay.on_event(event.data.u64())?;
        }
    }
}

impl Relay {
    fn on_event(&mut self, key: u64) -> Result<()> {
        if key == LISTENER {
            return self.accept();
        }
        let at = key as usize;
        self.flush(at);
        self.forward(at);
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let at = self.ends.len();
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), flags)?;
            self.ends.push(Some(End { stream, unsent: Vec::new() }));
            self.forward(at ^ 1);
        }
    }

    /// Forwards what `at` sent, if its partner is there.
    fn forward(&mut self, at: usize) {
        loop {
            let [Some(Some(end)), Some(Some(_))] = [self.ends.get(at), self.ends.get(at ^ 1)] else { return };
            let received = match (&end.stream).read(&mut self.buffer) {
                Ok(0) => return self.close(at),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(at),
            };
            if let Some(Some(partner)) = self.ends.get_mut(at ^ 1) {
                partner.send(&self.buffer[..received]);
            }
            if received < self.buffer.len() {
                return;
            }
        }
    }

    fn flush(&mut self, at: usize) {
        if let Some(Some(end)) = self.ends.get_mut(at)
            && !end.unsent.is_empty()
        {
            let unsent = std::mem::take(&mut end.unsent);
            end.send(&unsent);
        }
    }

    fn close(&mut self, at: usize) {
        self.ends[at] = None;
    }
}

impl End {
    /// Errors are the reader's to notice.
    #[inline]
    fn send(&mut self, bytes: &[u8]) {
        let is_behind = !self.unsent.is_empty();
        let taken = if is_behind { 0 } else { (&self.stream).write(bytes).unwrap_or(0) };
        if taken < bytes.len() {
            self.unsent.extend_from_slice(&bytes[taken..]);
        }
    }
}
