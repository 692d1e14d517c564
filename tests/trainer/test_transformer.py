"""The transformer encoder against its equations, one row and one head at a time, and against torch's own layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.trainer.lists import HEADS, WIDE, make_lists, make_unit, make_vectors
from trainer.model.interest import Seen, see
from trainer.model.transformer import Block, Transformer

torch.set_num_threads(1)

Doubles = NDArray[np.float64]
Weights = dict[str, Doubles]
NAMES = ["transformer", "transformer_prenorm"]
COUNTS = [3, 0, 1, 6]


def weights_of(module: nn.Module) -> Weights:
    return {name: w.numpy() for name, w in module.state_dict().items()}


def normed(w: Weights, name: str, x: Doubles) -> Doubles:
    """LayerNorm of one vector."""
    scaled: Doubles = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def fed(w: Weights, x: Doubles, leak: float) -> Doubles:
    """The feed-forward network of one vector."""
    y = w["wide.weight"] @ x + w["wide.bias"]
    out: Doubles = w["narrow.weight"] @ np.where(y > 0, y, leak * y) + w["narrow.bias"]
    return out


def attended(
    w: Weights, one: Doubles, others: list[Doubles], heads: int, bias: Doubles | None = None
) -> tuple[Doubles, Doubles]:
    """What one row gets from the others ``[D]``, and each head's weights ``[H, n]``; ``bias`` ``[H]`` of the last."""
    width = len(one) // heads
    got, weights = np.zeros(len(one)), np.zeros((heads, len(others)))
    for h in range(heads):
        block = slice(h * width, (h + 1) * width)
        q = (w["query"] @ one)[block]
        scores = np.array([q @ (w["key"] @ o)[block] for o in others]) / np.sqrt(width)
        scores[-1] += 0 if bias is None else bias[h]
        weights[h] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        got[block] = sum(a * (w["value"] @ o)[block] for a, o in zip(weights[h], others, strict=True))
    return w["out"] @ got, weights


def torch_layer(block: Block) -> nn.TransformerEncoderLayer:
    """Torch's layer with the same weights."""
    layer = nn.TransformerEncoderLayer(
        WIDE,
        HEADS,
        WIDE,
        dropout=0.0,
        activation=lambda x: nn.functional.leaky_relu(x, block.leak),
        batch_first=True,
        norm_first=block.first,
        dtype=torch.float64,
    )
    same = {
        "self_attn.in_proj_weight": torch.cat([block.query, block.key, block.value]),
        "self_attn.in_proj_bias": torch.zeros(3 * WIDE),
        "self_attn.out_proj.weight": block.out,
        "self_attn.out_proj.bias": torch.zeros(WIDE),
        **{f"linear1.{n}": p for n, p in block.wide.named_parameters()},
        **{f"linear2.{n}": p for n, p in block.narrow.named_parameters()},
        **{f"norm1.{n}": p for n, p in block.norm1.named_parameters()},
        **{f"norm2.{n}": p for n, p in block.norm2.named_parameters()},
    }
    layer.load_state_dict(same)
    return layer


def make_seen(counts: list[int], k: int | None = None, seed: int = 0) -> Seen:
    target, rows = make_vectors(2 * len(counts), seed)
    return see(target, rows, make_lists(counts, seed, k))


def make(name: str) -> Transformer:
    unit = make_unit(name)
    assert isinstance(unit, Transformer)
    return unit


