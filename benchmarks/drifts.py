"""What the monitor sees: every injection in a simulated world, and worlds in which nothing happens.

``python -m benchmarks.drifts`` runs the whole pipeline with the monitor's windows and rules, and prints two tables:
which alerts each injection raised, within how many windows; and how many a day there are without any. ``--only NAME``
runs one, ``--out FILE`` writes the tables as Markdown too.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from benchmarks.detectors import markdown
from benchmarks.watched import Watched
from instep.drifts import ConstantFeature, CtrJump, DeadClicks, Drift, NewCategory, SwappedIds
from instep.faults import Faults, lines
from instep.injections import rotate, stalled_indexer, stopped_trainer
from instep.pipeline import Pipeline
from instep.settings import Settings, check
from instep.simulator import World, events
from monitor.alert import Alert
from monitor.alerting import Judge
from monitor.rules import Rules, read_rules
from stream.events import Tick, decode_event
from stream.files import partition_of
from stream.log import MemoryLog

WORLD = World(n_users=1_000, n_items=1_000, history_median=100, history_days=0.5, slates_per_s=5, tail_s=180)
BEFORE_MIN, AFTER_MIN = 90, 30
"""Minutes of an injected world before it and after it."""
CALM_MIN, SEEDS = 480, (1, 2, 3)
"""Of a world in which nothing happens."""
MINUTE_MS = 60_000
POLL = 2_000
WITHIN = 2
"""Windows within which an injection is to be seen."""

During = Callable[[Pipeline], AbstractContextManager[None]]


@contextmanager
def _rotated(pipeline: Pipeline) -> Iterator[None]:
    rotate(pipeline)
    yield


@dataclass(frozen=True)
class Injection:
    """One thing that goes wrong, and the rule that is to say so."""

    rule: str
    drifts: Callable[[float], tuple[Drift, ...]] = lambda at: ()
    """Of the world, at a fraction of the stream."""
    faults: Faults | None = None
    """Of the lines, from then on."""
    during: During | None = None
    """Of the pipeline."""


INJECTIONS: dict[str, Injection] = {
    "CTR times two": Injection("ctr-jump", lambda at: (CtrJump(at, 1.6),)),
    "clicks stop": Injection("clicks-stopped", lambda at: (DeadClicks(at, 1.0),)),
    "ids swap": Injection("ids-swapped", lambda at: (SwappedIds(at),)),
    "embeddings rotated": Injection("codes-jumped", during=_rotated),
    "indexer stalled": Injection("indexer-stalled", during=stalled_indexer),
    "trainer stopped": Injection("trainer-stopped", during=stopped_trainer),
    "10 % poison": Injection("poison", faults=Faults(0, 0, broken=0.1)),
    "a feature goes constant": Injection("feature-constant", lambda at: (ConstantFeature(at),)),
    "a new category": Injection("new-category", lambda at: (NewCategory(at),)),
}


def settings() -> Settings:
    """A small model, windows of a minute."""
    return check(
        {
            "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
            "stream": {"partitions": 2, "windows": {"click": 60_000}, "max_dead": 1.0},
            "model": {"dim": 16, "heads": 2, "mlp": [64, 32], "top_k": 16, "seed": 1},
            "trainer": {"batch_samples": 32, "publish_ms": 5_000, "capacity": 1 << 16, "threads": 1},
        }
    )


@dataclass
class Found:
    """What a run showed."""

    at_ms: int
    """When something was injected; the end of the stream where nothing was."""
    alerts: list[Alert] = field(default_factory=list)
    n_silenced: Counter[str] = field(default_factory=Counter)
    n_rows: int = 0
    took_s: float = 0.0

    def early(self) -> list[Alert]:
        """Alerts of windows that were over before."""
        return [a for a in self.alerts if a.raised_ms <= self.at_ms]

    def windows(self, rule: str) -> int | None:
        """Windows until a rule's first alert; None if it has none."""
        raised = [a for a in self.alerts if a.rule == rule and a.raised_ms > self.at_ms]
        return math.ceil((raised[0].raised_ms - self.at_ms) / raised[0].size_ms) if raised else None


