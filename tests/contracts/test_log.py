"""What every log must do, whichever it is; and what a log in memory does besides."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.cluster import Cluster
from stream.kafka import KafkaSink, KafkaSource
from stream.log import LogError, MemoryLog, Offsets, Pausable, Record, Sink, Source
from tests.services.servers import KafkaServer

N = 3
WITHIN_S = 30.0
Written = list[tuple[int, bytes]]
# The fixture only makes logs; each example makes its own.
each_new = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
written = st.lists(st.tuples(st.integers(0, N - 1), st.binary(max_size=4)), max_size=30)


class Log(Protocol):
    """A log of ``N`` partitions with nothing in it, and another that its sinks know as "other"."""

    def source(self, partitions: Iterable[int] | None = None) -> Pausable: ...

    def other(self) -> Source: ...

    def sink(self) -> Sink: ...


NewLog = Callable[[], Log]
NewMemoryLog = Callable[[], MemoryLog]


class InMemory:
    """A `Log` in memory, or on disk."""

    def __init__(self, new: NewMemoryLog) -> None:
        self.log, self._other = new(), new()

    def source(self, partitions: Iterable[int] | None = None) -> Pausable:
        return self.log.source(partitions)

    def other(self) -> Source:
        return self._other.source()

    def sink(self) -> Sink:
        return self.log.sink({"other": self._other})


class Writing(KafkaSink):
    """A sink that says whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


class OnKafka:
    """A `Log` on Kafka: two topics, used again from their ends for each new log, and so are the clients."""

    def __init__(self, bootstrap: str) -> None:
        self._cluster = Cluster(bootstrap, f"log-{uuid.uuid4().hex}", timeout_ms=15_000)
        with self._cluster.admin() as admin:
            topics = [self._cluster.topic(name) for name in ("log", "other")]
            admin.create_topics(
                {topic: {"num_partitions": N, "replication_factor": 1} for topic in topics},
                wait_for_metadata=True,
            )
        self._sources: dict[tuple[str, tuple[int, ...]], list[KafkaSource]] = {}
        self._lent: list[tuple[tuple[str, tuple[int, ...]], KafkaSource]] = []
        self._sinks: list[Writing] = []
        self._n_lent = self._n_sinks = 0
        self._start: dict[str, Offsets] = {}

    def new(self) -> OnKafka:
        for sink in self._sinks:
            if not sink.closed:
                sink.abort()
        self._sinks = [sink for sink in self._sinks if not sink.closed]
        for key, source in self._lent:
            self._sources.setdefault(key, []).append(source)
        self._lent, self._n_lent = [], 0
        self._start = {}
        for name in ("log", "other"):
            self._start[name] = self._source(name, range(N)).end()
        return self

    def source(self, partitions: Iterable[int] | None = None) -> Pausable:
        return self._source("log", range(N) if partitions is None else partitions)

    def other(self) -> Source:
        return self._source("other", range(N))

    def sink(self) -> Sink:
        if self._n_lent == len(self._sinks):
            self._n_sinks += 1
            self._sinks.append(
                Writing(self._cluster, ["log", "other"], f"{self._cluster.prefix}-{self._n_sinks}")
            )
        self._n_lent += 1
        return self._sinks[self._n_lent - 1]

    def close(self) -> None:
        for sink in self._sinks:
            if not sink.closed:
                sink.close()
        for source in (*(s for _, s in self._lent), *(s for free in self._sources.values() for s in free)):
            source.close()

    def _source(self, name: str, partitions: Iterable[int]) -> KafkaSource:
        key = name, tuple(sorted(partitions))
        free = self._sources.get(key)
        source = free.pop() if free else KafkaSource(self._cluster, name, key[1])
        self._lent.append((key, source))
        if name in self._start:
            source.seek({p: self._start[name][p] for p in key[1]})
        return source


@pytest.fixture(params=["memory", "disk"])
def new_memory_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewMemoryLog]:
    with made_in(tmp_path if request.param == "disk" else None) as new:
        yield new


@pytest.fixture(params=["memory", "disk", "kafka"])
def new_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewLog]:
    if request.param == "kafka":
        server: KafkaServer = request.getfixturevalue("kafka")
        with closing(OnKafka(server.bootstrap)) as log:
            yield log.new
    else:
        with made_in(tmp_path if request.param == "disk" else None) as new:
            yield lambda: InMemory(new)


@contextmanager
def made_in(folder: Path | None) -> Iterator[NewMemoryLog]:
    """Makes logs with files in the folder, or in memory."""
    made: list[MemoryLog] = []

    def new() -> MemoryLog:
        made.append(MemoryLog(N, folder and folder / f"{len(made)}.log"))
        return made[-1]

    yield new
    for log in made:
        log.close()


def write(sink: Sink, values: Written, topic: str | None = None) -> None:
    for partition, value in values:
        sink.write(partition, b"key", value, topic)


