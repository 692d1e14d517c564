"""What the APIs over HTTP have in common: answers and errors in one shape, parameters checked, requests counted."""

from __future__ import annotations

import time
from typing import Any, TypeVar, cast

import msgspec
from fastapi import FastAPI, Request, Response
from msgspec import Struct
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ranker.api import Problem
from stream.metrics import Metrics

T = TypeVar("T")

JSON = "application/json"
_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """A request that is not answered: the status, and why."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers


def answer(message: Struct, status: int = 200) -> Response:
    """A message as JSON."""
    return Response(_encode(message), status, media_type=JSON)


def problem(status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    """What is wrong as JSON."""
    return Response(_encode(Problem(error)), status, headers, media_type=JSON)


def query(request: Request, kind: type[T]) -> T:
    """The parameters of a request. Refused, with 400, if they are not as ``kind`` has them, or one comes twice."""
    given = request.query_params
    if len(given) != len(given.multi_items()):
        raise Refused(400, "query: expected each parameter once")
    return cast(T, converted(dict(given), kind, "query"))


def converted(value: object, kind: Any, where: str) -> Any:
    """A value as a type has it, texts read as what they say. Refused, with 400, if it is none."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as e:
        raise Refused(400, f"{where}: {e}") from None


def say_what_is_wrong(app: FastAPI) -> None:
    """Let an application answer what is refused, and paths that it does not have, in the one shape."""

    @app.exception_handler(Refused)
    async def refused(_: Request, e: Refused) -> Response:
        return problem(e.status, str(e), e.headers)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def elsewhere(request: Request, e: Any) -> Response:
        return problem(
            e.status_code, f"expected a path of /docs, got {request.method} {request.url.path}", e.headers
        )


class Counted:
    """Counts requests by path and status, and observes how long they take.

    Parameters
    ----------
    endless
        Paths whose answers go on until the client leaves: how long tells nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endless: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._metrics = metrics
        self._endless = endless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began_s, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:  # a request that broke counts, too
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.add("instep_requests_total", path=path, status=status)
            if path not in self._endless:
                self._metrics.observe("instep_request_seconds", time.monotonic() - began_s, path=path)
        return None
