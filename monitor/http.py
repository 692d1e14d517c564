"""The monitor over HTTP: the page, what it reads, and news as they come. Read only; ``/docs`` describes it.

``/api/stream`` sends rows and alerts as server-sent events. Each has an id, so that a browser that was away is sent
what it missed; where that is not kept any more it is told to read everything again.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version as version_of
from typing import Any, get_args

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import StreamingResponse
from msgspec import Struct

from monitor import assets
from monitor.alert import encode_alert
from monitor.asked import BadRange, Range, RangeQuery
from monitor.board import Board
from monitor.measures import Panel
from monitor.row import Row
from monitor.static import live
from monitor.streams import Streams, TooMany
from monitor.view import SIZES, State, csv_lines, series, state
from monitor.view import Series as SeriesOf
from ranker import answers
from ranker.answers import JSON, Refused
from ranker.api import REF, Problem
from stream.health import Answer, Pages
from stream.metrics import Metrics

FOR_EVER = "public, max-age=31536000, immutable"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class AlertsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts."""

    open: bool = False
    """Only those that are not over."""


class Alerts(Struct, frozen=True):
    """Newest first."""

    alerts: list[msgspec.Raw]


class Downloaded(Struct, frozen=True):
    """Windows as they are kept, and the alerts that began in the range."""

    size_ms: int
    from_ms: int
    to_ms: int
    rows: list[Row]
    alerts: list[msgspec.Raw]


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


RANGE = [
    _parameter("size", {"type": "string", "enum": list(SIZES), "default": "1m"}),
    _parameter("from", {"type": "integer", "minimum": 0, "default": 0}),
    _parameter("to", {"type": "integer", "minimum": 0}),
    _parameter("names", {"type": "string", "example": "quality.ne.click,quality.auc.click"}),
    _parameter("panel", {"type": "string", "enum": list(get_args(Panel))}),
]
OPEN = [_parameter("open", {"type": "boolean", "default": False})]


