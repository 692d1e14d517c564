"""How long ranking takes: by itself for three units, over HTTP under a fixed load, and while publications arrive.

    python -m benchmarks.ranker [--rate 50] [--seconds 20]

Slates of 200 candidates, histories of 1,024, 32 dims, one thread. Ranking itself is from keys to scores. Over HTTP a
process of its own answers, with a real Redis for the index and the profiles and a real Kafka for the events, and
latency is counted from the moment at which a request was due, not from when it got its turn. Last, scores and codes of
a ranker against the trainer's, over a simulated log.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.parity import parity
from benchmarks.serving import (
    N_CANDIDATES,
    N_USERS,
    as_history,
    history_of,
    mirror_of,
    publish,
    served,
    settings,
    slates,
)
from ranker.client import RankerClient
from ranker.mirror import Mirror
from ranker.ranker import Scorer
from stream.service import now_ms

OUT = Path("build/bench-ranker.json")
N_THREADS = 8
"""Connections of the load."""


def alone(n: int = 300) -> dict[str, Any]:
    """Milliseconds from a request and its history to scores, for units that take turns."""
    torch.set_num_threads(1)
    at_ms = now_ms()
    models: dict[str, tuple[Scorer, Mirror]] = {}
    chosen = {unit: settings(model={"warm_up_steps": 0, "unit": unit}) for unit in ("eta", "exact", "full")}
    for unit, of in chosen.items():
        models[unit] = of.scorer(), mirror_of(of)
    histories = [as_history(history_of(chosen["eta"], user, at_ms)) for user in range(N_USERS)]
    took: dict[str, list[float]] = {unit: [] for unit in models}
    for turn, (name, candidates) in enumerate(islice(slates(1), n + 20)):
        for unit, (scorer, mirror) in models.items():
            history = histories[int(name.removeprefix("user"))]
            began = perf_counter()
            batch = scorer.slate(name, candidates, {"device": "phone"}, at_ms, history)
            scorer.score(mirror, batch)
            if turn >= 20:
                took[unit].append(1e3 * (perf_counter() - began))
    return {unit: per_cent(ms) for unit, ms in took.items()}


def together(n_slates: int = 16, turns: int = 40) -> dict[str, Any]:
    """Processor milliseconds a slate, scored one by one and some at once; the least of many turns."""
    chosen = settings()
    scorer, mirror = chosen.scorer(), mirror_of(chosen)
    at_ms = now_ms()
    found: dict[str, Any] = {}
    for n_candidates in (20, N_CANDIDATES):
        batches = [
            scorer.slate(
                name,
                candidates[:n_candidates],
                {"device": "phone"},
                at_ms,
                as_history(history_of(chosen, int(name.removeprefix("user")), at_ms)),
            )
            for name, candidates in islice(slates(3), n_slates)
        ]
        least = {n: [float("inf")] * (n_slates // n) for n in (1, 2, 4, 8)}
        for _ in range(turns):
            for n, took in least.items():
                for part in range(len(took)):
                    began = process_time()
                    scorer.score_all(mirror, batches[part * n : (part + 1) * n])
                    took[part] = min(took[part], process_time() - began)
        found[f"{n_candidates} candidates"] = {
            f"{n} at once": round(1e3 * sum(took) / n_slates, 2) for n, took in least.items()
        }
    return found


def per_cent(ms: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(ms, q)), 2) for q in (50, 95, 99)}


def load(url: str, rate: float, seconds: float) -> dict[str, Any]:
    """Latency of requests that are due at a rate, whatever became of those before."""
    clients = [RankerClient(url, timeout_s=10) for _ in range(N_THREADS)]
    asked = slates(2)
    requests = [next(asked) for _ in range(round(rate * (seconds + 2)))]
    began = perf_counter() + 0.2
    done: list[tuple[float, float]] = []

    def work(thread: int) -> None:
        for i in range(thread, len(requests), N_THREADS):
            due = began + i / rate
            time.sleep(max(0.0, due - perf_counter()))
            user, candidates = requests[i]
            clients[thread].rank(user, candidates, {"device": "phone"})
            done.append((i / rate, perf_counter() - due))

    with ThreadPoolExecutor(N_THREADS) as pool:
        for job in [pool.submit(work, thread) for thread in range(N_THREADS)]:
            job.result()
    for client in clients:
        client.close()
    return per_cent([1e3 * s for at, s in done if at >= 2])  # the first two seconds warm up


def over_http(rate: float, seconds: float) -> dict[str, Any]:
    """The load from a process of its own, without and with publications from another."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, served(Path(name)) as (_, file, url):
        command = [sys.executable, "-m", "benchmarks.ranker", "load", url, str(rate), str(seconds)]

        def measured() -> dict[str, Any]:
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            return dict(json.loads(answer.stdout))

        quiet = measured()
        publishing = [
            sys.executable,
            "-m",
            "benchmarks.ranker",
            "publish",
            str(file),
            str(round(seconds) + 10),
        ]
        with subprocess.Popen(publishing) as other:
            time.sleep(3)
            busy = measured()
            other.kill()
    return {
        "rate": rate,
        "quiet": quiet,
        "publications": busy,
        "p99_rises": round(busy["p99"] / quiet["p99"], 2),
    }


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        print(json.dumps(load(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))))
        return
    if sys.argv[1:2] == ["publish"]:
        from instep.settings import load as load_settings

        publish(load_settings(Path(sys.argv[2])), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description="How long ranking takes.")
    parser.add_argument("--rate", type=float, default=50.0, help="requests/s over HTTP")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    words = parser.parse_args()
    found = {
        "machine": {"cores": os.cpu_count(), "torch": torch.__version__, "load_before": os.getloadavg()[0]},
        "alone_ms": alone(),
        "together_cpu_ms": together(),
        "http_ms": over_http(words.rate, words.seconds),
        "parity": parity(),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    console = Console()
    table = Table("200 candidates, 1,024 behaviours", "p50 ms", "p95 ms", "p99 ms")
    rows: dict[str, Any] = {f"ranking itself, {unit}": ms for unit, ms in found["alone_ms"].items()}
    http: Any = found["http_ms"]
    rows |= {
        f"over HTTP at {words.rate:g}/s": http["quiet"],
        "while a publication comes every second": http["publications"],
    }
    for what, ms in rows.items():
        table.add_row(what, *(f"{ms[q]:.2f}" for q in ("p50", "p95", "p99")))
    console.print_json(json.dumps(found["machine"]))
    console.print(table)
    console.print(f"p99 rises {http['p99_rises']} times while publications come")
    console.print_json(json.dumps({"together_cpu_ms": found["together_cpu_ms"], "parity": found["parity"]}))
    console.print(f"written to {OUT}")


if __name__ == "__main__":
    main()
