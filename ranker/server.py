"""Uvicorn around an application, and the process of a ranker: until SIGTERM."""

from __future__ import annotations

import logging
import signal
import socket

import uvicorn
from fastapi import FastAPI

from stream.log import LogError

log = logging.getLogger(__name__)

LEAVE_S = 10
"""How long requests that were begun may take when the process is told to leave."""


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Be reachable there; port 0 takes a free one. LogError, by the name of the setting, if that cannot be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as e:
        raise LogError(setting, f"cannot listen on {host}:{port}: {e}") from None


def server_of(app: FastAPI) -> uvicorn.Server:
    """What answers for an application, without a log of its own."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=LEAVE_S,
        )
    )


def serve_app(app: FastAPI, host: str, port: int) -> None:
    """Answer requests until SIGTERM or SIGINT. To be called from the main thread.

    Raises
    ------
    LogError
        If nothing can listen on that port.
    """
    listening = listen(host, port, "ranker.port")
    server = server_of(app)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises again what it was told, once it has finished
    log.info("serving worker=ranker host=%s port=%d", host, listening.getsockname()[1])
    server.run(sockets=[listening])
    log.info("left worker=ranker")
