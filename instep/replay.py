"""A log through the whole loop as fast as it can: what a model would have scored, had it run live."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instep.pipeline import Pipeline
from instep.scorebook import Records, Scorebook, of_kind
from instep.settings import Settings, SettingsError
from instep.watching import watching
from stream.files import FileSource
from trainer.checkpoint import CheckpointError, names, weights_sha256
from trainer.intervals import standard_errors
from trainer.loop import Step
from trainer.scores import metrics

N_WINDOWS = 20


@dataclass(frozen=True)
class Refresh:
    """How codes are held back, to see what it costs: ``every`` so many steps, or ``frozen`` after a part of the log."""

    every: int = 1
    frozen: float | None = None

    def __str__(self) -> str:
        return f"every:{self.every}" if self.frozen is None else f"frozen:{self.frozen:g}"

    def check(self, notes: dict[str, Any]) -> None:
        """Raise a `CheckpointError` if a run that is gone on with held them back in another way."""
        if (then := notes.get("refresh", str(self))) != str(self):
            raise CheckpointError(f"--refresh: expected {then}, as the checkpoint was made with, got {self}")

    @classmethod
    def parse(cls, text: str) -> Refresh:
        """Read ``every:N`` or ``frozen:FRACTION``.

        >>> Refresh.parse("every:100"), Refresh.parse("frozen:0.5")
        (Refresh(every=100, frozen=None), Refresh(every=1, frozen=0.5))
        """
        if (m := re.fullmatch(r"every:([1-9]\d{0,8})", text)) is not None:
            return cls(every=int(m[1]))
        if (m := re.fullmatch(r"frozen:(0(?:\.\d+)?|1(?:\.0+)?)", text)) is not None:
            return cls(frozen=float(m[1]))
        raise SettingsError(f"--refresh: expected every:N or frozen:FRACTION (0 to 1), got {text!r}")


@dataclass(frozen=True)
class Progress:
    """How far a replay has come."""

    bytes_done: int
    bytes_total: int
    n_candidates: int
    at_ms: int
    recent: dict[str, float]
    """Metrics of the last candidates."""


def replay(
    log: Path,
    settings: Settings,
    out: Path,
    *,
    checkpoint: Path | None = None,
    refresh: Refresh | None = None,
    poll: int = 512,
    watch: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run the loop over a log and write ``out/metrics.json``.

    Parameters
    ----------
    log
        Events: a file or folder as ``stream.files`` reads them.
    checkpoint
        Folder; if it holds a checkpoint of an earlier run of the same log, this goes on from there.
    poll
        Records read at a time; the result does not depend on it.
    watch
        Whether a monitor sees it too: what it saw goes to ``out`` as well, see `monitor.folder`. A run that is gone on
        with was watched from its beginning, or is from here on.

    Returns
    -------
    What was written, see ``summary``.
    """
    refresh = refresh or Refresh()
    out.mkdir(parents=True, exist_ok=True)
    source = FileSource(log, settings.stream.partitions)
    end = source.end() if refresh.frozen is not None else {}

    def stepped(step: Step) -> None:
        book.add(step)
        if refresh.frozen is not None and not pipeline.learner.frozen:
            origin = step.samples[-1].origin
            pipeline.learner.frozen = origin.offset >= refresh.frozen * end[origin.partition]

    def saves() -> dict[str, Any]:
        book.flush()
        if watched is not None:
            watched.keep()
        return {"refresh": str(refresh), "scores_crc": book.crc}

    goes_on = checkpoint is not None and bool(names(checkpoint))
    with watching(settings, out, goes_on=goes_on) if watch else nullcontext() as watched:
        monitor = None if watched is None else watched.monitor
        every = refresh.every
        pipeline = Pipeline(settings, source, checkpoint, stepped, refresh_every=every, watch=monitor)
        refresh.check(pipeline.notes)
        crc = pipeline.notes.get("scores_crc")
        book = Scorebook(out / "scores.bin", pipeline.n_candidates, len(settings.kinds), crc)
        pipeline.on_save = saves
        pipeline.learner.frozen = pipeline.learner.frozen or refresh.frozen == 0
        while pipeline.pump(poll):
            if monitor is not None:
                monitor.turn()
            if on_progress is not None:
                tail = book.tail(20_000)
                recent = metrics(tail["p"], tail["label"], tail["user"]) if len(tail) else {}
                done, total = source.bytes_done, source.bytes_total
                on_progress(Progress(done, total, pipeline.n_candidates, pipeline.loop.at_ms, recent))
        pipeline.finish()
        if watched is not None:
            watched.keep()
            watched.folder.draw()
    found = summary(pipeline, book.records()) | {"refresh": str(refresh)}
    (out / "metrics.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def summary(pipeline: Pipeline, records: Records) -> dict[str, Any]:
    """Progressive metrics of each kind of action, those of the first kind beside them, and what became of all records.

    Metrics are in total and in windows of equally many candidates, with errors by user.
    """
    settings = pipeline.settings
    kinds = {kind: _of_kind(records, k) for k, kind in enumerate(settings.kinds)}
    first = dict(kinds[settings.kinds[0]])
    windows = first.pop("windows")
    found: dict[str, Any] = _finite(
        {
            "model": settings.model.unit,
            "seed": settings.model.seed,
            **first,
            "version": str(pipeline.loop.version),
            "weights_sha256": weights_sha256(pipeline.learner.state()),
            "samples": pipeline.loop.n_samples,
            "counts": dict(pipeline.counts()),
            "bad_batches": pipeline.learner.n_bad,
            "threads": settings.trainer.threads,
            "windows": windows,
            "kinds": kinds,
        }
    )
    return found


def _of_kind(records: Records, kind: int) -> dict[str, Any]:
    """Metrics, errors and windows of one kind of action."""
    columns = (*of_kind(records, kind), records["user"])
    windows = []
    for part in np.array_split(np.arange(len(records)), min(N_WINDOWS, max(1, len(records) // 500))):
        chosen = tuple(c[part] for c in columns)
        at_ms = int(records["at_ms"][part[-1]]) if len(part) else 0
        windows.append({"until_ms": at_ms, **metrics(*chosen), "errors": standard_errors(*chosen)})
    return {**metrics(*columns), "errors": standard_errors(*columns), "windows": windows}


def _finite(value: Any) -> Any:
    """The same with null for what is undefined: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
