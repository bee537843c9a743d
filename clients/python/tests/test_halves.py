"""Ids, inbox and outbox alone."""

from __future__ import annotations

import random
import unittest
import uuid
from typing import List

from iris_client import _inbox
from iris_client._frames import Ack, DecodeError, Deliver, Refuse, Send
from iris_client._ids import IdSource, id_bytes
from iris_client._inbox import Delivery, Inbox
from iris_client._outbox import Outbox, Sending
from iris_client._protocol import CLIENT_FRAMES, FrameDecoder
from iris_client.errors import Refused

from fake_server import CLOCK_MS, welcome

SEED = 7


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Ids(unittest.TestCase):
    def test_they_increase_whatever_the_clock_does(self) -> None:
        rng = random.Random(SEED)
        source, last, clock = IdSource(rng), b"", CLOCK_MS
        for _ in range(20_000):
            clock += rng.choice((0, 0, 0, 1, 5, -3, -1000))
            id = source.next_id(clock)
            parsed = uuid.UUID(bytes=id)
            self.assertEqual((parsed.version, parsed.variant), (7, uuid.RFC_4122))
            self.assertGreater(id, last)
            last = id

    def test_the_time_is_the_servers(self) -> None:
        id = IdSource(random.Random(SEED)).next_id(CLOCK_MS)
        self.assertEqual(int.from_bytes(id[:6], "big"), CLOCK_MS)

    def test_a_full_millisecond_runs_into_the_next(self) -> None:
        source = IdSource(random.Random(SEED))
        source.note(uuid.UUID("0198c5f2-8a4b-7fff-bfff-ffffffffffff").bytes, 0x0198C5F28A4B)
        self.assertEqual(source.next_id(0x0198C5F28A4B)[:6], (0x0198C5F28A4C).to_bytes(6, "big"))

    def test_chosen_ids_are_followed_unless_they_lie_too_far_ahead(self) -> None:
        source = IdSource(random.Random(SEED))
        chosen = IdSource(random.Random(SEED)).next_id(CLOCK_MS + 30_000)
        source.note(chosen, CLOCK_MS)
        self.assertGreater(source.next_id(CLOCK_MS), chosen)
        source.note(IdSource(random.Random(SEED)).next_id(CLOCK_MS + 90_000), CLOCK_MS)
        source.note(b"\xff" * 16, CLOCK_MS)
        self.assertEqual(int.from_bytes(source.next_id(CLOCK_MS)[:6], "big"), CLOCK_MS + 30_000)

    def test_forms(self) -> None:
        id = uuid.UUID("0198c5f2-8a4b-7c3d-9e5f-0123456789ab")
        self.assertEqual({id_bytes(id), id_bytes(str(id)), id_bytes(id.bytes)}, {id.bytes})
        for wrong in ("x", b"short"):
            with self.assertRaises(ValueError):
                id_bytes(wrong)
        with self.assertRaises(TypeError):
            id_bytes(7)  # type: ignore[arg-type]


