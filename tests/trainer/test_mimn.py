"""MIMN against a loop over lists, behaviours and slots; its state, kept from call to call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.trainer.lists import HEADS, WIDE, make_lists, make_unit, make_vectors
from tests.trainer.test_gru import oracle, sigmoid
from trainer.model.attention import TargetAttention
from trainer.model.interest import see
from trainer.model.memory import write
from trainer.model.mimn import BALANCE, CHOSEN, MIMN, SLOTS, State, imbalance

torch.set_num_threads(1)

Doubles = NDArray[np.float64]
COUNTS = [3, 0, 1, 7]


def make_mimn(seed: int = 0, dtype: torch.dtype = torch.float64) -> MIMN:
    unit = make_unit("mimn", seed, dtype)
    assert isinstance(unit, MIMN)
    return unit


def softmax(x: Doubles) -> Doubles:
    e = np.exp(x - x.max())
    weights: Doubles = e / e.sum()
    return weights


def cosine(a: Doubles, b: Doubles) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def behave(unit: MIMN, x: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Memory, induction state and usage after a list ``[n, D]``, slot by slot."""
    w = {name: p.detach().numpy() for name, p in unit.named_parameters()}
    memory, usage, induced = w["memory"].copy(), np.zeros(SLOTS), np.zeros_like(w["memory"])
    for x_j in x:
        keys = np.split(w["keys"] @ x_j, 2)
        alike = np.array([cosine(keys[0], m) for m in memory])
        weights = softmax(w["strength"][0] * alike + w["balance"] @ usage)
        erase, add = sigmoid(w["erase.weight"] @ x_j + w["erase.bias"]), w["add"] @ x_j
        for i in range(SLOTS):
            memory[i] = memory[i] * (1 - weights[i] * erase) + weights[i] * add
        usage = usage + weights
        read = softmax(w["strength"][1] * np.array([cosine(keys[1], m) for m in memory]))
        for i in np.argsort(-read)[:CHOSEN]:
            given = np.concatenate([x_j, memory[i]])[None]
            induced[i] = oracle(unit.induction, given, read[[i]], induced[i])[-1]
    return memory, induced, usage


def attended(attention: TargetAttention, target: Doubles, slots: Doubles) -> Doubles:
    w = {name: p.detach().numpy() for name, p in attention.named_parameters()}
    heads = []
    for h in range(HEADS):
        scores = slots @ w["key"][h].T @ (w["query"][h] @ target) + w["gap_bias"][:SLOTS, h]
        heads.append(softmax(scores) @ slots @ w["value"][h].T)
    return np.concatenate(heads)


def test_it_reads_as_one_behaviour_and_slot_at_a_time_in_numpy() -> None:
    unit, picked = make_mimn(), make_lists(COUNTS)
    seen = see(*make_vectors(2 * len(COUNTS)), picked)
    out = unit.read(seen).detach().numpy()
    for n, r in enumerate(picked.of):
        if not COUNTS[r]:
            assert not out[n].any()
            continue
        memory, induced, _ = behave(unit, seen.x[r, : COUNTS[r]].detach().numpy())
        target = seen.target[n].detach().numpy()
        wanted = attended(unit.of_memory, target, memory) + attended(unit.of_induced, target, induced)
        np.testing.assert_allclose(out[n], wanted, rtol=1e-9)


def test_the_extra_loss_is_how_uneven_slots_were_written() -> None:
    unit, picked = make_mimn(), make_lists(COUNTS)
    seen = see(*make_vectors(2 * len(COUNTS)), picked)
    unit.read(seen)
    losses = []
    for r, count in enumerate(COUNTS):
        if count:
            usage = behave(unit, seen.x[r, :count].detach().numpy())[2]
            assert usage.sum() == pytest.approx(count)
            losses.append(SLOTS * np.var(usage / count))
    assert unit.extra_loss is not None
    assert unit.extra_loss.item() == pytest.approx(BALANCE * np.mean(losses))
    with torch.no_grad():
        unit.read(seen)
    assert unit.extra_loss is None


def test_even_usage_costs_nothing_and_none_at_all_neither() -> None:
    assert imbalance(torch.full((3, SLOTS), 2.0)).item() == 0
    assert imbalance(torch.zeros(3, SLOTS)).item() == 0
    one = torch.eye(SLOTS)[:1]
    assert imbalance(one).item() == pytest.approx(1 - 1 / SLOTS)


def same(a: State, b: State) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 3), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_users_state_taken_further_call_by_call_is_that_of_the_whole_list(
    seed: int, cuts: list[int]
) -> None:
    unit = make_mimn(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, sum(cuts), WIDE, generator=generator, dtype=torch.float64)
    filled = torch.rand(x.shape[:2], generator=generator) < 0.7
    whole = unit.update(unit.start(3), x, filled)
    parts = one_at_a_time = unit.start(3)
    for part, there in zip(torch.split(x, cuts, 1), torch.split(filled, cuts, 1), strict=True):
        parts = unit.update(parts, part, there)
    for j in range(x.shape[1]):
        one_at_a_time = unit.update(one_at_a_time, x[:, j : j + 1], filled[:, j : j + 1])
    same(parts, whole)
    same(one_at_a_time, whole)


def test_what_is_not_there_changes_no_bit_of_a_state() -> None:
    unit = make_mimn(dtype=torch.float32)
    x = torch.randn(2, 3, WIDE, generator=torch.Generator().manual_seed(0))
    state = unit.update(unit.start(2), x, torch.ones(2, 3, dtype=torch.bool))
    after = unit.update(state, 1000 * x, torch.zeros(2, 3, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))
    half = unit.update(state, x, torch.tensor([[False] * 3, [True] * 3]))
    for a, b in zip(half, state, strict=True):
        assert torch.equal(a[0], b[0])
        assert not torch.equal(a[1], b[1])


def test_a_balance_that_avoids_what_was_written_evens_it_out() -> None:
    unit = make_mimn()
    x = torch.randn(1, 1, WIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).expand(
        4, 30, -1
    )
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    uneven = []
    for avoid in (0.0, 0.5):
        unit.balance.data = -avoid * torch.eye(SLOTS, dtype=torch.float64)
        usage = unit.update(unit.start(4), x, torch.ones(x.shape[:2], dtype=torch.bool)).usage
        uneven.append(imbalance(usage).item())
    assert uneven[1] < 0.5 * uneven[0]


def test_gradients_of_writing_are_those_of_differences() -> None:
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    n, slots, dim, steps = 2, 3, 4, 5
    there = torch.ones(steps, n, 1, dtype=torch.float64)
    there[3:, 1] = 0
    kept, steps_of = (randn(n, slots, dim), randn(n, slots)), [randn(steps, n, dim) for _ in range(3)]

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        memory, usage, key, erase, add, balance = inputs
        return write(memory, usage, key, erase, add, balance, there)

    assert torch.autograd.gradcheck(run, (*kept, *steps_of, randn(slots, slots)))
