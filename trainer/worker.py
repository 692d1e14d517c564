"""The trainer as a long-lived worker: samples in, publications, predictions and checkpoints out.

Where it stands is in its checkpoint: which samples to read next, and what was learned since the last publication. A
restart repeats the steps after the checkpoint to the same bits, and publishes only what is not on the model log yet; so
nothing is learned twice and nothing is published twice, wherever it was killed::

    checkpoint at 0.0120       0.0150 published last, then killed at 0.0157
         |----- repeated, silent ----|---- repeated, and published at 0.0160 as if nothing had happened

While Versions are refused no checkpoint is written, so that none holds what was refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from stream.cluster import Cluster
from stream.events import Version
from stream.kafka import KafkaSink, KafkaSource
from stream.log import Pausable, Record, Sink, Source
from stream.metrics import Metrics
from trainer import checkpoint
from trainer.canary import Canary
from trainer.gate import Gate
from trainer.learner import Learner, LearnerConfig
from trainer.loop import Loop, LoopRules, ReadBack, Standing, Step, crossed, difference
from trainer.publication import Publication, last_said
from trainer.scored import Scored, encode_scored, scored

log = logging.getLogger(__name__)

SAMPLES, MODEL, SCORES = "samples", "model", "scores"
LAG_MS = 1_000
"""How often, in wall time, to find out how much waits."""


@dataclass(frozen=True)
class TrainerRules:
    """Everything besides the samples that decides what a trainer does.

    Parameters
    ----------
    made_with
        Settings that a model cannot change in its life, written into checkpoints and compared when one is loaded.
    checkpoints
        Folder, or any URL that fsspec knows.
    checkpoint_ms
        Event time between checkpoints.
    breaker
        Settings of gate and canary.
    """

    config: LearnerConfig
    loop: LoopRules
    made_with: Mapping[str, Any]
    checkpoints: str
    checkpoint_ms: int = 600_000
    keep: int = 3
    capacity: int = 1 << 24
    poll_records: int = 512
    """At most so many samples a step."""
    breaker: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learned_with(self) -> dict[str, Any]:
        """What may change, but not while steps that were learned with it are to be repeated: settings by their names,
        as JSON has them."""
        parts = {"trainer": {**asdict(self.loop), "threads": self.config.threads}, "breaker": self.breaker}
        settings = {f"{part}.{name}": value for part, of in parts.items() for name, value in of.items()}
        found: dict[str, Any] = json.loads(json.dumps(settings))
        return found


class _Place(Struct):
    """Where a checkpoint stands in its input and output."""

    version: Version
    samples: dict[int, int]
    """Next samples to learn."""
    model: int
    """Next message of the model log behind all that was published up to ``version``, at the latest."""
    standing: Standing
    scored: list[tuple[int, Scored]] = []
    """Predictions that are not on the log yet, with their partitions."""


class TrainerWorker:
    """The one trainer of a model, as a worker of `stream.service`.

    Parameters
    ----------
    source
        ``instep.samples``, all partitions.
    sink
        Of `MODEL` first, and of `SCORES`; opening it has fenced any earlier trainer.
    model
        A reader of the model log.
    now_ms
        Wall time; it travels with publications and decides nothing.
    gate, read_back, canary
        See `trainer.loop.Loop`.

    Raises
    ------
    CheckpointError
        If checkpoints are there but none is whole, they are of other settings or of an epoch that is over; if what was
        published since cannot be repeated; or if one cannot be written, also by ``step``.
    """

    def __init__(
        self,
        source: Pausable,
        sink: Sink,
        model: Source,
        rules: TrainerRules,
        metrics: Metrics,
        *,
        now_ms: Callable[[], int],
        gate: Gate | None = None,
        read_back: ReadBack | None = None,
        canary: Canary | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self._source = source
        self._sink = sink
        self._model = model
        self._rules = rules
        self._metrics = metrics
        self._now_ms = now_ms
        self._on_step = on_step
        self._lag_at_ms = 0
        said = last_said(model)
        published = said.published
        found = _latest(rules.checkpoints)
        if found is None:
            learner = Learner(rules.config, rules.capacity)
            place = _Place(Version(0, 0), dict(source.offsets), 0, Standing())
        else:
            learner, place = _resume(found, rules)
        if published is not None and published.epoch > place.version.epoch:
            raise checkpoint.CheckpointError(
                f"{rules.checkpoints}: expected a checkpoint of epoch {published.epoch}, in which the model log "
                f"is, got {found.name if found else 'none'}"
            )
        if said.told is not None and said.told > place.version:
            _check_repeatable(found, rules, said.told, place.samples)
        self.loop = Loop(
            learner,
            source,
            sink,
            place.samples,
            rules.loop,
            epoch=place.version.epoch,
            standing=place.standing,
            gate=gate,
            read_back=read_back,
            canary=canary,
            said=said,
            on_step=self._stepped,
            on_publish=self._write_scores,
            now_ms=now_ms,
        )
        self._scored = [(p, s) for p, s in place.scored if said.told is None or s.version > said.told]
        self._saved = place.version if found else None
        self._saved_ms = place.standing.at_ms
        if found is not None and found.manifest.get("learned_with") != rules.learned_with:
            self.save()  # so that the latest one says with what all that comes behind it was learned
        log.info("trainer begins version=%s published=%s", self.loop.version, published)

    @property
    def not_ready(self) -> str:
        """See `Worker.not_ready`."""
        return "" if self.loop.said.published is not None else "nothing published yet"

    @property
    def drained(self) -> bool:
        """See `Worker.drained`. What cannot be learned before a partition that has nothing more does not count."""
        return not any(n for p, n in self._lag().items() if p not in self.loop.paused)

    def step(self) -> int:
        """See `Worker.step`."""
        before = self.loop.n_published, self.loop.n_refused
        n = self.loop.poll(self._rules.poll_records)
        self._metrics.add("instep_publications_total", self.loop.n_published - before[0])
        self._metrics.add("instep_publications_refused_total", self.loop.n_refused - before[1])
        rules = self._rules
        if crossed(self._saved_ms, self.loop.at_ms, rules.checkpoint_ms):
            self.save()
        now_ms = self._now_ms()
        if now_ms >= self._lag_at_ms + LAG_MS:
            self._lag_at_ms = now_ms
            self._tell()
        return n

    def finish(self) -> None:
        """See `Worker.finish`. Batches are never cut short, so what waits for its batch is read again."""
        if self.loop.version != self._saved:
            self.save()

    def close(self) -> None:
        """See `Worker.close`."""
        try:
            self._sink.close()
        finally:
            self._source.close()
            self._model.close()

    def save(self) -> None:
        """Write a checkpoint, but of nothing that was refused: an index may be filled with what a checkpoint holds."""
        loop, rules = self.loop, self._rules
        if loop.standing.why_refused:
            return
        place = _Place(
            version=loop.version,
            samples=dict(loop.offsets),
            model=self._model.end()[0],
            standing=loop.saved(),
            scored=self._scored,
        )
        with self._metrics.timed("instep_checkpoint_seconds"):
            name = _save(rules, loop.learner, place)
        self._metrics.touch("instep_last_checkpoint_timestamp_seconds")
        self._saved, self._saved_ms = loop.version, loop.at_ms
        log.info("checkpoint written name=%s n_samples=%d", name, loop.n_samples)

    def _stepped(self, step: Step) -> None:
        self._metrics.add("instep_batches_total")
        self._metrics.add("instep_candidates_total", step.batch.n_candidates)
        self._metrics.add("instep_held_samples_total", len(step.samples) if step.why_held else 0)
        self._metrics.set("instep_holding", bool(step.why_held))
        late_s = (self._now_ms() - step.samples[-1].closed_ms) / 1000
        self._metrics.observe("instep_event_latency_seconds", late_s, stage="trained")
        told = self.loop.said.told
        if told is None or step.version > told:
            first, p = step.batch.first, step.predicted.p
            for b, sample in enumerate(step.samples):
                is_held = bool(step.why_held) or (step.held_back is not None and bool(step.held_back[b]))
                of_slate = scored(sample, step.version, p[first[b] : first[b + 1]], held=is_held)
                self._scored.append((sample.origin.partition, of_slate))
        if self._on_step is not None:
            self._on_step(step)

    def _write_scores(self) -> None:
        """Put the predictions since the last publication into its transaction."""
        for partition, of_slate in self._scored:
            self._sink.write(partition, of_slate.user.to_bytes(8, "little"), encode_scored(of_slate), SCORES)
        self._metrics.add("instep_records_out_total", len(self._scored), topic=SCORES)
        self._scored = []
        late_s = (self._now_ms() - self.loop.at_ms) / 1000
        self._metrics.observe("instep_event_latency_seconds", late_s, stage="published")

    def _lag(self) -> dict[int, int]:
        at = self._source.offsets
        return {p: end - at[p] for p, end in self._source.end().items()}

    def _tell(self) -> None:
        metrics, loop = self._metrics, self.loop
        for partition, n in self._lag().items():
            metrics.set("instep_lag_records", n, partition=partition)
        metrics.set("instep_version_epoch", loop.version.epoch)
        metrics.set("instep_version_step", loop.version.step)
        metrics.set("instep_table_rows", loop.learner.table.n_rows)


def build(
    cluster: Cluster,
    rules: TrainerRules,
    metrics: Metrics,
    gate: Gate,
    canary: Canary | None = None,
    *,
    partitions: int,
    now_ms: Callable[[], int],
) -> TrainerWorker:
    """The trainer on Kafka."""

    def read_back(partition: int, start: int, end: int) -> Iterator[Record]:
        with closing(KafkaSource(cluster, SAMPLES, [partition])) as again:
            again.seek({partition: start})
            while again.offsets[partition] < min(end, again.end()[partition]):
                yield from (r for r in again.poll(rules.poll_records) if r.offset < end)

    cluster.check({SAMPLES: partitions, SCORES: partitions, MODEL: 1})
    with ExitStack() as opened:
        sink = opened.enter_context(closing(KafkaSink(cluster, [MODEL, SCORES], cluster.topic("trainer"))))
        source = opened.enter_context(closing(KafkaSource(cluster, SAMPLES)))
        model = opened.enter_context(closing(KafkaSource(cluster, MODEL)))
        worker = TrainerWorker(
            source, sink, model, rules, metrics, now_ms=now_ms, gate=gate, read_back=read_back, canary=canary
        )
        opened.pop_all()  # they are the worker's now
        return worker


def whole(rules: TrainerRules, name: str | None = None) -> tuple[Publication, int] | None:
    """All of a model as its latest checkpoint has it, and where the model log goes on behind it; None without one."""
    found = _latest(rules.checkpoints) if name is None else checkpoint.load(rules.checkpoints, name)
    if found is None:
        return None
    learner, place = _resume(found, rules)
    return difference(learner, place.version, None, place.standing.learned_ms, place.samples, []), place.model


def rollback(rules: TrainerRules, name: str, published: Version | None) -> Version:
    """Make an older checkpoint the latest one, in a new epoch; the trainer must not run.

    It learns again what came since, and its first publication is a whole one, which index and rankers turn to.

    Parameters
    ----------
    name
        Of the checkpoint.
    published
        The last Version on the model log.

    Returns
    -------
    The Version that the trainer begins at.
    """
    learner, place = _resume(checkpoint.load(rules.checkpoints, name), rules)
    newest = checkpoint.load(rules.checkpoints).version
    place.version = Version(max(newest, published or newest).epoch + 1, place.version.step)
    place.standing.journal, place.standing.passed_by = [], []
    _save(rules, learner, place)
    return place.version


def _latest(path: str) -> checkpoint.Checkpoint | None:
    return checkpoint.load(path) if checkpoint.names(path) else None


def _check_repeatable(
    found: checkpoint.Checkpoint | None, rules: TrainerRules, told: Version, samples: Mapping[int, int]
) -> None:
    """CheckpointError if the steps up to the Version that was told last would not come out as they did."""
    if found is None:
        if any(samples.values()):
            raise checkpoint.CheckpointError(
                f"{rules.checkpoints}: expected a checkpoint, as the model log is at {told} and the first samples are "
                "gone, got none: name the folder that has them (trainer.checkpoints)"
            )
        return
    now = rules.learned_with
    then = found.manifest.get("learned_with", now)
    for name in now:
        if then.get(name) != now[name]:
            raise checkpoint.CheckpointError(
                f"checkpoint {found.name}: expected {name} = {then.get(name)}, with which the steps up to {told} were "
                f"learned, got {now[name]}: start it as before, let it finish, and then change it"
            )


def _save(rules: TrainerRules, learner: Learner, place: _Place) -> str:
    manifest = {
        "version": place.version,
        "settings": rules.made_with,
        "learned_with": rules.learned_with,
        "journal": place.standing.journal,
    }
    blobs = {"place": msgspec.msgpack.encode(place)}
    try:
        return checkpoint.save(rules.checkpoints, learner.state(), manifest, blobs, keep=rules.keep)
    except checkpoint.CheckpointError as e:
        raise checkpoint.CheckpointError(f"trainer.checkpoints: {e}") from None


def _resume(found: checkpoint.Checkpoint, rules: TrainerRules) -> tuple[Learner, _Place]:
    then, now = found.manifest["settings"], rules.made_with
    for part in now:
        # as bytes, in which the order of windows counts too: it is that of the labels
        if msgspec.json.encode(then.get(part)) != msgspec.json.encode(now[part]):
            raise checkpoint.CheckpointError(
                f"checkpoint {found.name}: expected the same [{part}] settings as it was made with, got others"
            )
    place = msgspec.msgpack.decode(found.blobs["place"], type=_Place)
    return Learner.restore(rules.config, found.tensors, rules.capacity), place
