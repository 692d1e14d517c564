"""The network, its units and their inputs against one candidate at a time, in plain numpy."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.events import Sample
from tests.trainer.samples import CAPACITY, N_FIELDS, SHAPE, START_MS, as_batch, make_samples, sample
from trainer.batch import Batch
from trainer.learner import locate, meet, predict
from trainer.model import inputs as inputs_module
from trainer.model.ctr import Network
from trainer.model.inputs import Finder, Inputs, Located, Reading, Rows, prepare
from trainer.model.interest import N_GAPS, Picked
from trainer.model.searches import RADII, make_search
from trainer.model.simhash import hamming, make_planes
from trainer.model.units import UNITS
from trainer.table import EmbeddingTable

torch.set_num_threads(1)

Doubles = NDArray[np.float64]
SHORT, K = 4, 6
SAMPLES = make_samples(25, seed=1, lengths=(0, 1, 2, 4, 5, 9, 30))
LAST = START_MS + 10**9
"""A slate after all others, with a behaviour of every age."""
AGES = sample(
    1,
    LAST,
    np.array([3, 0]),
    np.array([1, 0], np.uint8),
    np.arange(34) % 9,
    LAST - np.array([*(2**n * 1000 for n in reversed(range(31))), 999, 1, 0]),
)


def make_table(samples: list[Sample], dim: int = SHAPE.dim) -> EmbeddingTable:
    """A table that knows the keys of all samples but a few, with rows of any direction."""
    planes = make_planes(SHAPE.n_coded, dim, 64, seed=5)
    table = EmbeddingTable(dim, 4, planes, seed=5, init_std=0.5, capacity=CAPACITY)
    meet(table, as_batch(samples), 1)
    slots = np.arange(1, table.n_rows + 1)
    grads = np.random.default_rng(6).normal(size=(len(slots), dim)).astype(np.float32)
    table.learn(slots, grads, 0.05, 2)
    return table


KNOWN = [*SAMPLES[:-3], AGES]  # the last users' rows, and maybe items', are not there
TABLE = make_table(KNOWN)
WIDER = make_table(KNOWN, replace(SHAPE, unit="sim_soft").row_dim)


def table_of(unit: str) -> EmbeddingTable:
    """One whose rows are as wide as the unit's."""
    return WIDER if UNITS[unit].sample else TABLE


def make_network(unit: str) -> Network:
    """A network none of whose weights is where it started."""
    network = Network(replace(SHAPE, unit=unit, n_kinds=1))
    generator = torch.Generator().manual_seed(7)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / 3)
    return network


NETWORKS = {unit: make_network(unit) for unit in UNITS}


def score(unit: str, samples: list[Sample], k: int = K, short: int = SHORT) -> Doubles:
    return predict(NETWORKS[unit], table_of(unit), as_batch(samples), short, k)[:, 0].astype(np.float64)