class InboxTest(unittest.TestCase):
    def setUp(self) -> None:
        self.inbox = Inbox()
        self.sequence = 0

    def deliver(self, number: int, sender: str = "alice") -> None:
        self.sequence += 1
        self.inbox.on_deliver(Deliver(self.sequence, id_of(number), 0, sender, b""))

    def take(self) -> Delivery:
        delivery, _ = self.inbox.show_next()
        self.inbox.acknowledge(delivery)
        return delivery

    def lose(self) -> None:
        self.inbox.on_lost()
        self.sequence = 0

    def acknowledged(self) -> List[int]:
        frames = FrameDecoder(CLIENT_FRAMES, 1 << 20, False).feed(b"".join(self.inbox.acknowledgement_frames()))
        return [n for ack in frames if isinstance(ack, Ack) for a, b in ack.ranges for n in range(a, b + 1)]

    def test_only_what_was_taken_is_acknowledged(self) -> None:
        for number in range(1, 6):
            self.deliver(number)
        self.assertFalse(self.inbox.has_acknowledgements)
        first, second, third = (self.inbox.show_next()[0] for _ in range(3))
        self.inbox.acknowledge(third)
        self.inbox.acknowledge(first)
        self.inbox.acknowledge(first)
        self.assertEqual(self.acknowledged(), [1, 3])
        self.inbox.acknowledge(second)
        self.assertEqual(self.acknowledged(), [2])
        self.assertFalse(self.inbox.has_acknowledgements)

    def test_many_ranges_take_many_frames(self) -> None:
        for number in range(1, 5001):
            self.deliver(number)
        shown = [self.inbox.show_next()[0] for _ in range(5000)]
        for delivery in shown[::2]:
            self.inbox.acknowledge(delivery)
        self.assertEqual(self.acknowledged(), list(range(1, 5001, 2)))

    def test_a_repeat_of_a_taken_id_is_acknowledged_and_not_shown(self) -> None:
        self.deliver(1)
        self.take()
        self.lose()
        self.deliver(1)
        self.assertFalse(self.inbox.ready)
        self.assertEqual(self.acknowledged(), [1])

    def test_a_repeat_of_a_waiting_id_replaces_the_sequence(self) -> None:
        self.deliver(1)
        self.deliver(2)
        self.lose()
        self.deliver(2)
        self.deliver(1)
        self.assertEqual([self.take().id, self.take().id], [id_of(1), id_of(2)])
        self.assertFalse(self.inbox.ready)
        self.assertEqual(self.acknowledged(), [1, 2])

    def test_every_sequence_of_a_waiting_id_is_acknowledged_when_it_is_taken(self) -> None:
        self.deliver(1)
        self.deliver(1)
        self.deliver(2)
        self.assertEqual(self.acknowledged(), [])
        self.take()
        self.assertEqual(self.acknowledged(), [1, 2])

    def test_a_repeat_of_a_shown_id_waits_for_its_acknowledgement(self) -> None:
        self.deliver(1)
        delivery, _ = self.inbox.show_next()
        self.lose()
        self.deliver(9)
        self.deliver(1)
        self.assertEqual(len(self.inbox.ready), 1)
        self.inbox.acknowledge(delivery)
        self.assertEqual(self.acknowledged(), [2])

    def test_what_is_taken_between_connections_is_acknowledged_when_it_comes_again(self) -> None:
        self.deliver(1)
        self.lose()
        self.take()
        self.assertFalse(self.inbox.has_acknowledgements)
        self.deliver(1)
        self.assertEqual(self.acknowledged(), [1])

    def test_an_acknowledgement_does_not_outlive_its_connection(self) -> None:
        self.deliver(1)
        self.take()
        self.lose()
        self.assertFalse(self.inbox.has_acknowledgements)

    def test_the_same_id_of_two_senders_is_two_messages(self) -> None:
        self.deliver(1, "alice")
        self.deliver(1, "bob")
        self.assertEqual(len(self.inbox.ready), 2)

    def test_late(self) -> None:
        lates = []
        for number, sender in ((5, "alice"), (3, "alice"), (4, "bob"), (6, "alice")):
            self.deliver(number, sender)
            lates.append(self.inbox.show_next()[1])
        self.assertEqual(lates, [False, True, False, False])

    def test_a_gap_in_the_sequence_is_a_fault(self) -> None:
        with self.assertRaises(DecodeError):
            self.inbox.on_deliver(Deliver(2, id_of(1), 0, "alice", b""))

    def test_1024_ids_of_a_sender_are_remembered(self) -> None:
        for number in range(1, _inbox.SENDER_IDS_MAX + 2):
            self.deliver(number)
            self.take()
        self.deliver(2)
        self.assertFalse(self.inbox.ready)
        self.deliver(1)
        self.assertTrue(self.inbox.ready)

    def test_65536_ids_in_all_are_remembered(self) -> None:
        for number in range(_inbox.IDS_MAX + 1):
            self.deliver(number, f"sender {number}")
            self.take()
        self.assertEqual(len(self.inbox._taken), _inbox.IDS_MAX)
        self.assertEqual(len(self.inbox._senders), _inbox.IDS_MAX)
        self.deliver(1, "sender 1")
        self.assertFalse(self.inbox.ready)
        self.deliver(0, "sender 0")
        self.assertTrue(self.inbox.ready)

    def test_history_against_a_simple_model(self) -> None:
        rng = random.Random(SEED)
        limits = (_inbox.SENDER_IDS_MAX, _inbox.IDS_MAX)
        _inbox.SENDER_IDS_MAX, _inbox.IDS_MAX = 4, 9
        try:
            taken: List[tuple[str, int]] = []
            for _ in range(5000):
                sender, number = rng.choice("abcd"), rng.randrange(20)
                self.deliver(number, sender)
                self.assertEqual(bool(self.inbox.ready), (sender, number) not in taken)
                if self.inbox.ready:
                    self.take()
                    of_sender = [key for key in taken if key[0] == sender]
                    if len(of_sender) >= 4:
                        taken.remove(of_sender[0])
                    elif len(taken) >= 9:
                        taken.pop(0)
                    taken.append((sender, number))
        finally:
            _inbox.SENDER_IDS_MAX, _inbox.IDS_MAX = limits

    def test_more_without_acknowledgement_than_any_window_is_a_fault(self) -> None:
        limit = _inbox.UNTAKEN_MAX
        _inbox.UNTAKEN_MAX = 3
        try:
            for number in range(3):
                self.deliver(number)
            with self.assertRaises(DecodeError):
                self.deliver(3)
        finally:
            _inbox.UNTAKEN_MAX = limit


