"""The log of an index on Redis: its head, and the updates that lead there, as those who follow read them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from indexer import parts
from indexer.index import Update, latest_start
from indexer.redis_rows import Base
from indexer.redis_store import Overtaken
from stream.events import Version
from stream.redis_client import Client, script

STAGED_S = 3_600
"""How long the parts of an update that came to nothing are kept."""


class Head(Struct, frozen=True):
    """The value that everything hangs on."""

    rev: int = 0
    """Grows with every change; 0 where there is none."""
    version: Version | None = None
    stored: int = 0
    """The step up to which the store is complete; behind that of the version while rows are written."""
    at_ms: int = 0
    place: dict[int, int] = {}
    base: Base | None = None
    left: tuple[Base, ...] = ()
    """Bases that are built, or that nobody needs any more."""


class Staged(NamedTuple):
    """Parts of an update that are laid down where nobody looks."""

    name: str
    keys: list[str]
    n_bytes: int


class _Entry(Struct, frozen=True):
    """What the stream says of an update; its id there is the Version."""

    since: Version
    name: str
    """Of its parts."""
    n_parts: int
    n_bytes: int


class Log:
    """Head and updates. All keys are in docs/redis.md.

    Parameters
    ----------
    keep, keep_bytes
        At most so many updates are kept, and so many bytes of them, but the last one in any case.
    """

    def __init__(self, client: Client, prefix: str, keep: int, keep_bytes: int) -> None:
        self._client = client
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._tag = f"{{{prefix}}}"
        self._keys = [f"{self._tag}:{name}" for name in ("head", "updates", "last")]
        self._commit, self._trim = (script("indexer", f"redis_{name}.lua") for name in ("commit", "trim"))

    def head(self) -> Head:
        """As it is now."""
        return _decode(self._client.call("GET", self._keys[0]))

    def head_and_last(self) -> tuple[Head, parts.First | None]:
        """As they are at one moment: the head, and the first part of the update that led to it."""
        head, last = self._client.call("MGET", self._keys[0], self._keys[2])
        return _decode(head), parts.decode_first(last) if last else None

    def stage(self, update: Update, n_parts: int | None = None) -> Staged:
        """Lay down the first parts of an update, or all."""
        encoded = parts.encode(update)[:n_parts]
        name = f"{update.version}:{secrets.token_hex(3)}"
        keys = self._parts(name, len(encoded))
        self._client.calls(
            ("SET", key, part, "EX", STAGED_S) for key, part in zip(keys, encoded, strict=True)
        )
        return Staged(name, keys, sum(map(len, encoded)))

    def swap(self, head: Head, then: Head) -> Head:
        """Put a head in the place of the one that was read, which stands for all that happened until then.

        Raises
        ------
        Overtaken
            If it is another one by now; from all that change the head.
        """
        return self._swap(head, then, "head", [])

    def append(self, head: Head, then: Head, since: Version, staged: Staged) -> Head:
        """As `swap`, with an update, which those who follow have from here on."""
        version = then.version or since
        entry = _Entry(since, staged.name, len(staged.keys), staged.n_bytes)
        at = f"{version.epoch}-{version.step}".encode()
        return self._swap(head, then, "update", staged.keys, (at, msgspec.json.encode(entry)))

    def restart(self, head: Head, then: Head, staged: Staged) -> Head:
        """As `swap`, with a whole update: those before it are forgotten."""
        forgotten = [key for _, entry in self._entries("-") for key in self._parts(entry.name, entry.n_parts)]
        # they go by themselves if this is the last that is done
        self._client.calls(("EXPIRE", key, STAGED_S) for key in forgotten)
        then = self._swap(head, then, "whole", staged.keys)
        self._client.calls(("UNLINK", key) for key in forgotten)
        return then

    def since(self, version: Version) -> list[Update] | None:
        """Updates that lead on from ``version``, oldest first; None where they are not kept."""
        entries = self._entries(f"({version.epoch}-{version.step}")
        start = latest_start([(entry.since, then) for then, entry in entries], version)
        if start is None:
            return None
        updates = []
        for _, entry in entries[start:]:
            found = self._client.calls(("GET", key) for key in self._parts(entry.name, entry.n_parts))
            if None in found:  # forgotten meanwhile
                return None
            updates.append(parts.decode(found))
        return updates

    def trim(self) -> None:
        """Forget the oldest updates, as far as there are too many."""
        entries = self._entries("-")
        n = n_bytes = 0
        for _, entry in reversed(entries):
            n_bytes += entry.n_bytes
            if n and (n == self._keep or n_bytes > self._keep_bytes):
                break
            n += 1
        gone = [key for _, entry in entries[:-n] for key in self._parts(entry.name, entry.n_parts)]
        if gone:
            first, _ = entries[-n]
            keys = [self._keys[1], *gone]
            self._client.call("EVAL", self._trim, len(keys), *keys, f"{first.epoch}-{first.step}")

    def _swap(self, head: Head, then: Head, kind: str, staged: list[str], rest: Sequence[bytes] = ()) -> Head:
        keys = [*self._keys, *staged]
        was = msgspec.json.encode(head) if head.rev else b""
        heads = (was, msgspec.json.encode(then))
        if not self._client.call("EVAL", self._commit, len(keys), *keys, *heads, kind, *rest):
            raise Overtaken
        return then

    def _entries(self, after: str) -> list[tuple[Version, _Entry]]:
        found = self._client.call("XRANGE", self._keys[1], after, "+")
        return [
            (Version(*map(int, at.split(b"-"))), msgspec.json.decode(fields[b"u"], type=_Entry))
            for at, fields in found
        ]

    def _parts(self, name: str, n: int) -> list[str]:
        return [f"{self._tag}:part:{name}:{i}" for i in range(n)]


def _decode(raw: bytes | None) -> Head:
    return msgspec.json.decode(raw, type=Head) if raw else Head()
