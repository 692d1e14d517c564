"""A log into a spool: read, joined and cut into batches as ``instep.pipeline`` and ``trainer.loop`` would."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from instep.settings import Settings
from instep.study.spool import Manifest, SpoolError, candidate_type, candidates_of, encode
from stream.dead import Dead, Recent, TooManyDeadError, check_dead
from stream.events import Sample, key_of
from stream.files import FileSource
from stream.join import Joiner
from trainer.batch import make_batch
from trainer.batcher import Batcher

FORMAT = 1
Tell = Callable[[int, int], None]
"""How far something has come: of how much."""


def made_of(log: Path, settings: Settings, max_history: int) -> dict[str, Any]:
    """Everything that decides a spool, by name; the log by its bytes."""
    stream, trainer = msgspec.to_builtins(settings.stream), settings.trainer
    return {
        "format": FORMAT,
        "log": _digest(log, settings.stream.partitions),
        "features": msgspec.to_builtins(settings.features),
        "stream": {**stream, "max_history": max_history},
        "batches": [trainer.batch_samples, trainer.batch_span_ms],
        "n_item_fields": len(settings.fields.item),
        "n_side": len(settings.fields.side),
        "kinds": list(settings.stream.windows),  # their order is that of the labels
        "n_kinds": len(settings.stream.windows),
    }


def fingerprint(values: Any) -> str:
    """One hash of plain values: equal where and only where they are, whatever the order of their names."""
    return sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


def write(log: Path, settings: Settings, what: dict[str, Any], path: Path, tell: Tell) -> None:
    """Join a log into the folder ``path``, which appears when it is whole; nothing is done if it is there.

    Parameters
    ----------
    what
        From ``made_of``.
    tell
        Called now and then with bytes of the log that were read, and all of them.

    Raises
    ------
    LogError, TooManyDeadError
        As for a replay.
    SpoolError
        If no sample came of it.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.mkdir()
    try:
        _fill(log, settings, what, aside, tell)
        try:
            aside.rename(path)
        except OSError:
            if not path.exists():  # else another study was quicker, and wrote the same
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(log: Path, settings: Settings, what: dict[str, Any], path: Path, tell: Tell) -> None:
    rows: list[tuple[int, int, int, int, int]] = []
    kind = candidate_type(what["n_kinds"])
    batches = _Batches(log, settings, what["stream"]["max_history"], tell)
    with (path / "batches.bin").open("wb") as frames, (path / "candidates.bin").open("wb") as candidates:
        for samples in batches:
            batch = make_batch(samples, what["n_item_fields"], what["n_kinds"])
            shown = np.array([key_of("impression", s.impression) for s in samples], np.uint64)
            raw = encode(batch, shown)
            frames.write(pa.compress(raw, codec="zstd", asbytes=True))
            candidates.write(candidates_of(batch, shown, kind).tobytes())
            rows.append(
                (frames.tell(), len(raw), batch.n_candidates, samples[-1].closed_ms, int(batch.at_ms[-1]))
            )
    if not rows:
        raise SpoolError(f"{log}: expected impressions, got none that could be joined")
    names = ("ends", "sizes", "n_candidates", "closed_ms", "at_ms")
    columns = dict(zip(names, np.array(rows, np.int64).T, strict=True))
    with (path / "index.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)
    (path / "spool.json").write_bytes(msgspec.json.encode(Manifest(what, batches.counts())))


class _Batches:
    """Joins a log and cuts it into batches, as ``instep.pipeline`` and ``trainer.loop`` do."""

    def __init__(self, log: Path, settings: Settings, max_history: int, tell: Tell) -> None:
        self._log, self._settings, self._tell = log, settings, tell
        self._source = FileSource(log, settings.stream.partitions)
        rules = msgspec.structs.replace(settings.stream, max_history=max_history)
        join = msgspec.structs.replace(settings, stream=rules).join_rules()
        partitions = range(settings.stream.partitions)
        self._joiners = {p: Joiner(join, settings.fields, p) for p in partitions}
        trainer = settings.trainer
        self._batcher = Batcher(partitions, trainer.batch_samples, trainer.batch_span_ms)
        self._n_out = dict.fromkeys(partitions, 0)
        self._recent = Recent()

    def counts(self) -> dict[str, int]:
        return dict(sum((Counter(j.counts) for j in self._joiners.values()), Counter()))

    def __iter__(self) -> Iterator[list[Sample]]:
        while records := self._source.poll(512):
            for record in records:
                for out in self._joiners[record.partition].apply(record):
                    if isinstance(out, Dead):
                        self._bury(out)
                        continue
                    self._batcher.add(record.partition, self._n_out[record.partition], out)
                    self._n_out[record.partition] += 1
            while (taken := self._batcher.take()) is not None:
                yield taken[0]
            self._tell(self._source.bytes_done, self._source.bytes_total)
        while (taken := self._batcher.take(end=True)) is not None:
            yield taken[0]
        self._judge()

    def _bury(self, dead: Dead) -> None:
        self._recent.add(sum(joiner.n_in for joiner in self._joiners.values()))
        check_dead(dead, self._recent, self._settings.stream.max_dead)

    def _judge(self) -> None:
        """Of a short log too few are dead to stop on the way; here the whole of it is known."""
        n_in, most = sum(joiner.n_in for joiner in self._joiners.values()), self._settings.stream.max_dead
        if self._recent.n_all > most * n_in:
            raise TooManyDeadError(
                f"{self._log}: expected at most {most:.0%} unusable records, got {self._recent.n_all} of {n_in}"
            )


def _digest(log: Path, partitions: int) -> str:
    """Of the bytes of all files, in the order of their names."""
    digest = sha256()
    for file in FileSource(log, partitions).files:
        digest.update(b"%d " % file.stat().st_size)
        with file.open("rb") as raw:
            while more := raw.read(1 << 20):
                digest.update(more)
    return digest.hexdigest()
