"""When a server answers, and where it may listen: what processes and containers have in common."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable

import kafka.errors
import redis
from kafka.admin import KafkaAdminClient

START_S = 60.0


class DidNotStart(Exception):
    """A server was started and did not answer; the message carries the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    It lies below the range that connections take their own ports from: else a client that keeps knocking while its
    server is away could be given that very port, connect to itself and keep the server from coming back.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def await_kafka(bootstrap: str, alive: Callable[[], bool], within_s: float = START_S) -> None:
    """Return when a broker answers with metadata.

    Raises
    ------
    DidNotStart
        If it does not within ``within_s`` seconds, or is not ``alive`` any more.
    """
    host, port = bootstrap.rsplit(":", 1)
    deadline = time.monotonic() + within_s
    while alive() and (left_s := deadline - time.monotonic()) > 0:
        # A refused client would leave its thread behind, so it is only made once somebody listens.
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=left_s):
            break
        time.sleep(0.05)
    else:
        raise DidNotStart(f"kafka: expected an answer at {bootstrap} within {within_s:g} s, got none")
    left_ms = max(1, int(1000 * (deadline - time.monotonic())))
    try:
        client = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=left_ms)
    except kafka.errors.KafkaError as error:
        raise DidNotStart(f"kafka: expected metadata from {bootstrap}, got {error}") from error
    with client:
        if not client.describe_cluster()["brokers"]:
            raise DidNotStart(f"kafka: expected a broker in the metadata of {bootstrap}, got none")


def await_redis(url: str, alive: Callable[[], bool], within_s: float = START_S) -> None:
    """Return when the server answers a PING and has read its files.

    Raises
    ------
    DidNotStart
        If it does not within ``within_s`` seconds, or is not ``alive`` any more.
    """
    deadline = time.monotonic() + within_s
    got = "nothing"
    with redis.Redis.from_url(url, socket_timeout=2) as client:
        while alive() and time.monotonic() < deadline:
            try:
                client.ping()
                return
            except redis.RedisError as error:  # not there yet, or still loading
                got = str(error)
                time.sleep(0.02)
    raise DidNotStart(f"redis: expected PONG from {url} within {within_s:g} s, got {got}")


def last_lines(text: str, n_lines: int = 30) -> str:
    """The end of a log."""
    return "\n".join(text.splitlines()[-n_lines:])
