"""The figures of docs/results.md on simulated worlds: ``python -m benchmarks.study [--slates N] [--seeds N]``.

Each seed's stream is joined once; every model then learns the same batches, in a process of its own, and what it
predicted is kept under build/study, so that a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.probe import overlap
from instep.settings import Settings, check
from instep.simulator import Drift, MovedItems, NewItems, Truth, World, events
from stream.events import Event, Sample, Tick, encode_event, key_of
from stream.files import partition_of
from stream.join import Dead, Joiner
from stream.log import Record
from trainer.batch import make_batch
from trainer.batcher import Batcher
from trainer.intervals import Estimate, paired_bootstrap
from trainer.learner import Learner
from trainer.scores import auc, normalised_entropy

BUILD = Path("build/study")


@dataclass(frozen=True)
class Run:
    """One model of the study."""

    title: str
    unit: str = "eta"
    coded: int = 2
    every: int = 1
    frozen_at: float | None = None
    born: bool = True
    sharpness: float = 0.5
    warm_up: int | None = None
    world: str = "default"


RUNS = {
    "eta": Run("ETA, codes live"),
    "exact": Run("exact inner product, top 48", "exact"),
    "full": Run("full target attention", "full"),
    "full_2": Run("full target attention, sharpness 2", "full", sharpness=2.0),
    "full_quarter": Run("full target attention, sharpness 1/4", "full", sharpness=0.25),
    "category": Run("last 48 of the same category", "sim_hard"),
    "average": Run("average pooling", "average"),
    "short": Run("short only: attention over the recent 16", "short"),
    "every_10": Run("codes every 10 steps", every=10),
    "every_100": Run("codes every 100 steps", every=100),
    "every_1000": Run("codes every 1,000 steps", every=1000),
    "half": Run("codes frozen half way", frozen_at=0.5),
    "start": Run("codes frozen at the start", frozen_at=0.0),
    "cold": Run("ids compared from the first step on", warm_up=0),
    "moved": Run("ETA, codes live", world="moved"),
    "moved_10": Run("codes every 10 steps", every=10, world="moved"),
    "moved_100": Run("codes every 100 steps", every=100, world="moved"),
    "moved_1000": Run("codes every 1,000 steps", every=1000, world="moved"),
    "moved_half": Run("codes frozen half way", frozen_at=0.5, world="moved"),
    "id": Run("id alone, codes live", coded=1),
    "id_half": Run("id alone, codes frozen half way", coded=1, frozen_at=0.5),
    "id_start": Run("id alone, codes frozen at the start", coded=1, frozen_at=0.0),
    "born_category": Run("new items born from their category", world="arrivals"),
    "born_random": Run("new items born at random", world="arrivals", born=False),
}
ARRIVALS = tuple(NewItems(at, 0.05) for at in (0.5, 0.6, 0.7, 0.8, 0.9))
"""A twentieth more items at each of these moments of the stream."""
DRIFTS: dict[str, tuple[Drift, ...]] = {"default": (), "arrivals": ARRIVALS, "moved": (MovedItems(0.5, 0.3),)}
"""What changes in each world; in ``moved`` three tenths of the items take another topic half way."""


def settings(seed: int, run: Run) -> Settings:
    """The defaults, with the simulator's features."""
    model = {"seed": seed, "unit": run.unit, "coded": run.coded, "born_from_category": run.born}
    if run.warm_up is not None:
        model["warm_up_steps"] = run.warm_up
    features = [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}]
    return check({"features": features, "model": model})


def joined(world: World, n_slates: int, drifts: tuple[Drift, ...]) -> tuple[list[list[Sample]], Truth]:
    """The batches of a world's stream, through the joiner and the batcher that serve."""
    chosen, truth = settings(0, RUNS["eta"]), Truth()
    partitions = range(chosen.stream.partitions)
    joiners = {p: Joiner(chosen.join_rules(), chosen.fields, p) for p in partitions}
    rules = chosen.loop_rules()
    batcher = Batcher(partitions, rules.batch_samples, rules.batch_span_ms)
    batches, n_out = [], Counter[int]()
    for event in events(world, n_slates, drifts=drifts, truth=truth):
        for record in _records(event, joiners):
            for out in joiners[record.partition].apply(record):
                assert not isinstance(out, Dead)
                batcher.add(record.partition, n_out[record.partition], out)
                n_out[record.partition] += 1
        while (taken := batcher.take()) is not None:
            batches.append(taken[0])
    return batches, truth


