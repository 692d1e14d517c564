"""The demonstration in small: what it shows is so, and it ends with its table."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import roc_auc_score

from instep import demo as demonstration
from instep.demo import Demo
from instep.pipeline import Pipeline
from instep.probe import overlap
from instep.world import World
from monitor.folder import Folder
from monitor.monitor import Monitor
from stream.events import Version, key_of
from tests.worlds import make_log, product, small
from trainer.batch import Batch
from trainer.learner import Learner, locate
from trainer.loop import Step
from trainer.model.attention import TargetAttention

N_SLATES = 400


class Shown(NamedTuple):
    """One run, and what stood in the terminal."""

    demo: Demo
    text: str
    version: Version
    watched: dict[str, Any]
    """What the monitor's page was told when the stream was over."""
    folder: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    made: list[Demo] = []
    watched: list[dict[str, Any]] = []
    out, folder = io.StringIO(), tmp_path_factory.mktemp("demo")

    class Kept(Demo):
        def __init__(self, n_slates: int, seed: int, watch: Monitor | None = None) -> None:
            super().__init__(n_slates, seed, watch)
            made.append(self)

        def advance(self, n_events: int) -> bool:
            goes_on = super().advance(n_events)
            if not goes_on:
                found = re.search(r"http://127\.0\.0\.1:\d+/", out.getvalue())
                assert found is not None
                with urlopen(f"{found[0]}api/state", timeout=20) as answer:
                    watched.append(json.load(answer))
            return goes_on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "Demo", Kept)
        demonstration.run(Console(file=out, width=120), folder, minutes=1.0, n_slates=N_SLATES, seed=0)
    (state,) = watched
    return Shown(made[0], out.getvalue(), made[0].pipeline.loop.version, state, folder)


def test_a_monitor_shows_it_live_and_its_page_stays(shown: Shown) -> None:
    status = shown.watched["status"]
    assert status["held"] == ""
    assert status["stages"]["trained"]["version"][1] > 10
    assert status["counts"]["used.impression"] > N_SLATES // 2
    page = shown.folder / "monitor.html"
    assert shown.text.splitlines()[-1] == f"what the monitor saw: {page}"
    assert Folder(shown.folder).board().status is not None
    assert page.stat().st_size > 1_000_000


def test_it_ends_with_the_table_that_compares_the_models(shown: Shown) -> None:
    demo, lines = shown.demo, shown.text.splitlines()
    y = np.concatenate(demo.labels)
    title = f"{len(y):,} candidates; the world drifted half way"
    table = lines[next(n for n, line in enumerate(lines) if line.strip() == title) :]
    assert len(table) == 1 + 3 + 4 + 1 + 1  # and the line of the page
    at = demo.n_before_drift
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table[4:8]]
    for (name, before, after, _, better), (model, track) in zip(
        rows,
        (
            ("best possible", "best"),
            ("ETA, codes live", "live"),
            ("ETA, codes frozen half way", "frozen"),
            ("recent behaviours alone", "short"),
        ),
        strict=True,
    ):
        p = demo.tracks[track].all()
        assert name == model
        assert before == f"{100 * roc_auc_score(y[:at], p[:at]):.2f}"
        assert after == f"{100 * roc_auc_score(y[at:], p[at:]):.2f}"
        assert bool(better) == (track in ("frozen", "short"))
        if better:
            gain = roc_auc_score(y[at:], demo.tracks["live"].all()[at:]) - roc_auc_score(y[at:], p[at:])
            assert better.startswith(f"{100 * gain:+.2f} points (")


def test_the_last_picture_holds_what_the_parts_say(shown: Shown) -> None:
    demo = shown.demo
    picture = shown.text[: shown.text.index("candidates; the world drifted")]
    version = shown.version
    n = len(np.concatenate(demo.labels))
    for part in (
        f"{n:,} candidates",
        f"trainer {version}    index {version}    ranker {version}",
        f"in the last {len(demo.flipped)} steps",
        "ranker and trainer at one Version differ by",
        "hidden topic:",
        "yellow: after the drift",
    ):
        assert part in picture, part
    assert not [line for line in picture.splitlines() if "━" in line and "event time" in line]
    assert all(len(line) <= 120 for line in shown.text.splitlines())


