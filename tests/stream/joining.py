"""What the tests of the joiner's worker share: a recorded log, what must come of it, and the logs in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Protocol

from instep.faults import Faults, lines
from stream.dead import TooManyDeadError as TooManyDeadError
from stream.events import BadEvent, Event, decode_event, encode_sample
from stream.group import Fixed, LetGo, Share
from stream.join import Dead, Joiner
from stream.joiner import DEAD, EVENTS, SAMPLES, STATE, JoinerWorker, Logs
from stream.log import MemoryLog, Record, Sink, Source, Unavailable
from stream.metrics import Metrics
from tests.worlds import make_log, product, small

N = 2
"""Partitions."""
SETTINGS = small(stream={"partitions": N, "max_history": 40})
RULES, FIELDS = SETTINGS.join_rules(), SETTINGS.fields
NOW_MS = 1_800_000_000_000
WITHIN_S = 60.0

Written = list[list[tuple[bytes, bytes]]]
"""Keys and values of each partition."""


@cache
def recorded(n_slates: int) -> tuple[Record, ...]:
    """A product's events in the order of arrival: some twice, some late, some that cannot be used."""
    sent: list[Event | bytes] = []
    for line in lines(product(n_slates), Faults(duplicated=0.05, late=0.05, late_s=3, broken=0.02)):
        try:
            sent.append(decode_event(line))
        except BadEvent:
            sent.append(line)
    return tuple(make_log(sent, N).source().poll(1 << 30))


def joined(records: Iterable[Record]) -> tuple[dict[str, Written], list[Joiner]]:
    """What the pure joiners make of these, by topic, and those joiners."""
    joiners = [Joiner(RULES, FIELDS, p) for p in range(N)]
    made: dict[str, Written] = {topic: [[] for _ in range(N)] for topic in (SAMPLES, DEAD)}
    for record in records:
        for out in joiners[record.partition].apply(record):
            if isinstance(out, Dead):
                made[DEAD][record.partition].append((record.key, record.value))
            else:
                made[SAMPLES][record.partition].append((record.key, encode_sample(out)))
    return made, joiners


class World(Protocol):
    """The four logs of the joiner, somewhere."""

    def append(self, records: Iterable[Record]) -> None:
        """Write events."""

    def logs(self, partitions: Sequence[int] | None = None) -> Logs:
        """What a worker gets, for fixed partitions or for its share of them."""

    def read(self, topic: str) -> Written:
        """All that is committed."""


class MemoryWorld:
    """The logs in memory."""

    def __init__(self) -> None:
        self.topics = {topic: MemoryLog(N) for topic in (EVENTS, SAMPLES, STATE, DEAD)}
        self.group = MemoryGroup()

    def append(self, records: Iterable[Record]) -> None:
        for record in records:
            self.topics[EVENTS].append(record.partition, record.key, record.value)

    def logs(self, partitions: Sequence[int] | None = None) -> Logs:
        return MemoryLogs(self, partitions)

    def read(self, topic: str) -> Written:
        read: Written = [[] for _ in range(N)]
        for record in self.topics[topic].source().poll(1 << 30):
            read[record.partition].append((record.key, record.value))
        return read


class MemoryLogs:
    def __init__(self, world: MemoryWorld, partitions: Sequence[int] | None) -> None:
        self._world = world
        self._partitions = partitions

    def share(self, let_go: LetGo) -> Share:
        if self._partitions is None:
            return self._world.group.join(let_go)
        return Fixed(self._partitions, let_go)

    def source(self, topic: str, partitions: Iterable[int]) -> Source:
        return self._world.topics[topic].source(partitions)

    def sink(self, partition: int) -> Sink:
        topics = self._world.topics
        return topics[SAMPLES].sink({STATE: topics[STATE], DEAD: topics[DEAD]})


