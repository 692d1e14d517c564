"""A Kafka cluster: how to reach it, and what its answers mean for us.

Three kinds of trouble come from there. What a person must mend (an address, credentials, a topic) is a `LogError` that
names the setting; a process that another one has replaced is `Fenced`; all else is `Unavailable`, and since
nothing uncommitted counts it is always right to build anew and go on from what was committed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kafka
from kafka import errors
from kafka.net.compat import KafkaNetClient

from stream.log import Fenced, LogError, Unavailable

OURS = frozenset(
    {
        *("bootstrap_servers", "acks", "enable_idempotence", "transactional_id", "transaction_timeout_ms"),
        *(
            "group_id",
            "isolation_level",
            "auto_offset_reset",
            "enable_auto_commit",
            "allow_auto_create_topics",
        ),
        *("key_serializer", "value_serializer", "key_deserializer", "value_deserializer"),
        *("partition_assignment_strategy", "kafka_client"),
    }
)
"""What decides whether anything is lost or read twice is not for a settings file."""

MAX_RECORD = 64 << 20
"""Bytes of the largest record that a producer sends; a topic's own ``max.message.bytes`` may be lower."""

_FENCED = (
    errors.ProducerFencedError,
    errors.InvalidProducerEpochError,
    errors.InvalidProducerIdMappingError,
    errors.TransactionCoordinatorFencedError,
)
_REFUSED = (
    errors.AuthorizationError,
    errors.IllegalSaslStateError,
    errors.SaslAuthenticationFailedError,
    errors.SecurityDisabledError,
    errors.UnsupportedSaslMechanismError,
)