def drain(source: Source, n: int = 0, max_records: int = 7) -> list[Record]:
    """What there is up to the end, once ``n`` records are there: some time passes between a commit and that."""
    records: list[Record] = []
    deadline_s = time.monotonic() + WITHIN_S
    while len(records) < n or source.offsets != source.end():
        assert time.monotonic() < deadline_s, (len(records), source.offsets, source.end())
        got = source.poll(max_records)
        assert len(got) <= max_records
        records += got
    return records


def by_partition(records: list[Record]) -> list[list[Record]]:
    return [[record for record in records if record.partition == p] for p in range(N)]


def values_of(records: list[Record]) -> list[list[bytes]]:
    """The values of each partition, whose offsets rise; between them there may be what ends a transaction."""
    for own in by_partition(records):
        offsets = [record.offset for record in own]
        assert offsets == sorted(set(offsets))
    return [[record.value for record in own] for own in by_partition(records)]


def expected(values: Written) -> list[list[bytes]]:
    """What a reader sees of these, by counting."""
    return [[value for q, value in values if q == p] for p in range(N)]


@each_new
@given(values=written, max_records=st.integers(1, 8))
def test_each_partition_is_read_in_the_order_in_which_it_was_written(
    new_log: NewLog, values: Written, max_records: int
) -> None:
    log = new_log()
    source, sink = log.source(), log.sink()
    write(sink, values)
    sink.commit()
    records = drain(source, len(values), max_records)
    assert values_of(records) == expected(values)
    assert {record.key for record in records} <= {b"key"}
    assert source.offsets == source.end()
    assert all(record.offset < source.offsets[record.partition] for record in records)


@each_new
@given(values=written, lost=written, more=written)
def test_only_what_is_committed_is_seen_and_it_is_seen_at_once(
    new_log: NewLog, values: Written, lost: Written, more: Written
) -> None:
    log = new_log()
    source, sink, other = log.source(), log.sink(), log.sink()
    write(sink, values)
    assert source.poll(100) == []
    sink.commit()
    write(sink, lost)
    sink.abort()
    write(other, lost)
    other.close()
    write(sink, more)
    sink.commit()
    assert values_of(drain(source, len(values + more))) == expected(values + more)


@each_new
@given(values=written, others=written, lost=written)
def test_a_commit_is_of_all_the_logs_that_were_written_to(
    new_log: NewLog, values: Written, others: Written, lost: Written
) -> None:
    log = new_log()
    source, other, sink = log.source(), log.other(), log.sink()
    write(sink, lost, "other")
    write(sink, lost)
    sink.abort()
    write(sink, others, "other")
    write(sink, values)
    assert source.poll(100) == other.poll(100) == []
    sink.commit()
    assert values_of(drain(source, len(values))) == expected(values)
    assert values_of(drain(other, len(others))) == expected(others)


def test_a_log_that_the_writer_was_not_made_for_or_a_partition_that_is_not_there_is_an_error(
    new_log: NewLog,
) -> None:
    sink = new_log().sink()
    with pytest.raises(LogError, match=r"expected a topic among .*'other'.*, got 'third'$"):
        sink.write(0, b"", b"", "third")
    for topic in (None, "other"):
        with pytest.raises(LogError, match=rf"expected a partition in 0\.\.{N - 1}, got {N}$"):
            sink.write(N, b"key", b"", topic)


def test_nothing_written_for_a_key_is_read_as_an_empty_value(new_log: NewLog) -> None:
    log = new_log()
    sink, source = log.sink(), log.source()
    sink.write(1, b"ada", b"state")
    sink.write(1, b"ada", None)
    sink.commit()
    assert [(r.key, r.value) for r in drain(source, 2)] == [(b"ada", b"state"), (b"ada", b"")]


@each_new
@given(
    values=written,
    n_read=st.integers(1, 10),
    jumps=st.dictionaries(st.integers(0, N - 1), st.integers(0, 31)),
)
def test_a_reader_that_seeks_reads_on_from_there(
    new_log: NewLog, values: Written, n_read: int, jumps: dict[int, int]
) -> None:
    log = new_log()
    start = log.source().offsets
    write(sink := log.sink(), values)
    sink.commit()
    whole = drain(log.source(), len(values))
    source = log.source()
    source.poll(n_read)
    was, end = source.offsets, source.end()
    to = {p: min(start[p] + n, end[p]) for p, n in jumps.items()}
    source.seek(to)
    assert source.offsets == {**was, **to}
    at = source.offsets
    assert by_partition(drain(source)) == by_partition([r for r in whole if r.offset >= at[r.partition]])


