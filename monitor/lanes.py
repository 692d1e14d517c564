"""How far one partition has been read: its offset, its event time, and which of its samples were not scored yet."""

from __future__ import annotations

import logging

from msgspec import Struct, field

from monitor.windows import MINUTE_MS
from stream.events import Sample, Tick
from trainer.scored import Scored

log = logging.getLogger(__name__)


class OutOfOrderError(ValueError):
    """Offsets or event times of a partition went backwards."""


class SampleLane(Struct):
    """A partition of ``instep.samples``."""

    next_offset: int = 0
    complete_ms: int = -1
    """No sample to come closes at or before this; -1 before the first record."""
    first_ms: int = -1
    """Event time of the first record."""
    told_ms: int = -1
    """Time of the last Tick. Samples of the eager policy are ahead of it."""
    read: dict[str, int] = {}
    """Of the last Tick."""
    counts: dict[str, int] = {}
    unscored: dict[int, int] = field(default_factory=dict)
    """By the beginning of the minute, samples less scores; what is 0 is left out."""

    def take(self, partition: int, offset: int, message: Sample | Tick) -> None:
        """The next record.

        Raises
        ------
        OutOfOrderError
            If it is older than what the partition has promised.
        """
        at_ms = message.at_ms if isinstance(message, Tick) else message.closed_ms
        floor = self.told_ms if isinstance(message, Tick) else self.complete_ms + 1
        if offset < self.next_offset or (at_ms < floor and self.first_ms >= 0):
            raise OutOfOrderError(
                f"samples {partition}:{offset}: expected offset >= {self.next_offset} closed at or after {floor}, "
                f"got {at_ms}"
            )
        self.next_offset = offset + 1
        if self.first_ms < 0:
            self.first_ms = at_ms
        if isinstance(message, Tick):
            self.told_ms = at_ms
            self.complete_ms = max(self.complete_ms, at_ms)
        else:
            self.complete_ms = max(self.complete_ms, at_ms - 1)
            self.scored(at_ms, 1)

    def since_last(self, tick: Tick) -> tuple[dict[str, int], dict[str, int]]:
        """What the joiner read, and what became of it, since the Tick before; nothing by the first one."""
        read, counts = increments(self.read, tick.read), increments(self.counts, tick.counts)
        if tick.read:
            self.read = dict(tick.read)
        if tick.counts:
            self.counts = dict(tick.counts)
        return read, counts

    def scored(self, closed_ms: int, more: int) -> None:
        """One sample of that time more, or one less that waits for its score."""
        minute = closed_ms // MINUTE_MS * MINUTE_MS
        n = self.unscored.get(minute, 0) + more
        if n:
            self.unscored[minute] = n
        else:
            self.unscored.pop(minute, None)

    def scored_until(self) -> int:
        """Before this event time every sample that was read was scored."""
        return min((m for m, n in self.unscored.items() if n > 0), default=self.complete_ms + 1)

    def forget(self, until_ms: int) -> None:
        """What closed before is over, scored or not: a batch that could not be learned is not."""
        for minute in [m for m in self.unscored if m < until_ms]:
            del self.unscored[minute]


class ScoreLane(Struct):
    """A partition of ``instep.scores``."""

    next_offset: int = 0
    at_ms: int = -1
    """Closing time of the newest sample scored."""
    epoch: int = 0
    repeated_ms: int = -1
    """After a rollback the trainer learns again what closed until then."""

    def take(self, partition: int, offset: int, scored: Scored) -> bool:
        """The next record; False if the same sample was scored before, in an earlier epoch or it seems in this one.

        Predictions of a partition are in the order in which its samples closed. A broker that was killed may let those
        of a transaction be seen that never ended, and then the trainer's second try: these are passed over.

        Raises
        ------
        OutOfOrderError
            If its offset is not behind the last one's.
        """
        if offset < self.next_offset:
            raise OutOfOrderError(f"scores {partition}:{offset}: expected offset >= {self.next_offset}")
        self.next_offset = offset + 1
        if scored.version.epoch > self.epoch:
            self.epoch, self.repeated_ms = scored.version.epoch, self.at_ms
        is_new = scored.closed_ms > self.repeated_ms
        if is_new and scored.closed_ms < self.at_ms:
            what = "a score is out of order, passed over partition=%d offset=%d closed_ms=%d after=%d"
            log.warning(what, partition, offset, scored.closed_ms, self.at_ms)
            return False
        self.at_ms = max(self.at_ms, scored.closed_ms)
        return is_new


def increments(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """How far the counts of a joiner have grown, by name; nothing where one has gone down, since it has begun again.

    >>> increments({"impression": 7, "click": 2}, {"impression": 9, "click": 2})
    {'impression': 2, 'click': 0}
    >>> increments({"impression": 7, "click": 2}, {"impression": 9, "click": 1})
    {}
    """
    if not before or any(now.get(name, 0) < n for name, n in before.items() if name != "pending"):
        return {}
    return {name: n - before.get(name, 0) for name, n in now.items() if name != "pending"}
