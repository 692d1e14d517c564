"""The log: partitions of records that stay where they are, the two protocols around it, and one in memory.

A reader says where it reads next and gets what follows; a writer's records, of one log or of several, are seen
only when it commits, all at once. That is what the workers rely on, and all they know of a log; Kafka offers the
same with assign and seek, read_committed and transactions. Where a worker stands in its input is a record of its
own among those that it commits.

>>> log, dead = MemoryLog(partitions=2), MemoryLog(partitions=2)
>>> sink, source = log.sink({"dead": dead}), log.source()
>>> sink.write(1, b"ada", b"click")
>>> sink.write(0, b"", b"?!", "dead")
>>> source.poll(10)
[]
>>> sink.commit()
>>> source.poll(10)
[Record(partition=1, offset=0, key=b'ada', value=b'click')]
>>> source.offsets, dead.end()
({0: 0, 1: 1}, {0: 1, 1: 0})
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Struct

from stream.frames import Frames
from stream.frames import LogError as LogError

Offsets = Mapping[int, int]
"""For each partition the next record to read, never the last one read."""


class Unavailable(Exception):
    """The other side does not answer; nothing written since the last commit counts; build it anew and try again."""

    def __init__(self, where: object, what: str) -> None:
        super().__init__(f"{where}: {what}")


class Fenced(Exception):
    """Another process writes in this one's place; nothing written since the last commit counts: end."""


class Record(NamedTuple):
    """One message and its place. An empty value where None was written: what has this key is gone."""

    partition: int
    offset: int
    key: bytes
    value: bytes


class Source(Protocol):
    """Reads some partitions in order, from any offset; a new one from the first record that is kept."""

    @property
    def offsets(self) -> Offsets:
        """Where the next poll reads."""

    def poll(self, max_records: int) -> list[Record]:
        """The next committed records, in order within a partition; empty when there are none for now."""

    def seek(self, offsets: Offsets) -> None:
        """Read on from here; partitions not named stay. LogError, here or at the poll, if out of range."""

    def end(self) -> Offsets:
        """Behind the last committed record of each partition read, as far as is known now."""

    def close(self) -> None: ...


class Pausable(Source, Protocol):
    """A source that can leave partitions out for a while."""

    def pause(self, partitions: Collection[int]) -> None:
        """Polls pass over these partitions and no others, until told otherwise; then they go on where they were."""


class Sink(Protocol):
    """Writes records that become visible together."""

    def write(self, partition: int, key: bytes, value: bytes | None, topic: str | None = None) -> None:
        """Put a record behind those written so far; a value of None says that what has this key is gone.

        ``topic`` is one of the other logs that the sink was made for, by its name.
        """

    def commit(self) -> None:
        """Make what was written since the last commit visible, all or nothing."""

    def abort(self) -> None:
        """Forget what was written since the last commit."""

    def close(self) -> None:
        """Let go; what was not committed is not written."""


class _Commit(Struct, array_like=True):
    """One step in the life of a log, in memory and as a frame of its file."""

    records: list[tuple[int, bytes, bytes]]
    start: dict[int, int] = {}


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(_Commit)


