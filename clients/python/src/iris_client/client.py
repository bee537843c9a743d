"""`IrisClient`: the client for programs with threads, and for scripts without any of their own."""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from types import TracebackType
from typing import Iterator, Optional, Type, Union

from ._engine import Engine, Settings, prepare
from ._ids import id_bytes
from ._inbox import Delivery
from ._link import Link
from ._outbox import Sending
from ._presence import Asking, Watching
from ._protocol import encode_user
from .errors import CannotConnect, ClientClosed, NotLoggedIn, QueueFull, Unsupported
from .message import Message, Presence, Receipt

Content = Union[str, bytes, bytearray, memoryview]
MessageId = Union[uuid.UUID, str, bytes]

TLS_SENTENCE = "this Iris server has no TLS yet: leave tls=True out and keep the connection inside a network you trust"


def _until(timeout: Optional[float]) -> Optional[float]:
    return None if timeout is None else time.monotonic() + timeout


class SendFuture(Sending):
    """The confirmation of one message, to come. It survives lost connections."""

    __slots__ = ("_link", "_waiting")

    def __init__(self, id: bytes, recipient: bytes, body: bytes, link: Link) -> None:
        super().__init__(id, recipient, body)
        self._link = link
        self._waiting: Optional[threading.Event] = None

    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self.is_done

    def result(self, timeout: Optional[float] = None) -> Receipt:
        """The receipt, once confirmed. Raises `Refused`, what ended the session, or `TimeoutError`: the message is
        then still under way and may be confirmed later."""
        if not self.is_done:
            with self._link.lock:
                if self._waiting is None and not self.is_done:
                    self._waiting = threading.Event()
                    self._link.write_now()
            if self._waiting is not None and not self._waiting.wait(timeout):
                raise TimeoutError(f"message {self.id} was not confirmed within {timeout:g} s; it is still under way")
        if self.error is not None:
            raise self.error.with_traceback(None)
        assert self.receipt is not None
        return self.receipt

    def on_settled(self) -> None:
        if self._waiting is not None:
            self._waiting.set()


class _Question(Asking):
    def __init__(self, user: str, link: Link) -> None:
        super().__init__(user)
        self._link = link

    def on_changed(self) -> None:
        self._link.changed.notify_all()


class Watch(Watching):
    """A watched user: `presence` is what is known now, `next` and iteration give the changes.

    At most 64 changes are kept for a program that does not read them; the oldest go first.
    """

    def __init__(self, user: str, link: Link) -> None:
        super().__init__(user)
        self._link = link

    def on_changed(self) -> None:
        self._link.changed.notify_all()

    def next(self, timeout: Optional[float] = None) -> Presence:
        """The next change. Raises `TimeoutError`, or what ended the watch."""
        until = _until(timeout)
        with self._link.lock:
            while not self.changes:
                if self.error is not None:
                    raise self.error.with_traceback(None)
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{self.user} did not come or go within {timeout:g} s")
                self._link.changed.wait(left)
            return self.changes.popleft()

    def __iter__(self) -> Iterator[Presence]:
        """The changes until `unwatch` or `close`."""
        while True:
            try:
                yield self.next()
            except ClientClosed:
                return


