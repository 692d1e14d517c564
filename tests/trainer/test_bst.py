"""BST against its equations, one candidate at a time, and against torch's layer over the whole sequence."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from tests.trainer.lists import HEADS, make_unit
from tests.trainer.test_transformer import attended, fed, make_seen, normed, torch_layer, weights_of
from trainer.model.bst import BST

torch.set_num_threads(1)

COUNTS = [3, 0, 1, 6]


def make() -> BST:
    unit = make_unit("bst")
    assert isinstance(unit, BST)
    return unit


def test_it_is_the_papers_equations_one_candidate_at_a_time() -> None:
    unit, seen = make(), make_seen(COUNTS, k=7)
    w, position = weights_of(unit.block), unit.position.detach().numpy()
    out, weights = unit.read(seen), unit.weigh(seen)
    for n, r in enumerate(seen.of.tolist()):
        count = COUNTS[r]
        if not count:
            assert not out[n].any()
            continue
        x, gap = seen.x[r].detach().numpy(), seen.gap[r].numpy()
        own = seen.target[n].detach().numpy() + position[0]
        s = [*(x[j] + position[gap[j]] for j in range(count)), own]
        got, alpha = attended(w, own, s, HEADS, unit.own.detach().numpy())
        y = normed(w, "norm1", own + got)
        np.testing.assert_allclose(
            out[n].detach().numpy(), normed(w, "norm2", y + fed(w, y, 0.01)), rtol=1e-9, atol=1e-12
        )
        mean = alpha.mean(0)
        np.testing.assert_allclose(weights[n, :count].detach().numpy(), mean[:-1], rtol=1e-9)
        assert 0 < mean[-1] < 1


def test_the_row_that_is_read_is_the_targets_of_a_whole_layer() -> None:
    unit, seen = make(), make_seen(COUNTS, k=7)
    x = seen.x + unit.position[seen.gap]
    s = torch.cat([x[seen.of], (seen.target + unit.position[0])[:, None]], 1)
    filled = functional.pad(seen.filled[seen.of], (0, 1), value=True)
    mask = torch.zeros(len(s), HEADS, 8, 8, dtype=s.dtype).masked_fill(~filled[:, None, None], -torch.inf)
    mask[:, :, -1, -1] = unit.own
    whole = torch_layer(unit.block)(s, src_mask=mask.flatten(0, 1))[:, -1]
    some = seen.filled.any(1)[seen.of]
    torch.testing.assert_close(unit.read(seen)[some], whole[some])
    inputs = (seen.target, seen.x)
    grad = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1), dtype=whole.dtype)
    grad = grad * some[:, None]
    for got, wanted in zip(
        torch.autograd.grad(unit.read(seen), inputs, grad),
        torch.autograd.grad(whole, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_at_the_start_the_output_leans_on_what_was_attended_to() -> None:
    """Not on the target, whose dot with itself says nothing of the user."""
    torch.manual_seed(0)
    dim, n = 64, 40
    unit = BST(dim, 4, 0.5, 2)
    seen = make_seen([n])
    target, x = torch.randn(2, dim) / 20, torch.randn(1, n, dim) / 20
    gap = torch.zeros(1, n, dtype=torch.int64)
    seen = seen._replace(target=target, x=x, gap=gap, filled=torch.ones(1, n, dtype=torch.bool))
    out = unit.read(seen)
    torch.testing.assert_close(out.norm(dim=1), torch.full((2,), 2.0), rtol=0.01, atol=0)
    assert (functional.cosine_similarity(out, x.mean(1)) > 0.9).all()
    few = seen._replace(x=x[:, :2], gap=gap[:, :2], filled=seen.filled[:, :2])
    assert (unit.weigh(few).sum(1) > 0.98).all()
