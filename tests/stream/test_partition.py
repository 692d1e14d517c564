"""A user's partition is the one that Kafka's producers choose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import default as kafka

from stream.partition import murmur2, partition_of

MEASURED_BY_KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""Of its own UtilsTest, as 32-bit integers with a sign."""


def test_hashes_are_those_that_kafka_tests_itself_with() -> None:
    assert {data: (murmur2(data) ^ 1 << 31) - (1 << 31) for data in MEASURED_BY_KAFKA} == MEASURED_BY_KAFKA


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 100))
def test_a_producer_with_the_users_id_as_key_sends_where_we_do(user: str, n_partitions: int) -> None:
    assert partition_of(user, n_partitions) == (kafka.murmur2(user.encode()) & 0x7FFFFFFF) % n_partitions
