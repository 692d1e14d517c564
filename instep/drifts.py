"""What may change in a simulated world while its stream runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instep.world import BadWorld


@dataclass(frozen=True)
class NewItems:
    """``share`` times as many items as there are join the catalogue, and are drawn like all others."""

    at: float
    share: float = 0.1


@dataclass(frozen=True)
class ShiftedInterests:
    """``share`` of the users get new interests and follow them in ``sessions`` organic sessions.

    Those begin within the next ``over`` of the stream.
    """

    at: float
    share: float = 0.3
    sessions: int = 4
    over: float = 0.05


@dataclass(frozen=True)
class MovedItems:
    """``share`` of the items move to another hidden topic, as behaviours too; their label stays what it was.

    Everything learned about those items is wrong from then on, and so is every code that does not follow.
    """

    at: float
    share: float = 0.2


@dataclass(frozen=True)
class RelabelledItems:
    """``share`` of the items get another visible category; what decides clicks stays."""

    at: float
    share: float = 0.2


@dataclass(frozen=True)
class CtrJump:
    """Every logit moves by ``logit``."""

    at: float
    logit: float = 0.7


@dataclass(frozen=True)
class DeadClicks:
    """Users go on clicking, but no action is written from ``at`` to ``until``."""

    at: float
    until: float


@dataclass(frozen=True)
class SwappedIds:
    """The product names every item by the id of another, in slates and actions alike; what they are stays."""

    at: float


@dataclass(frozen=True)
class ConstantFeature:
    """The device of every slate is the first of them from ``at`` to ``until``."""

    at: float
    until: float = 1.0


@dataclass(frozen=True)
class NewCategory:
    """``share`` times as many items as there are join the catalogue, all with one label that was not there."""

    at: float
    share: float = 0.05


Drift = (
    NewItems
    | ShiftedInterests
    | MovedItems
    | RelabelledItems
    | CtrJump
    | DeadClicks
    | SwappedIds
    | ConstantFeature
    | NewCategory
)
"""What changes the world. ``at`` and ``until`` are fractions of the slates of a stream."""


DRIFTS: dict[str, tuple[Drift, ...]] = {
    "none": (),
    "moved": (MovedItems(0.5, 0.3),),
    "arrivals": tuple(NewItems(at, 0.05) for at in (0.5, 0.6, 0.7, 0.8, 0.9)),
    "shifted": (ShiftedInterests(0.5),),
    "relabelled": (RelabelledItems(0.5),),
    "dead": (DeadClicks(0.5, 0.6),),
    "doubled": (CtrJump(0.5, 1.6),),
    "swapped": (SwappedIds(0.5),),
    "constant": (ConstantFeature(0.5),),
    "category": (NewCategory(0.5),),
    "poison": (),
}
"""What ``instep simulate --drift`` can make happen: three tenths of the items take another topic half way; a twentieth
more items at five moments of the second half; a third of the users get new interests; a fifth of the items another
label; for a tenth of the stream no click is written. And half way: the click rate of the default world doubles; ids
name other items; the device is always the same; a twentieth more items come, in a category of their own. What is
wrong with the lines of ``poison`` is in `instep.faults.FAULTS`."""


@dataclass(frozen=True)
class Change:
    """A moment at which a drift acts, or ends if ``over``; ``n`` is the drift's place among the drifts."""

    slate: int
    n: int
    drift: Drift
    over: bool = False


def schedule(drifts: Sequence[Drift], n_slates: int) -> list[Change]:
    """The changes of a stream in order.

    Raises
    ------
    BadWorld
        If a drift lies outside the stream.
    """
    changes = []
    for n, drift in enumerate(drifts):
        for name in ("at", "until"):
            when = getattr(drift, name, None)
            if when is None:
                continue
            if not 0 <= when <= 1:
                raise BadWorld(f"{type(drift).__name__}: {name}: expected 0..1, got {when}")
            changes.append(Change(round(when * n_slates), n, drift, name == "until"))
    return sorted(changes, key=lambda change: (change.slate, change.n, change.over))
