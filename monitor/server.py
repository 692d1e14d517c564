"""The page in a thread of this process, beside the one that fills the board."""

from __future__ import annotations

import logging
import socket
from threading import Thread

import uvicorn

from monitor.board import Board
from monitor.http import make_app
from stream.health import Pages
from stream.log import LogError
from stream.metrics import Metrics

LEAVE_S = 5
"""How long answers that were begun may take at the end."""


class Server:
    """Answers over HTTP until it is left; a `stream.health.Listening`.

    Parameters
    ----------
    port
        0 takes a free one.
    pages
        See `monitor.http.make_app`.

    Raises
    ------
    LogError
        If nothing can listen on that port.
    """

    def __init__(
        self, board: Board, metrics: Metrics, host: str, port: int, pages: Pages | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as e:
            raise LogError("monitor.port", f"cannot listen on {host}:{port}: {e}") from None
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._board = board
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(board, metrics, pages),
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=LEAVE_S,
            )
        )
        self._thread = Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="page", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()  # or those who listen to its news would be waited for
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
