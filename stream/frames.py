"""An append-only file of frames, each there whole or not at all: what a log on disk stands on."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from struct import Struct
from zlib import crc32

logger = logging.getLogger(__name__)

LINE = b"instep log 2\n"
HEAD = Struct("<III")  # length of the body, its crc32, crc32 of these two


class LogError(ValueError):
    """A log that cannot be used: where, what was expected, what came."""

    def __init__(self, where: object, what: str) -> None:
        super().__init__(f"{where}: {what}")


class Frames:
    """The frames of one file, held open by one process at a time.

    Parameters
    ----------
    path
        Made, with its folders, if it is not there.
    sync
        Wait at each append until the disk has it.

    Raises
    ------
    LogError
        If the file cannot be opened, or another has it open.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        self.path = path
        self._sync = sync
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open(path)
        except OSError as e:
            raise LogError(path, f"cannot be opened: {e.strerror}") from None
        self.n_bytes = path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        """The bodies, from the beginning. A frame at the end that was only partly written is cut off.

        Raises
        ------
        LogError
            If this is another sort of file, or a frame with others behind it is damaged: with its byte.
        """
        with self.path.open("rb") as file:
            line = file.read(len(LINE))
            if not LINE.startswith(line):
                raise LogError(self.path, f"expected a log, which begins with {LINE!r}, got {line!r}")
            at = len(line)
            while head := file.read(HEAD.size):
                known = len(head) == HEAD.size and crc32(head[:8]) == HEAD.unpack(head)[2]
                length, checksum, _ = HEAD.unpack(head) if known else (0, 0, 0)
                body = file.read(length)
                if not known or len(body) < length or crc32(body) != checksum:
                    # Only where writing stopped: too short, nothing behind it, or room made but never filled.
                    rest = file.read()
                    if len(head) == HEAD.size and (rest or not known) and any(head + body + rest):
                        raise LogError(
                            self.path, f"byte {at}: expected a frame with its checksum, got damage"
                        )
                    n_torn = len(head) + len(body) + len(rest)
                    logger.warning("torn end cut off path=%s byte=%d n_bytes=%d", self.path, at, n_torn)
                    self._file.truncate(at)
                    break
                yield body
                at += HEAD.size + length
        self.n_bytes = at

    def append(self, body: bytes) -> None:
        """Write a frame. On LogError (a full disk) the file is as it was before."""
        try:
            _write(self._file, _frame(body))
            if self._sync:
                os.fsync(self._file.fileno())
        except OSError as e:
            self._file.truncate(self.n_bytes)
            raise LogError(self.path, f"cannot be written: {e.strerror}") from None
        self.n_bytes += HEAD.size + len(body)

    def replace(self, bodies: Iterable[bytes]) -> None:
        """Put a file of these frames in the place of this one, at once. On LogError the old one stays."""
        aside = self.path.with_name(self.path.name + ".new")
        aside.unlink(missing_ok=True)
        file = _open(aside)
        try:
            _write(file, LINE)
            for body in bodies:
                _write(file, _frame(body))
            os.fsync(file.fileno())
            aside.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)  # or the old name could come back, without what is appended from here on
            os.close(folder)
        except OSError as e:
            file.close()
            aside.unlink(missing_ok=True)
            raise LogError(self.path, f"cannot be written anew: {e.strerror}") from None
        self._file.close()
        self._file = file
        self.n_bytes = file.tell()

    def close(self) -> None:
        self._file.close()


def _open(path: Path) -> FileIO:
    file = FileIO(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        file.close()
        e.strerror = "it is in use, expected one process at a time"
        raise
    return file


def _frame(body: bytes) -> bytes:
    sizes = HEAD.pack(len(body), crc32(body), 0)[:8]
    return HEAD.pack(len(body), crc32(body), crc32(sizes)) + body


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