@each_new
@given(
    values=written,
    pauses=st.lists(st.tuples(st.sets(st.integers(0, N - 1)), st.integers(1, 10)), max_size=5),
)
def test_a_partition_that_is_paused_is_read_on_later_from_where_it_was(
    new_log: NewLog, values: Written, pauses: list[tuple[set[int], int]]
) -> None:
    log = new_log()
    write(sink := log.sink(), values)
    sink.commit()
    source, got = log.source(), []
    for paused, n in pauses:
        source.pause(paused)
        was, read = source.offsets, source.poll(n)
        assert not paused & {record.partition for record in read}
        assert all(source.offsets[p] == was[p] for p in paused)
        got += read
    source.pause(())
    assert values_of(got + drain(source, len(values) - len(got))) == expected(values)


def test_a_reader_of_some_partitions_sees_no_others(new_log: NewLog) -> None:
    log = new_log()
    write(sink := log.sink(), [(0, b"a"), (1, b"b"), (2, b"c"), (0, b"d")])
    sink.commit()
    source = log.source([2, 0])
    assert values_of(drain(source, 3)) == [[b"a", b"d"], [], [b"c"]]
    assert set(source.offsets) == set(source.end()) == {0, 2}
    with pytest.raises(LogError, match=r"expected partitions among \[0, 2\], got \[1\]$"):
        source.seek({1: 0})


@pytest.mark.parametrize("beyond", [-1, 1, 1 << 40])
def test_an_offset_that_does_not_exist_is_an_error_and_not_a_jump(new_log: NewLog, beyond: int) -> None:
    log = new_log()
    write(sink := log.sink(), [(0, b"a")])
    sink.commit()
    source = log.source()
    drain(source, 1)
    end = source.end()[0]
    offset = beyond if beyond < 0 else end + beyond

    def seek_and_poll() -> None:
        source.seek({0: offset})
        source.poll(1)

    with pytest.raises(LogError, match=rf"partition 0: expected an offset in 0\.\.{end}, got {offset}$"):
        seek_and_poll()


# Of a log in memory, on disk or not.


@each_new
@given(values=written, sizes=st.lists(st.integers(1, 5), min_size=1), commits=st.integers(1, 5))
def test_records_come_in_the_order_of_their_commits_however_they_are_read(
    new_memory_log: NewMemoryLog, values: Written, sizes: list[int], commits: int
) -> None:
    log = new_memory_log()
    sink, live = log.sink(), log.source()
    read_live: list[Record] = []
    for n in range(0, len(values), commits):
        write(sink, values[n : n + commits])
        sink.commit()
        read_live += live.poll(sizes[n % len(sizes)])
        fresh = log.source()
        fresh.seek(live.offsets)
        live = fresh  # a restart
    assert [(r.partition, r.value) for r in read_live + drain(live)] == values


@each_new
@given(values=written, data=st.data())
def test_a_trimmed_log_keeps_the_rest_and_its_offsets(
    new_memory_log: NewMemoryLog, values: Written, data: st.DataObject
) -> None:
    log = new_memory_log()
    write(sink := log.sink(), values)
    sink.commit()
    late = log.source()
    whole = by_partition(log.source().poll(100))
    assert [[r.value for r in records] for records in whole] == expected(values)
    start = dict.fromkeys(range(N), 0)
    for _ in range(2):
        to = {p: data.draw(st.integers(0, len(whole[p]))) for p in range(N)}
        log.trim(to)
        start = {p: max(at, to[p]) for p, at in start.items()}
        assert log.start() == start
        assert by_partition(drain(log.source())) == [whole[p][start[p] :] for p in range(N)]
        assert [log.read(p, start[p], 99) for p in range(N)] == [whole[p][start[p] :] for p in range(N)]
    if any(start.values()):
        with pytest.raises(LogError, match="expected an offset in"):
            late.poll(1)
    assert [log.append(p, b"", b"") for p in range(N)] == [len(records) for records in whole]


def test_what_is_trimmed_is_let_go_even_while_another_partition_is_not() -> None:
    log = MemoryLog(2)
    log.append(1, b"", b"stays")
    for n in range(100):
        log.append(0, b"", bytes([n]))
    log.trim({0: 99})
    assert sum(record is not None for record in log._records) == 2
    log.trim({1: 1})
    assert len(log._records) == 1


def test_a_reader_goes_on_although_what_lies_before_it_in_other_partitions_is_trimmed() -> None:
    log = MemoryLog(2)
    source = log.source([0])
    for p in (1, 1, 1, 0, 0, 0, 1):
        log.append(p, b"", b"")
    log.trim({1: 3})
    assert [r.offset for _ in range(4) for r in source.poll(1)] == [0, 1, 2]


def test_a_log_needs_partitions_and_knows_its_own() -> None:
    with pytest.raises(LogError, match="expected at least 1 partition, got 0"):
        MemoryLog(0)
    with pytest.raises(LogError, match=r"expected a partition in 0\.\.1, got 2"):
        MemoryLog(2).append(2, b"", b"")
