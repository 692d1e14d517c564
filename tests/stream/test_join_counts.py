"""What becomes of everything that the joiner reads, poison too, and what it keeps."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import (
    Action,
    Event,
    Sample,
    Tick,
    encode_event,
    encode_sample,
)
from stream.fields import Fields
from stream.join import Dead, Joiner, JoinRules, OffsetWentBack, Output
from stream.log import Record
from tests.stream.event_logs import (
    FIELDS,
    RULES,
    click,
    flush,
    impression,
    logs,
    records,
    rules_of_all_sizes,
    samples,
    steadily,
    thoroughly,
)

pytestmark = pytest.mark.usefixtures("small_blocks")


# ---- poison, and what becomes of everything


def total(counts: dict[str, int]) -> int:
    return sum(n for name, n in counts.items() if name != "in")


odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**53,
        2**64,
        10**400,
        1.5,
        1e308,
        "",
        "x",
        "\0",
        "\ud800",
        "é" * 600,
        [],
        {},
        [[]],
        [1, 2],
    ]
)


@st.composite
def nasty(draw: st.DrawFn) -> bytes:
    """An event with something wrong, or no event at all."""
    events: list[Event] = [impression(0, "ada", 1_010, "ab", True), Action("click", "ada", "a", 1_020, "i0")]
    o: Any = json.loads(encode_event(draw(st.sampled_from(events))))
    parts = [part for part in (o, o.get("context"), o.get("features"), *o.get("candidates", [])) if part]
    for _ in range(draw(st.integers(1, 3))):
        inner = draw(st.sampled_from(parts))
        names = [*inner, "topic", "device", "age", "schema", "version"]
        inner[draw(st.sampled_from(names))] = draw(odd_values)
    raw = json.dumps(o, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        return raw
    cut = draw(st.integers(0, len(raw)))
    return draw(
        st.sampled_from(
            [raw[:cut], raw[:cut] + b"\xff" + raw[cut:], draw(st.binary(max_size=9)), b"[" * 9_999]
        )
    )


@thoroughly
@given(
    logs(), st.lists(nasty(), max_size=8), rules_of_all_sizes, st.sampled_from(["window", "eager"]), st.data()
)
def test_nothing_raises_and_everything_is_counted_once(
    log: list[Event], poison: list[bytes], rules: JoinRules, policy: Any, data: st.DataObject
) -> None:
    values = [encode_event(e) for e in log]
    for raw in poison:
        values.insert(data.draw(st.integers(0, len(values))), raw)
    joiner, n_dead = Joiner(replace(rules, policy=policy), FIELDS, 0), 0
    for n, value in enumerate(values):
        outputs = joiner.apply(Record(0, n, b"", value))
        for out in outputs:
            if isinstance(out, Dead):
                n_dead += 1
                assert (out.partition, out.offset, out.value) == (0, n, value)
                msgspec.json.encode(out)
            else:
                encode_sample(out)
        assert joiner.counts["in"] == n + 1 == total(joiner.counts)
    assert n_dead == sum(n for name, n in joiner.counts.items() if name.startswith("dead."))
    Joiner.restore(joiner.rules, FIELDS, 0, joiner.snapshot())


def test_a_bad_feature_is_dead_with_its_path_and_moves_no_clock() -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    joiner.apply(records([Tick(1_000)])[0])
    bad = impression(1, "ada", 1_200, "ab")
    bad.candidates[1].features["topic"] = 0.5
    [dead] = joiner.apply(Record(0, 1, b"", encode_event(bad)))
    assert isinstance(dead, Dead)
    assert dead.detail == "Expected `str | int`, got `float` - at `$.candidates[1].features.topic`"
    assert joiner.clock_ms == 1_000


@pytest.mark.parametrize(
    ("log", "became"),
    [
        ([click(1_005)], "used.label"),
        ([click(1_005), click(1_006)], "used.history"),
        ([click(1_005), click(1_005)], "duplicate.action"),
        ([click(1_005), click(1_005, None)], "duplicate.action"),
        ([click(1_005, None), click(1_005)], "used.label"),
        ([click(1_005, kind="buy"), click(1_006, kind="buy")], "duplicate.action"),
        ([click(1_005, None)], "used.history"),
        ([click(1_005, kind="view")], "used.history"),
        ([click(1_005, kind="stare")], "orphan.kind"),
        ([click(999)], "orphan.outside_window"),
        ([click(1_041)], "orphan.outside_window"),
        ([click(1_041, kind="buy")], "used.label"),
        ([click(1_005, item="z")], "orphan.not_in_slate"),
        ([click(999), click(999)], "duplicate.action"),
        ([click(1_005, item="z"), click(1_005, item="z")], "duplicate.action"),
        ([click(1_005, "i2"), click(1_005, "i2")], "duplicate.action"),
        ([click(1_005, "i2"), Action("click", "ada", "a", 1_005, "i2", {"topic": "new"})], "pending"),
        ([click(1_005, "i2", kind="buy"), click(1_005, "i2", kind="buy")], "duplicate.action"),
        ([click(1_005, "i2")], "pending"),
        ([click(1_005, "i2"), Tick(1_021)], "orphan.no_impression"),
        ([click(1_005, user="bob"), Tick(1_021)], "orphan.no_impression"),
        ([Tick(1_021), click(1_005)], "late.action"),
        ([Tick(1_020), click(1_005)], "used.label"),
        ([Tick(1_021), Tick(1_005)], "late.tick"),
        ([impression(1, "ada", 1_000, "ab")], "duplicate.impression"),
        ([impression(2, "ada", 990, "ab")], "pending"),
        ([Tick(1_085), Tick(1_086)], "used.impression"),
    ],
)
def test_what_becomes_of_a_record_is_counted_under_its_name(log: list[Event], became: str) -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    before = Counter[str]()
    for record in records([impression(1, "ada", 1_000, "ab"), *log]):
        before = Counter(joiner.counts)
        joiner.apply(record)
    assert Counter(joiner.counts)[became] - before[became] == 1


# ---- memory and misuse


@steadily
@given(logs())
def test_nothing_is_remembered_of_users_who_are_long_gone(log: list[Event]) -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    for record in records([*log, *flush()]):
        joiner.apply(record)
    assert joiner.n_users == 0
    assert list(joiner.snapshot()) == [b""]
    assert joiner.counts["pending"] == 0


def test_a_history_stays_short_however_much_one_user_does() -> None:
    joiner = Joiner(replace(RULES, history_ttl_ms=10**6), FIELDS, 0)
    for record in records(click(1_000 + 9 * n, None) for n in range(500)):
        joiner.apply(record)
    # 3 to see, 2 above the watermark, and what is added until the next trim
    [history] = [user.history for user in joiner._users.values()]
    assert len(history) <= 2 * RULES.max_history + 1


def test_a_trim_leaves_what_an_impression_just_above_the_watermark_sees() -> None:
    joiner = Joiner(replace(RULES, max_history=1), FIELDS, 0)
    log = [click(1_000, None), click(1_001, None), Tick(1_016), impression(1, "ada", 1_001, "a"), *flush()]
    found = list[Sample]()
    for record in records(log):
        found += samples(joiner.apply(record))
        joiner.snapshot()
    assert [s.behaviours(2)[1].tolist() for s in found] == [[1_000]]


def test_an_action_above_the_watermark_still_waits_when_one_below_gives_up() -> None:
    shown = impression(1, "ada", 1_006, "a")
    joiner = Joiner(RULES, FIELDS, 0)
    outputs = [o for r in records([click(1_005), click(1_007), Tick(1_021)]) for o in joiner.apply(r)]
    assert (joiner.watermark_ms, joiner.counts["orphan.no_impression"], joiner.counts["pending"]) == (
        1_005,
        1,
        1,
    )
    for event in [shown, *flush()]:
        outputs += joiner.apply(Record(0, joiner.next_offset, b"", encode_event(event)))
    assert [s.label_matrix(2).tolist() for s in samples(outputs)] == [[[1, 0]]]


def test_a_record_that_comes_again_is_refused() -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    [record] = records([Tick(1_000)])
    joiner.apply(record)
    with pytest.raises(OffsetWentBack, match="expected partition 0 from offset 1, got partition 0 offset 0"):
        joiner.apply(record)
    with pytest.raises(OffsetWentBack, match="got partition 1 offset 9"):
        joiner.apply(Record(1, 9, b"", record.value))
    assert joiner.counts["in"] == 1


def test_a_snapshot_of_other_fields_or_kinds_is_refused() -> None:
    state = Joiner(RULES, FIELDS, 0).snapshot()
    with pytest.raises(ValueError, match="joiner state: expected"):
        Joiner.restore(RULES, Fields(), 0, state)
    with pytest.raises(ValueError, match="joiner state: expected"):
        Joiner.restore(replace(RULES, windows={"buy": 70, "click": 40}), FIELDS, 0, state)


@steadily
@given(logs(), st.integers(0, 40), st.integers(0, 40))
def test_order_holds_when_lateness_changes_at_a_restart(log: list[Event], first: int, then: int) -> None:
    joiner, outputs = Joiner(replace(RULES, lateness_ms=first), FIELDS, 0), list[Output]()
    half = len(log) // 2
    for record in records([*log, *flush()]):
        if record.offset == half:
            joiner = Joiner.restore(replace(RULES, lateness_ms=then), FIELDS, 0, joiner.snapshot())
        outputs += joiner.apply(record)
    closed = [
        out.at_ms if isinstance(out, Tick) else out.closed_ms for out in outputs if not isinstance(out, Dead)
    ]
    assert closed == sorted(closed)
    assert total(joiner.counts) == joiner.counts["in"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"windows": {}}, "windows: expected at least one"),
        ({"windows": {"click": -1}}, "windows.click: expected at least 0, got -1"),
        ({"lateness_ms": -1}, "lateness_ms: expected at least 0, got -1"),
        ({"max_history": 0}, "max_history: expected at least 1, got 0"),
        ({"policy": "lazy"}, "policy: expected window or eager, got lazy"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(RULES, **wrong)
