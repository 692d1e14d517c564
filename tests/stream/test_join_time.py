"""The joiner's order and time: what closes when, what Ticks tell, and what the eager policy sends at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import (
    Action,
    Event,
    Impression,
    Origin,
    Tick,
    encode_event,
)
from stream.join import Dead, Joiner, JoinRules
from stream.log import Record
from tests.stream.event_logs import (
    FIELDS,
    RULES,
    click,
    flush,
    impression,
    in_time,
    logs,
    patient,
    records,
    rules_of_all_sizes,
    run,
    samples,
    steadily,
)

pytestmark = pytest.mark.usefixtures("small_blocks")


# ---- order and time


@steadily
@given(logs(), rules_of_all_sizes, st.sampled_from(["window", "eager"]))
def test_closed_ms_never_goes_back_and_ticks_divide_it(
    log: list[Event], rules: JoinRules, policy: Any
) -> None:
    outputs = run([*log, *flush()], replace(rules, policy=policy))
    closed = [
        out.at_ms if isinstance(out, Tick) else out.closed_ms for out in outputs if not isinstance(out, Dead)
    ]
    if policy == "window":
        assert closed == sorted(closed)
    else:
        assert [s.closed_ms for s in samples(outputs)] == sorted(s.closed_ms for s in samples(outputs))
    for i, out in enumerate(outputs):
        if isinstance(out, Tick):
            assert all(s.closed_ms > out.at_ms for s in samples(outputs[i:]))
    ticks = [out.at_ms for out in outputs if isinstance(out, Tick)]
    assert len(ticks) == len({t // rules.tick_ms for t in ticks})


@steadily
@given(logs(), rules_of_all_sizes)
def test_ticks_tell_every_multiple_the_watermark_passes(log: list[Event], rules: JoinRules) -> None:
    joiner = Joiner(rules, FIELDS, 0)
    last = joiner.watermark_ms
    for record in records(log):
        ticks = [out.at_ms for out in joiner.apply(record) if isinstance(out, Tick)]
        passed = joiner.watermark_ms // rules.tick_ms > last // rules.tick_ms
        assert ticks == [joiner.watermark_ms] * passed
        last = joiner.watermark_ms


@steadily
@given(logs())
def test_the_last_tick_says_what_was_read_and_what_became_of_it(log: list[Event]) -> None:
    joiner, last = Joiner(RULES, FIELDS, 0), Tick(0)
    for record in records([*log, *flush()]):
        counts = joiner.counts
        for out in joiner.apply(record):
            if isinstance(out, Tick):
                assert out.counts["in"] == counts["in"] + 1
                assert all(out.counts[name] >= n for name, n in last.counts.items() if name != "pending")
                last = out
    kept = in_time([*log, *flush()], RULES)
    shown = {(e.user, e.id): e for e in reversed(kept) if isinstance(e, Impression)}
    behaviours, labels = set[Any](), set[Any]()
    expected = {"impression": len(shown), "click": 0, "buy": 0}
    for a in kept:
        if not isinstance(a, Action):
            continue
        behaviour = (a.user, a.kind, a.item, a.at_ms, *a.features.values())
        is_new = a.kind in RULES.history_kinds and behaviour not in behaviours
        behaviours.add(behaviour)
        if a.impression is None or a.kind not in RULES.windows:
            continue
        of, label = shown.get((a.user, a.impression)), (a.user, a.impression, a.item, a.kind)
        if (
            of is not None
            and a.item in [c.item for c in of.candidates]
            and 0 <= a.at_ms - of.at_ms <= RULES.windows[a.kind]
            and label not in labels
        ):
            labels.add(label)
            expected[a.kind] += 1
        else:
            expected[a.kind] += is_new
    assert last.read == expected


def test_an_order_is_passed_on_in_its_place_however_late_it_is() -> None:
    log = [Tick(1_000), Tick(1_002, "hold"), Tick(1_050), Tick(900, "release"), Tick(1_055)]
    told = [(t.at_ms, t.order) for t in run(log) if isinstance(t, Tick)]
    assert told == [(984, ""), (986, "hold"), (1_034, ""), (1_034, "release")]
    assert [t.order for t in run([Tick(3, "hold"), Tick(20)]) if isinstance(t, Tick)] == [""]


def test_no_tick_is_told_before_time_begins() -> None:
    ticks = [out for out in run([Tick(0), Tick(7), Tick(15), Tick(16), Tick(17)]) if isinstance(out, Tick)]
    assert [t.at_ms for t in ticks] == [0]


@steadily
@given(logs())
def test_origins_name_the_record_that_moved_the_watermark_and_never_go_back(log: list[Event]) -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    origins: list[Origin] = []
    for record in records([*log, *flush()]):
        out = samples(joiner.apply(record))
        assert all(s.origin[:2] == record[:2] for s in out)
        origins += [s.origin for s in out]
    assert origins == sorted(set(origins))


def test_a_far_event_moves_nothing_and_a_far_tick_only_so_far() -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    far = records([Tick(1_000), click(1_301), Tick(99_999), click(1_600)])
    joiner.apply(far[0])
    [dead] = joiner.apply(far[1])
    assert isinstance(dead, Dead)
    assert (dead.reason, dead.offset, dead.value) == ("future", 1, far[1].value)
    assert "Expected at most 1300, got 1301" in dead.detail
    assert joiner.clock_ms == 1_000
    joiner.apply(far[2])
    assert joiner.clock_ms == 1_300
    joiner.apply(far[3])
    assert joiner.clock_ms == 1_600
    assert joiner.watermark_ms == 1_600 - 15 - 1


@pytest.mark.parametrize("first", [1_000, 1])
@pytest.mark.parametrize("gap_ms", [301, 900, 10**9])
def test_two_ticks_that_agree_cross_any_gap(gap_ms: int, first: int) -> None:
    now = 1_000 + gap_ms
    log: list[Event] = [impression(0, "ada", first, "a"), Tick(now), Tick(now + 1)]
    log += [impression(n, "ada", now + n, "a") for n in range(1, 99)]
    log += [Tick(now + 400), Tick(now + 700)]
    assert len(samples(run(log))) == 99
    assert len(samples(run([log[0], *log[3:-2]]))) < 2  # without them all is too far ahead


@steadily
@given(logs(), st.integers(0, 30), st.integers(301, 10**12), st.integers(1, 3))
def test_a_wrong_tick_pushes_by_a_jump_at_most_however_often_it_was_sent(
    log: list[Event], place: int, far_ms: int, n: int
) -> None:
    log = [Tick(1_000), *log]
    place = min(place, len(log) - 1) + 1
    joiner = Joiner(RULES, FIELDS, 0)
    for record in records([*log[:place], *[Tick(10_000 + far_ms)] * n, *log[place:]]):
        before_ms = joiner.clock_ms
        joiner.apply(record)
        joiner = Joiner.restore(RULES, FIELDS, 0, joiner.snapshot())
        assert record.offset == 0 or joiner.clock_ms <= before_ms + RULES.max_jump_ms


def test_orders_bear_out_no_tick_and_no_order() -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    far: list[Event] = [Tick(10**9), Tick(10**9 + 1, "hold"), Tick(10**9 + 2, "release"), Tick(1_500)]
    for record in records([Tick(1_000), *far]):
        joiner.apply(record)
    assert joiner.clock_ms == 1_000 + 3 * RULES.max_jump_ms
    joiner.apply(Record(0, 9, b"", encode_event(Tick(10**9 + 3))))
    assert joiner.clock_ms == 1_000 + 4 * RULES.max_jump_ms  # the Tick before said something else


# ---- the eager policy


@steadily
@given(logs())
def test_eager_tells_each_label_of_the_window_policy_once_and_at_its_time(log: list[Event]) -> None:
    rules = patient(log)
    final = samples(run([*log, *flush()], rules))
    eager = samples(run([*log, *flush()], replace(rules, policy="eager")))
    early = [s for s in eager if s.stage == "early"]
    assert Counter(s.impression for s in early) == Counter(s.impression for s in final)
    assert not any(any(s.labels) for s in early)

    said = Counter[tuple[Any, ...]]()
    for s in eager:
        if s.stage == "click":
            [row], [label] = s.item_keys(2).tolist(), s.label_matrix(2).tolist()
            assert sum(label) == 1
            assert len(s.scores) in (0, 8)
            said[s.user, s.impression, tuple(row), label.index(1)] += 1
    expected = Counter(
        (s.user, s.impression, tuple(s.item_keys(2)[c].tolist()), int(k))
        for s in final
        for c, k in np.argwhere(s.label_matrix(2))
    )
    assert said == expected


def test_an_early_sample_leaves_with_its_impression_and_a_click_with_its_action() -> None:
    joiner = Joiner(replace(RULES, policy="eager"), FIELDS, 0)
    log: list[Event] = [impression(1, "ada", 1_000, "abc", True), Action("click", "ada", "c", 1_020, "i1")]
    [first, second] = [[s] for r in records(log) for s in samples(joiner.apply(r))]
    assert [(s.stage, s.closed_ms, s.origin[:2]) for s in first + second] == [
        ("early", 1_000, (0, 0)),
        ("click", 1_020, (0, 1)),
    ]
    assert np.frombuffer(second[0].scores).tolist() == [1 / 7 + 2]
    assert second[0].side == first[0].side
