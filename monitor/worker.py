"""The monitor as a long-lived worker: samples, scores, publications and the index's Version in, windows and alerts out.

It reads and writes nothing back, so it may be away for as long as the topics are kept. Where it stands is in its
folder; a restart measures the last seconds before it again, and what is shown already stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing

from monitor.folder import Folder
from monitor.measures import measure_of
from monitor.monitor import Monitor
from monitor.row import Row
from monitor.view import SIZES
from stream.cluster import Cluster
from stream.events import Version, decode_sample
from stream.kafka import KafkaSource
from stream.log import Source, Unavailable
from stream.metrics import Metrics
from trainer.publication import Assembler, TornPublicationError, refused
from trainer.scored import decode_scored

log = logging.getLogger(__name__)

SAMPLES, SCORES, MODEL = "samples", "scores", "model"
MESSAGES = 64
"""Of the model log in one step."""
TELL_MS, KEEP_MS = 1_000, 30_000
"""How often, in wall time, it shows how things stand and asks the index, and keeps what it has seen."""
WINDOWS = {size_ms: size for size, size_ms in SIZES.items()}

Newest = Callable[[], tuple[Version, int] | None]
"""The index's Version and the event time of the newest sample in it."""


class MonitorWorker:
    """The one monitor of a loop, as a worker of `stream.service`.

    Parameters
    ----------
    samples, scores, model
        ``instep.samples`` and ``instep.scores``, all partitions, and ``instep.model``.
    index
        Asked now and then; while it does not answer its age grows.
    folder
        Where everything is kept.
    now_ms
        Wall time; it decides nothing that is measured.
    """

    def __init__(
        self,
        samples: Source,
        scores: Source,
        model: Source,
        index: Newest,
        monitor: Monitor,
        folder: Folder,
        metrics: Metrics,
        *,
        poll_records: int = 2_000,
        now_ms: Callable[[], int],
    ) -> None:
        self._sources = {SAMPLES: samples, SCORES: scores, MODEL: model}
        self._index = index
        self._monitor = monitor
        self._folder = folder
        self._metrics = metrics
        self._poll_records = poll_records
        self._now_ms = now_ms
        self._assembler, self._may_be_torn = Assembler(), True  # the log may begin within a publication
        self._shown: dict[tuple[str, int], set[str]] = {}
        self._index_answers = True
        status = monitor.board.status  # a start is no news of the log
        self._told_ms = self._kept_ms = now_ms()
        self._heard_ms = self._told_ms if status is None else status.heard_ms
        for topic, source in self._sources.items():
            self._seek(topic, source)

    @property
    def not_ready(self) -> str:
        """See `Worker.not_ready`."""
        return (
            "" if self._monitor.board.status is not None else "waits for the first record of instep.samples"
        )

    @property
    def drained(self) -> bool:
        """See `Worker.drained`."""
        # what is ahead of the samples waits for samples that are still to be written
        topics = (SAMPLES,) if self._monitor.ahead else tuple(self._sources)
        return not any(n for topic in topics for n in self._lag(topic).values())

    def step(self) -> int:
        """See `Worker.step`."""
        n = 0
        if not self._monitor.ahead:
            n += self._read_publications() + self._read_scores()
        n += self._read_samples()
        for row in self._monitor.turn():
            self._export(row)
        now_ms = self._now_ms()
        if now_ms >= self._told_ms + TELL_MS:
            self._told_ms = now_ms
            self._ask_index()
            self._monitor.tell(self._heard_ms)
            for partition, waiting in self._lag(SAMPLES).items():
                self._metrics.set("instep_lag_records", waiting, partition=partition)
        if now_ms >= self._kept_ms + KEEP_MS:
            self._kept_ms = now_ms
            try:
                self.keep()
            except OSError as e:  # what is seen is still shown, judged and told of
                log.error("what was seen cannot be kept folder=%s error=%s", self._folder.path, e)
        return n

    def finish(self) -> None:
        """See `Worker.finish`."""
        self._ask_index()
        self._monitor.tell(self._heard_ms)
        self.keep()

    def close(self) -> None:
        """See `Worker.close`."""
        with ExitStack() as closed:
            for source in self._sources.values():
                closed.callback(source.close)

    def keep(self) -> None:
        """Write what is shown and where this stands."""
        with self._metrics.timed("instep_commit_seconds"):
            self._folder.keep(self._monitor.board, self._monitor.state())

    def _seek(self, topic: str, source: Source) -> None:
        """Go on behind what was read; where that is gone, with what is there."""
        place, start = self._monitor.offsets[topic], source.offsets
        for p, at in place.items():
            if 0 < at < start[p]:
                what = "records are gone before they were read topic=%s partition=%d from=%d to=%d"
                log.warning(what, topic, p, at, start[p])
        source.seek({p: max(at, start[p]) for p, at in place.items()})

    def _read_samples(self) -> int:
        records = self._sources[SAMPLES].poll(self._poll_records)
        for r in records:
            self._monitor.sample(r.partition, r.offset, decode_sample(r.value))
            self._metrics.add("instep_records_in_total", partition=r.partition)
        if records:
            self._heard_ms = self._now_ms()
        return len(records)

    def _read_scores(self) -> int:
        records = self._sources[SCORES].poll(self._poll_records)
        for r in records:
            self._monitor.scored(r.partition, r.offset, decode_scored(r.value))
        return len(records)

    def _read_publications(self) -> int:
        records = self._sources[MODEL].poll(MESSAGES)
        for r in records:
            if (told := refused(r.key, r.value)) is not None:
                self._monitor.refused(told, r.offset + 1)
                continue
            try:
                publication = self._assembler.add(r.key, r.value)
            except TornPublicationError:
                if not self._may_be_torn:
                    raise
                log.info("passing over a publication whose blocks are gone offset=%d", r.offset)
                self._may_be_torn = False
                continue
            if publication is not None:
                self._may_be_torn = False
                self._monitor.published(publication, r.offset + 1)
        return len(records)

    def _ask_index(self) -> None:
        """What it has now; an index that does not answer grows old."""
        try:
            newest = self._index()
            if newest is not None:
                self._monitor.indexed(*newest)
            self._index_answers = True
        except Unavailable as e:
            if self._index_answers:
                log.warning("the index does not answer, its age grows error=%s", e)
            self._index_answers = False

    def _lag(self, topic: str) -> dict[int, int]:
        at, end = self._sources[topic].offsets, self._sources[topic].end()
        return {p: end[p] - at[p] for p in end}

    def _export(self, row: Row) -> None:
        """Let the figures of a window be seen that are of enough; of slices there are too many."""
        metrics, window, place = self._metrics, WINDOWS[row.size_ms], (row.source, row.size_ms)
        shown = set[str]()
        for name, value in row.values.items():
            measure = measure_of(name)
            if value.value is not None and value.n >= measure.least and measure.panel != "slices":
                metrics.set("instep_window_value", value.value, measure=name, window=window)
                shown.add(name)
        for name in self._shown.get(place, set()) - shown:
            metrics.forget("instep_window_value", measure=name, window=window)
        self._shown[place] = shown
        metrics.set(
            "instep_window_end_timestamp_seconds", row.end_ms / 1000, source=row.source, window=window
        )


def build(
    cluster: Cluster,
    monitor: Callable[[], Monitor],
    folder: Folder,
    index: Newest,
    metrics: Metrics,
    *,
    partitions: int,
    poll_records: int,
    now_ms: Callable[[], int],
) -> MonitorWorker:
    """The monitor on Kafka."""
    cluster.check({SAMPLES: partitions, SCORES: partitions, MODEL: 1})
    with ExitStack() as opened:
        samples, scores, model = (
            opened.enter_context(closing(KafkaSource(cluster, topic, wait_ms=wait_ms)))
            for topic, wait_ms in ((SAMPLES, 20), (SCORES, 1), (MODEL, 1))
        )
        worker = MonitorWorker(
            samples,
            scores,
            model,
            index,
            monitor(),
            folder,
            metrics,
            poll_records=poll_records,
            now_ms=now_ms,
        )
        opened.pop_all()  # they are the worker's now
        return worker
