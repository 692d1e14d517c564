"""The page in a real browser, live and as a file."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from monitor.alert import cleared
from monitor.board import Board
from monitor.folder import Folder
from monitor.row import Row, Value
from tests.browsing import SIZES, chromium
from tests.monitor import made
from tests.monitor.serving import listening

MINUTE_MS, END_MS = made.MINUTE_MS, made.END_MS
NE = "#quality\\.ne"
BLANK = """(selector) => [...document.querySelectorAll(`${selector} canvas`)].every((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.every((v) => v === 0);
})"""
"""Whether nothing at all is drawn."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The chromium of the PATH."""
    with chromium() as browser:
        yield browser


class Opening:
    """Opens the page of boards, and keeps what it complains of and what it asks others for."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._open = ExitStack()
        self.complaints: list[str] = []
        self.address = ""

    def serve(self, board: Board) -> None:
        """Have a board served; closed at the end."""
        self.address = self._open.enter_context(listening(board))

    def __call__(self, where: str = "", size: str = "desktop", **more: Any) -> Page:
        width, height = SIZES[size]
        page = self._browser.new_page(viewport={"width": width, "height": height}, **more)
        self._open.callback(page.close)
        say = self.complaints.append
        page.on("console", lambda said: say(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: say(str(error)))
        page.on("requestfailed", lambda asked: None if is_stream(asked) else say(f"failed: {asked.url}"))
        own = (self.address or "file://", "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(own) else say(f"asked for {asked.url}"))
        page.goto(where if where.startswith("about:") else f"{self.address}{where}")
        return page

    def close(self) -> None:
        """Close all; fails if there was a complaint."""
        self._open.close()
        assert self.complaints == []


def is_stream(asked: Request) -> bool:
    """One that fails whenever its page is left."""
    return "/api/stream" in asked.url and asked.failure == "net::ERR_ABORTED"


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opening]:
    """Opens pages; at the end none has complained."""
    opening = Opening(browser)
    yield opening
    opening.close()


def settled(page: Page) -> None:
    """What is asked for has come, and what is near the screen is drawn."""
    page.wait_for_selector("body[data-loaded]")
    page.wait_for_selector(f"{NE} .stage[data-drawn]")


def span(since: str, until: str) -> str:
    """The time shown, as it is written."""
    return f"{since} \N{EN DASH} {until}"


def minute(i: int, source: str = "quality", ne: float = 0.9) -> Row:
    """A window after the day's end."""
    values = {"quality.ne.click": Value(ne, 9_000, 0.01), "quality.ne.like": Value(0.8, 20)}
    return Row(source, MINUTE_MS, END_MS + i * MINUTE_MS, values)  # type: ignore[arg-type]


# --- what is seen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_painted_and_drawn_and_nothing_is_wider_than_the_page(
    opened: Opening, size: str, scheme: Any
) -> None:
    opened.serve(made.board(time.time_ns() // 1_000_000, n_hours=7))
    page = opened(size=size, color_scheme=scheme)
    settled(page)
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("[data-cell=learning] .big")).to_have_text("learning")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(BLANK, NE) is False
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 300) == (scheme == "light")
    for panel in ("quality", "freshness", "codes", "data", "slices", "alerts"):
        page.locator(f"#sections a[data-section={panel}]").click()
        page.wait_for_timeout(50)
        assert page.locator(f"#{panel}").evaluate("(e) => e.getBoundingClientRect().top < innerHeight")
    for chart in page.locator("figure.plot").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".stage[data-drawn]").wait_for()


