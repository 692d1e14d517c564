"""A gated recurrent unit, whose update gate an attention may scale (AUGRU): for lists, or for many readers of a list.

    u_j = sigmoid(W_u x_j + U_u h_(j-1) + b_u)
    r_j = sigmoid(W_r x_j + U_r h_(j-1) + b_r)
    c_j = tanh(W_c x_j + b_c + r_j * U_c h_(j-1))
    h_j = (1 - a_j u_j) * h_(j-1) + a_j u_j * c_j

``a`` is 1 without an attention. Where it is 0, behind a list's end for one, the state stays as it is. Much public code
keeps ``(1 - a) u`` of the state instead (``VecAttGRUCell`` in mouna99/dien and, taken from there, in DeepCTR): what has
no weight then overwrites as much of the state as a plain unit would, and what has all of it leaves nothing.

Inputs are projected for all steps at once, once a list however many read it. The rest of a step is some ten small calls
without autograd, on buffers that stay in the cache, and the derivative as many: half the time of what torch would do.

Source: Cho et al. 2014, arXiv 1406.1078; DIEN, arXiv 1809.03672, equations 2-5 and 11-14.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

OPEN = 2.0
"""Where the bias of the update gate starts: what comes is most of the state, so its scale is that of the inputs."""


class GRU(nn.Module):
    """Starts as a moving average of its inputs: candidates are the tanh of the first ``dim`` inputs.

    Parameters
    ----------
    n_inputs
        Of a step, ``>= dim``.
    dim
        ``D`` of the state.
    """

    def __init__(self, n_inputs: int, dim: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(3 * dim, n_inputs))  # u, r, c
        self.state = nn.Parameter(torch.zeros(3 * dim, dim))
        self.bias = nn.Parameter(torch.zeros(3 * dim))
        nn.init.eye_(self.input[2 * dim :])
        nn.init.constant_(self.bias[:dim], OPEN)

    def project(self, x: Tensor) -> Tensor:
        """What a step takes of its input: ``[..., n_inputs]`` -> ``[..., 3 D]``."""
        return functional.linear(x, self.input, self.bias)

    def forward(
        self,
        projected: Tensor,
        attention: Tensor | None = None,
        of: Tensor | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run over lists that all begin at step 0.

        Parameters
        ----------
        projected
            ``[k, R, 3 D]``: time first.
        attention
            ``[k, N, 1]``.
        of
            int64 ``[N]``: the list of each reader; without it ``N = R``.
        start
            ``[N, D]`` state before the first step; zeros if none is given.

        Returns
        -------
        The states after each step ``[k, N, D]``, and the last one ``[N, D]``.
        """
        n = projected.shape[1] if of is None else len(of)
        if start is None:
            start = projected.new_zeros(n, self.state.shape[1])
        return cast(tuple[Tensor, Tensor], _Run.apply(projected, self.state, attention, of, start))  # type: ignore[no-untyped-call]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        weight: Tensor,
        attention: Tensor | None,
        of: Tensor | None,
        start: Tensor,
    ) -> tuple[Tensor, Tensor]:
        k, dim = len(projected), weight.shape[1]
        gates = projected.new_empty(k, len(start), 3 * dim)
        given = projected.new_empty(k, len(start), dim)  # U_c h_(j-1)
        states = projected.new_empty(k + 1, *start.shape)
        states[0] = start
        weight_t, recurrent = weight.T.contiguous(), projected.new_empty(gates.shape[1:])
        of_gates, of_candidate = recurrent[:, : 2 * dim], recurrent[:, 2 * dim :]
        before = states[0]
        for j, (x, after) in enumerate(zip(projected.unbind(), states[1:].unbind(), strict=True)):
            gate = gates[j].copy_(x) if of is None else torch.index_select(x, 0, of, out=gates[j])
            torch.mm(before, weight_t, out=recurrent)
            both, candidate = gate[:, : 2 * dim], gate[:, 2 * dim :]
            both.add_(of_gates).sigmoid_()
            update, reset = both.chunk(2, 1)
            candidate.addcmul_(reset, given[j].copy_(of_candidate)).tanh_()
            opened = update if attention is None else update * attention[j]
            before = torch.lerp(before, candidate, opened, out=after)
        ctx.save_for_backward(weight, attention, of, gates, given, states)
        ctx.n_lists = projected.shape[1]
        ctx.set_materialize_grads(False)
        return states[1:].clone(), states[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, None, Tensor]:
        # With g the gradient of h_j and p = U_c h_(j-1), that of what goes
        #   into u: g a (c - h) u (1 - u)    into c: g a u (1 - c^2)    into r: the one before times p r (1 - r)
        # and that of h_(j-1): g (1 - a u) + U' (these three, the one into c times r)
        weight, attention, of, gates, given, states = ctx.saved_tensors
        dim, (each, last) = weight.shape[1], grads
        d_projected = gates.new_zeros(len(gates), ctx.n_lists, 3 * dim)
        d_attention = None if attention is None else torch.empty_like(attention)
        d_weight, into = torch.zeros_like(weight), gates.new_empty(gates.shape[1:])
        into_both, into_candidate = into[:, : 2 * dim], into[:, 2 * dim :]
        into_update, into_reset = into_both.chunk(2, 1)
        g = torch.zeros_like(states[0]) if last is None else last
        for j in reversed(range(len(gates))):
            g = g if each is None else g + each[j]
            both, candidate = gates[j, :, : 2 * dim], gates[j, :, 2 * dim :]
            update, reset = both.chunk(2, 1)
            moved = (candidate - states[j]).mul_(g)
            closed = g * update
            if attention is not None and d_attention is not None:
                torch.linalg.vecdot(moved, update, out=d_attention[j, :, 0])
                moved.mul_(attention[j])
                closed.mul_(attention[j])
            into_update.copy_(moved)
            torch.ops.aten.tanh_backward(closed, candidate, grad_input=into_candidate)
            torch.mul(into_candidate, given[j], out=into_reset)
            torch.ops.aten.sigmoid_backward(into_both, both, grad_input=into_both)
            d_projected[j].copy_(into) if of is None else d_projected[j].index_add_(0, of, into)
            into_candidate.mul_(reset)
            d_weight.addmm_(into.T, states[j])
            g = (g - closed).addmm_(into, weight)
        return d_projected, d_weight, d_attention, None, g
