"""The board: what is told of it, to whom, and what is kept."""

from __future__ import annotations

from collections import deque
from threading import Barrier, Thread

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import board as boards
from monitor.alert import cleared, decode_alert
from monitor.board import Board, Told
from monitor.kept import KEPT
from monitor.measures import MEASURES, measure_of
from monitor.row import Row, Value
from tests.monitor import made

MINUTE_MS = made.MINUTE_MS


def row(minute: int) -> Row:
    return Row("data", MINUTE_MS, minute * MINUTE_MS, {"data.events": Value(float(minute), 60)})


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 9))
@settings(deadline=None)
def test_a_reader_that_comes_now_and_then_is_told_each_thing_once_or_that_it_missed_some(
    turns: list[int], kept: int
) -> None:
    """``turns``: how many rows come before the reader looks again."""
    board = Board()
    board._told = deque(maxlen=kept)
    minute = seen = 0
    for n in turns:
        for _ in range(n):
            board.add(row(minute))
            minute += 1
        told = board.since(seen)
        if n > kept:
            assert told is None
        else:
            assert told is not None
            assert [one.n for one in told] == list(range(seen + 1, seen + n + 1))
            starts = [msgspec.json.decode(one.raw, type=Row).start_ms for one in told]
            assert starts == [m * MINUTE_MS for m in range(minute - n, minute)]
        seen = board.last
    assert board.since(seen) == []
    assert board.since(seen + 1) is None


def test_an_alert_that_is_over_takes_the_place_of_itself() -> None:
    board, alert = Board(), made.dead_clicks()
    board.put(alert)
    board.put(cleared(alert, alert.raised_ms + MINUTE_MS))
    assert [a.cleared_ms for a in board.alerts] == [alert.raised_ms + MINUTE_MS]
    told = board.since(0)
    assert told is not None
    assert [decode_alert(one.raw).is_open for one in told] == [True, False]


def test_the_newest_alerts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "N_ALERTS", 3)
    board = Board()
    raised = [msgspec.structs.replace(made.dead_clicks(), start_ms=n * MINUTE_MS) for n in range(5)]
    for alert in raised:
        board.put(alert)
    assert board.alerts == raised[:1:-1]


def test_who_listens_is_woken_by_every_change_until_it_leaves() -> None:
    board, woken = Board(), []
    leave = board.subscribe(lambda: woken.append(board.last))
    board.add(row(0))
    board.put(made.dead_clicks())
    board.tell(made.status(0))
    assert woken == [1, 2, 2]
    leave()
    board.add(row(1))
    board.close()
    assert woken == [1, 2, 2]


def test_threads_may_fill_and_read_it_at_once() -> None:
    board, n, start = Board(), 200, Barrier(4)
    told: list[list[Told]] = [[], []]

    def fill(source: str) -> None:
        start.wait()
        for minute in range(n):
            board.add(Row(source, MINUTE_MS, minute * MINUTE_MS, {}))  # type: ignore[arg-type]

    def read(into: list[Told]) -> None:
        start.wait()
        while len(into) < 2 * n:
            into += board.since(len(into)) or []

    threads = [Thread(target=fill, args=(source,)) for source in ("data", "codes")]
    threads += [Thread(target=read, args=(into,)) for into in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert told[0] == told[1]
    assert [one.n for one in told[0]] == list(range(1, 2 * n + 1))


def test_what_is_recorded_is_read_again() -> None:
    board = made.board(n_hours=2)
    again = Board.decode(board.encode())
    for size_ms in KEPT:
        assert again.rows(size_ms) == board.rows(size_ms)
    assert again.alerts == board.alerts
    assert again.status == board.status
    assert Board.decode(again.encode()).encode() == again.encode()


@pytest.mark.parametrize("raw", [b"", b"\x80", b"study", msgspec.msgpack.encode([1, 2, 3])])
def test_what_is_no_record_is_refused(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Board.decode(raw)


def test_a_record_of_another_schema_is_refused() -> None:
    recorded = msgspec.msgpack.decode(Board().encode())
    with pytest.raises(ValueError, match="board: expected schema 1, got 2"):
        Board.decode(msgspec.msgpack.encode(recorded | {"schema": 2}))


def test_the_day_that_the_page_is_tried_with_has_every_measure() -> None:
    day = made.board(n_hours=1)
    names = {name for row in day.rows(MINUTE_MS) for name in row.values}
    assert {measure_of(name).name for name in names} == {measure.name for measure in MEASURES}


def test_a_window_that_is_shown_stands_and_one_that_is_gone_does_not_come_back() -> None:
    board = Board()
    assert board.add(row(3)) == row(3)
    other = Row("data", MINUTE_MS, 3 * MINUTE_MS, {"data.events": Value(9.0, 60)})
    assert board.add(other) == row(3)
    assert board.add(row(1)) == row(1)
    assert (board.rows(MINUTE_MS), board.last) == ([row(3)], 1)
    assert board.add(row(4)) == row(4)
    assert board.rows(MINUTE_MS) == [row(3), row(4)]
