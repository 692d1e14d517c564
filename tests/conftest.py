"""Fixtures of every test: a real Kafka and a real Redis, started when the first test asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.services.servers import (
    Choice,
    KafkaServer,
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
    return [f"services: {server}: {plan(server)}" for name, server in FIXTURES.items() if name in used]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka for all tests of a run: each makes topics, groups and transactional ids of names of its own."""
    with serve_kafka(chosen("kafka"), tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests of a run: each writes under a prefix of its own."""
    with serve_redis(chosen("redis"), tmp_path_factory.mktemp("redis")) as server:
        yield server


def chosen(server: Server) -> Choice:
    """The rung of this run; without one, a skip on a laptop and a failure where CI is set or a rung was asked for."""
    choice = plan(server)
    if isinstance(choice, Choice):
        return choice
    if os.environ.get("CI") or os.environ.get("INSTEP_TEST_SERVICES"):
        pytest.fail(str(choice), pytrace=False)
    pytest.skip(str(choice))
