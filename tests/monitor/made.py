"""A board made by hand: a day of windows of everything that is measured, with a dead click stream and what followed."""

from __future__ import annotations

from math import cos, pi, sqrt
from typing import cast

import numpy as np

from monitor.alert import Alert, cleared
from monitor.board import Board, Stage, Status
from monitor.freshness import StageName
from monitor.layout import SOURCES as SOURCE_OF
from monitor.measures import MEASURES, Panel, measure_of
from monitor.row import SIZES_MS, Row, Source, Value
from stream.events import Version
from trainer.gate import Band

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_772_476_200_000
"""2026-03-02T18:30:00Z."""
END_MS = START_MS + 24 * HOUR_MS
DEAD = (END_MS - 168 * MINUTE_MS, END_MS - 143 * MINUTE_MS)
"""No click came: 15:42 to 16:07."""
STALLED = (START_MS + 590 * MINUTE_MS, START_MS + 606 * MINUTE_MS)
"""The indexer stood still."""
MOVED_MS = END_MS - 62 * MINUTE_MS
"""New categories came."""
KINDS = {"click": 0.061, "like": 0.013}
FIELDS = {"item": 0.012, "category": 0.0004, "user": 0.009, "device": 0.0}
PARTS = (
    *[f"position.{i}" for i in range(6)],
    *("item.new", "item.old", "user.new", "user.old", "item.head", "item.tail"),
    *("device.phone", "device.desktop", "category.sport", "category.music", "category.news"),
)
SOURCES: tuple[Source, ...] = ("data", "quality", "codes", "freshness")
SLATES_PER_S = 22.0


