"""Servers for the tests: one that does what a test tells it, frame by frame, and one that carries messages.

Both listen on a port that the system chooses. `RoutingServer` can cut connections at seeded random moments.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Type, TypeVar

from iris_client._frames import (
    Ack,
    Close,
    Confirm,
    Deliver,
    Frame,
    Hello,
    Lookup,
    Ping,
    Pong,
    PresenceIs,
    Send,
    Watch,
    Welcome,
)
from iris_client._protocol import CLIENT_FRAMES, FrameDecoder, encode

__all__ = ["FakeServer", "Peer", "RoutingServer", "call", "welcome"]

PATIENCE_S = 10.0
CLOCK_MS = 1_767_225_600_000
F = TypeVar("F", bound=Frame)
R = TypeVar("R")

_pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="test call")


def call(function: Callable[..., R], *arguments: Any, **named: Any) -> "Future[R]":
    """Runs a blocking call of the client while the test plays the server."""
    return _pool.submit(function, *arguments, **named)


def welcome(**fields: Any) -> Welcome:
    standard = Welcome(1, 1, "local", "edge-1", 16, 65_536, 16_384, 20_000, 0, CLOCK_MS)
    return standard._replace(**fields)


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.socket = sock
        self._decoder = FrameDecoder(CLIENT_FRAMES, 1 << 24, ignores_unknown=False)
        self._frames: List[Frame] = []

    def next_frame(self) -> Optional[Frame]:
        """The next frame, None at the end of the connection."""
        while not self._frames:
            try:
                data = self.socket.recv(65_536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames.extend(self._decoder.feed(data))
        return self._frames.pop(0)

    def expect(self, kind: Type[F]) -> F:
        """The next frame, which must be of this kind. Pings are answered on the way."""
        while True:
            frame = self.next_frame()
            if isinstance(frame, kind):
                return frame
            if not isinstance(frame, Ping):
                raise AssertionError(f"expected {kind.__name__}, got {frame}")
            self.send(Pong(frame.token))

    def expect_end(self) -> None:
        frame = self.next_frame()
        if frame is not None:
            raise AssertionError(f"expected the end of the connection, got {frame}")

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(encode(frame) for frame in frames))

    def open(self, **fields: Any) -> Hello:
        hello = self.expect(Hello)
        self.send(welcome(**fields))
        return hello

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Ends the connection so that nothing more of it arrives."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    def shut_down(self) -> None:
        """Ends the connection under a thread that reads it; the thread closes the socket."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class FakeServer:
    """Does nothing by itself: the test accepts and plays."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self.port: int = self._listener.getsockname()[1]
        self._peers: List[Peer] = []

    def accept(self) -> Peer:
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        self._listener.close()
        for peer in self._peers:
            peer.close()


class _Session:
    def __init__(self, peer: Peer, user: str) -> None:
        self.peer = peer
        self.user = user
        self.last_delivered = 0
        self.out: Dict[int, Tuple[str, bytes]] = {}
        self.watches: Dict[str, int] = {}


class RoutingServer:
    """Carries messages between users, in memory: `stored` at once, `delivered` after the acknowledgement.

    With `cut_rng` it resets a connection at random, before or after it has done what the frame asked.
    """

    def __init__(self, cut_rng: Optional[random.Random] = None, region: str = "local") -> None:
        self.region = region
        self.sends = 0
        self.cuts = 0
        self._rng = cut_rng
        self._lock = threading.Lock()
        self._sessions: Dict[str, _Session] = {}
        # By user: (sender, id) to body, in order of arrival.
        self._inboxes: Dict[str, Dict[Tuple[str, bytes], bytes]] = {}
        self._known: Set[Tuple[str, bytes]] = set()
        self._sequences: Dict[Tuple[str, bytes], Tuple[_Session, int]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for session in self._sessions.values():
                session.peer.shut_down()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(Peer(sock),), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        peer.socket.settimeout(None)
        session: Optional[_Session] = None
        try:
            hello = peer.expect(Hello)
            session = self._open(peer, hello.user)
            while True:
                frame = peer.next_frame()
                if frame is None or isinstance(frame, Close):
                    return
                is_cut = self._rng is not None and self._rng.random() < 0.003
                is_late_cut = is_cut and self._rng is not None and self._rng.random() < 0.5
                if not is_cut or is_late_cut:
                    with self._lock:
                        self._on_frame(session, frame, is_mute=is_cut)
                if is_cut:
                    self.cuts += 1
                    return
        except (OSError, AssertionError):
            pass
        finally:
            if session is not None:
                self._end(session)
            peer.reset() if self._rng is not None else peer.close()

    def _open(self, peer: Peer, user: str) -> _Session:
        session = _Session(peer, user)
        with self._lock:
            earlier = self._sessions.get(user)
            if earlier is not None:
                self._try_send(earlier, Close(8, 0, "logged in again"))
            self._sessions[user] = session
            peer.send(welcome(region=self.region, window_messages=64, clock=int(time.time() * 1000)))
            for sender, id in list(self._inboxes.get(user, {})):
                self._deliver(session, (sender, id))
            self._tell(user, 1)
        return session

    def _end(self, session: _Session) -> None:
        with self._lock:
            if self._sessions.get(session.user) is session:
                del self._sessions[session.user]
                self._tell(session.user, 0)

    def _tell(self, user: str, state: int) -> None:
        for session in self._sessions.values():
            if user in session.watches:
                self._try_send(session, PresenceIs(session.watches[user], state, 0 if state else CLOCK_MS, user))

    def _try_send(self, session: _Session, frame: Frame) -> None:
        try:
            session.peer.send(frame)
        except OSError:
            pass

    def _deliver(self, session: _Session, key: Tuple[str, bytes]) -> None:
        session.last_delivered += 1
        session.out[session.last_delivered] = key
        body = self._inboxes[session.user][key]
        self._try_send(session, Deliver(session.last_delivered, key[1], CLOCK_MS, key[0], body))

    def _on_frame(self, session: _Session, frame: Frame, is_mute: bool) -> None:
        if isinstance(frame, Send):
            self._on_send(session, frame, is_mute)
        elif isinstance(frame, Ack):
            for first, last in frame.ranges:
                for sequence in range(first, last + 1):
                    self._on_taken(session, session.out.pop(sequence, None))
        elif isinstance(frame, Ping):
            session.peer.send(Pong(frame.token))
        elif isinstance(frame, (Lookup, Watch)):
            if isinstance(frame, Watch):
                session.watches[frame.user] = frame.request
            state = 1 if frame.user in self._sessions else 0
            session.peer.send(PresenceIs(frame.request, state, 0, frame.user))

    def _on_send(self, session: _Session, frame: Send, is_mute: bool) -> None:
        self.sends += 1
        key = (session.user, frame.id)
        self._sequences[key] = (session, frame.sequence)
        if key not in self._known:
            self._known.add(key)
            self._inboxes.setdefault(frame.recipient, {})[key] = frame.body
            recipient = self._sessions.get(frame.recipient)
            if recipient is not None:
                self._deliver(recipient, key)
        if not is_mute:
            session.peer.send(Confirm(1, 1, ((frame.sequence, frame.sequence),)))

    def _on_taken(self, session: _Session, key: Optional[Tuple[str, bytes]]) -> None:
        if key is None or self._inboxes[session.user].pop(key, None) is None:
            return
        sender, sequence = self._sequences[key]
        if self._sessions.get(key[0]) is sender:
            self._try_send(sender, Confirm(2, 0, ((sequence, sequence),)))
