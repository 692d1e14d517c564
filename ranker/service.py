"""The ranker as a service: what is done for each request, between the HTTP of `ranker.http` and the model.

request --> thread pool: history, keys --> thread of the mirror: search, attention, scores --> answer
                                                                                  |
                                             event log <-- outbox <-- impression -+
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import msgspec
import numpy as np

from ranker.api import (
    Behaviour,
    EventResult,
    EventsResponse,
    ExplainResponse,
    HistoryUsed,
    NewAction,
    NewImpression,
    RankRequest,
    RankResponse,
)
from ranker.audit import Auditor
from ranker.live import LiveModel
from ranker.lookups import Lookups
from ranker.names import Names
from ranker.outbox import Outbox
from ranker.ranker import History, Ranked, Scorer
from ranker.remembered import RememberedProfiles
from ranker.together import Together
from stream.events import UNREADABLE, Action, BadEvent, Candidate, Impression, Value, key_of
from stream.history import digest
from stream.metrics import Metrics
from trainer.batch import Batch

FULL = "no room: the event log does not take them as fast as they come, send it again later"

_event_decoder = msgspec.json.Decoder(NewImpression | NewAction)


@dataclass(frozen=True)
class RankerRules:
    """What bounds the service."""

    max_candidates: int = 5_000
    max_history: int = 2_048
    max_behind_ms: int = 60_000
    """A mirror that has not been in step with the index for so long is not ready."""


@dataclass(frozen=True)
class _Slate:
    batch: Batch
    used: HistoryUsed


class RankerService:
    """Answers requests; everything that it is made of is given, and is started and ended with it.

    Parameters
    ----------
    auditor
        None for no audits.
    """

    def __init__(
        self,
        live: LiveModel,
        profiles: RememberedProfiles,
        outbox: Outbox,
        scorer: Scorer,
        names: Names,
        lookups: Lookups,
        auditor: Auditor | None,
        metrics: Metrics,
        rules: RankerRules,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self.live = live
        self.lookups = lookups
        self.metrics = metrics
        self._profiles = profiles
        self._outbox = outbox
        self._scorer = scorer
        self._together = Together(live, scorer)
        self._names = names
        self._rules = rules
        self._now_ms = now_ms
        self._auditor = auditor

    def start(self) -> None:
        """Begin to follow the index, to write events, and to audit."""
        self.live.start()
        self._outbox.start()
        if self._auditor is not None:
            self._auditor.start()

    def close(self) -> None:
        """End all that was started; events that wait are written if that can be done in time."""
        if self._auditor is not None:
            self._auditor.close()
        self._outbox.close()
        self.live.close()

    @property
    def not_ready(self) -> str:
        """Why requests should go elsewhere; empty if they need not."""
        if self.live.version is None:
            return "nothing published yet"
        if (behind_ms := self.live.behind_ms) > self._rules.max_behind_ms:
            return f"not in step with the index for {behind_ms} ms"
        return ""

    def tell(self) -> None:
        """Set the metrics that change by themselves."""
        self.metrics.set("instep_ready", not self.not_ready)
        self.metrics.set("instep_behind_seconds", self.live.behind_ms / 1000)
        self.metrics.set("instep_outbox_waiting", self._outbox.n_waiting)
        if self.live.version is not None:
            self.metrics.set("instep_age_seconds", self.live.age_ms / 1000)

    async def rank(self, request: RankRequest) -> RankResponse:
        """Score a slate.

        Raises
        ------
        BadEvent
            If a feature has the wrong type, or there are too many candidates.
        NotReadyError
            Before the first publication.
        """
        now_ms = self._now_ms()
        at_ms = now_ms if request.at_ms is None else request.at_ms
        self._check_size(len(request.candidates))
        slate = await asyncio.to_thread(self._slate, request, at_ms)
        ranked = await asyncio.wrap_future(self._together.score(slate.batch))
        impression = uuid4().hex
        logged = request.log and self._log(request, impression, at_ms, ranked, slate.used.digest)
        return RankResponse(
            impression=impression,
            scores=ranked.scores.tolist(),
            version=ranked.version,
            index_version=self.live.index_version or ranked.version,
            age_ms=max(0, now_ms - ranked.at_ms),
            behind_ms=self.live.behind_ms,
            history=slate.used,
            logged=logged,
            kinds=self._kinds(ranked),
        )

    def take(self, raw: list[msgspec.Raw]) -> EventsResponse:
        """Judge events, and put the good ones on their way to the log."""
        now_ms = self._now_ms()
        results = [self._take(bytes(one), now_ms) for one in raw]
        return EventsResponse(sum(result.ok for result in results), results)

    async def explain(
        self, user: str, item: str, features: Mapping[str, Value] | None, context: Mapping[str, Value]
    ) -> ExplainResponse:
        """What the score of one candidate is made of; features are those that it was last seen with, if None.

        Raises
        ------
        BadEvent
            If a feature has the wrong type.
        NotReadyError
            Before the first publication, and for a model that does not attend.
        """
        if features is None:
            known = self._names.of(key_of("item", item))
            features = known[1] if known else {}
        request = RankRequest(user, [Candidate(item, dict(features))], dict(context))
        slate = await asyncio.to_thread(self._slate, request, self._now_ms())
        return await self.lookups.explain(item, slate.batch)

    def _kinds(self, ranked: Ranked) -> dict[str, list[float]]:
        """What is told of the kinds of action, if there are several."""
        kinds = self._scorer.worth
        return dict(zip(kinds, ranked.p.T.tolist(), strict=True)) if len(kinds) > 1 else {}

    def _check_size(self, n: int) -> None:
        if n > (most := self._rules.max_candidates):
            raise BadEvent(f"Expected at most {most} candidates, got {n} - at `$.candidates`")

    def _slate(self, request: RankRequest, at_ms: int) -> _Slate:
        history, used = self._history(request, at_ms)
        batch = self._scorer.slate(request.user, request.candidates, request.context, at_ms, history)
        for candidate, keys in zip(request.candidates, batch.items.tolist(), strict=True):
            self._names.put(candidate.item, candidate.features, keys)
        return _Slate(batch, used)

    def _history(self, request: RankRequest, at_ms: int) -> tuple[History, HistoryUsed]:
        if request.behaviours is not None:
            columns = self._given(request.behaviours, at_ms)
            return columns, HistoryUsed(len(columns[1]), "request", 0, _digest(columns))
        read = self._profiles.get(key_of("user", request.user), at_ms)
        columns = read.keys, read.at_ms
        if read.read_ms is None:
            return columns, HistoryUsed(0, "none", None, "")
        age_ms = max(0, self._now_ms() - read.read_ms)
        return columns, HistoryUsed(
            len(read.at_ms), "profile" if read.is_fresh else "memory", age_ms, _digest(columns)
        )

    def _given(self, behaviours: Sequence[Behaviour], at_ms: int) -> History:
        """The most recent of these before a moment, oldest first."""
        fields = self._scorer.fields
        rows = [
            (b.at_ms, fields.item_keys(b.item, b.features, f"$.behaviours[{i}]"))
            for i, b in enumerate(behaviours)
        ]
        past = sorted((row for row in rows if row[0] < at_ms), key=lambda row: row[0])
        past = past[-self._rules.max_history :]
        keys = np.array([keys for _, keys in past], np.uint64)
        return keys.reshape(len(past), len(fields.item)), np.array([at for at, _ in past], np.int64)

    def _log(self, request: RankRequest, impression: str, at_ms: int, ranked: Ranked, used: str) -> bool:
        if not request.candidates:
            return False
        scored = zip(request.candidates, ranked.scores.tolist(), strict=True)
        candidates = [Candidate(c.item, c.features, score) for c, score in scored]
        event = Impression(impression, request.user, at_ms, candidates, request.context, ranked.version, used)
        try:
            return self._outbox.put([event])
        except BadEvent:
            return False

    def _take(self, raw: bytes, now_ms: int) -> EventResult:
        try:
            event = _event_decoder.decode(raw).event(now_ms)
            if isinstance(event, Action):
                self._names.note(event.item, event.features)
            else:
                self._scorer.fields.side_keys(event.user, event.context)
                for i, c in enumerate(event.candidates):
                    keys = self._scorer.fields.item_keys(c.item, c.features, f"$.candidates[{i}]")
                    self._names.put(c.item, c.features, keys)
            return EventResult(True) if self._outbox.put([event]) else EventResult(False, FULL)
        except (*UNREADABLE, BadEvent) as e:
            return EventResult(False, str(e))


def _digest(history: History) -> str:
    keys, at_ms = history
    return digest(keys.tobytes(), at_ms.tobytes())


__all__ = ["RankerRules", "RankerService"]
