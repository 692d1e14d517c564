"""Events on their way to the log: at least once, in order, and never more waiting than allowed."""

from __future__ import annotations

import random
import threading
import time

import pytest
from msgspec.structs import replace

from ranker.outbox import MOST_BYTES, Outbox
from stream.events import MAX_EVENT_BYTES, Action, BadEvent, Event, decode_event, encode_event
from stream.log import LogError, MemoryLog, Unavailable
from stream.metrics import Metrics
from tests.ranker.serving import WITHIN_S, MemoryWriter, Switch


class Flaky(MemoryWriter):
    """Goes away in the middle of every other thing that it does."""

    def __init__(self, log: MemoryLog, rng: random.Random) -> None:
        super().__init__(Switch(), log, 2)
        self._rng = rng

    def write(self, partition: int, key: bytes, value: bytes) -> None:
        self._trip(0.003)
        super().write(partition, key, value)

    def flush(self) -> None:
        time.sleep(0.002)  # more events come meanwhile
        if self._rng.random() < 0.3:  # some are there and some not
            for one in self._written[: self._rng.randrange(len(self._written) + 1)]:
                self._log.append(*one)
            raise Unavailable("test", "expected an answer, got none")
        super().flush()

    def _trip(self, share: float) -> None:
        if self._rng.random() < share:
            raise Unavailable("test", "expected an answer, got none")


def click(n: int) -> Action:
    return Action("click", f"user{n % 7}", f"n{n}", n)


def outbox(log: MemoryLog, failures: list[BaseException], n_most: int = 1_000, seed: int = 0) -> Outbox:
    rng = random.Random(seed)
    return Outbox(
        lambda: Flaky(log, rng),
        Metrics("ranker"),
        n_most=n_most,
        tick_ms=0,
        now_ms=lambda: 0,
        fail=failures.append,
    )


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ranker.outbox.RETRY_S", (0.001, 0.002))


@pytest.mark.parametrize("seed", range(5))
def test_all_that_was_taken_is_there_in_order_however_often_the_log_goes_away(seed: int) -> None:
    log, failures = MemoryLog(2), list[BaseException]()
    box = outbox(log, failures, seed=seed)
    box.start()
    taken: list[Event] = []
    rng = random.Random(seed)
    for n in range(300):
        while not box.put([click(n)]):
            time.sleep(0.001)
        taken.append(click(n))
        if rng.random() < 0.1:
            time.sleep(0.002)
    box.close(WITHIN_S)
    assert (box.n_waiting, failures) == (0, [])
    found = [decode_event(r.value) for r in log.source().poll(1 << 30)]
    assert len(found) >= len(taken)
    for user in {e.user for e in taken}:  # type: ignore[union-attr]
        first = list(dict.fromkeys(e.at_ms for e in found if e.user == user))  # type: ignore[union-attr]
        assert first == [e.at_ms for e in taken if e.user == user]  # type: ignore[union-attr]


def test_who_puts_never_waits_and_what_has_no_room_is_not_taken_in_part() -> None:
    log, failures = MemoryLog(2), list[BaseException]()
    box = outbox(log, failures, n_most=5)  # not started: nothing leaves
    assert box.put([click(0), click(1), click(2)])
    assert not box.put([click(3), click(4), click(5)])
    assert box.put([click(3), click(4)])
    assert box.n_waiting == 5
    box.close()
    assert not box.put([])


def test_an_event_that_the_log_would_refuse_is_not_taken() -> None:
    log, failures = MemoryLog(2), list[BaseException]()
    box = outbox(log, failures)
    box.start()
    around = len(encode_event(Action("click", "ada", "n", 0))) - 1 + len("ada")
    largest = Action("click", "ada", "n" * (MOST_BYTES - around), 0)
    with pytest.raises(BadEvent, match=f"at most {MOST_BYTES} bytes with its user, got {MOST_BYTES + 1}"):
        box.put([click(0), replace(largest, item=largest.item + "n")])
    assert box.put([largest, click(1)])
    box.close(WITHIN_S)
    assert failures == []
    key, value = b"ada", encode_event(largest)
    assert len(key) + len(value) == MOST_BYTES < MAX_EVENT_BYTES
    taken = [r.value for r in log.source().poll(100)]
    assert (taken.count(value), encode_event(click(0)) in taken) == (1, False)


def test_what_is_no_outage_is_told_to_whoever_runs_it() -> None:
    failures: list[BaseException] = []
    told = threading.Event()

    def fail(error: BaseException) -> None:
        failures.append(error)
        told.set()

    def refuse() -> MemoryWriter:
        raise LogError("topic instep.events", "expected a topic, got none")

    box = Outbox(refuse, Metrics("ranker"), n_most=5, tick_ms=0, now_ms=lambda: 0, fail=fail)
    threading.excepthook, before = (lambda _: None), threading.excepthook
    try:
        box.start()
        assert told.wait(WITHIN_S)
        box.close()
    finally:
        threading.excepthook = before
    assert [type(e) for e in failures] == [LogError]
