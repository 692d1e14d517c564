"""Transactions that Kafka decided and then forgot to end on some partitions: hanging ones, as KIP-664 calls them.

The markers that end a transaction are written after it was decided. A broker that was killed, or fenced while it was
frozen, sends them again when it is back; on a single broker it may do so before the partitions have a leader again, and
then it passes over them for good (Kafka 4.3.0, docs/log.md). Readers stop before such records, so whoever asks what was
committed is told too little and says it again; the producer's next commit shows both, and its next abort neither.

So a sink begins no transaction before the last one has ended on all its partitions, which their leaders know, and one
that is opened ends what hangs as it was decided, which the coordinator knows until a producer of that id begins
anew. What is left are the few milliseconds in which it begins and ends: a second kill in these makes an abort of the
commit. The questions need no rights that a writer has not, but to read its topics. What hangs of a producer id that the
coordinator gave up since (a week idle, if it is not told otherwise) is not found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, TypeVar

from kafka import TopicPartition, errors

from stream.cluster import Cluster

_T = TypeVar("_T")


class Ends:
    """Asks brokers how the transactions of an id have ended.

    Every method raises `Unavailable` if there is no answer, and LogError if we are refused.
    """

    def __init__(self, cluster: Cluster, transactional_id: str) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._opened = ExitStack()
        self._admin: Any = None

    def committed_and_hanging(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Where records wait for the end of a commit that was decided last.

        To be asked before ``init_transactions``, which makes the coordinator forget the answer.
        """

        def ask(admin: Any) -> list[TopicPartition]:
            try:
                last = admin.describe_transactions([self._id])[self._id]
            except errors.TransactionalIdNotFoundError:
                return []
            if last.state.value == "PrepareCommit":  # the markers are on their way
                raise errors.ConcurrentTransactionsError
            return _open(admin, last.producer_id, partitions) if last.state.value == "CompleteCommit" else []

        return self._answer(ask)

    def waiting(self, producer_id: int, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Where records of a producer wait for the end of their transaction."""
        return self._answer(lambda admin: _open(admin, producer_id, partitions))

    def close(self) -> None:
        """Let go of the connections."""
        self._opened.close()
        self._admin = None

    def _answer(self, ask: Callable[[Any], _T]) -> _T:
        """What brokers say once they have loaded what they are asked for; other clients of theirs wait for it too."""
        deadline_s = time.monotonic() + self._cluster.timeout_ms / 1000
        while True:
            if self._admin is None:
                self._admin = self._opened.enter_context(self._cluster.admin())
            try:
                return ask(self._admin)
            except errors.KafkaError as e:
                # a partition without a leader is asked of a broker that is none
                passes = e.retriable or isinstance(e, errors.UnknownBrokerIdError)
                if not passes or time.monotonic() > deadline_s:
                    raise self._cluster.explained(e, f"transactional id {self._id}") from e
            self.close()  # it never forgets who the coordinator was
            time.sleep(0.05)


def _open(admin: Any, producer_id: int, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
    partitions = sorted(partitions)
    described = admin.describe_producers(partitions)
    return [
        at
        for at in partitions
        for producer in described[at].active_producers
        if producer.producer_id == producer_id and producer.current_transaction_start_offset >= 0
    ]
