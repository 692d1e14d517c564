"""Index on Redis: a log of updates that rankers follow, and a store of rows for look-ups and for those who begin.

Everything that has to agree is one small value, the head: Version, place, and how far the store has come. It is
swapped for the next one by comparison, so of two writers one starts over. An update is applied in this order:

1. its parts are laid down, where nobody looks; they go by themselves if nothing comes of it
2. the head names the new Version and the stream the parts, at once: from here on readers have it
3. its rows are written to the store, each only if it is newer
4. the head says so

A writer that dies before 2 has changed nothing. One that dies after it leaves an update that the next one writes to
the store first. Who loads reads rows while they are written and then applies the updates since the head that was
read before: a row is in one of them, or was not written. A whole update goes to buckets of its own, and 2 turns to
them. All keys are in docs/redis.md.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from indexer import parts
from indexer.index import GapError, Held, MemoryIndex, Update, check_follows
from indexer.redis_log import Head, Log
from indexer.redis_rows import CROWDED, Base, Rows, n_buckets_for
from indexer.redis_store import Overtaken, Store
from stream.events import Version
from stream.log import Offsets, Unavailable
from stream.redis_client import Client

TRIES = 8
"""How often a reader or writer that was overtaken starts over."""


class RedisIndex:
    """The index on a server. One process writes, any number read.

    Parameters
    ----------
    prefix
        Of all keys.
    keep
        How many updates are kept for those that follow; whoever falls further behind loads everything.
    keep_bytes
        At most so much of them, but the last one is kept in any case.

    Raises
    ------
    Unavailable
        From every method, if the server does not answer within the client's bounds.
    """

    def __init__(
        self, client: Client, prefix: str = "instep", keep: int = 64, keep_bytes: int = 256 << 20
    ) -> None:
        self._log = Log(client, prefix, keep, keep_bytes)
        self._store = Store(client, prefix)
        self._crowded = CROWDED

    @property
    def version(self) -> Version | None:
        return self._log.head().version

    @property
    def newest(self) -> tuple[Version, int] | None:
        """The Version, and the event time of the newest sample in it."""
        head = self._log.head()
        return None if head.version is None else (head.version, head.at_ms)

    @property
    def place(self) -> Offsets:
        return self._log.head().place

    @property
    def base(self) -> Base | None:
        """Where the rows are."""
        return self._log.head().base

    def apply(self, update: Update) -> int:
        for _ in range(TRIES):
            try:
                return self._apply(update)
            except Overtaken:
                continue
        raise Unavailable("index", f"expected to be the only writer, was overtaken {TRIES} times")

    def get(self, keys: NDArray[np.uint64]) -> Held:
        for _ in range(TRIES):
            base = self.base
            held = self._store.get(keys, base)
            if base == self.base:
                return held
        raise Unavailable("index", f"expected to read one base, it was replaced {TRIES} times")

    def since(self, version: Version | None) -> list[Update] | None:
        if version == self.version:
            return []
        return None if version is None else self._log.since(version)

    def load(self) -> Update | None:
        for _ in range(TRIES):
            before = self._log.head()
            if before.version is None or before.base is None:
                return None
            rows = self._store.scan(before.base)
            after, last = self._log.head_and_last()
            if after.base != before.base or after.version is None or last is None:
                continue
            whole = _whole(Version(after.version.epoch, before.stored), rows, last)
            if whole.version == after.version:
                return whole
            missed = self._log.since(whole.version)
            if missed is not None:
                return _replayed(whole, missed)
        raise Unavailable("index", f"expected to read one base, it was replaced {TRIES} times")

    def _apply(self, update: Update) -> int:
        head = self._log.head()
        if update.since is not None:
            head = self._finish(head)
        if head.version is not None and update.version <= head.version:
            return 0
        check_follows(update, head.version, "index")
        return (
            self._replace(head, update) if update.since is None else self._extend(head, update, update.since)
        )

    def _extend(self, head: Head, update: Update, since: Version) -> int:
        staged = self._log.stage(update)
        then = replace(
            head, rev=head.rev + 1, version=update.version, at_ms=update.at_ms, place=dict(update.place)
        )
        head = self._log.append(head, then, since, staged)
        self._log.trim()
        return self._write(head, update)

    def _write(self, head: Head, update: Update) -> int:
        """Write the rows of an update that the head has, and say so."""
        base = head.base
        if base is None:
            raise Overtaken
        written, fullest = self._store.write(base, update)
        head = self._log.swap(head, replace(head, rev=head.rev + 1, stored=update.version.step))
        if fullest > self._crowded:
            self._spread(head, base)
        return written

    def _finish(self, head: Head) -> Head:
        """Do what a writer that died has left undone."""
        if head.version is not None and head.stored < head.version.step:
            missed = self._log.since(Version(head.version.epoch, head.stored))
            if missed is None:
                raise GapError(
                    f"index: expected update {head.version}, whose rows are not written, it is gone"
                )
            for update in missed:
                self._write(head, update)
                head = self._log.head()
        return self._sweep(head)

    def _replace(self, head: Head, update: Update) -> int:
        """Turn to a base of the rows of a whole update."""
        head = self._sweep(head)
        base, head = self._build(head, update)
        then = Head(
            rev=head.rev + 1,
            version=update.version,
            stored=update.version.step,
            at_ms=update.at_ms,
            place=dict(update.place),
            base=base,
            left=() if head.base is None else (head.base,),
        )
        try:
            head = self._log.restart(head, then, self._log.stage(update, n_parts=1))
        except Overtaken:
            self._store.remove(base)  # an emptied server does not know of it any more
            raise
        self._sweep(head)
        return len(update.keys)

    def _build(self, head: Head, update: Update) -> tuple[Base, Head]:
        """A base of the rows of an update, which the head knows of but does not use yet."""
        base = self._store.new_base(update)
        head = self._log.swap(head, replace(head, rev=head.rev + 1, left=(base,)))
        self._store.build(base, update)
        return base, head

    def _spread(self, head: Head, base: Base) -> None:
        """Turn to a base of more buckets, if there are too few for the rows."""
        whole = self.load()
        if whole is None or whole.version != head.version:
            raise Overtaken
        if n_buckets_for(len(whole.keys)) < 1.5 * base.n_buckets:
            self._crowded *= 2  # chance, or keys that are no hashes: more buckets would not help
            return
        wider, head = self._build(head, whole)
        self._sweep(self._log.swap(head, replace(head, rev=head.rev + 1, base=wider, left=(base,))))

    def _sweep(self, head: Head) -> Head:
        """Remove bases that are left over."""
        if not head.left:
            return head
        # whoever still builds one of them is overtaken by this first step
        head = self._log.swap(head, replace(head, rev=head.rev + 1))
        for base in head.left:
            self._store.remove(base)
        return self._log.swap(head, replace(head, rev=head.rev + 1, left=()))


def _whole(version: Version, rows: Rows, last: parts.First) -> Update:
    order = np.argsort(rows.keys)
    return Update(
        version=version,
        since=None,
        at_ms=last.at_ms,
        tombstones=np.zeros(0, np.uint64),
        dense=parts.dense_of(last),
        place=last.place,
        **{name: column[order] for name, column in rows._asdict().items()},
    )


def _replayed(whole: Update, updates: list[Update]) -> Update | None:
    """The whole that these updates lead to."""
    index = MemoryIndex(keep=1)
    index.apply(whole)
    for update in updates:
        index.apply(update)
    return index.load()
