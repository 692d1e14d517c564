"""Fixtures of the tests against real servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from stream.cluster import Cluster
from stream.redis_client import Client
from tests.services.processes import LocalRedis, local_redis
from tests.services.reading import make
from tests.services.servers import KafkaServer


@pytest.fixture
def cluster(kafka: KafkaServer) -> Cluster:
    """One with the topics ``a`` and ``b`` and none else under its prefix."""
    made = Cluster(kafka.bootstrap, f"k-{uuid.uuid4().hex}", timeout_ms=15_000, transaction_timeout_ms=20_000)
    make(made, "a", "b")
    return made


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is entered here is closed when the test has ended."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """A Redis of the module alone, which may be emptied."""
    with local_redis(tmp_path_factory.mktemp("own")) as own:
        yield own


@pytest.fixture
def client(server: LocalRedis) -> Iterator[Client]:
    one = Client(server.url)
    one.call("FLUSHALL")
    yield one
    one.close()
