"""The ranker's API: what is asked, what comes back, and what is refused."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from ranker.service import FULL
from stream.events import MAX_EVENT_BYTES, Action, Candidate, Event, Impression, Tick, decode_event, key_of
from stream.history import digest
from stream.partition import partition_of
from tests.ranker.serving import SETTINGS, TOKEN, WITHIN_S, Serving
from trainer.batch import make_batch
from trainer.learner import predict


@pytest.fixture(scope="module")
def serving() -> Serving:
    made = Serving()
    made.learn()
    return made


@pytest.fixture(scope="module")
def http(serving: Serving) -> Iterator[TestClient]:
    with serving.client() as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asked(shown: Impression, **more: Any) -> dict[str, Any]:
    candidates = [{"item": c.item, "features": c.features} for c in shown.candidates]
    return {"user": shown.user, "candidates": candidates, "context": shown.context} | more


def test_scores_are_those_of_the_trainer_with_the_same_history(serving: Serving, http: TestClient) -> None:
    learner, fields, config = serving.pipeline.learner, SETTINGS.fields, SETTINGS.learner_config()
    for shown in serving.shown[-20:]:
        answer = http.post("/v1/rank", json=asked(shown, at_ms=shown.at_ms)).json()
        samples = [s for step in serving.steps for s in step.samples if s.impression == shown.id]
        if not samples:
            continue  # still waits for its batch
        batch = make_batch(samples, len(fields.item), 1)
        wanted = predict(learner.network, learner.table, batch, config.short, config.k)
        np.testing.assert_allclose(answer["scores"], wanted[:, 0], rtol=0, atol=1e-6)
        assert answer["version"] == answer["index_version"] == list(serving.pipeline.loop.version)
        assert answer["history"]["digest"] == digest(samples[0].sequence, samples[0].sequence_at)
        assert answer["history"]["source"] == "profile"
        assert answer["age_ms"] == serving.now_ms - serving.pipeline.loop.at_ms
        assert answer["behind_ms"] == 0
        assert len(answer["impression"]) == 32
        assert not answer["logged"]


def test_behaviours_may_be_given_in_any_order_and_only_those_before_count(
    serving: Serving, http: TestClient
) -> None:
    shown = next(
        s for s in serving.shown[::-1] if http.post("/v1/rank", json=asked(s)).json()["history"]["n"] > 5
    )
    past = [
        e for e in serving.sent if isinstance(e, Action) and e.user == shown.user and e.at_ms < shown.at_ms
    ]
    given = [{"item": a.item, "features": a.features, "at_ms": a.at_ms} for a in past]
    by_profile = http.post("/v1/rank", json=asked(shown, at_ms=shown.at_ms)).json()
    later = {"item": "n1", "at_ms": shown.at_ms}
    by_hand = http.post(
        "/v1/rank", json=asked(shown, at_ms=shown.at_ms, behaviours=[later, *given[::-1]])
    ).json()
    assert by_hand["scores"] == by_profile["scores"]
    assert by_hand["history"]["source"] == "request"
    assert by_hand["history"]["digest"] == by_profile["history"]["digest"]
    none = http.post("/v1/rank", json=asked(shown, at_ms=shown.at_ms, behaviours=[])).json()
    assert none["history"]["n"] == 0
    assert none["scores"] != by_profile["scores"]


def test_a_wrong_behaviour_is_named_by_its_place_in_the_request(serving: Serving, http: TestClient) -> None:
    right = {"item": "n1", "at_ms": 9}
    wrong = {"item": "n2", "at_ms": 5, "features": {"category": 0.5}}
    answer = http.post("/v1/rank", json=asked(serving.shown[0], behaviours=[right, right, wrong]))
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("at `$.behaviours[2].features.category`")


def test_an_impression_is_logged_with_scores_version_and_digest(serving: Serving, http: TestClient) -> None:
    shown = serving.shown[-1]
    answer = http.post("/v1/rank", json=asked(shown, log=True)).json()
    assert answer["logged"]
    until(lambda: any(isinstance(e, Impression) and e.id == answer["impression"] for e in serving.logged()))
    (event,) = [e for e in serving.logged() if isinstance(e, Impression) and e.id == answer["impression"]]
    assert [c.item for c in event.candidates] == [c.item for c in shown.candidates]
    assert [c.score for c in event.candidates] == answer["scores"]
    assert (event.user, event.at_ms, event.context) == (shown.user, serving.now_ms, shown.context)
    assert list(event.version or ()) == answer["version"]
    assert event.digest == answer["history"]["digest"] != ""


def test_who_and_what_is_unknown_is_scored_all_the_same(http: TestClient) -> None:
    answer = http.post("/v1/rank", json={"user": "nobody", "candidates": [{"item": "never seen"}]}).json()
    assert len(answer["scores"]) == 1
    assert 0 < answer["scores"][0] < 1
    assert answer["history"] == {"n": 0, "source": "profile", "age_ms": 0, "digest": digest(b"", b"")}


def test_an_empty_slate_has_no_scores_and_is_not_logged(http: TestClient) -> None:
    answer = http.post("/v1/rank", json={"user": "ada", "candidates": [], "log": True})
    assert answer.status_code == 200
    assert answer.json()["scores"] == []
    assert not answer.json()["logged"]


def test_five_thousand_candidates_are_scored_and_one_more_is_refused(http: TestClient) -> None:
    candidates = [{"item": f"n{i}"} for i in range(5_000)]
    assert (
        len(http.post("/v1/rank", json={"user": "ada", "candidates": candidates}).json()["scores"]) == 5_000
    )
    refused = http.post("/v1/rank", json={"user": "ada", "candidates": [*candidates, {"item": "n"}]})
    assert refused.status_code == 400
    assert refused.json() == {"error": "Expected at most 5000 candidates, got 5001 - at `$.candidates`"}


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "body: Input data was truncated"),
        (b"{", 400, "body: Input data was truncated"),
        (b'{"user": "\xff", "candidates": []}', 400, "body: "),
        (b'{"user": 7, "candidates": []}', 400, "body: Expected `str`, got `int` - at `$.user`"),
        (b'{"user": "", "candidates": []}', 400, "body: Expected `str` of length >= 1 - at `$.user`"),
        (b'{"user": "a"}', 400, "body: Object missing required field `candidates`"),
        (b'{"user": "a", "candidates": [], "k": 1}', 400, "body: Object contains unknown field `k`"),
        (
            b'{"user": "a", "candidates": [{}]}',
            400,
            "body: Object missing required field `item` - at `$.candidates[0]`",
        ),
        (
            b'{"user": "a", "candidates": [{"item": "n", "features": {"category": 1.5}}]}',
            400,
            "Expected `str | int`, got `float` - at `$.candidates[0].features.category`",
        ),
        (
            b'{"user": "a", "candidates": []' + b" " * (1 << 20) + b"}",
            413,
            "body: expected at most 1048576 bytes",
        ),
        (b"[" * 100_000, 400, "body: "),
    ],
)
def test_what_cannot_be_is_refused_with_where_and_why(
    http: TestClient, body: bytes, status: int, error: str
) -> None:
    answer = http.post("/v1/rank", content=body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(error)


def test_events_are_judged_each_by_itself(serving: Serving, http: TestClient) -> None:
    click = {"type": "action", "kind": "click", "user": "ada", "item": "n7", "impression": "i1", "at_ms": 5}
    shown = {"type": "impression", "id": "i1", "user": "ada", "candidates": [{"item": "n7"}]}
    wrong = [
        {"type": "tick", "at_ms": 5},
        click | {"at_ms": "now"},
        shown | {"candidates": []},
        click | {"mood": 1},
        shown | {"candidates": [{"item": "n", "features": {"category": 0.5}}]},
        7,
    ]
    answer = http.post("/v1/events", json={"events": [click, *wrong, shown]}).json()
    assert answer["accepted"] == 2
    assert [r["ok"] for r in answer["results"]] == [True, *[False] * len(wrong), True]
    assert [r.get("error", "") for r in answer["results"]][1:3] == [
        "Invalid value 'tick' - at `$.type`",
        "Expected `int | null`, got `str` - at `$.at_ms`",
    ]
    wanted = [
        Action("click", "ada", "n7", 5, "i1"),
        Impression("i1", "ada", serving.now_ms, [Candidate("n7")]),
    ]
    until(lambda: all(event in serving.logged() for event in wanted))


def test_similar_items_are_the_nearest_by_code(serving: Serving, http: TestClient) -> None:
    for shown in serving.shown:
        http.post("/v1/rank", json=asked(shown))
    item = serving.shown[0].candidates[0].item
    answer = http.get(f"/v1/similar/{item}", params={"n": 5}).json()
    named = {c.item: c for shown in serving.shown for c in shown.candidates}
    table = serving.pipeline.learner.table

    def code(name: str) -> int:
        keys = SETTINGS.fields.item_keys(name, named[name].features)
        slots = [table.find([keys[0]], [keys[1]])[0], table.find([keys[1]])[0]]
        return int(table.codes[slots[0], 0] | table.codes[slots[1], 0])

    distances = {name: (code(item) ^ code(name)).bit_count() for name in named if name != item}
    assert [s["distance"] for s in answer["similar"]] == sorted(distances.values())[:5]
    assert all(distances[s["item"]] == s["distance"] for s in answer["similar"])
    assert answer["bits"] == 64
    assert http.get("/v1/similar/unheard-of").status_code == 404
    http.post("/v1/rank", json={"user": "ada", "candidates": [{"item": "a/b c"}, {"item": item}]})
    assert http.get("/v1/similar/a%2Fb%20c").json()["item"] == "a/b c"
    for n in ("0", "1001", "x", "1&n=2", "3&m=1"):
        assert http.get(f"/v1/similar/{item}?n={n}").status_code == 400


def test_an_explanation_lists_what_is_attended_over(serving: Serving, http: TestClient) -> None:
    shown = max(serving.shown, key=lambda s: http.post("/v1/rank", json=asked(s)).json()["history"]["n"])
    one = shown.candidates[0]
    params = {"user": shown.user, "item": one.item, "features": json.dumps(one.features)}
    params["context"] = json.dumps(shown.context)
    answer = http.get("/v1/explain", params=params).json()
    alone = asked(shown) | {"candidates": [{"item": one.item, "features": one.features}]}
    scored = http.post("/v1/rank", json=alone).json()
    assert answer["score"] == pytest.approx(scored["scores"][0], abs=1e-6)
    assert answer["n_behaviours"] == scored["history"]["n"]
    parts: dict[str, list[dict[str, Any]]] = {"long": [], "short": []}
    for behaviour in answer["behaviours"]:
        parts[behaviour["part"]].append(behaviour)
    config = SETTINGS.learner_config()
    assert len(parts["short"]) == min(config.short, answer["n_behaviours"])
    assert len(parts["long"]) == min(config.k, answer["n_behaviours"] - len(parts["short"]))
    for part in parts.values():
        assert sum(b["weight"] for b in part) == pytest.approx(1, abs=1e-5)
    newest_long = max(b["at_ms"] for b in parts["long"])
    assert newest_long <= min(b["at_ms"] for b in parts["short"])
    assert all(
        b["item"] is None or f"{key_of('item', b['item']):016x}" == b["key"] for b in answer["behaviours"]
    )
    assert http.get("/v1/explain", params={"user": "ada"}).status_code == 400
    assert http.get("/v1/explain", params=params | {"features": "[]"}).status_code == 400


def test_pages_about_itself(serving: Serving, http: TestClient) -> None:
    assert http.get("/healthz").text == "alive\n"
    version = http.get("/version").json()
    assert version["version"] == list(serving.pipeline.loop.version)
    assert http.get("/docs").status_code == 200
    described = http.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/rank",
        "/v1/events",
        "/v1/similar/{item}",
        "/v1/explain",
        "/version",
    }
    for answer in ("RankResponse", "ExplainResponse"):  # one kind of action is not told by name
        schema = described["components"]["schemas"][answer]
        assert "kinds" in schema["properties"].keys() - schema["required"]
    page = http.get("/metrics").text
    assert 'instep_requests_total{path="/v1/rank",status="200",worker="ranker"}' in page
    assert 'instep_histories_total{outcome="profile",worker="ranker"}' in page
    nowhere = http.get("/v2/rank")
    assert nowhere.status_code == 404
    assert "got GET /v2/rank" in nowhere.json()["error"]
    assert http.get("/v1/rank").status_code == 405


def test_tokens_are_asked_for_and_health_is_not_secret() -> None:
    with Serving().client(tokens=["another-token", TOKEN]) as http:
        for given in ({}, {"Authorization": "Bearer wrong-token"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = http.post("/v1/rank", json={"user": "a", "candidates": []}, headers=given)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert http.post("/v1/events", json={"events": []}, headers=known).status_code == 200
        assert http.get("/healthz").status_code == 200


def test_before_the_first_publication_it_is_not_ready() -> None:
    with Serving().client() as http:
        assert http.get("/readyz").status_code == 503
        answer = http.post("/v1/rank", json={"user": "a", "candidates": [{"item": "n"}]})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"] == "ranker: expected a published model, got none yet"
        assert http.get("/version").json()["version"] is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"ada", b"\xff", "can't decode byte 0xff"),
        (b"}", b',"features":{"title":"' + b"x" * MAX_EVENT_BYTES + b'"}}', "Expected an event of at most"),
    ],
    ids=["not utf-8", "large"],
)
def test_an_event_that_nobody_can_read_or_keep_is_refused_by_itself(old: bytes, new: bytes, why: str) -> None:
    serving = Serving()
    good = b'{"type":"action","kind":"click","user":"ada","item":"n7"}'
    with serving.client(max_body_bytes=8 << 20) as http:
        events = b",".join((good, good.replace(old, new), good))
        answer = http.post("/v1/events", content=b'{"events":[%s]}' % events)
        assert answer.status_code == 200, answer.text
        first, refused, last = answer.json()["results"]
        assert (first["ok"], refused["ok"], last["ok"]) == (True, False, True)
        assert why in refused["error"]
        until(lambda: len(serving.logged()) == 2)
    assert serving.failures == []


def test_a_slate_that_is_too_large_to_log_is_ranked_and_said_not_to_be_logged() -> None:
    serving = Serving()
    serving.learn()
    wide = {"item": "n7", "features": {"title": "x" * MAX_EVENT_BYTES}}
    with serving.client(max_body_bytes=8 << 20) as http:
        serving.live.follow()
        asked = {"user": "ada", "candidates": [wide], "log": True}
        assert http.post("/v1/rank", json=asked).json()["logged"] is False
        asked = {"user": "ada", "candidates": [{"item": "n7"}], "log": True}
        assert http.post("/v1/rank", json=asked).json()["logged"] is True
    assert serving.failures == []


def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted_and_told_of_in_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    serving = Serving()
    counted = 'instep_requests_total{path="/v1/events",status="400",worker="ranker"} 1.0'
    with serving.listening() as url, httpx.Client(base_url=url) as http:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as leaving:
            leaving.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.2)
        until(lambda: counted in http.get("/metrics").text)
    assert "Traceback" not in caplog.text


def test_what_has_no_room_is_refused_and_counted() -> None:
    serving = Serving(max_waiting=3)
    serving.log_switch.is_off = True
    with serving.client() as http:
        assert 'instep_outbox_dropped_total{worker="ranker"} 0.0' in http.get("/metrics").text
        click = {"type": "action", "kind": "click", "user": "ada", "item": "n7"}
        answer = http.post("/v1/events", json={"events": [click] * 5})
        assert answer.status_code == 200
        assert [r["ok"] for r in answer.json()["results"]] == [True] * 3 + [False] * 2
        assert answer.json()["results"][-1]["error"] == FULL
        assert http.post("/v1/events", json={"events": [click]}).status_code == 503
        assert 'instep_outbox_dropped_total{worker="ranker"} 3.0' in http.get("/metrics").text
        serving.log_switch.is_off = False
        until(lambda: len(serving.logged()) == 3)
        assert http.post("/v1/events", json={"events": [click]}).status_code == 200


def test_ticks_go_to_every_partition_behind_what_happened() -> None:
    serving = Serving(tick_ms=1_000)
    with serving.client() as http:
        until(lambda: len(serving.logged()) == 2)
        click = {"type": "action", "kind": "click", "user": "ada", "item": "n7"}
        serving.log_switch.is_off = True  # so that both are due when it comes back
        http.post("/v1/events", json={"events": [click]})
        serving.now_ms += 1_500
        time.sleep(0.3)
        serving.log_switch.is_off = False
        until(lambda: len(serving.logged()) == 5)
    by_partition: dict[int, list[Event]] = {0: [], 1: []}
    for record in serving.events.source().poll(100):
        by_partition[record.partition].append(decode_event(record.value))
    first, last = serving.now_ms - 1_500, serving.now_ms
    clicked = partition_of("ada", 2)
    assert [type(e) for e in by_partition[clicked]] == [Tick, Action, Tick]
    assert [type(e) for e in by_partition[1 - clicked]] == [Tick, Tick]
    for happened in by_partition.values():
        assert [e.at_ms for e in happened if isinstance(e, Tick)] == [first, last]


def test_without_profiles_it_answers_with_what_it_remembers() -> None:
    serving = Serving()
    serving.learn()
    with serving.client() as http:
        until(lambda: http.get("/readyz").status_code == 200)
        shown = serving.shown[-1]
        before = http.post("/v1/rank", json=asked(shown)).json()
        serving.profiles_switch.is_off = True
        serving.now_ms += 700
        during = http.post("/v1/rank", json=asked(shown)).json()
        assert during["history"] == before["history"] | {"source": "memory", "age_ms": 700}
        other = http.post("/v1/rank", json=asked(shown) | {"user": "nobody"}).json()
        assert other["history"] == {"n": 0, "source": "none", "age_ms": None, "digest": ""}
        serving.profiles_switch.is_off = False
        serving.now_ms += 700
        assert http.post("/v1/rank", json=asked(shown)).json()["history"]["source"] == "profile"


def test_without_its_index_it_says_how_far_behind_it_may_be() -> None:
    serving = Serving()
    serving.learn()
    with serving.client() as http:
        until(lambda: http.get("/readyz").status_code == 200)
        shown = serving.shown[-1]
        before = http.post("/v1/rank", json=asked(shown)).json()
        serving.index_switch.is_off = True
        time.sleep(0.2)
        serving.now_ms += 30_000
        during = http.post("/v1/rank", json=asked(shown)).json()
        assert during["behind_ms"] == 30_000
        assert during["age_ms"] == before["age_ms"] + 30_000
        assert during["version"] == before["version"]
        assert http.get("/readyz").status_code == 200
        serving.now_ms += 31_000
        assert http.get("/readyz").text == "not in step with the index for 61000 ms\n"
        serving.index_switch.is_off = False
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/v1/rank", json=asked(shown)).json()["behind_ms"] == 0
