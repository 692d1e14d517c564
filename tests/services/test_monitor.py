"""The monitor as a process on a real Kafka and a real Redis, beside the loop that it watches."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from instep.simulator import events
from monitor.folder import Folder
from stream.events import Tick, decode_sample
from stream.files import write_events
from tests.services.installation import WITHIN_S, Installation, installed
from tests.services.kept import TTL_MS
from tests.services.servers import KafkaServer, RedisServer
from tests.services.undisturbed import Undisturbed, shown, undisturbed
from tests.worlds import WORLD, product
from trainer import checkpoint

SECTIONS: dict[str, dict[str, Any]] = {
    "stream": {"history_ttl_ms": TTL_MS},  # the log is of another year than the clock
    "trainer": {"row_ttl_ms": TTL_MS},
}
N_SLATES = 2_000
"""Of 200 s: three whole minutes or so."""


@pytest.fixture
def loop(kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path / "loop", kafka.bootstrap, redis_server.url, **SECTIONS) as there:
        yield there


def asked(loop: Installation, path: str) -> Any:
    """What the monitor answers."""
    with urlopen(f"{loop.address('monitor')}{path}", timeout=WITHIN_S) as answer:
        return json.loads(answer.read())


def answers(loop: Installation, is_so: Callable[[Any], bool]) -> bool:
    """Whether the monitor says something of its state; not while it does not answer."""
    try:
        return is_so(asked(loop, "/api/state"))
    except OSError:
        return False


def in_one_process(loop: Installation) -> Undisturbed:
    """What becomes of the events that are in the topic in this process."""
    return undisturbed(loop.settings, [r for records in loop.read("events").values() for r in records])


def test_its_windows_are_those_of_one_process_though_it_is_killed_and_left(
    loop: Installation, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    write_events(log, product(N_SLATES))
    loop.instep("send", str(log))
    for worker in ("joiner", "trainer", "indexer"):
        loop.instep("run", worker, "--once")
    loop.start("monitor")
    loop.wait(lambda: loop.progress("monitor") > 500, "the monitor to be in the middle")
    loop.kill("monitor")
    loop.start("monitor")
    loop.wait(lambda: answers(loop, lambda state: bool(state["windows"][0]["sources"])), "windows")
    loop.leave("monitor")
    loop.instep("run", "monitor", "--once")
    expected = in_one_process(loop).windows
    assert shown(Folder(Path(loop.settings.monitor.folder)).board()) == expected
    assert {r.source for r in expected[60_000]} == {"data", "quality", "codes"}
    assert len(expected[60_000]) >= 6
    told = loop.instep("report", loop.settings.monitor.folder, settings=False)
    assert told == f"written to {loop.settings.monitor.folder}/monitor.html\n"


def test_it_shows_an_order_to_hold_and_what_is_learned_is_what_one_process_learns(
    loop: Installation, tmp_path: Path
) -> None:
    now_ms = time.time_ns() // 1_000_000
    world = replace(WORLD, start_ms=now_ms - 60_000)
    sent = list(events(world, 1_200))
    n_before = sum(1 for _ in takewhile(lambda e: e.at_ms < now_ms, sent))
    cuts = (0, n_before, (n_before + len(sent)) // 2, len(sent))
    parts = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for part, start, end in zip(parts, cuts, cuts[1:], strict=False):
        write_events(part, sent[start:end])
    for worker in ("joiner", "trainer", "indexer", "monitor"):
        loop.start(worker)
    loop.instep("send", str(parts[0]))
    held: list[tuple[str, str]] = []

    def holds(state: Any) -> bool:
        """Whether the page says that training holds; what it said is kept."""
        status = state["status"]
        held.append((status["held"], status["breaker"]) if status else ("", ""))
        return bool(held[-1][0])

    loop.wait(
        lambda: answers(loop, lambda s: bool(s["status"]) and "trained" in s["status"]["stages"]), "a start"
    )
    assert not answers(loop, holds)
    assert "is in the log of events" in loop.instep("hold")
    loop.instep("send", str(parts[1]))
    loop.wait(lambda: answers(loop, holds), "the page to say that training holds")
    assert held[-1] == ("ordered by a person", "closed")
    loop.wait(lambda: loop.counted("trainer", "instep_holding") == 1, "the trainer to hold")
    assert loop.counted("trainer", "instep_held_samples_total") > 0
    loop.instep("release", "--learn")
    loop.instep("send", str(parts[2]))  # an order is obeyed when time has passed it
    loop.wait(lambda: loop.counted("trainer", "instep_holding") == 0, "the trainer to learn again")
    for worker in ("monitor", "trainer", "indexer", "joiner"):
        loop.leave(worker)
    loop.drain()
    expected = in_one_process(loop)
    last = checkpoint.load(loop.settings.trainer.checkpoints)
    assert last.version == expected.version
    assert checkpoint.weights_sha256(last.tensors) == expected.weights_sha256
    samples = [decode_sample(r.value) for some in loop.read("samples").values() for r in some]
    assert [m.order for m in samples if isinstance(m, Tick) and m.order] == ["hold", "learn"]


def test_a_page_that_listens_is_left_at_once(loop: Installation, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_events(log, product(50))
    loop.instep("send", str(log))
    loop.instep("run", "joiner", "--once")
    loop.start("monitor")
    loop.wait(
        lambda: answers(loop, lambda state: state["status"] is not None), "the monitor to hear of the log"
    )
    loop.wait(lambda: loop.counted("monitor", "instep_ready") == 1, "the monitor to be ready")
    heard = threading.Event()

    def listen() -> None:
        with urlopen(f"{loop.address('monitor')}/api/stream", timeout=WITHIN_S) as stream:
            for _ in stream:
                heard.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert heard.wait(WITHIN_S)
    began_s = time.monotonic()
    loop.leave("monitor")
    listener.join(WITHIN_S)
    assert not listener.is_alive()
    assert time.monotonic() - began_s < 5
