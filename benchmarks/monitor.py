"""What watching costs: candidates a second, decoded, reduced and judged, and memory after a day of windows.

python -m benchmarks.monitor
"""

from __future__ import annotations

import gc
import json
import resource
from time import process_time

import numpy as np

from monitor import server  # its page is in the same process  # noqa: F401
from monitor.board import Board
from monitor.delivery import Delivery
from monitor.monitor import Monitor
from monitor.record import AlertRecord
from monitor.rules import read_rules
from monitor.watched import WatchRules
from stream.events import Origin, Sample, Tick, Version, decode_sample, encode_sample, key_of
from stream.metrics import Metrics
from trainer.model.simhash import make_planes
from trainer.publication import Publication
from trainer.scored import decode_scored, encode_scored, scored

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
N_PARTITIONS, N_CANDIDATES, N_BEHAVIOURS, N_ITEMS, N_USERS, DIM = 4, 10, 200, 20_000, 5_000, 32
FIELDS, SIDE = ("item", "category"), ("user", "device")
RULES = WatchRules(
    tuple(range(N_PARTITIONS)), ("click",), FIELDS, SIDE, make_planes(2, DIM, 64, seed=0), k=48
)


class _Product:
    """Slates of a product: items by popularity, clicks as predicted."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.items = np.stack([self.rng.integers(1, 2**64, N_ITEMS, dtype=np.uint64) for _ in range(2)], 1)
        self.items[:, 1] = self.items[np.arange(N_ITEMS) % 20, 1]
        weight = 1 / np.arange(1, N_ITEMS + 1) ** 0.8
        self.cumulative = np.cumsum(weight / weight.sum())
        self.vectors = self.rng.normal(size=(N_ITEMS, DIM)).astype(np.float32)
        self.devices = [key_of("device", str(d)) for d in range(3)]
        self.n = 0

    def slate(self, closed_ms: int) -> tuple[int, bytes, bytes]:
        """Partition, sample and scores as they travel."""
        rng, n = self.rng, self.n
        self.n += 1
        drawn = np.searchsorted(self.cumulative, rng.random(N_CANDIDATES + N_BEHAVIOURS))
        user = int(rng.integers(N_USERS)) + 1
        p = rng.beta(1, 20, (N_CANDIDATES, 1))
        behaviours = self.items[drawn[N_CANDIDATES:]]
        sample = Sample(
            impression=f"impression{n}",
            user=user,
            at_ms=closed_ms - 60_000,
            closed_ms=closed_ms,
            origin=Origin(user % N_PARTITIONS, n, 0),
            side=np.array([user, self.devices[n % 3]], np.uint64).tobytes(),
            items=self.items[drawn[:N_CANDIDATES]].tobytes(),
            labels=(rng.random(p.shape) < p).astype(np.uint8).tobytes(),
            sequence=behaviours.tobytes(),
            sequence_at=np.arange(N_BEHAVIOURS).tobytes(),
            scores=p.tobytes(),
            version=Version(0, max(n // 16 - 2, 0)),
        )
        said = scored(sample, Version(0, n // 16), p.astype(np.float32))
        return user % N_PARTITIONS, encode_sample(sample), encode_scored(said)

    def publication(self, at_ms: int, n_rows: int) -> Publication:
        rows = self.rng.choice(N_ITEMS, n_rows, replace=False)
        self.vectors[rows] += self.rng.normal(0, 0.05, (n_rows, DIM)).astype(np.float32)
        return Publication(
            version=Version(0, self.n // 16),
            since=None if n_rows == N_ITEMS else Version(0, 0),
            at_ms=at_ms,
            keys=self.items[rows, 0],
            fields=np.zeros(n_rows, np.uint8),
            steps=np.full(n_rows, self.n // 16),
            vectors=self.vectors[rows],
            tombstones=np.zeros(0, np.uint64),
            dense={},
            offsets={},
            journal=[],
        )


class _Feed:
    """Minutes of it into a `Monitor`."""

    def __init__(self) -> None:
        self.product, self.board = _Product(), Board()
        delivery = Delivery(AlertRecord(), Metrics("monitor"))
        self.monitor = Monitor(RULES, read_rules(), self.board, delivery)
        self.minute = 0
        self.offsets = [0] * N_PARTITIONS
        self.scores = [0] * N_PARTITIONS
        self.ticks = [0] * N_PARTITIONS

    def run(self, n_slates: int, n_publications: int) -> dict[str, float]:
        """One minute; seconds of processor time of each part."""
        start_ms = START_MS + self.minute * 60_000
        at = start_ms + np.arange(n_slates) * 60_000 // n_slates
        made = [self.product.slate(int(ms)) for ms in at]
        publications = [
            self.product.publication(start_ms + i * 60_000 // n_publications, 500)
            for i in range(n_publications)
        ]
        if self.minute == 0:
            publications.insert(0, self.product.publication(start_ms, N_ITEMS))
        gc.collect()
        begin = process_time()
        for partition, sample, _ in made:
            self.monitor.sample(partition, self._next(self.offsets, partition), decode_sample(sample))
        for partition in range(N_PARTITIONS):
            self.ticks[partition] += n_slates
            counts = {"in": 2 * self.ticks[partition], "used.tick": self.minute}
            read = {"impression": self.ticks[partition], "click": self.ticks[partition] // 2}
            offset = self._next(self.offsets, partition)
            self.monitor.sample(partition, offset, Tick(start_ms + 60_000 - 1, read=read, counts=counts))
        samples_s = process_time()
        for partition, _, said in made:
            self.monitor.scored(partition, self._next(self.scores, partition), decode_scored(said))
        scores_s = process_time()
        for publication in publications:
            self.monitor.published(publication, 0)
        self.monitor.turn()
        model_s = process_time()
        self.minute += 1
        return {
            "samples_s": samples_s - begin,
            "scores_s": scores_s - samples_s,
            "publications_s": model_s - scores_s,
        }

    @staticmethod
    def _next(offsets: list[int], partition: int) -> int:
        offsets[partition] += 1
        return offsets[partition] - 1


def run(n_slates: int = 20_000, n_minutes: int = 1_440) -> dict[str, float]:
    """Speed of minutes with ``n_slates`` slates, one publication a second; memory after a day of smaller ones."""
    feed = _Feed()
    feed.run(n_slates // 10, 6)  # compiles
    spent = [feed.run(n_slates, 60) for _ in range(3)]
    n = len(spent) * n_slates * N_CANDIDATES
    seconds = {name: sum(part[name] for part in spent) for name in spent[0]}
    while feed.minute < n_minutes:
        feed.run(60, 2)
    begin = process_time()
    state, board = feed.monitor.state(), feed.board.encode()
    encoded = process_time()
    feed.monitor.load(state)
    restored = process_time()
    rows = [row for size in (60_000, 600_000, 3_600_000) for row in feed.board.rows(size)]
    return {
        "candidates_per_s": n / sum(seconds.values()),
        "candidates_per_s_samples": n / seconds["samples_s"],
        "candidates_per_s_scores": n / seconds["scores_s"],
        "publication_ms": seconds["publications_s"] / 180 * 1e3,
        "windows": len(rows),
        "values": sum(len(row.values) for row in rows),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "state_mb": len(state) / 2**20,
        "board_mb": len(board) / 2**20,
        "state_ms": (encoded - begin) * 1e3,
        "restore_ms": (restored - encoded) * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps({name: round(value, 2) for name, value in run().items()}, indent=2))
