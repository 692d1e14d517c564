"""Monitor: what is shown and told is the same wherever it is stopped, and how things stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from monitor.alert import Alert
from monitor.board import Board
from monitor.delivery import Delivery
from monitor.monitor import Monitor
from monitor.record import AlertRecord
from monitor.row import SIZES_MS, Row
from monitor.rules import Rules, read_rules
from monitor.watched import WatchRules
from stream.events import Tick, Version
from stream.metrics import Metrics
from tests.monitor.alerts import alert
from tests.monitor.messages import MINUTE_MS, START_MS, Message, feed, make, rules
from trainer.gate import Band
from trainer.publication import Publication
from trainer.scored import Scored

MESSAGES = make(40)
STREAMS = [
    (
        topic,
        partition,
        [  # what closes in every third minute is not learned
            msgspec.structs.replace(m, held=m.closed_ms // MINUTE_MS % 3 == 0) if isinstance(m, Scored) else m
            for m in of
        ],
    )
    for topic, partition, of in MESSAGES.streams
]
RULE = """
[[rule]]
id = "{id}"
metrics = ["{metric}"]
size_ms = 60_000
detector = {{ kind = "limits", above = {above} }}
explains = {explains}
severity = "note"
reason = "{{value}}"
remedy = "Look."
"""
OFTEN = (
    RULE.format(id="cause", metric="codes.refused", above=2, explains=["busy"])
    + RULE.format(id="busy", metric="data.events", above=1.1, explains=[])
    + RULE.format(id="held", metric="quality.held", above=0.5, explains=[])
)
"""Something is wrong in every other minute or so; one waits for a cause, the other for scores."""


class Recording(Delivery):
    """Knows what was told to whoever is told."""

    def __init__(self) -> None:
        super().__init__(AlertRecord(), Metrics("monitor"))
        self.told: list[Alert] = []

    def _pass_on(self, alert: Alert) -> bool:
        is_news = super()._pass_on(alert)
        self.told += [alert] if is_news else []
        return is_news


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    path = tmp_path_factory.mktemp("rules") / "alerts.toml"
    path.write_text(OFTEN)
    return read_rules(path)


def kept(board: Board) -> dict[int, list[Row]]:
    """What is shown, but how far the stages had come: that depends on when one looks."""
    return {size: [r for r in board.rows(size) if r.source != "freshness"] for size in SIZES_MS}


def in_order(seed: int) -> list[tuple[str, int, int, Message]]:
    """Every record once, by its time, mixed: each topic is behind by up to ten minutes."""
    rng = np.random.default_rng(seed)
    found: list[tuple[float, str, int, int, Message]] = []
    for topic, partition, of in STREAMS:
        read_ms = [float(m.at_ms if isinstance(m, Tick) else getattr(m, "closed_ms", m.at_ms)) for m in of]
        late_ms = rng.uniform(0, 10 * MINUTE_MS) + rng.exponential(MINUTE_MS / 4, len(of))
        times = np.maximum.accumulate(np.array(read_ms) + late_ms).tolist()
        found += [(at, topic, partition, n, m) for n, (at, m) in enumerate(zip(times, of, strict=True))]
    return [each[1:] for each in sorted(found, key=lambda each: each[:4])]


def run(
    often: Rules,
    seed: int,
    stops: tuple[int, ...] = (),
    keep_every: int = 1_000_000,
    told_of: Sequence[Alert] = (),
) -> tuple[Board, list[Alert]]:
    """Records in one after the other; at each stop all that was not kept is lost, but what was told of is recorded."""
    board, delivery = Board(), Recording()
    for each in told_of:
        delivery.record.add(each)
    monitor = Monitor(rules(), often, board, delivery)
    records, state = in_order(seed), None
    for stop in (*stops, len(records)):
        for n, (topic, partition, offset, message) in enumerate(records[:stop]):
            if offset >= monitor.offsets[topic][partition]:
                feed(monitor, topic, partition, offset, message)
                monitor.turn()
            if n % keep_every == keep_every - 1:
                state = monitor.state()
        if stop < len(records):
            monitor = Monitor(rules(), often, board, delivery, state=state)
    return board, delivery.told


@settings(deadline=None, max_examples=8, derandomize=True, phases=[Phase.generate])
@given(seed=st.integers(0, 1 << 30), keep_every=st.sampled_from([60, 150, 1_000_000]))
def test_killed_anywhere_it_shows_the_same_windows_and_tells_of_each_alert_once(
    often: Rules, seed: int, keep_every: int
) -> None:
    board, told = run(often, seed)
    n = len(in_order(seed))
    stops = tuple(sorted(np.random.default_rng(seed).integers(n // 4, n, 3).tolist()))
    again, told_again = run(often, seed, stops, keep_every)
    assert kept(again) == kept(board)
    assert again.alerts == board.alerts
    assert told_again == told
    assert max(Counter((a.id, a.is_open) for a in told).values()) == 1
    assert Counter(a.rule for a in told) == {"busy": 12, "held": 27}


@pytest.mark.parametrize("keep_every", [60, 1_000_000])
def test_an_alert_that_is_found_no_more_is_over_when_its_window_was_judged(
    often: Rules, keep_every: int
) -> None:
    def told_of(minute: int, metric: str) -> Alert:
        began_ms = START_MS + minute * MINUTE_MS
        return msgspec.structs.replace(
            alert(0), metric=metric, start_ms=began_ms, raised_ms=began_ms + MINUTE_MS
        )

    first = [told_of(-60, "data.late"), told_of(6, "data.late"), told_of(7, "slices.ne.head")]
    to_come = told_of(50, "data.late")
    told = run(often, 3)[1]
    raised = [a for a in told if a.is_open]
    n = len(in_order(3))
    found = run(often, 3, (n // 2, n // 2), keep_every, told_of=[*first, to_come, *raised])[1]
    over_ms = {a.id: a.cleared_ms for a in found}
    assert len(over_ms) == len(found)
    assert over_ms == {a.id: a.cleared_ms for a in told if not a.is_open} | {
        a.id: START_MS + minute * MINUTE_MS for a, minute in zip(first, (1, 7, 8), strict=True)
    }


def a_monitor(watched: WatchRules | None = None, **given: bytes | bool | None) -> Monitor:
    delivery = Delivery(AlertRecord(), Metrics("monitor"))
    return Monitor(watched or rules(), read_rules(), Board(), delivery, **given)  # type: ignore[arg-type]


def published(n: int, why_held: str = "", minute: int = 5) -> Publication:
    return replace(
        MESSAGES.model[n], why_held=why_held, at_ms=START_MS + minute * MINUTE_MS, version=Version(0, n + 1)
    )


def test_it_shows_why_and_since_when_training_holds() -> None:
    monitor = a_monitor()
    for p in (0, 1):
        monitor.sample(p, 0, Tick(START_MS + 9 * MINUTE_MS))

    def told() -> tuple[str, str, int | None]:
        monitor.tell(heard_ms=77)
        status = monitor.board.status
        assert status is not None
        assert status.heard_ms == 77
        return status.held, status.breaker, status.held_since_ms

    assert told() == ("", "closed", None)
    monitor.published(published(0, minute=5), 1)
    assert told() == ("", "closed", None)
    since_ms = START_MS + 6 * MINUTE_MS
    monitor.published(published(1, "coverage.click is 0.02, expected 0.2 to 1.2", 6), 2)
    assert told() == ("coverage.click is 0.02, expected 0.2 to 1.2", "open", since_ms)
    bands = (Band("data.coverage.click", 0.02, 0.2, 1.2, is_met=False),)
    monitor.published(replace(published(2, "ordered", 6), bands=bands), 3)
    assert told() == ("ordered by a person", "closed", since_ms)
    assert monitor.board.status is not None
    assert monitor.board.status.bands == bands
    monitor.published(published(3, minute=8), 4)
    assert told() == ("", "closed", None)
    other = a_monitor(has_breaker=False)
    for p in (0, 1):
        other.sample(p, 0, Tick(START_MS))
    other.tell()
    assert other.board.status is not None
    assert (other.board.status.breaker, other.board.status.heard_ms) == ("none", other.board.status.at_ms)


def test_it_shows_where_each_stage_stands_and_what_became_of_records() -> None:
    monitor = a_monitor()
    monitor.tell()
    assert monitor.board.status is None  # not every partition has begun
    for topic, partition, records in MESSAGES.streams:
        for offset, message in enumerate(records):
            feed(monitor, topic, partition, offset, message)
    monitor.indexed(Version(0, 3), START_MS)
    monitor.turn()
    monitor.tell()
    status = monitor.board.status
    assert status is not None
    assert status.at_ms == START_MS + 41 * MINUTE_MS + 1
    last = max((s for of in MESSAGES.scores.values() for s in of), key=lambda s: s.version)
    assert (status.stages["trained"].version, status.stages["trained"].at_ms) == (
        last.version,
        last.closed_ms,
    )
    newest = MESSAGES.model[-1]
    assert (status.stages["published"].version, status.stages["published"].at_ms) == (
        newest.version,
        newest.at_ms,
    )
    assert status.stages["indexed"].version == Version(0, 3)
    n_in = sum(of[-1].counts["in"] for of in MESSAGES.samples.values() if isinstance(of[-1], Tick))
    assert status.counts["in"] == n_in


def test_what_was_held_is_known_after_a_restart() -> None:
    monitor = a_monitor()
    monitor.published(published(0), 1)
    monitor.published(published(1, "ordered"), 2)
    again = a_monitor(state=monitor.state())
    for p in (0, 1):
        again.sample(p, 0, Tick(START_MS))
    again.tell()
    assert again.board.status is not None
    assert again.board.status.held == "ordered by a person"


def test_a_state_of_other_settings_or_none_at_all_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    monitor = a_monitor()
    monitor.sample(0, 5, Tick(START_MS))
    state = monitor.state()
    assert a_monitor(state=state).offsets["samples"] == {0: 6, 1: 0}
    assert not caplog.records
    assert a_monitor(rules(kinds=("click", "like")), state=state).offsets["samples"] == {0: 0, 1: 0}
    assert a_monitor(rules(3), state=state).offsets["samples"] == {0: 0, 1: 0, 2: 0}
    assert a_monitor(state=b"\x93").offsets["samples"] == {0: 0, 1: 0}
    saved = msgspec.msgpack.decode(state)
    for part in ("watch", "judge"):  # as another release has laid it out
        older = msgspec.msgpack.encode(saved | {part: msgspec.msgpack.encode({"other": 1})})
        assert a_monitor(state=older).offsets["samples"] == {0: 0, 1: 0}
    watch = msgspec.msgpack.decode(saved["watch"], strict=False)
    for part, other in (("references", {}), ("seen", {name: [0, b"cells"] for name in watch["seen"]})):
        older = msgspec.msgpack.encode(saved | {"watch": msgspec.msgpack.encode(watch | {part: other})})
        assert a_monitor(state=older).offsets["samples"] == {0: 0, 1: 0}
    assert [r.getMessage()[:27] for r in caplog.records] == ["the monitor begins anew, it"] * 7


def test_a_folder_gives_back_what_was_kept_in_it(tmp_path: Path) -> None:
    from monitor.folder import BoardError, Folder

    folder, monitor = Folder(tmp_path / "there"), a_monitor()
    assert (folder.has_board, folder.state()) == (False, None)
    for topic, partition, offset, message in in_order(3):
        feed(monitor, topic, partition, offset, message)
        monitor.turn()
    monitor.tell()
    path = folder.keep(monitor.board, monitor.state())
    assert folder.has_board
    again = folder.board()
    assert kept(again) == kept(monitor.board)
    assert again.status == monitor.board.status
    assert folder.state() == monitor.state()
    assert sorted(p.name for p in folder.path.iterdir()) == ["monitor.msgpack", "state.msgpack"]
    assert folder.draw().read_text().startswith("<!doctype html>")
    path.write_bytes(b"other")
    with pytest.raises(BoardError, match=r"monitor\.msgpack: expected the board of a monitor, got: "):
        folder.board()
