"""The report as a page of HTML, read by a parser that is not ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings

import monitor
from instep.study.charts import charts
from instep.study.report import render
from instep.study.results import Figure, Study, decode_study
from instep.study.summary import headlines, lines, summary
from tests.instep.study import made
from tests.instep.study.strategies import studies

VOID = {"meta", "br", "img", "input", "link", "hr"}
VENDOR = Path(monitor.__file__).parent / "vendor"
EVERY = pytest.mark.parametrize("make", made.EVERY)
Make = Callable[[], Study]


@dataclass
class Page(HTMLParser):
    """A page whose elements end in the order in which they began."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Innermost element, text."""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str]]:
        """Attributes of every element of a name."""
        return [attributes for name, attributes in self.tags if name == tag]


def parsed(html: str) -> Page:
    """The page; fails if an element does not end."""
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def data_of(page: Page) -> Study:
    """The study that the page holds, as a browser gives it to the script."""
    raw = html_between(page, "study")
    return decode_study(raw.encode())


def html_between(page: Page, name: str) -> str:
    """Text of the script with an id."""
    number = [attributes.get("id") for attributes in page.of("script")].index(name)
    return [text for tag, text in page.texts if tag == "script"][number]


@EVERY
def test_a_page_is_well_formed_and_asks_for_nothing_from_elsewhere(make: Make) -> None:
    html = render(make())
    page = parsed(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "style"):
            assert name not in attributes, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"url\(|@import", "".join(text for tag, text in page.texts if tag == "style"))
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = [a[k] for _, a in page.tags for k in ("aria-labelledby", "aria-describedby") if k in a]
    assert set(named) <= set(ids)


@EVERY
def test_the_same_study_gives_the_same_page_and_the_page_gives_the_study(make: Make) -> None:
    study = make()
    assert render(study) == render(make())
    assert data_of(parsed(render(study))) == study


@given(studies())
@settings(deadline=None, max_examples=60)
def test_any_study_renders_and_comes_back(study: Study) -> None:
    page = parsed(render(study))
    assert data_of(page) == study
    assert len([a for a in page.of("th") if a.get("scope") == "row"]) == len(study.runs)
    assert len(page.of("figure")) == len(charts(study))
    for attributes in page.of("figure"):
        assert attributes["data-group"] in {run.group for run in study.runs}


@given(studies())
@settings(deadline=None)
def test_what_is_said_of_differences_is_what_their_intervals_say(study: Study) -> None:
    for group in {run.group for run in study.runs}:
        told = " ".join(summary(study))
        runs = [run for run in study.runs if run.group == group]
        reference = next((run for run in runs if run.name == study.references.get(group)), None)
        others = [run.auc_less for run in runs if run is not reference]
        known = [f for f in others if f is not None and None not in (f.value, f.low, f.high)]
        if reference is None or not any(run.auc.value is not None for run in runs) or len(runs) == 1:
            continue
        apart = any(f.low > 0 or f.high < 0 for f in known if f.low is not None and f.high is not None)
        if apart:
            assert f"Against {reference.title}, intervals without 0 put" in told
        if any(f.low <= 0 <= f.high for f in known if f.low is not None and f.high is not None):
            assert f"Intervals that contain 0 do not tell {reference.title} apart from" in told


def test_the_summary_names_the_leader_the_distance_to_the_best_and_what_is_not_told_apart() -> None:
    study = made.models()
    near = msgspec.structs.replace(study.runs[2], auc_less=Figure(0.0007, -0.0001, 0.0015))
    study = msgspec.structs.replace(study, runs=[*study.runs[:2], near, *study.runs[3:]])
    told = summary(study)[0]
    assert told.startswith("Exact inner product, top 48 has the highest AUC, 83.46 (95 % interval ")
    assert "the best possible is 2.18 points higher" in told
    assert "put Exact inner product, top 48 (+0.12) above it, and " in told
    assert "and 9 more below it." in told
    assert told.endswith("Intervals that contain 0 do not tell ETA, 64 bits apart from TWIN (+0.07).")
    assert [h.value for h in headlines(study)] == ["83.46", "85.64", "150,000", "16"]


def test_one_seed_and_one_run_are_said_to_be_no_more_than_that() -> None:
    assert "There is one seed: how much another would differ is not known." in summary(made.twenty())[-1]
    assert (
        "The differences of 9 runs to Model 0 came without an interval: chance is not ruled out."
        in summary(made.twenty())[0]
    )
    assert "It is the only run" in summary(made.hostile())[0]


def test_texts_are_shown_as_they_are_and_never_obeyed() -> None:
    study = made.hostile()
    page = parsed(render(study))
    assert len(page.of("script")) == 3
    assert page.of("img") == []
    assert ("h1", study.title) in page.texts
    assert ("code", study.command) in page.texts


def test_a_line_is_a_unit_or_where_it_has_several_searches_a_unit_with_its_search() -> None:
    runs = made.k().runs
    one = [run for run in runs if run.group == runs[0].group]
    assert {name: len(line) for name, line in lines(one).items()} == {"eta": 5, "exact": 5}
    other = [msgspec.structs.replace(one[0], name="other", search="exact"), *one]
    assert {name: len(line) for name, line in lines(other).items()} == {
        "eta, exact": 1,
        "eta, hamming": 5,
        "exact": 5,
    }
    for line in lines(runs).values():
        assert [run.x for run in line] == sorted(run.x or 0 for run in line)


def test_every_kind_has_the_charts_that_its_figures_allow() -> None:
    kinds = [chart.kind for chart in charts(made.models())]
    assert kinds == ["bars", "differences", "cost", "cost", "bars", "bars", "bars", "time"]
    assert [c.kind for c in charts(made.bits())] == 2 * ["curve", "curve", "curve", "curve", "time"]
    assert [c.kind for c in charts(made.hostile())] == ["bars"]


def test_the_engine_of_the_charts_is_the_one_that_its_note_names() -> None:
    engine = (VENDOR / "echarts.min.js").read_bytes()
    note = (VENDOR / "README.md").read_text()
    assert hashlib.sha256(engine).hexdigest() in note
    version = re.search(r"ECharts (\d+\.\d+\.\d+)", note)
    assert version is not None
    assert f't.version="{version[1]}"'.encode() in engine
    assert {"LICENSE", "NOTICE", "LICENSE-d3"} <= {p.name for p in VENDOR.iterdir()}
    assert b"</script" not in engine
