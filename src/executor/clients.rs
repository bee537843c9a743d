//! Between this executor and its clients: bytes that come, frames that go, connections that are handed over.
//!
//! A connection belongs to the home executor of its user; which one that is, its HELLO tells.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use iris_shards::event::{EdgeEvent, Farewell};
use iris_shards::frame::{self, ClientFrame, Decoded, ServerFrame};
use iris_shards::id::{SessionId, is_user};
use iris_shards::slot::slot_of;

use super::{Executor, MeshItem};
use crate::connections::Input;
use crate::sockets::{ConnectionKey, SocketEvent};

/// Reads of one connection per turn; the rest waits for the next turn, behind the others.
const READS_PER_TURN: usize = 4;

impl Executor {
    pub(super) fn on_accepted(&mut self, fd: OwnedFd) {
        if self.node_connections.fetch_add(1, Ordering::Relaxed) >= self.names.connections_max || self.stopping {
            self.node_connections.fetch_sub(1, Ordering::Relaxed);
            self.counts.connections_max += 1;
            return;
        }
        match self.sockets.adopt_once(fd) {
            Ok(key) => {
                let session = self.connections.open(key);
                self.edge.handle(self.now, EdgeEvent::Opened(session), &mut self.actions);
            }
            Err(error) => {
                self.node_connections.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(%error, "a client cannot be watched");
            }
        }
    }

    /// Reads a connection, within its share of the turn. One that has ended is read to its end: no event tells it again.
    pub(super) fn on_readable(&mut self, key: ConnectionKey, has_ended: bool) {
        let Some(session) = self.connections.session(key) else {
            let event = if has_ended { SocketEvent::Hangup(key) } else { SocketEvent::Readable(key) };
            return self.on_link_socket(event);
        };
        if has_ended && self.connections.is_opening(session) {
            // It has given up before it was heard, perhaps because this node was frozen, and may be somewhere else by now:
            // its HELLO must not end the session that it has there.
            return self.on_ended(session);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut may_have_more = true;
        for _ in 0..READS_PER_TURN {
            match self.connections.fill(&self.sockets, session, &mut scratch) {
                Input::Bytes(length, more) => {
                    self.on_bytes(session, &scratch[..length]);
                    may_have_more = more || has_ended;
                }
                Input::Nothing => may_have_more = false,
                Input::Ended => {
                    self.on_ended(session);
                    may_have_more = false;
                }
            }
            // What closes is written first, and read on in the next turn.
            if !may_have_more || self.connections.session(key).is_none() || self.connections.is_closing(session) {
                break;
            }
        }
        self.scratch = scratch;
        if may_have_more {
            self.unread.push_back((key, has_ended));
        } else if self.connections.watch_opening(&mut self.sockets, session).is_err() {
            self.on_ended(session);
        }
    }

    /// Frames of a client, whole ones and at last perhaps the beginning of one.
    fn on_bytes(&mut self, session: SessionId, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.connections.is_closing(session) {
            match frame::decode_client(rest, self.connections.frame_bytes_max(session)) {
                Ok(Decoded::Frame { frame, used }) => {
                    let is_opening = self.connections.is_opening(session);
                    if let Some(home) = self.elsewhere(&frame).filter(|_| is_opening) {
                        return self.hand_over(session, home, rest);
                    }
                    self.edge.handle(self.now, EdgeEvent::Frame(session, frame), &mut self.actions);
                    if is_opening {
                        // WELCOME decides how large the next frame may be.
                        self.perform_all();
                    }
                    rest = &rest[used..];
                }
                Ok(Decoded::NeedMore { wanted }) => {
                    self.connections.keep_cut(session, rest, wanted);
                    break;
                }
                Err(error) => {
                    self.edge.handle(self.now, EdgeEvent::Garbage(session, error.code()), &mut self.actions);
                    break;
                }
            }
        }
        self.perform_all();
    }

    /// The executor that a HELLO belongs to, if that is another one.
    fn elsewhere(&self, frame: &ClientFrame<'_>) -> Option<usize> {
        let ClientFrame::Hello(hello) = frame else { return None };
        if !is_user(hello.user) {
            return None;
        }
        let home = usize::from(slot_of(hello.user).home(self.seat.executors as u16).0);
        (home != self.seat.executor).then_some(home)
    }

    /// Gives a connection to the home executor of its user, with everything that it has sent.
    fn hand_over(&mut self, session: SessionId, home: usize, bytes: &[u8]) {
        self.edge.handle(self.now, EdgeEvent::Gone(session), &mut self.actions);
        match self.connections.release(&mut self.sockets, session) {
            Ok(fd) => {
                self.counts.handed_over += 1;
                self.mesh.outbound.push(home, MeshItem::Connection(Box::new((fd, bytes.to_vec()))));
            }
            Err(error) => {
                tracing::error!(%error, "a connection cannot be handed over");
                self.end_connection(session);
            }
        }
    }

    pub(super) fn on_handed_over(&mut self, fd: OwnedFd, bytes: &[u8]) {
        match self.sockets.adopt_once(fd) {
            Ok(key) => {
                let session = self.connections.open(key);
                self.edge.handle(self.now, EdgeEvent::Opened(session), &mut self.actions);
                self.on_bytes(session, bytes);
            }
            Err(error) => {
                self.node_connections.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(%error, "a client that was handed over cannot be watched");
            }
        }
    }

    /// The client is gone.
    pub(super) fn on_ended(&mut self, session: SessionId) {
        self.edge.handle(self.now, EdgeEvent::Gone(session), &mut self.actions);
        self.end_connection(session);
        self.perform_all();
    }

    fn end_connection(&mut self, session: SessionId) {
        self.connections.close(&mut self.sockets, session);
        self.node_connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn frame(&mut self, session: SessionId, frame: ServerFrame<'_>) {
        if let Some(out) = self.connections.out(session) {
            frame.encode(out);
            self.check_overfull(session);
        }
    }

    pub(super) fn check_overfull(&mut self, session: SessionId) {
        if self.connections.becomes_overfull(session) {
            self.counts.out_bytes_max += 1;
            self.edge.handle(self.now, EdgeEvent::Overfull(session), &mut self.actions);
        }
    }

    pub(super) fn welcome(&mut self, session: SessionId, capabilities: u64, clock: u64) {
        if let Err(error) = self.connections.welcome(&mut self.sockets, session) {
            tracing::warn!(%error, "a client cannot be watched");
        }
        let names = self.names.clone();
        self.frame(session, ServerFrame::Welcome(names.welcome(capabilities, clock)));
    }

    pub(super) fn close(&mut self, session: SessionId, farewell: &Farewell) {
        let (code, wait_ms, reason) = (farewell.code.number(), farewell.wait_ms, farewell.reason);
        tracing::debug!(code = farewell.code.name(), reason, "a connection is closed");
        if let Some(out) = self.connections.out(session) {
            ServerFrame::Close { code, wait_ms, reason }.encode(out);
        }
        self.connections.close_when_written(&mut self.sockets, session, self.now.mono_ms);
    }
}
