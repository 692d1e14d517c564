"""The report in a real browser: Debian's chromium, driven by Playwright, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from playwright.sync_api import Browser, FloatRect, Page

from instep.study.charts import charts
from instep.study.folder import write_report
from instep.study.results import Study
from instep.study.text import value_of
from tests.browsing import SIZES, chromium
from tests.instep.study import made
from tests.instep.study.strategies import studies

DRAWN = """() => {
  const { ofLine, ofRun } = Plot.looks(JSON.parse(document.getElementById('study').textContent));
  const of = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const theme = { colours: Array.from({ length: 8 }, (_, i) => of(`--c${i}`)), paper: of('--paper') };
  const slots = [...ofRun.values(), ...[...ofLine.values()].map((slot) => ({ slot }))];
  const used = new Set(slots.map((slot) => Plot.look(theme, slot).color));
  const marks = (figure) => [...figure.querySelectorAll('.chart svg :is(path, circle, rect)')]
    .filter((e) => used.has(e.getAttribute('fill')) || used.has(e.getAttribute('stroke'))).length;
  return [...document.querySelectorAll('figure')].flatMap((figure) => {
    const buttons = [...figure.querySelectorAll('.choice button')];
    const { chart, group } = figure.dataset;
    if (!buttons.length) return [[chart, group, figure.dataset.measure, marks(figure)]];
    return buttons.map((button) => {
      button.click();
      return [chart, group, figure.dataset.measure, marks(figure)];
    });
  });
}"""
"""Kind, group and measure of all that can be shown, and how many shapes have the colour of a run."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The chromium of the PATH."""
    with chromium() as browser:
        yield browser


class Opening:
    """Opens reports, and keeps what they complain of and what they ask for but themselves."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.pages: list[Page] = []
        self.complaints: list[str] = []

    def __call__(self, study: Study, size: str = "desktop", **more: Any) -> Page:
        url = write_report(study, self.folder).as_uri()
        width, height = SIZES[size]
        page = self.browser.new_page(viewport={"width": width, "height": height}, **more)
        self.pages.append(page)
        say = self.complaints.append
        page.on("console", lambda said: say(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: say(str(error)))
        page.on("requestfailed", lambda request: say(f"failed: {request.url}"))
        page.on("request", lambda request: None if request.url == url else say(f"asked for {request.url}"))
        page.goto(url)
        return page

    def close(self) -> None:
        """Close the pages; fails if there was a complaint."""
        for page in self.pages:
            page.close()
        self.pages.clear()
        assert self.complaints == []


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opening]:
    """Opens reports; at the end none has complained."""
    opening = Opening(browser, tmp_path)
    yield opening
    opening.close()


def settled(page: Page) -> None:
    """Every chart is drawn for the width it has."""
    page.wait_for_function(
        """() => [...document.querySelectorAll('.chart')].every((box) => {
          const svg = box.querySelector('svg');
          return svg && Math.abs(svg.getBoundingClientRect().width - box.clientWidth) <= 1;
        })"""
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", made.EVERY)
def test_every_chart_is_drawn_and_nothing_is_wider_than_the_page(
    make: Callable[[], Study], size: str, opened: Opening, tmp_path: Path
) -> None:
    study = make()
    page = opened(study, size)
    settled(page)
    drawn = page.evaluate(DRAWN)
    shown = [(c.kind, c.group, m.key) for c in charts(study) for m in c.measures]
    assert [(kind, group, measure) for kind, group, measure, _ in drawn] == shown
    for kind, group, measure, marks in drawn:
        runs = [run for run in study.runs if run.group == group and value_of(run, measure) is not None]
        assert marks >= (len(runs) if kind in ("bars", "differences", "cost") else 1), (kind, group, measure)
    assert page.title() == study.title
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(page.screenshot(path=tmp_path / "page.png", full_page=True)) > 10_000


@given(studies())
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_any_study_is_drawn_without_a_complaint(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, study: Study
) -> None:
    opening = Opening(browser, tmp_path_factory.mktemp("any"))
    page = opening(study, "phone")
    settled(page)
    assert len(page.evaluate(DRAWN)) == sum(len(chart.measures) for chart in charts(study))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opening.close()


def boxes(page: Page, texts: set[str], chart: str) -> list[FloatRect]:
    """Where the labels of a chart's points are."""
    found = page.locator(chart).first.locator("svg text").all()
    places = [text.bounding_box() for text in found if text.text_content() in texts]
    return [place for place in places if place is not None]


@pytest.mark.parametrize("size", SIZES)
def test_the_names_of_points_do_not_collide(size: str, opened: Opening) -> None:
    study = made.models()
    page = opened(study, size)
    settled(page)
    found = boxes(page, {run.name for run in study.runs}, "figure.cost")
    assert len(found) >= (14 if size == "desktop" else 10)
    for a, b in combinations(found, 2):
        apart = (
            a["x"] + a["width"] <= b["x"] + 1
            or b["x"] + b["width"] <= a["x"] + 1
            or a["y"] + a["height"] <= b["y"] + 3
            or b["y"] + b["height"] <= a["y"] + 3
        )
        assert apart, (a, b)


