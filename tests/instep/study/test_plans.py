"""The studies as values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from instep.settings import SettingsError
from instep.study.plans import BITS, INTERVALS, KS, LENGTHS, Run, plan
from instep.study.summarise import changes_of
from tests.worlds import small
from trainer.model.units import UNITS

S = small()


def test_all_units_are_compared_where_none_is_named() -> None:
    found = plan("models", S)
    assert [run.name for run in found.runs] == list(UNITS)
    assert found.references == {"models": "eta"}


def test_a_unit_that_these_settings_do_not_allow_is_left_out_unless_it_was_asked_for() -> None:
    plain = msgspec.structs.replace(S, features=())
    found = plan("models", plain)
    left = [unit for unit in UNITS if unit not in [run.name for run in found.runs]]
    assert len(left) == len(found.notes) > 0
    assert all(note.startswith("left out, ") for note in found.notes)
    with pytest.raises(SettingsError, match="expected an item feature"):
        plan("models", plain, [left[0]])


@pytest.mark.parametrize(
    ("kind", "values", "reference"),
    [("length", LENGTHS, "length_4096"), ("bits", BITS, "bits_64"), ("k", {*KS, 8}, "k_8")],
)
def test_a_sweep_has_an_axis_and_a_reference(kind: Any, values: Any, reference: str) -> None:
    found = plan(kind, S)
    assert [run.x for run in found.runs] == sorted(map(float, values))
    assert found.references == {kind: reference}
    assert found.x_axis


def test_staleness_holds_back_codes_and_what_is_served() -> None:
    found = plan("staleness", S, span_ms=10_000)
    codes = [run for run in found.runs if run.group == "codes"]
    serving = [run for run in found.runs if run.group == "serving"]
    assert [run.refresh_every for run in codes[:4]] == list(INTERVALS)
    assert [run.sync_every for run in serving[:4]] == list(INTERVALS)
    assert found.references == {"codes": "every_1", "serving": "sync_1"}
    days = plan("staleness", S, span_ms=100_000_000)
    assert [r.name for r in days.runs if r not in found.runs] == ["model_day"]


def test_of_several_units_each_has_groups_of_its_own() -> None:
    found = plan("k", S, ["eta", "exact"])
    assert len(found.runs) == 2 * len(KS)
    assert found.references == {"ETA: k": "eta_k_8", "exact inner product: k": "exact_k_8"}
    assert len({run.name for run in found.runs}) == len(found.runs)


def test_new_items_are_scored_apart_from_the_same_runs() -> None:
    found = plan("cold", S)
    assert [run.scored for run in found.runs] == ["new", "new", "all", "all"]
    assert found.runs[0].learns() == found.runs[2].learns() != found.runs[1].learns()


@pytest.mark.parametrize(
    ("models", "line"),
    [
        (["eta", "dnn"], "--models: expected some of .*, got 'dnn'"),
        (["eta", "eta"], "--models: expected models that differ, got eta, eta"),
        ([], "--models: expected models that differ, got none"),
    ],
)
def test_models_that_are_none_are_named(models: list[str], line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        plan("models", S, models)


def test_changes_are_told_by_their_names_in_the_file() -> None:
    run = Run("a", "a", "g", {"unit": "eta", "mlp": (4, 2), "top_k": 3}, length=9)
    assert changes_of(S, run) == {"model.mlp": "[4, 2]", "model.top_k": 3, "stream.max_history": 9}
