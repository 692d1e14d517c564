"""All that is claimed about speed, in one run: ``python -m benchmarks`` prints it and writes build/bench.json.

The machine is shared and noisy, so what counts are ratios within the run; absolute figures are for the record.
"""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import growth, join, loop, search, training

OUT = Path("build/bench.json")


def main() -> None:
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "load": os.getloadavg()[0],
        }
    }
    parts: dict[str, Callable[[], Mapping[str, object]]] = {
        "search": search.run,
        "training": training.run,
        "training, 64 slates a batch": lambda: training.run(64),
        "loop": loop.run,
        "join": join.run,
        "growth": growth.run,
    }
    for name, run in parts.items():
        found[name] = run()
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    _print(found)


def _print(found: dict[str, Any]) -> None:
    claims = (
        (
            "search: times as fast as torch's inner product + topk",
            found["search"]["times_as_fast_as_torch"],
            ">= 5",
        ),
        ("training: times a step that re-hashes floats", found["training"]["times_the_baseline"], ">= 40"),
        ("training: cost at L=4,096 over L=256", found["training"]["cost_of_4096_over_256"], "<= 1.25"),
        *(
            (
                f"training: times full target attention at L={length:,}",
                found["training"]["times_full_attention"][length],
                f">= {wanted}",
            )
            for length, wanted in ((1_024, 2), (4_096, 6))
        ),
        ("loop: samples/s over the bare trainer's", found["loop"]["loop_over_trainer"], ">= 0.5"),
        ("growth: longest pause in ms, at 1 M rows", found["growth"]["pause_max_ms"], "<= 50"),
    )
    table = Table("claim", "measured", "wanted")
    for claim, value, wanted in claims:
        table.add_row(claim, f"{value:.2f}", wanted)
    console = Console()
    console.print_json(json.dumps(found))
    console.print(table)
    console.print(f"written to {OUT}")


if __name__ == "__main__":
    main()
