"""A ranker to be measured: a model with a row for everything, users with histories, and the process that serves."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.services import toml
from indexer.index import Update
from indexer.redis_index import RedisIndex
from indexer.refresh import refresh
from instep.settings import Settings, check
from instep.stores import redis_client, redis_profiles
from ranker.client import Candidate, RankerClient
from ranker.mirror import Mirror
from ranker.ranker import History
from stream.events import Origin, Version, key_of
from stream.profiles import Put
from stream.service import now_ms
from stream.topics import create
from tests.services.processes import Process, local_kafka, local_redis
from tests.services.ready import free_port
from trainer.learner import Learner
from trainer.loop import difference

N_ITEMS, N_CATEGORIES, N_USERS = 20_000, 200, 50
N_CANDIDATES, N_BEHAVIOURS = 200, 1_024
MOVED = 5_000
"""Rows of a publication, one a second."""


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
