"""DIN against its equations, with the concatenation that it avoids."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.trainer.lists import WIDE, make_lists, make_unit, make_vectors
from trainer.model.dice import EPS
from trainer.model.din import DIN
from trainer.model.interest import Picked, Seen, see
from trainer.model.units import UNITS

torch.set_num_threads(1)

COUNTS = [3, 0, 1, 5]
NAMES = ["din", "din_sigmoid", "din_softmax"]


def make_din(name: str, seed: int = 0) -> DIN:
    """With statistics of something learned before."""
    unit = cast(DIN, make_unit(name, seed))
    unit(*make_vectors(4, seed + 1), make_lists([6, 4], seed + 1))
    unit.learned()
    return unit


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def by_hand(name: str, unit: DIN, target: Tensor, rows: Tensor, picked: Picked) -> list[np.ndarray]:
    """Weights of each candidate's behaviours, one at a time."""
    w = {name: p.detach().numpy() for name, p in unit.state_dict().items()}
    found = []
    for n, r in enumerate(picked.of):
        scores = []
        for i in picked.index[r, : picked.count[r]]:
            k, q = np.concatenate(rows.detach().numpy()[i]), target[n].detach().numpy()
            s = w["hidden.weight"] @ np.concatenate([k, q, q - k, q * k]) + w["hidden.bias"]
            p = sigmoid((s - w["dice.mean"]) / np.sqrt(w["dice.var"] + EPS))
            hidden = p * s + (1 - p) * w["dice.alpha"] * s
            scores.append(float(w["score.weight"][0] @ hidden + w["score.bias"][0]))
        of = np.array(scores)
        if name == "din_sigmoid":
            of = sigmoid(of)
        if name == "din_softmax":
            of = np.exp(of) / np.exp(of).sum()
        found.append(of)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_it_weighs_each_behaviour_by_the_papers_network(name: str, seed: int) -> None:
    unit, picked = make_din(name, seed), make_lists(COUNTS, seed)
    target, rows = make_vectors(2 * len(COUNTS), seed)
    seen = see(target, rows, picked)
    out, weights = unit.read(seen).detach().numpy(), unit.weigh(seen).detach().numpy()
    for n, expected in enumerate(by_hand(name, unit, target, rows, picked)):
        np.testing.assert_allclose(weights[n, : len(expected)], expected, rtol=1e-9)
        assert not weights[n, len(expected) :].any()
        x = seen.x[picked.of[n], : len(expected)].detach().numpy()
        np.testing.assert_allclose(out[n], expected @ x if len(x) else np.zeros(WIDE), atol=1e-12)


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_layer_taken_apart_is_that_of_the_concatenation_and_so_are_its_gradients(
    seed: int, counts: list[int]
) -> None:
    unit = make_din("din", seed % 100)
    target, rows = make_vectors(2 * len(counts), seed)
    picked = make_lists(counts, seed)
    got = unit.mix(see(target, rows, picked).each())
    expected = unit.hidden(concatenated(see(target, rows, picked)))
    torch.testing.assert_close(got, expected)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(seed), dtype=got.dtype)
    inputs = (target, rows, unit.hidden.weight, unit.hidden.bias)
    for a, b in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(a, b)


def concatenated(seen: Seen) -> Tensor:
    """``[k, q, q - k, q * k]`` of every candidate and behaviour ``[N, k, 4 D]``."""
    k = seen.x[seen.of]
    q = seen.target[:, None].expand_as(k)
    return torch.cat([k, q, q - k, q * k], 2)


def test_without_a_softmax_twice_the_behaviours_are_twice_the_interest() -> None:
    once, twice = make_lists([2], shared=False), make_lists([4], shared=False)
    twice.index[0] = np.concatenate([once.index[0], once.index[0]])
    target, rows = make_vectors(1)
    for name, times in (("din", 2.0), ("din_sigmoid", 2.0), ("din_softmax", 1.0)):
        unit = make_din(name)
        torch.testing.assert_close(unit(target, rows, twice), times * unit(target, rows, once))


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_a_preference_for_what_is_near(name: str) -> None:
    torch.manual_seed(0)
    kind = UNITS[name].read
    assert kind is not None
    unit = cast(DIN, kind(16, 1, 0.5, 2))
    generator = torch.Generator().manual_seed(1)
    target = functional.normalize(torch.randn(50, 16, generator=generator), dim=1)
    x = torch.stack([target, torch.roll(target, 1, 0), -target], 1)
    seen = Seen(target, x, torch.ones(50, 3, dtype=torch.bool), torch.zeros(50, 3).long(), torch.arange(50))
    for _ in range(2):  # with and without statistics
        near, other, opposite = unit.weigh(seen).detach().unbind(1)
        assert near.mean() > other.mean() > opposite.mean()
        assert (near > opposite).all()
        unit.learned()


@pytest.mark.parametrize("name", NAMES)
def test_statistics_move_when_a_batch_was_learned_and_not_before(name: str) -> None:
    unit = make_din(name)
    vectors, picked = make_vectors(2 * len(COUNTS)), make_lists(COUNTS)
    before = unit(*vectors, picked)
    assert unit(*vectors, picked).equal(before)
    unit.learned()
    assert not unit(*vectors, picked).equal(before)
