"""The one list of metrics, and everything that names one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.metrics import METRICS, Metrics, table

ROOT = Path(__file__).parent.parent.parent
NAMES = {metric.name for metric in METRICS}
FOLDERS = ("stream", "trainer", "indexer", "ranker", "monitor", "instep", "deploy", "docs")
SUFFIXES = ("_bucket", "_sum", "_count")


def named(text: str) -> set[str]:
    """What looks like a metric of ours; a series of a histogram by the histogram's name."""
    found = set(re.findall(r"\binstep_[a-z_]+[a-z]\b", text))
    return {next((n[: -len(s)] for s in SUFFIXES if n.endswith(s)), n) for n in found}


def test_every_metric_that_code_docs_or_dashboards_name_is_listed() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".json", ".yml", ".yaml"}:
                text = path.read_text()
                if path.name == "metrics.py":
                    text = text.replace("instep_records_total", "")  # its example of a wrong name
                assert named(text) <= NAMES, f"{path.relative_to(ROOT)}: {named(text) - NAMES}"


def test_the_docs_show_the_list() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text().endswith("\n\n" + table())


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len(NAMES) == len(METRICS)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_seconds") or metric.kind != "histogram", metric.name
        assert "worker" not in metric.labels


def test_every_listed_metric_can_be_used_as_listed() -> None:
    metrics = Metrics("trainer")
    use: dict[str, Callable[..., None]] = {
        "counter": metrics.add,
        "gauge": metrics.set,
        "histogram": metrics.observe,
    }
    for metric in METRICS:
        use[metric.kind](metric.name, 2, **dict.fromkeys(metric.labels, "x"))
    page = metrics.page().decode()
    for metric in METRICS:
        series = metric.name + ("_sum" if metric.kind == "histogram" else "")
        labels = sorted([*(f'{name}="x"' for name in metric.labels), 'worker="trainer"'])
        assert f"{series}{{{','.join(labels)}}} 2.0" in page.splitlines()


def test_a_name_or_a_label_that_is_not_listed_is_refused() -> None:
    metrics = Metrics("joiner")
    with pytest.raises(KeyError, match=r"expected a name listed in stream/metrics\.py, got 'instep_lag'"):
        metrics.set("instep_lag", 1)
    with pytest.raises(ValueError, match=r"[Ll]abel"):
        metrics.set("instep_lag_records", 1)


def test_two_processes_worth_of_metrics_share_nothing() -> None:
    one, other = Metrics("joiner"), Metrics("joiner")
    one.set("instep_users", 7)
    assert b"instep_users" not in other.page()


def test_what_is_forgotten_is_not_shown_any_more() -> None:
    metrics = Metrics("joiner")
    for partition in (0, 1):
        metrics.set("instep_lag_records", 5, partition=partition)
    metrics.forget("instep_lag_records", partition=1)
    shown = re.findall(r'instep_lag_records\{partition="(\d)"', metrics.page().decode())
    assert shown == ["0"]
