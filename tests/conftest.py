"""Fixtures of every test: a real Kafka and a real Redis, started when the first test asks for them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NoReturn

import pytest

from tests.services.servers import (
    KafkaServer,
    NotThere,
    RedisServer,
    Server,
    plan,
    serve_kafka,
    serve_redis,
)

FIXTURES: dict[str, Server] = {"kafka": "kafka", "redis_server": "redis"}


def pytest_report_collectionfinish(items: Sequence[pytest.Item]) -> list[str]:
    """Above the first test, which servers those to come run against; nothing if none needs one."""
    used = {name for item in items if isinstance(item, pytest.Function) for name in item.fixturenames}
    return [told(server) for fixture, server in FIXTURES.items() if fixture in used]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """The same where processes share the tests, which do not report themselves: once, and for all servers."""
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    if node.gateway.id == "gw0" and any(
        name.startswith(("tests/services", "tests/contracts")) for name in ids
    ):
        reporter.write_line("\n".join(map(told, FIXTURES.values())))


def told(server: Server) -> str:
    """Where a server of the tests comes from, in a line."""
    try:
        return f"services: {server}: {plan(server)}"
    except NotThere as error:
        return f"services: {error}"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka for all tests of a run: each makes topics, groups and transactional ids of names of its own."""
    with serve_kafka(plan("kafka"), tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests of a run: each writes under a prefix of its own."""
    with serve_redis(plan("redis"), tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Fixtures whose server is not there skip or fail their tests with one line."""
    try:
        yield
    except NotThere as error:
        go_without(error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Tests that start a server themselves are treated like those that have it from a fixture."""
    try:
        yield
    except NotThere as error:
        go_without(error)


def go_without(lacking: NotThere) -> NoReturn:
    """A skip on a laptop, a failure where CI is set or a rung was asked for."""
    if os.environ.get("CI") or os.environ.get("INSTEP_TEST_SERVICES"):
        pytest.fail(str(lacking), pytrace=False)
    pytest.skip(str(lacking))
