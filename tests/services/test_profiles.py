"""The profiles worker on a real Kafka and a real Redis: whatever is killed, the profiles come out exact."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Action, encode_event
from stream.kafka import KafkaSink
from stream.log import LogError, Record
from stream.places import Places
from tests.services.kept import Kept, expected, n_new, same, total
from tests.services.processes import ROOT, local_kafka, local_redis
from tests.services.profiling import SETTINGS, WITHIN_S, ProfilesWorld, until
from tests.services.servers import KafkaServer, RedisServer
from tests.stream.joining import N, recorded

RECORDS = recorded(400)


@pytest.fixture
def world(kafka: KafkaServer, redis_server: RedisServer) -> ProfilesWorld:
    return ProfilesWorld(kafka.bootstrap, redis_server.url)


def wanted(records: Sequence[Record]) -> Kept:
    return expected(SETTINGS, records)


def test_once_drains_and_the_profiles_equal_those_in_memory(world: ProfilesWorld) -> None:
    world.append(RECORDS)
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS))
    assert world.committed() == len(RECORDS)
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS))


def test_killed_three_times_in_the_middle_it_comes_out_the_same(world: ProfilesWorld, tmp_path: Path) -> None:
    told, rng = tmp_path / "stderr", random.Random(3)
    n_all, n_kept = total(wanted(RECORDS)), 0
    world.append(RECORDS)
    for n in range(3):
        enough = n_all * (n + 1) // 5 + rng.randrange(n_all // 10)
        with world.worker(told, "slowly") as child:
            until(lambda enough=enough: world.n_kept(RECORDS) >= enough, told, child)  # type: ignore[misc]
            child.kill()
        before, n_kept = n_kept, world.n_kept(RECORDS)
        assert before < n_kept < n_all, "expected each kill to be in the middle"
        assert "CRITICAL" not in told.read_text(), told.read_text()
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS))


def test_sigterm_ends_it_with_0_and_what_was_written_is_committed(
    world: ProfilesWorld, tmp_path: Path
) -> None:
    told = tmp_path / "stderr"
    world.append(RECORDS)
    with world.worker(told, "slowly") as child:
        until(lambda: world.n_kept(RECORDS) >= 300, told, child)
        child.send_signal(signal.SIGTERM)
        assert child.wait(WITHIN_S) == 0, told.read_text()
    at_end, committed = world.n_kept(RECORDS), world.committed()
    assert 0 < committed < len(RECORDS), "expected a batch in the middle"
    assert at_end == total(world.of_first(RECORDS, world.committed_by_partition()))
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS))


def test_without_redis_it_ends_with_1_and_commits_nothing_that_is_not_written(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    told = tmp_path / "stderr"
    with local_redis(tmp_path) as redis:
        world = ProfilesWorld(kafka.bootstrap, redis.url)
        half = len(RECORDS) // 2
        world.append(RECORDS[:half])
        with world.worker(told) as child:
            until(lambda: same(world.kept(RECORDS[:half]), wanted(RECORDS[:half])), told, child)
            redis.stop()
            world.append(RECORDS[half:])
            assert child.wait(WITHIN_S) == 1, told.read_text()
        assert "redis.url: expected an answer" in told.read_text()
        redis.start()
        written = total(world.of_first(RECORDS, world.committed_by_partition()))
        assert total(wanted(RECORDS[:half])) <= written <= world.n_kept(RECORDS) < total(wanted(RECORDS))
        world.drain()
        assert same(world.kept(RECORDS), wanted(RECORDS))


def test_a_redis_that_comes_back_at_once_costs_nothing(kafka: KafkaServer, tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    with local_redis(tmp_path) as redis:
        world = ProfilesWorld(kafka.bootstrap, redis.url)
        half = len(RECORDS) // 2
        world.append(RECORDS[:half])
        with world.worker(told) as child:
            until(lambda: same(world.kept(RECORDS[:half]), wanted(RECORDS[:half])), told, child)
            redis.stop()
            redis.start()
            world.append(RECORDS[half:])
            until(lambda: same(world.kept(RECORDS), wanted(RECORDS)), told, child)


def test_profiles_that_are_emptied_are_filled_from_the_log(kafka: KafkaServer, tmp_path: Path) -> None:
    told, half = tmp_path / "stderr", len(RECORDS) // 2
    with local_redis(tmp_path) as redis:
        world = ProfilesWorld(kafka.bootstrap, redis.url)
        world.append(RECORDS[:half])
        with world.worker(told) as child:
            until(lambda: world.committed() == half, told, child)
            world.flush()
            assert child.wait(WITHIN_S) == 1, told.read_text()  # though nothing new comes
        assert re.search(
            r"profiles: partition \d: expected to keep what was read before offset", told.read_text()
        )
        assert "Traceback" not in told.read_text()
        world.append(RECORDS[half:])
        world.drain()
        assert same(world.kept(RECORDS), wanted(RECORDS))
        world.flush()  # while nobody looks
        world.drain()
        assert same(world.kept(RECORDS), wanted(RECORDS))


def test_profiles_that_are_emptied_in_the_middle_of_a_batch_are_filled_too(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    told = tmp_path / "stderr"
    with local_redis(tmp_path) as redis:
        world = ProfilesWorld(kafka.bootstrap, redis.url)
        world.append(RECORDS)
        with world.worker(told, "slowly") as child:
            until(lambda: world.n_kept(RECORDS) >= 200, told, child)
            assert world.committed() < len(RECORDS) // 2, "expected a batch in the middle"
            world.flush()
            assert child.wait(WITHIN_S) == 1, told.read_text()
        world.drain()
        assert same(world.kept(RECORDS), wanted(RECORDS))


def test_a_redis_that_lost_its_last_writes_gets_them_again(kafka: KafkaServer, tmp_path: Path) -> None:
    half = len(RECORDS) // 2
    with local_redis(tmp_path) as redis:
        world = ProfilesWorld(kafka.bootstrap, redis.url)
        world.append(RECORDS[:half])
        world.drain()
        world.append(RECORDS[half:])
        world.drain()
        redis.kill()
        written = max(tmp_path.rglob("*.aof"), key=lambda file: file.stat().st_size)
        os.truncate(written, written.stat().st_size * 3 // 4)
        redis.start()
        assert total(world.kept(RECORDS)) < total(wanted(RECORDS)), "expected something to be lost"
        world.drain()
        assert same(world.kept(RECORDS), wanted(RECORDS))


def test_a_broker_that_does_not_know_the_topic_yet_ends_the_worker_that_shares_it_out() -> None:
    code = """
