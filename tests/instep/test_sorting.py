from __future__ import annotations

import errno
import tracemalloc
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.sorting import OVERHEAD, Sorter, cost

payloads = st.binary(max_size=5)
of_numbers = st.lists(st.tuples(st.integers(-3, 3), payloads), max_size=60)
of_texts = st.lists(st.tuples(st.text("ab\0é", max_size=2), payloads), max_size=60)


@given(of_numbers, st.integers(1, 5 * OVERHEAD), st.integers(2, 4))
def test_it_sorts_as_sorted_does_and_leaves_equal_keys_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, bytes]], memory: int, fan_in: int
) -> None:
    folder = tmp_path_factory.mktemp("sorting")
    with Sorter(folder / "out", memory, fan_in) as sorter:
        assert list(sorter.sort(records)) == sorted(records, key=itemgetter(0))
    assert not list(folder.iterdir())


@given(of_texts, st.integers(1, 5 * OVERHEAD))
def test_keys_may_be_text(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, bytes]], memory: int
) -> None:
    with Sorter(tmp_path_factory.mktemp("sorting") / "out", memory, 2) as sorter:
        assert list(sorter.sort(records)) == sorted(records, key=itemgetter(0))


class Counted(tuple[int, bytes]):
    """A record that knows how many of its kind there are."""

    __slots__ = ()
    there = 0
    most = 0

    def __new__(cls, key: int) -> Counted:
        Counted.there += 1
        Counted.most = max(Counted.most, Counted.there)
        return super().__new__(cls, (key, bytes(10)))

    def __del__(self) -> None:
        Counted.there -= 1


@pytest.mark.parametrize("n", [100, 1_000, 4_000])
def test_no_more_records_are_held_than_fit_in_the_memory_however_many_come(tmp_path: Path, n: int) -> None:
    Counted.there = Counted.most = 0
    with Sorter(tmp_path / "out", 50 * cost((0, bytes(10))), fan_in=4) as sorter:
        stream = sorter.sort(Counted(i * 7919 % n) for i in range(n))
        assert [key for key, _ in stream] == list(range(n))
    assert (Counted.there, Counted.most) == (0, 50)
    assert sorter.n_runs >= n / 50


def test_a_merge_holds_a_block_of_each_run_however_long_they_are(tmp_path: Path) -> None:
    """Bytes as Python allocates them, not as the sort counts them; the files' buffers come on top."""
    memory, fan_in = 1 << 20, 8

    def records(n: int) -> Iterator[tuple[int, bytes]]:
        return ((i * 7919 % n, bytes(100)) for i in range(n))

    most = []
    for n in (20_000, 80_000):
        with Sorter(tmp_path / "out", memory, fan_in) as sorter:
            tracemalloc.start()
            for _ in sorter.sort(records(n)):
                pass
            most.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(most) < 2 * memory
    assert 80_000 * cost((0, bytes(100))) > 16 * memory, "all of it would not fit"


def test_what_fits_in_the_memory_touches_no_disk(tmp_path: Path) -> None:
    with Sorter(tmp_path / "out") as sorter:
        assert list(sorter.sort([(2, b"b"), (1, b"a")])) == [(1, b"a"), (2, b"b")]
        assert sorter.n_runs == 0


def test_runs_are_gone_also_after_a_failure(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[int, bytes]]:
        yield from ((i, b"") for i in range(100))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Sorter(tmp_path / "out", memory=1) as sorter:
        list(sorter.sort(broken()))
    assert not list(tmp_path.iterdir())
    half = Sorter(tmp_path / "out", memory=1)
    with half:
        next(half.sort((i, b"") for i in range(100)))
        assert [path.name[:5] for path in tmp_path.iterdir()] == [".out."]
    assert not list(tmp_path.iterdir())


def test_runs_that_were_merged_leave_the_disk_at_once(tmp_path: Path) -> None:
    with Sorter(tmp_path / "out", memory=1, fan_in=2) as sorter:
        stream = sorter.sort((i, b"") for i in range(9))
        next(stream)
        assert len(list(tmp_path.glob("*/*"))) == 2
        assert sorter.n_runs == 9 + 5 + 3 + 2


def test_it_tells_how_much_came_out(tmp_path: Path) -> None:
    shares: list[float] = []
    with Sorter(tmp_path / "out", memory=10_000) as sorter:
        for _ in sorter.sort(((i, b"") for i in range(5_000)), shares.append):
            pass
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == 5


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as e, Sorter(tmp_path / "file" / "out"):
        pass
    assert (e.value.errno, e.value.filename) == (errno.EEXIST, str(tmp_path / "file"))
    with Sorter(tmp_path / "out", memory=1) as sorter:
        (folder,) = tmp_path.glob(".out.*")
        folder.rmdir()
        with pytest.raises(FileNotFoundError) as gone:
            list(sorter.sort([(1, b""), (2, b"")]))
        assert gone.value.filename == str(folder)
        folder.mkdir()


def test_bounds_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for memory, fan_in in ((0, 2), (1, 1)):
        with pytest.raises(
            ValueError, match=f"expected memory >= 1 and fan_in >= 2, got {memory} and {fan_in}"
        ):
            Sorter(tmp_path / "out", memory, fan_in)