def test_every_slate_is_scored_by_every_model_and_once(shown: Shown) -> None:
    demo = shown.demo
    assert demo.pipeline.loop.n_samples == N_SLATES
    n = len(np.concatenate(demo.labels))
    assert n == demo.pipeline.n_candidates == len(np.concatenate(demo.users))
    assert {name: len(track.all()) for name, track in demo.tracks.items()} == dict.fromkeys(demo.tracks, n)
    assert not demo.truth.p  # each was taken for its slate
    assert sorted(demo.truth.clicked) == sorted(f"s{i}" for i in range(N_SLATES))
    clicked = sum(int(y.sum()) for y in demo.truth.clicked.values())
    assert np.concatenate(demo.labels).sum() == clicked
    counts = demo.pipeline.counts()
    assert not [name for name in counts if name.startswith(("dead", "late", "orphan", "duplicate"))]


def test_frozen_codes_are_the_live_ones_until_the_world_drifts(shown: Shown) -> None:
    demo = shown.demo
    assert demo.frozen is not None
    live, frozen = demo.tracks["live"].all(), demo.tracks["frozen"].all()
    at = demo.n_before_drift
    assert 0.4 < at / len(live) < 0.6
    np.testing.assert_array_equal(live[:at], frozen[:at])
    assert (live[at:] != frozen[at:]).mean() > 0.5
    assert all(demo.flipped)


