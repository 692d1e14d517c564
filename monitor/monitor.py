"""Monitor: what workers wrote in; windows judged, shown and told of. The service and a replay run the same.

What closes goes one way::

    samples, scores, publications -> Watch -> windows -> Judge -> alerts -> Delivery
                                                |                   |
                                                +--> Board -> page <+

A monitor that begins again a little earlier than it had come measures some windows again. What is shown already stands,
and it is what the judge sees; so a restart takes nothing back.
"""

from __future__ import annotations

import logging
import zlib
from typing import Literal

import msgspec
from msgspec import Struct

from monitor.alerting import Judge, Judged
from monitor.board import Board, Stage, Status
from monitor.delivery import Delivery
from monitor.row import Row
from monitor.rules import Rules
from monitor.watch import Watch
from monitor.watched import WatchRules
from stream.events import Sample, Tick, Version
from trainer.gate import Band
from trainer.publication import Publication, Refused
from trainer.scored import Scored

log = logging.getLogger(__name__)

BY_ORDER = "ordered"
"""Why a trainer holds that a person told to."""


class Standing(Struct, frozen=True):
    """What the trainer said of itself last."""

    held: str = ""
    held_since_ms: int | None = None
    """Closing time of the newest sample that was learned before."""
    bands: tuple[Band, ...] = ()


class _Saved(Struct):
    made_with: bytes
    watch: bytes
    judge: bytes
    standing: Standing


class Monitor:
    """A watch, a judge, and a board that shows what they find.

    Parameters
    ----------
    judged_by
        The rules of alerts.
    board
        What is shown already; this adds to it.
    delivery
        Who is told besides.
    has_breaker
        Whether figures can hold the trainer.
    state
        Of an earlier one. One of other rules, or nothing that was encoded here, is as none.
    """

    def __init__(
        self,
        rules: WatchRules,
        judged_by: Rules,
        board: Board,
        delivery: Delivery,
        *,
        has_breaker: bool = True,
        state: bytes | None = None,
    ) -> None:
        self.board = board
        self._made_with = _digest(rules)
        self._delivery = delivery
        self._has_breaker = has_breaker
        self._rules = rules
        self._judged_by = judged_by
        self._standing = Standing()
        self._begin(state)

    @property
    def offsets(self) -> dict[str, dict[int, int]]:
        """See `Watch.offsets`."""
        return self._watch.offsets

    @property
    def ahead(self) -> bool:
        """See `Watch.ahead`."""
        return self._watch.ahead

    def sample(self, partition: int, offset: int, message: Sample | Tick) -> None:
        """See `Watch.sample`."""
        self._watch.sample(partition, offset, message)

    def scored(self, partition: int, offset: int, message: Scored) -> None:
        """See `Watch.scored`."""
        self._watch.scored(partition, offset, message)

    def published(self, publication: Publication, next_offset: int) -> None:
        """See `Watch.published`."""
        held, since_ms = publication.why_held, self._standing.held_since_ms
        since_ms = None if not held else publication.at_ms if since_ms is None else since_ms
        self._standing = Standing(held, since_ms, publication.bands)
        self._watch.published(publication, next_offset)

    def refused(self, refused: Refused, next_offset: int) -> None:
        """See `Watch.refused`."""
        self._watch.refused(refused, next_offset)

    def indexed(self, version: Version, at_ms: int) -> None:
        """See `Watch.indexed`."""
        self._watch.indexed(version, at_ms)

    def turn(self) -> list[Row]:
        """Judge, show and tell of the windows that have closed; which these were."""
        closed = [self.board.add(row) for row in self._watch.take()]
        for row in closed:
            news = self._delivery.tell(self._judge.add(row))
            news += self._delivery.tell(Judged(cleared=self._judge.missed(self._delivery.record.alerts)))
            for alert in news:
                self.board.put(alert)
        return closed

    def tell(self, heard_ms: int | None = None) -> None:
        """Show how things stand.

        Parameters
        ----------
        heard_ms
            Wall time at which the log was last heard of. None is for what has no clock but the log's.
        """
        at_ms = self._watch.at_ms
        if at_ms is None:
            return
        standing, by_order = self._standing, self._standing.held == BY_ORDER
        breaker: Literal["open", "closed"] = "open" if standing.held and not by_order else "closed"
        self.board.tell(
            Status(
                at_ms=at_ms,
                heard_ms=at_ms if heard_ms is None else heard_ms,
                held="ordered by a person" if by_order else standing.held,
                held_since_ms=standing.held_since_ms,
                breaker=breaker if self._has_breaker else "none",
                bands=standing.bands,
                stages={name: Stage(version, ms) for name, (version, ms) in self._watch.stages.items()},
                counts=self._watch.counts,
            )
        )

    def load(self, state: bytes) -> None:
        """Go on from the state of an earlier one; see there."""
        self._begin(state)

    def state(self) -> bytes:
        """All that another one needs to go on; what is shown is kept by `Board.encode`."""
        return msgspec.msgpack.encode(
            _Saved(self._made_with, self._watch.state(), self._judge.encode(), self._standing)
        )

    def _begin(self, state: bytes | None) -> None:
        if state is None or not self._restore(state):
            self._watch, self._judge, self._standing = Watch(self._rules), Judge(self._judged_by), Standing()
        self._delivery.resume(self._judge.open)
        for alert in self._delivery.record.alerts:
            self.board.put(alert)

    def _restore(self, state: bytes) -> bool:
        """Whether that could be gone on from."""
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
            if saved.made_with != self._made_with:
                log.warning("the monitor begins anew, its state is of other settings")
                return False
            self._watch = Watch(self._rules, saved.watch)
            self._judge = Judge.decode(self._judged_by, saved.judge)
        except (msgspec.MsgspecError, ValueError, LookupError, zlib.error) as e:
            log.warning("the monitor begins anew, its state cannot be read error=%s", e)
            return False
        self._standing = saved.standing
        return True


def _digest(rules: WatchRules) -> bytes:
    """Tells what is watched from anything else."""
    named = (rules.partitions, rules.kinds, rules.item_fields, rules.side_fields, rules.k)
    return msgspec.json.encode(named) + rules.planes.tobytes()
