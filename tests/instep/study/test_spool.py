"""A joined log on disk: whole or not there, read a batch at a time, and told apart from others."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from instep.probe import ties
from instep.study import cost, joining
from instep.study.spool import SpoolError, load
from stream.dead import TooManyDeadError
from stream.events import Impression, Tick, key_of
from stream.files import write_events
from tests.instep.study.samples import N_SLATES, a_log, silent, spooled
from tests.worlds import product, small
from trainer.learner import Learner, locate
from trainer.model.simhash import item_codes

S = small()


def test_it_has_every_candidate_and_what_became_of_it(tmp_path: Path) -> None:
    spool = spooled(a_log(tmp_path), S, tmp_path / "spool")
    shown = {key_of("impression", e.id): e for e in product(N_SLATES) if isinstance(e, Impression)}
    candidates = spool.candidates()
    assert len(candidates) == sum(len(e.candidates) for e in shown.values()) == spool.n_candidates.sum()
    for row in candidates[::7]:
        e = shown[int(row["impression"])]
        assert row["user"] == key_of("user", e.user)
        assert row["at_ms"] == e.at_ms
        assert row["item"] == key_of("item", e.candidates[row["place"]].item)
    assert [len(spool.candidates(n)) for n in (0, 3)] == [0, spool.n_candidates[:3].sum()]
    part = [joined.batch.n_candidates for joined in spool.read(3, 6)]
    assert part == spool.n_candidates[3:6].tolist()
    for n in (0, 5, len(spool) - 1):
        assert spool.first_until(int(spool.closed_ms[n])) == n + 1
        assert spool.first_until(int(spool.closed_ms[n]) - 1) == n


def peak_of_reading(folder: Path, n_times: int) -> int:
    """Bytes at most while a log of so many times the slates is joined and read."""
    log = a_log(folder, product(N_SLATES * n_times))
    spool = spooled(log, S, folder / "spool")
    tracemalloc.start()
    for _ in spool.read():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_reading_takes_as_much_memory_for_a_long_log_as_for_a_short_one(tmp_path: Path) -> None:
    short, long = (peak_of_reading(tmp_path / str(n), n) for n in (1, 6))
    frame = int(load(tmp_path / "6" / "spool").sizes.max())
    assert long < 1.5 * short + 4 * frame
    assert load(tmp_path / "6" / "spool").sizes.sum() > 5 * load(tmp_path / "1" / "spool").sizes.sum()


def test_one_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    spooled(log, S, tmp_path / "spool")
    before = (tmp_path / "spool" / "batches.bin").stat().st_mtime_ns
    spooled(log, S, tmp_path / "spool")
    assert (tmp_path / "spool" / "batches.bin").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("*.part"))


def test_what_it_is_made_of_tells_logs_and_settings_apart(tmp_path: Path) -> None:
    log = a_log(tmp_path)

    def mark(path: Path = log, max_history: int = 100, **stream: object) -> str:
        return joining.fingerprint(joining.made_of(path, small(stream=dict(stream)), max_history))

    other = tmp_path / "other.jsonl"
    other.write_bytes(log.read_bytes())
    assert mark(other) == mark(), "the same bytes under another name"
    other.write_bytes(log.read_bytes()[:-1] + b" ")
    order = ({"click": 2_000, "like": 5}, {"like": 5, "click": 2_000})
    marks = [
        mark(),
        mark(other),
        mark(max_history=99),
        mark(lateness_ms=400),
        *(mark(windows=w) for w in order),
    ]
    assert len(set(marks)) == len(marks)


def test_a_log_that_cannot_be_learned_leaves_nothing(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl"
    write_events(empty, [Tick(5)])
    write_events(broken, [b"{", b"{}", *product(1)[:3]])
    with pytest.raises(
        SpoolError, match=r"empty\.jsonl: expected impressions, got none that could be joined"
    ):
        spooled(empty, S, tmp_path / "spool")
    with pytest.raises(
        TooManyDeadError, match=r"broken\.jsonl: expected at most 20% unusable records, got 2 of 6"
    ):
        spooled(broken, S, tmp_path / "spool")
    assert {path.name for path in tmp_path.iterdir()} == {"empty.jsonl", "broken.jsonl"}


def test_another_folder_is_no_spool(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"expected a spool, got: .*No such file"):
        load(tmp_path)
    (tmp_path / "spool.json").write_text("{}")
    with pytest.raises(SpoolError, match="expected a spool, got: Object missing required field"):
        load(tmp_path)


def test_ties_are_counted_as_by_hand(tmp_path: Path) -> None:
    """One candidate after the other, in whole numbers of python."""
    spool = spooled(a_log(tmp_path), S, tmp_path / "spool")
    learner = Learner(S.learner_config(), S.trainer.capacity)
    config, found = learner.config, []
    for joined in spool.read():
        batch = joined.batch
        learner.step(batch)
        at, own = locate(learner.table, batch), []
        fields = slice(1 if learner.n_steps < config.warm_up_steps else 0, 2)
        keys, queries = (item_codes(learner.table.codes, rows[:, fields]) for rows in (at.sequence, at.items))
        for n, b in enumerate(batch.slate):
            part = keys[batch.start[b] : max(batch.start[b], batch.start[b + 1] - config.short)]
            far = sorted((int(queries[n, 0]) ^ int(key[0])).bit_count() for key in part)
            own += [far[config.k - 1] == far[config.k]] if len(far) > config.k else []
        np.testing.assert_equal(ties(learner, batch), np.mean(own) if own else np.nan)
        found += own
    assert 0 < np.mean(found) < 1
    other = Learner(S.with_model(unit="sim_hard").learner_config(), S.trainer.capacity)
    assert np.isnan(ties(other, batch)), "no search by codes"


def test_a_cost_is_kept_until_what_it_is_of_changes(tmp_path: Path) -> None:
    spool = spooled(a_log(tmp_path), S, tmp_path / "spool")
    models = [cost.Measured(name, S.with_model(unit=name), None) for name in ("eta", "average")]
    for marks in (("a", "b"), ("a", "c")):
        cost.measure(models, spool.path, len(spool), marks, tmp_path / "cost", silent)
        assert cost.kept(tmp_path / "cost" / "eta.json", marks[0]) is not None
        assert cost.kept(tmp_path / "cost" / "average.json", marks[1]) is not None
    assert cost.kept(tmp_path / "cost" / "average.json", "b") is None
    slate = cost.one_slate([joined.batch for joined in spool.read(20, 28)])
    assert slate.n_candidates == cost.N_CANDIDATES
    assert np.diff(slate.start)[0] == max(np.diff(joined.batch.start).max() for joined in spool.read(20, 28))
