"""Logs of events to join, as hypothesis draws them, and rules small enough for all to happen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

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
)
from stream.fields import Feature, Fields
from stream.join import Joiner, JoinRules, Output
from stream.log import Record

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


def click(
    at_ms: int, impression: str | None = "i1", item: str = "a", kind: str = "click", user: str = "ada"
) -> Action:
    return Action(kind, user, item, at_ms, impression)


def in_time(log: Sequence[Event], rules: JoinRules) -> list[Event]:
    """What is neither late nor too far ahead, Ticks shortened to the jump they may make.

    A Tick may jump from the Tick before it too, if it is later than that.
    """
    jump, clock, kept, ticked = rules.max_jump_ms, -1, list[Event](), list[int]()
    for e in log:
        bound = clock + jump if kept else e.at_ms
        if isinstance(e, Tick):
            if ticked and 0 < e.at_ms - ticked[-1] <= jump:
                bound = max(bound, e.at_ms)
            ticked.append(e.at_ms)
            e = Tick(min(e.at_ms, bound))
        if clock - rules.lateness_ms <= e.at_ms <= bound:
            kept.append(e)
            clock = max(clock, e.at_ms)
    return kept
