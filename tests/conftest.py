"""Servers that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.processes import LocalRedis, local_redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    with local_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
