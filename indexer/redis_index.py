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

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from indexer import parts
from indexer.index import GapError, Held, MemoryIndex, Update, check_follows, latest_start
from indexer.redis_rows import CROWDED, Base, Rows, n_buckets_for, pack, plan, split, unpack, unpack_codes
from stream.events import Version
from stream.log import Offsets, Unavailable
from stream.redis_client import Client, script

SHARDS = 16
"""Hash tags over which buckets are spread: so many nodes of a cluster can share them."""
CALL_ROWS, CALLS_AT_A_TIME = 200, 4
"""Rows of one call, which holds the server for about a millisecond, and calls that may come in one piece."""
STAGED_S = 3_600
"""How long the parts of an update that came to nothing are kept."""
TRIES = 8
"""How often a reader or writer that was overtaken starts over."""


class _Head(Struct, frozen=True):
    """The value that everything hangs on."""

    rev: int = 0
    version: Version | None = None
    stored: int = 0
    """The step up to which the store is complete; behind that of the version while rows are written."""
    at_ms: int = 0
    place: dict[int, int] = {}
    base: Base | None = None
    left: tuple[Base, ...] = ()
    """Bases that are built, or that nobody needs any more."""


class _Entry(Struct, frozen=True):
    """What the stream says of an update; its id there is the Version."""

    since: Version
    name: str
    """Of its parts."""
    n_parts: int
    n_bytes: int


class _Overtaken(Exception):
    """Another writer came between, or the server was emptied."""


