"""The trainer's loop: samples in; batches learned, journalled, published and checkpointed as event time passes.

Everything that decides the result is in the log: batches are cut by ``Batcher``, publications and checkpoints fall
where event time crosses a multiple of their period. The journal in each marker says which offsets made which batch; a
restart from any checkpoint repeats the same steps and arrives at the same bits.

A gate may hold a batch: it is predicted, counts as a step and is published as one, but moves nothing, so that time,
Versions and scores go on while the model stands. What was held is remembered by its offsets and can be learned later.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from stream.events import Sample, Version, decode_sample
from stream.log import Pausable, Record, Sink
from trainer.batch import Batch, make_batch
from trainer.batcher import Batcher, Ranges, Told
from trainer.canary import Canary
from trainer.gate import HELD_MOST, BadOrder, Band, Gate, chosen
from trainer.learner import Learner, Predicted
from trainer.publication import Journal, Publication, Refused, Said, encode, refusal

log = logging.getLogger(__name__)

WAITING_MOST = 2_048
"""Samples of one partition that may wait for another one that is behind, before it is not read on for now: some 50 MB
at 1,024 behaviours each. It decides nothing."""

ReadBack = Callable[[int, int, int], Iterable[Record]]
"""Records of a partition, from an offset to another."""


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
    """One batch that was predicted, then learned or held."""

    samples: list[Sample]
    batch: Batch
    predicted: Predicted
    version: Version
    why_held: str = ""
    held_back: NDArray[np.bool_] | None = None
    """``[B]``: which samples are the canary's, and were not learned."""


