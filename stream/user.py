"""What the joiner remembers of one user: open impressions, actions that wait for one, and the history.

Outside it is kept as a head, the open impressions by their offsets and the blocks of the history, so that an event
changes little of it, however much is open and however long the history is.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from math import nan

import msgspec
from msgspec import Struct

from stream.events import Impression, Origin, Sample, Version, key_of
from stream.history import History


class Open(Struct, array_like=True):
    """An impression whose windows are not over, with its labels so far; columns as in a Sample."""

    id: str
    at_ms: int
    closed_ms: int
    offset: int
    side: bytes
    items: bytes
    labels: bytearray
    scores: bytes
    version: Version | None
    n_kinds: int
    digest: str = ""

    @property
    def n_candidates(self) -> int:
        return len(self.labels) // self.n_kinds

    def places(self, item: int) -> list[int]:
        """Where the item stands in the slate; a slate may show one twice."""
        keys = memoryview(self.items).cast("Q")
        shown = keys[:: len(keys) // self.n_candidates].tolist()
        return [i for i, key in enumerate(shown) if key == item]

    def only(self, i: int, kind: int) -> Open:
        """The impression with candidate ``i`` alone, labelled with this kind alone."""
        row, labels = len(self.items) // self.n_candidates, bytearray(self.n_kinds)
        labels[kind] = 1
        return msgspec.structs.replace(
            self,
            items=self.items[i * row : (i + 1) * row],
            labels=labels,
            scores=self.scores[8 * i : 8 * (i + 1)],
        )


class Waiting(Struct, array_like=True):
    """An action whose impression has not come. ``is_new``: it extended the history."""

    kind: str
    item: int
    at_ms: int
    is_new: bool


def open_impression(
    event: Impression,
    offset: int,
    side: Sequence[int],
    items: Sequence[Sequence[int]],
    longest_ms: int,
    n_kinds: int,
) -> Open:
    """An impression with its keys, all labels 0."""
    flat = array("Q")
    for row in items:
        flat.extend(row)
    scores = [c.score for c in event.candidates]
    is_scored = scores.count(None) < len(scores)
    return Open(
        id=event.id,
        at_ms=event.at_ms,
        closed_ms=event.at_ms + longest_ms,
        offset=offset,
        side=array("Q", side).tobytes(),
        items=flat.tobytes(),
        labels=bytearray(len(scores) * n_kinds),
        scores=array("d", [nan if s is None else s for s in scores]).tobytes() if is_scored else b"",
        version=event.version,
        n_kinds=n_kinds,
        digest=event.digest,
    )


class _Head(Struct, array_like=True):
    n_open: int
    waiting: dict[str, list[Waiting]]
    first: int
    end: int
    look_ms: int


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(_Head)
_open_unpacker = msgspec.msgpack.Decoder(Open)


class UserState:
    """One user of a partition.

    ``max_history`` and ``ttl_ms`` bound what a sample sees of the history; see `History.before`.
    """

    __slots__ = (
        "_changed",
        "_kept",
        "history",
        "key",
        "look_ms",
        "max_history",
        "open",
        "ttl_ms",
        "waiting",
    )

    def __init__(self, name: str, n_fields: int, max_history: int, ttl_ms: int, look_ms: int = 0) -> None:
        self.key = key_of("user", name)
        self.max_history = max_history
        self.ttl_ms = ttl_ms
        self.look_ms = look_ms
        """The watermark at which to look whether anything is left."""
        self.open: dict[str, Open] = {}
        """By id, in the order of their offsets."""
        self.waiting: dict[str, list[Waiting]] = {}
        self.history = History(n_fields)
        self._changed: dict[int, Open] = {}  # by offset: opened, labelled or closed since it was given out
        self._kept: set[int] = set()  # offsets of those that may be kept outside

    def begin(self, opened: Open) -> None:
        """Open an impression."""
        self.open[opened.id] = self._changed[opened.offset] = opened

    def label(self, opened: Open, i: int, kind: int) -> None:
        """Label candidate ``i`` of an open impression."""
        opened.labels[i * opened.n_kinds + kind] = 1
        self._changed[opened.offset] = opened

    def close(self, impression: str) -> Open:
        """The impression, which is open no longer."""
        opened = self.open.pop(impression)
        self._changed[opened.offset] = opened
        return opened

    def sample(self, opened: Open, closed_ms: int, origin: Origin, stage: str) -> Sample:
        """The impression as it stands, with the behaviours strictly before it."""
        keys, at = self.history.packed_before(opened.at_ms, self.max_history, self.ttl_ms)
        return Sample(
            impression=opened.id,
            user=self.key,
            at_ms=opened.at_ms,
            closed_ms=closed_ms,
            origin=origin,
            side=opened.side,
            items=opened.items,
            labels=bytes(opened.labels),
            sequence=keys,
            sequence_at=at,
            scores=opened.scores,
            version=opened.version,
            stage=stage,
            digest=opened.digest,
        )

    def give_up(self, impression: str, watermark_ms: int) -> int:
        """Forget the actions up to the watermark that wait for an impression; how many there were."""
        waiting = self.waiting.pop(impression, [])
        kept = [w for w in waiting if w.at_ms > watermark_ms]
        if kept:
            self.waiting[impression] = kept
        return len(waiting) - len(kept)

    def trim(self, watermark_ms: int) -> None:
        """Drop the behaviours that no open impression and none still to come can see."""
        from_ms = min([watermark_ms + 1, *(o.at_ms for o in self.open.values())])
        self.history.trim(from_ms, self.max_history, self.ttl_ms)

    def due_ms(self) -> int | None:
        """The watermark at which, if nothing comes, nothing is left; None if that is so now."""
        due = [o.closed_ms for o in self.open.values()]
        due += [w.at_ms for waiting in self.waiting.values() for w in waiting]
        if len(self.history):
            due.append(self.history.newest_ms + self.ttl_ms)
        return max(due, default=None)

    def encode(self) -> bytes:
        """The head: all but the behaviours and what is open."""
        history = self.history
        return _packer.encode(_Head(len(self.open), self.waiting, history.first, history.end, self.look_ms))

    def encode_open(self) -> dict[int, bytes]:
        """All open impressions by offset; they may be kept from now on, so `changed_open` says which are to go."""
        self._kept.update(o.offset for o in self.open.values())
        return {o.offset: _packer.encode(o) for o in self.open.values()}

    def changed_open(self) -> dict[int, bytes | None]:
        """The open impressions that differ from those given out so far, by offset; None for one that is to go."""
        changed: dict[int, bytes | None] = {}
        for offset, opened in self._changed.items():
            if self.open.get(opened.id) is opened:
                changed[offset] = _packer.encode(opened)
            elif offset in self._kept:
                changed[offset] = None
        self._kept.update(changed)
        self._kept.difference_update(offset for offset, raw in changed.items() if raw is None)
        self._changed = {}
        return changed

    @property
    def kept_open(self) -> list[int]:
        """The offsets of impressions that may be kept outside."""
        return sorted(self._kept)

    def load(self, head: bytes, opened: Mapping[int, bytes], blocks: Mapping[int, bytes]) -> None:
        """Become what `encode`, `encode_open` and the history's blocks say. Raises ValueError if that is not whole."""
        kept = _unpacker.decode(head)
        if len(opened) != kept.n_open:
            raise ValueError(f"open impressions: expected {kept.n_open}, got {len(opened)}")
        for offset in sorted(opened):
            one = _open_unpacker.decode(opened[offset])
            self.open[one.id] = one
        self._kept = set(opened)
        self.waiting = kept.waiting
        self.look_ms = kept.look_ms
        self.history = History.of_blocks(blocks, self.history.n_fields, kept.first, kept.end)