def _records(event: Event, joiners: dict[int, Joiner]) -> Iterator[Record]:
    raw = encode_event(event)
    user = "" if isinstance(event, Tick) else event.user
    partitions = joiners if isinstance(event, Tick) else [partition_of(event.user, len(joiners))]
    for p in partitions:
        yield Record(p, joiners[p].next_offset, user.encode(), raw)


def prepare(seed: int, n_slates: int, world: str) -> Path:
    """Join a seed's stream, unless that was done."""
    path = BUILD / f"samples-{world}-{seed}-{n_slates}.pickle"
    if not path.exists():
        found = joined(World(seed=seed, slates_per_s=5.0), n_slates, DRIFTS[world])
        path.with_suffix(".part").write_bytes(pickle.dumps(found, protocol=5))
        path.with_suffix(".part").rename(path)
    return path


def learn(seed: int, name: str, n_slates: int) -> Path:
    """Let one model learn a seed's stream, unless that was done."""
    path = BUILD / f"{name}-{seed}-{n_slates}.npz"
    if path.exists():
        return path
    run = RUNS[name]
    batches, truth = pickle.loads(prepare(seed, n_slates, run.world).read_bytes())
    config = settings(seed, run).learner_config()
    config = replace(config, shape=replace(config.shape, sharpness=run.sharpness), refresh_every=run.every)
    learner = Learner(config, 1 << 18)
    topics = {key_of("item", item): topic for item, topic in truth.topics.items()}
    new = np.array([key_of("item", item) for item in truth.new_items], np.uint64)
    columns: dict[str, list[NDArray[Any]]] = {k: [] for k in ("p", "label", "user", "exposure", "truth")}
    probes, shown = [], Counter[int]()
    flips = np.zeros(len(batches), np.int64)
    for i, samples in enumerate(batches):
        learner.frozen = run.frozen_at is not None and i >= run.frozen_at * len(batches)
        batch = make_batch(samples, config.shape.n_item_fields, config.shape.n_kinds)
        predicted = learner.step(batch)
        flips[i] = predicted.n_flipped
        columns["p"].append(predicted.p[:, 0])
        columns["truth"] += [truth.p[s.impression] for s in samples]
        columns["label"].append(batch.labels[:, 0])
        columns["user"].append(batch.side[batch.slate, 0])
        exposure = np.zeros(batch.n_candidates, np.int64)  # 1 for the first time that a new item is shown
        for n in np.flatnonzero(np.isin(batch.items[:, 0], new)):
            shown[int(batch.items[n, 0])] += 1
            exposure[n] = shown[int(batch.items[n, 0])]
        columns["exposure"].append(exposure)
        if i >= len(batches) // 2 and i % 40 == 0:
            found = overlap(learner, batch, lambda keys: np.array([topics[int(k)] for k in keys], np.int64))
            probes.append((found.with_exact, found.topic_recall, found.by_chance))
    arrays = {k: np.concatenate(v) for k, v in columns.items()}
    arrays |= {"flips": flips, "probes": np.array(probes)}
    np.savez(path.with_suffix(".part.npz"), allow_pickle=False, **arrays)
    path.with_suffix(".part.npz").rename(path)
    print(f"{name} seed {seed}: AUC {100 * auc(*_half(arrays)[:2]):.2f}", flush=True)
    return path


