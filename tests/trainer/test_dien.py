"""DIEN against a loop over candidates and behaviours; its extra loss over pairs that are there, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.lists import WIDE, make_lists, make_unit, make_vectors
from tests.trainer.test_gru import oracle
from tests.trainer.test_interest import longer
from trainer.model.dien import AUXILIARY, DIEN, next_loss
from trainer.model.interest import see

torch.set_num_threads(1)

COUNTS = [3, 0, 1, 5]


def make_dien(seed: int = 0) -> DIEN:
    unit = make_unit("dien", seed)
    assert isinstance(unit, DIEN)
    return unit


def test_it_reads_as_one_candidate_at_a_time_in_numpy() -> None:
    unit, picked = make_dien(), make_lists(COUNTS)
    seen = see(*make_vectors(2 * len(COUNTS)), picked)
    out, weights = unit.read(seen).detach().numpy(), unit.weigh(seen).detach().numpy()
    for n, r in enumerate(picked.of):
        count, target = COUNTS[r], seen.target[n].detach().numpy()
        if not count:
            assert not out[n].any()
            continue
        x = seen.x[r, :count].detach().numpy()
        states = oracle(unit.extraction, x, np.ones(count), np.zeros(WIDE))
        scores = np.exp(states @ (unit.query.detach().numpy() @ target))
        wanted = oracle(unit.evolution, states, scores / scores.sum(), np.zeros(WIDE))[-1]
        np.testing.assert_allclose(weights[n, :count], scores / scores.sum(), rtol=1e-10)
        np.testing.assert_allclose(out[n], wanted, rtol=1e-10)


def pairs(counts: Sequence[int]) -> list[tuple[int, int]]:
    """List and place of each behaviour that has a next one."""
    return [(r, j) for r, n in enumerate(counts) for j in range(n - 1)]


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 5), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_extra_loss_is_a_mean_over_pairs_that_are_there(seed: int, counts: list[int]) -> None:
    unit, picked = make_dien(seed), make_lists(counts, seed)
    seen = see(*make_vectors(2 * len(counts), seed), picked)
    states, x = unit.extract(seen).detach().numpy(), seen.x.detach().numpy()
    there = pairs(counts)
    losses = []
    for p, (r, j) in enumerate(there):
        other_list, other = there[(p - len(there) // 2) % len(there)]
        losses.append(np.log1p(np.exp(-states[r, j] @ x[r, j + 1])))
        if (picked.index[other_list, other + 1] != picked.index[r, j + 1]).any():
            losses.append(np.log1p(np.exp(states[r, j] @ x[other_list, other + 1])))
    unit.read(seen)
    assert unit.extra_loss is not None
    assert unit.extra_loss.item() == pytest.approx(AUXILIARY * np.mean(losses or [0]))


def test_padding_is_no_pair() -> None:
    unit, picked = make_dien(), make_lists(COUNTS)
    target, rows = make_vectors(2 * len(COUNTS))
    losses = []
    for lists in (picked, longer(picked, 4)):
        unit(target, rows, lists)
        losses.append(unit.extra_loss)
    torch.testing.assert_close(losses[0], losses[1])


def test_the_same_item_is_not_what_did_not_come() -> None:
    x = torch.ones(2, 3, 4)
    loss = next_loss(0.5 * x, x, torch.ones(2, 3, dtype=torch.bool))
    assert loss.item() == pytest.approx(np.log1p(np.exp(-2)))


def test_without_gradients_there_is_no_extra_loss() -> None:
    unit, picked = make_dien(), make_lists(COUNTS)
    unit(*make_vectors(2 * len(COUNTS)), picked)
    with torch.no_grad():
        unit(*make_vectors(2 * len(COUNTS)), picked)
    assert unit.extra_loss is None


def test_behaviours_are_read_in_their_order() -> None:
    unit, picked = make_dien(), make_lists([4], shared=False)
    target, rows = make_vectors(1)
    turned = replace(picked, index=picked.index[:, ::-1].copy())
    assert not torch.allclose(unit(target, rows, turned), unit(target, rows, picked), rtol=1e-3)
