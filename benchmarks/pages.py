"""The ``/metrics`` of a running worker, read and compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.services.ready import DidNotStart

Labels = tuple[tuple[str, str], ...]


class Page:
    """The samples of one page, by name and labels."""

    def __init__(self, text: str) -> None:
        self.samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                self.samples.setdefault(sample.name, {})[labels] = sample.value

    def total(self, name: str) -> float:
        """The sum over all labels; 0 for what was never set.

        >>> Page('lag{partition="0"} 2.0\\nlag{partition="1"} 3.0\\n').total("lag")
        5.0
        """
        return sum(self.samples.get(name, {}).values())

    def buckets(self, name: str, stage: str) -> dict[float, float]:
        """Of a histogram: how many values were at most so much."""
        found = self.samples.get(f"{name}_bucket", {})
        return {float(dict(k)["le"]): n for k, n in found.items() if dict(k).get("stage") == stage}


def quantiles(before: Page, after: Page, name: str, stage: str) -> dict[str, float]:
    """p50 and p95 of what came into a histogram between two pages, straight lines within its buckets.

    >>> empty, page = Page(""), Page('x_bucket{stage="a",le="1"} 0\\nx_bucket{stage="a",le="2"} 10\\n')
    >>> quantiles(empty, page, "x", "a")
    {'p50': 1.5, 'p95': 1.95, 'n': 10}
    """
    was = before.buckets(name, stage)
    counts = sorted((le, n - was.get(le, 0.0)) for le, n in after.buckets(name, stage).items())
    n = counts[-1][1] if counts else 0
    if not n:
        return {"n": 0}
    return {f"p{q}": round(_at(counts, q / 100 * n), 3) for q in (50, 95)} | {"n": int(n)}


def _at(counts: list[tuple[float, float]], wanted: float) -> float:
    low, below = 0.0, 0.0
    for le, n in counts:
        if n >= wanted:
            return low + (min(le, 1e9) - low) * (wanted - below) / (n - below)
        low, below = le, n
    return low


def read(port: int) -> Page:
    """The page of the worker on a port."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return Page(answer.read().decode())


def await_alive(port: int, alive: Callable[[], bool], within_s: float = 60.0) -> None:
    """Return when the worker on a port has a page.

    Raises
    ------
    DidNotStart
        If it has none in time, or is not alive any more.
    """
    deadline = time.monotonic() + within_s
    while alive() and time.monotonic() < deadline:
        try:
            read(port)
            return
        except (URLError, ConnectionError):
            time.sleep(0.05)
    raise DidNotStart(f"expected /metrics on port {port} within {within_s:g} s, got none")
