"""What the tests of the profiles worker share; as a program, that worker: bootstrap, prefix, Redis, [once]."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from numpy.typing import NDArray

from stream import logs
from stream.app import run
from stream.cluster import Cluster
from stream.events import Action, BadEvent, Origin, decode_event, key_of
from stream.kafka import KafkaWriter
from stream.log import Record
from stream.metrics import Metrics
from stream.profiles import MemoryProfiles, Profiles, Put
from stream.redis_client import Client
from stream.redis_profiles import RedisProfiles
from stream.service import now_ms
from tests.stream.joining import FIELDS, RULES, N

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 60.0
MAX_HISTORY = 2_048
TTL_MS = 1_000 * 86_400_000
"""Longer than the year by which some of the broken events are ahead: as of then all others are there still."""
Kept = dict[str, tuple[NDArray[np.uint64], NDArray[np.int64]]]
"""Keys and event times of each user."""


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

    def commit(self, offsets: dict[int, int]) -> None:
        """Let the group stand at these offsets."""
        topic, group = self.cluster.topic("events"), self.cluster.topic("profiles")
        with self.cluster.admin() as admin:
            admin.alter_group_offsets(
                group, {TopicPartition(topic, p): OffsetAndMetadata(at, "", -1) for p, at in offsets.items()}
            )

    def n_kept(self, records: Iterable[Record]) -> int:
        """How many behaviours Redis has."""
        return total(self.kept(records))

    def of_first(self, records: Iterable[Record], ends: dict[int, int]) -> Kept:
        """What profiles in memory have after the records before these offsets."""
        return expected([record for record in records if record.offset < ends.get(record.partition, 0)])

    def kept(self, records: Iterable[Record]) -> Kept:
        """What Redis has of the users of these records."""
        client = Client(self.redis_url)
        try:
            return histories(records, redis_profiles(client, self.cluster.prefix))
        finally:
            client.close()

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
    return kind(client, len(FIELDS.item), MAX_HISTORY, TTL_MS, prefix)


def actions(records: Iterable[Record]) -> Iterator[tuple[Record, Action]]:
    """Those of the records that extend a history."""
    for record in records:
        try:
            event = decode_event(record.value)
        except BadEvent:
            continue
        if isinstance(event, Action) and event.kind in RULES.history_kinds:
            yield record, event


def expected(records: Iterable[Record]) -> Kept:
    """What profiles in memory have after all of these, each once and in order."""
    profiles = MemoryProfiles(len(FIELDS.item), MAX_HISTORY, TTL_MS)
    put_in(profiles, records)
    return histories(records, profiles)


def histories(records: Iterable[Record], profiles: Profiles) -> Kept:
    """The whole sequences of the users of these records, as of a moment after the newest action."""
    happened = [event for _, event in actions(records)]
    after_ms = max(event.at_ms for event in happened) + 1
    users = sorted({event.user for event in happened})
    return {user: profiles.get(key_of("user", user), after_ms, MAX_HISTORY) for user in users}


def total(kept: Kept) -> int:
    """Behaviours of all users."""
    return sum(len(at_ms) for _, at_ms in kept.values())


def n_new(records: Iterable[Record]) -> int:
    """How many of the records add a behaviour."""
    profiles = MemoryProfiles(len(FIELDS.item), MAX_HISTORY, TTL_MS)
    return sum(put_in(profiles, records))


def put_in(profiles: Profiles, records: Iterable[Record]) -> list[bool]:
    """Put the behaviours among these in order; whether each is new."""
    return profiles.put_many(
        [
            Put(
                key_of("user", event.user),
                Origin(record.partition, record.offset, 0),
                FIELDS.item_keys(event.item, event.features),
                event.at_ms,
                key_of("kind", event.kind),
            )
            for record, event in actions(records)
        ]
    )


def same(kept: Kept, wanted: Kept) -> bool:
    """Whether two are equal; that what is wanted holds anything is asserted."""
    assert total(wanted) > 0, "expected behaviours to compare, got none"
    return kept.keys() == wanted.keys() and all(
        np.array_equal(a, b) for user in kept for a, b in zip(kept[user], wanted[user], strict=True)
    )


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

    def put_many(self, puts: Sequence[Put]) -> list[bool]:
        done: list[bool] = []
        for at in range(0, len(puts), 20):
            time.sleep(0.1)
            done += super().put_many(puts[at : at + 20])
        return done


def main(bootstrap: str, prefix: str, redis_url: str, *words: str) -> None:
    logs.configure()
    client = Client(redis_url, timeout_ms=1_000)
    run(
        Cluster(bootstrap, prefix=prefix, timeout_ms=10_000),
        redis_profiles(client, prefix, SlowProfiles if "slowly" in words else RedisProfiles),
        FIELDS,
        RULES.history_kinds,
        Metrics("profiles"),
        once="once" in words,
        now_ms=now_ms,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
