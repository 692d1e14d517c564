"""AFM against its equations, one pair of fields at a time."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from tests.trainer.lists import DIM, FIELDS, WIDE, make_lists, make_unit, make_vectors
from trainer.model.afm import AFM
from trainer.model.interest import Picked, see

torch.set_num_threads(1)

COUNTS = [3, 0, 1, 5]


def by_hand(unit: AFM, target: torch.Tensor, rows: torch.Tensor, picked: Picked) -> np.ndarray:
    """``[N, D]`` in float64, pair by pair."""
    w = {name: p.detach().double().numpy() for name, p in unit.named_parameters()}
    out = np.zeros((len(target), WIDE))
    for n, r in enumerate(picked.of):
        count = picked.count[r]
        if not count:
            continue
        fields = list(target[n].detach().double().numpy().reshape(FIELDS, DIM))
        fields += [rows.detach().numpy()[picked.index[r, :count, f]].mean(0) for f in range(FIELDS)]
        products, scores = [], []
        for i in range(len(fields)):
            for j in range(i + 1, len(fields)):
                products.append(fields[i] * fields[j])
                hidden = np.maximum(w["hidden.weight"] @ products[-1] + w["hidden.bias"], 0)
                scores.append(float(w["score.weight"][0] @ hidden))
        weights = np.exp(scores) / np.exp(scores).sum()
        out[n] = w["out"] @ sum(a * p for a, p in zip(weights, products, strict=True))
    return out


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_papers_attention_over_all_pairs_of_fields(seed: int) -> None:
    unit, picked = cast(AFM, make_unit("afm", seed)), make_lists(COUNTS, seed)
    target, rows = make_vectors(2 * len(COUNTS), seed)
    got = unit.read(see(target, rows, picked)).detach().numpy()
    np.testing.assert_allclose(got, by_hand(unit, target, rows, picked), atol=1e-12)


def test_the_weights_of_a_candidates_pairs_sum_up_to_one_and_differ() -> None:
    unit, picked = cast(AFM, make_unit("afm")), make_lists(COUNTS)
    seen = see(*make_vectors(2 * len(COUNTS)), picked)
    weights = unit.weights(unit.products(seen)).detach()
    n_fields = 2 * FIELDS
    assert weights.shape == (2 * len(COUNTS), n_fields * (n_fields - 1) // 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=weights.dtype))
    assert weights.std(1).min() > 0.001


def test_the_attention_is_learned() -> None:
    """With a softmax over one its weights are all 1, and nothing can move them."""
    unit, picked = cast(AFM, make_unit("afm")), make_lists(COUNTS)
    out = unit.read(see(*make_vectors(2 * len(COUNTS)), picked))
    for grad in torch.autograd.grad(out.square().sum(), list(unit.parameters())):
        assert grad.abs().max() > 1e-6


def test_one_field_has_one_pair() -> None:
    unit = AFM(WIDE, 2, 0.5, 1).double()
    target, _ = make_vectors(2)
    rows = torch.randn(12, WIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    both = make_lists([2])
    picked = Picked(both.index[:, :, :1], both.count, both.gap, both.of, both.positions)
    mean = rows[picked.index[0, :, 0]].mean(0)
    torch.testing.assert_close(unit(target, rows, picked), target * mean @ unit.out.T)
