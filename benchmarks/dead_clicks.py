"""A feed of clicks that dies: what training does about it, and what it costs without.

    python -m benchmarks.dead_clicks [--slates 30000] [--seeds 3]

The same simulated worlds three times: their clicks never lost; lost for a tenth of the stream with the breaker; lost
without it. Users go on clicking all the same, so slates and what becomes of them are the same in all three, and what
comes after the feed is back is compared candidate by candidate. Worlds that lose nothing are watched for holds that
nothing asked for.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.drifts import DeadClicks
from instep.pipeline import Pipeline
from instep.settings import Settings, check
from instep.simulator import events
from instep.world import World
from stream.events import Tick, encode_event
from stream.log import MemoryLog
from stream.partition import partition_of
from trainer.intervals import paired_entropy_bootstrap
from trainer.loop import Step
from trainer.scores import auc, normalised_entropy

DEAD = DeadClicks(0.5, 0.6)
POLL = 2_000


@dataclass
class Ran:
    """What a pipeline predicted and when it held."""

    p: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    labels: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    at_ms: dict[str, int] = field(default_factory=dict)
    user: dict[str, int] = field(default_factory=dict)
    holds: list[tuple[int, int, str]] = field(default_factory=list)
    """From and to, as closing times of samples, and why first."""
    n_held: int = 0
    last_ms: int = -1

    def stepped(self, step: Step) -> None:
        first = step.batch.first
        for b, sample in enumerate(step.samples):
            own = slice(first[b], first[b + 1])
            self.p[sample.impression] = step.predicted.p[own, 0]
            self.labels[sample.impression] = step.batch.labels[own, 0]
            self.at_ms[sample.impression] = sample.at_ms
            self.user[sample.impression] = sample.user
        closed_ms = step.samples[-1].closed_ms
        if step.why_held:
            self.n_held += len(step.samples)
            if self.holds and self.holds[-1][1] == self.last_ms:
                self.holds[-1] = (self.holds[-1][0], closed_ms, self.holds[-1][2])
            else:
                self.holds.append((closed_ms, closed_ms, step.why_held))
        self.last_ms = closed_ms


def settings(seed: int, mode: str) -> Settings:
    """Of the simulated product, with the breaker or without."""
    return check(
        {
            "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
            "model": {"seed": seed},
            "breaker": {"mode": mode},
        }
    )


def ran(world: World, n_slates: int, *, dead: bool, mode: str) -> Ran:
    """A world through the loop in one process."""
    chosen = settings(world.seed, mode)
    n = chosen.stream.partitions
    log, got = MemoryLog(n), Ran()
    pipeline = Pipeline(chosen, log.source(), on_step=got.stepped)
    waiting = 0
    for event in events(world, n_slates, drifts=(DEAD,) if dead else ()):
        raw = encode_event(event)
        for p in range(n) if isinstance(event, Tick) else (partition_of(event.user, n),):
            log.append(p, b"", raw)
            waiting += 1
        if waiting >= POLL:
            while pipeline.pump(POLL):
                pass
            log.trim(pipeline.source.offsets)
            waiting = 0
    while pipeline.pump(POLL):
        pass
    pipeline.finish()
    return got


def shown_from(of: Ran, at_ms: int) -> list[str]:
    return [name for name, when in of.at_ms.items() if when >= at_ms]


def figures(of: Ran, truth: Ran, names: list[str]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Predictions, the labels of the run that lost nothing, and users, of these slates."""
    p = np.concatenate([of.p[name] for name in names])
    y = np.concatenate([truth.labels[name] for name in names])
    user = np.concatenate([np.full(len(of.p[name]), of.user[name], np.uint64) for name in names])
    return p, y, user


def measure(seed: int, n_slates: int) -> dict[str, Any]:
    """One world three times."""
    world = World(seed=seed)
    whole = ran(world, n_slates, dead=False, mode="hold")
    held = ran(world, n_slates, dead=True, mode="hold")
    without = ran(world, n_slates, dead=True, mode="off")
    died_ms, back_ms = (
        whole.at_ms[f"s{int(DEAD.at * n_slates)}"],
        whole.at_ms[f"s{int(DEAD.until * n_slates)}"],
    )
    resumed_ms = max((end for _, end, _ in held.holds), default=0)
    window_ms = settings(seed, "hold").breaker.window_ms
    found: dict[str, Any] = {
        "seed": seed,
        "false_holds": len(whole.holds),
        "why": [why for *_, why in held.holds],
        "windows_to_hold": round((held.holds[0][0] - died_ms) / window_ms, 2) if held.holds else None,
        "windows_to_learn_again": round((resumed_ms - back_ms) / window_ms, 2),
        "slates_held": held.n_held,
        "slates_in_dead": sum(died_ms <= at < back_ms for at in whole.at_ms.values()),
    }
    for title, from_ms, to_ms in (
        ("while dead", died_ms, back_ms),
        ("first 2,000 slates after it is back", back_ms, None),
        ("after training resumed", resumed_ms, None),
    ):
        names = [n for n in shown_from(whole, from_ms) if to_ms is None or whole.at_ms[n] < to_ms]
        names = names[:2_000] if title.startswith("first") else names
        row: dict[str, Any] = {"slates": len(names)}
        p, y, user = figures(whole, whole, names)
        row["never lost"] = {"ne": normalised_entropy(p, y), "auc": auc(p, y)}
        for name, of in (("breaker", held), ("no breaker", without)):
            q, _, _ = figures(of, whole, names)
            less = paired_entropy_bootstrap(q, p, y, user, n=200)
            ne = normalised_entropy(q, y)
            row[name] = {
                "ne": ne,
                "auc": auc(q, y),
                "ne_more_in_%": 100 * (ne / row["never lost"]["ne"] - 1),
                "ne_more": [less.value, less.low, less.high],
            }
        found[title] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slates", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/dead-clicks.json"))
    args = parser.parse_args()
    found = []
    for seed in range(args.seeds):
        found.append(measure(seed, args.slates))
        print(json.dumps(found[-1], indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
