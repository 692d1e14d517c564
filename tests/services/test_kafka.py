"""What only Kafka has: fencing, transactions that others leave open, retention, topics; and what a person must mend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import TopicPartition

from instep import cli
from stream.cluster import Cluster
from stream.group import Group
from stream.kafka import KafkaSink, KafkaSource, KafkaWriter
from stream.log import Fenced, LogError, Record, Unavailable
from stream.topics import create, topics
from tests.services.reading import N, make, read, until, write_and_commit, write_and_flush
from tests.services.ready import free_port
from tests.services.servers import KafkaServer


def test_offsets_pass_what_ends_a_transaction_so_that_nothing_is_left_to_read(
    cluster: Cluster, opened: ExitStack
) -> None:
    sink = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("id"))))
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    for n in range(3):
        sink.write(0, b"k", b"%d" % n)
        sink.commit()
        sink.write(0, b"k", b"lost")
        sink._producer.flush()
        sink.abort()
    records = read(source, 3)
    until(lambda: source.end()[0] == 12)
    assert records + read(source, 0) == [Record(0, 4 * n, b"k", b"%d" % n) for n in range(3)]
    assert source.offsets == {0: 12, 1: 0}


def test_a_newer_sink_of_an_id_fences_the_older_and_ends_what_it_had_begun(
    cluster: Cluster, opened: ExitStack
) -> None:
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    old = opened.enter_context(closing(KafkaSink(cluster, ["a", "b"], cluster.topic("id"))))
    old.write(0, b"k", b"of the old")
    old._producer.flush()
    new = opened.enter_context(closing(KafkaSink(cluster, ["a", "b"], cluster.topic("id"))))
    until(lambda: source.end()[0] == 2)  # the record and the mark that it is aborted
    new.write(0, b"k", b"of the new")
    new.commit()
    for _ in range(2):  # and stays so
        with pytest.raises(Fenced, match="expected to be the only writer, got replaced by a newer one"):
            write_and_commit(old, b"of the old")
    new.write(0, b"k", b"again")
    new.commit()
    assert [r.value for r in read(source, 2)] == [b"of the new", b"again"]


WRITER = """
import sys
from stream.cluster import Cluster
from stream.kafka import KafkaSink
sink = KafkaSink(Cluster(sys.argv[1], sys.argv[2], transaction_timeout_ms=5_000, timeout_ms=4_000), "a", sys.argv[3])
sink.write(0, b"k", b"never committed")
sink._producer.flush()
print("written", flush=True)
sys.stdin.read()
"""


def left_open(cluster: Cluster, transactional_id: str) -> None:
    """Have a process killed in the middle of a transaction."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        WRITER,
        cluster.bootstrap,
        cluster.prefix,
        transactional_id,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        os.kill(writer.pid, signal.SIGKILL)


def test_what_a_killed_writer_left_open_is_not_seen_and_holds_readers_up_for_its_timeout_at_most(
    cluster: Cluster, opened: ExitStack
) -> None:
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    sink = opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("other"))))
    left_open(cluster, cluster.topic("killed"))
    sink.write(0, b"k", b"behind it")
    sink.commit()
    assert (source.poll(10), source.end()[0]) == ([], 0)
    assert [r.value for r in read(source, 1)] == [b"behind it"]


def test_the_next_process_ends_at_once_what_a_killed_one_left_open(
    cluster: Cluster, opened: ExitStack
) -> None:
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    left_open(cluster, cluster.topic("killed"))
    assert source.end()[0] == 0
    opened.enter_context(closing(KafkaSink(cluster, "a", cluster.topic("killed"))))
    assert source.end()[0] == 2  # all of it is there when the sink is open
    assert read(source, 0) == []


def test_a_record_that_is_too_large_fails_its_commit(cluster: Cluster, opened: ExitStack) -> None:
    make(cluster, "small", config={"max.message.bytes": "1000"})
    source = opened.enter_context(closing(KafkaSource(cluster, "small")))
    sink = opened.enter_context(closing(KafkaSink(cluster, "small", cluster.topic("id"))))
    sink.write(1, b"k", b"small")
    sink.write(0, b"k", bytes(5_000))
    with pytest.raises(LogError, match=r"expected records within the topic's max\.message\.bytes"):
        sink.commit()
    sink.close()
    again = opened.enter_context(closing(KafkaSink(cluster, "small", cluster.topic("id"))))
    write_and_commit(again, b"after")
    assert [r.value for r in read(source, 1)] == [b"after"]


