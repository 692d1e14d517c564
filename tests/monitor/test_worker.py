"""The monitor's worker: what it reads, what it goes on from, and what it lets be seen. Logs in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from monitor.board import Board
from monitor.delivery import Delivery
from monitor.folder import Folder
from monitor.monitor import Monitor
from monitor.record import AlertRecord
from monitor.row import SIZES_MS, Row
from monitor.rules import read_rules
from monitor.watch import Watch
from monitor.worker import KEEP_MS, MonitorWorker
from stream.events import Version, encode_sample
from stream.log import MemoryLog, Unavailable
from stream.metrics import Metrics
from tests.monitor.messages import MINUTE_MS, START_MS, feed_all, make, rules
from trainer.publication import Publication, Refused, encode, refusal
from trainer.scored import encode_scored

MESSAGES = make(30)
TOPICS = {"samples": 2, "scores": 2, "model": 1}


def written() -> dict[str, list[tuple[int, bytes, bytes]]]:
    """What workers write: partition, key, value, in the order of writing."""
    found: dict[str, list[tuple[int, bytes, bytes]]] = {topic: [] for topic in TOPICS}
    for p in (0, 1):
        found["samples"] += [(p, b"", encode_sample(m)) for m in MESSAGES.samples[p]]
        found["scores"] += [(p, b"", encode_scored(m)) for m in MESSAGES.scores[p]]
    for message in MESSAGES.model_log:
        told = [refusal(message)] if isinstance(message, Refused) else encode(cast(Publication, message))
        found["model"] += [(0, key, value) for key, value in told]
    return found


WRITTEN = written()


class Place:
    """Logs, a folder, and a clock that goes by itself."""

    def __init__(self, path: Path) -> None:
        self.logs = {topic: MemoryLog(n) for topic, n in TOPICS.items()}
        self.folder = Folder(path)
        self.wall_ms = 0
        self.index: tuple[Version, int] | Unavailable | None = None
        self.metrics = Metrics("monitor")

    def write(self, topic: str, start: int = 0, end: int = 1 << 30) -> None:
        for partition, key, value in WRITTEN[topic][start:end]:
            self.logs[topic].append(partition, key, value)

    def write_all(self) -> None:
        for topic in TOPICS:
            self.write(topic)

    def newest(self) -> tuple[Version, int] | None:
        if isinstance(self.index, Unavailable):
            raise self.index
        return self.index

    def worker(self, poll_records: int = 100) -> MonitorWorker:
        """As a process builds one."""
        self.board = self.folder.board() if self.folder.has_board else Board()
        self.delivery = Delivery(AlertRecord(self.folder.alerts), self.metrics)
        monitor = Monitor(rules(), read_rules(), self.board, self.delivery, state=self.folder.state())

        def now_ms() -> int:
            self.wall_ms += 400
            return self.wall_ms

        return MonitorWorker(
            self.logs["samples"].source(),
            self.logs["scores"].source(),
            self.logs["model"].source(),
            self.newest,
            monitor,
            self.folder,
            self.metrics,
            poll_records=poll_records,
            now_ms=now_ms,
        )

    def rows(self) -> dict[int, list[Row]]:
        return {size: [r for r in self.board.rows(size) if r.source != "freshness"] for size in SIZES_MS}

    def leave(self, worker: MonitorWorker) -> None:
        worker.close()
        self.delivery.close()


def drain(place: Place, worker: MonitorWorker) -> None:
    while worker.step() or not worker.drained:
        pass
    worker.finish()
    place.leave(worker)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Row]]:
    """All windows, from the records themselves."""
    board = Board()
    for row in feed_all(Watch(rules()), MESSAGES).take():
        board.add(row)
    return {size: [r for r in board.rows(size) if r.source != "freshness"] for size in SIZES_MS}


def test_it_shows_and_keeps_all_windows_of_what_is_in_the_topics(
    tmp_path: Path, expected: dict[int, list[Row]]
) -> None:
    place = Place(tmp_path)
    place.write_all()
    worker = place.worker()
    assert worker.not_ready == "waits for the first record of instep.samples"
    assert not worker.drained
    drain(place, worker)
    assert (worker.not_ready, worker.drained) == ("", True)
    assert place.rows() == expected
    assert len(expected[MINUTE_MS]) > 80
    kept = place.folder.board()
    assert {size: [r for r in kept.rows(size) if r.source != "freshness"] for size in SIZES_MS} == expected


@settings(
    deadline=None,
    max_examples=10,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1 << 30))
def test_killed_and_left_anywhere_it_comes_to_the_same_windows(
    tmp_path_factory: pytest.TempPathFactory, expected: dict[int, list[Row]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    place, at = Place(tmp_path_factory.mktemp("place")), dict.fromkeys(TOPICS, 0)
    while any(at[topic] < len(of) for topic, of in WRITTEN.items()):
        for topic in TOPICS:
            n = int(rng.integers(0, 300))
            place.write(topic, at[topic], at[topic] + n)
            at[topic] += n
        worker = place.worker(poll_records=int(rng.integers(5, 80)))
        for _ in range(int(rng.integers(0, 25))):
            worker.step()
        if rng.random() < 0.4:
            worker.finish()
        place.leave(worker)
    drain(place, place.worker())
    assert place.rows() == expected


def test_it_keeps_what_it_has_seen_every_half_minute(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write_all()
    worker = place.worker(poll_records=5)
    for _ in range(KEEP_MS // 800):
        assert not place.folder.has_board
        worker.step()
    while place.wall_ms < KEEP_MS + 1_000:
        worker.step()
    assert place.folder.has_board
    assert place.folder.state() is not None
    place.leave(worker)


def test_a_start_is_no_news_of_the_log(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write_all()
    drain(place, place.worker())
    assert place.board.status is not None
    heard_ms = place.board.status.heard_ms
    place.wall_ms += 3_600_000
    drain(place, place.worker())
    assert place.board.status.heard_ms == heard_ms


def test_a_full_disk_stops_no_judging(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place(tmp_path / "there")
    place.write_all()
    worker = place.worker(poll_records=5)
    state = place.folder.path / "state.msgpack"
    state.mkdir()  # where a file should be
    while worker.step() or not worker.drained:
        pass
    told = {r.getMessage().partition(" folder=")[0] for r in caplog.records if r.levelname == "ERROR"}
    assert "what was seen cannot be kept" in told
    assert len(place.rows()[MINUTE_MS]) > 80
    with pytest.raises(OSError, match="directory"):
        worker.finish()
    place.leave(worker)


def test_what_is_gone_from_a_topic_is_told_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path)
    place.write("samples", 0, 100)  # of partition 0
    place.write("model", 0, 5)
    drain(place, place.worker())
    place.write("samples", 100)
    place.write("scores")
    place.write("model", 5)
    place.logs["samples"].trim({0: 120, 1: 0})
    place.logs["model"].trim({0: 7})  # within a publication
    drain(place, place.worker())
    told = [r.getMessage() for r in caplog.records if "are gone before" in r.getMessage()]
    assert [re.sub(r"from=\d+", "from=", line) for line in told] == [
        "records are gone before they were read topic=samples partition=0 from= to=120",
        "records are gone before they were read topic=model partition=0 from= to=7",
    ]
    assert place.rows()[MINUTE_MS]


def test_an_index_that_does_not_answer_stops_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path)
    place.write_all()
    place.index = Version(0, 3), START_MS
    worker = place.worker(poll_records=5)
    for _ in range(4):
        worker.step()
    place.index = Unavailable("redis.url", "expected an answer, got none")
    drain(place, worker)
    told = [r.getMessage() for r in caplog.records if "index" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("the index does not answer, its age grows")
    status = place.board.status
    assert status is not None
    assert status.stages["indexed"].version == Version(0, 3)
    ages = [
        r.values["freshness.indexed"].value for r in place.board.rows(MINUTE_MS) if r.source == "freshness"
    ]
    assert ages[-1] == pytest.approx(30 * 60)


def test_figures_of_the_newest_window_can_be_scraped_and_those_of_too_few_cannot(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write_all()
    drain(place, place.worker())
    page = place.metrics.page().decode()
    last = [r for r in place.board.rows(MINUTE_MS) if r.source == "data"][-1]
    shown = dict(
        re.findall(
            r'instep_window_value\{measure="([\w.]+)",window="1m",worker="monitor"\} ([\d.e+-]+)', page
        )
    )
    assert float(shown["data.events"]) == pytest.approx(last.values["data.events"].value)
    assert "data.positives.click" in last.values
    assert "data.positives.click" not in shown  # of a few candidates
    ends = re.findall(
        r'instep_window_end_timestamp_seconds\{source="(\w+)",window="1m",worker="monitor"\} ([\d.e+]+)', page
    )
    assert {source for source, _ in ends} == {"data", "quality", "codes", "freshness"}
    assert float(dict(ends)["data"]) == last.end_ms / 1000
    n_read = sum(float(n) for n in re.findall(r"instep_records_in_total\{.*\} ([\d.]+)", page))
    assert n_read == len(WRITTEN["samples"])


def test_what_is_ahead_of_the_samples_waits_in_its_topic(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("samples", 0, 20)  # of partition 0: time stands
    place.write("scores")
    place.write("model")
    worker = place.worker(poll_records=10)
    for _ in range(200):
        worker.step()
    assert worker.drained
    assert worker._sources["scores"].offsets[0] + worker._sources["scores"].offsets[1] == 10
    place.write("samples", 20)
    drain(place, worker)
    assert place.rows()[MINUTE_MS][-1].end_ms == START_MS + 30 * MINUTE_MS
