//! Listeners: multishot accept, and what to do when there are no descriptors left. Then a reserve
//! descriptor is given up to accept and close a few clients, so that they hear at once, and
//! accepting pauses: it resumes when a connection closes or the pause is over.
//! Invariant: neither a spin nor a listener that nobody serves.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::kernel::{Operation, Outcome};
use super::{ConnectionKey, Kind, SocketEvent, Sockets, token};

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Clients told in one go that there is no room.
const SHED_MAX: usize = 64;

/// One of an executor's listeners, numbered from 0 in the order of [`Sockets::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// The kernel holds an accept.
    Armed,
    Paused {
        until: Instant,
    },
    /// To be closed when the kernel gives the accept back.
    Stopping,
    Stopped,
}

/// A listening socket.
pub(super) struct Listener {
    socket: Option<Socket>,
    accepting: Accepting,
    pause: Duration,
    /// The kernel has no multishot accept.
    one_by_one: bool,
}

/// A descriptor kept for the moment when there are none.
pub(super) struct Reserve(Option<File>);

impl Reserve {
    pub(super) fn new() -> Reserve {
        Reserve(File::open("/dev/null").ok())
    }

    fn give_up(&mut self) {
        self.0 = None;
    }

    fn refill(&mut self) {
        if self.0.is_none() {
            *self = Reserve::new();
        }
    }
}

impl Sockets {
    /// Accepts from a listening socket from now on. It must be a blocking one (see
    /// `preflight::listen`): the kernel refuses to wait on others.
    pub fn listen(&mut self, socket: Socket) -> io::Result<ListenerId> {
        let number = u16::try_from(self.listeners.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        socket.set_nonblocking(false)?;
        // Accepted sockets inherit it: no system call per connection. Not for Unix sockets.
        let _ = socket.set_tcp_nodelay(true);
        self.listeners.push(Listener {
            socket: Some(socket),
            accepting: Accepting::Stopped,
            pause: PAUSE_MIN,
            one_by_one: false,
        });
        self.arm_accept(number.into())?;
        Ok(ListenerId(number))
    }

    /// Accepts no more and closes the listening sockets, so that new clients are refused.
    /// Clients accepted until the kernel has heard of it still arrive as events.
    pub fn stop_listening(&mut self) -> io::Result<()> {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.accepting != Accepting::Armed {
                listener.accepting = Accepting::Stopped;
                listener.socket = None;
                continue;
            }
            listener.accepting = Accepting::Stopping;
            let target = accept_token(index);
            let cancel = token(Kind::Cancel, ConnectionKey { index: 0, generation: 0 });
            self.ring.push(cancel, Operation::CancelAccept(target))?;
        }
        Ok(())
    }

    /// True while one of the listeners is served, paused ones included.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listeners.iter().any(|listener| listener.socket.is_some())
    }

    fn arm_accept(&mut self, index: usize) -> io::Result<()> {
        let listener = &mut self.listeners[index];
        let Some(socket) = &listener.socket else { return Ok(()) };
        listener.accepting = Accepting::Armed;
        let operation = match listener.one_by_one {
            false => Operation::AcceptMany(socket.as_raw_fd()),
            true => Operation::AcceptOne(socket.as_raw_fd()),
        };
        self.ring.push(accept_token(index), operation)
    }

    pub(super) fn on_accept(
        &mut self,
        index: usize,
        outcome: Outcome,
        has_more: bool,
        events: &mut Vec<SocketEvent>,
    ) -> io::Result<()> {
        let id = ListenerId(index as u16);
        let listener = &mut self.listeners[index];
        let failure = match outcome {
            Outcome::Accepted(fd) => {
                listener.pause = PAUSE_MIN;
                self.counters.accepted += 1;
                events.push(SocketEvent::Accepted(id, fd));
                None
            }
            Outcome::Failed(error) => Some(error),
            Outcome::Done(_) => None,
        };
        if has_more {
            return Ok(());
        }
        let listener = &mut self.listeners[index];
        if listener.accepting == Accepting::Stopping {
            listener.accepting = Accepting::Stopped;
            listener.socket = None;
            return Ok(());
        }
        let Some(error) = failure else {
            self.counters.rearmed += u64::from(!listener.one_by_one);
            return self.arm_accept(index);
        };
        if error.raw_os_error() == Some(libc::EINVAL) && !listener.one_by_one {
            listener.one_by_one = true;
            return self.arm_accept(index);
        }
        self.on_accept_failed(index, &error)?;
        events.push(SocketEvent::AcceptFailed(id, error));
        Ok(())
    }

    fn on_accept_failed(&mut self, index: usize, error: &io::Error) -> io::Result<()> {
        self.counters.accept_errors += 1;
        match error.raw_os_error() {
            // The client went away, or a firewall said no: each error used up one client.
            Some(libc::ECONNABORTED | libc::EPERM | libc::EPROTO | libc::EINTR) => {
                return self.arm_accept(index);
            }
            Some(libc::EMFILE | libc::ENFILE) => self.shed(index),
            _ => {}
        }
        let listener = &mut self.listeners[index];
        listener.accepting = Accepting::Paused { until: Instant::now() + listener.pause };
        listener.pause = (listener.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Accepts and closes clients that wait, with the reserve descriptor.
    fn shed(&mut self, index: usize) {
        let Some(socket) = &self.listeners[index].socket else { return };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        self.reserve.give_up();
        for _ in 0..SHED_MAX {
            // An error is an empty backlog, or another thread took the descriptor.
            if socket.accept().is_err() {
                break;
            }
            self.counters.shed += 1;
        }
        self.reserve.refill();
        // Cannot fail where the opposite did not; if it did, accepts fail and pause.
        let _ = socket.set_nonblocking(false);
    }

    /// Takes up listeners whose pause is over.
    pub(super) fn resume_accepting(&mut self) -> io::Result<()> {
        let Some(first) = self.accept_resumes() else { return Ok(()) };
        let now = Instant::now();
        if first > now {
            return Ok(());
        }
        self.reserve.refill();
        for index in 0..self.listeners.len() {
            match self.listeners[index].accepting {
                Accepting::Paused { until } if until <= now => self.arm_accept(index)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// When the first pause ends.
    pub(super) fn accept_resumes(&self) -> Option<Instant> {
        let paused = self.listeners.iter().filter_map(|listener| match listener.accepting {
            Accepting::Paused { until } => Some(until),
            _ => None,
        });
        paused.min()
    }

    /// A descriptor became free: no need to wait for the end of the pause.
    pub(super) fn hurry_accepting(&mut self) {
        for listener in &mut self.listeners {
            if let Accepting::Paused { until } = &mut listener.accepting {
                *until = (*until).min(Instant::now());
            }
        }
    }
}

fn accept_token(index: usize) -> u64 {
    token(Kind::Accept, ConnectionKey { index: index as u32, generation: 0 })
}
