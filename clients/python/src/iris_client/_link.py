"""The threaded driver: one background thread moves the engine's bytes over one connection after another.

Owns the socket, the lock around the engine, and those who wait. The thread reads, so a program that only sends is
served too; a caller that waits for its answer writes by itself when it can, which saves one change of threads.
Invariants: the engine is touched only under `lock`; only the thread opens, reads and closes the socket.
"""

from __future__ import annotations

import atexit
import os
import selectors
import socket
import threading
import time
import weakref
from typing import Callable, Optional

from ._connect import Address, connect
from ._engine import Engine
from .errors import IrisError

_READ_BYTES_MAX = 256 * 1024
_EXIT_S_MAX = 2.0
_UNBLOCKED = (BlockingIOError, InterruptedError)


class Link:
    def __init__(self, host: str, port: int, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        # Messages arrived, or the session's state changed.
        self.changed = threading.Condition(self.lock)
        # The queue of messages to send has room again.
        self.room = threading.Condition(self.lock)
        self._where = f"{host}:{port}"
        self._host = host
        self._port = port
        self._socket: Optional[socket.socket] = None
        self._address: Optional[Address] = None
        self._unwritten = memoryview(b"")
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._is_woken = False
        self._is_abandoned = False
        self._was_welcomed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"iris_client {self._where}", daemon=True)

    # --- called by the application's threads ------------------------------------------------------------------------

    def start(self) -> None:
        _links.add(self)
        self._thread.start()

    def wake(self) -> None:
        """The engine has something new to write or to wait for. Under `lock`."""
        if not self._is_woken:
            self._is_woken = True
            self._poke()

    def write_now(self) -> None:
        """Writes what the engine has, if the socket takes it, else leaves it to the thread. Under `lock`."""
        is_written = self._socket is not None and not self._unwritten and self._write()
        if not is_written or self._unwritten or self.engine.must_disconnect:
            self.wake()

    def wait_for(self, condition: threading.Condition, is_met: Callable[[], bool], until: Optional[float]) -> bool:
        """Waits under `lock`; False when `until` has passed. What ended the session is raised."""
        while not is_met():
            self.engine.check_usable()
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return False
            condition.wait(left)
        return True

    def close(self, until: float) -> None:
        """Ends the session, with its open answers until then at most."""
        self.begin_close(until)
        self._thread.join(max(0.0, until - time.monotonic()) + 0.1)
        if self._thread.is_alive():
            # The thread is held up in the name service or a connection that is not answered. It ends after that.
            with self.lock:
                self.engine.on_timer(until)
                self._notify()

    def begin_close(self, until: float) -> None:
        with self.lock:
            self.engine.begin_close(until)
            self._notify()
            self.wake()

    def abandon(self) -> None:
        """The client object is gone. Called by the garbage collector, maybe under `lock`, so it must not lock."""
        self._is_abandoned = True
        self._poke()

    def _poke(self) -> None:
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            # Full: it is awake. Closed: it has ended.
            pass

    def _notify(self) -> None:
        self.changed.notify_all()
        self.room.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_over():
                if self._socket is None:
                    self._open()
                else:
                    self._step()
        except BaseException as bug:
            with self.lock:
                self.engine.end(IrisError(f"the client failed: {bug!r}"))
            raise
        finally:
            self._finish()

    def _is_over(self) -> bool:
        with self.lock:
            if self._is_abandoned:
                self.engine.begin_close(time.monotonic() + _EXIT_S_MAX)
            self.engine.on_timer(time.monotonic())
            return self.engine.ended is not None and self._socket is None

    def _open(self) -> None:
        """Waits for the time to connect, then connects."""
        with self.lock:
            wait_s = self.engine.reconnect_at - time.monotonic()
        if wait_s > 0:
            self._select()
            return
        try:
            sock, address = connect(self._host, self._port, self._address)
        except OSError as failed:
            with self.lock:
                self.engine.on_connect_failed(time.monotonic(), f"cannot connect to {self._where}: {failed}")
                self._notify()
            return
        with self.lock:
            if self.engine.ended is not None:
                # Closed meanwhile: a HELLO now would only replace another session of this user.
                sock.close()
                return
            self._address = address
            self._socket = sock
            self._selector.register(sock, selectors.EVENT_READ)
            self.engine.on_connected(time.monotonic())
            self.write_now()

    def _step(self) -> None:
        """One round: wait, read, let the engine work, write."""
        assert self._socket is not None
        is_readable = self._select()
        data: Optional[bytes] = None
        if is_readable:
            try:
                data = self._socket.recv(_READ_BYTES_MAX)
            except _UNBLOCKED:
                pass
            except OSError:
                data = b""
        with self.lock:
            now = time.monotonic()
            if data and not self.engine.must_disconnect:
                self.engine.on_bytes(data, now)
            self.engine.on_timer(now)
            is_alive = data != b"" and self._write()
            self._watch_writable()
            if not is_alive or self.engine.must_disconnect:
                self._disconnect()
            self._wake_waiting()

    def _select(self) -> bool:
        """Waits for the socket, a wake-up or the engine's next deadline; True if the socket can be read."""
        with self.lock:
            deadline = self.engine.next_deadline()
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._is_woken or self._is_abandoned:
                timeout = 0.0
        is_readable = False
        for key, events in self._selector.select(timeout):
            if key.fileobj is self._wake_reader:
                self._drain_wakes()
            elif events & selectors.EVENT_READ:
                is_readable = True
        with self.lock:
            self._is_woken = False
        return is_readable

    def _drain_wakes(self) -> None:
        try:
            while len(self._wake_reader.recv(4096)) == 4096:
                pass
        except _UNBLOCKED:
            pass

    def _write(self) -> bool:
        """Writes until nothing is left or the socket is full; False if the connection is broken. Under `lock`."""
        assert self._socket is not None
        try:
            while True:
                if not self._unwritten:
                    self._unwritten = memoryview(self.engine.take_outgoing(time.monotonic()))
                    if not self._unwritten:
                        return True
                self._unwritten = self._unwritten[self._socket.send(self._unwritten) :]
        except _UNBLOCKED:
            return True
        except OSError:
            return False

    def _watch_writable(self) -> None:
        assert self._socket is not None
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unwritten else 0)
        if self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events)

    def _disconnect(self) -> None:
        assert self._socket is not None
        self._selector.unregister(self._socket)
        self._socket.close()
        self._socket = None
        self._unwritten = memoryview(b"")
        self.engine.on_lost(time.monotonic(), f"the connection to {self._where} ended")

    def _wake_waiting(self) -> None:
        engine = self.engine
        if engine.inbox.ready or engine.ended is not None or engine.was_welcomed is not self._was_welcomed:
            self._was_welcomed = engine.was_welcomed
            self.changed.notify_all()
        if engine.ended is not None or engine.outbox.has_drained:
            self.room.notify_all()

    def _finish(self) -> None:
        with self.lock:
            if self._socket is not None:
                self._disconnect()
            self._notify()
            self._selector.close()

    def __del__(self) -> None:
        # Not earlier: as long as somebody holds the link, `abandon` may write without the lock.
        self._wake_reader.close()
        self._wake_writer.close()


_links: "weakref.WeakSet[Link]" = weakref.WeakSet()


def _close_all() -> None:
    """At the end of the program: what was taken is acknowledged and what was sent confirmed, in bounded time."""
    until = time.monotonic() + _EXIT_S_MAX
    links = list(_links)
    for link in links:
        link.begin_close(until)
    for link in links:
        link.close(until)


def _forget_all() -> None:
    # The child of a fork has no thread of its own; its parent still uses the connections.
    _links.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
