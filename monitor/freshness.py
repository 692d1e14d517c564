"""How far each stage has come: event times of what was last trained, published, indexed and served.

Ages are differences of event times, so they grow while a stage stands still and its input goes on, whoever is to blame.
They are read when a window of samples closes, as the stages stand then.

>>> freshness = Freshness()
>>> freshness.trained(Version(0, 9), 5_000); freshness.published(Version(0, 7), 4_000)
>>> freshness.indexed(Version(0, 4), 1_000)
>>> {name: value.value for name, value in freshness.values(9_000).items()}
{'freshness.trained': 4.0, 'freshness.published': 5.0, 'freshness.indexed': 8.0, 'freshness.behind': 3}
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.row import Value
from stream.events import Version

StageName = Literal["trained", "published", "indexed", "served"]

KEPT = 4_096
"""Of so many publications it is known when they were, for the slates that they score."""


class FreshnessState(Struct, array_like=True):
    """As it is kept."""

    trained: tuple[Version, int] | None = None
    published: tuple[Version, int] | None = None
    indexed: tuple[Version, int] | None = None
    served: tuple[Version, int] | None = None
    """Of the newest slate."""
    slate_ms: int = -1
    publications: list[tuple[Version, int]] = []


class Freshness:
    """Where the stages are."""

    def __init__(self, state: FreshnessState | None = None) -> None:
        self.state = state or FreshnessState()
        self._published = dict(self.state.publications)

    def trained(self, version: Version, closed_ms: int) -> None:
        """A sample that closed then was learned, with which the model came to this Version."""
        before = self.state.trained
        self.state.trained = version, max(before[1] if before else 0, closed_ms)

    def published(self, version: Version, at_ms: int) -> None:
        """A publication was read, whose newest sample closed then."""
        self.state.published = version, at_ms
        self._published[version] = at_ms
        while len(self._published) > KEPT:
            del self._published[next(iter(self._published))]

    def indexed(self, version: Version, at_ms: int) -> None:
        """The index holds this Version, whose newest sample closed then."""
        self.state.indexed = version, at_ms

    def served(self, version: Version | None, at_ms: int) -> None:
        """A slate was shown then, scored with this Version."""
        if version is None or at_ms < self.state.slate_ms:
            return
        self.state.slate_ms = at_ms
        published_ms = self._published.get(version)
        self.state.served = None if published_ms is None else (version, published_ms)

    @property
    def stages(self) -> dict[StageName, tuple[Version, int]]:
        """Where each stage stands that is known: its Version, and the event time of the newest sample in that."""
        state = self.state
        stages: dict[StageName, tuple[Version, int] | None] = {
            "trained": state.trained,
            "published": state.published,
            "indexed": state.indexed,
            "served": state.served,
        }
        return {name: stage for name, stage in stages.items() if stage is not None}

    def values(self, now_ms: int) -> dict[str, Value]:
        """Ages at a moment of event time, those that are known."""
        state = self.state
        found = {
            f"freshness.{name}": Value(
                max((state.slate_ms if name == "served" else now_ms) - at_ms, 0) / 1000, 0
            )
            for name, (_, at_ms) in self.stages.items()
        }
        if state.published is not None and state.indexed is not None:
            (ours, _), (theirs, _) = state.published, state.indexed
            if ours.epoch == theirs.epoch:
                found["freshness.behind"] = Value(max(ours.step - theirs.step, 0), 0)
        return found

    def encode(self) -> FreshnessState:
        """All of it."""
        self.state.publications = list(self._published.items())
        return self.state
