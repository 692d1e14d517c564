"""Which partitions are mine: a fixed list, or what a consumer group agrees on while its members come and go.

A group is joined for that alone: nothing is read or committed through it. It hands over one partition at a time
(cooperative, KIP-429): what a member keeps it goes on working on, and what it loses nobody else gets before it has
let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from kafka import ConsumerRebalanceListener, TopicPartition, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from stream.cluster import Cluster

LetGo = Callable[[frozenset[int]], None]
"""Called with partitions that are to go to another: commit what is whole, and close what writes them."""


JOIN_MS = 2_000
"""How long ``partitions`` may wait while members come or go; they do it together, so for the slowest of them."""


class Share(Protocol):
    """A worker's share of the partitions."""

    def partitions(self) -> frozenset[int]:
        """Those that are mine now. To be called often; what has to go is let go of before it returns."""

    def close(self) -> None:
        """Let go of all of them."""


class Fixed:
    """The partitions that a worker was told to take."""

    def __init__(self, partitions: Iterable[int], let_go: LetGo) -> None:
        self._mine = frozenset(partitions)
        self._let_go = let_go

    def partitions(self) -> frozenset[int]:
        return self._mine

    def close(self) -> None:
        mine, self._mine = self._mine, frozenset()
        if mine:
            self._let_go(mine)


class Group:
    """A share that the members of a consumer group agree on.

    Heartbeats go on by themselves; a member that has not asked for its partitions for ``max_idle_ms``, or not been
    heard for ``session_ms``, loses them. It may still write then, until its transactions are fenced.

    Parameters
    ----------
    topic
        Name, without the prefix, of the topic whose partitions are shared.
    name
        Of the group.
    let_go
        Runs while the caller waits in ``partitions`` or ``close``, and what it raises is raised there.

    Raises
    ------
    LogError
        If the topic is missing, or where the cluster refuses us.
    Unavailable
        If the cluster does not answer.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        name: str,
        let_go: LetGo,
        *,
        session_ms: int = 10_000,
        max_idle_ms: int = 60_000,
    ) -> None:
        cluster.partitions([topic])
        self._cluster = cluster
        self._name = name
        self._listener = _Listener(let_go)
        self._consumer = cluster.consumer(
            group_id=name,
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(500, session_ms // 5),
            max_poll_interval_ms=max_idle_ms,
        )
        self._consumer.subscribe([cluster.topic(topic)], listener=self._listener)

    def partitions(self) -> frozenset[int]:
        # Not the consumer's own poll: that waits for records too, and there is nothing to be read here. No shorter wait
        # either: a join that comes to its end while nobody waits for it is begun anew.
        try:
            self._consumer._coordinator.poll(timeout_ms=JOIN_MS)
        except errors.KafkaError as e:
            self._listener.reraise()
            raise self._cluster.explained(e, f"group {self._name}") from e
        self._listener.reraise()
        return frozenset(self._listener.mine)

    def close(self) -> None:
        try:
            self._consumer.close(autocommit=False, timeout_ms=self._cluster.timeout_ms)
        except errors.KafkaError as e:
            self._listener.reraise()
            raise self._cluster.explained(e, f"group {self._name}") from e
        self._listener.reraise()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Called on the client's own thread, while the caller waits for it."""

    def __init__(self, let_go: LetGo) -> None:
        self.mine: set[int] = set()
        self._let_go = let_go
        self._raised: BaseException | None = None

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.mine |= {at.partition for at in assigned}

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        gone = frozenset(at.partition for at in revoked)
        self.mine -= gone
        try:
            self._let_go(gone)
        except BaseException as e:
            self._raised = e

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)

    def reraise(self) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
