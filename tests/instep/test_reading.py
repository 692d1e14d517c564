from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from instep.datasets import below, sample
from instep.reading import LONGEST, BadDataset, Progress, find, read_csv, read_lines, read_rows
from tests.instep.importing import write


class Shown:
    """A Progress, and what it showed."""

    def __init__(self, n_bytes: int) -> None:
        self.shown: list[tuple[int, int]] = []
        self.progress = Progress(lambda done, total: self.shown.append((done, total)))
        self.progress.expect(n_bytes)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("n_rows", [1, 1_023, 1_024, 30_000])
def test_progress_goes_up_to_the_bytes_on_the_disk(tmp_path: Path, name: str, n_rows: int) -> None:
    path = write(tmp_path / name, "".join(f"{n},{n * 7919 % 1_000_003}\n" for n in range(n_rows)))
    size = path.stat().st_size
    for rows in (read_lines, read_rows):
        shown = Shown(size)
        assert len(list(rows(path, shown.progress))) == n_rows
        assert shown.shown[-1] == (size, size)
        assert all(a[0] <= b[0] for a, b in pairwise(shown.shown))
        assert len(shown.shown) <= 1_002
        if n_rows > 1_024:
            assert any(0 < done < size for done, _ in shown.shown)


@example(1_025, 513)
@given(st.integers(0, 5_000), st.integers(0, 10**9))
def test_rows_stand_for_their_bytes_together(n_rows: int, n_bytes: int) -> None:
    shown = Shown(n_bytes)
    assert list(shown.progress.over(range(n_rows), n_rows, n_bytes)) == list(range(n_rows))
    assert n_rows == 0 or shown.shown[-1] == (n_bytes, n_bytes)


def test_lines_come_with_their_numbers_and_without_their_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\r\n\n b \nc")
    assert list(read_lines(path, Progress())) == [(1, b"a"), (3, b" b "), (4, b"c")]


def test_rows_come_with_the_number_of_their_last_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffx;"a\nb"\n\n"1;2";3\n')
    assert list(read_rows(path, Progress(), ";")) == [(2, ["x", "a\nb"]), (4, ["1;2", "3"])]
    assert list(read_csv(write(tmp_path / "b.csv", "x,y,z\n1,2,3\n"), ("z", "x"))) == [(2, ["3", "1"])]


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", "a\n" + "b" * (LONGEST + 1))
    with pytest.raises(
        BadDataset, match=rf"a.csv.gz:2: expected a line of at most {LONGEST} bytes, got a longer"
    ):
        list(read_lines(path, Progress()))


@pytest.mark.parametrize(
    "raw",
    [b"a,b\n", gzip.compress(b"a,b\n" * 999, mtime=0)[:-9], gzip.compress(b"a", mtime=0)[:-4] + b"1234"],
)
def test_what_is_no_whole_gzip_file_is_said_so(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(raw)
    for rows in (read_lines, read_rows):
        with pytest.raises(BadDataset, match=r"a.csv.gz: expected a whole gzip file, got "):
            list(rows(path, Progress()))


def test_a_file_is_found_as_it_is_before_it_is_found_packed(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.csv.gz", "")
    assert find(tmp_path, "a.csv", "A") == packed
    with pytest.raises(BadDataset, match=r"expected a folder with a\.csv of A, got none"):
        find(tmp_path, "a.csv", "A", packed=False)
    plain = write(tmp_path / "a.csv", "")
    assert find(tmp_path, "a.csv", "A") == plain


@given(st.integers(1, 50), st.integers(0, 60), st.text(max_size=5))
def test_a_sample_is_of_different_numbers_within_bounds(n: int, k: int, key: str) -> None:
    chosen = sample(n, k, key)
    assert len(chosen) == len(set(chosen)) == min(n, k)
    assert all(0 <= one < n for one in chosen)
    assert chosen == sample(n, k, key)


@given(st.integers(1, 2**40), st.text(max_size=5), st.integers(0, 9))
def test_chance_stays_below_its_bound(n: int, key: str, draw: int) -> None:
    assert 0 <= below(n, key, draw) < n
