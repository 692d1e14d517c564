"""Writing to a memory of slots step by step, with the derivative that torch would find in twice the time.

    w_j = f_j softmax over slots of (key_j . M_(j-1) / |M_(j-1)| + B g_(j-1))     g_j = g_(j-1) + w_j
    M_j = M_(j-1) + w_j (add_j - erase_j * M_(j-1))

Source: Graves et al. 2014, arXiv 1410.5401, section 3.2; MIMN, arXiv 1905.09248, equations 1-6.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

TINY = 1e-12
"""The least length that something is divided by."""


def write(
    memory: Tensor, usage: Tensor, key: Tensor, erase: Tensor, add: Tensor, balance: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """Write ``j`` times.

    Parameters
    ----------
    memory
        ``M_0`` ``[n, slots, D]``.
    usage
        ``g_0`` ``[n, slots]``.
    key, erase, add
        ``[j, n, D]``.
    balance
        ``B`` ``[slots, slots]``.
    there
        ``f`` ``[j, n, 1]``, 1 or 0: what is not there changes nothing. Has no derivative.

    Returns
    -------
    The memory after each step ``[j, n, slots, D]``, and the usage after the last ``[n, slots]``.
    """
    written = _Write.apply(memory, usage, key, erase, add, balance, there)  # type: ignore[no-untyped-call]
    return cast(tuple[Tensor, Tensor], written)


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        memory: Tensor,
        usage: Tensor,
        key: Tensor,
        erase: Tensor,
        add: Tensor,
        balance: Tensor,
        there: Tensor,
    ) -> tuple[Tensor, Tensor]:
        memories = memory.new_empty(len(key) + 1, *memory.shape)
        usages = usage.new_empty(len(key) + 1, *usage.shape)
        weights = torch.empty_like(usages[1:])  # the softmax alone
        memories[0], usages[0] = memory, usage
        columns, erase, add = key[:, :, :, None], erase[:, :, None], add[:, :, None]
        for j in range(len(key)):
            m, g = memories[j], usages[j]
            length = torch.linalg.vector_norm(m, dim=2).clamp_(min=TINY)
            cosines = torch.bmm(m, columns[j])[:, :, 0].div_(length)
            w = torch.softmax(cosines.addmm_(g, balance.T), 1, out=weights[j])
            w = w * there[j]
            torch.add(g, w, out=usages[j + 1])
            torch.addcmul(m, w[:, :, None], torch.addcmul(add[j], erase[j], m, value=-1), out=memories[j + 1])
        ctx.save_for_backward(key, erase, add, balance, there, memories, usages, weights)
        return memories[1:].clone(), usages[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        key, erase, add, balance, there, memories, usages, weights = ctx.saved_tensors
        before = memories[:-1]
        length = torch.linalg.vector_norm(before, dim=3, keepdim=True).clamp_(min=TINY)
        unit = before / length
        cosines = unit @ key[:, :, :, None]
        turn = torch.addcmul(key[:, :, None], unit, cosines, value=-1).div_(length)  # of the score by M
        change = torch.addcmul(add, erase, before, value=-1)
        used = (weights * there)[:, :, :, None]
        d_score, d_change = torch.empty_like(weights), torch.empty_like(before)
        d_memories, d_usage = grads
        d_memory = torch.zeros_like(before[0])
        for j in reversed(range(len(key))):
            d_memory = d_memory + d_memories[j]
            d_weight = torch.linalg.vecdot(d_memory, change[j]).add_(d_usage).mul_(there[j])
            d = torch._softmax_backward_data(d_weight, weights[j], 1, weights.dtype)
            d_score[j] = d
            d_usage = torch.addmm(d_usage, d, balance)
            torch.mul(d_memory, used[j], out=d_change[j])
            d_memory.addcmul_(d_change[j], erase[j], value=-1).addcmul_(d[:, :, None], turn[j])
        d_key = (d_score[:, :, None] @ unit)[:, :, 0]
        d_balance = d_score.flatten(0, 1).T @ usages[:-1].flatten(0, 1)
        d_erase = -(d_change * before).sum(2)
        return d_memory, d_usage, d_key, d_erase, d_change.sum(2), d_balance, None
