"""What happened: the messages on the event log, and what the joiner makes of them.

Everything a product sends is one JSON object with a ``type`` and a ``schema`` number. Unknown fields
pass, so that a producer may be newer than its readers; a missing or mistyped field is refused with its path.

>>> decode_event(b'{"type": "action", "kind": "click", "user": "ada", "item": "n7", "at_ms": 5, "mood": 1}')
Action(kind='click', user='ada', item='n7', at_ms=5, impression=None, features={}, schema=1)
>>> decode_event(b'{"type": "action", "kind": "click", "user": "ada", "item": 7, "at_ms": 5}')
Traceback (most recent call last):
stream.events.BadEvent: Expected `str`, got `int` - at `$.item`
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

SCHEMA = 1

AtMs = Annotated[int, Meta(ge=0, lt=2**53)]
"""Event time in milliseconds since 1970; the bound is what every JSON reader can hold exactly."""

Id = Annotated[str, Meta(min_length=1, max_length=512)]
Exact = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Value = str | Exact | float


MAX_EVENT_BYTES = 4 << 20
"""Of an event in its topic, with its key and what Kafka puts around both."""


class BadEvent(ValueError):
    """A message that cannot be used: what was expected, what came, and the path of the field."""

    def __init__(self, message: str, reason: str = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class Version(NamedTuple):
    """A state of the model. Ordered; ``epoch`` grows when history is rewritten, ``step`` with each batch."""

    epoch: Count
    step: Count

    def __str__(self) -> str:
        return f"{self.epoch}.{self.step}"


class Origin(NamedTuple):
    """The input record that made an output record, and which of its outputs this is."""

    partition: int
    offset: int
    n: int


class Candidate(Struct, frozen=True, omit_defaults=True):
    """One item of a slate, with its features and the score it was shown with, when known."""

    item: Id
    features: dict[str, Value] = {}
    score: float | None = None


class Impression(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="impression"):
    """One slate shown to a user. Features of the user travel in ``context`` too."""

    id: Id
    user: Id
    at_ms: AtMs
    candidates: Annotated[list[Candidate], Meta(min_length=1, max_length=10_000)]
    context: dict[str, Value] = {}
    version: Version | None = None
    digest: Annotated[str, Meta(max_length=64)] = ""
    """Of the behaviours that it was scored with, see `stream.history.digest`; empty when not known."""
    schema: int = SCHEMA


class Action(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="action"):
    """What a user did to an item. Without an impression it is organic: it extends the history only."""

    kind: Id
    user: Id
    item: Id
    at_ms: AtMs
    impression: Id | None = None
    features: dict[str, Value] = {}
    schema: int = SCHEMA


class Tick(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="tick"):
    """Time passing, written into every partition by whoever produces events.

    On ``instep.samples`` it is the joiner's: how far its watermark has come, and what it has read until then.
    """

    at_ms: AtMs
    order: str = ""
    """What a person wants of the trainer from here on, see `trainer.gate`; empty where nothing."""
    read: dict[str, int] = {}
    """The joiner's, of the partition so far: impressions (``impression``) and, by kind, actions on impressions that set
    a label or added a behaviour; each once, however often it came."""
    counts: dict[str, int] = {}
    """The joiner's: what became of the partition's records so far, see `stream.join.Joiner.counts`."""
    schema: int = SCHEMA


Event = Impression | Action | Tick


class Sample(Struct, frozen=True, tag_field="type", tag="sample"):
    """An impression whose labels are final, with the behaviour sequence strictly before it.

    Arrays travel as their little-endian bytes; the properties give them back without a copy.
    ``F`` item fields (the item first), ``S`` side fields (the user first), ``K`` declared action kinds.
    """

    impression: str
    user: int
    at_ms: int
    closed_ms: int
    """Event time at which the labels became final; non-decreasing within a partition."""
    origin: Origin
    side: bytes
    items: bytes
    labels: bytes
    sequence: bytes
    sequence_at: bytes
    scores: bytes = b""
    version: Version | None = None
    stage: str = "final"
    """``final``; under the eager policy ``early`` (all negative) and ``click`` (one candidate, positive)."""
    digest: str = ""
    """Of the behaviours that the impression was scored with."""
    schema: int = SCHEMA

    @property
    def side_keys(self) -> NDArray[np.uint64]:
        """uint64 ``[S]``."""
        return np.frombuffer(self.side, np.uint64)

    def item_keys(self, n_fields: int) -> NDArray[np.uint64]:
        """uint64 ``[candidates, F]``."""
        return np.frombuffer(self.items, np.uint64).reshape(-1, n_fields)

    def label_matrix(self, n_kinds: int) -> NDArray[np.uint8]:
        """uint8 ``[candidates, K]``, 1 where the action came within its window."""
        return np.frombuffer(self.labels, np.uint8).reshape(-1, n_kinds)

    def behaviours(self, n_fields: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keys uint64 ``[L, F]`` and event times int64 ``[L]`` in ms, oldest first."""
        return (
            np.frombuffer(self.sequence, np.uint64).reshape(-1, n_fields),
            np.frombuffer(self.sequence_at, np.int64),
        )


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_packer = msgspec.msgpack.Encoder()
_unpacker: msgspec.msgpack.Decoder[Sample | Tick] = msgspec.msgpack.Decoder(Sample | Tick)

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes of which no message can be made; the last if they are nested too deeply."""


def encode_event(event: Event) -> bytes:
    """One line of JSON, without the newline."""
    return _encoder.encode(event)


def decode_event(raw: bytes) -> Event:
    """Read one event.

    Raises
    ------
    BadEvent
        With reason ``undecodable`` (not JSON, a field missing or of the wrong type, a number that is not
        finite) or ``schema`` (written by a producer whose messages mean something else).
    """
    try:
        event = _decoder.decode(raw)
    except UNREADABLE as e:
        raise BadEvent(str(e)) from None
    if event.schema != SCHEMA:
        raise BadEvent(f"Expected schema {SCHEMA}, got {event.schema} - at `$.schema`", "schema")
    return event


def encode_sample(sample: Sample | Tick) -> bytes:
    """Msgpack, for ``instep.samples``."""
    return _packer.encode(sample)


def decode_sample(raw: bytes) -> Sample | Tick:
    """Read one record of ``instep.samples``; a Tick says how far the joiner's watermark has come."""
    return _unpacker.decode(raw)


@lru_cache(maxsize=1 << 18)
def key_of(field: str, value: str) -> int:
    """The 64-bit key of a field's value: the one place where a string becomes a number.

    0 is kept for "nothing". Of ``n`` keys, two collide with probability about ``n**2 / 2**65``: 3e-6 at 10 M.

    >>> key_of("item", "n7") == key_of("item", "n7") != key_of("user", "n7")
    True
    """
    digest = blake2b(f"{field}\0{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
