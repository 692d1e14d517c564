"""The joiner against a brute-force join of the whole log, and against itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import history
from stream.events import (
    Action,
    Candidate,
    Event,
    Impression,
    Origin,
    Sample,
    Tick,
    Version,
    encode_event,
    encode_sample,
)
from stream.fields import Feature, Fields
from stream.join import Dead, Joiner, JoinRules, OffsetWentBack, Output
from stream.log import MemoryLog, Record

FIELDS = Fields(
    [Feature("topic", "item"), Feature("device", "context"), Feature("age", "user", "numeric", (30,))]
)
RULES = JoinRules(
    windows={"click": 40, "buy": 70},
    lateness_ms=15,
    max_jump_ms=300,
    max_history=3,
    history_ttl_ms=120,
    history_kinds=("click", "view"),
    tick_ms=10,
)
LATEST = 12_000

steadily = settings(deadline=None, derandomize=True, max_examples=40)
thoroughly = settings(steadily, max_examples=120)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """So that histories of a few behaviours have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "BLOCK", 2)
        yield


# ---- logs


def impression(n: int, user: str, at_ms: int, items: Sequence[str], scored: bool = False) -> Impression:
    candidates = [
        Candidate(item, {"topic": f"t{item}"}, n / 7 + i if scored and i != 1 else None)
        for i, item in enumerate(items)
    ]
    context: dict[str, str | int | float] = {"device": f"d{n % 2}", "age": 29 + n % 3}
    return Impression(f"i{n}", user, at_ms, candidates, context, Version(0, n) if scored else None)


@st.composite
def logs(draw: st.DrawFn, size: int = 30) -> list[Event]:
    """Some users' events: most in order or nearly so, some twice, some actions before their impressions."""
    users, items = st.sampled_from(["ada", "ada", "bob"]), st.sampled_from(["a", "b", "c"])
    now, log, shown = 1_000, list[Event](), list[Impression]()
    for _ in range(draw(st.integers(0, size))):
        now += draw(st.sampled_from([0, 1, 1, 2, 3, 10, 45]))
        at_ms = now - draw(st.sampled_from([0, 0, 0, 1, 2, 14, 25]))
        what = draw(
            st.sampled_from(
                ["show", "show", "label", "label", "label", "organic", "organic", "tick", "again"]
            )
        )
        if what == "show":
            slate = draw(st.lists(items, min_size=1, max_size=4))
            shown.append(impression(len(shown), draw(users), at_ms, slate, draw(st.booleans())))
            log.append(shown[-1])
        elif what == "label" and shown:
            of = draw(st.sampled_from(shown[-3:]))
            kind = draw(st.sampled_from(["click", "click", "buy", "view"]))
            user = draw(st.sampled_from([of.user] * 6 + ["eve"]))
            item = draw(st.sampled_from([of.candidates[0].item, of.candidates[-1].item, "c"]))
            after_ms = draw(st.sampled_from([-1, 0, 0, 1, 2, 39, 40, 41, 70, 71]))
            place = draw(st.sampled_from([len(log), len(log), log.index(of)]))
            log.insert(place, Action(kind, user, item, of.at_ms + after_ms, of.id))
        elif what == "tick":
            log.append(Tick(at_ms))
        elif what == "again" and log:
            log.append(draw(st.sampled_from(log[-6:])))
        else:
            item, kind = draw(items), draw(st.sampled_from(["click", "click", "view", "stare"]))
            of_none = draw(st.sampled_from([None, None, "i99"]))
            topic = {"topic": f"t{item}"} if draw(st.booleans()) else {}
            log.append(Action(kind, draw(users), item, at_ms, of_none, {**topic}))
    return log


def records(log: Iterable[Event], partition: int = 0) -> list[Record]:
    return [Record(partition, n, b"", encode_event(e)) for n, e in enumerate(log)]


