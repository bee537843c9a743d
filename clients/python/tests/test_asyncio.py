"""`AsyncIrisClient`: the same behaviour through the event loop."""

from __future__ import annotations

import asyncio
import time
import unittest
from typing import Any, Callable, List, Tuple, TypeVar

from iris_client import (
    AsyncIrisClient,
    CannotConnect,
    ClientClosed,
    NotLoggedIn,
    QueueFull,
    Refused,
    SessionRefused,
    TakenOver,
    Unsupported,
)
from iris_client._frames import Ack, Close, Confirm, Deliver, Drain, Hello, Lookup, Ping, Pong, PresenceIs, Refuse
from iris_client._frames import Send, Unwatch, Watch

from fake_server import CLOCK_MS, PATIENCE_S, FakeServer, Peer, RoutingServer

R = TypeVar("R")


def deliver(sequence: int, number: int, body: bytes = b"hi") -> Deliver:
    return Deliver(sequence, number.to_bytes(16, "big"), CLOCK_MS, "bob", body)


def confirm(sequence: int) -> Confirm:
    return Confirm(2, 0, ((sequence, sequence),))


async def aside(function: Callable[..., R], *arguments: Any) -> R:
    """The server's blocking calls, beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.server = FakeServer()
        self.addCleanup(self.server.close)

    async def login(self, **settings: Any) -> Tuple[AsyncIrisClient, Peer]:
        fields = settings.pop("fields", {})
        client = AsyncIrisClient("127.0.0.1", self.server.port, **settings)
        self.addAsyncCleanup(client.close, 0.0)
        login = asyncio.ensure_future(client.login("alice", "secret"))
        peer = await aside(self.server.accept)
        hello = await aside(lambda: peer.open(**fields))
        self.assertEqual((hello.user, hello.token), ("alice", b"secret"))
        await login
        return client, peer

    async def reopen(self) -> Peer:
        peer = await aside(self.server.accept)
        await aside(peer.open)
        return peer


class Sessions(AsyncTest):
    async def test_region(self) -> None:
        client, _ = await self.login(fields={"region": "tokyo"})
        self.assertEqual(await client.get_server_region(), "tokyo")
        with self.assertRaises(RuntimeError):
            await client.login("alice")

    async def test_nobody_listens(self) -> None:
        port = self.server.port
        self.server.close()
        with self.assertRaisesRegex(ConnectionError, f"127.0.0.1:{port}"):
            await AsyncIrisClient("127.0.0.1", port).login("alice")

    async def test_a_connection_that_ends_unanswered(self) -> None:
        login = asyncio.ensure_future(AsyncIrisClient("127.0.0.1", self.server.port).login("alice"))
        (await aside(self.server.accept)).close()
        with self.assertRaises(CannotConnect):
            await login

    async def test_refused(self) -> None:
        login = asyncio.ensure_future(AsyncIrisClient("127.0.0.1", self.server.port).login("alice"))
        peer = await aside(self.server.accept)
        await aside(peer.expect, Hello)
        peer.send(Close(5, 0, "no token"))
        with self.assertRaises(SessionRefused) as raised:
            await login
        self.assertEqual(raised.exception.code, "unauthorized")

    async def test_waits(self) -> None:
        client = AsyncIrisClient("127.0.0.1", self.server.port)
        self.addAsyncCleanup(client.close, 0.0)
        login = asyncio.ensure_future(client.login("alice"))
        peer = await aside(self.server.accept)
        await aside(peer.expect, Hello)
        peer.send(Close(9, 300, "draining"))
        closed_at = time.monotonic()
        await self.reopen()
        self.assertGreaterEqual(time.monotonic() - closed_at, 0.29)
        await login
        login = asyncio.ensure_future(
            AsyncIrisClient("127.0.0.1", self.server.port, login_timeout=0.2).login("alice")
        )
        peer = await aside(self.server.accept)
        await aside(peer.expect, Hello)
        peer.send(Close(25, 60_000, ""))
        with self.assertRaises(SessionRefused):
            await login

    async def test_before_login_and_after_close(self) -> None:
        client = AsyncIrisClient("127.0.0.1", self.server.port)
        with self.assertRaises(NotLoggedIn):
            await client.recv_msg()
        await client.close()
        with self.assertRaises(ClientClosed):
            await client.send_msg("bob", "hi")
        with self.assertRaises(Unsupported):
            AsyncIrisClient("127.0.0.1", 1, tls=True)

    async def test_take_over(self) -> None:
        client, peer = await self.login()
        future = await client.send_nowait("bob", "hi")
        receiving = asyncio.ensure_future(client.recv_msg())
        await aside(peer.expect, Send)
        peer.send(Close(8, 0, ""))
        with self.assertRaises(TakenOver):
            await future
        with self.assertRaises(TakenOver):
            await receiving
        with self.assertRaises(TakenOver):
            await client.send_msg("bob", "hi")
        await aside(peer.expect_end)

    async def test_drain(self) -> None:
        client, peer = await self.login()
        future = await client.send_nowait("bob", "hi")
        await aside(peer.expect, Send)
        peer.send(Drain(0), confirm(1))
        await aside(peer.expect, Close)
        await aside(peer.expect_end)
        peer = await self.reopen()
        self.assertEqual((await future).level, "delivered")
        peer.send(deliver(1, 1))
        await client.recv_msg(PATIENCE_S)
        await aside(peer.expect, Ack)

    async def test_pings(self) -> None:
        _, peer = await self.login(fields={"silent_ms_max": 300})
        for _ in range(3):
            ping = await aside(peer.expect, Ping)
            peer.send(Pong(ping.token))

    async def test_close(self) -> None:
        client, peer = await self.login(fields={"window_messages": 1})
        futures = [await client.send_nowait("bob", str(number)) for number in range(2)]
        peer.send(deliver(1, 1))
        await client.recv_msg(PATIENCE_S)
        closing = asyncio.ensure_future(client.close())
        seen: List[str] = []
        while not seen or seen[-1] != "Close":
            frame = await aside(peer.next_frame)
            seen.append(type(frame).__name__)
            if isinstance(frame, Send):
                peer.send(confirm(frame.sequence))
            elif isinstance(frame, Ping):
                peer.send(Pong(frame.token))
        await closing
        self.assertEqual(sorted(seen), ["Ack", "Close", "Ping", "Send", "Send"])
        self.assertTrue(all(future.done() for future in futures))
        await aside(peer.expect_end)

    async def test_close_is_bounded(self) -> None:
        client, peer = await self.login()
        future = await client.send_nowait("bob", "hi")
        await aside(peer.expect, Send)
        await client.close(0.05)
        with self.assertRaises(ClientClosed):
            await future

    async def test_close_is_bounded_without_a_connection(self) -> None:
        client, peer = await self.login()
        future = await client.send_nowait("bob", "hi")
        await aside(peer.expect, Send)
        self.server.close()
        await client.close(0.05)
        with self.assertRaises(ClientClosed):
            await future.result(0)


class Messages(AsyncTest):
    async def test_send_and_refusal(self) -> None:
        client, peer = await self.login()
        sending = asyncio.ensure_future(client.send_msg("bob", "hi"))
        await aside(peer.expect, Send)
        peer.send(Confirm(1, 2, ((1, 1),)))
        receipt = await sending
        self.assertEqual((receipt.level, receipt.copies), ("stored", 2))
        sending = asyncio.ensure_future(client.send_msg("bob", "hi"))
        await aside(peer.expect, Send)
        peer.send(Refuse(2, 24, 250, ""))
        with self.assertRaises(Refused) as raised:
            await sending
        self.assertEqual((raised.exception.code, raised.exception.wait), ("busy", 0.25))

    async def test_timeouts(self) -> None:
        client, peer = await self.login(queue_messages_max=1)
        with self.assertRaises(TimeoutError):
            await client.send_msg("bob", "hi", timeout=0.01)
        with self.assertRaises(TimeoutError):
            await client.recv_msg(0.01)
        with self.assertRaises(TimeoutError):
            await client.recv_msg(0)
        with self.assertRaises(QueueFull):
            await client.send_nowait("bob", "hi", timeout=0.01)
        waiting = asyncio.ensure_future(client.send_nowait("bob", "2"))
        await aside(peer.expect, Send)
        peer.send(confirm(1))
        future = await waiting
        await aside(peer.expect, Send)
        peer.send(confirm(2))
        await future.result(PATIENCE_S)

    async def test_a_future_survives_a_lost_connection(self) -> None:
        client, peer = await self.login()
        futures = [await client.send_nowait("bob", str(number)) for number in range(3)]
        ids = [(await aside(peer.expect, Send)).id for _ in range(3)]
        peer.send(confirm(2))
        await futures[1]
        peer.reset()
        peer = await self.reopen()
        again = [await aside(peer.expect, Send) for _ in range(2)]
        self.assertEqual([send.id for send in again], [ids[0], ids[2]])
        peer.send(Confirm(2, 0, ((1, 2),)))
        for future in futures:
            await future.result(PATIENCE_S)

    async def test_a_cancelled_receiver_takes_nothing(self) -> None:
        client, peer = await self.login()
        receiving = [asyncio.ensure_future(client.recv_msg()) for _ in range(3)]
        await asyncio.sleep(0)
        receiving[0].cancel()
        receiving[2].cancel()
        peer.send(deliver(1, 1))
        self.assertEqual((await receiving[1]).id.int, 1)
        self.assertEqual(await aside(peer.expect, Ack), Ack(((1, 1),)))

    async def test_iteration_and_manual_acknowledgement(self) -> None:
        client, peer = await self.login(auto_acknowledge=False)
        peer.send(deliver(1, 1), deliver(2, 2))
        seen = []
        async for message in client:
            seen.append(message)
            if len(seen) == 2:
                break
        seen[1].acknowledge()
        self.assertEqual(await aside(peer.expect, Ack), Ack(((2, 2),)))
        seen[0].acknowledge()
        self.assertEqual(await aside(peer.expect, Ack), Ack(((1, 1),)))

    async def test_presence(self) -> None:
        client, peer = await self.login()
        asking = asyncio.ensure_future(client.presence("bob"))
        await aside(peer.expect, Lookup)
        peer.send(PresenceIs(1, 1, 0, "bob"))
        self.assertTrue((await asking).online)
        watching = asyncio.ensure_future(client.watch("bob"))
        request = (await aside(peer.expect, Watch)).request
        peer.send(PresenceIs(request, 1, 0, "bob"))
        watch = await watching
        peer.send(PresenceIs(request, 0, CLOCK_MS, "bob"))
        self.assertFalse((await watch.next(PATIENCE_S)).online)
        with self.assertRaises(TimeoutError):
            await watch.next(0.01)
        await client.unwatch("bob")
        await aside(peer.expect, Unwatch)
        self.assertEqual([change async for change in watch], [])

    async def test_two_clients_in_one_loop(self) -> None:
        server = RoutingServer()
        self.addCleanup(server.close)
        async with AsyncIrisClient("127.0.0.1", server.port) as alice, AsyncIrisClient(
            "127.0.0.1", server.port
        ) as bob:
            await alice.login("alice")
            await bob.login("bob")
            for number in range(1000):
                await alice.send_nowait("bob", str(number))
            texts = [(await bob.recv_msg(PATIENCE_S)).text for _ in range(1000)]
            self.assertEqual(texts, [str(number) for number in range(1000)])


if __name__ == "__main__":
    unittest.main()
