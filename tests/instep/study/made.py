"""Studies as the engine would find them, for the report: figures of a seeded generator that look like real ones."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from instep.study.results import Cost, Figure, Found, Kind, Study, Window

START_MS = 1_767_225_600_000
REAL = (  # name, title, unit, search, AUC, candidates/s, ms a slate, overlap, exact, recall
    ("eta", "ETA, 64 bits", "eta", "hamming", 0.8334, 26_500, 3.3, 0.71, 0.52, 0.87),
    ("exact", "Exact inner product, top 48", "exact", "exact", 0.8346, 16_400, 4.6, 1.0, 1.0, 0.89),
    ("twin", "TWIN", "twin", "twin", 0.8341, 12_100, 5.9, 0.93, 0.74, 0.88),
    ("sdim", "SDIM", "sdim", "none", 0.8217, 21_900, 3.9, None, None, None),
    (
        "sim-hard",
        "SIM (hard): last 48 of the category",
        "category",
        "category",
        0.8158,
        31_000,
        2.9,
        0.31,
        0.17,
        0.64,
    ),
    ("sim-soft", "SIM (soft)", "sim_soft", "soft", 0.8251, 9_700, 6.4, 0.66, 0.48, 0.81),
    ("full", "Full target attention", "full", "none", 0.8159, 4_100, 21.4, None, None, None),
    ("din", "DIN", "din", "none", 0.7988, 3_300, 24.9, None, None, None),
    ("dien", "DIEN", "dien", "none", 0.8012, 610, 88.0, None, None, None),
    ("bst", "BST", "bst", "none", 0.7931, 1_450, 41.0, None, None, None),
    ("transformer", "Transformer", "transformer", "none", 0.7944, 1_390, 43.5, None, None, None),
    ("mimn", "MIMN", "mimn", "none", 0.7902, 7_800, 5.1, None, None, None),
    ("additive", "Additive attention", "additive", "none", 0.7716, 8_900, 11.2, None, None, None),
    ("afm", "AFM", "afm", "none", 0.7581, 9_400, 10.1, None, None, None),
    ("average", "Average pooling", "average", "none", 0.7452, 33_500, 2.2, None, None, None),
    (
        "short",
        "Short only: attention over the recent 16",
        "short",
        "none",
        0.7114,
        35_800,
        2.0,
        None,
        None,
        None,
    ),
)


def around(value: float, half: float, rng: np.random.Generator) -> Figure:
    """A figure whose interval is about as wide as told."""
    low, high = (half * rng.uniform(0.8, 1.2, 2)).tolist()
    return Figure(value, value - low, value + high)


def windows(auc: float, rng: np.random.Generator, n: int = 20) -> list[Window]:
    """A model that learns: NE falls, with noise that all windows have of their own."""
    found = []
    for i in range(n):
        learned = 1 - 0.62 * np.exp(-i / 3.5)
        now = 0.5 + (auc - 0.5) * learned + rng.normal(0, 0.002)
        until_ms = START_MS + 3_600_000 * (i + 1)
        found.append(Window(until_ms, 15_000, float(now), float(1.02 - 0.83 * (now - 0.5))))
    return found


def run(
    name: str, title: str, group: str, unit: str, search: str, auc: float, seed: int, **more: object
) -> Found:
    """One run; what else it has by the names of the fields."""
    rng = np.random.default_rng(seed)
    ne = 1.02 - 0.83 * (auc - 0.5)
    found = Found(
        name=name,
        title=title,
        group=group,
        unit=unit,
        search=search,
        changes={"model.unit": unit},
        auc=around(auc, 0.0024, rng),
        ne=around(ne, 0.004, rng),
        gauc=around(auc - 0.011, 0.003, rng),
        log_loss=around(0.31 * ne, 0.002, rng),
        calibration=around(1.003, 0.006, rng),
        windows=windows(auc, rng),
        seconds=240.0 + 10 * seed,
    )
    return replace(found, **more)


def models() -> Study:
    """Sixteen models of one log."""
    runs = []
    for i, (name, title, unit, search, auc, per_s, ms, own, exact, recall) in enumerate(REAL):
        rng = np.random.default_rng(100 + i)
        less = None if name == "eta" else around(auc - REAL[0][4], 0.0004 + 0.02 * abs(auc - REAL[0][4]), rng)
        found: dict[str, object] = {"cost": Cost(per_s, ms), "auc_less": less}
        if recall is not None:
            found |= {
                "overlap": Figure(own, own - 0.01, own + 0.01) if own is not None else None,
                "overlap_exact": Figure(exact),
                "recall": Figure(recall, recall - 0.01, recall + 0.01),
                "by_chance": Figure(0.18),
                "flips": 4617.0,
                "ties": 0.34,
            }
        runs.append(run(name, title, "models", unit, search, auc, i, **found))
    return study("models", "Sixteen ways to read a long history", runs, {"models": "eta"}, best_auc=0.8564)


def along(
    kind: Kind,
    title: str,
    x_axis: str,
    places: list[float],
    losses: list[float],
    units: tuple[str, ...] = ("eta",),
) -> Study:
    """A study with an axis; the first place of the first unit is the reference of each of its two worlds."""
    runs = []
    for g, group in enumerate(("a world that holds still", "a world that drifts half way")):
        for u, unit in enumerate(units):
            for i, (x, loss) in enumerate(zip(places, losses, strict=True)):
                rng = np.random.default_rng(1000 * g + 100 * u + i)
                delta = -loss * (1 + g) * (1 - 0.3 * u) - 0.003 * u
                is_first = u == i == 0
                runs.append(
                    run(
                        f"{'moved-' * g}{unit}-{x:g}",
                        f"{unit.upper()}, {x_axis} {x:,.0f}",
                        group,
                        unit,
                        "hamming",
                        0.8334 - 0.09 * g + delta,
                        40 + i,
                        x=x,
                        auc_less=None if is_first else around(delta, 0.0005, rng),
                        overlap=around(0.71 - 2 * loss, 0.01, rng),
                        overlap_exact=around(0.52 + loss, 0.01, rng),
                        recall=around(0.87 - 8 * loss, 0.012, rng),
                        by_chance=Figure(0.18),
                        flips=4617.0 / (1 + i * i),
                        ties=0.34 / (1 + i),
                        cost=Cost(26_500 / (1 + 0.12 * i + u), 3.3 * (1 + 0.1 * i + u)),
                    )
                )
        runs.append(
            run(
                f"{'moved-' * g}frozen",
                "codes frozen at the start",
                group,
                "eta",
                "hamming",
                0.8237 - 0.09 * g,
                77,
                auc_less=around(-0.0098, 0.0006, np.random.default_rng(g)),
                recall=Figure(0.65),
                by_chance=Figure(0.18),
            )
        )
    first = {r.group: next(q.name for q in runs if q.group == r.group) for r in runs}
    return study(kind, title, runs, first, x_axis=x_axis)


def study(kind: Kind, title: str, runs: list[Found], references: dict[str, str], **more: object) -> Study:
    """The whole of it."""
    found = Study(
        kind=kind,
        title=title,
        log="simulated-300k",
        command=f"instep study build/log --kind {kind} --seeds 3 --out build/study",
        seeds=3,
        candidates=150_000,
        warmup=150_000,
        references=references,
        runs=runs,
        notes=["Costs were measured on two shared cores.", "The search is exact at k >= L."],
    )
    return replace(found, **more)


def staleness() -> Study:
    return along(
        "staleness",
        "What stale codes cost",
        "steps between refreshes",
        [1, 10, 100, 1000],
        [0, 0.0003, 0.0006, 0.0014],
    )


def length() -> Study:
    return along(
        "length",
        "How long a history pays",
        "L",
        [64, 256, 1024, 4096],
        [0.031, 0.012, 0.001, 0.0],
        ("eta", "exact", "full"),
    )


def bits() -> Study:
    return along(
        "bits",
        "How many bits a code needs",
        "bits",
        [16, 32, 64, 128, 256],
        [0.012, 0.005, 0.001, 0.0002, 0.0],
    )


def k() -> Study:
    return along(
        "k",
        "How many behaviours to read",
        "k",
        [8, 16, 24, 48, 96],
        [0.009, 0.004, 0.002, 0.0, -0.0004],
        ("eta", "exact"),
    )


def twenty() -> Study:
    """More runs than colours, in two groups, one seed: no intervals."""
    runs = []
    for i in range(20):
        made = run(f"run-{i}", f"Model {i // 2}", f"log {i % 2}", f"unit{i // 2}", "none", 0.6 + 0.01 * i, i)
        bare = {
            key: Figure(getattr(made, key).value) for key in ("auc", "ne", "gauc", "log_loss", "calibration")
        }
        less = Figure(0.01 * i - 0.1) if i > 1 else None
        runs.append(replace(made, **bare, auc_less=less, cost=Cost(1000.0 * (i + 1), 1.0 + i % 5)))
    return study("models", "Twenty", runs, {"log 0": "run-0", "log 1": "run-1"}, seeds=1)


def hostile() -> Study:
    """One run, next to nothing known of it, and texts that would break a page that believed them."""
    breaks = "document.title = 'broken'"
    evil = f"""</script><script>{breaks}</script><img src=x onerror="{breaks}">|{{a|b}}`&amp;$title"""
    nothing = Figure(None)
    found = Found(evil, evil, evil, evil, evil, {evil: evil}, Figure(0.7), nothing, nothing, nothing, nothing)
    return Study("cold", evil, evil, evil, 1, 0, 0, {evil: evil}, [found], notes=[evil])


EVERY = (models, staleness, length, bits, k, twenty, hostile)