class Day:
    """Windows of the day; the same seed makes the same ones."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def row(self, source: Source, size_ms: int, start_ms: int) -> Row:
        """One window."""
        values = {
            "data": self._data,
            "quality": self._quality,
            "codes": self._codes,
            "freshness": self._freshness,
        }[source](size_ms, start_ms)
        self._others(source, values, int(self._rate(size_ms, start_ms) * size_ms / 1_000))
        first = (start_ms - START_MS) // 100
        return Row(source, size_ms, start_ms, values, {0: (first, first + size_ms // 100)})

    def _others(self, source: Source, values: dict[str, Value], n: int) -> None:
        """What is listed and has no story of its own: quiet, near nothing."""
        there = {measure_of(name).name for name in values}
        for measure in MEASURES:
            if (
                SOURCE_OF[cast(Panel, measure.panel)] == source
                and measure.name not in there
                and len(values) > 1
            ):
                for of in KINDS if measure.of == "kind" else FIELDS if measure.of == "field" else ("",):
                    near = abs(self._rng.normal()) * 0.004
                    values[f"{measure.name}.{of}".rstrip(".")] = Value(near, n)

    def _near(self, value: float, n: int, spread: float = 1.0) -> Value:
        """A figure of n, off by what chance makes of it."""
        error = spread / sqrt(max(n, 1))
        return Value(value + self._rng.normal() * error, n, error)

    def _rate(self, size_ms: int, start_ms: int) -> float:
        hour = (start_ms + size_ms / 2) / HOUR_MS
        return SLATES_PER_S * (0.62 - 0.38 * cos(2 * pi * (hour - 4) / 24)) * (1 + self._rng.normal() * 0.02)

    def _data(self, size_ms: int, start_ms: int) -> dict[str, Value]:
        rate = self._rate(size_ms, start_ms)
        n_slates, n = int(rate * size_ms / 1_000), int(12 * rate * size_ms / 1_000)
        dead = share(DEAD, size_ms, start_ms)
        late = share((DEAD[1], DEAD[1] + 6 * MINUTE_MS), size_ms, start_ms)
        found = {
            "data.events": Value(rate * (1 + 0.9 * (1 - dead)), int(1.9 * n_slates)),
            "data.impressions": Value(rate, n_slates),
            "data.late": self._near(0.0008 + 0.03 * late, n_slates, 0.02),
            "data.duplicate": self._near(0.0021, n_slates, 0.03),
            "data.dead": self._near(0.0003, n_slates, 0.01),
            "data.orphan": self._near(0.0042 + 0.05 * late, n_slates, 0.03),
            "data.behaviours": self._near(61 + 9 * cos(start_ms / HOUR_MS / 4), n_slates, 25),
            "data.score_psi": Value(abs(self._rng.normal() * 0.004) + 0.02 * dead, n_slates),
        }
        for kind, p in KINDS.items():
            p = p * (1 - dead) if kind == "click" else p
            found[f"data.actions.{kind}"] = Value(12 * rate * p, int(n * p))
            found[f"data.coverage.{kind}"] = self._near(12 * p, n_slates, 0.8 * sqrt(12 * p) + 0.05)
            found[f"data.positives.{kind}"] = self._near(p, n, sqrt(p * (1 - p)) + 0.001)
        for i, (field, unseen) in enumerate(FIELDS.items()):
            moved = share((MOVED_MS, END_MS), size_ms, start_ms) if field == "category" else 0.0
            found[f"data.unseen.{field}"] = self._near(unseen + 0.011 * moved, n, 0.06)
            found[f"data.entropy.{field}"] = self._near((5.9, 3.1, 5.95, 1.2)[i] + 0.3 * moved, n, 2)
            found[f"data.psi.{field}"] = Value(
                abs(self._rng.normal() * 0.003) + 0.09 * moved, n_slates if i else n_slates // 9
            )
        return positive(found)

    def _quality(self, size_ms: int, start_ms: int) -> dict[str, Value]:
        rate = self._rate(size_ms, start_ms)
        n_slates, n = int(rate * size_ms / 1_000), int(12 * rate * size_ms / 1_000)
        dead = share((DEAD[0] + MINUTE_MS, DEAD[1]), size_ms, start_ms)
        after = share((DEAD[1], DEAD[1] + 9 * MINUTE_MS), size_ms, start_ms)
        wave = 0.006 * cos(start_ms / HOUR_MS / 2.3)
        found = {
            "quality.served_behind": self._near(3.4, n_slates, 4),
            "quality.held": Value(
                share((DEAD[0] + MINUTE_MS, DEAD[1] + 2 * MINUTE_MS), size_ms, start_ms), n_slates
            ),
        }
        for kind, p in KINDS.items():
            gone = dead if kind == "click" else 0.0
            ne = {"click": 0.842, "like": 0.913}[kind] + wave + 0.012 * after + 0.05 * gone
            found[f"quality.ne.{kind}"] = self._near(ne, n, 1.1) if gone < 0.9 else Value(None, n)
            auc = {"click": 0.731, "like": 0.688}[kind] - wave - 0.004 * after
            few = int(n * (1 - gone))
            found[f"quality.auc.{kind}"] = self._near(auc, few, 0.9) if few else Value(None, n)
            few = int(few * p)
            found[f"quality.slate_auc.{kind}"] = self._near(auc - 0.03, few, 0.3) if few else Value(None, 0)
            known = self._near(1 + wave + 0.4 * gone, n, 3)
            found[f"quality.calibration.{kind}"] = known if gone < 0.9 else Value(None, n)
            found[f"quality.ctr.{kind}"] = self._near(p * (1 - gone), n, sqrt(p * (1 - p)))
            found[f"quality.staleness.{kind}"] = self._near(0.0011 + 0.002 * after, n, 0.12)
        for tenth in range(10):
            found[f"quality.decile.click.{tenth}"] = self._near(
                1.06 - 0.012 * tenth + wave, n // 10, 4 - 0.25 * tenth
            )
        for i, part in enumerate(PARTS if dead < 0.9 else ()):
            few = n * (1 + i % 5) // 40
            ne = 0.815 + 0.021 * ((i * 7) % 9) + (0.06 if part.endswith("new") else 0.0)
            found[f"slices.ne.{part}"] = self._near(ne, few, 1.1)
            found[f"slices.calibration.{part}"] = self._near(1 + 0.02 * ((i * 5) % 7 - 3), few, 3)
        return positive(found)

    def _codes(self, size_ms: int, start_ms: int) -> dict[str, Value]:
        n = int(160 * size_ms / 1_000)
        held = share((DEAD[0] + 2 * MINUTE_MS, DEAD[1] + 2 * MINUTE_MS), size_ms, start_ms)
        n = int(n * (1 - held))
        flipped = 0.0061 + 0.0008 * cos(start_ms / HOUR_MS / 3)
        found = {
            "codes.row_norm": self._near(0.412, n, 0.2),
            "codes.update_norm": self._near(0.0134, n, 0.02),
            "codes.flipped": self._near(flipped, n, 0.012),
            "codes.angle": self._near(180 * flipped, n, 2.1),
            "codes.balance": self._near(0.031, n, 0.05),
            "codes.bucket_entropy": self._near(12.4, n, 3),
            "codes.overlap": self._near(0.712, 20 * size_ms // MINUTE_MS, 0.16),
            "codes.rows": Value(n / size_ms * 1_000, n),
        }
        return positive(found) if n > 400 else {"codes.rows": Value(0.0, 0)}

    def _freshness(self, size_ms: int, start_ms: int) -> dict[str, Value]:
        held = climbed((DEAD[0] + MINUTE_MS, DEAD[1] + 2 * MINUTE_MS), size_ms, start_ms)
        stalled = climbed(STALLED, size_ms, start_ms)
        ages = {"trained": 2.1, "published": 4.0, "indexed": 4.9, "served": 6.5}
        found = {}
        for i, (stage, age) in enumerate(ages.items()):
            more = held + (stalled if i > 1 else 0.0)
            found[f"freshness.{stage}"] = Value(age + more + abs(self._rng.normal()) * 0.8, 0)
        found["freshness.behind"] = Value(round(abs(self._rng.normal()) * 1.5 + stalled * 3.1), 0)
        return found


def positive(found: dict[str, Value]) -> dict[str, Value]:
    """Without what cannot be below nothing."""
    return {
        name: v if v.value is None or v.value > 0 or "staleness" in name else Value(0.0, v.n, v.error)
        for name, v in found.items()
    }


def share(of: tuple[int, int], size_ms: int, start_ms: int) -> float:
    """How much of a window is inside a stretch."""
    return max(0, min(of[1], start_ms + size_ms) - max(of[0], start_ms)) / size_ms


def climbed(of: tuple[int, int], size_ms: int, start_ms: int) -> float:
    """How old something is, in s, at the end of a window, that stood still during a stretch."""
    end_ms = start_ms + size_ms
    return (end_ms - of[0]) / 1_000 if of[0] < end_ms <= of[1] else 0.0


def dead_clicks() -> Alert:
    """The alert of the dead click stream, while it is raised."""
    return Alert(
        rule="clicks-stopped",
        metric="data.coverage.click",
        size_ms=MINUTE_MS,
        start_ms=DEAD[0],
        raised_ms=DEAD[0] + MINUTE_MS,
        detector="band",
        value=0.0,
        error=0.02,
        n=1_298,
        reference=0.731,
        reference_error=0.021,
        severity="page",
        reason="click coverage is 0.00 over 1,298 impressions; it was 0.73 ± 0.02 before",
        remedy="Look at who sends click actions: every sample without them is learned as negative. "
        "Hold the trainer (instep hold) if it does not hold itself.",
        offsets={0: (791_200, 792_400), 1: (790_870, 792_090)},
    )


def alerts() -> list[Alert]:
    """Those of the day, oldest first."""
    stalled = Alert(
        rule="indexer-stalled",
        metric="freshness.behind",
        size_ms=MINUTE_MS,
        start_ms=STALLED[0],
        raised_ms=STALLED[0] + 2 * MINUTE_MS,
        detector="limits",
        value=372,
        error=None,
        n=0,
        reference=200,
        reference_error=None,
        severity="ticket",
        reason="the index is 372 steps behind what was published; at most 200 is let pass",
        remedy="Look at the indexer's /readyz, and whether Redis takes writes.",
        offsets={0: (353_000, 354_100)},
    )
    moved = Alert(
        rule="field-moved",
        metric="data.psi.category",
        size_ms=10 * MINUTE_MS,
        start_ms=MOVED_MS // 600_000 * 600_000 + 600_000,
        raised_ms=MOVED_MS // 600_000 * 600_000 + 1_200_000,
        detector="band",
        value=0.091,
        error=None,
        n=12_870,
        reference=0.0031,
        reference_error=0.0024,
        severity="note",
        reason="category is spread otherwise: PSI 0.091 over 12,870 slates; it was 0.003 ± 0.002 before",
        remedy="Compare the catalogue with that of yesterday. The model follows by itself; new keys are admitted after "
        "their first sightings.",
        offsets={0: (822_000, 829_900)},
    )
    return [
        cleared(stalled, STALLED[1] + 2 * MINUTE_MS),
        cleared(dead_clicks(), DEAD[1] + 2 * MINUTE_MS),
        moved,
    ]


def status(now_ms: int, at_ms: int = END_MS, held: str = "") -> Status:
    """How things stood at the end of the day, heard of at a wall time."""
    step = (at_ms - START_MS) // 400
    stages: dict[StageName, Stage] = {
        "trained": Stage(Version(0, step), at_ms - 2_300),
        "published": Stage(Version(0, step - 4), at_ms - 4_100),
        "indexed": Stage(Version(0, step - 4), at_ms - 4_100),
        "served": Stage(Version(0, step - 9), at_ms - 6_700),
    }
    bands = (
        Band("data.coverage.click", 0.0 if held else 0.734, 0.511, 0.96, not held),
        Band("data.events", 51.2, 14.0, 160.0),
        Band("data.positives.click", 0.0608, 0.02, 0.15),
        Band("quality.ne.click", 0.846, 0.7, 1.0),
    )
    counts = {
        "impressions": 1_183_204,
        "clicks": 853_119,
        "late": 1_022,
        "duplicate": 2_731,
        "dead": 361,
        "orphan": 5_240,
    }
    since_ms = DEAD[0] + MINUTE_MS if held else None
    return Status(
        at_ms,
        now_ms,
        held,
        since_ms,
        "open" if held else "closed",
        bands,
        stages,
        counts,
    )


def board(now_ms: int = END_MS, n_hours: int = 24, run: str = "made") -> Board:
    """The board at the end of the day, with its last hours."""
    made, day = Board(run=run), Day()
    for size_ms in SIZES_MS:
        first = (END_MS - n_hours * HOUR_MS + size_ms - 1) // size_ms * size_ms
        for start_ms in range(first, END_MS - size_ms + 1, size_ms):
            for source in SOURCES:
                made.add(day.row(source, size_ms, start_ms))
    for alert in alerts():
        if alert.start_ms >= END_MS - n_hours * HOUR_MS:
            made.put(alert)
    made.tell(status(now_ms))
    return made
