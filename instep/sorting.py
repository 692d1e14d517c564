"""External merge sort: any number of records, in the order of their keys, in as much memory as is given.

Records are taken in until they fill the memory, sorted, and written to a file as a *run*; in the end all runs
are merged. Where there are more than ``fan_in`` of them, neighbours become longer runs first, so that no merge
has more files open than that, nor more than a block of each in memory. Equal keys keep the order they came
in: a run is sorted stably, and of equal keys a merge takes that of the earlier run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import msgspec

Key = TypeVar("Key", int, str)

MEMORY = 256 << 20
"""Bytes of records held by a sort, if not told otherwise."""
FAN_IN = 64
EVERY = 1024
"""Records between two words of how far it is."""
OVERHEAD = 160
"""Bytes that a record takes besides those of its payload and its key's text: a tuple, a key, their places."""

_LENGTH = struct.Struct("<Q")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[Any, bytes]]).decode
_key = itemgetter(0)


class Sorter:
    """Sorts while it is entered; its runs lie in a folder of their own, which goes when it is left.

    Parameters
    ----------
    beside
        The folder of the runs is made beside this file, where there is to be room for as much anyway.
    memory
        Bytes of records to hold at most, as `cost` counts them. One record may be larger than it.
    fan_in
        How many runs to merge at a time.

    Raises
    ------
    OSError
        Naming the folder, if runs cannot be written or read there.

    >>> with Sorter(Path("/tmp/out"), memory=400) as sorter:
    ...     list(sorter.sort([(3, b"c"), (1, b"a"), (2, b"b"), (1, b"d")]))
    [(1, b'a'), (1, b'd'), (2, b'b'), (3, b'c')]
    """

    def __init__(self, beside: Path, memory: int = MEMORY, fan_in: int = FAN_IN) -> None:
        if memory < 1 or fan_in < 2:
            raise ValueError(f"sorter: expected memory >= 1 and fan_in >= 2, got {memory} and {fan_in}")
        self.memory = memory
        self.fan_in = fan_in
        self.n_runs = 0
        """Runs written so far, those made of others too."""
        self._beside = beside
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Sorter:
        try:
            self._beside.parent.mkdir(parents=True, exist_ok=True)
            self._folder = TemporaryDirectory(
                dir=self._beside.parent, prefix=f".{self._beside.name}.", suffix=".sort"
            )
        except OSError as e:
            raise _named(e, self._beside.parent) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def sort(
        self, records: Iterable[tuple[Key, bytes]], told: Callable[[float], None] = lambda share: None
    ) -> Iterator[tuple[Key, bytes]]:
        """The records in the order of their keys.

        Parameters
        ----------
        records
            Read to their end before the first one comes out.
        told
            Called now and then with the share of all records that came out since the last call.
        """
        n, runs, chunk, held = 0, list[Path](), list[tuple[Key, bytes]](), 0
        for record in records:
            n += 1
            held += cost(record)
            chunk.append(record)
            if held >= self.memory:
                chunk.sort(key=_key)
                runs.append(self._write(chunk))
                chunk, held = [], 0
        chunk.sort(key=_key)
        if not runs:
            yield from _telling(chunk, n, told)
            return
        if chunk:
            runs.append(self._write(chunk))
            chunk = []
        while len(runs) > self.fan_in:
            runs = [
                self._write(self._merge(runs[at : at + self.fan_in]))
                for at in range(0, len(runs), self.fan_in)
            ]
        yield from _telling(self._merge(runs), n, told)

    def _write(self, records: Iterable[tuple[Key, bytes]]) -> Path:
        """A run of records that are in order, in blocks so small that a merge can hold one of each run."""
        if self._folder is None:
            raise ValueError("sorter: expected to be entered, and to be read before it is left")
        path = Path(self._folder.name) / str(self.n_runs)
        self.n_runs += 1
        most = self.memory // (2 * self.fan_in)  # a block, and what it is decoded from
        try:
            with path.open("wb") as file:
                block, held = list[tuple[Key, bytes]](), 0
                for record in records:
                    block.append(record)
                    held += cost(record)
                    if held >= most:
                        _put(file, block)
                        block, held = [], 0
                if block:
                    _put(file, block)
        except OSError as e:
            raise _named(e, path.parent) from None
        return path

    def _merge(self, runs: list[Path]) -> Iterator[tuple[Any, bytes]]:
        """The records of runs, which are gone then."""
        yield from merge(*map(_read, runs), key=_key)
        for run in runs:
            run.unlink()


def cost(record: tuple[int | str, bytes]) -> int:
    """Bytes that a record takes in memory, about.

    >>> cost((7, b"abc")), cost(("key", b"abc"))
    (163, 166)
    """
    key, payload = record
    return OVERHEAD + len(payload) + (len(key) if isinstance(key, str) else 0)


def _telling(
    records: Iterable[tuple[Key, bytes]], n: int, told: Callable[[float], None]
) -> Iterator[tuple[Key, bytes]]:
    for i, record in enumerate(records, 1):
        yield record
        if i % EVERY == 0:
            told(EVERY / n)
    if n % EVERY:
        told(n % EVERY / n)


def _put(file: BinaryIO, block: Sequence[tuple[int | str, bytes]]) -> None:
    raw = _encode(block)
    file.write(_LENGTH.pack(len(raw)))
    file.write(raw)


def _read(path: Path) -> Iterator[tuple[Any, bytes]]:
    try:
        with path.open("rb") as file:
            while head := file.read(_LENGTH.size):
                yield from _decode(file.read(_LENGTH.unpack(head)[0]))
    except OSError as e:
        raise _named(e, path.parent) from None


def _named(error: OSError, folder: Path) -> OSError:
    """The same with the folder: an error of writing names no file."""
    return OSError(error.errno, f"cannot sort there: {error.strerror}", str(folder))
