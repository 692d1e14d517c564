from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import groupby, pairwise
from math import log

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from instep import drifts
from instep.drifts import (
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
)
from instep.faults import BREAKS, FAULTS, Faults, lines
from instep.simulator import Truth, events
from instep.world import BadWorld, Floats, Items, World
from stream.events import Action, BadEvent, Event, Impression, Tick, decode_event, encode_event

SMALL = World(n_users=60, n_items=400, history_median=80, history_days=2, tail_s=100)
N = 600
DRIFTS: list[Drift] = [
    NewItems(0.5),
    ShiftedInterests(0.5),
    MovedItems(0.5),
    RelabelledItems(0.5),
    CtrJump(0.5),
    DeadClicks(0.5, 0.75),
    SwappedIds(0.5),
    ConstantFeature(0.5, 0.75),
    NewCategory(0.5),
]


def run(world: World = SMALL, n: int = N, *drifts: Drift) -> tuple[list[Event], Truth]:
    truth = Truth()
    return list(events(world, n, drifts=drifts, truth=truth)), truth


def impressions(stream: list[Event]) -> list[Impression]:
    return [e for e in stream if isinstance(e, Impression)]


def actions(stream: list[Event]) -> list[Action]:
    return [e for e in stream if isinstance(e, Action)]


def logits(truth: Truth, impression: Impression) -> Floats:
    p = truth.p[impression.id]
    return np.log(p) - np.log1p(-p)


@pytest.fixture(scope="module")
def default() -> tuple[list[Event], Truth]:
    """The default world, with an eighth of the users and of the slates."""
    return run(replace(World(), n_users=500), 3_750)


def test_the_default_world_has_the_click_rate_and_the_best_auc_that_the_studies_assume(
    default: tuple[list[Event], Truth],
) -> None:
    p, clicked = default[1].arrays()
    assert len(p) == 37_500
    assert clicked.mean() == pytest.approx(0.23, abs=0.015)
    assert roc_auc_score(clicked, p) == pytest.approx(0.85, abs=0.01)
    assert p.mean() == pytest.approx(clicked.mean(), abs=4 * np.sqrt(0.25 / len(p)))


def test_histories_have_the_lengths_that_were_asked_for(default: tuple[list[Event], Truth]) -> None:
    organic = Counter(a.user for a in actions(default[0]) if a.impression is None)
    assert len(organic) == 500
    quantiles = np.quantile(list(organic.values()), (0.1, 0.5, 0.9))
    assert quantiles == pytest.approx((170, 360, 770), rel=0.12)


def test_recent_behaviours_show_few_of_a_users_interests(default: tuple[list[Event], Truth]) -> None:
    """Else there would be nothing to search for in the long part."""
    stream, truth = default
    topics = defaultdict(list)
    for action in actions(stream):
        if action.impression is None:
            topics[action.user].append(truth.topic_of(action.item))
    common = {u: {t for t, n in Counter(seen).items() if n >= 10} for u, seen in topics.items()}
    shown = [len(common[u] & set(seen[-16:])) / len(common[u]) for u, seen in topics.items() if common[u]]
    assert np.mean(shown) < 0.4


def test_one_item_in_ten_carries_a_category_that_is_not_its_topics() -> None:
    world = World(n_items=20_000)
    items = Items(world)
    items.add(world.n_items, world.rng(0))
    assert (items.category != world.category_of(items.topic)).mean() == pytest.approx(0.1, abs=0.01)
    assert np.ptp(np.bincount(items.topic, minlength=world.n_topics)) == 0


@pytest.mark.parametrize("drifts", [(), (MovedItems(0.3), CtrJump(0.6, 0.5), ShiftedInterests(0.6))])
def test_the_true_probability_follows_from_the_behaviours_in_the_stream(drifts: tuple[Drift, ...]) -> None:
    """Counted from the events alone, each logit leaves a rest that is a constant of its item: its quality."""
    truth, seen = Truth(), defaultdict(list)
    quality: dict[str, float] = {}
    n_again = n_slates = 0
    for event in events(SMALL, N, drifts=drifts, truth=truth):
        if isinstance(event, Action):
            seen[event.user].append(event.item)
        elif isinstance(event, Impression):
            topics = [truth.topic_of(item) for item in seen[event.user]]
            jump = 0.5 if len(drifts) > 1 and n_slates >= 0.6 * N else 0.0
            n_slates += 1
            for candidate, logit in zip(event.candidates, logits(truth, event), strict=True):
                topic = truth.topic_of(candidate.item)
                n_short, n_long = topics[-16:].count(topic), topics[:-16].count(topic)
                expected = -3.7 + 3.6 * min(1, log(1 + n_long) / log(41)) + 0.8 * min(1, n_short / 4) + jump
                rest = float(logit) - expected
                n_again += candidate.item in quality
                assert quality.setdefault(candidate.item, rest) == pytest.approx(rest, abs=1e-9)
    assert n_again > 5_000
    assert np.std(list(quality.values())) == pytest.approx(0.5, abs=0.1)


