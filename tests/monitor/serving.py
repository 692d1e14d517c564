"""A board that is served at an address of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from monitor.board import Board
from monitor.http import make_app
from stream.metrics import Metrics


@contextmanager
def listening(board: Board, port: int = 0) -> Iterator[str]:
    """The monitor's page over a board, closed at the end; where it is."""
    app = make_app(board, Metrics("monitor"))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", port)) as listening:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            board.close()
            server.should_exit = True
            thread.join()
