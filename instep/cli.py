"""The command line."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from instep import settings as settings_file
from instep.settings import Settings, SettingsError
from instep.world import BadWorld
from stream.events import BadEvent
from stream.log import LogError
from trainer.checkpoint import CheckpointError

EXPECTED = (SettingsError, LogError, BadEvent, BadWorld, CheckpointError)
"""Errors whose message is for the person at the keyboard: one line, no traceback."""

app = typer.Typer(
    help="Online learning for click-through-rate ranking: a model and its search, in step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
importing = typer.Typer(help="Turn a public data set into an event log.", no_args_is_help=True)
app.add_typer(importing, name="import")

Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", file_okay=False)]
SettingsPath = Annotated[
    Path | None, typer.Option("--settings", help="instep.toml; the one beside LOG if not given.")
]


@app.command()
def replay(
    log: Annotated[Path, typer.Argument(help="Events: .jsonl[.gz|.zst], .parquet, or a folder of them.")],
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="eta, average, short, category, exact or full.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder; a run that was stopped goes on from there.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, planes and new rows.")] = None,
    refresh: Annotated[
        str, typer.Option(help="Hold codes back: every:N steps, or frozen:FRACTION of the log.")
    ] = "every:1",
    settings: SettingsPath = None,
    poll: Annotated[int, typer.Option(min=1, help="Records read at a time; changes nothing else.")] = 512,
) -> None:
    """Run the whole loop over a log as fast as it can, and print what the model would have scored."""
    from instep.replay import Refresh, replay as run  # torch takes seconds to import

    chosen = _settings(settings, log)
    changes = {"unit": model, "seed": seed}
    chosen = chosen.with_model(**{k: v for k, v in changes.items() if v is not None})
    try:
        held = Refresh.parse(refresh)
    except ValueError as e:
        _stop(str(e))
    console = Console()
    with _bar(console) as bar:
        task = bar.add_task("replay", total=None, note="")

        def show(progress: object) -> None:
            bar.update(task, total=progress.bytes_total, completed=progress.bytes_done, note="")  # type: ignore[attr-defined]

        found = run(
            log, chosen, out, checkpoint=checkpoint, refresh=held, poll=poll, on_progress=show
        )
    _print(console, found)
    console.print(f"written to {out / 'metrics.json'}")


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(min=0.1, help="About how long it takes on two cores.")] = 1.0,
    events: Annotated[int | None, typer.Option(min=200, help="How many slates, instead of --minutes.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """A simulated click stream joined, learned, indexed and ranked before your eyes; half way the world drifts."""
    from instep.demo import run

    run(Console(), minutes=minutes, n_slates=events, seed=seed)


def _settings(path: Path | None, log: Path) -> Settings:
    """The settings named, else those that lie beside the log, else the defaults."""
    beside = (log if log.is_dir() else log.parent) / "instep.toml"
    return settings_file.load(path or (beside if beside.exists() else None))


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def _stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Entry point: errors that a person can mend are one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except EXPECTED as e:
        _stop(f"instep: {e}")
