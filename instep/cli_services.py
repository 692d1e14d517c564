"""The commands of an installation on Kafka and Redis: topics, workers, events in, a way back."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from instep.console import SETTINGS_NAME, progress_bar, settings_of

topics = typer.Typer(help="The topics on Kafka.", no_args_is_help=True)
installation = typer.Typer()

SettingsFile = Annotated[
    Path | None, typer.Option(help=f"The {SETTINGS_NAME} of this folder, if there is one and none is given.")
]


@topics.command()
def create(
    settings: SettingsFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False,
) -> None:
    """Make the topics that are missing, and say in what those that are there differ from the settings."""
    from stream.log import LogError
    from stream.topics import DECISIVE, create

    chosen = settings_of(settings, Path())
    cluster = chosen.cluster()
    wrong = []
    found = create(cluster, chosen.topics(), chosen.kafka.replication, dry_run=dry_run)
    for name, differs in found.items():
        made = "would be made" if dry_run else "made"
        told = made if differs is None else "; ".join(map(str, differs)) or "as it should be"
        typer.echo(f"{cluster.topic(name)}: {told}")
        wrong += [f"{cluster.topic(name)}: {d}" for d in differs or () if d.what in DECISIVE]
    if wrong:
        raise LogError("kafka.prefix", "expected topics that can be used, got " + ", ".join(wrong))


@installation.command()
def run(
    worker: Annotated[
        str, typer.Argument(help="joiner, profiles, trainer, indexer, monitor or ranker; or all of them.")
    ],
    settings: SettingsFile = None,
    once: Annotated[bool, typer.Option("--once", help="Do what there is to do and leave.")] = False,
) -> None:
    """Run a worker, or all of them under one process, on the Kafka and Redis of the settings."""
    from instep import run as running
    from instep.settings import SettingsError
    from stream.logs import configure

    chosen = settings_of(settings, Path())
    running.check_served(chosen)
    configure(chosen.service.log == "json")
    if worker == "all":
        from instep.supervisor import Supervisor, run_once

        given = ["--settings", str(settings)] if settings else []
        flags = [*given, *(["--once"] if once else [])]
        workers = running.WORKERS if once else running.SERVICES
        commands: dict[str, list[str]] = {
            name: [sys.executable, "-m", "instep.cli", "run", name, *flags] for name in workers
        }
        raise SystemExit(run_once(commands) if once else Supervisor(commands).run())
    if worker not in running.SERVICES:
        raise SettingsError(f"run: expected one of {', '.join(running.SERVICES)}, all, got {worker!r}")
    if once and worker not in running.WORKERS:
        raise SettingsError(
            f"run: expected --once for one of {', '.join(running.WORKERS)}, got it for {worker}"
        )
    running.run(chosen, worker, once=once)


@installation.command()
def send(
    log: Annotated[Path, typer.Argument(help="Events: .jsonl[.gz|.zst], .parquet, or a folder of them.")],
    settings: SettingsFile = None,
) -> None:
    """Write an event log to the topic of events, as a product would."""
    from instep.orders import send
    from stream.files import FileSource

    chosen = settings_of(settings, log)
    source = FileSource(log, chosen.stream.partitions)
    with progress_bar(Console(stderr=True)) as bar:
        task = bar.add_task("send", total=source.bytes_total, note="")

        def show(n: int) -> None:
            bar.update(task, completed=source.bytes_done, note=f"{n:,} records")

        n = send(chosen, source, show)
    typer.echo(f"{n:,} records sent")


@installation.command()
def feed(
    url: Annotated[str, typer.Option(help="Of the ranker.")] = "http://127.0.0.1:8460",
    token: Annotated[
        str | None, typer.Option(envvar="INSTEP_TOKEN", help="One of the ranker's, if it asks for one.")
    ] = None,
    slates_per_s: Annotated[float, typer.Option(min=0.001, max=1_000)] = 5.0,
    slates: Annotated[int | None, typer.Option(min=1, help="How many, instead of until told to end.")] = None,
    users: Annotated[int, typer.Option(min=1)] = 200,
    items: Annotated[int, typer.Option(min=40)] = 400,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Be a simulated product: rank slates over HTTP as time goes, and click as its users would."""
    from threading import Event
    from uuid import uuid4

    from instep.feed import Feed, product
    from ranker.client import RankerClient
    from stream.logs import configure
    from stream.service import now_ms, told_to_finish

    configure(False)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
    stop, world = Event(), product(seed, users, items, slates_per_s)
    with told_to_finish(stop), RankerClient(url, token or None, timeout_s=10) as ranker:
        feeding = Feed(ranker, world, name=uuid4().hex, now_ms=now_ms, wait=stop.wait)
        feeding.run(slates or sys.maxsize)
    fed = feeding.fed
    told = f"{fed.ranked:,} slates ranked, {fed.sent:,} sent, {fed.clicks:,} clicks, {fed.missed:,} missed"
    typer.echo(told)


@installation.command()
def hold(settings: SettingsFile = None) -> None:
    """Let the trainer predict and not learn, from the samples on that come after now, until it is released."""
    _order("hold", settings)


@installation.command()
def release(
    settings: SettingsFile = None,
    learn: Annotated[bool, typer.Option("--learn", help="Learn what was held, before going on.")] = False,
    offsets: Annotated[
        list[str] | None,
        typer.Option(
            help="Of instep.samples, PARTITION:FROM-TO: learn the batches that lie within these alone."
        ),
    ] = None,
) -> None:
    """Let the trainer learn again, whoever held it; what was held is given up, or learned first.

    What the canary refuses goes live.
    """
    _order(" ".join(["learn", *(offsets or [])]) if learn or offsets else "release", settings)


def _order(order: str, settings: Path | None) -> None:
    from instep.orders import give_order
    from stream.service import now_ms

    give_order(settings_of(settings, Path()), order, now_ms())
    typer.echo(f"{order!r} is in the log of events; instep_holding of the trainer tells when it is obeyed")


@installation.command()
def rollback(
    checkpoint: Annotated[str, typer.Argument(help="Name of a checkpoint, as 0.00001500.")],
    settings: SettingsFile = None,
) -> None:
    """Go back to a checkpoint, in a new epoch that index and rankers follow; the trainer must not be running."""
    from instep.orders import rollback

    version = rollback(settings_of(settings, Path()), checkpoint)
    typer.echo(f"the trainer will begin at {version}")
