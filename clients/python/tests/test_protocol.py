"""The codec against the vectors of docs/, against random garbage, and cut into random segments."""

from __future__ import annotations

import json
import pathlib
import random
import unittest
import uuid
from typing import Any, Dict, List, cast

from iris_client import _frames, _protocol
from iris_client._frames import Confirm, DecodeError, Deliver, Frame, Pong, Refuse, Welcome
from iris_client._protocol import CLIENT_FRAMES, SERVER_FRAMES, FrameDecoder, encode, ranges_of

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "docs" / "protocol-vectors.json"
SEED = 20260101

TYPES = {"REFUSED": "Refuse", "PRESENCE": "PresenceIs"}
BYTES_FIELDS = {"token", "body"}


def decoder_of(direction: str) -> FrameDecoder:
    frames = CLIENT_FRAMES if direction == "client" else SERVER_FRAMES
    return FrameDecoder(frames, 1 << 24, ignores_unknown=direction == "server")


def frame_of(vector: Dict[str, Any]) -> Frame:
    kind = getattr(_frames, TYPES.get(vector["type"], vector["type"].capitalize()))
    fields: Dict[str, Any] = {}
    for name, value in vector["fields"].items():
        if name == "id":
            fields[name] = uuid.UUID(value).bytes
        elif name == "ranges":
            fields[name] = tuple((int(first), int(last)) for first, last in value)
        elif name in BYTES_FIELDS and vector["type"] not in ("PING", "PONG"):
            fields[name] = bytes.fromhex(value)
        elif name != "trailing":
            is_text = name in ("user", "agent", "recipient", "sender", "reason", "region", "node")
            fields[name] = value if is_text else int(value)
    return cast(Frame, kind(**fields))


@unittest.skipUnless(VECTORS.exists(), f"{VECTORS} is not there")
class Vectors(unittest.TestCase):
    def setUp(self) -> None:
        self.file = json.loads(VECTORS.read_text(encoding="utf-8"))
        self.assertEqual(self.file["version"], 1)

    def test_fields_become_the_bytes(self) -> None:
        for vector in self.file["vectors"]:
            with self.subTest(vector["name"]):
                trailing = bytes.fromhex(vector["fields"].get("trailing", ""))
                encoded = encode(frame_of(vector))
                length = (int.from_bytes(encoded[:4], "big") + len(trailing)).to_bytes(4, "big")
                self.assertEqual((length + encoded[4:] + trailing).hex(), vector["hex"])

    def test_send_is_also_encoded_by_the_fast_way(self) -> None:
        for vector in self.file["vectors"]:
            if vector["type"] == "SEND":
                frame = cast(_frames.Send, frame_of(vector))
                fast = _protocol.encode_send(frame.sequence, frame.id, frame.recipient.encode(), frame.body)
                self.assertEqual(fast.hex(), vector["hex"])

    def test_bytes_become_the_fields(self) -> None:
        for vector in self.file["vectors"]:
            with self.subTest(vector["name"]):
                frames = list(decoder_of(vector["direction"]).feed(bytes.fromhex(vector["hex"])))
                self.assertEqual(frames, [frame_of(vector)])

    def test_what_is_invalid_is_refused_by_its_code(self) -> None:
        for vector in self.file["invalid"]:
            with self.subTest(vector["name"]):
                with self.assertRaises(DecodeError) as raised:
                    list(decoder_of(vector["direction"]).feed(bytes.fromhex(vector["hex"])))
                self.assertEqual(_frames.code_name(raised.exception.code), vector["code"])


