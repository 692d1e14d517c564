"""SIM(soft): its auxiliary model against plain numpy, and an index that sees nothing newer than itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.lists import FIELDS, make_lists
from tests.trainer.samples import CAPACITY, CONFIG, SHAPE, as_batch, make_samples
from trainer.learner import Learner, locate
from trainer.model.inputs import _spaced
from trainer.model.sim import SAMPLE, Index, SIMSoft

torch.set_num_threads(1)

SOFT = replace(CONFIG, shape=replace(SHAPE, unit="sim_soft"))
BATCHES = [as_batch(make_samples(8, seed, lengths=(0, 3, 40))) for seed in range(12)]
OWN = slice(SHAPE.dim, None)


def unit_of(learner: Learner) -> SIMSoft:
    assert isinstance(learner.network.long, SIMSoft)
    return learner.network.long


def taught(every: int = 1, n: int = 12, frozen_from: int = 99) -> Learner:
    learner = Learner(replace(SOFT, refresh_every=every), CAPACITY)
    for i, batch in enumerate(BATCHES[:n]):
        learner.frozen = i >= frozen_from
        learner.step(batch)
    return learner


def test_the_auxiliary_model_is_its_equations() -> None:
    unit = SIMSoft(FIELDS * 8, 2, 0.5, FIELDS).double()  # a row has 8 dims for the network, 4 of its own
    generator = torch.Generator().manual_seed(0)
    for w in unit.parameters():
        w.data = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    counts = [5, 0, 2]
    sampled = make_lists(counts)
    rows = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(6, FIELDS * 4, generator=generator, dtype=torch.float64)
    got = unit.auxiliary(target, rows, sampled).detach().numpy()
    by_name = {name: value.numpy() for name, value in unit.state_dict().items()}
    for n, r in enumerate(sampled.of):
        t = target[n].numpy()
        interest = np.zeros_like(t)
        for j in range(counts[r]):
            x = rows.numpy()[sampled.index[r, j]].ravel()
            interest += (by_name["ask_by"] @ t) @ (by_name["found_by"] @ x) / counts[r] * x
        first, second = ((by_name[f"score.{i}.weight"], by_name[f"score.{i}.bias"]) for i in (0, 2))
        hidden = np.maximum(first[0] @ np.concatenate([interest, t]) + first[1], 0)
        np.testing.assert_allclose(got[n], second[0] @ hidden + second[1] + interest @ t)


@pytest.mark.parametrize(("every", "frozen_from"), [(1, 99), (5, 99), (1, 6)])
def test_the_search_finds_the_largest_products_of_its_last_index(every: int, frozen_from: int) -> None:
    rebuilt_at = {(1, 99): 12, (5, 99): 10, (1, 6): 7}[every, frozen_from]
    learner, then = (taught(every, n, frozen_from) for n in (12, rebuilt_at))
    batch = BATCHES[0]
    at = locate(learner.table, batch)
    k = 3
    found = unit_of(learner).search(learner.table, batch, at, False)(batch.start[:-1], batch.start[1:], k)
    old = locate(then.table, batch)
    weights = {name: w.detach().double().numpy() for name, w in unit_of(then).named_parameters()}
    vectors = then.table.rows[:, OWN].astype(np.float64)
    for n, b in enumerate(batch.slate):
        wanted = weights["ask_by"] @ vectors[old.items[n]].ravel()
        places = range(batch.start[b], batch.start[b + 1])
        r = {j: float(wanted @ weights["found_by"] @ vectors[old.sequence[j]].ravel()) for j in places}
        mine = [p for p in found.positions[n].tolist() if p >= 0]
        assert len(mine) == min(k, len(r))
        left = [value for j, value in r.items() if j not in mine]
        assert min([r[j] for j in mine], default=0) >= max(left, default=-9) - 1e-6


def test_an_item_younger_than_the_index_has_no_vector_in_it() -> None:
    learner = taught(every=100)
    table, unit = learner.table, unit_of(learner)
    unit.rebuild(table, 5)
    assert unit.index is not None
    vectors = unit.index.vectors(table, np.array([[4, 5], [table.n_slots - 1, 3]]), slice(None))
    own = SHAPE.dim // 2
    assert vectors[0, :own].tolist() == table.rows[4, OWN].tolist()
    assert not vectors[0, own:].any()
    assert not vectors[1, :own].any()
    table.keys[4] += np.uint64(1)  # the slot is another key's now
    assert not unit.index.vectors(table, np.array([[4, 4]]), slice(None)).any()


def test_a_restart_has_the_index_it_had() -> None:
    whole, half = taught(every=5), taught(every=5, n=7)
    again = Learner.restore(half.config, half.state(), CAPACITY)
    for batch in BATCHES[7:]:
        again.step(batch)
    for name, values in whole.state().items():
        np.testing.assert_array_equal(again.state()[name], values, err_msg=name)
    assert isinstance(unit_of(again).index, Index)


def test_auxiliary_dims_are_learned_by_the_auxiliary_model_alone() -> None:
    learner = Learner(SOFT, CAPACITY)
    learner.step(BATCHES[0])
    before = learner.table.rows[: learner.table.n_slots].copy()
    with torch.no_grad():
        for w in (unit_of(learner).ask_by, *unit_of(learner).score.parameters()):
            w.zero_()  # says the same of everyone, and has no gradient
    learner.step(BATCHES[0])
    after = learner.table.rows[: learner.table.n_slots]
    assert (after[:, OWN] == before[:, OWN]).all()
    assert (after[:, : SHAPE.dim] != before[:, : SHAPE.dim]).any()


def test_a_sample_of_a_sequence_is_spread_over_all_of_it() -> None:
    start, stop = np.array([0, 10, 10]), np.array([10, 10, 1010])
    found = _spaced(start, stop, SAMPLE)
    assert found[0, :10].tolist() == list(range(10))
    assert (found[0, 10:] == -1).all()
    assert (found[1] == -1).all()
    steps = np.diff(found[2])
    assert found[2, 0] == 10
    assert set(steps.tolist()) <= {7, 8}
    assert found[2, -1] >= 1000
