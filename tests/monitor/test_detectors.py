"""What is said of a window, against brute force and river itself; and that nothing else is remembered."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from monitor.changes import Adwin, Kswin, PageHinkley, standardised
from monitor.detectors import Band, Detector, First, Limits, Usual
from monitor.row import Value
from monitor.verdict import middle_of

RIVER: Any = drift
FIGURES = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
ALL: list[Detector] = [
    Band(z=4, ratio=0.1),
    Limits(above=1.1, below=0.9, z=1),
    First(above=1.0, least_before=5),
    Adwin(least_before=5, delta=0.05),
    PageHinkley(least_before=5, threshold=4),
    Kswin(least_before=15, newest=5, alpha=0.05),
]


def series(rng: np.random.Generator, *parts: tuple[float, int], std: float = 0.1) -> list[Value]:
    """Windows of each level, so many of each."""
    return [Value(float(rng.normal(level, std)), 1_000, std) for level, n in parts for _ in range(n)]


def outs(detector: Detector, values: list[Value], keep: int = 60, adopt: int = 60) -> list[int]:
    usual = Usual()
    return [n for n, value in enumerate(values) if usual.judge(detector, value, keep, adopt).is_out]


@given(st.lists(st.tuples(FIGURES, st.floats(0, 10)), min_size=3, max_size=40))
def test_the_middle_and_its_spread_are_those_of_numpy(pairs: list[tuple[float, float]]) -> None:
    middle, spread = middle_of([Value(x, 1, error) for x, error in pairs])
    known = np.array([x for x, _ in pairs])
    assert middle == pytest.approx(np.median(known))
    wanted = max(
        np.median(abs(known - np.median(known))) / 0.6744897501960817,
        np.median([error for _, error in pairs]),
    )
    assert spread == pytest.approx(wanted, rel=1e-4)


@given(
    st.lists(FIGURES, min_size=10, max_size=40),
    FIGURES,
    st.floats(0.1, 10),
    FIGURES,
    st.sampled_from(["up", "down", "both"]),
)
def test_a_band_of_deviations_does_not_depend_on_the_unit(
    before: list[float], now: float, scale: float, shift: float, direction: str
) -> None:
    band = msgspec.convert({"kind": "band", "z": 3.0, "direction": direction}, Band)

    def verdict(values: list[float]) -> bool:
        return band.judge([Value(x, 1, None) for x in values[:-1]], Value(values[-1], 1, None)).is_out

    middle, spread = middle_of([Value(x, 1, None) for x in before])
    if abs(abs(now - middle) - 3 * spread) > 1e-6:  # not at the very edge, where rounding decides
        assert verdict([*before, now]) == verdict([x * scale + shift for x in (*before, now)])


@pytest.mark.parametrize("asked", ["z", "ratio", "margin"])
def test_a_band_asks_for_all_that_is_given(asked: str) -> None:
    """Each of the three may be what is asked for most: here a tenth."""
    less = {"z": 5.0, "ratio": 0.05, "margin": 0.05} | {asked: {"z": 10.0}.get(asked, 0.1)}
    band = Band("up", less["z"], less["ratio"], less["margin"])
    before = [Value(1.0, 500, 0.01)] * 20
    said = [band.judge(before, Value(x, 500, 0.01)).is_out for x in (1.02, 1.06, 1.09, 1.12, 0.8)]
    assert said == [False, False, False, True, False]


def test_a_window_less_sure_than_those_before_is_not_held_to_their_band() -> None:
    before = [Value(1.0 + 0.001 * (n % 5), 50_000, 0.002) for n in range(20)]
    assert Band(z=5).judge(before, Value(1.2, 50_000, 0.002)).is_out
    assert not Band(z=5).judge(before, Value(1.2, 600, 0.05)).is_out


def test_a_limit_is_passed_only_surely() -> None:
    limits = Limits(above=1.25, below=0.8, z=3)
    said = [limits.judge([], Value(x, 500, 0.05)).is_out for x in (1.0, 1.3, 1.41, 0.7, 0.64)]
    assert said == [False, False, True, False, True]
    assert limits.judge([], Value(0.5, 500, 0.05)).reference == 0.8


def test_what_never_happened_is_told_once_and_again_only_after_as_long_without() -> None:
    first = First(above=0.0, least_before=5)
    happened = [1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 2]
    assert outs(first, [Value(float(x), 500, None) for x in happened]) == [12, 21]


@pytest.mark.parametrize(
    "detector", [d for d in ALL if not isinstance(d, Limits)], ids=lambda d: type(d).__name__
)
def test_at_the_beginning_nothing_is_said(detector: Detector) -> None:
    wild = [Value(float(10**n), 500, None) for n in range(3)]
    assert outs(detector, wild) == []


def test_an_hour_that_is_out_does_not_become_what_is_usual_and_a_new_level_does() -> None:
    rng = np.random.default_rng(1)
    values = series(rng, (1.0, 60), (0.0, 30), (1.0, 30))
    assert outs(Band(z=5), values) == list(range(60, 90))
    stays = series(rng, (1.0, 60), (0.0, 100))
    assert outs(Band(z=5), stays) == list(range(60, 120))
    assert outs(Band(z=5), stays, adopt=20) == list(range(60, 80))


def test_page_hinkley_says_what_river_says_when_fed_one_by_one() -> None:
    rng = np.random.default_rng(2)
    values = series(rng, (1.0, 40), (1.15, 40))
    ours = PageHinkley("up", delta=0.5, threshold=8, least_before=20)
    river, said = RIVER.PageHinkley(20, 0.5, 8, 1.0, "up"), []
    for n, x in enumerate(standardised(values, 20)):
        river.update(x)
        if river.drift_detected:
            said.append(n)
            break
    assert said
    assert outs(ours, values, keep=1_000)[:1] == said
    assert 40 < said[0] < 60


def test_adwin_says_what_river_says_when_fed_one_by_one() -> None:
    rng = np.random.default_rng(3)
    values = series(rng, (1.0, 40), (0.7, 40))
    river, said = RIVER.ADWIN(0.002, clock=1, min_window_length=3), []
    for n, x in enumerate(standardised(values, 20)):
        river.update(x)
        if river.drift_detected:
            said.append(n)
            break
    assert said
    assert outs(Adwin("down", least_before=20), values, keep=1_000)[:1] == said
    assert outs(Adwin("up", least_before=20), values, keep=1_000) == []


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley(), Kswin()], ids=lambda d: type(d).__name__)
def test_a_change_of_level_is_told_once(detector: Detector) -> None:
    values = series(np.random.default_rng(4), (1.0, 60), (1.4, 40), std=0.05)
    said = outs(detector, values)
    assert len(said) == 1
    assert 60 <= said[0] < 85


@pytest.mark.parametrize("detector", ALL, ids=lambda d: type(d).__name__)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), cut=st.integers(0, 80))
def test_what_is_kept_is_all_there_is_to_know(detector: Detector, seed: int, cut: int) -> None:
    """Encoded and read back at any moment, the verdicts that follow are the same."""
    values = series(np.random.default_rng(seed), (1.0, 30), (1.3, 30), (1.0, 20))
    straight, stopped = Usual(), Usual()
    expected = [straight.judge(detector, value, 40, 10) for value in values]
    found = [stopped.judge(detector, value, 40, 10) for value in values[:cut]]
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(stopped), type=Usual)
    found += [again.judge(detector, value, 40, 10) for value in values[cut:]]
    assert found == expected
    assert len(again.before) <= 40
    assert len(again.out) < 10
