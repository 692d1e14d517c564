"""Transactions that Kafka decided and then forgot to end on some partitions: hanging ones, as KIP-664 calls them.

A broker that is killed between deciding on a commit and writing its markers resends them when it is back; on a single
broker it may do so before the partitions have a leader again, and then it passes over them for good (Kafka 4.3.0,
docs/log.md). Readers stop before such records, so whoever asks what was committed is told too little and says it
again; the producer's next commit lets both be seen. What was decided is still known to the coordinator, and which
partitions wait for it to their leaders. Both questions need no rights that a writer has not, but to read its topics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kafka import TopicPartition, errors

from stream.cluster import Cluster

_T = TypeVar("_T")
_COMMITTED = ("PrepareCommit", "CompleteCommit")


def was_committed(cluster: Cluster, transactional_id: str) -> bool:
    """Whether the last transaction of an id that was ended was a commit; of one that is open still, it is not.

    To be asked before ``init_transactions``, which aborts what is open and makes the coordinator forget the answer.
    """

    def ask(admin: Any) -> bool:
        try:
            described = admin.describe_transactions([transactional_id])
        except errors.TransactionalIdNotFoundError:
            return False
        return described[transactional_id].state.value in _COMMITTED

    return _answered(cluster, ask)


def hanging(cluster: Cluster, producer_id: int, topics: Mapping[str, int]) -> list[TopicPartition]:
    """Where a producer that has nothing open has records that wait for the end of their transaction.

    Parameters
    ----------
    topics
        Whole names, with how many partitions each has.
    """
    partitions = [TopicPartition(name, p) for name, n in topics.items() for p in range(n)]

    def ask(admin: Any) -> list[TopicPartition]:
        described = admin.describe_producers(partitions)
        return [
            at
            for at in partitions
            for producer in described[at].active_producers
            if producer.producer_id == producer_id and producer.current_transaction_start_offset >= 0
        ]

    return _answered(cluster, ask)


def _answered(cluster: Cluster, ask: Callable[[Any], _T]) -> _T:
    """What a broker says once it has loaded what it is asked for: the clients for reading and writing wait as well."""
    deadline_s = time.monotonic() + cluster.timeout_ms / 1000
    with cluster.admin() as admin:
        while True:
            try:
                return ask(admin)
            except errors.KafkaError as e:
                if not e.retriable or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
