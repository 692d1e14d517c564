"""What the page is told, against what is in the rows."""

from __future__ import annotations

import csv
import io
import math

from hypothesis import given
from hypothesis import strategies as st

from monitor.board import Board, Status
from monitor.layout import SOURCES
from monitor.row import SIZES_MS, Row, Source, Value
from monitor.view import SIZES, csv_lines, news, rows_of, series, spans, state
from tests.monitor import made

NAMES = ("data.events", "data.psi.item", "quality.ne.click", "slices.ne.user.new")
numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)
values = st.builds(Value, numbers, st.integers(0, 1 << 40), numbers)
rows_by = st.dictionaries(
    st.tuples(st.sampled_from(("data", "quality")), st.integers(0, 12)),
    st.dictionaries(st.sampled_from(NAMES), values),
)


def rows_from(found: dict[tuple[Source, int], dict[str, Value]]) -> list[Row]:
    return [
        Row(source, 60_000, 60_000 * i, v) for (source, i), v in sorted(found.items(), key=lambda x: x[0])
    ]


def near(a: float | None, b: float | None) -> bool:
    """The same to six digits; what is no number is not known."""
    if b is None or not math.isfinite(b):
        return a is None
    return a is not None and math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-300)


@given(rows_by, st.none() | st.sets(st.sampled_from(NAMES)))
def test_columns_hold_what_the_rows_do_and_nothing_else(
    found: dict[tuple[Source, int], dict[str, Value]], chosen: set[str] | None
) -> None:
    rows = rows_from(found)
    told = series(rows, 60_000, 0, 1, chosen)
    assert told.start_ms == sorted({row.start_ms for row in rows})
    there: dict[tuple[str, int], Value] = {}
    for row in rows:
        for name, value in row.values.items():
            if chosen is None or name in chosen:
                there[name, row.start_ms] = value  # of two sources, the later in order
    assert set(told.values) == {name for name, _ in there}
    for name, column in told.values.items():
        assert len(column.value) == len(column.n) == len(column.error) == len(told.start_ms)
        for i, start_ms in enumerate(told.start_ms):
            value = there.get((name, start_ms), Value(None, 0))
            assert near(column.value[i], value.value)
            assert near(column.error[i], value.error)
            assert column.n[i] == value.n


@given(rows_by)
def test_csv_read_back_is_the_rows(found: dict[tuple[Source, int], dict[str, Value]]) -> None:
    rows = rows_from(found)
    read = list(csv.DictReader(io.StringIO("".join(csv_lines(rows)))))
    wanted = [(row, name, value) for row in rows for name, value in row.values.items()]
    assert len(read) == len(wanted)
    for line, (row, name, value) in zip(read, wanted, strict=True):
        cells = (line["source"], int(line["start_ms"]), line["name"], int(line["n"]))
        assert cells == (row.source, row.start_ms, name, value.n)
        for key, number in (("value", value.value), ("error", value.error)):
            assert line[key] == ("" if number is None else repr(number))


@given(rows_by, st.sampled_from(("", "data", "slices")), st.sets(st.sampled_from(NAMES)))
def test_rows_of_a_panel_are_those_that_have_a_value_of_it(
    found: dict[tuple[Source, int], dict[str, Value]], panel: str, names: set[str]
) -> None:
    rows = rows_from(found)

    def is_asked(name: str) -> bool:
        return (not panel or name.split(".")[0] == panel) and (not names or name in names)

    those, there = rows_of(rows, panel, names)  # type: ignore[arg-type]
    assert those == [row for row in rows if any(map(is_asked, row.values))]
    assert there == {name for row in rows for name in row.values if is_asked(name)}


def test_spans_begin_with_the_first_window_and_end_with_the_last() -> None:
    board = made.board(n_hours=2)
    for size_ms in SIZES_MS:
        found = spans(board.rows(size_ms))
        assert set(found) == set(SOURCES.values())
        for source, span in found.items():
            of = [row for row in board.rows(size_ms) if row.source == source]
            assert (span.from_ms, span.to_ms, span.n) == (of[0].start_ms, of[-1].end_ms, len(of))


def test_a_board_without_a_window_says_what_it_waits_for() -> None:
    board = Board()
    assert state(board, "0", 0).waits_for == "the first record of instep.samples"
    board.tell(Status(1_772_500_030_000, 1))
    assert state(board, "0", 0).waits_for.endswith("at 2026-03-03T01:08:00Z of event time")
    board.add(Row("codes", 600_000, 0, {}))
    assert state(board, "0", 0).waits_for == ""


def test_the_state_has_everything_that_the_series_do_not() -> None:
    board = made.board(n_hours=2)
    told = state(board, "0.1.0", 5)
    assert (told.last, told.status, told.now_ms) == (news(board.run, board.last), board.status, 5)
    assert [w.size_ms for w in told.windows] == list(SIZES.values())
    assert [s.panel for s in told.sections] == list(SOURCES)
    assert len(told.alerts) == len(board.alerts)
