"""The machine without sockets or clocks: the test is the server and says what time it is."""

from __future__ import annotations

import random
import unittest
from typing import Any, List, Optional

from iris_client._engine import Engine, Phase, Settings
from iris_client._frames import (
    Ack,
    Close,
    Code,
    Confirm,
    Deliver,
    Drain,
    Frame,
    Hello,
    Lookup,
    Ping,
    Pong,
    PresenceIs,
    Send,
    Unwatch,
    Watch,
)
from iris_client._outbox import Sending
from iris_client._presence import Asking, Watching
from iris_client._protocol import CLIENT_FRAMES, FrameDecoder, encode
from iris_client.errors import (
    CannotConnect,
    ClientClosed,
    ProtocolFault,
    SessionRefused,
    TakenOver,
    Unsupported,
)
from iris_client.message import Presence

from fake_server import CLOCK_MS, welcome

SEED = 11


class EngineTest(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.engine = Engine("alice", "secret", Settings(), random.Random(SEED))

    def connect(self) -> None:
        self.engine.on_connected(self.now)
        self.decoder = FrameDecoder(CLIENT_FRAMES, 1 << 24, False)

    def open(self, **fields: Any) -> None:
        self.connect()
        self.assertIsInstance(self.written()[0], Hello)
        self.hear(welcome(**fields))

    def hear(self, *frames: Frame) -> None:
        self.engine.on_bytes(b"".join(encode(frame) for frame in frames), self.now)

    def written(self) -> List[Frame]:
        return list(self.decoder.feed(self.engine.take_outgoing(self.now)))

    def send(self, chosen: Optional[bytes] = None) -> Sending:
        sending = Sending(self.engine.new_id(chosen, self.now), b"bob", b"hi")
        self.engine.outbox.add(sending)
        return sending

    def lose(self) -> None:
        self.engine.on_lost(self.now, "the connection ended")

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.engine.on_timer(self.now)

    def take(self) -> bytes:
        delivery, _ = self.engine.inbox.show_next()
        self.engine.inbox.acknowledge(delivery)
        return delivery.body


class Opening(EngineTest):
    def test_hello_then_welcome(self) -> None:
        self.connect()
        hello = self.written()[0]
        assert isinstance(hello, Hello)
        self.assertEqual((hello.version_min, hello.version_max, hello.user, hello.token), (1, 1, "alice", b"secret"))
        self.send_is_held_back()
        self.hear(welcome(region="tokyo"))
        self.assertEqual(self.engine.region, "tokyo")
        self.assertIsInstance(self.written()[0], Send)

    def send_is_held_back(self) -> None:
        self.send()
        self.assertEqual(self.written(), [])

    def test_the_first_connection_fails(self) -> None:
        self.engine.on_connect_failed(self.now, "cannot connect to nowhere:1")
        self.assertIsInstance(self.engine.ended, CannotConnect)
        self.assertIsInstance(self.engine.ended, ConnectionError)

    def test_the_first_connection_ends_unanswered(self) -> None:
        self.connect()
        self.lose()
        self.assertIsInstance(self.engine.ended, CannotConnect)

    def test_codes_that_are_final(self) -> None:
        for code in (Code.VERSION, Code.BAD_USER, Code.UNAUTHORIZED, Code.PROTOCOL_ERROR):
            self.setUp()
            self.connect()
            self.hear(Close(code, 0, ""))
            self.lose()
            assert isinstance(self.engine.ended, SessionRefused)
            self.assertEqual(self.engine.ended.number, code)

    def test_a_wait_is_honoured(self) -> None:
        for code in (Code.UNAVAILABLE, Code.DRAINING, Code.INTERNAL):
            self.setUp()
            self.connect()
            self.hear(Close(code, 2000, ""))
            self.assertTrue(self.engine.must_disconnect)
            self.lose()
            self.assertIsNone(self.engine.ended)
            self.assertGreaterEqual(self.engine.reconnect_at, self.now + 2.0)
            self.assertLessEqual(self.engine.reconnect_at, self.now + 2.2)

    def test_hello_unanswered(self) -> None:
        self.connect()
        self.pass_time(10.0)
        self.assertTrue(self.engine.must_disconnect)
        self.lose()
        self.assertIn("10 s", str(self.engine.ended))

    def test_an_invalid_user_is_refused_at_once(self) -> None:
        for user in ("", "a\n", "x" * 256):
            with self.assertRaises(SessionRefused) as raised:
                Engine(user, None, Settings())
            self.assertEqual(raised.exception.code, "bad_user")
        with self.assertRaises(ValueError):
            Engine("alice", b"x" * 3001, Settings())


class Reconnecting(EngineTest):
    def test_backoff_grows_with_jitter_and_is_bounded(self) -> None:
        self.open()
        self.lose()
        delays = []
        for _ in range(12):
            delays.append(self.engine.reconnect_at - self.now)
            self.now = self.engine.reconnect_at
            self.engine.on_connect_failed(self.now, "refused")
        for attempt, delay in enumerate(delays):
            longest = min(10.0, 0.1 * 2**attempt)
            self.assertTrue(longest / 2 <= delay <= longest, (attempt, delay))
        self.assertIsNone(self.engine.ended)
        self.assertEqual(len({round(delay / 10, 6) for delay in delays[-4:]}), 4)

    def test_a_connection_that_did_nothing_does_not_reset_the_backoff(self) -> None:
        for _ in range(6):
            self.open()
            self.lose()
        self.assertGreater(self.engine.reconnect_at - self.now, 1.0)
        self.open()
        self.hear(Deliver(1, bytes(16), 0, "bob", b""))
        self.lose()
        self.assertLess(self.engine.reconnect_at - self.now, 0.2)

    def test_a_lost_confirmation(self) -> None:
        self.open()
        first, second = self.send(), self.send()
        before = [f for f in self.written() if isinstance(f, Send)]
        self.hear(Confirm(1, 1, ((1, 1),)))
        self.lose()
        third = self.send()
        self.open()
        after = [f for f in self.written() if isinstance(f, Send)]
        self.assertEqual([f.id for f in after], [before[1].id, third.id.bytes])
        self.assertEqual([f.sequence for f in after], [1, 2])
        self.hear(Confirm(2, 0, ((1, 2),)))
        self.assertTrue(first.is_done and second.is_done and third.is_done)
        assert second.receipt is not None
        self.assertEqual(second.receipt.level, "delivered")

    def test_new_ids_follow_the_new_servers_clock_but_never_go_back(self) -> None:
        self.open(clock=CLOCK_MS + 5000)
        first = self.send()
        self.lose()
        self.open(clock=CLOCK_MS)
        second = self.send()
        self.assertGreater(second.id, first.id)
        self.assertEqual(second.id.int >> 80, CLOCK_MS + 5000)
        self.now += 10
        self.assertEqual(self.send().id.int >> 80, CLOCK_MS + 10_000)

    def test_faults_of_the_server_are_not_tried_for_ever(self) -> None:
        for _ in range(2):
            self.open()
            self.hear(Close(Code.PROTOCOL_ERROR, 0, ""))
            self.lose()
            self.assertIsNone(self.engine.ended)
        self.open()
        self.hear(Close(Code.PROTOCOL_ERROR, 0, ""))
        self.assertIsInstance(self.engine.ended, SessionRefused)

    def test_an_expired_token_ends_the_session(self) -> None:
        self.open()
        sending = self.send()
        self.hear(Close(Code.UNAUTHORIZED, 0, "expired"))
        self.assertIs(sending.error, self.engine.ended)

    def test_take_over(self) -> None:
        self.open()
        sending = self.send()
        self.written()
        self.hear(Close(Code.TAKEN_OVER, 0, ""))
        self.assertTrue(self.engine.must_disconnect)
        self.lose()
        self.assertIsInstance(sending.error, TakenOver)
        with self.assertRaises(TakenOver):
            self.engine.check_usable()


class Faults(EngineTest):
    def expect_fault(self, *frames: Frame) -> None:
        self.hear(*frames)
        self.assertTrue(self.engine.must_disconnect, frames)
        close = self.written()[-1]
        assert isinstance(close, Close)
        self.assertEqual(close.code, Code.PROTOCOL_ERROR)

    def test_what_the_server_may_not_do(self) -> None:
        wrong: List[Frame] = [
            welcome(),
            Deliver(2, bytes(16), 0, "bob", b""),
            Confirm(1, 1, ((1, 1),)),
            Confirm(1, 1, ((0, 2**64 - 1),)),
        ]
        for frame in wrong:
            self.setUp()
            self.open()
            self.expect_fault(frame)
            self.lose()
            self.assertIsNone(self.engine.ended)

    def test_something_else_than_welcome(self) -> None:
        self.connect()
        self.written()
        self.expect_fault(Pong(1))
        self.assertIsInstance(self.engine.ended, ProtocolFault)

    def test_another_version(self) -> None:
        self.connect()
        self.written()
        self.expect_fault(welcome(version=2))

    def test_random_garbage_never_escapes(self) -> None:
        rng = random.Random(SEED)
        for _ in range(3000):
            self.setUp()
            self.open()
            self.send()
            self.written()
            kind = rng.choice((0x08, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0xF0))
            payload = rng.randbytes(rng.randrange(40))
            self.engine.on_bytes((1 + len(payload)).to_bytes(4, "big") + bytes((kind,)) + payload, self.now)
            self.engine.take_outgoing(self.now)
            self.engine.next_deadline()


class Time(EngineTest):
    def test_a_ping_in_each_third_of_the_silent_time(self) -> None:
        self.open(silent_ms_max=30_000)
        self.assertEqual(self.engine.next_deadline(), self.now + 10.0)
        self.pass_time(9.9)
        self.assertEqual(self.written(), [])
        self.pass_time(0.1)
        ping = self.written()[0]
        assert isinstance(ping, Ping)
        self.hear(Pong(ping.token))
        self.assertEqual(self.engine.next_deadline(), self.now + 10.0)

    def test_sending_without_hearing_does_not_count_as_alive(self) -> None:
        self.open(silent_ms_max=30_000)
        for _ in range(10):
            self.pass_time(1.0)
            self.send()
            frames = self.written()
        self.assertTrue(any(isinstance(frame, Ping) for frame in frames))

    def test_a_ping_without_an_answer_ends_the_connection(self) -> None:
        self.open()
        self.pass_time(60.0)
        self.assertIsInstance(self.written()[0], Ping)
        self.pass_time(15.0)
        self.assertTrue(self.engine.must_disconnect)
        self.lose()
        self.assertIsNone(self.engine.ended)

    def test_drain(self) -> None:
        self.open()
        first = self.send()
        self.written()
        self.hear(Drain(3000))
        self.pass_time(2.9)
        second = self.send()
        self.assertEqual(len(self.written()), 1)
        self.pass_time(0.1)
        third = self.send()
        self.assertEqual(self.written(), [])
        self.assertFalse(self.engine.must_disconnect)
        self.hear(Confirm(1, 1, ((1, 2),)))
        self.assertEqual(self.written(), [Close(0, 0, "")])
        self.assertTrue(self.engine.must_disconnect)
        self.lose()
        self.assertEqual(self.engine.reconnect_at, self.now)
        self.open()
        self.assertEqual(len(self.written()), 1)
        self.assertEqual((first.is_done, second.is_done, third.is_done), (True, True, False))

    def test_drain_waits_for_acknowledgements_to_arrive(self) -> None:
        self.open()
        self.hear(Deliver(1, bytes(16), 0, "bob", b""), Drain(0))
        self.take()
        self.pass_time(0.0)
        ack, ping = self.written()
        self.assertEqual(ack, Ack(((1, 1),)))
        assert isinstance(ping, Ping)
        self.assertEqual(self.written(), [])
        self.hear(Pong(ping.token))
        self.assertEqual(self.written(), [Close(0, 0, "")])

    def test_drain_does_not_wait_for_ever(self) -> None:
        self.open()
        sending = self.send()
        self.written()
        self.hear(Drain(0))
        self.pass_time(0.0)
        self.assertFalse(self.engine.must_disconnect)
        self.pass_time(5.0)
        self.assertTrue(self.engine.must_disconnect)
        self.lose()
        self.open()
        self.assertEqual(len(self.written()), 1)
        self.assertFalse(sending.is_done)


class Closing(EngineTest):
    def test_with_nothing_open(self) -> None:
        self.open()
        self.engine.begin_close(self.now + 5)
        self.assertEqual(self.written(), [Close(0, 0, "")])
        self.assertIsInstance(self.engine.ended, ClientClosed)

    def test_confirmations_and_acknowledgements_arrive_first(self) -> None:
        self.open(window_messages=1)
        first, second = self.send(), self.send()
        self.hear(Deliver(1, bytes(16), 0, "bob", b""))
        self.take()
        self.engine.begin_close(self.now + 5)
        self.assertEqual([type(frame) for frame in self.written()], [Ack, Send])
        self.hear(Confirm(1, 1, ((1, 1),)))
        self.assertEqual([type(frame) for frame in self.written()], [Send])
        self.hear(Confirm(1, 1, ((2, 2),)))
        ping = self.written()[0]
        assert isinstance(ping, Ping)
        self.assertIsNone(self.engine.ended)
        self.hear(Pong(ping.token))
        self.assertEqual(self.written(), [Close(0, 0, "")])
        self.assertTrue(first.receipt and second.receipt)

    def test_not_for_ever(self) -> None:
        self.open()
        sending = self.send()
        self.written()
        self.engine.begin_close(self.now + 5)
        self.assertEqual(self.engine.next_deadline(), self.now + 5)
        self.pass_time(5.0)
        self.assertEqual(self.written(), [Close(0, 0, "")])
        self.assertIsInstance(sending.error, ClientClosed)

    def test_without_a_connection_only_messages_are_waited_for(self) -> None:
        self.open()
        self.lose()
        self.engine.begin_close(self.now + 5)
        self.engine.on_timer(self.now)
        self.assertIsInstance(self.engine.ended, ClientClosed)

    def test_a_connection_lost_while_closing_is_made_again_for_messages(self) -> None:
        self.open()
        sending = self.send()
        self.written()
        self.engine.begin_close(self.now + 5)
        self.lose()
        self.assertIsNone(self.engine.ended)
        self.open()
        self.assertEqual(len(self.written()), 1)
        self.hear(Confirm(1, 1, ((1, 1),)))
        self.assertEqual(self.written(), [Close(0, 0, "")])
        self.assertIsNotNone(sending.receipt)


class PresenceTest(EngineTest):
    def test_lookup_is_asked_again_after_a_reconnect(self) -> None:
        self.open()
        asking = Asking("bob")
        self.engine.presence.lookup(asking, self.engine.out)
        self.assertEqual(self.written(), [Lookup(1, "bob")])
        self.lose()
        self.open()
        self.assertEqual(self.written(), [Lookup(1, "bob")])
        self.hear(PresenceIs(1, 0, CLOCK_MS, "bob"))
        self.assertEqual(asking.presence, Presence("bob", "offline", CLOCK_MS))
        self.hear(PresenceIs(1, 1, 0, "bob"), PresenceIs(99, 1, 0, "carol"))
        self.assertFalse(self.engine.must_disconnect)

    def test_watch(self) -> None:
        self.open()
        watching = Watching("bob")
        self.engine.presence.watch(watching, self.engine.out)
        self.assertEqual(self.written(), [Watch(1, "bob")])
        self.hear(PresenceIs(1, 0, 0, "bob"), PresenceIs(1, 1, 0, "bob"))
        self.assertEqual([p.state for p in watching.changes], ["online"])
        self.lose()
        self.open()
        self.assertEqual(self.written(), [Watch(1, "bob")])
        self.hear(PresenceIs(1, 1, 0, "bob"))
        self.assertEqual(len(watching.changes), 1)
        self.engine.presence.unwatch("bob", ClientClosed(""), self.engine.out)
        self.assertEqual(self.written(), [Unwatch("bob")])
        self.hear(PresenceIs(1, 0, 5, "bob"))
        self.assertEqual(len(watching.changes), 1)

    def test_changes_nobody_reads_are_bounded(self) -> None:
        self.open()
        watching = Watching("bob")
        self.engine.presence.watch(watching, self.engine.out)
        for number in range(1, 202):
            self.hear(PresenceIs(1, number % 2, 0, "bob"))
        self.assertEqual(len(watching.changes), 64)

    def test_a_server_without_presence(self) -> None:
        self.open(capabilities=0)
        asking = Asking("bob")
        self.engine.presence.lookup(asking, self.engine.out)
        self.assertIsInstance(asking.error, Unsupported)
        self.assertEqual(self.written(), [])


class Random(EngineTest):
    def test_every_message_is_answered_once_and_in_order_over_random_losses(self) -> None:
        for seed in range(40):
            with self.subTest(seed=seed):
                self.setUp()
                self.run_one(random.Random(seed))

    def run_one(self, rng: random.Random) -> None:
        known: List[bytes] = []
        sendings: List[Sending] = []
        while len(sendings) < 200 or not all(sending.is_done for sending in sendings):
            if self.engine.phase is Phase.AWAY:
                self.now = max(self.now, self.engine.reconnect_at)
                self.open(window_messages=rng.randrange(1, 9))
            for _ in range(rng.randrange(5) if len(sendings) < 200 else 0):
                sendings.append(self.send())
            for frame in self.written():
                if isinstance(frame, Send) and rng.random() < 0.95:
                    if frame.id not in known:
                        known.append(frame.id)
                    if rng.random() < 0.95:
                        self.hear(Confirm(rng.choice((1, 2)), 1, ((frame.sequence, frame.sequence),)))
                        continue
                if isinstance(frame, Send):
                    self.lose()
                    break
        self.assertEqual(known, [sending.id.bytes for sending in sendings])


if __name__ == "__main__":
    unittest.main()
