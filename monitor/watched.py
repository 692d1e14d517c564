"""What is watched, and what a watch keeps of it over a restart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.data import DataState
from monitor.freshness import FreshnessState
from monitor.lanes import SampleLane, ScoreLane
from monitor.popular import PopularState
from monitor.published import PublishedState
from monitor.quality import QualityState
from monitor.row import Row, Source
from monitor.seen import SeenState
from monitor.tally import Packed


@dataclass(frozen=True)
class WatchRules:
    """What is watched.

    Parameters
    ----------
    partitions
        Of samples and scores, all of them.
    kinds
        Kinds of action that are labels, in the order of their columns.
    item_fields, side_fields
        Names of the fields, in the order of their columns.
    planes
        float32 ``[coded fields, dim, bits]``, those of the trainer.
    k
        How many behaviours a search finds.
    """

    partitions: tuple[int, ...]
    kinds: tuple[str, ...]
    item_fields: tuple[str, ...]
    side_fields: tuple[str, ...]
    planes: NDArray[np.float32]
    k: int


class WatchState(Struct):
    """All that a restart needs."""

    samples: dict[int, SampleLane]
    scores: dict[int, ScoreLane]
    until_ms: int | None
    floor_ms: int | None
    first_ms: int | None
    data: dict[int, dict[int, DataState]]
    quality: dict[int, dict[int, QualityState]]
    published: PublishedState
    references: dict[Source, dict[int, list[dict[str, Packed]]]]
    seen: dict[str, SeenState]
    popular: PopularState
    freshness: FreshnessState
    ranges: dict[int, dict[int, tuple[int, int]]]
    closed: list[Row]
