"""Files that go by their name only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written under another name beside it, and renamed when it is there and on the disk."""
    aside = path.with_name(f".{path.name}.part")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, raw: bytes) -> None:
    """Put a file of these bytes in the place of what is there, at once. OSError if it cannot be; then nothing changes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a", b"one")
    ...     write_whole(Path(folder) / "a", b"two")
    ...     sorted(os.listdir(folder)), (Path(folder) / "a").read_bytes()
    (['a'], b'two')
    """
    whole(path, lambda aside: aside.write_bytes(raw))