class Stream(unittest.TestCase):
    FRAMES: List[Frame] = [
        Welcome(1, 1, "tokyo", "edge-1", 16, 65_536, 16_384, 20_000, 30_000, 1_767_225_600_000),
        Deliver(1, bytes(16), 5, "alice", b"x" * 3000),
        Confirm(2, 0, ((1, 3), (9, 9))),
        Refuse(4, 23, 1500, "full"),
        Deliver(2, bytes(16), 6, "zoë", b""),
        Pong(7),
    ]

    def test_segments_cut_anywhere(self) -> None:
        rng = random.Random(SEED)
        stream = b"".join(encode(frame) for frame in self.FRAMES)
        for _ in range(200):
            decoder, at, frames = decoder_of("server"), 0, []
            while at < len(stream):
                size = rng.choice((1, 2, 3, 5, 40, 1000, 5000))
                frames += list(decoder.feed(stream[at : at + size]))
                at += size
            self.assertEqual(frames, self.FRAMES)

    def test_byte_by_byte(self) -> None:
        decoder, frames = decoder_of("server"), []
        for byte in b"".join(encode(frame) for frame in self.FRAMES):
            frames += list(decoder.feed(bytes((byte,))))
        self.assertEqual(frames, self.FRAMES)

    def test_garbage_is_refused_and_nothing_else_happens(self) -> None:
        rng = random.Random(SEED)
        for _ in range(20_000):
            self._feed_garbage(rng, rng.randbytes(rng.randrange(1, 80)))

    def test_damaged_frames_are_refused_or_decoded(self) -> None:
        rng = random.Random(SEED + 1)
        for _ in range(20_000):
            raw = bytearray(encode(rng.choice(self.FRAMES)))
            for _ in range(rng.randrange(1, 4)):
                raw[rng.randrange(min(len(raw), 60))] = rng.randrange(256)
            self._feed_garbage(rng, bytes(raw))

    def _feed_garbage(self, rng: random.Random, raw: bytes) -> None:
        decoder = FrameDecoder(rng.choice((CLIENT_FRAMES, SERVER_FRAMES)), 65_536, rng.random() < 0.5)
        try:
            for frame in decoder.feed(raw):
                list(FrameDecoder({**CLIENT_FRAMES, **SERVER_FRAMES}, 1 << 24, False).feed(encode(frame)))
        except DecodeError:
            pass

    def test_what_stands_before_a_fault_is_still_given(self) -> None:
        frames = []
        with self.assertRaises(DecodeError):
            for frame in decoder_of("server").feed(encode(Pong(1)) + bytes(4)):
                frames.append(frame)
        self.assertEqual(frames, [Pong(1)])

    def test_a_frame_too_large_is_named_so_before_it_has_arrived(self) -> None:
        decoder = FrameDecoder(CLIENT_FRAMES, 4096, ignores_unknown=False)
        with self.assertRaises(DecodeError) as raised:
            list(decoder.feed((4097).to_bytes(4, "big") + b"\x02"))
        self.assertEqual(raised.exception.code, _frames.Code.FRAME_TOO_LARGE)

    def test_a_client_ignores_types_it_does_not_know(self) -> None:
        unknown = bytes.fromhex("00000003f00102")
        self.assertEqual(list(decoder_of("server").feed(unknown + encode(Pong(1)))), [Pong(1)])


class Ranges(unittest.TestCase):
    def test_sequences_become_ranges(self) -> None:
        self.assertEqual(ranges_of([]), [])
        self.assertEqual(ranges_of([7]), [(7, 7)])
        self.assertEqual(ranges_of([3, 1, 2, 2, 9, 8, 5]), [(1, 3), (5, 5), (8, 9)])

    def test_user_ids(self) -> None:
        self.assertEqual(_protocol.encode_user("zoë 🦀"), "zoë 🦀".encode())
        self.assertEqual(_protocol.encode_user("x" * 255), b"x" * 255)
        for wrong in ("", "x" * 256, "ä" * 128, "a\x00", "a\nb", "\x7f", "\x85", "\ud800"):
            with self.assertRaises(ValueError, msg=repr(wrong)):
                _protocol.encode_user(wrong)


if __name__ == "__main__":
    unittest.main()
