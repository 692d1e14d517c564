"""Watch: what workers wrote in, measured windows out. Pure; the same log gives the same rows, however it is polled.

A window of samples closes when the event time of every partition has passed its end, which samples and Ticks tell;
that goes on whatever the trainer does. A window of scores closes when all of its samples have been scored, or the
scores of a partition have gone past it; while the trainer stands still there is none. A window of publications closes
when a later one comes and the samples have passed its end::

    samples   --- minute --->|          | closes the minute, gives an age to each stage
    scores    ------ minute ------>|    | as many as samples in it, in every partition
    model     p    p      p       |  p  | the first publication of a later minute

What comes from the model log or the scores before the samples have come so far has to wait, and with it whoever reads:
see `ahead`. Everything else is taken in at once and reduced in blocks, so what is held does not grow with the traffic.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from monitor.data import DataWindow, paired
from monitor.freshness import Freshness, StageName
from monitor.known import Known
from monitor.lanes import SampleLane, ScoreLane
from monitor.popular import N_CELLS, Popular
from monitor.published import Published
from monitor.quality import NEW_MINUTES, QualityWindow
from monitor.row import Row, Source
from monitor.seen import Seen
from monitor.watched import WatchRules, WatchState
from monitor.windows import MINUTE_MS, TEN_MS, Reference, Windows, references
from stream.events import Sample, Tick, Version
from trainer.publication import Publication, Refused
from trainer.scored import Scored

BLOCK = 256
"""Slates that are reduced at a time."""
KEPT_MINUTES = 2_880
"""For so many minutes it is known which events they are made of, for the scores and publications that are behind."""


class Watch:
    """Takes in what is on the topics, record by record, and gives out the windows that close.

    Parameters
    ----------
    state
        Of an earlier one, which this goes on from; the topics are to be read from its `offsets` on.

    Raises
    ------
    msgspec.DecodeError, ValueError
        If the state is none, or of other rules.
    """

    def __init__(self, rules: WatchRules, state: bytes | None = None) -> None:
        self.rules = rules
        self._known = Known(
            rules.kinds,
            rules.item_fields,
            rules.side_fields,
            rules.k,
            {name: Seen() for name in _names(rules)},
            Popular(),
        )
        self._samples = {p: SampleLane() for p in rules.partitions}
        self._scores = {p: ScoreLane() for p in rules.partitions}
        self._early: dict[int, deque[tuple[int, Scored]]] = {p: deque() for p in rules.partitions}
        self._until_ms: int | None = None  # before this every partition's samples have been read
        self._floor_ms: int | None = None  # windows before this began before there was something to read
        self._first_ms: int | None = None  # the first minute with slates
        self._data = Windows(DataWindow)
        self._quality = Windows(QualityWindow)
        self._references: dict[Source, dict[int, Reference]] = {"data": references(), "quality": references()}
        self._published = Published(rules.planes, len(rules.item_fields), rules.k)
        self._freshness = Freshness()
        self._read: dict[int, list[Sample]] = {}  # by minute, not reduced yet
        self._predicted: dict[int, list[Scored]] = {}
        self._ranges: dict[int, dict[int, tuple[int, int]]] = {}
        self._closed: list[Row] = []
        if state is not None:
            self.load(state)

    @property
    def offsets(self) -> dict[str, dict[int, int]]:
        """Next records to read after a restart with the `state` of now, by topic and partition."""
        return {
            "samples": {p: lane.next_offset for p, lane in self._samples.items()},
            "scores": {
                p: self._early[p][0][0] if self._early[p] else lane.next_offset
                for p, lane in self._scores.items()
            },
            "model": {0: self._published.next_offset},
        }

    @property
    def ahead(self) -> bool:
        """Whether scores or publications wait for samples to be read; then read samples only."""
        return bool(self._published.waiting) or any(self._early.values())

    @property
    def at_ms(self) -> int | None:
        """Event time up to which everything has been read; None before every partition has begun."""
        lanes = self._samples.values()
        return (
            None if any(lane.first_ms < 0 for lane in lanes) else min(lane.complete_ms for lane in lanes) + 1
        )

    @property
    def stages(self) -> dict[StageName, tuple[Version, int]]:
        """See `Freshness.stages`."""
        return self._freshness.stages

    @property
    def counts(self) -> dict[str, int]:
        """What became of records by reason, as the joiners count it, over all partitions."""
        total: Counter[str] = sum((Counter(lane.counts) for lane in self._samples.values()), Counter())
        return dict(sorted(total.items()))

    def sample(self, partition: int, offset: int, message: Sample | Tick) -> None:
        """The next record of ``instep.samples``. OutOfOrderError if it is not behind the last one."""
        lane = self._samples[partition]
        before_ms = lane.complete_ms
        lane.take(partition, offset, message)
        if isinstance(message, Tick):
            # what has closed stays closed, for a Tick that says again how far time has come
            self._data.at(max(message.at_ms, before_ms + 1)).tick(*lane.since_last(message))
        else:
            self._freshness.served(message.version, message.at_ms)
            minute = message.closed_ms // MINUTE_MS
            block = self._read.setdefault(minute, [])
            block.append(message)
            if len(block) == BLOCK:
                self._reduce_read(minute)
        if (lane.complete_ms + 1) // MINUTE_MS > (before_ms + 1) // MINUTE_MS:
            self._advance()

    def scored(self, partition: int, offset: int, message: Scored) -> None:
        """The next record of ``instep.scores``. OutOfOrderError if it is not behind the last one."""
        self._early[partition].append((offset, message))
        self._take_scores(partition)
        self._close_quality()

    def published(self, publication: Publication, next_offset: int) -> None:
        """The next publication of ``instep.model``, and the offset behind its marker."""
        self._freshness.published(publication.version, publication.at_ms)
        self._published.waiting.append((next_offset, publication))
        self._take_publications()

    def refused(self, refused: Refused, next_offset: int) -> None:
        """The next message of ``instep.model`` says that a Version does not go live; and the offset behind it."""
        self._published.waiting.append((next_offset, refused))
        self._take_publications()

    def indexed(self, version: Version, at_ms: int) -> None:
        """The index holds this Version, whose newest sample closed then."""
        self._freshness.indexed(version, at_ms)

    def take(self) -> list[Row]:
        """The windows that have closed since this was asked last: of each source and size in order."""
        closed, self._closed = self._closed, []
        return closed

    def _advance(self) -> None:
        """Event time of some partition has come to another minute: close what can be closed."""
        until_ms = self.at_ms
        if until_ms is None:
            return
        if self._floor_ms is None:
            first_ms = max(lane.first_ms for lane in self._samples.values())
            self._floor_ms = -(-first_ms // MINUTE_MS) * MINUTE_MS
        if self._until_ms is not None and until_ms // MINUTE_MS == self._until_ms // MINUTE_MS:
            return
        self._until_ms = until_ms
        for size, start, window in self._data.close(until_ms):
            self._close_data(size, start, window)
        for partition in self._scores:
            self._take_scores(partition)
        self._close_quality()
        self._take_publications()

    def _close_data(self, size: int, start: int, window: DataWindow) -> None:
        known = self._known
        if size == MINUTE_MS:
            minute = start // MINUTE_MS
            self._reduce_read(minute, window)
            self._published.keep(start, window.close_minute(minute, known))
            self._ranges[start] = window.offsets
            while len(self._ranges) > KEPT_MINUTES:
                del self._ranges[min(self._ranges)]
        elif size == TEN_MS:
            known.popular.close(start, window.tally.get("shown", (N_CELLS,)))
        if self._first_ms is None and window.bins.arrays and start >= (self._floor_ms or 0):
            self._first_ms = start
        if not self._is_shown(start):
            return
        reference = self._references["data"][size]
        values = window.values(size, known, reference, unseen=self._knows_old(start))
        self._closed.append(Row("data", size, start, values, window.offsets))
        self._closed.append(Row("freshness", size, start, self._freshness.values(start + size)))
        if window.bins.arrays:
            reference.push(window.bins)

    def _take_scores(self, partition: int) -> None:
        """Take in the scores whose samples' keys are known."""
        waiting, lane = self._early[partition], self._scores[partition]
        while waiting and self._until_ms is not None:
            offset, message = waiting[0]
            # what is popular was settled two slots ago
            if self._until_ms < (message.closed_ms // TEN_MS - 1) * TEN_MS:
                break
            waiting.popleft()
            if not lane.take(partition, offset, message):
                continue
            self._samples[partition].scored(message.closed_ms, -1)
            if not message.held:
                self._freshness.trained(message.version, message.closed_ms)
            minute = message.closed_ms // MINUTE_MS
            self._quality.at(message.closed_ms)
            block = self._predicted.setdefault(minute, [])
            block.append(message)
            if len(block) == BLOCK:
                self._reduce_predicted(minute)

    def _close_quality(self) -> None:
        if self._until_ms is None or self._quality.soonest_ms > self._until_ms:
            return
        scored_ms = min(max(lane.at_ms, self._samples[p].scored_until()) for p, lane in self._scores.items())
        until_ms = min(scored_ms, self._until_ms)
        for size, start, window in self._quality.close(until_ms):
            if size == MINUTE_MS:
                self._reduce_predicted(start // MINUTE_MS, window)
            if not self._is_shown(start):
                continue
            reference = self._references["quality"][size]
            values = window.values(self.rules.kinds, reference)
            self._closed.append(Row("quality", size, start, values, self._offsets_of(size, start)))
            if window.bins.arrays:
                reference.push(window.bins)
        for lane in self._samples.values():
            lane.forget(until_ms // MINUTE_MS * MINUTE_MS)

    def _take_publications(self) -> None:
        for size, start, window in self._published.take(self._until_ms):
            if self._is_shown(start):
                offsets = self._offsets_of(size, start)
                self._closed.append(Row("codes", size, start, window.values(size), offsets))

    def _offsets_of(self, size: int, start: int) -> dict[int, tuple[int, int]]:
        """Of the events that the samples of a window came from."""
        found: dict[int, tuple[int, int]] = {}
        for minute in range(start, start + size, MINUTE_MS):
            for partition, (first, stop) in self._ranges.get(minute, {}).items():
                own = found.get(partition, (first, stop))
                found[partition] = min(own[0], first), max(own[1], stop)
        return found

    def _reduce_read(self, minute: int, window: DataWindow | None = None) -> None:
        if block := self._read.pop(minute, []):
            (window or self._data.at(minute * MINUTE_MS)).add(block, minute, self._known)

    def _reduce_predicted(self, minute: int, window: QualityWindow | None = None) -> None:
        if block := self._predicted.pop(minute, []):
            window = window or self._quality.at(minute * MINUTE_MS)
            window.add(block, minute, self._known, ages=self._knows_old(minute * MINUTE_MS))

    def _is_shown(self, start: int) -> bool:
        """Whether all of a window was read, and slates were shown: a past that is sent ahead of them is no window."""
        return self._first_ms is not None and start >= self._first_ms

    def _knows_old(self, at_ms: int) -> bool:
        """Whether slates have been seen for long enough to say what is new."""
        return self._first_ms is not None and at_ms >= self._first_ms + NEW_MINUTES * MINUTE_MS

    def state(self) -> bytes:
        """All that a `Watch` needs to go on with the same rows."""
        for minute in sorted(self._read):
            self._reduce_read(minute)
        for minute in sorted(self._predicted):
            self._reduce_predicted(minute)
        return msgspec.msgpack.encode(
            WatchState(
                samples=self._samples,
                scores=self._scores,
                until_ms=self._until_ms,
                floor_ms=self._floor_ms,
                first_ms=self._first_ms,
                data=self._data.encode(),
                quality=self._quality.encode(),
                published=self._published.encode(),
                references={
                    source: {size: reference.encode() for size, reference in of.items()}
                    for source, of in self._references.items()
                },
                seen={name: seen.encode() for name, seen in self._known.seen.items()},
                popular=self._known.popular.encode(),
                freshness=self._freshness.encode(),
                ranges=self._ranges,
                closed=self._closed,
            )
        )

    def load(self, raw: bytes) -> None:
        """Go on from the state of an earlier one. Raises as the constructor does."""
        state = msgspec.msgpack.decode(raw, type=WatchState)
        declared = _names(self.rules)
        if set(state.samples) != set(self._samples) or set(state.seen) != set(declared):
            raise ValueError(
                f"watch: expected the state of partitions {sorted(self._samples)} and fields {sorted(declared)}, "
                f"got {sorted(state.samples)} and {sorted(state.seen)}"
            )
        self._samples, self._scores = state.samples, state.scores
        self._until_ms, self._floor_ms, self._first_ms = state.until_ms, state.floor_ms, state.first_ms
        self._data.load(state.data, DataWindow.decode)
        self._quality.load(state.quality, QualityWindow.decode)
        for source, of in self._references.items():
            for size, reference in of.items():
                reference.load(state.references[source][size])
        self._known.seen.update({name: Seen.decode(seen) for name, seen in state.seen.items()})
        self._known.popular.load(state.popular)
        self._published.load(state.published)
        self._freshness = Freshness(state.freshness)
        self._ranges, self._closed = state.ranges, state.closed


def _names(rules: WatchRules) -> tuple[str, ...]:
    """What is remembered since when it is known: keys of fields, and pairs of an item and its feature."""
    return *rules.item_fields, *rules.side_fields, *map(paired, rules.item_fields[1:])
