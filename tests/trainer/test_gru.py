"""The gated unit against a loop in numpy and against torch's; AUGRU by what an attention of 0 and of 1 mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.model.gru import GRU, OPEN

torch.set_num_threads(1)

Doubles = NDArray[np.float64]
DIM, N_INPUTS, K, R = 3, 5, 6, 4
OF = torch.tensor([2, 0, 0, 3, 1, 2])


def make_gru(seed: int = 0) -> GRU:
    gru = GRU(N_INPUTS, DIM).double()
    generator = torch.Generator().manual_seed(seed)
    for w in gru.parameters():
        w.data = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    return gru


def randn(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def oracle(gru: GRU, x: Doubles, attention: Doubles, h: Doubles) -> Doubles:
    """States after each step of one list ``[k, D]``."""
    w, u, b = (np.split(p.detach().numpy(), 3) for p in (gru.input, gru.state, gru.bias))
    states = []
    for x_j, a_j in zip(x, attention, strict=True):
        update = a_j * sigmoid(w[0] @ x_j + u[0] @ h + b[0])
        reset = sigmoid(w[1] @ x_j + u[1] @ h + b[1])
        candidate = np.tanh(w[2] @ x_j + b[2] + reset * (u[2] @ h))
        h = (1 - update) * h + update * candidate
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("attended", [False, True])
def test_it_steps_as_a_loop_in_numpy(shared: bool, attended: bool) -> None:
    gru, x = make_gru(), randn(K, R, N_INPUTS)
    of = OF if shared else None
    n = len(OF) if shared else R
    start = randn(n, DIM, seed=2)
    attention = torch.sigmoid(randn(K, n, 1, seed=3)) if attended else None
    states, last = gru(gru.project(x), attention, of, start)
    assert states.shape == (K, n, DIM)
    for i in range(n):
        a = np.ones(K) if attention is None else attention[:, i, 0].detach().numpy()
        of_list = x[:, int(OF[i]) if shared else i].detach().numpy()
        wanted = oracle(gru, of_list, a, start[i].detach().numpy())
        np.testing.assert_allclose(states[:, i].detach().numpy(), wanted, rtol=1e-12)
        np.testing.assert_allclose(last[i].detach().numpy(), wanted[-1], rtol=1e-12)


def in_torchs_order(w: Tensor) -> Tensor:
    """Reset, update, candidate, with an update gate that keeps what ours replaces."""
    update, reset, candidate = w.detach().chunk(3)
    return torch.cat([reset, -update, candidate])


def test_without_an_attention_it_is_torchs_own() -> None:
    gru, x = make_gru(), randn(K, R, N_INPUTS)
    own = nn.GRU(N_INPUTS, DIM).double()
    weights = {"weight_ih_l0": gru.input, "weight_hh_l0": gru.state, "bias_ih_l0": gru.bias}
    own.load_state_dict(
        {name: in_torchs_order(w) for name, w in weights.items()} | {"bias_hh_l0": torch.zeros(3 * DIM)}
    )
    states, wanted = gru(gru.project(x))[0], own(x)[0]
    torch.testing.assert_close(states, wanted)
    grad = randn(*states.shape, seed=4).detach()
    got, expected = (torch.autograd.grad(out, x, grad)[0] for out in (states, wanted))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("attended", [False, True])
def test_gradients_are_those_of_differences(shared: bool, attended: bool) -> None:
    gru, of = make_gru(), OF if shared else None
    n = len(OF) if shared else R

    def run(x: Tensor, weight: Tensor, start: Tensor, *attention: Tensor) -> tuple[Tensor, Tensor]:
        parts: tuple[Tensor, Tensor] = torch.func.functional_call(
            gru, {"state": weight}, (gru.project(x), attention[0] if attention else None, of, start)
        )
        return parts

    inputs = [randn(K, R, N_INPUTS), gru.state.detach().clone().requires_grad_(), randn(n, DIM, seed=2)]
    if attended:
        inputs.append(torch.sigmoid(randn(K, n, 1, seed=3)).detach().requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)
    for part in (0, 1):  # as the two places that use it do
        assert torch.autograd.gradcheck(lambda *i, part=part: run(*i)[part], inputs)


@given(seed=st.integers(0, 10**6), asleep=st.lists(st.booleans(), min_size=K, max_size=K))
@settings(max_examples=20, deadline=None)
def test_an_attention_of_0_leaves_the_state_and_one_of_1_is_a_plain_step(
    seed: int, asleep: list[bool]
) -> None:
    gru, x, start = make_gru(seed), randn(K, 1, N_INPUTS, seed=seed), randn(1, DIM, seed=seed + 1)
    awake = ~torch.tensor(asleep)
    states = gru(gru.project(x), awake.double()[:, None, None], None, start)[0]
    for j, (before, after) in enumerate(zip([start, *states], states, strict=False)):
        assert torch.equal(before.view(-1), after.view(-1)) == (not awake[j])
    if awake.any():
        torch.testing.assert_close(states[-1], gru(gru.project(x[awake]), start=start)[1])


def test_it_starts_as_a_moving_average() -> None:
    gru, x = GRU(N_INPUTS, DIM).double(), 0.01 * randn(K, R, N_INPUTS)
    new = 1 / (1 + np.exp(-OPEN))
    wanted = sum(new * (1 - new) ** (K - 1 - j) * x[j, :, :DIM] for j in range(K))
    torch.testing.assert_close(gru(gru.project(x))[1], wanted, rtol=1e-3, atol=1e-6)


def test_no_steps_leave_the_start() -> None:
    gru, start = make_gru(), randn(R, DIM)
    states, last = gru(gru.project(randn(0, R, N_INPUTS)), start=start)
    assert states.shape == (0, R, DIM)
    assert torch.equal(last, start)
