"""Slates that wait for the mirror at the same time: each gets its own scores, whoever it is scored with."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from ranker import together
from ranker.ranker import NotReadyError
from ranker.together import Together
from stream.events import Impression, key_of
from tests.ranker.serving import SETTINGS, Serving
from tests.worlds import make_profiles
from trainer.batch import Batch

SCORER = SETTINGS.scorer()


def slate(serving: Serving, shown: Impression, n: int | None = None) -> Batch:
    profiles = make_profiles(serving.sent, SETTINGS.fields, SETTINGS.stream.history_ttl_ms)
    history = profiles.get(key_of("user", shown.user), shown.at_ms, 20)
    return SCORER.slate(shown.user, shown.candidates[:n], shown.context, shown.at_ms, history)


def test_all_that_wait_are_scored_together_and_each_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    serving = Serving()
    serving.learn()
    serving.live.follow()
    slates = [
        slate(serving, shown, n) for n, shown in enumerate(serving.shown[-8:])
    ]  # the first has no candidates
    alone = [serving.live.submit(lambda m, s=s: SCORER.score(m, s)).result() for s in slates]  # type: ignore[misc]
    sizes: list[int] = []

    class Counted(type(SCORER)):  # type: ignore[misc]
        def score_all(self, model, some):  # type: ignore[no-untyped-def]
            sizes.append(len(some))
            return super().score_all(model, some)

    counted = Counted(SCORER.fields, SCORER.short, SCORER.k, SCORER.warm_up_steps)
    both, busy = Together(serving.live, counted), Event()
    serving.live.submit(lambda _: busy.wait(20))
    futures = [both.score(one) for one in slates]
    given_up = both.score(slates[3])
    assert given_up.cancel()
    busy.set()
    for future, wanted in zip(futures, alone, strict=True):
        got = future.result(20)
        np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=1e-6)
        assert (got.version, got.n_behaviours) == (wanted.version, wanted.n_behaviours)
    assert sizes == [8]
    monkeypatch.setattr(together, "MOST_CANDIDATES", 10)
    busy.clear()
    serving.live.submit(lambda _: busy.wait(20))
    futures = [both.score(one) for one in slates]
    busy.set()
    assert [len(future.result(20).scores) for future in futures] == list(range(8))
    assert sizes[1:] == [5, 2, 1]  # 0 + 1 + 2 + 3 + 4 candidates, then 5 + 6, then 7
    serving.live.close()


def test_who_comes_when_too_many_wait_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    serving = Serving()
    serving.learn()
    serving.live.follow()
    monkeypatch.setattr(together, "MOST_WAITING", 3)
    both, busy = Together(serving.live, SCORER), Event()
    serving.live.submit(lambda _: busy.wait(20))
    slates = [slate(serving, shown) for shown in serving.shown[:4]]
    futures = [both.score(one) for one in slates[:3]]
    with pytest.raises(NotReadyError, match="expected less than 3 requests at a time"):
        both.score(slates[3])
    busy.set()
    assert all(len(future.result(20).scores) for future in futures)
    assert len(both.score(slates[3]).result(20).scores)
    serving.live.close()


def test_what_goes_wrong_is_told_to_everyone() -> None:
    serving = Serving()
    both = Together(serving.live, SCORER)
    futures = [both.score(slate(serving, shown)) for shown in serving.shown[:3]]
    for future in futures:
        with pytest.raises(NotReadyError):
            future.result(20)
    serving.live.close()
