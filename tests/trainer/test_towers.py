"""From a candidate to a logit for each kind, against one candidate and one kind at a time in plain numpy."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from stream.events import Sample
from tests.trainer.samples import CAPACITY, CONFIG, SHAPE, START_MS, as_batch, make_samples, sample
from trainer.learner import PRIOR_RATE, Learner
from trainer.model.towers import MMoE, SharedBottom
from trainer.scores import auc

torch.set_num_threads(1)

Doubles = NDArray[np.float64]
MLPS = [(5,), (6, 4), (7, 5, 3)]
WIDE = 8


def moved(towers: SharedBottom | MMoE, seed: int = 0) -> SharedBottom | MMoE:
    """The same in float64, with no weight where it started."""
    generator = torch.Generator().manual_seed(seed)
    towers = towers.double()
    for weight in towers.parameters():
        weight.data = weight.data + torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return towers


def inputs(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, WIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(towers: SharedBottom | MMoE) -> dict[str, Doubles]:
    return {name: w.numpy() for name, w in towers.state_dict().items()}


def shared_logit(w: dict[str, Doubles], n_layers: int, x: Doubles, kind: int) -> float:
    for i in range(n_layers):
        x = np.maximum(w[f"layers.{i}.weight"] @ x + w[f"layers.{i}.bias"], 0)
    return float(w[f"layers.{n_layers}.weight"][kind] @ x + w[f"layers.{n_layers}.bias"][kind])


def mixed_logit(w: dict[str, Doubles], n_layers: int, x: Doubles, kind: int) -> float:
    """Equations 6 and 7 of the paper, an expert after the other."""
    n_towers = max(0, n_layers - max(1, n_layers - 1))
    chances = np.exp([w["gates"][kind, :, e] @ x for e in range(w["gates"].shape[2])])
    f = np.zeros(w[f"experts.{n_layers - n_towers - 1}.bias"].shape[2])
    for e, chance in enumerate(chances / chances.sum()):
        h = x
        for i in range(n_layers - n_towers):
            h = np.maximum(h @ w[f"experts.{i}.weight"][e] + w[f"experts.{i}.bias"][e, 0], 0)
        f += chance * h
    for i in range(n_towers):
        f = np.maximum(f @ w[f"towers.{i}.weight"][kind] + w[f"towers.{i}.bias"][kind, 0], 0)
    return float(f @ w["heads.weight"][kind, :, 0] + w["heads.bias"][kind, 0, 0])


@pytest.mark.parametrize("mlp", [(), *MLPS])
@pytest.mark.parametrize("n_kinds", [1, 3])
def test_a_shared_bottom_is_one_mlp_and_a_head_for_each_kind(mlp: tuple[int, ...], n_kinds: int) -> None:
    towers, x = moved(SharedBottom(WIDE, mlp, n_kinds)), inputs(6)
    expected = [
        [shared_logit(weights(towers), len(mlp), one, kind) for kind in range(n_kinds)] for one in x.numpy()
    ]
    np.testing.assert_allclose(towers(x).detach().numpy(), expected)


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("n_kinds", [1, 3])
@pytest.mark.parametrize("n_experts", [1, 4])
def test_mmoe_is_what_the_paper_writes(mlp: tuple[int, ...], n_kinds: int, n_experts: int) -> None:
    towers, x = moved(MMoE(WIDE, mlp, n_kinds, n_experts)), inputs(6)
    expected = [
        [mixed_logit(weights(towers), len(mlp), one, kind) for kind in range(n_kinds)] for one in x.numpy()
    ]
    got = towers(x)
    assert got.shape == (6, n_kinds)
    assert float(got.detach().std()) > 0.01
    np.testing.assert_allclose(got.detach().numpy(), expected)


@pytest.mark.parametrize(
    "towers", [SharedBottom(WIDE, (6, 4), 2), MMoE(WIDE, (6, 4), 2, 3), MMoE(WIDE, (5,), 2, 3)]
)
def test_gradients_are_those_of_differences(towers: SharedBottom | MMoE) -> None:
    towers, x = moved(towers), inputs(4).requires_grad_()
    names, held = zip(*towers.named_parameters(), strict=True)

    def run(x: Tensor, *held: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(towers, dict(zip(names, held, strict=True)), (x,))
        return logits

    free = (w.detach().clone().requires_grad_() for w in held)
    assert torch.autograd.gradcheck(run, (x, *free))


@pytest.mark.parametrize("towers", [SharedBottom(WIDE, (6, 4), 2), MMoE(WIDE, (6, 4), 2, 3)])
def test_a_candidates_logits_depend_on_it_alone(towers: SharedBottom | MMoE) -> None:
    towers, x = moved(towers), inputs(7)
    alone = torch.cat([towers(x[n : n + 1]) for n in range(7)])
    torch.testing.assert_close(towers(x), alone)
    assert towers(x[:0]).shape == (0, 2)


@given(seed=st.integers(0, 10**6), n_kinds=st.integers(1, 3), n_experts=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_a_gate_shares_out_one_and_begins_equal(seed: int, n_kinds: int, n_experts: int) -> None:
    fresh = MMoE(WIDE, (6, 4), n_kinds, n_experts).double()
    np.testing.assert_allclose(fresh.gate(inputs(5, seed)).detach().numpy(), 1 / n_experts)
    towers = moved(fresh, seed)
    assert isinstance(towers, MMoE)
    gate = towers.gate(inputs(5, seed)).detach().numpy()
    assert gate.shape == (n_kinds, 5, n_experts)
    np.testing.assert_allclose(gate.sum(2), 1)
    assert (gate > 0).all()


@pytest.mark.parametrize("n_experts", [1, 4])
def test_experts_are_drawn_as_the_layers_they_are(n_experts: int) -> None:
    """The scale of an expert does not depend on how many there are, nor on how many units it has."""
    torch.manual_seed(0)
    first = MMoE(200, (300, 50, 10), 2, n_experts).state_dict()["experts.0.weight"]
    std = [float(w.std()) for w in first]
    np.testing.assert_allclose(std, float(torch.nn.Linear(200, 300).weight.detach().std()), rtol=0.02)
    assert len({w.numpy().tobytes() for w in first}) == n_experts


@pytest.mark.parametrize("towers", ["shared", "mmoe"])
def test_at_first_all_candidates_are_the_same_but_for_the_dots(towers: str) -> None:
    learner = Learner(replace(CONFIG, shape=replace(SHAPE, towers=towers, n_kinds=2)), CAPACITY)
    assert learner.network.dots is not None
    torch.nn.init.zeros_(learner.network.dots.weight)
    p = learner.predict(as_batch(make_samples(9)))
    assert len(p) > 9
    bias = learner.network.towers.state_dict()[
        "layers.2.bias" if towers == "shared" else "heads.bias"
    ].numpy()
    expected = 1 / (1 + np.exp(-(bias.ravel() + np.log(PRIOR_RATE / (1 - PRIOR_RATE)))))
    np.testing.assert_allclose(p, np.broadcast_to(expected, p.shape), rtol=1e-5)


@pytest.mark.parametrize("towers", ["shared", "mmoe"])
def test_kinds_that_contradict_each_other_are_told_apart(towers: str) -> None:
    """A user clicks on one category and likes another."""
    rng, nothing, samples = np.random.default_rng(3), np.zeros(0, np.int64), []
    for i in range(400):
        items = rng.integers(1, 40, 6)
        labels = np.stack([items % 5 == i % 5, items % 5 == (i + 2) % 5], 1).astype(np.uint8)
        samples.append(sample(i % 5, START_MS + i, items, labels, nothing, nothing))
    shape = replace(SHAPE, towers=towers, n_kinds=2, experts=3, mlp=(16, 8))
    learner = Learner(replace(CONFIG, shape=shape), CAPACITY)
    batches = [as_batch(samples[at : at + 10], n_kinds=2) for at in range(0, 400, 10)]
    for batch in batches * 8:
        learner.step(batch)
    p = np.concatenate([learner.predict(batch) for batch in batches])
    y = np.concatenate([batch.labels for batch in batches])
    found = [[auc(p[:, of], y[:, kind]) for of in (0, 1)] for kind in (0, 1)]
    assert min(found[0][0], found[1][1]) > 0.9, found
    assert max(found[0][1], found[1][0]) < 0.6, found
    if towers == "mmoe":
        gates = learner.network.state_dict()["towers.gates"].numpy()
        assert np.abs(gates[0] - gates[1]).max() > 0.05


@given(weight=st.sampled_from([0.0, 0.25, 1.0, 3.0]), stage=st.sampled_from(["final", "early"]))
@settings(max_examples=8, deadline=None)
def test_a_kinds_weight_multiplies_its_loss_and_nothing_else(weight: float, stage: str) -> None:
    shape = replace(SHAPE, n_kinds=2)
    plain, weighed = (
        Learner(replace(CONFIG, shape=shape, loss_weights=w), CAPACITY) for w in ((), (0.5, weight))
    )
    rng = np.random.default_rng(2)
    one = make_samples(1)[0]
    labels = rng.integers(0, 2, (len(one.items) // 16, 2), np.uint8)
    batch = as_batch([replace_labels(one, labels, stage)], n_kinds=2)
    logits = torch.from_numpy(rng.normal(size=batch.labels.shape).astype(np.float32)).requires_grad_()
    for n in (1, 2):  # an auxiliary model may know of the first kind alone
        before, after = (
            torch.autograd.grad(x._loss(logits[:, :n], batch), logits)[0] for x in (plain, weighed)
        )
        torch.testing.assert_close(after, before * torch.tensor([0.5, weight]))


def replace_labels(one: Sample, labels: NDArray[np.uint8], stage: str) -> Sample:
    return msgspec.structs.replace(one, labels=labels.tobytes(), stage=stage)
