"""What lies in deploy/ and docker-compose.yml, read as those who use it read it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from instep.feed import product
from instep.settings import load
from instep.simulator import events
from monitor.measures import MEASURES, Measure, measure_of
from monitor.row import Source
from monitor.worker import WINDOWS
from stream.events import Impression
from stream.metrics import METRICS

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OF_PROMETHEUS = {"up": {"job", "instance"}, "process_resident_memory_bytes": {"job", "instance"}}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
WORDS = {"by", "and", "or", "unless", "on", "without", "time", "offset", "le"}


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboards that ask for something."""
    return [panel for board in dashboards().values() for panel in board["panels"] if panel["type"] != "row"]


def dashboards() -> dict[str, Any]:
    """All of them, by the names of their files."""
    return {p.name: json.loads(p.read_text()) for p in sorted((DEPLOY / "grafana" / "dashboards").iterdir())}


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def asked() -> list[tuple[str, str]]:
    """Every expression, behind the alert, panel or annotation that it stands in."""
    found = [(rule["alert"], rule["expr"]) for rule in rules()]
    for name, board in dashboards().items():
        for panel in board["panels"]:
            found += [(f"{name}: {panel['title']}", t["expr"]) for t in panel.get("targets", ())]
        found += [(f"{name}: annotation {a['name']}", a["expr"]) for a in board["annotations"]["list"]]
    return found


