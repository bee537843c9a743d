"""The asyncio driver: one task connects, the event loop moves the engine's bytes.

Owns the transport, the timer, and those who wait. Everything runs in the loop of `login`, so there is no lock; what the
application asks for in one turn of the loop is written together at its end.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, Callable, List, Optional, Tuple, cast

from ._connect import CONNECT_S_MAX, Address, in_order, prepare
from ._engine import Engine
from .errors import IrisError

_ABORT_S = 1.0


class Gate:
    """Coroutines that wait for something to change. All are woken and look again, so a cancelled one loses nothing."""

    def __init__(self) -> None:
        self._waiting: List["asyncio.Future[None]"] = []

    def open(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout: Optional[float]) -> None:
        """Returns after `open` or the timeout; the caller looks which."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            if timeout is None:
                await future
            else:
                await asyncio.wait({future}, timeout=timeout)
        finally:
            if future in self._waiting:
                self._waiting.remove(future)


class AsyncLink(asyncio.Protocol):
    def __init__(self, host: str, port: int, engine: Engine) -> None:
        self.engine = engine
        self.changed = Gate()
        self.room = Gate()
        self._loop = asyncio.get_running_loop()
        self._host = host
        self._port = port
        self._where = f"{host}:{port}"
        self._address: Optional[Address] = None
        self._transport: Optional[asyncio.Transport] = None
        self._is_lost = Gate()
        self._is_paused = False
        self._was_welcomed = False
        self._flush: Optional[asyncio.Handle] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        self._task: Optional["asyncio.Task[None]"] = None

    # --- called by the client -----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """The engine has something new to write or to wait for."""
        if self._flush is None:
            self._flush = self._loop.call_soon(self._on_flush)

    async def wait_for(self, gate: Gate, is_met: Callable[[], bool], until: Optional[float]) -> bool:
        """False when `until` has passed. What ended the session is raised."""
        while not is_met():
            self.engine.check_usable()
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return False
            await gate.wait(left)
        return True

    def begin_close(self, until: float) -> None:
        self.engine.begin_close(until)
        self._after()
        self.changed.open()

    async def close(self, until: float) -> None:
        """Ends the session, with its open answers until then at most."""
        self.begin_close(until)
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=max(0.0, until - time.monotonic()) + 0.1)
            if not self._task.done():
                # Held up in the name service or a connection that is not answered.
                self.engine.on_timer(until)
                self._task.cancel()
                await asyncio.wait({self._task})
        self._wake_waiting()

    # --- the task -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self.engine.ended is None:
                wait_s = self.engine.reconnect_at - time.monotonic()
                if wait_s > 0:
                    await self.changed.wait(wait_s)
                    self.engine.on_timer(time.monotonic())
                    continue
                await self._open()
                while self._transport is not None:
                    await self._is_lost.wait(None)
        except Exception as bug:
            self.engine.end(IrisError(f"the client failed: {bug!r}"))
            raise
        finally:
            self._finish()

    async def _open(self) -> None:
        try:
            await self._connect()
        except OSError as failed:
            self.engine.on_connect_failed(time.monotonic(), f"cannot connect to {self._where}: {failed}")
            self._after()

    async def _connect(self) -> None:
        found = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        error: OSError = OSError(f"{self._host} has no address")
        for family, address in in_order(cast(List[Tuple[Any, ...]], found), self._address):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                prepare(sock)
                await asyncio.wait_for(self._loop.sock_connect(sock, address), CONNECT_S_MAX)
                self._address = (family, address)
                await self._loop.create_connection(lambda: self, sock=sock)
                return
            except asyncio.TimeoutError:
                error = OSError("timed out")
            except OSError as failed:
                error = failed
            except BaseException:
                sock.close()
                raise
            sock.close()
        raise error

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._wake_waiting()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._is_paused = False
        if self.engine.ended is not None:
            # Closed meanwhile: a HELLO now would only replace another session of this user.
            self._transport.abort()
            return
        self.engine.on_connected(time.monotonic())
        self._after()

    def data_received(self, data: bytes) -> None:
        if not self.engine.must_disconnect:
            self.engine.on_bytes(data, time.monotonic())
        self._after()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._after()

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._transport = None
        self.engine.on_lost(time.monotonic(), f"the connection to {self._where} ended")
        self._wake_waiting()
        self._is_lost.open()

    # --- after every step ---------------------------------------------------------------------------------------------

    def _on_flush(self) -> None:
        self._flush = None
        self._after()

    def _on_timer(self) -> None:
        self._timer = None
        self._after()

    def _after(self) -> None:
        """Something happened: do what is due, write, disconnect, wake those who wait."""
        self.engine.on_timer(time.monotonic())
        if self._transport is not None and not self._transport.is_closing():
            data = b"" if self._is_paused else self.engine.take_outgoing(time.monotonic())
            if data:
                self._transport.write(data)
            if self.engine.must_disconnect:
                self._disconnect(self._transport)
        self._wake_waiting()
        self._set_timer()

    def _disconnect(self, transport: asyncio.Transport) -> None:
        # What was written last (CLOSE) may leave; a peer that does not read cannot hold it up for long.
        transport.close()
        self._loop.call_later(_ABORT_S, transport.abort)

    def _wake_waiting(self) -> None:
        engine = self.engine
        if engine.inbox.ready or engine.ended is not None or engine.was_welcomed is not self._was_welcomed:
            self._was_welcomed = engine.was_welcomed
            self.changed.open()
        if engine.ended is not None or engine.outbox.has_drained:
            self.room.open()

    def _set_timer(self) -> None:
        deadline = self.engine.next_deadline()
        if self._transport is None or deadline is None or self.engine.ended is not None:
            return
        if self._timer is not None:
            # A later deadline is found when the earlier one fires; only an earlier one needs a new timer.
            if self._timer.when() - self._loop.time() <= deadline - time.monotonic() + 0.001:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._on_timer)
