"""The whole loop in one process: events joined, learned, published, indexed, over the same protocols as the services.

Each part has its log between it and the next, as on Kafka; only that these logs are in memory and forget what was read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field

from indexer.index import MemoryIndex
from indexer.refresh import refresh
from instep.settings import Settings
from monitor.monitor import Monitor
from monitor.watch import Watch
from stream.dead import Dead, Recent, check_dead
from stream.dead import TooManyDeadError as TooManyDeadError
from stream.events import Version, decode_sample, encode_sample
from stream.join import Joiner
from stream.log import MemoryLog, Offsets, Record, Source
from trainer import checkpoint
from trainer.learner import Learner
from trainer.loop import Loop, Standing, Step, crossed, difference
from trainer.publication import Assembler, Said, refused
from trainer.scored import scored

log = logging.getLogger(__name__)


class _Saved(Struct):
    """What a checkpoint holds besides the model: where everything stands in its input."""

    version: Version
    samples: dict[int, int]
    """Next samples to learn."""
    kept: dict[int, int]
    """The first of those that wait, or are held."""
    waiting: list[tuple[int, int, bytes]]
    """Samples joined and not learned: partition, offset, value."""
    standing: Standing
    n_candidates: int
    said: Said = Said(None, None)
    watched: bytes | None = None
    """State of the watch. A batch is learned when every partition has passed it, so nothing waits to be seen; but of a
    log that ends earlier in some partitions, and then one that goes on with it watches anew."""
    n_scored: dict[int, int] = {}
    recent: Recent = field(default_factory=Recent)


class Pipeline:
    """Joiner, trainer and indexer of one event log.

    Parameters
    ----------
    source
        The events, with ``settings.stream.partitions`` partitions; it is moved to where the joiners are.
    path
        Folder for checkpoints; if there is a whole one, it is gone on from. None keeps none.
    on_step
        Called with each batch that was learned.
    watch
        Is told of all that would be on the topics, for whoever asks it for its rows.
    saves
        Whether checkpoints are written too; without, the folder is only gone on from.

    Raises
    ------
    CheckpointError
        If checkpoints are there but none is whole, or they are of other settings.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        path: Path | None = None,
        on_step: Callable[[Step], None] | None = None,
        refresh_every: int = 1,
        watch: Watch | Monitor | None = None,
        saves: bool = True,
    ) -> None:
        self.settings = settings
        self.source = source
        self.index = MemoryIndex()
        self.model = MemoryLog(1)
        self.dead: Counter[str] = Counter()
        self.last_dead: Dead | None = None
        self.n_candidates = 0
        self._path = path if saves else None
        self._on_step = on_step
        self.on_save: Callable[[], dict[str, Any]] | None = None
        """Called before a checkpoint is written, to save what must not be behind it; what it returns goes along."""
        self.notes: dict[str, Any] = {}
        """What ``on_save`` gave to the checkpoint that is gone on from."""
        self._config = replace(settings.learner_config(), refresh_every=refresh_every)
        self._watch = watch
        self._published = self.model.source()
        self._assembler = Assembler()
        found = checkpoint.load(path) if path is not None and checkpoint.names(path) else None
        self.resumed_at: Version | None = None
        if found is None:
            partitions = range(settings.stream.partitions)
            self.learner = Learner(self._config, settings.trainer.capacity)
            self.joiners = {p: Joiner(settings.join_rules(), settings.fields, p) for p in partitions}
            self.samples = MemoryLog(len(partitions))
            saved = _Saved(Version(0, 0), dict.fromkeys(partitions, 0), {}, [], Standing(), 0)
        else:
            saved = self._resume(found)
            self.notes = found.manifest.get("notes", {})
            self.resumed_at = saved.version
        self.n_candidates = saved.n_candidates
        self._recent = saved.recent
        self.loop = Loop(
            self.learner,
            self.samples.source(),
            self.model.sink(),
            saved.samples,
            settings.loop_rules(),
            epoch=saved.version.epoch,
            standing=saved.standing,
            gate=settings.breaker_gate(),
            canary=settings.canary(),
            said=saved.said,
            read_back=lambda p, start, end: self.samples.read(p, start, end - start),
            on_step=self._stepped,
        )
        self._saved_ms = saved.standing.at_ms
        self._sink = self.samples.sink()
        self._shown = dict(saved.samples)
        self._n_scored = dict.fromkeys(self.joiners, 0)
        if watch is not None and saved.watched is not None:
            watch.load(saved.watched)
            self._shown, self._n_scored = dict(watch.offsets["samples"]), saved.n_scored
        source.seek({p: joiner.next_offset for p, joiner in self.joiners.items()})

    def pump(self, max_records: int = 512) -> int:
        """Read some events and let them have all their effects; returns how many there were.

        Raises
        ------
        TooManyDeadError
            When a share of records above ``stream.max_dead`` cannot be used.
        """
        records = self.source.poll(max_records)
        for record in records:
            self._join(record)
        self._sink.commit()
        while self.loop.poll():
            pass
        self._show(self.samples.end())
        self.samples.trim(self.loop.needed)
        self.publish()
        if self._path is not None and crossed(
            self._saved_ms, self.loop.at_ms, self.settings.trainer.checkpoint_ms
        ):
            self.save()
        return len(records)

    def finish(self) -> None:
        """The log has ended: learn the batch that waits, publish, and save."""
        while self.loop.poll(end=True):
            pass
        self._show(self.samples.end())
        self.samples.trim(self.loop.needed)
        if self.loop.n_samples and not self.loop.standing.why_refused:
            self.loop.publish()
        self.publish()
        if self._path is not None:
            self.save()

    def publish(self) -> None:
        """Bring the index up to what the trainer has published."""
        for record in self._published.poll(1 << 30):
            if self._watch is not None and (told := refused(record.key, record.value)) is not None:
                self._watch.refused(told, record.offset + 1)
            publication = self._assembler.add(record.key, record.value)
            if publication is not None:
                self.index.apply(refresh(publication, self.learner.table.planes))
                if self._watch is not None:
                    self._watch.published(publication, record.offset + 1)
                    if self.index.version == publication.version:  # which a stalled index does not have
                        self._watch.indexed(publication.version, publication.at_ms)
        self.model.trim(self._published.offsets)

    def counts(self) -> Counter[str]:
        """What became of every record, over all partitions."""
        return sum((Counter(j.counts) for j in self.joiners.values()), Counter())

    def save(self) -> None:
        """Write a checkpoint, but of nothing that was refused: the index is filled with what it holds."""
        assert self._path is not None
        if self.loop.standing.why_refused:
            return
        notes = {} if self.on_save is None else self.on_save()
        self._saved_ms = self.loop.at_ms
        waiting: list[Record] = []
        kept = self.loop.needed
        for p, start in kept.items():
            waiting += self.samples.read(p, start, 1 << 30)
        saved = _Saved(
            version=self.loop.version,
            samples=self.loop.offsets,
            kept=kept,
            waiting=[(r.partition, r.offset, r.value) for r in waiting],
            standing=self.loop.saved(),
            n_candidates=self.n_candidates,
            said=self.loop.said,
            watched=self._watch.state() if self._watch is not None and not self._watch.ahead else None,
            n_scored=self._n_scored,
            recent=self._recent,
        )
        joiners = {p: joiner.snapshot() for p, joiner in self.joiners.items()}
        blobs = {"place": msgspec.msgpack.encode(saved), "joiners": msgspec.msgpack.encode(joiners)}
        manifest = {
            "version": self.loop.version,
            "settings": self.settings.public(),
            "journal": self.loop.standing.journal,
            "notes": notes,
        }
        keep = self.settings.trainer.keep
        checkpoint.save(self._path, self.learner.state(), manifest, blobs, keep=keep)

    def _resume(self, found: checkpoint.Checkpoint) -> _Saved:
        then = msgspec.convert(found.manifest["settings"], Settings)
        for part in ("features", "stream", "model"):
            # as bytes, in which the order of windows counts too: it is that of the labels
            if msgspec.json.encode(getattr(then, part)) != msgspec.json.encode(getattr(self.settings, part)):
                raise checkpoint.CheckpointError(
                    f"checkpoint {found.name}: expected the same [{part}] settings as it was made with, got others"
                )
        saved = msgspec.msgpack.decode(found.blobs["place"], type=_Saved)
        self.learner = Learner.restore(self._config, found.tensors, self.settings.trainer.capacity)
        snapshots = msgspec.msgpack.decode(found.blobs["joiners"], type=dict[int, dict[bytes, bytes]])
        rules, fields = self.settings.join_rules(), self.settings.fields
        self.joiners = {p: Joiner.restore(rules, fields, p, s) for p, s in snapshots.items()}
        counts = self.counts()
        self.dead.update({k.removeprefix("dead."): n for k, n in counts.items() if k.startswith("dead.")})
        self.samples = MemoryLog(len(self.joiners), start=saved.kept)
        for p, _, value in saved.waiting:
            self.samples.append(p, b"", value)
        whole = difference(self.learner, saved.version, None, saved.standing.learned_ms, saved.samples, [])
        self.index.apply(refresh(whole, self.learner.table.planes))
        log.info("resumed checkpoint=%s n_waiting=%d", found.name, len(saved.waiting))
        return saved

    def _join(self, record: Record) -> None:
        for out in self.joiners[record.partition].apply(record):
            if isinstance(out, Dead):
                self._bury(out)
            else:
                self._sink.write(record.partition, record.key, encode_sample(out))

    def _bury(self, dead: Dead) -> None:
        self.dead[dead.reason] += 1
        self.last_dead = dead
        # of the log as a whole: what of a file has no user lies in partition 0, the rest in all of them
        self._recent.add(sum(joiner.n_in for joiner in self.joiners.values()))
        check_dead(dead, self._recent, self.settings.stream.max_dead)

    def _stepped(self, step: Step) -> None:
        self.n_candidates += step.batch.n_candidates
        if self._watch is not None:
            self.publish()  # what the step before published, so that no stage looks behind by a whole poll
            self._show(self.loop.offsets)
            self._show_scores(self._watch, step)
        if self._on_step is not None:
            self._on_step(step)

    def _show(self, until: Offsets) -> None:
        """Let the watch see the samples before these offsets."""
        if self._watch is None:
            return
        for p, end in until.items():
            n = max(end - self._shown[p], 0)
            for r in self.samples.read(p, self._shown[p], n):
                self._watch.sample(p, r.offset, decode_sample(r.value))
            self._shown[p] += n

    def _show_scores(self, watch: Watch | Monitor, step: Step) -> None:
        for sample, p in zip(step.samples, np.split(step.predicted.p, step.batch.first[1:-1]), strict=True):
            partition = sample.origin.partition
            said = scored(sample, step.version, p, held=bool(step.why_held))
            watch.scored(partition, self._n_scored[partition], said)
            self._n_scored[partition] += 1