class MemoryLog:
    """A log in memory, with an append-only file behind it if it is given a path.

    Records are handed out in the order in which they were committed, whatever their partitions, the sizes of
    the polls, the restarts of the reader, and however far the writer had come: a replay reads as it was live.

    Parameters
    ----------
    partitions
        How many. A log on disk keeps the number it was made with.
    path
        Of the file. A commit is one frame with a checksum, so it is there whole or not at all: a torn one at
        the end is cut off when the log is opened. One process at a time may have it open.
    sync
        Wait at each commit until the disk has it. Without, a commit survives the process but not the machine.
    start
        The offset that the first record of each partition gets, 0 where not given: for a new log that goes on
        where another was. A log that is on disk already keeps its own.

    Raises
    ------
    LogError
        If the file is damaged before its end (with the byte), is no log, is in use, or has other partitions.
    """

    def __init__(
        self,
        partitions: int,
        path: str | Path | None = None,
        *,
        sync: bool = False,
        start: Offsets | None = None,
    ) -> None:
        if partitions < 1:
            raise LogError(path or "log", f"expected at least 1 partition, got {partitions}")
        self.partitions = partitions
        self._start = dict.fromkeys(range(partitions), 0)
        self._end = dict(self._start)
        for partition, at in (start or {}).items():
            self._start[self._known(partition)] = self._end[partition] = at
        # Every record is known by its number of arrival, the first one in memory being number _first.
        self._records: list[Record | None] = []
        self._first = 0
        self._arrivals = [array("q") for _ in range(partitions)]
        self._n_on_disk = 0
        self._frames: Frames | None = None
        if path is not None:
            self._frames = Frames(Path(path), sync)
            self._load(self._frames)

    def append(self, partition: int, key: bytes, value: bytes) -> int:
        """Write and commit one record; returns its offset."""
        self._commit(_Commit([(self._known(partition), key, value)]))
        return self._end[partition] - 1

    def read(self, partition: int, offset: int, max_records: int) -> list[Record]:
        """Records of one partition from ``offset`` on. LogError if that is out of range."""
        self._reachable({partition: offset})
        first = offset - self._start[partition]
        arrivals = self._arrivals[partition][first : first + max_records]
        return [record for n in arrivals if (record := self._records[n - self._first]) is not None]

    def source(self, partitions: Iterable[int] | None = None) -> MemorySource:
        """A reader of these partitions, or of all, from the first record that is kept."""
        return MemorySource(self, range(self.partitions) if partitions is None else partitions)

    def sink(self, others: Mapping[str, MemoryLog] | None = None) -> MemorySink:
        """A writer, of other logs by their names too."""
        return MemorySink(self, others or {})

    def start(self) -> Offsets:
        """The first record that is kept, for each partition."""
        return dict(self._start)

    def end(self) -> Offsets:
        """Behind the last record of each partition."""
        return dict(self._end)

    def trim(self, offsets: Offsets) -> None:
        """Drop the records before these offsets; others keep theirs. The file shrinks when it is worth it."""
        moved = {p: at for p, at in offsets.items() if at > self._start[self._known(p)]}
        self._reachable(moved)
        if not moved:
            return
        self._commit(_Commit([], moved))
        n_kept = sum(self._end[p] - self._start[p] for p in self._end)
        if self._frames is not None and self._n_on_disk > 2 * n_kept + 10_000:
            self._frames.replace(map(_packer.encode, self._commits()))
            self._n_on_disk = n_kept

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._frames is not None:
            self._frames.close()

    def _commit(self, commit: _Commit) -> None:
        if self._frames is not None:
            self._frames.append(_packer.encode(commit))
        self._apply(commit)

    def _apply(self, commit: _Commit) -> None:
        for partition, key, value in commit.records:
            self._arrivals[partition].append(self._first + len(self._records))
            self._records.append(Record(partition, self._end[partition], key, value))
            self._end[partition] += 1
        self._n_on_disk += len(commit.records)
        for partition, start in commit.start.items():
            n = start - self._start[partition]
            for arrival in self._arrivals[partition][:n]:
                self._records[arrival - self._first] = None
            del self._arrivals[partition][:n]
            self._start[partition] = start
            self._end[partition] = max(self._end[partition], start)
        if commit.start:
            n = next((i for i, record in enumerate(self._records) if record is not None), len(self._records))
            del self._records[:n]
            self._first += n

    def _commits(self) -> Iterator[_Commit]:
        """The log as it stands, as the frames of a new file."""
        yield _Commit([], self._start)
        for at in range(0, len(self._records), 1000):
            kept = [record for record in self._records[at : at + 1000] if record is not None]
            yield _Commit([(record.partition, record.key, record.value) for record in kept])

    def _load(self, frames: Frames) -> None:
        n = 0
        try:
            for n, body in enumerate(frames, 1):
                commit = _unpacker.decode(body)
                if n == 1 and len(commit.start) != self.partitions:
                    what = f"expected a log of {self.partitions} partitions, got one of {len(commit.start)}"
                    raise LogError(frames.path, what)
                if n == 1:
                    self._start, self._end = dict(commit.start), dict(commit.start)
                self._apply(commit)
            if n == 0:
                frames.replace(map(_packer.encode, self._commits()))
        except BaseException:
            frames.close()
            raise

    def _known(self, partition: int) -> int:
        if partition not in self._end:
            raise LogError("log", f"expected a partition in 0..{self.partitions - 1}, got {partition}")
        return partition

    def _reachable(self, offsets: Offsets) -> None:
        for p, at in offsets.items():
            if not self._start[self._known(p)] <= at <= self._end[p]:
                what = f"expected an offset in {self._start[p]}..{self._end[p]}, got {at}"
                raise LogError(f"log: partition {p}", what)


class MemorySource:
    """A `Pausable` source of a `MemoryLog`."""

    def __init__(self, log: MemoryLog, partitions: Iterable[int]) -> None:
        self._log = log
        self._at = {log._known(p): log._start[p] for p in sorted(partitions)}
        self._paused: frozenset[int] = frozenset()
        self._next = log._first

    @property
    def offsets(self) -> Offsets:
        return dict(self._at)

    def poll(self, max_records: int) -> list[Record]:
        log, at = self._log, self._at
        log._reachable(at)
        got: list[Record] = []
        self._next = max(self._next, log._first)
        while len(got) < max_records:
            first = self._next - log._first
            step = log._records[first : first + max_records - len(got)]
            if not step:
                break
            self._next += len(step)
            for record in step:
                if record is None or record.partition in self._paused:
                    continue
                if record.offset >= at.get(record.partition, record.offset + 1):
                    at[record.partition] = record.offset + 1
                    got.append(record)
        return got

    def seek(self, offsets: Offsets) -> None:
        if not offsets.keys() <= self._at.keys():
            raise LogError("log", f"expected partitions among {sorted(self._at)}, got {sorted(offsets)}")
        self._log._reachable(offsets)
        self._at.update(offsets)
        self._next = self._log._first  # poll passes over what lies before the offsets

    def pause(self, partitions: Collection[int]) -> None:
        if self._paused - set(partitions):
            self._next = self._log._first
        self._paused = frozenset(partitions)

    def end(self) -> Offsets:
        return {p: self._log._end[p] for p in self._at}

    def close(self) -> None: ...


class MemorySink:
    """A `Sink` of a `MemoryLog`, and of others by their names.

    On disk each log has a file of its own, which is whole; that all of them have a commit is certain in memory only.
    """

    def __init__(self, log: MemoryLog, others: Mapping[str, MemoryLog]) -> None:
        self._log = log
        self._others = dict(others)
        self._written: dict[MemoryLog, list[tuple[int, bytes, bytes]]] = {}

    def write(self, partition: int, key: bytes, value: bytes | None, topic: str | None = None) -> None:
        log = self._log
        if topic is not None:
            if topic not in self._others:
                raise LogError("log", f"expected a topic among {sorted(self._others)}, got {topic!r}")
            log = self._others[topic]
        self._written.setdefault(log, []).append((log._known(partition), key, value or b""))

    def commit(self) -> None:
        while self._written:
            log, records = next(iter(self._written.items()))
            log._commit(_Commit(records))
            del self._written[log]  # only then: a commit that finds the disk full can be tried again

    def abort(self) -> None:
        self._written = {}

    def close(self) -> None:
        self.abort()
