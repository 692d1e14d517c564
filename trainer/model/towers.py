"""What is known of a candidate, to one logit for each kind of action: a bottom that all share, or a mixture of experts.

With ``x`` ``[N, I]`` what is known of N candidates, ``K`` kinds, ``E`` experts::

    shared   logit_k = w_k h(x)                          h the MLP, w_k a vector for each kind

    mmoe     f_k(x)  = sum over i of g_k(x)_i f_i(x)      f_i an expert: all layers of the MLP but its last
             g_k(x)  = softmax over i of W_k x            a gate for each kind, [E]
             logit_k = w_k t_k(f_k(x)) + b_k              t_k a tower for each kind: the last layer of the MLP

An MLP of one layer is the experts', and towers are the heads alone.

Kinds that want different things of ``h`` pull it to and fro; a gate lets each take what it needs, and leave the rest.
Each expert is as wide as the shared MLP, so E of them cost about E times as much.

What public code gets wrong: all experts stand in one array ``[inputs, units, experts]``, and that is drawn with
variance one, or handed to an initialiser that takes it for a convolution and scales it by inputs times units; here each
expert is drawn as the layer it is. Gates drawn at random prefer an expert before anything is known; here they begin
equal, and the experts differ.

Source: Caruana 1997, "Multitask Learning"; Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts" (KDD), section 4.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional


class SharedBottom(nn.Module):
    """One MLP, and a linear head for each kind."""

    def __init__(self, n_inputs: int, mlp: tuple[int, ...], n_kinds: int) -> None:
        super().__init__()
        linear = [nn.Linear(a, b) for a, b in pairwise([n_inputs, *mlp, n_kinds])]
        self.layers = nn.ModuleList(linear)
        nn.init.zeros_(linear[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[N, I]`` -> logits ``[N, K]``."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


class Each(nn.Module):
    """As many linear layers side by side: ``x[m] @ weight[m] + bias[m]``, drawn as ``nn.Linear`` draws each of them."""

    def __init__(self, n: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, N, n_in]`` -> ``[n, N, n_out]``; or ``[N, n_in]``, the same for all."""
        return torch.matmul(x, self.weight) + self.bias


class MMoE(nn.Module):
    """Experts that all kinds share, and for each kind a gate to them and a tower behind it.

    Raises
    ------
    ValueError
        Without a layer, of which a tower could be made.
    """

    def __init__(self, n_inputs: int, mlp: tuple[int, ...], n_kinds: int, n_experts: int) -> None:
        super().__init__()
        if not mlp:
            raise ValueError("model: mlp: expected at least one layer, got none")
        sizes, of_experts = [n_inputs, *mlp], max(1, len(mlp) - 1)
        self.experts = nn.ModuleList(Each(n_experts, a, b) for a, b in pairwise(sizes[: of_experts + 1]))
        self.gates = nn.Parameter(torch.zeros(n_kinds, n_inputs, n_experts))
        self.towers = nn.ModuleList(Each(n_kinds, a, b) for a, b in pairwise(sizes[of_experts:]))
        self.heads = Each(n_kinds, sizes[-1], 1)
        nn.init.zeros_(self.heads.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[N, I]`` -> logits ``[N, K]``."""
        gates = self.gate(x)
        for layer in self.experts:
            x = functional.relu(layer(x))  # [E, N, h]
        x = torch.einsum("kne,enh->knh", gates, x)
        for layer in self.towers:
            x = functional.relu(layer(x))  # [K, N, h]
        logits: Tensor = self.heads(x)  # [K, N, 1]
        return logits.squeeze(2).T

    def gate(self, x: Tensor) -> Tensor:
        """How much each kind takes of each expert, ``[K, N, E]``; sums up to 1."""
        return torch.softmax(torch.matmul(x, self.gates), 2)