def test_status_and_text_are_painted_while_the_engine_of_the_charts_is_still_on_its_way(
    opened: Opening,
) -> None:
    opened.serve(made.board(time.time_ns() // 1_000_000, n_hours=7))
    held: list[Route] = []
    page = opened("about:blank")
    page.route("**/echarts*", lambda route: held.append(route))
    page.goto(opened.address)
    expect(page.locator("[data-cell=learning] .big")).to_have_text("learning")
    expect(page.locator(f"{NE} .legend")).to_contain_text(re.compile(r"click0\.\d{4}"))
    expect(page.locator("table.slices tbody tr")).to_have_count(len(made.PARTS))
    assert page.evaluate("performance.getEntriesByName('first-contentful-paint').length") == 1
    assert page.locator("canvas").count() == 0
    assert len(held) == 1
    held[0].continue_()
    settled(page)


def test_without_data_it_says_what_it_waits_for_and_goes_on_when_that_comes(opened: Opening) -> None:
    board = Board()
    opened.serve(board)
    page = opened()
    waiting = page.locator("#waiting")
    expect(waiting).to_have_text("No window has closed yet. Waits for the first record of instep.samples.")
    expect(page.locator(f"{NE} .empty")).to_contain_text("Waits for the first window to close whose samples")
    expect(page.locator("#alert-list")).to_have_text("None was raised.")
    board.tell(made.status(time.time_ns() // 1_000_000))
    expect(waiting).to_contain_text("Waits for the first minute to close")
    board.add(minute(0))
    expect(waiting).to_be_hidden()
    expect(page.locator(f"{NE} .legend")).to_contain_text("click0.9000")


def test_held_is_seen_with_its_reason(opened: Opening) -> None:
    board = made.board(n_hours=1)
    opened.serve(board)
    now_ms = time.time_ns() // 1_000_000
    page = opened()
    board.tell(made.status(now_ms, held="click coverage is below its band"))
    cell = page.locator("[data-cell=learning]")
    expect(cell.locator(".big")).to_have_text("HELD")
    expect(cell.locator(".note")).to_contain_text("click coverage is below its band")
    breaker = page.locator("[data-cell=breaker]")
    expect(breaker).to_contain_text("open")
    expect(breaker).to_contain_text("click coverage click 0, expected 0.5110 to 0.9600")
    board.tell(msgspec.structs.replace(made.status(now_ms), bands=()))
    expect(breaker).to_contain_text("closednothing is usual yet")


def test_ages_grow_while_nothing_comes_and_old_news_do_not_look_fresh(opened: Opening) -> None:
    board = made.board(n_hours=1)
    now_ms = time.time_ns() // 1_000_000
    board.tell(made.status(now_ms))
    opened.serve(board)
    page = opened()
    settled(page)
    expect(page.locator("[data-cell=learning] .big")).to_have_text("learning")
    first = page.locator("[data-cell=trained] .big").inner_text()
    expect(page.locator("[data-cell=trained] .big")).not_to_have_text(first)
    board.tell(made.status(now_ms - 3_600_000))
    expect(page.locator("[data-cell=learning] .big")).to_have_text("no news")
    expect(page.locator("[data-cell=learning] .note")).to_contain_text("nothing heard for 1 h")
    expect(page.locator("[data-cell=trained] .big")).to_have_text("1 h")


# --- news -----------------------------------------------------------------------------------------


def test_a_window_that_closes_is_drawn_at_once(opened: Opening) -> None:
    board = made.board(n_hours=1)
    opened.serve(board)
    page = opened()
    settled(page)
    drawn = page.locator(f"{NE} .stage").get_attribute("data-drawn")
    board.add(minute(0, ne=1.2345))
    expect(page.locator(f"{NE} .legend")).to_contain_text("click1.2345")
    expect(page.locator(f"{NE} .stage")).not_to_have_attribute("data-drawn", drawn or "")
    few = page.locator(f"{NE} .legend button", has_text="like")
    expect(few).to_have_class(re.compile("few"))
    expect(page.locator("#range")).to_have_text(span("3 Mar 12:31", "18:31 UTC"))


def test_an_alert_is_marked_on_all_charts_and_listed_and_over_when_it_is(opened: Opening) -> None:
    board = made.board(n_hours=4)
    opened.serve(board)
    page = opened()
    settled(page)
    alert = msgspec.structs.replace(
        made.dead_clicks(), start_ms=END_MS - 5 * MINUTE_MS, raised_ms=END_MS - 3 * MINUTE_MS
    )
    board.put(alert)
    marks = page.locator(f"figure .mark[data-alert='{alert.id}']")
    expect(marks).to_have_count(page.locator("figure.plot").count())
    expect(page.locator(f".mark.own[data-alert='{alert.id}']")).to_have_count(1)
    item = page.locator(f"li[data-alert='{alert.id}']")
    expect(item).to_contain_text(alert.reason)
    expect(item).to_contain_text(alert.remedy)
    expect(item).to_have_attribute("data-tone", "page")
    expect(page.locator("[data-cell=alert] .big")).to_have_text("2 open")
    box = page.locator(f"{NE} .stage").bounding_box()
    mark = marks.first.bounding_box()
    assert box is not None
    assert mark is not None
    page.mouse.move(mark["x"] + 1, box["y"] + 60)
    expect(page.locator(f"{NE} .tip")).to_contain_text(f"clicks-stopped: {alert.reason}")
    board.put(cleared(alert, END_MS))
    expect(item).to_have_class("over")
    expect(page.locator("[data-cell=alert] .big")).to_have_text("1 open")


def test_a_monitor_that_goes_away_is_said_to_and_news_go_on_when_it_is_back(browser: Browser) -> None:
    opening = Opening(browser)  # of which complaints are expected: a browser logs what it cannot reach
    board = made.board(n_hours=1)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with listening(board, port) as address:
        opening.address = address
        page = opening()
        settled(page)
        expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#connection")).to_have_text("lost, trying again")
    expect(page.locator("[data-cell=learning] .note")).to_contain_text("the monitor does not answer")
    again = made.board(n_hours=1, run="again")
    again.add(minute(0, ne=1.5))
    with listening(again, port):
        expect(page.locator("#connection")).to_have_text("live", timeout=15_000)
        expect(page.locator(f"{NE} .legend")).to_contain_text("click1.5000", timeout=15_000)
        page.close()


# --- which time is shown --------------------------------------------------------------------------


def test_a_time_is_chosen_by_button_by_dragging_and_by_the_alert_and_kept_in_the_address(
    opened: Opening,
) -> None:
    opened.serve(made.board(n_hours=24))
    page = opened()
    settled(page)
    expect(page.locator("#range")).to_have_text(span("3 Mar 12:30", "18:30 UTC"))
    page.locator("button[data-last='1h']").click()
    expect(page.locator("#range")).to_have_text(span("3 Mar 17:30", "18:30 UTC"))
    assert "last=1h" in page.url
    page.locator("button[data-size='10m']").click()
    assert "size=10m" in page.url
    page.locator("button[data-last=all]").click()
    expect(page.locator("#range")).to_have_text(span("2 Mar 18:30", "3 Mar 18:30 UTC"))
    page.locator("button[data-size='1m']").click()
    settled(page)
    box = page.locator(f"{NE} .stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 150, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 50, steps=4)
    page.mouse.up()
    expect(page.locator("#range")).not_to_have_text(span("2 Mar 18:30", "3 Mar 18:30 UTC"))
    assert re.search(r"from=2026-03-0\dT[\d:]+Z&to=", page.url)
    page.go_back()
    expect(page.locator("#range")).to_have_text(span("2 Mar 18:30", "3 Mar 18:30 UTC"))
    page.locator("li[data-alert^=clicks-stopped] .act").click()
    expect(page.locator("#range")).to_contain_text("3 Mar 15:")
    assert "panel=data.coverage" in page.url
    assert page.locator("#data\\.coverage").evaluate("(e) => e.getBoundingClientRect().top < innerHeight")


def test_an_address_brings_back_panel_size_and_time(opened: Opening) -> None:
    opened.serve(made.board(n_hours=24))
    page = opened(
        "#panel=codes.flipped&size=10m&from=2026-03-03T02:00:00Z&to=2026-03-03T09:00:00Z", size="phone"
    )
    page.wait_for_selector("#codes\\.flipped .stage[data-drawn]")
    expect(page.locator("#range")).to_have_text(span("3 Mar 02:00", "09:00 UTC"))
    expect(page.locator("button[data-size='10m']")).to_have_attribute("aria-pressed", "true")
    drawn = page.locator("#codes\\.flipped .stage").get_attribute("data-drawn")
    assert (drawn or "").split()[-1] == str(7 * 6)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_what_is_shown_is_downloaded(opened: Opening, kind: str, tmp_path: Path) -> None:
    board = made.board(n_hours=2)
    opened.serve(board)
    page = opened("#last=1h")
    settled(page)
    with page.expect_download() as found:
        page.locator(f"#{kind}").click()
    assert found.value.suggested_filename == f"instep-1m.{kind}"
    path = tmp_path / "saved"
    found.value.save_as(path)
    rows = board.rows(MINUTE_MS, END_MS - made.HOUR_MS)
    if kind == "json":
        assert msgspec.convert(json.loads(path.read_text())["rows"], list[Row], strict=False) == rows
    else:
        assert len(path.read_text().splitlines()) == 1 + sum(len(row.values) for row in rows)


# --- hands and eyes -------------------------------------------------------------------------------


def test_the_cursor_is_the_same_in_all_charts_and_moves_by_the_keyboard(opened: Opening) -> None:
    board = made.board(n_hours=2)
    opened.serve(board)
    page = opened("#last=1h")
    settled(page)
    stage = page.locator(f"{NE} .stage")
    stage.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    at_ms = END_MS - 3 * MINUTE_MS
    value = next(r for r in board.rows(MINUTE_MS, at_ms) if r.source == "quality").values["quality.ne.click"]
    assert value.value is not None
    expect(stage).to_have_attribute("aria-label", re.compile(rf"click {value.value:.4f}.* at 18:27"))
    others = page.locator("figure .cursor:visible")
    lefts = others.evaluate_all("(all) => all.slice(0, 3).map((e) => e.style.left)")
    assert len(lefts) == 3
    assert len(set(lefts)) == 1
    page.keyboard.press("Escape")
    expect(others).to_have_count(0)


def test_a_line_is_turned_off_and_on(opened: Opening) -> None:
    opened.serve(made.board(n_hours=1))
    page = opened()
    settled(page)
    button = page.locator(f"{NE} .legend button", has_text="click")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")


def test_light_and_dark_may_be_chosen_and_are_remembered(opened: Opening) -> None:
    opened.serve(made.board(n_hours=1))
    page = opened(color_scheme="light")
    settled(page)
    page.locator("button[data-theme=dark]").click()
    expect(page.locator("html")).to_have_attribute("data-dark", "")
    page.reload()
    settled(page)
    expect(page.locator("html")).to_have_attribute("data-dark", "")


def test_the_slices_are_worst_first_and_what_is_of_too_few_last(opened: Opening) -> None:
    board = made.board(n_hours=1)
    board.add(minute(0))
    opened.serve(board)
    page = opened("#last=1h")
    settled(page)
    rows = page.locator("table.slices tbody tr")
    values = [float(text) for text in rows.locator("td:nth-of-type(1)").all_inner_texts()]
    few = rows.evaluate_all("(all) => all.map((row) => row.className === 'few')")
    assert len(values) == len(made.PARTS)
    sure = values[: few.index(True)] if True in few else values
    assert sure == sorted(sure, reverse=True)


def test_every_control_has_a_name_and_every_heading_its_place(opened: Opening) -> None:
    opened.serve(made.board(n_hours=1))
    page = opened()
    settled(page)
    nameless = page.locator("button, a[href], [role=img], [role=region]").evaluate_all(
        "(all) => all.filter((e) => !(e.textContent.trim() || e.ariaLabel || e.title)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    levels = page.locator("h1, h2, h3").evaluate_all("(all) => all.map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = page.locator("[id]").evaluate_all("(all) => all.map((e) => e.id)")
    assert len(set(ids)) == len(ids)


# --- as a file ------------------------------------------------------------------------------------


def test_a_finished_replay_is_the_same_page_in_one_file(opened: Opening, tmp_path: Path) -> None:
    Folder(tmp_path).keep(made.board(n_hours=24))
    page = opened(Folder(tmp_path).draw().as_uri())
    settled(page)
    expect(page.locator("#connection")).to_have_text("a finished replay")
    expect(page.locator("[data-cell=learning] .big")).to_have_text("was learning")
    expect(page.locator("[data-cell=trained] .big")).to_have_text("2.3 s")
    assert page.evaluate(BLANK, NE) is False
    page.locator("button[data-size='1m']").click()
    page.locator("button[data-last='1h']").click()
    expect(page.locator("#range")).to_have_text(span("3 Mar 17:30", "18:30 UTC"))
    page.locator("li[data-alert^=clicks-stopped] .act").click()
    expect(page.locator("#range")).to_contain_text("3 Mar 15:")
    with page.expect_download() as found:
        page.locator("#csv").click()
    lines = found.value.path().read_text().splitlines()
    assert lines[0].startswith("start,start_ms,size_ms")
    assert any(",data.coverage.click," in line for line in lines)
