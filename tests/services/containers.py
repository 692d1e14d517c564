"""Kafka and Redis in containers, as testcontainers drives them, and the images that containers are made from."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Literal

import docker
import docker.utils
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.container import DockerContainer

from tests.services.processes import CLUSTER, ROOT, NotThere, kafka_settings
from tests.services.ready import DidNotStart, await_kafka, await_redis, free_port, last_lines


def find_image(server: Literal["kafka", "redis", "prometheus", "instep"]) -> str:
    """The name of an image, which the engine has by then: INSTEP_TEST_..._IMAGE, else as names.txt says.

    Raises
    ------
    NotThere
        If no engine answers, or the image is neither there nor to be pulled.
    """
    names = (ROOT / "deploy" / "images" / "names.txt").read_text().split()
    default = next(name for name in names if name.partition(":")[0].endswith(server))
    name = os.environ.get(f"INSTEP_TEST_{server.upper()}_IMAGE", default)
    if not engine_answers():
        raise NotThere("no container engine answers (deploy/engine.sh starts one)")
    with contextlib.closing(docker.from_env(timeout=300)) as client:
        try:
            client.images.get(name)
        except ImageNotFound:
            try:
                client.images.pull(name)
            except DockerException:
                raise NotThere(f"no image {name}, and none to be pulled (make images builds it)") from None
    return name


def engine_answers() -> bool:
    """Whether there is a container engine; a ``docker`` on the PATH proves nothing."""
    kind, _, path = docker.utils.parse_host(os.environ.get("DOCKER_HOST")).partition("://")
    try:
        if kind == "http+unix":  # asked first, as the client drops its socket unclosed where nobody listens
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as engine:
                engine.connect(path)
        with contextlib.closing(docker.from_env(timeout=2)) as client:
            return bool(client.ping())
    except (OSError, DockerException):
        return False


@contextlib.contextmanager
def contained_kafka(image: str) -> Iterator[str]:
    """The ``host:port`` of a started Kafka, gone on leaving.

    Its settings travel in KAFKA_* variables, as apache/kafka reads them.
    """
    bootstrap = f"127.0.0.1:{free_port()}"  # fixed beforehand: the broker has to be told what to advertise
    settings = kafka_settings() | {
        "listeners": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093,INSIDE://127.0.0.1:9094",
        # The broker calls itself to check transactions, and what is published to us leads nowhere inside.
        "advertised.listeners": f"PLAINTEXT://{bootstrap},INSIDE://127.0.0.1:9094",
        "inter.broker.listener.name": "INSIDE",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT",
        "controller.quorum.voters": "1@127.0.0.1:9093",
    }
    variables = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in settings.items()}
    variables |= {"CLUSTER_ID": CLUSTER, "KAFKA_HEAP_OPTS": "-Xmx512m"}
    with started(image, bootstrap, 9092, variables, lambda alive: await_kafka(bootstrap, alive)):
        yield bootstrap


@contextlib.contextmanager
def contained_redis(image: str) -> Iterator[str]:
    """The URL of a started Redis that appends every write to a file, gone on leaving."""
    address = f"127.0.0.1:{free_port()}"
    url = f"redis://{address}/0"
    command = ["redis-server", "--appendonly", "yes", "--save", "", "--protected-mode", "no"]
    with started(image, address, 6379, {}, lambda alive: await_redis(url, alive), command):
        yield url


@contextlib.contextmanager
def started(
    image: str,
    address: str,
    port: int,
    variables: dict[str, str],
    ready: Callable[[Callable[[], bool]], None],
    command: list[str] | None = None,
) -> Iterator[None]:
    """A container whose ``port`` is published at ``address`` and that is ``ready``; removed on leaving.

    Raises
    ------
    DidNotStart
        With the end of its log.
    """
    # The reaper is one more image to pull; leaving this block removes the container.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    host, host_port = address.split(":")
    container = DockerContainer(image, env=variables)
    container.ports[str(port)] = (host, int(host_port))  # type: ignore[assignment]  # with_bind_ports takes no host
    if command is not None:
        container.with_command(command)
    with container:

        def alive() -> bool:
            container.reload()
            return container.status in ("created", "running")

        try:
            ready(alive)
        except DidNotStart as error:
            log = b"".join(container.get_logs()).decode(errors="replace")
            raise DidNotStart(f"{error}\n{image}:\n{last_lines(log)}") from error
        yield
