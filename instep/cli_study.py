"""The command that compares: models on the same batches of a log, and how sure one can be of what they differ by."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from instep.console import SETTINGS_NAME, settings_of

if TYPE_CHECKING:
    from instep.settings import Settings
    from instep.study.results import Figure, Found, Study

studies = typer.Typer()

KindName = Literal["models", "search", "staleness", "length", "bits", "k", "cold"]
"""As ``instep.study.results.Kind``, which would take msgspec to read."""


@studies.command()
def study(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="LOG...", help="Events, as replay takes them; of several, figures are means."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for study.json, and for what makes it go on.")],
    kind: Annotated[
        KindName,
        typer.Option(
            "--study",
            help="What is compared: models; how a model finds behaviours (search); codes and serving held back "
            "(staleness); length of the history; bits of a code; k; new items (cold).",
        ),
    ] = "models",
    models: Annotated[
        str | None,
        typer.Option(
            help="Units, with commas between. Of models: those to compare [all]; else: those to make the study of "
            "[that of the settings]."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Of weights and planes: so many, from model.seed on.")
    ] = 3,
    until: Annotated[
        str, typer.Option(help="Learn the log up to here: a part of its batches, or a date or ms (UTC).")
    ] = "1.0",
    warmup: Annotated[
        str, typer.Option(help="Learn so much without scoring it: a part below 1, or so many candidates.")
    ] = "0",
    processes: Annotated[int | None, typer.Option(min=1, help="Runs at a time. [cores]")] = None,
    bootstrap: Annotated[int, typer.Option(min=20, help="Resamples of users behind each interval.")] = 300,
    settings: Annotated[
        Path | None, typer.Option(help=f"The {SETTINGS_NAME} beside the logs if not given.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting for all runs: KEY=VALUE of \\[model], or SECTION.KEY=VALUE."),
    ] = None,
    cost: Annotated[bool, typer.Option(help="Measure what the models cost, when all is learned.")] = True,
    spool: Annotated[
        Path | None, typer.Option(help="Folder for the joined logs, to share it between studies. [OUT/spool]")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Make runs again that were made otherwise, in the place of refusing."),
    ] = False,
) -> None:
    """Compare models on the same batches of a log, in parallel processes, with paired differences.

    A study that was stopped goes on where it was.
    """
    from instep.study.conduct import Asked, conduct

    asked = Asked(
        kind,
        tuple(logs),
        with_changes(_common_settings(settings, logs), changes or []),
        out,
        _command(logs, out, kind, models, seeds, until, warmup, bootstrap, settings, changes or [], cost),
        models=None if models is None else tuple(name.strip() for name in models.split(",")),
        n_seeds=seeds,
        n_processes=processes or len(os.sched_getaffinity(0)),
        n_bootstrap=bootstrap,
        until=parse_until(until),
        warmup=parse_warmup(warmup),
        spool=spool,
        cost=cost,
        fresh=fresh,
    )
    console = Console()
    _print(console, conduct(asked, console))
    typer.echo(f"written to {out / 'study.json'}")


def _common_settings(path: Path | None, logs: list[Path]) -> Settings:
    """Those named, else those beside the logs, which have to agree."""
    from instep.settings import SettingsError
    from stream.log import LogError

    for log in logs:
        if not log.exists():
            raise LogError(log, "expected a file or folder of events, got nothing there")
    if (twice := next((log for n, log in enumerate(logs) if _is_among(log, logs[:n])), None)) is not None:
        raise LogError(twice, "expected each log once, got it twice")
    found = [settings_of(path, log) for log in logs]
    for log, other in zip(logs, found, strict=True):
        if other != found[0]:
            what = f"expected the same settings beside it as beside {logs[0]}, got others"
            raise SettingsError(f"{log}: {what}; --settings names one file")
    return found[0]


def _is_among(log: Path, others: list[Path]) -> bool:
    return any(log.samefile(other) for other in others)


def with_changes(settings: Settings, changes: list[str]) -> Settings:
    """Settings with some changed: ``KEY=VALUE`` of ``[model]``, or ``SECTION.KEY=VALUE``, values as in the file."""
    import msgspec

    from instep.settings import SettingsError, check

    raw: dict[str, Any] = msgspec.to_builtins(settings)
    for change in changes:
        name, equals, text = change.partition("=")
        section, _, key = name.strip().rpartition(".")
        section = section or "model"
        if not equals or not key or section not in ("stream", "model", "trainer"):
            raise SettingsError(f"--set: expected KEY=VALUE or SECTION.KEY=VALUE, got {change!r}")
        try:
            value = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        raw[section][key] = value
    return check(raw, "--set") if changes else settings


def parse_until(text: str) -> float | int:
    """A part of the log (float, above 0 to 1), or ms since 1970 (int).

    >>> [parse_until(text) for text in ("0.5", "1767225600000", "2026-01-01", "2026-01-01T00:00+01:00")]
    [0.5, 1767225600000, 1767225600000, 1767222000000]
    """
    from instep.settings import SettingsError

    if re.fullmatch(r"0?\.\d+|1|1\.0*", text) and float(text) > 0:
        return float(text)
    if re.fullmatch(r"\d{9,16}", text):
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        what = "expected a part of the log (above 0, up to 1), a date, or ms since 1970"
        raise SettingsError(f"--until: {what}, got {text!r}") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1_000)


def parse_warmup(text: str) -> float | int:
    """A part of what is learned (float, below 1), or so many candidates (int).

    >>> parse_warmup("0.5"), parse_warmup("20_000"), parse_warmup("0")
    (0.5, 20000, 0)
    """
    from instep.settings import SettingsError

    if re.fullmatch(r"0?\.\d+|0\.", text):
        return float(text)
    if re.fullmatch(r"\d[\d_]{0,15}", text):
        return int(text)
    what = "expected a part of what is learned (0 to below 1) or a number of candidates"
    raise SettingsError(f"--warmup: {what}, got {text!r}")


def _command(
    logs: list[Path],
    out: Path,
    kind: str,
    models: str | None,
    seeds: int,
    until: str,
    warmup: str,
    bootstrap: int,
    settings: Path | None,
    changes: list[str],
    cost: bool,
) -> str:
    """The command line with all that decides the figures; how many processes there are does not."""
    words = ["instep", "study", *map(str, logs), "--out", str(out), "--study", kind, "--seeds", str(seeds)]
    words += ["--models", models] if models is not None else []
    words += ["--until", until] if until != "1.0" else []
    words += ["--warmup", warmup] if warmup != "0" else []
    words += ["--bootstrap", str(bootstrap)] if bootstrap != 300 else []
    words += ["--settings", str(settings)] if settings is not None else []
    for change in changes:
        words += ["--set", change]
    words += [] if cost else ["--no-cost"]
    return shlex.join(words)


def _print(console: Console, study: Study) -> None:
    """Each group as a table, in the 80 columns of a pipe too."""
    for group, reference in study.references.items():
        own = [run for run in study.runs if run.group == group]
        table = Table(title=group, box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", overflow="fold")
        for column in ("AUC", f"less {reference}", "NE", "found", "cand./s", "ms"):
            table.add_column(column, justify="right")
        for run in own:
            table.add_row(*_row(run))
        console.print(table)
    best = f", best possible AUC {100 * study.best_auc:.2f}" if study.best_auc is not None else ""
    typer.echo(f"{study.log}: {study.candidates:,} candidates scored, {study.seeds} seeds{best}")
    for note in study.notes:
        typer.echo(note)


def _row(run: Found) -> list[str]:
    """Its cells: AUC in points, what of the hidden topic the search found, and what it costs."""
    costs = [f"{run.cost.learn_per_s:,.0f}", f"{run.cost.rank_ms:.2f}"] if run.cost is not None else ["", ""]
    recall = run.recall.value if run.recall is not None else None
    return [
        run.title,
        _points(run.auc),
        _with_interval(run.auc_less),
        "-" if run.ne.value is None else f"{run.ne.value:.4f}",
        "" if recall is None else f"{recall:.0%}",
        *costs,
    ]


def _points(figure: Figure) -> str:
    return "-" if figure.value is None else f"{100 * figure.value:.2f}"


def _with_interval(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return ""
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:+.2f}"
    return f"{100 * figure.value:+.2f}\n({100 * figure.low:+.2f}, {100 * figure.high:+.2f})"
