"""The trainer's loop: samples in; batches learned, journalled, published and checkpointed as event time passes.

Everything that decides the result is in the log: batches are cut by ``Batcher``, publications and checkpoints fall
where event time crosses a multiple of their period. The journal in each marker says which offsets made which batch; a
restart from any checkpoint repeats the same steps and arrives at the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stream.events import Sample, Version, decode_sample
from stream.log import Sink, Source
from trainer.batch import Batch, make_batch
from trainer.batcher import Batcher, Ranges
from trainer.learner import Learner, Predicted
from trainer.publication import Journal, Publication, encode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopRules:
    """When things happen, in event time."""

    batch_samples: int = 16
    batch_span_ms: int = 1_000
    publish_ms: int = 1_000
    """Between publications; each holds what changed since the one before."""
    row_ttl_ms: int = 90 * 86_400_000
    """A row not seen for this long is dropped. Not below the joiner's ``history_ttl_ms``, so that no live behaviour
    loses its row."""


@dataclass(frozen=True)
class Step:
    """One batch that was predicted and learned."""

    samples: list[Sample]
    batch: Batch
    predicted: Predicted
    version: Version


class Loop:
    """Learns from a source of samples and publishes to a sink.

    Parameters
    ----------
    learner
        As built, or as restored from a checkpoint.
    source
        ``instep.samples``. It is moved to ``offsets``.
    model
        ``instep.model``; partition 0 is written, one transaction a publication.
    offsets
        Next samples to read, by partition, for every partition of the topic.
    published
        The last Version on the model log. Up to it, steps that are repeated after a restart are not published again.
    journal
        Batches that were learned since the publication before; of the checkpoint.
    on_publish
        Called before a publication is committed, to write what belongs with it into the same transaction.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        model: Sink,
        offsets: dict[int, int],
        rules: LoopRules,
        *,
        epoch: int = 0,
        at_ms: int = 0,
        published: Version | None = None,
        journal: Journal | None = None,
        on_step: Callable[[Step], None] | None = None,
        on_publish: Callable[[], None] | None = None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.learner = learner
        self.offsets = dict(offsets)
        self.epoch = epoch
        self.at_ms = at_ms
        """Closing time of the newest sample learned."""
        self.journal: Journal = list(journal or [])
        self.published = published if published is not None and published.epoch == epoch else None
        self.n_samples = 0
        self._source = source
        self._model = model
        self._rules = rules
        self._on_step = on_step
        self._on_publish = on_publish
        self._now_ms = now_ms
        self._batcher = Batcher(offsets, rules.batch_samples, rules.batch_span_ms)
        self._expired_ms = at_ms
        source.seek(self.offsets)

    @property
    def version(self) -> Version:
        return Version(self.epoch, self.learner.n_steps)

    def poll(self, max_records: int = 512, end: bool = False) -> int:
        """Read what is there, learn the batches that it completes; returns how many records were read.

        ``end`` says that no more will come: what waits is learned as a last, smaller batch.
        """
        records = self._source.poll(max_records)
        for r in records:
            self._batcher.add(r.partition, r.offset, decode_sample(r.value))
        while (taken := self._batcher.take(end and not records)) is not None:
            self._learn(*taken)
        return len(records)

    def publish(self) -> Version:
        """Write what changed since the last publication; the first one of an epoch holds everything."""
        version = self.version
        if self.published is None or version > self.published:
            publication = difference(
                self.learner, version, self.published, self.at_ms, self.offsets, self.journal, self._now_ms()
            )
            for key, value in encode(publication):
                self._model.write(0, key, value)
            if self._on_publish is not None:
                self._on_publish()
            self._model.commit()
            self.published = version
        self.journal = []
        return version

    def _learn(self, samples: list[Sample], ranges: Ranges) -> None:
        shape = self.learner.config.shape
        batch = make_batch(samples, shape.n_item_fields, shape.n_kinds)
        predicted = self.learner.step(batch)
        self.offsets.update({p: to for p, (_, to) in ranges.items()})
        self.journal.append(ranges)
        self.n_samples += len(samples)
        before_ms, self.at_ms = self.at_ms, samples[-1].closed_ms
        if self._on_step is not None and predicted.learned:  # a batch that is skipped has no figures
            self._on_step(Step(samples, batch, predicted, self.version))
        self._expire()
        due = crossed(before_ms, self.at_ms, self._rules.publish_ms)
        if due or self.published is None:
            self.publish()
        if due:  # not with the extra publication of a restart, after which the table must be the same
            self.learner.table.forget_tombstones(self.learner.n_steps)

    def _expire(self) -> None:
        self._expired_ms = expire(self.learner, self._expired_ms, self.at_ms, self._rules.row_ttl_ms)


def expire(learner: Learner, expired_ms: int, at_ms: int, row_ttl_ms: int) -> int:
    """Drop idle rows, a few times in a row's lifetime; returns when that was done last, in event time."""
    if not crossed(expired_ms, at_ms, max(1, row_ttl_ms // 16)):
        return expired_ms
    gone = learner.table.expire(at_ms - row_ttl_ms, learner.n_steps)
    if np.size(gone):
        log.info("rows expired n_rows=%d", len(gone))
    return at_ms


def difference(
    learner: Learner,
    version: Version,
    since: Version | None,
    at_ms: int,
    offsets: dict[int, int],
    journal: Journal,
    wall_ms: int = 0,
) -> Publication:
    """What has changed in a model since a Version of the same epoch, or all of it."""
    table = learner.table
    slots, tombstones = table.changed_since(since.step if since else -1)
    return Publication(
        version=version,
        since=since,
        at_ms=at_ms,
        keys=table.keys[slots],
        fields=table.fields[slots],
        steps=table.changed[slots],
        vectors=table.rows[slots],
        tombstones=tombstones,
        dense=learner.dense(),
        offsets=offsets,
        journal=journal,
        wall_ms=wall_ms,
    )


def crossed(before_ms: int, now_ms: int, every_ms: int) -> bool:
    """Whether event time passed a multiple of ``every_ms``.

    >>> crossed(900, 1100, 1000), crossed(1100, 1900, 1000)
    (True, False)
    """
    return now_ms // every_ms > before_ms // every_ms
