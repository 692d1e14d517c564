"""Event logs as people have them: JSON lines or Parquet, plain or compressed, read and written as a stream.

One event per line of ``.jsonl`` (also ``.gz`` and ``.zst``), or per row of ``.parquet`` in the column
``event``, as JSON text again; there ``type``, ``user`` and ``at_ms`` stand beside it for people.

A file has no partitions, so they are made here: a user's events go to the partition of the user's key, a Tick
goes to all of them, and what is too broken to have a user goes to partition 0, where the joiner refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from stream.events import UNREADABLE, AtMs, BadEvent, Event, decode_event, encode_event
from stream.log import LogError, Offsets, Record
from stream.partition import partition_of

COMPRESSION = {".jsonl": None, ".jsonl.gz": "gzip", ".jsonl.zst": "zstd"}
SUFFIXES = (*COMPRESSION, ".parquet")
CHUNK = 1 << 20
LONGEST = 1 << 26
"""Bytes of the longest line; 10,000 candidates with their features take a few millions."""

_SCHEMA = pa.schema(
    [("type", pa.string()), ("user", pa.string()), ("at_ms", pa.int64()), ("event", pa.string())]
)


class _Head(Struct):
    """As much of an event as it takes to find its partition; reading only this is four times as fast."""

    type: str
    user: str = ""


class _Row(_Head):
    """What stands beside an event in Parquet."""

    at_ms: AtMs | None = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_row = msgspec.json.Decoder(_Row).decode


class FileSource:
    """A `Source` of the events in a file, or in all event files of a folder in the order of their names.

    Records come in the order of the lines. Nothing is kept of what was read: ``seek`` reads anew from the
    beginning, and so does ``end`` where the end was not reached before.

    Parameters
    ----------
    path
        A file or a folder.
    partitions
        Into how many to deal the events.

    Raises
    ------
    LogError
        If there is nothing to read or a file cannot be read; here, or by ``poll`` when it gets there.
    """

    def __init__(self, path: str | Path, partitions: int) -> None:
        if partitions < 1:
            raise LogError(path, f"expected at least 1 partition, got {partitions}")
        self.path = Path(path)
        self.partitions = partitions
        self.files = _files(self.path)
        self.bytes_total = sum(file.stat().st_size for file in self.files)
        self.bytes_done = 0
        """Of ``bytes_total``, as they lie on the disk: for a progress bar."""
        self._end: dict[int, int] | None = None
        self._places: list[tuple[Path, int]] = []
        self._polled: list[Record] = []
        if all(next(_lines(file), None) is None for file in self.files):
            raise LogError(self.path, "expected at least one event, got none")
        self._at = dict.fromkeys(range(partitions), 0)
        self._records = self._read(dict(self._at))

    @property
    def offsets(self) -> Offsets:
        return dict(self._at)

    def poll(self, max_records: int) -> list[Record]:
        self._polled, self._places = [], []
        start = dict(self._at)
        try:
            for record, file, line in islice(self._records, max_records):
                self._polled.append(record)
                self._places.append((file, line))
                self._at[record.partition] = record.offset + 1
        except LogError:
            self.seek(start)  # the next poll says the same, not that this is the end
            raise
        return self._polled

    def where(self, partition: int, offset: int) -> str:
        """``file:line`` of a record of the last poll; of any other only the path."""
        for record, (file, line) in zip(self._polled, self._places, strict=True):
            if record.partition == partition and record.offset == offset:
                return f"{file}:{line}"
        return str(self.path)

    def seek(self, offsets: Offsets) -> None:
        for p, at in offsets.items():
            if p not in self._at or at < 0:
                what = f"expected a partition in 0..{self.partitions - 1} and an offset, got {p} and {at}"
                raise LogError(self.path, what)
        self._at.update(offsets)
        self._records = self._read(dict(self._at))

    def end(self) -> Offsets:
        if self._end is None:
            done = self.bytes_done
            for _ in self._read(dict.fromkeys(self._at, 0)):
                pass
            self.bytes_done = done
        return dict(self._end or {})

    def close(self) -> None:
        self._records = iter(())

    def _read(self, start: Offsets) -> Iterator[tuple[Record, Path, int]]:
        """The records from ``start`` on, each with its file and line."""
        at = dict.fromkeys(start, 0)
        before = 0
        for file in self.files:
            for n, line, done in _lines(file):
                self.bytes_done = before + done
                user, partitions = _destination(line, self.partitions)
                for p in partitions:
                    if at[p] >= start[p]:
                        yield Record(p, at[p], user, line), file, n
                    at[p] += 1
            before += file.stat().st_size
            self.bytes_done = before
        self._end = at
        for p, first in start.items():
            if first > at[p]:
                raise LogError(self.path, f"partition {p}: expected an offset in 0..{at[p]}, got {first}")


def write_events(path: str | Path, events: Iterable[Event | bytes]) -> int:
    """Write events, or lines that may not even be events, in the format that the name of the file says.

    The file appears when it is whole. The same events give the same bytes.

    Returns
    -------
    The number of events written.

    Raises
    ------
    LogError
        If the name says no format, the file cannot be written, or a line has a line break in it.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix is None:
        raise LogError(path, f"expected a name that ends in {', '.join(SUFFIXES)}, got {path.name!r}")
    aside = path.with_name(path.name + ".part")
    lines = _encode(path, events, as_text=suffix == ".parquet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if suffix == ".parquet":
                n = _write_parquet(aside, lines)
            else:
                n = _write_lines(aside, lines, COMPRESSION[suffix])
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as e:
        raise LogError(path, f"cannot be written: {e}") from None
    return n


def _destination(line: bytes, n_partitions: int) -> tuple[bytes, Iterable[int]]:
    """The record key and the partitions of a line."""
    try:
        head = _decode_head(line)
        if head.type == "tick":
            decode_event(line)
            return b"", range(n_partitions)
    except (*UNREADABLE, BadEvent):
        return b"", (0,)
    return head.user.encode(), (partition_of(head.user, n_partitions) if head.user else 0,)


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)