def _half(arrays: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Predictions, labels and users of the last half of the stream."""
    half = len(arrays["p"]) // 2
    return arrays["p"][half:], arrays["label"][half:], arrays["user"][half:]


class Results:
    """What the models of all seeds predicted."""

    def __init__(self, seeds: int, n_slates: int) -> None:
        self.seeds = range(seeds)
        self.n_slates = n_slates

    def of(self, name: str, seed: int) -> dict[str, NDArray[Any]]:
        with np.load(BUILD / f"{name}-{seed}-{self.n_slates}.npz") as file:
            return dict(file)

    def mean_auc(self, name: str) -> float:
        return float(np.mean([auc(*_half(self.of(name, s))[:2]) for s in self.seeds]))

    def difference(self, a: str, b: str) -> Estimate:
        """AUC of a less AUC of b over the last half, mean of seeds; users are resampled within each seed."""
        return _mean_of([self._paired(a, b, s) for s in self.seeds])

    def _paired(self, a: str, b: str, seed: int) -> Estimate:
        p, y, user = _half(self.of(a, seed))
        q, _, _ = _half(self.of(b, seed))
        return paired_bootstrap(p, q, y, user, n=300, seed=seed)

    def new_items(self) -> tuple[float, float, Estimate, int]:
        """AUC of candidates that are new items in their first ten exposures: from category, at random, difference."""
        each, a_all, b_all, n = [], [], [], 0
        for s in self.seeds:
            a, b = self.of("born_category", s), self.of("born_random", s)
            early = (a["exposure"] > 0) & (a["exposure"] <= 10)
            y, user = a["label"][early], a["user"][early]
            a_all.append(auc(a["p"][early], y))
            b_all.append(auc(b["p"][early], y))
            each.append(paired_bootstrap(a["p"][early], b["p"][early], y, user, n=300, seed=s))
            n += int(early.sum())
        return float(np.mean(a_all)), float(np.mean(b_all)), _mean_of(each), n

    def row(self, name: str, against: str) -> str:
        probes = np.concatenate([self.of(name, s)["probes"] for s in self.seeds])
        flips = np.mean(
            [f[len(f) // 2 :].mean() * 100 for f in (self.of(name, s)["flips"] for s in self.seeds)]
        )
        ne = np.mean([normalised_entropy(*_half(self.of(name, s))[:2]) for s in self.seeds])
        with_exact, recall, chance = np.nanmean(probes, 0) if not np.isnan(probes).all() else [np.nan] * 3
        d = self.difference(name, against) if name != against else None
        cells = [
            RUNS[name].title,
            f"{100 * self.mean_auc(name):.2f}",
            "" if d is None else f"{100 * d.value:+.2f} ({100 * d.low:+.2f}, {100 * d.high:+.2f})",
            f"{ne:.4f}",
            "-" if np.isnan(recall) else f"{recall:.0%} ({chance:.0%})",
            "-" if np.isnan(with_exact) else f"{with_exact:.0%}",
            f"{flips:,.0f}" if RUNS[name].unit == "eta" else "-",
        ]
        return "| " + " | ".join(cells) + " |"


def _mean_of(each: list[Estimate]) -> Estimate:
    """Mean of independent seeds; the interval is normal, from their standard errors."""
    value = float(np.mean([e.value for e in each]))
    error = float(np.sqrt(np.sum([e.standard_error**2 for e in each]))) / len(each)
    return Estimate(value, error, value - 1.96 * error, value + 1.96 * error)


HEAD = (
    "| model | AUC | less {} (95 %) | NE | hidden topic found (by chance) | exact top 48 found "
    "| bits flipped / 100 steps |\n"
    "|---|---|---|---|---|---|---|"
)


def report(found: Results) -> str:
    """The tables, as Markdown."""
    present = {
        n for n in RUNS if all((BUILD / f"{n}-{s}-{found.n_slates}.npz").exists() for s in found.seeds)
    }

    def table(names: list[str], against: str, title: str) -> list[str]:
        return [HEAD.format(title), *(found.row(n, against) for n in names if n in present), ""]

    best = [auc(*_half({**found.of("eta", s), "p": found.of("eta", s)["truth"]})[:2]) for s in found.seeds]
    lines = [f"Best possible: {100 * float(np.mean(best)):.2f}.\n"]
    lines += table(
        ["eta", "exact", "full", "full_2", "full_quarter", "category", "average", "short"], "eta", "ETA's"
    )
    lines += table(["eta", "every_10", "every_100", "every_1000", "half", "start", "cold"], "eta", "live")
    moved = ["moved", "moved_10", "moved_100", "moved_1000", "moved_half"]
    if "moved" in present:
        lines += table(moved, "moved", "live, items moved half way")
    if "id" in present:
        lines += table(["id", "id_half", "id_start"], "id", "live")
    if {"born_category", "born_random"} <= present:
        a, b, d, n = found.new_items()
        lines.append(
            f"New items, first ten exposures ({n:,} candidates): born from their category {100 * a:.2f}, at random "
            f"{100 * b:.2f}; difference {100 * d.value:+.2f} ({100 * d.low:+.2f}, {100 * d.high:+.2f})."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slates", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    worlds = sorted({RUNS[n].world for n in args.only})
    with ProcessPoolExecutor(args.processes) as pool:
        for seed in range(args.seeds):
            list(pool.map(prepare, *zip(*[(seed, args.slates, w) for w in worlds], strict=True)))
            list(pool.map(learn, *zip(*[(seed, n, args.slates) for n in args.only], strict=True)))
    text = report(Results(args.seeds, args.slates))
    (BUILD / "report.md").write_text(text)
    print(json.dumps(vars(args)))
    print(text)


if __name__ == "__main__":
    main()
