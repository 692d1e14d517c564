"""Windows of event time that are open: minutes, to which records are added, and the longer ones that they make up.

>>> import numpy as np
>>> windows = Windows(Tally)
>>> for at_ms in (5, 59_999, 60_000, 600_000):
...     windows.at(at_ms).add("n", np.array([1]))
>>> [(size_ms, start_ms, int(w.get("n", (1,))[0])) for size_ms, start_ms, w in windows.close(600_000)]
[(60000, 0, 2), (60000, 60000, 1), (600000, 0, 3)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from monitor.row import SIZES_MS
from monitor.tally import Tally

MINUTE_MS, TEN_MS, HOUR_MS = SIZES_MS


class Merging(Protocol):
    """What windows hold: sketches that add up."""

    def merge(self, other: Any) -> None: ...

    def encode(self) -> Any: ...


W = TypeVar("W", bound=Merging)
S = TypeVar("S")


class Windows(Generic[W]):
    """The open windows of one source; ``new`` makes an empty one."""

    def __init__(self, new: Callable[[], W]) -> None:
        self._new = new
        self.open: dict[int, dict[int, W]] = {size: {} for size in SIZES_MS}
        """By size and beginning."""

    def at(self, at_ms: int) -> W:
        """The minute of a moment, opened if need be."""
        return self._get(MINUTE_MS, at_ms)

    @property
    def soonest_ms(self) -> int:
        """When the first of the open minutes ends; far away if none is open."""
        return min(self.open[MINUTE_MS], default=1 << 62) + MINUTE_MS

    def close(self, until_ms: int) -> Iterator[tuple[int, int, W]]:
        """The windows that end by then, ``(size, start, window)`` in the order of their ends, shorter ones first.

        A minute goes into the longer windows around it when the next one is asked for.
        """
        while True:
            due = [
                (start + size, size, start)
                for size, windows in self.open.items()
                for start in windows
                if start + size <= until_ms
            ]
            if not due:
                return
            _, size, start = min(due)
            window = self.open[size].pop(start)
            yield size, start, window
            if size == MINUTE_MS:
                for longer in (TEN_MS, HOUR_MS):
                    self._get(longer, start).merge(window)

    def encode(self) -> dict[int, dict[int, Any]]:
        """All that is open."""
        return {
            size: {start: window.encode() for start, window in windows.items()}
            for size, windows in self.open.items()
        }

    def load(self, state: Mapping[int, Mapping[int, S]], decode: Callable[[S], W]) -> None:
        """Go on from what was encoded."""
        for size, windows in state.items():
            self.open[size] = {start: decode(window) for start, window in windows.items()}

    def _get(self, size_ms: int, at_ms: int) -> W:
        start = at_ms // size_ms * size_ms
        windows = self.open[size_ms]
        if (window := windows.get(start)) is None:
            window = windows[start] = self._new()
        return window


class Reference:
    """The windows of one size before the one that closes, merged: what it is compared with.

    The most recent ``skip`` are left out, so that a drift is not at once its own reference.

    Parameters
    ----------
    n
        How many windows it is made of.
    least
        Below so many there is none.

    >>> import numpy as np
    >>> reference = Reference(n=2, least=1)
    >>> for n in (1, 2, 4, 8):
    ...     window = Tally()
    ...     window.add("n", np.array([n]))
    ...     print(reference.of("n"))
    ...     reference.push(window)
    None
    None
    [1]
    [3]
    """

    def __init__(self, n: int, least: int, skip: int = 1) -> None:
        self._n, self._least, self._skip = n, least, skip
        self._windows: list[Tally] = []
        self._sum = Tally()

    def of(self, name: str) -> Any:
        """The merged array of that name, None while there are too few windows."""
        if len(self._windows) - self._skip < self._least:
            return None
        return self._sum.arrays.get(name)

    def push(self, window: Tally) -> None:
        """The next window has closed."""
        self._windows.append(window)
        if len(self._windows) > self._skip:
            self._sum.merge(self._windows[-1 - self._skip])
        if len(self._windows) > self._n + self._skip:
            self._sum.take_out(self._windows.pop(0))

    def encode(self) -> list[Any]:
        """All of it."""
        return [window.encode() for window in self._windows]

    def load(self, windows: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what was encoded."""
        for window in windows:
            self.push(Tally.decode(window))


REFERENCES = {MINUTE_MS: (60, 15), TEN_MS: (36, 9), HOUR_MS: (24, 6)}
"""Of how many windows a reference is made, and of how many at least: an hour of minutes, six of tens, a day of
hours."""


def references() -> dict[int, Reference]:
    """One for each size of window."""
    return {size: Reference(n, least) for size, (n, least) in REFERENCES.items()}


__all__ = ["HOUR_MS", "MINUTE_MS", "TEN_MS", "Reference", "Windows", "references"]
