"""What a run learns and predicts, against a replay and against loops written by hand."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from instep.replay import Refresh, replay
from instep.scorebook import HEADER, RECORD
from instep.settings import Settings
from instep.study.engine import N_PROBES, finished, learn, predictions, probed, traces
from instep.study.learning import Learning, most_recent
from instep.study.plans import Run
from instep.study.spool import Spool
from tests.instep.study.samples import a_log, batches, clock, job, silent, spooled
from tests.worlds import small
from trainer.batch import Batch, make_batch
from trainer.learner import Learner
from trainer.model.units import UNITS

S = small()
P = NDArray[np.float32]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def spool(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Spool:
    return spooled(log, S, tmp_path_factory.mktemp("spool") / "s")


def a_run(name: str = "run", **held: object) -> Run:
    return Run(name, name, "group", **held)  # type: ignore[arg-type]


def predicted(run: Run, spool: Spool, settings: Settings = S) -> list[P]:
    """What a run says of each batch."""
    learning = Learning(run, settings.with_model(**run.changes), len(spool))
    return [
        learning.step(joined.batch, int(closed_ms))[0]
        for joined, closed_ms in zip(spool.read(), spool.closed_ms, strict=True)
    ]


def same(a: list[P], b: list[P]) -> bool:
    return all((x == y).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("unit", UNITS)
def test_it_predicts_what_a_replay_predicts_to_the_bit(
    unit: str, log: Path, spool: Spool, tmp_path: Path
) -> None:
    """Rows expire on the way, and codes are held back too."""
    settings = small(
        model={"unit": unit, "seed": 2}, stream={"history_ttl_ms": 8_000}, trainer={"row_ttl_ms": 8_000}
    )
    own = spooled(log, settings, tmp_path / "spool")
    for every in (1, 7):
        found = replay(log, settings, tmp_path / "replay", refresh=Refresh(every))
        records = np.fromfile(tmp_path / "replay" / "scores.bin", RECORD, offset=HEADER.size)
        folder = tmp_path / f"run{every}"
        learn(job(a_run(refresh_every=every), settings, own, folder), clock, silent)
        np.testing.assert_array_equal(predictions(folder, 1)[:, 0], records["p"])
        done = finished(folder)
        assert done is not None
        assert done.weights_sha256 == found["weights_sha256"]
        for name in ("user", "impression", "item", "at_ms"):
            np.testing.assert_array_equal(own.candidates()[name], records[name])
        np.testing.assert_array_equal(own.candidates()["label"][:, 0], records["label"])
        assert own.counts == found["counts"]


def test_the_runs_of_a_plan_do_differ(spool: Spool) -> None:
    """Or the tests here would show nothing."""
    live = predicted(a_run(), spool)
    for held in (
        {"refresh_every": 5},
        {"frozen_at": 0.5},
        {"learn_until": 0.5},
        {"learn_ms": 10_000},
        {"sync_every": 5},
        {"length": 6},
    ):
        assert not same(predicted(a_run(**held), spool), live), held


def known_to(learner: Learner, batch: Batch) -> bool:
    keys = (batch.items, batch.side, batch.sequence)
    return all(learner.table.known(k)[1] is None for k in keys)


def test_a_copy_that_is_synced_after_every_step_is_the_model_itself(spool: Spool) -> None:
    """To the bit what the model predicts before it learns; in the step itself unknown keys are born, and known ones
    differ by what a pass without gradients rounds otherwise."""
    own = predicted(a_run(sync_every=1), spool)
    learner, n_known = Learner(S.learner_config(), S.trainer.capacity), 0
    for joined, p in zip(spool.read(), own, strict=True):
        np.testing.assert_array_equal(learner.predict(joined.batch), p)
        is_known = known_to(learner, joined.batch)
        live = learner.step(joined.batch).p
        if is_known:
            n_known += 1
            np.testing.assert_allclose(live, p, atol=2e-6)
    assert n_known > 5


@pytest.mark.parametrize("every", [3, 10])
def test_a_copy_that_is_synced_now_and_then_is_the_model_as_it_was(spool: Spool, every: int) -> None:
    learner = Learner(S.learner_config(), S.trainer.capacity)
    copy = deepcopy(learner.state())
    for i, (joined, p) in enumerate(
        zip(spool.read(), predicted(a_run(sync_every=every), spool), strict=True)
    ):
        if i and i % every == 0:
            copy = deepcopy(learner.state())
        served = (
            Learner.restore(S.learner_config(), copy, S.trainer.capacity)
            if i
            else Learner(S.learner_config(), S.trainer.capacity)
        )
        np.testing.assert_array_equal(served.predict(joined.batch), p)
        learner.step(joined.batch)


def test_codes_freeze_and_the_model_freezes_as_in_a_loop_by_hand(spool: Spool) -> None:
    half = len(spool) / 2
    codes, model = (Learner(S.learner_config(), S.trainer.capacity) for _ in range(2))
    frozen, stopped = (predicted(run, spool) for run in (a_run(frozen_at=0.5), a_run(learn_until=0.5)))
    began_ms = int(next(spool.read()).batch.at_ms[0])
    timed = predicted(a_run(learn_ms=12_000), spool)
    late = Learner(S.learner_config(), S.trainer.capacity)
    for i, joined in enumerate(spool.read()):
        if i >= half:
            codes.frozen = True
        np.testing.assert_array_equal(codes.step(joined.batch).p, frozen[i])
        p = model.step(joined.batch).p if i < half else model.predict(joined.batch)
        np.testing.assert_array_equal(p, stopped[i])
        is_late = joined.batch.at_ms.max() - began_ms >= 12_000
        p = late.predict(joined.batch) if is_late else late.step(joined.batch).p
        np.testing.assert_array_equal(p, timed[i])
    assert half < len(spool) - 5
    assert 5 < late.n_steps < len(spool) - 5


@pytest.mark.parametrize("length", [1, 5, 20, 10_000])
def test_a_history_cut_is_one_that_was_joined_so_short(log: Path, tmp_path: Path, length: int) -> None:
    joined_so = spooled(log, small(stream={"max_history": length}), tmp_path / "short")
    whole = spooled(log, S, tmp_path / "whole", max_history=12_000)
    assert len(whole) == len(joined_so)
    for a, b in zip(whole.read(), joined_so.read(), strict=True):
        cut = most_recent(a.batch, length)
        for name in Batch.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(cut, name), getattr(b.batch, name), err_msg=name)
    assert same(predicted(a_run(length=length), whole), predicted(a_run(), joined_so))


def test_a_spool_has_the_batches_that_are_cut_by_hand(log: Path, spool: Spool) -> None:
    by_hand = list(batches(log, S))
    assert len(by_hand) == len(spool) > 20
    for samples, joined, closed_ms in zip(by_hand, spool.read(), spool.closed_ms, strict=True):
        expected = make_batch(samples, len(S.fields.item), 1)
        for name in Batch.__dataclass_fields__:
            found = getattr(joined.batch, name)
            np.testing.assert_array_equal(found, getattr(expected, name), err_msg=name)
            assert found.dtype == getattr(expected, name).dtype
            assert found.flags.writeable
        assert closed_ms == samples[-1].closed_ms


def test_what_is_not_learned_has_no_prediction(spool: Spool) -> None:
    """A batch whose gradient is not finite is skipped, as a replay skips it."""
    learning = Learning(a_run(), S, len(spool))
    it = spool.read()
    first = next(it).batch
    learning.step(first, int(spool.closed_ms[0]))
    slots = learning.learner.table.find(first.items[:, 0])
    learning.learner.table.rows[slots] = np.nan
    p, n_flipped = learning.step(first, int(spool.closed_ms[1]))
    assert np.isnan(p).all()
    assert n_flipped == 0
    assert learning.learner.n_bad == 1


def test_only_the_first_part_is_learned_where_less_is_asked_for(spool: Spool, tmp_path: Path) -> None:
    learn(job(a_run(), S, spool, tmp_path / "part", 11), clock, silent)
    learn(job(a_run(), S, spool, tmp_path / "whole"), clock, silent)
    part, whole = (predictions(tmp_path / name, 1) for name in ("part", "whole"))
    assert len(part) == spool.n_candidates[:11].sum() < len(whole) == len(spool.candidates())
    np.testing.assert_array_equal(part, whole[: len(part)])


def test_searches_are_probed_in_the_last_half(spool: Spool, tmp_path: Path) -> None:
    learn(job(a_run(), S, spool, tmp_path), clock, silent)
    found = traces(tmp_path)
    assert found.probed.tolist() == list(range(len(spool) // 2, len(spool)))
    with_own, with_exact, recall, _, undecided = found.probes.T
    assert 0 < np.nanmean(with_own) < 1
    assert 0 < np.nanmean(with_exact) < 1
    assert np.isnan(recall).all(), "no truth lies beside"
    assert 0 < np.nanmean(undecided) < 1
    assert found.flips.sum() > 0
    assert [len(probed(n)) <= 2 * N_PROBES for n in (1, 2, 99, 100, 101, 10_000)] == [True] * 6


def test_codes_cannot_be_held_back_in_a_copy_that_is_synced() -> None:
    with pytest.raises(
        ValueError, match="run a: expected codes held back or a copy that is synced, got both"
    ):
        replace(a_run("a", sync_every=2), refresh_every=3)