def test_the_same_world_gives_the_same_stream_and_another_seed_another() -> None:
    (first, truth), (second, again) = run(SMALL, N, *DRIFTS), run(SMALL, N, *DRIFTS)
    assert first == second
    assert all(np.array_equal(truth.p[i], again.p[i]) for i in truth.p)
    assert run(replace(SMALL, seed=1), N, *DRIFTS)[0] != first


def test_events_come_in_order_of_time_and_behaviours_before_the_stream() -> None:
    stream, _ = run(SMALL, N, *DRIFTS)
    assert all(a.at_ms <= b.at_ms for a, b in pairwise(stream))
    first = next(i for i, e in enumerate(stream) if isinstance(e, Impression))
    assert all(e.at_ms < SMALL.start_ms for e in stream[:first] if isinstance(e, Action))
    assert all(e.at_ms >= SMALL.start_ms for e in stream[first:])


def test_ticks_come_every_ten_seconds_until_every_window_has_closed() -> None:
    stream, _ = run()
    ticks = [e.at_ms for e in stream if isinstance(e, Tick) and e.at_ms >= SMALL.start_ms]
    assert ticks == list(range(SMALL.start_ms, ticks[-1] + 1, 10_000))
    assert ticks[-1] >= impressions(stream)[-1].at_ms + 90_000
    assert max(b.at_ms - a.at_ms for a, b in pairwise(stream)) <= 60_000


def test_a_click_belongs_to_a_candidate_of_its_slate_and_follows_it_soon() -> None:
    stream, truth = run()
    slates = {i.id: i for i in impressions(stream)}
    clicked = defaultdict(set)
    for action in actions(stream):
        if action.impression is not None:
            slate = slates[action.impression]
            assert action.user == slate.user
            assert 0 < action.at_ms - slate.at_ms <= 60_000
            assert action.features == next(c.features for c in slate.candidates if c.item == action.item)
            clicked[action.impression].add(action.item)
    for slate in slates.values():
        items = np.array([c.item for c in slate.candidates])
        assert len(set(items)) == len(items) == 10
        assert set(items[truth.clicked[slate.id]]) == clicked[slate.id]


LIKES = replace(SMALL, kinds=("click", "like"))


@pytest.mark.parametrize("drifts", [(), tuple(DRIFTS)])
def test_likes_change_nothing_of_what_else_happens(drifts: tuple[Drift, ...]) -> None:
    (plain, before), (stream, truth) = run(SMALL, N, *drifts), run(LIKES, N, *drifts)
    assert [e for e in stream if not (isinstance(e, Action) and e.kind == "like")] == plain
    assert all(np.array_equal(truth.p[i], before.p[i]) for i in truth.p)
    assert not before.p_like
    assert run(LIKES, N, *drifts)[0] == stream
    assert all(a.at_ms <= b.at_ms for a, b in pairwise(stream))


def test_a_like_follows_a_click_soon_and_the_truth_knows_it() -> None:
    stream, truth = run(LIKES)
    clicks = {
        (a.impression or "", a.item): a.at_ms for a in actions(stream) if a.kind == "click" and a.impression
    }
    likes = [a for a in actions(stream) if a.kind == "like"]
    slates = {i.id: i for i in impressions(stream)}
    for like in likes:
        assert 0 < like.at_ms - clicks[like.impression or "", like.item] <= 60_000
        assert like.at_ms - slates[like.impression or ""].at_ms <= LIKES.windows["like"]
    liked = {
        (i, c.item) for i, s in slates.items() for c, y in zip(s.candidates, truth.liked[i], strict=True) if y
    }
    assert {(a.impression, a.item) for a in likes} == liked
    assert len(likes) == len(liked) > 100


