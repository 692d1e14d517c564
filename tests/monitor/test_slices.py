"""Slices: the figures of each part of the traffic, from the candidates in it."""

from __future__ import annotations

import numpy as np
import pytest

from monitor.slices import HEAVIEST, Slices
from trainer.intervals import standard_errors
from trainer.scores import calibration, normalised_entropy

RNG = np.random.default_rng(0)
P = RNG.beta(1, 8, 4_000)
Y = (RNG.random(4_000) < P * 1.2).astype(float)


def test_a_slice_says_what_its_candidates_say() -> None:
    part = RNG.integers(0, 4, 4_000)
    slices = Slices()
    for i in range(0, 4_000, 900):
        slices.add("position", part[i : i + 900], P[i : i + 900], Y[i : i + 900])
    values = slices.values()
    assert len(values) == 8
    for k in range(4):
        p, y = P[part == k], Y[part == k]
        ne, ratio = values[f"slices.ne.position.{k}"], values[f"slices.calibration.position.{k}"]
        exact = standard_errors(p, y, np.arange(len(p)))
        assert ne.n == len(p)
        assert ne.value == pytest.approx(normalised_entropy(p, y), rel=1e-4)
        assert ratio.value == pytest.approx(calibration(p, y), rel=1e-4)
        assert ne.error == pytest.approx(exact["ne"], rel=1e-3)
        assert ratio.error == pytest.approx(exact["calibration"], rel=1e-3)


def test_the_heaviest_values_of_a_feature_are_told_by_key_and_mixed_slots_are_not() -> None:
    keys = RNG.integers(1, 2**64, 20, dtype=np.uint64)
    own = keys[np.minimum(RNG.geometric(0.15, 4_000) - 1, 19)]
    slices, other = Slices(), Slices()
    slices.add_feature("device", own[:3_000], P[:3_000], Y[:3_000])
    other.add_feature("device", own[3_000:], P[3_000:], Y[3_000:])
    other.add_feature("device", np.zeros(7, np.uint64), P[:7], Y[:7])
    slices.merge(Slices.decode(other.encode()))
    values = slices.values()
    assert len(values) == 2 * HEAVIEST
    for name, value in values.items():
        what, key = name.split(".device.")
        mine = own == np.uint64(int(key, 16))
        assert value.n == mine.sum()
        figure = {"slices.ne": normalised_entropy, "slices.calibration": calibration}[what]
        assert value.value == pytest.approx(figure(P[mine], Y[mine]), rel=1e-3)
    crowded = Slices()
    crowded.add_feature(
        "user", RNG.integers(1, 2**64, 20_000, dtype=np.uint64), np.full(20_000, 0.5), np.ones(20_000)
    )
    assert crowded.values() == {}


def test_nothing_was_clicked_is_no_entropy() -> None:
    slices = Slices()
    slices.add("popularity", np.array([0, 1]), np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    assert slices.values()["slices.ne.item.head"].value is None
    assert slices.values()["slices.calibration.item.tail"].value == 0.5
