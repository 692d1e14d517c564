"""Fixtures of every test: a real Kafka and a real Redis, started when the first test asks for them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from typing import NoReturn

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
    lines = []
    for fixture, server in FIXTURES.items():
        if fixture in used:
            try:
                lines.append(f"services: {server}: {plan(server)}")
            except NotThere as error:
                lines.append(f"services: {error}")
    return lines


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
