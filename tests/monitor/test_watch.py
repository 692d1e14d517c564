"""Watch: the same rows however the log is read and wherever it is interrupted, and what they say, from the records."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from monitor.data import DataWindow
from monitor.freshness import Freshness
from monitor.lanes import OutOfOrderError, ScoreLane
from monitor.measures import measure_of
from monitor.row import Row
from monitor.watch import Watch
from monitor.windows import references
from stream.events import Sample, Tick, Version, key_of
from tests.monitor.messages import MINUTE_MS, START_MS, Messages, feed, feed_all, make, rules
from trainer.scores import auc, calibration, gauc, normalised_entropy

MESSAGES = make(85)
Rows = dict[tuple[str, int], list[Row]]


def by_source(rows: Iterable[Row], *, freshness: bool = False) -> Rows:
    """Rows of each source and size, in the order in which they closed."""
    found: Rows = {}
    for row in rows:
        if freshness or row.source != "freshness":
            found.setdefault((row.source, row.size_ms), []).append(row)
    return found


@cache
def once() -> Rows:
    """All of them, read topic by topic."""
    return by_source(feed_all(Watch(rules()), MESSAGES).take())


@pytest.fixture
def whole() -> Rows:
    return once()


def interleaved(seed: int, messages: Messages, runs: int) -> Iterable[tuple[str, int, int, int]]:
    """Every record once, ``(topic, partition, offset, place)``: now some of one stream, now some of another."""
    rng = np.random.default_rng(seed)
    streams = messages.streams
    at = [0] * len(streams)
    while any(at[i] < len(of) for i, (_, _, of) in enumerate(streams)):
        i = int(rng.integers(len(streams)))
        for _ in range(int(rng.integers(1, runs))):
            if at[i] < len(streams[i][2]):
                yield streams[i][0], streams[i][1], at[i], i
                at[i] += 1


def same_rows(rows: Iterable[Row]) -> None:
    """Fails with the first value that is another one, for all of them fill pages."""
    got, wanted = by_source(rows), once()
    assert {key: len(of) for key, of in got.items()} == {key: len(of) for key, of in wanted.items()}
    for key, of in wanted.items():
        for row, other in zip(of, got[key], strict=True):
            assert (row.start_ms, row.offsets, list(row.values)) == (
                other.start_ms,
                other.offsets,
                list(other.values),
            )
            wrong = [n for n, value in row.values.items() if other.values[n] != value]
            assert not wrong, (key, row.start_ms, wrong[0], row.values[wrong[0]], other.values[wrong[0]])


def test_every_source_has_windows_of_every_size_that_fits(whole: Rows) -> None:
    assert {key: len(rows) for key, rows in whole.items() if key[0] == "data"} == {
        ("data", MINUTE_MS): 85,
        ("data", 10 * MINUTE_MS): 8,
        ("data", 60 * MINUTE_MS): 1,
    }
    assert {source for source, _ in whole} == {"data", "quality", "codes"}
    for (_, size), rows in whole.items():
        starts = [row.start_ms for row in rows]
        assert starts == sorted(set(starts))
        assert all(start % size == 0 for start in starts)


def test_every_value_is_listed_and_every_panel_is_filled(whole: Rows) -> None:
    names = {name for rows in whole.values() for row in rows for name in row.values}
    listed = {measure_of(name).name for name in names}
    assert {measure_of(name).panel for name in names} == {"quality", "data", "codes", "slices"}
    assert {"data.psi", "data.score_psi", "data.unseen", "quality.psi", "codes.overlap"} <= listed
    slices = {name.removeprefix("slices.ne.") for name in names if name.startswith("slices.ne.")}
    assert {"item.new", "item.old", "user.old", "item.head", "item.tail", "position.0"} <= slices
    assert sum(part.startswith("device.") for part in slices) == 3


@settings(deadline=None, max_examples=12, derandomize=True, phases=[Phase.generate])
@given(seed=st.integers(0, 1 << 30), runs=st.sampled_from([2, 8, 60, 500]))
def test_neither_polls_nor_the_order_of_topics_and_partitions_change_a_row(seed: int, runs: int) -> None:
    watch, streams = Watch(rules()), MESSAGES.streams
    for topic, partition, offset, i in interleaved(seed, MESSAGES, runs):
        feed(watch, topic, partition, offset, streams[i][2][offset])
    same_rows(watch.take())


@settings(deadline=None, max_examples=8, derandomize=True, phases=[Phase.generate])
@given(seed=st.integers(0, 1 << 30), runs=st.sampled_from([2, 30, 300]))
def test_stopped_anywhere_it_goes_on_with_the_same_rows(seed: int, runs: int) -> None:
    watch, streams, rows = Watch(rules()), MESSAGES.streams, list[Row]()
    rng, todo = np.random.default_rng(seed), list(interleaved(seed, MESSAGES, runs))
    for stop in [*sorted(rng.integers(0, len(todo), 3).tolist()), len(todo)]:
        for topic, partition, offset, i in todo[:stop]:
            if offset >= watch.offsets[topic][partition]:
                feed(watch, topic, partition, offset, streams[i][2][offset])
        if rng.random() < 0.5:
            rows += watch.take()
        watch = Watch(rules(), watch.state())
    for topic, partition, offset, i in todo:  # what had to wait
        if offset >= watch.offsets[topic][partition]:
            feed(watch, topic, partition, offset, streams[i][2][offset])
    same_rows([*rows, *watch.take()])


def test_freshness_in_lockstep_goes_on_after_a_restart_as_well() -> None:
    def run(stops: int) -> list[Row]:
        watch, rows = Watch(rules()), list[Row]()
        order = sorted(
            (
                (m.at_ms if isinstance(m, Tick) else m.closed_ms, p, o)
                for p, of in MESSAGES.samples.items()
                for o, m in enumerate(of)
            ),
        )
        for n, (at_ms, p, o) in enumerate(order):
            watch.sample(p, o, MESSAGES.samples[p][o])
            if n % 50 == 0:
                watch.indexed(Version(0, n), at_ms)
            if stops and n % stops == 0:
                rows += watch.take()
                watch = Watch(rules(), watch.state())
        return [*rows, *watch.take()]

    assert by_source(run(97), freshness=True) == by_source(run(0), freshness=True)


def test_a_window_says_what_its_records_say(whole: Rows) -> None:
    for row in [
        next(r for r in whole["quality", MINUTE_MS][20:] if r.values["quality.ne.click"].value is not None),
        whole["quality", 10 * MINUTE_MS][3],
        whole["quality", 60 * MINUTE_MS][0],
    ]:
        inside = [
            s for of in MESSAGES.scores.values() for s in of if row.start_ms <= s.closed_ms < row.end_ms
        ]
        p = np.concatenate([s.predicted()[:, 0] for s in inside])
        y = np.concatenate([s.labelled()[:, 0] for s in inside])
        slate = np.repeat(np.arange(len(inside)), [len(s.labels) for s in inside])
        served = np.concatenate([s.served_scores() for s in inside])
        values = {name: v.value for name, v in row.values.items()}
        assert values["quality.ne.click"] == pytest.approx(normalised_entropy(p, y), rel=1e-6)
        assert values["quality.auc.click"] == pytest.approx(auc(p, y), abs=2e-3)
        assert values["quality.slate_auc.click"] == pytest.approx(gauc(p, y, slate), rel=1e-5)
        assert values["quality.calibration.click"] == pytest.approx(calibration(p, y), rel=1e-6)
        assert values["quality.ctr.click"] == pytest.approx(y.mean(), rel=1e-6)
        cost = normalised_entropy(served, y) - normalised_entropy(p, y)
        assert values["quality.staleness.click"] == pytest.approx(cost, abs=1e-5)
        assert values["quality.served_behind"] == pytest.approx(3, abs=0.2)
        assert row.values["quality.ne.click"].n == len(p)


def test_a_window_of_samples_says_what_its_records_say(whole: Rows) -> None:
    for size, at in ((MINUTE_MS, 30), (10 * MINUTE_MS, 2), (60 * MINUTE_MS, 0)):
        row = whole["data", size][at]
        inside, reading = list[Sample](), dict[str, int]()
        for of in MESSAGES.samples.values():
            before: Tick | None = None
            for m in of:
                if isinstance(m, Sample):
                    inside += [m] if row.start_ms <= m.closed_ms < row.end_ms else []
                    continue
                if before is not None and row.start_ms <= m.at_ms < row.end_ms:
                    for name, n in m.read.items():
                        reading[name] = reading.get(name, 0) + n - before.read[name]
                before = m
        values = {name: v.value for name, v in row.values.items()}
        assert values["data.impressions"] == pytest.approx(reading["impression"] / (size / 1000))
        assert values["data.coverage.click"] == pytest.approx(reading["click"] / reading["impression"])
        labels = np.concatenate([m.label_matrix(1) for m in inside])
        assert values["data.positives.click"] == pytest.approx(labels.mean(), rel=1e-6)
        assert values["data.behaviours"] == pytest.approx(np.mean([len(m.sequence_at) // 8 for m in inside]))
        assert row.offsets == {
            p: (min(own), max(own) + 1)
            for p in (0, 1)
            if (own := [m.origin.offset for m in inside if m.origin.partition == p])
        }


def test_a_window_says_how_many_publications_were_refused(whole: Rows) -> None:
    for size in (MINUTE_MS, 10 * MINUTE_MS):
        for row in whole["codes", size]:
            n_published = sum(row.start_ms <= p.at_ms < row.end_ms for p in MESSAGES.model)
            n_refused = sum(row.start_ms <= r.at_ms < row.end_ms for r in MESSAGES.refused.values())
            value = row.values["codes.refused"]
            assert (value.n, round((value.value or 0) * value.n)) == (n_published + n_refused, n_refused)
    assert any(row.values["codes.refused"].value for row in whole["codes", MINUTE_MS])
    assert sum(row.values["codes.refused"].value == 0 for row in whole["codes", MINUTE_MS]) > 20


def test_while_the_trainer_stands_still_samples_are_measured_and_ages_grow() -> None:
    stop_ms = START_MS + 20 * MINUTE_MS
    watch, streams = Watch(rules()), MESSAGES.streams
    for topic, partition, records in reversed(streams):
        for offset, message in enumerate(records):
            if topic == "samples" or (message.at_ms if topic == "model" else message.closed_ms) < stop_ms:  # type: ignore[union-attr]
                feed(watch, topic, partition, offset, message)
    rows = by_source(watch.take(), freshness=True)
    assert len(rows["data", MINUTE_MS]) == 85
    assert rows["quality", MINUTE_MS][-1].end_ms <= stop_ms
    ages = [row.values["freshness.trained"].value for row in rows["freshness", MINUTE_MS]]
    assert ages[-1] == pytest.approx((START_MS + 85 * MINUTE_MS - stop_ms) / 1000, abs=60)
    assert np.allclose(np.diff(np.array(ages[25:], float)), 60)


def test_a_partition_without_slates_holds_up_no_quality() -> None:
    made = make(10, partitions=3)
    quiet = Messages(
        {**made.samples, 0: [m for m in made.samples[0] if isinstance(m, Tick)]}, {**made.scores, 0: []}
    )
    rows = by_source(feed_all(Watch(rules(3)), quiet).take())
    assert [r.start_ms for r in rows["quality", MINUTE_MS]] == [r.start_ms for r in rows["data", MINUTE_MS]]


def test_scores_that_never_come_hold_up_no_later_window() -> None:
    made = make(10, partitions=1)
    lost = made.scores[0].pop(7)  # of a batch that could not be learned
    rows = by_source(feed_all(Watch(rules(1)), made).take())["quality", MINUTE_MS]
    assert len(rows) == 10
    there = sum(r.values["quality.held"].n for r in rows)
    assert there == sum(s.closed_ms < rows[-1].end_ms for s in made.scores[0])
    assert lost.closed_ms < rows[-1].end_ms


def test_what_a_rolled_back_trainer_learns_again_counts_once() -> None:
    made = make(10, partitions=1)
    again = made.scores[0][-12:-2]
    repeated = [
        msgspec.structs.replace(s, version=Version(1, n))
        for n, s in enumerate([*again, *made.scores[0][-2:]])
    ]
    twice = Messages(made.samples, {0: [*made.scores[0][:-2], *repeated]})
    rows, once = (by_source(feed_all(Watch(rules(1)), m).take())["quality", MINUTE_MS] for m in (twice, made))
    assert [r.values["quality.ne.click"] for r in rows] == [r.values["quality.ne.click"] for r in once]


def test_records_that_go_backwards_are_refused() -> None:
    watch = Watch(rules(1))
    watch.sample(0, 5, Tick(START_MS))
    with pytest.raises(OutOfOrderError, match=r"samples 0:5: expected offset >= 6"):
        watch.sample(0, 5, Tick(START_MS + 1))
    with pytest.raises(OutOfOrderError, match=r"closed at or after"):
        watch.sample(0, 6, Tick(START_MS - 1))


def test_scores_of_a_transaction_that_never_ended_count_once(caplog: pytest.LogCaptureFixture) -> None:
    made = make(10, partitions=1)
    first = made.scores[0]
    assert first[18].closed_ms < first[19].closed_ms
    twice = Messages(made.samples, {0: [*first[:20], *first[15:19], *first[20:]]}, made.model)
    rows, once = (by_source(feed_all(Watch(rules(1)), m).take())["quality", MINUTE_MS] for m in (twice, made))
    assert rows == once
    told = [r.getMessage() for r in caplog.records]
    assert [line[:26] for line in told] == ["a score is out of order, p"] * 4
    lane = ScoreLane(next_offset=4)
    with pytest.raises(OutOfOrderError, match=r"scores 0:3: expected offset >= 4"):
        lane.take(0, 3, first[0])


def test_a_state_of_other_rules_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the state of partitions \[0\]"):
        Watch(rules(1), Watch(rules(2)).state())


def test_a_tick_that_says_again_how_far_time_has_come_opens_no_window_anew() -> None:
    watch = Watch(rules(1))
    first = next(m for m in make(1, partitions=1).samples[0] if isinstance(m, Sample))
    watch.sample(0, 0, msgspec.structs.replace(first, closed_ms=START_MS))
    ticks = [START_MS, START_MS + MINUTE_MS - 1, START_MS + MINUTE_MS - 1, START_MS + 2 * MINUTE_MS]
    for n, at_ms in enumerate(ticks):
        watch.sample(0, n + 1, Tick(at_ms, read={"impression": 10 * n + 10}, counts={"in": 5}))
    rows = by_source(watch.take())["data", MINUTE_MS]
    assert [r.start_ms - START_MS for r in rows] == [0, MINUTE_MS]
    assert [r.values["data.impressions"].value for r in rows] == [10 / 60, 10 / 60]


def test_a_past_that_is_sent_ahead_of_the_first_slates_is_no_window() -> None:
    later = make(12, partitions=1)
    past = [Tick(START_MS - n * MINUTE_MS, read={"click": 600 - 9 * n}) for n in range(70, 0, -1)]
    watch = Watch(rules(1))
    for offset, message in enumerate([*past, *later.samples[0]]):
        watch.sample(0, offset, message)
    rows = by_source(watch.take())
    assert [r.start_ms - START_MS for r in rows["data", MINUTE_MS]] == [MINUTE_MS * n for n in range(12)]
    assert [r.start_ms - START_MS for r in rows["data", 10 * MINUTE_MS]] == [0]


def test_samples_ahead_of_the_ticks_are_in_one_window_each() -> None:
    """Under the eager policy samples carry the clock, and Ticks the watermark behind it."""
    sample = next(m for m in MESSAGES.samples[0] if isinstance(m, Sample))
    watch, watch_at = Watch(rules(1)), [0, 20, 59, 61, 70, 119, 121, 200]
    for n, s in enumerate(watch_at):
        early = msgspec.structs.replace(
            sample, closed_ms=START_MS + s * 1_000, stage="early" if n % 2 else "click"
        )
        watch.sample(0, 2 * n, early)
        watch.sample(
            0, 2 * n + 1, Tick(max(START_MS + (s - 5) * 1_000, START_MS - 5_000), read={"click": n + 1})
        )
    rows = by_source(watch.take())["data", MINUTE_MS]
    assert [r.start_ms - START_MS for r in rows] == [0, MINUTE_MS, 2 * MINUTE_MS]
    assert sum(r.values["data.actions.click"].value or 0 for r in rows) * 60 == pytest.approx(6)
    n_each = len(sample.labels)
    assert [r.values["data.positives.click"].n for r in rows] == [n_each, 2 * n_each, 0]


def test_what_is_served_is_as_old_as_the_version_was_when_it_scored_the_slate() -> None:
    watch = feed_all(Watch(rules(1)), make(5, partitions=1))  # the samples come before any publication
    assert all("freshness.served" not in r.values for r in watch.take())
    freshness = Freshness()
    for step in range(5_000):
        freshness.published(Version(0, step), step * 1_000)
    freshness.served(Version(0, 4_990), 4_999_500)
    freshness.served(Version(0, 1_000), 4_000_000)  # an older slate says nothing new
    assert freshness.values(5_000_000)["freshness.served"].value == 9.5
    freshness.served(Version(0, 3), 4_999_600)  # so old that nobody knows how old
    assert "freshness.served" not in freshness.values(5_000_000)


def test_features_that_were_never_seen_with_their_items_are_counted() -> None:
    """From a minute on every other item comes with the next category, and two items are new."""
    from_ms = START_MS + 75 * MINUTE_MS
    order = [f"{i}" for i in range(5)]
    next_of = {key_of("category", c): key_of("category", order[(i + 1) % 5]) for i, c in enumerate(order)}
    born = {key_of("item", name): key_of("item", f"new{name}") for name in ("3", "4")}
    messages = Messages({}, {p: [] for p in MESSAGES.scores})
    shown: list[tuple[int, list[tuple[int, int]]]] = []
    for p, records in MESSAGES.samples.items():
        messages.samples[p] = []
        for record in records:
            if isinstance(record, Sample):
                pairs = [(int(i), int(c)) for i, c in record.item_keys(2).tolist()]
                if record.closed_ms >= from_ms:
                    pairs = [(born.get(i, i), next_of[c] if i % 2 else c) for i, c in pairs]
                    record = msgspec.structs.replace(record, items=np.array(pairs, np.uint64).tobytes())
                shown.append((record.closed_ms // MINUTE_MS, pairs))
            messages.samples[p].append(record)
    rows = by_source(feed_all(Watch(rules()), messages).take())["data", MINUTE_MS]
    n_told = 0
    for row in rows:
        if "data.changed.category" not in row.values:
            continue
        minute = row.start_ms // MINUTE_MS
        before = {pair for at, pairs in shown if at < minute for pair in pairs}
        items = {item for item, _ in before}
        here = [pair for at, pairs in shown if at == minute for pair in pairs]
        changed = sum(item in items and (item, c) not in before for item, c in here)
        value = row.values["data.changed.category"]
        assert value.n == len(here)
        assert value.value == pytest.approx(changed / len(here), abs=1e-6)
        n_told += changed
    assert n_told > 10


def test_histories_of_any_length_that_is_let_pass_add_up() -> None:
    template = next(m for m in make(2).samples[0] if isinstance(m, Sample))
    lengths = np.random.default_rng(0).integers(50_000, 65_537, 3_000)
    window, known = DataWindow(), Watch(rules())._known
    ages = bytes(8 * 65_536)
    for n in lengths.tolist():
        window.add([msgspec.structs.replace(template, sequence_at=ages[: 8 * n])], 0, known)
    found = window.values(MINUTE_MS, known, references()[MINUTE_MS], unseen=False)["data.behaviours"]
    assert found.value == pytest.approx(lengths.mean())
    assert found.error == pytest.approx(lengths.std(ddof=1) / len(lengths) ** 0.5)
