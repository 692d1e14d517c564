"""One model learns a spool, and what it predicted is kept: in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from instep import truth as truth_file
from instep.probe import overlap, ties
from instep.settings import Settings
from instep.study.learning import Learning, most_recent
from instep.study.plans import Run
from instep.study.spool import load
from trainer.checkpoint import weights_sha256

N_PROBES = 50
"""Batches of the last half whose searches are looked at."""

Tell = Callable[[int, int], None]
"""How far something has come: of how much."""


@dataclass(frozen=True)
class Job:
    """One run on one log with one seed."""

    run: Run
    settings: Settings
    """Of the run and the seed."""
    spool: Path
    n_batches: int
    """Of the spool, from its beginning: all that is learned."""
    folder: Path
    """Where its predictions go."""
    fingerprint: dict[str, str]
    """Of all that decides them, by name."""
    truth: Path | None = None


class Finished(Struct):
    """What ``run.json`` holds; it is written last, so a run that has one is whole."""

    fingerprint: dict[str, str]
    weights_sha256: str
    n_bad: int
    seconds: float


@dataclass(frozen=True)
class Traces:
    """What is kept of a run besides its predictions."""

    flips: NDArray[np.int64]
    """``[batches]``: code bits that each step changed."""
    probed: NDArray[np.int64]
    """``[m]``: the batches that were probed."""
    probes: NDArray[np.float64]
    """``[m, 4]``: ``with_exact, recall, by_chance, ties`` of each; nan where it is undefined."""


def learn(job: Job, now_s: Callable[[], float], tell: Tell) -> None:
    """Let a model learn what is to be learned, and write ``p.bin``, ``traces.npz`` and, last, ``run.json``.

    Parameters
    ----------
    now_s
        Tells how long it takes.
    tell
        Called after each batch with the candidates predicted, and all of them.
    """
    began = now_s()
    spool = load(job.spool)
    topics = truth_file.load(job.truth).topics_of if job.truth is not None else None
    learning = Learning(job.run, job.settings, job.n_batches)
    flips = np.zeros(job.n_batches, np.int64)
    probes = dict.fromkeys(probed(job.n_batches) if job.run.sync_every is None else [], (np.nan,) * 4)
    done, total = 0, int(spool.n_candidates[: job.n_batches].sum())
    job.folder.mkdir(parents=True, exist_ok=True)
    with _whole(job.folder / "p.bin") as file:
        for i, joined in enumerate(spool.read(0, job.n_batches)):
            p, flips[i] = learning.step(joined.batch, int(spool.closed_ms[i]))
            file.write(p.tobytes())
            if i in probes:
                batch = joined.batch if job.run.length is None else most_recent(joined.batch, job.run.length)
                found = overlap(learning.learner, batch, topics)
                undecided = ties(learning.learner, batch)
                probes[i] = (found.with_exact, found.topic_recall, found.by_chance, undecided)
            done += len(p)
            tell(done, total)
    probed_at = np.array(list(probes), np.int64)
    values = np.array(list(probes.values()), np.float64).reshape(-1, 4)
    with _whole(job.folder / "traces.npz") as file:
        np.savez(file, allow_pickle=False, flips=flips, probed=probed_at, probes=values)
    weights = weights_sha256(learning.learner.state())
    write_finished(job.folder, Finished(job.fingerprint, weights, learning.learner.n_bad, now_s() - began))


def probed(n_batches: int) -> range:
    """Which batches are probed: some of the last half, evenly spaced."""
    half = n_batches // 2
    return range(half, n_batches, max(1, (n_batches - half) // N_PROBES))


def finished(folder: Path) -> Finished | None:
    """What a run left, None if it did not come to its end."""
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=Finished)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_finished(folder: Path, what: Finished) -> None:
    """Say that a run is whole."""
    with _whole(folder / "run.json") as file:
        file.write(msgspec.json.encode(what))


def predictions(folder: Path, n_kinds: int) -> NDArray[np.float32]:
    """What a run predicted, ``[n, K]``, mapped from the disk."""
    p: NDArray[Any] = np.memmap(folder / "p.bin", np.float32, "r")
    return p.reshape(-1, n_kinds)


def traces(folder: Path) -> Traces:
    """What else it left."""
    with (folder / "traces.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return Traces(file["flips"], file["probed"], file["probes"])


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that appears when it is whole; its name until then is this process's own."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