def encoded(unit: Transformer, seen: Seen, r: int) -> list[Doubles]:
    """What the encoder says of each behaviour of a list."""
    w, position = weights_of(unit.block), unit.position.detach().numpy()
    n = int(seen.filled[r].sum())
    x = seen.x[r].detach().numpy()
    e = [x[j] + position[seen.gap[r, j]] for j in range(n)]
    out = []
    for one in e:
        if unit.first:
            y = one + attended(w, normed(w, "norm1", one), [normed(w, "norm1", o) for o in e], HEADS)[0]
            out.append(y + fed(w, normed(w, "norm2", y), 0.0))
        else:
            y = normed(w, "norm1", one + attended(w, one, e, HEADS)[0])
            out.append(normed(w, "norm2", y + fed(w, y, 0.0)))
    return out


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_papers_equations_one_behaviour_at_a_time(name: str) -> None:
    unit, seen = make(name), make_seen(COUNTS, k=7)
    pool = weights_of(unit.pool)
    out, weights = unit.read(seen), unit.weigh(seen)
    for n, r in enumerate(seen.of.tolist()):
        z = encoded(unit, seen, r)
        if not z:
            continue
        target = seen.target[n].detach().numpy()
        expected, mean = [], np.zeros(len(z))
        for h in range(HEADS):
            q = pool["query"][h] @ target
            scores = np.array(
                [q @ (pool["key"][h] @ z[j]) + pool["gap_bias"][seen.gap[r, j], h] for j in range(len(z))]
            )
            alpha = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            expected.append(sum(a * (pool["value"][h] @ one) for a, one in zip(alpha, z, strict=True)))
            mean += alpha / HEADS
        np.testing.assert_allclose(out[n].detach().numpy(), np.concatenate(expected), rtol=1e-9)
        np.testing.assert_allclose(weights[n, : len(z)].detach().numpy(), mean, rtol=1e-9)


@pytest.mark.parametrize("first", [False, True])
def test_the_block_and_its_gradients_are_those_of_torchs_encoder_layer(first: bool) -> None:
    block = Block(WIDE, HEADS, 0.5, first, leak=0.1).double()
    generator = torch.Generator().manual_seed(3)
    for w in block.parameters():
        w.data += torch.randn(w.shape, generator=generator, dtype=w.dtype) / 3
    x = torch.randn(4, 6, WIDE, generator=generator, dtype=torch.float64, requires_grad=True)
    filled = (
        torch.arange(6) < torch.tensor([1, 6, 3, 5])[:, None]
    )  # torch's layer has no answer to an empty list
    ours, theirs = block(x, filled), torch_layer(block)(x, src_key_padding_mask=~filled)
    torch.testing.assert_close(ours[filled], theirs[filled])
    grad = torch.randn(ours.shape, generator=generator, dtype=ours.dtype) * filled[:, :, None]
    (got,), (wanted,) = torch.autograd.grad(ours, x, grad), torch.autograd.grad(theirs, x, grad)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_a_behaviour_depends_on_the_others_and_on_no_candidate(name: str) -> None:
    unit, seen = make(name), make_seen([4])
    said = unit.encode(seen).x
    torch.testing.assert_close(
        unit.encode(seen._replace(target=seen.target + 1)).x, said, rtol=1e-12, atol=1e-12
    )
    x = seen.x.detach().clone()
    x[0, 3] += 1
    assert (unit.encode(seen._replace(x=x)).x[0, :3] != said[0, :3]).any(1).all()


@pytest.mark.parametrize("name", [*NAMES, "bst"])
def test_a_position_is_the_time_since_and_not_a_place(name: str) -> None:
    """A new behaviour moves no other one's position; an hour later all have moved."""
    unit, picked = make_unit(name), make_lists([5])
    target, rows = make_vectors(2)
    order = [4, 2, 0, 1, 3]
    moved = replace(picked, index=picked.index[:, order], gap=picked.gap[:, order])
    torch.testing.assert_close(unit(target, rows, moved), unit(target, rows, picked))
    for one, other in pairwise(range(5)):
        if picked.gap[0, one] != picked.gap[0, other]:
            gap = picked.gap.copy()
            gap[0, [one, other]] = gap[0, [other, one]]
            assert not torch.allclose(
                unit(target, rows, replace(picked, gap=gap)), unit(target, rows, picked)
            )


@pytest.mark.parametrize("name", [*NAMES, "bst"])
def test_scoring_is_the_same_as_learning(name: str) -> None:
    unit, picked = make_unit(name), make_lists(COUNTS)
    target, rows = make_vectors(2 * len(COUNTS))
    learning: Tensor = unit.train()(target, rows, picked)
    assert unit.eval()(target, rows, picked).equal(learning)
