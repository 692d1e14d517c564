"""The page as text: one that asks the monitor for what it shows, and one with all of it inside."""

from __future__ import annotations

from html import escape
from importlib.metadata import version as version_of
from string import Template

import msgspec
from msgspec import Struct

from monitor.assets import ENGINE, SCRIPTS, STYLES, asset, files, inside_script
from monitor.board import Board
from monitor.layout import SOURCES
from monitor.measures import Panel
from monitor.view import SIZES, Series, State, rows_of, series, state

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Inside(Struct, frozen=True):
    """What a page has inside that can ask nobody."""

    state: State
    series: dict[str, dict[Panel, Series]]
    """By size and panel."""


def live() -> str:
    """The page that a monitor serves: styles and scripts by their address, data asked for."""
    return Template(asset("index.html")).substitute(
        policy="",
        title="instep monitor",
        style="\n".join(f'<link rel="stylesheet" href="{_address(name)}">' for name in STYLES),
        data="",
        scripts="\n".join(f'<script defer src="{_address(name)}"></script>' for name in SCRIPTS),
        engine=_address(ENGINE),
    )


def render(board: Board, title: str = "instep monitor") -> str:
    """The page of a board as one file that needs nothing but itself; the same board gives the same text."""
    status = board.status
    now = state(board, version_of("instep"), status.heard_ms if status is not None else 0)
    inside = Inside(
        msgspec.structs.replace(now, last=""),  # no news follow
        {size: _panels(board, size_ms) for size, size_ms in SIZES.items()},
    )
    data = inside_script(msgspec.json.encode(inside))
    scripts = [f'<script type="text/plain" id="engine">\n{asset(ENGINE)}\n</script>']
    scripts.append("<script>\n" + "".join(map(asset, SCRIPTS)) + "</script>")
    return Template(asset("index.html")).substitute(
        policy=f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        title=escape(title),
        style="<style>\n" + "".join(map(asset, STYLES)) + "</style>",
        data=f'<script type="application/json" id="inside">{data}</script>',
        scripts="\n".join(scripts),
        engine="",
    )


def _panels(board: Board, size_ms: int) -> dict[Panel, Series]:
    rows = board.rows(size_ms)
    found: dict[Panel, Series] = {}
    for panel in SOURCES:
        those, names = rows_of(rows, panel)
        found[panel] = series(those, size_ms, 0, 1 << 52, names)
    return found


def _address(name: str) -> str:
    return f"page/{name}?v={files()[name].tag}"
