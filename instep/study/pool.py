"""Tasks in processes of their own: as many at a time as there may be, told of as they go, ended with who began them.

Each process has a pipe to its parent and nothing else. A parent that ends in whatever way closes its end, and the child
ends with its next word; so nothing goes on that nobody waits for.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, Protocol

TOLD_EVERY_S = 0.25
now_s = monotonic
"""The clock that a task may be given."""


class TaskError(RuntimeError):
    """A task did not come to its end: which, and why; for the person at the keyboard."""


@dataclass(frozen=True)
class Task:
    """A call in another process."""

    name: str
    function: Callable[..., None]
    """At the top of a module; called with ``args`` and what tells how far it is, ``tell(done, total)``."""
    args: tuple[Any, ...] = ()


class Watch(Protocol):
    """Who looks on."""

    def began(self, task: Task) -> None: ...

    def told(self, task: Task, done: int, total: int) -> None: ...

    def ended(self, task: Task, seconds: float) -> None: ...


def run_all(tasks: Sequence[Task], n_processes: int, watch: Watch) -> None:
    """Run them in their order, several at a time.

    Raises
    ------
    TaskError
        When one failed or its process was killed; those that run then are ended.
    """
    waiting = list(reversed(tasks))
    context = get_context("spawn")  # torch and numba have threads, which a fork would not take along
    busy: dict[Connection, tuple[BaseProcess, Task]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < n_processes:
                pipe, process = idle.pop() if idle else _start(context)
                task = waiting.pop()
                busy[pipe] = process, task
                watch.began(task)
                with suppress(BrokenPipeError):  # its death is told below
                    pipe.send(task)
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, task = busy[ready]
                match _received(ready, process, task):
                    case ("told", done, total):
                        watch.told(task, done, total)
                    case ("ended", seconds):
                        del busy[ready]
                        idle.append((ready, process))
                        watch.ended(task, seconds)
                    case ("failed", line, None):
                        raise TaskError(f"{task.name}: {line}")
                    case ("failed", _, trace):
                        raise RuntimeError(f"{task.name}:\n{trace}")
    finally:
        for pipe, (process, _) in busy.items():
            process.terminate()
            pipe.close()
        for pipe, _ in idle:
            pipe.close()
        for process in [*(p for p, _ in busy.values()), *(p for _, p in idle)]:
            process.join()


def _start(context: Any) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe()
    # It inherits that it is deaf to Ctrl-C, from its first moment on: ending it is its parent's affair.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    return ours, process


def _received(pipe: Connection, process: BaseProcess, task: Task) -> tuple[Any, ...]:
    try:
        message: tuple[Any, ...] = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise TaskError(f"{task.name}: its process ended with {process.exitcode}") from None
    return message


def _work(pipe: Connection) -> None:
    """In the child: one task after the other, until the parent closes the pipe."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: Task = pipe.recv()
            began = monotonic()
            try:
                task.function(*task.args, _teller(pipe))
            except (BrokenPipeError, ConnectionResetError):
                return
            except Exception as e:
                line = " ".join(f"{e}".splitlines())
                pipe.send(("failed", line, None if _is_told_in_a_line(e) else traceback.format_exc()))
            else:
                pipe.send(("ended", monotonic() - began))


def _teller(pipe: Connection) -> Callable[[int, int], None]:
    """Tells the parent, now and then."""
    last = monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if (now := monotonic()) - last >= TOLD_EVERY_S:
            last = now
            pipe.send(("told", done, total))

    return tell


def _is_told_in_a_line(error: Exception) -> bool:
    """Whether it is something that a person can mend, and not a promise of ours that was broken."""
    from instep.settings import SettingsError
    from instep.study.spool import SpoolError
    from instep.truth import TruthError
    from stream.dead import TooManyDeadError
    from stream.log import LogError
    from trainer.learner import DivergedError
    from trainer.table import TableFull

    mendable = (LogError, SettingsError, SpoolError, TruthError, TooManyDeadError, DivergedError, TableFull)
    return isinstance(error, (*mendable, OSError))
