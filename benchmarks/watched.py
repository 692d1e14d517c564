"""A pipeline with the monitor's windows beside it, fed as from its topics."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

from instep.pipeline import Pipeline
from monitor.row import Row
from stream.events import Version, decode_sample
from stream.log import Offsets
from trainer.loop import Step
from trainer.publication import Assembler
from trainer.scored import scored


class Watched:
    """Feeds a `monitor.watch.Watch` with what passes through a pipeline's logs, before they forget it."""

    def __init__(self, pipeline: Pipeline) -> None:
        watch: Any = import_module("monitor.watch")
        settings = pipeline.settings
        fields = settings.fields
        self._pipeline = pipeline
        self._watch = watch.Watch(
            watch.WatchRules(
                partitions=tuple(pipeline.joiners),
                kinds=settings.kinds,
                item_fields=tuple(fields.item),
                side_fields=tuple(fields.side),
                planes=pipeline.learner.table.planes,
                k=settings.model.top_k,
            )
        )
        self._samples = pipeline.samples.source()
        self._model = pipeline.model.source()
        self._assembler = Assembler()
        self._at: dict[Version, int] = {}
        self._n_scored: Counter[int] = Counter()
        self._steps: list[Step] = []
        self._trims = pipeline.samples.trim, pipeline.model.trim
        pipeline.samples.trim = self._before_samples_go  # type: ignore[method-assign]
        pipeline.model.trim = self._before_publications_go  # type: ignore[method-assign]
        pipeline._on_step = self._steps.append

    def look(self) -> None:
        """Tell where the index stands; to be called when the pipeline has done what it can."""
        version = self._pipeline.index.version
        if version is not None and version in self._at:
            self._watch.indexed(version, self._at[version])
            self._at = {v: at for v, at in self._at.items() if v >= version}

    def take(self) -> list[Row]:
        """Windows that have closed."""
        rows: list[Row] = self._watch.take()
        return rows

    def close(self) -> None:
        """Leave the pipeline as it was."""
        self._pipeline.samples.trim, self._pipeline.model.trim = self._trims  # type: ignore[method-assign]

    def _before_samples_go(self, offsets: Offsets) -> None:
        for record in self._samples.poll(1 << 30):
            self._watch.sample(record.partition, record.offset, decode_sample(record.value))
        for step in self._steps:
            start = 0
            for sample in step.samples:
                end = start + len(sample.labels) // len(self._pipeline.settings.kinds)
                partition = sample.origin.partition
                p = step.predicted.p[start:end]
                message = scored(sample, step.version, p, held=bool(step.why_held))
                self._watch.scored(partition, self._n_scored[partition], message)
                self._n_scored[partition] += 1
                start = end
        self._steps.clear()
        self._trims[0](offsets)

    def _before_publications_go(self, offsets: Offsets) -> None:
        for record in self._model.poll(1 << 30):
            if (publication := self._assembler.add(record.key, record.value)) is not None:
                self._at[publication.version] = publication.at_ms
                self._watch.published(publication, record.offset + 1)
        self._trims[1](offsets)
