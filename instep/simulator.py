"""A product in a seeded world: the events it would send, and beside them the truth that no product knows.

The click probability of every candidate is known, so the best possible AUC is known, and so is the hidden
topic that a search ought to find. Drifts change the world at given moments of the stream.

>>> world, truth = World(n_users=20, history_median=20), Truth()
>>> stream = list(events(world, 30, truth=truth))
>>> first = next(e for e in stream if isinstance(e, Impression))
>>> first.id, len(first.candidates), list(first.candidates[0].features), truth.p[first.id].shape
('s0', 10, ['category'], (10,))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from instep.drifts import (
    Change,
    ConstantFeature,
    CtrJump,
    DeadClicks,
    Drift,
    MovedItems,
    NewCategory,
    NewItems,
    RelabelledItems,
    ShiftedInterests,
    SwappedIds,
    schedule,
)
from instep.truth import Truth
from instep.world import BadWorld, Floats, Ints, Items, Rng, Users, World, draw_histories, draw_sessions
from stream.events import Action, Candidate, Event, Impression, Tick, Value

__all__ = [
    "BadWorld",
    "ConstantFeature",
    "CtrJump",
    "DeadClicks",
    "Drift",
    "MovedItems",
    "NewCategory",
    "NewItems",
    "RelabelledItems",
    "ShiftedInterests",
    "SwappedIds",
    "Truth",
    "World",
    "events",
]

BLOCK = 512
TRIES = 3
QUIET_MS = 60_000
DEVICES = ("phone", "tablet", "desktop")


def events(
    world: World, n_slates: int, *, drifts: Sequence[Drift] = (), truth: Truth | None = None
) -> Iterator[Event]:
    """The stream of a world, in order of event time: histories, then slates, their clicks, and Ticks.

    The histories are organic clicks dated before ``world.start_ms``. Ticks come every ``world.tick_s`` from
    there on; before, one is written where nothing else has been for a minute. Impressions are ``s0``, ``s1``
    ..., users ``u0`` ..., items ``i0`` ...; an item's one feature is ``category``, a slate's context is the
    ``device``, which means nothing.

    Parameters
    ----------
    n_slates
        How many impressions.
    drifts
        What happens on the way, in any order.
    truth
        Is filled while the stream is read. Without it a stream without drifts takes as much memory at its end as
        at its beginning, however long it is.

    Raises
    ------
    BadWorld
        If a drift lies outside the stream.
    """
    return _Stream(world, n_slates, drifts, truth).run()


class _Clicks:
    """What users have clicked, counted by the topic that each item has now."""

    def __init__(self, world: World, items: Items, user: Ints, item: Ints, *, can_move: bool) -> None:
        self._world, self._items = world, items
        self._can_move = can_move
        self._initial = user, item
        self._since: list[tuple[int, int]] = []
        self._recent = np.full((world.n_users, world.n_recent), -1)
        self._n = np.bincount(user, minlength=world.n_users)
        by_user = np.argsort(user, kind="stable")
        back = np.cumsum(self._n)[user[by_user]] - 1 - np.arange(len(user))
        last = by_user[back < world.n_recent]
        back = back[back < world.n_recent]
        self._recent[user[last], (self._n[user[last]] - 1 - back) % world.n_recent] = item[last]
        self.recount()

    def recount(self) -> None:
        """Count anew; to be called when items have changed their topics."""
        since = np.array(self._since, np.int64).reshape(-1, 2)
        user = np.concatenate([self._initial[0], since[:, 0]])
        topic = self._items.topic[np.concatenate([self._initial[1], since[:, 1]])]
        shape = self._world.n_users, self._world.n_topics
        self._counts = np.bincount(user * shape[1] + topic, minlength=shape[0] * shape[1]).reshape(shape)

    def add(self, user: int, item: int) -> None:
        if self._can_move:  # else nothing will be counted anew, and the list would grow for ever
            self._since.append((user, item))
        self._counts[user, self._items.topic[item]] += 1
        self._recent[user, self._n[user] % self._world.n_recent] = item
        self._n[user] += 1

    def matches(self, user: int, items: Ints) -> tuple[Floats, Floats]:
        """How much of the user's behaviours have each candidate's topic, the long part and the recent one, 0 to 1."""
        topic = self._items.topic
        topics, recent = topic[items], self._recent[user]
        n_short = ((topic[recent] == topics[:, None]) & (recent >= 0)).sum(axis=1)
        n_long = self._counts[user, topics] - n_short
        return np.minimum(1, np.log1p(n_long) / np.log(41)), np.minimum(1, n_short / 4)


class _Stream:
    """One run of a world: its state between two events."""

    def __init__(self, world: World, n_slates: int, drifts: Sequence[Drift], truth: Truth | None) -> None:
        self.world, self.n_slates, self.truth = world, n_slates, truth
        self.items = Items(world)
        self._features: list[dict[str, Value]] = []
        self._ids: list[str] = []
        self._add_items(world.n_items, world.rng(0))
        self.users = Users(world, world.rng(1))
        self._history = draw_histories(self.users, self.items, world.rng(2))
        self.clicks = _Clicks(world, self.items, *self._history[:2], can_move=bool(drifts))
        self._chance = world.rng(3)
        self._like_chance = world.rng(5) if "like" in world.kinds else None
        self._names = [f"u{u}" for u in range(world.n_users)]
        self._logit = 0.0
        self._dead = False
        self._constant = False
        self._now = world.start_ms
        self._n = 0
        # What is still to come: a Tick has no user, and its successor is due when it is.
        self._due: list[tuple[int, int, int, int, str | None, str]] = [(world.start_ms, 0, -1, -1, None, "")]
        self._changes = schedule(drifts, n_slates)

    def run(self) -> Iterator[Event]:
        yield from self._histories()
        slate = 0
        while slate < self.n_slates:
            while self._changes and self._changes[0].slate <= slate:
                self._change(self._changes.pop(0))
            end = min([slate + BLOCK, self.n_slates, *(change.slate for change in self._changes[:1])])
            yield from self._block(slate, end)
            slate = end
        yield from self._until(self._now + round(self.world.tail_s * 1_000) + 1)

    def _histories(self) -> Iterator[Event]:
        last_ms = int(self._history[2][0])
        for user, item, at_ms in zip(*(column.tolist() for column in self._history), strict=True):
            yield from _ticks(last_ms, at_ms)
            yield self._action(user, item, at_ms, None, "click")
            last_ms = at_ms
        yield from _ticks(last_ms, self.world.start_ms)

    def _block(self, first: int, end: int) -> Iterator[Event]:
        """Slates ``first`` to ``end``, between which the world stands still but for clicks."""
        world, n = self.world, end - first
        tries = TRIES * world.slate
        # Each slate takes as many numbers as any other, so that a drift between two of them shifts no draw.
        chance = self._chance.random((n, 3 + 2 * world.slate + 3 * tries))
        head, wins, delays, draws = np.split(chance, (3, 3 + world.slate, 3 + 2 * world.slate), axis=1)
        user = (head[:, 0] * world.n_users).astype(np.int64)
        gap_ms = np.maximum(-np.log1p(-head[:, 1]) * 1_000 / world.slates_per_s, 1).astype(np.int64)
        at_ms = self._now + np.cumsum(gap_ms)
        self._now = int(at_ms[-1])
        device = (head[:, 2] * len(DEVICES)).astype(np.int64)
        slates = self._draw_slates(np.repeat(user[:, None], tries, axis=1), draws.reshape(n, 3, tries))
        delay_ms = np.clip(-np.log1p(-delays) * world.click_delay_s, 0.001, world.click_delay_max_s) * 1_000
        likes = self._like_chance.random((n, 2, world.slate)) if self._like_chance is not None else None
        for b in range(n):
            yield from self._until(int(at_ms[b]))
            shown = np.flatnonzero(slates[b] >= 0)
            items = slates[b, shown]
            long, short = self.clicks.matches(int(user[b]), items)
            affinity = world.long * long + world.short * short
            logit = world.base + self._logit + affinity + self.items.quality[items]
            p = 1 / (1 + np.exp(-logit))
            clicked = wins[b, shown] < p
            impression = f"s{first + b}"
            if self.truth is not None:
                self.truth.p[impression] = p
                self.truth.clicked[impression] = clicked
            like_ms: dict[int, int] = {}
            if likes is not None:
                like_ms = self._like(impression, items, p, clicked, long, likes[b][:, shown])
            yield Impression(
                impression,
                self._names[user[b]],
                int(at_ms[b]),
                [Candidate(self._ids[i], self._features[i]) for i in items.tolist()],
                {"device": DEVICES[0 if self._constant else device[b]]},
            )
            for place in np.flatnonzero(clicked).tolist():
                when = int(at_ms[b] + delay_ms[b, shown[place]])
                self._push(when, int(user[b]), int(items[place]), impression)
                if place in like_ms:
                    self._push(when + like_ms[place], int(user[b]), int(items[place]), impression, "like")

    def _like(
        self,
        impression: str,
        items: Ints,
        p: Floats,
        clicked: NDArray[np.bool_],
        long: Floats,
        chance: Floats,
    ) -> dict[int, int]:
        """How long after its click each candidate that is liked is liked, in ms, by its place.

        Parameters
        ----------
        chance
            float64 ``[2, candidates]``: whether, and when.
        """
        world = self.world
        logit = world.like_base + world.like_long * long + self.items.charm[items]
        p_after = 1 / (1 + np.exp(-logit))
        liked = clicked & (chance[0] < p_after)
        if self.truth is not None:
            self.truth.p_like[impression] = p * p_after
            self.truth.liked[impression] = liked
        delay_ms = np.clip(-np.log1p(-chance[1]) * world.like_delay_s, 0.001, world.like_delay_max_s) * 1_000
        return {place: int(delay_ms[place]) for place in np.flatnonzero(liked).tolist()}

    def _draw_slates(self, users: Ints, chance: Floats) -> Ints:
        """The first distinct items of those that ``users`` int64 ``[n, tries]`` draw.

        Parameters
        ----------
        chance
            float64 ``[n, 3, tries]``: from where each is drawn, of which topic, and which it is.

        Returns
        -------
        int64 ``[n, slate]``, -1 behind a slate for which too few distinct ones came.
        """
        world, (source, topic, which) = self.world, chance.transpose(1, 0, 2)
        topics = np.where(
            source < world.from_interests,
            self.users.interest_topics(users, topic),
            self.users.category_topics(users, topic),
        )
        drawn = np.where(
            source < world.from_interests + world.from_categories,
            self.items.draw(topics, which),
            self.items.draw_popular(which),
        )
        order = np.argsort(drawn, axis=1, kind="stable")
        ascending = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros(drawn.shape, np.bool_)
        np.put_along_axis(again, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], axis=1)
        drawn[again] = -1
        distinct_first = np.argsort(again, axis=1, kind="stable")[:, : world.slate]
        return np.take_along_axis(drawn, distinct_first, axis=1)

    def _push(self, at_ms: int, user: int, item: int, impression: str | None, kind: str = "click") -> None:
        self._n += 1
        heappush(self._due, (at_ms, self._n, user, item, impression, kind))

    def _until(self, at_ms: int) -> Iterator[Event]:
        """What is due before a moment: a click at the very moment of a slate comes after it."""
        while self._due[0][0] < at_ms:
            when, _, user, item, impression, kind = heappop(self._due)
            if user < 0:
                self._push(when + round(self.world.tick_s * 1_000), -1, -1, None)
                yield Tick(when)
                continue
            if kind == "click":
                self.clicks.add(user, item)
            if not self._dead:
                yield self._action(user, item, when, impression, kind)

    def _action(self, user: int, item: int, at_ms: int, impression: str | None, kind: str) -> Action:
        return Action(kind, self._names[user], self._ids[item], at_ms, impression, self._features[item])

    def _change(self, change: Change) -> None:
        rng = self.world.rng(4, change.n)
        match change.drift:
            case NewItems(share=share):
                self._arrive(share, rng)
            case NewCategory(share=share):
                label = int(self.items.category.max()) + 1
                for i in self._arrive(share, rng):
                    self.items.category[i] = label
                    self._features[i] = {"category": f"c{label}"}
            case ShiftedInterests() as drift:
                self._shift(drift, rng)
            case MovedItems(share=share):
                moved = _some(len(self.items.topic), share, rng)
                step = rng.integers(1, max(self.world.n_topics, 2), len(moved))
                self.items.topic[moved] = (self.items.topic[moved] + step) % self.world.n_topics
                self.items.index()
                self.clicks.recount()
                self._learn_topics(moved)
            case RelabelledItems(share=share):
                chosen = _some(len(self.items.topic), share, rng)
                step = rng.integers(1, max(self.world.n_categories, 2), len(chosen))
                self.items.category[chosen] = (self.items.category[chosen] + step) % self.world.n_categories
                for i in chosen.tolist():
                    self._features[i] = {"category": f"c{self.items.category[i]}"}
            case CtrJump(logit=logit):
                self._logit += logit
            case DeadClicks():
                self._dead = not change.over
            case ConstantFeature():
                self._constant = not change.over
            case SwappedIds():
                self._swap(rng)

    def _arrive(self, share: float, rng: Rng) -> range:
        """More items, in proportion to those that there are; their numbers."""
        before = len(self.items.topic)
        self._add_items(max(round(before * share), 1), rng)
        added = range(before, len(self.items.topic))
        if self.truth is not None:
            self.truth.new_items.update(self._ids[i] for i in added)
        return added

    def _swap(self, rng: Rng) -> None:
        """Every item takes the id of the next one in a random ring."""
        ring = rng.permutation(len(self._ids)).tolist()
        ids = list(self._ids)
        for i, other in zip(ring, [*ring[1:], ring[0]], strict=True):
            self._ids[i] = ids[other]
        self._learn_topics(np.arange(len(self._ids)))

    def _shift(self, drift: ShiftedInterests, rng: Rng) -> None:
        users = _some(self.world.n_users, drift.share, rng)
        self.users.redraw(users, rng)
        sessions = np.repeat(users, drift.sessions)
        span_ms = max(int(drift.over * self.n_slates / self.world.slates_per_s * 1_000), 1)
        begins = self._now + 1 + rng.integers(0, span_ms, len(sessions))
        session, item, elapsed = draw_sessions(sessions, self.users, self.items, rng)
        for who, what, when in zip(sessions[session], item, begins[session] + elapsed, strict=True):
            self._push(int(when), int(who), int(what), None)

    def _add_items(self, n: int, rng: Rng) -> None:
        self.items.add(n, rng)
        added = np.arange(len(self.items.topic) - n, len(self.items.topic))
        self._features += [{"category": f"c{c}"} for c in self.items.category[added].tolist()]
        self._ids += [f"i{i}" for i in added.tolist()]
        self._learn_topics(added)

    def _learn_topics(self, items: Ints) -> None:
        if self.truth is None:
            return
        for i, topic in zip(items.tolist(), self.items.topic[items].tolist(), strict=True):
            self.truth.topics[self._ids[i]] = topic


def _some(n: int, share: float, rng: Rng) -> Ints:
    """That share of ``n``, drawn at random, ascending."""
    return np.sort(rng.permutation(n)[: round(n * share)])


def _ticks(after_ms: int, before_ms: int) -> Iterator[Tick]:
    """Ticks for a time in which nothing else happens."""
    for at_ms in range(after_ms + QUIET_MS, before_ms, QUIET_MS):
        yield Tick(at_ms)
