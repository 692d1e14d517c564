"""docs/models.md: a row for each unit there is, and no other; each is tested, and in the study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instep.study.plans import plan
from tests.worlds import small
from trainer.model.units import UNITS

ROOT = Path(__file__).parents[1]
ROWS = {
    cells[0].strip("`"): cells
    for line in (ROOT / "docs" / "models.md").read_text().split("| unit |")[1].split("\n\n")[0].splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split(" | ")]]
}
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "trainer").glob("test_*.py")))


def test_there_is_a_row_for_every_unit_and_no_other() -> None:
    assert list(ROWS) == list(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_a_row_is_true_of_its_unit(name: str) -> None:
    unit = UNITS[name]
    _, paper, equation, found, cost, _, file = ROWS[name]
    assert paper
    assert equation
    assert cost
    assert ("whole" in equation) == unit.whole
    words = {
        "hamming": "Hamming",
        "inner": "inner product",
        "category": "category",
        "recent": "most recent",
        "none": "-" if unit.read is None else "none",
        "attention": "its own weights" if name == "twin" else "inner product of those",
    }
    assert words[unit.search] in found
    source = file.split("`")[1]
    if unit.read is not None:
        assert unit.read.__module__ == source.removesuffix(".py").replace("/", ".")
    assert (ROOT / source).exists()


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_an_oracle_and_is_in_the_study(name: str) -> None:
    assert re.search(rf'"{name}"', TESTS), "named by no test"
    assert name in [run.name for run in plan("models", small()).runs]
