"""``instep import``: public data sets, and files of one's own, into event logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from instep.console import LOG_NAME, SETTINGS_NAME, progress_bar, write_log

if TYPE_CHECKING:
    from instep.datasets import Account
    from instep.reading import Progress

importing = typer.Typer(help="Turn a public data set into an event log.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder with the data set's files.")]
OutFolder = Annotated[
    Path, typer.Argument(help=f"Folder for {LOG_NAME} and the {SETTINGS_NAME} that suits it.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn by chance.")]
Memory = Annotated[
    int,
    typer.Option(
        "--memory-mb", min=1, help="Of rows to hold while sorting; the rest goes to the disk, beside the log."
    ),
]

Work = Callable[[Path, "Progress"], "int | Account"]
"""What writes the log, given the file and where progress goes: the number of events, or more than that."""


@importing.command()
def mind(folder: Folder, out: OutFolder) -> None:
    """MIND news: behaviors.tsv and news.tsv, with their real slates."""
    from instep.mind import import_mind

    features = [{"name": "category", "of": "item"}, {"name": "subcategory", "of": "item"}]
    _import(out, lambda path, progress: import_mind(folder, path, progress), _of_a_sparse_log(features, 4))


@importing.command()
def movielens(folder: Folder, out: OutFolder, seed: Seed = 0) -> None:
    """MovieLens: ratings.csv and movies.csv; a rating of 4 or more is a click in a slate of sampled movies."""
    from instep.movielens import import_movielens

    features = [{"name": "category", "of": "item"}, {"name": "genres", "of": "item"}]
    raw = _of_a_sparse_log(features, 16)
    _import(out, lambda path, progress: import_movielens(folder, path, seed, progress), raw)


@importing.command()
def taobao(
    folder: Folder,
    out: OutFolder,
    negatives: Annotated[
        int, typer.Option(min=1, max=100, help="Items of its category beside each clicked one.")
    ] = 1,
    window_s: Annotated[
        int, typer.Option(min=1, max=864_000, help="How long after a click fav, cart and buy belong to it.")
    ] = 3_600,
    seed: Seed = 0,
    memory_mb: Memory = 256,
) -> None:
    """Taobao's UserBehavior.csv: each pv is a click in a slate with others of its category; then fav, cart, buy."""
    from instep.taobao import KINDS, import_taobao, windows

    raw = _of_a_log([{"name": "category", "of": "item"}], windows(window_s), list(KINDS))

    _import(
        out,
        lambda path, progress: import_taobao(
            folder, path, negatives, window_s, seed, memory_mb << 20, progress
        ),
        raw,
    )


@importing.command()
def kuairand(folder: Folder, out: OutFolder, memory_mb: Memory = 256) -> None:
    """KuaiRand: its logs with their real slates, and the basic features of users and videos."""
    from instep.kuairand import FEATURES, import_kuairand, windows

    _import(
        out,
        lambda path, progress: import_kuairand(folder, path, memory_mb << 20, progress),
        _of_a_log(FEATURES, windows(), ["click"]),
    )


@importing.command()
def csv(
    file: Annotated[Path, typer.Argument(help="Separated values, one row a candidate; or that as .gz.")],
    out: OutFolder,
    mapping: Annotated[Path, typer.Option(help="TOML that says which columns mean what: docs/importing.md.")],
    memory_mb: Memory = 256,
) -> None:
    """Any file of impressions, by a mapping of its columns."""
    from instep.mapped import import_mapped
    from instep.mapping import load

    found = load(mapping).settings()
    raw = _of_a_log(found["features"], **found["stream"])

    _import(out, lambda path, progress: import_mapped(file, mapping, path, memory_mb << 20, progress), raw)


def _import(out: Path, work: Work, raw: dict[str, Any]) -> None:
    """Write log and settings, show how far that is, and tell what was left out."""
    from instep.reading import Progress

    accounts: list[Account] = []
    with progress_bar(Console()) as bar:
        task = bar.add_task("import", total=None, note="")

        def show(done: int, total: int) -> None:
            note = f"{done / 2**20:,.0f} of {total / 2**20:,.0f} MiB"
            bar.update(task, completed=done, total=total, note=note)

        def write(path: Path) -> int:
            found = work(path, Progress(show))
            if isinstance(found, int):
                return found
            accounts.append(found)
            return found.n_events

        told = write_log(out, write, raw)
    typer.echo(told)
    for account in accounts:
        typer.echo(account.told())


def _of_a_log(
    features: list[dict[str, Any]], windows: dict[str, int], history_kinds: list[str]
) -> dict[str, Any]:
    """Settings of a log of days with many events a minute, in order."""
    from instep.datasets import MINUTE_MS

    return {
        "features": features,
        "stream": {"lateness_ms": 0, "history_kinds": history_kinds, "windows": windows},
        "trainer": {"batch_samples": 32, "batch_span_ms": 10 * MINUTE_MS, "publish_ms": MINUTE_MS},
    }


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
