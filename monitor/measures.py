"""Every figure that is measured in windows: the one list of names.

>>> measure_of("quality.ne.click").title
'normalised entropy'
>>> measure_of("quality.nothing")
Traceback (most recent call last):
KeyError: "measure: expected a name listed in monitor/measures.py, got 'quality.nothing'"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Panel = Literal["quality", "data", "codes", "freshness", "slices"]


@dataclass(frozen=True)
class Measure:
    """One name of the list."""

    name: str
    """``panel.what``; figures of several things have the thing behind another dot."""
    title: str
    of: str
    """What stands behind the second dot: a kind of action, a field ...; empty for nothing."""
    n: str
    """What is counted beside it."""
    least: int
    """Below so many it is noise: greyed on the page, and no alert is raised of it."""
    unit: Literal["", "share", "ratio", "bits", "s", "per_s", "degrees"]
    help: str

    @property
    def panel(self) -> str:
        return self.name.partition(".")[0]


def _of(panel: Panel, *rows: tuple[str, str, str, str, int, str, str]) -> tuple[Measure, ...]:
    return tuple(Measure(f"{panel}.{what}", *rest) for what, *rest in rows)  # type: ignore[arg-type]


# fmt: off
MEASURES: tuple[Measure, ...] = (
    *_of(
        "quality",
        ("ne", "normalised entropy", "kind", "candidates", 500, "ratio",
         "Log loss over that of the base rate; below 1 beats it."),
        ("auc", "AUC", "kind", "candidates", 500, "share",
         "Chance that a positive is ranked above a negative."),
        ("slate_auc", "AUC within a slate", "kind", "slates", 50, "share",
         "Mean over slates with both labels, weighted by their candidates."),
        ("calibration", "calibration", "kind", "candidates", 500, "ratio",
         "Mean prediction over mean label."),
        ("decile", "calibration by decile", "kind.tenth", "candidates", 200, "ratio",
         "The same in each tenth of the predictions, 0 the lowest."),
        ("psi", "PSI of the predictions", "kind", "slates", 300, "",
         "Population stability index against the windows before, less what chance makes of it."),
        ("ctr", "positive rate", "kind", "candidates", 200, "share",
         "Mean label of what was scored."),
        ("staleness", "NE of the served scores less the trainer's", "kind", "candidates", 500, "ratio",
         "On the same candidates: what being served by an older Version costs."),
        ("served_behind", "steps that served scores are behind", "", "slates", 20, "",
         "Version of the trainer's prediction less that of the served one, in steps."),
        ("held", "held", "", "slates", 1, "share",
         "Slates that were predicted and not learned."),
    ),
    *_of(
        "data",
        ("events", "events", "", "events", 0, "per_s",
         "Records of the event log a second, Ticks not counted."),
        ("impressions", "impressions", "", "events", 0, "per_s",
         "Impressions a second, as they are read."),
        ("actions", "actions", "kind", "events", 0, "per_s",
         "Actions a second, as they are read."),
        ("coverage", "click coverage", "kind", "impressions", 50, "ratio",
         "Actions read for each impression read: falls at once when a feed dies, before any label does."),
        ("positives", "positive rate of samples", "kind", "candidates", 200, "share",
         "Mean label of what was joined, learned or not."),
        ("late", "late", "", "events", 100, "share",
         "Records too late to be joined."),
        ("duplicate", "duplicates", "", "events", 100, "share",
         "Records that were there already."),
        ("dead", "unusable", "reason", "events", 100, "share",
         "Records that could not be used; in all, and by reason."),
        ("orphan", "orphans", "", "events", 100, "share",
         "Actions whose impression was not found."),
        ("unseen", "unseen keys", "field", "candidates", 200, "share",
         "Candidates whose key in this field was never seen before the minute."),
        ("behaviours", "behaviours", "", "slates", 20, "",
         "Mean length of the sequences before an impression."),
        ("changed", "features changed", "field", "candidates", 200, "share",
         "Candidates of known items whose feature was never seen with that item: near 1 when ids are swapped."),
        ("psi", "PSI", "field", "slates", 300, "",
         "Population stability index of a field's keys against the windows before, less what chance makes of it."),
        ("entropy", "entropy of a field", "field", "candidates", 200, "bits",
         "Of its keys in 64 fixed bins; 0 for a field that is constant."),
        ("score_psi", "PSI of the served scores", "", "slates", 300, "",
         "The same of the scores that slates were shown with."),
    ),
    *_of(
        "codes",
        ("row_norm", "row norm", "", "rows", 20, "",
         "Mean Euclidean norm of the published rows that have codes."),
        ("update_norm", "update norm", "", "rows", 20, "ratio",
         "Mean norm of a row's change between publications, over its norm."),
        ("flipped", "bits flipped", "", "rows", 20, "share",
         "Of a row's code between two publications that hold it."),
        ("angle", "angle of an update", "", "rows", 20, "degrees",
         "What that share of flipped bits means: pi times it."),
        ("balance", "bit balance", "", "rows", 200, "share",
         "Mean distance of a bit's mean over items from a half; 0 is balanced, 0.5 constant."),
        ("bucket_entropy", "bucket entropy", "", "rows", 200, "bits",
         "Of the first 16 bits of the items' codes."),
        ("overlap", "overlap@k", "", "searches", 50, "share",
         "Of the exact top k, what the codes' search finds too, on sampled users."),
        ("rows", "rows", "", "rows", 0, "per_s",
         "Rows published a second."),
        ("refused", "publications refused", "", "publications", 1, "share",
         "Those that were worse than the one before on the users held back, and did not go live."),
    ),
    *_of(
        "freshness",
        ("trained", "age of what is trained", "", "", 0, "s",
         "Event time now less that of the newest sample learned."),
        ("published", "age of what is published", "", "", 0, "s",
         "Event time now less that of the newest publication."),
        ("indexed", "age of what is indexed", "", "", 0, "s",
         "Event time now less that of the index's Version."),
        ("served", "age of what is served", "", "", 0, "s",
         "Event time of the newest slate less that of the Version that it was shown with."),
        ("behind", "steps the index is behind", "", "", 0, "",
         "Step of the last publication less that of the index."),
    ),
    *_of(
        "slices",
        ("ne", "NE of a slice", "slice", "candidates", 500, "ratio",
         "Normalised entropy among the candidates of a slice."),
        ("calibration", "calibration of a slice", "slice", "candidates", 500, "ratio",
         "Mean prediction over mean label among them."),
    ),
)
# fmt: on

_BY_NAME = {measure.name: measure for measure in MEASURES}


def source_of(name: str) -> str:
    """The source of the windows that have a value of this name."""
    panel = name.partition(".")[0]
    return "quality" if panel == "slices" else panel


def measure_of(name: str) -> Measure:
    """What a value's name means.

    Raises
    ------
    KeyError
        If its first two parts are not listed.
    """
    listed = _BY_NAME.get(".".join(name.split(".", 2)[:2]))
    if listed is None:
        raise KeyError(f"measure: expected a name listed in monitor/measures.py, got {name!r}")
    return listed
