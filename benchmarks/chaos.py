"""make chaos: the crash tests for longer. Every worker killed 20 times and more, every server away, nothing lost.

    python -m benchmarks.chaos [--kills 20] [--seed 0]

Prints how often what was done and how long it took to be under way again, and in what the end differs from that of an
undisturbed run in one process. Exit code 1 if it differs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from instep.run import WORKERS
from tests.services.disturbing import Trial, trial
from tests.services.processes import local_kafka, local_redis
from tests.services.undisturbed import Undisturbed, differences

OTHERS = 3
"""How often all that is no kill happens."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The loop, disturbed.")
    parser.add_argument("--kills", type=int, default=20, help="of each worker, at least")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="instep-chaos-") as name:
        raise SystemExit(run(Path(name), options.kills, options.seed))


def run(folder: Path, n_kills: int, seed: int) -> int:
    """Disturb a loop of its own Kafka and Redis; returns the exit code."""
    disturbances = [f"kill {w}" for w in WORKERS] * n_kills
    disturbances += [f"freeze kafka, kill {w}" for w in WORKERS] + [f"stop {w}" for w in WORKERS] * OTHERS
    disturbances += [
        *("restart kafka", "restart redis", "flush redis", "a joiner comes and goes"),
    ] * OTHERS
    for server in ("kafka", "redis"):
        (folder / server).mkdir()
    began_s = time.monotonic()
    with (
        local_kafka(folder / "kafka") as kafka,
        local_redis(folder / "redis") as redis,
        trial(folder / "loop", kafka, redis, disturbances, seed) as (disturbed, expected),
    ):
        disturbed.run(disturbances)
        found = differences(disturbed.loop, expected)
    _print(disturbed, expected, found, time.monotonic() - began_s)
    return 1 if found else 0


def _print(disturbed: Trial, expected: Undisturbed, found: list[str], took_s: float) -> None:
    table = Table("disturbance", "times", "mean s", "longest s")
    for kind in sorted({name for name, _ in disturbed.done}):
        took = [s for name, s in disturbed.done if name == kind]
        table.add_row(kind, str(len(took)), f"{sum(took) / len(took):.1f}", f"{max(took):.1f}")
    console = Console()
    console.print(table)
    n_samples = sum(map(len, expected.samples))
    console.print(
        f"{n_samples:,} samples, version {expected.version}, {len(expected.published):,} publications, "
        f"{len(expected.index.keys):,} rows in the index, weights {expected.weights_sha256[:16]}, {took_s:.0f} s"
    )
    console.print("\n".join(found) if found else "the same as an undisturbed run in one process")


if __name__ == "__main__":
    main()
