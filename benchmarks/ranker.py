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
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.services import toml
from indexer.index import Update
from indexer.redis_index import RedisIndex
from indexer.refresh import refresh
from instep.pipeline import Pipeline
from instep.run import redis_client, redis_profiles
from instep.settings import Settings, check
from instep.simulator import World, events
from ranker.client import Candidate, RankerClient
from ranker.mirror import Mirror
from ranker.ranker import History, Scorer
from stream.events import Origin, Version, key_of
from stream.log import MemoryLog
from stream.profiles import Put
from stream.service import now_ms
from stream.topics import create
from tests.services.processes import Process, local_kafka, local_redis
from tests.services.ready import free_port
from tests.worlds import make_log
from trainer.learner import Learner, predict
from trainer.loop import Step, difference

OUT = Path("build/bench-ranker.json")
N_ITEMS, N_CATEGORIES, N_USERS = 20_000, 200, 50
N_CANDIDATES, N_BEHAVIOURS = 200, 1_024
MOVED = 5_000
"""Rows of a publication, one a second."""
N_THREADS = 8
"""Connections of the load."""


def settings(**sections: dict[str, Any]) -> Settings:
    raw: dict[str, Any] = {
        "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
        "model": {"warm_up_steps": 0},
    }
    return check(raw | sections)


def candidate(i: int) -> Candidate:
    return Candidate(f"item{i}", {"category": f"c{i % N_CATEGORIES}"})


def slates(seed: int) -> Iterator[tuple[str, list[Candidate]]]:
    rng = random.Random(seed)
    while True:
        yield (
            f"user{rng.randrange(N_USERS)}",
            [candidate(rng.randrange(N_ITEMS)) for _ in range(N_CANDIDATES)],
        )


def learner_of(chosen: Settings) -> Learner:
    """A model with a row for everything, as the first steps would leave it."""
    learner, fields = Learner(chosen.learner_config(), 1 << 18), chosen.fields
    keys = np.array([fields.item_keys(c.item, c.features) for c in map(candidate, range(N_ITEMS))], np.uint64)
    table = learner.table
    table.see(np.unique(keys[:, 1]), 1, 0, 0, 1)
    table.see(keys[:, 0], 0, keys[:, 1], 0, 1)
    users = [fields.side_keys(f"user{u}", {"device": "phone"}) for u in range(N_USERS)]
    table.see(np.array(users, np.uint64), [len(fields.item), len(fields.item) + 1], 0, 0, 1)
    return learner


def history_of(chosen: Settings, user: int, at_ms: int) -> list[tuple[list[int], int]]:
    """Behaviours of the hours before, popular items among them."""
    rng = random.Random(user)
    past = [candidate(min(int(rng.paretovariate(0.5)), N_ITEMS) - 1) for _ in range(N_BEHAVIOURS)]
    times = sorted(at_ms - 1 - rng.randrange(10**8) for _ in past)
    return [(chosen.fields.item_keys(c.item, c.features), at) for c, at in zip(past, times, strict=True)]


def as_history(rows: list[tuple[list[int], int]]) -> History:
    return np.array([keys for keys, _ in rows], np.uint64), np.array([at for _, at in rows])


def mirror_of(chosen: Settings) -> Mirror:
    """A mirror of that model."""
    config, learner = chosen.learner_config(), learner_of(chosen)
    mirror = Mirror(config.shape, config.bits, 1 << 18)
    mirror.apply(refresh(difference(learner, Version(0, 1), None, 0, {}, []), learner.table.planes))
    return mirror


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


@contextmanager
def served(folder: Path) -> Iterator[tuple[Settings, Path, str]]:
    """A ranker as a process on servers of its own, with a model and histories to answer from."""
    for part in ("kafka", "redis"):
        (folder / part).mkdir()
    with local_kafka(folder / "kafka") as kafka, local_redis(folder / "redis", "--appendonly", "no") as redis:
        port = free_port()
        raw = {
            "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
            "model": {"warm_up_steps": 0},
            "kafka": {"bootstrap": kafka.bootstrap},
            "redis": {"url": redis.url},
            "ranker": {"port": port},
        }
        chosen, file = check(raw), folder / "instep.toml"
        file.write_text(toml(raw))
        create(chosen.cluster(), chosen.topics(), 1)
        publish(chosen, 1)
        profiles, at_ms = redis_profiles(chosen, redis_client(chosen)), now_ms()
        for user in range(N_USERS):
            key, rows = key_of("user", f"user{user}"), history_of(chosen, user, at_ms)
            profiles.put_many([Put(key, Origin(0, i, 0), keys, at, 1) for i, (keys, at) in enumerate(rows)])
        command = [sys.executable, "-m", "instep.cli", "run", "ranker", "--settings", str(file)]
        url = f"http://127.0.0.1:{port}"
        process = Process(command, folder / "ranker.log", lambda alive: await_ready(url, alive))
        process.start()
        try:
            yield chosen, file, url
        finally:
            process.stop()


