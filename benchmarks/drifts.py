"""What the monitor sees: every injection in a simulated world, and worlds in which nothing happens.

``python -m benchmarks.drifts`` runs the whole pipeline with the monitor's windows and rules, and prints two tables:
which alerts each injection raised, within how many windows; and how many a day there are without any. ``--only NAME``
runs one, ``--out FILE`` writes the tables as Markdown too.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from benchmarks.detectors import markdown
from instep.drifts import ConstantFeature, CtrJump, DeadClicks, Drift, NewCategory, SwappedIds
from instep.faults import Faults, lines
from instep.injections import rotate, stalled_indexer, stopped_trainer
from instep.pipeline import Pipeline
from instep.settings import Settings, check
from instep.simulator import World, events
from monitor.alert import Alert
from monitor.alerting import Judge
from monitor.row import Row
from monitor.rules import Rules, read_rules
from monitor.watch import Watch
from stream.events import BadEvent, Event, Impression, Tick, decode_event
from stream.log import MemoryLog
from stream.partition import partition_of

ATTRIBUTION_S = 25.0
WORLD = World(
    n_users=1_000,
    n_items=1_000,
    history_median=100,
    history_days=0.5,
    slates_per_s=5,
    click_delay_s=8,
    click_delay_max_s=ATTRIBUTION_S,
)
BEFORE_MIN, AFTER_MIN = 90 + 1 / 3, 30
"""Minutes of an injected world before it and after it; it comes within a window, not between two."""
CALM_MIN, SEEDS = 480, (1, 2, 3)
"""Of a world in which nothing happens."""
MINUTE_MS = 60_000
SPARE_MIN = 10
AT_ONCE = 100
"""Events between two looks: some five seconds of event time."""
TICK = b'{"type":"tick"'
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
    silent: bool = False
    """Whether only Ticks come from then on."""


INJECTIONS: dict[str, Injection] = {
    "CTR times two": Injection("ctr-jump", lambda at: (CtrJump(at, 1.6),)),
    "clicks stop": Injection("clicks-stopped", lambda at: (DeadClicks(at, 1),)),
    "ids swap": Injection("ids-swapped", lambda at: (SwappedIds(at),)),
    "embeddings rotated": Injection("codes-jumped", during=_rotated),
    "indexer stalled": Injection("indexer-stalled", during=stalled_indexer),
    "trainer stopped": Injection("trainer-stopped", during=stopped_trainer),
    "10 % poison": Injection("poison", faults=Faults(0, 0, broken=0.1)),
    "events stop": Injection("events-stopped", silent=True),
    "10 % too late": Injection("late", faults=Faults(0, 0.1, late_s=120)),
    "10 % twice": Injection("duplicates", faults=Faults(0.1, 0)),
    "a feature goes constant": Injection("feature-constant", lambda at: (ConstantFeature(at),)),
    "a new category": Injection("new-category", lambda at: (NewCategory(at),)),
}


def settings() -> Settings:
    """A small model, windows of a minute."""
    return check(
        {
            "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
            "stream": {"partitions": 2, "windows": {"click": round(ATTRIBUTION_S * 1_000)}, "max_dead": 1.0},
            "model": {"dim": 16, "heads": 2, "mlp": [64, 32], "top_k": 16, "seed": 1},
            "trainer": {"batch_samples": 32, "publish_ms": 5_000, "capacity": 1 << 16, "threads": 1},
        }
    )


@dataclass
class Found:
    """What a run showed."""

    at_ms: int
    """When something was injected; the end where nothing was."""
    alerts: list[Alert] = field(default_factory=list)
    n_silenced: Counter[str] = field(default_factory=Counter)
    n_rows: int = 0
    took_s: float = 0.0

    def judge(self, judge: Judge, rows: Sequence[Row]) -> None:
        """What the rules say of windows."""
        for row in rows:
            judged = judge.add(row)
            self.n_rows += 1
            self.alerts += judged.raised
            self.n_silenced.update(s.alert.rule for s in judged.silenced)

    def windows(self, rule: str) -> int | None:
        """Windows that closed from then on until a rule's first alert, that one too; None if it has none."""
        raised = [a for a in self.alerts if a.rule == rule and a.raised_ms > self.at_ms]
        if not raised:
            return None
        first = raised[0]
        return first.raised_ms // first.size_ms - self.at_ms // first.size_ms


def run(world: World, rules: Rules, minutes: float, at_min: float, injection: Injection | None) -> Found:
    """The pipeline over so many minutes of a world, with its windows judged as they close."""
    began = time.perf_counter()
    n_slates = round(
        (minutes + SPARE_MIN) * 60 * world.slates_per_s
    )  # the stream does not end within these minutes
    n_before = round(at_min * 60 * world.slates_per_s)
    found = Found(world.start_ms + round(at_min * MINUTE_MS))
    drifts = injection.drifts(n_before / n_slates) if injection else ()
    faults = injection.faults if injection else None
    stream = lines(events(world, n_slates, drifts=drifts), faults, from_ms=found.at_ms)
    during = injection.during if injection else None
    is_silent = injection is not None and injection.silent
    chosen = settings()
    log = MemoryLog(chosen.stream.partitions)
    watch, judge, clock_ms, n_shown = Watch(chosen.watch_rules()), Judge(rules), 0, 0
    pipeline = Pipeline(chosen, log.source(), watch=watch)
    with ExitStack() as stack:
        while clock_ms < world.start_ms + minutes * MINUTE_MS:
            for line in islice(stream, AT_ONCE):
                if is_silent and clock_ms >= found.at_ms and not line.startswith(TICK):
                    continue
                event = _append(log, line)
                if isinstance(event, Tick):
                    clock_ms = event.at_ms
                elif isinstance(event, Impression):
                    n_shown += 1
                    if n_shown == n_before + 1 and drifts:
                        found.at_ms = event.at_ms
            if during is not None and clock_ms >= found.at_ms:
                stack.enter_context(during(pipeline))
                during = None
            while pipeline.pump(AT_ONCE):
                pass
            log.trim(pipeline.source.offsets)
            found.judge(judge, [row for row in watch.take() if row.start_ms >= world.start_ms])
    found.took_s = time.perf_counter() - began
    return found


def _append(log: MemoryLog, line: bytes) -> Event | None:
    """Put a line into its partition, as a file is dealt; the event, None for one that cannot be read."""
    try:
        event = decode_event(line)
    except BadEvent:
        log.append(0, b"", line)
        return None
    if isinstance(event, Tick):
        for p in range(log.partitions):
            log.append(p, b"", line)
    else:
        log.append(partition_of(event.user, log.partitions), event.user.encode(), line)
    return event


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
