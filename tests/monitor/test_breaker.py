"""The breaker on feeds that live, die, swell and come back."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.breaker import STEPS, Breaker, BreakerRules
from monitor.measures import measure_of
from stream.events import Sample, Tick
from tests.trainer.samples import make_samples
from trainer.batcher import Told

MINUTE_MS = 60_000
STEP_MS = MINUTE_MS // STEPS
RULES = BreakerRules(("click",), partitions=2)
ATTRIBUTION_MS = 60_000
TEMPLATE = make_samples(1)[0]


class Second(NamedTuple):
    """What one second of a feed reads, and the samples that close in it."""

    shown: int
    clicks: int
    candidates: int
    clicked: int


def steady(
    n: int, seed: int = 0, slates: float = 10, rate: float = 0.3, positives: float | None = None
) -> list[Second]:
    """``n`` seconds of Poisson traffic: slates of ten, so many clicks a slate."""
    rng = np.random.default_rng(seed)
    labelled = rate / 10 if positives is None else positives
    made = []
    for _ in range(n):
        shown = int(rng.poisson(slates))
        made.append(
            Second(shown, int(rng.poisson(rate * shown)), 10 * shown, int(rng.binomial(10 * shown, labelled)))
        )
    return made


def sample(at_ms: int, closed_ms: int, labels: bytes = b"\0") -> Sample:
    return msgspec.structs.replace(TEMPLATE, at_ms=at_ms, closed_ms=closed_ms, labels=labels)


class Feed:
    """Feeds a breaker second by second, over two partitions, and notes when it holds."""

    def __init__(self, breaker: Breaker, start_ms: int = 1_000_000_000) -> None:
        self.breaker, self.now_ms = breaker, start_ms
        self.read = [{"impression": 0, "click": 0}, {"impression": 0, "click": 0}]
        self.offset = 0
        self.held: list[tuple[int, str]] = []

    def __call__(self, seconds: list[Second], p: float = 0.03) -> Feed:
        for second in seconds:
            self.now_ms += 1_000
            self.offset += 1
            for partition in range(2):
                read = self.read[partition]
                read["impression"] += (second.shown + partition) // 2
                read["click"] += (second.clicks + partition) // 2
                self.breaker.told(Told(partition, self.offset, Tick(self.now_ms, "", dict(read))))
            labels = bytes([1] * second.clicked + [0] * (second.candidates - second.clicked))
            batch = [sample(self.now_ms - ATTRIBUTION_MS, self.now_ms, labels)]
            if why := self.breaker.why_not(batch):
                self.held.append((self.now_ms, why))
            self.breaker.predicted(batch, np.full((len(labels), 1), p, np.float32))
        return self


def dead(seconds: list[Second]) -> list[Second]:
    return [s._replace(clicks=0) for s in seconds]


@pytest.mark.parametrize("slates", [1, 10, 300])
@pytest.mark.parametrize("seed", range(3))
def test_a_steady_feed_never_holds(slates: float, seed: int) -> None:
    feed = Feed(Breaker(RULES))(steady(4 * 3_600, seed, slates), p=0.03)
    assert feed.held == []


@pytest.mark.parametrize(("slates", "within_s"), [(3, 60), (10, 20), (300, 10)])
def test_a_feed_that_dies_holds_before_any_label_shows_it_and_until_all_that_was_shown_then_is_through(
    slates: float, within_s: int
) -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1, slates))
    died_ms = feed.now_ms
    feed(dead(steady(600, 2, slates)))
    back_ms = feed.now_ms
    feed(steady(1_200, 3, slates))
    times = [at_ms for at_ms, _ in feed.held]
    assert died_ms < times[0] <= died_ms + within_s * 1_000 <= died_ms + ATTRIBUTION_MS
    assert "coverage.click is" in feed.held[0][1]
    last_shown_ms = times[-1] - ATTRIBUTION_MS
    assert back_ms <= last_shown_ms <= back_ms + 3 * MINUTE_MS
    assert np.array_equal(times, np.arange(times[0], times[-1] + 1, 1_000))


def test_a_joiner_that_begins_to_count_again_is_no_broken_feed() -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    for partition in (0, 1, 0):
        feed.read[partition] = {"impression": 0, "click": 0}
        feed(steady(200, 2))
    assert feed.held == []


def test_labels_that_vanish_behind_a_living_feed_hold_too() -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    feed(steady(120, 2, positives=0.0))
    assert "positives.click is" in feed.held[0][1]


@pytest.mark.parametrize(("times", "holds"), [(2.0, False), (5.0, True)])
def test_twice_the_clicks_are_learned_and_five_times_are_not(times: float, holds: bool) -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    feed(steady(600, 2, rate=0.3 * times))
    assert bool(feed.held) == holds


def test_its_bands_are_told_by_the_names_of_measures_and_say_which_is_left() -> None:
    feed = Feed(Breaker(RULES))(steady(200, 1))
    assert feed.breaker.bands() == ()  # nothing is usual yet
    feed(steady(3_600, 1))
    bands = {band.metric: band for band in feed.breaker.bands()}
    expected = {
        "data.coverage.click": (0.3, 0.5, 3.0),
        "data.positives.click": (0.03, 0.5, 3.0),
        "data.impressions": (10.0, 0.05, 20.0),
        "quality.ne.click": (1.0, 0.0, 1.5),
    }
    assert bands.keys() == expected.keys()
    for name, (usual, low, high) in expected.items():
        band = bands[name]
        assert measure_of(name).name in name
        assert band.is_met
        assert band.value == pytest.approx(usual, rel=0.25)
        assert (band.low, band.high) == pytest.approx((low * usual, high * usual), rel=0.1)
    feed(dead(steady(60, 2)))
    (left,) = (band for band in feed.breaker.bands() if not band.is_met)
    assert left.metric == "data.coverage.click"
    assert left.value == pytest.approx(0, abs=0.02)
    assert feed.breaker.why.startswith("coverage.click is 0")
    assert Breaker(replace(RULES, on=False)).bands() == ()


def test_predictions_that_make_no_sense_hold() -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    assert feed.held == []
    feed(steady(120, 2), p=0.6)
    assert "ne is" in feed.held[0][1]


@pytest.mark.parametrize(
    ("usually", "then", "left"),
    [
        (Second(10, 5, 20, 10), Second(10, 5, 20, 20), {"data.positives.click", "data.coverage.click"}),
        (Second(10, 5, 20, 20), Second(10, 5, 20, 20), {"data.positives.click", "data.coverage.click"}),
        (Second(0, 5, 20, 10), Second(0, 5, 20, 10), {"data.positives.click", "quality.ne.click"}),
    ],
    ids=["all labels are 1", "as they always were", "clicks of impressions that were never read"],
)
def test_what_there_is_nothing_to_compare_with_is_no_figure(
    usually: Second, then: Second, left: set[str]
) -> None:
    feed = Feed(Breaker(RULES))([usually] * 900, p=0.5)
    feed([then] * 120, p=then.clicked / then.candidates)
    assert {band.metric for band in feed.breaker.bands()} - {"data.impressions"} == left
    assert feed.held == []


def test_what_is_usual_is_not_learned_while_it_holds() -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    feed(dead(steady(6 * 3_600, 2)))
    assert feed.breaker.why
    n_held = len(feed.held)
    feed(steady(1_200, 3))
    assert not feed.breaker.why
    assert len(feed.held) < n_held + 300


def test_a_person_holds_and_releases_whatever_the_figures() -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    feed.breaker.told(Told(0, 10**6, Tick(feed.now_ms, "hold")))
    feed(steady(60, 2))
    assert [why for _, why in feed.held] == ["ordered"] * 60
    feed.breaker.told(Told(0, 10**6 + 1, Tick(feed.now_ms, "release")))
    feed(dead(steady(60, 3)))  # nothing is usual any more
    assert len(feed.held) == 60
    off = Feed(Breaker(replace(RULES, on=False)))(steady(3_600, 1))
    off(dead(steady(600, 2)))
    assert off.held == []
    off.breaker.order("hold")
    assert off(steady(5, 3)).held


@given(st.integers(0, 5_000), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_one_that_goes_on_from_a_state_answers_the_same(cut: int, seed: int) -> None:
    seconds = steady(3_600, seed) + dead(steady(300, seed)) + steady(1_100, seed)
    whole = Feed(Breaker(RULES))(seconds)
    first = Feed(Breaker(RULES))(seconds[:cut])
    again = Breaker(RULES)
    again.load(first.breaker.state())
    first.breaker = again
    assert first(seconds[cut:]).held == whole.held
    assert again.state() == whole.breaker.state()


def test_a_partition_that_is_silent_holds_back_the_judgement() -> None:
    breaker = Breaker(RULES)
    for n in range(4_000):
        read = {"impression": 10 * n, "click": 3 * n if n < 3_600 else 10_800}
        breaker.told(Told(0, n, Tick(1_000 * n, "", read)))
        if n < 3_600:
            breaker.told(Told(1, n, Tick(1_000 * n, "", read)))
    assert not breaker.why
    breaker.told(Told(1, 4_000, Tick(3_999_000, "", {"impression": 36_000, "click": 10_800})))
    assert breaker.why


def test_a_gap_of_months_is_no_work_and_soon_forgotten() -> None:
    feed = Feed(Breaker(RULES))(steady(3_600, 1))
    feed.now_ms += 10**10
    began_ms = feed.now_ms
    feed(steady(600, 2))
    assert all("events is 0" in why or "before the figures were back" in why for _, why in feed.held)
    assert feed.held[-1][0] - began_ms < 4 * MINUTE_MS
