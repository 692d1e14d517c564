"""TWIN finds what its own attention weighs most."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.samples import SHAPE, as_batch
from tests.trainer.test_ctr import AGES, NETWORKS, SAMPLES, TABLE
from trainer.learner import locate
from trainer.model.ctr import Network
from trainer.model.inputs import prepare
from trainer.model.interest import see
from trainer.model.twin import TWIN, heaviest

torch.set_num_threads(1)

BATCH = as_batch([*SAMPLES, AGES])


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("young", [False, True])
def test_it_finds_the_behaviours_that_weigh_most_in_its_attention_over_all(k: int, young: bool) -> None:
    twin = NETWORKS["twin"].long
    assert isinstance(twin, TWIN)
    at = locate(TABLE, BATCH)
    found = twin.search(TABLE, BATCH, at, young)(BATCH.start[:-1], BATCH.start[1:], k)
    everything = replace(NETWORKS["average"].reading, find=None)  # one list of all behaviours a slate
    if young:
        at = replace(at, items=at.items.copy(), sequence=at.sequence.copy())
        at.items[:, 0] = at.sequence[:, 0] = 0
    inputs = prepare(TABLE, BATCH, at, everything, short=0, k=1)
    assert inputs.long is not None
    rows = torch.from_numpy(TABLE.rows[inputs.unique]).double()
    target = rows[torch.from_numpy(inputs.items)].flatten(1)
    in_double = TWIN(SHAPE.dim * SHAPE.n_item_fields, SHAPE.heads).double()
    in_double.load_state_dict(twin.state_dict())
    weights = in_double.weigh(see(target, rows, inputs.long)).detach().numpy()
    for n, b in enumerate(BATCH.slate):
        mine = found.positions[n][found.positions[n] >= 0]
        length = BATCH.start[b + 1] - BATCH.start[b]
        assert len(mine) == min(k, length)
        assert (np.diff(mine) > 0).all()
        places = mine - BATCH.start[b]
        left = np.delete(weights[n, :length], places)
        assert weights[n, places].min(initial=1) >= left.max(initial=0) - 1e-6


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    k=st.integers(1, 6),
)
def test_of_equal_weights_the_last_are_taken(rows: list[list[int]], k: int) -> None:
    found = heaviest(np.array(rows, np.float64), k)
    for row, places in zip(rows, found.tolist(), strict=True):
        assert places == sorted(sorted(range(6), key=lambda p: (row[p], p))[-k:])


def test_without_a_choice_it_is_full_attention() -> None:
    full = NETWORKS["full"]
    twin = Network(replace(SHAPE, unit="twin"))
    twin.load_state_dict(full.state_dict())
    at = locate(TABLE, BATCH)
    scores = []
    for network in (full, twin):
        inputs = prepare(TABLE, BATCH, at, network.reading, short=4, k=100)
        with torch.no_grad():
            scores.append(network(torch.from_numpy(TABLE.rows[inputs.unique]), inputs))
    torch.testing.assert_close(*scores)
