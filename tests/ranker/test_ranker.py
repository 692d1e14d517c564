"""The ranker: what it says is what the trainer says at the same Version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.index import MemoryIndex
from instep.pipeline import Pipeline
from instep.settings import Settings, check
from ranker.mirror import Mirror
from ranker.ranker import NotReadyError, Ranked, Ranker
from stream.events import Action, BadEvent, Candidate, Event, Impression, Origin, Value, Version, key_of
from stream.profiles import MemoryProfiles
from tests.worlds import TWO_KINDS, liked, make_log, make_profiles, product, small
from trainer.batch import make_batch
from trainer.loop import Step
from trainer.model.units import UNITS

N_SLATES = 200
# So short that both bounds of a sequence matter.
STREAM = {"max_history": 20, "history_ttl_ms": 6 * 3_600_000}
ROUNDING = 1e-6
"""A slate alone and a slate among others are matrix products of other shapes, added in another order."""


def make_ranker(mirror: Mirror, profiles: MemoryProfiles, s: Settings) -> Ranker:
    return Ranker(mirror, profiles, s.scorer(), s.stream.max_history)


@dataclass
class Live:
    """A pipeline, a mirror of its index and a ranker beside it; profiles have heard the whole stream already."""

    settings: Settings
    keep: int = 256
    sent: Sequence[Event] = field(default_factory=lambda: product(N_SLATES), repr=False)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        s, config = self.settings, self.settings.learner_config()
        self.shown = {e.id: e for e in self.sent if isinstance(e, Impression)}
        clicks = [e for e in self.sent if isinstance(e, Action) and e.kind in s.stream.history_kinds]
        self.profiles = make_profiles(clicks, s.fields, s.stream.history_ttl_ms)
        log = make_log(self.sent, s.stream.partitions)
        self.pipeline = Pipeline(s, log.source(), on_step=self.steps.append)
        self.pipeline.index = MemoryIndex(self.keep)
        self.mirror = Mirror(config.shape, config.bits, s.trainer.capacity)
        self.ranker = make_ranker(self.mirror, self.profiles, s)

    def versions(self, poll: int, follow: int = 1) -> Iterator[Version]:
        """Run to the end, and stop wherever trainer and mirror are at the same new Version."""
        seen, n = None, 0
        while self.pipeline.pump(poll):
            n += 1
            if n % follow == 0:
                self.mirror.follow(self.pipeline.index)
            if self.mirror.version not in (None, seen) and self.mirror.version == self.pipeline.loop.version:
                yield (seen := self.pipeline.loop.version)
        self.pipeline.finish()
        self.mirror.follow(self.pipeline.index)
        assert self.mirror.version == self.pipeline.loop.version
        if self.mirror.version != seen:
            yield self.mirror.version

    def rank(self, shown: Impression) -> Ranked:
        return self.ranker.rank(shown.user, shown.candidates, shown.context, shown.at_ms)

    def check_slates_of_the_last_step(self) -> int:
        """The ranker asked for what was joined gives what the trainer predicts; returns how many slates that were."""
        step, learner = self.steps[-1], self.pipeline.learner
        predicted = learner.predict(step.batch)
        n_kinds = predicted.shape[1]
        for b, sample in enumerate(step.samples):
            shown = self.shown[sample.impression]
            ranked = self.rank(shown)
            alone = make_batch([sample], len(self.settings.fields.item), n_kinds)
            asked = self.ranker.slate(shown.user, shown.candidates, shown.context, shown.at_ms)
            for name in ("side", "at_ms", "items", "first", "sequence", "sequence_at", "start"):
                assert getattr(asked, name).tolist() == getattr(alone, name).tolist(), name
            assert ranked.p.tobytes() == learner.predict(alone).tobytes()
            of_slate = predicted[step.batch.first[b] : step.batch.first[b + 1]]
            np.testing.assert_allclose(ranked.p, of_slate, rtol=0, atol=ROUNDING)
            if not self.settings.ranker.weights:
                assert ranked.scores.tobytes() == ranked.p[:, 0].tobytes()
            assert ranked.version == self.pipeline.loop.version
            assert ranked.at_ms == self.pipeline.loop.at_ms
            assert ranked.n_behaviours == len(alone.sequence_at)
        return len(step.samples)

    def check_codes(self) -> None:
        """Every row has one code, in trainer, index and mirror."""
        table = self.pipeline.learner.table
        keys = table.keys[table.keys != 0]
        expected = table.codes[table.find(keys)]
        assert expected.any()
        assert self.pipeline.index.get(keys).codes.tolist() == expected.tolist()
        assert self.mirror.codes(keys).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "model",
    [{"unit": unit} for unit in UNITS if unit != "sim_soft"]  # a mirror has no index
    + [{"admit_after": 3}, {"coded": 1, "bits": 128}, {"born_from_category": False}],
    ids=str,
)
def test_a_ranker_scores_as_the_trainer_predicts_at_the_same_version(model: dict[str, Any]) -> None:
    live = Live(small(model=model, stream=STREAM, trainer={"publish_ms": 300}))
    seen, n_slates = [], 0
    for version in live.versions(poll=24):
        seen.append(version)
        n_slates += live.check_slates_of_the_last_step()
        live.check_codes()
    assert len(seen) > 8
    assert n_slates > 50
    assert len({len(s.sequence_at) for step in live.steps for s in step.samples}) > 5
    spread = np.concatenate([step.predicted.p for step in live.steps[-5:]])
    assert spread.std() > (0.001 if model.get("unit") == "none" else 0.01)  # or anything would agree


@pytest.mark.parametrize("towers", ["shared", "mmoe"])
def test_it_does_so_for_every_kind_of_action(towers: str) -> None:
    model = {"towers": towers, "experts": 3, "loss_weights": {"like": 2.0}}
    live = Live(
        small(model=model, stream=STREAM | TWO_KINDS, trainer={"publish_ms": 300}), sent=liked(N_SLATES)[0]
    )
    n_slates = 0
    for _ in live.versions(poll=24):
        n_slates += live.check_slates_of_the_last_step()
        live.check_codes()
    assert n_slates > 50
    p = np.concatenate([step.predicted.p for step in live.steps[-5:]])
    assert (np.abs(p[:, 0] - p[:, 1]) > 0.01).all()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 3), min_size=1, max_size=8),
    worth=st.tuples(*[st.floats(-10, 10, width=16)] * 3).filter(any),
)
def test_a_score_is_the_sum_of_worth_times_probability(
    rows: list[tuple[float, float, float]], worth: tuple[float, float, float]
) -> None:
    kinds = ("click", "like", "hide")
    s = small(stream={"windows": dict.fromkeys(kinds, 1_000)})
    s = check(msgspec.to_builtins(s) | {"ranker": {"weights": dict(zip(kinds, worth, strict=True))}})
    expected = [sum(w * p for w, p in zip(worth, row, strict=True)) for row in rows]
    got = s.scorer().combine(np.array(rows, np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_worth_decides_the_order() -> None:
    """Computed by hand: a is clicked more, b is liked more, c is hidden."""
    p = np.array([[0.30, 0.02, 0.01], [0.20, 0.10, 0.01], [0.40, 0.05, 0.30]], np.float32)
    kinds = ("click", "like", "hide")
    orders = {}
    for name, weights in {
        "without": {},
        "likes": {"like": 1.0},
        "both": {"click": 1.0, "like": 2.0},
        "less of c": {"click": 1.0, "like": 1.0, "hide": -1.0},
    }.items():
        raw = {"stream": {"windows": dict.fromkeys(kinds, 1_000)}, "ranker": {"weights": weights}}
        orders[name] = np.argsort(-check(raw).scorer().combine(p)).tolist()
    # without: .30 .20 .40   likes: .02 .10 .05   both: .34 .40 .50   less of c: .31 .29 .15
    assert orders == {"without": [2, 0, 1], "likes": [1, 2, 0], "both": [2, 1, 0], "less of c": [0, 1, 2]}


def test_the_scores_move_with_the_versions() -> None:
    live = Live(small(stream=STREAM, trainer={"publish_ms": 300}))
    shown = list(live.shown.values())[-1]
    scores = [live.rank(shown).scores.tobytes() for _ in live.versions(poll=24)]
    assert len(set(scores)) == len(scores)


@pytest.mark.parametrize(("keep", "follow"), [(1, 7), (2, 20), (256, 20)])
def test_a_ranker_that_was_away_says_the_same_as_one_that_was_not(keep: int, follow: int) -> None:
    """With few updates kept, the mirror finds a gap each time and loads the index whole."""
    live = Live(small(stream=STREAM, trainer={"publish_ms": 300}), keep)
    n = sum(live.check_slates_of_the_last_step() for _ in live.versions(poll=24, follow=follow))
    live.check_codes()
    assert n > 0


@pytest.fixture(scope="module")
def trained() -> Live:
    live = Live(small(stream=STREAM))
    assert list(live.versions(poll=512))
    return live


def test_what_nobody_knows_is_scored_as_the_trainer_scores_it(trained: Live) -> None:
    shown = list(trained.shown.values())[-1]
    known = shown.candidates[0]
    slate = [
        known,
        Candidate("never seen", known.features),
        Candidate("nor this", known.features),
        Candidate("and of no category", {}),
        Candidate("of an unknown one", {"category": "c999"}),
        known,
    ]
    contexts: list[dict[str, Value]] = [
        {},
        {"device": "phone"},
        {"device": "toaster"},
        {"device": 3, "x": "y"},
    ]
    for user in (shown.user, "a stranger"):
        for context in contexts:
            args = (user, slate, context, shown.at_ms)
            ranked = trained.ranker.rank(*args)
            expected = trained.pipeline.learner.predict(trained.ranker.slate(*args))[:, 0]
            assert ranked.scores.tobytes() == expected.tobytes()
            assert (ranked.n_behaviours > 0) == (user == shown.user)
            p = ranked.scores
            assert p[1] == p[2]  # both read as their category
            assert p[3] == p[4]  # both read as nothing
            assert p[0] == p[5]
            assert len({*p.tolist()}) == 3
            assert ((p > 0) & (p < 1)).all()


def test_no_candidates_no_scores(trained: Live) -> None:
    shown = list(trained.shown.values())[-1]
    ranked = trained.ranker.rank(shown.user, [], shown.context, shown.at_ms)
    assert ranked.scores.shape == (0,)
    assert ranked.version == trained.mirror.version
    assert ranked.n_behaviours > 0


def test_one_candidate_is_scored_as_it_is_among_many(trained: Live) -> None:
    for shown in list(trained.shown.values())[-20:]:
        together = trained.rank(shown).scores
        alone = [
            trained.ranker.rank(shown.user, [c], shown.context, shown.at_ms).scores[0]
            for c in shown.candidates
        ]
        np.testing.assert_allclose(alone, together, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("features", "context", "path"),
    [
        (
            {"category": 0.5},
            {},
            r"Expected `str \| int`, got `float` - at `\$\.candidates\[1\]\.features\.category`",
        ),
        ({}, {"device": 1.5}, r"Expected `str \| int`, got `float` - at `\$\.context\.device`"),
    ],
)
def test_a_feature_of_the_wrong_type_is_named(
    trained: Live, features: dict[str, Value], context: dict[str, Value], path: str
) -> None:
    slate = [Candidate("a"), Candidate("b", features)]
    with pytest.raises(BadEvent, match=path):
        trained.ranker.rank("u1", slate, context, 1)


def test_nothing_is_ranked_before_the_first_publication() -> None:
    s = small()
    config = s.learner_config()
    mirror = Mirror(config.shape, config.bits, 1_024)
    ranker = make_ranker(mirror, make_profiles([], s.fields, 1), s)
    with pytest.raises(NotReadyError, match="expected a published model, got none yet"):
        ranker.rank("u1", [Candidate("i1")], {}, 1)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(data=st.data(), later=st.lists(st.integers(0, 10**7), min_size=1, max_size=8))
def test_nothing_is_read_that_happened_at_the_moment_or_after(
    trained: Live, data: st.DataObject, later: list[int]
) -> None:
    shown = data.draw(st.sampled_from(list(trained.shown.values())))
    s = trained.settings
    until = [e for e in product(N_SLATES) if isinstance(e, Action) and e.at_ms < shown.at_ms]
    profiles = make_profiles(until, s.fields, s.stream.history_ttl_ms)
    ranker = make_ranker(trained.mirror, profiles, s)
    args = (shown.user, shown.candidates, shown.context, shown.at_ms)
    before = ranker.rank(*args)

    def act(at_ms: int, n: int) -> None:
        c = shown.candidates[n % len(shown.candidates)]
        keys = s.fields.item_keys(c.item, c.features)
        assert profiles.put(key_of("user", shown.user), Origin(1, n, 0), keys, at_ms, 1)

    for n, ms in enumerate([0, *(ms + 1 for ms in later)]):
        act(shown.at_ms + ms, n)
    after = ranker.rank(*args)
    assert after.scores.tobytes() == before.scores.tobytes()
    assert after.n_behaviours == before.n_behaviours
    assert before.scores.tobytes() == trained.rank(shown).scores.tobytes()
    act(shown.at_ms - 1, 99)  # but this is
    assert ranker.rank(*args).scores.tobytes() != before.scores.tobytes()
