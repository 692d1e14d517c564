"""Scores against scikit-learn, river and brute force; their errors against resampling and simulation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import metrics as river_metrics
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from trainer.intervals import (
    auc_standard_error,
    bootstrap_by_user,
    paired_bootstrap,
    standard_errors,
)
from trainer.scores import (
    NEAREST,
    Scores,
    auc,
    auc_by_user,
    calibration,
    deciles,
    entropy,
    gauc,
    log_loss,
    metrics,
    normalised_entropy,
)

Array = NDArray[Any]
Row = tuple[float, int, int, int]
river: Any = river_metrics  # without types
untimed = settings(deadline=None, max_examples=60, derandomize=True)

# few distinct predictions, so that ties are the rule, and some at the very edge
SOME = st.sampled_from(
    [0.0, 1e-30, 1e-9, NEAREST, 0.01, 0.3, math.nextafter(0.5, 0), 0.5, 0.5000001, 0.9, 1.0]
)
rows = st.lists(
    st.tuples(SOME | st.floats(0, 1), st.integers(0, 1), st.integers(1, 4), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


def columns(drawn: list[Row]) -> tuple[Array, Array, Array, Array]:
    """Prediction, label, user and weight."""
    p, y, user, w = (np.array(column) for column in zip(*drawn, strict=True))
    return p, y, user, w


def world(n: int, n_users: int, seed: int, logit: float = -1.5) -> tuple[Array, Array, Array, Array]:
    """Two models' predictions, labels and users, where a user's candidates resemble each other."""
    rng = np.random.default_rng(seed)
    user = (n_users * rng.random(n) ** 2).astype(int)  # some have many more candidates than others
    truth = logit + rng.normal(0, 1, n) + rng.normal(0, 0.8, n_users)[user]
    y = (rng.random(n) < sigmoid(truth)).astype(int)
    a, b = (sigmoid(truth + rng.normal(0, s, n) + rng.normal(0, 0.5, n_users)[user]) for s in (0.5, 1.0))
    return a, b, y, user


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def same(got: float, expected: float) -> bool:
    return (math.isnan(got) and math.isnan(expected)) or math.isclose(
        got, expected, rel_tol=1e-12, abs_tol=1e-12
    )


def auc_by_pairs(p: Array, y: Array, w: Array) -> float:
    """The definition: every positive against every negative."""
    won = all_pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            won += w[i] * w[j] * ((p[i] > p[j]) + (p[i] == p[j]) / 2)
            all_pairs += w[i] * w[j]
    return won / all_pairs if all_pairs else math.nan


@untimed
@given(rows)
def test_auc_is_the_share_of_pairs_in_order_with_ties_counting_half(drawn: list[Row]) -> None:
    p, y, _, w = columns(drawn)
    assert same(auc(p, y), auc_by_pairs(p, y, np.ones(len(p))))
    assert same(auc(p, y, w), auc_by_pairs(p, y, w))


@untimed
@given(rows, st.randoms(use_true_random=False))
def test_auc_is_the_same_bits_in_any_order_and_under_any_rising_map(drawn: list[Row], random: Any) -> None:
    p, y, _, w = columns(drawn)
    expected = np.float64(auc(p, y, w)).tobytes()
    order = np.array(random.sample(range(len(p)), len(p)))
    assert np.float64(auc(p[order], y[order], w[order])).tobytes() == expected
    ranks = np.unique(p, return_inverse=True)[1]
    assert np.float64(auc(5.0 * ranks - 3, y, w)).tobytes() == expected


@pytest.mark.parametrize("seed", range(3))
def test_auc_and_log_loss_agree_with_scikit_learn_with_and_without_weights(seed: int) -> None:
    p, _, y, _ = world(5000, 50, seed)
    p = np.round(p, 2).clip(0.001, 0.999)
    w = np.random.default_rng(seed).gamma(1, 1, len(p))
    assert auc(p, y) == pytest.approx(roc_auc_score(y, p), rel=1e-12)
    assert auc(p, y, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w), rel=1e-12)
    assert log_loss(p, y) == pytest.approx(sklearn_log_loss(y, p), rel=1e-12)
    assert log_loss(p, y, w) == pytest.approx(sklearn_log_loss(y, p, sample_weight=w), rel=1e-12)


@untimed
@given(rows)
def test_a_weight_counts_as_that_many_copies(drawn: list[Row]) -> None:
    p, y, user, w = columns(drawn)
    again = np.repeat(np.arange(len(p)), w)
    for metric in (log_loss, normalised_entropy, calibration, auc):
        assert same(metric(p, y, w), metric(p[again], y[again])), metric
    assert same(gauc(p, y, user, w), gauc(p[again], y[again], user[again]))


def test_the_prior_itself_has_a_normalised_entropy_and_a_calibration_of_one() -> None:
    y = np.random.default_rng(0).random(1000) < 0.03
    prior = np.full(1000, y.mean())
    assert normalised_entropy(prior, y) == pytest.approx(1, rel=1e-12)
    assert calibration(prior, y) == pytest.approx(1, rel=1e-12)
    assert normalised_entropy(prior * 2, y) > 1
    assert calibration(prior * 2, y) == pytest.approx(2, rel=1e-12)


@untimed
@given(rows)
@example([(0.1, 0, 1, 0), (0.5, 1, 1, 0), (0.5, 0, 2, 0), (0.7, 1, 2, 0)])  # a tie across users
def test_gauc_is_the_mean_auc_of_users_with_both_classes_by_their_candidates(drawn: list[Row]) -> None:
    p, y, user, _ = columns(drawn)
    won, n = 0.0, 0
    for u in set(user.tolist()):
        own = user == u
        if len(set(y[own].tolist())) == 2:
            won += own.sum() * roc_auc_score(y[own], p[own])
            n += own.sum()
    assert same(gauc(p, y, user), won / n if n else math.nan)


def test_gauc_sees_only_order_within_a_user() -> None:
    p, _, y, user = world(4000, 80, 1)
    shifted = p + 10 * np.random.default_rng(2).permutation(80)[user]
    assert gauc(shifted, y, user) == gauc(p, y, user)
    assert auc(shifted, y) < auc(p, y) - 0.05


def test_users_may_be_any_type_that_sorts() -> None:
    p, _, y, user = world(500, 9, 1)
    named = np.array([f"u{u}" for u in user])
    assert gauc(p, y, named) == gauc(p, y, user) == gauc(p, y, user.astype(np.uint64) + np.uint64(2**63))
    assert auc_by_user(p, y, named)[2].tolist() == user.tolist()


@untimed
@given(rows, st.randoms(use_true_random=False))
def test_deciles_part_the_candidates_by_prediction_whatever_their_order(
    drawn: list[Row], random: Any
) -> None:
    p, y, _, _ = columns(drawn)
    found = deciles(p, y)
    assert sum(d.n for d in found) == len(p)
    held = [d for d in found if d.n]
    assert all(low.predicted <= high.predicted for low, high in pairwise(held))
    assert sum(d.n * d.observed for d in held) == pytest.approx(y.sum())
    assert sum(d.n * d.predicted for d in held) == pytest.approx(p.sum())
    order = np.array(random.sample(range(len(p)), len(p)))
    again = deciles(p[order], y[order])
    assert [(d.n, d.n and d.observed) for d in again] == [(d.n, d.n and d.observed) for d in found]


def test_equal_predictions_lie_in_the_decile_of_their_middle() -> None:
    assert [d.n for d in deciles([0.3] * 7, [0] * 7)] == [0, 0, 0, 0, 0, 7, 0, 0, 0, 0]
    thirds = deciles([0.1] * 10 + [0.2] * 10 + [0.3] * 10, [0] * 30)
    assert [k for k, d in enumerate(thirds) if d.n] == [1, 5, 8]


def test_deciles_of_distinct_predictions_are_tenths_with_binomial_errors() -> None:
    p = np.random.default_rng(0).permutation(1000) / 1000
    y = np.random.default_rng(1).random(1000) < p
    for k, d in enumerate(deciles(p, y)):
        own = (p * 1000 // 100).round() == k
        assert d.n == 100
        assert d.predicted == pytest.approx(p[own].mean())
        assert d.observed == y[own].mean()
        assert d.standard_error == pytest.approx(y[own].std() / 10)


# the sketch


def filled(p: Array, y: Array) -> Scores:
    scores = Scores()
    scores.add(p, y)
    return scores


@untimed
@given(rows)
@example([(0.3, 1, 1, 1), (0.3001, 0, 1, 1)])
def test_the_sketch_is_within_its_stated_error_of_the_exact_auc(drawn: list[Row]) -> None:
    p, y, _, _ = columns(drawn)
    scores = filled(p, y)
    exact = auc(p, y)
    assert math.isnan(scores.auc) == math.isnan(scores.auc_error) == math.isnan(exact)
    assert math.isnan(exact) or abs(scores.auc - exact) <= scores.auc_error + 1e-15


@pytest.mark.parametrize("logit", [-8.0, -4.0, 0.0, 3.0])
def test_the_sketch_is_near_the_exact_auc_at_any_click_through_rate(logit: float) -> None:
    p, _, y, _ = world(100_000, 500, 3, logit)
    scores = filled(p, y)
    assert scores.auc_error < 0.001
    assert abs(scores.auc - auc(p, y)) < 5e-5


@untimed
@given(st.lists(SOME | st.floats(0, 1), min_size=2, max_size=30))
def test_bins_rise_with_the_prediction_and_are_narrow_in_the_logit(p: list[float]) -> None:
    ascending = np.sort(np.array(p))
    bins = Scores._bins(ascending)
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < len(Scores()._positives)
    inner = ascending.clip(NEAREST, 1 - NEAREST)
    logit = np.log(inner) - np.log1p(-inner)
    apart = np.diff(logit) > 1 / 64 + 1e-12
    assert (np.diff(bins)[apart] > 0).all()


@untimed
@given(st.floats(0.5, 1))
def test_an_opposite_prediction_falls_in_the_opposite_bin(upper: float) -> None:
    low, high = Scores._bins(np.array([1 - upper, upper]))
    assert low + high == len(Scores()._positives) - 1


@untimed
@given(rows)
def test_the_sketch_sums_what_the_exact_metrics_sum(drawn: list[Row]) -> None:
    p, y, _, _ = columns(drawn)
    scores = filled(p, y)
    assert (scores.n, scores.n_positive) == (len(p), y.sum())
    assert scores.ctr == y.mean()
    assert scores.log_loss == pytest.approx(log_loss(p, y), abs=2**-40)
    if y.any():
        assert scores.calibration == pytest.approx(calibration(p, y), abs=len(p) * 2**-40)
    if len(set(y.tolist())) == 2:
        assert scores.ne == pytest.approx(normalised_entropy(p, y), rel=1e-9)


@untimed
@given(rows, st.lists(st.integers(0, 40), max_size=5), st.randoms(use_true_random=False))
def test_parts_of_a_stream_add_up_to_the_whole_in_any_order(
    drawn: list[Row], cuts: list[int], random: Any
) -> None:
    p, y, _, _ = columns(drawn)
    parts = [filled(a, b) for a, b in zip(np.split(p, sorted(cuts)), np.split(y, sorted(cuts)), strict=True)]
    random.shuffle(parts)
    total = Scores()
    for part in parts:
        total.merge(part)
    assert total.encode() == filled(p, y).encode()
    assert sum(reversed(parts), Scores()).encode() == total.encode()


def test_adding_two_leaves_both_as_they_were() -> None:
    left, right = filled(np.array([0.2]), np.array([1])), filled(np.array([0.7]), np.array([0]))
    before = left.encode(), right.encode()
    assert (left + right).n == 2
    assert (left.encode(), right.encode()) == before


@untimed
@given(rows, rows)
def test_a_decoded_sketch_goes_on_as_if_nothing_had_happened(drawn: list[Row], later: list[Row]) -> None:
    p, y, _, _ = columns(drawn)
    scores = filled(p, y)
    back = Scores.decode(json.loads(json.dumps(scores.encode())))
    for s in (scores, back):
        s.add(*columns(later)[:2])
    assert back.encode() == scores.encode()
    assert [same(getattr(back, m), getattr(scores, m)) for m in ("auc", "ne", "log_loss", "calibration")] == [
        True
    ] * 4


def test_an_encoding_stays_within_what_json_readers_hold_exactly_however_long_the_stream() -> None:
    scores = filled(np.full(1000, 1e-12), np.ones(1000, int))
    for _ in range(30):
        scores = scores + scores  # 10**12 candidates with the greatest loss
    encoded = scores.encode()
    assert max(abs(number) for numbers in encoded.values() for number in numbers) < 2**53
    assert Scores.decode(encoded).log_loss == pytest.approx(-math.log(NEAREST))


def test_the_greatest_losses_of_one_large_batch_do_not_overflow() -> None:
    p = np.zeros(1_000_000)
    assert filled(p, np.ones(len(p), int)).log_loss == pytest.approx(-math.log(NEAREST), abs=2**-40)


# river


def test_auc_of_a_window_agrees_with_river_rolling_auc() -> None:
    p, _, y, _ = world(600, 20, 5)
    assert len(set(p)) == len(p), "river does not count ties as half; scikit-learn, above, does"
    theirs = river.RollingROCAUC(window_size=200)
    for i in range(len(p)):
        theirs.update(bool(y[i]), float(p[i]))
        if i % 97 == 0 and i > 20:
            last = slice(max(0, i - 199), i + 1)
            assert auc(p[last], y[last]) == pytest.approx(theirs.get(), abs=1e-12)


def test_river_default_auc_is_wrong_at_a_low_click_through_rate_and_the_sketch_is_not() -> None:
    p, _, y, _ = world(20_000, 100, 6, logit=-5.5)
    assert 0.005 < y.mean() < 0.02
    exact, theirs = roc_auc_score(y, p), river.ROCAUC()
    for label, prediction in zip(y.tolist(), p.tolist(), strict=True):
        theirs.update(bool(label), prediction)
    assert abs(theirs.get() - exact) > 0.1
    assert abs(filled(p, y).auc - exact) < 0.0005


def test_all_metrics_at_once_are_those_by_themselves() -> None:
    p, _, y, user = world(400, 30, 7)
    expected = {
        "candidates": 400,
        "ctr": y.mean(),
        "auc": roc_auc_score(y, p),
        "ne": sklearn_log_loss(y, p) / entropy(y.mean()),
        "gauc": gauc(p, y, user),
        "log_loss": sklearn_log_loss(y, p),
        "calibration": p.mean() / y.mean(),
    }
    assert metrics(p, y, user) == pytest.approx(expected, rel=1e-12)


# what is undefined, and what is refused


@pytest.mark.parametrize("y", [[], [0, 0], [1, 1]])
def test_what_is_undefined_is_nan_and_not_an_error(y: list[int]) -> None:
    p, user = [0.5] * len(y), [1] * len(y)
    found = metrics(p, y, user) | {"sketch": filled(np.array(p), np.array(y)).auc}
    undefined = {"auc", "gauc", "ne", "sketch"} | (set() if 1 in y else {"calibration"})
    undefined |= set() if y else {"ctr", "log_loss"}
    assert {name for name, value in found.items() if math.isnan(value)} == undefined
    assert all(math.isnan(standard_errors(p, y, user)[name]) for name in undefined - {"sketch", "ctr"})
    assert math.isnan(standard_errors([0.5, 0.5, 0.1], [1, 0, 0], [3, 3, 3])["log_loss"]), (
        "one user has no spread"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_loss([0.5, math.nan], [0, 1]), r"log_loss: p\[1\]: expected 0..1, got nan"),
        (lambda: calibration([0.5, 1.5], [0, 1]), r"calibration: p\[1\]: expected 0..1, got 1.5"),
        (lambda: auc([0.5, math.nan], [0, 1]), r"auc: p\[1\]: expected -inf..inf, got nan"),
        (lambda: auc([0.5, 0.1], [0, 2]), r"auc: y\[1\]: expected 0 or 1, got 2.0"),
        (lambda: auc([0.5, 0.1], [0, 1], [1, -1]), r"auc: w\[1\]: expected 0 or more, got -1.0"),
        (lambda: auc([0.5], [0, 1]), r"auc: expected p, y, w of one shape \[n\], got \(1,\), \(2,\), \(1,\)"),
        (lambda: gauc([0.5, 0.1], [0, 1], [7]), r"auc_by_user: user: expected shape \(2,\), got \(1,\)"),
        (lambda: Scores().add([-0.1], [0]), r"Scores.add: p\[0\]: expected 0..1, got -0.1"),
        (lambda: bootstrap_by_user(auc, [], [], []), "expected at least one candidate, got none"),
        (
            lambda: bootstrap_by_user(auc, [1, 2], [0.1, 0.2], [0, 1], n=1),
            "expected 2 or more resamples, got 1",
        ),
    ],
)
def test_input_that_makes_no_sense_is_refused_by_place(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# how sure


def delong_by_pairs(p: Array, y: Array) -> float:
    """DeLong et al. 1988, equations 3 to 5, as written: all pairs."""
    kernel = (np.subtract.outer(p[y == 1], p[y == 0]) > 0) + (
        np.subtract.outer(p[y == 1], p[y == 0]) == 0
    ) / 2
    m, n = kernel.shape
    return math.sqrt(kernel.mean(1).var(ddof=1) / m + kernel.mean(0).var(ddof=1) / n)


@pytest.mark.parametrize("digits", [1, 2, 16])
def test_the_error_of_auc_without_users_is_delong(digits: int) -> None:
    p, _, y, _ = world(300, 10, 8)
    p = p.round(digits)
    assert auc_standard_error(p, y) == pytest.approx(delong_by_pairs(p, y), rel=1e-12)


def test_copies_of_a_user_do_not_make_auc_more_certain() -> None:
    p, _, y, user = world(2000, 100, 9)
    copies = [np.tile(column, 5) for column in (p, y, user)]
    assert auc_standard_error(*copies) == pytest.approx(auc_standard_error(p, y, user), rel=1e-9)
    assert auc_standard_error(*copies[:2]) == pytest.approx(auc_standard_error(p, y) / math.sqrt(5), rel=0.02)


@pytest.mark.parametrize("name", ["auc", "ne", "gauc", "log_loss", "calibration"])
def test_closed_errors_agree_with_the_bootstrap_and_with_fresh_worlds(name: str) -> None:
    plain: dict[str, Callable[..., float]] = {
        "auc": auc, "ne": normalised_entropy, "log_loss": log_loss, "calibration": calibration
    }  # fmt: skip
    n, n_users = 3000, 150
    p, _, y, user = world(n, n_users, 10)
    if name == "gauc":
        resampled = bootstrap_by_user(lambda p, y, u, w: gauc(p, y, u, w), user, p, y, user, n=400)
    else:
        resampled = bootstrap_by_user(plain[name], user, p, y, n=400)
    closed = standard_errors(p, y, user)[name]
    assert closed == pytest.approx(resampled.standard_error, rel=0.2)
    assert resampled.value == pytest.approx(metrics(p, y, user)[name], rel=1e-12)
    assert resampled.low < resampled.value < resampled.high
    values, errors = [], []
    for seed in range(100, 250):
        a, _, y, user = world(n, n_users, seed)
        values.append(gauc(a, y, user) if name == "gauc" else plain[name](a, y))
        errors.append(standard_errors(a, y, user)[name])
    assert float(np.mean(errors)) == pytest.approx(float(np.std(values)), rel=0.2)


def test_closed_errors_agree_with_leaving_out_each_user_in_turn() -> None:
    p, _, y, user = world(3000, 150, 12)
    users = np.unique(user)
    without = [metrics(p[user != u], y[user != u], user[user != u]) for u in users]
    for name, closed in standard_errors(p, y, user).items():
        values = np.array([found[name] for found in without])
        jackknife = math.sqrt(((values - values.mean()) ** 2).sum() * (len(users) - 1) / len(users))
        assert closed == pytest.approx(jackknife, rel=0.04), name


def test_a_resample_is_whole_users_drawn_as_often_as_there_are() -> None:
    user = np.repeat([3, 5, 9], [2, 1, 4])
    seen: list[Array] = []

    def total(_: Array, w: Array) -> float:
        seen.append(w)
        return float(w.sum())

    found = bootstrap_by_user(total, user, user, n=50)
    totals = [w.sum() for w in seen[1:]]
    assert found.standard_error == pytest.approx(np.std(totals, ddof=1))
    assert (found.low, found.high) == pytest.approx(np.percentile(totals, [2.5, 97.5]))
    assert (seen[0] == 1).all()
    for w in seen[1:]:
        assert w[[0, 2, 3]].sum() == 3
        assert (w == np.repeat(w[[0, 2, 3]], [2, 1, 4])).all()


@untimed
@given(rows, st.integers(0, 5))
def test_the_paired_bootstrap_is_the_plain_one_of_the_difference(drawn: list[Row], seed: int) -> None:
    a, y, user, w = columns([*drawn, (0.2, 0, 1, 0), (0.3, 1, 1, 1), (0.2, 0, 3, 0), (0.1, 1, 2, 0)])
    b = np.roll(a, 1) + w / 10
    plain = bootstrap_by_user(lambda a, b, y, w: auc(a, y, w) - auc(b, y, w), user, a, b, y, n=20, seed=seed)
    paired = paired_bootstrap(a, b, y, user, n=20, seed=seed)
    assert all(same(x, z) for x, z in zip(paired, plain, strict=True))


def test_pairing_is_surer_than_two_separate_errors_and_tells_the_better_model() -> None:
    a, b, y, user = world(20_000, 400, 11)
    found = paired_bootstrap(a, b, y, user, n=200)
    apart = math.hypot(auc_standard_error(a, y, user), auc_standard_error(b, y, user))
    assert 0 < found.low < found.value < found.high
    assert found.standard_error < 0.6 * apart
    assert paired_bootstrap(a, b, y, user, n=200) == found, "the same seed, the same figures"
    assert paired_bootstrap(a, b, y, user, n=200, seed=1) != found
    assert paired_bootstrap(a, a, y, user, n=20)[:2] == (0.0, 0.0)


def test_a_prediction_is_near_the_middle_of_its_bin() -> None:
    rng = np.random.default_rng(0)
    for p in [*(1 / (1 + np.exp(-rng.uniform(-16, 16, 300)))), 0.5, NEAREST, 1 - NEAREST]:
        scores = Scores()
        scores.add([p, p, p], [1, 0, 0])
        middle, positives, negatives = scores.bins
        assert (positives.tolist(), negatives.tolist()) == ([1], [2])
        assert abs(middle[0] - p) <= 0.004 * min(p, 1 - p) * (1 + 1e-9)
        assert scores._bins(middle).tolist() == scores._bins(np.array([p])).tolist()
