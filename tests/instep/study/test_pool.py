"""Tasks in processes: told of, ended, and not left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from instep.study.pool import Task, TaskError, run_all
from instep.study.progress import Bars
from stream.log import LogError

ROOT = Path(__file__).parent.parent.parent.parent
Tell = Callable[[int, int], None]


class Seen:
    """What a watch was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.n_at_once = 0
        self._now = 0

    def began(self, task: Task) -> None:
        self._now += 1
        self.n_at_once = max(self.n_at_once, self._now)
        self.lines.append(f"began {task.name}")

    def told(self, task: Task, done: int, total: int) -> None:
        self.lines.append(f"{task.name} {done}/{total}")

    def ended(self, task: Task, seconds: float) -> None:
        assert seconds >= 0
        self._now -= 1
        self.lines.append(f"ended {task.name}")


def note(path: Path, tell: Tell) -> None:
    path.write_text(str(os.getpid()))


def refuse(path: Path, tell: Tell) -> None:
    raise LogError(path, "expected events\nin lines")


def fall(tell: Tell) -> None:
    raise AssertionError("a promise of ours")


def die(tell: Tell) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell_for_ever(path: Path, tell: Tell) -> None:
    path.write_text(str(os.getpid()))
    n = 0
    while True:
        n += 1
        tell(n, 0)


def tasks(folder: Path, n: int) -> list[Task]:
    return [Task(f"t{i}", note, (folder / f"{i}",)) for i in range(n)]


@pytest.mark.parametrize("n_processes", [1, 3])
def test_every_task_is_done_once_by_as_many_processes_as_there_may_be(
    tmp_path: Path, n_processes: int
) -> None:
    seen = Seen()
    run_all(tasks(tmp_path, 5), n_processes, seen)
    pids = {file.read_text() for file in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 5
    assert str(os.getpid()) not in pids
    assert len(pids) <= n_processes
    assert seen.n_at_once == n_processes
    assert [line for line in seen.lines if line.startswith("began")] == [f"began t{i}" for i in range(5)]


def test_what_a_person_can_mend_is_a_line_and_what_not_has_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"^a: .*gone: expected events in lines$"):
        run_all([Task("a", refuse, (tmp_path / "gone",))], 1, Seen())
    with pytest.raises(
        RuntimeError, match=r"(?s)a:\nTraceback.*in fall.*AssertionError: a promise of ours"
    ) as e:
        run_all([Task("a", fall)], 1, Seen())
    assert not isinstance(e.value, TaskError)


def test_a_process_that_was_killed_is_told_and_the_others_end(tmp_path: Path) -> None:
    other = tmp_path / "pid"
    with pytest.raises(TaskError, match=r"^b: its process ended with -9$"):
        run_all([Task("a", tell_for_ever, (other,)), Task("b", die)], 2, Seen())
    assert not other.exists() or is_gone(int(other.read_text()))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


PARENT = """
import sys
from pathlib import Path
from instep.study.pool import Task, run_all
from tests.instep.study.test_pool import Seen, tell_for_ever
class Loud(Seen):
    def told(self, task, done, total):
        print(task.name, flush=True)
if __name__ == "__main__":
    run_all([Task(name, tell_for_ever, (Path(sys.argv[1]) / name,)) for name in "ab"], 2, Loud())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_a_parent_ends_its_children_do(tmp_path: Path, how: signal.Signals) -> None:
    """SIGINT goes to the children too, as a terminal sends it, and they leave it to their parent."""
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen: set[str] = set()
        while seen < {"a\n", "b\n"}:
            seen.add(process.stdout.readline())
        if how is signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        process.stdout.read()
        told = process.stderr.read()
    pids = [int((tmp_path / name).read_text()) for name in "ab"]
    until = time.monotonic() + 30
    while not all(map(is_gone, pids)):
        assert time.monotonic() < until
    assert told.count("Traceback") == (how is signal.SIGINT), told


def test_in_a_pipe_there_is_a_line_for_each_task_that_is_done(tmp_path: Path) -> None:
    file = StringIO()
    with Bars(Console(file=file, width=40), "learn", {"t0": 1_000, "t1": 0}, n_done=3) as bars:
        run_all(tasks(tmp_path, 2), 1, bars)
    first, second = file.getvalue().splitlines()
    assert first.startswith("t0: 1,000 candidates, ")
    assert first.endswith(" candidates/s (4 of 5)")
    assert second.startswith("t1: ")
    assert second.endswith(" s (5 of 5)")
    assert "\x1b" not in file.getvalue()


def test_on_a_terminal_there_is_a_bar_for_each_that_runs_and_one_for_all(tmp_path: Path) -> None:
    file = StringIO()
    console = Console(file=file, width=120, force_terminal=True)
    with Bars(console, "learn", {"one": 1_000, "two": 500}) as bars:
        for name in ("one", "two"):
            bars.began(Task(name, note))
            bars.told(Task(name, note), 250, bars._sizes[name])
        bars._bars.refresh()
        bars.ended(Task("one", note), 2.0)
        bars._bars.refresh()
    shown = file.getvalue()
    for part in ("learn", "one", "two", "25%", "50%", "83%", "1 of 2", "candidates/s"):
        assert part in shown, part
    assert "one: 1,000 candidates, 2 s, 500 candidates/s (1 of 2)" in shown
