"""The mirror as a service keeps it: what a request reads is one Version, whatever comes meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.audit import audit, sample
from ranker.mirror import Mirror
from ranker.names import Names
from ranker.remembered import ASK_AGAIN_MS, RememberedProfiles
from stream.events import Origin, Version
from stream.fields import Feature, Fields
from stream.profiles import MemoryProfiles
from tests.ranker.serving import Serving, Switch, SwitchedProfiles
from trainer.model.simhash import make_planes


def test_an_update_waits_until_a_request_has_read_its_version() -> None:
    serving = Serving()
    while serving.index.version is None:
        assert serving.pipeline.pump(5)
    assert serving.live.follow() == 1
    begun = serving.live.version
    while serving.index.version == begun:
        assert serving.pipeline.pump(5)
    inside, go_on = threading.Event(), threading.Event()

    def all_of(mirror: Mirror) -> tuple[Version | None, float, float]:
        weights = float(sum(w.detach().double().sum() for w in mirror.network.parameters()))
        rows = mirror.table.rows[: mirror.table.n_slots].astype(np.float64)
        return mirror.version, weights, float(rows.sum())

    def request(mirror: Mirror) -> list[tuple[Version | None, float, float]]:
        before = all_of(mirror)
        inside.set()
        go_on.wait(20)
        return [before, all_of(mirror)]

    asked = serving.live.submit(request)
    assert inside.wait(20)
    follower = threading.Thread(target=serving.live.follow)
    follower.start()
    follower.join(0.3)
    assert follower.is_alive()
    assert serving.live.version == begun
    go_on.set()
    before, after = asked.result(20)
    assert before == after
    follower.join(20)
    now = serving.live.submit(all_of).result(20)
    assert now[0] == serving.index.version == serving.live.index_version
    assert now[1:] != before[1:]
    serving.live.close()


def test_a_whole_publication_is_loaded_beside_the_one_that_answers() -> None:
    serving = Serving()
    serving.learn()
    assert serving.live.follow() == 1
    held = serving.live.submit(lambda mirror: mirror).result()
    assert serving.live.follow() == 0
    assert serving.live.submit(lambda mirror: mirror).result() is held
    whole = serving.index.load()
    assert whole is not None
    serving.live._take(whole)
    fresh = serving.live.submit(lambda mirror: mirror).result()
    assert fresh is not held
    assert fresh.version == held.version
    serving.live.close()


def test_an_index_that_is_emptied_is_not_in_step_and_the_mirror_stays() -> None:
    serving = Serving()
    serving.learn()
    serving.live.follow()
    version = serving.live.version
    serving.index.__init__(serving.index_switch)  # type: ignore[misc]
    serving.now_ms += 5_000
    assert serving.live.follow() == 0
    assert (serving.live.version, serving.live.behind_ms) == (version, 5_000)
    serving.live.close()


def test_an_audit_finds_the_bits_that_are_not_in_step() -> None:
    serving = Serving()
    serving.learn()
    serving.live.follow()
    mirror = serving.live.submit(lambda m: m).result()
    model = serving.settings.model
    planes = make_planes(serving.settings.n_coded, model.dim, model.bits, model.seed)
    rows = sample(mirror, 500, np.random.default_rng(1))
    assert rows is not None
    assert len(rows.keys) > 100
    held = serving.index.get(rows.keys)
    found = audit(rows, planes, held)
    assert (found.n_rows, found.mirror_bits, found.index_bits) == (len(rows.keys), 0, 0)
    assert found.n_compared == found.n_rows
    rows.codes[3] ^= np.uint64(0b101)
    held.codes[5] ^= np.uint64(1 << 63)
    held.codes[7] ^= np.uint64(0b111)
    held.steps[7] += 1  # moved on, so it is not compared
    found = audit(rows, planes, held)
    assert (found.mirror_bits, found.index_bits, found.n_compared) == (2, 1, found.n_rows - 1)
    serving.auditor.look(np.random.default_rng(2))
    page = serving.metrics.page().decode()
    assert 'instep_audit_bits_total{outcome="index",worker="ranker"} 0.0' in page
    assert 'instep_audit_rows_total{outcome="index",worker="ranker"} 0.0' not in page
    serving.live.close()


def test_before_the_first_publication_there_is_nothing_to_audit() -> None:
    serving = Serving()
    serving.auditor.look(np.random.default_rng(2))
    assert b"instep_audit" not in serving.metrics.page()
    serving.live.close()


def test_profiles_that_are_away_are_asked_by_one_request_in_a_while() -> None:
    switch, now_ms = Switch(), 1_000_000
    profiles = MemoryProfiles(1)
    for user in (1, 2, 3):
        profiles.put(user, Origin(0, user, 0), [user], 10 * user, 1)
    asked: list[int] = []

    class Counted(SwitchedProfiles):
        def get(self, user, at_ms, limit):  # type: ignore[no-untyped-def]
            asked.append(user)
            return super().get(user, at_ms, limit)

    remembered = RememberedProfiles(Counted(switch, profiles), 1, 10, n_users=2, now_ms=lambda: now_ms)
    assert remembered.get(1, now_ms - 5).is_fresh  # now, by the time that the request has come this far
    assert remembered.get(1, 15).is_fresh  # long ago: not what is to be remembered
    switch.is_off = True
    for _ in range(5):
        read = remembered.get(1, now_ms + 5)
        assert (read.keys.tolist(), read.read_ms, read.is_fresh) == ([[1]], 1_000_000, False)
    assert asked == [1, 1, 1]
    assert remembered.get(1, 10).keys.tolist() == []  # strictly before
    now_ms += ASK_AGAIN_MS
    assert not remembered.get(1, now_ms).is_fresh
    assert not remembered.get(2, now_ms).is_fresh
    assert asked == [1, 1, 1, 1]
    switch.is_off = False
    now_ms += ASK_AGAIN_MS
    assert all(remembered.get(user, now_ms).is_fresh for user in (1, 2, 3))
    switch.is_off = True
    assert remembered.get(1, now_ms).read_ms is None  # 2 and 3 came later
    assert remembered.get(3, now_ms).read_ms == now_ms


@pytest.mark.parametrize("n_most", [1, 3, 50])
def test_names_are_those_of_the_last_items_that_are_new(n_most: int) -> None:
    fields = Fields([Feature("category", "item")])

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=40))
    def holds(noted: list[tuple[int, int]]) -> None:
        names, order = Names(fields, n_most), dict[str, int]()
        for item, category in noted:
            names.note(f"n{item}", {"category": f"c{category}"})
            if f"n{item}" not in order and len(order) == n_most:
                order.pop(next(iter(order)))
            order[f"n{item}"] = category
        wanted = {item: fields.item_keys(item, {"category": f"c{c}"}) for item, c in order.items()}
        assert sorted(names.keys().tolist()) == sorted(wanted.values())
        for name, keys in wanted.items():
            assert names.of(keys[0]) == (name, {"category": f"c{order[name]}"})
        assert names.of(5) is None

    holds()
