"""The attention kernel against plain torch, and that against the textbook."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.model.attention import TargetAttention, attend, attend_shared, attend_torch
from trainer.model.interest import N_GAPS, Picked

torch.set_num_threads(1)

HEADS, FIELDS, DIM = 2, 2, 8
WIDE = FIELDS * DIM


def make_picked(rng: np.random.Generator, counts: list[int], k: int, n_rows: int, n: int) -> Picked:
    """Lists of these lengths, each candidate with any of them; what lies behind a list's end may not be read."""
    index = np.full((len(counts), k, FIELDS), 2**31 - 1, np.int32)
    gap = np.full((len(counts), k), 255, np.uint8)
    for r, count in enumerate(counts):
        index[r, :count] = rng.integers(0, n_rows, (count, FIELDS))
        gap[r, :count] = rng.integers(0, N_GAPS, count)
    positions = np.where(np.arange(k) < np.array(counts)[:, None], np.arange(k), -1).astype(np.int32)
    return Picked(index, np.array(counts, np.int32), gap, rng.integers(0, len(counts), n), positions)


def tensors(
    rng: np.random.Generator, n: int, n_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [(HEADS, n, WIDE), (n_rows, DIM), (N_GAPS, HEADS)]
    q, x, b = (torch.tensor(rng.normal(size=shape), dtype=dtype, requires_grad=True) for shape in shapes)
    return q, x, b


@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    n=st.integers(0, 7),
    k=st.integers(5, 6),
    grouped=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_kernel_and_its_gradients_are_those_of_plain_torch(
    seed: int, counts: list[int], n: int, k: int, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    picked = make_picked(rng, counts, k, n_rows=6, n=n)
    if grouped:  # as slates come; else a list may come back after another one
        picked = replace(picked, of=np.sort(picked.of))
    ours = tensors(rng, n, 6, torch.float32)
    q, x, b = theirs = tuple(t.detach().double().requires_grad_() for t in ours)
    out, expected = attend(*ours, picked), attend_torch(q, x, b, picked)
    assert out.shape == (HEADS, n, WIDE)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    grad = torch.tensor(rng.normal(size=out.shape))
    got = torch.autograd.grad(out, ours, grad.float())
    wanted = torch.autograd.grad(expected, theirs, grad)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-4)


def test_gradients_of_plain_torch_are_those_of_differences() -> None:
    rng = np.random.default_rng(1)
    picked = make_picked(rng, [3, 0, 1, 2], 3, n_rows=4, n=5)
    picked = replace(picked, of=np.array([0, 0, 1, 2, 3]))
    inputs = tensors(rng, 5, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda q, x, b: attend_torch(q, x, b, picked), inputs, fast_mode=True)


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 5), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_matrix_products_over_shared_lists_are_the_same_attention(seed: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    picked = make_picked(rng, counts, 5, n_rows=6, n=7)
    picked = replace(picked, of=np.sort(picked.of))
    inputs = tensors(rng, 7, 6, torch.float64)
    out, expected = attend_shared(*inputs, picked), attend_torch(*inputs, picked)
    torch.testing.assert_close(out, expected)
    grad = torch.tensor(rng.normal(size=out.shape))
    for got, wanted in zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("run", [attend, attend_torch])
def test_an_empty_list_gives_zeros_and_no_gradient(run: object) -> None:
    assert callable(run)
    rng = np.random.default_rng(2)
    for k in (0, 3):
        picked = make_picked(rng, [0, 0], k, n_rows=4, n=3)
        inputs = tensors(rng, 3, 4, torch.float32)
        out = run(*inputs, picked)
        assert not out.any()
        for grad in torch.autograd.grad(out, inputs, torch.ones_like(out)):
            assert not grad.any()


@pytest.mark.parametrize("run", [attend, attend_torch])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_shows(run: object, bad: float) -> None:
    assert callable(run)
    rng = np.random.default_rng(3)
    queries, rows, bias = (t.detach() for t in tensors(rng, 2, 4, torch.float32))
    queries[:, 1] = bad
    out = run(queries, rows, bias, make_picked(rng, [2], 2, n_rows=4, n=2))
    assert out[:, 0].isfinite().all()
    assert not out[:, 1].isfinite().all()


def test_weights_far_apart_do_not_overflow() -> None:
    rng = np.random.default_rng(4)
    q, x, b = (1_000 * t.detach() for t in tensors(rng, 6, 5, torch.float32))
    picked = make_picked(rng, [4, 2], 4, n_rows=5, n=6)
    out = attend(q, x, b, picked)
    assert out.isfinite().all()
    torch.testing.assert_close(out, attend_torch(q, x, b, picked))


def test_candidates_that_share_a_list_get_what_lists_of_their_own_would_give() -> None:
    rng = np.random.default_rng(5)
    shared = replace(make_picked(rng, [4, 3], 4, n_rows=6, n=5), of=np.array([0, 0, 0, 1, 1]))
    of = shared.of
    own = Picked(shared.index[of], shared.count[of], shared.gap[of], np.arange(5), shared.positions[of])
    inputs = tensors(rng, 5, 6, torch.float32)
    a, b = attend(*inputs, shared), attend(*inputs, own)
    assert a.tolist() == b.tolist()
    for x, y in zip(
        torch.autograd.grad(a.square().sum(), inputs),
        torch.autograd.grad(b.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absorbed_projections_are_the_textbooks_attention(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(6)
    counts = [3, 0, 5]
    picked = replace(make_picked(rng, counts, 5, n_rows=7, n=4), of=np.array([0, 1, 2, 2]))
    attention = TargetAttention(WIDE, HEADS).to(dtype)
    for w in attention.parameters():
        w.data = torch.tensor(rng.normal(size=w.shape) / 2, dtype=dtype)
    target, rows = (torch.tensor(rng.normal(size=s), dtype=dtype) for s in [(4, WIDE), (7, DIM)])
    out = np.split(attention(target, rows, picked).detach().double().numpy(), HEADS, axis=1)
    by_name = {name: w.detach().double().numpy() for name, w in attention.named_parameters()}
    for n, r in enumerate(picked.of):
        x = rows.double().numpy()[picked.index[r, : counts[r]]].reshape(-1, WIDE)
        for h in range(HEADS):
            query = by_name["query"][h] @ target[n].double().numpy()
            keys, values = x @ by_name["key"][h].T, x @ by_name["value"][h].T
            scores = keys @ query + by_name["gap_bias"][picked.gap[r, : counts[r]], h]
            weights = np.exp(scores - scores.max(initial=-np.inf))
            expected = weights / weights.sum() @ values if len(x) else np.zeros(values.shape[1])
            np.testing.assert_allclose(out[h][n], expected, rtol=1e-4, atol=1e-5)


def test_a_unit_vectors_score_with_itself_starts_at_the_sharpness() -> None:
    attention = TargetAttention(WIDE, HEADS, sharpness=2.5)
    t = torch.nn.functional.normalize(torch.randn(1, WIDE, generator=torch.Generator().manual_seed(0)))
    assert float((attention.ask(t) * t).detach().sum()) == pytest.approx(2.5)
