"""What a Redis may do to index and profiles: restart, freeze, be a cluster, refuse, be full, forget."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

import pytest

from stream import redis_client
from stream.events import Origin
from stream.fields import Feature, Fields
from stream.log import Unavailable
from stream.profiles import MemoryProfiles, Put
from stream.redis_client import Client, RedisSettingsError
from stream.redis_profiles import RedisProfiles
from tests.services.processes import LocalRedis, local_redis
from tests.services.ready import free_port
from tests.services.updates import KINDS, Trainer, names, new, same

TWO = Fields([Feature("topic", "item")])


def test_a_restarted_server_has_everything(tmp_path: Path) -> None:
    trainer = Trainer(10)
    with local_redis(tmp_path) as own:
        index = new(one := Client(own.url), "kept")
        for whole in (True, False, False):
            index.apply(trainer.publish(whole=whole))
        own.kill()
        with pytest.raises(Unavailable, match=r"redis\.url: expected an answer from redis://127\.0\.0\.1"):
            index.apply(trainer.publish())
        own.start()
        assert same(index.load(), trainer.loads[trainer.sent[-2].version])
        index.apply(trainer.sent[-1])
        assert same(index.load(), trainer.loads[trainer.sent[-1].version])
        one.close()


def test_a_frozen_server_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    trainer = Trainer(11)
    with local_redis(tmp_path) as own:
        index = new(one := Client(own.url, timeout_ms=50), "frozen")
        profiles = RedisProfiles(one, Fields())
        index.apply(trainer.publish(whole=True))
        own.freeze()
        with pytest.raises(Unavailable):
            index.apply(trainer.publish())
        with pytest.raises(Unavailable):
            profiles.put(1, Origin(0, 0, 0), [5], 10, 1)
        own.thaw()
        # what was sent again and again is applied once
        assert index.apply(trainer.sent[-1]) >= 0
        assert same(index.load(), trainer.loads[trainer.sent[-1].version])
        profiles.put(1, Origin(0, 0, 0), [5], 10, 1)
        assert profiles.get(1, 11, 9)[0].tolist() == [[5]]
        one.close()


def test_a_cluster_takes_every_call(tmp_path: Path) -> None:
    trainer, memory = Trainer(12), MemoryProfiles(1)
    # its bus would be 10,000 above, where connections take their ports from
    args = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with local_redis(tmp_path, *args) as own:
        plain = Client(own.url)
        plain.call("CLUSTER", "ADDSLOTS", *range(16_384))
        wait_for(lambda: b"cluster_state:ok" in plain.call("CLUSTER", "INFO"))
        one = Client(own.url, cluster=True)
        index, profiles = new(one, "spread", keep=2), RedisProfiles(one, Fields())
        for how in (*KINDS["a new epoch"], {}, {}, {}, {"whole": True}):
            index.apply(update := trainer.publish(**how))
            assert same(index.load(), trainer.loads[update.version])
            assert index.get(update.keys).steps.tolist() == update.steps.tolist()
        for offset in range(300):
            put = Put(offset % 50 + 1, Origin(0, offset, 0), [offset], offset % 7, 1)
            assert profiles.put_many([put]) == memory.put_many([put])
        for user in range(1, 51):
            assert profiles.get(user, 100, 100)[0].tolist() == memory.get(user, 100, 100)[0].tolist()
        one.close()
        plain.close()


def wait_for(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ACL = "+eval +get +set +mget +xrange +xadd +xtrim +unlink +del +copy +persist +expire +pexpire +strlen +getrange"
ACL += " +setrange +append +exists +info"


def test_a_user_with_few_rights_is_enough_and_a_wrong_one_is_told_so(
    server: LocalRedis, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = token_hex(8)
    client.call("ACL", "SETUSER", "few", "on", f">{secret}", "~{few*", "-@all", *ACL.split())
    trainer = Trainer(13)
    one = Client(server.url, options={"username": "few", "password": secret})
    index = new(one, "few", keep=1)
    for how in (*KINDS["a new epoch"], {}, {}, {}):
        index.apply(trainer.publish(**how))
    assert same(index.load(), trainer.loads[trainer.sent[-1].version])
    assert RedisProfiles(one, Fields(), prefix="few").put(1, Origin(0, 0, 0), [5], 10, 1)
    with pytest.raises(
        RedisSettingsError, match=r"redis\.url: expected a user and password that redis://127"
    ):
        new(one, "elsewhere").apply(trainer.sent[0])
    one.close()
    address = server.url.replace("redis://", "redis://few:wrong-" + secret + "@")
    for wrong, options in (
        (address, {}),
        (server.url, {"username": "nobody", "password": secret}),
    ):
        with pytest.raises(RedisSettingsError, match=r"redis\.url: expected a user and password") as caught:
            Client(wrong, options=options)
        assert secret not in str(caught.value)
    assert secret not in caplog.text


def test_tls_is_a_matter_of_the_address(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *made, *names], check=True, capture_output=True)
    port = free_port()
    args = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(certificate)]
    with local_redis(tmp_path, *args, "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)):
        url = f"rediss://127.0.0.1:{port}/0"
        one = Client(url, options={"ssl_ca_certs": str(certificate)})
        trainer, index = Trainer(14), new(one, "tls")
        index.apply(trainer.publish(whole=True))
        assert same(index.load(), trainer.loads[index.version])
        one.close()
        with pytest.raises(Unavailable, match="certificate"):
            Client(url)


def test_what_cannot_be_used_is_told_with_the_setting(
    server: LocalRedis, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        Unavailable, match=r"redis\.url: expected an answer from redis://127\.0\.0\.1:1/0, got"
    ):
        Client("redis://ada:secret@127.0.0.1:1/0", timeout_ms=100)
    with pytest.raises(
        RedisSettingsError, match=r"redis\.url: expected an address with redis://.*got one with 'http'"
    ):
        Client("http://ada:secret@127.0.0.1:1/0")
    with pytest.raises(RedisSettingsError, match=r"redis\.client: expected options .*pasword"):
        Client(server.url, options={"pasword": "secret"})
    monkeypatch.setattr(redis_client, "OLDEST", (99, 1))
    with pytest.raises(
        RedisSettingsError, match=r"redis\.url: expected a Redis of version 99\.1 or later, got \d+\.\d+"
    ):
        Client(server.url)
    monkeypatch.undo()
    client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    Client(server.url).close()
    client.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert "expected=noeviction maxmemory_policy=allkeys-lru" in caplog.text


def test_a_full_server_is_one_that_may_be_tried_again(client: Client) -> None:
    trainer, index = Trainer(15), new(client, "full")
    index.apply(trainer.publish(whole=True))
    client.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(Unavailable, match="used memory > 'maxmemory'"):
            index.apply(trainer.publish())
    finally:
        client.call("CONFIG", "SET", "maxmemory", 0)
    index.apply(trainer.sent[-1])
    assert same(index.load(), trainer.loads[trainer.sent[-1].version])


def test_an_append_costs_the_same_however_long_the_sequence_is(client: Client) -> None:
    profiles = RedisProfiles(client, fields=TWO, max_history=2_000)

    def written() -> int:
        return int(client.call("INFO", "persistence")["aof_current_size"])

    costs = []
    for n in (10, 3_000):
        profiles.put_many([Put(n, Origin(0, i, 0), [i, i], i, 1) for i in range(n)])
        before = written()
        for i in range(n, n + 20):
            assert profiles.put(n, Origin(0, i, 0), [i, i], i, 1)
        costs.append((written() - before) / 20)
    assert costs[1] < costs[0] + 8 < 500


@pytest.mark.parametrize(
    "other",
    [
        [],
        [*TWO.features, Feature("age", "item", "numeric", (18,))],
        [Feature("genre", "item")],
        [Feature("topic", "item", "numeric", (18,))],
    ],
    ids=["fewer", "more", "another name", "another kind"],
)
def test_profiles_of_other_item_features_are_empty_and_kept(client: Client, other: list[Feature]) -> None:
    profiles, others = RedisProfiles(client, TWO), RedisProfiles(client, Fields(other))
    profiles.begin(0, 7)
    assert profiles.put(1, Origin(0, 7, 0), [5, 6], 10, 1)
    assert others.place(0) is None
    assert others.get(1, 100, 100)[0].shape == (0, 1 + len(other))
    others.begin(0, 0)
    assert others.put(1, Origin(0, 0, 0), [8] * others.n_fields, 10, 1)
    assert (profiles.place(0), others.place(0)) == (7, 0)
    assert profiles.get(1, 100, 100)[0].tolist() == [[5, 6]]
    again = RedisProfiles(client, Fields([Feature("device", "context"), *TWO.features]))
    assert (again.place(0), again.get(1, 100, 100)[0].tolist()) == (7, [[5, 6]])


def test_a_user_outlives_what_can_be_asked_of_it(client: Client) -> None:
    ttl_ms = 1_000_000
    profiles = RedisProfiles(client, Fields(), ttl_ms=ttl_ms)
    profiles.put(1, Origin(0, 0, 0), [5], 10, 1)
    (key,) = names(client)
    for _ in range(2):
        assert 2 * ttl_ms < client.call("PTTL", key) <= 2 * ttl_ms + 86_400_000
        profiles.put(1, Origin(0, 0, 0), [5], 10, 1)


def test_a_forgotten_user_is_the_same_when_the_log_is_read_again(client: Client) -> None:
    profiles = RedisProfiles(client, Fields())
    puts = [Put(1, Origin(0, i, 0), [i], 100 - 3 * i % 7, 1) for i in range(20)]
    profiles.put_many(puts)
    before = client.call("GET", names(client)[0])
    client.call("FLUSHALL")
    profiles.put_many(puts)
    assert client.call("GET", names(client)[0]) == before
