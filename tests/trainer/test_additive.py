"""Additive attention against its equations, and where it starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.trainer.lists import WIDE, make_lists, make_unit, make_vectors
from trainer.model.additive import Additive
from trainer.model.interest import Seen, see

torch.set_num_threads(1)

COUNTS = [3, 0, 1, 5]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_softmax_over_tanhs_of_sums(seed: int) -> None:
    unit, picked = make_unit("additive", seed), make_lists(COUNTS, seed)
    target, rows = make_vectors(2 * len(COUNTS), seed)
    seen = see(target, rows, picked)
    got, got_weights = unit.read(seen).detach().numpy(), unit.weigh(seen)
    assert got_weights is not None
    w = {name: p.detach().numpy() for name, p in unit.named_parameters()}
    for n, r in enumerate(picked.of):
        q = w["query.weight"] @ target[n].detach().numpy() + w["query.bias"]
        xs = [np.concatenate(rows.detach().numpy()[i]) for i in picked.index[r, : picked.count[r]]]
        scores = [float(w["score.weight"][0] @ np.tanh(q + w["key.weight"] @ x)) for x in xs]
        weights = np.exp(scores) / np.exp(scores).sum()
        expected = sum((a * x for a, x in zip(weights, xs, strict=True)), np.zeros(WIDE))
        np.testing.assert_allclose(got[n], expected, atol=1e-12)
        np.testing.assert_allclose(got_weights[n, : len(xs)].detach(), weights, atol=1e-12)


@pytest.mark.parametrize("dim", [6, 7])
def test_it_starts_as_a_preference_for_what_is_near(dim: int) -> None:
    torch.manual_seed(0)
    unit = Additive(dim, 1, 4.0, 1)
    generator = torch.Generator().manual_seed(1)
    target = functional.normalize(torch.randn(50, dim, generator=generator), dim=1)
    x = torch.stack([target, torch.roll(target, 1, 0), -target], 1)
    weights = unit.weigh(
        Seen(target, x, torch.ones(50, 3, dtype=torch.bool), torch.zeros(50, 3).long(), torch.arange(50))
    )
    near, other, opposite = weights.detach().unbind(1)
    assert (near > other).all()
    assert (near > opposite).all()
    assert near.mean() > 0.5
