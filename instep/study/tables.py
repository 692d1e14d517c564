"""A study as tables: Markdown for people, Arrow for programs."""

from __future__ import annotations

import re

import msgspec
import pyarrow as pa

from instep.study.results import Found, Study
from instep.study.text import MEASURES, columns, figure_of, groups, reference_of, short_number, value_of

TEXTS = ("name", "title", "group", "unit", "search")
NUMBERS = ("x", "flips", "ties", "learn_per_s", "rank_ms", "seconds")


def markdown(study: Study) -> str:
    """One table for each group; AUC in points, intervals in brackets, a dash where nothing is known."""
    parts = [f"# {plain(study.title)}", facts(study)]
    for group in groups(study):
        runs = [run for run in study.runs if run.group == group]
        shown = [c for c in columns(study, runs, reference_of(study, group)) if c.brief]
        rows = [[plain(str(c.cell(run))) for c in shown] for run in runs]
        head = [plain(c.title) for c in shown]
        rule = ["---" if c.key == "title" else "---:" for c in shown]
        parts += [f"## {plain(group)}", "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))]
    if study.notes:
        parts.append("\n".join(f"- {plain(note)}" for note in study.notes))
    return "\n\n".join(parts) + "\n"


def facts(study: Study) -> str:
    """What was scored, and how to do it again, as two paragraphs."""
    best = "" if study.best_auc is None else f" Best possible AUC: {100 * study.best_auc:.2f}."
    seeds = "one seed" if study.seeds == 1 else f"mean of {study.seeds} seeds"
    text = (
        f"{plain(study.log)}: {study.candidates:,} candidates scored after {short_number(study.warmup)} that were "
        f"only learned, {seeds}. AUC in points; intervals are 95 %.{best}"
    )
    command = " ".join(study.command.split())
    return f"{text}\n\n    {command}" if command else text


def plain(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    >>> plain('a|b <i>\nc')
    'a\\|b \\<i\\> c'
    """
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def arrow(study: Study) -> pa.Table:
    """One row for each run, flat.

    Returns
    -------
    Texts as they are, ``reference`` (bool), ``changes`` as JSON, numbers float64: those of ``Found`` and of its cost,
    and each figure as ``auc, auc_low, auc_high``. Null where nothing is known. The schema's metadata say what
    the study is.
    """
    data: dict[str, pa.Array] = {
        name: pa.array([getattr(r, name) for r in study.runs], pa.string()) for name in TEXTS
    }
    data["reference"] = pa.array([study.references.get(r.group) == r.name for r in study.runs], pa.bool_())
    data["changes"] = pa.array(
        [msgspec.json.encode(r.changes, order="sorted").decode() for r in study.runs], pa.string()
    )
    for name in NUMBERS:
        data[name] = pa.array([value_of(r, name) for r in study.runs], pa.float64())
    for measure in MEASURES:
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            column = [_part(run, measure.key, part) for run in study.runs]
            data[measure.key + suffix] = pa.array(column, pa.float64())
    told = {
        name: str(getattr(study, name))
        for name in ("kind", "title", "log", "command", "seeds", "candidates", "warmup", "x_axis", "best_auc")
    }
    return pa.table(data).replace_schema_metadata(told)


def _part(run: Found, key: str, part: str) -> float | None:
    found = figure_of(run, key)
    value = None if found is None else getattr(found, part)
    return None if value is None else float(value)
