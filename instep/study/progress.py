"""How far a study has come: a bar for each run at work and one for all; in a pipe a line for each that is done."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import TaskID

from instep.console import progress_bar
from instep.study.pool import Task


class Bars:
    """Looks on while tasks run.

    Parameters
    ----------
    what
        The name of the bar for all.
    sizes
        Of each task by name, in ``unit``; 0 where it is not known before.
    unit
        What is counted; empty for bytes that nobody wants to know.
    n_done
        Tasks that were done before, of all there are.
    """

    def __init__(
        self, console: Console, what: str, sizes: Mapping[str, int], unit: str = "candidates", n_done: int = 0
    ) -> None:
        self._console, self._sizes, self._unit = console, sizes, unit
        self._n_done, self._n_all = n_done, n_done + len(sizes)
        self._bars = progress_bar(console)
        self._bars.disable = not console.is_terminal
        self._all = self._bars.add_task(what, total=sum(sizes.values()) or None, note="")
        self._ids: dict[str, TaskID] = {}
        self._at: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._began_all = monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def began(self, task: Task) -> None:
        self._ids[task.name] = self._bars.add_task(task.name, total=self._sizes[task.name] or None, note="")
        self._began[task.name] = monotonic()

    def told(self, task: Task, done: int, total: int) -> None:
        self._at[task.name] = done
        note = self._rate(done, monotonic() - self._began[task.name])
        self._bars.update(self._ids[task.name], completed=done, total=total, note=note)
        self._show_all()

    def ended(self, task: Task, seconds: float) -> None:
        size = self._at[task.name] = self._sizes[task.name]
        self._bars.remove_task(self._ids.pop(task.name))
        self._n_done += 1
        self._show_all()
        counted = f"{size:,} {self._unit}, " if self._unit and size else ""
        rate = f", {note}" if (note := self._rate(size, seconds)) else ""
        told = f"{task.name}: {counted}{seconds:.0f} s{rate} ({self._n_done} of {self._n_all})"
        self._bars.console.print(told, highlight=False, soft_wrap=True)

    def _show_all(self) -> None:
        done = sum(self._at.values())
        note = self._rate(done, monotonic() - self._began_all)
        self._bars.update(self._all, completed=done, note=f"{self._n_done} of {self._n_all}  {note}")

    def _rate(self, done: int, seconds: float) -> str:
        return f"{done / seconds:,.0f} {self._unit}/s" if self._unit and done and seconds > 0 else ""
