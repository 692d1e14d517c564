"""The ranker over HTTP: routes, limits, tokens, errors in one shape, and the description of it all at ``/docs``.

Bodies are read, checked and written by msgspec, whose messages (`ranker.api`) are the OpenAPI schema too. What is wrong
with a request is said as ``{"error": ...}`` with where it is, what was expected and what came.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ranker import answers, api
from ranker.answers import JSON, Refused, converted, problem
from ranker.ranker import NotReadyError
from ranker.service import FULL, RankerService
from stream.events import UNREADABLE, BadEvent, Id, Value

T = TypeVar("T")

EXAMPLE_RANK = {
    "user": "ada",
    "candidates": [
        {"item": "n7", "features": {"category": "sport"}},
        {"item": "n8", "features": {"category": "music"}},
    ],
    "context": {"device": "phone"},
    "log": True,
}
EXAMPLE_EVENTS = {
    "events": [{"type": "action", "kind": "click", "user": "ada", "item": "n7", "impression": "IMPRESSION"}]
}

ID = {"type": "string", "minLength": 1, "maxLength": 512}


def _parameter(name: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _features(name: str, example: dict[str, str]) -> dict[str, Any]:
    """A parameter that is a JSON object."""
    content = {JSON: {"schema": api.features_schema(), "example": example}}
    return {"name": name, "in": "query", "required": False, "content": content}


_rank_request = msgspec.json.Decoder(api.RankRequest)
_raw_events = msgspec.json.Decoder(api.RawEvents)
_feature_object = msgspec.json.Decoder(dict[str, Value])


SIMILAR = [_parameter("n", {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 10})]
EXPLAIN = [
    _parameter("user", ID, required=True),
    _parameter("item", ID, required=True),
    _features("features", {"category": "sport"}),
    _features("context", {"device": "phone"}),
]


def make_app(service: RankerService, *, tokens: Sequence[str] = (), max_body_bytes: int = 8 << 20) -> FastAPI:
    """The application; it starts the service and ends it.

    Parameters
    ----------
    tokens
        Bearer tokens of which one is asked for under ``/v1``; none for an API that is open to all who reach it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(title="instep ranker", version=version_of("instep"), lifespan=lifespan, redoc_url=None)

    app.add_middleware(_Asked, secrets=[token.encode() for token in tokens])
    app.add_middleware(answers.Counted, metrics=service.metrics)

    answers.say_what_is_wrong(app)

    @app.exception_handler(BadEvent)
    async def bad_event(_: Request, e: BadEvent) -> Response:
        return problem(400, str(e))

    @app.exception_handler(NotReadyError)
    async def not_ready(_: Request, e: NotReadyError) -> Response:
        return problem(503, str(e), {"Retry-After": "1"})

    @app.post("/v1/rank", **_described(api.RankRequest, api.RankResponse, EXAMPLE_RANK))
    async def rank(request: Request) -> Response:
        """Score a slate for a user, and log it as shown if asked to."""
        asked = _decoded(_rank_request, await _body(request, max_body_bytes))
        answer = await service.rank(asked)
        service.metrics.add("instep_histories_total", outcome=answer.history.source)
        return answers.answer(answer)

    @app.post("/v1/events", **_described(api.Events, api.EventsResponse, EXAMPLE_EVENTS))
    async def events(request: Request) -> Response:
        """Take impressions and actions; each is judged by itself."""
        body = await _body(request, max_body_bytes)
        # thousands may come at once: not on the loop, where everyone would wait for them
        answer = await asyncio.to_thread(lambda: service.take(_decoded(_raw_events, body).events))
        refused = {result.error for result in answer.results}
        return answers.answer(
            answer, 200 if answer.accepted or not refused else 503 if refused == {FULL} else 400
        )

    @app.get("/v1/similar/{item:path}", **_described(None, api.SimilarResponse, None, SIMILAR))
    async def similar(request: Request, item: str) -> Response:
        """The items whose codes are nearest, of those that this ranker was asked about of late."""
        query = answers.query(request, api.SimilarQuery)
        converted(item, Id, "item")
        found = await service.lookups.similar(item, query.n)
        if found is None:
            raise Refused(404, f"item: expected one that was ranked or acted on of late, got {item!r}")
        return answers.answer(found)

    @app.get("/v1/explain", **_described(None, api.ExplainResponse, None, EXPLAIN))
    async def explain(request: Request) -> Response:
        """Which behaviours a candidate attends over, how near they are and what they weigh."""
        query = answers.query(request, api.ExplainQuery)
        features = _decoded(_feature_object, query.features.encode(), "features") if query.features else None
        context = _decoded(_feature_object, query.context.encode(), "context")
        return answers.answer(await service.explain(query.user, query.item, features, context))

    @app.get("/version", **_described(None, api.VersionResponse, None))
    async def version() -> Response:
        """What this ranker answers with."""
        live = service.live
        age_ms = None if live.version is None else live.age_ms
        return answers.answer(
            api.VersionResponse(app.version, live.version, live.index_version, age_ms, live.behind_ms)
        )

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        why = service.not_ready
        return Response(f"{why or 'ready'}\n", 503 if why else 200, media_type="text/plain")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        service.tell()
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schema.setdefault("components", {})["schemas"] = api.schemas()
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)  # FastAPI's own, where it checks something itself
            if tokens:
                schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                schema["security"] = [{"token": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Asked:
    """Tokens before every request."""

    def __init__(self, app: ASGIApp, secrets: Sequence[bytes]) -> None:
        self._app = app
        self._secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks = scope["type"] == "http" and self._secrets and scope["path"].startswith("/v1/")
        if asks and not self._is_known(scope):
            what = "authorization: expected a bearer token of those in ranker.tokens"
            return await problem(401, what, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        return await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        # all are compared, each in constant time: how long it takes tells nothing of them
        same = [hmac.compare_digest(token, secret) for secret in self._secrets]
        return kind.lower() == b"bearer" and any(same)


async def _body(request: Request, most: int) -> bytes:
    """The body, of which no more is read than is allowed."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Refused(413, f"body: expected at most {most} bytes (ranker.max_body_bytes)")
    except ClientDisconnect:
        raise Refused(400, f"body: expected all of it, the client left after {len(body)} bytes") from None
    return bytes(body)


def _decoded(decoder: msgspec.json.Decoder[T], raw: bytes, where: str = "body") -> T:
    try:
        return decoder.decode(raw)
    except UNREADABLE as e:
        raise Refused(400, f"{where}: {e}") from None


def _described(
    asked: type[Struct] | None,
    answered: type[Struct],
    example: object,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What a route says of itself in the OpenAPI description."""
    either = [api.ref(api.Problem), api.ref(api.EventsResponse)]
    schema = {"anyOf": either} if answered is api.EventsResponse else either[0]
    problem = {"content": {JSON: {"schema": schema}}}
    statuses = {400: "What was asked cannot be.", 401: "A token is asked for.", 503: "Not now."}
    if asked:
        statuses[413] = "The body is too large."
    if answered is api.SimilarResponse:
        statuses[404] = "The item is not known."
    extra: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if asked:
        content = {"schema": api.ref(asked), "example": example}
        extra["requestBody"] = {"required": True, "content": {JSON: content}}
    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "Done.", "content": {JSON: {"schema": api.ref(answered)}}}
    }
    answers |= {status: {"description": what} | problem for status, what in statuses.items()}
    return {"openapi_extra": extra, "responses": answers, "response_class": Response}


__all__ = ["Refused", "make_app"]