def make_app(board: Board, metrics: Metrics, pages: Pages | None = None) -> FastAPI:
    """The application over a board that somebody else fills.

    A server that is told to leave waits for its streams: close the board first.

    Parameters
    ----------
    pages
        What answers ``/healthz``, ``/readyz`` and ``/metrics``, see `stream.service.serve`; nobody without.
    """
    app = FastAPI(title="instep monitor", version=version_of("instep"), redoc_url=None)
    app.add_middleware(answers.Counted, metrics=metrics, endless=frozenset({"/api/stream"}))
    answers.say_what_is_wrong(app)
    streams = Streams(board, _now_ms)
    page = live().encode()
    page_tag = f'"{assets.tag_of(page)}"'
    packed_page = gzip.compress(page, 9, mtime=0)

    @app.get("/", include_in_schema=False)
    def index(request: Request) -> Response:
        headers = {
            "ETag": page_tag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("if-none-match") == page_tag:
            return Response(status_code=304, headers=headers)
        return _either(request, page, packed_page, "text/html; charset=utf-8", headers)

    @app.get("/page/{name}", include_in_schema=False)
    def file(request: Request, name: str) -> Response:
        found = assets.files().get(name)
        if found is None:
            raise Refused(404, f"page: expected one of {', '.join(assets.files())}, got {name!r}")
        fresh = request.query_params.get("v") == found.tag
        headers = {
            "ETag": f'"{found.tag}"',
            "Cache-Control": FOR_EVER if fresh else "no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("if-none-match") == f'"{found.tag}"':
            return Response(status_code=304, headers=headers)
        return _either(request, found.raw, found.packed, found.media_type, headers)

    @app.get("/api/state", **_described(State))
    def state_now(request: Request) -> Response:
        """How things stand, what is measured, which windows there are, and the alerts."""
        return _packed(request, state(board, app.version, _now_ms()))

    @app.get("/api/series", **_described(SeriesOf, RANGE))
    def series_of(request: Request) -> Response:
        """Values over time: each with how many it is of, and its standard error where one is known."""
        asked = _range(request, board)
        found = series(asked.rows, asked.size_ms, asked.query.since_ms, asked.query.until_ms, asked.names)
        return _packed(request, found)

    @app.get("/api/stream", **_described(None, media_type="text/event-stream"))
    async def stream(request: Request) -> Response:
        """News as they come: ``row``, ``alert``, ``status``, ``beat``, and ``reset`` if some were missed for good."""
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        try:
            told = streams.open(after)
        except TooMany as e:
            raise Refused(503, str(e), {"Retry-After": "5"}) from None
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(told, media_type="text/event-stream", headers=headers)

    @app.get("/alerts", **_described(Alerts, OPEN))
    def alerts(request: Request) -> Response:
        """The alerts, newest first."""
        only_open = answers.query(request, AlertsQuery).open
        shown = [alert for alert in board.alerts if alert.is_open or not only_open]
        return _packed(request, Alerts([msgspec.Raw(encode_alert(alert)) for alert in shown]))

    @app.get("/api/download.csv", **_described(None, RANGE, media_type="text/csv"))
    def download_csv(request: Request) -> Response:
        """Windows of a range, a line for each value."""
        asked = _range(request, board)
        return StreamingResponse(
            _in_blocks(csv_lines(asked.rows, asked.names)),
            media_type="text/csv",
            headers=_saved_as(f"instep-{asked.query.size}.csv"),
        )

    @app.get("/api/download.json", **_described(Downloaded, RANGE))
    def download_json(request: Request) -> Response:
        """Windows of a range as they are kept, and the alerts that began in it."""
        asked = _range(request, board)
        since_ms, until_ms = asked.query.since_ms, asked.query.until_ms
        began = [encode_alert(a) for a in board.alerts if since_ms <= a.start_ms < until_ms]
        rows = [asked.chosen(row) for row in asked.rows]
        found = Downloaded(asked.size_ms, since_ms, until_ms, rows, [msgspec.Raw(raw) for raw in began])
        return _packed(request, found, _saved_as(f"instep-{asked.query.size}.json"))

    for path, page_of in (pages or {}).items():
        app.get(path, include_in_schema=False)(partial(_plain, page_of))

    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


def _range(request: Request, board: Board) -> Range:
    """What is asked for."""
    try:
        return Range.of(answers.query(request, RangeQuery), board)
    except BadRange as e:
        raise Refused(400, str(e)) from None


def _plain(page: Callable[[], Answer]) -> Response:
    status, text = page()
    return Response(text, status, media_type="text/plain; charset=utf-8")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _either(
    request: Request, raw: bytes, packed: bytes, media_type: str, headers: dict[str, str]
) -> Response:
    headers = headers | {"Vary": "Accept-Encoding"}
    if _takes_gzip(request):
        return Response(packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=media_type)
    return Response(raw, headers=headers, media_type=media_type)


def _packed(request: Request, message: Struct, headers: dict[str, str] | None = None) -> Response:
    """A message as JSON, with gzip where that is taken and worth it."""
    raw = msgspec.json.encode(message)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} | (headers or {})
    packed = gzip.compress(raw, 4) if len(raw) > 1_024 and _takes_gzip(request) else raw
    if packed is raw:
        return Response(raw, headers=headers, media_type=JSON)
    return _either(request, raw, packed, JSON, headers)


def _in_blocks(lines: Iterator[str], n_chars: int = 65_536) -> Iterator[bytes]:
    """Fewer and larger pieces."""
    block: list[str] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= n_chars:
            yield "".join(block).encode()
            block, size = [], 0
    yield "".join(block).encode()


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


MESSAGES = (State, SeriesOf, Alerts, Downloaded, Problem)


def _described(
    answered: type[Struct] | None, parameters: Sequence[dict[str, Any]] = (), media_type: str = JSON
) -> dict[str, Any]:
    """What a route says of itself in the OpenAPI description."""

    def content(message: type[Struct]) -> dict[str, Any]:
        return {JSON: {"schema": {"$ref": REF.format(name=message.__name__)}}}

    done = content(answered) if answered is not None else {media_type: {"schema": {"type": "string"}}}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": done}}
    if parameters:
        found[400] = {"description": "What was asked cannot be.", "content": content(Problem)}
    if media_type == "text/event-stream":
        found[503] = {"description": "Too many listen.", "content": content(Problem)}
    extra = {"parameters": list(parameters)} if parameters else {}
    return {"openapi_extra": extra, "responses": found, "response_class": Response}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, found = msgspec.json.schema_components(MESSAGES, ref_template=REF)
        schema.setdefault("components", {})["schemas"] = found
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # FastAPI's own, where it checks something itself
        app.openapi_schema = schema
    return app.openapi_schema


__all__ = ["make_app"]
