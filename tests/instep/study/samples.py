"""A small log joined for a study, and plain loops to hold it against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from instep.settings import Settings
from instep.study import joining
from instep.study.engine import Job
from instep.study.plans import Run
from instep.study.spool import Spool, load
from stream.events import Event, Sample, encode_event
from stream.files import FileSource, write_events
from stream.join import Joiner
from stream.log import Record
from tests.worlds import product
from trainer.batcher import Batcher

N_SLATES = 240


def silent(done: int, total: int) -> None:
    """Tells nobody."""


def clock() -> float:
    """One that stands still."""
    return 0.0


def a_log(folder: Path, events: tuple[Event, ...] = ()) -> Path:
    path = folder / "events.jsonl"
    write_events(path, events or product(N_SLATES))
    return path


def spooled(log: Path, settings: Settings, folder: Path, max_history: int | None = None) -> Spool:
    what = joining.made_of(log, settings, max_history or settings.stream.max_history)
    joining.write(log, settings, what, folder, silent)
    return load(folder)


def job(run: Run, settings: Settings, spool: Spool, folder: Path, n_batches: int | None = None) -> Job:
    changed = settings.with_model(**run.changes)
    return Job(run, changed, spool.path, n_batches or len(spool), folder, {"of": run.name})


def batches(log: Path, settings: Settings) -> Iterator[list[Sample]]:
    """Joined and cut by hand: everything joined first, then everything cut."""
    partitions = range(settings.stream.partitions)
    joiners = {p: Joiner(settings.join_rules(), settings.fields, p) for p in partitions}
    batcher = Batcher(partitions, settings.trainer.batch_samples, settings.trainer.batch_span_ms)
    n_out = dict.fromkeys(partitions, 0)
    for record in FileSource(log, len(partitions)).poll(1 << 30):
        for out in joiners[record.partition].apply(record):
            batcher.add(record.partition, n_out[record.partition], out)  # type: ignore[arg-type]
            n_out[record.partition] += 1
    while (taken := batcher.take(end=True)) is not None:
        yield taken[0]


def as_record(offset: int, event: Event, user: str = "") -> Record:
    return Record(0, offset, user.encode(), encode_event(event))
