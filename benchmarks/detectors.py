"""How soon detectors see a change, and how often they see one that is not there: ``python -m benchmarks.detectors``.

On simulated series of window statistics, a minute each: white noise about a level, as of windows that are independent,
and noise about a level that wanders, as of a world that is never quite still. Changes are in standard deviations of a
window. Each detector is used as a rule uses it: the last 60 windows are remembered, what is out is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from monitor.changes import Adwin, Kswin, PageHinkley
from monitor.detectors import Band, Detector, Usual
from monitor.row import Value

DAY = 1_440
N_DAYS = 20
N_TRIALS = 60
BEFORE, AFTER = 90, 60
STEPS = (1.0, 2.0, 4.0, 8.0)
LEVEL, STD = 1.0, 0.05
DETECTORS: dict[str, tuple[Detector, int]] = {
    "band, z = 4": (Band(z=4), 1),
    "band, z = 5": (Band(z=5), 1),
    "band, z = 6": (Band(z=6), 1),
    "band, z = 3, two in a row": (Band(z=3), 2),
    "band, z = 4, two in a row": (Band(z=4), 2),
    "ADWIN, delta = 0.002": (Adwin(delta=0.002), 1),
    "ADWIN, delta = 1e-5": (Adwin(delta=1e-5), 1),
    "Page-Hinkley, 0.5, 8": (PageHinkley(delta=0.5, threshold=8), 1),
    "Page-Hinkley, 0.5, 15": (PageHinkley(delta=0.5, threshold=15), 1),
    "Page-Hinkley, 1, 10": (PageHinkley(delta=1.0, threshold=10), 1),
    "KSWIN, alpha = 1e-4": (Kswin(alpha=1e-4), 1),
    "KSWIN, alpha = 1e-6": (Kswin(alpha=1e-6), 1),
}
"""Each with how many windows in a row it takes."""

Noise = Callable[[np.random.Generator, int], Sequence[float]]


def white(rng: np.random.Generator, n: int) -> Sequence[float]:
    """Independent windows."""
    return [float(x) for x in rng.normal(LEVEL, STD, n)]


def wandering(rng: np.random.Generator, n: int) -> Sequence[float]:
    """The level moves too: by as much as a window's own deviation, within some three hours."""
    level, levels, keep = 0.0, [], 0.995
    for push in rng.normal(0, STD * (1 - keep**2) ** 0.5, n):
        level = keep * level + push
        levels.append(level)
    return [LEVEL + a + float(b) for a, b in zip(levels, rng.normal(0, STD, n), strict=True)]


def raised(detector: Detector, in_a_row: int, values: Sequence[float]) -> list[int]:
    """Windows in which an alert would be raised."""
    usual, n_out, found = Usual(), 0, []
    for n, x in enumerate(values):
        n_out = n_out + 1 if usual.judge(detector, Value(x, 1_000, STD)).is_out else 0
        if n_out == in_a_row:
            found.append(n)
    return found


def false_alarms_a_day(detector: Detector, in_a_row: int, noise: Noise, n_days: int) -> float:
    """Alerts of a day in which nothing happens."""
    return len(raised(detector, in_a_row, noise(np.random.default_rng(1), n_days * DAY))) / n_days


def delay(detector: Detector, in_a_row: int, step: float, n_trials: int) -> tuple[float, float]:
    """Windows until a change is seen, the median over trials, and the share of trials in which it is within an hour."""
    delays = []
    for trial in range(n_trials):
        values = np.array(white(np.random.default_rng([2, trial]), BEFORE + AFTER))
        values[BEFORE:] += step * STD
        after = [n - BEFORE + 1 for n in raised(detector, in_a_row, values.tolist()) if n >= BEFORE]
        delays.append(after[0] if after else float("inf"))
    return float(np.median(delays)), float(np.isfinite(delays).mean())


def measure(n_days: int = N_DAYS, n_trials: int = N_TRIALS) -> list[list[str]]:
    """The rows of the table."""
    rows = []
    for name, (detector, in_a_row) in DETECTORS.items():
        alarms = [false_alarms_a_day(detector, in_a_row, noise, n_days) for noise in (white, wandering)]
        row = [name, *(f"{x:.2f}" for x in alarms)]
        for step in STEPS:
            median, seen = delay(detector, in_a_row, step, n_trials)
            row.append(f"{median:.0f} ({seen:.0%})" if np.isfinite(median) else f"- ({seen:.0%})")
        rows.append(row)
    return rows


HEADS = ["detector", "white", "wandering", *(f"{step:g} std" for step in STEPS)]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the docs."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    table = Table(title="false alarms a day; windows until a change is seen (trials that saw it)")
    for head in HEADS:
        table.add_column(head, justify="right")
    rows = measure()
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(markdown(HEADS, rows))


if __name__ == "__main__":
    main()
