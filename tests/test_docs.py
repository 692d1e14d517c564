"""What the docs say is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
from typer.main import get_command

from instep.cli import app
from instep.sections import WorkerName
from instep.settings import Settings, check
from stream.events import decode_event, encode_event
from stream.fields import Feature
from trainer.scores import metrics

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUNNING = (ROOT / "docs" / "running.md").read_text()


def block(text: str, language: str) -> str:
    """The first fenced block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_readme_shows_every_file_of_the_house_and_no_other() -> None:
    tree = README.split("## The tree")[1].split("## Licence")[0]
    shown, folder = set(), ""
    for line in tree.splitlines():
        if found := re.match(r"    (\w+)/ ", line):
            folder = found[1]
        elif found := re.match(r"      ([\w/]+\.py) +\S", line):
            shown.add(f"{folder}/{found[1]}")
    folders = ("stream", "trainer", "indexer", "ranker", "monitor", "instep", "benchmarks")
    files = {p.relative_to(ROOT) for f in folders for p in (ROOT / f).rglob("*.py")}
    assert shown == {str(p) for p in files if p.name != "__init__.py"}


def test_the_settings_shown_are_all_of_them_at_their_defaults() -> None:
    shown = tomllib.loads(block(RUNNING, "toml"))
    assert check(shown) == Settings()
    assert {"features": shown.pop("features")} == {
        "features": [{"name": "category", "of": "item", "kind": "categorical"}]
    }
    defaults = msgspec.to_builtins(Settings())
    assert {k: set(v) for k, v in shown.items()} == {
        k: set(v) for k, v in defaults.items() if k != "features"
    }


def test_a_numeric_feature_is_declared_as_shown() -> None:
    numeric = Feature("age", "user", "numeric", (18, 40))
    assert [numeric.key({"age": n}, "$") for n in (17, 18, 39)][1:] == [numeric.key({"age": 20}, "$")] * 2


def test_the_workers_are_listed_as_they_are_named() -> None:
    names = ", ".join(get_args(WorkerName)[1:])
    assert f"instep run joiner             # or {names};" in RUNNING
    metrics_page = " ".join((ROOT / "docs" / "metrics.md").read_text().split())
    assert f"the label `worker` (joiner, {names})" in metrics_page


def test_the_command_that_the_page_shows_is_whole() -> None:
    page = (ROOT / "monitor" / "page" / "lists.js").read_text()
    shown = re.search(r"`instep (replay .*?) \$\{alert\.id\}`", page)
    assert shown is not None
    options = set(re.findall(r"--[a-z-]+", shown[1]))
    required = {o for p in get_command(app).commands["replay"].params if p.required for o in p.opts}  # type: ignore[attr-defined]
    assert {o for o in required if o.startswith("--")} | {"--alerts", "--from-alert"} == options


def test_the_events_shown_are_events() -> None:
    lines = block(RUNNING, "json").strip().splitlines()
    kinds = [type(decode_event(line.encode())).__name__ for line in lines]
    assert kinds == ["Impression", "Action", "Action", "Tick"]
    assert [decode_event(encode_event(decode_event(line.encode()))) for line in lines]


def test_every_command_of_the_readme_is_a_target_or_a_subcommand() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"(?:^    |`)make (\w+)", README, re.MULTILINE)) <= targets
    cli = "".join(
        (ROOT / "instep" / f"{name}.py").read_text()
        for name in ("cli", "cli_imports", "cli_services", "cli_study")
    )
    for command in re.findall(r"bin/instep (?:import |topics )?(\w+)", README):
        assert f"def {command}(" in cli, command


def test_metrics_are_named_as_the_docs_name_them() -> None:
    named = set(metrics([0.1, 0.9], [0, 1], [1, 1]))
    for name in named - {"ctr"}:
        assert name in RUNNING, name
