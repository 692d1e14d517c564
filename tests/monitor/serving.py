"""A board that is served at an address of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from monitor.board import Board
from monitor.server import Server
from stream.health import Pages
from stream.metrics import Metrics


@contextmanager
def listening(board: Board, port: int = 0, pages: Pages | None = None) -> Iterator[str]:
    """The monitor's page over a board, closed at the end; where it is."""
    with Server(board, Metrics("monitor"), "127.0.0.1", port, pages) as server:
        yield f"http://127.0.0.1:{server.port}/"
