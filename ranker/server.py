"""The process of a ranker: uvicorn around the application, until SIGTERM."""

from __future__ import annotations

import logging
import signal
import socket

import uvicorn
from fastapi import FastAPI

from ranker.service import RankerService
from stream.log import LogError

log = logging.getLogger(__name__)

LEAVE_S = 10
"""How long requests that were begun may take when the process is told to leave."""


def serve_app(app: FastAPI, host: str, port: int, service: RankerService) -> None:
    """Answer requests until SIGTERM or SIGINT. To be called from the main thread.

    Raises
    ------
    LogError
        If nothing can listen on that port.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except (OSError, OverflowError) as e:
        raise LogError("ranker.port", f"cannot listen on {host}:{port}: {e}") from None
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=LEAVE_S,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises again what it was told, once it has finished
    log.info("serving worker=ranker host=%s port=%d", host, listening.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listening])
    log.info("left worker=ranker")
