"""The loop over a log of samples: journal, publications, expiry and restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.breaker import Breaker, BreakerRules
from stream.events import Sample, Tick, Version, decode_sample, encode_sample
from stream.log import MemoryLog
from tests.trainer.samples import CAPACITY, CONFIG, N_FIELDS, make_log, make_samples
from trainer.batch import Batch
from trainer.batcher import Batcher, Ranges, Told
from trainer.canary import Canary, CanaryRules
from trainer.gate import Band, Gate
from trainer.learner import Learner, Predicted
from trainer.loop import Loop, LoopRules, Standing, Step
from trainer.publication import Assembler, Publication, Refused, last_said

RULES = LoopRules(batch_samples=4, batch_span_ms=1_000, publish_ms=2_500, row_ttl_ms=24_000)
SAMPLES = make_samples(240, lengths=(0, 1, 3, 12), n_users=60, n_items=150)
LOG = make_log(SAMPLES, partitions=2)

Bits = dict[str, bytes]


class Saved(NamedTuple):
    """What a checkpoint of the loop holds."""

    version: Version
    at_ms: int
    offsets: dict[int, int]
    learner: dict[str, Any]
    stood: bytes

    def standing(self) -> Standing:
        return msgspec.msgpack.decode(self.stood, type=Standing)

    def bits(self) -> Bits:
        return {k: v.tobytes() for k, v in self.learner.items()}


class Run(NamedTuple):
    """Everything that a loop said, and where it stood after each step."""

    steps: list[Step]
    saved: list[Saved]
    publications: list[Publication]
    loop: Loop
    model: MemoryLog


def published(model: MemoryLog) -> list[Publication]:
    assembler = Assembler()
    return [p for r in model.read(0, 0, 10**6) if (p := assembler.add(r.key, r.value)) is not None]


def run(
    log: MemoryLog = LOG,
    rules: LoopRules = RULES,
    polls: list[int] | None = None,
    start: Saved | None = None,
    gate: Gate | None = None,
    canary: Canary | None = None,
    spoil: Callable[[Step, Learner], None] = lambda step, learner: None,
) -> Run:
    steps: list[Step] = []
    saved: list[Saved] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        spoil(step, learner)

    learner = Learner(CONFIG, CAPACITY) if start is None else Learner.restore(CONFIG, start.learner, CAPACITY)
    offsets = dict.fromkeys(range(log.partitions), 0) if start is None else start.offsets
    model = MemoryLog(1)
    loop = Saving(
        saved,
        learner,
        log.source(),
        model.sink(),
        offsets,
        rules,
        standing=None if start is None else start.standing(),
        gate=gate,
        read_back=lambda p, first, end: log.read(p, first, end - first),
        canary=canary,
        on_step=on_step,
    )
    sizes = polls or [512]
    for i in range(10**6):
        if loop.poll(sizes[i % len(sizes)], end=True) == 0:
            break
    return Run(steps, saved, published(model), loop, model)


class Saving(Loop):
    """A loop that could be restarted from each of its steps."""

    def __init__(self, states: list[Saved], *args: Any, **kwargs: Any) -> None:
        self.states = states
        super().__init__(*args, **kwargs)

    def _learn(self, samples: list[Sample], ranges: Ranges) -> None:
        super()._learn(samples, ranges)
        stood = msgspec.msgpack.encode(self.saved())
        self.states.append(
            Saved(self.version, self.at_ms, dict(self.offsets), dict(self.learner.state()), stood)
        )


WHOLE = run()


def records(log: MemoryLog, partition: int) -> list[Sample | Tick]:
    return [decode_sample(r.value) for r in log.read(partition, 0, 10**6)]


def test_every_sample_is_learned_once_in_the_batches_of_the_log() -> None:
    batcher = Batcher([0, 1], RULES.batch_samples, RULES.batch_span_ms)
    for p in range(2):
        for offset, message in enumerate(records(LOG, p)):
            batcher.add(p, offset, message)
    expected = []
    while (taken := batcher.take(end=True)) is not None:
        expected.append([s.impression for s in taken[0]])
    assert [[s.impression for s in step.samples] for step in WHOLE.steps] == expected
    assert sorted(name for batch in expected for name in batch) == sorted(s.impression for s in SAMPLES)
    assert WHOLE.loop.n_samples == len(SAMPLES)
    assert [step.version for step in WHOLE.steps] == [Version(0, n + 1) for n in range(len(expected))]


def test_the_journals_ranges_tile_the_samples() -> None:
    WHOLE.loop.publish()
    journal = [entry for p in [*WHOLE.publications, last(WHOLE)] for entry in p.journal]
    assert len(journal) == len(WHOLE.steps)
    at = dict.fromkeys(range(2), 0)
    for entry, step in zip(journal, WHOLE.steps, strict=True):
        learned = []
        for p, (start, stop) in entry.items():
            assert at[p] <= start < stop
            assert all(isinstance(m, Tick) for m in records(LOG, p)[at[p] : start])
            learned += [m.impression for m in records(LOG, p)[start:stop] if isinstance(m, Sample)]
            at[p] = stop
        assert sorted(learned) == sorted(s.impression for s in step.samples)
    for p in range(2):
        assert all(isinstance(m, Tick) for m in records(LOG, p)[at[p] :])
    assert WHOLE.loop.offsets == at


def last(run: Run) -> Publication:
    assembler = Assembler()
    sink: Any = run.loop._model
    return [p for r in sink._log.read(0, 0, 10**6) if (p := assembler.add(r.key, r.value)) is not None][-1]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
@settings(max_examples=6, deadline=None)
def test_the_sizes_of_polls_do_not_matter(polls: list[int]) -> None:
    again = run(polls=polls)
    assert again.saved[-1].version == WHOLE.saved[-1].version
    assert again.saved[-1].bits() == WHOLE.saved[-1].bits()
    assert [p.version for p in again.publications] == [p.version for p in WHOLE.publications]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_partition_that_is_silent_stops_the_others_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    most = 10
    monkeypatch.setattr("trainer.loop.WAITING_MOST", most)
    log, model = MemoryLog(2), MemoryLog(1)
    learner = Learner(CONFIG, CAPACITY)
    loop = Loop(learner, source := log.source(), model.sink(), {0: 0, 1: 0}, RULES)

    def read() -> None:
        while loop.poll(size):
            assert max(loop._batcher.n_waiting.values()) <= most + size

    for r in LOG.read(0, 0, 10**6):
        log.append(0, r.key, r.value)
    read()
    assert loop.paused == {0}
    assert loop.version.step == 0
    for r in LOG.read(1, 0, 10**6):
        log.append(1, r.key, r.value)
    read()
    while loop.poll(size, end=True):
        pass
    assert source.offsets == log.end()
    assert {k: v.tobytes() for k, v in learner.state().items()} == WHOLE.saved[-1].bits()
    assert [p.version for p in published(model)] == [p.version for p in WHOLE.publications]


@pytest.mark.parametrize("n", range(0, len(WHOLE.saved), 7))
def test_a_restart_from_any_step_repeats_the_same_bits(n: int) -> None:
    again = run(start=WHOLE.saved[n], polls=[1 + n])
    assert len(again.saved) == len(WHOLE.saved) - n - 1
    for a, b in zip(again.saved, WHOLE.saved[n + 1 :], strict=True):
        assert (a.version, a.at_ms, a.offsets) == (b.version, b.at_ms, b.offsets)
        assert a.bits() == b.bits()
    for x, y in zip(again.steps, WHOLE.steps[n + 1 :], strict=True):
        assert x.predicted.p.tobytes() == y.predicted.p.tobytes()


def mirrored(publications: list[Publication]) -> dict[int, tuple[int, int, bytes]]:
    """Rows by key, as someone has them who applied all publications: field, step, vector."""
    rows: dict[int, tuple[int, int, bytes]] = {}
    for p in publications:
        if p.since is None:
            rows = {}
        for key, field, step, vector in zip(p.keys, p.fields, p.steps, p.vectors, strict=True):
            rows[int(key)] = (int(field), int(step), vector.tobytes())
        for key in p.tombstones:
            rows.pop(int(key), None)
    return rows


def test_publications_chain_and_build_the_table_from_nothing() -> None:
    fresh = run()
    first, *rest = fresh.publications
    assert first.since is None
    assert len(rest) > 5
    for before, p in zip(fresh.publications, rest, strict=False):
        assert p.since == before.version < p.version
        assert p.journal
        assert set(p.steps) <= set(range(before.version.step + 1, p.version.step + 1))
    assert sum(len(p.tombstones) for p in rest) > 0
    assert len(rest[-1].keys) < fresh.loop.learner.table.n_rows
    for n, p in enumerate(fresh.publications):
        assert mirrored(fresh.publications[: n + 1]) == rows_of(fresh.saved[p.version.step - 1])


def rows_of(saved: Saved) -> dict[int, tuple[int, int, bytes]]:
    state: Mapping[str, Any] = saved.learner
    return {
        int(key): (int(field), int(changed), row.tobytes())
        for key, field, changed, row in zip(
            state["table.keys"],
            state["table.fields"],
            state["table.changed"],
            state["table.rows"],
            strict=True,
        )
        if key
    }


def test_a_publication_holds_the_dense_weights_and_the_place_in_the_log() -> None:
    for p in WHOLE.publications:
        saved = WHOLE.saved[p.version.step - 1]
        assert (p.at_ms, p.offsets) == (saved.at_ms, saved.offsets)
        for name, w in p.dense.items():
            if f"dense.{name}" in saved.learner:
                assert w.tobytes() == saved.learner[f"dense.{name}"].tobytes()
    names = {k.removeprefix("dense.") for k in WHOLE.saved[0].learner if k.startswith("dense.")}
    assert names <= WHOLE.publications[0].dense.keys()


@pytest.mark.parametrize("publish_ms", [1, 1_000, 2_500, 10**9])
def test_publications_fall_where_event_time_crosses_their_period(publish_ms: int) -> None:
    got = run(rules=replace(RULES, publish_ms=publish_ms))
    expected, before_ms = [], None
    for step in got.steps:
        at_ms = step.samples[-1].closed_ms
        if before_ms is None or at_ms // publish_ms != before_ms // publish_ms:
            expected.append(step.version)
        before_ms = at_ms
    assert [p.version for p in got.publications] == expected


def test_idle_rows_expire_and_are_published_as_gone() -> None:
    gone = {int(key) for p in WHOLE.publications for key in p.tombstones}
    assert gone
    for n, saved in enumerate(WHOLE.saved):
        seen = saved.learner["table.last_seen_ms"][saved.learner["table.keys"] != 0]
        # looked for sixteen times in a row's life, so none outlives it by more; at the first step all are new
        assert n == 0 or seen.min() >= saved.at_ms - RULES.row_ttl_ms * 17 / 16 - RULES.batch_span_ms
    kept = run(rules=replace(RULES, row_ttl_ms=10**8))
    assert not any(len(p.tombstones) for p in kept.publications)
    assert kept.loop.learner.table.n_rows > WHOLE.loop.learner.table.n_rows


def test_nothing_to_read_is_nothing_to_learn() -> None:
    log = MemoryLog(2)
    got = run(log=log)
    assert (got.steps, got.publications) == ([], [])
    assert got.loop.publish() == Version(0, 0)


class Turnstile:
    """Holds for so many Ticks out of some, and remembers what it was told."""

    def __init__(self, period: int = 9, held: int = 4) -> None:
        self.period, self.held = period, held
        self.heard: list[tuple[int, int]] = []
        self.n_predicted = 0

    def told(self, told: Told) -> None:
        self.heard.append((told.partition, told.offset))

    def why_not(self, samples: Sequence[Sample]) -> str:
        return "closed" if len(self.heard) % self.period >= self.period - self.held else ""

    def predicted(self, samples: Sequence[Sample], p: np.ndarray[Any, Any]) -> None:
        self.n_predicted += len(samples)

    def bands(self) -> tuple[Band, ...]:
        return (Band("data.coverage.click", len(self.heard) % self.period),)

    def state(self) -> bytes:
        return msgspec.msgpack.encode((self.heard, self.n_predicted))

    def load(self, state: bytes) -> None:
        self.heard, self.n_predicted = msgspec.msgpack.decode(state, type=tuple[list[tuple[int, int]], int])


GATED = run(gate=Turnstile())


def test_a_batch_that_is_held_is_predicted_and_moves_nothing() -> None:
    lasting = run(rules=replace(RULES, row_ttl_ms=10**8), gate=Turnstile())  # no row expires
    assert {bool(step.why_held) for step in lasting.steps} == {True, False}
    assert [s.impression for step in lasting.steps for s in step.samples] == [
        s.impression for step in WHOLE.steps for s in step.samples
    ]
    learned = sum(len(step.samples) for step in lasting.steps if not step.why_held)
    assert lasting.loop.n_samples == learned < len(SAMPLES)
    moving = ("table.rows", "dense.", "adam.", "table.keys", "table.codes")
    for before, after, step in zip(lasting.saved, lasting.saved[1:], lasting.steps[1:], strict=False):
        a, b = before.bits(), after.bits()
        still = all(a[name] == b[name] for name in a if name.startswith(moving))
        assert still == bool(step.why_held)
        assert after.version.step == before.version.step + 1
        if step.why_held:
            again = Learner.restore(CONFIG, before.learner, CAPACITY).predict(step.batch)
            assert again.tobytes() == step.predicted.p.tobytes()


def test_publications_say_what_was_held_and_how_old_what_was_learned_is() -> None:
    by_step = {step.version.step: step for step in GATED.steps}
    n_held = 0
    for before, p in pairwise(GATED.publications):
        steps = [by_step[n] for n in range(before.version.step + 1, p.version.step + 1)]
        assert [bool(step.why_held) for step in steps] == [i in p.passed_by for i in range(len(p.journal))]
        assert p.why_held == steps[-1].why_held
        ((_, heard, *_),) = [msgspec.structs.astuple(band) for band in p.bands]
        assert (heard >= 5) == bool(p.why_held)
        learned = [
            step.samples[-1].closed_ms
            for n, step in by_step.items()
            if n <= p.version.step and not step.why_held
        ]
        assert p.at_ms == max(learned)
        n_held += len(p.passed_by)
    assert n_held > 5


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
@settings(max_examples=4, deadline=None)
def test_what_is_held_does_not_depend_on_the_sizes_of_polls(polls: list[int]) -> None:
    again = run(polls=polls, gate=Turnstile())
    assert again.saved[-1].bits() == GATED.saved[-1].bits()
    assert again.saved[-1].standing().held == GATED.saved[-1].standing().held


@pytest.mark.parametrize("n", range(3, len(GATED.saved), 6))
def test_a_restart_from_any_step_holds_the_same_batches(n: int) -> None:
    again = run(start=GATED.saved[n], polls=[1 + n], gate=Turnstile())
    assert len(again.saved) == len(GATED.saved) - n - 1
    for a, b in zip(again.saved, GATED.saved[n + 1 :], strict=True):
        assert (a.version, a.at_ms, a.offsets, a.standing().held) == (
            b.version,
            b.at_ms,
            b.offsets,
            b.standing().held,
        )
        assert a.bits() == b.bits()
    assert [step.why_held for step in again.steps] == [step.why_held for step in GATED.steps[n + 1 :]]


def make_dense(lag_ms: int) -> MemoryLog:
    """A sample every millisecond, and among them Ticks that are so far behind."""
    log = MemoryLog(2)
    for n, s in enumerate(make_samples(120, lengths=(0, 1, 3), n_users=30, n_items=50, every_ms=1)):
        for p in range(2):
            if n % (5 + 2 * p) == 0:
                log.append(p, b"", encode_sample(Tick(s.closed_ms - lag_ms)))
        log.append(s.user % 2, b"", encode_sample(s))
    return log


@pytest.mark.parametrize("lag_ms", [1, 40], ids=["window", "eager"])
def test_a_restart_within_a_burst_hears_every_tick_before_the_same_batch(lag_ms: int) -> None:
    log = make_dense(lag_ms)
    whole = run(log=log, gate=Turnstile(7, 3))
    assert {bool(step.why_held) for step in whole.steps} == {True, False}
    for n, start in enumerate(whole.saved[:-1]):
        again = run(log=log, start=start, polls=[1 + n], gate=Turnstile(7, 3))
        assert [step.why_held for step in again.steps] == [step.why_held for step in whole.steps[n + 1 :]]
        assert again.saved[-1].standing().gate == whole.saved[-1].standing().gate
        assert again.saved[-1].bits() == whole.saved[-1].bits()


BREAKER = BreakerRules(("click",), partitions=2)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("bad", [30, len(WHOLE.steps)])
def test_a_batch_that_is_skipped_was_not_learned(
    monkeypatch: pytest.MonkeyPatch, watched: bool, bad: int
) -> None:
    learn = Learner.step

    def step(self: Learner, batch: Batch) -> Predicted:
        weight = self._dense.data[:1]
        before = float(weight)
        if self.n_steps == bad - 1:
            weight.fill_(np.nan)
        predicted = learn(self, batch)
        if not predicted.learned:
            weight.fill_(before)
        return predicted

    monkeypatch.setattr(Learner, "step", step)
    got = run(gate=Breaker(BREAKER) if watched else None)
    assert got.loop.learner.n_bad == 1
    assert [s.version.step for s in got.steps] == [n for n in range(1, len(WHOLE.steps) + 1) if n != bad]
    assert got.loop.n_samples == sum(len(s.samples) for s in got.steps) < len(SAMPLES)
    assert got.loop.standing.learned_ms == got.steps[-1].samples[-1].closed_ms


def test_what_is_held_while_a_model_predicts_nothing_has_no_figures() -> None:
    def spoil(step: Step, learner: Learner) -> None:
        if step.version.step == 30:
            learner._dense.data.fill_(np.nan)

    breaker = Breaker(BREAKER)
    breaker.order("hold")
    got = run(gate=breaker, spoil=spoil)
    assert [step.version.step for step in got.steps] == list(range(1, 31))
    assert got.loop.version == WHOLE.loop.version


def with_orders(orders: Mapping[int, str]) -> MemoryLog:
    """The log of samples with orders behind the sample of these numbers."""
    log, said = MemoryLog(2), 0
    for n, s in enumerate(SAMPLES):
        if said and s.closed_ms // 1_000 > said // 1_000:
            for p in range(2):
                log.append(p, b"", encode_sample(Tick(s.closed_ms - 1)))
        said = s.closed_ms
        log.append(s.user % 2, b"", encode_sample(s))
        if n in orders:
            log.append(0, b"", encode_sample(Tick(said, orders[n])))
    return log


class Person:
    """Holds by order alone."""

    def __init__(self) -> None:
        self.holds = False

    def told(self, told: Told) -> None:
        if told.tick.order:
            self.holds = told.tick.order == "hold"

    def why_not(self, samples: Sequence[Sample]) -> str:
        return "ordered" if self.holds else ""

    def predicted(self, samples: Sequence[Sample], p: np.ndarray[Any, Any]) -> None: ...

    def bands(self) -> tuple[Band, ...]:
        return ()

    def state(self) -> bytes:
        return b"1" if self.holds else b"0"

    def load(self, state: bytes) -> None:
        self.holds = state == b"1"


@pytest.mark.parametrize("order", ["learn", "release"])
def test_what_was_held_is_learned_in_its_batches_or_given_up(order: str) -> None:
    got = run(log=with_orders({60: "hold", 130: order}), gate=Person())
    held = [step for step in got.steps if step.why_held]
    names = [s.impression for step in held for s in step.samples]
    assert 40 < len(names) < 100
    assert got.loop.standing.held == []
    n_again = len(held) if order == "learn" else 0
    assert got.loop.n_samples == len(SAMPLES) - (0 if order == "learn" else len(names))
    assert got.loop.version.step == len(got.steps) + n_again
    if order == "learn":  # the same as learning these batches one after the other where the order stands
        last_held = held[-1].version.step
        before = next(s for s in got.saved if s.version.step == last_held)
        learner = Learner.restore(CONFIG, before.learner, CAPACITY)
        for step in held:
            learner.step(step.batch)
        first_after = next(step for step in got.steps if step.version.step > last_held)
        learner.step(first_after.batch)
        after = next(s for s in got.saved if s.version == first_after.version)
        assert {k: v.tobytes() for k, v in learner.state().items()} == after.bits()


def test_an_order_that_is_none_is_ignored() -> None:
    got = run(log=with_orders({60: "holt"}), gate=Person())
    assert not any(step.why_held for step in got.steps)
    assert got.saved[-1].bits() == run(log=with_orders({})).saved[-1].bits()


HELD_BACK = CanaryRules(0.5, N_FIELDS, 1, n_slates=40)


FROM, UNTIL = 36, 50


def spoiled(step: Step, learner: Learner) -> None:
    """Turns every weight round at one step, and back again a while later."""
    if step.version.step in (FROM, UNTIL):
        learner._dense.data *= -8 if step.version.step == FROM else -1 / 8


def refusals(model: MemoryLog) -> list[Refused]:
    return [
        msgspec.json.decode(r.value, type=Refused) for r in model.read(0, 0, 10**6) if r.key == b"refused"
    ]


CANARY = run(canary=Canary(HELD_BACK))


def test_who_is_held_back_is_predicted_and_never_learned() -> None:
    held = {s.user for step in CANARY.steps for s, own in zip(step.samples, mask(step), strict=True) if own}
    assert 10 < len(held) < 50
    for step in CANARY.steps:
        assert [s.user in held for s in step.samples] == mask(step).tolist()
    assert not set(CANARY.loop.learner.table.keys.tolist()) & held
    assert CANARY.loop.n_samples == sum(s.user not in held for s in SAMPLES)
    assert refusals(CANARY.model) == []
    for before, step in zip(CANARY.saved, CANARY.steps[1:], strict=False):
        again = Learner.restore(CONFIG, before.learner, CAPACITY)
        own = mask(step)[step.batch.slate]
        np.testing.assert_allclose(again.predict(step.batch)[own], step.predicted.p[own], atol=1e-6)


def test_what_was_held_is_learned_without_the_users_who_are_held_back() -> None:
    log, lasting = with_orders({60: "hold", 130: "learn"}), replace(RULES, row_ttl_ms=10**8)
    got = run(log=log, gate=Person(), canary=Canary(HELD_BACK), rules=lasting)
    own = {s.user for s in SAMPLES if Canary(HELD_BACK).is_held_back(s)}
    held = [step for step in got.steps if step.why_held]
    learned_again = [step for step in held if not mask(step).all()]
    assert len(held) > len(learned_again) > 5  # some are the canary's alone
    assert not set(got.loop.learner.table.keys.tolist()) & own
    assert got.loop.n_samples == sum(s.user not in own for s in SAMPLES)
    assert got.loop.version.step == len(got.steps) + len(learned_again)
    journal = [entry for p in got.publications for entry in p.journal]
    assert len(journal) + len(got.loop.standing.journal) == got.loop.version.step


def mask(step: Step) -> np.ndarray[Any, np.dtype[np.bool_]]:
    assert step.held_back is not None
    return step.held_back


def test_a_model_that_is_worse_for_those_held_back_does_not_go_live() -> None:
    got = run(rules=replace(RULES, publish_ms=1), canary=Canary(HELD_BACK), spoil=spoiled)
    found = refusals(got.model)
    assert all("slates held back" in r.why for r in found)
    steps = [r.version.step for r in found]
    assert steps[0] == FROM
    assert len(steps) > 2
    live, after = Version(0, FROM - 1), next(p for p in got.publications if p.version.step >= FROM)
    assert {r.live for r in found if r.version < after.version} == {live}
    assert after.since == live  # it reaches back over all that was refused
    so_far = got.publications[: got.publications.index(after) + 1]
    assert mirrored(so_far) == rows_of(got.saved[after.version.step - 1])


class Lasting:
    """Turns the dense weights round at one step, and keeps them so whatever is learned until a later one."""

    def __init__(self, until: int) -> None:
        self.until = until

    def __call__(self, step: Step, learner: Learner) -> None:
        if step.version.step == FROM:
            self.good = learner._dense.data.clone()
        if FROM <= step.version.step <= self.until:
            learner._dense.data.copy_(self.good * (-8 if step.version.step < self.until else 1))


EACH = replace(RULES, publish_ms=1)


def test_a_model_that_stays_worse_stays_refused() -> None:
    until = 84
    got = run(rules=EACH, canary=Canary(HELD_BACK), spoil=Lasting(until))
    came = sum(int(mask(step).sum()) for step in got.steps if FROM <= step.version.step < until)
    assert came > HELD_BACK.n_slates  # none of those that were tried first is among the newest
    assert [r.version.step for r in refusals(got.model)][: until - FROM] == list(range(FROM, until))
    assert {r.live for r in refusals(got.model)} == {Version(0, FROM - 1)}
    assert got.publications[-1].version.step > until  # healed


@pytest.mark.parametrize("order", ["release", "learn"])
def test_what_is_refused_goes_live_when_it_is_released(order: str) -> None:
    log = with_orders({200: order})
    got = run(log=log, rules=EACH, gate=Person(), canary=Canary(HELD_BACK), spoil=Lasting(1000))
    last = refusals(got.model)[-1].version.step
    assert [p.version.step for p in got.publications if p.version.step >= FROM] == [
        step.version.step for step in got.steps if step.version.step > last
    ]
    first = next(step for step in got.steps if step.version.step == last + 1)
    assert SAMPLES[200].closed_ms < first.samples[-1].closed_ms < SAMPLES[206].closed_ms


def test_a_release_lets_nothing_pass_that_comes_later() -> None:
    plain = run(rules=EACH, gate=Person(), canary=Canary(HELD_BACK), spoil=spoiled)
    before = next(step for step in plain.steps if step.version.step == FROM - 1)
    log = with_orders({SAMPLES.index(before.samples[-1]): "release"})
    released = run(log=log, rules=EACH, gate=Person(), canary=Canary(HELD_BACK), spoil=spoiled)
    assert refusals(released.model) == refusals(plain.model) != []


@pytest.mark.parametrize("n", [10, 35, 37, 44, 55])
def test_a_restart_refuses_the_same_and_tells_it_once(n: int) -> None:
    whole = run(canary=Canary(HELD_BACK), spoil=spoiled)
    start = whole.saved[n]
    again = run(start=start, canary=Canary(HELD_BACK), spoil=spoiled)
    later = [r.version for r in refusals(whole.model) if r.version > start.version]
    assert [r.version for r in refusals(again.model)] == later
    assert again.saved[-1].bits() == whole.saved[-1].bits()
    # with the log as it was, nothing is told twice
    said = last_said(whole.model.source())
    assert said.told == max(
        [p.version for p in whole.publications] + [r.version for r in refusals(whole.model)]
    )
