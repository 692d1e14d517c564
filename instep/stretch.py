"""The stretch of a log that an alert is about, run again: what the model scored there, as it did then.

The same log gives the same weights, so it is read from its beginning, or from a checkpoint before the stretch, until
the last sample of the stretch is learned; figures and scores are those of the samples that its records completed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from instep.pipeline import Pipeline
from instep.replay import Progress, Refresh, summary
from instep.scorebook import Scorebook
from instep.settings import Settings
from monitor.alert import Alert, encode_alert
from stream.events import Sample
from stream.files import FileSource, write_events
from stream.log import Offsets, Record
from trainer.loop import Step
from trainer.scores import metrics

Stretch = Mapping[int, tuple[int, int]]
"""``[from, to)`` by partition of ``instep.events``."""


class StretchError(ValueError):
    """A stretch that cannot be run again: where, what was expected, what came."""


class Tap:
    """A `Source` that keeps the records of a stretch as they pass."""

    def __init__(self, source: FileSource, stretch: Stretch) -> None:
        for p, (start, end) in stretch.items():
            if not (0 <= p < source.partitions and 0 <= start <= end):
                raise StretchError(
                    f"{source.path}: expected a stretch of partitions 0..{source.partitions - 1}, "
                    f"got {start}..{end} of partition {p}"
                )
        if not any(start < end for start, end in stretch.values()):
            raise StretchError(f"{source.path}: expected a stretch with records in it, got none")
        self._source = source
        self._stretch = stretch
        self._last: tuple[bytes, int] = b"", -1
        self.inside: list[bytes] = []
        """In the order of the log. A Tick is in every partition; here it is once."""

    @property
    def offsets(self) -> Offsets:
        return self._source.offsets

    @property
    def is_past(self) -> bool:
        """Whether the whole stretch has been read."""
        at = self.offsets
        return all(at[p] >= end for p, (_, end) in self._stretch.items())

    def poll(self, max_records: int) -> list[Record]:
        records = self._source.poll(max_records)
        for r in records:
            start, end = self._stretch.get(r.partition, (0, 0))
            if start <= r.offset < end:
                is_again = not r.key and r.value == self._last[0] and r.partition > self._last[1]
                self._last = r.value, r.partition
                if not is_again:
                    self.inside.append(r.value)
        return records

    def seek(self, offsets: Offsets) -> None:
        self._source.seek(offsets)

    def end(self) -> Offsets:
        return self._source.end()

    def close(self) -> None:
        self._source.close()


def replay_stretch(
    log: Path,
    settings: Settings,
    alert: Alert,
    out: Path,
    *,
    checkpoint: Path | None = None,
    refresh: Refresh | None = None,
    poll: int = 512,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run the loop until an alert's windows are learned; their figures go to ``out``.

    ``metrics.json`` and ``scores.bin`` hold what was predicted in them, ``events.jsonl`` their records, ``alert.json``
    the alert.

    Parameters
    ----------
    checkpoint
        Folder of an earlier run of the same log, to begin with; it is not written to.

    Raises
    ------
    StretchError
        If the log or the checkpoint is not one from which the stretch can be run.
    LogError, CheckpointError
        If these cannot be read.
    """
    refresh = refresh or Refresh()
    if refresh.frozen is not None:
        raise StretchError("--from-alert: expected --refresh every:N, got a fraction of the whole log")
    out.mkdir(parents=True, exist_ok=True)
    files = FileSource(log, settings.stream.partitions)
    source = Tap(files, alert.offsets)

    def stepped(step: Step) -> None:
        book.add(step, np.array([_is_in(sample, alert.offsets) for sample in step.samples], np.bool_))

    pipeline = Pipeline(settings, source, checkpoint, stepped, refresh_every=refresh.every, saves=False)
    refresh.check(pipeline.notes)
    for p, (start, end) in alert.offsets.items():
        if (at := files.offsets[p]) > start < end:
            raise StretchError(
                f"{checkpoint}: expected a checkpoint at or before record {start} of partition {p}, got one at {at}"
            )
    book = Scorebook(out / "scores.bin", n_kinds=len(settings.kinds))
    goal: dict[int, int] = {}
    while not _is_learned(pipeline, source, goal):
        if not pipeline.pump(poll):
            _check_end(files, alert.offsets)
            pipeline.finish()
            break
        if on_progress is not None:
            tail = book.tail(20_000)
            recent = metrics(tail["p"], tail["label"], tail["user"]) if len(tail) else {}
            n = pipeline.n_candidates
            on_progress(Progress(files.bytes_done, files.bytes_total, n, pipeline.loop.at_ms, recent))
    write_events(out / "events.jsonl", source.inside)
    (out / "alert.json").write_bytes(msgspec.json.format(encode_alert(alert)) + b"\n")
    found = {**summary(pipeline, book.records()), "alert": alert.id}
    (out / "metrics.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def _is_learned(pipeline: Pipeline, source: Tap, goal: dict[int, int]) -> bool:
    """Whether all samples of the stretch have been learned: some wait until later records fill their batch."""
    if not goal and source.is_past:
        goal.update(pipeline.samples.source().end())
    return bool(goal) and all(pipeline.loop.offsets[p] >= end for p, end in goal.items())


def _check_end(files: FileSource, stretch: Stretch) -> None:
    """The log has ended: it must have held the stretch."""
    for p, (_, end) in stretch.items():
        if (at := files.offsets[p]) < end:
            raise StretchError(
                f"{files.path}: expected a log of at least {end} records of partition {p}, "
                f"as the alert has seen, got {at}"
            )


def _is_in(sample: Sample, stretch: Stretch) -> bool:
    start, end = stretch.get(sample.origin.partition, (0, 0))
    return start <= sample.origin.offset < end
