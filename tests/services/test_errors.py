"""What a person is told who got an address, a password, a topic or a folder wrong: one line that names the setting."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from instep.run import WORKERS
from stream.files import FileSource, write_events
from tests.services.installation import ENDING, Installation, installed
from tests.services.processes import ROOT
from tests.services.ready import free_port
from tests.services.servers import KafkaServer, RedisServer
from tests.services.undisturbed import differences, undisturbed
from tests.worlds import product

NOBODY = f"127.0.0.1:{free_port()}"
QUICK = {"timeout_ms": 1_000, "transaction_timeout_ms": 5_000}


@pytest.fixture
def loop(kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path / "loop", kafka.bootstrap, redis_server.url) as there:
        yield there


@contextmanager
def not_installed(
    folder: Path, bootstrap: str, url: str, **sections: dict[str, Any]
) -> Iterator[Installation]:
    """Settings with which nothing was ever done."""
    folder.mkdir()
    there = Installation(folder, bootstrap, url, sections)
    try:
        yield there
    finally:
        there.close()


def only_line(told: str) -> str:
    """The one line that is the error; what else there is are log lines."""
    assert "Traceback" not in told, told
    (line,) = [line for line in told.splitlines() if line.startswith("instep: ")]
    return line.removeprefix("instep: ")


def test_a_wrong_address_of_kafka_is_one_line_and_a_worker_tries_again(tmp_path: Path) -> None:
    with not_installed(tmp_path / "loop", NOBODY, f"redis://{NOBODY}", kafka=QUICK) as there:
        expected = f"kafka.bootstrap: expected a broker, got no answer from {NOBODY}"
        assert only_line(there.instep("topics", "create", code=2)) == expected
        workers = [worker for worker in WORKERS if worker != ENDING]
        for worker in workers:
            there.start(worker)
        for worker in workers:
            log = there.log(worker)
            there.wait(lambda log=log: log.read_text().count(expected) > 1, "to be told twice")  # type: ignore[misc]
            assert "starting again" in log.read_text()
            there.leave(worker)
            assert "Traceback" not in log.read_text()


def test_profiles_without_kafka_end_to_be_started_again(tmp_path: Path) -> None:
    with not_installed(tmp_path / "loop", NOBODY, f"redis://{NOBODY}", kafka=QUICK) as there:
        told = there.instep("run", "profiles", code=1)  # 2 would end all workers of a supervisor
        assert f"kafka.bootstrap: expected a broker, got no answer from {NOBODY}" in told
        assert "Traceback" not in told


def test_a_wrong_address_of_redis_is_told_and_a_worker_tries_again(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    with installed(
        tmp_path / "loop", kafka.bootstrap, f"redis://{NOBODY}/0", redis={"timeout_ms": 200}
    ) as there:
        there.start("indexer")
        log, told = there.log("indexer"), f"redis.url: expected an answer from redis://{NOBODY}/0"
        there.wait(lambda: log.read_text().count(told) > 1, "to be told twice")
        there.leave("indexer")
        assert "Traceback" not in log.read_text()


def test_a_password_that_redis_refuses_is_one_line_without_the_password(
    kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url.replace("redis://", "redis://ada:secret@")
    with installed(tmp_path / "loop", kafka.bootstrap, url) as there:
        told = there.instep("run", "indexer", "--once", code=2)
        line = only_line(told)
        assert line.startswith("redis.url: expected a user and password that ")
        assert "secret" not in told


def test_a_missing_topic_and_another_number_of_partitions_are_one_line(
    kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    with not_installed(tmp_path / "loop", kafka.bootstrap, redis_server.url) as there:
        prefix = there.settings.kafka.prefix
        for worker, topic in {"joiner": "events", "trainer": "samples", "indexer": "model"}.items():
            expected = f"topic {prefix}.{topic}: expected a topic (instep topics create), got none"
            assert only_line(there.instep("run", worker, "--once", code=2)) == expected
        there.instep("topics", "create")
        there.file.write_text(there.file.read_text().replace("partitions = 2", "partitions = 3"))
        for worker, topic in {"joiner": "events", "trainer": "samples"}.items():
            expected = f"topic {prefix}.{topic}: expected 3 partitions (stream.partitions), got 2"
            assert only_line(there.instep("run", worker, "--once", code=2)) == expected
        told = only_line(there.instep("topics", "create", code=2))
        assert f"{prefix}.samples: partitions is 2, expected 3" in told


def test_checkpoints_that_cannot_be_written_are_one_line_and_nothing_is_lost(loop: Installation) -> None:
    log = loop.folder / "log.jsonl"
    write_events(log, product(60))
    records = FileSource(log, loop.settings.stream.partitions).poll(1 << 30)
    loop.write(records)
    loop.instep("run", "joiner", "--once")
    folder = Path(loop.settings.trainer.checkpoints)

    folder.write_text("a file, where a folder should be")
    told = only_line(loop.instep("run", "trainer", "--once", code=2))
    assert told.startswith(f"trainer.checkpoints: {folder}: checkpoint cannot be written: ")
    folder.unlink()

    full = subprocess.run(
        [sys.executable, "-m", "instep.cli", "run", "trainer", "--once", "--settings", str(loop.file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=_little_room,
    )
    assert full.returncode == 2, full.stderr
    assert only_line(full.stderr).startswith(f"trainer.checkpoints: {folder}: checkpoint cannot be written: ")

    for worker in ("profiles", "trainer", "indexer", "monitor"):
        loop.instep("run", worker, "--once")
    assert differences(loop, undisturbed(loop.settings, records)) == []


def _little_room() -> None:
    """No file may grow beyond this, which is what a full disk is to one who writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))
