"""Whether a batch is learned: what the loop asks before each, and what a person may order.

A gate sees the Ticks and the batches in the order of the log and nothing else, so a replay holds where the service
held. The orders travel through the log of events as Ticks (``instep hold``, ``instep release``)::

    hold                  from the next batch on nothing is learned
    release               learning goes on; what was held is given up
    learn [P:FROM-TO ...] learning goes on with what was held, or with the batches that lie within these offsets

``release`` and ``learn`` also let the next Version go live, if the canary refused the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.events import Sample
from trainer.batcher import Ranges, Told

HELD_MOST = 65_536
"""Batches that are remembered as held, to be learned later; of more the oldest are given up."""


class Band(Struct, frozen=True):
    """One figure that a gate looks at, by its name in `monitor.measures`, and between what it is let pass."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_met: bool = True


class Gate(Protocol):
    """Decides whether batches are learned."""

    def told(self, told: Told) -> None:
        """Take the next Tick, with what was read, or an order."""

    def why_not(self, samples: Sequence[Sample]) -> str:
        """Why these are not to be learned, in words; empty to learn them."""

    def predicted(self, samples: Sequence[Sample], p: NDArray[np.float32]) -> None:
        """Take what was predicted of a batch, float32 ``[N, K]``, all of it finite, learned or held."""

    def bands(self) -> tuple[Band, ...]:
        """What it looks at, as it stands."""

    def state(self) -> bytes:
        """All that the next answer depends on."""

    def load(self, state: bytes) -> None:
        """Go on from a state."""


class BadOrder(ValueError):
    """An order that is none."""


def chosen(order: str, held: Iterable[Ranges]) -> list[Ranges]:
    """The held batches that an order to learn is about: all of them, or those within its offsets.

    >>> held = [{0: (5, 9)}, {0: (9, 12), 1: (0, 4)}]
    >>> chosen("learn", held) == held, chosen("learn 0:5-10", held), chosen("release", held)
    (True, [{0: (5, 9)}], [])
    >>> chosen("learn 0:5", held)
    Traceback (most recent call last):
    trainer.gate.BadOrder: order: expected hold, release or learn [PARTITION:FROM-TO ...], got 'learn 0:5'
    """
    verb, *stretches = order.split()
    within: dict[int, list[tuple[int, int]]] = {}
    try:
        for stretch in stretches:
            partition, _, offsets = stretch.partition(":")
            start, _, end = offsets.partition("-")
            within.setdefault(int(partition), []).append((int(start), int(end)))
        if verb not in ("hold", "release", "learn") or (stretches and verb != "learn"):
            raise ValueError
    except ValueError:
        expected = "hold, release or learn [PARTITION:FROM-TO ...]"
        raise BadOrder(f"order: expected {expected}, got {order!r}") from None
    if verb != "learn":
        return []

    def is_within(partition: int, start: int, end: int) -> bool:
        return any(a <= start and end <= b for a, b in within.get(partition, ()))

    return [ranges for ranges in held if not within or all(is_within(p, *r) for p, r in ranges.items())]
