"""A recorded log goes in while workers are killed and servers go away, at moments that a seed decides.

The log is cut into pieces. Each disturbance has one: it is sent, and when the worker concerned has come some way into
what it makes of it, the disturbance happens. So there is always something in the middle to be disturbed, however
fast the machine is::

    piece 1 sent -- joiner writes 17 samples -- kill -9 --> started again; piece 2 sent -- trainer ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import redis

from instep.faults import Faults, lines
from instep.run import WORKERS
from stream.files import FileSource, write_events
from stream.log import Record
from tests.services.installation import Installation, installed
from tests.services.kept import TTL_MS
from tests.services.processes import LocalKafka, LocalRedis
from tests.services.undisturbed import Undisturbed, undisturbed
from tests.worlds import product

PIECE = 60
"""Slates in a piece."""
SOME = {"joiner": 60, "profiles": 100, "trainer": 12, "indexer": 5, "monitor": 30}
"""Less than what comes of a piece, by the worker that makes it."""
IN_CI = (
    *("kill each", "kill each", "freeze kafka, kill each", "stop each", "restart kafka"),
    *("restart redis", "flush redis", "a joiner comes and goes"),
)
"""Three kills of each worker, and all else once."""


def n_pieces(disturbances: Sequence[str]) -> int:
    """How many pieces these take."""
    return sum(len(WORKERS) if name in ("kill each", "stop each") else 1 for name in disturbances)


SECTIONS: dict[str, dict[str, object]] = {
    "stream": {"max_history": 40, "history_ttl_ms": TTL_MS},
    # A checkpoint takes less of event time than a piece, and does not come with every publication.
    "trainer": {"checkpoint_ms": 3_000, "row_ttl_ms": TTL_MS},
    "kafka": {
        "timeout_ms": 8_000,
        "transaction_timeout_ms": 10_000,
        "client": {"session_timeout_ms": 3_000},  # so long does the group wait for a joiner that was killed
    },
    "redis": {"timeout_ms": 2_000},
    "service": {"poll_records": 10, "retry_ms": 1_000},  # small steps: many places to be killed at
}


class Trial:
    """A loop that is being disturbed.

    Parameters
    ----------
    records
        Of the whole log, in the order of sending; the first ``n_sent`` are there already.
    n_cut
        How many pieces the others are cut into, besides a last one.
    """

    def __init__(
        self,
        loop: Installation,
        kafka: LocalKafka,
        redis_server: LocalRedis,
        records: Sequence[Record],
        n_sent: int,
        n_cut: int,
        seed: int,
    ) -> None:
        self.loop = loop
        self.done: list[tuple[str, float]] = []
        """What happened, and how many seconds that and getting there took."""
        self._kafka = kafka
        self._redis = redis_server
        self._rng = np.random.default_rng(seed)
        cuts = np.linspace(n_sent, len(records), n_cut + 2).astype(int).tolist()
        self._pieces = [records[a:b] for a, b in pairwise(cuts)]
        self._kinds: dict[str, Callable[[], None]] = {
            **{f"kill {w}": lambda w=w: self._kill(w) for w in WORKERS},  # type: ignore[misc]
            **{f"stop {w}": lambda w=w: self._stop(w) for w in WORKERS},  # type: ignore[misc]
            **{f"freeze kafka, kill {w}": lambda w=w: self._freeze(w) for w in WORKERS},  # type: ignore[misc]
            "kill each": self._kill_each,
            "stop each": self._stop_each,
            "freeze kafka, kill each": self._freeze_all,
            "restart kafka": self._restart_kafka,
            "restart redis": self._restart_redis,
            "flush redis": self._flush_redis,
            "a joiner comes and goes": self._second_joiner,
        }

    def run(self, disturbances: Sequence[str]) -> None:
        """Start the workers, disturb them in an order of chance, and let them do what is left."""
        self._start_each()
        for name in self._rng.permutation(np.array(disturbances)).tolist():
            began_s = time.monotonic()
            self._kinds[name]()
            self.done.append((name, time.monotonic() - began_s))
        for worker in WORKERS:
            self.loop.leave(worker)
        self.finish()

    def finish(self) -> None:
        """Send what is left, and let one worker after the other do what there is to do."""
        while self._pieces:
            self.loop.write(self._pieces.pop(0))
        self.loop.drain()

    def _underway(self, worker: str) -> None:
        """Send a piece, and return when the worker is somewhere in the middle of it."""
        before = self.loop.progress(worker)
        self.loop.write(self._pieces.pop(0))
        until = before + int(self._rng.integers(1, SOME[worker]))
        what = f"{worker} to get from {before} to {until}"
        self.loop.wait(lambda: self.loop.progress(worker) >= until, what)

    def _kill(self, worker: str) -> None:
        self._underway(worker)
        self.loop.kill(worker)
        self.loop.start(worker)

    def _stop(self, worker: str) -> None:
        self._underway(worker)
        self.loop.leave(worker)
        self.loop.start(worker)

    def _kill_each(self) -> None:
        for worker in reversed(WORKERS):  # so that each has something to do until its turn comes
            self._underway(worker)
            self.loop.kill(worker)
        self._start_each()

    def _stop_each(self) -> None:
        for worker in reversed(WORKERS):
            self._underway(worker)
            self.loop.leave(worker)
        self._start_each()

    def _start_each(self) -> None:
        for worker in WORKERS:
            self.loop.start(worker)

    def _freeze(self, *workers: str) -> None:
        self._underway(workers[0])
        self._kafka.freeze()
        try:
            time.sleep(self._rng.uniform(0.2, 1))
            for worker in workers:
                self.loop.kill(worker)
                self.loop.start(worker)
            time.sleep(self._rng.uniform(0.5, 2))
        finally:
            self._kafka.thaw()

    def _freeze_all(self) -> None:
        self._freeze(*reversed(WORKERS))

    def _restart_kafka(self) -> None:
        self._underway(self._any())
        if self._rng.random() < 0.5:
            self._kafka.kill()
        else:
            self._kafka.stop()
        time.sleep(self._rng.uniform(0, 2))
        self._kafka.start()

    def _restart_redis(self) -> None:
        self._underway("indexer")
        self._redis.stop()
        time.sleep(self._rng.uniform(0, 2))
        self._redis.start()

    def _flush_redis(self) -> None:
        self._underway("indexer")
        with redis.Redis.from_url(self._redis.url) as client:
            client.flushall()

    def _second_joiner(self) -> None:
        """It takes partitions over, and leaves them to the first again or is killed with them."""
        log = self.loop.log("joiner", 2)
        log.write_text("")
        self.loop.start("joiner", 2)
        self.loop.wait(lambda: "state read back" in log.read_text(), "a second joiner to get partitions")
        self._underway("joiner")
        if self._rng.random() < 0.5:
            self.loop.kill("joiner", 2)
        else:
            self.loop.leave("joiner", 2)

    def _any(self) -> str:
        return str(self._rng.choice(np.array(WORKERS)))


@contextmanager
def trial(
    folder: Path, kafka: LocalKafka, redis_server: LocalRedis, disturbances: Sequence[str], seed: int
) -> Iterator[tuple[Trial, Undisturbed]]:
    """A loop whose first events are sent, and what is to come of all of them."""
    n_cut = n_pieces(disturbances)
    sent = list(lines(product((n_cut + 1) * PIECE), faults(seed)))
    slates = [i for i, line in enumerate(sent) if b'"impression"' in line[:30]]
    with installed(folder, kafka.bootstrap, redis_server.url, **SECTIONS) as loop:
        n = loop.settings.stream.partitions
        first, whole = folder / "first.jsonl", folder / "whole.jsonl"
        write_events(first, sent[: slates[PIECE]])
        write_events(whole, sent)
        n_first = len(FileSource(first, n).poll(1 << 30))
        records = FileSource(whole, n).poll(1 << 30)
        loop.instep("send", str(first))
        expected = undisturbed(loop.settings, records)
        yield Trial(loop, kafka, redis_server, records, n_first, n_cut, seed), expected


def faults(seed: int) -> Faults:
    """Events that come twice, late, too late or broken."""
    return Faults(duplicated=0.05, late=0.05, late_s=3, broken=0.02, seed=seed)
