"""One step of learning: it predicts first, repeats to the bit, keeps codes in step, and takes no poison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.trainer.samples import CAPACITY, CONFIG, START_MS, as_batch, make_samples, sample
from trainer.batch import Batch, make_batch
from trainer.learner import PRIOR_N, PRIOR_RATE, DivergedError, Learner, LearnerConfig, locate, meet, predict
from trainer.model.simhash import encode, hamming
from trainer.model.units import UNITS

Bits = dict[str, bytes]
SAMPLES = make_samples(240)
BATCHES = [as_batch(SAMPLES[i : i + 6]) for i in range(0, 240, 6)]


def make_learner(**changes: Any) -> Learner:
    return Learner(replace(CONFIG, **changes), CAPACITY)


def bits(learner: Learner, without: tuple[str, ...] = ()) -> Bits:
    return {k: v.tobytes() for k, v in learner.state().items() if k not in without}


def copy(learner: Learner) -> Learner:
    return Learner.restore(learner.config, learner.state(), CAPACITY)


def true_codes(learner: Learner) -> NDArray[np.uint64]:
    """Codes uint64 ``[rows, words]`` made anew from the vectors of all rows, by slot."""
    table = learner.table
    codes = np.zeros((table.n_rows, table.codes.shape[1]), np.uint64)
    for number, planes in enumerate(table.planes):
        of = np.flatnonzero(table.fields[1 : table.n_rows + 1] == number)
        codes[of] = encode(table.rows[1 + of], planes)
    return codes


def own_vectors(learner: Learner, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """float32 ``[n, dim]``: where rows of these keys start when they have no parent."""
    fresh = Learner(learner.config, CAPACITY).table
    for _ in range(learner.config.admit_after):
        slots = fresh.see(keys, 0, 0, 0, 1)
    return fresh.rows[slots]


def codes_of(learner: Learner) -> NDArray[np.uint64]:
    return learner.table.codes[1 : learner.table.n_rows + 1].copy()


@pytest.mark.parametrize("unit", UNITS)
def test_a_step_predicts_what_the_model_predicted_before_it(unit: str) -> None:
    learner = make_learner(shape=replace(CONFIG.shape, unit=unit))
    for batch in BATCHES[:6]:
        learner.step(batch)
        before = learner.predict(BATCHES[0])  # whose keys all have rows
        state = bits(learner)
        assert learner.predict(BATCHES[0]).tolist() == before.tolist()
        assert bits(learner) == state
    assert learner.step(BATCHES[0]).p.tolist() == before.tolist()
    assert learner.predict(BATCHES[0]).tolist() != before.tolist()


def test_keys_that_are_new_are_predicted_as_they_are_born() -> None:
    learner = make_learner()
    learner.step(BATCHES[0])
    born = copy(learner)
    meet(born.table, BATCHES[1], 2)
    assert learner.step(BATCHES[1]).p.tolist() == born.predict(BATCHES[1]).tolist()


# without behaviours nobody can know what a user likes
@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "none"])
def test_the_loss_falls_in_a_world_where_each_user_likes_one_category(unit: str) -> None:
    learner = make_learner(shape=replace(CONFIG.shape, unit=unit))
    first, second, third = (np.mean([learner.step(batch).loss for batch in BATCHES]) for _ in range(3))
    y = np.concatenate([batch.labels for batch in BATCHES]).mean()
    prior = -y * np.log(y) - (1 - y) * np.log(1 - y)
    assert third < second < first
    assert third < 0.9 * prior


def test_the_loss_is_the_mean_of_the_candidates_log_loss() -> None:
    predicted = make_learner().step(BATCHES[0])
    p, y = predicted.p.astype(np.float64), BATCHES[0].labels
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert predicted.loss == pytest.approx(expected, rel=1e-5)


def test_rows_move_by_adagrad_down_the_gradient_of_the_summed_loss() -> None:
    learner = make_learner(accumulator=1.0)
    for batch in BATCHES[:10]:
        learner.step(batch)
    batch, before = BATCHES[3], copy(learner)
    learner.step(batch)
    slots = np.unique(locate(before.table, batch).items)  # codes stay, so the search finds the same
    y = batch.labels.astype(np.float64)

    def loss() -> float:
        p = before.predict(batch).astype(np.float64)
        return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).sum())

    eps, moved = np.float32(0.02), []
    for s in slots[slots > 0]:
        grad = np.empty(CONFIG.shape.dim)
        for d in range(len(grad)):
            there = before.table.rows[s, d]
            before.table.rows[s, d] = there + eps
            up = loss()
            before.table.rows[s, d] = there - eps
            grad[d] = (up - loss()) / (2 * float(eps))
            before.table.rows[s, d] = there
        total = before.table.accumulators[s] + (grad**2).mean()
        expected = before.table.rows[s] - CONFIG.row_lr * grad / np.sqrt(total)
        moved.append(np.abs(expected - before.table.rows[s]).max())
        # float32 differences of a sum of losses: good to a few parts in a million
        np.testing.assert_allclose(learner.table.rows[s], expected, rtol=0, atol=0.03 * moved[-1] + 1e-5)
    assert max(moved) > 1e-3


def test_the_same_samples_and_seed_give_the_same_bits() -> None:
    a, b, other = make_learner(), make_learner(), make_learner(seed=4)
    for batch in BATCHES[:15]:
        p, q = a.step(batch), b.step(batch)
        other.step(batch)
        assert p.p.tobytes() == q.p.tobytes()
        assert (p.loss, p.n_flipped) == (q.loss, q.n_flipped)
    assert bits(a) == bits(b)
    assert bits(a) != bits(other)


@given(
    n=st.integers(0, 12), refresh_every=st.sampled_from([0, 1, 4]), frozen=st.booleans(), bad=st.booleans()
)
@settings(max_examples=12, deadline=None)
def test_a_restored_learner_goes_on_with_the_same_bits(
    n: int, refresh_every: int, frozen: bool, bad: bool
) -> None:
    learner = make_learner(refresh_every=refresh_every, admit_after=2)
    for batch in BATCHES[:n]:
        learner.step(batch)
    learner.frozen = frozen
    if bad:
        poison(learner, lambda grad: grad * torch.nan)(BATCHES[0])
    again = copy(learner)
    assert bits(again) == bits(learner)
    for batch in BATCHES[n : n + 6]:
        p, q = learner.step(batch), again.step(batch)
        assert (p.p.tobytes(), p.loss, p.n_flipped) == (q.p.tobytes(), q.loss, q.n_flipped)
    assert bits(again) == bits(learner)
    assert {k: w.tobytes() for k, w in again.dense().items()} == {
        k: w.tobytes() for k, w in learner.dense().items()
    }


def dots(learner: Learner) -> torch.Tensor:
    """The weights of the dots."""
    assert learner.network.dots is not None
    return learner.network.dots.weight


def poison(learner: Learner, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Batch], Any]:
    """A step in which one gradient is changed."""

    def step(batch: Batch) -> Any:
        hook = dots(learner).register_hook(change)  # type: ignore[no-untyped-call]
        try:
            return learner.step(batch)
        finally:
            hook.remove()

    return step


def poison_rows(rows: torch.Tensor, change: float) -> None:
    rows.register_hook(lambda grad: grad * change)  # type: ignore[no-untyped-call]


SIGHTINGS = ("table.sightings", "table.last_seen_ms", "steps")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["dense weight", "dense gradient", "row gradient", "row"])
def test_a_batch_that_is_not_finite_moves_no_weight_and_is_counted(where: str, value: float) -> None:
    learner = make_learner()
    for batch in BATCHES[:4]:
        learner.step(batch)
    slot = int(learner.table.find(BATCHES[0].side[:1, 0])[0])
    there = learner.table.rows[slot].copy()
    weight = dots(learner)
    if where == "row":
        learner.table.rows[slot] = value
    elif where == "dense weight":
        weight.data[0, 1] *= value
    before = bits(learner, SIGHTINGS)
    changes = value if where == "dense gradient" else 1.0
    change = value if where == "row gradient" else 1.0
    hook = learner.network.register_forward_pre_hook(lambda _, args: poison_rows(args[0], change))
    predicted = poison(learner, lambda grad: grad * changes)(BATCHES[0])
    hook.remove()
    assert not predicted.learned
    assert predicted.n_flipped == 0
    assert bits(learner, SIGHTINGS) == before
    assert (learner.n_bad, learner.n_steps) == (1, 5)
    learner.table.rows[slot] = there
    weight.data.nan_to_num_(1.0, 1.0, 1.0)
    assert learner.step(BATCHES[1]).learned
    assert learner.n_bad == 1
    assert bits(learner, SIGHTINGS) != before


def test_a_learner_stops_after_several_bad_batches_in_a_row_only() -> None:
    learner = make_learner(max_bad_batches=3)
    bad = poison(learner, lambda grad: grad * torch.nan)
    for batch in BATCHES[:4]:
        bad(batch)
        bad(batch)
        learner.step(batch)
    assert learner.n_bad == 8
    bad(BATCHES[5])
    bad(BATCHES[5])
    with pytest.raises(DivergedError, match=r"step 15: expected a finite loss, got .* and 11 bad batches"):
        bad(BATCHES[5])


def test_only_rows_of_the_batch_move() -> None:
    learner = make_learner()
    for batch in BATCHES[:10]:
        learner.step(batch)
    rows, accumulators = learner.table.rows.copy(), learner.table.accumulators.copy()
    at = locate(learner.table, BATCHES[3])
    learner.step(BATCHES[3])
    touched = np.unique(np.concatenate([at.side.ravel(), at.items.ravel(), at.sequence.ravel()]))
    moved = np.flatnonzero((learner.table.rows != rows).any(1))
    assert len(moved) > 0
    assert set(moved) <= set(touched)
    assert set(np.flatnonzero(learner.table.accumulators != accumulators)) <= set(touched)
    assert set(np.flatnonzero(learner.table.changed == learner.n_steps)) <= set(touched)
    assert not learner.table.rows[0].any()


def test_codes_are_in_step_after_every_step() -> None:
    learner = make_learner()
    for batch in BATCHES[:20]:
        met = copy(learner)
        meet(met.table, batch, learner.n_steps + 1)
        predicted = learner.step(batch)
        assert (codes_of(learner) == true_codes(learner)).all()
        assert predicted.n_flipped == hamming(codes_of(met), codes_of(learner)).sum()
    assert predicted.n_flipped > 0


def test_held_back_codes_are_those_of_the_last_refresh() -> None:
    learner = make_learner(refresh_every=3)
    for n, batch in enumerate(BATCHES[:12], 1):
        met = copy(learner)
        meet(met.table, batch, learner.n_steps + 1)
        predicted = learner.step(batch)
        expected = true_codes(learner) if n % 3 == 0 else codes_of(met)  # what is born has a code from birth
        assert (codes_of(learner) == expected).all()
        assert predicted.n_flipped == hamming(codes_of(met), codes_of(learner)).sum()
    assert predicted.n_flipped > 0


@pytest.mark.parametrize("refresh_every", [0, 1, 3])
def test_frozen_codes_stay(refresh_every: int) -> None:
    learner = make_learner(refresh_every=refresh_every)
    for batch in BATCHES:
        learner.step(batch)
    learner.frozen = refresh_every > 0
    codes = codes_of(learner)
    for batch in BATCHES:
        assert learner.step(batch).n_flipped == 0
    assert (codes_of(learner) == codes).all()
    assert hamming(codes, true_codes(learner)).sum() > 0


@pytest.mark.parametrize("n_kinds", [1, 2])
def test_fake_negatives_are_weighted_by_the_closed_form(n_kinds: int) -> None:
    config = replace(CONFIG, shape=replace(CONFIG.shape, n_kinds=n_kinds))
    learner = Learner(config, CAPACITY)
    rng = np.random.default_rng(8)
    samples = []
    for i, stage in enumerate(("final", "early", "click", "early", "click", "final")):
        n = 1 if stage == "click" else 4
        labels = np.zeros((n, n_kinds), np.uint8)
        if stage == "final":
            labels = rng.integers(0, 2, (n, n_kinds), np.uint8)
        elif stage == "click":
            labels[0, i % n_kinds] = 1
        nothing = np.zeros(0, np.int64)
        samples.append(sample(i, START_MS + i, rng.integers(0, 9, n), labels, nothing, nothing, stage))
    batch = make_batch(samples, 2, n_kinds)
    logits = torch.tensor(rng.normal(size=batch.labels.shape), dtype=torch.float32, requires_grad=True)
    loss = learner._loss(logits, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    expected = 0.0
    for n in range(batch.n_candidates):
        stage = samples[batch.slate[n]].stage
        for kind in range(n_kinds):
            y, p = float(batch.labels[n, kind]), 1 / (1 + np.exp(-float(logits[n, kind].detach())))
            negative = {"final": 1.0, "early": (1 - p) * (1 + p), "click": 0.0}[stage]
            weight = y * (1.0 if stage == "final" else 1 + p) + (1 - y) * negative
            expected -= weight * (y * np.log(p) + (1 - y) * np.log(1 - p))
            # the weights are constants of the gradient (Ktena et al. 2019)
            assert float(logits.grad[n, kind]) == pytest.approx(weight * (p - y), abs=1e-5)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_weights_undo_what_eager_samples_add() -> None:
    """Every impression as a negative, clicks once more: the expected gradient is zero at the true rate."""
    config = LearnerConfig(CONFIG.shape, seed=1)
    learner, rate, n = Learner(config, CAPACITY), 0.3, 10
    nothing = np.zeros(0, np.int64)
    early = sample(1, START_MS, np.arange(n), np.zeros(n, np.uint8), nothing, nothing, "early")
    clicks = [
        sample(1, START_MS, np.array([i]), np.ones(1, np.uint8), nothing, nothing, "click")
        for i in range(round(rate * n))
    ]
    batch = as_batch([early, *clicks])
    logits = torch.full((batch.n_candidates, 1), float(np.log(rate / (1 - rate))), requires_grad=True)
    learner._loss(logits, batch).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # weights q(y) / p(y) up to the factor 1 + rate, where q is what is seen of p
    assert float(logits.grad.sum()) == pytest.approx(0, abs=1e-5)


def test_an_item_not_yet_admitted_reads_as_its_category() -> None:
    learner = make_learner(admit_after=3)
    old = [sample(1, START_MS, np.array([5]), np.ones(1, np.uint8), np.array([5]), np.array([1]))] * 3
    learner.step(as_batch(old))  # the category 0 and its item 5 are there
    nothing = np.zeros(0, np.int64)

    def slate(*items: int) -> Batch:
        return as_batch(
            [sample(1, START_MS, np.array(items), np.zeros(len(items), np.uint8), nothing, nothing)]
        )

    at = locate(learner.table, slate(5, 10, 15))
    assert at.items[0, 0] != at.items[0, 1] > 0
    assert at.items[1:, 0].tolist() == at.items[1:, 1].tolist() == [at.items[0, 1]] * 2
    p = learner.predict(slate(5, 10, 15))
    assert p[1] == p[2]
    for n in (1, 2, 3):
        category = learner.table.rows[at.items[0, 1]].copy()
        met = meet(learner.table, slate(10), learner.n_steps)
        assert (met.items[0, 0] != met.items[0, 1]) == (n == 3)
        if n == 3:
            category += own_vectors(learner, learner.table.keys[met.items[0, :1]])[0]
        assert (learner.table.rows[met.items[0, 0]] == category).all()
        assert locate(learner.table, slate(10)).items.tolist() == met.items.tolist()
        learner.step(slate(5))


def test_dense_weights_move_by_adam() -> None:
    learner = make_learner()
    weights = [w.detach().clone().requires_grad_() for w in learner.network.parameters()]
    adam = torch.optim.Adam(weights, lr=CONFIG.lr)
    for batch in BATCHES[:8]:
        learner.step(batch)
        for ours, w in zip(learner.network.parameters(), weights, strict=True):
            assert ours.grad is not None
            w.grad = ours.grad.clone()
        adam.step()
    for ours, w in zip(learner.network.parameters(), weights, strict=True):
        torch.testing.assert_close(ours, w, rtol=1e-4, atol=1e-6)


def test_the_prior_is_the_base_rate_while_few_were_seen() -> None:
    learner = make_learner()
    n, clicks = float(PRIOR_N), PRIOR_N * PRIOR_RATE
    for batch in [BATCHES[0], *BATCHES]:
        rate = clicks / n
        assert float(learner.network.prior[0]) == pytest.approx(np.log(rate / (1 - rate)), rel=1e-5)
        learner.step(batch)
        n, clicks = n + batch.n_candidates, clicks + float(batch.labels.sum())


def test_items_and_behaviours_that_come_with_their_category_are_born_from_it() -> None:
    learner = make_learner()
    behaviours = np.array([5, 7, 10, 8])
    slate = sample(1, START_MS, np.array([1, 6, 2]), np.ones(3, np.uint8), behaviours, START_MS - behaviours)
    at = meet(learner.table, as_batch([slate]), 1)
    for slots in (at.items, at.sequence):
        assert (slots[:, 0] != slots[:, 1]).all()
        item, category = learner.table.rows[slots.T]
        assert category.any(1).all()
        assert (item == own_vectors(learner, learner.table.keys[slots[:, 0]]) + category).all()


def test_what_a_step_predicts_is_what_was_predicted_before_it_in_warm_up_and_after() -> None:
    batch = as_batch(make_samples(6, lengths=(30,)))
    learner = Learner(replace(CONFIG, warm_up_steps=4), CAPACITY)
    learner.step(batch)  # from here on all keys have rows
    for n in range(2, 8):
        young, grown = (
            predict(learner.network, learner.table, batch, CONFIG.short, CONFIG.k, young=young)
            for young in (True, False)
        )
        assert young.tobytes() != grown.tobytes()
        expected = young if n <= 4 else grown
        assert learner.predict(batch).tobytes() == expected.tobytes()
        assert learner.step(batch).p.tobytes() == expected.tobytes()
