"""The joiner's worker on Kafka: what it must do on any log, and what only a process of its own can show."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream.joiner import SAMPLES
from stream.kafka import KafkaSource
from stream.log import Fenced
from tests.services.joining import KafkaWorld
from tests.services.servers import KafkaServer
from tests.stream.joining import N, recorded, until_drained, worker_of
from tests.stream.test_joiner import (  # noqa: F401  # the same tests
    NewWorld,
    check,
    test_a_partition_that_goes_while_its_state_is_read_back_is_let_go_of,
    test_a_restart_goes_on_where_the_last_worker_was,
    test_a_worker_writes_what_the_pure_joiner_makes,
    test_it_is_ready_when_all_state_is_read_back_and_drained_when_nothing_waits,
    test_metrics_say_what_became_of_every_record,
    test_nothing_is_read_of_a_partition_that_went_while_another_one_comes,
    test_state_of_other_rules_is_refused_with_its_topic,
    test_too_many_unusable_records_stop_it_and_that_poll_is_not_committed,
    test_users_who_are_gone_do_not_come_back_with_a_restart,
    test_what_was_not_committed_is_done_again,
    test_workers_hand_partitions_over,
)

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 60.0
RECORDS = recorded(150)


@pytest.fixture
def world(kafka: KafkaServer) -> KafkaWorld:
    return KafkaWorld(kafka.bootstrap)


@pytest.fixture
def new_world(world: KafkaWorld) -> NewWorld:
    return lambda: world


def test_a_worker_that_was_replaced_cannot_write_any_more(world: KafkaWorld) -> None:
    world.append(RECORDS[:600])
    first = worker_of(world.logs(range(N)))
    until_drained(first)
    second = worker_of(world.logs(range(N)))
    until_drained(second)
    world.append(RECORDS[600:])
    with pytest.raises(Fenced):
        until_drained(first)
    first.close()
    until_drained(second)
    second.close()
    check(world)


def test_a_worker_killed_in_the_middle_loses_nothing_and_does_nothing_twice(
    world: KafkaWorld, tmp_path: Path
) -> None:
    records = recorded(400)
    world.append(records)
    program = [sys.executable, "-m", "tests.services.joining", world.cluster.bootstrap, world.cluster.prefix]
    told = tmp_path / "stderr"
    samples = KafkaSource(world.cluster, SAMPLES)
    rng = random.Random(7)
    at_kills = []
    try:
        for _ in range(3):
            until = sum(samples.end().values()) + rng.randrange(60, 200)
            with told.open("ab") as stderr, subprocess.Popen(program, cwd=ROOT, stderr=stderr) as child:
                deadline = time.monotonic() + WITHIN_S
                while sum(samples.end().values()) < until:
                    assert child.poll() is None, told.read_text()
                    assert time.monotonic() < deadline, told.read_text()
                child.kill()
            at_kills.append(sum(samples.end().values()))
    finally:
        samples.close()
    done = subprocess.run(
        [*program, "once"], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stderr
    check(world, records)
    assert at_kills[-1] < sum(map(len, world.read(SAMPLES))), (
        "expected something left to do after the last kill"
    )