def await_ready(url: str, alive: Any) -> None:
    """Return when the ranker answers."""
    deadline = time.monotonic() + 60
    with RankerClient(url) as client:
        while alive() and time.monotonic() < deadline:
            try:
                if client.version().version is not None:
                    return
            except Exception:
                pass
            time.sleep(0.1)
    raise TimeoutError("ranker: expected an answer within 60 s, got none")


def publish(chosen: Settings, n: int, every_s: float = 1.0) -> None:
    """Write a whole publication, if there is none, and then ``n - 1`` of rows that moved."""
    learner = learner_of(chosen)
    planes = learner.table.planes
    index = RedisIndex(redis_client(chosen), chosen.redis.prefix, chosen.redis.keep_updates)
    whole = refresh(difference(learner, Version(0, 1), None, 0, {}, []), planes)
    if index.version is None:
        index.apply(whole)
    due_s = time.monotonic()
    for seed in range(n - 1):
        due_s += every_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        index.apply(_moved(whole, index.version or whole.version, seed))


def _moved(whole: Update, since: Version, seed: int) -> Update:
    rows = np.random.default_rng(seed).choice(len(whole.keys), MOVED, replace=False)
    version = Version(since.epoch, since.step + 1)
    columns = {name: getattr(whole, name)[rows] for name in ("keys", "fields", "codes", "vectors")}
    return replace(whole, version=version, since=since, steps=np.full(MOVED, version.step), **columns)


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


def parity(n: int = 1_000) -> dict[str, Any]:
    """A ranker's scores of logged impressions against the trainer's at the same Version; both are predictions."""
    world = World(n_users=200, n_items=1_000)
    chosen = settings(trainer={"publish_ms": 5_000}, model={"warm_up_steps": 20})
    sent = list(events(world, n + 600))
    steps: list[Step] = []
    log: MemoryLog = make_log(sent, chosen.stream.partitions)
    pipeline = Pipeline(chosen, log.source(), on_step=steps.append)
    config = chosen.learner_config()
    mirror, scorer, learner = Mirror(config.shape, config.bits, 1 << 18), chosen.scorer(), pipeline.learner
    worst, n_compared, n_bits = 0.0, 0, 0
    while pipeline.pump(200) and n_compared < n:
        pipeline.loop.publish()
        pipeline.publish()
        mirror.follow(pipeline.index)
        if mirror.version is None or mirror.version != pipeline.loop.version:
            continue
        for step in steps:
            batch = step.batch
            young = mirror.version.step < config.warm_up_steps
            theirs = predict(learner.network, learner.table, batch, config.short, config.k, young=young)[:, 0]
            for b in range(batch.n_samples):
                one = slice(batch.first[b], batch.first[b + 1])
                history = slice(batch.start[b], batch.start[b + 1])
                alone = replace(
                    batch,
                    side=batch.side[b : b + 1],
                    at_ms=batch.at_ms[b : b + 1],
                    items=batch.items[one],
                    first=np.array([0, one.stop - one.start]),
                    labels=batch.labels[one],
                    stage=batch.stage[b : b + 1],
                    sequence=batch.sequence[history],
                    sequence_at=batch.sequence_at[history],
                    start=np.array([0, history.stop - history.start]),
                )
                ours = scorer.score(mirror, alone).scores
                worst = max(worst, float(np.abs(ours - theirs[one]).max()))
                n_compared += 1
        steps.clear()
        keys = learner.table.keys[: learner.table.n_slots]
        keys = keys[keys != 0]
        codes = learner.table.codes[learner.table.find(keys)]
        n_bits += int(np.bitwise_count(codes ^ mirror.codes(keys)).sum())
    return {"impressions": n_compared, "max_difference": worst, "bits_that_differ": n_bits}


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
