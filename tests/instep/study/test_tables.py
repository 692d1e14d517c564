"""Tables of a study, read back."""

from __future__ import annotations

import re

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from instep.study.folder import MARKDOWN, PARQUET, StudyError, read, write
from instep.study.results import Figure, Found, Study
from instep.study.tables import arrow, markdown
from tests.instep.study import made
from tests.instep.study.strategies import studies

NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")


def tables(text: str) -> list[list[list[str]]]:
    """Cells of all tables, escapes undone, the rule under the headings left out."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("| "):
            cells = line[2:-2].split(" | ")
            found[-1].append([re.sub(r"\\(.)", r"\1", cell) for cell in cells])
        elif found[-1]:
            found.append([])
    return [[head, *rows] for head, _, *rows in filter(None, found)]


def numbers(cell: str) -> list[float]:
    """The numbers of a cell: a value, and its interval if it has one."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(cell)]


def shown(figure: Figure | None, scale: float) -> list[float]:
    """What a cell has to hold: all of a figure that is known."""
    if figure is None or figure.value is None:
        return []
    if figure.low is None or figure.high is None:
        return [scale * figure.value]
    return [scale * v for v in (figure.value, figure.low, figure.high)]


@pytest.mark.parametrize("make", [make for make in made.EVERY if make is not made.hostile])
def test_the_markdown_says_the_figures_of_the_study(make: object) -> None:
    assert callable(make)
    study: Study = make()
    expected = [[r for r in study.runs if r.group == g] for g in dict.fromkeys(r.group for r in study.runs)]
    found = tables(markdown(study))
    assert [[row[0] for row in table[1:]] for table in found] == [
        [r.title for r in runs] for runs in expected
    ]
    for table, runs in zip(found, expected, strict=True):
        column = {title: i for i, title in enumerate(table[0])}
        for row, run in zip(table[1:], runs, strict=True):
            assert len(row) == len(table[0])
            assert numbers(row[column["AUC"]]) == pytest.approx(shown(run.auc, 100), abs=0.00501)
            assert numbers(row[column["NE"]]) == pytest.approx(shown(run.ne, 1), abs=0.0000501)
            less = next(
                cell for title, cell in zip(table[0], row, strict=True) if title.startswith("AUC less")
            )
            if study.references[run.group] == run.name:
                assert less == "reference"
            else:
                assert numbers(less) == pytest.approx(shown(run.auc_less, 100), abs=0.00501)
            if run.overlap is not None:
                assert numbers(row[column["its own top k found"]]) == pytest.approx(
                    shown(run.overlap, 100), abs=0.501
                )
            if run.cost is not None:
                assert numbers(row[column["candidates learned / s"]]) == [round(run.cost.learn_per_s)]
                assert numbers(row[column["ms for a slate of 200"]]) == pytest.approx(
                    [run.cost.rank_ms], abs=0.00501
                )
            if run.x is not None:
                assert numbers(row[column[study.x_axis]]) == [run.x]


@given(studies())
@settings(deadline=None)
def test_every_row_of_the_markdown_has_the_cells_of_its_heading_whatever_the_texts(study: Study) -> None:
    found = tables(markdown(study))
    assert sum(len(table) - 1 for table in found) == len(study.runs)
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}


@given(studies())
@settings(deadline=None)
def test_the_arrow_table_has_every_number_of_every_run(study: Study) -> None:
    rows = arrow(study).to_pylist()
    assert len(rows) == len(study.runs)
    for row, run in zip(rows, study.runs, strict=True):
        flat: dict[str, object] = {
            k: getattr(run, k) for k in ("name", "title", "group", "unit", "search", "x")
        }
        flat |= {k: getattr(run, k) for k in ("flips", "ties", "seconds")}
        flat["reference"] = study.references.get(run.group) == run.name
        for name in ("learn_per_s", "rank_ms"):
            flat[name] = None if run.cost is None else getattr(run.cost, name)
        for name in figures():
            figure = getattr(run, name)
            for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                flat[name + suffix] = None if figure is None else getattr(figure, part)
        changes = msgspec.json.decode(row.pop("changes"))
        assert changes == run.changes
        assert row == flat


def figures() -> list[str]:
    """Fields of a run that are figures."""
    return [field.name for field in msgspec.structs.fields(Found) if "Figure" in str(field.type)]


def test_a_folder_holds_the_study_four_times_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    study, folder = made.models(), tmp_path_factory.mktemp("study") / "new" / "folder"
    write(study, folder)
    assert {p.name for p in folder.iterdir()} == {"study.json", "study.md", "study.parquet", "report.html"}
    assert read(folder) == study
    assert (folder / MARKDOWN).read_text() == markdown(study)
    assert pq.read_table(folder / PARQUET).equals(arrow(study))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write(study, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_file_that_is_no_study_is_told_in_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("study")
    for raw in (b"{}", b"no", b"\xff", b'{"kind": "other"}'):
        (folder / "study.json").write_bytes(raw)
        with pytest.raises(StudyError, match=r"study\.json: expected a study, got: ") as told:
            read(folder)
        assert "\n" not in str(told.value)


def test_a_file_that_could_not_be_written_leaves_the_old_one(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("study")
    write(made.models(), folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UnicodeEncodeError):  # a text that no file can hold
        write(msgspec.structs.replace(made.k(), title="\ud800"), folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
