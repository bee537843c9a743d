"""Where Iris keeps a user: user to slot, slot to shard, and which nodes a shard prefers.

Clients do not need it: any node takes anybody. Tools that look at a cluster from outside do. The rules are those of
shards/src/{slot,ring,placement}.rs, the vectors those of docs/placement-vectors.json. Compiling a ring takes half a
second, and 0.3 ms more for each shard; it is kept.
"""

from __future__ import annotations

import array
import functools
from typing import Iterable, List

SLOTS = 1 << 20
SHARDS_MAX = 1 << 16
VNODES = 100

_MASK = (1 << 64) - 1


def stable_hash(data: bytes) -> int:
    """FNV-1a with 64 bits, mixed by the finaliser of MurmurHash3. The same for ever."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & _MASK
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33


def slot_of(user: str) -> int:
    """The slot of a user, below SLOTS. It never changes."""
    return stable_hash(user.encode()) % SLOTS


def shard_of(slot: int, num_shards: int) -> int:
    """The shard of a slot in a cluster with that many shards (1 to SHARDS_MAX)."""
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slots are below {SLOTS}, {slot} is none")
    return ring(num_shards)[slot]


def node_id(name: str) -> int:
    """The id of a node with this name."""
    return max(1, stable_hash(name.encode()) & 0xFFFFFFFF)


def rendezvous(shard: int, node: int) -> int:
    """How much a shard wants a node (its id). The higher the better."""
    return stable_hash(shard.to_bytes(4, "big") + node.to_bytes(4, "big"))


def preferred(shard: int, nodes: Iterable[int]) -> List[int]:
    """Node ids in the order in which a shard prefers them."""
    return sorted(nodes, key=lambda node: (-rendezvous(shard, node), node))


@functools.lru_cache(maxsize=4)
def ring(num_shards: int) -> "array.array[int]":
    """The shard of each slot."""
    if not 1 <= num_shards <= SHARDS_MAX:
        raise ValueError(f"a cluster has 1 to {SHARDS_MAX} shards, not {num_shards}")
    if num_shards == 1:
        return array.array("H", bytes(2 * SLOTS))
    points = _points(num_shards)
    shards = [point & 0xFFFF for point in points]
    room = [_room(shard, num_shards) for shard in range(num_shards)]
    table = array.array("H", bytes(2 * SLOTS))
    left_over = []
    own = 0
    for slot in range(SLOTS):
        while own < len(points) and points[own] < slot << 44:
            own += 1
        shard = shards[own % len(points)]
        if room[shard]:
            room[shard] -= 1
            table[slot] = shard
        else:
            left_over.append((slot, own))
    for slot, at in left_over:
        while not room[shards[at % len(points)]]:
            at += 1
        table[slot] = shards[at % len(points)]
        room[table[slot]] -= 1
    return table


def _points(num_shards: int) -> List[int]:
    """The points of all shards, clockwise; a point's low 16 bits are its shard."""
    points = []
    for shard in range(num_shards):
        name = shard.to_bytes(4, "big")
        points += [stable_hash(name + bytes([v])) & ~0xFFFF | shard for v in range(VNODES)]
    points.sort()
    return points


def _room(shard: int, num_shards: int) -> int:
    """How many slots a shard may have."""
    share = (11 << 52) // (10 * num_shards)
    return share + (shard * 0x9E3779B9 & 0xFFFFFFFF) >> 32
