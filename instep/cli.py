"""The command line: what runs in one process, and how every command ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from instep.cli_services import installation, topics
from instep.console import SETTINGS_NAME, progress_bar, settings_of

# What pulls in torch, the settings too, is imported where it is needed: --help and a mistyped option answer at once.

app = typer.Typer(
    help="Online learning for click-through-rate ranking: a model and its search, in step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
importing = typer.Typer(help="Turn a public data set into an event log.", no_args_is_help=True)
app.add_typer(importing, name="import")
app.add_typer(topics, name="topics")
app.add_typer(installation)

LOG_NAME = "events.jsonl.gz"

Folder = Annotated[Path, typer.Argument(help="Folder with the data set's files.")]
OutFolder = Annotated[
    Path, typer.Argument(help=f"Folder for {LOG_NAME} and the {SETTINGS_NAME} that suits it.")
]
Seed = Annotated[int, typer.Option(min=0)]


@app.command()
def replay(
    log: Annotated[Path, typer.Argument(help="Events: .jsonl[.gz|.zst], .parquet, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json and the scores.")],
    model: Annotated[
        str | None,
        typer.Option(help="The interest unit: eta, full, average ..., see docs/models.md. [settings: eta]"),
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
) -> None:
    """Run the whole loop over a log as fast as it can, and print what the model would have scored."""
    from instep import replay as replaying
    from instep.pipeline import TooManyDeadError

    chosen = settings_of(settings, log)
    changes = {"unit": model, "seed": seed}
    chosen = chosen.with_model(**{k: v for k, v in changes.items() if v is not None})
    held = replaying.Refresh.parse(refresh)
    _make(out)
    console = Console()
    with progress_bar(console) as bar:
        task = bar.add_task("replay", total=None, note="")

        def show(now: replaying.Progress) -> None:
            note = f"{now.n_candidates:,} candidates"
            if now.recent:
                note += f"  AUC {now.recent['auc']:.4f}  NE {now.recent['ne']:.4f}"
            bar.update(task, total=now.bytes_total, completed=now.bytes_done, note=note)

        found = replaying.replay(
            log, chosen, out, checkpoint=checkpoint, refresh=held, poll=poll, on_progress=show
        )
    _print(console, found)
    typer.echo(f"written to {out / 'metrics.json'}")
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
) -> None:
    """A simulated click stream joined, learned, indexed and ranked before your eyes; half way the world drifts."""
    from instep.demo import run

    run(Console(), minutes=minutes, n_slates=events, seed=seed)


@app.command()
def simulate(
    out: OutFolder,
    slates: Annotated[int, typer.Option(min=1, help="Impressions of ten candidates.")] = 30_000,
    users: Annotated[int, typer.Option(min=1)] = 4_000,
    items: Annotated[int, typer.Option(min=80)] = 2_000,
    slates_per_s: Annotated[float, typer.Option(min=0.001, help="Of event time.")] = 5.0,
    kinds: Annotated[str, typer.Option(help="What users do: click, or click,like.")] = "click",
    seed: Seed = 0,
) -> None:
    """Write the event log of a simulated product, in which the best possible AUC is known."""
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
    _write_log(out, lambda path: _events_to(path, events(world, slates, truth=truth)), raw)
    for kind in declared:
        p, happened = truth.arrays(kind)
        rate = "click-through rate" if kind == "click" else f"{kind} rate"
        typer.echo(f"{rate} {happened.mean():.4f}, best possible AUC {auc(p, happened):.4f}")


@importing.command()
def mind(folder: Folder, out: OutFolder) -> None:
    """MIND news: behaviors.tsv and news.tsv, with their real slates."""
    from instep.mind import import_mind

    features = [{"name": "category", "of": "item"}, {"name": "subcategory", "of": "item"}]
    _write_log(out, lambda path: import_mind(folder, path), _of_a_sparse_log(features, 4))


@importing.command()
def movielens(folder: Folder, out: OutFolder, seed: Seed = 0) -> None:
    """MovieLens: ratings.csv and movies.csv; a rating of 4 or more is a click in a slate of sampled movies."""
    from instep.movielens import import_movielens

    features = [{"name": "category", "of": "item"}, {"name": "genres", "of": "item"}]
    _write_log(out, lambda path: import_movielens(folder, path, seed), _of_a_sparse_log(features, 16))


def _of_a_sparse_log(features: list[dict[str, str]], batch_samples: int) -> dict[str, Any]:
    """Settings of a log of days or years with few events an hour: batches wait to be full, nothing expires."""
    from instep.datasets import DAY_MS

    forever = 30 * 365 * DAY_MS
    return {
        "features": features,
        "stream": {"lateness_ms": 0, "history_ttl_ms": forever},
        "model": {"warm_up_steps": 0},  # there are too few steps to wait
        "trainer": {
            "batch_samples": batch_samples,
            "batch_span_ms": DAY_MS,
            "publish_ms": DAY_MS,
            "checkpoint_ms": DAY_MS,
            "row_ttl_ms": forever,
        },
    }


def _write_log(out: Path, write: Callable[[Path], int], raw: dict[str, Any]) -> None:
    from instep import settings as settings_file

    _make(out)
    settings_file.check(raw)
    n = write(out / LOG_NAME)
    (out / SETTINGS_NAME).write_text(_toml(raw))
    typer.echo(f"{n:,} events written to {out / LOG_NAME}, settings to {out / SETTINGS_NAME}")


def _make(folder: Path) -> None:
    """Make the folder for what a command writes, before it does its work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise NotADirectoryError(
            e.errno, f"expected a folder that can be made, got: {e.strerror}", folder
        ) from None


def _events_to(path: Path, events: Any) -> int:
    from stream.files import write_events

    return write_events(path, events)


def _toml(raw: dict[str, Any]) -> str:
    """The few kinds of values that settings are made of, as TOML."""
    lines = []
    for feature in raw["features"]:
        lines += ["[[features]]", *(f'{k} = "{v}"' for k, v in feature.items()), ""]
    for section, values in raw.items():
        if section != "features":
            lines += [f"[{section}]", *(f"{k} = {_toml_value(v)}" for k, v in values.items()), ""]
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {v}' for k, v in value.items())} }}"
    return str(value)


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
    from instep.datasets import BadDataset
    from instep.pipeline import TooManyDeadError
    from instep.scorebook import ScorebookError
    from instep.settings import SettingsError
    from instep.world import BadWorld
    from ranker.client import RankerError
    from stream.log import LogError, Unavailable
    from stream.redis_client import RedisSettingsError
    from trainer.checkpoint import CheckpointError
    from trainer.table import TableFull

    of_files = (LogError, BadDataset, CheckpointError, ScorebookError, RankerError, OSError)
    return (SettingsError, RedisSettingsError, BadWorld, TooManyDeadError, TableFull, Unavailable, *of_files)


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