class Oracle:
    """One candidate's probability, step by step, in float64."""

    def __init__(self, unit: str, one: Sample, k: int, short: int) -> None:
        self.unit, self.k = unit, k
        self.weights = {n: w.double().numpy() for n, w in NETWORKS[unit].state_dict().items()}
        self.batch = as_batch([one])
        self.at = locate(TABLE, self.batch)
        self.middle = max(0, len(self.at.sequence) - short)

    def vectors(self, slots: NDArray[np.int64]) -> Doubles:
        rows: Doubles = (
            TABLE.rows[slots].astype(np.float64).reshape(*slots.shape[:-1], slots.shape[-1] * SHAPE.dim)
        )
        return rows

    def attended(self, name: str, target: Doubles, places: list[int]) -> Doubles:
        query, key, value, bias = (self.weights[f"{name}.{w}"] for w in ("query", "key", "value", "gap_bias"))
        if not places:
            return np.zeros(len(target))
        x = self.vectors(self.at.sequence[places])
        heads = []
        for h in range(SHAPE.heads):
            scores = (x @ key[h].T) @ (query[h] @ target) + [bias[self.gap(j), h] for j in places]
            alpha = np.exp(scores - scores.max())
            heads.append(alpha / alpha.sum() @ (x @ value[h].T))
        return np.concatenate(heads)

    def gap(self, place: int) -> int:
        seconds = int(self.batch.at_ms[0] - self.batch.sequence_at[place]) // 1000
        return min(max(0, seconds).bit_length(), N_GAPS - 1)

    def nearness(self, c: int) -> tuple[Doubles, Doubles]:
        """How near each behaviour is, for the search, and what its radii are compared with."""
        slots, target = self.at.sequence, self.at.items[c]
        if self.unit == "eta":
            codes, code = (np.bitwise_or.reduce(TABLE.codes[s], axis=-2) for s in (slots, target))
            near = -hamming(codes, code).astype(np.float64)
            return near, near
        if self.unit == "sim_hard":
            of, wanted = self.batch.sequence[:, 1], self.batch.items[c, 1]
            same = ((of == wanted) & (of != 0)).astype(np.float64)
            return same, same
        x, t = self.vectors(slots), self.vectors(target)
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(t)
        return x @ t, x @ t / np.where(lengths > 0, lengths, 1)

    def counts(self, near: Doubles) -> list[int]:
        if self.unit == "sim_hard":
            return [int((near > 0).sum())]
        radii = [-round(r * 64) if self.unit == "eta" else cos(pi * r) for r in RADII]
        return [int((near >= r).sum()) for r in radii]

    def probability(self, c: int) -> float:
        target = self.vectors(self.at.items[c])
        n = len(self.at.sequence)
        counts, everything = [n], list(range(n))
        if self.unit == "none":
            found = []
        elif self.unit == "average":
            x = self.vectors(self.at.sequence)
            found = [x.mean(0) if n else np.zeros(len(target))]
        else:
            near, within = self.nearness(c)
            found = [self.attended("short", target, everything[self.middle :])]
            counts += self.counts(within[self.middle :])
            if self.unit != "short":
                long = everything[: self.middle]
                counts += self.counts(within[: self.middle])
                if self.unit == "sim_hard":
                    long = [j for j in long if near[j]]
                if self.unit != "full":
                    nearest = sorted(long, key=lambda j: (-near[j], -j))[: self.k]
                    long = sorted(nearest)
                found.append(self.attended("long", target, long))
        dots = np.array([target @ f for f in found])
        side = self.vectors(self.at.side[0])
        x = np.concatenate([side, target, *found, dots, np.log1p(counts)])
        n_layers = len(SHAPE.mlp) + 1
        for i in range(n_layers):
            x = self.weights[f"towers.layers.{i}.weight"] @ x + self.weights[f"towers.layers.{i}.bias"]
            x = np.maximum(x, 0) if i < n_layers - 1 else x
        weight = self.weights.get("dots.weight", np.zeros((SHAPE.n_kinds, 0)))
        logit = float((x + weight @ dots + self.weights["prior"])[0])
        return 1 / (1 + float(np.exp(-logit)))


@pytest.mark.parametrize("unit", ["none", "short", "average", "sim_hard", "eta", "exact", "full"])
@pytest.mark.parametrize(("k", "short"), [(K, SHORT), (1, 0), (100, 16)])
def test_the_network_scores_as_one_candidate_at_a_time_in_numpy(unit: str, k: int, short: int) -> None:
    samples = [*SAMPLES, AGES]
    got = score(unit, samples, k, short)
    expected = [
        Oracle(unit, s, k, short).probability(c)
        for s in samples
        for c in range(len(s.items) // 8 // N_FIELDS)
    ]
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6)
    assert np.std(got) > (0.03 if unit == "none" else 0.05)


@pytest.mark.parametrize("unit", UNITS)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8))
@settings(max_examples=8, deadline=None)
def test_a_slates_scores_do_not_depend_on_the_slates_beside_it(unit: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [SAMPLES[i] for i in rng.integers(0, len(SAMPLES), n)]
    alone = np.concatenate([score(unit, [s]) for s in samples])
    np.testing.assert_allclose(score(unit, samples), alone, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [0, 1])
def test_every_unit_takes_sequences_of_none_and_of_one(unit: str, length: int) -> None:
    samples = make_samples(3, seed=2, lengths=[length])
    assert as_batch(samples).start[-1] == 3 * length
    p = score(unit, samples)
    assert ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize("unit", UNITS)
def test_gradients_flow_through_batches_with_empty_sequences(unit: str) -> None:
    batch = as_batch([*make_samples(2, seed=3, lengths=[0]), SAMPLES[0]])
    inputs = see(unit, batch)
    rows = torch.from_numpy(table_of(unit).rows[inputs.unique]).requires_grad_()
    network = make_network(unit)
    out = network(rows, inputs).sum()
    for extra in (network.extra_loss, network.extra_logits):
        out = out if extra is None else out + extra.sum()
    out.backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in network.parameters())


