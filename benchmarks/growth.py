"""What a growing table costs: the longest pause, memory for a row, lookups a second.

python -m benchmarks.growth
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

from trainer.keymap import Keys
from trainer.model.simhash import Floats, make_planes
from trainer.table import EmbeddingTable

BATCH = 1_000
LOOKUPS = 300_000


def run(n_rows: int = 1_000_000, dim: int = 32, bits: int = 64) -> dict[str, float]:
    """Grow to ``n_rows`` by batches of 1,000 new keys, then look up and learn rows at random; one thread."""
    rng = np.random.default_rng(0)
    planes = make_planes(1, dim, bits, 0)
    _exercise(_table(planes), rng.integers(1, 2**64, 3 * BATCH, np.uint64))  # compiles
    keys = rng.integers(1, 2**64, n_rows, np.uint64)
    table, before = _table(planes), _resident_bytes()
    took = np.array([_timed(table, keys[at : at + BATCH]) for at in range(0, n_rows, BATCH)]) * 1e3
    pauses, busy = took.T
    resident = _resident_bytes() - before
    found = [rng.choice(keys, LOOKUPS) for _ in range(5)]
    slots = rng.permutation(n_rows)[: min(n_rows, 10_000)] + 1
    grads = rng.standard_normal((slots.size, dim), np.float32)
    return {
        "rows": table.n_rows,
        "pause_max_ms": float(pauses.max()),
        "pause_p99_ms": float(np.quantile(pauses, 0.99)),
        "pause_median_ms": float(np.median(pauses)),
        "pause_max_cpu_ms": float(busy.max()),  # without what other processes took
        "pause_p99_cpu_ms": float(np.quantile(busy, 0.99)),
        "births_per_s": n_rows / float(pauses.sum()) * 1e3,
        "bytes_per_row": table.bytes_per_row,
        "resident_bytes_per_row": resident / n_rows,
        "lookups_per_s": LOOKUPS / _fastest(lambda i: table.find(found[i])),
        "rows_learned_per_s": slots.size / _fastest(lambda i: table.learn(slots, grads, 0.02, i)),
        "rows_learned_per_s_without_codes": slots.size
        / _fastest(lambda i: table.learn(slots, grads, 0.02, i, encode=False)),
    }


def _table(planes: Floats) -> EmbeddingTable:
    return EmbeddingTable(planes.shape[1], 1, planes, seed=0)


def _exercise(table: EmbeddingTable, keys: Keys) -> None:
    slots = table.see(keys, 0, 0, 0, 1)
    table.find(keys)
    table.learn(slots, np.ones((slots.size, table.dim), np.float32), 0.02, 1)


def _timed(table: EmbeddingTable, keys: Keys) -> tuple[float, float]:
    """Seconds by the clock, and of this thread's work."""
    start, began = perf_counter(), thread_time()
    table.see(keys, 0, 0, 0, 1)
    return perf_counter() - start, thread_time() - began


def _fastest(call: Callable[[int], object]) -> float:
    """Seconds of the fastest of five calls."""
    took = []
    for i in range(5):
        start = perf_counter()
        call(i)
        took.append(perf_counter() - start)
    return min(took)


def _resident_bytes() -> int:
    """Memory this process holds now; where only its peak is known, that."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
