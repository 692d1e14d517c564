"""The joiner against a brute-force join of the whole log, and against itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import history
from stream.events import (
    Action,
    Event,
    Impression,
    Sample,
    Tick,
    encode_event,
)
from stream.join import Joiner, JoinRules, Output
from stream.log import MemoryLog, Record
from tests.stream.event_logs import (
    FIELDS,
    LATEST,
    RULES,
    at,
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
    thoroughly,
    traceless,
)

pytestmark = pytest.mark.usefixtures("small_blocks")


# ---- the oracle


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
    assert read(plain) == read(twice)  # which decides whether training holds


def read(outputs: list[Output]) -> dict[str, int]:
    """What the last Tick says of it."""
    return [out.read for out in outputs if isinstance(out, Tick)][-1]


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
    names = [f"{user}x", f"u{user}", f"h{user}", f"o{user}", f"h\0\0\0\0{user}", f"o{8 * chr(0)}{user}"]
    joiner = Joiner(RULES, FIELDS, 0)
    happened: list[Event] = [click(1_000 + n, None, user=name) for name in names for n in range(5)]
    for record in records([*happened, *(impression(1, name, 1_010, "ab") for name in names)]):
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
    # an impression or two; 15 ms of behaviours may have to make room
    assert max(most_bytes.values()) < 2 * 250 + 3 * history.BLOCK * 32 + 500, most_bytes
    assert max(most_bytes.values()) < 1.05 * min(most_bytes.values()), most_bytes


@pytest.mark.parametrize("policy", ["window", "eager"])
def test_what_an_event_changes_does_not_grow_with_what_is_open(policy: Any) -> None:
    rules = replace(RULES, windows={"click": 10_000, "buy": 10_000}, policy=policy)
    joiner = Joiner(rules, FIELDS, 0)
    most_bytes: dict[int, int] = {}
    for n in range(15_000):  # from 10,000 on as many close as open
        for event in (
            impression(n, "anonymous", 1_000 + n, "abc"),
            click(1_000 + n, f"i{n}", user="anonymous"),
        ):
            joiner.apply(Record(0, joiner.next_offset, b"", encode_event(event)))
        if n % 5_000 < 10:
            changed = joiner.changes()
            assert max(len(raw or b"") for raw in changed.values()) < 1_000
            if n % 5_000:
                sizes = [len(key) + len(raw or b"") for key, raw in changed.items()]
                most_bytes[n // 5_000] = max(most_bytes.get(n // 5_000, 0), sum(sizes))
    [user] = joiner._users.values()
    assert len(user.open) > 9_999
    assert max(most_bytes.values()) < 1.2 * min(most_bytes.values()), most_bytes


def test_a_state_that_lacks_an_open_impression_is_refused() -> None:
    joiner = Joiner(RULES, FIELDS, 0)
    for record in records([impression(1, "ada", 1_000, "ab"), impression(2, "ada", 1_000, "ab")]):
        joiner.apply(record)
    kept = joiner.snapshot()
    del kept[next(key for key in kept if key[:1] == b"o")]
    with pytest.raises(ValueError, match="open impressions: expected 2, got 1"):
        Joiner.restore(RULES, FIELDS, 0, kept)


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
