"""``/healthz``, ``/readyz`` and ``/metrics`` of a worker, on a port of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol

from stream.frames import LogError

log = logging.getLogger(__name__)

Answer = tuple[int, bytes]
"""Status and text."""
Pages = Mapping[str, Callable[[], Answer]]
"""By path, what answers it."""


class Listening(Protocol):
    """A server that answers from its making until it is left."""

    @property
    def port(self) -> int:
        """Where it listens."""

    def __enter__(self) -> Listening: ...

    def __exit__(self, *_: object) -> None: ...


class Health:
    """A small HTTP server in a thread that ends with the process.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes a free one.
    pages
        For each path what answers it, asked in a thread of the server.

    Raises
    ------
    LogError
        If nothing can listen there.

    Examples
    --------
    >>> from urllib.request import urlopen
    >>> with Health("127.0.0.1", 0, {"/healthz": lambda: (200, b"alive")}) as health:
    ...     urlopen(f"http://127.0.0.1:{health.port}/healthz").read()
    b'alive'
    """

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # a client that says nothing holds a thread no longer

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                status, text = page() if page else (404, f"expected one of {', '.join(pages)}".encode())
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, template: str, *args: object) -> None:
                log.debug("asked said=%s", template % args)

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as e:
            raise LogError("service", f"cannot listen on {host}:{port}: {e}") from None
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Health:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
