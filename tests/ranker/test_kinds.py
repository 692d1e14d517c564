"""A ranker of a model of two kinds of action, over HTTP: what it says of each, and what it orders by."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from instep.settings import Settings, check
from ranker.api import RankRequest
from ranker.client import NewAction, RankerClient
from stream.events import Action, Candidate, Impression
from tests.ranker.serving import N_SLATES, Serving
from tests.ranker.test_http import until
from tests.worlds import TWO_KINDS, liked, small
from trainer.learner import predict

WORTH = {"click": -0.5, "like": 2.0}


def worth(weights: dict[str, float]) -> Settings:
    stream = {"max_history": 20, "history_ttl_ms": 6 * 3_600_000, **TWO_KINDS}
    s = small(stream=stream, model={"towers": "mmoe"})
    return check(msgspec.to_builtins(s) | {"ranker": {"weights": weights}})


def serve(weights: dict[str, float]) -> Iterator[tuple[Serving, RankerClient]]:
    serving = Serving(settings=worth(weights), sent=liked(N_SLATES)[0])
    serving.learn()
    serving.live.follow()
    with serving.listening() as url, RankerClient(url, timeout_s=20) as client:
        yield serving, client


@pytest.fixture(scope="module")
def weighed() -> Iterator[tuple[Serving, RankerClient]]:
    yield from serve(WORTH)


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[Serving, RankerClient]]:
    yield from serve({})


Both = tuple[Serving, RankerClient]


def test_each_kind_is_told_and_the_score_is_their_worth(weighed: Both, plain: Both) -> None:
    serving, client = weighed
    config, learner, others = serving.settings.learner_config(), serving.pipeline.learner, 0
    for shown in serving.shown[-15:]:
        asked = shown.user, shown.candidates, shown.context
        answer, first = client.rank(*asked), plain[1].rank(*asked)
        assert list(answer.kinds) == ["click", "like"]
        click, like = (np.array(answer.kinds[kind]) for kind in ("click", "like"))
        np.testing.assert_allclose(answer.scores, -0.5 * click + 2.0 * like, rtol=1e-5, atol=1e-7)
        assert first.scores == first.kinds["click"]
        np.testing.assert_allclose(
            first.scores, click, rtol=0, atol=1e-6
        )  # worth is no part of what is learned
        others += np.argsort(answer.scores).tolist() != np.argsort(first.scores).tolist()
        request = [Candidate(c.item, c.features) for c in shown.candidates]
        history = serving.service._history(  # as the service reads it
            RankRequest(shown.user, []), serving.now_ms
        )[0]
        slate = serving.settings.scorer().slate(shown.user, request, shown.context, serving.now_ms, history)
        p = predict(learner.network, learner.table, slate, config.short, config.k)
        np.testing.assert_allclose(np.stack([click, like], 1), p, rtol=0, atol=1e-6)
    assert others > 5


def test_an_explanation_tells_each_kind(weighed: Both) -> None:
    serving, client = weighed
    shown = serving.shown[-1]
    answer = client.explain(shown.user, shown.candidates[0], shown.context)
    ranked = client.rank(shown.user, shown.candidates[:1], shown.context)
    assert answer.kinds.keys() == ranked.kinds.keys()
    for kind, p in answer.kinds.items():
        assert p == pytest.approx(ranked.kinds[kind][0], abs=1e-6)
    assert answer.score == pytest.approx(ranked.scores[0], abs=1e-6)


def test_the_slate_is_logged_with_the_score_it_was_ordered_by(weighed: Both) -> None:
    serving, client = weighed
    shown = serving.shown[0]
    answer = client.rank(shown.user, shown.candidates, shown.context, log=True)
    until(lambda: any(isinstance(e, Impression) and e.id == answer.impression for e in serving.logged()))
    (event,) = [e for e in serving.logged() if isinstance(e, Impression) and e.id == answer.impression]
    assert [c.score for c in event.candidates] == answer.scores


def test_no_candidates_are_none_of_each_kind(weighed: Both) -> None:
    assert weighed[1].rank("ada", []).kinds == {"click": [], "like": []}


def test_likes_are_taken_as_clicks_are(weighed: Both) -> None:
    serving, client = weighed
    assert client.send([NewAction("like", "ada", "n7", "i1", at_ms=5)]).accepted == 1
    until(lambda: Action("like", "ada", "n7", 5, "i1") in serving.logged())
