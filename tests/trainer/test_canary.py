"""The canary alone, with models that are as wrong as one likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Sample
from tests.trainer.samples import N_FIELDS, make_samples
from trainer.batch import Batch
from trainer.canary import LEAST, Canary, CanaryRules

RULES = CanaryRules(1.0, N_FIELDS, 1, n_slates=24)
SLATES = make_samples(400, lengths=(0,), n_users=60)
Model = tuple[float, int]
"""How wrong a model is, for one user in so many; for the others it is by 0.1."""


def predictor(model: Model) -> Callable[[Batch], np.ndarray[Any, np.dtype[np.float32]]]:
    def predict(batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        users = batch.side[batch.slate, :1]
        wrong = np.where(users % model[1] == 0, model[0], 0.1)
        return np.abs(batch.labels - wrong).astype(np.float32)

    return predict


def loss(slate: Sample, model: Model) -> float:
    wrong = model[0] if slate.user % model[1] == 0 else 0.1
    return -len(slate.labels) * float(np.log1p(-wrong))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.tuples(st.sampled_from([0.01, 0.1, 0.103, 0.2, 0.5]), st.sampled_from([1, 2, 7])),
        ),
        max_size=12,
    )
)
@settings(deadline=None)
def test_what_is_tried_is_compared_with_what_is_live_on_slates_that_both_have_scored(
    moves: list[tuple[int, Model]],
) -> None:
    canary, at, refused = Canary(RULES), 0, False
    live: Model = (0.0, 1)
    scored: list[Sample] = []
    waiting: list[Sample] = []
    for n, model in moves:
        came = SLATES[at : (at := at + n)]
        canary.add(came)
        waiting += came
        before, canary = canary, Canary(RULES)
        canary.load(before.state())
        old = np.array([loss(slate, live) for slate in scored])
        more = np.array([loss(slate, model) for slate in scored]) - old
        is_worse = len(more) >= LEAST and more.sum() > 0.05 * old.sum()
        errors = 1 if refused else 3
        expected = is_worse and more.sum() > errors * np.sqrt(len(more)) * more.std(ddof=1)
        refused = bool(canary.why_not(predictor(model), again=refused))
        assert refused == expected
        if not refused:
            live, scored, waiting = model, (scored + waiting)[-RULES.n_slates :], []


@pytest.mark.parametrize("n", [1, LEAST, 40])
def test_a_model_that_predicts_nothing_never_goes_live(n: int) -> None:
    good, broken = predictor((0.1, 1)), predictor((np.nan, 1))
    canary = Canary(RULES)
    canary.add(SLATES[:n])
    assert canary.why_not(good) == ""
    kept = canary.state()
    assert "not finite" in canary.why_not(broken)
    assert canary.state() == kept  # it is nothing to compare with
    canary.forgive()
    assert "not finite" in canary.why_not(broken, again=True)
    assert canary.why_not(good, again=True) == ""
    assert canary.state() == kept
