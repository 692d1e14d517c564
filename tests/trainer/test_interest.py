"""What holds for every interest unit, whatever it computes; each has its oracle in a file of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.lists import READING, make_lists, make_unit, make_vectors
from trainer.model.interest import Picked, see

torch.set_num_threads(1)

ANY_ORDER = ["average", "sdim"]
"""Units that do not know the order of behaviours nor their times."""
ANY_ORDER_OF_TIMED = ["sim_hard", "sim_soft", "eta", "twin", "exact", "full"]
"""Units that do not know the order, but the time since each behaviour."""
WITHOUT_WEIGHTS = ["average", "sdim"]
COUNTS = [3, 0, 1, 5]


def longer(picked: Picked, by: int) -> Picked:
    """The same lists with more room behind their ends."""
    n = len(picked.count)
    codes = picked.codes
    assert codes is not None
    return replace(
        picked,
        index=np.concatenate([picked.index, np.full((n, by, 2), 7, np.int32)], 1),
        gap=np.concatenate([picked.gap, np.full((n, by), 9, np.uint8)], 1),
        positions=np.concatenate([picked.positions, np.full((n, by), -1, np.int32)], 1),
        codes=(
            codes[0],
            np.concatenate(
                [codes[1], np.repeat(codes[0][picked.of.searchsorted(range(n))][:, None], by, 1)], 1
            ),
        ),
    )


def chosen(picked: Picked, candidates: list[int]) -> Picked:
    """Some of the candidates, with a list of its own for each."""
    of = picked.of[candidates]
    codes = picked.codes
    assert codes is not None
    return Picked(
        index=picked.index[of],
        count=picked.count[of],
        gap=picked.gap[of],
        of=np.arange(len(candidates)),
        positions=picked.positions[of],
        codes=(codes[0][candidates], codes[1][of]),
    )


@pytest.mark.parametrize("name", READING)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_padding_changes_nothing(name: str, seed: int, counts: list[int]) -> None:
    unit, picked = make_unit(name, seed), make_lists(counts, seed)
    target, rows = make_vectors(2 * len(counts), seed)
    out, padded = unit(target, rows, picked), unit(target, rows, longer(picked, 3))
    torch.testing.assert_close(out, padded)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
    for got, wanted in zip(grads(padded, grad, target, rows), grads(out, grad, target, rows), strict=True):
        torch.testing.assert_close(got, wanted)


def grads(out: Tensor, grad: Tensor, *of: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(out, of, grad, allow_unused=True, materialize_grads=True)
    return list(found)


@pytest.mark.parametrize("name", READING)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_candidates_vector_depends_on_its_own_list_alone(name: str, seed: int, counts: list[int]) -> None:
    unit, picked = make_unit(name, seed), make_lists(counts, seed)
    target, rows = make_vectors(2 * len(counts), seed)
    out = unit(target, rows, picked)
    backwards = list(reversed(range(len(target))))
    torch.testing.assert_close(unit(target[backwards], rows, chosen(picked, backwards)), out[backwards])


@pytest.mark.parametrize("name", READING)
def test_nothing_picked_is_a_vector_of_zeros(name: str) -> None:
    unit = make_unit(name)
    for k in (0, 3):
        target, rows = make_vectors(4)
        out = unit(target, rows, make_lists([0, 0], k=k))
        assert out.shape == target.shape
        assert not out.any()
        out.sum().backward()
        assert rows.grad is None or not rows.grad.any()


@pytest.mark.parametrize("name", READING)
def test_a_list_of_one_behaviour_says_something(name: str) -> None:
    target, rows = make_vectors(2)
    out = make_unit(name)(target, rows, make_lists([1]))
    assert out.isfinite().all()
    assert out.any()


@pytest.mark.parametrize("name", READING)
def test_gradients_are_those_of_differences(name: str) -> None:
    unit, picked = make_unit(name), make_lists(COUNTS)
    names, weights = zip(*unit.named_parameters(), strict=True) if list(unit.parameters()) else ((), ())

    def run(target: Tensor, rows: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        out = torch.func.functional_call(unit, dict(zip(names, weights, strict=True)), (target, rows, picked))
        return (out, unit.extra_loss) if unit.extra_loss is not None else (out,)

    inputs = (*make_vectors(2 * len(COUNTS)), *(w.detach().clone().requires_grad_() for w in weights))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("k", [6, 200])
def test_the_quick_way_is_the_plain_one(name: str, k: int) -> None:
    unit, picked = make_unit(name, dtype=torch.float32), make_lists(COUNTS, k=k)
    target, rows = make_vectors(2 * len(COUNTS), dtype=torch.float32)
    torch.testing.assert_close(
        unit(target, rows, picked), unit.read(see(target, rows, picked)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ANY_ORDER + ANY_ORDER_OF_TIMED)
@given(order=st.permutations(range(5)))
@settings(max_examples=10, deadline=None)
def test_an_order_that_does_not_matter_does_not_matter(name: str, order: list[int]) -> None:
    unit, picked = make_unit(name), make_lists([5], shared=False)
    target, rows = make_vectors(1)
    codes = picked.codes
    assert codes is not None
    gap = picked.gap if name in ANY_ORDER else picked.gap[:, order]
    moved = replace(picked, index=picked.index[:, order], gap=gap, codes=(codes[0], codes[1][:, order]))
    torch.testing.assert_close(unit(target, rows, moved), unit(target, rows, picked))


@pytest.mark.parametrize("name", READING)
def test_weights_are_of_what_is_there(name: str) -> None:
    unit, picked = make_unit(name), make_lists(COUNTS, k=7)
    target, rows = make_vectors(2 * len(COUNTS))
    weights = unit.weigh(see(target, rows, picked))
    if weights is None:
        assert name in WITHOUT_WEIGHTS
        return
    assert weights.shape == (len(target), 7)
    for n, r in enumerate(picked.of):
        assert weights[n, : picked.count[r]].all()
        assert not weights[n, picked.count[r] :].any()
