"""What workers write about a small product, without workers: samples with Ticks, scores and publications, hand-made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from monitor.monitor import Monitor
from monitor.watch import Watch
from monitor.watched import WatchRules
from stream.events import Origin, Sample, Tick, Version, key_of
from trainer.model.simhash import make_planes
from trainer.publication import Publication, Refused
from trainer.scored import Scored, scored

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
ITEM_FIELDS, SIDE_FIELDS = ("item", "category"), ("user", "device")
DIM, K = 4, 3
PLANES = make_planes(2, DIM, 64, seed=1)
MINUTE_MS = 60_000

Message = Sample | Tick | Scored | Publication | Refused


def rules(partitions: int = 2, kinds: tuple[str, ...] = ("click",)) -> WatchRules:
    return WatchRules(tuple(range(partitions)), kinds, ITEM_FIELDS, SIDE_FIELDS, PLANES, K)


def item_keys(items: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 ``[n, 2]``."""
    keys = [(key_of("item", str(i)), key_of("category", str(i % 5))) for i in items.tolist()]
    return np.array(keys, np.uint64).reshape(-1, 2)


@dataclass
class Messages:
    """Records in the order in which each partition of each topic holds them."""

    samples: dict[int, list[Sample | Tick]]
    scores: dict[int, list[Scored]]
    model: list[Publication] = field(default_factory=list)
    refused: dict[int, Refused] = field(default_factory=dict)
    """On the model log too, each behind so many publications."""

    @property
    def streams(self) -> list[tuple[str, int, list[Message]]]:
        return [
            *(("samples", p, list[Message](of)) for p, of in self.samples.items()),
            *(("scores", p, list[Message](of)) for p, of in self.scores.items()),
            ("model", 0, self.model_log),
        ]

    @property
    def model_log(self) -> list[Message]:
        found: list[Message] = []
        for n, publication in enumerate(self.model, 1):
            found += [publication, self.refused[n]] if n in self.refused else [publication]
        return found


def feed(watch: Watch | Monitor, topic: str, partition: int, offset: int, message: Message) -> None:
    """One record."""
    if isinstance(message, Scored):
        watch.scored(partition, offset, message)
    elif isinstance(message, Publication):
        watch.published(message, offset + 1)
    elif isinstance(message, Refused):
        watch.refused(message, offset + 1)
    else:
        watch.sample(partition, offset, message)


def feed_all(watch: Watch, messages: Messages) -> Watch:
    """All of it, samples first."""
    for topic, partition, records in messages.streams:
        for offset, message in enumerate(records):
            feed(watch, topic, partition, offset, message)
    return watch


def make(
    n_minutes: int,
    *,
    a_minute: int = 4,
    partitions: int = 2,
    kinds: tuple[str, ...] = ("click",),
    seed: int = 0,
    n_items: int = 30,
    served: bool = True,
    publish_ms: int = 20_000,
    candidates: tuple[int, int] = (1, 6),
) -> Messages:
    """A product of which everybody knows everything in time."""
    rng = np.random.default_rng(seed)
    made = Messages({p: [] for p in range(partitions)}, {p: [] for p in range(partitions)})
    vectors = rng.normal(size=(n_items + 5, DIM)).astype(np.float32)
    read = {p: {"impression": 100, "click": 10} for p in range(partitions)}
    counts = {p: {"in": 150, "used.tick": 40, "pending": 3, "dead.undecodable": 1} for p in range(partitions)}
    for p in range(partitions):
        made.samples[p].append(Tick(START_MS, read=dict(read[p]), counts=dict(counts[p])))
    n_slates = n_minutes * a_minute
    closed = START_MS + np.sort(rng.integers(0, n_minutes * MINUTE_MS, n_slates))
    steps = iter(range(1, n_slates + 1))
    published = told = START_MS
    for n, closed_ms in enumerate(closed.tolist()):
        for tick_ms in range(told // 10_000 * 10_000 + 10_000, closed_ms, 10_000):
            for p in range(partitions):
                read[p]["impression"] += int(rng.poisson(3))
                read[p]["click"] += int(rng.poisson(1))
                counts[p]["in"] += int(rng.poisson(5)) + 1
                counts[p]["used.tick"] += 1
                counts[p]["dead.undecodable"] += int(rng.random() < 0.1)
                made.samples[p].append(Tick(tick_ms - 1, read=dict(read[p]), counts=dict(counts[p])))
            told = tick_ms
        user = int(rng.integers(8))
        p, version = user % partitions, Version(0, next(steps))
        items = rng.choice(n_items, rng.integers(*candidates), replace=False)
        predicted = 1 / (1 + np.exp(-rng.normal(-1, 1, (len(items), len(kinds)))))
        labels = (rng.random(predicted.shape) < predicted).astype(np.uint8)
        behaviours = rng.choice(n_items, rng.integers(0, 12))
        side = np.array([key_of("user", str(user)), key_of("device", str(user % 3))], np.uint64)
        sample = Sample(
            impression=f"s{n}",
            user=int(side[0]),
            at_ms=closed_ms - 10_000,
            closed_ms=closed_ms,
            origin=Origin(p, 7 * n, 0),
            side=side.tobytes(),
            items=item_keys(items).tobytes(),
            labels=labels.tobytes(),
            sequence=item_keys(behaviours).tobytes(),
            sequence_at=(closed_ms - 20_000 - np.arange(len(behaviours))[::-1]).astype(np.int64).tobytes(),
            scores=np.clip(predicted[:, 0] * 1.1, 0, 1).tobytes() if served else b"",
            version=Version(0, max(version.step - 3, 0)) if served else None,
        )
        made.samples[p].append(sample)
        made.scores[p].append(scored(sample, version, predicted.astype(np.float32)))
        if closed_ms // publish_ms > published // publish_ms:
            published = closed_ms
            moved = rng.choice(len(vectors), 6, replace=False)
            vectors[moved] += rng.normal(size=(6, DIM)).astype(np.float32) / 4
            rows = moved if made.model else np.arange(len(vectors))
            made.model.append(publication(version, closed_ms, rows, vectors[rows], first=not made.model))
            if len(made.model) % 7 == 0:
                live = made.model[-1].version
                made.refused[len(made.model)] = Refused(version, live, closed_ms, "worse")
    for p in range(partitions):
        made.samples[p].append(Tick(START_MS + (n_minutes + 1) * MINUTE_MS, read=read[p], counts=counts[p]))
    return made


def publication(
    version: Version,
    at_ms: int,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    *,
    first: bool = False,
    tombstones: Iterable[int] = (),
) -> Publication:
    """Rows below 5 are categories, those from 5 on items."""
    keys = [key_of("category", str(r)) if r < 5 else key_of("item", str(r - 5)) for r in rows.tolist()]
    return Publication(
        version=version,
        since=None if first else Version(0, version.step - 1),
        at_ms=at_ms,
        keys=np.array(keys, np.uint64),
        fields=(rows < 5).astype(np.uint8),
        steps=np.full(len(rows), version.step),
        vectors=vectors,
        tombstones=np.array(list(tombstones), np.uint64),
        dense={},
        offsets={},
        journal=[],
    )
