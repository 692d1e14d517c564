"""Publications on their way into windows: each waits until the minutes before it are over in the samples as well."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.codes import Codes, CodesState, CodesWindow, CodesWindowState
from monitor.sampled import Searched
from monitor.windows import MINUTE_MS, Windows
from trainer.publication import Publication, Refused

KEPT_SEARCHES = 120
"""For so many minutes slates are kept that publications will be tried on; without them an overlap is not known."""


class PublishedState(Struct, array_like=True):
    """As it is kept, without what waits: that is read again."""

    next_offset: int
    windows: dict[int, dict[int, CodesWindowState]]
    held: CodesState
    searches: dict[int, list[Searched]]


class Published:
    """The rows held, the windows of publications, and the slates that the search is tried on.

    Parameters
    ----------
    planes
        float32 ``[coded fields, dim, bits]``.
    n_fields
        Item fields of a slate.
    k
        How many behaviours a search finds.
    """

    def __init__(self, planes: NDArray[np.float32], n_fields: int, k: int) -> None:
        self.waiting: deque[tuple[int, Publication | Refused]] = deque()
        self.next_offset = 0
        """Of the model log, behind the last publication that was taken in."""
        self._n_fields, self._k = n_fields, k
        self._held = Codes(planes)
        self._windows = Windows(CodesWindow)
        self._searches: dict[int, list[Searched]] = {}  # by the beginning of the minute

    def keep(self, start_ms: int, slates: list[Searched]) -> None:
        """A minute of samples has closed, with these slates to try the search on."""
        self._searches[start_ms] = slates
        while len(self._searches) > KEPT_SEARCHES:
            del self._searches[min(self._searches)]

    def take(self, until_ms: int | None) -> Iterator[tuple[int, int, CodesWindow]]:
        """Take in what waits, as far as the samples before ``until_ms`` allow; gives out the windows that it closes."""
        while self.waiting:
            next_offset, publication = self.waiting[0]
            at_ms, end_ms = publication.at_ms, self._windows.soonest_ms
            if self._windows.open[MINUTE_MS]:
                at_ms = max(at_ms, end_ms - MINUTE_MS)  # of a rollback, earlier
            if at_ms >= end_ms:
                if until_ms is None or until_ms < end_ms:
                    return
                yield from self._close(at_ms)
            tally = self._windows.at(at_ms).tally
            if isinstance(publication, Refused):
                tally.add("refused", np.array([1, 1]))
            else:
                tally.add("refused", np.array([0, 1]))
                self._held.apply(publication, tally)
            self.waiting.popleft()
            self.next_offset = next_offset

    def _close(self, until_ms: int) -> Iterator[tuple[int, int, CodesWindow]]:
        for size, start, window in self._windows.close(until_ms):
            if size == MINUTE_MS:
                self._held.search(self._searches.get(start, []), self._n_fields, self._k, window.tally)
                window.last = self._held.look()
                self._searches = {minute: s for minute, s in self._searches.items() if minute > start}
            yield size, start, window

    def encode(self) -> PublishedState:
        """All of it but what waits."""
        return PublishedState(self.next_offset, self._windows.encode(), self._held.encode(), self._searches)

    def load(self, state: PublishedState) -> None:
        """Go on from what was encoded. ValueError if it was of other planes."""
        self.next_offset, self._searches = state.next_offset, state.searches
        self._windows.load(state.windows, CodesWindow.decode)
        self._held.load(state.held)
