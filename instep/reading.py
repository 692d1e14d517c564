"""The files of a data set: plain or gzipped, row by row, with errors that name the row and progress in bytes."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

EVERY = 1024
"""Rows between two looks at how far a file has been read."""

LONGEST = 1 << 20
"""Bytes of the longest line."""

T = TypeVar("T")


class BadDataset(ValueError):
    """A data set that cannot be imported: file, row and column, what was expected, what came."""

    def __init__(self, where: object, expected: str, got: object) -> None:
        super().__init__(f"{where}: expected {expected}, got {got}")


class Progress:
    """How far an import has come, in bytes of its input, which count as often as they go by.

    Parameters
    ----------
    show
        Called with the bytes done and the bytes in all, about a thousand times.

    >>> shown = []
    >>> progress = Progress(lambda done, total: shown.append((done, total)))
    >>> progress.expect(300)
    >>> list(progress.over("abc", 3, n_bytes=300))
    ['a', 'b', 'c']
    >>> shown[-1]
    (300, 300)
    """

    def __init__(self, show: Callable[[int, int], None] = lambda done, total: None) -> None:
        self.total = 0
        self._show = show
        self._done = 0.0
        self._next = 0.0

    def expect(self, n_bytes: int) -> None:
        """So many more bytes will go by."""
        self.total += n_bytes

    def add(self, n_bytes: float) -> None:
        self._done += n_bytes
        if self._done >= min(self._next, self.total - 0.5):  # the last bytes always
            self._next = self._done + self.total / 1_000
            self._show(min(round(self._done), self.total), self.total)

    def over(self, rows: Iterable[T], n_rows: int, n_bytes: int) -> Iterator[T]:
        """The rows, which stand for so many bytes together."""
        for n, row in enumerate(rows, 1):
            yield row
            if n % EVERY == 0:
                self.add(n_bytes * EVERY / n_rows)
        self.add(n_bytes * (n_rows % EVERY) / max(n_rows, 1))


def find(folder: str | Path, name: str, of: str, packed: bool = True) -> Path:
    """The file of a data set, also as ``.gz`` if ``packed``; or a BadDataset that says what should be there."""
    path = Path(folder) / name
    if packed and not path.is_file() and path.with_name(f"{name}.gz").is_file():
        return path.with_name(f"{name}.gz")
    if not path.is_file():
        raise BadDataset(
            folder, f"a folder with {name} of {of}", "none" if Path(folder).is_dir() else "no folder"
        )
    return path


def read_lines(path: Path, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """Number and text, without its end, of each line that is not blank.

    Raises
    ------
    BadDataset
        If it ends in ``.gz`` and is not whole, or a line is longer than ``LONGEST``.
    """
    with _opened(path) as (file, raw):
        done, n, line = 0, 0, b""
        while line := file.readline(LONGEST + 1):
            n += 1
            if len(line) > LONGEST:
                raise BadDataset(f"{path}:{n}", f"a line of at most {LONGEST} bytes", "a longer one")
            if not line.isspace():
                yield n, line.rstrip(b"\r\n")
            if n % EVERY == 0:
                done = _tell(raw, done, progress)
        _tell(raw, done, progress)


def read_rows(path: Path, progress: Progress, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Number (that of its last line) and values of each row of a file of values, the header too, if any.

    Raises
    ------
    BadDataset
        If it is not UTF-8, not such a file, or ends in ``.gz`` and is not whole.
    """
    rows = None
    try:
        with _opened(path) as (file, raw), TextIOWrapper(file, "utf-8-sig", newline="") as text:
            rows, done = csv.reader(text, delimiter=delimiter, strict=True), 0
            for n, row in enumerate(rows, 1):
                if row:
                    yield rows.line_num, row
                if n % EVERY == 0:
                    done = _tell(raw, done, progress)
            _tell(raw, done, progress)
    except UnicodeDecodeError as e:
        raise BadDataset(path, "UTF-8", f"byte {e.object[e.start]:#x}") from None
    except csv.Error as e:
        where = f"{path}:{rows.line_num}" if rows is not None else path
        raise BadDataset(where, f"values separated by {_NAMES.get(delimiter, repr(delimiter))}", e) from None


def read_csv(
    path: Path, columns: Sequence[str], progress: Progress | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Number and the named columns of each row of a comma-separated file with a header.

    Raises
    ------
    BadDataset
        As `read_rows`, and if the header lacks a column or a row has not as many columns as the header.
    """
    rows = read_rows(path, progress or Progress())
    _, header = next(rows, (1, []))
    if missing := [name for name in columns if name not in header]:
        raise BadDataset(
            f"{path}:1", f"the columns {', '.join(columns)}", f"none called {', '.join(missing)}"
        )
    places = [header.index(name) for name in columns]
    for n, row in rows:
        if len(row) != len(header):
            raise BadDataset(f"{path}:{n}", f"{len(header)} columns", len(row))
        yield n, [row[place] for place in places]


def whole(where: str, text: str, expected: str = "a whole number", end: int = 2**63) -> int:
    """The number from 0 to below ``end`` that a text is, or a BadDataset."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < end):
        raise BadDataset(where, expected, repr(text[:60]))
    return int(text)


_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader, BinaryIO]]:
    """A file to read, unpacked if it is gzipped, and the file as it lies on the disk."""
    with path.open("rb") as raw:
        if path.suffix != ".gz":
            yield raw, raw
            return
        try:
            with gzip.open(raw) as file:
                yield cast(BufferedReader, file), raw
        except (gzip.BadGzipFile, EOFError, zlib.error) as e:
            raise BadDataset(path, "a whole gzip file", e) from None


def _tell(raw: BinaryIO, done: int, progress: Progress) -> int:
    now = raw.tell()
    progress.add(now - done)
    return now
