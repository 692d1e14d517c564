"""What the index on Redis costs at a million items: memory, versioned writes, stalls of others, loading.

python -m benchmarks.redis_index
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from indexer.index import Update
from indexer.redis_index import RedisIndex
from stream.events import Version
from stream.redis_client import Client
from tests.services.processes import local_redis

PINGS = """
import signal, socket, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    longest = 0.0
    print("ready", flush=True)
    try:
        while True:
            began = time.perf_counter()
            s.sendall(b"PING\\r\\n")
            s.recv(64)
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.0005)
    except KeyboardInterrupt:
        print(longest * 1e3)
"""


def run(n_items: int = 1_000_000, dim: int = 32, words: int = 1) -> dict[str, Any]:
    """Figures of a server of its own, on the same machine as the writer and another client.

    ``idle`` is what the other client sees while nobody writes: the machine's own part in the stalls.
    """
    with TemporaryDirectory() as folder, local_redis(Path(folder), "--appendonly", "no") as server:
        client = Client(server.url)
        client.call("CONFIG", "SET", "slowlog-log-slower-than", 200)
        index = RedisIndex(client)
        whole = _whole(n_items, dim, words)
        empty = _used(client)
        found: dict[str, Any] = {"items": n_items, "redis": client.call("INFO", "server")["redis_version"]}
        with _watched(client, server.url, found, "idle"):
            sleep(2)
        with _watched(client, server.url, found, "whole", n_items):
            index.apply(whole)
        for n, repeats in ((5_000, 20), (50_000, 4), (n_items, 1)):
            with _watched(client, server.url, found, f"updates_of_{n}", n * repeats):
                for seed in range(repeats):
                    assert index.apply(_moved(whole, index, n, seed)) == n
        with _watched(client, server.url, found, "load", n_items):
            loaded = index.load()
        assert loaded is not None
        assert len(loaded.keys) == n_items
        found |= _memory(client, index, n_items, empty)
        client.close()
    return found


def _whole(n: int, dim: int, words: int) -> Update:
    rng = np.random.default_rng(0)
    return Update(
        version=Version(0, 1_000_000),
        since=None,
        at_ms=0,
        keys=np.unique(rng.integers(1, 2**64, n + 1_000, np.uint64))[:n],
        fields=np.zeros(n, np.uint8),
        steps=rng.integers(0, 1_000_000, n),
        codes=rng.integers(0, 2**64, (n, words), np.uint64),
        vectors=rng.standard_normal((n, dim), np.float32),
        tombstones=np.zeros(0, np.uint64),
        dense={"w": np.zeros(100_000, np.float32)},
    )


def _moved(whole: Update, index: RedisIndex, n: int, seed: int) -> Update:
    """The next update, of some rows drawn at random: neighbours in no way, which is the worst case."""
    rows = np.random.default_rng(seed).choice(len(whole.keys), n, replace=False)
    since = index.version or whole.version
    version = Version(since.epoch, since.step + 1)
    columns = {name: getattr(whole, name)[rows] for name in ("keys", "fields", "codes", "vectors")}
    return replace(whole, version=version, since=since, steps=np.full(n, version.step), **columns)


@contextmanager
def _watched(client: Client, url: str, found: dict[str, Any], name: str, n_rows: int = 0) -> Iterator[None]:
    """How long it took, and what another client and the server itself saw meanwhile."""
    at = urlsplit(url)
    client.call("SLOWLOG", "RESET")
    command = [sys.executable, "-c", PINGS, str(at.hostname), str(at.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        cpu, began = _server_cpu_s(client), perf_counter()
        try:
            yield
            took, cpu = perf_counter() - began, _server_cpu_s(client) - cpu
        finally:
            other.send_signal(SIGINT)
        seen: dict[str, float] = {"longest_stall_ms": float(other.stdout.readline())}
    slow = client.call("SLOWLOG", "GET", 128)
    seen["longest_call_ms"] = max((entry[2] for entry in slow), default=0) / 1e3
    if n_rows:
        seen |= {"s": took, "rows_per_s": n_rows / took, "server_cpu_us_a_row": cpu / n_rows * 1e6}
    found[name] = seen


def _server_cpu_s(client: Client) -> float:
    used = client.call("INFO", "cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _used(client: Client) -> int:
    """Bytes, once what is removed is gone."""
    while client.call("INFO", "memory")["lazyfree_pending_objects"]:
        sleep(0.01)
    return int(client.call("INFO", "memory")["used_memory"])


def _memory(client: Client, index: RedisIndex, n_items: int, empty: int) -> dict[str, float]:
    """Bytes an item: without the log of updates, with and without vectors."""
    client.calls(("UNLINK", key) for key in client.call("KEYS", "{instep}:*") if key != b"{instep}:head")
    both = _used(client)
    client.calls(("UNLINK", key) for key in client.call("KEYS", "*:v:*"))
    codes = _used(client)
    return {"bytes_an_item": (codes - empty) / n_items, "bytes_a_vector": (both - codes) / n_items}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
