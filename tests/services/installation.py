"""One loop on servers that are there: its settings file, its topics, and its workers as processes of their own."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec

from indexer.redis_index import RedisIndex
from instep.run import WORKERS
from instep.settings import load
from instep.stores import redis_client, redis_profiles
from stream.kafka import KafkaSource, KafkaWriter
from stream.log import Record, Unavailable
from stream.redis_profiles import RedisProfiles
from tests.services.processes import ROOT
from tests.services.ready import last_lines
from tests.worlds import small

ENDING = "profiles"
"""The worker that ends with 1 where others begin anew, and that whoever started it starts again."""
WITHIN_S = 60.0
"""How long anything may take to come about."""


class Installation:
    """What one person has who runs instep beside a Kafka and a Redis.

    Parameters
    ----------
    folder
        For its settings, checkpoints and the workers' logs.
    sections
        Settings that differ from those of a small model.
    """

    def __init__(
        self, folder: Path, bootstrap: str, redis_url: str, sections: Mapping[str, Mapping[str, Any]]
    ) -> None:
        name = f"t{uuid.uuid4().hex[:12]}"
        raw: dict[str, Any] = msgspec.to_builtins(small())
        raw["kafka"] |= {"bootstrap": bootstrap, "prefix": name}
        raw["redis"] |= {"url": redis_url, "prefix": name}
        raw["service"]["ports"] = dict.fromkeys(raw["service"]["ports"], 0)
        raw["trainer"]["checkpoints"] = str(folder / "checkpoints")
        raw["monitor"] |= {"port": 0, "folder": str(folder / "monitor")}
        for section, values in sections.items():
            raw[section] |= values
        self.folder = folder
        self.file = folder / "instep.toml"
        self.file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in raw.items()))
        self.settings = load(self.file)
        self.cluster = self.settings.cluster()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._n_told: dict[str, int] = {}
        self._sources: dict[str, KafkaSource] = {}

    def instep(self, *words: str, code: int = 0, settings: bool = True) -> str:
        """Run a command to its end; what it wrote. AssertionError if it did not end with this code."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "instep.cli",
                *words,
                *(("--settings", str(self.file)) if settings else ()),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * WITHIN_S,
        )
        assert done.returncode == code, (
            f"instep {' '.join(words)}: expected code {code}, got {done.returncode}:\n"
            + last_lines(done.stdout + done.stderr)
        )
        return done.stdout + done.stderr

    def drain(self) -> None:
        """Let one worker after the other do what there is to do."""
        for worker in WORKERS:
            self.instep("run", worker, "--once")

    def write(self, records: Iterable[Record]) -> None:
        """Events, as a product sends them."""
        writer = KafkaWriter(self.cluster, "events")
        try:
            for record in records:
                writer.write(record.partition, record.key, record.value)
            writer.flush()
        finally:
            writer.close()

    def read(self, topic: str) -> dict[int, list[Record]]:
        """All that is committed, by partition."""
        source = KafkaSource(self.cluster, topic)
        found: dict[int, list[Record]] = {p: [] for p in source.offsets}
        try:
            while any(source.offsets[p] < end for p, end in source.end().items()):
                for record in source.poll(10_000):
                    found[record.partition].append(record)
        finally:
            source.close()
        return found

    @cached_property
    def index(self) -> RedisIndex:
        """What the indexer writes."""
        return RedisIndex(redis_client(self.settings), self.settings.redis.prefix)

    @cached_property
    def profiles(self) -> RedisProfiles:
        """What the profiles worker writes."""
        return redis_profiles(self.settings, redis_client(self.settings))

    def start(self, worker: str, n: int = 1) -> None:
        """Start a worker, or the ``n``-th process of that kind; it runs until it is told otherwise."""
        with self.log(worker, n).open("ab") as log:
            self._n_told[f"{worker} {n}"] = log.tell()
            self._children[f"{worker} {n}"] = subprocess.Popen(
                [sys.executable, "-m", "instep.cli", "run", worker, "--settings", str(self.file)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, worker: str, n: int = 1) -> None:
        """SIGKILL."""
        child = self._children.pop(f"{worker} {n}")
        child.kill()
        child.wait()

    def leave(self, worker: str, n: int = 1) -> None:
        """SIGTERM, once it is there to be told; AssertionError if it does not end well in time."""
        begun = self._n_told[f"{worker} {n}"]
        self.wait(lambda: b"serving" in self.log(worker, n).read_bytes()[begun:], f"{worker} to start")
        child = self._children.pop(f"{worker} {n}")
        child.terminate()
        try:
            code = child.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        assert code == 0, f"{worker}: expected to leave with 0, got {code}:\n{self._told(worker, n)}"

    def log(self, worker: str, n: int = 1) -> Path:
        """What that process and those before it wrote."""
        return self.folder / f"{worker}-{n}.log"

    def progress(self, worker: str) -> int:
        """A number that grows as a worker gets on; -1 if its output cannot be reached now."""
        try:
            if worker == "indexer":
                version = self.index.version
                return -1 if version is None else (version.epoch << 32) + version.step
            if worker == "profiles":
                return sum(self.profiles.place(p) or 0 for p in range(self.settings.stream.partitions))
            if worker == "monitor":
                return round(self.counted(worker, "instep_records_in_total"))
            return sum(self._source("samples" if worker == "joiner" else "model").end().values())
        except (Unavailable, OSError):
            return -1

    def address(self, worker: str, n: int = 1) -> str:
        """Where a process that was started answers over HTTP. OSError if it does not say so yet."""
        told = self.log(worker, n).read_text(errors="replace")[self._n_told[f"{worker} {n}"] :]
        found = re.search(r"serving worker=\w+ host=(\S+) port=(\d+)", told)
        if found is None:
            raise ConnectionError(f"{worker} does not listen yet")
        return f"http://{found[1]}:{found[2]}"

    def counted(self, worker: str, name: str) -> float:
        """The sum of a metric over its labels. OSError if the worker does not answer."""
        with urlopen(f"{self.address(worker)}/metrics", timeout=WITHIN_S) as answer:
            page = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", page, re.MULTILINE))

    def wait(self, condition: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
        """Return when it holds; AssertionError if a worker ends by itself before, or time is up."""
        deadline = time.monotonic() + within_s
        while not condition():
            for name, child in list(self._children.items()):
                worker, n = name.split()
                if child.poll() == 1 and worker == ENDING:
                    self.start(worker, int(n))
                    continue
                assert child.poll() is None, (
                    f"{name}: expected to run on, ended with {child.returncode}:\n{self._told(worker, int(n))}"
                )
            assert time.monotonic() < deadline, f"expected {what} within {within_s:g} s:\n" + "\n".join(
                f"{name}:\n{self._told(name.split()[0], int(name.split()[1]), 8)}" for name in self._children
            )
            time.sleep(0.002)

    def close(self) -> None:
        """End what still runs."""
        for child in self._children.values():
            child.kill()
            child.wait()
        for source in self._sources.values():
            source.close()

    def _source(self, topic: str) -> KafkaSource:
        if topic not in self._sources:
            self._sources[topic] = KafkaSource(self.cluster, topic)
        return self._sources[topic]

    def _told(self, worker: str, n: int, n_lines: int = 30) -> str:
        return last_lines(self.log(worker, n).read_text(errors="replace"), n_lines)


@contextlib.contextmanager
def installed(
    folder: Path, bootstrap: str, redis_url: str, **sections: Mapping[str, Any]
) -> Iterator[Installation]:
    """An installation with its topics, of which nothing runs on after leaving."""
    folder.mkdir(parents=True, exist_ok=True)
    installation = Installation(folder, bootstrap, redis_url, sections)
    try:
        installation.instep("topics", "create")
        yield installation
    finally:
        installation.close()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