def test_full_attention_is_picked_attention_when_everything_is_picked() -> None:
    NETWORKS["exact"].load_state_dict(NETWORKS["full"].state_dict())
    np.testing.assert_allclose(score("full", SAMPLES), score("exact", SAMPLES, k=100), rtol=1e-5)
    assert not np.allclose(score("full", SAMPLES), score("exact", SAMPLES, k=2), rtol=1e-3)


@pytest.mark.parametrize("unit", ["hamming", "inner"])
def test_a_young_model_compares_all_coded_fields_but_the_id(unit: str) -> None:
    batch = as_batch(SAMPLES)
    at = locate(TABLE, batch)
    search = make_search(unit, SHAPE.n_coded)
    start, stop = batch.start[:-1], batch.start[1:]
    blind = Located(at.side, at.items.copy(), at.sequence.copy())
    blind.items[:, 0] = blind.sequence[:, 0] = 0  # the null row: no bits, no length
    young = search(TABLE, batch, at, True)(start, stop, K)
    expected = search(TABLE, batch, blind, False)(start, stop, K)
    grown = search(TABLE, batch, at, False)(start, stop, K)
    assert young.positions.tolist() == expected.positions.tolist()
    assert young.positions.tolist() != grown.positions.tolist()
    alone = make_search(unit, 1)  # where the id alone is coded there is nothing else to go by
    either = [alone(TABLE, batch, at, young)(start, stop, K) for young in (True, False)]
    assert either[0].positions.tolist() == either[1].positions.tolist()


def test_codes_and_products_pick_the_same_when_k_covers_everything() -> None:
    batch = as_batch(SAMPLES)
    eta, exact = see("eta", batch, k=30).long, see("exact", batch, k=30).long
    assert eta is not None
    assert exact is not None
    for name in ("index", "count", "gap", "of"):
        assert (getattr(eta, name) == getattr(exact, name)).all()
    assert (eta.count == (np.diff(batch.start) - SHORT).clip(0)[batch.slate]).all()


def see(unit: str, batch: Batch, k: int = K) -> Inputs:
    table = table_of(unit)
    return prepare(table, batch, locate(table, batch), NETWORKS[unit].reading, short=SHORT, k=k)


@pytest.mark.parametrize("unit", UNITS)
def test_rows_are_numbered_in_the_order_of_first_use(unit: str) -> None:
    batch = as_batch([*SAMPLES, AGES])
    at, inputs = locate(TABLE, batch), see(unit, batch)
    assert len(set(inputs.unique.tolist())) == len(inputs.unique)
    assert (inputs.unique[inputs.items] == at.items).all()
    assert (inputs.unique[inputs.side] == at.side).all()
    used = [inputs.items.ravel(), inputs.side.ravel()]
    for picked in (inputs.short, inputs.long, inputs.sampled):
        if picked is None:
            continue
        for r, n in enumerate(picked.count):
            places = picked.positions[r, :n]
            assert (picked.positions[r, n:] == -1).all()
            assert (np.diff(places) > 0).all()
            assert (inputs.unique[picked.index[r, :n]] == at.sequence[places]).all()
            used.append(picked.index[r, :n].ravel().astype(np.int64))
    if inputs.short is not None:
        for b, stop in enumerate(batch.start[1:]):
            first = max(batch.start[b], stop - SHORT)
            assert inputs.short.positions[b, : inputs.short.count[b]].tolist() == list(range(first, stop))
    numbers = np.concatenate(used)
    assert list(dict.fromkeys(numbers.tolist())) == list(range(len(inputs.unique)))


