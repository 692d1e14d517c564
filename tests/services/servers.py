"""Where the tests' Kafka and Redis come from: the first rung that is there, of address, containers, processes.

An address in INSTEP_TEST_KAFKA or INSTEP_TEST_REDIS is taken as it is. Else containers, where an engine answers and
has or can pull the image (INSTEP_TEST_KAFKA_IMAGE and INSTEP_TEST_REDIS_IMAGE name others). Else child processes.
INSTEP_TEST_SERVICES=containers or processes asks for that rung and no other.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.services.containers import contained_kafka, contained_redis, find_image
from tests.services.processes import (
    LocalKafka,
    LocalRedis,
    NotThere,
    fetch_kafka,
    find_redis,
    local_kafka,
    local_redis,
)
from tests.services.ready import DidNotStart, await_kafka, await_redis

__all__ = [
    "DidNotStart",
    "KafkaServer",
    "LocalKafka",
    "LocalRedis",
    "NotThere",
    "RedisServer",
    "choose",
    "local_kafka",
    "local_redis",
    "plan",
    "serve_kafka",
    "serve_redis",
]

Server = Literal["kafka", "redis"]
Rung = Literal["address", "containers", "processes"]


@dataclass(frozen=True)
class KafkaServer:
    """A Kafka to test against, at ``host:port``; it makes no topic that nobody asked for."""

    bootstrap: str


@dataclass(frozen=True)
class RedisServer:
    """A Redis to test against."""

    url: str


@dataclass(frozen=True)
class Choice:
    """A rung, and what stands on it: an address, the name of an image, or a path."""

    rung: Rung
    what: str

    def __str__(self) -> str:
        return f"{self.rung} ({self.what})"


def choose(server: Server, environment: Mapping[str, str], rungs: Mapping[Rung, Callable[[], str]]) -> Choice:
    """The first rung that is there; those below it are not asked.

    Parameters
    ----------
    environment
        Of it, INSTEP_TEST_KAFKA or INSTEP_TEST_REDIS, and INSTEP_TEST_SERVICES, which comes first.
    rungs
        All but the address, in order: functions that return what stands there, or raise NotThere with why nothing does.

    Raises
    ------
    NotThere
        In one line that says what each rung lacks.
    ValueError
        If INSTEP_TEST_SERVICES names no rung.

    Examples
    --------
    >>> def no_engine() -> str:
    ...     raise NotThere("no container engine answers")
    >>> print(choose("redis", {}, {"containers": no_engine, "processes": lambda: "/usr/bin/redis-server"}))
    processes (/usr/bin/redis-server)
    """
    name = f"INSTEP_TEST_{server.upper()}"
    forced = environment.get("INSTEP_TEST_SERVICES", "")
    if forced and forced not in rungs:
        raise ValueError(f"INSTEP_TEST_SERVICES: expected {' or '.join(rungs)}, got {forced}")
    if not forced and (address := environment.get(name, "")):
        return Choice("address", address)
    lacks = []
    for rung, find in rungs.items():
        if forced in ("", rung):
            try:
                return Choice(rung, find())
            except NotThere as error:
                lacks.append(f"{rung}: {error}")
    expected = f"INSTEP_TEST_SERVICES={forced}" if forced else f"{name}, {' or '.join(rungs)}"
    raise NotThere(f"{server}: expected {expected}, got {'; '.join(lacks)}")


@functools.cache
def plan(server: Server) -> Choice:
    """The rung of this run. Pulls an image or fetches Kafka if need be, and starts nothing.

    Raises
    ------
    NotThere
        If there is none.
    """
    find_program = (lambda: str(fetch_kafka())) if server == "kafka" else find_redis
    return choose(server, os.environ, {"containers": lambda: find_image(server), "processes": find_program})


@contextlib.contextmanager
def serve_kafka(choice: Choice, folder: Path) -> Iterator[KafkaServer]:
    """A Kafka that answers, on the chosen rung; the files of a child process stay in ``folder``.

    Raises
    ------
    DidNotStart
        If it does not answer, with the end of its log.
    """
    if choice.rung == "address":
        await_kafka(choice.what, lambda: True, within_s=10)
        yield KafkaServer(choice.what)
    elif choice.rung == "containers":
        with contained_kafka(choice.what) as bootstrap:
            yield KafkaServer(bootstrap)
    else:
        with local_kafka(folder) as local:
            yield KafkaServer(local.bootstrap)


@contextlib.contextmanager
def serve_redis(choice: Choice, folder: Path) -> Iterator[RedisServer]:
    """A Redis that answers, on the chosen rung; the files of a child process stay in ``folder``.

    Raises
    ------
    DidNotStart
        If it does not answer, with the end of its log.
    """
    if choice.rung == "address":
        await_redis(choice.what, lambda: True, within_s=10)
        yield RedisServer(choice.what)
    elif choice.rung == "containers":
        with contained_redis(choice.what) as url:
            yield RedisServer(url)
    else:
        with local_redis(folder) as local:
            yield RedisServer(local.url)
