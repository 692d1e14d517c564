"""A log on disk: what is there after a restart, a kill, a full disk, and damage."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream.frames import HEAD, LINE, Frames
from stream.log import LogError, MemoryLog, Record

BODIES = [b"", b"one", b"\0\0\0", b"a longer one", b"last"]


def frames_of(path: Path) -> list[bytes]:
    frames = Frames(path)
    try:
        return list(frames)
    finally:
        frames.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "x.log"
    frames = Frames(path, sync=True)
    frames.replace([])
    for body in BODIES:
        frames.append(body)
    frames.close()
    return path


def test_frames_come_back(path: Path) -> None:
    assert frames_of(path) == BODIES


def test_a_file_cut_anywhere_keeps_the_whole_frames_and_goes_on_from_there(path: Path) -> None:
    whole = path.read_bytes()
    ends = [len(LINE)]
    for body in BODIES:
        ends.append(ends[-1] + HEAD.size + len(body))
    for cut in range(len(LINE), len(whole)):
        path.write_bytes(whole[:cut])
        left = BODIES[: sum(end <= cut for end in ends[1:])]
        frames = Frames(path)
        assert list(frames) == left
        frames.append(b"new")
        frames.close()
        assert frames_of(path) == [*left, b"new"]


def test_a_tail_that_was_never_filled_is_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(100))
    assert frames_of(path) == BODIES
    assert frames_of(path) == BODIES


def test_a_changed_byte_anywhere_is_refused_with_its_place_or_costs_the_last_frame_only(path: Path) -> None:
    whole = path.read_bytes()
    starts = [len(LINE)]
    for body in BODIES[:-1]:
        starts.append(starts[-1] + HEAD.size + len(body))
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        if at >= len(whole) - len(BODIES[-1]):
            assert frames_of(path) == BODIES[:-1]
            continue
        with pytest.raises(LogError) as error:
            frames_of(path)
        frame = max((start for start in starts if start <= at), default=0)
        assert str(error.value).startswith(f"{path}: byte {frame}: " if frame else f"{path}: expected a log")


def test_another_sort_of_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my only copy\n")
    with pytest.raises(LogError, match=r"notes\.txt: expected a log, which begins with"):
        MemoryLog(1, path)
    assert path.read_text() == "my only copy\n"


def test_a_log_is_open_once_at_a_time(tmp_path: Path) -> None:
    log = MemoryLog(1, tmp_path / "x.log")
    with pytest.raises(
        LogError, match=r"x\.log: cannot be opened: it is in use, expected one process at a time"
    ):
        MemoryLog(1, tmp_path / "x.log")
    log.close()
    MemoryLog(1, tmp_path / "x.log").close()


def test_a_log_on_disk_keeps_its_number_of_partitions(tmp_path: Path) -> None:
    MemoryLog(2, tmp_path / "x.log").close()
    with pytest.raises(LogError, match=r"x\.log: expected a log of 3 partitions, got one of 2"):
        MemoryLog(3, tmp_path / "x.log")


def test_after_a_restart_records_and_trims_are_as_they_were(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "x.log"
    log = MemoryLog(3, path)
    for n in range(60):
        sink = log.sink()
        for _ in range(rng.randrange(4)):
            sink.write(rng.randrange(3), b"k%d" % n, rng.randbytes(5))
        sink.commit()
        if n % 10 == 9:
            log.trim({p: rng.randrange(log.start()[p], at + 1) for p, at in log.end().items()})
        before = log.start(), log.end(), log.source().poll(1000)
        log.close()
        log = MemoryLog(3, path)
        assert before == (log.start(), log.end(), log.source().poll(1000))
    log.close()


def test_a_new_log_can_go_on_at_given_offsets_and_one_on_disk_keeps_its_own(tmp_path: Path) -> None:
    for start in ({1: 5}, {0: 9, 1: 1}):
        log = MemoryLog(2, tmp_path / "x.log", start=start)
        assert (log.start(), log.source().offsets) == ({0: 0, 1: 5}, {0: 0, 1: 5})
        log.append(1, b"", b"")
        log.close()
    log = MemoryLog(2, tmp_path / "x.log")
    assert log.end() == {0: 0, 1: 7}
    assert [r.offset for r in log.source().poll(9)] == [5, 6]
    log.close()
    with pytest.raises(LogError, match=r"expected a partition in 0\.\.1, got 2"):
        MemoryLog(2, start={2: 0})


def test_the_file_of_a_trimmed_log_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log = MemoryLog(2, path)
    sink = log.sink()
    for n in range(20_000):
        sink.write(n % 2, b"", b"%d" % n)
    sink.commit()
    n_bytes = path.stat().st_size
    log.trim({0: 9_999, 1: 9_000})
    assert path.stat().st_size < n_bytes / 5
    log.append(0, b"", b"new")
    log.close()
    log = MemoryLog(2, path)
    assert log.read(0, 9_999, 9) == [Record(0, 9_999, b"", b"19998"), Record(0, 10_000, b"", b"new")]
    assert log.start() == {0: 9_999, 1: 9_000}
    log.close()


def test_a_commit_that_finds_the_disk_full_is_not_there_and_can_be_tried_again(tmp_path: Path) -> None:
    log = MemoryLog(1, tmp_path / "x.log")
    sink = log.sink()
    sink.write(0, b"", b"x" * 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(LogError, match=r"x\.log: cannot be written: File too large"):
            sink.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.end() == {0: 0}
    sink.commit()
    log.close()
    log = MemoryLog(1, tmp_path / "x.log")
    assert log.end() == {0: 1}
    log.close()


WRITER = """
import sys
from stream.log import MemoryLog
log = MemoryLog(2, sys.argv[1])
sink = log.sink()
n = log.end()[0]
print("ready", flush=True)
while True:
    n += 1
    sink.write(0, b"", b"x" * (n % 5000))
    sink.write(1, b"", b"%d" % n)
    sink.commit()
    if n % 50 == 0:
        log.trim({0: n - 20, 1: n - 10})
"""


def test_a_killed_writer_leaves_whole_commits(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "x.log"
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            grown = path.stat().st_size + rng.randrange(200_000)
            while path.stat().st_size < grown and writer.poll() is None:
                pass
            os.kill(writer.pid, signal.SIGKILL)
        log = MemoryLog(2, path)
        n = log.end()[0]
        assert log.end() == {0: n, 1: n}
        assert [r.value for r in log.read(1, n - 1, 9)] == [b"%d" % n]
        log.close()
