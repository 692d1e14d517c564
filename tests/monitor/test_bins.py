"""Bins: entropy and PSI against brute force, and what PSI is by chance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.bins import COUNT, CROSSED, SLATES, SQUARES, count_keys, count_scores, entropy_bits, psi
from monitor.tally import Ints
from trainer.keymap import mix

RNG = np.random.default_rng(0)
TOPIC = RNG.integers(0, 20, 500)
POPULAR = np.exp(RNG.normal(0, 1, 500))
KEYS = RNG.integers(1, 2**63, 500).astype(np.uint64)


def draw(n_slates: int, popular: NDArray[np.float64] = POPULAR, rng: np.random.Generator = RNG) -> Ints:
    """Slates of ten: half of it one topic's items, half by popularity."""
    shown = []
    for _ in range(n_slates):
        shown.append(rng.choice(np.flatnonzero(rng.integers(20) == TOPIC), 5))
        shown.append(rng.choice(500, 5, p=popular / popular.sum()))
    return count_keys(KEYS[np.concatenate(shown)], np.arange(0, 10 * n_slates + 1, 10))


def test_counts_are_those_of_each_slate() -> None:
    rng = np.random.default_rng(1)
    first = np.array([0, 3, 3, 10, 11])
    keys = KEYS[rng.integers(0, 6, 11)]
    bins = [int(mix(k)) >> 58 for k in keys.tolist()]
    table = np.zeros((4, 64), np.int64)
    for s in range(4):
        for i in range(first[s], first[s + 1]):
            table[s, bins[i]] += 1
    found, sizes = count_keys(keys, first), table.sum(1)
    assert (found[COUNT] == table.sum(0)).all()
    assert (found[SQUARES] == (table**2).sum(0)).all()
    assert (found[CROSSED] == sizes @ table).all()
    assert found[SLATES, :2].tolist() == [3, (sizes**2).sum()]


def test_scores_fall_into_quarters_of_a_logit() -> None:
    logit = np.array([-20.0, -7.8, -0.1, 0.1, 0.2, 0.3, 20.0])
    found = count_scores(1 / (1 + np.exp(-logit)), np.array([0, 7]))
    assert np.flatnonzero(found[COUNT]).tolist() == [0, 31, 32, 33, 63]
    assert found[COUNT, 32] == 2


def test_entropy_is_that_of_the_shares() -> None:
    counts = draw(200)
    share = counts[COUNT] / counts[COUNT].sum()
    assert entropy_bits(counts).value == pytest.approx(-(share * np.log2(share)).sum())
    constant = count_keys(np.full(50, 7, np.uint64), np.arange(0, 51, 5))
    assert (entropy_bits(constant).value, entropy_bits(np.zeros((4, 64), np.int64)).value) == (0.0, None)


@pytest.mark.parametrize(("n", "m"), [(60, 3_600), (300, 3_600), (600, 600)])
def test_without_drift_psi_is_nothing_give_or_take_its_error(n: int, m: int) -> None:
    references = [draw(m) for _ in range(6)]
    found = [psi(draw(n), references[i % 6]) for i in range(120)]
    values, errors = np.array([f.value for f in found], float), np.array([f.error for f in found], float)
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 4 * spread / np.sqrt(20)  # the references are few
    assert 0.7 < errors.mean() / spread < 1.3
    assert (values < 4 * errors).mean() > 0.97


def test_a_drift_is_seen_for_what_it_is() -> None:
    moved = POPULAR.copy()
    moved[:250] *= 4
    exact_p, exact_q = (draw(20_000, popular)[COUNT] / 200_000 for popular in (moved, POPULAR))
    exact = float(((exact_p - exact_q) * np.log(exact_p / exact_q)).sum())
    found = [psi(draw(400, moved), draw(3_600)) for _ in range(10)]
    assert np.mean([f.value for f in found if f.value is not None]) == pytest.approx(exact, rel=0.15)
    assert all(f.value is not None and f.error is not None and f.value > 3 * f.error for f in found)


def test_a_field_that_goes_constant_is_a_great_drift() -> None:
    device = KEYS[np.random.default_rng(3).integers(0, 3, 4_000)]
    before = count_keys(device, np.arange(4_001))
    found = psi(count_keys(np.full(100, KEYS[0]), np.arange(101)), before)
    assert found.value is not None
    assert found.value > 2
    assert psi(np.zeros((4, 64), np.int64), before).value is None
