"""Which samples make which batch: a pure function of the log, however it is polled.

Samples of one partition come in the order of ``closed_ms``. Across partitions they are merged by
``(closed_ms, partition, offset)``; a sample is taken only when no partition can still bring an earlier one,
which its own later samples and the joiner's Ticks tell. So the same log gives the same
batches, in one process or as services.

Ticks are merged in the same way, since what they say decides whether a batch is learned. One belongs before a batch if
it stands before one of its samples in the log, or was told more than a millisecond before its last sample closed: then
it has been read when the batch is complete, whatever was read first, and who goes on behind a batch misses none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.events import Sample, Tick

Ranges = dict[int, tuple[int, int]]


class OutOfOrderError(ValueError):
    """Offsets or closing times of a partition went backwards."""


class Told(NamedTuple):
    """A Tick of ``instep.samples`` and its place."""

    partition: int
    offset: int
    tick: Tick


@dataclass
class _Lane:
    """One partition: what has been read and not taken, and how far its event time is complete."""

    waiting: deque[tuple[int, Sample]]
    complete_ms: int = -1
    """No sample to come closes at or before this."""
    told_ms: int = -1
    """The last Tick. Samples of the eager policy carry the clock, which is ahead of the watermark of the Ticks."""
    next_offset: int = 0
    closed_ms: int = -1
    """Of its newest sample. A Tick behind it counts as no earlier."""
    ticks: deque[tuple[int, int, Tick]] = field(default_factory=deque)
    """When they count, their offsets, and themselves."""
    cut_offset: int = 0
    """Behind its newest sample that is in a batch."""
    cut_ms: int = -1
    """When that closed."""


class _Taken(NamedTuple):
    """A sample of the batch that is being filled."""

    partition: int
    offset: int
    sample: Sample


class Batcher:
    """Merges partitions and cuts batches.

    Parameters
    ----------
    partitions
        All partitions of the topic that this trainer reads: it waits for each of them.
    n_samples
        A batch is full at this many.
    span_ms
        A batch holds samples of one span of event time only, so that it need not wait to be full.
    closed_ms
        Of the one whose batches this one goes on from.
    """

    def __init__(
        self,
        partitions: Iterable[int],
        n_samples: int,
        span_ms: int,
        closed_ms: Mapping[int, int] | None = None,
    ) -> None:
        self._lanes = {p: _Lane(deque()) for p in sorted(partitions)}
        for p, at_ms in (closed_ms or {}).items():
            self._lanes[p].closed_ms = self._lanes[p].cut_ms = at_ms
        self._n_samples = n_samples
        self._span_ms = span_ms
        self._batch: list[_Taken] = []
        self._before_ms = -1
        """Ticks that count earlier than this belong before the batch that was taken last."""

    @property
    def closed_ms(self) -> dict[int, int]:
        """When the newest sample of each partition closed that is in a batch: the Ticks to come depend on it."""
        return {p: lane.cut_ms for p, lane in self._lanes.items()}

    @property
    def n_waiting(self) -> dict[int, int]:
        """Samples of each partition that wait for others."""
        return {p: len(lane.waiting) for p, lane in self._lanes.items()}

    def add(self, partition: int, offset: int, message: Sample | Tick) -> None:
        """Take one record of ``instep.samples``.

        Raises
        ------
        OutOfOrderError
            If it is older than what its partition had already promised.
        """
        lane = self._lanes[partition]
        closed_ms = message.at_ms if isinstance(message, Tick) else message.closed_ms
        floor = lane.told_ms if isinstance(message, Tick) else lane.complete_ms + 1
        if offset < lane.next_offset or closed_ms < floor:
            raise OutOfOrderError(
                f"samples {partition}:{offset}: expected offset >= {lane.next_offset} closed at or after {floor}, "
                f"got {closed_ms}"
            )
        lane.next_offset = offset + 1
        if isinstance(message, Tick):
            lane.told_ms = message.at_ms
            lane.complete_ms = max(lane.complete_ms, message.at_ms)
            lane.ticks.append((max(message.at_ms, lane.closed_ms), offset, message))
        else:
            lane.waiting.append((offset, message))
            lane.closed_ms = message.closed_ms
            lane.complete_ms = max(lane.complete_ms, message.closed_ms - 1)

    def take(self, end: bool = False) -> tuple[list[Sample], Ranges] | None:
        """The next batch and its offset ranges, if it is complete; at the ``end`` of a log, what is left."""
        while (p := self._earliest(end)) is not None:
            offset, sample = self._lanes[p].waiting[0]
            if self._is_beyond(sample.closed_ms):
                return self._cut()
            self._lanes[p].waiting.popleft()
            self._batch.append(_Taken(p, offset, sample))
            if len(self._batch) == self._n_samples:
                return self._cut()
        complete_ms = min(lane.complete_ms for lane in self._lanes.values())
        if self._is_beyond(complete_ms + 1) or (end and self._batch):
            return self._cut()
        if not self._batch and not any(lane.waiting for lane in self._lanes.values()):
            self._before_ms = max(self._before_ms, complete_ms)
        return None

    def ticks(self) -> list[Told]:
        """To be asked after each `take`: Ticks that belong before its batch, or before any to come; each once."""
        found = []
        for partition, lane in self._lanes.items():
            while lane.ticks and (lane.ticks[0][0] < self._before_ms or lane.ticks[0][1] < lane.cut_offset):
                at_ms, offset, tick = lane.ticks.popleft()
                found.append((at_ms, Told(partition, offset, tick)))
        return [told for _, told in sorted(found, key=lambda t: (t[0], t[1].partition, t[1].offset))]

    def _earliest(self, end: bool) -> int | None:
        """The partition whose head comes next, None while another could still bring something earlier."""
        heads = [(lane.waiting[0][1].closed_ms, p) for p, lane in self._lanes.items() if lane.waiting]
        if not heads:
            return None
        closed_ms, first = min(heads)
        if not end:
            for p, lane in self._lanes.items():
                # to come: closing after complete_ms; a tie goes to the lower partition
                if not lane.waiting and (lane.complete_ms + 1, p) < (closed_ms, first):
                    return None
        return first

    def _is_beyond(self, closed_ms: int) -> bool:
        """Whether that is in a later span than the batch."""
        return bool(self._batch) and (
            closed_ms // self._span_ms > self._batch[0].sample.closed_ms // self._span_ms
        )

    def _cut(self) -> tuple[list[Sample], Ranges]:
        batch, self._batch = self._batch, []
        ranges: Ranges = {}
        for p, offset, sample in batch:
            ranges[p] = (ranges.get(p, (offset, 0))[0], offset + 1)
            self._lanes[p].cut_offset, self._lanes[p].cut_ms = offset + 1, sample.closed_ms
        self._before_ms = batch[-1].sample.closed_ms - 1
        return [taken.sample for taken in batch], ranges