from aiokafka.cluster import ClusterMetadata
from stream.faust_kafka import _Assignor
_Assignor._get_copartitioned_groups({"events"}, ClusterMetadata(), {"client": ["events"]})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "topic events: expected partitions to share out, got none yet" in done.stderr


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.6, 1.0, 5.0])
def test_a_worker_that_is_told_to_leave_leaves_though_kafka_has_gone(
    redis_server: RedisServer, tmp_path: Path, after_s: float
) -> None:
    told, folder = tmp_path / "stderr", tmp_path / "kafka"
    folder.mkdir()
    with local_kafka(folder) as kafka:
        world = ProfilesWorld(kafka.bootstrap, redis_server.url)
        with world.worker(told) as child:
            until(lambda: "serving" in told.read_text(), told, child)
            time.sleep(after_s)  # it is starting still, or reads: it must leave from wherever it is
            kafka.kill()
            time.sleep(0.5)
            child.send_signal(signal.SIGTERM)
            assert child.wait(WITHIN_S / 2) in (0, 1), told.read_text()


def test_a_kafka_that_is_restarted_costs_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    told, folder, third = tmp_path / "stderr", tmp_path / "kafka", len(RECORDS) // 3
    folder.mkdir()
    with local_kafka(folder) as kafka:
        world = ProfilesWorld(kafka.bootstrap, redis_server.url)
        world.append(RECORDS[:third])
        with world.worker(told) as child:
            until(lambda: same(world.kept(RECORDS[:third]), wanted(RECORDS[:third])), told, child)
            kafka.freeze()
            time.sleep(3)
            kafka.thaw()
            world.append(RECORDS[third : 2 * third])
            kafka.kill()
            kafka.start()
            world.append(RECORDS[2 * third :])
            # it goes on by itself, or ends to be started again; it does not sit there and read nothing
            until(lambda: child.poll() == 1 or same(world.kept(RECORDS), wanted(RECORDS)), told)
        world.drain()
        assert same(world.kept(RECORDS), wanted(RECORDS))


