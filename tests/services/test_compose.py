"""docker-compose.yml brought up: the README's quick start as it stands there, and what comes out of it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from ranker.client import Candidate, NewAction, RankerClient
from tests.services.composed import Composed, composed
from tests.services.processes import ROOT, NotThere
from tests.test_deploy import panels

pytestmark = pytest.mark.timeout(300)

WITHIN_S = 30.0
SLATE = [Candidate("i42", {"category": "c1"}), Candidate("i59", {"category": "c2"})]


def quick_start() -> str:
    """The commands of the README's quick start."""
    section = (ROOT / "README.md").read_text().split("## Quick start")[1].split("\n## ")[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    if os.environ.get("INSTEP_TEST_SERVICES") == "processes":
        raise NotThere("compose: expected containers to be allowed, got INSTEP_TEST_SERVICES=processes")
    with composed(tmp_path_factory.mktemp("compose")) as there:
        yield there


@pytest.fixture(scope="module")
def printed(project: Composed) -> list[dict[str, Any]]:
    """What the quick start prints in JSON; it leaves everything up."""
    commands = quick_start()
    assert commands.count("localhost:8460") == 3
    commands = commands.replace("localhost:8460", f"localhost:{project.ranker_port}")
    out = project.run("bash", "-euc", commands)
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.fixture
def ranker(project: Composed, printed: list[dict[str, Any]]) -> Iterator[RankerClient]:
    assert printed
    with RankerClient(f"http://127.0.0.1:{project.ranker_port}", timeout_s=10) as client:
        yield client


def test_in_the_quick_start_a_click_changes_the_scores(printed: list[dict[str, Any]]) -> None:
    first, taken, second = printed
    assert taken == {"accepted": 1, "results": [{"ok": True}]}
    assert (first["logged"], first["history"]["n"]) == (True, 0)
    assert (second["history"]["source"], second["history"]["n"]) == ("profile", 1)
    assert second["scores"] != first["scores"]


def test_it_is_the_click_that_does_it_not_what_was_learned_meanwhile(ranker: RankerClient) -> None:
    user = "grace"

    def scores() -> tuple[int, list[float], list[float]]:
        """By one Version: behaviours, scores by the live history, and by none."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            live, without = ranker.rank(user, SLATE), ranker.rank(user, SLATE, behaviours=[])
            if live.version == without.version:
                return live.history.n, live.scores, without.scores
        raise AssertionError(f"expected two answers by one Version within {WITHIN_S:g} s")

    n, live, without = scores()
    assert n == 0
    assert live == pytest.approx(without, abs=1e-6)  # what else is scored at the time decides the rounding
    shown = ranker.rank(user, SLATE, log=True)
    ranker.send([NewAction("click", user, "i42", shown.impression, {"category": "c1"})])
    deadline = time.monotonic() + WITHIN_S
    while not n:
        assert time.monotonic() < deadline, f"expected a behaviour within {WITHIN_S:g} s"
        n, live, without = scores()
    assert live != pytest.approx(without, abs=1e-6)


def test_the_simulated_product_is_learned_from(ranker: RankerClient) -> None:
    first = ranker.version().version
    deadline = time.monotonic() + WITHIN_S
    while (ranker.version().version or (0, 0)) <= (first or (0, 0)):
        assert time.monotonic() < deadline, f"expected a newer Version within {WITHIN_S:g} s"
        time.sleep(0.1)


def test_the_monitor_sees_how_far_each_stage_has_come(project: Composed, ranker: RankerClient) -> None:
    deadline = time.monotonic() + 2 * WITHIN_S
    while True:
        status = httpx.get(f"{project.monitor}/api/state").json()["status"]
        stages = set(status["stages"]) if status else set()
        if stages == {"trained", "published", "indexed", "served"}:
            break
        assert time.monotonic() < deadline, f"expected all stages within {2 * WITHIN_S:g} s, got {stages}"
        time.sleep(0.2)
    assert status["held"] == ""
    assert "<!doctype html>" in httpx.get(project.monitor).text


def test_prometheus_reads_every_worker_and_understands_every_rule_and_panel(
    project: Composed, ranker: RankerClient
) -> None:
    def asked(path: str, **params: str) -> Any:
        answer = httpx.get(f"{project.prometheus}/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def seen() -> set[str]:
        return {
            t["labels"]["instance"].split(":")[0]
            for t in asked("targets")["activeTargets"]
            if t["health"] == "up"
        }

    workers = {"joiner", "profiles", "trainer", "indexer", "monitor", "ranker"}
    deadline = time.monotonic() + WITHIN_S
    while seen() != workers:
        assert time.monotonic() < deadline, f"expected {workers} within {WITHIN_S:g} s, got {seen()}"
        time.sleep(0.5)
    assert asked("rules")["groups"][0]["rules"]
    for panel in panels():
        for target in panel["targets"]:
            asked("query", query=target["expr"].replace("$__rate_interval", "1m").replace("$window", "1m"))
    assert asked("query", query="instep_table_rows")["result"]


def test_nobody_is_root_and_nothing_is_reached_from_elsewhere(
    project: Composed, ranker: RankerClient
) -> None:
    ids = project.compose("ps", "--quiet").split()
    found = json.loads(project.run("docker", "inspect", *ids))
    assert len(found) >= 10
    for container in found:
        name, host = container["Name"], container["HostConfig"]
        assert container["Config"]["User"].split(":")[0] not in ("", "0", "root"), name
        assert host["Memory"] > 0, name
        bound = [b for given in (host["PortBindings"] or {}).values() for b in given]
        assert all(b["HostIp"] == "127.0.0.1" for b in bound), name
        is_once = name.split("_")[-2:-1] == ["topics"] or "-topics-" in name
        assert host["RestartPolicy"]["Name"] == ("no" if is_once else "unless-stopped"), name
        if not is_once:
            assert container["State"]["Health"]["Status"] == "healthy", name


def test_compose_takes_the_file_with_every_profile(project: Composed) -> None:
    resolved = project.compose("config")
    assert re.search(r"grafana/grafana:\d", resolved)


def test_what_is_in_the_volumes_outlives_the_containers(project: Composed, ranker: RankerClient) -> None:
    version = ranker.version().version
    n = ranker.rank("ada", SLATE).history.n
    assert version is not None
    assert n
    recreate = ("up", "--detach", "--no-build", "--no-deps", "--force-recreate")
    project.compose(*recreate, "kafka", "redis", "trainer")
    deadline = time.monotonic() + 3 * WITHIN_S
    while True:
        newer, found = ranker.version().version or version, ranker.rank("ada", SLATE).history
        if newer > version and (found.source, found.n) == ("profile", n):
            break
        assert time.monotonic() < deadline, f"expected more than {version} and {n}, got {newer} and {found}"
        time.sleep(0.2)