def run(world: World, rules: Rules, minutes: int, at_min: int, injection: Injection | None) -> Found:
    """The pipeline over a world, with its windows judged as they close."""
    began = time.perf_counter()
    n_slates = round(minutes * 60 * world.slates_per_s)
    at_ms = world.start_ms + at_min * MINUTE_MS
    drifts = injection.drifts(at_min / minutes) if injection else ()
    faults = injection.faults if injection else None
    stream = lines(events(world, n_slates, drifts=drifts), faults, from_ms=at_ms)
    chosen = settings()
    log = MemoryLog(chosen.stream.partitions)
    pipeline = Pipeline(chosen, log.source())
    watched, judge, found = Watched(pipeline), Judge(rules), Found(at_ms)
    with ExitStack() as stack:
        is_due = injection is not None and injection.during is not None
        while sent := list(islice(stream, POLL // 20)):
            clock_ms = 0
            for line in sent:
                clock_ms = max(clock_ms, _append(log, line))
            if is_due and clock_ms >= at_ms and injection is not None and injection.during is not None:
                stack.enter_context(injection.during(pipeline))
                is_due = False
            while pipeline.pump(POLL):
                pass
            watched.look()
            log.trim(pipeline.source.offsets)
            for row in watched.take():
                if row.start_ms < world.start_ms:
                    continue
                judged = judge.add(row)
                found.n_rows += 1
                found.alerts += judged.raised
                found.n_silenced.update(s.alert.rule for s in judged.silenced)
        watched.close()
    found.took_s = time.perf_counter() - began
    return found


def _append(log: MemoryLog, line: bytes) -> int:
    """Put a line into its partition, as a file is dealt; its event time, 0 for one that cannot be read."""
    try:
        event = decode_event(line)
    except ValueError:
        log.append(0, b"", line)
        return 0
    if isinstance(event, Tick):
        for p in range(log.partitions):
            log.append(p, b"", line)
        return event.at_ms
    log.append(partition_of(event.user, log.partitions), event.user.encode(), line)
    return 0  # of what is far ahead too


def injected(name: str, rules: Rules) -> tuple[list[str], bool, Found]:
    """One row of the first table, and whether it is as it should be."""
    injection = INJECTIONS[name]
    found = run(WORLD, rules, BEFORE_MIN + AFTER_MIN, BEFORE_MIN, injection)
    windows = found.windows(injection.rule)
    others = Counter(a.rule for a in found.alerts if a.rule != injection.rule)
    ok = windows is not None and windows <= WITHIN and not others
    silenced = ", ".join(sorted(found.n_silenced)) or "none"
    told = "not seen" if windows is None else str(windows)
    return [name, injection.rule, told, _counted(others), silenced], ok, found


def calm(rules: Rules, seeds: Sequence[int], minutes: int) -> tuple[list[list[str]], int]:
    """The rows of the second table, and how many alerts there were."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        world = World(**{**WORLD.__dict__, "seed": seed})
        found = run(world, rules, minutes, minutes, None)
        counts.update(a.rule for a in found.alerts)
        _say(f"calm, seed {seed}", found)
    days = len(seeds) * minutes / 1_440
    return [
        [rule.id, str(counts[rule.id]), f"{counts[rule.id] / days:.2f}"] for rule in rules
    ], counts.total()


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{rule} ({n})" if n > 1 else rule for rule, n in sorted(counts.items())) or "none"


def _say(name: str, found: Found) -> None:
    print(f"# {name}: {found.n_rows} windows in {found.took_s:.0f} s", flush=True)
    for alert in found.alerts:
        minute = (alert.raised_ms - found.at_ms) / MINUTE_MS
        print(f"#   {minute:+.1f} min {alert.rule} {alert.metric}: {alert.reason}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", choices=[*INJECTIONS, "calm", "injections"])
    parser.add_argument("--minutes", type=int, default=CALM_MIN, help="of a world in which nothing happens")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--rules", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rules, text, ok = read_rules(args.rules), "", True
    names = [n for n in INJECTIONS if args.only in (None, "injections", n)]
    rows = []
    for name in names:
        row, good, found = injected(name, rules)
        _say(name, found)
        rows.append(row)
        ok &= good
    if rows:
        heads = [
            "injected",
            "alert",
            "within windows",
            "what else was raised",
            "what was silent as explained",
        ]
        text += markdown(heads, rows) + "\n"
    if args.only in (None, "calm"):
        rows, n = calm(rules, SEEDS[: args.seeds], args.minutes)
        ok &= n == 0
        text += markdown(["rule", "alerts", "a day"], rows)
    print(text)
    if args.out is not None:
        args.out.write_text(text)
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
