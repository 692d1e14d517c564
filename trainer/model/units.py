"""Interest units by name: how a behaviour sequence becomes a vector for a candidate.

All share the network around them (``ctr.py``), so that what differs is what the papers differ in. Most search the long
part of a sequence beside an attention over its short part, the most recent behaviours; those that are ``whole`` read
one list instead, which has both. docs/models.md has a row for each: paper, equation, cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.model.attention import TargetAttention
from trainer.model.average import Average
from trainer.model.dien import DIEN
from trainer.model.interest import Interest
from trainer.model.mimn import MIMN
from trainer.model.searches import SearchName


@dataclass(frozen=True)
class Unit:
    """What reads behaviours, which ones unless the settings say otherwise, and whose counts of near ones go along."""

    read: type[Interest] | None
    """None reads nothing but the short part."""
    search: SearchName
    counts: str = ""
    """The search that counts near behaviours; empty for the one that picks, if it counts."""
    whole: bool = False
    hashes: bool = False
    """Whether it reads codes as well as vectors."""


UNITS: dict[str, Unit] = {
    "short": Unit(None, "none", counts="inner"),
    "average": Unit(Average, "none", whole=True),
    "sim_hard": Unit(TargetAttention, "category"),
    "eta": Unit(TargetAttention, "hamming"),
    "exact": Unit(TargetAttention, "inner"),
    "full": Unit(TargetAttention, "none", counts="inner"),
    "dien": Unit(DIEN, "recent", whole=True),
    "mimn": Unit(MIMN, "recent", whole=True),
}


def find_unit(name: str) -> Unit:
    """The unit of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in UNITS:
        raise ValueError(f"model: expected one of {', '.join(UNITS)}, got {name!r}")
    return UNITS[name]
