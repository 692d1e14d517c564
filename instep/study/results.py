"""What a study found: the one thing that its tables and its report are made from, and ``study.json`` holds."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

Kind = Literal["models", "search", "staleness", "length", "bits", "k", "cold"]


class Figure(Struct, frozen=True):
    """An estimate with its 95 % interval, mean of the seeds; null where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Window(Struct, frozen=True):
    """One of some equally long parts of the log, mean of the seeds."""

    until_ms: int
    """Event time of its last candidate."""
    candidates: int
    auc: float | None
    ne: float | None


class Cost(Struct, frozen=True):
    """What a model costs, measured in one process after the other; one thread."""

    learn_per_s: float
    """Candidates learned a second, the search and the table included."""
    rank_ms: float
    """Median time to score a slate of 200 candidates, ms."""


class Found(Struct, frozen=True):
    """One run of a study."""

    name: str
    """Unique in the study, as ``--models`` takes it."""
    title: str
    """For people."""
    group: str
    """Runs of one group are lines of one plot and rows of one table."""
    unit: str
    search: str
    changes: dict[str, str | int | float | bool]
    """Settings that differ from the log's own, by their names in the file."""
    auc: Figure
    """0 to 1."""
    ne: Figure
    gauc: Figure
    log_loss: Figure
    calibration: Figure
    auc_less: Figure | None = None
    """AUC less that of the group's reference on the same candidates, users resampled; null of the reference itself."""
    ne_less: Figure | None = None
    windows: list[Window] = []
    cost: Cost | None = None
    overlap: Figure | None = None
    """Share of the k behaviours with the largest weight in the model's own attention that the search found."""
    overlap_exact: Figure | None = None
    """Share of the k with the largest inner product that it found."""
    recall: Figure | None = None
    """Share of the behaviours of the candidate's hidden topic that it found; of a simulated log."""
    by_chance: Figure | None = None
    """The same, if it drew at random."""
    flips: float | None = None
    """Code bits that changed in 100 steps."""
    ties: float | None = None
    """Share of searches whose last place was decided by recency, among behaviours that are equally near."""
    x: float | None = None
    """Where it stands on the study's axis: steps between refreshes, L, bits, k."""
    seconds: float | None = None


class Study(Struct, frozen=True):
    """All of it."""

    kind: Kind
    title: str
    log: str
    """Names of the logs, without their folders."""
    command: str
    """That makes it again."""
    seeds: int
    candidates: int
    """Scored, of one seed."""
    warmup: int
    """Candidates that were learned before and not scored."""
    references: dict[str, str]
    """By group: the name of the run that the others are compared with."""
    runs: list[Found]
    x_axis: str = ""
    """What ``x`` is; empty for a study without an axis."""
    best_auc: float | None = None
    """Of predicting the true probabilities; of a simulated log."""
    notes: list[str] = []


def encode_study(study: Study) -> bytes:
    """As ``study.json`` holds it."""
    return msgspec.json.format(msgspec.json.encode(study), indent=2) + b"\n"


def decode_study(raw: bytes) -> Study:
    """Read what ``encode_study`` wrote; msgspec.ValidationError for anything else."""
    return msgspec.json.decode(raw, type=Study)
