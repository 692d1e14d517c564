"""Dice: an activation whose bend lies where its inputs do. Zhou et al. 2018, arXiv 1706.06978, section 5.2.

    f(s) = p s + (1 - p) alpha s,  p = sigmoid((s - E[s]) / sqrt(Var[s] + EPS)),  a channel at a time

The paper takes mean and variance from the mini-batch in training, and moving averages in testing. On a stream there is
no such difference: a batch may be one behaviour of one candidate, and a prediction may depend neither on the slates
beside it nor on whether it will be learned. So both are of the batches learned before, never of this one: exact over
the first ``HORIZON`` inputs, from then on a moving average, with no zeros to forget. Before anything was learned they
are 0 and 1.

Public code takes the statistics over padding as well, and has ``alpha`` as a plain tensor of zeros, which is not
learned and not in the state (shenweichen/DeepCTR-Torch, layers/activation.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-6
"""The paper has 1e-8; after a batch of one behaviour, whose variance is 0, gradients would be large."""
HORIZON = 2**18
"""Inputs over which the statistics are averaged: some 25 batches of 16 slates, 10 candidates and 64 behaviours."""


class Dice(nn.Module):
    """One activation for each of so many channels."""

    mean: Tensor
    var: Tensor
    n: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("n", torch.zeros(1))
        self._last: tuple[int, Tensor, Tensor] | None = None

    def forward(self, s: Tensor, filled: Tensor) -> Tensor:
        """``s`` ``[N, k, C]`` -> the same shape; ``filled`` bool ``[N, k]`` says what counts for the statistics."""
        if torch.is_grad_enabled():
            self._last = moments(s.detach(), filled)
        scale = torch.rsqrt(self.var.clamp(min=0) + EPS)
        p = torch.sigmoid(torch.addcmul(-self.mean * scale, s, scale))
        return torch.lerp(p * s, s, self.alpha)

    def learned(self) -> None:
        """Add what the last forward with gradients saw to the statistics."""
        if self._last is None:
            return
        n, mean, var = self._last
        self._last = None
        share = n / (self.n + n)
        step = mean - self.mean
        self.mean += share * step
        self.var += share * (var - self.var + (1 - share) * step.square())  # Chan et al. 1979
        self.n.copy_((self.n + n).clamp(max=HORIZON))


def moments(s: Tensor, filled: Tensor) -> tuple[int, Tensor, Tensor] | None:
    """How many inputs there are, mean and variance of each channel ``[C]``; None if there are none."""
    n = int(filled.sum())
    if n == 0:
        return None
    weights, flat = filled.flatten().to(s.dtype) / n, s.flatten(0, 1)
    mean = weights @ flat
    return n, mean, weights @ (flat - mean).square()
