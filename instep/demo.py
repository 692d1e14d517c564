"""A simulated product in the terminal: its click stream joined, learned, indexed and ranked, in one process.

Half way the world drifts. Two models learn beside the live one from the same batches: one whose codes are frozen at
that moment, and one that attends over the recent behaviours alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from instep.pipeline import Pipeline
from instep.probe import Overlap, overlap
from instep.settings import Settings, check
from instep.simulator import MovedItems, NewItems, ShiftedInterests, Truth, World, events
from instep.watching import watching
from monitor.monitor import Monitor
from monitor.server import Server
from ranker.mirror import Mirror
from ranker.ranker import Ranker
from stream.events import Action, Event, Impression, Origin, Tick, encode_event, key_of
from stream.log import MemoryLog
from stream.metrics import Metrics
from stream.partition import partition_of
from stream.profiles import MemoryProfiles
from stream.service import now_ms
from trainer.intervals import paired_bootstrap
from trainer.learner import Learner
from trainer.loop import Step
from trainer.scores import auc, normalised_entropy

SLATES_PER_MINUTE = 18_000
"""What two cores manage with three models learning."""
WINDOW = 20_000
"""Candidates behind each figure on the screen."""
SPARKS = "▁▂▃▄▅▆▇█"


@dataclass
class Track:
    """What one model said of every candidate."""

    p: list[NDArray[np.float32]] = field(default_factory=list)

    def all(self) -> NDArray[np.float32]:
        return np.concatenate([np.zeros(0, np.float32), *self.p])


class Demo:
    """The stream, the pipeline, two models beside it, and what is known of all of them."""

    def __init__(self, n_slates: int, seed: int, watch: Monitor | None = None) -> None:
        self.n_slates = n_slates
        self.world = World(
            seed=seed,
            n_users=800,
            n_items=1_200,
            history_median=200.0,
            history_days=2.0,
            slates_per_s=10.0,
            click_delay_s=4.0,
            click_delay_max_s=15.0,
            tail_s=60.0,
        )
        self.settings = settings(seed, n_slates)
        self._fields = self.settings.fields
        self.truth = Truth()
        drifts = (MovedItems(0.5, 0.3), ShiftedInterests(0.5, 0.3), NewItems(0.5, 0.1))
        self._events = events(self.world, n_slates, drifts=drifts, truth=self.truth)
        self._log = MemoryLog(self.settings.stream.partitions)
        self.pipeline = Pipeline(self.settings, self._log.source(), on_step=self._stepped, watch=watch)
        config = self.settings.learner_config()
        self.short = Learner(replace(config, shape=replace(config.shape, unit="short")), 1 << 20)
        self.frozen: Learner | None = None
        self.tracks = {name: Track() for name in ("live", "frozen", "short", "best")}
        self.labels: list[NDArray[np.float32]] = []
        self.users: list[NDArray[np.uint64]] = []
        self.n_before_drift = 0
        self.flipped: deque[int] = deque(maxlen=100)
        self.probes: list[tuple[int, Overlap]] = []
        self.profiles = MemoryProfiles(len(self._fields.item), self.settings.stream.max_history)
        self.mirror = Mirror(config.shape, config.bits, 1 << 20)
        self.ranker = Ranker(
            self.mirror, self.profiles, self.settings.scorer(), self.settings.stream.max_history
        )
        self._shown: Impression | None = None
        self._n_seen = 0
        self._last: Step | None = None

    def advance(self, n_events: int) -> bool:
        """Let the product send some events and the loop take them; False when the stream is over."""
        sent = list(islice(self._events, n_events))
        for event in sent:
            self._send(event)
        while self.pipeline.pump(4_096):
            pass
        self._log.trim(self.pipeline.source.offsets)
        self.mirror.follow(self.pipeline.index)
        return bool(sent)

    def finish(self) -> None:
        self.pipeline.finish()
        self.mirror.follow(self.pipeline.index)

    def probe(self) -> Overlap | None:
        """Compare the search of the live codes with the exact one, on the last batch."""
        if self._last is None:
            return None
        found = overlap(self.pipeline.learner, self._last.batch, self._topics)
        self.probes.append((self._last.version.step, found))
        return found

    def parity(self) -> float | None:
        """Greatest difference between a ranker's scores and the trainer's, for one slate at one Version."""
        if self._shown is None or not self.pipeline.loop.n_samples:
            return None
        self.pipeline.loop.publish()
        self.pipeline.publish()
        self.mirror.follow(self.pipeline.index)
        shown = self._shown
        args = (shown.user, shown.candidates, shown.context, shown.at_ms)
        ranked = self.ranker.rank(*args)
        trained = self.pipeline.learner.predict(self.ranker.slate(*args))[:, 0]
        return float(np.abs(ranked.scores - trained).max())

    @property
    def drifted(self) -> bool:
        return self.frozen is not None

    def _send(self, event: Event) -> None:
        raw = encode_event(event)
        if isinstance(event, Tick):
            for p in range(self._log.partitions):
                self._log.append(p, b"", raw)
            return
        partition = partition_of(event.user, self._log.partitions)
        offset = self._log.append(partition, event.user.encode(), raw)
        if isinstance(event, Action):
            keys = self._fields.item_keys(event.item, event.features)
            kind = key_of("kind", event.kind)
            origin = Origin(partition, offset, 0)
            self.profiles.put(key_of("user", event.user), origin, keys, event.at_ms, kind)
        else:
            self._shown = event

    def _stepped(self, step: Step) -> None:
        self._n_seen += len(step.samples)
        self._last = step
        self.flipped.append(step.predicted.n_flipped)
        self.tracks["live"].p.append(step.predicted.p[:, 0])
        self.tracks["short"].p.append(self.short.step(step.batch).p[:, 0])
        frozen = self.frozen.step(step.batch) if self.frozen else step.predicted
        self.tracks["frozen"].p.append(frozen.p[:, 0])
        self.tracks["best"].p.extend(self.truth.p.pop(s.impression).astype(np.float32) for s in step.samples)
        self.labels.append(step.batch.labels[:, 0])
        self.users.append(step.batch.side[step.batch.slate, 0])
        if self.frozen is None and self._n_seen >= self.n_slates // 2:
            live = self.pipeline.learner  # which has learned this batch: the copy begins with the next
            self.frozen = Learner.restore(live.config, live.state(), 1 << 20)
            self.frozen.frozen = True
            self.n_before_drift = sum(map(len, self.labels))

    def _topics(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        known = {key_of("item", item): topic for item, topic in self.truth.topics.items()}
        return np.array([known.get(int(k), -1) for k in keys], np.int64)


def settings(seed: int, n_slates: int) -> Settings:
    """Those of the demo, whose stream is short: an eighth of it is warm-up."""
    batch_samples = Settings().trainer.batch_samples
    return check(
        {
            "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
            "stream": {"windows": {"click": 15_000}, "lateness_ms": 1_000},
            "trainer": {"publish_ms": 5_000},
            "model": {"seed": seed, "warm_up_steps": n_slates // batch_samples // 8},
        }
    )


def run(console: Console, out: Path, *, minutes: float, n_slates: int | None, seed: int) -> None:
    """Show it, then print what it shows; the monitor's page is there meanwhile, and stays in ``out`` as a file."""
    n_slates = n_slates or max(400, round(minutes * SLATES_PER_MINUTE))
    with watching(settings(seed, n_slates), out) as watched:
        monitor = watched.monitor
        demo = Demo(n_slates, seed, monitor)
        screen = Screen(demo)
        with Server(monitor.board, Metrics("monitor"), "127.0.0.1", 0) as page:
            console.print(f"what a monitor sees of it: http://127.0.0.1:{page.port}/")
            console.print("users' histories are joined first, then the stream begins ...")
            with Live(console=console, refresh_per_second=4, transient=False) as live:
                while demo.advance(2_000):
                    monitor.turn()
                    monitor.tell(now_ms())
                    live.update(screen.render())
                demo.finish()
                live.update(screen.render())
        watched.keep()
    if not console.is_terminal:
        console.line()  # which only a terminal gets from Live
    console.print(verdict(demo))
    console.print(f"what the monitor saw: {watched.folder.draw()}", soft_wrap=True)


