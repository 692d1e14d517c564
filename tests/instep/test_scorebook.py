"""Scores of every candidate, in memory and in a file, and what a restart finds there."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep import scorebook
from instep.scorebook import RECORD, Records, Scorebook, ScorebookError
from stream.events import Sample, Version, key_of
from tests.trainer.samples import START_MS, as_batch, make_samples, sample
from trainer.learner import Predicted
from trainer.loop import Step

SAMPLES = make_samples(60, lengths=(0, 2))


def make_step(first: int, n: int) -> Step:
    """``n`` slates with made up predictions."""
    samples = SAMPLES[first : first + n]
    batch = as_batch(samples)
    p = np.random.default_rng(first).random((batch.n_candidates, 1)).astype(np.float32)
    return Step(samples, batch, Predicted(p, 0.0, learned=True, n_flipped=0), Version(0, first + 1))


def slow_records(step: Step) -> list[tuple[object, ...]]:
    """One candidate after the other, from the samples themselves."""
    out: list[tuple[object, ...]] = []
    for s in step.samples:
        for item, label in zip(s.item_keys(2)[:, 0].tolist(), s.label_matrix(1)[:, 0].tolist(), strict=True):
            p = float(step.predicted.p[len(out), 0])
            out.append(
                (s.user, key_of("impression", s.impression), item, s.at_ms, step.version.step, p, label)
            )
    return out


def as_list(records: Records) -> list[tuple[object, ...]]:
    return [tuple(row) for row in np.array(records).tolist()]


sizes = st.lists(st.integers(1, 9), max_size=8)


def steps_of(sizes: list[int]) -> list[Step]:
    firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
    return [make_step(first % 50, n) for first, n in zip(firsts, sizes, strict=False)]


def test_a_record_is_as_long_as_it_says() -> None:
    assert f"{RECORD.itemsize} bytes a candidate" in Path(scorebook.__file__).read_text()


@settings(deadline=None, max_examples=30, derandomize=True)
@given(sizes, st.booleans())
def test_every_candidate_is_noted_once_with_what_was_said_of_it(sizes: list[int], on_disk: bool) -> None:
    with TemporaryDirectory() as folder:
        book = Scorebook(Path(folder) / "scores.bin" if on_disk else None)
        expected: list[tuple[object, ...]] = []
        for i, step in enumerate(steps_of(sizes)):
            added = slow_records(step)
            assert as_list(book.add(step)) == added
            expected += added
            if i % 3 == 0:
                assert as_list(book.records()) == expected
        assert as_list(book.records()) == expected
        assert book.n == len(expected)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(sizes=sizes, bound=st.integers(1, 60), n=st.integers(1, 80))
def test_the_tail_is_the_last_records_up_to_a_bound(sizes: list[int], bound: int, n: int) -> None:
    before, scorebook.TAIL = scorebook.TAIL, bound
    try:
        book, expected = Scorebook(), []
        for step in steps_of(sizes):
            expected += as_list(book.add(step))
            wanted = min(n, bound)
            assert as_list(book.tail(wanted)) == expected[-wanted:]
            most = max(len(s.batch.items) for s in steps_of(sizes))
            assert sum(map(len, book._tail)) < bound + most
    finally:
        scorebook.TAIL = before


@settings(deadline=None, max_examples=30, derandomize=True)
@given(sizes=sizes, data=st.data())
def test_a_restart_cuts_off_what_came_after_its_checkpoint(sizes: list[int], data: st.DataObject) -> None:
    steps = steps_of(sizes)
    saved = data.draw(st.integers(0, len(steps)))
    torn = data.draw(st.integers(0, RECORD.itemsize))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scores.bin"
        book, n = Scorebook(path), 0
        for i, step in enumerate(steps):
            if i == saved:
                book.flush()
            book.add(step)
            n = book.n if i < saved else n
        book.flush()
        with path.open("ab") as file:
            file.write(b"x" * torn)
        again = Scorebook(path, n)
        assert (again.n, len(again.tail(10))) == (n, 0)
        for step in steps[saved:]:
            again.add(step)
        assert as_list(again.records()) == [row for step in steps for row in slow_records(step)]


def test_what_is_not_flushed_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.bin"
    book = Scorebook(path)
    book.add(make_step(0, 5))
    assert path.stat().st_size == 0
    book.flush()
    book.flush()
    assert path.stat().st_size == book.n * RECORD.itemsize


def test_a_new_book_begins_with_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.bin"
    path.write_bytes(b"of another run")
    assert len(Scorebook(path).records()) == 0
    assert path.stat().st_size == 0


@pytest.mark.parametrize("there", [False, True])
def test_fewer_scores_than_the_checkpoint_knows_are_an_error(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "scores.bin"
    if there:
        path.write_bytes(b"x" * (3 * RECORD.itemsize - 1))
    with pytest.raises(ScorebookError, match=f"expected at least 3 scores, got {2 if there else 0}$"):
        Scorebook(path, 3)


def test_a_click_that_comes_later_corrects_the_label_of_the_prediction_before_it() -> None:
    """Under the eager policy: one record for each candidate shown, and only clicks count as clicks."""
    items, nothing = np.array([4, 5, 6]), np.zeros(0, np.int64)

    def learned(samples: list[Sample], p: list[float]) -> Step:
        predicted = Predicted(np.array(p, np.float32)[:, None], 0.0, learned=True, n_flipped=0)
        return Step(samples, as_batch(samples, n_kinds=2), predicted, Version(0, 1))

    def one(item: int, labels: list[int]) -> Sample:
        return sample(1, START_MS, np.array([item]), np.array([labels]), nothing, nothing, "click")

    book = Scorebook()
    none = np.zeros((3, 2), np.uint8)
    book.add(learned([sample(1, START_MS, items, none, nothing, nothing, "early")], [0.1, 0.2, 0.3]))
    assert book.tail(10)["label"].tolist() == [0, 0, 0]
    book.add(learned([one(5, [1, 0]), one(6, [0, 1])], [0.9, 0.8]))
    for records in (book.records(), book.tail(10)):
        assert records["label"].tolist() == [0, 1, 0]
        assert records["p"].tolist() == np.array([0.1, 0.2, 0.3], np.float32).tolist()
    assert book.n == 5  # what a checkpoint counts