class IrisClient:
    """One user's session with an Iris server. All methods may be called from any thread.

    A lost connection is made again by itself; what was not confirmed is sent again under its ids. `send_nowait` queues
    what is beyond the server's window, up to `queue_messages_max` messages and `queue_bytes_max` bytes, and blocks
    beyond that. With `auto_acknowledge=False` a message counts as taken only when `message.acknowledge()` says so.
    """

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
        self._session: Optional[Link] = None
        self._is_closed = False

    # --- the session --------------------------------------------------------------------------------------------------

    def login(self, user: str, token: Union[str, bytes, None] = None) -> None:
        """Connects and opens the user's session; an earlier session of this user, wherever it is, ends.

        Raises `CannotConnect` (a `ConnectionError`) if nobody answers at host and port, `SessionRefused` if the server
        does not want this user. A server that asks to wait is waited for, within `login_timeout`.
        """
        if self._is_closed:
            raise ClientClosed("the client is closed")
        if self._session is not None:
            raise RuntimeError("this client is logged in already: one client is one session")
        link = Link(self._host, self._port, Engine(user, token, self._settings))
        link.start()
        try:
            self._await_welcome(link)
        except BaseException:
            link.begin_close(time.monotonic())
            raise
        self._session = link
        # The thread must not keep a client alive that the program has dropped.
        weakref.finalize(self, link.abandon).atexit = False

    def _await_welcome(self, link: Link) -> None:
        engine = link.engine
        with link.lock:
            if link.wait_for(link.changed, lambda: engine.was_welcomed, _until(self._login_timeout)):
                return
            if engine.last_close is not None:
                raise engine.last_close
            raise CannotConnect(f"{self._host}:{self._port} did not answer within {self._login_timeout:g} s")

    def close(self, timeout: float = 5.0) -> None:
        """Ends the session. Open confirmations and acknowledgements may arrive first, within `timeout` seconds; what
        is not confirmed then raises `ClientClosed` from its future. Messages not taken stay with the server."""
        self._is_closed = True
        if self._session is not None:
            self._session.close(time.monotonic() + timeout)

    def __enter__(self) -> IrisClient:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def get_server_region(self) -> str:
        """The region of the server that this client is, or was last, connected to."""
        link = self._link()
        with link.lock:
            link.engine.check_usable()
            return link.engine.region

    def _link(self) -> Link:
        if self._session is not None:
            return self._session
        if self._is_closed:
            raise ClientClosed("the client is closed")
        raise NotLoggedIn("call login(user) first")

    # --- sending ------------------------------------------------------------------------------------------------------

    def send_msg(
        self, to: str, text_or_bytes: Content, id: Optional[MessageId] = None, *, timeout: Optional[float] = None
    ) -> Receipt:
        """Sends and returns once confirmed. Raises `Refused`; `TimeoutError` if `timeout` passes first, with the
        message still under way."""
        until = _until(timeout)
        future = self._queue(to, text_or_bytes, id, until)
        with future._link.lock:
            future._link.write_now()
        return future.result(None if until is None else max(0.0, until - time.monotonic()))

    def send_nowait(
        self, to: str, text_or_bytes: Content, id: Optional[MessageId] = None, *, timeout: Optional[float] = None
    ) -> SendFuture:
        """Sends without waiting for the confirmation. Blocks only while the client's queue is full, at most `timeout`
        seconds; then `QueueFull` is raised and nothing was sent."""
        future = self._queue(to, text_or_bytes, id, _until(timeout))
        with future._link.lock:
            # The thread writes what has gathered by the time it gets there, many messages at once.
            future._link.wake()
        return future

    def _queue(self, to: str, content: Content, id: Optional[MessageId], until: Optional[float]) -> SendFuture:
        link = self._link()
        recipient, body = prepare(to, content)
        chosen = None if id is None else id_bytes(id)
        engine, size = link.engine, len(body)
        with link.lock:
            engine.check_usable()
            if not engine.outbox.has_room(size):
                link.write_now()
                if not link.wait_for(link.room, lambda: engine.outbox.has_room(size), until):
                    raise QueueFull(f"{len(engine.outbox)} messages wait for their confirmation")
            future = SendFuture(engine.new_id(chosen, time.monotonic()), recipient, body, link)
            engine.outbox.add(future)
        return future

    # --- receiving ----------------------------------------------------------------------------------------------------

    def recv_msg(self, timeout: Optional[float] = None, *, acknowledge: Optional[bool] = None) -> Message:
        """The next message; waits for one, at most `timeout` seconds, then raises `TimeoutError`.

        Returning it acknowledges it, unless the client was made with `auto_acknowledge=False`; `acknowledge` decides
        otherwise for this one call.
        """
        link = self._link()
        inbox = link.engine.inbox
        with link.lock:
            link.engine.check_usable()
            if not link.wait_for(link.changed, lambda: bool(inbox.ready), _until(timeout)):
                raise TimeoutError(f"no message within {timeout:g} s")
            delivery, is_late = inbox.show_next()
            if self._auto_acknowledge if acknowledge is None else acknowledge:
                inbox.acknowledge(delivery)
                link.wake()
        return Message(delivery, is_late, _Acknowledger(link))

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come, until `close`."""
        while True:
            try:
                message = self.recv_msg()
            except ClientClosed:
                return
            yield message

    # --- presence -----------------------------------------------------------------------------------------------------

    def presence(self, user: str, timeout: Optional[float] = None) -> Presence:
        """Whether a user is online, or was last seen when."""
        link = self._link()
        encode_user(user)
        question = _Question(user, link)
        with link.lock:
            link.engine.check_usable()
            link.engine.presence.lookup(question, link.engine.out)
            link.write_now()
            try:
                return _answer(question, link, timeout)
            finally:
                link.engine.presence.abandon(question)

    def watch(self, user: str, timeout: Optional[float] = None) -> Watch:
        """Asks for a user's presence and all its changes. Returns with the first answer; watching a user twice gives
        the same watch."""
        link = self._link()
        encode_user(user)
        with link.lock:
            link.engine.check_usable()
            watch = link.engine.presence.watching(user)
            if watch is None:
                watch = Watch(user, link)
                link.engine.presence.watch(watch, link.engine.out)
                link.write_now()
            _answer(watch, link, timeout)
        assert isinstance(watch, Watch)
        return watch

    def unwatch(self, user: str) -> None:
        """Ends a watch; its iteration ends too. Without a watch nothing happens."""
        link = self._link()
        with link.lock:
            link.engine.check_usable()
            link.engine.presence.unwatch(user, ClientClosed(f"{user} is not watched any more"), link.engine.out)
            link.wake()


class _Acknowledger:
    """What a message keeps of its client, which may be gone by then."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def __call__(self, delivery: Delivery) -> None:
        with self._link.lock:
            self._link.engine.inbox.acknowledge(delivery)
            self._link.wake()


def _answer(asking: Asking, link: Link, timeout: Optional[float]) -> Presence:
    """Waits under the link's lock for the first answer."""
    is_answered = link.wait_for(
        link.changed, lambda: asking.presence is not None or asking.error is not None, _until(timeout)
    )
    if not is_answered:
        raise TimeoutError(f"no answer about {asking.user} within {timeout:g} s")
    if asking.presence is None:
        assert asking.error is not None
        raise asking.error.with_traceback(None)
    return asking.presence
