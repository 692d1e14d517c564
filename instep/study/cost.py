"""What models cost on a log: candidates learned a second, and the time to rank a slate; in one process, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct

from instep.settings import Settings
from instep.study.learning import most_recent
from instep.study.results import Cost
from instep.study.spool import Spool, load
from trainer.batch import Batch, boundaries
from trainer.learner import Learner

N_CANDIDATES = 200
"""Of the slate that is ranked."""
N_BATCHES = 8
TURNS = 40


@dataclass(frozen=True)
class Measured:
    """One model to measure."""

    name: str
    settings: Settings
    length: int | None


class Kept(Struct):
    """What ``cost.json`` holds."""

    fingerprint: str
    cost: Cost


def measure(
    models: Sequence[Measured],
    spool: Path,
    n_batches: int,
    fingerprints: Sequence[str],
    folder: Path,
    tell: Callable[[int, int], None],
) -> None:
    """Measure models on batches of the last half of a log, each into a file of its own; those that are there stay.

    Only ratios within one machine and hour say much.
    """
    torch.set_num_threads(1)
    joined = load(spool)
    chosen = np.linspace(n_batches // 2, n_batches - 1, min(N_BATCHES, n_batches)).astype(int)
    batches = [next(joined.read(int(i))).batch for i in np.unique(chosen)]
    for n, (model, fingerprint) in enumerate(zip(models, fingerprints, strict=True)):
        path = folder / f"{model.name}.json"
        if kept(path, fingerprint) is None:
            own = [b if model.length is None else most_recent(b, model.length) for b in batches]
            raw = msgspec.json.encode(Kept(fingerprint, cost_of(model.settings, own)))
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            aside.write_bytes(raw)
            aside.replace(path)
        tell(n + 1, len(models))


def cost_of(settings: Settings, batches: Sequence[Batch]) -> Cost:
    """Medians of steps and of slates, after each batch was learned once; the model searches as one that is warm."""
    config = settings.with_model(warm_up_steps=0).learner_config()
    learner = Learner(replace(config, threads=1), settings.trainer.capacity)
    for batch in batches:
        learner.step(batch)
    slate = one_slate(batches)
    learner.predict(slate)
    learned, ranked = [], []
    for batch in islice(cycle(batches), TURNS):
        began = perf_counter()
        learner.step(batch)
        learned.append(batch.n_candidates / (perf_counter() - began))
        began = perf_counter()
        learner.predict(slate)
        ranked.append(1e3 * (perf_counter() - began))
    return Cost(round(median(learned), 1), round(median(ranked), 3))


def one_slate(batches: Sequence[Batch]) -> Batch:
    """`N_CANDIDATES` candidates of these batches, before the user with the longest history of them."""
    items = np.concatenate([b.items for b in batches])
    items = items[np.resize(np.arange(len(items)), N_CANDIDATES)]
    batch = max(batches, key=lambda b: int(np.diff(b.start).max()))
    b = int(np.diff(batch.start).argmax())
    own = slice(int(batch.start[b]), int(batch.start[b + 1]))
    return Batch(
        side=batch.side[b : b + 1],
        at_ms=batch.at_ms[b : b + 1],
        items=items,
        first=boundaries([N_CANDIDATES]),
        labels=np.zeros((N_CANDIDATES, batch.labels.shape[1]), np.float32),
        stage=np.zeros(1, np.uint8),
        sequence=batch.sequence[own],
        sequence_at=batch.sequence_at[own],
        start=boundaries([own.stop - own.start]),
    )


def kept(path: Path, fingerprint: str) -> Cost | None:
    """What was measured before, of just this."""
    try:
        found: Kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found.cost if found.fingerprint == fingerprint else None


def described(settings: Settings, length: int | None, spool: Spool, n_batches: int) -> dict[str, Any]:
    """Everything that a measurement is of."""
    model = msgspec.to_builtins(settings.model)
    return {"model": model, "length": length, "spool": spool.made_of, "n_batches": n_batches}
