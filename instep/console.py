"""What all commands share: where settings lie, and how progress is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from instep.settings import Settings

SETTINGS_NAME = "instep.toml"


def settings_of(path: Path | None, log: Path) -> Settings:
    """The settings named, else those that lie beside the log, else the defaults."""
    from instep import settings as settings_file

    beside = (log if log.is_dir() else log.parent) / SETTINGS_NAME
    return settings_file.load(path or (beside if beside.exists() else None))


def progress_bar(console: Console) -> Progress:
    """A bar that goes away when it is done; each task has a field ``note``."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
