"""The workers as processes on a real Kafka and a real Redis of their own: how fast each is, and how fresh the index.

python -m benchmarks.services [--rates 100,200,400] [--seconds 20]

First each worker alone empties a backlog that the one before it has left; then all run at once while another
process sends slates at rates that rise until one does not hold; then half of the highest that held, for the latencies.
The window (1 s) and the lateness (0.2 s) are short, so that what is measured is the pipeline.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import kafka
import numpy as np
import redis
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import load, pages
from benchmarks.freshness import Watch, per_cent
from instep.settings import Settings, check
from stream.service import now_ms
from stream.topics import create
from tests.services.processes import LocalKafka, LocalRedis, Process, local_kafka, local_redis
from tests.services.ready import free_port

OUT = Path("build/bench-services.json")
WORKERS = ("joiner", "trainer", "indexer")
N_USERS, N_BEHAVIOURS = 100, 500
N_BACKLOG, BACKLOG_RATE = 5_000, 200.0
"""Slates, and how many a second of event time: what the trainer makes of them is a publication a second."""
QUIET_S = 6.0
"""Longer than the trainer takes to compile its kernels."""
GROWTH_S = 1.0
"""By how much slates may reach the index later in the last third of a run than in the middle one."""


def settings_for(kafka: LocalKafka, server: LocalRedis, folder: Path) -> dict[str, Any]:
    """Defaults, but for short windows, small spans of a batch and the search from the first step on."""
    return {
        "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
        "stream": {"windows": {"click": load.WINDOW_MS}, "lateness_ms": load.LATENESS_MS},
        "model": {"warm_up_steps": 0},
        "trainer": {
            "batch_samples": 64,
            "batch_span_ms": 500,
            "publish_ms": 1_000,
            "checkpoints": str(folder / "checkpoints"),
        },
        "kafka": {"bootstrap": kafka.bootstrap},
        "redis": {"url": server.url},
        "service": {"ports": {name: free_port() for name in WORKERS}},
    }


def toml(value: dict[str, Any], name: str = "") -> str:
    """Settings as a file, for values that JSON and TOML write alike."""
    lines = [f"[{name}]"] if name else []
    tables = {k: v for k, v in value.items() if isinstance(v, dict)}
    for key, one in value.items():
        if isinstance(one, list):
            inner = (", ".join(f"{k} = {json.dumps(v)}" for k, v in each.items()) for each in one)
            lines.append(f"{key} = [{', '.join(f'{{{each}}}' for each in inner)}]")
        elif key not in tables:
            lines.append(f"{key} = {json.dumps(one)}")
    return "\n".join(lines + [toml(v, f"{name}.{k}" if name else k) for k, v in tables.items()]) + "\n"


class Bench:
    """Servers, workers and what is asked of them, in a folder that goes when it is over."""

    def __init__(self, folder: Path, kafka: LocalKafka, server: LocalRedis) -> None:
        self.folder = folder
        raw = settings_for(kafka, server, folder)
        self.file = folder / "instep.toml"
        self.file.write_text(toml(raw))
        self.settings: Settings = check(raw)
        self.kafka, self.redis = kafka, server
        self.workers = {name: self._worker(name, self.file) for name in WORKERS}
        # With a checkpoint to be filled from, an empty index would not be filled from the log.
        raw["trainer"]["checkpoints"] = str(folder / "none")
        apart = folder / "apart.toml"
        apart.write_text(toml(raw))
        self.workers["indexer from the log"] = self._worker("indexer", apart)
        create(self.settings.cluster(), self.settings.topics(), 1)

    def _worker(self, name: str, file: Path) -> Process:
        port = getattr(self.settings.service.ports, name)
        command = [sys.executable, "-m", "instep.cli", "run", name, "--settings", str(file)]
        return Process(command, self.folder / f"{name}.log", lambda alive: pages.await_alive(port, alive))

    def page(self, name: str) -> pages.Page:
        """The metrics of a running worker."""
        return pages.read(getattr(self.settings.service.ports, name))

    @contextmanager
    def running(self, *names: str) -> Iterator[None]:
        """Workers that run, and are told to finish at the end."""
        with ExitStack() as stack:
            for name in names:
                self.workers[name].start()
                stack.callback(self.workers[name].stop)
            yield

    def drained(self, name: str, metric: str, within_s: float = 60.0) -> dict[str, float]:
        """Rates at which a counter of a worker grew until it stood still.

        The first tenth does not count, so neither does the start of the process nor the compiling of its kernels.
        """
        seen: list[tuple[float, float, float]] = []
        deadline = time.monotonic() + within_s
        while (now_s := time.monotonic()) < deadline:
            page = self.page(name)
            n = page.total(metric)
            if n and (not seen or n > seen[-1][1]):
                seen.append((now_s, n, page.total("process_cpu_seconds_total")))
            if seen and now_s - seen[-1][0] > QUIET_S:
                break
            time.sleep(0.1)
        to_s, last, cpu_end = seen[-1]
        from_s, first, cpu = next(each for each in seen if each[1] >= last / 10)
        if last == first:
            raise RuntimeError(f"{name}: expected {metric} to grow in several steps, it stayed at {first:g}")
        return {
            "n": last,
            "per_s": round((last - first) / (to_s - from_s), 1),
            "per_cpu_s": round((last - first) / max(cpu_end - cpu, 0.01), 1),
            "took_s": round(to_s - from_s, 2),
        }

    def cpu_s(self) -> dict[str, float]:
        """Processor time that each process has taken so far."""
        used = {name: self.page(name).total("process_cpu_seconds_total") for name in WORKERS}
        return used | {"kafka": _cpu_s(self.kafka.pid), "redis": _cpu_s(self.redis.pid)}


def alone(bench: Bench) -> dict[str, Any]:
    """Each worker by itself, with the broker on the same cores."""
    found: dict[str, Any] = {}
    first_ms = now_ms() - round(N_BACKLOG / BACKLOG_RATE * 1_000) - 5_000
    load.send(bench.settings, load.histories(N_USERS, N_BEHAVIOURS, first_ms - 1_000))
    with bench.running("joiner"):
        found["joiner: behaviours"] = bench.drained("joiner", "instep_records_in_total")
    seconds = N_BACKLOG / BACKLOG_RATE
    backlog = load.slates(random.Random(1), N_USERS, BACKLOG_RATE, first_ms, seconds, "backlog")
    load.send(bench.settings, backlog)
    with bench.running("joiner"):
        found["joiner: slates, clicks, Ticks"] = bench.drained("joiner", "instep_records_in_total")
    with bench.running("trainer"):
        got = bench.drained("trainer", "instep_candidates_total")
        # ten candidates are a sample
        found["trainer: samples"] = got | {
            key: round(got[key] / 10, 1) for key in ("n", "per_s", "per_cpu_s")
        }
    with bench.running("indexer from the log"):
        found["indexer: rows"] = bench.drained("indexer", "instep_index_rows_total")
    return found


def at_rate(bench: Bench, rate: float, seconds: float) -> dict[str, Any]:
    """All workers while another process sends slates at a rate; they run already."""
    name = f"r{rate:g}.{secrets_ms()}"
    words = [sys.executable, "-m", "benchmarks.load", str(bench.file), str(N_USERS), str(rate), str(seconds)]
    before = {worker: bench.page(worker) for worker in WORKERS}
    with Watch(bench.settings) as watch:
        sender = subprocess.Popen([*words, name], stdout=subprocess.PIPE, text=True)
        assert sender.stdout is not None
        sender.stdout.readline()  # it begins
        cpu, began_s, lag = bench.cpu_s(), time.monotonic(), []
        while sender.poll() is None:
            time.sleep(1.0)
            lags = {w: bench.page(w).total("instep_lag_records") for w in ("joiner", "trainer")}
            lag.append({"at_s": round(time.monotonic() - began_s, 1)} | lags)
        used = {who: cpu_s - cpu[who] for who, cpu_s in bench.cpu_s().items()}
        took_s = time.monotonic() - began_s
        output, _ = sender.communicate()
        if sender.returncode:
            raise RuntimeError(
                f"the load at {rate:g} slates/s: expected it to end well, got {sender.returncode}"
            )
        sent = json.loads(output)
        complete = watch.await_quiet(within_s=20.0 + seconds)
    after = {worker: bench.page(worker) for worker in WORKERS}
    slates = watch.slates(name)
    n_shown = round(rate * seconds)
    thirds = np.array_split(slates.indexed_s, 3) if len(slates.indexed_s) >= 30 else None
    later_s = float(np.median(thirds[2]) - np.median(thirds[1])) if thirds else float("inf")
    kept_up = sent["took_s"] < 1.05 * (seconds + load.AFTER_S) + 2
    return {
        "slates_per_s": rate,
        "holds": bool(complete and kept_up and later_s <= GROWTH_S and len(slates.indexed_s) == n_shown),
        "events_per_s": round(sent["events"] / sent["took_s"]),
        "slates_indexed": len(slates.indexed_s),
        "slates_sent": n_shown,
        "later_s": round(later_s, 2),
        "slate_to_published_s": per_cent(slates.published_s),
        "slate_to_indexed_s": per_cent(slates.indexed_s),
        "newest_event_s": {
            stage: pages.quantiles(before[w], after[w], "instep_event_latency_seconds", stage)
            for stage, w in (
                ("joined", "joiner"),
                ("trained", "trainer"),
                ("published", "trainer"),
                ("indexed", "indexer"),
            )
        },
        "cpu_share": {who: round(s / took_s, 2) for who, s in used.items()}
        | {"load": round(sent["cpu_s"] / sent["took_s"], 2)},
        "lag": lag,
    }


def secrets_ms() -> int:
    """What tells the slates of one run from those of another."""
    return now_ms() % 10**9


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine(server: LocalRedis) -> dict[str, Any]:
    """What it was measured on."""
    with redis.Redis.from_url(server.url) as client:
        redis_version = client.info("server")["redis_version"]
    names = (Path(__file__).parent.parent / "deploy" / "images" / "names.txt").read_text()
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": os.getloadavg()[0],
        "kafka": names.split("apache/kafka:")[1].split()[0],
        "redis": redis_version,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kafka-python": kafka.__version__,
    }


def run(rates: list[float], seconds: float) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, ExitStack() as stack:
        folder = Path(name)
        for part in ("kafka", "redis"):
            (folder / part).mkdir()
        bench = Bench(
            folder,
            stack.enter_context(local_kafka(folder / "kafka")),
            stack.enter_context(local_redis(folder / "redis")),
        )
        found: dict[str, Any] = {"machine": machine(bench.redis), "alone": alone(bench), "rates": []}
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(found, indent=2) + "\n")  # what there is, should the rest take too long
        with bench.running(*WORKERS):
            at_rate(bench, 20.0, 4.0)  # kernels are compiled and connections made
            for rate in rates:
                found["rates"].append(at_rate(bench, rate, seconds))
                OUT.write_text(json.dumps(found, indent=2) + "\n")
                if not found["rates"][-1]["holds"]:
                    break
            held = [each["slates_per_s"] for each in found["rates"] if each["holds"]]
            if held:
                found["half"] = at_rate(bench, max(held) / 2, seconds)
    return found


def show(found: dict[str, Any]) -> None:
    """The tables."""
    console = Console(width=140)
    console.print_json(json.dumps(found["machine"]))
    table = Table("worker alone", "per s", "per s of its processor time", "n", "s")
    for name, got in found["alone"].items():
        table.add_row(name, *(f"{got[key]:,}" for key in ("per_s", "per_cpu_s", "n", "took_s")))
    console.print(table)
    table = Table(
        "slates/s", "holds", "slate to published p50, p95", "to indexed p50, p95", "later", "cores used"
    )
    for got in [*found["rates"], *([found["half"]] if "half" in found else [])]:
        seconds = (got[f"slate_to_{stage}_s"] for stage in ("published", "indexed"))
        cells = [f"{s['p50']:.2f} s, {s['p95']:.2f} s" for s in seconds]
        cores = ", ".join(f"{who} {share:.2f}" for who, share in got["cpu_share"].items())
        table.add_row(
            f"{got['slates_per_s']:g}", str(got["holds"]), *cells, f"{got['later_s']:+.2f} s", cores
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the workers do on a real Kafka and Redis.")
    parser.add_argument("--rates", default="100,200,400,700,1000", help="slates/s, ascending")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else servers and workers would be left behind
    found = run([float(rate) for rate in words.rates.split(",")], words.seconds)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
