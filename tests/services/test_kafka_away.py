"""A cluster that goes away and comes back: frozen, killed, forgetful, and one that asks for a password."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import pytest
from kafka import TopicPartition

from stream.cluster import Cluster
from stream.kafka import KafkaSink, KafkaSource, KafkaWriter
from stream.log import LogError, Unavailable
from tests.services.processes import LocalKafka, fetch_kafka
from tests.services.reading import N, make, read, until, write_and_commit, write_and_flush
from tests.services.ready import free_port


@dataclass(frozen=True)
class Own:
    """A broker to freeze and to kill, and where it asks for a name and a password."""

    server: LocalKafka
    guarded: str


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    folder = tmp_path_factory.mktemp("own")
    server = LocalKafka(folder, fetch_kafka(), "512m")
    port = free_port()
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    file = folder / "server.properties"
    lines = file.read_text().splitlines()
    lines = [
        f"{line},GUARDED://127.0.0.1:{port}" if line.startswith("listeners=") else line for line in lines
    ]
    lines = [line for line in lines if not line.startswith("listener.security.protocol.map")] + [
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
        "transaction.partition.verification.enable=false",  # or nobody could leave what hangs
        "listener.name.guarded.sasl.enabled.mechanisms=PLAIN",
        f'listener.name.guarded.plain.sasl.jaas.config={module} user_ada="right";',
    ]
    file.write_text("\n".join(lines) + "\n")
    try:
        server.start()
        yield Own(server, f"127.0.0.1:{port}")
    finally:
        server.kill()


def test_credentials_pass_through_and_wrong_ones_are_an_error_that_does_not_show_them(own: Own) -> None:
    name = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "ada"}
    right = Cluster(
        own.guarded, f"k-{uuid.uuid4().hex}", {**name, "sasl_plain_password": "right"}, timeout_ms=5_000
    )
    make(right, "a")
    right.check({"a": N})
    with (
        closing(KafkaSink(right, "a", right.topic("id"))) as sink,
        closing(KafkaSource(right, "a")) as source,
    ):
        write_and_commit(sink, b"v")
        assert [r.value for r in read(source, 1)] == [b"v"]
    wrong = replace(right, client={**name, "sasl_plain_password": "wrong"})
    with pytest.raises(
        LogError, match=rf"^kafka\.client: expected to be let in at {own.guarded}, got: "
    ) as told:
        wrong.check({"a": N})
    assert "wrong" not in str(told.value)


def test_a_frozen_broker_is_unavailable_and_all_goes_on_when_it_thaws(own: Own, opened: ExitStack) -> None:
    cluster = Cluster(
        own.server.bootstrap, f"k-{uuid.uuid4().hex}", timeout_ms=2_000, transaction_timeout_ms=60_000
    )
    make(cluster, "a")
    sink = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    writer = opened.enter_context(closing(KafkaWriter(cluster, "a")))
    sink.write(0, b"k", b"before")
    sink.commit()
    assert [r.value for r in read(source, 1)] == [b"before"]
    sink.write(0, b"k", b"in doubt")
    sink._producer.flush()
    own.server.freeze()
    try:
        started_s = time.monotonic()
        with pytest.raises(Unavailable):
            sink.commit()
        with pytest.raises(Unavailable):
            until(lambda: source.poll(10))
        with pytest.raises(Unavailable):
            write_and_flush(writer, b"v")
        with pytest.raises(Unavailable, match=r"^kafka\.bootstrap: expected a broker, got no answer from"):
            KafkaSink(cluster, "a", cluster.topic("id"))
        assert time.monotonic() - started_s < 20
    finally:
        own.server.thaw()
    again = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    fresh = opened.enter_context(closing(KafkaSource(cluster, "a", [0])))
    again.write(0, b"k", b"after")
    again.commit()
    seen: list[bytes] = []

    def is_after_seen() -> bool:
        seen.extend(r.value for r in fresh.poll(100) if r.value != b"v")
        return b"after" in seen

    until(is_after_seen)
    # what was in doubt is decided before the next writer of the id begins; either way nothing comes later
    assert seen in ([b"before", b"after"], [b"before", b"in doubt", b"after"])
    assert b"after" in [r.value for r in read(source, 2)]  # a reader need not be made anew


def test_after_a_restart_of_the_broker_all_can_be_built_anew(own: Own, opened: ExitStack) -> None:
    cluster = Cluster(
        own.server.bootstrap, f"k-{uuid.uuid4().hex}", timeout_ms=4_000, transaction_timeout_ms=60_000
    )
    make(cluster, "a")
    sink = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    sink.write(0, b"k", b"committed")
    sink.commit()
    sink.write(0, b"k", b"in doubt")
    own.server.kill()
    with pytest.raises(Unavailable):
        sink.commit()
    own.server.start()
    again = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    again.write(0, b"k", b"after")
    again.commit()
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    seen = [r.value for r in read(source, 2)]
    # the commit that got no answer may reach the broker that is back, until the next sink of the id is opened
    assert seen in ([b"committed", b"after"], [b"committed", b"in doubt", b"after"])


def leave_hanging(sink: KafkaSink, topic: str, how: str) -> None:
    """End a transaction as a broker does that forgets partition 1 of it, and partition 0 not."""
    sink.write(0, b"k", b"ended")
    sink._producer._transaction_manager._partitions_in_transaction.add(TopicPartition(topic, 1))
    sink.write(1, b"k", b"hangs")
    sink._producer.flush()
    getattr(sink, how)()


@pytest.mark.parametrize("how", ["commit", "abort"])
def test_what_was_decided_is_done_where_the_broker_forgot_to(own: Own, opened: ExitStack, how: str) -> None:
    cluster = Cluster(own.server.bootstrap, f"k-{uuid.uuid4().hex}", timeout_ms=4_000)
    make(cluster, "a")
    leave_hanging(
        opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id")))), cluster.topic("a"), how
    )
    other = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("other"))))
    other.write(1, b"k", b"open")  # in the same partition, and none of the business of the next of our id
    other._producer.flush()
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    decided = [b"ended"] * (how == "commit")
    assert [r.value for r in read(source, len(decided))] == decided
    assert source.end()[1] == 0  # readers stop before what hangs

    again = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    other.commit()
    again.write(1, b"k", b"after")
    again.commit()
    seen = [b"hangs"] * (how == "commit") + [b"open", b"after"]
    assert [r.value for r in read(source, len(seen))] == seen


def test_nothing_is_begun_where_the_last_transaction_has_not_ended(own: Own, opened: ExitStack) -> None:
    cluster = Cluster(own.server.bootstrap, f"k-{uuid.uuid4().hex}", timeout_ms=4_000)
    make(cluster, "a")
    sink = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    leave_hanging(sink, cluster.topic("a"), "commit")
    with pytest.raises(Unavailable, match=r"expected the last transaction to end, got none in .*partition=1"):
        sink.write(0, b"k", b"on top")
    sink.close()
    opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    assert sorted(r.value for r in read(source, 2)) == [b"ended", b"hangs"]


def test_a_commit_is_none_where_a_record_was_given_up(own: Own, opened: ExitStack) -> None:
    cluster = Cluster(own.server.bootstrap, f"k-{uuid.uuid4().hex}", timeout_ms=4_000)
    make(cluster, "a")
    sink = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    sink.write(0, b"k", b"there")
    sink._producer.flush()
    own.server.freeze()
    sink.write(0, b"k", b"given up")
    time.sleep(5)  # longer than a record is tried
    own.server.thaw()
    with pytest.raises(Unavailable):
        sink.commit()
    again = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    write_and_commit(again, b"after")
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    assert [r.value for r in read(source, 1)] == [b"after"]
