"""Scores of every candidate, in memory and in a file, and what a restart finds there."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep import scorebook
from instep.scorebook import (
    HEADER,
    LAYOUT,
    MAGIC,
    RECORD,
    Records,
    Scorebook,
    ScorebookError,
    kinds_of,
    of_kind,
    record,
)
from stream.events import Sample, Version, key_of
from tests.trainer.samples import START_MS, as_batch, make_samples, sample
from trainer.learner import Predicted
from trainer.loop import Step

SAMPLES = make_samples(60, lengths=(0, 2))


def of_kinds(n_kinds: int) -> list[Sample]:
    """The same slates, on which other things happened."""
    rng = np.random.default_rng(n_kinds)
    labels = [rng.integers(0, 2, (len(s.labels), n_kinds), np.uint8).tobytes() for s in SAMPLES]
    return [msgspec.structs.replace(s, labels=y) for s, y in zip(SAMPLES, labels, strict=True)]


BY_KINDS = {1: SAMPLES, 2: of_kinds(2), 3: of_kinds(3)}


def make_step(first: int, n: int, n_kinds: int = 1) -> Step:
    """``n`` slates with made up predictions."""
    samples = BY_KINDS[n_kinds][first : first + n]
    batch = as_batch(samples, n_kinds)
    p = np.random.default_rng(first).random((batch.n_candidates, n_kinds)).astype(np.float32)
    return Step(samples, batch, Predicted(p, 0.0, learned=True, n_flipped=0), Version(0, first + 1))


def slow_records(step: Step) -> list[tuple[object, ...]]:
    """One candidate after the other, from the samples themselves."""
    out: list[tuple[object, ...]] = []
    n_kinds = step.predicted.p.shape[1]
    for s in step.samples:
        for item, labels in zip(s.item_keys(2)[:, 0].tolist(), s.label_matrix(n_kinds).tolist(), strict=True):
            p = step.predicted.p[len(out)].tolist()
            of = (s.user, key_of("impression", s.impression), item, s.at_ms, step.version.step)
            more = (p[1:], labels[1:]) if n_kinds > 1 else ()
            out.append((*of, p[0], labels[0], *more))
    return out


def as_list(records: Records) -> list[tuple[object, ...]]:
    rows = [tuple(row) for row in np.array(records).tolist()]
    if kinds_of(records) > 1:
        rows = [(*row[:-2], row[-2].tolist(), row[-1].tolist()) for row in rows]
    return rows


sizes = st.lists(st.integers(1, 9), max_size=8)


def steps_of(sizes: list[int], n_kinds: int = 1) -> list[Step]:
    firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
    return [make_step(first % 50, n, n_kinds) for first, n in zip(firsts, sizes, strict=False)]


def test_a_record_is_as_long_as_it_says() -> None:
    assert [record(n).itemsize for n in (1, 2, 3)] == [41, 46, 51]
    assert record(3).names[:7] == record(1).names == RECORD.names  # type: ignore[index]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(sizes, st.booleans(), st.integers(1, 3))
def test_every_candidate_is_noted_once_with_what_was_said_of_it(
    sizes: list[int], on_disk: bool, n_kinds: int
) -> None:
    with TemporaryDirectory() as folder:
        book = Scorebook(Path(folder) / "scores.bin" if on_disk else None, n_kinds=n_kinds)
        expected: list[tuple[object, ...]] = []
        for i, step in enumerate(steps_of(sizes, n_kinds)):
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
@given(sizes=sizes, n_kinds=st.integers(1, 3), data=st.data())
def test_a_restart_cuts_off_what_came_after_its_checkpoint(
    sizes: list[int], n_kinds: int, data: st.DataObject
) -> None:
    steps = steps_of(sizes, n_kinds)
    saved = data.draw(st.integers(0, len(steps)))
    torn = data.draw(st.integers(0, RECORD.itemsize))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scores.bin"
        book, n = Scorebook(path, n_kinds=n_kinds), 0
        for i, step in enumerate(steps):
            if i == saved:
                book.flush()
            book.add(step)
            n = book.n if i < saved else n
        book.flush()
        with path.open("ab") as file:
            file.write(b"x" * torn)
        again = Scorebook(path, n, n_kinds)
        assert (again.n, len(again.tail(10))) == (n, 0)
        for step in steps[saved:]:
            again.add(step)
        assert as_list(again.records()) == [row for step in steps for row in slow_records(step)]


def test_what_is_not_flushed_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.bin"
    book = Scorebook(path)
    book.add(make_step(0, 5))
    assert path.stat().st_size == HEADER.size
    book.flush()
    book.flush()
    assert path.stat().st_size == HEADER.size + book.n * RECORD.itemsize


def test_a_new_book_begins_with_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.bin"
    path.write_bytes(b"of another run")
    assert len(Scorebook(path).records()) == 0
    assert path.read_bytes() == HEADER.pack(MAGIC, LAYOUT, 1)


@pytest.mark.parametrize("there", [False, True])
def test_fewer_scores_than_the_checkpoint_knows_are_an_error(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "scores.bin"
    if there:
        path.write_bytes(HEADER.pack(MAGIC, LAYOUT, 1) + b"x" * (3 * RECORD.itemsize - 1))
    with pytest.raises(ScorebookError, match=f"expected at least 3 scores, got {2 if there else 0}$"):
        Scorebook(path, 3)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "expected scores of layout 1, got an older file or another one"),
        (
            b"x" * 41 * 9,
            "expected scores of layout 1, got an older file or another one",
        ),  # as it was without a head
        (HEADER.pack(MAGIC, LAYOUT + 1, 2), "expected scores of layout 1, got an older file or another one"),
        (HEADER.pack(MAGIC, LAYOUT, 1), "expected scores of 2 kinds of action, got of 1"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_stays_as_it_is(tmp_path: Path, head: bytes, said: str) -> None:
    (path := tmp_path / "scores.bin").write_bytes(head + b"x" * 460)
    with pytest.raises(ScorebookError, match=f"^{path}: {said}$"):
        Scorebook(path, 3, n_kinds=2)
    assert path.read_bytes() == head + b"x" * 460


def test_a_click_that_comes_later_corrects_the_label_of_the_prediction_before_it() -> None:
    """Under the eager policy: one record for each candidate shown, and only clicks count as clicks."""
    items, nothing = np.array([4, 5, 6]), np.zeros(0, np.int64)

    def learned(samples: list[Sample], p: list[list[float]]) -> Step:
        predicted = Predicted(np.array(p, np.float32).T, 0.0, learned=True, n_flipped=0)
        return Step(samples, as_batch(samples, n_kinds=2), predicted, Version(0, 1))

    def one(item: int, labels: list[int]) -> Sample:
        return sample(1, START_MS, np.array([item]), np.array([labels]), nothing, nothing, "click")

    book, first = Scorebook(n_kinds=2), Scorebook()
    none = np.zeros((3, 2), np.uint8)
    steps = [
        learned(
            [sample(1, START_MS, items, none, nothing, nothing, "early")], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
        ),
        learned([one(5, [1, 0]), one(6, [0, 1]), one(5, [0, 1])], [[0.9, 0.8, 0.7], [0.7, 0.6, 0.5]]),
    ]
    for n, step in enumerate(steps):
        book.add(step)
        first.add(step)
        for records in (book.records(), book.tail(10)):
            for kind, p in enumerate(([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])):
                predicted, labels = of_kind(records, kind)
                assert predicted.tolist() == np.array(p, np.float32).tolist()
                assert labels.tolist() == ([0, 0, 0] if n == 0 else [[0, 1, 0], [0, 1, 1]][kind])
        assert first.records()["label"].tolist() == book.records()["label"].tolist()
    assert book.n == 6  # what a checkpoint counts


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), max_size=20))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_labels_that_come_later_are_those_of_their_slate_item_and_kind(
    happened: list[tuple[int, int, int]],
) -> None:
    """Some slates of the same items, then actions in any order: slate, item, kind."""
    nothing, n_kinds = np.zeros(0, np.int64), 3
    none = np.zeros((4, n_kinds), np.uint8)
    shown = [sample(1, START_MS + i, np.arange(4), none, nothing, nothing, "early") for i in range(4)]
    clicks = [
        sample(
            1,
            START_MS + i,
            np.array([item]),
            np.eye(n_kinds, dtype=np.uint8)[[kind]],
            nothing,
            nothing,
            "click",
        )
        for i, item, kind in happened
    ]
    book = Scorebook(n_kinds=n_kinds)
    for samples in ([s] for s in (*shown, *clicks)):
        batch = as_batch(samples, n_kinds)
        p = np.full(batch.labels.shape, 0.5, np.float32)
        book.add(Step(samples, batch, Predicted(p, 0.0, learned=True, n_flipped=0), Version(0, 1)))
    records = book.records()
    assert len(records) == 16
    for kind in range(n_kinds):
        expected = [int((i, item, kind) in happened) for i in range(4) for item in range(4)]
        assert of_kind(records, kind)[1].tolist() == expected
