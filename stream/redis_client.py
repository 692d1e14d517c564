"""Calls to a Redis or a Redis Cluster: what goes wrong is said in our words, and waiting has an end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from stream.log import Unavailable

log = logging.getLogger(__name__)

OLDEST = (6, 2)
"""XTRIM by id and COPY came with it."""
SCHEMES = ("redis", "rediss", "unix")
RETRIES = 3
AT_A_TIME, BYTES_AT_A_TIME = 128, 1 << 20
"""Commands that are sent before the first answer is read: so many, or of so many bytes. A server may take all that it
finds of one client before it turns to the next."""

_REFUSED = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
)
_LATER = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterError,
    redis.exceptions.TryAgainError,
    redis.exceptions.RedisClusterException,
)
_REFUSED_CODES = ("NOAUTH", "WRONGPASS", "NOPERM")
_LATER_CODES = ("MISCONF", "LOADING", "BUSY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "UNKILLABLE")


class RedisSettingsError(ValueError):
    """A setting under ``redis`` with which no Redis can be used: which, what was expected, what came."""


class Client:
    """A connection that is made when it is needed, and again when it broke.

    A call that got no answer is sent again, so whatever is called must be harmless when it is done twice.

    Parameters
    ----------
    url
        ``redis://``, ``rediss://`` (TLS) or ``unix://``.
    cluster
        Whether that is one node of a cluster.
    timeout_ms
        How long to wait for a connection or an answer, each time.
    retries
        How often a call is sent again that got no answer.
    options
        More that redis-py's client takes: username, password, ssl_ca_certs and so on.

    Raises
    ------
    RedisSettingsError
        If the settings cannot be, the user is refused or the server is too old.
    Unavailable
        If nobody answers; from every call.
    """

    def __init__(
        self,
        url: str,
        cluster: bool = False,
        timeout_ms: int = 5_000,
        options: Mapping[str, Any] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self._where = _without_secrets(url)
        ours = {
            "socket_timeout": timeout_ms / 1000,
            "socket_connect_timeout": timeout_ms / 1000,
            "protocol": 2,
            **(options or {}),
            "decode_responses": False,
            "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), retries),
        }
        kind: Any = RedisCluster if cluster else redis.Redis
        with self._explained():
            try:
                self._redis: Any = kind.from_url(url, **ours)
                info = self._redis.execute_command("INFO")
            except (TypeError, ValueError) as e:
                raise RedisSettingsError(
                    f"redis.client: expected options that redis-py takes, got: {e}"
                ) from None
        self._check(info)

    def call(self, *command: Any) -> Any:
        """One command and its answer."""
        with self._explained():
            return self._redis.execute_command(*command)

    def calls(self, commands: Iterable[Sequence[Any]], at_a_time: int = AT_A_TIME) -> list[Any]:
        """Commands in their order, some on the way at a time, but not as one; and their answers."""
        answers: list[Any] = []
        for some in _batches(commands, at_a_time):
            with self._explained(), self._redis.pipeline(transaction=False) as pipe:
                for command in some:
                    pipe.execute_command(*command)
                answers += pipe.execute()
        return answers

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    def _check(self, info: Mapping[str, Any]) -> None:
        version = str(info.get("redis_version", "none"))
        if tuple(int(n) for n in version.split(".")[:2] if n.isdigit()) < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise RedisSettingsError(
                f"redis.url: expected a Redis of version {wanted} or later, got {version} at {self._where}"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            log.warning(
                "redis may drop keys when its memory is full expected=noeviction maxmemory_policy=%s", policy
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of redis-py that are not ours, in our words."""
        try:
            yield
        except (redis.RedisError, redis.exceptions.RedisClusterException) as e:
            said = str(e).rpartition(" of pipeline caused error: ")[2]
            if isinstance(e, _REFUSED) or said.startswith(_REFUSED_CODES):
                raise RedisSettingsError(
                    f"redis.url: expected a user and password that {self._where} accepts, got: {said}"
                ) from e
            if isinstance(e, _LATER) or said.startswith(_LATER_CODES):
                raise Unavailable("redis.url", f"expected an answer from {self._where}, got: {said}") from e
            raise


def _batches(commands: Iterable[Sequence[Any]], at_a_time: int) -> Iterator[list[Sequence[Any]]]:
    some: list[Sequence[Any]] = []
    n_bytes = 0
    for command in commands:
        some.append(command)
        n_bytes += sum(len(part) for part in command if isinstance(part, bytes))
        if len(some) == at_a_time or n_bytes >= BYTES_AT_A_TIME:
            yield some
            some, n_bytes = [], 0
    if some:
        yield some


def script(package: str, name: str) -> str:
    """The Lua that lies beside the Python, without its comments: it is sent with each call.

    The server keeps scripts by their text and compiles each but once; a restart needs no care.
    """
    lines = (files(package) / name).read_text().splitlines()
    return "\n".join(line.strip() for line in lines if line.strip() and not line.strip().startswith("--"))


def _without_secrets(url: str) -> str:
    """An address as it may be logged.

    >>> _without_secrets("rediss://ada:secret@cache:6380/1?password=secret")
    'rediss://cache:6380/1'
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "@" in parts.path:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise RedisSettingsError(
            f"redis.url: expected an address with {known}, got one with {parts.scheme!r}"
        )
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