def _files(path: Path) -> list[Path]:
    expected = f"expected {', '.join(SUFFIXES)}"
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _suffix(file) and not file.name.startswith("."))
        if not files:
            raise LogError(path, f"{expected} in this folder, got none")
        return files
    if not path.exists():
        raise LogError(path, "expected a file or folder of events, got nothing there")
    if _suffix(path) is None:
        raise LogError(path, f"{expected}, got {path.name!r}")
    return [path]


def _lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Number from 1, text, and bytes of the file read so far, of each line or row that is not blank."""
    try:
        if _suffix(path) == ".parquet":
            yield from _rows(path)
            return
        with pa.OSFile(str(path)) as raw:
            compression = COMPRESSION[_suffix(path) or ""]
            file = pa.CompressedInputStream(raw, compression) if compression else raw
            n, done = 0, 0
            rest = file.read(3).removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some editors
            while more := file.read(CHUNK):
                *lines, rest = (rest + more).split(b"\n")
                done = raw.tell()
                for line in lines:
                    n += 1
                    if line and not line.isspace():
                        yield n, line, done
                if len(rest) > LONGEST:
                    raise LogError(f"{path}:{n + 1}", f"expected a line of at most {LONGEST} bytes")
            for n, line in enumerate(rest.split(b"\n"), n + 1):  # noqa: B020
                if line and not line.isspace():
                    yield n, line, done
    except (OSError, pa.ArrowException) as e:
        raise LogError(path, f"expected a whole {_suffix(path)} file, got: {e}") from None


def _rows(path: Path) -> Iterator[tuple[int, bytes, int]]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if "event" not in schema.names:
            raise LogError(path, f"expected a column event (the JSON text), got {', '.join(schema.names)}")
        kind = schema.field("event").type
        if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
            raise LogError(path, f"column event: expected text, got {kind}")
        n, n_bytes = 0, path.stat().st_size
        for batch in file.iter_batches(batch_size=4096, columns=["event"]):
            done = n_bytes * (n + len(batch)) // file.metadata.num_rows
            for text in batch.column(0).cast(pa.binary()).to_pylist():
                n += 1
                yield n, text or b"", done


def _encode(path: Path, events: Iterable[Event | bytes], as_text: bool) -> Iterator[bytes]:
    for n, event in enumerate(events, 1):
        line = event if isinstance(event, bytes) else encode_event(event)
        if b"\n" in line:
            raise LogError(path, f"event {n}: expected one line, got {line[:60]!r}")
        if as_text and not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError:
                what = f"event {n}: expected UTF-8, as Parquet wants it, got {line[:60]!r}"
                raise LogError(path, what) from None
        yield line


def _write_lines(path: Path, lines: Iterable[bytes], compression: str | None) -> int:
    n = 0
    with pa.output_stream(str(path), compression=compression, buffer_size=CHUNK) as file:
        for line in lines:
            file.write(line + b"\n")
            n += 1
    return n


def _write_parquet(path: Path, lines: Iterator[bytes]) -> int:
    n = 0
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as file:
        while rows := [_row(line) for line in islice(lines, 16_384)]:
            file.write_batch(pa.record_batch(list(zip(*rows, strict=True)), _SCHEMA))
            n += len(rows)
    return n


def _row(line: bytes) -> tuple[str | None, str | None, int | None, str]:
    try:
        row = _decode_row(line)
    except UNREADABLE:
        return None, None, None, line.decode()
    return row.type, row.user or None, row.at_ms, line.decode()
