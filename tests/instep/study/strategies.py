"""Any study: what the messages allow, with the texts that people and attackers write."""

from __future__ import annotations

from typing import get_args

from hypothesis import strategies as st

from instep.study.results import Cost, Figure, Found, Kind, Study, Window

texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["ETA", "</script>", "a|b", "<!--", "$x ${y}", "a\nb", "-1"])
)
numbers = st.floats(-1e6, 1e6, allow_nan=False)
shares = st.one_of(st.none(), st.floats(0, 1), numbers)
figures = st.builds(Figure, shares, shares, shares)
perhaps = st.one_of(st.none(), figures)
windows = st.builds(Window, st.integers(0, 2**53), st.integers(0, 2**53), shares, shares)
costs = st.builds(Cost, numbers, numbers)
values = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), numbers, texts)
founds = st.builds(
    Found,
    name=texts,
    title=texts,
    group=st.sampled_from(["models", "a world that moves", "<b>"]),
    unit=st.sampled_from(["eta", "exact", "\"'"]),
    search=st.sampled_from(["hamming", "none"]),
    changes=st.dictionaries(texts, values, max_size=2),
    auc=figures,
    ne=figures,
    gauc=figures,
    log_loss=figures,
    calibration=figures,
    auc_less=perhaps,
    ne_less=perhaps,
    windows=st.lists(windows, max_size=3),
    cost=st.one_of(st.none(), costs),
    overlap=perhaps,
    overlap_exact=perhaps,
    recall=perhaps,
    by_chance=perhaps,
    flips=shares,
    ties=shares,
    x=st.one_of(st.none(), st.sampled_from([0.0, 1.0, 10.0, 1000.0]), numbers),
    seconds=shares,
)
"""Runs whose names may still be the same."""


@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Any study whose runs have names of their own; the reference of a group may be missing."""
    runs = draw(st.lists(founds, max_size=6, unique_by=lambda run: run.name))
    names = [run.name for run in runs] + ["gone"]
    references = draw(st.dictionaries(st.sampled_from(["models", "<b>"]), st.sampled_from(names)))
    return Study(
        kind=draw(st.sampled_from(get_args(Kind))),
        title=draw(texts),
        log=draw(texts),
        command=draw(texts),
        seeds=draw(st.integers(1, 9)),
        candidates=draw(st.integers(0, 2**53)),
        warmup=draw(st.integers(0, 2**53)),
        references=references,
        runs=runs,
        x_axis=draw(texts),
        best_auc=draw(st.one_of(st.none(), st.floats(0, 1))),
        notes=draw(st.lists(texts, max_size=2)),
    )
