"""The page in one file: what is inside."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from monitor.board import Board
from monitor.http import make_app
from monitor.layout import SOURCES
from monitor.row import SIZES_MS, Row, Value
from monitor.static import live, render
from monitor.view import SIZES
from stream.metrics import Metrics
from tests.monitor import made


def inside(page: str) -> Any:
    """What the scripts read."""
    found = re.search(r'<script type="application/json" id="inside">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def board() -> Board:
    return made.board(n_hours=2)


def test_it_has_what_the_monitor_would_answer(board: Board) -> None:
    has = inside(render(board))
    http = TestClient(make_app(board, Metrics("monitor")))
    asked = http.get("/api/state").json()
    assert has["state"] == asked | {"now_ms": made.END_MS, "last": ""}
    for size in SIZES:
        for panel in SOURCES:
            asked = http.get(f"/api/series?size={size}&panel={panel}").json()
            assert has["series"][size][panel] == asked


def test_the_same_board_gives_the_same_page(board: Board) -> None:
    assert render(board) == render(Board.decode(board.encode()))


def test_it_asks_for_nothing(board: Board) -> None:
    page = render(board).split('id="engine"')[0]
    assert not re.search(r"""(src|href)=["'](?!data:|#|"|api/|alerts)[^"']""", page)
    assert "default-src 'none'" in page
    assert 'src="page/' in live()


def test_a_hostile_name_ends_no_script() -> None:
    name = "</script><script>alert(1)</script>"
    board = Board()
    board.add(Row("quality", SIZES_MS[0], 0, {f"slices.ne.{name}": Value(0.9, 900)}))
    board.put(msgspec.structs.replace(made.dead_clicks(), reason=name))
    page = render(board, title=name)
    assert name not in page
    has = inside(page)
    assert list(has["series"]["1m"]["slices"]["values"]) == [f"slices.ne.{name}"]
    assert has["state"]["alerts"][0]["reason"] == name