def test_a_compacted_topic_is_read_from_what_is_left_of_it(cluster: Cluster, opened: ExitStack) -> None:
    often = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}
    make(cluster, "state", config={"cleanup.policy": "compact", "delete.retention.ms": "100", **often})
    sink = opened.enter_context(closing(KafkaSink(cluster, "state", cluster.topic("id"))))
    source = opened.enter_context(closing(KafkaSource(cluster, "state")))

    def left() -> dict[bytes, list[bytes]]:
        sink.write(0, b"clock", b"")  # the cleaner takes what lies in segments that are no longer written
        sink.commit()
        source.seek({0: 0})
        kept: dict[bytes, list[bytes]] = {}
        for record in read(source, 1):
            kept.setdefault(record.key, []).append(record.value)
        return kept

    for n in range(20):
        sink.write(0, b"ada", b"%d" % n)
        sink.write(0, b"gone", b"%d" % n)
        sink.commit()
    sink.write(0, b"gone", None)
    sink.commit()
    until(lambda: (kept := left()).get(b"ada") == [b"19"] and b"".join(kept.get(b"gone", [])) == b"", 60)
    first = source._start()[0]
    source.seek({0: first})
    assert read(source, 1)[0].key == b"ada"


def test_an_offset_that_retention_has_taken_is_an_error_also_of_a_reader_that_stands_there(
    cluster: Cluster, opened: ExitStack
) -> None:

    writer = opened.enter_context(closing(KafkaWriter(cluster, "a")))
    for _ in range(5):
        writer.write(0, b"k", b"v")
    writer.flush()
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    source.seek({0: 1})
    with cluster.admin() as admin:
        admin.delete_records({TopicPartition(cluster.topic("a"), 0): 3})
    late = opened.enter_context(closing(KafkaSource(cluster, "a")))
    assert late.offsets == {0: 3, 1: 0}
    with pytest.raises(LogError, match=r"a: partition 0: expected an offset in 3\.\.5, got 1$"):
        until(lambda: source.poll(10))
    with pytest.raises(LogError, match=r"a: partition 0: expected an offset in 3\.\.5, got 2$"):
        late.seek({0: 2})


def test_a_writer_without_transactions_leaves_no_gaps(cluster: Cluster, opened: ExitStack) -> None:
    writer = opened.enter_context(closing(KafkaWriter(cluster, "a")))
    source = opened.enter_context(closing(KafkaSource(cluster, "a")))
    for n in range(1_000):
        writer.write(n % N, b"k", b"%d" % n)
        if n % 300 == 0:
            writer.flush()
    writer.flush()
    records = read(source, 1_000)
    assert source.offsets == {0: 500, 1: 500}
    assert [[r.value for r in records if r.partition == p] for p in range(N)] == [
        [b"%d" % n for n in range(p, 1_000, N)] for p in range(N)
    ]
    with pytest.raises(LogError, match=r"expected a partition in 0\.\.1, got 2$"):
        writer.write(2, b"k", b"v")


def test_what_a_writer_could_not_write_is_an_error_of_its_flush(cluster: Cluster, opened: ExitStack) -> None:
    make(cluster, "small", config={"max.message.bytes": "1000"})
    writer = opened.enter_context(closing(KafkaWriter(cluster, "small")))
    with pytest.raises(LogError, match=r"expected records within the topic's max\.message\.bytes"):
        write_and_flush(writer, bytes(5_000))


# What a person must mend.


def test_an_address_where_nobody_answers_is_named_with_its_setting() -> None:
    port = free_port()
    before = threading.active_count()
    nowhere = Cluster(f"127.0.0.1:{port}", timeout_ms=1_000)
    told = rf"^kafka\.bootstrap: expected a broker, got no answer from 127\.0\.0\.1:{port}$"
    for open_it in (
        lambda: nowhere.check({"a": 1}),
        lambda: KafkaSource(nowhere, "a"),
        lambda: KafkaSink(nowhere, "a", "x"),
    ):
        with pytest.raises(Unavailable, match=told):
            open_it()
    until(lambda: threading.active_count() == before)  # nothing of it is left running


def test_topics_that_are_missing_or_have_other_partitions_are_named(cluster: Cluster) -> None:
    missing = rf"^topic {cluster.prefix}\.c: expected a topic \(instep topics create\), got none$"
    for open_it in (
        lambda: cluster.check({"a": N, "c": N}),
        lambda: KafkaSource(cluster, "c"),
        lambda: KafkaSink(cluster, ["a", "c"], "x"),
        lambda: KafkaWriter(cluster, "c"),
        lambda: Group(cluster, "c", "g", lambda gone: None),
    ):
        with pytest.raises(LogError, match=missing):
            open_it()
    cluster.check({"a": N, "b": N})
    told = rf"^topic {cluster.prefix}\.b: expected 3 partitions \(stream\.partitions\), got 2$"
    with pytest.raises(LogError, match=told):
        cluster.check({"a": N, "b": 3})
    with pytest.raises(LogError, match=r"a: expected partitions in 0\.\.1, got \[1, 2\]$"):
        KafkaSource(cluster, "a", [1, 2])


