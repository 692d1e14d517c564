"""The topics: what each must be like, made where it is missing, compared where it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from stream.cluster import MAX_RECORD, Cluster
from stream.events import MAX_EVENT_BYTES
from stream.log import LogError

MIB = 1 << 20
DECISIVE = ("partitions", "cleanup.policy")
"""What must not differ: users would change partitions, or state would be thrown away."""


@dataclass(frozen=True)
class Topic:
    """What a topic is to be like; ``config`` by the names of Kafka."""

    partitions: int
    config: Mapping[str, str]


class Difference(NamedTuple):
    """One thing in which a topic that is there is not what it is to be like."""

    what: str
    wanted: str
    got: str

    def __str__(self) -> str:
        return f"{self.what} is {self.got}, expected {self.wanted}"


def topics(partitions: int, replication: int, retention_ms: int, model_retention_ms: int) -> dict[str, Topic]:
    """All topics, by their names without the prefix.

    ``model`` has one partition, since a publication is one whole; ``joiner`` keeps the last state of each user.

    >>> topics(4, 1, 1000, 2000)["model"].config
    {'cleanup.policy': 'delete', 'retention.ms': '2000', 'max.message.bytes': '67108864'}
    """
    # A commit then outlives any one broker, and writing goes on without it.
    safe = {"min.insync.replicas": str(replication - 1)} if replication > 2 else {}

    def kept(ms: int, max_bytes: int) -> dict[str, str]:
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(ms),
            "max.message.bytes": str(max_bytes),
        } | safe

    compacted = {
        "cleanup.policy": "compact",
        "max.message.bytes": str(16 * MIB),
        "segment.bytes": str(64 * MIB),  # the one written to is never compacted, and a start reads all of it
        "min.cleanable.dirty.ratio": "0.2",
    }
    return {
        "events": Topic(partitions, kept(retention_ms, MAX_EVENT_BYTES)),
        "samples": Topic(partitions, kept(retention_ms, 16 * MIB)),
        "joiner": Topic(partitions, compacted | safe),
        "scores": Topic(partitions, kept(retention_ms, 4 * MIB)),
        "model": Topic(1, kept(model_retention_ms, MAX_RECORD)),
        "dead": Topic(partitions, kept(retention_ms, 16 * MIB)),
    }


def create(
    cluster: Cluster, wanted: Mapping[str, Topic], replication: int, *, dry_run: bool = False
) -> dict[str, list[Difference] | None]:
    """Make the topics that are missing; what is there stays as it is.

    Returns
    -------
    By topic, None if it was missing (and, but for ``dry_run``, is there now), else in what it differs.

    Raises
    ------
    LogError
        If the cluster will not make one, with its reason.
    Unavailable
        If it does not answer.
    """
    with cluster.admin() as admin:
        there = {t["name"]: t for t in admin.describe_topics() if not t["error_code"]}
        missing = {name: topic for name, topic in wanted.items() if cluster.topic(name) not in there}
        if missing and not dry_run:
            _make(cluster, admin, missing, replication)
        present = [name for name in wanted if name not in missing]
        configs = _configs(admin, [cluster.topic(name) for name in present])
    found: dict[str, list[Difference] | None] = dict.fromkeys(wanted)
    for name in present:
        whole = cluster.topic(name)
        partitions = there[whole]["partitions"]
        replicas = min(len(p["replica_nodes"]) for p in partitions)
        pairs = [
            ("partitions", str(wanted[name].partitions), str(len(partitions))),
            ("replication", str(replication), str(replicas)),
            *((key, value, configs[whole].get(key, "unknown")) for key, value in wanted[name].config.items()),
        ]
        found[name] = [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
    return found


def _make(cluster: Cluster, admin: Any, missing: Mapping[str, Topic], replication: int) -> None:
    asked = {
        cluster.topic(name): {
            "num_partitions": topic.partitions,
            "replication_factor": replication,
            "configs": dict(topic.config),
        }
        for name, topic in missing.items()
    }
    try:
        admin.create_topics(asked, wait_for_metadata=True)
    except errors.TopicAlreadyExistsError:
        pass  # somebody else did at this moment
    except errors.InvalidReplicationFactorError as e:
        raise LogError(
            "kafka.replication", f"expected at most as many as there are brokers, got {replication}"
        ) from e
    except (errors.InvalidTopicError, errors.InvalidConfigurationError, errors.PolicyViolationError) as e:
        raise LogError(f"topics {', '.join(asked)}", f"expected the cluster to make them, got: {e}") from e


def _configs(admin: Any, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = admin.describe_configs(asked, config_filter="all")["topic"]
    return {
        name: {key: str(entry["value"]) for key, entry in config.items()} for name, config in found.items()
    }
