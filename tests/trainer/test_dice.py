"""Dice: the equation, and statistics that know everything that was learned and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.model.dice import EPS, HORIZON, Dice

torch.set_num_threads(1)

C = 3


def make_dice(seed: int = 0) -> Dice:
    dice = Dice(C).double()
    generator = torch.Generator().manual_seed(seed)
    dice.alpha.data = torch.randn(C, generator=generator, dtype=torch.float64)
    return dice


def make_inputs(counts: list[int], seed: int = 0, k: int = 6) -> tuple[Tensor, Tensor]:
    """Inputs ``[N, k, C]`` far from standard ones, with garbage where nothing is filled."""
    generator = torch.Generator().manual_seed(seed)
    filled = torch.arange(k) < torch.tensor(counts)[:, None]
    s = torch.randn(len(counts), k, C, generator=generator, dtype=torch.float64)
    s = s * torch.tensor([0.1, 1.0, 5.0]) + torch.tensor([3.0, -2.0, 40.0])
    return s.masked_fill(~filled[:, :, None], 1e6), filled


def learn(dice: Dice, s: Tensor, filled: Tensor) -> None:
    dice(s, filled)
    dice.learned()


def state(dice: Dice) -> dict[str, list[float]]:
    return {name: b.tolist() for name, b in dice.named_buffers()}


def test_it_is_the_papers_equation() -> None:
    dice = make_dice()
    learn(dice, *make_inputs([4, 6, 2]))
    s, filled = make_inputs([3, 5], seed=1)
    got = dice(s, filled).detach().numpy()
    mean, var, alpha = (t.detach().numpy() for t in (dice.mean, dice.var, dice.alpha))
    for n, j, c in np.ndindex(*got.shape):
        x = float(s[n, j, c])
        z = (x - mean[c]) / np.sqrt(var[c] + EPS)
        p = 1 / (1 + np.exp(-z)) if z > -700 else 0.0
        assert got[n, j, c] == pytest.approx(p * x + (1 - p) * alpha[c] * x, rel=1e-9, abs=1e-12)


@given(batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_statistics_are_those_of_all_that_was_learned_from_the_first_batch_on(
    batches: list[list[int]],
) -> None:
    dice, learned = make_dice(), np.zeros((0, C))
    for seed, counts in enumerate(batches):
        s, filled = make_inputs(counts, seed)
        learn(dice, s, filled)
        learned = np.concatenate([learned, s[filled].numpy()])
        mean, var = (learned.mean(0), learned.var(0)) if len(learned) else (np.zeros(C), np.ones(C))
        np.testing.assert_allclose(dice.mean, mean, rtol=1e-9)
        np.testing.assert_allclose(dice.var, var, rtol=1e-9, atol=1e-12)
        assert dice.n.tolist() == [len(learned)]


def test_a_batch_is_not_among_its_own_statistics() -> None:
    dice = make_dice()
    learn(dice, *make_inputs([5, 5]))
    before = state(dice)
    s, filled = make_inputs([6, 6], seed=1)
    together = dice(s, filled)
    for n in range(len(s)):
        alone = dice(s[n : n + 1], filled[n : n + 1])
        torch.testing.assert_close(alone[0], together[n])
    assert state(dice) == before


def test_one_behaviour_of_one_candidate_is_a_batch() -> None:
    dice = make_dice()
    s, filled = make_inputs([1], k=1)
    learn(dice, s, filled)
    torch.testing.assert_close(dice.mean, s[0, 0])
    assert dice.var.tolist() == [0] * C
    assert dice(s, filled).isfinite().all()
    learn(dice, *make_inputs([1], seed=1, k=1))
    assert (dice.var > 0).all()


def test_what_was_predicted_but_not_learned_leaves_nothing() -> None:
    dice, other = make_dice(), make_dice()
    first, second, bad = make_inputs([4]), make_inputs([3, 2], 1), make_inputs([6, 6], 2)
    for batch in (first, second):
        learn(other, *batch)
    dice(*first)
    with torch.no_grad():
        dice(*bad)  # a prediction in between
    dice.learned()
    dice.learned()  # once is enough
    dice(*bad)  # a batch that was skipped
    learn(dice, *second)
    assert state(dice) == state(other)


def test_a_batch_of_empty_lists_says_nothing() -> None:
    dice = make_dice()
    learn(dice, *make_inputs([4]))
    before = state(dice)
    learn(dice, *make_inputs([0, 0]))
    learn(dice, torch.zeros(2, 0, C, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.bool))
    assert state(dice) == before


def test_what_lies_beyond_the_horizon_is_forgotten_at_an_even_pace() -> None:
    dice = make_dice()
    dice.n.fill_(HORIZON)
    dice.mean.fill_(7.0)
    s, filled = make_inputs([6] * 4)
    learn(dice, s, filled)
    share = 24 / (HORIZON + 24)
    np.testing.assert_allclose(dice.mean, 7 + share * (s[filled].numpy().mean(0) - 7))
    assert dice.n.tolist() == [HORIZON]


def test_float32_keeps_a_small_spread_around_a_large_mean() -> None:
    dice = Dice(C)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        s = 1_000 + torch.randn(8, 6, C, generator=generator)
        learn(dice, s, torch.ones(8, 6, dtype=torch.bool))
    assert dice.var.tolist() == pytest.approx([1] * C, rel=0.15)
