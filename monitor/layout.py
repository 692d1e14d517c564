"""Which charts the page has, and which figures stand together in one.

>>> [chart.key for chart in CHARTS if chart.panel == "freshness"]
['freshness.ages', 'freshness.behind']
"""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from monitor.measures import MEASURES, Measure, Panel
from monitor.row import Source

SOURCES: dict[Panel, Source] = {
    "quality": "quality",
    "freshness": "freshness",
    "codes": "codes",
    "data": "data",
    "slices": "quality",
}
"""The sections of the page in their order, and whose windows they show."""

TITLES: dict[Panel, str] = {
    "quality": "Quality",
    "freshness": "Freshness",
    "codes": "Embeddings and codes",
    "data": "Data",
    "slices": "Slices",
}

WAITS_FOR: dict[Source, str] = {
    "data": "the first window of instep.samples to close",
    "quality": "the first window to close whose samples the trainer has scored (instep.scores)",
    "codes": "publications of the trainer (instep.model)",
    "freshness": "the first window of instep.samples to close",
}


class Line(Struct, frozen=True):
    """One measure in a chart; of a measure with kinds or fields, a line each."""

    measure: str
    label: str = ""
    """Its name among the others of the chart."""


class Chart(Struct, frozen=True):
    """One chart: measures of one unit."""

    key: str
    panel: Panel
    title: str
    help: str
    lines: tuple[Line, ...]


TOGETHER: tuple[tuple[str, Panel, str, str, dict[str, str]], ...] = (
    (
        "freshness.ages",
        "freshness",
        "age of each stage",
        "Event time now less that of the newest sample that is trained, published, indexed, served.",
        {
            "freshness.trained": "trained",
            "freshness.published": "published",
            "freshness.indexed": "indexed",
            "freshness.served": "served",
        },
    ),
    (
        "data.rates",
        "data",
        "records",
        "Records of the event log a second, Ticks not counted.",
        {"data.events": "all", "data.impressions": "impressions", "data.actions": ""},
    ),
    (
        "data.unused",
        "data",
        "not used as they came",
        "Records that were too late, there already, unusable, or actions whose impression was not found.",
        {
            "data.late": "late",
            "data.duplicate": "duplicate",
            "data.dead": "unusable",
            "data.orphan": "orphan",
        },
    ),
)


def charts(measures: tuple[Measure, ...]) -> tuple[Chart, ...]:
    """All of them in the order of the measures; one that stands with others comes where the first of them does."""
    by_name = {measure.name: measure for measure in measures}
    found: dict[str, Chart] = {}
    for measure in measures:
        if measure.panel == "slices":
            continue  # a table
        for key, panel, title, told, labels in TOGETHER:
            if measure.name in labels:
                lines = tuple(Line(name, label) for name, label in labels.items() if name in by_name)
                found.setdefault(key, Chart(key, panel, title, told, lines))
                break
        else:
            name = measure.name
            panel = cast(Panel, measure.panel)
            found[name] = Chart(name, panel, measure.title, measure.help, (Line(name),))
    return tuple(found.values())


CHARTS = charts(MEASURES)
