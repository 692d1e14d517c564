"""What all commands share: where logs and settings lie, how they are written, and how progress is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from instep.settings import Settings

SETTINGS_NAME = "instep.toml"
LOG_NAME = "events.jsonl.gz"


def settings_of(path: Path | None, log: Path) -> Settings:
    """The settings named, else those that lie beside the log, else the defaults."""
    from instep import settings as settings_file

    beside = (log if log.is_dir() else log.parent) / SETTINGS_NAME
    return settings_file.load(path or (beside if beside.exists() else None))


def make_folder(folder: Path) -> None:
    """Make the folder for what a command writes, before it does its work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise NotADirectoryError(
            e.errno, f"expected a folder that can be made, got: {e.strerror}", folder
        ) from None


def write_log(out: Path, write: Callable[[Path], int], raw: dict[str, Any]) -> str:
    """Have a log written into the folder, and put the settings that suit it beside; the line that says so."""
    from instep import settings as settings_file
    from instep.toml import to_toml

    make_folder(out)
    settings_file.check(raw)
    n = write(out / LOG_NAME)
    (out / SETTINGS_NAME).write_text(to_toml(raw), encoding="utf-8")
    return f"{n:,} events written to {out / LOG_NAME}, settings to {out / SETTINGS_NAME}"


def progress_bar(console: Console) -> Progress:
    """A bar that goes away when it is done; each task has a field ``note``."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
