"""Every worker on a Kafka and a Redis that are reached by TLS alone, as far as the settings say."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stream.files import FileSource, write_events
from tests.services.installation import installed
from tests.services.processes import LocalKafka, fetch_kafka, local_redis
from tests.services.ready import free_port
from tests.services.test_errors import not_installed, only_line
from tests.services.undisturbed import differences, undisturbed
from tests.worlds import product


@dataclass(frozen=True)
class Guarded:
    """Where both listen, and whom to trust."""

    bootstrap: str
    redis_url: str
    authority: Path

    def sections(self, authority: Path | None = None) -> dict[str, dict[str, Any]]:
        """Settings with which they are reached."""
        file = str(authority or self.authority)
        return {
            "kafka": {
                "timeout_ms": 5_000,
                "transaction_timeout_ms": 10_000,
                "client": {"security_protocol": "SSL", "ssl_cafile": file},
            },
            "redis": {"client": {"ssl_ca_certs": file}, "timeout_ms": 2_000},
        }


def certify(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for this machine that vouches for itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    what = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *what, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, of_kafka, of_redis = (tmp_path_factory.mktemp(name) for name in ("tls", "kafka", "redis"))
    key, certificate = certify(folder)
    both = folder / "both.pem"
    both.write_text(key.read_text() + certificate.read_text())
    kafka, port, redis_port = LocalKafka(of_kafka, fetch_kafka(), "512m"), free_port(), free_port()
    file = of_kafka / "server.properties"
    lines = [
        f"{line},TLS://127.0.0.1:{port}" if line.startswith("listeners=") else line
        for line in file.read_text().splitlines()
        if not line.startswith("listener.security.protocol.map")
    ]
    lines += [
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL",
        "listener.name.tls.ssl.keystore.type=PEM",
        f"listener.name.tls.ssl.keystore.location={both}",
    ]
    file.write_text("\n".join(lines) + "\n")
    tls = ["--tls-port", str(redis_port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    tls += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"]
    try:
        kafka.start()
        with local_redis(of_redis, *tls):
            yield Guarded(f"127.0.0.1:{port}", f"rediss://127.0.0.1:{redis_port}/0", certificate)
    finally:
        kafka.kill()


def test_every_worker_does_its_work_over_tls(guarded: Guarded, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_events(log, product(60))
    with installed(tmp_path / "loop", guarded.bootstrap, guarded.redis_url, **guarded.sections()) as loop:
        records = FileSource(log, loop.settings.stream.partitions).poll(1 << 30)
        loop.instep("send", str(log))
        loop.drain()
        assert differences(loop, undisturbed(loop.settings, records)) == []


def test_servers_that_are_not_vouched_for_are_refused_in_one_line(guarded: Guarded, tmp_path: Path) -> None:
    _, other = certify(tmp_path)
    sections = guarded.sections(other)
    with not_installed(tmp_path / "loop", guarded.bootstrap, guarded.redis_url, **sections) as there:
        told = only_line(there.instep("topics", "create", code=2))
        assert told.startswith("kafka.")
        assert guarded.bootstrap in told
    sections["kafka"] = guarded.sections()["kafka"]
    with not_installed(tmp_path / "other", guarded.bootstrap, guarded.redis_url, **sections) as there:
        there.instep("topics", "create")
        there.start("indexer")
        log = there.log("indexer")
        there.wait(lambda: "certificate verify failed" in log.read_text(), "the certificate to be refused")
        assert "redis.url: expected an answer from rediss://" in log.read_text()
        assert "Traceback" not in log.read_text()
