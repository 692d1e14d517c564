"""What the tests of the profiles worker share; as a program, that worker: bootstrap, prefix, Redis, [once]."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from faust.types import TP, Message
from kafka import TopicPartition

from stream import faust_kafka, logs
from stream.app import run
from stream.cluster import Cluster
from stream.kafka import KafkaSource, KafkaWriter
from stream.log import Record
from stream.metrics import Metrics
from stream.profiles import Put
from stream.redis_client import Client
from stream.redis_profiles import RedisProfiles
from stream.service import now_ms
from tests.services.kept import TTL_MS, Kept, expected, histories, total
from tests.stream.joining import N
from tests.worlds import small

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 60.0
SETTINGS = small(
    stream={"partitions": N, "max_history": 2_048, "history_ttl_ms": TTL_MS}, trainer={"row_ttl_ms": TTL_MS}
)


class ProfilesWorld:
    """The events' topic and the profiles under a prefix of their own."""

    def __init__(self, bootstrap: str, redis_url: str) -> None:
        self.cluster = Cluster(bootstrap, prefix=f"t{uuid.uuid4().hex[:12]}", timeout_ms=10_000)
        self.redis_url = redis_url
        with self.cluster.admin() as admin:
            admin.create_topics({self.cluster.topic("events"): {"num_partitions": N}}, wait_for_metadata=True)

    def append(self, records: Iterable[Record]) -> None:
        writer = KafkaWriter(self.cluster, "events")
        try:
            for record in records:
                writer.write(record.partition, record.key, record.value)
            writer.flush()
        finally:
            writer.close()

    def committed(self) -> int:
        """How many records the group has done with."""
        return sum(self.committed_by_partition().values())

    def committed_by_partition(self) -> dict[int, int]:
        """The next offsets that the group has committed."""
        group = self.cluster.topic("profiles")
        with self.cluster.admin() as admin:
            return {
                at.partition: found.offset for at, found in admin.list_group_offsets(group)[group].items()
            }

    def forget_commits(self) -> None:
        """Let Kafka forget the group."""
        with self.cluster.admin() as admin:
            admin.delete_groups([self.cluster.topic("profiles")])

    def ends(self) -> dict[int, int]:
        """The next offsets of the events, behind the last transaction that has ended."""
        source = KafkaSource(self.cluster, "events")
        try:
            return dict(source.end())
        finally:
            source.close()

    def forget(self, offsets: Mapping[int, int]) -> None:
        """Let Kafka forget the events before these."""
        topic = self.cluster.topic("events")
        with self.cluster.admin() as admin:
            admin.delete_records({TopicPartition(topic, p): offset for p, offset in offsets.items()})

    def flush(self) -> None:
        """Empty Redis."""
        client = Client(self.redis_url)
        client.call("FLUSHALL")
        client.close()

    @contextmanager
    def profiles(self) -> Iterator[RedisProfiles]:
        """What the worker writes to."""
        client = Client(self.redis_url)
        try:
            yield redis_profiles(client, self.cluster.prefix)
        finally:
            client.close()

    def n_kept(self, records: Iterable[Record]) -> int:
        """How many behaviours Redis has."""
        return total(self.kept(records))

    def of_first(self, records: Iterable[Record], ends: dict[int, int]) -> Kept:
        """What profiles in memory have after the records before these offsets."""
        return expected(
            SETTINGS, (record for record in records if record.offset < ends.get(record.partition, 0))
        )

    def kept(self, records: Iterable[Record]) -> Kept:
        """What Redis has of the users of these records."""
        with self.profiles() as profiles:
            return histories(SETTINGS, records, profiles)

    def command(self, *words: str) -> list[str]:
        """The worker as a program."""
        where = [self.cluster.bootstrap, self.cluster.prefix, self.redis_url]
        return [sys.executable, "-m", "tests.services.profiling", *where, *words]

    @contextmanager
    def worker(self, told: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """The worker as a process, killed on leaving if it runs still; what it says is added to a file."""
        with (
            told.open("ab") as stderr,
            subprocess.Popen(self.command(*words), cwd=ROOT, stderr=stderr) as child,
        ):
            try:
                yield child
            finally:
                child.kill()

    def drain(self) -> str:
        """Run the worker until nothing waits; what it said."""
        done = subprocess.run(
            self.command("once"), cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


def redis_profiles(client: Client, prefix: str, kind: type[RedisProfiles] = RedisProfiles) -> RedisProfiles:
    stream = SETTINGS.stream
    return kind(client, SETTINGS.fields, stream.max_history, stream.history_ttl_ms, prefix)


def until(is_so: Callable[[], bool], told: Path, *children: subprocess.Popen[bytes]) -> None:
    """Wait for a condition while these run."""
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        said = told.read_text() if told.exists() else ""
        assert all(child.poll() is None for child in children), said
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


class SlowProfiles(RedisProfiles):
    """Profiles that take their time, so that there is a middle to be killed in."""

    def put_many(self, puts: Sequence[Put], known: Mapping[int, int] | None = None) -> list[bool]:
        done: list[bool] = []
        for at in range(0, len(puts), 20):
            time.sleep(0.1)
            done += super().put_many(puts[at : at + 20], known)
        return done


class LosingConsumer(faust_kafka._Consumer):
    """Of each partition's records the second never reaches an agent."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        async for tp, message in super().getmany(timeout):
            if message.offset != 1:
                yield tp, message


def main(bootstrap: str, prefix: str, redis_url: str, *words: str) -> None:
    logs.configure()
    client = Client(redis_url, timeout_ms=1_000)
    if "losing" in words:
        faust_kafka._Transport.Consumer = LosingConsumer
    run(
        Cluster(bootstrap, prefix=prefix, timeout_ms=10_000),
        redis_profiles(client, prefix, SlowProfiles if "slowly" in words else RedisProfiles),
        SETTINGS.fields,
        SETTINGS.stream.history_kinds,
        Metrics("profiles"),
        once="once" in words,
        stall_s=next((float(word[6:]) for word in words if word.startswith("stall=")), 60.0),
        now_ms=now_ms,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
