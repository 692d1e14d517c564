"""Transactions that Kafka decided and then forgot to end on some partitions: hanging ones, as KIP-664 calls them.

A broker that is killed between deciding on a commit and writing its markers resends them when it is back; on a single
broker it may do so before the partitions have a leader again, and then it passes over them for good (Kafka 4.3.0,
docs/log.md). Readers stop before such records, so whoever asks what was committed is told too little and says it
again; the producer's next commit lets both be seen, and its next abort neither.

What was decided last is still known to the coordinator, until a producer of that id begins anew, and which partitions
wait for it to their leaders. So a sink that is opened asks both before it begins (`committed_and_hanging`) and ends
what hangs at once, and it never outlives a connection, or it could begin another transaction on top. What is left
are the few milliseconds in which it begins and ends: a second kill in these makes an abort of the commit. Both
questions need no rights that a writer has not, but to read its topics. What hangs of a producer id that the coordinator
gave up since (a week idle, if it is not told otherwise) is not found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kafka import TopicPartition, errors

from stream.cluster import Cluster

_T = TypeVar("_T")


def committed_and_hanging(
    cluster: Cluster, transactional_id: str, topics: Mapping[str, int]
) -> list[TopicPartition]:
    """Where records wait for the end of a commit that was decided last under an id.

    To be asked before ``init_transactions``, which makes the coordinator forget the answer.

    Parameters
    ----------
    topics
        Whole names, with how many partitions each has.
    """

    def ask(admin: Any) -> list[TopicPartition]:
        try:
            last = admin.describe_transactions([transactional_id])[transactional_id]
        except errors.TransactionalIdNotFoundError:
            return []
        if last.state.value == "PrepareCommit":  # the markers are on their way
            raise errors.ConcurrentTransactionsError
        return _open_in(admin, last.producer_id, topics) if last.state.value == "CompleteCommit" else []

    return _answered(cluster, ask)


def hanging(cluster: Cluster, producer_id: int, topics: Mapping[str, int]) -> list[TopicPartition]:
    """Where a producer that has nothing open has records that wait for the end of their transaction."""
    return _answered(cluster, lambda admin: _open_in(admin, producer_id, topics))


def _open_in(admin: Any, producer_id: int, topics: Mapping[str, int]) -> list[TopicPartition]:
    partitions = [TopicPartition(name, p) for name, n in topics.items() for p in range(n)]
    described = admin.describe_producers(partitions)
    return [
        at
        for at in partitions
        for producer in described[at].active_producers
        if producer.producer_id == producer_id and producer.current_transaction_start_offset >= 0
    ]


def _answered(cluster: Cluster, ask: Callable[[Any], _T]) -> _T:
    """What brokers say once they have loaded what they are asked for; other clients of theirs wait for it as well."""
    deadline_s = time.monotonic() + cluster.timeout_ms / 1000
    while True:
        with cluster.admin() as admin:  # a new one for each try: it never forgets who the coordinator was
            try:
                return ask(admin)
            except errors.KafkaError as e:
                # a partition without a leader is asked of a broker that is none
                if not (e.retriable or isinstance(e, errors.UnknownBrokerIdError)):
                    raise
                if time.monotonic() > deadline_s:
                    raise
        time.sleep(0.05)
