"""Windows judged: alerts are raised, go on and are over; what has a cause is silent; a restart changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alert import Alert
from monitor.alerting import Judge, Judged
from monitor.detectors import Band, Limits
from monitor.row import Row, Source, Value
from monitor.rules import Rule, Rules, read_rules

MINUTE = 60_000
COVERAGE, CALIBRATION = "data.coverage.click", "quality.calibration.click"


def rule(name: str, metric: str, explains: tuple[str, ...] = (), **more: object) -> Rule:
    given: dict[str, object] = {
        "detector": Limits(above=1.0),
        "size_ms": MINUTE,
        "severity": "note",
        "reason": "{value}",
        "remedy": "Look.",
        "linger": 3,
        **more,
    }
    return Rule(id=name, metrics=(metric,), explains=explains, **given)  # type: ignore[arg-type]


CAUSE = rule("cause", "data.late", ("effect",))
EFFECT = rule("effect", "quality.held")
TWO = Rules([CAUSE, EFFECT])


def row(source: Source, minute: int, **values: float) -> Row:
    named = {name.replace("_", "."): Value(x, 1_000) for name, x in values.items()}
    return Row(source, MINUTE, minute * MINUTE, named, {0: (minute * 10, minute * 10 + 10)})


def late(minute: int, x: float) -> Row:
    return row("data", minute, data_late=x)


def held(minute: int, x: float) -> Row:
    return row("quality", minute, quality_held=x)


def judged(judge: Judge, rows: Iterable[Row]) -> list[Judged]:
    return [judge.add(each) for each in rows]


def raised(found: Sequence[Judged]) -> list[str]:
    return [alert.rule for each in found for alert in each.raised]


def test_an_alert_is_raised_once_goes_on_and_is_over() -> None:
    judge = Judge(TWO)
    found = judged(judge, [late(n, x) for n, x in enumerate([0, 2, 3, 2, 0, 0, 2])])
    assert [len(each.raised) for each in found] == [0, 1, 0, 0, 0, 0, 1]
    assert [len(each.cleared) for each in found] == [0, 0, 0, 0, 1, 0, 0]
    first, over = found[1].raised[0], found[4].cleared[0]
    assert (first.id, over.id) == ("cause:data.late:60000", "cause:data.late:60000")
    assert (first.start_ms, first.raised_ms, first.cleared_ms) == (60_000, 120_000, None)
    assert over.cleared_ms == 300_000
    assert (first.value, first.n, first.reference, first.detector) == (2.0, 1_000, 1.0, "limits")
    assert first.offsets == {0: (10, 20)}
    assert [alert.id for alert in judge.open] == ["cause:data.late:360000"]


def test_windows_in_a_row_raise_it_and_their_offsets_are_joined() -> None:
    judge = Judge(Rules([rule("slow", "data.late", in_a_row=3)]))
    found = judged(judge, [late(n, x) for n, x in enumerate([2, 2, 0, 2, 2, 2, 2, 0, 0, 2, 0, 0, 0])])
    assert [n for n, each in enumerate(found) if each.raised] == [5]
    assert [n for n, each in enumerate(found) if each.cleared] == [12]
    alert = found[5].raised[0]
    assert (alert.start_ms, alert.raised_ms, alert.offsets) == (180_000, 360_000, {0: (30, 60)})


def test_what_is_too_few_is_not_judged() -> None:
    judge = Judge(TWO)
    few = Row("data", MINUTE, 0, {"data.late": Value(5.0, 99)})
    assert judge.add(few) == Judged()
    none = Row("data", MINUTE, MINUTE, {"data.late": Value(None, 1_000)})
    assert judge.add(none) == Judged()
    assert raised([judge.add(Row("data", MINUTE, 2 * MINUTE, {"data.late": Value(5.0, 100)}))]) == ["cause"]


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_a_cause_silences_what_it_explains_in_whichever_order_they_are_told(order: tuple[int, ...]) -> None:
    rows = []
    for minute in range(8):
        both = [late(minute, 2 * (2 <= minute < 5)), held(minute, 2 * (2 <= minute < 6))]
        rows += [both[i] for i in order]
    found = judged(Judge(TWO), rows)
    assert raised(found) == ["cause"]
    silenced = [s for each in found for s in each.silenced]
    assert [(s.alert.rule, s.by) for s in silenced] == [("effect", "cause")]


def test_an_effect_alone_is_raised_as_soon_as_its_cause_could_have_shown() -> None:
    judge = Judge(TWO)
    judged(judge, [late(0, 0), held(0, 0)])
    assert raised([judge.add(held(1, 2))]) == []
    assert raised([judge.add(late(1, 0))]) == ["effect"]


def test_an_effect_waits_for_a_cause_that_takes_more_windows() -> None:
    slow = Rules([rule("cause", "data.late", ("effect",), in_a_row=2), rule("effect", "data.dead")])

    def both(minute: int, cause: float, effect: float) -> Row:
        return row("data", minute, data_late=cause, data_dead=effect)

    found = judged(Judge(slow), [both(0, 0, 0), both(1, 2, 2), both(2, 2, 2), both(3, 0, 0)])
    assert raised(found) == ["cause"]
    assert [s.by for each in found for s in each.silenced] == ["cause"]
    found = judged(Judge(slow), [both(0, 0, 0), both(1, 2, 2), both(2, 0, 2)])
    assert [n for n, each in enumerate(found) if each.raised] == [2]
    assert raised(found) == ["effect"]


def test_an_effect_does_not_wait_for_a_source_that_is_silent() -> None:
    judge = Judge(TWO)
    judged(judge, [late(0, 0), held(0, 0)])
    found = judged(judge, [held(n, 2) for n in range(1, 5)])
    assert [n for n, each in enumerate(found, 1) if each.raised] == [3]
    assert raised(judged(Judge(TWO), [held(0, 2)])) == ["effect"]  # nothing else was ever told


def test_an_effect_that_stays_when_its_cause_is_long_over_is_raised() -> None:
    rows = [r for n in range(12) for r in (late(n, 2 * (n == 2)), held(n, 2 * (n >= 2)))]
    found = judged(Judge(TWO), rows)
    alerts = [alert for each in found for alert in each.raised]
    assert [alert.rule for alert in alerts] == ["cause", "effect"]
    # the cause is over at the end of minute 3, and lingers for three windows
    assert [n for n, each in enumerate(found) if each.raised] == [4, 2 * 8 + 1]
    assert alerts[1].start_ms == 2 * MINUTE


def test_an_effect_soon_after_its_cause_is_silent_and_one_later_is_not() -> None:
    def run(begins: int) -> list[str]:
        rows = [r for n in range(20) for r in (late(n, 2 * (n == 2)), held(n, 2 * (n == begins)))]
        return raised(judged(Judge(TWO), rows))

    assert run(7) == ["cause"]
    assert run(8) == ["cause", "effect"]


def test_an_alert_that_is_over_before_it_is_decided_is_told_all_the_same() -> None:
    judge = Judge(TWO)
    judged(judge, [late(0, 0), held(0, 0), held(1, 2), held(2, 0)])
    found = judge.add(late(1, 0))
    assert [a.id for a in found.raised] == [a.id for a in found.cleared] == ["effect:quality.held:60000"]
    assert (found.raised[0].cleared_ms, found.cleared[0].cleared_ms) == (None, 3 * MINUTE)


def test_what_was_judged_in_windows_of_another_size_is_forgotten() -> None:
    judge = Judge(TWO)
    judged(judge, [late(0, 0), held(0, 0), held(1, 2)])
    ten = 10 * MINUTE
    longer = Rules([CAUSE, rule("effect", "quality.held", size_ms=ten)])
    again = Judge.decode(longer, judge.encode())
    assert again.add(held(2, 2)) == again.add(late(1, 0)) == Judged()
    again.add(Row("quality", ten, 0, {"quality.held": Value(2.0, 1_000)}))
    found = judged(again, [late(n, 0) for n in range(2, 11)])
    assert [(a.id, a.size_ms) for each in found for a in each.raised] == [("effect:quality.held:0", ten)]


def test_what_is_not_judged_for_long_is_over() -> None:
    judge = Judge(Rules([rule("gone", "data.late", adopt=5)]))
    judged(judge, [late(0, 2)])
    found = judged(judge, [row("data", n, data_events=3) for n in range(1, 8)])
    assert [n for n, each in enumerate(found, 1) if each.cleared] == [5]


def minutes(coverage: float, calibration: float, n: int, rng: np.random.Generator) -> list[Row]:
    start = n * MINUTE
    data = {COVERAGE: Value(float(rng.normal(coverage, 0.03)), 300, 0.03)}
    quality = {CALIBRATION: Value(float(rng.normal(calibration, 0.03)), 3_000, 0.03)}
    offsets = {0: (n * 400, n * 400 + 400)}
    return [Row("data", MINUTE, start, data, offsets), Row("quality", MINUTE, start, quality, offsets)]


def dead_hour(seed: int) -> list[Row]:
    """Clicks stop in minute 40 and come back in minute 50; predictions follow."""
    rng, rows = np.random.default_rng(seed), []
    for n in range(120):
        coverage = 0.0 if 40 <= n < 50 else 0.4
        calibration = {True: 3.0, False: 0.6 if 50 <= n < 58 else 1.0}[41 <= n < 50]
        rows += minutes(coverage, calibration, n, rng)
    return rows


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 30))
def test_a_dead_click_stream_is_one_alert(seed: int) -> None:
    judge = Judge(read_rules())
    found = judged(judge, dead_hour(seed))
    alerts = [alert for each in found for alert in each.raised]
    assert [a.rule for a in alerts] == ["clicks-stopped"]
    assert alerts[0].start_ms == 40 * MINUTE
    assert [a.cleared_ms for each in found for a in each.cleared] == [51 * MINUTE]
    assert judge.open == []
    assert {s.alert.rule for each in found for s in each.silenced} == {"ctr-drop", "calibration-off"}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 20), cut=st.integers(0, 240), back=st.integers(0, 30))
def test_a_restart_anywhere_changes_nothing(seed: int, cut: int, back: int) -> None:
    """The state is encoded, and windows that were judged before come again."""
    rules, rows = read_rules(), dead_hour(seed)
    straight, stopped = Judge(rules), Judge(rules)
    expected = judged(straight, rows)
    found = judged(stopped, rows[:cut])
    again = Judge.decode(rules, stopped.encode())
    assert again.encode() == stopped.encode()
    assert all(each == Judged() for each in judged(again, rows[max(0, cut - back) : cut]))
    assert found + judged(again, rows[cut:]) == expected
    assert again.encode() == straight.encode()


def test_of_a_rule_that_is_gone_nothing_is_kept() -> None:
    judge = Judge(TWO)
    judged(judge, [late(0, 2), held(0, 2)])
    alone = Judge.decode(
        Rules([rule("cause", "data.duplicate"), rule("effect", "quality.held")]), judge.encode()
    )
    assert [a.rule for a in alone.open] == []
    assert raised([alone.add(held(1, 2))]) == ["effect"]


@settings(deadline=None)
@given(levels=st.lists(st.tuples(st.sampled_from([0.0, 2.0]), st.sampled_from([0.0, 2.0])), max_size=40))
def test_alerts_of_a_rule_and_metric_follow_each_other_and_never_two_at_once(
    levels: list[tuple[float, float]],
) -> None:
    judge = Judge(TWO)
    open_now: dict[tuple[str, str], Alert] = {}
    for n, (cause, effect) in enumerate(levels):
        for each in judged(judge, [late(n, cause), held(n, effect)]):
            for alert in each.raised:
                assert (alert.rule, alert.metric) not in open_now
                open_now[alert.rule, alert.metric] = alert
            for alert in each.cleared:
                assert open_now.pop((alert.rule, alert.metric)).id == alert.id
                assert alert.cleared_ms is not None
                assert alert.cleared_ms > alert.start_ms
        assert {a.id for a in judge.open} == {a.id for a in open_now.values()}


def test_eight_hours_of_noise_raise_nothing_and_a_band_tighter_than_chance_would() -> None:
    """What keeps the alarms down is the width of the band, not that nothing is judged."""
    rng = np.random.default_rng(7)
    rows = [r for n in range(480) for r in minutes(0.4, 1.0, n, rng)]
    assert raised(judged(Judge(read_rules()), rows)) == []
    tight = Rules([rule("tight", COVERAGE, detector=Band(z=1.5))])
    assert len(raised(judged(Judge(tight), rows))) > 20
