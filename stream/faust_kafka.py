"""Faust's way to Kafka, held to four promises that it does not keep by itself (faust-streaming 0.15.3).

*No commit passes what is durable.* Around a rebalance Faust acknowledges records that no agent has seen, and commits
what was acknowledged. Here it commits the place that the agent has named, and nothing else.

*Every partition is read from a known place.* Where a group has committed nothing yet, Faust leaves a partition that it
keeps through a rebalance where it was, behind records that it has thrown away. Here each start is sought, and told. It
is the place that whoever keeps the records has noted beside them; what the group commits is for tools that show lag.

*No record is left out.* Offsets alone do not tell: what ends a transaction takes one too, and so does each record of
one that was aborted. Here it is noted which offsets the consumer passed over, before Faust has its hands on what it
gave out; any other jump is a loss. What was aborted Faust would read too, since it writes no transactions itself.

*Every partition is read by somebody.* A broker that has only just come up may not tell of the events' topic yet. Who
shares out the partitions then would share out none, and nothing would be read until something else changes. Here that
process ends, to be started again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import faust
from aiokafka.consumer.fetcher import OffsetResetStrategy
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
from stream.places import Keeper, Places
from stream.service import end

log = logging.getLogger(__name__)

_SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class _Thread(aiokafka.AIOKafkaConsumerThread):
    """The consumer itself, on a thread of its own, where nothing comes between what it does and what is noted of it."""

    @property
    def _places(self) -> Places:
        assert isinstance(self.transport, _Transport)
        return self.transport.places

    def _create_worker_consumer(self, transport: aiokafka.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        # by itself it would leap over records that are gone, and tell nobody
        consumer._fetcher._default_reset_strategy = OffsetResetStrategy.NONE
        for tp, offset in partitions.items():
            self._places.sought(tp.partition, offset)
        await super()._seek_wait(consumer, partitions)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._places.lost()
        # where a group has committed nothing yet it needs a place, until one is sought
        self._ensure_consumer()._fetcher._default_reset_strategy = OffsetResetStrategy.EARLIEST
        await super().on_partitions_revoked(revoked)

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        found = await super()._fetch_records(consumer, *args, **kwargs)
        for tp in consumer.assignment():
            state = consumer._subscription.subscription.assignment.state_value(tp)
            if state.has_valid_position:
                offsets = [record.offset for record in found.get(tp, ())]
                self._places.fetched(tp.partition, offsets, state.position)
        return found

    def highwater(self, tp: TP) -> int:
        # what an open transaction has written does not wait to be read
        return self._ensure_consumer().last_stable_offset(tp) or 0


class _Consumer(aiokafka.Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _places(self) -> Places:
        assert isinstance(self.transport, _Transport)
        return self.transport.places

    @property
    def _keeper(self) -> Keeper:
        assert isinstance(self.transport, _Transport)
        return self.transport.keeper

    def _filter_tps_with_pending_acks(self, topics: Collection[TP | str] | None = None) -> Iterator[TP]:
        # all of them: what was acknowledged before a rebalance is forgotten, and may be the last there is
        return (tp for tp in self.assignment() if topics is None or tp in topics or tp.topic in topics)

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
