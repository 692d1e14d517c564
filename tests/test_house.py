"""The house: folders in the order in which data moves, and what each may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ("stream", "trainer", "indexer", "ranker", "monitor", "instep")


def imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("folder", HOUSE)
def test_a_folder_imports_only_from_folders_above_it(folder: str) -> None:
    below = set(HOUSE[HOUSE.index(folder) + 1 :])
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        wrong = {name for name in imports(path) if name.split(".")[0] in below}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("trainer.model.simhash, trainer.model.search", {"torch"}),
        ("instep.run", {"torch", "numba", "faust"}),  # a joiner is a tenth of the size of a trainer
    ],
)
def test_what_is_heavy_is_loaded_by_who_needs_it(modules: str, heavy: set[str]) -> None:
    code = f"import sys, {modules}; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_simhash_is_written_once() -> None:
    signs = [
        p for folder in HOUSE for p in (ROOT / folder).rglob("*.py") if "def encode_row" in p.read_text()
    ]
    assert [p.name for p in signs] == ["simhash.py"]


def test_only_edges_read_clocks_and_environment() -> None:
    edges = {
        "cli.py",
        "cli_study.py",
        "cost.py",
        "demo.py",
        "pool.py",
        "progress.py",
        "kafka.py",
        "hanging.py",
        "service.py",
        "logs.py",
        "supervisor.py",
        "http.py",
        "answers.py",
    }
    for folder in HOUSE:
        for path in (ROOT / folder).rglob("*.py"):
            if path.name not in edges:
                assert not {"time", "datetime"} & imports(path) or path.name in {"mind.py"}, path
                assert "environ" not in path.read_text(), path