@dataclass(frozen=True)
class Cluster:
    """Where the brokers are and how to speak to them.

    Parameters
    ----------
    bootstrap
        ``host:port``, several with commas between.
    prefix
        Of every topic's name: ``samples`` is ``instep.samples``.
    client
        Passed on to kafka-python: ``security_protocol``, ``ssl_*``, ``sasl_*`` and what else it knows, but `OURS`.
    timeout_ms
        How long to wait for an answer before it is `Unavailable`.
    transaction_timeout_ms
        How long records may lie uncommitted, and so how long a writer that died can hold up readers. Longer than
        ``timeout_ms``.

    Raises
    ------
    LogError
        If ``client`` has something that is unknown or ours. Values are never shown.
    """

    bootstrap: str
    prefix: str = "instep"
    client: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout_ms: int = 30_000
    transaction_timeout_ms: int = 60_000

    def __post_init__(self) -> None:
        for name in self.client:
            if name in OURS or not any(name in kind.DEFAULT_CONFIG for kind in _KINDS):
                raise LogError(
                    f"kafka.client.{name}", "expected a setting of kafka-python that is free, got this one"
                )

    def topic(self, name: str) -> str:
        """The whole name of a topic."""
        return f"{self.prefix}.{name}"

    def check(self, topics: Mapping[str, int]) -> None:
        """Find out at the start what a person must mend: topics by name, with the partitions they must have.

        Raises
        ------
        LogError
            If we are refused, or a topic is missing or has other partitions.
        Unavailable
            If nobody answers at ``kafka.bootstrap``: a worker that is built anew finds the cluster away like this.
        """
        found = self.partitions(topics)
        for name, n in topics.items():
            if found[name] != n:
                raise LogError(
                    f"topic {self.topic(name)}",
                    f"expected {n} partitions (stream.partitions), got {found[name]}",
                )

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each of these topics has. LogError if one is missing."""
        names = list(topics)
        with self.admin() as admin:
            found = {t["name"]: t for t in admin.describe_topics([self.topic(name) for name in names])}
        for name in names:
            code = found[self.topic(name)]["error_code"]
            if code and (error := errors.for_code(code)) is not errors.UnknownTopicOrPartitionError:
                with self.trouble(f"topic {self.topic(name)}"):
                    raise error()
            if code:
                raise LogError(
                    f"topic {self.topic(name)}", "expected a topic (instep topics create), got none"
                )
        return {name: len(found[self.topic(name)]["partitions"]) for name in names}

    def consumer(self, **config: Any) -> Any:
        """A KafkaConsumer that reads what is committed, and never moves by itself."""
        return self._make(
            kafka.KafkaConsumer,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            **config,
        )

    def producer(self, **config: Any) -> Any:
        """An idempotent KafkaProducer."""
        request_ms = self._request_ms()
        return self._make(
            kafka.KafkaProducer,
            acks="all",
            enable_idempotence=True,
            max_block_ms=self.timeout_ms,
            delivery_timeout_ms=max(self.timeout_ms, request_ms + 1_000),
            max_request_size=MAX_RECORD,
            retry_backoff_ms=20,  # a transaction that begins while the last one ends is told to come again
            **config,
        )

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """A KafkaAdminClient for a few questions; its errors become ours."""
        logging.getLogger("kafka.admin.client").setLevel(logging.INFO)  # at DEBUG it logs passwords
        client = self._make(kafka.KafkaAdminClient)
        try:
            with self.trouble("kafka.bootstrap"):
                yield client
        finally:
            client.close()

    @contextmanager
    def trouble(self, where: str) -> Iterator[None]:
        """Errors of kafka-python inside become ours."""
        try:
            yield
        except errors.KafkaError as e:
            raise self.explained(e, where) from e

    def explained(self, error: errors.KafkaError, where: str) -> Exception:
        """What an error of kafka-python means for us."""
        what = " ".join((str(error) or type(error).__name__).split())
        if isinstance(error, _FENCED):
            return Fenced(f"{where}: expected to be the only writer, got replaced by a newer one")
        if isinstance(error, _REFUSED):
            return LogError("kafka.client", f"expected to be let in at {self.bootstrap}, got: {what}")
        if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
            return LogError(where, f"expected records within the topic's max.message.bytes, got: {what}")
        if isinstance(
            error, errors.KafkaTimeoutError | errors.NodeNotReadyError | errors.KafkaConnectionError
        ):
            return Unavailable(where, f"expected an answer from {self.bootstrap}, got: {what}")
        return Unavailable(where, f"expected {self.bootstrap} to do it, got: {what}")

    def _request_ms(self) -> int:
        return int(self.client.get("request_timeout_ms", max(1_000, self.timeout_ms // 2)))

    def _make(self, kind: Any, **config: Any) -> Any:
        """A client of kafka-python; if it cannot be made, nothing of it is left running."""
        known = {name: value for name, value in self.client.items() if name in kind.DEFAULT_CONFIG}
        started: list[Any] = []
        failures: list[Exception] = []

        def start(**net: Any) -> Any:
            started.append(KafkaNetClient(**net))
            _watch(started[-1]._manager, failures)
            return started[-1]

        ours = {
            "bootstrap_servers": self.bootstrap.split(","),
            "bootstrap_timeout_ms": self.timeout_ms,
            "request_timeout_ms": self._request_ms(),
            "reconnect_backoff_max_ms": 1_000,
            "kafka_client": start,
        }
        if "allow_auto_create_topics" in kind.DEFAULT_CONFIG:
            ours["allow_auto_create_topics"] = False
        if kind is not kafka.KafkaAdminClient:
            ours["metrics_enabled"] = False
        for name, path in known.items():
            if name.startswith("ssl_") and name.endswith("file"):
                _readable(f"kafka.client.{name}", path)
        try:
            return kind(**ours | config | known)
        except Exception as e:
            for client in started:
                client.close()
            if isinstance(e, errors.KafkaTimeoutError):
                raise self._unanswered(failures) from e
            if isinstance(e, errors.KafkaConfigurationError) or not isinstance(e, errors.KafkaError):
                raise LogError("kafka.client", f"expected settings that go together, got: {e}") from e
            raise self.explained(e, "kafka.bootstrap") from e

    def _unanswered(self, failures: list[Exception]) -> Exception:
        """What it means that there was no answer while these connections failed."""
        # A broker hangs up as it says that a password is wrong, and kafka-python then never reads what it said.
        said = [e for e in failures if not isinstance(e, errors.RequestTimedOutError)]
        if "sasl_mechanism" in self.client and said and all("disconnected" in str(e) for e in said):
            return LogError(
                "kafka.client", f"expected to be let in at {self.bootstrap}, got: it hangs up on our name"
            )
        over = f" over {self.client['security_protocol']}" if "security_protocol" in self.client else ""
        return Unavailable("kafka.bootstrap", f"expected a broker, got no answer from {self.bootstrap}{over}")


def _watch(manager: Any, failures: list[Exception]) -> None:
    """Note why connections of a client fail, and let a refusal end its start: it would try until its time is up."""
    connect = manager.get_connection

    def watched(node_id: Any, **config: Any) -> Any:
        refused = [e for e in failures if isinstance(e, _REFUSED)]
        if refused and str(node_id).startswith("bootstrap"):
            raise refused[0]
        connection = connect(node_id, **config)
        connection.init_future.add_errback(failures.append)
        return connection

    manager.get_connection = watched


def _readable(setting: str, path: Any) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as e:
        raise LogError(setting, f"expected a file that can be read, got {path}: {e.strerror}") from None


_KINDS: tuple[Any, ...] = (kafka.KafkaConsumer, kafka.KafkaProducer, kafka.KafkaAdminClient)
