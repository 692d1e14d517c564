"""What the tests of the ranker as a service share: one in this process on memory, its HTTP included."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Thread

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.testclient import TestClient

from indexer.index import MemoryIndex, Update
from instep.pipeline import Pipeline
from instep.settings import Settings
from ranker.audit import Auditor
from ranker.http import make_app
from ranker.live import LiveModel
from ranker.lookups import Lookups
from ranker.mirror import Mirror
from ranker.names import Names
from ranker.outbox import Outbox
from ranker.remembered import RememberedProfiles
from ranker.service import RankerRules, RankerService
from stream.events import Event, Impression, Version, decode_event
from stream.log import MemoryLog, Unavailable
from stream.metrics import Metrics
from stream.profiles import MemoryProfiles
from tests.worlds import make_log, make_profiles, product, small
from trainer.loop import Step
from trainer.model.simhash import make_planes

N_SLATES = 200
SETTINGS = small(stream={"max_history": 20, "history_ttl_ms": 6 * 3_600_000})
TOKEN = "a-token-of-the-tests"
WITHIN_S = 20.0


class Switch:
    """Whether what is behind it answers."""

    is_off = False

    def check(self) -> None:
        if self.is_off:
            raise Unavailable("test", "expected an answer, got none")


class SwitchedIndex(MemoryIndex):
    """An index that can be away, and that two threads may use."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self._switch = switch
        self._lock = Lock()

    def apply(self, update: Update) -> int:
        with self._lock:
            return super().apply(update)

    def since(self, version: Version | None) -> list[Update] | None:
        self._switch.check()
        with self._lock:
            return super().since(version)

    def load(self) -> Update | None:
        self._switch.check()
        with self._lock:
            return super().load()


class SwitchedProfiles(MemoryProfiles):
    """Profiles that can be away."""

    def __init__(self, switch: Switch, of: MemoryProfiles) -> None:
        super().__init__(of.n_fields, of.max_history, of.ttl_ms)
        self._users = of._users
        self._switch = switch

    def get(self, user: int, at_ms: int, limit: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        self._switch.check()
        return super().get(user, at_ms, limit)


class MemoryWriter:
    """Writes to a log in memory; what was not flushed before it went away is lost."""

    def __init__(self, switch: Switch, log: MemoryLog, partitions: int) -> None:
        self.partitions = partitions
        self._switch = switch
        self._log = log
        self._written: list[tuple[int, bytes, bytes]] = []

    def write(self, partition: int, key: bytes, value: bytes) -> None:
        self._switch.check()
        self._written.append((partition, key, value))

    def flush(self) -> None:
        self._switch.check()
        for one in self._written:
            self._log.append(*one)
        self._written = []

    def close(self) -> None:
        pass


@dataclass
class Serving:
    """A pipeline that has learned a product's events, and a ranker that follows its index."""

    settings: Settings = SETTINGS
    rules: RankerRules = field(default_factory=lambda: RankerRules(max_history=20))
    max_waiting: int = 1_000
    tick_ms: int = 0
    now_ms: int = 0
    sent: Sequence[Event] = field(default_factory=lambda: product(N_SLATES), repr=False)

    def __post_init__(self) -> None:
        s, config = self.settings, self.settings.learner_config()
        self.shown = [e for e in self.sent if isinstance(e, Impression)]
        self.now_ms = self.now_ms or max(e.at_ms for e in self.sent) + 1
        self.steps: list[Step] = []
        self.index_switch, self.profiles_switch, self.log_switch = Switch(), Switch(), Switch()
        log = make_log(self.sent, s.stream.partitions)
        self.pipeline = Pipeline(s, log.source(), on_step=self.steps.append)
        self.pipeline.index = self.index = SwitchedIndex(self.index_switch)
        self.events = MemoryLog(s.stream.partitions)
        self.metrics = Metrics("ranker")
        self.failures: list[BaseException] = []
        made = make_profiles(self.sent, s.fields, s.stream.history_ttl_ms)
        self.live = LiveModel(
            lambda: Mirror(config.shape, config.bits, s.trainer.capacity),
            self.index,
            self.metrics,
            warm_up=s.scorer().warm_up,
            now_ms=lambda: self.now_ms,
            fail=self.failures.append,
        )
        self.outbox = Outbox(
            lambda: MemoryWriter(self.log_switch, self.events, s.stream.partitions),
            self.metrics,
            n_most=self.max_waiting,
            tick_ms=self.tick_ms,
            now_ms=lambda: self.now_ms,
            fail=self.failures.append,
        )
        n_fields = len(s.fields.item)
        profiles = SwitchedProfiles(self.profiles_switch, made)
        names = Names(s.fields, 1_000)
        planes = make_planes(s.n_coded, s.model.dim, s.model.bits, s.model.seed)
        self.auditor = Auditor(self.live, self.index, planes, self.metrics, every_ms=60_000)
        self.service = RankerService(
            self.live,
            RememberedProfiles(profiles, n_fields, 20, n_users=100, now_ms=lambda: self.now_ms),
            self.outbox,
            s.scorer(),
            names,
            Lookups(self.live, s.scorer(), names, s.model.bits),
            self.auditor,
            self.metrics,
            self.rules,
            now_ms=lambda: self.now_ms,
        )

    def learn(self) -> None:
        """Let the pipeline learn and publish all there is."""
        while self.pipeline.pump():
            pass
        self.pipeline.finish()

    @contextmanager
    def client(self, tokens: Sequence[str] = (), max_body_bytes: int = 1 << 20) -> Iterator[TestClient]:
        """The application as it is served, started and ended."""
        app = make_app(self.service, tokens=tokens, max_body_bytes=max_body_bytes)
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client
        assert not self.failures

    @contextmanager
    def listening(self) -> Iterator[str]:
        """The same at an address of its own."""
        server = uvicorn.Server(uvicorn.Config(make_app(self.service), log_config=None, ws="none"))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()
        assert not self.failures

    def logged(self) -> list[Event]:
        """What is on the event log."""
        return [decode_event(record.value) for record in self.events.source().poll(1 << 30)]