def test_a_heading_sorts_by_its_column_downwards_then_upwards_and_what_is_not_known_comes_last(
    opened: Opening,
) -> None:
    study = made.models()
    page = opened(study)
    head = page.locator("th[data-key=overlap]")
    known = {r.title: r.overlap.value for r in study.runs if r.overlap and r.overlap.value is not None}
    for order, sign in (("descending", -1), ("ascending", 1)):
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        rows = page.locator("#runs tbody th").evaluate_all(
            "(cells) => cells.map((c) => c.firstChild.textContent)"
        )
        assert rows[: len(known)] == sorted(known, key=lambda title: sign * known[title])
        assert set(rows[len(known) :]) == {run.title for run in study.runs} - set(known)
    assert page.locator("th[aria-sort=none]").count() == page.locator("thead th").count() - 1


def test_a_run_is_turned_off_and_on_by_the_keyboard(opened: Opening) -> None:
    study = made.models()
    page = opened(study)
    settled(page)
    figure = page.locator("figure.time")
    shown = figure.locator(".legend button[aria-pressed=true]")
    names = shown.evaluate_all("(buttons) => buttons.map((button) => button.dataset.run)")
    best = sorted(study.runs, key=lambda run: -(run.auc.value or 0))[:5]
    assert set(names) == {run.name for run in best} | {"eta"}
    marks = figure.locator("svg path").count()
    first = figure.locator(".legend button[data-run=eta]")
    first.focus()
    page.keyboard.press("Space")
    assert first.get_attribute("aria-pressed") == "false"
    assert figure.locator("svg path").count() < marks
    assert page.evaluate("document.activeElement.dataset.run") == "eta"
    page.keyboard.press("Space")
    assert figure.locator("svg path").count() == marks
    figure.locator(".legend .all").click()
    assert shown.count() == len(study.runs)
    figure.locator(".legend .all").click()
    assert shown.count() == 0


def ground(page: Page, dark: bool) -> float:
    """Brightness of the page's ground, 0 to 255, once it is what is expected."""
    page.wait_for_function("(dark) => document.documentElement.hasAttribute('data-dark') === dark", arg=dark)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_dark_and_light_follow_the_system_until_one_is_chosen(opened: Opening) -> None:
    page = opened(made.staleness(), color_scheme="dark")
    settled(page)
    assert ground(page, dark=True) < 40
    page.emulate_media(color_scheme="light")
    assert ground(page, dark=False) > 230
    ink = page.locator("figure svg text").first.get_attribute("fill")
    page.locator("button[data-theme=dark]").click()
    assert ground(page, dark=True) < 40
    assert page.locator("figure svg text").first.get_attribute("fill") != ink
    page.locator("button[data-theme=light]").click()
    assert ground(page, dark=False) > 230
    page.emulate_media(color_scheme="dark")
    assert ground(page, dark=False) > 230
    page.locator("button[data-theme=auto]").click()
    assert ground(page, dark=True) < 40


def test_a_model_has_one_colour_in_every_chart_of_the_page(opened: Opening) -> None:
    page = opened(made.models())
    settled(page)
    told = page.evaluate(
        """() => {
          const study = JSON.parse(document.getElementById('study').textContent);
          const { ofRun } = Plot.looks(study);
          return study.runs.map((run) => JSON.stringify([ofRun.get(run.name).slot]));
        }"""
    )
    assert len(set(told)) == len(told)
    swatch = page.locator("figure.time .legend button[data-run=exact] line").get_attribute("stroke")
    for chart in ("bars", "differences", "cost"):
        marks = page.locator(f"figure.{chart}").first.locator(
            f"svg [fill='{swatch}'], svg [stroke='{swatch}']"
        )
        assert marks.count() > 0, chart


def test_a_tooltip_shows_a_hostile_title_as_text(opened: Opening) -> None:
    study = made.hostile()
    page = opened(study)
    settled(page)
    box = page.locator("figure.bars .chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 235, box["y"] + 21)
    tip = page.locator("figure.bars .tip b")
    tip.wait_for()
    assert tip.text_content() == study.title
    assert page.title() == study.title
    assert page.locator("img").count() == 0


def test_a_narrower_window_draws_the_charts_again_for_it(opened: Opening) -> None:
    page = opened(made.length())
    settled(page)
    page.set_viewport_size({"width": 360, "height": 740})
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_prints_in_light_colours_on_pages(opened: Opening) -> None:
    page = opened(made.models(), color_scheme="dark")
    settled(page)
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