class Screen:
    """The live view."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self._began = time.monotonic()
        self._curve: list[float] = []
        self._drift_at: int | None = None
        self._probe: Overlap | None = None
        self._parity: float | None = None
        self._n_renders = 0

    def render(self) -> Panel:
        demo, pipeline = self._demo, self._demo.pipeline
        n = pipeline.n_candidates
        if n == 0:
            self._began = time.monotonic()
            n_joined = sum(j.counts["in"] for j in pipeline.joiners.values())
            return Panel(Text(f"{n_joined:,} events of history joined"), title="instep")
        y = _tail(demo.labels)
        p = _tail(demo.tracks["live"].p)
        best = _tail(demo.tracks["best"].p)
        if self._n_renders % 5 == 0:
            self._probe, self._parity = demo.probe(), demo.parity()
        self._n_renders += 1
        self._curve.append(auc(p, y))
        if demo.drifted and self._drift_at is None:
            self._drift_at = len(self._curve)
        table = Table.grid(padding=(0, 3))
        for left, right in self._figures(n, p, best, y):
            table.add_row(left, right)
        bar = ProgressBar(total=demo.n_slates, completed=pipeline.loop.n_samples, width=60)
        lines = Padding(bar, 0)  # a bar by itself ends no line
        return Panel(Group(lines, table, self._spark()), title="instep: the loop in one process")

    def _figures(
        self, n: int, p: NDArray[np.float32], best: NDArray[np.float32], y: NDArray[np.float32]
    ) -> Iterator[tuple[str, str]]:
        demo, pipeline = self._demo, self._demo.pipeline
        start = demo.world.start_ms
        rate = n / max(1e-9, time.monotonic() - self._began)
        minutes = (pipeline.loop.at_ms - start) / 60_000
        yield "event time", f"{minutes:.1f} min    {n:,} candidates    {rate:,.0f} candidates/s, three models"
        yield "AUC", f"{auc(p, y):.4f}    best possible {auc(best, y):.4f}"
        yield "NE", f"{normalised_entropy(p, y):.4f}    best possible {normalised_entropy(best, y):.4f}"
        versions = (pipeline.loop.version, pipeline.index.version, demo.mirror.version)
        yield "Version", "trainer {}    index {}    ranker {}".format(*versions)
        yield "codes", f"{sum(demo.flipped):,} bits flipped in the last {len(demo.flipped)} steps"
        if self._parity is not None:
            yield "parity", f"ranker and trainer at one Version differ by {self._parity:.1e}"
        if self._probe is not None:
            yield (
                "search",
                f"{self._probe.with_exact:.0%} of the exact top {demo.settings.model.top_k} found    "
                f"hidden topic: {self._probe.topic_recall:.0%} found, {self._probe.by_chance:.0%} by chance",
            )

    def _spark(self) -> Text:
        low, high = min(self._curve), max(self._curve) + 1e-9
        width = 70
        at = np.linspace(0, len(self._curve) - 1, min(width, len(self._curve))).astype(int)
        marks = Text("AUC  ")
        for i in at:
            height = SPARKS[int((self._curve[i] - low) / (high - low) * (len(SPARKS) - 1))]
            late = self._drift_at is not None and i >= self._drift_at
            marks.append(height, style="yellow" if late else "green")
        return marks.append("  yellow: after the drift" if self._drift_at is not None else "")


def verdict(demo: Demo) -> Table:
    """Codes live against codes frozen half way against the recent behaviours alone, on the same candidates."""
    y, users = np.concatenate(demo.labels), np.concatenate(demo.users)
    after = slice(demo.n_before_drift, None)
    before = slice(0, demo.n_before_drift)
    live = demo.tracks["live"].all()
    table = Table(title=f"{len(y):,} candidates; the world drifted half way")
    for column in ("", "AUC before", "AUC after", "NE after", "live is better by (95 %)"):
        table.add_column(column, justify="left" if not column else "right")
    names = {
        "best": "best possible",
        "live": "ETA, codes live",
        "frozen": "ETA, codes frozen half way",
        "short": "recent behaviours alone",
    }
    for name, title in names.items():
        p = demo.tracks[name].all()
        better = ""
        if name in ("frozen", "short"):
            d = paired_bootstrap(live[after], p[after], y[after], users[after], n=200)
            better = f"{100 * d.value:+.2f} points ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
        table.add_row(
            title,
            f"{100 * auc(p[before], y[before]):.2f}",
            f"{100 * auc(p[after], y[after]):.2f}",
            f"{normalised_entropy(p[after], y[after]):.4f}",
            better,
        )
    return table


def _tail(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The last WINDOW values."""
    taken, n = [], 0
    for part in reversed(parts):
        taken.append(part)
        n += len(part)
        if n >= WINDOW:
            break
    return np.concatenate(taken[::-1])[-WINDOW:]
