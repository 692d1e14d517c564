"""Slates that wait for the mirror at the same time are scored as one batch.

What a batch costs besides its candidates is paid once then: eight slates of 20 take a third of the time that they take
one by one, eight of 200 three quarters (`python -m benchmarks.ranker`). Nobody waits for company: who finds the mirror
idle is scored alone.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

from ranker.live import LiveModel
from ranker.mirror import Mirror
from ranker.ranker import NotReadyError, Ranked, Scorer
from trainer.batch import Batch

MOST_SLATES, MOST_CANDIDATES = 16, 1_000
"""Of a batch: after so many of either no more are added."""
MOST_WAITING = 256
"""Slates: with so many before it another one is refused, so that an answer is late by a second at most."""


class Together:
    """Scores slates, those that wait together."""

    def __init__(self, live: LiveModel, scorer: Scorer) -> None:
        self._live = live
        self._scorer = scorer
        self._waiting: deque[tuple[Batch, Future[Ranked]]] = deque()

    def score(self, slate: Batch) -> Future[Ranked]:
        """Score a batch of one sample.

        Raises
        ------
        NotReadyError
            If too many wait; and by the future, see `Scorer.score`.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise NotReadyError(f"ranker: expected less than {MOST_WAITING} requests at a time, got more")
        future: Future[Ranked] = Future()
        self._waiting.append((slate, future))
        self._live.submit(
            self._score
        )  # one job a slate: the first takes what waits, the others may find nothing
        return future

    def _score(self, mirror: Mirror) -> None:
        slates: list[Batch] = []
        futures: list[Future[Ranked]] = []
        n_candidates = 0
        while self._waiting and len(slates) < MOST_SLATES and n_candidates < MOST_CANDIDATES:
            slate, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                slates.append(slate)
                futures.append(future)
                n_candidates += slate.n_candidates
        if not slates:
            return
        try:
            ranked = self._scorer.score_all(mirror, slates)
        except Exception as e:
            for future in futures:
                future.set_exception(e)
        else:
            for future, one in zip(futures, ranked, strict=True):
                future.set_result(one)