def test_a_second_worker_joins_and_leaves_and_nothing_is_lost(world: ProfilesWorld, tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    some = len(RECORDS) // 3
    world.append(RECORDS[:some])
    with world.worker(told, "slowly") as first:
        until(lambda: world.n_kept(RECORDS) >= 50, told, first)
        with world.worker(told, "slowly") as second:
            world.append(RECORDS[some : 2 * some])
            until(lambda: told.read_text().count(" reading on ") >= 4, told, first, second)
            world.append(RECORDS[2 * some :])
            until(
                lambda: world.n_kept(RECORDS) >= total(wanted(RECORDS[: 2 * some])) - 50,
                told,
                first,
                second,
            )
            second.send_signal(signal.SIGTERM)
            assert second.wait(WITHIN_S) == 0, told.read_text()
        until(lambda: same(world.kept(RECORDS), wanted(RECORDS)), told, first)
        first.send_signal(signal.SIGTERM)
        assert first.wait(WITHIN_S) == 0, told.read_text()
    assert world.committed() == len(RECORDS)


def test_what_is_durable_is_committed_though_nothing_comes_behind_it(
    world: ProfilesWorld, tmp_path: Path
) -> None:
    told = tmp_path / "stderr"
    world.append(RECORDS)
    world.drain()
    world.forget_commits()
    assert world.committed() == 0
    with world.worker(told) as child:
        until(lambda: world.committed() == len(RECORDS), told, child)


def test_health_and_metrics_say_what_became_of_every_record(world: ProfilesWorld, tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    world.append(RECORDS)
    with world.worker(told) as child:
        until(lambda: " port=" in told.read_text(), told, child)
        found = re.search(r" port=(\d+)", told.read_text())
        assert found is not None
        asked = f"http://127.0.0.1:{found[1]}"
        until(lambda: world.committed() == len(RECORDS), told, child)
        assert urlopen(f"{asked}/healthz").read() == b"alive\n"
        assert urlopen(f"{asked}/readyz").read() == b"ready\n"
        page = urlopen(f"{asked}/metrics").read().decode()
    counted = {
        name: sum(float(n) for n in re.findall(rf"{name}\{{.*?\}} (\S+)", page))
        for name in ("instep_records_in_total", "instep_outcomes_total", "instep_lag_records")
    }
    assert counted == {
        "instep_records_in_total": len(RECORDS),
        "instep_outcomes_total": len(RECORDS),
        "instep_lag_records": 0,
    }
    used = re.search(r'instep_outcomes_total\{outcome="used.history",.*?\} (\S+)', page)
    assert used is not None
    assert float(used[1]) == n_new(SETTINGS, RECORDS)
    assert 'instep_event_latency_seconds_count{stage="profile"' in page


def test_profiles_that_are_ahead_of_the_log_are_told_where(world: ProfilesWorld, tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    world.append(RECORDS[:10])
    with world.profiles() as profiles:
        profiles.begin(0, 1_000)
    with world.worker(told) as child:
        assert child.wait(WITHIN_S) == 1
    assert "partition 0: expected what is kept to end within 0.." in told.read_text()


def test_a_record_that_gets_lost_ends_it_before_anything_behind_it_is_committed(
    world: ProfilesWorld, tmp_path: Path
) -> None:
    told = tmp_path / "stderr"
    world.append(RECORDS)
    with world.worker(told, "losing") as child:
        assert child.wait(WITHIN_S) == 1
    assert re.search(r"partition \d: expected offset 1, got 2: one between was given out", told.read_text())
    assert max(world.committed_by_partition().values(), default=0) <= 1
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS))


def test_events_that_are_gone_before_they_were_read_are_told_of(world: ProfilesWorld, tmp_path: Path) -> None:
    told, half = tmp_path / "stderr", len(RECORDS) // 2
    world.append(RECORDS[:half])
    with world.worker(told) as child:
        until(lambda: same(world.kept(RECORDS[:half]), wanted(RECORDS[:half])), told, child)
        child.send_signal(signal.SIGSTOP)
        world.append(RECORDS[half:])
        world.forget(gone := {p: end - 5 for p, end in world.ends().items()})
        child.send_signal(signal.SIGCONT)
        assert child.wait(WITHIN_S) == 1, told.read_text()
    said = world.drain()
    for partition, offset in gone.items():
        assert re.search(rf"events are gone .*: partition {partition}\W.* to={offset}\b", said), said


def test_events_that_are_written_in_transactions_are_read_to_their_end(world: ProfilesWorld) -> None:
    sink, third = KafkaSink(world.cluster, "events", world.cluster.prefix), len(RECORDS) // 3

    def write(records: Sequence[Record], n: int) -> None:
        for at in range(0, len(records), n):
            for record in records[at : at + n]:
                sink.write(record.partition, record.key, record.value)
            sink.commit()

    write(RECORDS[:third], 30)
    for n in range(5):
        for partition in range(N):
            stray = Action("click", RECORDS[0].key.decode(), f"stray {n}", 1_767_225_600_000)
            sink.write(partition, RECORDS[0].key, encode_event(stray))
        sink._producer.flush()  # what has not left yet would not be written at all
        sink.abort()
    write(RECORDS[third : 2 * third], 1_000)
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS[: 2 * third]))
    ends = world.ends()
    assert world.committed_by_partition() == ends
    world.drain()
    write(RECORDS[2 * third :], 7)
    sink.write(0, RECORDS[0].key, RECORDS[0].value)  # in a transaction that stays open
    sink._producer.flush()
    world.drain()
    assert same(world.kept(RECORDS), wanted(RECORDS))
    sink.close()


def test_a_loss_is_told_from_what_the_consumer_passed_over() -> None:
    @settings(deadline=None, derandomize=True, max_examples=200, database=None)
    @given(st.lists(st.booleans(), max_size=30), st.data())
    def holds(is_record: list[bool], data: st.DataObject) -> None:
        end, places = len(is_record), Places()
        start = data.draw(st.integers(0, end), label="start")
        places.sought(0, start)
        places.begin(0, start, end)
        cuts = data.draw(st.lists(st.integers(start, end), max_size=5), label="cuts")
        for a, b in itertools.pairwise(sorted([start, *cuts, end])):
            found = [offset for offset in range(a, b) if is_record[offset]]
            places.fetched(0, found, b)
            for offset in found:
                if data.draw(st.integers(0, 9), label="lost") == 0 and offset != found[-1]:
                    with pytest.raises(LogError, match=r"one between was given out"):
                        places.take(0, found[found.index(offset) + 1])
                assert places.take(0, offset)
                assert not places.take(0, offset)
                if data.draw(st.booleans(), label="durable"):
                    places.keep(0, places.beyond(0, offset + 1))
        places.keep(0, places.beyond(0, places.next[0]))
        assert places.durable == {0: end}

    holds()
