"""Figures of a study: what counts, differences, means, against replays and plain resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from instep.replay import replay
from instep.study.engine import learn, predictions
from instep.study.figures import (
    FIRST_EXPOSURES,
    METRICS,
    Scored,
    estimates,
    in_first_exposures,
    less,
    mean_of,
    probes_mean,
    scored,
    windows,
)
from instep.study.plans import Run
from instep.study.results import Figure
from instep.study.spool import candidate_type
from instep.truth import Known
from tests.instep.study.samples import a_log, clock, job, silent, spooled
from tests.worlds import small
from trainer.intervals import Estimate, bootstrap_by_user, paired_entropy_bootstrap
from trainer.scores import auc, normalised_entropy

P = NDArray[np.float32]


def drawn(n: int, seed: int = 0, n_users: int = 20) -> tuple[P, Scored]:
    """Predictions that are worth something, and candidates that all count."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1, n)
    label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    p = (1 / (1 + np.exp(-(logit + rng.normal(0, 0.7, n))))).astype(np.float32)
    user = rng.integers(0, n_users, n).astype(np.uint64)
    return p, Scored(np.arange(n), user, label, np.arange(n) * 1_000, None)


@pytest.mark.parametrize("policy", ["window", "eager"])
@pytest.mark.parametrize("windows_of", [{"click": 2_000}, {"click": 2_000, "like": 1_000}])
def test_metrics_are_those_of_a_replay(tmp_path: Path, policy: str, windows_of: dict[str, int]) -> None:
    """Under the eager policy too, where what was shown and what became of it are learned apart."""
    of = small(stream={"policy": policy, "windows": windows_of})
    log = a_log(tmp_path)
    expected = replay(log, of, tmp_path / "replay")
    spool = spooled(log, of, tmp_path / "spool")
    learn(job(Run("a", "a", "g"), of, spool, tmp_path / "run"), clock, silent)
    shown = scored(spool.candidates(), 0)
    p = predictions(tmp_path / "run", len(windows_of))[shown.rows, 0]
    found = estimates(p, shown)
    for name in METRICS:
        assert found[name].value == expected[name], name
        assert found[name].standard_error == expected["errors"][name], name
    assert len(shown.rows) == expected["candidates"]
    if len(windows_of) > 1:
        other = scored(spool.candidates(), 0, kind=1)
        assert not other.label.any()
        assert (other.rows == shown.rows).all()


def test_the_warm_up_is_not_scored() -> None:
    candidates = np.zeros(10, candidate_type(1))
    assert scored(candidates, 4).rows.tolist() == [4, 5, 6, 7, 8, 9]


def test_a_candidate_without_a_prediction_is_left_out_of_both() -> None:
    p, of = drawn(400)
    q, _ = drawn(400, 1)
    kept = np.ones(400, bool)
    kept[100:120] = False
    holes = p.copy()
    holes[100:120] = np.nan
    rest = Scored(of.rows[kept], of.user[kept], of.label[kept], of.at_ms[kept], None)
    assert estimates(holes, of) == estimates(p[kept], rest)
    assert less(holes, q, of, 20, 0) == less(p[kept], q[kept], rest, 20, 0)
    assert less(q, holes, of, 20, 0) == less(q[kept], p[kept], rest, 20, 0)
    nothing = np.full(400, np.nan, np.float32)
    assert np.isnan(less(p, nothing, of, 20, 0)[0].value)
    assert np.isnan(estimates(nothing, of)["auc"].value)


