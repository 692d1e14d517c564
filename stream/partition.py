"""Which partition a user's events belong in: the one that Kafka's own producers choose for the user's id as the key."""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from

_SEED, _MIX, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


@lru_cache(maxsize=1 << 16)
def partition_of(user: str, n_partitions: int) -> int:
    """The partition of a user's events.

    A product that sends events with the user's id (UTF-8) as the key, by Kafka's Java client or any other whose
    partitioner is murmur2, has them in the same partitions.

    >>> [partition_of(user, 4) for user in ("ada", "grace", "edsger")]
    [1, 2, 2]
    """
    return (murmur2(user.encode()) & 0x7FFFFFFF) % n_partitions


def murmur2(data: bytes) -> int:
    """32-bit MurmurHash2, seeded as in Kafka (org.apache.kafka.common.utils.Utils).

    >>> murmur2(b"a-little-bit-long-string") - 2**32
    -985981536
    """
    n_words, n_rest = divmod(len(data), 4)
    h = _SEED ^ len(data)
    for word in unpack_from(f"<{n_words}I", data):
        k = word * _MIX & _WORD
        k = (k ^ k >> 24) * _MIX & _WORD
        h = h * _MIX & _WORD ^ k
    if n_rest:
        h = (h ^ int.from_bytes(data[-n_rest:], "little")) * _MIX & _WORD
    h = (h ^ h >> 13) * _MIX & _WORD
    return h ^ h >> 15


__all__ = ["murmur2", "partition_of"]
