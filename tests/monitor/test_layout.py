"""Which charts the page has."""

from __future__ import annotations

from dataclasses import replace

from monitor.layout import CHARTS, SOURCES, TITLES, WAITS_FOR, charts
from monitor.measures import MEASURES, measure_of
from monitor.row import SIZES_MS
from tests.monitor import made


def test_every_measure_but_those_of_slices_is_in_exactly_one_chart() -> None:
    shown = [line.measure for chart in CHARTS for line in chart.lines]
    assert sorted(shown) == sorted(m.name for m in MEASURES if m.panel != "slices")


def test_what_stands_together_has_one_unit_and_one_panel() -> None:
    for chart in CHARTS:
        measures = [measure_of(line.measure) for line in chart.lines]
        assert len({m.unit for m in measures}) == 1, chart.key
        assert {m.panel for m in measures} == {chart.panel}, chart.key
        assert chart.key.startswith(f"{chart.panel}."), chart.key
        assert len(measures) == 1 or all(line.label or measure_of(line.measure).of for line in chart.lines)


def test_every_panel_is_a_section_and_says_what_it_waits_for() -> None:
    assert {m.panel for m in MEASURES} == set(SOURCES) == set(TITLES)
    assert set(WAITS_FOR) >= set(SOURCES.values())


def test_a_measure_that_is_new_has_a_chart_of_its_own() -> None:
    new = replace(MEASURES[0], name="data.odd", title="odd")
    assert charts((*MEASURES, new))[-1].key == "data.odd"


def test_the_made_day_has_everything_that_is_measured() -> None:
    board = made.board(n_hours=2)
    found = {measure_of(name).name for size in SIZES_MS for row in board.rows(size) for name in row.values}
    assert found == {m.name for m in MEASURES}
