"""A study as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import msgspec

from instep.study.charts import Chart, charts
from instep.study.results import Found, Study
from instep.study.summary import headlines, summary
from instep.study.text import MISSING, Cell, Column, columns, groups, reference_of
from monitor.assets import asset, inside_script

FOLDER = Path(__file__).parent


def render(study: Study) -> str:
    """The page; the same study gives the same text."""
    found = charts(study)
    fill = {
        "title": text(study.title),
        "kind": text(study.kind),
        "log": text(study.log),
        "headlines": "\n".join(
            f"<div><dt>{text(h.title)}</dt><dd>{figures(h.value)}</dd><dd class='note'>{figures(h.note)}</dd></div>"
            for h in headlines(study)
        ),
        "summary": "\n".join(f"<p>{figures(paragraph)}</p>" for paragraph in summary(study)),
        "charts": "\n".join(_section(study, group, found) for group in groups(study)),
        "table": table(study),
        "command": text(study.command),
        "notes": _notes(study.notes),
        "data": data(study),
        "style": asset("base.css") + _file("report.css"),
        "engine": asset("echarts.min.js"),
        "script": asset("base.js") + "".join(map(_file, ("plot.js", "charts.js", "report.js"))),
    }
    return Template(_file("report.html")).substitute(fill)


def text(raw: str) -> str:
    """Text as HTML, in an element or in a quoted attribute; control characters become U+FFFD."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", raw))


def figures(raw: str) -> str:
    """The same, with a minus where a hyphen stands before a number.

    >>> figures('A-1 (-0.06) & more')
    'A-1 (−0.06) &amp; more'
    """
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text(raw))


def data(study: Study) -> str:
    """The study as JSON that may stand inside a script element: nothing in it ends one."""
    return inside_script(msgspec.json.encode(study))


def table(study: Study) -> str:
    """Every run and every figure."""
    names = groups(study)
    reference = reference_of(study, names[0]) if len(names) == 1 else None
    shown = columns(study, study.runs, reference)
    if len(names) > 1:
        shown.insert(1, Column("group", "group", lambda run: Cell(run.group, "", run.group)))
    shown.append(Column("changes", "settings", lambda run: Cell(_changes(run))))
    head = "".join(
        f'<th scope="col"{_aligned(c.key)} data-key="{c.key}" aria-sort="none">'
        f'<button type="button">{text(c.title)}</button></th>'
        for c in shown
    )
    rows = "\n".join(f"<tr{_marked(study, run)}>{_cells(shown, run)}</tr>" for run in study.runs)
    return f"<table id='runs'><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _aligned(key: str) -> str:
    return ' class="text"' if key in ("group", "changes") else ""


def _marked(study: Study, run: Found) -> str:
    return " class='reference'" if study.references.get(run.group) == run.name else ""


def _cells(shown: Sequence[Column], run: Found) -> str:
    found = []
    for column in shown:
        cell = column.cell(run)
        sort = "" if cell.sort is None else f' data-sort="{text(str(cell.sort))}"'
        if column.key == "title":
            found.append(f'<th scope="row"{sort}>{text(cell.text)}<small>{text(run.name)}</small></th>')
        elif column.key in ("group", "changes"):
            found.append(f'<td class="text"{sort}>{text(cell.text)}</td>')
        else:
            interval = f"<small>{figures(cell.interval)}</small>" if cell.interval else ""
            found.append(f"<td{sort}>{figures(cell.text)}{interval}</td>")
    return "".join(found)


def _changes(run: Found) -> str:
    return (
        ", ".join(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in run.changes.items())
        or MISSING
    )


def _section(study: Study, group: str, found: Iterable[Chart]) -> str:
    """The charts of a group."""
    number = groups(study).index(group)
    title = f"<h2>{text(group)}</h2>" if len(groups(study)) > 1 else ""
    drawn = "\n".join(
        _figure(chart, f"{number}-{i}") for i, chart in enumerate(found) if chart.group == group
    )
    return f"<section class='group'>{title}<div class='charts'>\n{drawn}\n</div></section>"


def _figure(chart: Chart, key: str) -> str:
    buttons = ""
    if len(chart.measures) > 1:
        pressed = ["true", *["false"] * (len(chart.measures) - 1)]
        buttons = "".join(
            f'<button type="button" data-measure="{m.key}" aria-pressed="{p}">{text(m.title)}</button>'
            for m, p in zip(chart.measures, pressed, strict=True)
        )
        buttons = f"<div class='choice' role='group' aria-label='What to show'>{buttons}</div>"
    first = chart.measures[0].key
    return (
        f'<figure class="{chart.kind}" data-chart="{chart.kind}" data-group="{text(chart.group)}" '
        f'data-measure="{first}"><figcaption><h3 id="title-{key}">{text(chart.title)}</h3>'
        f"<p>{text(chart.note)}</p></figcaption>{buttons}"
        f'<div class="chart" role="img" aria-labelledby="title-{key}" aria-describedby="told-{key}"></div>'
        f'<div class="legend" role="group" aria-label="Runs to show"></div>'
        f'<p class="unseen" id="told-{key}">{figures(chart.told)}</p></figure>'
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    listed = "".join(f"<li>{text(note)}</li>" for note in notes)
    return f"<section class='notes'><h2>Notes</h2><ul>{listed}</ul></section>"


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
