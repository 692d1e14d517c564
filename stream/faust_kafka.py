"""Faust's way to Kafka, held to three promises that it does not keep by itself (faust-streaming 0.15.3).

*No commit passes what is durable.* Around a rebalance Faust acknowledges records that no agent has seen, and commits
what was acknowledged. Here it commits the place that the agent has named, and nothing else.

*Every partition is read from a known place.* Where a group has committed nothing yet, Faust leaves a partition that it
keeps through a rebalance where it was, behind records that it has thrown away. Here each start is sought, and told. It
is the place that whoever keeps the records has noted beside them; what the group commits is for tools that show lag.

*Every partition is read by somebody.* A broker that has only just come up may not tell of the events' topic yet. Who
shares out the partitions then would share out none, and nothing would be read until something else changes. Here that
process ends, to be started again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import faust
from faust.assignor.partition_assignor import (
    CopartitionedGroups,
    MemberSubscriptionMapping,
    PartitionAssignor,
)
from faust.transport.drivers import aiokafka
from faust.types import TP
from yarl import URL

from stream.cluster import Cluster
from stream.log import LogError, Unavailable
from stream.service import end

log = logging.getLogger(__name__)

_SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class Keeper(Protocol):
    """Who keeps what is read, and how far that was; see `stream.profiles.Profiles`."""

    def place(self, partition: int) -> int | None:
        """The offset before which all of a partition is kept."""

    def begin(self, partition: int, offset: int) -> None:
        """All of a partition before this offset is kept."""


class Places:
    """Where each partition of the events stands, as far as this process knows."""

    def __init__(self) -> None:
        self.next: dict[int, int] = {}
        """The next offset to be read."""
        self.durable: dict[int, int] = {}
        """The offset before which everything is kept."""

        self.end: dict[int, int] = {}
        """What the next offset to be written was when reading began."""

    def begin(self, partition: int, offset: int, end: int) -> None:
        """Reading goes on from here, and all before is durable."""
        self.next[partition], self.end[partition] = offset, end
        self.durable[partition] = max(offset, self.durable.get(partition, 0))

    def forget_all_but(self, mine: Collection[int]) -> None:
        """Others read on in the partitions that are not among these."""
        for of in (self.next, self.end, self.durable):
            for partition in of.keys() - mine:
                del of[partition]

    def take(self, partition: int, offset: int) -> bool:
        """Let a record be read; False if it is one from before the place where reading began.

        Raises
        ------
        LogError
            If one was passed over, which nobody would see again.

        Examples
        --------
        >>> places = Places()
        >>> places.begin(0, 7, end=9)
        >>> places.take(0, 6), places.take(0, 7)
        (False, True)
        >>> places.take(0, 9)
        Traceback (most recent call last):
        stream.frames.LogError: events: partition 0: expected offset 8 (none is left out without transactions), got 9
        """
        expected = self.next.get(partition)
        if expected is None or offset > expected:
            raise LogError(
                f"events: partition {partition}",
                f"expected offset {expected} (none is left out without transactions), got {offset}",
            )
        if offset == expected:
            self.next[partition] = offset + 1
        return offset == expected

    def keep(self, partition: int, offset: int) -> None:
        """All before this offset is durable; nothing to us if the partition is no longer ours."""
        if partition in self.durable:
            self.durable[partition] = max(offset, self.durable[partition])


class _Consumer(aiokafka.Consumer):
    @property
    def _places(self) -> Places:
        assert isinstance(self.transport, _Transport)
        return self.transport.places

    @property
    def _keeper(self) -> Keeper:
        assert isinstance(self.transport, _Transport)
        return self.transport.keeper

    def _new_offset(self, tp: TP) -> int | None:
        super()._new_offset(tp)  # forgets what was acknowledged
        return self._places.durable.get(tp.partition)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        mine, places, keeper = sorted(self.assignment()), self._places, self._keeper
        places.forget_all_but({tp.partition for tp in mine})
        if not mine:
            return
        starts, ends = await self._thread.earliest_offsets(*mine), await self._thread.highwaters(*mine)
        for tp in mine:
            start, end, where = starts[tp], ends[tp], f"{tp.topic}: partition {tp.partition}"
            kept = await asyncio.to_thread(keeper.place, tp.partition)
            if kept is not None and kept > end:
                what = (
                    f"expected what is kept to end within {start}..{end}, got {kept} (was the topic remade?)"
                )
                raise LogError(where, what)
            if kept is not None and kept < start:
                log.warning("events are gone that were not read where=%s from=%d to=%d", where, kept, start)
            if kept is None or kept < start:
                await asyncio.to_thread(keeper.begin, tp.partition, start)
            offset = max(start, kept or 0)
            await self.seek_wait({tp: offset})
            log.info("reading on where=%s offset=%d end=%d", where, offset, end)
            places.begin(tp.partition, offset, end)


class _Assignor(PartitionAssignor):
    @classmethod
    def _get_copartitioned_groups(
        cls, topics: set[str], cluster: Any, subscriptions: MemberSubscriptionMapping
    ) -> CopartitionedGroups:
        for topic in sorted(topics):
            if not cluster.partitions_for_topic(topic):
                # what is raised here is a crash of a task that nothing waits for
                end(Unavailable(f"topic {topic}", "expected partitions to share out, got none yet"))
        return super()._get_copartitioned_groups(topics, cluster, subscriptions)


class _Transport(aiokafka.Transport):
    Consumer = _Consumer
    places: Places
    keeper: Keeper


class _App(faust.App):
    """Keeps nothing on disk, where it may have no place to write to."""

    def _create_directories(self) -> None:
        pass


def make_app(cluster: Cluster, group: str, places: Places, keeper: Keeper) -> faust.App:
    """A Faust app that reads the cluster under a consumer group's name, and only reads.

    Of the client's settings it takes those of security and ``session_timeout_ms``.

    Raises
    ------
    LogError
        If Faust cannot reach a cluster with these client settings.
    """
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of each of their parts
    session_s = cluster.client.get("session_timeout_ms", 6_000) / 1000
    brokers = [URL(f"kafka://{one.strip()}") for one in cluster.bootstrap.split(",")]
    app = _App(
        group,
        broker=brokers,
        broker_credentials=credentials(cluster.client),
        broker_commit_interval=1.0,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        consumer_auto_offset_reset="earliest",
        PartitionAssignor=_Assignor,
        key_serializer="raw",
        value_serializer="raw",
        producer_acks=-1,
        stream_wait_empty=False,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    transport = _Transport(brokers, app)
    transport.places, transport.keeper = places, keeper
    app.transport = transport
    return app


def credentials(client: Mapping[str, Any]) -> faust.types.auth.CredentialsT | None:
    """Faust's credentials for what kafka-python takes as ``security_protocol``, ``ssl_*`` and ``sasl_*``.

    Raises
    ------
    LogError
        For a mechanism that Faust has not, or files that cannot be read.

    Examples
    --------
    >>> credentials({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "ada"})
    <SASLCredentials: username=ada>
    """
    protocol = str(client.get("security_protocol", "PLAINTEXT"))
    context = _ssl_context(client) if protocol in ("SSL", "SASL_SSL") else None
    if protocol in ("SASL_SSL", "SASL_PLAINTEXT"):
        mechanism = client.get("sasl_mechanism")
        if mechanism not in _SASL:
            raise LogError(
                "kafka.client.sasl_mechanism", f"expected one of {', '.join(_SASL)}, got {mechanism}"
            )
        return faust.SASLCredentials(
            username=client.get("sasl_plain_username"),
            password=client.get("sasl_plain_password"),
            mechanism=mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def _ssl_context(client: Mapping[str, Any]) -> ssl.SSLContext:
    given = client.get("ssl_context")
    if isinstance(given, ssl.SSLContext):
        return given
    try:
        context = ssl.create_default_context(cafile=client.get("ssl_cafile"))
        context.check_hostname = bool(client.get("ssl_check_hostname", True))
        if ciphers := client.get("ssl_ciphers"):
            context.set_ciphers(ciphers)
        if revoked := client.get("ssl_crlfile"):
            context.load_verify_locations(revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if mine := client.get("ssl_certfile"):
            context.load_cert_chain(mine, client.get("ssl_keyfile"), client.get("ssl_password"))
    except (OSError, ValueError) as e:
        raise LogError("kafka.client", f"expected TLS files that can be read, got: {e}") from e
    return context