def test_trainer_index_and_ranker_are_one_version_and_score_alike(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = shown.demo
    pipeline = demo.pipeline
    assert pipeline.loop.version == pipeline.index.version == demo.mirror.version
    assert pipeline.loop.version.step == pipeline.learner.n_steps > N_SLATES // 32
    parity = demo.parity()
    assert parity is not None
    assert parity < 1e-6
    # a ranker that has missed what was learned since would be seen
    assert demo._last is not None
    monkeypatch.setattr(demo.mirror, "follow", lambda index: None)
    for _ in range(3):
        pipeline.learner.step(demo._last.batch)
    stale = demo.parity()
    assert stale is not None
    assert stale > 1e-5
    assert demo.mirror.version < pipeline.loop.version


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Demo:
    """One whose users have hardly any history."""

    def fewer(**given: Any) -> World:
        return World(**{**given, "n_users": 40, "history_median": 40.0, "history_days": 0.5})

    monkeypatch.setattr(demonstration, "World", fewer)
    return Demo(N_SLATES, 0)


def test_finished_in_the_middle_everything_is_learned_and_reaches_the_ranker(quick: Demo) -> None:
    while not quick.pipeline.loop.n_samples:
        assert quick.advance(40)
    n, version = quick.pipeline.loop.n_samples, quick.pipeline.loop.version
    quick.finish()
    assert quick.pipeline.loop.n_samples > n
    assert version < quick.pipeline.loop.version == quick.pipeline.index.version == quick.mirror.version


def test_copied_with_codes_that_go_on_it_stays_the_same(quick: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is between codes live and codes frozen is the codes and nothing else."""

    class Thawed(Learner):
        """In the place of Learner where the demo makes its copy: its codes follow all the same."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, False if name == "frozen" else value)

    monkeypatch.setattr(demonstration, "Learner", Thawed)
    while quick.advance(500):
        pass
    quick.finish()
    assert quick.drifted
    np.testing.assert_array_equal(quick.tracks["frozen"].all(), quick.tracks["live"].all())


def test_before_anything_is_learned_there_is_nothing_to_compare() -> None:
    demo = Demo(N_SLATES, 0)
    assert (demo.probe(), demo.parity(), demo.drifted) == (None, None, False)
    assert demo.advance(50)
    assert demo.parity() is None
    assert demo.mirror.version == demo.pipeline.index.version


class Learnt(NamedTuple):
    """A model after some steps, and the last batch."""

    learner: Learner
    batch: Batch


def learnt(unit: str) -> Learnt:
    """With sequences that are longer than what the search picks, and some that are not."""
    steps: list[Step] = []
    settings = small(model={"unit": unit, "top_k": 12, "warm_up_steps": 0}, trainer={"batch_samples": 24})
    pipeline = Pipeline(settings, make_log(product(60), 2).source(), on_step=steps.append)
    while pipeline.pump():
        pass
    pipeline.finish()
    return Learnt(pipeline.learner, steps[-2].batch)


def topics_of(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A hidden topic for every item there is."""
    return (keys % np.uint64(5)).astype(np.int64)


class TestOverlap:
    """The probe of a search."""

    def test_it_agrees_with_counting_one_by_one(self) -> None:
        learner, batch = learnt("eta")
        k, short, table = learner.config.k, learner.config.short, learner.table
        at = locate(table, batch)
        search = learner.network.reading.find
        assert search is not None
        start, stop = batch.start[:-1], np.maximum(batch.start[:-1], batch.start[1:] - short)
        picked = search(table, batch, at, False)(start, stop, k).positions
        n_coded = learner.config.shape.n_coded
        shared, n_hit, n_possible, by_chance = [], 0, 0, 0.0
        n_short = 0
        for n, b in enumerate(batch.slate):
            long = range(start[b], stop[b])
            if len(long) <= k:
                n_short += 1
                continue
            target = table.rows[at.items[n, :n_coded]].ravel().astype(np.float64)
            products = {
                t: table.rows[at.sequence[t, :n_coded]].ravel().astype(np.float64) @ target for t in long
            }
            exact = sorted(long, key=lambda t: (products[t], t))[-k:]
            shared.append(len(set(exact) & set(picked[n].tolist())) / k)
            same = [t for t in long if topics_of(batch.sequence[t, :1]) == topics_of(batch.items[n, :1])]
            n_hit += len(set(same) & set(picked[n].tolist()))
            n_possible += min(k, len(same))
            by_chance += k * len(same) / len(long)
        assert shared
        assert n_short
        found = overlap(learner, batch, topics_of)
        assert found.with_exact == pytest.approx(np.mean(shared), abs=0.01)  # float32 may swap near ties
        assert found.topic_recall == pytest.approx(n_hit / n_possible)
        assert found.by_chance == pytest.approx(by_chance / n_possible)
        assert 0 < found.with_exact < 1
        untold = overlap(learner, batch)
        assert untold.with_exact == found.with_exact
        assert np.isnan([untold.topic_recall, untold.by_chance]).all()

    def test_the_exact_search_is_perfect_and_one_topic_is_always_found(self) -> None:
        found = overlap(*learnt("exact"), lambda keys: np.zeros(len(keys), np.int64))
        assert found.with_exact == 1
        assert found.topic_recall == found.by_chance == 1

    @pytest.mark.parametrize("unit", ["average", "full"])
    def test_a_unit_that_searches_nothing_has_none(self, unit: str) -> None:
        found = overlap(*learnt(unit), topics_of)
        assert np.isnan([found.with_own, found.with_exact, found.topic_recall, found.by_chance]).all()

    def test_a_search_by_the_attention_itself_finds_all_that_weighs_most(self) -> None:
        assert overlap(*learnt("twin")).with_own == pytest.approx(1, abs=1e-3)

    def test_what_weighs_most_is_as_the_attention_says_one_candidate_at_a_time(self) -> None:
        learner, batch = learnt("eta")
        k, short, table, unit = learner.config.k, learner.config.short, learner.table, learner.network.long
        assert isinstance(unit, TargetAttention)
        at, shared = locate(table, batch), []
        search = learner.network.reading.find
        assert search is not None
        start, stop = batch.start[:-1], np.maximum(batch.start[:-1], batch.start[1:] - short)
        picked = search(table, batch, at, False)(start, stop, k).positions
        w = {name: value.detach().double().numpy() for name, value in unit.named_parameters()}
        for n, b in enumerate(batch.slate):
            long = range(start[b], stop[b])
            if len(long) > k:
                target = table.rows[at.items[n]].ravel().astype(np.float64)
                weights = np.zeros(len(long))
                for h in range(len(w["query"])):
                    query = w["key"][h].T @ (w["query"][h] @ target)
                    scores = [
                        query @ table.rows[at.sequence[t]].ravel()
                        + w["gap_bias"][int((batch.at_ms[b] - batch.sequence_at[t]) // 1000).bit_length(), h]
                        for t in long
                    ]
                    e = np.exp(np.array(scores) - np.max(scores))
                    weights += e / e.sum()
                best = sorted(long, key=lambda t: (round(weights[t - long[0]], 7), t))[-k:]
                shared.append(len(set(best) & set(picked[n].tolist())) / k)
        found = overlap(learner, batch).with_own
        assert 0 < found < 1
        assert found == pytest.approx(np.mean(shared), abs=0.01)  # float32 may swap near ties


def test_the_hidden_topics_of_the_demo_are_those_of_the_world(shown: Shown) -> None:
    demo = shown.demo
    items = [*demo.truth.topics][:50]
    keys = np.array([*(key_of("item", item) for item in items), 12345], np.uint64)
    expected = [*(demo.truth.topics[item] for item in items), -1]
    assert demo._topics(keys).tolist() == expected
    assert demo.probes
    probed = [found.by_chance for _, found in demo.probes if not np.isnan(found.by_chance)]
    assert probed
    assert all(0 < chance < 1 for chance in probed)
