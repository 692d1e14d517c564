"""What only Kafka has: fencing, transactions that others leave open, clusters that go away, groups, topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kafka import TopicPartition

from instep import cli
from stream.cluster import Cluster
from stream.group import Fixed, Group
from stream.kafka import KafkaSink, KafkaSource, KafkaWriter
from stream.log import Fenced, LogError, Record, Unavailable
from stream.topics import Topic, create, topics
from tests.services.processes import LocalKafka, fetch_kafka
from tests.services.ready import free_port
from tests.services.servers import KafkaServer

N = 2
WITHIN_S = 30.0


def make(cluster: Cluster, *names: str, partitions: int = N, config: dict[str, str] | None = None) -> None:
    create(cluster, dict.fromkeys(names, Topic(partitions, config or {})), 1)


def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait for it, asking again and again."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "expected it to come, it did not"
        time.sleep(0.01)


def read(source: KafkaSource, n: int) -> list[Record]:
    """The next ``n`` records, and what comes up to the end."""
    records: list[Record] = []

    def all_there() -> bool:
        records.extend(source.poll(100))
        return len(records) >= n and source.offsets == source.end()

    until(all_there)
    return records


def write_and_commit(sink: KafkaSink, value: bytes) -> None:
    sink.write(0, b"k", value)
    sink.commit()


def write_and_flush(writer: KafkaWriter, value: bytes) -> None:
    writer.write(0, b"k", value)
    writer.flush()


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
    from kafka import TopicPartition

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


# A cluster that goes away and comes back.


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


# Groups.


class Member:
    """Somebody who asks for partitions again and again, and writes down what happens."""

    def __init__(self, cluster: Cluster, name: str, events: list[tuple[str, str, int]]) -> None:
        self.name, self.events = name, events
        self.held: frozenset[int] = frozenset()
        self.raised: Exception | None = None
        self._group = Group(cluster, "a", cluster.topic("g"), self.let_go, session_ms=6_000)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def let_go(self, gone: frozenset[int]) -> None:
        self.events += [("-", self.name, p) for p in sorted(gone)]
        self.held -= gone

    def close(self) -> None:
        self._leave.set()
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while not self._leave.wait(0.005):
                mine = self._group.partitions()
                self.events += [("+", self.name, p) for p in sorted(mine - self.held)]
                self.held = mine
        except Exception as e:
            self.raised = e
        finally:
            self._group.close()


def test_members_come_and_go_and_a_partition_is_let_go_before_another_has_it(
    cluster: Cluster, opened: ExitStack
) -> None:
    events: list[tuple[str, str, int]] = []
    first = opened.enter_context(closing(Member(cluster, "first", events)))
    until(lambda: len(first.held) == N)
    second = opened.enter_context(closing(Member(cluster, "second", events)))
    until(lambda: len(second.held) == 1)
    [moved], kept = second.held, first.held
    assert kept == {0, 1} - {moved}
    assert events == [("+", "first", 0), ("+", "first", 1), ("-", "first", moved), ("+", "second", moved)]
    second.close()
    until(lambda: len(first.held) == N)
    assert events[4:] == [
        ("-", "second", moved),
        ("+", "first", moved),
    ]  # and what was kept was never touched
    first.close()
    assert events[6:] == [("-", "first", 0), ("-", "first", 1)]
    assert (first.raised, second.raised) == (None, None)


class Careless(Member):
    """A member whose transactions are fenced when it is to let go."""

    def let_go(self, gone: frozenset[int]) -> None:
        self.held -= gone
        if not self._leave.is_set():
            self._leave.set()
            raise Fenced("too late")


def test_what_goes_wrong_in_letting_go_is_raised_where_the_partitions_were_asked_for(
    cluster: Cluster, opened: ExitStack
) -> None:
    first = opened.enter_context(closing(Careless(cluster, "first", [])))
    until(lambda: len(first.held) == N)
    second = opened.enter_context(closing(Member(cluster, "second", [])))
    until(lambda: len(second.held) == N)
    first.close()
    assert isinstance(first.raised, Fenced)


def test_a_fixed_share_stays_until_it_is_closed() -> None:
    gone: list[frozenset[int]] = []
    share = Fixed([1, 3], gone.append)
    assert share.partitions() == {1, 3}
    share.close()
    share.close()
    assert (share.partitions(), gone) == (frozenset(), [frozenset({1, 3})])


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