def names_and_labels(expression: str) -> tuple[set[str], set[str]]:
    """The metrics that an expression names, and the labels that it picks or groups by."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    labels = set(re.findall(r"(\w+) *(?:=~|!~|!=|=) *\"\"", plain))
    for group in re.findall(r"\b(?:by|without|on) *\(([^)]*)\)", plain):
        labels |= set(re.findall(r"\w+", group))
    plain = re.sub(r"\b(?:by|without|on) *\([^)]*\)|\{[^}]*\}|\[[^]]*\]", " ", plain)
    return set(re.findall(r"(?<![\w.])[a-z_]\w*\b(?! *\()", plain)) - WORDS, labels


def test_the_names_and_labels_of_an_expression_are_found() -> None:
    expression = 'sum by (worker) (rate(instep_x_total{status=~"5.."}[5m])) / on (le) up > time() and y'
    assert names_and_labels(expression) == ({"instep_x_total", "up", "y"}, {"worker", "status", "le"})


def test_panels_and_alerts_name_metrics_and_labels_that_there_are() -> None:
    listed = dict(OF_PROMETHEUS)
    for metric in METRICS:
        own = {"worker", "job", "instance", *metric.labels} | (
            {"le"} if metric.kind == "histogram" else set()
        )
        listed |= {metric.name + suffix: own for suffix in SUFFIXES[metric.kind]}
    assert len(asked()) > 25
    for where, expression in asked():
        names, labels = names_and_labels(expression)
        assert names, where
        assert names <= listed.keys(), where
        assert labels <= set.union(*(listed[name] for name in names)), where


def named_measure(operator: str, text: str) -> Measure:
    """The figure that a matcher is about: of one thing by its name, of all by a pattern with something behind it."""
    if operator == "=~":
        found = [m for m in MEASURES if re.fullmatch(text.replace("\\\\", "\\"), f"{m.name}.thing")]
        assert len(found) == 1, text
        assert found[0].of, text
        return found[0]
    assert operator == "=", text
    measure = measure_of(text)
    # reasons are told of in all as well
    assert measure.of in ("", "reason") if text == measure.name else measure.of, text
    return measure


def test_panels_and_alerts_name_figures_that_are_measured_and_drift_shows_each() -> None:
    shown = set()
    for where, expression in asked():
        for operator, text in re.findall(r'\bmeasure *(=~|!=|!~|=) *"([^"]*)"', expression):
            measure = named_measure(operator, text)
            assert measure.panel != "slices", where  # of which there are too many to be exported
            if where.startswith("drift.json: "):
                shown.add(measure.name)
        for text in re.findall(r'\bwindow *[!=~]+ *"([^"]*)"', expression):
            assert text in {*WINDOWS.values(), "$window"}, where
        for text in re.findall(r'\bsource *[!=~]+ *"([^"]*)"', expression):
            assert text in get_args(Source), where
    assert shown == {m.name for m in MEASURES if m.panel != "slices"}


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ("=", "quality.nothing"),
        ("=", "quality.ne"),  # is of a kind
        ("=", "codes.flipped.click"),  # is of nothing
        ("=~", r"quality\\.nothing\\..+"),
        ("=~", r"codes\\.flipped\\..+"),
        ("=~", r"quality\\..+"),
        ("!=", "codes.flipped"),
    ],
)
def test_a_figure_that_is_not_measured_so_is_found(operator: str, text: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        named_measure(operator, text)


def test_dashboards_declare_what_they_use_and_lead_to_each_other() -> None:
    ids = {board["uid"] for board in dashboards().values()}
    assert ids == {"instep-health", "instep-drift"}
    for name, board in dashboards().items():
        declared = {v["name"] for v in board["templating"]["list"]} | {"__rate_interval"}
        used = {
            v
            for p in board["panels"]
            for t in p.get("targets", ())
            for v in re.findall(r"\$(\w+)", t["expr"])
        }
        assert used <= declared, name
        assert declared - used <= {"__rate_interval"}, name
        for variable in board["templating"]["list"]:
            assert variable["query"].split(",") == [o["value"] for o in variable["options"]], name
            assert set(variable["query"].split(",")) == set(WINDOWS.values()), name
        assert {link["url"].removeprefix("/d/") for link in board["links"]} == ids - {board["uid"]}, name
        assert len({p["id"] for p in board["panels"]}) == len(board["panels"]), name
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
        assert len(set(places)) == len(places), name
        for panel in board["panels"]:
            if panel["type"] != "row":
                assert panel["description"].endswith("."), panel["title"]
                assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
                letters = [target["refId"] for target in panel["targets"]]
                assert len(set(letters)) == len(letters), panel["title"]
    compose = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(compose).name in dashboards()


def test_every_alert_says_what_is_wrong_and_where_to_look() -> None:
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "look"}, rule["alert"]
        assert "$" not in rule["expr"], rule["alert"]  # which only Grafana puts something in the place of


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "instep.yml").read_text())["providers"][0]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_prometheus_asks_every_worker_where_it_answers() -> None:
    settings = load(DEPLOY / "instep.toml")
    ports = {name: getattr(settings.service.ports, name) for name in settings.service.ports.__struct_fields__}
    others = {"ranker": settings.ranker.port, "monitor": settings.monitor.port}
    expected = {f"{name}:{port}" for name, port in (ports | others).items()}
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert set(config["scrape_configs"][0]["static_configs"][0]["targets"]) == expected
    for name, port in (ports | others).items():
        assert f"http://127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
    for name, port in others.items():
        assert [published.rsplit(":", 1)[1] for published in SERVICES[name]["ports"]] == [str(port)]


def test_every_service_can_be_another_image_has_limits_and_is_no_root() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[\w./-]+:[\w.-]+\}", service["image"]), name
        assert service["mem_limit"], name
        assert str(service["user"]).split(":")[0] not in ("0", "root"), name
        assert service["restart"] == ("no" if name == "topics" else "unless-stopped"), name
        assert "healthcheck" in service or name == "topics", name
        assert all(port.startswith("127.0.0.1:${") for port in service.get("ports", ())), name


def test_the_images_are_those_that_there_are_stand_ins_for() -> None:
    given = {re.sub(r"^.*:-|\}$", "", service["image"]) for service in SERVICES.values()}
    stand_ins = set((DEPLOY / "images" / "names.txt").read_text().split())
    assert given - stand_ins == {"instep:latest", "grafana/grafana:11.6.0"}
    assert {name.partition(":")[0] for name in stand_ins - given} == {"mounted/instep"}


def test_nothing_is_mounted_that_is_not_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = re.sub(r"^\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), name


def test_the_quick_start_asks_for_items_that_the_simulated_product_has() -> None:
    section = (ROOT / "README.md").read_text().split("## Quick start")[1]
    said = set(re.findall(r'"item": "(\w+)", "features": {"category": "(\w+)"}', section))
    shown = {
        (candidate.item, candidate.features["category"])
        for event in events(product(0, 200, 400, 5.0), 500)
        if isinstance(event, Impression)
        for candidate in event.candidates
    }
    assert len(said) == 2
    assert said <= shown
