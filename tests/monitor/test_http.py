"""The monitor over HTTP: what the page reads, news as they come, and what is refused."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from monitor import streams
from monitor.alert import Alert, cleared, decode_alert
from monitor.board import Board, Status
from monitor.http import make_app
from monitor.measures import MEASURES
from monitor.row import SIZES_MS, Row, Value
from stream.metrics import Metrics
from tests.monitor import made
from tests.monitor.serving import listening

MINUTE_MS = made.MINUTE_MS
END_MS = made.END_MS
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def board() -> Board:
    return made.board(n_hours=3)


@pytest.fixture(scope="module")
def http(board: Board) -> TestClient:
    return TestClient(make_app(board, Metrics("monitor")))


def error(http: TestClient, path: str, status: int = 400) -> str:
    answer = http.get(path)
    assert answer.status_code == status
    return str(answer.json()["error"])


# --- what it says of now --------------------------------------------------------------------------


def test_the_state_is_all_of_the_page_but_its_series(http: TestClient, board: Board) -> None:
    state = http.get("/api/state").json()
    assert [measure["name"] for measure in state["measures"]] == [measure.name for measure in MEASURES]
    assert [section["panel"] for section in state["sections"]] == [
        *("quality", "freshness", "codes", "data", "slices")
    ]
    in_charts = {line["measure"] for chart in state["charts"] for line in chart["lines"]}
    assert in_charts == {m.name for m in MEASURES if m.panel != "slices"}
    assert msgspec.convert(state["status"], Status) == board.status
    assert [alert["rule"] for alert in state["alerts"]] == ["field-moved", "clicks-stopped"]
    assert state["waits_for"] == ""
    for windows, size_ms in zip(state["windows"], SIZES_MS, strict=True):
        assert windows["size_ms"] == size_ms
        ends = {source: span["to_ms"] for source, span in windows["sources"].items()}
        assert ends == dict.fromkeys(made.SOURCES, END_MS // size_ms * size_ms)
        assert all(span["n"] == len(board.rows(size_ms)) // 4 for span in windows["sources"].values())


def test_before_anything_came_it_says_what_it_waits_for() -> None:
    board = Board()
    http = TestClient(make_app(board, Metrics("monitor")))
    assert http.get("/api/state").json()["waits_for"] == "the first record of instep.samples"
    board.tell(made.status(0, at_ms=90_000))
    waits = "the first minute to close, at 1970-01-01T00:02:00Z of event time"
    assert http.get("/api/state").json()["waits_for"] == waits
    board.add(Row("data", MINUTE_MS, 60_000, {"data.events": Value(1.0, 60)}))
    assert http.get("/api/state").json()["waits_for"] == ""


# --- series and downloads -------------------------------------------------------------------------


@given(
    size=st.sampled_from([("1m", SIZES_MS[0]), ("10m", SIZES_MS[1]), ("1h", SIZES_MS[2])]),
    since=st.integers(-200, 10),
    length=st.integers(0, 210),
    panel=st.sampled_from(["quality", "freshness", "codes", "data", "slices"]),
)
@settings(deadline=None, max_examples=40)
def test_a_series_has_what_is_kept_of_the_range_and_nothing_else(
    http: TestClient, board: Board, size: tuple[str, int], since: int, length: int, panel: str
) -> None:
    since_ms = END_MS + since * MINUTE_MS
    until_ms = since_ms + length * MINUTE_MS
    found = http.get(f"/api/series?size={size[0]}&from={since_ms}&to={until_ms}&panel={panel}").json()
    kept = {
        (row.start_ms, name): value
        for row in board.rows(size[1])
        for name, value in row.values.items()
        if since_ms <= row.start_ms < until_ms and name.startswith(f"{panel}.")
    }
    told = {}
    for name, column in found["values"].items():
        for at in zip(found["start_ms"], column["value"], column["n"], column["error"], strict=True):
            told[at[0], name] = at[1:]
    assert found["start_ms"] == sorted({at for at, _ in kept})
    for key, value in kept.items():
        expected = (value.value, value.n, value.error)
        assert told.pop(key) == tuple(v and pytest.approx(v, rel=1e-5) for v in expected), key
    assert all(rest == (None, 0, None) for rest in told.values())  # where a window does not have it


def test_names_choose_values(http: TestClient) -> None:
    names = ["quality.ne.click", "data.psi.category"]
    found = http.get(f"/api/series?names={','.join(names)}&panel=data").json()
    assert list(found["values"]) == ["data.psi.category"]
    found = http.get(f"/api/series?names={','.join(names)}").json()
    assert sorted(found["values"]) == sorted(names)
    assert http.get("/api/series?names=quality.ne.nobody").json()["values"] == {}


def test_the_downloads_hold_what_is_kept(http: TestClient, board: Board) -> None:
    since_ms, until_ms = made.DEAD[0] - 5 * MINUTE_MS, made.DEAD[0] + 5 * MINUTE_MS
    query = f"size=1m&from={since_ms}&to={until_ms}"
    rows = board.rows(MINUTE_MS, since_ms, until_ms)
    as_json = http.get(f"/api/download.json?{query}")
    assert as_json.headers["content-disposition"] == 'attachment; filename="instep-1m.json"'
    assert msgspec.convert(as_json.json()["rows"], list[Row], strict=False) == rows
    assert [alert["rule"] for alert in as_json.json()["alerts"]] == ["clicks-stopped"]
    as_csv = http.get(f"/api/download.csv?{query}")
    assert as_csv.headers["content-disposition"] == 'attachment; filename="instep-1m.csv"'
    lines = list(csv.DictReader(io.StringIO(as_csv.text)))
    told = {(int(line["start_ms"]), line["name"]): (line["value"], int(line["n"])) for line in lines}
    assert len(told) == len(lines) == sum(len(row.values) for row in rows)
    for row in rows:
        for name, value in row.values.items():
            text, n = told[row.start_ms, name]
            assert (float(text) if text else None, n) == (value.value, value.n)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("size=2m", "query: Invalid enum value '2m' - at `$.size`"),
        ("from=-1", "query: Expected `int` >= 0 - at `$.from`"),
        ("from=x", "query: Expected `int`, got `str` - at `$.from`"),
        ("from=2&to=1", "query: expected from <= to, got 2 > 1"),
        ("names=quality.nothing", "names: expected one of the state's measures, got 'quality.nothing'"),
        ("panel=nowhere", "query: Invalid enum value 'nowhere' - at `$.panel`"),
        ("from=1&from=2", "query: expected each parameter once"),
        ("until=1", "query: Object contains unknown field `until`"),
    ],
)
def test_a_range_that_cannot_be_is_refused(http: TestClient, query: str, said: str) -> None:
    for path in ("/api/series", "/api/download.csv", "/api/download.json"):
        assert error(http, f"{path}?{query}") == said


# --- alerts ---------------------------------------------------------------------------------------


def test_alerts_are_told_newest_first_and_those_that_are_open_by_themselves(
    http: TestClient, board: Board
) -> None:
    told = http.get("/alerts").json()["alerts"]
    assert [decode_alert(json.dumps(alert)) for alert in told] == board.alerts
    only_open = http.get("/alerts?open=true").json()["alerts"]
    assert [alert["id"] for alert in only_open] == [a.id for a in board.alerts if a.is_open]
    assert "expected" in error(http, "/alerts?open=perhaps").lower()


# --- news -----------------------------------------------------------------------------------------


class Events:
    """Server-sent events of an address."""

    def __init__(self, address: str, last: str = "", after: str = "") -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self._client = httpx2.Client(timeout=WITHIN_S)
        self._open = self._client.stream(
            "GET", f"{address}api/stream", params={"after": after} if after else {}, headers=headers
        )
        self._lines = self._open.__enter__().iter_lines()

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """Id, kind and data, without beats and statuses."""
        event: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                if event.get("event") in ("row", "alert", "reset"):
                    yield event["id"], event["event"], json.loads(event["data"])
                event = {}

    def take(self, n: int) -> list[tuple[str, str, Any]]:
        """The next so many."""
        return list(itertools.islice(self, n))

    def close(self) -> None:
        self._open.__exit__(None, None, None)
        self._client.close()


def quiet(minute: int) -> Row:
    return Row("data", MINUTE_MS, minute * MINUTE_MS, {"data.events": Value(1.5, 90)})


def test_who_comes_again_is_told_what_it_missed_and_nothing_twice() -> None:
    board, alert = Board(run="run"), made.dead_clicks()
    with listening(board) as address:
        first = Events(address, after="run-0")
        board.add(quiet(0))
        assert [one[0] for one in first.take(1)] == ["run-1"]
        first.close()
        board.add(quiet(1))
        board.put(alert)
        again = Events(address, last="run-1")
        told = again.take(2)
        assert [one[:2] for one in told] == [("run-2", "row"), ("run-3", "alert")]
        assert msgspec.convert(told[0][2], Row, strict=False) == quiet(1)
        assert msgspec.convert(told[1][2], Alert, strict=False) == alert
        board.put(cleared(alert, alert.raised_ms))
        assert [one[:2] for one in again.take(1)] == [("run-4", "alert")]
        again.close()


@pytest.mark.parametrize("last", ["another-3", "run-99", "run-x", "nonsense", "run-" + "9" * 5_000])
def test_who_knows_nothing_of_this_run_is_told_to_read_all_of_it_again(last: str) -> None:
    board = Board(run="run")
    board.add(quiet(0))
    with listening(board) as address:
        events = Events(address, last=last)
        assert events.take(1) == [("run-1", "reset", {})]
        board.add(quiet(1))
        assert [one[:2] for one in events.take(1)] == [("run-2", "row")]
        events.close()


def test_a_status_and_a_sign_of_life_come_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BEAT_S", 0.01)
    board = Board()
    board.tell(made.status(123))
    with (
        listening(board) as address,
        httpx2.stream("GET", f"{address}api/stream", timeout=WITHIN_S) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in answer.iter_lines() if line)
        told = list(itertools.islice(lines, 5))
    assert told[:2] == ["retry: 1000", "event: status"]
    assert json.loads(told[2].removeprefix("data: "))["status"]["heard_ms"] == 123
    assert told[3] == "event: beat"
    assert json.loads(told[4].removeprefix("data: "))["now_ms"] > 0


def test_too_many_who_listen_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "N_STREAMS", 1)
    board = Board(run="run")
    board.add(quiet(0))
    with listening(board) as address:
        first = Events(address, last="run-0")
        first.take(1)
        refused = httpx2.get(f"{address}api/stream")
        assert refused.status_code == 503
        assert refused.json() == {"error": "stream: expected at most 1 who listen"}
        first.close()


# --- the page and what is around it ---------------------------------------------------------------


def test_the_page_may_be_kept_but_is_asked_for_again_and_its_files_are_kept_for_ever(
    http: TestClient,
) -> None:
    page = http.get("/")
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-encoding"] == "gzip"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert http.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    addresses = [part.split('"')[0] for part in page.text.split('"page/')[1:]]
    assert len(addresses) > 5
    for address in addresses:
        file = http.get(f"/page/{address}")
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["content-encoding"] == "gzip"
        plain = http.get(f"/page/{address}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == file.content
        assert http.get(f"/page/{address.split('?')[0]}?v=0").headers["cache-control"] == "no-cache"
    assert error(http, "/page/../board.py", 404)
    assert error(http, "/page/board.py", 404).startswith("page: expected one of base.css,")


def test_nothing_can_be_changed(http: TestClient) -> None:
    for path in ("/", "/api/state", "/api/series", "/alerts", "/api/stream"):
        assert http.post(path).status_code == 405
        assert http.delete(path).status_code == 405
    assert error(http, "/nowhere", 404) == "expected a path of /docs, got GET /nowhere"


def test_it_answers_for_the_worker_beside_it_and_counts_who_asks(board: Board) -> None:
    metrics = Metrics("monitor")
    pages = {"/readyz": lambda: (503, b"starting\n"), "/metrics": lambda: (200, metrics.page())}
    http = TestClient(make_app(board, metrics, pages))
    assert (http.get("/readyz").status_code, http.get("/readyz").text) == (503, "starting\n")
    http.get("/alerts")
    line = 'instep_requests_total{path="/alerts",status="200",worker="monitor"}'
    assert line in http.get("/metrics").text


def test_the_description_has_every_route_and_only_schemas_that_it_has(http: TestClient) -> None:
    described = http.get("/openapi.json").json()
    assert set(described["paths"]) == {
        *("/api/state", "/api/series", "/api/stream", "/alerts"),
        *("/api/download.csv", "/api/download.json"),
    }
    refs = {part.split('"')[0] for part in json.dumps(described).split("#/components/schemas/")[1:]}
    assert refs <= set(described["components"]["schemas"])
