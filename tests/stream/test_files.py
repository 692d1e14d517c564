"""Event files of every format: what is written comes back, in the right partition, and errors say where."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream import files
from stream.events import Action, Candidate, Event, Impression, Tick, encode_event
from stream.files import SUFFIXES, FileSource, write_events
from stream.log import LogError, Record
from stream.partition import partition_of

N = 3
in_one_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
every_format = pytest.mark.parametrize("suffix", SUFFIXES)


def some_events(n: int, seed: int = 0) -> list[Event]:
    rng = random.Random(seed)
    events: list[Event] = []
    for at_ms in range(n):
        user, item = f"ü{rng.randrange(20)}", f"n{rng.randrange(9)}"
        kind = rng.randrange(4)
        if kind == 0:
            events.append(Tick(at_ms))
        elif kind == 1:
            events.append(Impression(f"i{at_ms}", user, at_ms, [Candidate(item, {"topic": "a\nb"})]))
        else:
            events.append(Action("click", user, item, at_ms))
    return events


def expected(lines: list[Event | bytes]) -> list[Record]:
    """Where each line goes, by the words of the module and a full decode."""
    out: list[Record] = []
    n = [0] * N
    for event in lines:
        line = event if isinstance(event, bytes) else encode_event(event)
        if isinstance(event, Tick):
            to = list(range(N))
        else:
            to = [0 if isinstance(event, bytes) else partition_of(event.user, N)]
        user = b"" if isinstance(event, bytes | Tick) else event.user.encode()
        for p in to:
            out.append(Record(p, n[p], user, line))
            n[p] += 1
    return out


def drain(source: FileSource, max_records: int = 7) -> list[Record]:
    records: list[Record] = []
    while got := source.poll(max_records):
        assert len(got) <= max_records
        records += got
    return records


@every_format
def test_events_come_back_in_order_in_the_partition_of_their_user(suffix: str, tmp_path: Path) -> None:
    events = some_events(300)
    path = tmp_path / "folder" / f"events{suffix}"
    assert write_events(path, events) == 300
    source = FileSource(path, N)
    end = source.end()
    assert drain(source) == expected(list(events))
    assert source.offsets == end == source.end()


@every_format
def test_the_same_events_give_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    for name in "ab":
        write_events(tmp_path / f"{name}{suffix}", some_events(50))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_folder_is_read_in_the_order_of_names_whatever_the_formats(tmp_path: Path) -> None:
    events = some_events(40)
    names = ["1.parquet", "2.jsonl.gz", "3.jsonl", "4.jsonl.zst"]
    for n in (2, 0, 3, 1):
        write_events(tmp_path / names[n], events[n * 10 : n * 10 + 10])
    (tmp_path / "notes.txt").write_text("not events")
    (tmp_path / ".5.jsonl").write_text("hidden")
    assert drain(FileSource(tmp_path, N)) == expected(list(events))


@in_one_folder
@given(
    content=st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\n\n", b"\r\n", b" ", b"\xff"]), max_size=40),
    chunk=st.integers(1, 9),
)
def test_lines_are_cut_at_line_breaks_wherever_the_chunks_fall(
    tmp_path: Path, content: list[bytes], chunk: int
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(content) + b"\nlast")
    lines = [*b"".join(content).split(b"\n"), b"last"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        got = [(n, line) for n, line, _ in files._lines(path)]
    assert got == [(n, line) for n, line in enumerate(lines, 1) if line.strip()]


@in_one_folder
@given(data=st.data())
def test_a_seek_reads_on_from_any_offsets(tmp_path: Path, data: st.DataObject) -> None:
    events = some_events(40)
    path = tmp_path / "x.jsonl"
    write_events(path, events)
    source = FileSource(path, N)
    whole = expected(list(events))
    source.poll(data.draw(st.integers(0, 50)))
    to = {p: data.draw(st.integers(0, end)) for p, end in source.end().items() if data.draw(st.booleans())}
    source.seek(to)
    at = source.offsets
    assert {**at, **to} == at
    assert drain(source, data.draw(st.integers(1, 9))) == [r for r in whole if r.offset >= at[r.partition]]


@pytest.mark.parametrize("offsets", [{0: -1}, {N: 0}, {1: 10_000}])
def test_an_offset_that_does_not_exist_is_an_error(tmp_path: Path, offsets: dict[int, int]) -> None:
    write_events(tmp_path / "x.jsonl", some_events(9))
    source = FileSource(tmp_path / "x.jsonl", N)

    def seek_and_poll() -> None:
        source.seek(offsets)
        drain(source)

    with pytest.raises(LogError, match=r"x\.jsonl: "):
        seek_and_poll()


BROKEN = [
    b"{not json",
    b'"text"',
    b'{"type": "action", "at_ms": 1}',
    b'{"type": "action", "user": 7}',
    b'{"type": "action", "user": "\\ud800"}',
    b'{"type": "action", "user": "\xff"}',
    b'{"type": "tick", "at_ms": "soon"}',
    b"[" * 5000,
    b'{"type": "action", "user": "ada", "at_ms": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
]


def test_a_line_without_a_user_goes_to_partition_0_and_says_where_it_is(tmp_path: Path) -> None:
    events: list[Event | bytes] = []
    for good, broken in zip(some_events(len(BROKEN)), BROKEN, strict=True):
        events += [good, broken]
    path = tmp_path / "x.jsonl"
    write_events(path, events)
    source = FileSource(path, N)
    records = source.poll(1000)
    assert records == expected(events)
    broken_records = [record for record in records if record.value in BROKEN]
    assert [source.where(r.partition, r.offset) for r in broken_records] == [
        f"{path}:{2 * n}" for n in range(1, len(BROKEN) + 1)
    ]
    source.poll(1)
    assert source.where(0, 0) == str(path)


def test_a_line_that_is_broken_elsewhere_stays_with_its_user(tmp_path: Path) -> None:
    line = b'{"type": "action", "user": "ada", "at_ms": "soon", "schema": 99}'
    write_events(tmp_path / "x.jsonl", [line])
    partition = partition_of("ada", N)
    assert FileSource(tmp_path / "x.jsonl", N).poll(9) == [Record(partition, 0, b"ada", line)]


def test_parquet_has_columns_for_people_and_needs_only_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    events: list[Event | bytes] = [
        Tick(5),
        Action("click", "ada", "n7", 6),
        b"{broken",
        b'{"type":"tick","at_ms":-1}',
        BROKEN[-1],
    ]
    write_events(path, events)
    table = pq.read_table(path)
    assert table.column_names == ["type", "user", "at_ms", "event"]
    assert table.select(["type", "user", "at_ms"]).to_pylist() == [
        {"type": "tick", "user": None, "at_ms": 5},
        {"type": "action", "user": "ada", "at_ms": 6},
        {"type": None, "user": None, "at_ms": None},
        {"type": None, "user": None, "at_ms": None},
        {"type": None, "user": None, "at_ms": None},
    ]
    texts = [encode_event(Tick(5)).decode(), None]
    pq.write_table(pa.table({"extra": [1, 2], "event": pa.array(texts, pa.large_string())}), path)
    records = FileSource(path, N).poll(9)
    assert [(r.partition, r.value) for r in records] == [(p, encode_event(Tick(5))) for p in range(N)] + [
        (0, b"")
    ]


@every_format
def test_progress_grows_from_nothing_to_all_of_the_bytes(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 1000)
    for name in "ab":
        write_events(tmp_path / f"{name}{suffix}", some_events(200))
    source = FileSource(tmp_path, N)
    source.end()
    done = [source.bytes_done]
    while source.poll(10):
        done.append(source.bytes_done)
        source.end()
    assert done[0] == 0
    assert done == sorted(done)
    assert source.bytes_done == source.bytes_total == sum(file.stat().st_size for file in tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl"])
def test_reading_takes_a_few_chunks_of_memory_however_long_the_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 10_000)
    path = tmp_path / f"x{suffix}"
    write_events(path, (b"x" * 999 for _ in range(4000)))
    tracemalloc.start()
    try:
        source = FileSource(path, 1)
        while source.poll(10):
            pass
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def raises(path: Path, what: str) -> None:
    """Opening or reading says this, on one line."""
    with pytest.raises(LogError) as error:
        drain(FileSource(path, N))
    assert str(error.value).startswith(what)
    assert "\n" not in str(error.value)


def test_nothing_to_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    raises(
        tmp_path / "x.jsonl", f"{tmp_path}/x.jsonl: expected a file or folder of events, got nothing there"
    )
    raises(tmp_path, f"{tmp_path}: expected .jsonl, .jsonl.gz, .jsonl.zst, .parquet in this folder, got none")
    (tmp_path / "x.csv").write_text("a,b")
    raises(
        tmp_path / "x.csv", f"{tmp_path}/x.csv: expected .jsonl, .jsonl.gz, .jsonl.zst, .parquet, got 'x.csv'"
    )
    (tmp_path / "x.jsonl").write_text("\n \n")
    raises(tmp_path / "x.jsonl", f"{tmp_path}/x.jsonl: expected at least one event, got none")
    with pytest.raises(LogError, match="expected at least 1 partition, got 0"):
        FileSource(tmp_path / "x.jsonl", 0)


@every_format
def test_an_empty_log_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    assert write_events(path, []) == 0
    raises(path, f"{path}: expected at least one event, got none")


def test_a_parquet_file_of_another_shape_is_an_error_with_what_came(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"user": ["ada"], "item": ["n7"]}), path)
    raises(path, f"{path}: expected a column event (the JSON text), got user, item")
    pq.write_table(pa.table({"event": [1]}), path)
    raises(path, f"{path}: column event: expected text, got int64")


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_file_that_ends_too_early_is_an_error_each_time_it_is_polled(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 10_000)
    path = tmp_path / f"x{suffix}"
    rng = random.Random(0)
    write_events(path, (b"%d" % rng.getrandbits(512) for _ in range(3_000)))
    path.write_bytes(path.read_bytes()[:-100])
    try:
        source = FileSource(path, N)
    except LogError:
        raises(path, f"{path}: expected a whole {suffix} file, got: ")
        return
    errors = set()
    for _ in range(2):
        with pytest.raises(LogError, match="expected a whole") as error:
            drain(source, 5_000)
        errors.add(str(error.value))
    assert len(errors) == 1


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 10)
    monkeypatch.setattr(files, "LONGEST", 100)
    (tmp_path / "x.jsonl").write_bytes(b"{}\n" + b"x" * 1000)
    raises(tmp_path / "x.jsonl", f"{tmp_path}/x.jsonl:2: expected a line of at most 100 bytes")


@every_format
def test_a_file_that_could_not_be_finished_is_not_there_and_the_old_one_is(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    write_events(path, some_events(3))
    before = path.read_bytes()

    def broken() -> Iterator[Event]:
        yield from some_events(5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_events(path, broken())
    with pytest.raises(LogError, match=r"x\.\w+(\.\w+)?: event 2: expected one line, got b'a\\nb'"):
        write_events(path, [b"a", b"a\nb"])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_what_cannot_be_written_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"expected a name that ends in \.jsonl, .*, got 'x\.csv'"):
        write_events(tmp_path / "x.csv", [])
    with pytest.raises(
        LogError, match=r"x\.parquet: event 1: expected UTF-8, as Parquet wants it, got b'\\xff'"
    ):
        write_events(tmp_path / "x.parquet", [b"\xff"])
    (tmp_path / "file").touch()
    with pytest.raises(LogError, match=r"x\.jsonl: cannot be written: "):
        write_events(tmp_path / "file" / "x.jsonl", [])


def test_users_spread_over_partitions_evenly() -> None:
    n = [0] * 8
    for user in range(8000):
        n[partition_of(f"u{user}", 8)] += 1
    # 8 counts of a fair draw: each within 5 standard deviations of 1000.
    assert all(abs(count - 1000) < 5 * (1000 * 7 / 8) ** 0.5 for count in n)


def test_partial_reading_finds_the_user_that_a_full_decode_finds() -> None:
    for event in some_events(100, seed=1):
        raw = msgspec.json.decode(encode_event(event))
        shuffled = msgspec.json.encode(dict(reversed(raw.items())))
        user, partitions = files._destination(shuffled, N)
        assert user == raw.get("user", "").encode()
        assert len(list(partitions)) == (N if isinstance(event, Tick) else 1)
