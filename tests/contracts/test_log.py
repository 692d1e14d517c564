"""What every log must do, whichever it is; and what a log in memory does besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.log import LogError, MemoryLog, Record, Sink, Source

N = 3
NewLog = Callable[[], MemoryLog]
Written = list[tuple[int, bytes]]
# The fixture only makes logs; each example makes its own.
each_new = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
written = st.lists(st.tuples(st.integers(0, N - 1), st.binary(max_size=4)), max_size=30)


@pytest.fixture(params=["memory", "disk"])
def new_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewLog]:
    made: list[MemoryLog] = []

    def new() -> MemoryLog:
        made.append(MemoryLog(N, tmp_path / f"{len(made)}.log" if request.param == "disk" else None))
        return made[-1]

    yield new
    for log in made:
        log.close()


def write(sink: Sink, values: Written) -> None:
    for partition, value in values:
        sink.write(partition, b"key", value)


def drain(source: Source, max_records: int = 7) -> list[Record]:
    records: list[Record] = []
    while got := source.poll(max_records):
        assert len(got) <= max_records
        records += got
    return records


def by_partition(records: list[Record]) -> list[list[Record]]:
    return [[record for record in records if record.partition == p] for p in range(N)]


def expected(values: Written, start: int = 0) -> list[list[Record]]:
    """What a reader sees of these, by counting."""
    out: list[list[Record]] = [[] for _ in range(N)]
    for p, value in values:
        out[p].append(Record(p, len(out[p]), b"key", value))
    return [records[start:] for records in out]


@each_new
@given(values=written, max_records=st.integers(1, 8))
def test_each_partition_is_read_in_the_order_in_which_it_was_written(
    new_log: NewLog, values: Written, max_records: int
) -> None:
    log = new_log()
    source, sink = log.source(), log.sink()
    write(sink, values)
    sink.commit()
    assert by_partition(drain(source, max_records)) == expected(values)
    assert source.offsets == source.end() == {p: len(records) for p, records in enumerate(expected(values))}


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
    assert by_partition(drain(source)) == expected(values + more)


def test_input_offsets_go_with_the_records_and_are_kept_for_the_next_writer(new_log: NewLog) -> None:
    log = new_log()
    sink = log.sink()
    assert sink.offsets == {}
    sink.write(0, b"", b"x")
    sink.commit({0: 5, 1: 2})
    sink.commit({1: 3})
    sink.write(0, b"", b"y")
    sink.abort()
    sink.commit()
    assert log.sink().offsets == {0: 5, 1: 3}


@each_new
@given(values=written, data=st.data())
def test_a_reader_that_seeks_reads_on_from_there(
    new_log: NewLog, values: Written, data: st.DataObject
) -> None:
    log = new_log()
    write(sink := log.sink(), values)
    sink.commit()
    source = log.source()
    source.poll(data.draw(st.integers(0, 10)))
    was = source.offsets
    to = {p: data.draw(st.integers(0, end)) for p, end in source.end().items() if data.draw(st.booleans())}
    source.seek(to)
    assert source.offsets == {**was, **to}
    at = source.offsets
    assert by_partition(drain(source)) == [records[at[p] :] for p, records in enumerate(expected(values))]


def test_a_reader_of_some_partitions_sees_no_others(new_log: NewLog) -> None:
    log = new_log()
    write(sink := log.sink(), [(0, b"a"), (1, b"b"), (2, b"c"), (0, b"d")])
    sink.commit()
    source = log.source([2, 0])
    assert by_partition(drain(source)) == [
        expected([(0, b"a"), (0, b"d")])[0],
        [],
        [Record(2, 0, b"key", b"c")],
    ]
    assert set(source.offsets) == set(source.end()) == {0, 2}
    with pytest.raises(LogError):
        source.seek({1: 0})


@pytest.mark.parametrize("offset", [-1, 2, 1 << 40])
def test_an_offset_that_does_not_exist_is_an_error_and_not_a_jump(new_log: NewLog, offset: int) -> None:
    log = new_log()
    write(sink := log.sink(), [(0, b"a")])
    sink.commit()
    source = log.source()

    def seek_and_poll() -> None:
        source.seek({0: offset})
        source.poll(1)

    with pytest.raises(LogError, match=rf"partition 0: expected an offset in 0\.\.1, got {offset}$"):
        seek_and_poll()


# Of a log in memory, on disk or not.


@each_new
@given(values=written, sizes=st.lists(st.integers(1, 5), min_size=1), commits=st.integers(1, 5))
def test_records_come_in_the_order_of_their_commits_however_they_are_read(
    new_log: NewLog, values: Written, sizes: list[int], commits: int
) -> None:
    log = new_log()
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
    new_log: NewLog, values: Written, data: st.DataObject
) -> None:
    log = new_log()
    write(sink := log.sink(), values)
    sink.commit()
    late = log.source()
    whole = expected(values)
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
