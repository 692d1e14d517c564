"""The page in a thread of this process, beside the one that fills the board."""

from __future__ import annotations

from threading import Thread

from monitor.board import Board
from monitor.http import make_app
from ranker.server import listen, server_of
from stream.health import Pages
from stream.metrics import Metrics


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
        self._socket = listen(host, port, "monitor.port")
        self._board = board
        self._server = server_of(make_app(board, metrics, pages))
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
