"""Errors from sums: against the closed forms on the candidates, and against the bootstrap of slates."""

from __future__ import annotations

import numpy as np
import pytest

from monitor.moments import between, entropy_error, moments, ratio, total
from monitor.quality import auc_standard_error, calibration_by_decile
from monitor.tally import Floats, Ints
from trainer.intervals import auc_standard_error as exact_auc_error
from trainer.intervals import bootstrap_by_user, standard_errors
from trainer.scores import Scores, deciles, losses, normalised_entropy


def slates(n: int = 400, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    """Prediction, label and slate of candidates that share a mood with their slate."""
    rng = np.random.default_rng(seed)
    slate = np.repeat(np.arange(n), rng.integers(1, 12, n))
    logit = -2 + rng.normal(0, 0.8, len(slate))
    y = rng.random(len(slate)) < 1 / (1 + np.exp(-logit - rng.normal(0, 1, n)[slate]))
    return 1 / (1 + np.exp(-logit)), y.astype(float), slate


def sums(p: Floats, y: Floats, slate: Ints, *more: Floats) -> Ints:
    columns = (np.ones(len(p)), y, p, losses(p, y), *more)
    return moments(np.stack([np.bincount(slate, c) for c in columns], 1))


def test_errors_are_those_of_the_candidates_with_slates_for_users() -> None:
    p, y, slate = slates()
    found, exact = sums(p, y, slate), standard_errors(p, y, slate)
    assert entropy_error(found, 1, 2, 4) == pytest.approx(exact["ne"], rel=1e-3)
    assert ratio(found, 3, 2, len(p)).error == pytest.approx(exact["calibration"], rel=1e-3)
    assert ratio(found, 4, 1, len(p)).error == pytest.approx(exact["log_loss"], rel=1e-3)


def test_errors_are_those_of_the_bootstrap() -> None:
    p, y, slate = slates(600, seed=1)
    found = sums(p, y, slate)
    ne = bootstrap_by_user(normalised_entropy, slate, p, y, n=400)
    ctr = bootstrap_by_user(lambda y, w: float((y * w).sum() / w.sum()), slate, y, n=400)
    assert entropy_error(found, 1, 2, 4) == pytest.approx(ne.standard_error, rel=0.12)
    assert ratio(found, 2, 1, len(p)).error == pytest.approx(ctr.standard_error, rel=0.12)


def test_the_error_of_a_difference_is_that_of_the_bootstrap() -> None:
    p, y, slate = slates(600, seed=2)
    other = np.clip(p * 1.3, 0, 0.99)
    found = sums(p, y, slate, losses(other, y))
    cost = bootstrap_by_user(
        lambda a, b, y, w: normalised_entropy(b, y, w) - normalised_entropy(a, y, w),
        slate,
        p,
        other,
        y,
        n=400,
    )
    assert entropy_error(found, 1, 2, 5, 4) == pytest.approx(cost.standard_error, rel=0.12)


def test_parts_add_up_to_the_bit_in_any_order() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(50, 3)) * 10
    whole = moments(values)
    assert (whole == moments(values[rng.permutation(50)])).all()
    assert (whole == moments(values[:7]) + moments(values[7:])).all()
    assert total(whole, 0) == 50
    assert total(whole, 2) == pytest.approx(values[:, 1].sum(), abs=1e-4)


def test_one_slate_has_no_error_and_nothing_has_no_ratio() -> None:
    one = moments(np.array([[4.0, 1.0]]))
    assert between(one, np.zeros(3)) is None
    assert ratio(moments(np.zeros((0, 2))), 2, 1, 0).value is None
    assert entropy_error(moments(np.array([[4.0, 0.0, 1.0]] * 2)), 1, 2, 3) is None


def test_the_error_of_the_auc_is_delongs() -> None:
    p, y, _ = slates(500, seed=5)
    scores = Scores()
    scores.add(p, y)
    assert auc_standard_error(scores) == pytest.approx(exact_auc_error(p, y), rel=5e-3)
    few = Scores()
    few.add([0.2, 0.3], [0, 1])
    assert auc_standard_error(few) is None


def test_deciles_are_those_of_the_candidates() -> None:
    p, y, _ = slates(800, seed=6)
    scores = Scores()
    scores.add(p, y)
    middle, positives, negatives = scores.bins
    binned = np.repeat(middle, positives + negatives)
    label = np.concatenate([[1.0] * a + [0.0] * b for a, b in zip(positives, negatives, strict=True)])
    for found, exact, near in zip(
        calibration_by_decile(scores), deciles(binned, label), deciles(p, y), strict=True
    ):
        assert found.n == exact.n
        assert found.value is not None
        assert found.value == pytest.approx(exact.predicted / exact.observed, rel=1e-9)
        assert found.error == pytest.approx(found.value * exact.standard_error / exact.observed, rel=1e-9)
        assert found.value == pytest.approx(
            near.predicted / near.observed, rel=0.1
        )  # its edges fall within bins
