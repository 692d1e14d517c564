"""The ranker as a service: what is done for each request, between the HTTP of `ranker.http` and the model.

request --> thread pool: history, keys --> thread of the mirror: search, attention, scores --> answer
                                                                                  |
                                             event log <-- outbox <-- impression -+
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import TypeVar
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.index import Index
from ranker.api import (
    Attended,
    EventResult,
    EventsResponse,
    ExplainResponse,
    HistoryUsed,
    NewAction,
    NewImpression,
    RankRequest,
    RankResponse,
    SimilarItem,
    SimilarResponse,
)
from ranker.audit import audit, sample
from ranker.explain import explain
from ranker.live import LiveModel
from ranker.mirror import Mirror
from ranker.names import Names
from ranker.outbox import Outbox
from ranker.ranker import History, NotReadyError, Ranked, Scorer
from ranker.remembered import RememberedProfiles
from ranker.together import Together
from stream.events import Action, BadEvent, Candidate, Impression, Value, Version, key_of
from stream.history import digest
from stream.log import Unavailable
from stream.metrics import Metrics
from trainer.batch import Batch
from trainer.learner import locate
from trainer.model.simhash import hamming, item_codes

log = logging.getLogger(__name__)

T = TypeVar("T")

AUDIT_ROWS = 256
FULL = "no room: the event log does not take them as fast as they come, send it again later"

_event_decoder = msgspec.json.Decoder(NewImpression | NewAction)


@dataclass(frozen=True)
class RankerRules:
    """What bounds the service."""

    max_candidates: int = 5_000
    max_history: int = 2_048
    max_behind_ms: int = 60_000
    """A mirror that has not been in step with the index for so long is not ready."""
    audit_ms: int = 10_000
    """How often rows are audited; 0 for never."""


@dataclass(frozen=True)
class _Slate:
    batch: Batch
    used: HistoryUsed


class RankerService:
    """Answers requests; everything that it is made of is given, and is started and ended with it.

    Parameters
    ----------
    planes
        Of the codes, for the audit; float32 ``[F, d, bits]``.
    """

    def __init__(
        self,
        live: LiveModel,
        index: Index,
        profiles: RememberedProfiles,
        outbox: Outbox,
        scorer: Scorer,
        names: Names,
        planes: NDArray[np.float32],
        metrics: Metrics,
        rules: RankerRules,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self.live = live
        self.metrics = metrics
        self._index = index
        self._profiles = profiles
        self._outbox = outbox
        self._scorer = scorer
        self._together = Together(live, scorer)
        self._names = names
        self._planes = planes
        self._rules = rules
        self._now_ms = now_ms
        self._stop = Event()
        self._auditor = Thread(target=self._audit_often, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to follow the index, to write events, and to audit."""
        self.live.start()
        self._outbox.start()
        if self._rules.audit_ms:
            self._auditor.start()

    def close(self) -> None:
        """End all that was started; events that wait are written if that can be done in time."""
        self._stop.set()
        self._outbox.close()
        self.live.close()
        if self._auditor.is_alive():
            self._auditor.join()

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
        )

    def take(self, raw: list[msgspec.Raw]) -> EventsResponse:
        """Judge events, and put the good ones on their way to the log."""
        now_ms = self._now_ms()
        results = [self._take(bytes(one), now_ms) for one in raw]
        return EventsResponse(sum(result.ok for result in results), results)

    async def similar(self, item: str, n: int) -> SimilarResponse | None:
        """The items whose codes are nearest, of those asked for of late; None for an item that was not.

        Raises
        ------
        NotReadyError
            Before the first publication.
        """
        known = self._names.of(key_of("item", item))
        if known is None:
            return None
        keys = self._names.keys()
        query = np.array([self._names.note(*known)], np.uint64)

        def near(mirror: Mirror) -> tuple[Version, NDArray[np.int64]]:
            if mirror.version is None:
                raise NotReadyError("ranker: expected a published model, got none yet")
            return mirror.version, hamming(_codes(mirror, query), _codes(mirror, keys))

        version, distances = await self._with_model(near)
        found = []
        for place in np.argsort(distances, kind="stable")[: n + 1].tolist():
            named = self._names.of(int(keys[place, 0]))
            if named is not None and named[0] != item:
                found.append(SimilarItem(named[0], int(distances[place])))
        return SimilarResponse(item, self._planes.shape[2], version, found[:n])

    async def explain(
        self, user: str, item: str, features: Mapping[str, Value] | None, context: Mapping[str, Value]
    ) -> ExplainResponse:
        """What the score of one candidate is made of.

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
        batch = slate.batch
        got = await self._with_model(lambda mirror: explain(self._scorer, mirror, batch))
        weights = got.weights.mean(1)
        behaviours = []
        for i in np.argsort(-weights, kind="stable").tolist():
            place = int(got.positions[i])
            key = int(batch.sequence[place, 0])
            named = self._names.of(key)
            behaviours.append(
                Attended(
                    item=named[0] if named else None,
                    key=f"{key:016x}",
                    at_ms=int(batch.sequence_at[place]),
                    part="long" if got.is_long[i] else "short",
                    distance=int(got.distances[i]),
                    weight=float(weights[i]),
                )
            )
        return ExplainResponse(item, got.score, got.version, got.is_young, len(batch.sequence_at), behaviours)

    def audit(self, rng: np.random.Generator) -> None:
        """Compare the codes of some rows in mirror, index and model, and tell.

        Raises
        ------
        Unavailable
            If the index does not answer.
        """
        rows = self.live.submit(lambda mirror: sample(mirror, AUDIT_ROWS, rng)).result()
        if rows is None:
            return
        found = audit(rows, self._planes, self._index.get(rows.keys))
        self.metrics.add("instep_audit_rows_total", found.n_rows, outcome="mirror")
        self.metrics.add("instep_audit_rows_total", found.n_compared, outcome="index")
        self.metrics.add("instep_audit_bits_total", found.mirror_bits, outcome="mirror")
        self.metrics.add("instep_audit_bits_total", found.index_bits, outcome="index")
        if found.mirror_bits or found.index_bits:
            what = "codes are not in step version=%s n_rows=%d mirror_bits=%d index_bits=%d"
            log.error(what, rows.version, found.n_rows, found.mirror_bits, found.index_bits)

    async def _with_model(self, job: Callable[[Mirror], T]) -> T:
        return await asyncio.wrap_future(self.live.submit(job))

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
            past = sorted((b for b in request.behaviours if b.at_ms < at_ms), key=lambda b: b.at_ms)
            past = past[-self._rules.max_history :]
            fields = self._scorer.fields
            keys = [fields.item_keys(b.item, b.features, f"$.behaviours[{i}]") for i, b in enumerate(past)]
            columns = (
                np.array(keys, np.uint64).reshape(len(keys), len(fields.item)),
                np.array([b.at_ms for b in past], np.int64),
            )
            return columns, HistoryUsed(len(keys), "request", 0, _digest(columns))
        read = self._profiles.get(key_of("user", request.user), at_ms)
        columns = read.keys, read.at_ms
        if read.read_ms is None:
            return columns, HistoryUsed(0, "none", None, "")
        age_ms = max(0, self._now_ms() - read.read_ms)
        return columns, HistoryUsed(
            len(read.at_ms), "profile" if read.is_fresh else "memory", age_ms, _digest(columns)
        )

    def _log(self, request: RankRequest, impression: str, at_ms: int, ranked: Ranked, used: str) -> bool:
        if not request.candidates:
            return False
        scored = zip(request.candidates, ranked.scores.tolist(), strict=True)
        candidates = [Candidate(c.item, c.features, score) for c, score in scored]
        event = Impression(impression, request.user, at_ms, candidates, request.context, ranked.version, used)
        return self._outbox.put([event])

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
        except (msgspec.DecodeError, BadEvent) as e:
            return EventResult(False, str(e))
        return EventResult(True) if self._outbox.put([event]) else EventResult(False, FULL)

    def _audit_often(self) -> None:
        rng = np.random.default_rng()
        while not self._stop.wait(self._rules.audit_ms / 1000):
            try:
                self.audit(rng)
            except Unavailable as e:
                log.info("no audit, the index is away error=%s", e)


def _codes(mirror: Mirror, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Codes ``[n, words]`` of items ``[n, F]``; one without a row reads as its category, as in a search."""
    nothing = np.zeros(0, np.int64)
    batch = Batch(
        side=np.zeros((0, 1), np.uint64),
        at_ms=nothing,
        items=keys,
        first=np.zeros(1, np.int64),
        labels=np.zeros((0, 1), np.float32),
        stage=np.zeros(0, np.uint8),
        sequence=keys[:0],
        sequence_at=nothing,
        start=np.zeros(1, np.int64),
    )
    slots = locate(mirror.table, batch).items
    return item_codes(mirror.table.codes, slots[:, : mirror.network.shape.n_coded])


def _digest(history: History) -> str:
    keys, at_ms = history
    return digest(keys.tobytes(), at_ms.tobytes())


__all__ = ["RankerRules", "RankerService"]
