"""`AsyncIrisClient`: the same client as `IrisClient`, as coroutines. One client belongs to one event loop."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import AsyncIterator, Generator, Optional, Type, Union

from ._async_link import AsyncLink
from ._engine import Engine, Settings, prepare
from ._ids import id_bytes
from ._inbox import Delivery
from ._outbox import Sending
from ._presence import Asking, Watching
from ._protocol import encode_user
from .client import TLS_SENTENCE, Content, MessageId
from .errors import CannotConnect, ClientClosed, NotLoggedIn, QueueFull, Unsupported
from .message import Message, Presence, Receipt


def _until(timeout: Optional[float]) -> Optional[float]:
    return None if timeout is None else time.monotonic() + timeout


class AsyncSendFuture(Sending):
    """The confirmation of one message, to come, over lost connections too. `await` it, or `await result(timeout)`."""

    __slots__ = ("_waiting",)

    def __init__(self, id: bytes, recipient: bytes, body: bytes) -> None:
        super().__init__(id, recipient, body)
        self._waiting: Optional["asyncio.Future[None]"] = None

    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self.is_done

    async def result(self, timeout: Optional[float] = None) -> Receipt:
        """The receipt, once confirmed. Raises `Refused`, what ended the session, or `TimeoutError`: the message is
        then still under way and may be confirmed later."""
        if not self.is_done:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            # `wait` leaves the future alone when the caller is cancelled: others may wait for it too.
            await asyncio.wait({self._waiting}, timeout=timeout)
            if not self.is_done:
                raise TimeoutError(f"message {self.id} was not confirmed within {timeout:g} s; it is still under way")
        if self.error is not None:
            raise self.error.with_traceback(None)
        assert self.receipt is not None
        return self.receipt

    def __await__(self) -> Generator[object, None, Receipt]:
        return self.result().__await__()

    def on_settled(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Question(Asking):
    def __init__(self, user: str, link: AsyncLink) -> None:
        super().__init__(user)
        self._link = link

    def on_changed(self) -> None:
        self._link.changed.open()


class AsyncWatch(Watching):
    """A watched user: `presence` is what is known now, `await next()` and `async for` give the changes.

    At most 64 changes are kept for a program that does not read them; the oldest go first.
    """

    def __init__(self, user: str, link: AsyncLink) -> None:
        super().__init__(user)
        self._link = link

    def on_changed(self) -> None:
        self._link.changed.open()

    async def next(self, timeout: Optional[float] = None) -> Presence:
        """The next change. Raises `TimeoutError`, or what ended the watch."""
        until = _until(timeout)
        while not self.changes:
            if self.error is not None:
                raise self.error.with_traceback(None)
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"{self.user} did not come or go within {timeout:g} s")
            await self._link.changed.wait(left)
        return self.changes.popleft()

    async def __aiter__(self) -> AsyncIterator[Presence]:
        """The changes until `unwatch` or `close`."""
        while True:
            try:
                change = await self.next()
            except ClientClosed:
                return
            yield change


class AsyncIrisClient:
    """One user's session with an Iris server. Arguments and behaviour are those of `IrisClient`."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: bool = False,
        *,
        auto_acknowledge: bool = True,
        login_timeout: float = 30.0,
        queue_messages_max: int = 16_384,
        queue_bytes_max: int = 64 * 1024 * 1024,
    ) -> None:
        if tls:
            raise Unsupported(TLS_SENTENCE)
        self._host = host
        self._port = port
        self._auto_acknowledge = auto_acknowledge
        self._login_timeout = login_timeout
        self._settings = Settings(queue_messages_max=queue_messages_max, queue_bytes_max=queue_bytes_max)
        self._session: Optional[AsyncLink] = None
        self._is_closed = False

    # --- the session --------------------------------------------------------------------------------------------------

    async def login(self, user: str, token: Union[str, bytes, None] = None) -> None:
        """Connects and opens the user's session; see `IrisClient.login`."""
        if self._is_closed:
            raise ClientClosed("the client is closed")
        if self._session is not None:
            raise RuntimeError("this client is logged in already: one client is one session")
        link = AsyncLink(self._host, self._port, Engine(user, token, self._settings))
        link.start()
        try:
            await self._await_welcome(link)
        except BaseException:
            await link.close(time.monotonic())
            raise
        self._session = link

    async def _await_welcome(self, link: AsyncLink) -> None:
        engine = link.engine
        if await link.wait_for(link.changed, lambda: engine.was_welcomed, _until(self._login_timeout)):
            return
        if engine.last_close is not None:
            raise engine.last_close
        raise CannotConnect(f"{self._host}:{self._port} did not answer within {self._login_timeout:g} s")

    async def close(self, timeout: float = 5.0) -> None:
        """Ends the session. Open confirmations and acknowledgements may arrive first, within `timeout` seconds."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close(time.monotonic() + timeout)

    async def __aenter__(self) -> AsyncIrisClient:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def get_server_region(self) -> str:
        """The region of the server that this client is, or was last, connected to."""
        engine = self._link().engine
        engine.check_usable()
        return engine.region

    def _link(self) -> AsyncLink:
        if self._session is not None:
            return self._session
        if self._is_closed:
            raise ClientClosed("the client is closed")
        raise NotLoggedIn("call login(user) first")

    # --- sending ------------------------------------------------------------------------------------------------------

    async def send_msg(
        self, to: str, text_or_bytes: Content, id: Optional[MessageId] = None, *, timeout: Optional[float] = None
    ) -> Receipt:
        """Sends and returns once confirmed. Raises `Refused`; `TimeoutError` if `timeout` passes first, with the
        message still under way."""
        until = _until(timeout)
        future = await self.send_nowait(to, text_or_bytes, id, timeout=timeout)
        return await future.result(None if until is None else max(0.0, until - time.monotonic()))

    async def send_nowait(
        self, to: str, text_or_bytes: Content, id: Optional[MessageId] = None, *, timeout: Optional[float] = None
    ) -> AsyncSendFuture:
        """Sends without waiting for the confirmation. Waits only while the client's queue is full, at most `timeout`
        seconds; then `QueueFull` is raised and nothing was sent."""
        link = self._link()
        recipient, body = prepare(to, text_or_bytes)
        chosen = None if id is None else id_bytes(id)
        engine, size = link.engine, len(body)
        engine.check_usable()
        if not await link.wait_for(link.room, lambda: engine.outbox.has_room(size), _until(timeout)):
            raise QueueFull(f"{len(engine.outbox)} messages wait for their confirmation")
        future = AsyncSendFuture(engine.new_id(chosen, time.monotonic()), recipient, body)
        engine.outbox.add(future)
        link.wake()
        return future

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def recv_msg(self, timeout: Optional[float] = None, *, acknowledge: Optional[bool] = None) -> Message:
        """The next message; see `IrisClient.recv_msg`. Give the timeout here rather than around it (`wait_for`), which
        could drop a message that has just been taken."""
        link = self._link()
        inbox = link.engine.inbox
        link.engine.check_usable()
        if not await link.wait_for(link.changed, lambda: bool(inbox.ready), _until(timeout)):
            raise TimeoutError(f"no message within {timeout:g} s")
        delivery, is_late = inbox.show_next()
        acknowledger = _Acknowledger(link)
        if self._auto_acknowledge if acknowledge is None else acknowledge:
            acknowledger(delivery)
        return Message(delivery, is_late, acknowledger)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages as they come, until `close`."""
        while True:
            try:
                message = await self.recv_msg()
            except ClientClosed:
                return
            yield message

    # --- presence -----------------------------------------------------------------------------------------------------

    async def presence(self, user: str, timeout: Optional[float] = None) -> Presence:
        """Whether a user is online, or was last seen when."""
        link = self._link()
        encode_user(user)
        question = _Question(user, link)
        link.engine.check_usable()
        link.engine.presence.lookup(question, link.engine.out)
        link.wake()
        try:
            return await _answer(question, link, timeout)
        finally:
            link.engine.presence.abandon(question)

    async def watch(self, user: str, timeout: Optional[float] = None) -> AsyncWatch:
        """Asks for a user's presence and all its changes; see `IrisClient.watch`."""
        link = self._link()
        encode_user(user)
        link.engine.check_usable()
        watch = link.engine.presence.watching(user)
        if watch is None:
            watch = AsyncWatch(user, link)
            link.engine.presence.watch(watch, link.engine.out)
            link.wake()
        await _answer(watch, link, timeout)
        assert isinstance(watch, AsyncWatch)
        return watch

    async def unwatch(self, user: str) -> None:
        """Ends a watch; its iteration ends too. Without a watch nothing happens."""
        link = self._link()
        link.engine.check_usable()
        link.engine.presence.unwatch(user, ClientClosed(f"{user} is not watched any more"), link.engine.out)
        link.wake()


class _Acknowledger:
    """What a message keeps of its client."""

    __slots__ = ("_link",)

    def __init__(self, link: AsyncLink) -> None:
        self._link = link

    def __call__(self, delivery: Delivery) -> None:
        self._link.engine.inbox.acknowledge(delivery)
        self._link.wake()


async def _answer(asking: Asking, link: AsyncLink, timeout: Optional[float]) -> Presence:
    is_answered = await link.wait_for(
        link.changed, lambda: asking.presence is not None or asking.error is not None, _until(timeout)
    )
    if not is_answered:
        raise TimeoutError(f"no answer about {asking.user} within {timeout:g} s")
    if asking.presence is None:
        assert asking.error is not None
        raise asking.error.with_traceback(None)
    return asking.presence