class Keys:
    """The names of all keys of an index. Those of one call share what stands in braces, for clusters."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.head = f"{{{prefix}}}:head"
        self.updates = f"{{{prefix}}}:updates"
        self.last = f"{{{prefix}}}:last"

    def parts(self, name: str, n: int) -> list[str]:
        """Of an update."""
        return [f"{{{self._prefix}}}:part:{name}:{i}" for i in range(n)]

    def at(self, base: Base, shard: int) -> str:
        """Of the update that a shard of a base was last written by; without it the base is not there."""
        return f"{{{self._prefix}:{shard}}}:{base.name}:at"

    def bucket(self, base: Base, bucket: int) -> tuple[str, str]:
        """Codes and vectors."""
        head = f"{{{self._prefix}:{bucket % SHARDS}}}:{base.name}:"
        return f"{head}c:{bucket}", f"{head}v:{bucket}"


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
        self._client = client
        self._keys = Keys(prefix)
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._crowded = CROWDED
        self._scripts = {name: script("indexer", f"redis_{name}.lua") for name in ("write", "commit", "trim")}

    @property
    def version(self) -> Version | None:
        return self._head().version

    @property
    def place(self) -> Offsets:
        return self._head().place

    def apply(self, update: Update) -> int:
        for _ in range(TRIES):
            try:
                return self._apply(update)
            except _Overtaken:
                continue
        raise Unavailable("index", f"expected to be the only writer, was overtaken {TRIES} times")

    def get(self, keys: NDArray[np.uint64]) -> Held:
        for _ in range(TRIES):
            head = self._head()
            held = self._get(keys, head.base)
            if head.base == self._head().base:
                return held
        raise Unavailable("index", f"expected to read one base, it was replaced {TRIES} times")

    def since(self, version: Version | None) -> list[Update] | None:
        if version == self.version:
            return []
        return None if version is None else self._since(version)

    def load(self) -> Update | None:
        for _ in range(TRIES):
            before = self._head()
            if before.version is None or before.base is None:
                return None
            rows = self._scan(before.base)
            raw, last = self._client.call("MGET", self._keys.head, self._keys.last)
            after = _decode(raw)
            if after.base != before.base or after.version is None or rows is None or last is None:
                continue
            whole = _whole(Version(after.version.epoch, before.stored), rows, parts.decode_first(last))
            if whole.version == after.version:
                return whole
            missed = self._since(whole.version)
            if missed is not None:
                return _replayed(whole, missed)
        raise Unavailable("index", f"expected to read one base, it was replaced {TRIES} times")

    def _apply(self, update: Update) -> int:
        head = self._head()
        if update.since is not None:
            head = self._finish(head)
        if head.version is not None and update.version <= head.version:
            return 0
        check_follows(update, head.version, "index")
        if update.since is None:
            return self._replace(head, update)
        return self._extend(head, update)

    # a delta

    def _extend(self, head: _Head, update: Update) -> int:
        name, staged, n_bytes = self._stage(update)
        entry = _Entry(update.since or update.version, name, len(staged), n_bytes)
        then = msgspec.structs.replace(
            head, rev=head.rev + 1, version=update.version, at_ms=update.at_ms, place=dict(update.place)
        )
        identity = f"{update.version.epoch}-{update.version.step}"
        self._swap(head, then, "update", staged, identity, msgspec.json.encode(entry))
        self._trim()
        return self._store(then, update)

    def _store(self, head: _Head, update: Update) -> int:
        """Write the rows of the head's update, and say so."""
        if head.base is None:
            raise _Overtaken
        answers = self._client.calls(self._writes(head.base, update), CALLS_AT_A_TIME)
        if any(written < 0 for written, _ in answers):
            raise _Overtaken
        done = self._swap(
            head, msgspec.structs.replace(head, rev=head.rev + 1, stored=update.version.step), "head"
        )
        if answers and max(fullest for _, fullest in answers) > self._crowded:
            self._spread(done)
        return int(sum(written for written, _ in answers))

    def _writes(self, base: Base, update: Update) -> Iterator[Sequence[Any]]:
        for call in plan(update, base, SHARDS, CALL_ROWS):
            keys = [self._keys.at(base, call.shard)]
            for bucket in call.buckets:
                keys += self._keys.bucket(base, bucket)
            sizes = (update.version.step, base.code_bytes, base.vector_bytes)
            yield (
                "EVAL",
                self._scripts["write"],
                len(keys),
                *keys,
                *sizes,
                call.sizes,
                call.codes,
                call.vectors,
                call.gone,
            )

    def _finish(self, head: _Head) -> _Head:
        """Do what a writer that died has left undone."""
        if head.version is not None and head.stored < head.version.step:
            missed = self._since(Version(head.version.epoch, head.stored))
            if missed is None:
                raise GapError(
                    f"index: expected the update {head.version}, whose rows are not written, it is gone"
                )
            for update in missed:
                self._store(head, update)
                head = self._head()
        return self._sweep(head)

    # a whole

    def _replace(self, head: _Head, update: Update) -> int:
        head = self._sweep(head)
        base, head = self._build(head, update)
        _, staged, _ = self._stage(update, whole=True)
        then = _Head(
            rev=head.rev + 1,
            version=update.version,
            stored=update.version.step,
            at_ms=update.at_ms,
            place=dict(update.place),
            base=base,
            left=() if head.base is None else (head.base,),
        )
        followed = [key for entry in self._entries("-") for key in self._parts(entry[1])]
        self._client.calls(("EXPIRE", key, STAGED_S) for key in followed)
        try:
            self._swap(head, then, "whole", staged)
        except _Overtaken:
            self._remove(base)  # an emptied server does not know of it any more
            raise
        self._client.calls(("UNLINK", key) for key in followed)
        self._sweep(then)
        return len(update.keys)

    def _build(self, head: _Head, update: Update) -> tuple[Base, _Head]:
        """A base of the rows of an update, which the head knows of but does not use yet."""
        name = f"{update.version.epoch}-{secrets.token_hex(3)}"
        n_buckets = n_buckets_for(len(update.keys))
        base = Base(name, update.version.epoch, n_buckets, update.codes.shape[1], update.vectors.shape[1])
        records = pack(update, base)
        then = msgspec.structs.replace(head, rev=head.rev + 1, left=(base,))
        head = self._swap(head, then, "head")

        def sets() -> Iterator[Sequence[Any]]:
            for shard in range(SHARDS):
                yield "SET", self._keys.at(base, shard), update.version.step
            for bucket, codes, vectors in records.by_bucket():
                for key, value in zip(self._keys.bucket(base, bucket), (codes, vectors), strict=True):
                    yield "SET", key, value

        self._client.calls(sets())
        return base, head

    def _spread(self, head: _Head) -> None:
        """Turn to a base with more buckets, if there are too few for the rows."""
        whole = self.load()
        if whole is None or head.base is None or n_buckets_for(len(whole.keys)) < 1.5 * head.base.n_buckets:
            self._crowded *= 2
            return
        if whole.version != head.version:
            raise _Overtaken
        base, building = self._build(head, whole)
        then = msgspec.structs.replace(building, rev=building.rev + 1, base=base, left=(head.base,))
        self._sweep(self._swap(building, then, "head"))

    def _sweep(self, head: _Head) -> _Head:
        """Remove bases that are left over, a few keys at a time."""
        if not head.left:
            return head
        # whoever still builds one of them is overtaken by this first step
        head = self._swap(head, msgspec.structs.replace(head, rev=head.rev + 1), "head")
        for base in head.left:
            self._remove(base)
        return self._swap(head, msgspec.structs.replace(head, rev=head.rev + 1, left=()), "head")

    def _remove(self, base: Base) -> None:
        """Take a base away; first what lets it be written to."""
        self._client.calls(("UNLINK", self._keys.at(base, shard)) for shard in range(SHARDS))
        self._client.calls(("UNLINK", *self._keys.bucket(base, b)) for b in range(base.n_buckets))

    # the log

    def _stage(self, update: Update, whole: bool = False) -> tuple[str, list[str], int]:
        """Lay down the parts of an update, without its rows if it is whole: their name, keys and bytes."""
        encoded = parts.encode(update)[: 1 if whole else None]
        name = f"{update.version}:{secrets.token_hex(3)}"
        keys = self._keys.parts(name, len(encoded))
        self._client.calls(
            ("SET", key, part, "EX", STAGED_S) for key, part in zip(keys, encoded, strict=True)
        )
        return name, keys, sum(map(len, encoded))

    def _entries(self, after: str) -> list[tuple[Version, _Entry]]:
        found = self._client.call("XRANGE", self._keys.updates, after, "+")
        return [
            (
                Version(*map(int, identity.decode().split("-"))),
                msgspec.json.decode(fields[b"u"], type=_Entry),
            )
            for identity, fields in found
        ]

    def _parts(self, entry: _Entry) -> list[str]:
        return self._keys.parts(entry.name, entry.n_parts)

    def _since(self, version: Version) -> list[Update] | None:
        entries = self._entries(f"({version.epoch}-{version.step}")
        start = latest_start([(entry.since, then) for then, entry in entries], version)
        if start is None:
            return None
        updates = []
        for _, entry in entries[start:]:
            found = self._client.calls(("GET", key) for key in self._parts(entry))
            if None in found:  # trimmed since
                return None
            updates.append(parts.decode(found))
        return updates

    def _trim(self) -> None:
        entries = self._entries("-")
        n = n_bytes = 0
        for _, entry in reversed(entries):
            n_bytes += entry.n_bytes
            if n and (n == self._keep or n_bytes > self._keep_bytes):
                break
            n += 1
        gone = [key for _, entry in entries[:-n] for key in self._parts(entry)]
        if gone:
            first = entries[-n][0]
            keys = [self._keys.updates, *gone]
            self._client.call("EVAL", self._scripts["trim"], len(keys), *keys, f"{first.epoch}-{first.step}")

    # the head and the rows

    def _head(self) -> _Head:
        return _decode(self._client.call("GET", self._keys.head))

    def _swap(self, head: _Head, then: _Head, kind: str, staged: Sequence[str] = (), *entry: Any) -> _Head:
        keys = [self._keys.head, self._keys.updates, self._keys.last, *staged]
        was = msgspec.json.encode(head) if head.rev else b""
        done = self._client.call(
            "EVAL",
            self._scripts["commit"],
            len(keys),
            *keys,
            was,
            msgspec.json.encode(then),
            kind,
            *entry,
        )
        if not done:
            raise _Overtaken
        return then

    def _scan(self, base: Base) -> Rows | None:
        """All rows, some of which may be newer than others; None if the base goes away meanwhile."""
        found = self._client.calls(("MGET", *self._keys.bucket(base, b)) for b in range(base.n_buckets))
        sizes = np.array([len(codes or b"") // base.code_bytes for codes, _ in found])
        buckets = np.repeat(np.arange(base.n_buckets), sizes)
        codes, vectors = (b"".join(pair[i] or b"" for pair in found) for i in range(2))
        if len(vectors) != len(buckets) * base.vector_bytes:
            return None
        return unpack(codes, vectors, buckets, base)

    def _get(self, keys: NDArray[np.uint64], base: Base | None) -> Held:
        n, words = len(keys), base.words if base else 1
        held = Held(np.zeros((n, words), np.uint64), np.full(n, -1), np.full(n, -1))
        if base is None:
            return held
        buckets = np.unique(split(keys, base)[0])
        found = self._client.calls(("GET", self._keys.bucket(base, b)[0]) for b in buckets.tolist())
        sizes = [len(codes or b"") // base.code_bytes for codes in found]
        those, codes, steps = unpack_codes(b"".join(c or b"" for c in found), np.repeat(buckets, sizes), base)
        order = np.argsort(those)
        at = np.searchsorted(those[order], keys)
        near = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(n, np.int64)
        there = np.flatnonzero(those[near] == keys) if len(order) else near[:0]
        held.codes[there], held.steps[there], held.epochs[there] = (
            codes[near[there]],
            steps[near[there]],
            base.epoch,
        )
        return held


def _decode(raw: bytes | None) -> _Head:
    return msgspec.json.decode(raw, type=_Head) if raw else _Head()


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
