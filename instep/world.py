"""The simulated world as arrays: hidden topics, items with a partly wrong label, users with sparse interests.

What a model sees of an item is its id and its visible category. What decides clicks is its hidden topic and
how often the user has clicked on that topic before, so whoever finds those behaviours again predicts well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rng = np.random.Generator

DAY_MS = 86_400_000


class BadWorld(ValueError):
    """A world that cannot be made: which number, what was expected, what came."""


@dataclass(frozen=True)
class World:
    """What the simulated world is like. Everything in it follows from these numbers.

    Notes
    -----
    The logit of a click is
    ``base + long * min(1, ln(1 + n_long) / ln 41) + short * min(1, n_short / 4) + quality``, where
    ``n_short`` counts the user's most recent ``n_recent`` behaviours with the candidate's hidden topic and
    ``n_long`` all those before. Where ``like`` is one of the ``kinds``, some of what was clicked is then liked, with
    the logit ``like_base + like_long * min(1, ln(1 + n_long) / ln 41) + charm``.

    >>> World(n_items=50)
    Traceback (most recent call last):
    instep.world.BadWorld: world: n_items: expected at least n_topics = 80, got 50
    """

    seed: int = 0
    n_users: int = 4_000
    n_items: int = 2_000
    n_topics: int = 80
    n_categories: int = 20
    mislabelled: float = 0.1
    """Share of the items whose visible category is not their topic's."""
    quality_std: float = 0.5
    popularity_std: float = 1.0
    """Popularity is ``exp(N(0, popularity_std^2))``."""

    interest_categories: int = 4
    slots_per_category: int = 4
    """A user's interests: that many topics of each interest category, drawn with replacement."""
    interest_shape: float = 0.8
    """Sessions visit interest slot ``i`` in proportion to ``w_i ~ Gamma(interest_shape)``."""
    session_mean: float = 15.0
    background: float = 0.2
    """Share of the clicks in a session that follow popularity instead of the session's interest."""
    history_median: float = 360.0
    history_std: float = 0.59
    """Length of the initial history is lognormal, and at least ``n_recent``."""
    history_days: float = 30.0

    slate: int = 10
    from_interests: float = 0.40
    from_categories: float = 0.35
    """Hard negatives: any topic of an interest category. The rest of a slate is drawn by popularity."""
    base: float = -3.7
    long: float = 3.6
    short: float = 0.8
    n_recent: int = 16

    kinds: tuple[str, ...] = ("click",)
    """What users do: click, or click and like."""
    like_base: float = -1.5
    like_long: float = 1.5
    charm_std: float = 1.2
    """An item's charm, ``N(0, charm_std^2)``, says nothing of clicks, nor quality of likes."""
    like_delay_s: float = 10.0
    like_delay_max_s: float = 60.0
    """A like comes after its click, by an exponential delay that is cut off there."""

    start_ms: int = 1_767_225_600_000
    slates_per_s: float = 1.0
    click_delay_s: float = 15.0
    click_delay_max_s: float = 60.0
    """A click comes after an exponential delay, cut off there: a longer attribution window misses none."""
    tick_s: float = 10.0
    tail_s: float = 3_600.0
    """How long Ticks go on after the last slate, so that every attribution window closes."""

    def __post_init__(self) -> None:
        whole = "a multiple of n_categories = "
        for name, ok, expected in (
            ("n_users", self.n_users >= 1, "at least 1"),
            ("n_topics", self.n_topics % self.n_categories == 0, f"{whole}{self.n_categories}"),
            ("n_items", self.n_items >= self.n_topics, f"at least n_topics = {self.n_topics}"),
            (
                "interest_categories",
                1 <= self.interest_categories <= self.n_categories,
                f"1..{self.n_categories} = n_categories",
            ),
            ("slate", 1 <= self.slate <= self.n_items // 2, f"1..{self.n_items // 2} = n_items / 2"),
            ("session_mean", self.session_mean >= 2, "at least 2"),
            ("history_days", self.history_days >= 0.5, "at least 0.5"),
            ("slates_per_s", self.slates_per_s > 0, "more than 0"),
            ("kinds", self.kinds in (("click",), ("click", "like")), "click or click, like"),
            ("tick_s", self.tick_s >= 0.001, "at least 0.001"),
        ):
            if not ok:
                got = ", ".join(self.kinds) if name == "kinds" else getattr(self, name)
                raise BadWorld(f"world: {name}: expected {expected}, got {got}")

    def rng(self, *purpose: int) -> Rng:
        """A stream of its own for each purpose, so that a drift does not change what it does not concern."""
        return np.random.default_rng([self.seed, *purpose])

    @property
    def windows(self) -> dict[str, int]:
        """For each kind, how long after the impression the last one comes, in ms."""
        click_ms = round(self.click_delay_max_s * 1_000)
        return {k: click_ms + (k == "like") * round(self.like_delay_max_s * 1_000) for k in self.kinds}

    def moment_ms(self, at: float, n_slates: int) -> int:
        """About when that fraction of so many slates has been shown."""
        return self.start_ms + round(at * n_slates / self.slates_per_s * 1_000)

    def category_of(self, topics: Ints) -> Ints:
        """The true category of each topic, int64 like ``topics``."""
        return topics // (self.n_topics // self.n_categories)


@dataclass
class Items:
    """The catalogue. All arrays ``[n]``, a row per item; items are only ever added.

    Draws take their ``chance``, float64 in [0, 1), from outside: the same numbers in a world that has changed
    give the same draws wherever the change does not matter.
    """

    world: World
    topic: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    category: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    quality: Floats = field(default_factory=lambda: np.empty(0))
    popularity: Floats = field(default_factory=lambda: np.empty(0))
    charm: Floats = field(default_factory=lambda: np.empty(0))

    def add(self, n: int, rng: Rng) -> None:
        """``n`` more items, spread evenly over the topics."""
        world = self.world
        topic = rng.permutation(n) % world.n_topics
        wrong = rng.random(n) < world.mislabelled
        self.topic = np.concatenate([self.topic, topic])
        self.category = np.concatenate([self.category, self.labels(topic, wrong, rng)])
        self.quality = np.concatenate([self.quality, rng.normal(0, world.quality_std, n)])
        self.popularity = np.concatenate([self.popularity, np.exp(rng.normal(0, world.popularity_std, n))])
        # numbers of its own: what is liked changes nothing of what is clicked
        charm = world.rng(6, len(self.charm)).normal(0, world.charm_std, n)
        self.charm = np.concatenate([self.charm, charm])
        self.index()

    def labels(self, topics: Ints, wrong: Bools, rng: Rng) -> Ints:
        """The visible category of items with these topics: the true one, or any other where ``wrong``."""
        n = self.world.n_categories
        other = rng.integers(1, max(n, 2), len(topics))
        return (self.world.category_of(topics) + np.where(wrong, other, 0)) % n

    def index(self) -> None:
        """Prepare the draws; to be called when topics have changed."""
        self._by_topic = np.argsort(self.topic, kind="stable")
        self._bounds = np.searchsorted(self.topic[self._by_topic], np.arange(self.world.n_topics + 1))
        self._mass: Floats = np.cumsum(self.popularity)

    def draw(self, topics: Ints, chance: Floats) -> Ints:
        """Any item of each topic, int64 like ``topics``."""
        first, end = self._bounds[topics], self._bounds[topics + 1]
        place = first + (chance * (end - first)).astype(np.int64)
        return self._by_topic[np.minimum(place, len(self.topic) - 1)]

    def draw_popular(self, chance: Floats) -> Ints:
        """An item by popularity for each number, int64 like ``chance``."""
        place: Ints = np.searchsorted(self._mass, chance * self._mass[-1], side="right")
        return np.minimum(place, len(self.topic) - 1)


class Users:
    """What users are interested in.

    Attributes
    ----------
    categories
        int64 ``[users, interest_categories]``, distinct.
    slots
        int64 ``[users, slots]`` topics of those categories.
    weights
        float64 ``[users, slots]``, cumulative, ending in 1: how often sessions visit each slot.
    """

    def __init__(self, world: World, rng: Rng) -> None:
        self.world = world
        everyone = np.arange(world.n_users)
        n_slots = world.interest_categories * world.slots_per_category
        self.categories = np.empty((world.n_users, world.interest_categories), np.int64)
        self.slots = np.empty((world.n_users, n_slots), np.int64)
        self.weights = np.empty((world.n_users, n_slots))
        self.redraw(everyone, rng)

    def redraw(self, users: Ints, rng: Rng) -> None:
        """Give these users new interests."""
        world, per = self.world, self.world.n_topics // self.world.n_categories
        n = len(users)
        shuffled = np.argsort(rng.random((n, world.n_categories)), axis=1)
        categories = shuffled[:, : world.interest_categories]
        of_category = rng.integers(0, per, (n, world.interest_categories, world.slots_per_category))
        weights = np.cumsum(rng.gamma(world.interest_shape, size=(n, self.slots.shape[1])), axis=1)
        self.categories[users] = categories
        self.slots[users] = (categories[:, :, None] * per + of_category).reshape(n, -1)
        self.weights[users] = weights / weights[:, -1:]

    def session_topics(self, users: Ints, chance: Floats) -> Ints:
        """The interest that each user's next session is about, int64 like ``users``."""
        slot: Ints = (self.weights[users] < chance[:, None]).sum(axis=1)
        return self.slots[users, slot]

    def interest_topics(self, users: Ints, chance: Floats) -> Ints:
        """Any interest of each user, int64 like ``users``."""
        return self.slots[users, (chance * self.slots.shape[1]).astype(np.int64)]

    def category_topics(self, users: Ints, chance: Floats) -> Ints:
        """Any topic of any of each user's interest categories, int64 like ``users``."""
        per = self.world.n_topics // self.world.n_categories
        place = (chance * self.categories.shape[1] * per).astype(np.int64)
        return self.categories[users, place // per] * per + place % per


def draw_sessions(users: Ints, people: Users, items: Items, rng: Rng) -> tuple[Ints, Ints, Ints]:
    """One session for each entry of ``users``: who clicks, on what, how long after the session began.

    Returns
    -------
    int64 ``[clicks]`` each: place in ``users``, item, ms; session after session, each in order of time.
    """
    world = people.world
    length = 1 + rng.geometric(1 / (world.session_mean - 1), len(users))
    session = np.repeat(np.arange(len(users)), length)
    topics = people.session_topics(users, rng.random(len(users)))[session]
    background = rng.random(len(session)) < world.background
    chance = rng.random(len(session))
    clicked = np.where(background, items.draw_popular(chance), items.draw(topics, chance))
    elapsed = np.cumsum(1_000 + rng.exponential(20_000, len(session)).astype(np.int64))
    first = np.cumsum(length) - length
    return session, clicked, elapsed - elapsed[first][session]


def draw_histories(people: Users, items: Items, rng: Rng) -> tuple[Ints, Ints, Ints]:
    """What every user clicked before the stream starts: user, item, event time in ms.

    Returns
    -------
    int64 ``[clicks]`` each, in order of time.
    """
    world = people.world
    wanted = np.exp(rng.normal(np.log(world.history_median), world.history_std, world.n_users))
    length = np.maximum(wanted.astype(np.int64), world.n_recent)
    # Enough sessions that hardly anyone falls short; whoever does gets a shorter history.
    sessions = np.repeat(np.arange(world.n_users), 6 + 2 * length // int(world.session_mean))
    session, item, elapsed = draw_sessions(sessions, people, items, rng)
    user = sessions[session]
    first = np.searchsorted(user, np.arange(world.n_users))
    keep = np.arange(len(user)) - first[user] < length[user]
    user, item, elapsed, session = user[keep], item[keep], elapsed[keep], session[keep]
    span = int(world.history_days * DAY_MS)
    begins = rng.integers(0, max(span - int(elapsed.max()), 1), len(sessions))
    at_ms = np.minimum(begins[session] + elapsed, span - 1) + world.start_ms - span
    order = np.argsort(at_ms, kind="stable")
    return user[order], item[order], at_ms[order]
