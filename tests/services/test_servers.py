"""The servers that other tests stand on: ready and usable, ended and brought back, chosen from what is there."""

from __future__ import annotations

import contextlib
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import kafka as client
import pytest
import redis
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaTimeoutError

from tests.conftest import go_without
from tests.services.containers import find_image
from tests.services.processes import Process
from tests.services.ready import await_kafka, await_redis
from tests.services.servers import (
    Choice,
    DidNotStart,
    KafkaServer,
    LocalKafka,
    LocalRedis,
    NotThere,
    RedisServer,
    Rung,
    choose,
    local_kafka,
    local_redis,
)


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with local_kafka(tmp_path_factory.mktemp("own-kafka")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[LocalRedis]:
    with local_redis(tmp_path) as server:
        yield server


def new_topic(bootstrap: str) -> str:
    name = f"t{uuid.uuid4().hex}"
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
        admin.wait_for_topics([name])
    return name


def write(bootstrap: str, topic: str, values: list[bytes], *, commit: bool = True) -> None:
    producer = client.KafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic)
    producer.init_transactions()
    producer.begin_transaction()
    for value in values:
        producer.send(topic, value)
    producer.commit_transaction() if commit else producer.abort_transaction()
    producer.close()


def read(bootstrap: str, topic: str, until: bytes) -> list[bytes]:
    """Committed values from the start of the topic to the first ``until``."""
    consumer = client.KafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", group_id=None
    )
    partition = client.TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    values: list[bytes] = []
    while until not in values:
        for records in consumer.poll(timeout_ms=1000).values():
            values += [record.value for record in records]
    consumer.close()
    return values


def test_kafka_keeps_what_was_committed_and_hides_what_was_not(kafka: KafkaServer) -> None:
    topic = new_topic(kafka.bootstrap)
    write(kafka.bootstrap, topic, [b"a", b"b"])
    write(kafka.bootstrap, topic, [b"never"], commit=False)
    write(kafka.bootstrap, topic, [b"c"])
    assert read(kafka.bootstrap, topic, until=b"c") == [b"a", b"b", b"c"]


def test_kafka_makes_no_topic_that_nobody_made(kafka: KafkaServer) -> None:
    producer = client.KafkaProducer(bootstrap_servers=kafka.bootstrap, max_block_ms=1000)
    with pytest.raises(KafkaTimeoutError):
        producer.send(f"t{uuid.uuid4().hex}", b"a")
    producer.close()


def test_redis_keeps_values_and_runs_scripts(redis_server: RedisServer) -> None:
    key = f"test:{uuid.uuid4().hex}"
    with redis.Redis.from_url(redis_server.url) as server:
        server.set(key, "1")
        assert server.get(key) == b"1"
        assert server.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, key, "41") == 42
        assert server.get(key) == b"42"


def test_a_kafka_of_ones_own_keeps_its_records_over_a_stop_and_a_kill(own_kafka: LocalKafka) -> None:
    topic = new_topic(own_kafka.bootstrap)
    for end, value in ((own_kafka.stop, b"stopped"), (own_kafka.kill, b"killed")):
        write(own_kafka.bootstrap, topic, [value])
        before = own_kafka.pid
        end()
        assert not own_kafka.alive
        own_kafka.start()
        assert own_kafka.pid != before
    # the next producer of the id settles what a kill may have left between its commit and what readers see of it
    write(own_kafka.bootstrap, topic, [b"after"])
    assert read(own_kafka.bootstrap, topic, until=b"after") == [b"stopped", b"killed", b"after"]


def test_a_frozen_kafka_does_not_answer_until_it_is_thawed(own_kafka: LocalKafka) -> None:
    own_kafka.freeze()
    with pytest.raises(DidNotStart, match="expected metadata"):
        await_kafka(own_kafka.bootstrap, lambda: True, within_s=1)
    own_kafka.thaw()
    await_kafka(own_kafka.bootstrap, lambda: own_kafka.alive)