@given(seed=st.integers(0, 99), n_users=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_the_difference_of_entropies_is_that_of_plain_resampling(seed: int, n_users: int) -> None:
    p, of = drawn(120, seed, n_users)
    q, _ = drawn(120, seed + 1, n_users)

    def plain(a: P, b: P, y: P, w: P) -> float:
        return normalised_entropy(a, y, w) - normalised_entropy(b, y, w)

    found = paired_entropy_bootstrap(p, q, of.label, of.user, n=30, seed=seed)
    expected = bootstrap_by_user(plain, of.user, p, q, of.label, n=30, seed=seed)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def estimate(value: float, error: float) -> Estimate:
    return Estimate(value, error, value - error, value + 3 * error)


def test_means_have_the_errors_of_independent_logs_and_of_seeds_that_share_their_users() -> None:
    one = estimate(0.7, 0.03)
    assert mean_of([[one]]) == Figure(0.7, one.low, one.high), "of a single one the bootstrap's own interval"
    logs = mean_of([[estimate(0.6, 0.03)], [estimate(0.8, 0.04)]])
    assert logs.value == pytest.approx(0.7)
    assert logs.high == pytest.approx(0.7 + 1.96 * 0.05 / 2)
    same = mean_of([[one, one, one]])
    assert same.high == pytest.approx(0.7 + 1.96 * 0.03), "more seeds on the same users are not more users"
    seeds = mean_of([[estimate(0.6, 0.03), estimate(0.8, 0.03)]])
    assert seeds.low == pytest.approx(0.7 - 1.96 * np.sqrt(0.03**2 + 0.02 / 2))
    unknown = estimate(np.nan, np.nan)
    assert mean_of([[one], [unknown]]) == Figure(None, None, None)


def test_an_interval_of_logs_covers_the_truth_about_as_often_as_it_says() -> None:
    """Three logs of 40 users each, whose AUC is known from 100,000 candidates; 150 times over."""
    truth = auc(*_columns(drawn(100_000, 1_000)))
    covered = 0
    for turn in range(150):
        each = [drawn(400, 3 * turn + i, 40) for i in range(3)]
        found = mean_of([[estimates(p, of)["auc"]] for p, of in each])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.88 < covered / 150 < 0.99


def _columns(made: tuple[P, Scored]) -> tuple[P, NDArray[np.uint8]]:
    return made[0], made[1].label


def test_windows_are_equally_long_and_have_the_metrics_of_their_parts() -> None:
    p, of = drawn(11_000)
    q, other = drawn(10_400, 1)
    found = windows([p, q], [of, other])
    assert len(found) == 20
    assert sum(w.candidates for w in found) == 11_000
    for w, a, b in zip(
        found, np.array_split(np.arange(11_000), 20), np.array_split(np.arange(10_400), 20), strict=True
    ):
        assert w.until_ms == a[-1] * 1_000
        assert w.auc == pytest.approx((auc(p[a], of.label[a]) + auc(q[b], other.label[b])) / 2)
        assert w.ne == pytest.approx(
            (normalised_entropy(p[a], of.label[a]) + normalised_entropy(q[b], other.label[b])) / 2
        )
    assert [w.candidates for w in windows([p[:700]], [of.only(np.arange(11_000) < 700)])] == [700]


def exposed(items: list[int], late: list[int], known: set[int] | None) -> list[bool]:
    """By hand, one after the other."""
    times: dict[int, int] = {}
    first: dict[int, int] = {}
    found = []
    for i, (item, is_late) in enumerate(zip(items, late, strict=True)):
        if is_late:
            found.append(False)
            continue
        first.setdefault(item, i)
        times[item] = times.get(item, 0) + 1
        is_new = item in known if known else first[item] >= len(items) / 2
        found.append(is_new and times[item] <= FIRST_EXPOSURES)
    return found


@given(
    items=st.lists(st.integers(1, 6), min_size=1, max_size=60),
    more=st.lists(st.integers(5, 9), max_size=60),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_new_items_count_while_they_are_new(items: list[int], more: list[int], data: st.DataObject) -> None:
    every = items + more
    candidates = np.zeros(len(every), candidate_type(1))
    candidates["item"] = every
    late = data.draw(st.lists(st.sampled_from([0, 0, 0, 1]), min_size=len(every), max_size=len(every)))
    candidates["late"] = late
    assert in_first_exposures(candidates).tolist() == exposed(every, late, None)
    keys, numbers = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    nothing = np.zeros(0, np.float32), keys, np.zeros(0, np.int32)
    known = Known(keys, numbers, *nothing, np.array([5, 7], np.uint64))
    assert in_first_exposures(candidates, known).tolist() == exposed(every, late, {5, 7})


def test_what_was_probed_is_a_mean_over_batches_and_none_where_nothing_was() -> None:
    nan = np.nan
    assert probes_mean([[np.array([nan, nan])], [np.array([])]]) is None
    found = probes_mean([[np.array([0.2, nan, 0.6])], [np.array([0.8, 0.8])]])
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.high == pytest.approx(0.6 + 1.96 * np.std([0.2, 0.6], ddof=1) / np.sqrt(2) / 2)
