"""The profiles worker on a real Kafka and a real Redis: whatever is killed, the profiles come out exact."""

from __future__ import annotations

import pytest

from tests.services.profiling import (
    ProfilesWorld,
    expected,
    same,
)
from tests.services.servers import KafkaServer, RedisServer
from tests.stream.joining import recorded

RECORDS = recorded(400)


@pytest.fixture
def world(kafka: KafkaServer, redis_server: RedisServer) -> ProfilesWorld:
    return ProfilesWorld(kafka.bootstrap, redis_server.url)


def test_once_drains_and_the_profiles_equal_those_in_memory(world: ProfilesWorld) -> None:
    world.append(RECORDS)
    world.drain()
    assert same(world.kept(RECORDS), expected(RECORDS))
    assert world.committed() == len(RECORDS)
    world.drain()
    assert same(world.kept(RECORDS), expected(RECORDS))
