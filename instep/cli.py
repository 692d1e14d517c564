"""The command line: what runs in one process, and how every command ends."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from instep.cli_imports import OutFolder, importing
from instep.cli_services import installation, topics
from instep.cli_study import studies
from instep.console import SETTINGS_NAME, make_folder, progress_bar, settings_of, write_log

# What pulls in torch, the settings too, is imported where it is needed: --help and a mistyped option answer at once.

app = typer.Typer(
    help="Online learning for click-through-rate ranking: a model and its search, in step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(importing, name="import")
app.add_typer(topics, name="topics")
app.add_typer(installation)
app.add_typer(studies)

Seed = Annotated[int, typer.Option(min=0)]
# fmt: off
DriftName = Literal[
    "none", "moved", "arrivals", "shifted", "relabelled", "dead",
    "doubled", "swapped", "constant", "category", "poison",
]
# fmt: on
"""The names of ``instep.drifts.DRIFTS``, which takes numpy to read."""


@app.command()
def replay(
    log: Annotated[Path, typer.Argument(help="Events: .jsonl[.gz|.zst], .parquet, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json and the scores.")],
    model: Annotated[
        str | None,
        typer.Option(help="The interest unit: eta, full, average ..., see docs/models.md. [settings: eta]"),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="How it finds behaviours: hamming, inner, category, recent or none. [the unit's own]"
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder; a run that was stopped goes on from there.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, planes and new rows.")] = None,
    refresh: Annotated[
        str, typer.Option(help="Hold codes back: every:N steps, or frozen:FRACTION of the log.")
    ] = "every:1",
    settings: Annotated[
        Path | None, typer.Option(help=f"The {SETTINGS_NAME} beside the log if not given.")
    ] = None,
    poll: Annotated[int, typer.Option(min=1, help="Records read at a time; changes nothing else.")] = 512,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Watch it too: windows, alerts, and a page of them.")
    ] = False,
    from_alert: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Score only the events of an alert's windows; see --alerts."),
    ] = None,
    alerts: Annotated[Path | None, typer.Option(help="The record in which that alert is.")] = None,
) -> None:
    """Run the whole loop over a log as fast as it can, and print what the model would have scored."""
    if (from_alert is None) != (alerts is None):
        raise typer.BadParameter("expected both --from-alert and --alerts, or neither, got one")
    if monitor and from_alert is not None:
        raise typer.BadParameter("expected --monitor or --from-alert, got both")
    from instep import replay as replaying
    from instep.pipeline import TooManyDeadError
    from instep.stretch import replay_stretch
    from monitor.record import find_alert

    chosen = settings_of(settings, log)
    changes = {"unit": model, "search": search, "seed": seed}
    chosen = chosen.with_model(**{k: v for k, v in changes.items() if v is not None})
    held = replaying.Refresh.parse(refresh)
    make_folder(out)
    console = Console()
    with progress_bar(console) as bar:
        task = bar.add_task("replay", total=None, note="")

        def show(now: replaying.Progress) -> None:
            note = f"{now.n_candidates:,} candidates"
            if now.recent:
                note += f"  AUC {now.recent['auc']:.4f}  NE {now.recent['ne']:.4f}"
            bar.update(task, total=now.bytes_total, completed=now.bytes_done, note=note)

        how: dict[str, Any] = {"checkpoint": checkpoint, "refresh": held, "poll": poll, "on_progress": show}
        if from_alert is not None and alerts is not None:
            found = replay_stretch(log, chosen, find_alert(alerts, from_alert), out, **how)
        else:
            found = replaying.replay(log, chosen, out, watch=monitor, **how)
    _print(console, found)
    typer.echo(f"written to {out / 'metrics.json'}")
    if monitor:
        typer.echo(f"written to {out / 'monitor.html'}, and the alerts to {out / 'alerts.jsonl'}")
    # Of a short log too few are dead to stop the loop on the way; here the whole of it is known.
    dead = {name: n for name, n in found["counts"].items() if name.startswith("dead.")}
    n_dead, n_in = sum(dead.values()), found["counts"].get("in", 0)
    if n_dead > chosen.stream.max_dead * n_in:
        raise TooManyDeadError(
            f"{log}: expected at most {chosen.stream.max_dead:.0%} unusable records, got {n_dead} of {n_in}: "
            + _listed(dead)
        )


@app.command()
def demo(
    minutes: Annotated[
        float, typer.Option(min=0.1, max=1_440, help="About how long it takes on two cores.")
    ] = 1.0,
    events: Annotated[int | None, typer.Option(min=400, help="Slates to show, instead of --minutes.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page of what a monitor saw.")] = Path(
        "build/demo"
    ),
) -> None:
    """A simulated click stream joined, learned, indexed and ranked before your eyes; half way the world drifts."""
    from instep.demo import run

    make_folder(out)
    run(Console(), out, minutes=minutes, n_slates=events, seed=seed)


@app.command()
def simulate(
    out: OutFolder,
    slates: Annotated[int, typer.Option(min=1, help="Impressions of ten candidates.")] = 30_000,
    users: Annotated[int, typer.Option(min=1)] = 4_000,
    items: Annotated[int, typer.Option(min=80)] = 2_000,
    slates_per_s: Annotated[float, typer.Option(min=0.001, max=1e6, help="Of event time.")] = 5.0,
    kinds: Annotated[str, typer.Option(help="What users do: click, or click,like.")] = "click",
    drift: Annotated[DriftName, typer.Option(help="What changes on the way, from its middle on.")] = "none",
    seed: Seed = 0,
) -> None:
    """Write the event log of a simulated product, and beside it the truth, by which the best possible AUC is known."""
    from instep import truth as truth_file
    from instep.drifts import DRIFTS
    from instep.faults import FAULTS, lines
    from instep.simulator import Truth, World, events
    from trainer.scores import auc

    declared = tuple(kinds.split(","))
    world = World(seed=seed, n_users=users, n_items=items, slates_per_s=slates_per_s, kinds=declared)
    truth = Truth()
    raw: dict[str, Any] = {
        "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}]
    }
    if len(declared) > 1:
        raw["stream"] = {"windows": world.windows}
    at, faults = FAULTS.get(drift, (0.0, None))
    shown = events(world, slates, drifts=DRIFTS[drift], truth=truth)
    stream = lines(shown, faults, truth=truth, from_ms=world.moment_ms(at, slates))
    told = write_log(out, lambda path: _events_to(path, stream), raw)
    truth_file.save(truth, out / truth_file.NAME)
    typer.echo(told)
    for kind in declared:
        p, happened = truth.arrays(kind)
        rate = "click-through rate" if kind == "click" else f"{kind} rate"
        typer.echo(f"{rate} {happened.mean():.4f}, best possible AUC {auc(p, happened):.4f}")


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder with the study.json of a study, or a replay's monitor.msgpack.")
    ],
) -> None:
    """Draw report.html of a study again, and monitor.html of what was watched, from what is in a folder."""
    from instep.study.folder import JSON, read, write_report
    from monitor.folder import Folder

    watched = Folder(folder)
    if (folder / JSON).exists() or not watched.has_board:
        typer.echo(f"written to {write_report(read(folder), folder)}")
    if watched.has_board:
        typer.echo(f"written to {watched.draw()}")


def _events_to(path: Path, events: Any) -> int:
    from stream.files import write_events

    return write_events(path, events)


def _print(console: Console, found: dict[str, Any]) -> None:
    """Progressive metrics over time and in total, in the 80 columns of a pipe too."""
    names = ("auc", "ne", "gauc", "log_loss", "calibration")
    kinds, title = (
        found["kinds"],
        f"{found['model']}, {found['candidates']:,} candidates, version {found['version']}",
    )
    if len(kinds) > 1:
        title += f"; over time: {next(iter(kinds))}"
    table = Table(title=title, box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("until", "candidates", *names):
        table.add_column(column, justify="right", no_wrap=True, max_width=14)

    def row(title: str, part: dict[str, Any], errors: bool) -> None:
        figures = []
        for name in names:
            value, error = part[name], part["errors"][name]
            text = "-" if value is None else f"{value:.4f}"
            figures.append(f"{text}\n± {error:.4f}" if errors and error is not None else text)
        table.add_row(title, f"{part['candidates']:,}", *figures)

    from datetime import UTC, datetime

    for window in found["windows"]:
        until = datetime.fromtimestamp(window["until_ms"] / 1000, UTC)
        if window["candidates"]:
            row(f"{until:%y-%m-%d %H:%M}", window, errors=False)
    table.add_section()
    for kind, total in kinds.items():
        row(escape(kind) if len(kinds) > 1 else "in total", total, errors=True)
    console.print(table)
    typer.echo(f"weights sha256 {found['weights_sha256']}")
    became = {name: n for name, n in found["counts"].items() if name != "in" and n}
    typer.echo(f"{found['counts'].get('in', 0):,} records in: {_listed(became)}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


def _expected() -> tuple[type[Exception], ...]:
    """Errors whose message is for the person at the keyboard."""
    from instep.pipeline import TooManyDeadError
    from instep.reading import BadDataset
    from instep.scorebook import ScorebookError
    from instep.settings import SettingsError
    from instep.stretch import StretchError
    from instep.study.conduct import StudyError
    from instep.study.folder import StudyError as BadStudy
    from instep.study.pool import TaskError
    from instep.study.spool import SpoolError
    from instep.truth import TruthError
    from instep.world import BadWorld
    from monitor.folder import BoardError
    from monitor.record import RecordError
    from monitor.rules import RulesError
    from ranker.client import RankerError
    from stream.log import LogError, Unavailable
    from stream.redis_client import RedisSettingsError
    from trainer.checkpoint import CheckpointError
    from trainer.gate import BadOrder
    from trainer.table import TableFull

    of_files = (LogError, BadDataset, CheckpointError, ScorebookError, RankerError, OSError)
    of_studies = (StudyError, BadStudy, BoardError, TaskError, SpoolError, TruthError)
    of_alerts = (StretchError, RecordError, RulesError)
    others = (SettingsError, RedisSettingsError, BadWorld, BadOrder, TooManyDeadError, TableFull, Unavailable)
    return (*others, *of_files, *of_studies, *of_alerts)


def _in_one_line(error: Exception) -> str:
    """What to tell of an error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).splitlines())


def _of_usage(error: typer.TyperException) -> str:
    """What is wrong with a command line; nothing where the help was shown because it was empty."""
    told = error.format_message().rstrip(".")
    if (found := getattr(error.__cause__, "errors", None)) is not None:  # typer leaves out what came
        told += f", got {found()[0]['input']!r}"
    return " ".join(told.splitlines())


def main() -> None:
    """Entry point: what a person can mend is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what its errors mean is ours to say, once
    try:
        raise SystemExit(app(standalone_mode=False))
    except typer.Abort:
        raise SystemExit(130) from None
    except typer.TyperException as e:
        if told := _of_usage(e):
            print(f"instep: {told}; see --help", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as e:
        if not isinstance(e, _expected()):
            raise
        print(f"instep: {_in_one_line(e)}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
