"""Whatever is killed, stopped, frozen or emptied on the way: what comes of a log is what one process makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ranker.mirror import Mirror
from stream.events import Version
from tests.services.disturbing import IN_CI, trial
from tests.services.processes import LocalKafka, LocalRedis, local_kafka, local_redis
from tests.services.undisturbed import after_rollback, differences
from trainer.checkpoint import names


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with local_kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    with local_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.timeout(400)
def test_a_loop_that_is_disturbed_everywhere_comes_to_the_end_of_an_undisturbed_run(
    own_kafka: LocalKafka, own_redis: LocalRedis, tmp_path: Path
) -> None:
    with trial(tmp_path / "loop", own_kafka, own_redis, IN_CI, seed=1) as (run, expected):
        assert {row.source for row in expected.windows[60_000]} == {"data", "quality", "codes"}
        run.run(IN_CI)
        assert differences(run.loop, expected) == []


def test_after_a_rollback_index_and_rankers_follow_a_new_epoch_to_the_same_weights(
    own_kafka: LocalKafka, own_redis: LocalRedis, tmp_path: Path
) -> None:
    with trial(tmp_path / "loop", own_kafka, own_redis, (), seed=2) as (run, expected):
        loop, config = run.loop, run.loop.settings.learner_config()
        run.finish()
        assert differences(loop, expected) == []
        ranker = Mirror(config.shape, config.bits)
        ranker.follow(loop.index)
        oldest, *_, newest = names(loop.settings.trainer.checkpoints)
        assert oldest < newest

        told = loop.instep("rollback", oldest)
        assert told.strip() == f"the trainer will begin at 1.{oldest.split('.')[1].lstrip('0')}"
        for worker in ("trainer", "indexer"):
            loop.instep("run", worker, "--once")
        assert after_rollback(loop, expected, epoch=1) == []
        ranker.follow(loop.index)
        assert ranker.version == Version(1, expected.index.version.step)
        assert np.array_equal(ranker.codes(expected.index.keys), expected.index.codes)