def flush() -> list[Event]:
    """Enough time passing for everything to close."""
    return [Tick(LATEST)] * (LATEST // RULES.max_jump_ms + 1)


def run(log: Iterable[Event], rules: JoinRules = RULES) -> list[Output]:
    joiner = Joiner(rules, FIELDS, 0)
    return [out for record in records(log) for out in joiner.apply(record)]


def samples(outputs: Iterable[Output]) -> list[Sample]:
    return [out for out in outputs if isinstance(out, Sample)]


def traceless(found: Iterable[Sample]) -> list[Sample]:
    """Samples without what may differ between two logs that say the same."""
    return [msgspec.structs.replace(s, origin=Origin(0, 0, 0)) for s in found]


def at(event: Event, at_ms: int) -> Event:
    """The event at another time."""
    return msgspec.structs.replace(event, at_ms=at_ms)


def disorder(log: Sequence[Event]) -> int:
    newest = np.maximum.accumulate([e.at_ms for e in log] or [0])
    return int(max((m - e.at_ms for m, e in zip(newest, log, strict=False)), default=0))


def patient(log: Sequence[Event], more_ms: int = 0) -> JoinRules:
    """Rules under which nothing in the log is late and nothing too far ahead."""
    return replace(RULES, lateness_ms=disorder(log) + more_ms)


# ---- the oracle


def in_time(log: Sequence[Event], rules: JoinRules) -> list[Event]:
    """What is neither late nor too far ahead, Ticks shortened to the jump they may make."""
    kept, clock = list(log[:1]), log[0].at_ms if log else 0
    for e in log[1:]:
        if isinstance(e, Tick):
            e = Tick(min(e.at_ms, clock + rules.max_jump_ms))
        if clock - rules.lateness_ms <= e.at_ms <= clock + rules.max_jump_ms:
            kept.append(e)
            clock = max(clock, e.at_ms)
    return kept


def brute_force(log: Sequence[Event], rules: JoinRules) -> list[dict[str, Any]]:
    """What every impression comes to, looking at the whole log each time."""
    log = in_time(log, rules)
    impressions = {
        (e.user, e.id): (n, e) for n, e in reversed(list(enumerate(log))) if isinstance(e, Impression)
    }
    joined = []
    for n, shown in impressions.values():
        actions = [e for e in log if isinstance(e, Action) and e.user == shown.user]
        labels = [
            [
                any(
                    a.kind == kind
                    and a.item == c.item
                    and a.impression == shown.id
                    and 0 <= a.at_ms - shown.at_ms <= window_ms
                    for a in actions
                )
                for kind, window_ms in rules.windows.items()
            ]
            for c in shown.candidates
        ]
        past: list[Action] = []
        for a in actions:
            if a.kind in rules.history_kinds and 0 < shown.at_ms - a.at_ms <= rules.history_ttl_ms:
                said = (a.kind, a.item, a.at_ms, a.features)
                if said not in [(p.kind, p.item, p.at_ms, p.features) for p in past]:
                    past.append(a)
        past = sorted(past, key=lambda a: a.at_ms)[-rules.max_history :]
        joined.append(
            {
                "order": (shown.at_ms + max(rules.windows.values()), n),
                "impression": shown.id,
                "at_ms": shown.at_ms,
                "closed_ms": shown.at_ms + max(rules.windows.values()),
                "side": FIELDS.side_keys(shown.user, shown.context),
                "items": [FIELDS.item_keys(c.item, c.features) for c in shown.candidates],
                "labels": labels,
                "sequence": [FIELDS.item_keys(a.item, a.features) for a in past],
                "sequence_at": [a.at_ms for a in past],
                "scores": [c.score for c in shown.candidates],
                "version": shown.version,
            }
        )
    return sorted(joined, key=lambda s: s["order"])


def told(s: Sample) -> dict[str, Any]:
    keys, at = s.behaviours(len(FIELDS.item))
    items = s.item_keys(len(FIELDS.item)).tolist()
    scores = np.frombuffer(s.scores).tolist() if s.scores else [None] * len(items)
    return {
        "impression": s.impression,
        "at_ms": s.at_ms,
        "closed_ms": s.closed_ms,
        "side": s.side_keys.tolist(),
        "items": items,
        "labels": s.label_matrix(2).astype(bool).tolist(),
        "sequence": keys.tolist(),
        "sequence_at": at.tolist(),
        "scores": [None if x is None or np.isnan(x) else x for x in scores],
        "version": s.version,
    }


rules_of_all_sizes = st.builds(
    lambda late, jump, n, ttl, tick: replace(
        RULES, lateness_ms=late, max_jump_ms=jump, max_history=n, history_ttl_ms=ttl, tick_ms=tick
    ),
    st.integers(0, 60),
    st.sampled_from([20, 100, 300]),
    st.integers(1, 4),
    st.sampled_from([5, 60, 10_000]),
    st.integers(1, 50),
)


@thoroughly
@given(logs(), rules_of_all_sizes, st.integers(1, 9))
def test_samples_are_those_of_a_brute_force_join(log: list[Event], rules: JoinRules, every: int) -> None:
    joiner, found = Joiner(rules, FIELDS, 0), list[Sample]()
    for record in records([*log, *[Tick(LATEST)] * (LATEST // rules.max_jump_ms + 1)]):
        found += samples(joiner.apply(record))
        if record.offset % every == 0:
            joiner.snapshot()  # which trims every history as far as it may
    expected = [{k: v for k, v in s.items() if k != "order"} for s in brute_force(log, rules)]
    assert [told(s) for s in found] == expected


# ---- what nothing may depend on


@steadily
@given(logs(), st.integers(0, 500))
def test_samples_do_not_depend_on_how_far_the_watermark_lags(log: list[Event], more_ms: int) -> None:
    log += flush()
    assert traceless(samples(run(log, patient(log)))) == traceless(samples(run(log, patient(log, more_ms))))


@steadily
@given(logs(), st.permutations(range(30)))
def test_samples_do_not_depend_on_the_order_of_arrival(log: list[Event], order: list[int]) -> None:
    # behaviours of one millisecond stay as they came, so every event gets a millisecond of its own
    once = {encode_event(e): e for e in log}.values()
    spread = [at(e, e.at_ms * 50 + n) for n, e in enumerate(once)]
    longer = {kind: ms * 50 for kind, ms in RULES.windows.items()}
    rules = replace(RULES, windows=longer, lateness_ms=10**6, max_jump_ms=10**6, history_ttl_ms=6_000)
    mixed = [spread[i] for i in order if i < len(spread)]
    end: list[Event] = [Tick(10**7)] * 10
    assert traceless(samples(run(spread + end, rules))) == traceless(samples(run(mixed + end, rules)))


@steadily
@given(logs(), st.data())
def test_samples_do_not_depend_on_duplicates(log: list[Event], data: st.DataObject) -> None:
    rules = patient(log)
    doubled: list[Event] = []
    for e in log:
        doubled.append(e)
        if data.draw(st.booleans(), label="again"):
            doubled.append(data.draw(st.sampled_from(doubled)))
    plain, twice = run([*log, *flush()], rules), run([*doubled, *flush()], rules)
    assert traceless(samples(plain)) == traceless(samples(twice))


@steadily
@given(logs(), st.integers(1, 7), st.integers(1, 3))
def test_samples_do_not_depend_on_partitions_and_polls(
    log: list[Event], poll: int, n_partitions: int
) -> None:
    rules = patient(log)
    stored = MemoryLog(partitions=n_partitions)
    for e in [*log, *flush()]:
        for p in range(n_partitions):
            if isinstance(e, Tick) or p == hash_of(e.user) % n_partitions:
                stored.append(p, b"", encode_event(e))
    joiners = [Joiner(rules, FIELDS, p) for p in range(n_partitions)]
    source, found = stored.source(), list[Sample]()
    while got := source.poll(poll):
        found += samples(out for r in got for out in joiners[r.partition].apply(r))

    def by_impression(s: Sample) -> tuple[int, str]:
        return s.user, s.impression

    alone = samples(run([*log, *flush()], rules))
    assert sorted(traceless(found), key=by_impression) == sorted(traceless(alone), key=by_impression)


def hash_of(user: str) -> int:
    return len(user) + user.count("a")


@steadily
@given(logs(), rules_of_all_sizes, st.sampled_from(["window", "eager"]), st.data())
def test_a_restart_from_a_snapshot_goes_on_the_same(
    log: list[Event], rules: JoinRules, policy: Any, data: st.DataObject
) -> None:
    rules = replace(rules, policy=policy)
    log += flush()[:5]
    steady = restarted = Joiner(rules, FIELDS, 0)
    steady = Joiner(rules, FIELDS, 0)
    kept: dict[bytes, bytes] = {}
    for record in records(log):
        assert restarted.apply(record) == steady.apply(record)
        if data.draw(st.booleans(), label="commit"):
            lay_over(kept, restarted.changes())
            then = data.draw(
                st.sampled_from(["go on", "keep all anew", "from all", "from changes"]), label="then"
            )
            if then == "keep all anew":
                kept = restarted.snapshot()
            elif then == "from all":
                restarted = Joiner.restore(rules, FIELDS, 0, restarted.snapshot())
            elif then == "from changes":
                restarted = Joiner.restore(rules, FIELDS, 0, kept)
            assert restarted.counts == steady.counts
            assert restarted.snapshot() == steady.snapshot()
            copy = Joiner.restore(rules, FIELDS, 0, kept)
            assert copy.snapshot() == steady.snapshot()
            assert list(copy.changes()) == [b""]


def lay_over(kept: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> None:
    """What a compacted topic does."""
    for key, raw in changes.items():
        if raw is None:
            kept.pop(key, None)
        else:
            kept[key] = raw


@steadily
@given(logs(), st.data())
def test_nothing_is_kept_of_users_who_are_long_gone(log: list[Event], data: st.DataObject) -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    kept: dict[bytes, bytes] = {}
    for record in records([*log, *flush()]):
        joiner.apply(record)
        then = data.draw(st.sampled_from(["go on", "go on", "keep", "keep all anew"]), label="then")
        if then == "keep":
            lay_over(kept, joiner.changes())
        elif then == "keep all anew" and record.offset < len(log):
            kept = joiner.snapshot()
    lay_over(kept, joiner.changes())
    assert kept == joiner.snapshot()
    assert list(kept) == [b""]


@pytest.mark.parametrize("user", ["", "h\0\0\0\0", "\0", "ü\n", "u" * 512])
def test_a_user_may_have_any_name(user: str) -> None:
    names = [f"{user}x", f"u{user}", f"h{user}", f"h\0\0\0\0{user}"]
    joiner = Joiner(RULES, FIELDS, 0)
    for record in records(click(1_000 + n, None, user=name) for name in names for n in range(5)):
        joiner.apply(record)
    kept: dict[bytes, bytes] = {}
    lay_over(kept, joiner.changes())
    assert kept == joiner.snapshot()
    assert Joiner.restore(RULES, FIELDS, 0, kept).snapshot() == joiner.snapshot()


@pytest.mark.parametrize("policy", ["window", "eager"])
def test_what_an_event_changes_does_not_grow_with_the_history(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BLOCK", 32)
    most_bytes = {}
    for n_behaviours in (100, 500, 4_000):
        rules = replace(RULES, max_history=n_behaviours, history_ttl_ms=10**9, policy=policy)
        joiner = Joiner(rules, FIELDS, 0)
        for record in records(click(1_000 + n, None, item=f"n{n}") for n in range(2 * n_behaviours)):
            joiner.apply(record)
        joiner.changes()
        [user] = joiner._users.values()
        assert len(user.history) >= n_behaviours
        most = 0
        for n in range(3 * history.BLOCK):
            now = 1_000 + 2 * n_behaviours + 4 * n
            events: list[Event] = [
                impression(n, "ada", now, "ab"),
                click(now + 1, f"i{n}"),
                click(now - 2, None),
            ]
            for event in events:
                joiner.apply(Record(0, joiner.next_offset, b"", encode_event(event)))
                sizes = [len(key) + len(raw or b"") for key, raw in joiner.changes().items()]
                most = max(most, sum(sizes))
        most_bytes[n_behaviours] = most
    # 70 ms of impressions are open; 15 ms of behaviours may have to make room
    assert max(most_bytes.values()) < 20 * 250 + 3 * history.BLOCK * 32 + 500, most_bytes
    assert max(most_bytes.values()) < 1.05 * min(most_bytes.values()), most_bytes


@steadily
@given(logs(), st.data())
def test_nothing_from_the_future_enters_a_sample(log: list[Event], data: st.DataObject) -> None:
    shown = [e for e in log if isinstance(e, Impression)]
    if not shown:
        return
    rules = replace(patient(log), lateness_ms=5_000)
    one = data.draw(st.sampled_from(shown), label="impression")
    injected = list(log)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(injected)), label="place")
        action = Action("click", one.user, "z", one.at_ms + data.draw(st.integers(0, 200)))
        injected.insert(place, action)

    def of_it(found: list[Output]) -> list[Sample]:
        return [s for s in traceless(samples(found)) if (s.impression, s.at_ms) == (one.id, one.at_ms)]

    assert of_it(run([*injected, *flush()], rules)) == of_it(run([*log, *flush()], rules))


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
    shown = [e for e in kept if isinstance(e, Impression)]
    actions = [e for e in kept if isinstance(e, Action) and e.impression]
    assert last.read["impression"] == len(shown) - joiner.counts.get("duplicate.impression", 0)
    assert last.read["click"] == sum(a.kind == "click" for a in actions)
    assert last.read["buy"] == sum(a.kind == "buy" for a in actions)
    assert set(last.read) == {"impression", "click", "buy"}


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


def click(
    at_ms: int, impression: str | None = "i1", item: str = "a", kind: str = "click", user: str = "ada"
) -> Action:
    return Action(kind, user, item, at_ms, impression)


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
