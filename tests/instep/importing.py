"""Imports as tests look at them."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

from instep.datasets import HOUR_MS
from stream.events import Action, Event, Impression, decode_event


def read(out: Path, n: int) -> list[Event]:
    """The events of a log, which are in order, without a gap, and ``n``."""
    stream = [decode_event(line) for line in out.read_bytes().splitlines()]
    assert len(stream) == n
    assert all(a.at_ms <= b.at_ms <= a.at_ms + HOUR_MS for a, b in pairwise(stream))
    return stream


def slates_of(stream: list[Event]) -> list[Impression]:
    return [e for e in stream if isinstance(e, Impression)]


def actions_of(stream: list[Event]) -> list[Action]:
    return [e for e in stream if isinstance(e, Action)]


def write(path: Path, text: str) -> Path:
    """A file, gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.encode(errors="surrogateescape")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path
