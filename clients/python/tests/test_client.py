"""`IrisClient` over real sockets, against a server that does what the test says."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
import unittest
import unittest.mock
import uuid
from datetime import datetime, timezone
from typing import Any, List, Tuple

from iris_client import (
    CannotConnect,
    ClientClosed,
    IrisClient,
    NotLoggedIn,
    QueueFull,
    Refused,
    SessionRefused,
    TakenOver,
    Unsupported,
)
from iris_client._connect import connect
from iris_client._frames import Ack, Close, Confirm, Deliver, Drain, Hello, Lookup, Ping, Pong, PresenceIs, Refuse
from iris_client._frames import Send, Unwatch, Watch

from fake_server import CLOCK_MS, PATIENCE_S, FakeServer, Peer, call


def deliver(sequence: int, number: int, body: bytes = b"hi", sender: str = "bob") -> Deliver:
    return Deliver(sequence, number.to_bytes(16, "big"), CLOCK_MS, sender, body)


def confirm(sequence: int, level: int = 2) -> Confirm:
    return Confirm(level, 2 - level, ((sequence, sequence),))


class ClientTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = FakeServer()
        self.addCleanup(self.server.close)

    def login(self, **settings: Any) -> Tuple[IrisClient, Peer]:
        fields = settings.pop("fields", {})
        client = IrisClient("127.0.0.1", self.server.port, **settings)
        self.addCleanup(client.close, 0.0)
        login = call(client.login, "alice", "secret")
        peer = self.server.accept()
        peer.open(**fields)
        login.result(PATIENCE_S)
        return client, peer

    def reopen(self) -> Peer:
        peer = self.server.accept()
        peer.open()
        return peer


class Login(ClientTest):
    def test_hello_carries_user_and_token(self) -> None:
        client = IrisClient("127.0.0.1", self.server.port)
        self.addCleanup(client.close, 0.0)
        login = call(client.login, "alice", "secret")
        peer = self.server.accept()
        hello = peer.open(region="tokyo")
        login.result(PATIENCE_S)
        self.assertEqual((hello.user, hello.token, hello.version_min, hello.version_max), ("alice", b"secret", 1, 1))
        self.assertEqual(client.get_server_region(), "tokyo")
        with self.assertRaises(RuntimeError):
            client.login("alice")

    def test_nobody_listens(self) -> None:
        port = self.server.port
        self.server.close()
        client = IrisClient("127.0.0.1", port)
        with self.assertRaises(ConnectionError) as raised:
            client.login("alice")
        self.assertIn(f"127.0.0.1:{port}", str(raised.exception))
        self.assertIsInstance(raised.exception, CannotConnect)

    def test_login_may_be_tried_again(self) -> None:
        client = IrisClient("127.0.0.1", self.server.port)
        self.addCleanup(client.close, 0.0)
        login = call(client.login, "alice")
        self.server.accept().close()
        with self.assertRaises(CannotConnect):
            login.result(PATIENCE_S)
        login = call(client.login, "alice")
        self.reopen()
        login.result(PATIENCE_S)

    def test_refused_by_code(self) -> None:
        for code, name in ((1, "protocol_error"), (3, "version"), (4, "bad_user"), (5, "unauthorized")):
            login = call(IrisClient("127.0.0.1", self.server.port).login, "alice")
            peer = self.server.accept()
            peer.expect(Hello)
            peer.send(Close(code, 0, "no"))
            with self.assertRaises(SessionRefused) as raised:
                login.result(PATIENCE_S)
            self.assertEqual((raised.exception.code, raised.exception.number), (name, code))

    def test_a_server_that_asks_to_wait_is_waited_for(self) -> None:
        client = IrisClient("127.0.0.1", self.server.port)
        self.addCleanup(client.close, 0.0)
        login = call(client.login, "alice")
        peer = self.server.accept()
        peer.expect(Hello)
        peer.send(Close(25, 300, "no core"))
        closed_at = time.monotonic()
        peer = self.server.accept()
        self.assertGreaterEqual(time.monotonic() - closed_at, 0.29)
        peer.open()
        login.result(PATIENCE_S)

    def test_but_not_longer_than_the_program_wants(self) -> None:
        login = call(IrisClient("127.0.0.1", self.server.port, login_timeout=0.2).login, "alice")
        peer = self.server.accept()
        peer.expect(Hello)
        peer.send(Close(25, 60_000, "no core"))
        with self.assertRaises(SessionRefused) as raised:
            login.result(PATIENCE_S)
        self.assertEqual((raised.exception.code, raised.exception.wait), ("unavailable", 60.0))

    def test_what_comes_before_login_and_after_close(self) -> None:
        client = IrisClient("127.0.0.1", self.server.port)
        with self.assertRaises(NotLoggedIn):
            client.send_msg("bob", "hi")
        client.close()
        with self.assertRaises(ClientClosed):
            client.recv_msg()
        with self.assertRaises(ClientClosed):
            client.login("alice")

    def test_tls_fails_with_a_sentence(self) -> None:
        with self.assertRaisesRegex(Unsupported, "TLS"):
            IrisClient("127.0.0.1", 1, tls=True)


class Sending(ClientTest):
    def test_a_receipt_and_its_rise(self) -> None:
        client, peer = self.login()
        sending = call(client.send_msg, "bob", "grüß dich")
        send = peer.expect(Send)
        self.assertEqual((send.sequence, send.recipient, send.body.decode()), (1, "bob", "grüß dich"))
        peer.send(Confirm(1, 2, ((1, 1),)))
        receipt = sending.result(PATIENCE_S)
        self.assertEqual((receipt.id.bytes, receipt.level, receipt.copies), (send.id, "stored", 2))
        presence = call(client.presence, "bob")
        peer.expect(Lookup)
        peer.send(confirm(1), PresenceIs(1, 0, 0, "bob"))
        presence.result(PATIENCE_S)
        self.assertEqual((receipt.level, receipt.copies), ("delivered", 2))

    def test_ids_may_be_chosen(self) -> None:
        client, peer = self.login()
        id = uuid.UUID("019b76da-a800-7c3d-9e5f-0123456789ab")
        for form in (id, str(id), id.bytes):
            future = client.send_nowait("bob", b"hi", id=form)
            send = peer.expect(Send)
            self.assertEqual(send.id, id.bytes)
            peer.send(confirm(send.sequence))
            self.assertEqual(future.result(PATIENCE_S).id, id)

    def test_refusals(self) -> None:
        client, peer = self.login()
        futures = [client.send_nowait("bob", "a"), client.send_nowait("bob", "b")]
        peer.expect(Send), peer.expect(Send)
        peer.send(Refuse(1, 23, 0, "full"), Refuse(2, 24, 1500, ""))
        with self.assertRaises(Refused) as raised:
            futures[0].result(PATIENCE_S)
        full = raised.exception
        self.assertEqual((full.code, full.number, full.wait, full.reason), ("inbox_full", 23, 0.0, "full"))
        with self.assertRaises(Refused) as raised:
            futures[1].result(PATIENCE_S)
        busy = raised.exception
        self.assertEqual((busy.code, busy.wait, busy.id), ("busy", 1.5, futures[1].id))
        again = client.send_nowait("bob", "b", id=busy.id)
        self.assertEqual(peer.expect(Send).id, futures[1].id.bytes)
        peer.send(confirm(3))
        self.assertEqual(again.result(PATIENCE_S).level, "delivered")

    def test_what_cannot_be_sent_does_not_cost_the_connection(self) -> None:
        client, peer = self.login()
        for to, body, code in (("", "x", "bad_recipient"), ("a\n", "x", "bad_recipient"), ("b", "x" * 16_385, None)):
            with self.assertRaises(Refused) as raised:
                client.send_msg(to, body)
            self.assertEqual(raised.exception.code, code or "body_too_large")
        with self.assertRaises(TypeError):
            client.send_msg("bob", 7)  # type: ignore[arg-type]
        future = client.send_nowait("bob", "x")
        self.assertEqual(peer.expect(Send).sequence, 1)
        self.assertFalse(future.done())

    def test_the_window_is_kept(self) -> None:
        client, peer = self.login(fields={"window_messages": 3})
        futures = [client.send_nowait("bob", str(number)) for number in range(5)]
        self.assertEqual([peer.expect(Send).sequence for _ in range(3)], [1, 2, 3])
        presence = call(client.presence, "bob")
        # A SEND beyond the window would stand before the LOOKUP.
        peer.expect(Lookup)
        peer.send(PresenceIs(1, 0, 0, "bob"), confirm(1))
        presence.result(PATIENCE_S)
        self.assertEqual(peer.expect(Send).sequence, 4)
        peer.send(Confirm(2, 0, ((2, 4),)))
        peer.expect(Send)
        peer.send(confirm(5))
        self.assertEqual([future.result(PATIENCE_S).level for future in futures], ["delivered"] * 5)

    def test_the_queue_is_bounded(self) -> None:
        client, peer = self.login(queue_messages_max=2, fields={"window_messages": 1})
        client.send_nowait("bob", "1")
        client.send_nowait("bob", "2")
        with self.assertRaises(QueueFull):
            client.send_nowait("bob", "3", timeout=0)
        blocked = call(client.send_nowait, "bob", "4")
        peer.expect(Send)
        self.assertFalse(blocked.done())
        peer.send(confirm(1))
        fourth = blocked.result(PATIENCE_S)
        peer.expect(Send)
        peer.send(confirm(2))
        self.assertEqual(peer.expect(Send).body, b"4")
        peer.send(confirm(3))
        fourth.result(PATIENCE_S)

    def test_a_timeout_leaves_the_message_under_way(self) -> None:
        client, peer = self.login()
        with self.assertRaises(TimeoutError):
            client.send_msg("bob", "hi", timeout=0.01)
        future = client.send_nowait("bob", "hi")
        with self.assertRaises(TimeoutError):
            future.result(0.01)
        peer.expect(Send), peer.expect(Send)
        peer.send(Confirm(2, 0, ((1, 2),)))
        self.assertEqual(future.result(PATIENCE_S).level, "delivered")

    def test_a_future_survives_a_lost_connection(self) -> None:
        client, peer = self.login()
        futures = [client.send_nowait("bob", str(number)) for number in range(3)]
        ids = [peer.expect(Send).id for _ in range(3)]
        peer.send(confirm(2))
        futures[1].result(PATIENCE_S)
        peer.reset()
        futures.append(client.send_nowait("bob", "3"))
        peer = self.reopen()
        again = [peer.expect(Send) for _ in range(3)]
        self.assertEqual([send.id for send in again], [ids[0], ids[2], futures[3].id.bytes])
        self.assertEqual([send.sequence for send in again], [1, 2, 3])
        self.assertEqual([send.body for send in again], [b"0", b"2", b"3"])
        peer.send(Confirm(1, 1, ((1, 3),)))
        self.assertEqual([future.result(PATIENCE_S).copies for future in futures], [1, 0, 1, 1])

    def test_large_bodies_cross_a_socket_that_is_full(self) -> None:
        fields = {"window_bytes": 64 << 20, "body_bytes_max": 8 << 20, "frame_bytes_max": 9 << 20}
        client, peer = self.login(fields=fields)
        futures = [client.send_nowait("bob", bytes([number]) * (6 << 20)) for number in range(4)]
        for number in range(4):
            self.assertEqual(peer.expect(Send).body, bytes([number]) * (6 << 20))
        peer.send(Confirm(1, 1, ((1, 4),)))
        futures[3].result(PATIENCE_S)
        sending = call(client.send_msg, "bob", bytes(8 << 20))
        self.assertEqual(len(peer.expect(Send).body), 8 << 20)
        peer.send(confirm(5))
        sending.result(PATIENCE_S)


class Receiving(ClientTest):
    def test_a_message(self) -> None:
        client, peer = self.login()
        peer.send(deliver(1, 5, "grüß dich".encode()))
        message = client.recv_msg(PATIENCE_S)
        self.assertEqual((message.id.int, message.sender, message.text, message.late), (5, "bob", "grüß dich", False))
        self.assertEqual(message.body, "grüß dich".encode())
        self.assertEqual(message.sent_at, datetime(2026, 1, 1, tzinfo=timezone.utc))
        self.assertEqual(peer.expect(Ack), Ack(((1, 1),)))

    def test_timeout(self) -> None:
        client, _ = self.login()
        for timeout in (0, 0.01):
            with self.assertRaises(TimeoutError):
                client.recv_msg(timeout)

    def test_nothing_is_acknowledged_before_it_is_taken(self) -> None:
        client, peer = self.login()
        peer.send(deliver(1, 1), deliver(2, 2))
        presence = call(client.presence, "bob")
        peer.expect(Lookup)
        peer.send(PresenceIs(1, 0, 0, "bob"))
        presence.result(PATIENCE_S)
        client.recv_msg(PATIENCE_S)
        self.assertEqual(peer.expect(Ack), Ack(((1, 1),)))

    def test_acknowledging_on_request(self) -> None:
        client, peer = self.login(auto_acknowledge=False)
        peer.send(deliver(1, 1), deliver(2, 2), deliver(3, 3))
        first = client.recv_msg(PATIENCE_S)
        client.recv_msg(PATIENCE_S, acknowledge=True)
        self.assertEqual(peer.expect(Ack), Ack(((2, 2),)))
        first.acknowledge()
        self.assertEqual(peer.expect(Ack), Ack(((1, 1),)))
        peer.reset()
        peer = self.reopen()
        peer.send(deliver(1, 3), deliver(2, 1))
        self.assertEqual(peer.expect(Ack), Ack(((2, 2),)))
        client.recv_msg(PATIENCE_S).acknowledge()
        self.assertEqual(peer.expect(Ack), Ack(((1, 1),)))

    def test_iteration_ends_with_close(self) -> None:
        client, peer = self.login()

        def read_all() -> List[int]:
            return [message.id.int for message in client]

        peer.send(deliver(1, 1), deliver(2, 2), deliver(3, 2))
        reading = call(read_all)
        while peer.expect(Ack).ranges[-1][1] < 3:
            pass
        closing = call(client.close)
        peer.expect(Close)
        closing.result(PATIENCE_S)
        self.assertEqual(reading.result(PATIENCE_S), [1, 2])

    def test_a_late_message(self) -> None:
        client, peer = self.login()
        peer.send(deliver(1, 9), deliver(2, 8))
        self.assertEqual([client.recv_msg(PATIENCE_S).late for _ in range(2)], [False, True])


class Sessions(ClientTest):
    def test_take_over(self) -> None:
        client, peer = self.login()
        future = client.send_nowait("bob", "hi")
        receiving = call(client.recv_msg)
        peer.expect(Send)
        peer.send(Close(8, 0, ""))
        for waiting in (future, receiving):
            with self.assertRaises(TakenOver):
                waiting.result(PATIENCE_S)
        sending = lambda: client.send_msg("bob", "x")  # noqa: E731
        for function in (client.recv_msg, client.get_server_region, sending, lambda: next(iter(client))):
            with self.assertRaises(TakenOver) as raised:
                function()
            self.assertEqual(raised.exception.code, "taken_over")
        peer.expect_end()
        client.close()

    def test_drain_goes_unnoticed(self) -> None:
        client, peer = self.login()
        first = client.send_nowait("bob", "1")
        peer.expect(Send)
        peer.send(deliver(1, 1), Drain(0))
        client.recv_msg(PATIENCE_S)
        peer.expect(Ack)
        peer.send(confirm(1))
        self.assertEqual(peer.expect(Close), Close(0, 0, ""))
        peer.expect_end()
        peer = self.reopen()
        self.assertEqual(first.result(PATIENCE_S).level, "delivered")
        second = client.send_nowait("bob", "2")
        peer.expect(Send)
        peer.send(confirm(1))
        second.result(PATIENCE_S)

    def test_it_comes_back_as_often_as_needed(self) -> None:
        client, peer = self.login()
        future = client.send_nowait("bob", "hi")
        for _ in range(4):
            peer.expect(Send)
            peer.reset()
            peer = self.reopen()
        peer.expect(Send)
        peer.send(confirm(1))
        future.result(PATIENCE_S)

    def test_it_comes_back_to_a_server_that_was_away(self) -> None:
        client, peer = self.login()
        future = client.send_nowait("bob", "hi")
        peer.expect(Send)
        port = self.server.port
        self.server._listener.close()
        peer.reset()
        # Nobody listens: connecting fails, until somebody does.
        self.server._listener = socket.create_server(("127.0.0.1", port))
        self.server._listener.settimeout(PATIENCE_S)
        peer = self.reopen()
        peer.expect(Send)
        peer.send(confirm(1))
        future.result(PATIENCE_S)

    def test_pings_when_idle(self) -> None:
        _, peer = self.login(fields={"silent_ms_max": 300})
        for _ in range(3):
            peer.send(Pong(peer.expect(Ping).token))


class Closing(ClientTest):
    def test_confirmations_and_acknowledgements_arrive_first(self) -> None:
        client, peer = self.login(fields={"window_messages": 1})
        futures = [client.send_nowait("bob", str(number)) for number in range(3)]
        peer.send(deliver(1, 1))
        client.recv_msg(PATIENCE_S)
        closing = call(client.close)
        seen: List[str] = []
        while True:
            frame = peer.next_frame()
            seen.append(type(frame).__name__)
            if isinstance(frame, Send):
                peer.send(confirm(frame.sequence, level=1))
            elif isinstance(frame, Ping):
                peer.send(Pong(frame.token))
            elif isinstance(frame, Close):
                break
        closing.result(PATIENCE_S)
        self.assertEqual(sorted(seen), ["Ack", "Close", "Ping", "Send", "Send", "Send"])
        self.assertEqual([future.result(0).level for future in futures], ["stored"] * 3)
        peer.expect_end()

    def test_it_is_bounded(self) -> None:
        client, peer = self.login()
        future = client.send_nowait("bob", "hi")
        peer.expect(Send)
        started = time.monotonic()
        client.close(timeout=0.1)
        self.assertLess(time.monotonic() - started, 2.0)
        with self.assertRaises(ClientClosed):
            future.result()
        client.close()

    def test_it_is_bounded_without_a_connection(self) -> None:
        client, peer = self.login()
        future = client.send_nowait("bob", "hi")
        peer.expect(Send)
        self.server.close()
        client.close(timeout=0.1)
        with self.assertRaises(ClientClosed):
            future.result(0)

    def test_closed_while_connecting_it_does_not_log_in_again(self) -> None:
        client, peer = self.login()
        is_connecting, may_connect = threading.Event(), threading.Event()

        def slow_connect(*arguments: Any) -> Any:
            is_connecting.set()
            may_connect.wait(PATIENCE_S)
            return connect(*arguments)

        with unittest.mock.patch("iris_client._link.connect", slow_connect):
            peer.reset()
            self.assertTrue(is_connecting.wait(PATIENCE_S))
            client.close(0.05)
            may_connect.set()
            self.server.accept().expect_end()

    def test_the_context_manager_closes(self) -> None:
        client, peer = self.login()
        with client:
            pass
        peer.expect(Close)
        with self.assertRaises(ClientClosed):
            client.send_nowait("bob", "hi")

    def test_a_client_that_is_dropped_ends_its_session(self) -> None:
        client = IrisClient("127.0.0.1", self.server.port)
        login = call(client.login, "alice")
        peer = self.reopen()
        login.result(PATIENCE_S)
        del login
        future = client.send_nowait("bob", "hi")
        del client
        gc.collect()
        peer.expect(Send)
        peer.send(confirm(1))
        peer.expect(Close)
        peer.expect_end()
        self.assertEqual(future.result(0).level, "delivered")

    def test_the_end_of_a_program_lets_acknowledgements_arrive(self) -> None:
        script = (
            "from iris_client import IrisClient\n"
            f"client = IrisClient('127.0.0.1', {self.server.port})\n"
            "client.login('alice')\n"
            "client.send_nowait('bob', 'hi')\n"
            "client.recv_msg()\n"
        )
        with subprocess.Popen([sys.executable, "-c", script]) as program:
            peer = self.server.accept()
            peer.open()
            self.assertEqual(peer.expect(Send).body, b"hi")
            peer.send(deliver(1, 1))
            self.assertEqual(peer.expect(Ack), Ack(((1, 1),)))
            peer.send(confirm(1))
            peer.expect(Close)
            self.assertEqual(program.wait(PATIENCE_S), 0)


class PresenceTest(ClientTest):
    def test_lookup(self) -> None:
        client, peer = self.login()
        asking = call(client.presence, "bob")
        self.assertEqual(peer.expect(Lookup).user, "bob")
        peer.send(PresenceIs(1, 0, CLOCK_MS, "bob"))
        presence = asking.result(PATIENCE_S)
        self.assertEqual((presence.online, presence.state), (False, "offline"))
        self.assertEqual(presence.last_seen, datetime(2026, 1, 1, tzinfo=timezone.utc))
        asking = call(client.presence, "bob")
        peer.expect(Lookup)
        peer.send(PresenceIs(2, 1, 0, "bob"))
        self.assertEqual((asking.result(PATIENCE_S).online, asking.result().last_seen), (True, None))
        with self.assertRaises(TimeoutError):
            client.presence("bob", timeout=0.01)
        with self.assertRaises(ValueError):
            client.presence("")

    def test_watch(self) -> None:
        client, peer = self.login()
        watching = call(client.watch, "bob")
        request = peer.expect(Watch).request
        peer.send(PresenceIs(request, 0, 0, "bob"))
        watch = watching.result(PATIENCE_S)
        assert watch.presence is not None
        self.assertEqual(watch.presence.state, "offline")
        with self.assertRaises(TimeoutError):
            watch.next(0.01)
        peer.send(PresenceIs(request, 1, 0, "bob"))
        self.assertTrue(watch.next(PATIENCE_S).online)
        self.assertIs(client.watch("bob"), watch)
        peer.send(PresenceIs(request, 0, CLOCK_MS, "bob"))
        changes = iter(watch)
        self.assertEqual(next(changes).state, "offline")
        client.unwatch("bob")
        peer.expect(Unwatch)
        self.assertEqual(list(changes), [])
        client.unwatch("nobody")


if __name__ == "__main__":
    unittest.main()