def test_the_true_probability_of_a_like_follows_from_the_behaviours_in_the_stream() -> None:
    """Given a click, each logit leaves a rest that is a constant of its item: its charm."""
    truth, seen = Truth(), defaultdict(list)
    charm: dict[str, float] = {}
    for event in events(LIKES, N, truth=truth):
        if isinstance(event, Action) and event.kind == "click":
            seen[event.user].append(truth.topic_of(event.item))
        elif isinstance(event, Impression):
            p_after = truth.p_like[event.id] / truth.p[event.id]
            for candidate, p in zip(event.candidates, p_after.tolist(), strict=True):
                n_long = seen[event.user][:-16].count(truth.topic_of(candidate.item))
                rest = log(p / (1 - p)) - (-1.5 + 1.5 * min(1, log(1 + n_long) / log(41)))
                assert charm.setdefault(candidate.item, rest) == pytest.approx(rest, abs=1e-9)
    assert np.std(list(charm.values())) == pytest.approx(1.2, abs=0.15)


def test_likes_come_as_often_as_their_probabilities_say_and_can_be_told_apart() -> None:
    truth = run(replace(LIKES, n_users=300), 3_000)[1]
    p, liked = truth.arrays("like")
    assert liked.mean() == pytest.approx(p.mean(), abs=4 * np.sqrt(0.1 / len(p)))
    assert not (liked & ~truth.arrays()[1]).any()
    of_clicks = roc_auc_score(liked, truth.arrays()[0])
    assert roc_auc_score(liked, p) > of_clicks + 0.02


