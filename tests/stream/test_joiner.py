"""The joiner's worker; what it must do on any log. The services' tests run the same on Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import host
from stream.dead import AT_LEAST, STEP, Recent, check_dead
from stream.events import (
    BadEvent,
    Impression,
    Sample,
    Tick,
    decode_event,
    decode_sample,
    encode_event,
)
from stream.history import digest
from stream.join import Dead, Joiner
from stream.joiner import DEAD, SAMPLES, STATE, JoinerWorker
from stream.log import LogError, Record, Unavailable
from stream.metrics import Metrics
from tests.stream.event_logs import steadily
from tests.stream.joining import (
    FIELDS,
    NOW_MS,
    RULES,
    Failing,
    MemoryWorld,
    N,
    Told,
    TooManyDeadError,
    World,
    Written,
    joined,
    laid_over,
    recorded,
    until_all_own,
    until_drained,
    value,
    worker_of,
)

NewWorld = Callable[[], World]
RECORDS = recorded(150)


@pytest.fixture
def new_world() -> NewWorld:
    return MemoryWorld


def check(world: World, records: tuple[Record, ...] = RECORDS) -> None:
    """That the logs hold what the pure joiners make, once each and in order, and the state goes on from there."""
    expected, joiners = joined(records)
    assert world.read(SAMPLES) == expected[SAMPLES]
    dead: Written = [
        [(key, msgspec.json.decode(raw, type=Dead).value) for key, raw in written]
        for written in world.read(DEAD)
    ]
    assert dead == expected[DEAD]
    for p, written in enumerate(world.read(STATE)):
        restored = Joiner.restore(RULES, FIELDS, p, laid_over(written))
        assert restored.snapshot() == joiners[p].snapshot()


def test_the_recorded_log_has_everything_in_it() -> None:
    made, joiners = joined(RECORDS)
    counts = {name for j in joiners for name in j.counts}
    assert {"used.label", "used.impression", "duplicate.action", "late.action", "dead.undecodable"} <= counts
    found = [decode_sample(raw) for written in made[SAMPLES] for _, raw in written]
    assert any(isinstance(s, Sample) and len(s.sequence_at) > 8 * 30 for s in found)
    assert made[DEAD][0]


def test_a_worker_writes_what_the_pure_joiner_makes(new_world: NewWorld) -> None:
    world = new_world()
    world.append(RECORDS)
    worker = worker_of(world.logs(range(N)))
    until_drained(worker)
    worker.finish()
    worker.close()
    check(world)


@pytest.mark.parametrize("poll_records", [37, 5_000])
def test_a_restart_goes_on_where_the_last_worker_was(new_world: NewWorld, poll_records: int) -> None:
    world = new_world()
    for n in range(0, len(RECORDS), 400):
        world.append(RECORDS[n : n + 400])
        worker = worker_of(world.logs(range(N)), poll_records=poll_records)
        until_drained(worker)
        worker.close()
    check(world)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_what_was_not_committed_is_done_again(new_world: NewWorld, n: int) -> None:
    world = new_world()
    world.append(RECORDS)
    worker = worker_of(Failing(world.logs(range(N)), n), poll_records=200)
    with pytest.raises(Unavailable):
        until_drained(worker)
    worker.close()
    worker = worker_of(world.logs(range(N)))
    until_drained(worker)
    worker.close()
    check(world)


def test_workers_hand_partitions_over(new_world: NewWorld) -> None:
    world = new_world()
    of_first, of_second = Metrics("first"), Metrics("second")
    third = len(RECORDS) // 3
    world.append(RECORDS[:third])
    first = worker_of(world.logs(), of_first)
    until_drained(first)
    second = worker_of(world.logs(), of_second)
    until_all_own(first, second)
    assert not first.partitions & second.partitions
    world.append(RECORDS[third : 2 * third])
    until_drained(first, second)
    first.close()
    world.append(RECORDS[2 * third :])
    until_all_own(second)
    until_drained(second)
    second.close()
    check(world)
    n_in = [
        value(m, f'instep_records_in_total{{partition="{p}"}}')
        for m in (of_first, of_second)
        for p in range(N)
    ]
    assert sum(n for n in n_in if n > 0) == len(RECORDS)
    assert sum(n > 0 for n in n_in) == N + N
    assert value(of_first, 'instep_lag_records{partition="0"}') == -1  # it is another's to tell


def test_a_partition_that_goes_while_its_state_is_read_back_is_let_go_of(
    new_world: NewWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    world.append(RECORDS)
    worker = worker_of(world.logs())
    until_drained(worker)
    worker.close()
    monkeypatch.setattr(host, "READ_BACK", 3)
    first = worker_of(world.logs())
    while "partition 0" not in first.not_ready:
        first.step()
    first.close()
    second = worker_of(world.logs())
    until_all_own(second)
    until_drained(second)
    second.close()
    check(world)


def test_nothing_is_read_of_a_partition_that_went_while_another_one_comes(
    new_world: NewWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    world.append(RECORDS[:600])
    other = worker_of(world.logs([1]))
    until_drained(other)
    other.close()
    logs = Told(world.logs(), {0})
    worker = worker_of(logs)
    until_drained(worker)
    world.append(RECORDS[600:])
    monkeypatch.setattr(host, "READ_BACK", 3)
    logs.told = frozenset({1})
    n_steps = 0
    while worker.partitions != {1}:
        worker.step()
        n_steps += 1
    assert n_steps > 1
    until_drained(worker)
    worker.close()
    last = worker_of(world.logs([0]))
    until_drained(last)
    last.close()
    check(world)


def test_users_who_are_gone_do_not_come_back_with_a_restart(new_world: NewWorld) -> None:
    world = new_world()
    now, hour_ms = decode_event(RECORDS[-1].value).at_ms, 3_600_000
    seen = Counter(r.partition for r in RECORDS)
    time_passes = tuple(
        Record(p, seen[p] + n, b"", encode_event(Tick(now + (n + 1) * hour_ms)))
        for n in range(RULES.history_ttl_ms // hour_ms + 2)
        for p in range(N)
    )
    world.append(RECORDS)
    worker = worker_of(world.logs(range(N)))
    until_drained(worker)
    world.append(time_passes[:-N])
    until_drained(worker)
    worker.close()
    assert [list(laid_over(written)) for written in world.read(STATE)] == [[b""]] * N
    metrics = Metrics("joiner")
    worker = worker_of(world.logs(range(N)), metrics)
    world.append(time_passes[-N:])
    until_drained(worker)
    worker.close()
    assert value(metrics, "instep_users") == 0
    check(world, (*RECORDS, *time_passes))


def test_it_is_ready_when_all_state_is_read_back_and_drained_when_nothing_waits(new_world: NewWorld) -> None:
    world = new_world()
    worker = worker_of(world.logs(range(N)))
    assert (worker.not_ready, worker.drained) == ("owns no partition", False)
    until_all_own(worker)
    until_drained(worker)
    assert worker.not_ready == ""
    world.append(RECORDS[:500])
    assert not worker.drained
    until_drained(worker)
    worker.close()


def test_too_many_unusable_records_stop_it_and_that_poll_is_not_committed(new_world: NewWorld) -> None:
    world = new_world()
    bad = [Record(0, 0, b"", b"?")] * 700
    world.append([*RECORDS[:500], *bad])
    worker = worker_of(world.logs(range(N)), max_dead=0.4, poll_records=100)
    until_drained(worker)
    made = world.read(SAMPLES)
    world.append(bad)
    with pytest.raises(
        TooManyDeadError, match=r"expected at most 40% unusable records, got \d+ of \d+; the last: "
    ):
        until_drained(worker)
    worker.close()
    assert 900 <= len(world.read(DEAD)[0]) < 1_000
    assert world.read(SAMPLES) == made
    worker = worker_of(world.logs(range(N)), max_dead=0.4, poll_records=100)
    with pytest.raises(TooManyDeadError):  # a new one stops there too
        until_drained(worker)
    worker.close()
    patient = worker_of(world.logs(range(N)), max_dead=1.0)
    until_drained(patient)
    patient.close()
    first = sum(r.partition == 0 for r in RECORDS[:500])
    check(world, (*RECORDS[:500], *(Record(0, first + n, b"", b"?") for n in range(1_400))))


@pytest.mark.parametrize("n_good", [0, 150, 6_000])
def test_it_stops_at_the_same_record_whatever_came_before_and_however_it_is_polled(
    new_world: NewWorld, n_good: int
) -> None:
    values = [encode_event(Tick(n)) for n in range(n_good)] + [b"?"] * 3_000
    says = set()
    for poll_records, first in ((37, 0), (5_000, 0), (500, 0), (500, n_good + 700)):
        world = new_world()
        for some in (values[:first], values[first:]):
            world.append([Record(0, 0, b"", v) for v in some])
            worker = worker_of(world.logs(range(N)), max_dead=0.2, poll_records=poll_records)
            try:
                until_drained(worker)
            except TooManyDeadError as e:
                says.add(str(e))
            worker.close()
    [said] = says
    assert n_good + AT_LEAST <= int(said.split(":")[1]) + 1 <= n_good + AT_LEAST + STEP


@steadily
@given(
    st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 2_500)), max_size=8),
    st.sampled_from([0.01, 0.2, 0.5, 0.9]),
)
def test_the_last_unusable_records_stop_it_and_no_others(
    runs: list[tuple[int, int]], max_dead: float
) -> None:
    recent, n_in, places = Recent(), 0, [0]

    def are_too_many() -> set[bool]:
        """Whether the last ones are, of all records since the one before them; for each number of them."""
        last = [n for n in range(AT_LEAST, AT_LEAST + STEP) if n < len(places)]
        return {n > max_dead * (n_in - places[-n - 1]) for n in last}

    for n_good, n_dead in runs:
        n_in += n_good
        for _ in range(n_dead):
            n_in += 1
            places.append(n_in)
            recent.add(n_in)
            try:
                check_dead(Dead("schema", "schema", 0, n_in, b"?"), recent, max_dead)
            except TooManyDeadError:
                assert True in are_too_many()
                return
        assert are_too_many() != {True}


def test_what_was_let_pass_stops_nothing_later() -> None:
    recent, last = Recent(), Dead("schema", "schema", 0, 0, b"?")
    for n_in in range(1, 50_001):
        recent.add(n_in)
        check_dead(last, recent, 1.0)
    recent.add(55_500)
    check_dead(last, recent, 0.2)


def test_state_of_other_rules_is_refused_with_its_topic(new_world: NewWorld) -> None:
    world = new_world()
    world.append(RECORDS)
    worker = worker_of(world.logs(range(N)))
    until_drained(worker)
    worker.close()
    other = JoinerWorker(
        world.logs(range(N)),
        replace(RULES, policy="eager"),
        FIELDS,
        Metrics("joiner"),
        max_dead=0.5,
        poll_records=100,
        now_ms=lambda: NOW_MS,
    )
    with pytest.raises(LogError, match="joiner: partition 0: joiner state: expected"):
        until_drained(other)
    other.close()


def test_metrics_say_what_became_of_every_record(new_world: NewWorld) -> None:
    world = new_world()
    world.append(RECORDS[:600])
    metrics = Metrics("joiner")
    first = worker_of(world.logs(range(N)), metrics)
    until_drained(first)
    first.close()
    world.append(RECORDS[600:])
    second = worker_of(world.logs(range(N)), metrics)  # built anew in the same process
    until_drained(second)
    _, joiners = joined(RECORDS)
    for p, j in enumerate(joiners):
        assert value(metrics, f'instep_records_in_total{{partition="{p}"}}') == j.n_in
        assert (
            value(metrics, f'instep_watermark_timestamp_seconds{{partition="{p}"}}') == j.watermark_ms / 1000
        )
    for outcome in {name for j in joiners for name in j.counts} - {"in", "pending"}:
        n = sum(j.counts.get(outcome, 0) for j in joiners)
        assert value(metrics, f'instep_outcomes_total{{outcome="{outcome}"}}') == n
    assert value(metrics, "instep_pending") == sum(j.counts["pending"] for j in joiners)
    assert value(metrics, "instep_users") == sum(j.n_users for j in joiners)
    assert value(metrics, "instep_partitions") == N
    for topic in (SAMPLES, STATE, DEAD):
        written = [r for records in world.read(topic) for r in records]
        assert value(metrics, f'instep_records_out_total{{topic="{topic}"}}') == len(written)
        n_bytes = sum(len(key) + len(raw) for key, raw in written)
        assert value(metrics, f'instep_bytes_out_total{{topic="{topic}"}}') == n_bytes
    second.close()
    assert value(metrics, "instep_partitions") == 0


def test_behaviours_other_than_served_with_are_counted(new_world: NewWorld) -> None:
    first, (made, _) = new_world(), joined(RECORDS)
    samples = {
        s.impression: s for w in made[SAMPLES] for _, raw in w if isinstance(s := decode_sample(raw), Sample)
    }
    sent, n_told, ids = list[Record](), Counter[str](), set[str]()
    for record in RECORDS:
        try:
            event = decode_event(record.value)
        except BadEvent:
            event = None
        if isinstance(event, Impression) and event.id in samples and event.id not in ids:
            sample, kind = samples[event.id], ("same", "same", "other", "none")[len(ids) % 4]
            ids.add(event.id)
            n_told[kind] += 1
            right = digest(sample.sequence, sample.sequence_at)
            told = {"same": right, "other": digest(b"", right.encode()), "none": ""}[kind]
            record = record._replace(value=encode_event(msgspec.structs.replace(event, digest=told)))
        sent.append(record)
    first.append(sent)
    metrics = Metrics("joiner")
    worker = worker_of(first.logs(range(N)), metrics)
    until_drained(worker)
    worker.close()
    page = metrics.page().decode()
    assert n_told["same"] > n_told["other"] > 20
    for outcome in ("same", "other"):
        assert f'instep_sequences_total{{outcome="{outcome}",worker="joiner"}} {n_told[outcome]}.0' in page


def test_a_worker_that_lingers_writes_the_same_and_waits_for_more(new_world: NewWorld) -> None:
    now_ms = NOW_MS
    world, metrics = new_world(), Metrics("joiner")
    worker = JoinerWorker(
        world.logs(range(N)),
        RULES,
        FIELDS,
        metrics,
        max_dead=0.5,
        poll_records=100,
        linger_ms=50,
        now_ms=lambda: now_ms,
    )
    world.append(RECORDS[:30])
    n = 0
    while not n:
        n = worker.step()
    assert n == 30
    world.append(RECORDS[30:])
    assert [worker.step() for _ in range(3)] == [0, 0, 0]
    assert not worker.drained
    now_ms += 50
    assert worker.step() == 100
    assert worker.step() == 100  # a full poll is followed by the next at once
    while not worker.drained:
        now_ms += 50
        worker.step()
    worker.close()
    check(world)
