"""The ranker as a process on a real Kafka and a real Redis, with the whole loop behind it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from instep.pipeline import Pipeline
from instep.settings import Settings
from ranker.client import Candidate, NewAction, RankerClient, RankerError
from stream.events import Impression, Sample
from stream.files import FileSource, write_events
from stream.history import digest
from stream.log import MemoryLog, Record
from tests.services.installation import WITHIN_S, Installation, installed
from tests.services.kept import TTL_MS
from tests.services.processes import LocalKafka, LocalRedis, local_kafka, local_redis
from tests.services.servers import KafkaServer, RedisServer
from tests.worlds import product
from trainer.batch import make_batch

N_SLATES = 120
SECTIONS: dict[str, dict[str, Any]] = {
    "stream": {"history_ttl_ms": TTL_MS},  # the log is of another year than the clock
    "trainer": {"row_ttl_ms": TTL_MS},
    "ranker": {"port": 0, "audit_ms": 200, "max_behind_ms": 2_000, "tick_ms": 0},
    "redis": {"timeout_ms": 1_000},
    "kafka": {"timeout_ms": 2_000, "transaction_timeout_ms": 10_000},
}


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, f"expected {what} within {WITHIN_S:g} s"
        time.sleep(0.02)


@contextmanager
def ranker(loop: Installation) -> Iterator[RankerClient]:
    """A ranker that is ready; it has to leave well."""
    begun = loop.log("ranker").stat().st_size if loop.log("ranker").exists() else 0
    loop.start("ranker")

    def told() -> str:
        return loop.log("ranker").read_text()[begun:]

    loop.wait(lambda: " port=" in told(), "the ranker to listen")
    found = re.search(r" port=(\d+)", told())
    assert found is not None
    url = f"http://127.0.0.1:{found[1]}"
    with RankerClient(url, timeout_s=20) as client:
        loop.wait(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the ranker to be ready")
        yield client
    loop.leave("ranker")


def slates() -> list[Impression]:
    return [e for e in product(N_SLATES) if isinstance(e, Impression)]


class OneProcess:
    """The same log in this process: its model, and the samples that it has learned."""

    def __init__(self, settings: Settings, records: list[Record]) -> None:
        log, self.samples = MemoryLog(settings.stream.partitions), list[Sample]()
        for record in records:
            log.append(record.partition, record.key, record.value)
        pipeline = Pipeline(settings, log.source(), on_step=lambda step: self.samples.extend(step.samples))
        while pipeline.pump():
            pass
        self.learner, self.loop = pipeline.learner, pipeline.loop


@contextmanager
def learned(loop: Installation, tmp_path: Path) -> Iterator[list[Record]]:
    log = tmp_path / "log.jsonl"
    write_events(log, product(N_SLATES))
    loop.instep("send", str(log))
    loop.drain()
    yield FileSource(log, loop.settings.stream.partitions).poll(1 << 30)


@pytest.fixture
def loop(kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path / "loop", kafka.bootstrap, redis_server.url, **SECTIONS) as there:
        yield there


def page(client: RankerClient) -> str:
    return client._http.get("/metrics").text


def counted(client: RankerClient, name: str, **labels: str) -> float:
    values = [
        float(value)
        for given, value in re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", page(client), re.MULTILINE)
        if all(f'{key}="{label}"' in given for key, label in labels.items())
    ]
    return sum(values)


def test_scores_are_those_of_one_process_and_codes_are_in_step(loop: Installation, tmp_path: Path) -> None:
    with learned(loop, tmp_path) as records, ranker(loop) as client:
        expected = OneProcess(loop.settings, records)
        assert client.version().version == expected.loop.version
        config, n_compared = loop.settings.learner_config(), 0
        shown = {s.id: s for s in slates()}
        for sample in expected.samples:
            of = shown[sample.impression]
            answer = client.rank(of.user, of.candidates, of.context, at_ms=of.at_ms)
            assert answer.version == expected.loop.version
            assert answer.history.source == "profile"
            assert answer.history.digest == digest(sample.sequence, sample.sequence_at)
            batch = make_batch([sample], len(loop.settings.fields.item), 1)
            wanted = expected.learner.predict(batch)[:, 0]
            np.testing.assert_allclose(answer.scores, wanted, rtol=0, atol=1e-6)
            n_compared += len(answer.scores)
        assert n_compared > 500
        assert config.warm_up_steps < expected.loop.version.step
        until(lambda: counted(client, "instep_audit_rows_total", outcome="index") > 0, "an audit")
        assert counted(client, "instep_audit_bits_total") == 0


def test_a_click_over_http_changes_a_score_that_comes_out_over_http(
    loop: Installation, tmp_path: Path
) -> None:
    with learned(loop, tmp_path), ranker(loop) as client:
        seen = [c for e in product(N_SLATES) if isinstance(e, Impression) for c in e.candidates]
        slate = [seen[0], Candidate("brand new", {"category": "never seen"})]
        before = client.rank("newcomer", slate, {"device": "phone"}, log=True)
        assert (before.logged, before.history.n) == (True, 0)
        clicked = NewAction("click", "newcomer", seen[0].item, before.impression, seen[0].features)
        assert client.send([clicked]).accepted == 1
        until(
            lambda: any(b"newcomer" in r.key for some in loop.read("events").values() for r in some), "events"
        )
        loop.instep("run", "profiles", "--once")
        until(lambda: client.rank("newcomer", slate, {"device": "phone"}).history.n == 1, "the click")
        after = client.rank("newcomer", slate, {"device": "phone"})
        assert after.version == before.version
        assert after.scores != before.scores
        found = client.explain("newcomer", slate[0], {"device": "phone"})
        assert [b.item for b in found.behaviours] == [seen[0].item]


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with local_kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


def test_without_redis_or_kafka_answers_are_stale_and_say_so_and_nothing_is_lost(
    own_kafka: LocalKafka, tmp_path: Path
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with (
        local_redis(folder) as redis,
        installed(tmp_path / "loop", own_kafka.bootstrap, redis.url, **SECTIONS) as loop,
        learned(loop, tmp_path),
        ranker(loop) as client,
    ):
        _under_load(loop, client, redis, own_kafka, slates()[-5:])


def _under_load(
    loop: Installation, client: RankerClient, redis: LocalRedis, kafka: LocalKafka, shown: list[Impression]
) -> None:
    """Servers go and come back while requests are made; every answer is right, or says that it is old."""
    right = {s.id: client.rank(s.user, s.candidates, s.context, at_ms=s.at_ms).scores for s in shown}
    for s in shown:
        client.rank(s.user, s.candidates, s.context)  # as of now, so that it is remembered
    wrong: list[str] = []
    sources: set[str] = set()
    ids: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        n = 0
        while not stop.is_set():
            s = shown[(n := n + 1) % len(shown)]
            try:
                answer = client.rank(s.user, s.candidates, s.context, at_ms=s.at_ms)
                ids.append(client.rank(s.user, s.candidates, s.context, log=True).impression)
            except RankerError as e:
                wrong.append(f"refused {e.status}: {e}")
                return
            sources.add(answer.history.source)
            if answer.scores != right[s.id]:
                wrong.append(f"{s.id}: expected {right[s.id]}, got {answer}")
            time.sleep(0.005)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        redis.stop()
        until(lambda: bool(wrong) or client.version().behind_ms > 2_000, "to be behind")
        assert not wrong
        assert client._http.get("/readyz").status_code == 503
        redis.start()
        until(lambda: bool(wrong) or client._http.get("/readyz").status_code == 200, "to be ready again")

        def is_live_again() -> bool:
            """Whether all answers of a while are made from the profiles."""
            sources.clear()
            time.sleep(0.3)
            return sources == {"profile"}

        until(lambda: bool(wrong) or is_live_again(), "profiles again")
        kafka.stop()
        n_before = len(ids)
        until(lambda: bool(wrong) or len(ids) > n_before + 50, "answers without Kafka")
        kafka.start()
    finally:
        stop.set()
        asker.join()
    assert not wrong
    until(lambda: counted(client, "instep_outbox_waiting") == 0, "events to be written")
    assert counted(client, "instep_outbox_dropped_total") == 0
    written = b" ".join(r.value for some in loop.read("events").values() for r in some)
    assert all(one.encode() in written for one in ids)
