"""Whatever is killed, stopped, frozen or emptied on the way: what comes of a log is what one process makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.disturbing import differences, trial
from tests.services.installation import WORKERS
from tests.services.processes import LocalKafka, LocalRedis, local_kafka, local_redis


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with local_kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    with local_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.timeout(240)
def test_workers_that_are_killed_and_stopped_come_to_the_end_of_an_undisturbed_run(
    own_kafka: LocalKafka, own_redis: LocalRedis, tmp_path: Path
) -> None:
    disturbances = [f"kill {w}" for w in WORKERS] * 3 + [f"stop {w}" for w in WORKERS]
    with trial(tmp_path / "loop", own_kafka, own_redis, len(disturbances), seed=1) as (run, expected):
        run.run(disturbances)
        assert differences(run.loop, expected) == []