class MemoryGroup:
    """Shares the partitions among its members; one gets none before its last owner has let go of it."""

    def __init__(self) -> None:
        self.members: list[_Member] = []

    def join(self, let_go: LetGo) -> Share:
        self.members.append(_Member(self, let_go))
        return self.members[-1]


class _Member:
    def __init__(self, group: MemoryGroup, let_go: LetGo) -> None:
        self._group = group
        self._let_go = let_go
        self.mine: frozenset[int] = frozenset()

    def partitions(self) -> frozenset[int]:
        members = self._group.members
        target = frozenset(range(members.index(self), N, len(members)))
        if gone := self.mine - target:
            self._let_go(gone)
        others = frozenset[int]().union(*(m.mine for m in members if m is not self))
        self.mine = (self.mine & target) | (target - others)
        return self.mine

    def close(self) -> None:
        self._let_go(self.mine)
        self.mine = frozenset()
        self._group.members.remove(self)


class Told:
    """Logs of which a worker has the partitions that it is told, and is its own share."""

    def __init__(self, logs: Logs, partitions: Iterable[int]) -> None:
        self.source, self.sink = logs.source, logs.sink
        self.told = frozenset(partitions)
        self._mine = self.told

    def share(self, let_go: LetGo) -> Share:
        self._let_go = let_go
        return self

    def partitions(self) -> frozenset[int]:
        gone, self._mine = self._mine - self.told, self.told
        if gone:
            self._let_go(gone)
        return self._mine

    def close(self) -> None:
        self._let_go(self._mine)


class Failing:
    """Logs of which the ``n``-th commit does not answer."""

    def __init__(self, logs: Logs, n: int) -> None:
        self.share, self.source = logs.share, logs.source
        self._logs = logs
        self.n = n

    def sink(self, partition: int) -> Sink:
        return _FailingSink(self, self._logs.sink(partition))


class _FailingSink:
    def __init__(self, logs: Failing, sink: Sink) -> None:
        self.write, self.abort, self.close = sink.write, sink.abort, sink.close
        self._logs = logs
        self._sink = sink

    def commit(self) -> None:
        self._logs.n -= 1
        if not self._logs.n:
            raise Unavailable("there", "expected an answer, got none")
        self._sink.commit()


def worker_of(
    logs: Logs, metrics: Metrics | None = None, *, poll_records: int = 100, max_dead: float = 0.5
) -> JoinerWorker:
    """A worker under the rules of these tests."""
    metrics = metrics or Metrics("joiner")
    limits = {"max_dead": max_dead, "poll_records": poll_records}
    return JoinerWorker(logs, RULES, FIELDS, metrics, now_ms=lambda: NOW_MS, **limits)  # type: ignore[arg-type]


def until_drained(*workers: JoinerWorker) -> None:
    """Let all of them step until nothing is left."""
    deadline = time.monotonic() + WITHIN_S
    while sum(worker.step() for worker in workers) or not all(worker.drained for worker in workers):
        assert time.monotonic() < deadline, [worker.not_ready for worker in workers]


def until_all_own(*workers: JoinerWorker) -> None:
    """Let all of them step until each is ready, with partitions of its own, and all partitions are owned."""
    deadline = time.monotonic() + WITHIN_S
    while any(worker.not_ready for worker in workers) or sum(len(w.partitions) for w in workers) < N:
        for worker in workers:
            worker.step()
        assert time.monotonic() < deadline, [worker.not_ready for worker in workers]


def laid_over(written: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """What compaction leaves."""
    return {key: value for key, value in dict(written).items() if value}


def value(metrics: Metrics, series: str) -> float:
    """The value of a series, its labels but the worker's in braces."""
    name, _, labels = series.partition("{")
    wanted = sorted([*filter(None, labels.rstrip("}").split(",")), f'worker="{metrics.worker}"'])
    line = f"{name}{{{','.join(wanted)}}} "
    return next(
        (float(s.split()[-1]) for s in metrics.page().decode().splitlines() if s.startswith(line)), -1.0
    )