def test_a_redis_of_ones_own_keeps_its_values_over_a_stop_and_a_kill(own_redis: LocalRedis) -> None:
    for end, key in ((own_redis.stop, "stopped"), (own_redis.kill, "killed")):
        with redis.Redis.from_url(own_redis.url) as server:
            server.set(key, "1")
        end()
        assert not own_redis.alive
        own_redis.start()
    with redis.Redis.from_url(own_redis.url) as server:
        assert server.mget("stopped", "killed") == [b"1", b"1"]


def test_a_frozen_redis_does_not_answer_until_it_is_thawed(own_redis: LocalRedis) -> None:
    own_redis.freeze()
    with pytest.raises(DidNotStart, match="expected PONG"):
        await_redis(own_redis.url, lambda: True, within_s=0.5)
    own_redis.thaw()
    await_redis(own_redis.url, lambda: own_redis.alive)


def test_a_server_is_ended_even_if_its_test_fails_while_it_is_frozen(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), local_redis(tmp_path) as server:
        server.freeze()
        raise ZeroDivisionError
    assert not server.alive


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(DidNotStart, match=r"(?s)redis: expected PONG.*redis\.log.*nonsense"),
        local_redis(tmp_path, "--nonsense", "1"),
    ):
        pass


def test_a_server_that_never_answers_does_not_outlive_its_start(tmp_path: Path) -> None:
    def give_up(alive: Callable[[], bool]) -> None:
        assert alive()
        raise DidNotStart("gave up")

    server = Process([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "mute.log", give_up)
    with pytest.raises(DidNotStart, match="gave up"):
        server.start()
    assert not server.alive


def there(what: str) -> Callable[[], str]:
    return lambda: what


def lacking(reason: str) -> Callable[[], str]:
    def find() -> str:
        raise NotThere(reason)

    return find


def never() -> str:
    raise AssertionError("a rung below the chosen one was asked")


def test_the_first_rung_that_is_there_is_taken_and_no_other_asked() -> None:
    address = {"INSTEP_TEST_KAFKA": "broker:9092"}
    assert choose("kafka", address, {"containers": never}) == Choice("address", "broker:9092")
    assert choose("redis", address, {"containers": there("redis:7"), "processes": never}) == Choice(
        "containers", "redis:7"
    )
    assert choose("kafka", {}, {"containers": lacking("no engine"), "processes": there("jars")}) == Choice(
        "processes", "jars"
    )


@pytest.mark.parametrize("listens", [False, True])
def test_an_engine_that_does_not_answer_is_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    path = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as mute:
        if listens:
            mute.bind(str(path))
            mute.listen()
        with pytest.raises(NotThere, match="no container engine answers"):
            find_image("redis")


def test_a_rung_that_is_asked_for_comes_before_the_others() -> None:
    environment = {"INSTEP_TEST_SERVICES": "processes", "INSTEP_TEST_REDIS": "redis://elsewhere"}
    assert choose("redis", environment, {"containers": never, "processes": there("program")}) == Choice(
        "processes", "program"
    )


def test_without_any_rung_one_line_says_what_each_lacks() -> None:
    rungs: dict[Rung, Callable[[], str]] = {
        "containers": lacking("no engine"),
        "processes": lacking("no java"),
    }
    with pytest.raises(NotThere) as error:
        choose("kafka", {}, rungs)
    assert str(error.value) == (
        "kafka: expected INSTEP_TEST_KAFKA, containers or processes, got containers: no engine; processes: no java"
    )
    with pytest.raises(NotThere) as error:
        choose("kafka", {"INSTEP_TEST_SERVICES": "containers"}, rungs)
    assert str(error.value) == "kafka: expected INSTEP_TEST_SERVICES=containers, got containers: no engine"
    with pytest.raises(ValueError, match="expected containers or processes, got podman"):
        choose("kafka", {"INSTEP_TEST_SERVICES": "podman"}, rungs)


@pytest.mark.parametrize("strict", ["CI", "INSTEP_TEST_SERVICES"])
def test_a_server_that_is_not_there_skips_on_a_laptop_and_fails_where_it_was_promised(
    monkeypatch: pytest.MonkeyPatch, strict: str
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("INSTEP_TEST_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no java"):
        go_without(NotThere("no java"))
    monkeypatch.setenv(strict, "true")
    with pytest.raises(pytest.fail.Exception, match="no java"):
        go_without(NotThere("no java"))
