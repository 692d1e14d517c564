"""A stream as it arrives: lines of which some come twice, some late, and some cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

import msgspec
import numpy as np

from instep.simulator import Truth
from instep.world import BadWorld
from stream.events import Event, Tick, encode_event


@dataclass(frozen=True)
class Faults:
    """Which share of the impressions and actions suffers what.

    A duplicate and a broken line are copies: what is true is in the stream all the same. Each comes right
    behind its original. A late event comes up to ``late_s`` of event time after its turn: whether that is
    *too* late is for the joiner to say.
    """

    duplicated: float = 0.01
    late: float = 0.01
    late_s: float = 60.0
    broken: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("duplicated", "late", "broken"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadWorld(f"faults: {name}: expected 0..1, got {getattr(self, name)}")


FAULTS: dict[str, tuple[float, Faults]] = {"poison": (0.5, Faults(0, 0, broken=0.1))}
"""What is wrong with the lines of a drift of `instep.drifts.DRIFTS`, and from which fraction of the stream on."""


def lines(
    events: Iterable[Event],
    faults: Faults | None = None,
    *,
    truth: Truth | None = None,
    from_ms: int = 0,
    until_ms: int = 1 << 53,
) -> Iterator[bytes]:
    """Encode a stream, with faults in the events dated ``from_ms`` to ``until_ms``. Ticks stay as they are.

    ``truth.faults`` counts what was put in: ``duplicated``, ``late``, and ``broken`` by kind.

    >>> list(lines([Tick(5), Tick(6)], Faults()))
    [b'{"type":"tick","at_ms":5}', b'{"type":"tick","at_ms":6}']
    """
    faults = faults or Faults(0, 0, 0, 0)
    counts = (truth or Truth()).faults
    rng = np.random.default_rng([faults.seed, 6])
    held: list[tuple[int, int, list[bytes]]] = []
    for n, event in enumerate(events):
        while held and held[0][0] <= event.at_ms:
            yield from heappop(held)[2]
        line = encode_event(event)
        if isinstance(event, Tick) or not from_ms <= event.at_ms < until_ms:
            yield line
            continue
        duplicated, late, broken, kind, delay = rng.random(5).tolist()
        copies = [line] * (2 if duplicated < faults.duplicated else 1)
        counts["duplicated"] += len(copies) - 1
        if broken < faults.broken:
            name = list(BREAKS)[int(kind * len(BREAKS))]
            copies.append(BREAKS[name](line))
            counts[name] += 1
        if late < faults.late:
            counts["late"] += 1
            heappush(held, (event.at_ms + 1 + int(delay * faults.late_s * 1_000), n, copies))
        else:
            yield from copies
    while held:
        yield from heappop(held)[2]


def _with(line: bytes, **changes: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(line) | changes)


def _without(line: bytes, name: str) -> bytes:
    return msgspec.json.encode({k: v for k, v in msgspec.json.decode(line).items() if k != name})


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda line: line[: len(line) // 2],
    "not utf-8": lambda line: line.replace(b'"user":"', b'"user":"\xff', 1),
    "no time": lambda line: _without(line, "at_ms"),
    "mistyped": lambda line: _with(line, user=7),
    "unknown type": lambda line: _with(line, type="glance"),
    "other schema": lambda line: _with(line, schema=99),
    "far ahead": lambda line: _with(line, at_ms=msgspec.json.decode(line)["at_ms"] + 366 * 86_400_000),
}
"""What may be wrong with a line, by name."""