class OutboxTest(unittest.TestCase):
    def setUp(self) -> None:
        self.outbox = Outbox(100, 1_000_000)
        self.outbox.on_welcome(welcome(window_messages=4, window_bytes=1000, body_bytes_max=900))

    def add(self, number: int, size: int = 1) -> Sending:
        sending = Sending(id_of(number), b"bob", b"x" * size)
        self.outbox.add(sending)
        return sending

    def written(self) -> List[int]:
        out = bytearray()
        self.outbox.write_sends(out)
        frames = FrameDecoder(CLIENT_FRAMES, 1 << 20, False).feed(bytes(out))
        return [int.from_bytes(frame.id, "big") for frame in frames if isinstance(frame, Send)]

    def test_the_window_counts_messages(self) -> None:
        sendings = [self.add(number) for number in range(1, 8)]
        self.assertEqual(self.written(), [1, 2, 3, 4])
        self.assertEqual(self.written(), [])
        self.outbox.on_confirm(2, 1, 2)
        self.assertTrue(sendings[1].is_done)
        self.outbox.on_refused(Refuse(1, 24, 250, "busy"))
        self.assertIsInstance(sendings[0].error, Refused)
        self.assertEqual(self.written(), [5, 6])
        self.outbox.on_confirm(2, 2, 0)
        self.assertEqual(self.written(), [])

    def test_the_window_counts_bytes(self) -> None:
        for number in range(1, 5):
            self.add(number, 400)
        self.assertEqual(self.written(), [1, 2])
        self.outbox.on_confirm(1, 1, 1)
        self.assertEqual(self.written(), [3])

    def test_what_no_frame_can_carry_is_refused_here(self) -> None:
        large = self.add(1, 901)
        self.add(2)
        self.assertEqual(self.written(), [2])
        assert isinstance(large.error, Refused)
        self.assertEqual((large.error.code, large.error.id), ("body_too_large", large.id))

    def test_levels_rise(self) -> None:
        sending = self.add(1)
        self.written()
        self.outbox.on_confirm(1, 1, 2)
        assert sending.receipt is not None
        self.assertEqual((sending.receipt.level, sending.receipt.copies), ("stored", 2))
        self.outbox.on_confirm(1, 2, 0)
        self.assertEqual((sending.receipt.level, sending.receipt.copies), ("delivered", 2))

    def test_a_receipt_rises_only_on_its_own_connection(self) -> None:
        first = self.add(1)
        self.written()
        self.outbox.on_confirm(1, 1, 1)
        self.outbox.on_lost()
        self.outbox.on_welcome(welcome())
        self.add(2)
        self.written()
        self.outbox.on_confirm(1, 2, 0)
        self.outbox.on_confirm(1, 2, 0)
        assert first.receipt is not None
        self.assertEqual(first.receipt.level, "stored")

    def test_what_is_unanswered_goes_out_again_first_and_in_order(self) -> None:
        for number in range(1, 7):
            self.add(number)
        self.written()
        self.outbox.on_confirm(2, 1, 1)
        self.outbox.on_lost()
        self.assertEqual(self.written(), [])
        self.add(7)
        self.outbox.on_welcome(welcome(window_messages=99))
        self.assertEqual(self.written(), [1, 3, 4, 5, 6, 7])

    def test_the_queue_is_bounded(self) -> None:
        outbox = Outbox(2, 100)
        self.assertTrue(outbox.has_room(1000))
        outbox.add(Sending(id_of(1), b"bob", b"x" * 60))
        self.assertFalse(outbox.has_room(41))
        self.assertTrue(outbox.has_room(40))
        outbox.add(Sending(id_of(2), b"bob", b""))
        self.assertFalse(outbox.has_room(0))
        self.assertFalse(outbox.has_drained)

    def test_an_answer_to_nothing_is_a_fault(self) -> None:
        self.add(1)
        self.written()
        for sequence in (0, 2, 1 << 63):
            with self.assertRaises(DecodeError):
                self.outbox.check_sequence(sequence)


if __name__ == "__main__":
    unittest.main()
