"""Slots, rings, node ids and preferences against the vectors of docs/.

Rings of more than 1,000 shards are left to the Rust tests: pure Python takes more than ten seconds for 50,000.
"""

from __future__ import annotations

import json
import pathlib
import unittest

from iris_client import placement

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "docs" / "placement-vectors.json"
NUM_SHARDS_MAX = 1_000


@unittest.skipUnless(VECTORS.exists(), f"{VECTORS} is not there")
class Vectors(unittest.TestCase):
    def setUp(self) -> None:
        self.file = json.loads(VECTORS.read_text(encoding="utf-8"))
        self.assertEqual(self.file["slots"], placement.SLOTS)

    def test_users_have_their_slots(self) -> None:
        for vector in self.file["users"]:
            self.assertEqual(f"{placement.stable_hash(vector['user'].encode()):016x}", vector["hash"])
            self.assertEqual(placement.slot_of(vector["user"]), vector["slot"])

    def test_slots_have_their_shards(self) -> None:
        rings = [vector for vector in self.file["rings"] if vector["num_shards"] <= NUM_SHARDS_MAX]
        self.assertEqual([vector["num_shards"] for vector in rings], [1, 2, 3, 16, 1_000])
        for vector in rings:
            for slot, shard in vector["shards"]:
                self.assertEqual(placement.shard_of(slot, vector["num_shards"]), shard, vector["num_shards"])
            table = placement.ring(vector["num_shards"])
            sizes = [0] * vector["num_shards"]
            for shard in table:
                sizes[shard] += 1
            self.assertEqual((max(sizes), min(sizes)), (vector["largest"], vector["smallest"]))

    def test_the_whole_table_is_the_same(self) -> None:
        vector = next(vector for vector in self.file["rings"] if vector["num_shards"] == 16)
        table = b"".join(shard.to_bytes(2, "big") for shard in placement.ring(16))
        self.assertEqual(f"{placement.stable_hash(table):016x}", vector["table_hash"])

    def test_nodes_have_their_ids(self) -> None:
        for vector in self.file["nodes"]:
            self.assertEqual(placement.node_id(vector["node"]), vector["id"])
        self.assertIn(1, [vector["id"] for vector in self.file["nodes"]])

    def test_shards_prefer_their_nodes(self) -> None:
        names = {vector["id"]: vector["node"] for vector in self.file["nodes"]}
        for vector in self.file["rendezvous"]:
            preferred = [names[node] for node in placement.preferred(vector["shard"], names)]
            self.assertEqual(preferred, vector["preferred"])


class Bounds(unittest.TestCase):
    def test_what_is_no_slot_and_no_number_of_shards_is_refused(self) -> None:
        for slot in (-1, placement.SLOTS):
            self.assertRaises(ValueError, placement.shard_of, slot, 2)
        for num_shards in (0, placement.SHARDS_MAX + 1):
            self.assertRaises(ValueError, placement.shard_of, 0, num_shards)


if __name__ == "__main__":
    unittest.main()