@pytest.mark.parametrize("name", ["isolation_level", "bootstrap_servers", "acks", "sasl_pasword"])
def test_client_settings_that_are_unknown_or_ours_are_refused_without_their_values(name: str) -> None:
    told = rf"^kafka\.client\.{name}: expected a setting of kafka-python that is free, got this one$"
    with pytest.raises(LogError, match=told):
        Cluster("127.0.0.1:1", client={name: "secret"})
    assert "secret" not in repr(Cluster("127.0.0.1:1", client={"sasl_plain_password": "secret"}))


def test_client_settings_reach_the_client_and_what_does_not_go_together_is_named(cluster: Cluster) -> None:
    with closing(KafkaSource(replace(cluster, client={"client_id": "me", "linger_ms": 1}), "a")) as source:
        assert source._consumer.config["client_id"] == "me"
    no_file = replace(cluster, client={"security_protocol": "SSL", "ssl_cafile": "/nowhere.pem"})
    told = r"^kafka\.client\.ssl_cafile: expected a file that can be read, got /nowhere\.pem: No such file"
    with pytest.raises(LogError, match=told):
        KafkaWriter(no_file, "a")
    with pytest.raises(LogError, match=r"^kafka\.client: expected settings that go together, got: .*none"):
        KafkaWriter(replace(cluster, client={"compression_type": "none"}), "a")


# Topics.


def test_topics_are_made_once_and_compared_from_then_on(kafka: KafkaServer) -> None:
    cluster = Cluster(kafka.bootstrap, f"k-{uuid.uuid4().hex}")
    wanted = topics(3, 1, 60_000, 120_000)
    nothing: dict[str, None] = dict.fromkeys(wanted)
    assert create(cluster, wanted, 1, dry_run=True) == nothing
    assert create(cluster, wanted, 1) == nothing
    assert create(cluster, wanted, 1) == {name: [] for name in wanted}
    cluster.check({name: 1 if name == "model" else 3 for name in wanted})
    other = create(cluster, topics(4, 2, 60_000, 5_000), 2)
    assert {name: [str(d) for d in differs or ()] for name, differs in other.items()} == {
        **{name: ["partitions is 3, expected 4", "replication is 1, expected 2"] for name in wanted},
        "model": ["replication is 1, expected 2", "retention.ms is 120000, expected 5000"],
    }
    with pytest.raises(
        LogError, match=r"^kafka\.replication: expected at most as many as there are brokers, got 9$"
    ):
        create(replace(cluster, prefix=f"{cluster.prefix}-9"), wanted, 9)


def test_the_command_makes_topics_and_exits_2_if_their_partitions_differ(
    kafka: KafkaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = f"k-{uuid.uuid4().hex}"

    def run(partitions: int, retention_ms: int, *options: str) -> tuple[int | str | None, list[str], str]:
        file = tmp_path / "instep.toml"
        file.write_text(
            f"[stream]\npartitions = {partitions}\n"
            f'[kafka]\nbootstrap = "{kafka.bootstrap}"\nprefix = "{prefix}"\nretention_ms = {retention_ms}\n'
        )
        monkeypatch.setattr(sys, "argv", ["instep", "topics", "create", "--settings", str(file), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out.splitlines(), err

    names = [f"{prefix}.{name}" for name in ("events", "samples", "joiner", "scores", "model", "dead")]
    assert run(2, 1_000, "--dry-run") == (None, [f"{name}: would be made" for name in names], "")
    assert run(2, 1_000) == (None, [f"{name}: made" for name in names], "")
    assert run(2, 1_000) == (None, [f"{name}: as it should be" for name in names], "")
    code, out, err = run(2, 2_000)
    assert (code, out[0], err) == (None, f"{names[0]}: retention.ms is 1000, expected 2000", "")
    code, out, err = run(3, 1_000)
    assert (code, out[0]) == (2, f"{names[0]}: partitions is 2, expected 3")
    assert err.startswith(
        f"instep: kafka.prefix: expected topics that can be used, got {names[0]}: partitions is 2"
    )
    assert err.count("\n") == 1