class Standing(Struct):
    """Where a loop stands, besides its learner and what it has read: of its checkpoints."""

    at_ms: int = 0
    """Closing time of the newest sample, learned or held."""
    learned_ms: int = 0
    """The same of those that were learned."""
    n_samples: int = 0
    """Learned."""
    journal: Journal = []
    """Batches since the last publication."""
    passed_by: list[int] = []
    """Which of these were held."""
    held: list[Ranges] = []
    """Batches that were held and not given up."""
    heard: dict[int, int] = {}
    """Next Ticks to take note of, by partition."""
    gate: bytes = b""
    canary: bytes = b""
    closed_ms: dict[int, int] = {}
    """Of the batcher."""
    why_refused: str = ""
    """Why what was due last did not go live; empty if it did."""


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
    standing
        Of the checkpoint.
    gate
        Decides which batches are learned; all of them without one.
    read_back
        Records of a partition of the source from an offset to another one, for batches that were held and are learned
        after all.
    canary
        Tries what is due to be published; without one everything is.
    said
        The last Versions on the model log. Up to the one told last, what is repeated after a restart is not told again.
    on_publish
        Called before a publication is committed, to write what belongs with it into the same transaction.
    """

    def __init__(
        self,
        learner: Learner,
        source: Pausable,
        model: Sink,
        offsets: dict[int, int],
        rules: LoopRules,
        *,
        epoch: int = 0,
        standing: Standing | None = None,
        gate: Gate | None = None,
        read_back: ReadBack | None = None,
        canary: Canary | None = None,
        said: Said | None = None,
        on_step: Callable[[Step], None] | None = None,
        on_publish: Callable[[], None] | None = None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.learner = learner
        self.offsets = dict(offsets)
        self.epoch = epoch
        self.standing = standing or Standing()
        self.why_held = ""
        """Why the last batch was held; empty if it was learned."""
        self.n_published = self.n_refused = 0
        """Since it began."""
        self.said = Said(*(v if v is not None and v.epoch == epoch else None for v in said or (None, None)))
        self._gate = gate
        if gate is not None and self.standing.gate:
            gate.load(self.standing.gate)
        self._canary = canary
        if canary is not None and self.standing.canary:
            canary.load(self.standing.canary)
        self._read_back = read_back
        self._source = source
        self._model = model
        self._rules = rules
        self._on_step = on_step
        self._on_publish = on_publish
        self._now_ms = now_ms
        closed_ms = self.standing.closed_ms
        self._batcher = Batcher(offsets, rules.batch_samples, rules.batch_span_ms, closed_ms)
        self.paused: frozenset[int] = frozenset()
        """Partitions that are not read on for now."""
        self._expired_ms = self.at_ms
        source.seek(self.offsets)

    @property
    def version(self) -> Version:
        return Version(self.epoch, self.learner.n_steps)

    @property
    def at_ms(self) -> int:
        """Closing time of the newest sample, learned or held."""
        return self.standing.at_ms

    @property
    def n_samples(self) -> int:
        """Learned."""
        return self.standing.n_samples

    @property
    def needed(self) -> dict[int, int]:
        """The first samples that may be read again, by partition: those held, and those that are next."""
        first = dict(self.offsets)
        for ranges in self.standing.held:
            first.update({p: min(start, first[p]) for p, (start, _) in ranges.items()})
        return first

    def saved(self) -> Standing:
        """Where it stands, for a checkpoint."""
        gate = b"" if self._gate is None else self._gate.state()
        canary = b"" if self._canary is None else self._canary.state()
        return replace(self.standing, gate=gate, canary=canary, closed_ms=self._batcher.closed_ms)

    def poll(self, max_records: int = 512, end: bool = False) -> int:
        """Read what is there, learn the batches that it completes; returns how many records were read.

        ``end`` says that no more will come: what waits is learned as a last, smaller batch.
        """
        self._pause(frozenset() if end else self._ahead())
        records = self._source.poll(max_records)
        for r in records:
            self._batcher.add(r.partition, r.offset, decode_sample(r.value))
        while True:
            taken = self._batcher.take(end and not records)
            for told in self._batcher.ticks():
                self._hear(told)
            if taken is None:
                return len(records)
            self._learn(*taken)

    def publish(self) -> Version:
        """Write what changed since the last publication; the first one of an epoch holds everything."""
        version = self.version
        if self._is_news(version):
            publication = difference(
                self.learner,
                version,
                self.said.published,
                self.standing.learned_ms,
                self.offsets,
                self.standing.journal,
                passed_by=self.standing.passed_by,
                why_held=self.why_held,
                bands=() if self._gate is None else self._gate.bands(),
                wall_ms=self._now_ms(),
            )
            for key, value in encode(publication):
                self._model.write(0, key, value)
            if self._on_publish is not None:
                self._on_publish()
            self._model.commit()
            self.said = Said(version, version)
            self.n_published += 1
        self.standing.journal, self.standing.passed_by = [], []
        return version

    def _ahead(self) -> frozenset[int]:
        """Partitions that wait for others. None that others wait for is among them: of that no sample waits."""
        waiting, most = self._batcher.n_waiting, WAITING_MOST
        return frozenset(p for p, n in waiting.items() if n > (most // 2 if p in self.paused else most))

    def _pause(self, partitions: frozenset[int]) -> None:
        if partitions != self.paused:
            self._source.pause(partitions)
            self.paused = partitions

    def _learn(self, samples: list[Sample], ranges: Ranges) -> None:
        standing, batch = self.standing, self._batch_of(samples)
        self.why_held = "" if self._gate is None else self._gate.why_not(samples)
        held_back = self._held_back(samples)
        before_ms, standing.at_ms = standing.at_ms, samples[-1].closed_ms
        if self.why_held:
            predicted = self.learner.pass_by(batch)
            standing.passed_by.append(len(standing.journal))
            standing.held.append(ranges)
            del standing.held[:-HELD_MOST]
        else:
            predicted = self._step(samples, batch, held_back)
            if predicted.learned:
                standing.learned_ms = standing.at_ms
                standing.n_samples += int((~held_back).sum())
        if self._canary is not None:
            self._canary.add(list(compress(samples, held_back)))
        self.offsets.update({p: to for p, (_, to) in ranges.items()})
        standing.journal.append(ranges)
        # one that is skipped has no figures, nor has one that was passed by and predicted as nothing
        if (predicted.learned or self.why_held) and np.isfinite(predicted.p).all():
            if self._gate is not None:
                self._gate.predicted(samples, predicted.p)
            if self._on_step is not None:
                self._on_step(Step(samples, batch, predicted, self.version, self.why_held, held_back))
        self._expire()
        due = crossed(before_ms, standing.at_ms, self._rules.publish_ms)
        if due:
            standing.why_refused = self._why_refused()
            if standing.why_refused:
                self._refuse(standing.why_refused)
                return
        # the first of an epoch too, also when it is repeated: it empties the journal
        if due or self.said.published in (None, self.version):
            self.publish()
        if due:  # not with the extra publication of a restart, after which the table must be the same
            self.learner.table.forget_tombstones(self.learner.n_steps)

    def _held_back(self, samples: list[Sample]) -> NDArray[np.bool_]:
        """Which samples are the canary's, bool ``[B]``."""
        if self._canary is None:
            return np.zeros(len(samples), np.bool_)
        return np.array([self._canary.is_held_back(sample) for sample in samples], np.bool_)

    def _step(self, samples: list[Sample], batch: Batch, held_back: NDArray[np.bool_]) -> Predicted:
        """Learn a batch but for what is held back; all of it is predicted by the model as it was before."""
        if not held_back.any():
            return self.learner.step(batch)
        if held_back.all():
            return dataclasses.replace(self.learner.pass_by(batch), learned=True)
        own, rest = (self._batch_of(list(compress(samples, which))) for which in (held_back, ~held_back))
        p = np.empty((batch.n_candidates, self.learner.config.shape.n_kinds), np.float32)
        is_own = held_back[batch.slate]
        p[is_own] = self.learner.predict(own)
        predicted = self.learner.step(rest)
        p[~is_own] = predicted.p
        return dataclasses.replace(predicted, p=p)

    def _why_refused(self) -> str:
        """Why the model is not to go live as it stands; empty to let it."""
        if self._canary is None:
            return ""
        return self._canary.why_not(self.learner.predict, again=bool(self.standing.why_refused))

    def _is_news(self, version: Version) -> bool:
        """Whether the model log has nothing of it yet."""
        return self.said.told is None or version > self.said.told

    def _refuse(self, why: str) -> None:
        """Tell that what was due does not go live; scores go on."""
        version, live = self.version, self.said.published
        if self._is_news(version):
            log.warning("publication refused version=%s live=%s: %s", version, live, why)
            self._model.write(0, *refusal(Refused(version, live, self.standing.learned_ms, why)))
            if self._on_publish is not None:
                self._on_publish()
            self._model.commit()
            self.said = Said(live, version)
            self.n_refused += 1

    def _batch_of(self, samples: list[Sample]) -> Batch:
        shape = self.learner.config.shape
        return make_batch(samples, shape.n_item_fields, shape.n_kinds)

    def _hear(self, told: Told) -> None:
        """Let the gate know, and obey; a restart reads some Ticks again."""
        if self._gate is None or told.offset < self.standing.heard.get(told.partition, 0):
            return
        self.standing.heard[told.partition] = told.offset + 1
        self._gate.told(told)
        if not (order := told.tick.order):
            return
        try:
            again = chosen(order, self.standing.held)
        except BadOrder as e:
            log.warning("order ignored error=%s", e)
            return
        log.info("order=%r n_held=%d n_learned_now=%d", order, len(self.standing.held), len(again))
        if order != "hold":
            self.standing.held = []
            if self._canary is not None and self.standing.why_refused:
                self._canary.forgive()
        for ranges in again:
            self._learn_held(ranges)

    def _learn_held(self, ranges: Ranges) -> None:
        """Learn a batch that was held, but for what is the canary's; it was predicted when its time was, and moves time
        no more."""
        assert self._read_back is not None, "a gate that holds needs a way to read again"
        read = [record for p, (start, end) in ranges.items() for record in self._read_back(p, start, end)]
        found = [(decode_sample(record.value), record.partition, record.offset) for record in read]
        kept = [(s.closed_ms, p, offset, s) for s, p, offset in found if isinstance(s, Sample)]
        samples = [s for *_, s in sorted(kept, key=lambda place: place[:3])]
        if not samples:
            log.warning("a batch that was held is gone ranges=%s", ranges)
            return
        rest = list(compress(samples, ~self._held_back(samples)))
        if not rest:
            return
        if self.learner.step(self._batch_of(rest)).learned:
            self.standing.n_samples += len(rest)
        self.standing.journal.append(ranges)

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
    *,
    passed_by: Sequence[int] = (),
    why_held: str = "",
    bands: tuple[Band, ...] = (),
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
        passed_by=list(passed_by),
        why_held=why_held,
        bands=bands,
        wall_ms=wall_ms,
    )


def crossed(before_ms: int, now_ms: int, every_ms: int) -> bool:
    """Whether event time passed a multiple of ``every_ms``.

    >>> crossed(900, 1100, 1000), crossed(1100, 1900, 1000)
    (True, False)
    """
    return now_ms // every_ms > before_ms // every_ms