@pytest.mark.parametrize("drift", DRIFTS, ids=lambda d: type(d).__name__)
def test_a_drift_changes_nothing_before_its_time_and_something_after(drift: Drift) -> None:
    plain, _ = run()
    drifted, _ = run(SMALL, N, drift)
    at_ms = impressions(plain)[N // 2 - 1].at_ms
    before = [e for e in plain if e.at_ms <= at_ms]
    assert [e for e in drifted if e.at_ms <= at_ms] == before
    assert drifted[len(before) :] != plain[len(before) :]


def test_new_items_are_shown_from_their_time_on() -> None:
    stream, truth = run(SMALL, N, NewItems(0.5, 0.2))
    assert truth.new_items == {f"i{i}" for i in range(400, 480)}
    new = np.array([[c.item in truth.new_items for c in i.candidates] for i in impressions(stream)])
    assert not new[: N // 2].any()
    assert new[N // 2 :].mean() == pytest.approx(80 / 480, abs=0.05)


def test_shifted_users_are_shown_and_click_other_topics() -> None:
    stream, truth = run(SMALL, N, ShiftedInterests(0.5, 0.5))
    organic = [a for a in actions(stream) if a.impression is None and a.at_ms >= SMALL.start_ms]
    shifted = {a.user for a in organic}
    assert len(shifted) == 30
    assert min(a.at_ms for a in organic) > impressions(stream)[N // 2 - 1].at_ms

    def share_known(users: set[str], half: list[Impression]) -> float:
        """How many candidates of these slates are of a topic that was shown to the user in the first half."""
        slates = [i for i in half if i.user in users]
        return float(np.mean([truth.topic_of(c.item) in known[i.user] for i in slates for c in i.candidates]))

    first, second = impressions(stream)[: N // 2], impressions(stream)[N // 2 :]
    known: defaultdict[str, set[int]] = defaultdict(set)
    for i in first:
        known[i.user] |= {truth.topic_of(c.item) for c in i.candidates}
    others = {i.user for i in first} - shifted
    assert share_known(others, second) > share_known(shifted, second) + 0.2


def test_moved_items_keep_their_label_and_relabelled_ones_their_topic() -> None:
    plain, truth = run()
    _, moved = run(SMALL, N, MovedItems(0.5, 0.25))
    assert sum(moved.topics[i] != t for i, t in truth.topics.items()) == 100
    relabelled, same = run(SMALL, N, RelabelledItems(0.5, 0.25))
    assert same.topics == truth.topics
    assert same.p.keys() == truth.p.keys()
    assert all(np.array_equal(same.p[i], truth.p[i]) for i in truth.p)
    first, last = labels(plain), labels(relabelled[len(relabelled) // 2 :])
    both = first.keys() & last.keys()
    assert sum(first[i] != last[i] for i in both) / len(both) == pytest.approx(0.25, abs=0.05)
    assert labels(run(SMALL, N, MovedItems(0.5, 0.25))[0]).items() <= labels(plain).items() | set()


def labels(stream: list[Event]) -> dict[str, object]:
    """The category that each item was last shown with."""
    return {c.item: c.features["category"] for i in impressions(stream) for c in i.candidates}


def test_a_ctr_jump_moves_every_logit() -> None:
    (plain, before), (_, after) = run(), run(SMALL, N, CtrJump(0.5, 0.7))
    first = impressions(plain)[N // 2]
    assert logits(after, first) - logits(before, first) == pytest.approx(np.full(10, 0.7))
    assert after.arrays()[1][N * 5 :].mean() > before.arrays()[1][N * 5 :].mean() + 0.05


def test_a_dead_click_stream_loses_the_clicks_but_not_the_truth() -> None:
    (plain, before), (stream, truth) = run(), run(SMALL, N, DeadClicks(0.5, 0.75))
    assert all(np.array_equal(truth.p[i], before.p[i]) for i in truth.p)
    slates = impressions(stream)
    dead, over = slates[N // 2 - 1].at_ms, slates[3 * N // 4 - 1].at_ms
    lost = [a for a in actions(plain) if dead < a.at_ms < over]
    assert len(lost) > 100
    assert [e for e in stream if not dead < e.at_ms < over] == [e for e in plain if not dead < e.at_ms < over]
    assert not [a for a in actions(stream) if dead + 60_000 < a.at_ms < over]


def test_swapped_ids_name_other_items_and_nothing_else_changes() -> None:
    (plain, before), (stream, truth) = run(), run(SMALL, N, SwappedIds(0.5))
    assert all(np.array_equal(truth.p[i], before.p[i]) for i in truth.p)
    ids: dict[str, str] = {}
    was, now = impressions(plain), impressions(stream)
    assert now[: N // 2] == was[: N // 2]
    for old, new in zip(was[N // 2 :], now[N // 2 :], strict=True):
        for a, b in zip(old.candidates, new.candidates, strict=True):
            assert ids.setdefault(a.item, b.item) == b.item != a.item
            assert a.features == b.features
    assert len(set(ids.values())) == len(ids) > 300
    assert all(truth.topics[new] == before.topics[old] for old, new in ids.items())
    clicks = [
        (a, b) for a, b in zip(actions(plain), actions(stream), strict=True) if a.at_ms > now[N // 2].at_ms
    ]
    assert len(clicks) > 100
    assert all(b.item == ids[a.item] and b.features == a.features for a, b in clicks)


def test_a_constant_feature_is_one_until_it_is_over() -> None:
    (plain, before), (stream, truth) = run(), run(SMALL, N, ConstantFeature(0.5, 0.75))
    assert all(np.array_equal(truth.p[i], before.p[i]) for i in truth.p)
    devices = [i.context["device"] for i in impressions(stream)]
    assert set(devices[N // 2 : 3 * N // 4]) == {"phone"}
    rest = slice(0, N // 2), slice(3 * N // 4, N)
    for part in rest:
        assert devices[part] == [i.context["device"] for i in impressions(plain)[part]]
        assert len(set(devices[part])) == 3


def test_a_new_category_comes_with_new_items_alone() -> None:
    stream, truth = run(SMALL, N, NewCategory(0.5, 0.2))
    new = "c20"
    assert len(truth.new_items) == 80
    for n, impression in enumerate(impressions(stream)):
        for candidate in impression.candidates:
            assert (candidate.features["category"] == new) == (candidate.item in truth.new_items)
            assert n >= N // 2 or candidate.features["category"] != new
    shown = [c.features["category"] == new for i in impressions(stream)[N // 2 :] for c in i.candidates]
    assert np.mean(shown) == pytest.approx(80 / 480, abs=0.05)
    assert "c21" in labels(run(SMALL, N, NewCategory(0.2), NewCategory(0.5))[0]).values()


def test_the_click_rate_of_the_default_world_doubles() -> None:
    _, truth = run(replace(World(), n_users=300), 3_000, *drifts.DRIFTS["doubled"])
    p = truth.arrays()[0]
    half = len(p) // 2
    assert p[half:].mean() / p[:half].mean() == pytest.approx(2, abs=0.15)


def test_a_tenth_of_the_lines_is_broken_from_half_way_on() -> None:
    stream, truth = run()
    at, faults = FAULTS["poison"]
    from_ms = SMALL.moment_ms(at, N)
    got = list(lines(stream, faults, truth=truth, from_ms=from_ms))
    assert not Counter(map(encode_event, stream)) - Counter(got)
    n_after = sum(not isinstance(e, Tick) and e.at_ms >= from_ms for e in stream)
    assert (len(got) - len(stream)) / n_after == pytest.approx(0.1, abs=0.03)
    first = next(n for n, line in enumerate(got) if line != encode_event(stream[n]))
    assert stream[first - 1].at_ms >= from_ms


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: World(n_topics=81), "world: n_topics: expected a multiple of n_categories = 20, got 81"),
        (lambda: World(kinds=("like",)), "world: kinds: expected click or click, like, got like"),
        (lambda: World(slate=2_000), "world: slate: expected 1..1000 = n_items / 2, got 2000"),
        (lambda: run(SMALL, N, CtrJump(1.5)), "CtrJump: at: expected 0..1, got 1.5"),
        (lambda: run(SMALL, N, DeadClicks(0.5, 2)), "DeadClicks: until: expected 0..1, got 2"),
        (lambda: Faults(late=-1), "faults: late: expected 0..1, got -1"),
    ],
)
def test_a_world_that_cannot_be_is_refused_with_what_was_expected(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(BadWorld) as e:
        make()
    assert str(e.value) == message


def test_without_faults_lines_are_the_events() -> None:
    stream, _ = run()
    assert list(lines(stream)) == [encode_event(e) for e in stream]


def test_faults_reconcile_with_what_was_put_in() -> None:
    stream, truth = run()
    faults = Faults(duplicated=0.05, late=0.1, late_s=30, broken=0.03)
    got = list(lines(stream, faults, truth=truth, from_ms=SMALL.start_ms))
    assert got == list(lines(stream, faults, from_ms=SMALL.start_ms))
    histories = [encode_event(e) for e in stream if e.at_ms < SMALL.start_ms]
    assert got[: len(histories)] == histories
    true = Counter(map(encode_event, stream))
    extra = Counter(got) - true
    assert not true - Counter(got)
    broken = [line for line in extra.elements() if line not in true]
    assert len(broken) == sum(truth.faults[name] for name in BREAKS) > 30
    assert extra.total() - len(broken) == truth.faults["duplicated"] > 50
    refused = []
    for line in broken:
        try:
            assert decode_event(line).at_ms > stream[-1].at_ms + 300 * 86_400_000
        except BadEvent as e:
            refused.append(e.reason)
    assert len(refused) == len(broken) - truth.faults["far ahead"]
    assert refused.count("schema") == truth.faults["other schema"]


def test_a_late_event_comes_within_its_bound_and_the_rest_in_order() -> None:
    stream, truth = run()
    got = [decode_event(line) for line in lines(stream, Faults(0, 0.1, 30, 0), truth=truth)]
    clock = n_late = 0
    for event in got:
        n_late += event.at_ms < clock
        clock = max(clock, event.at_ms)
        assert event.at_ms >= clock - 30_001
    assert truth.faults["late"] * 0.5 < n_late <= truth.faults["late"]


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_makes_a_line_that_no_reader_can_use(name: str) -> None:
    line = encode_event(Action("click", "ada", "n7", 5))
    if name == "far ahead":
        assert decode_event(BREAKS[name](line)).at_ms == 5 + 366 * 86_400_000
    else:
        with pytest.raises(BadEvent):
            decode_event(BREAKS[name](line))


def test_a_world_too_small_for_its_slates_still_shows_each_item_once() -> None:
    stream, _ = run(World(n_users=3, n_items=20, n_topics=20, history_median=20, history_days=1), 50)
    for impression in impressions(stream):
        items = [c.item for c in impression.candidates]
        assert len(items) == len(set(items)) >= 5


def test_simultaneous_behaviours_of_a_user_are_not_identical() -> None:
    """The joiner takes an identical action for a duplicate; the truth must not count what it drops."""
    stream, _ = run()
    for _, same in groupby(actions(stream), key=lambda a: (a.at_ms, a.user, a.item)):
        assert len(list(same)) == 1