def test_a_time_gap_is_the_bit_length_of_its_seconds() -> None:
    batch = as_batch([*SAMPLES, AGES])
    everything = see("average", batch).long
    assert everything is not None
    gap = np.concatenate([g[:n] for g, n in zip(everything.gap, everything.count, strict=True)])
    sample_of = np.repeat(np.arange(batch.n_samples), np.diff(batch.start))
    gaps_ms = batch.at_ms[sample_of] - batch.sequence_at
    expected = [min(max(0, int(ms) // 1000).bit_length(), N_GAPS - 1) for ms in gaps_ms]
    assert gap.tolist() == expected
    assert set(expected) == set(range(N_GAPS))
    recent = see("eta", batch).short
    assert recent is not None
    for b, n in enumerate(recent.count):
        stop = batch.start[b + 1]
        assert recent.gap[b, :n].tolist() == expected[stop - n : stop]


def test_a_batch_that_fails_leaves_nothing_behind_in_the_numbering() -> None:
    batch = as_batch(SAMPLES)
    expected = see("exact", batch)

    def fails(table: Rows, batch: Batch, at: Located, young: bool) -> Finder:
        raise RuntimeError("search")

    with pytest.raises(RuntimeError, match="search"):
        prepare(TABLE, batch, locate(TABLE, batch), Reading(find=fails), short=SHORT, k=K)
    again = see("exact", batch)
    assert again.unique.tolist() == expected.unique.tolist()
    assert again.items.tolist() == expected.items.tolist()


def test_numberings_at_the_same_time_do_not_mix() -> None:
    a, b = (inputs_module._Numbering(20) for _ in range(2))
    assert a(np.array([5, 7])).tolist() == [0, 1]
    assert b(np.array([7, 9])).tolist() == [0, 1]
    assert a(np.array([9, 7])).tolist() == [2, 1]
    assert a.finish().tolist() == [5, 7, 9]
    assert b.finish().tolist() == [7, 9]
    larger = inputs_module._Numbering(200)
    assert larger(np.array([199, 5])).tolist() == [0, 1]


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"model: expected one of none, short, .*, got 'magic'"):
        Network(replace(SHAPE, unit="magic"))


def of_lists(unit: str, search: str, batch: Batch, k: int = K) -> tuple[Inputs, Picked]:
    """What a unit reads by that search, with the list that is not its short part."""
    network = Network(replace(SHAPE, unit=unit, search=search))
    inputs = prepare(TABLE, batch, locate(TABLE, batch), network.reading, short=SHORT, k=k)
    assert inputs.long is not None
    return inputs, inputs.long


@pytest.mark.parametrize("search", ["hamming", "inner", "category", "recent", "none"])
def test_how_behaviours_are_found_is_free_of_what_reads_them(search: str) -> None:
    batch = as_batch([*SAMPLES, AGES])
    _, apart = of_lists("eta", search, batch)
    _, whole = of_lists("average", search, batch)
    for n, b in enumerate(batch.slate):
        start, stop = batch.start[b], batch.start[b + 1]
        middle = max(start, stop - SHORT)
        picked, both = ([p for p in of.positions[of.of[n]].tolist() if p >= 0] for of in (apart, whole))
        assert both == picked + list(range(middle, stop))
        if search in ("none", "recent"):
            assert picked == list(range(start if search == "none" else max(start, middle - K), middle))
        else:
            found = make_search(search, SHAPE.n_coded)(TABLE, batch, locate(TABLE, batch), False)
            ends = batch.start[:-1], np.maximum(batch.start[:-1], batch.start[1:] - SHORT)
            assert picked == [p for p in found(*ends, K).positions[n].tolist() if p >= 0]


def test_a_search_in_place_of_a_units_own_is_that_units_own_elsewhere() -> None:
    network = Network(replace(SHAPE, unit="eta", search="inner"))
    network.load_state_dict(NETWORKS["exact"].state_dict())
    p = predict(network, TABLE, as_batch(SAMPLES), SHORT, K)[:, 0]
    assert p.tolist() == score("exact", SAMPLES).tolist()


def test_a_unit_that_does_not_search_by_its_own_attention_says_so() -> None:
    with pytest.raises(ValueError, match="expected a unit that searches by its own attention, got 'eta'"):
        Network(replace(SHAPE, unit="eta", search="attention"))


def test_a_whole_unit_is_all_that_reads_the_sequence() -> None:
    assert NETWORKS["average"].short is None
    assert NETWORKS["short"].long is None
    assert NETWORKS["none"].dots is None
    assert Network(replace(SHAPE, unit="none", search="hamming")).reading.width == 1
    for name, network in NETWORKS.items():
        assert (network.short is None) == UNITS[name].whole
        assert (network.long is None) == (UNITS[name].read is None)
